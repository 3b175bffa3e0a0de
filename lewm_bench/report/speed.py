"""The speed table, its figures and its page, from ``SpeedRow``s alone; they may come from several machines."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lewm_bench.core.errors import UserError
from lewm_bench.core.statistics import quartiles
from lewm_bench.core.words import seconds
from lewm_bench.evaluation.speed_record import SpeedRow, save_speed
from lewm_bench.report.agents import SPARE_MARKERS, Agents, parts_of, title
from lewm_bench.report.figures.drawing import panels, png, second_ticks
from lewm_bench.report.html import Section, assemble
from lewm_bench.report.tables.markdown import md
from lewm_bench.report.tables.planning_time import PUBLISHED_NOTE
from lewm_bench.report.text import count, csv_text, hardware_line, number, ratio
from lewm_bench.system.files import write_bytes, write_text

BASE = "dino-wm"  # speed-ups are over this method in the same mode
COLUMNS = (
    "machine", "profile", "image_size", "method", "name", "label", "mode", "tokens_per_frame", "parameters", "gflop_per_plan",
    "encode_seconds_median", "search_seconds_median", "plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75",
    "n", "candidate_step_microseconds", "speedup_vs_dino_wm", "peak_share", "extrapolated", "solver",
    "num_samples", "num_iterations", "horizon", "batch", "context", "weights", "sweep",
)  # fmt: skip

HEADER = (
    "method", "arithmetic", "tokens per frame", "one plan, median [quartiles]", "times faster than DINO-WM", "n",
    "extrapolated", "encode", "search", "per candidate and block", "GFLOP per plan", "of GEMM peak", "parameters",
    "weights",
)  # fmt: skip

MODES = {
    "float32": "float32",
    "tf32": "tf32",
    "bfloat16": "bfloat16",
    "int8": "8 bits",
    "compile": "float32, torch.compile",
    "reference": "float32, plain loop",
}
EXPLAINED = (
    "Every row runs what evaluation runs: encode the context and the goal image, search with the cross-entropy method, "
    "with the same numbers of candidates, iterations and blocks. Every row is warmed up first; the rows then take turns, "
    "so that a machine that becomes slower does so for all of them. Times are per plan of one batch of episodes. "
    "The speed-up is the median plan time of DINO-WM (encoded once) over the row's, in the same arithmetic, image size "
    "and batch. GFLOP are counted by torch while a search runs. The share of the peak is that of the search, against the "
    "fastest large matrix product in the same arithmetic on the same machine. Where a plan takes too long, fewer "
    "iterations or candidates are timed and the search time is multiplied: 'extrapolated' says how many were timed. "
    "8 bits are left out where fewer than 10 iterations can be timed, since the first of a search runs in float32. "
    "'Plain loop' computes the same without any of the shortcuts (docs/speed.md). 8 bits round the numbers; that the "
    "ranking of candidates survives is measured there too. Success rates never come from untrained weights."
)
PUBLISHED_NOTE = PUBLISHED_NOTE.replace("The last row is quoted", "The last two rows of a table are quoted")
FIGURES = {
    "speedup.png": "How long one plan takes (median and quartiles, log scale), and how DINO-WM's time over LeWM's grows "
    "with the tokens that it has per frame. Hollow: extrapolated.",
    "scaling.png": "How the time of one plan grows with the number of candidates, the blocks planned ahead and the "
    "episodes planned together, all else equal. Dashed: proportional to the first point. Hollow: extrapolated.",
}


def build_table(rows: Sequence[SpeedRow]) -> pd.DataFrame:
    """One line per row with the columns of ``table.csv``, in the order in which they were measured."""
    base = {_place(r): quartiles(r.plan_seconds).value for r in rows if r.method == BASE}
    return pd.DataFrame([_line(r, base.get(_place(r))) for r in rows], columns=COLUMNS)


def _place(row: SpeedRow) -> tuple[object, ...]:
    """What must be equal for two times to be compared."""
    plan = row.solver, row.num_samples, row.num_iterations, row.horizon, row.batch, row.context
    return _machine(row), row.commit, row.profile, row.image_size, row.mode, row.sweep, *plan


def _machine(row: SpeedRow) -> str:
    return hardware_line({k: v for k, v in row.hardware.items() if k not in ("os", "memory")})


def _line(row: SpeedRow, base: float | None) -> dict[str, object]:
    plan, search = quartiles(row.plan_seconds), quartiles(row.search_seconds)
    counted = None not in (row.encode_flops, row.search_flops) and search.value > 0
    steps = row.num_samples * row.num_iterations * row.horizon * row.batch
    return {
        **{name: getattr(row, name) for name in COLUMNS if name in SpeedRow.model_fields},
        "machine": _machine(row),
        "name": title(row.method, row.card),
        "gflop_per_plan": (row.encode_flops + row.search_flops) / 1e9 if counted else np.nan,
        "encode_seconds_median": quartiles(row.encode_seconds).value,
        "search_seconds_median": search.value,
        "plan_seconds_median": plan.value,
        "plan_seconds_q25": plan.low,
        "plan_seconds_q75": plan.high,
        "n": len(row.plan_seconds),
        "candidate_step_microseconds": search.value / steps * 1e6,
        "speedup_vs_dino_wm": base / plan.value if base and plan.value else np.nan,
        "peak_share": row.search_flops / search.value / row.peak_flops if counted else np.nan,
        "extrapolated": extrapolation(row),
    }


def extrapolation(row: SpeedRow) -> str:
    """What was timed of a plan that is extrapolated; empty if it was timed whole."""
    if not row.extrapolated:
        return ""
    parts = [f"{row.timed_iterations} of {row.num_iterations} iterations"]
    if row.timed_samples < row.num_samples:
        parts.append(f"{row.timed_samples} of {row.num_samples} candidates")
    return ", ".join(parts)


def reader_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The cells that people read, without the header."""
    return [
        (
            r["label"],
            MODES.get(r["mode"], r["mode"]),
            count(r["tokens_per_frame"]),
            seconds(r["plan_seconds_median"], r["plan_seconds_q25"], r["plan_seconds_q75"]),
            ratio(r["speedup_vs_dino_wm"]),
            str(r["n"]),
            r["extrapolated"],
            seconds(r["encode_seconds_median"]),
            seconds(r["search_seconds_median"]),
            seconds(r["candidate_step_microseconds"] / 1e6),
            f"{r['gflop_per_plan']:,.3g}" if r["gflop_per_plan"] < 1000 else number(r["gflop_per_plan"], ",.0f"),
            "" if np.isnan(r["peak_share"]) else f"{100 * r['peak_share']:.0f} %",
            count(r["parameters"]),
            r["weights"],
        )
        for _, r in table.iterrows()
    ]


PUBLISHED = (
    ("published: LeWM (Maes et al. 2026)", "", "1", "< 1 s", "48x", "50", "", "", "", "", "", "", "about 15M", "trained"),
    ("published: DINO-WM", "", "about 200", "~47 s", "1x", "50", "", "", "", "", "", "", "", "trained"),
)  # fmt: skip


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The table's rows per machine, profile, image size and planner, with a heading."""
    shown = table[table["sweep"] == ""]
    planner = ["solver", "num_samples", "num_iterations", "horizon", "batch", "context"]
    place = ["machine", "profile", "image_size", *planner]
    found = []
    for key, part in shown.groupby(place, sort=False):
        at = dict(zip(place, key, strict=True))
        heading = (
            f"{at['profile']}, {at['image_size']} px, {at['solver']}, {at['num_samples']} candidates x "
            f"{at['num_iterations']} iterations x {at['horizon']} blocks, "
            f"{_many(at['batch'], 'episode')} at a time, {_many(at['context'], 'frame')} of context, {at['machine']}"
        )
        found.append((heading, part))
    return found


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")


def write_speed_report(rows: Sequence[SpeedRow], folder: Path, title: str, records: bool = True) -> pd.DataFrame:
    """Write tables, figures, ``report.html`` and, if asked, ``records`` into ``folder``; return the numbers.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError("there is nothing to report; run `lewm-bench speed` first")
    table = build_table(rows)
    if records:
        save_speed(rows, folder)
    write_text(folder / "table.csv", csv_text(table))
    write_text(folder / "table.md", markdown(table, rows, title))
    swept, agents = table["sweep"] != "", Agents.of(rows)
    there = {"speedup.png": (~swept).any(), "scaling.png": swept.any()}
    figures = {name: png(draw(table, agents)) for name, draw in DRAWN.items() if there[name]}
    for name in DRAWN.keys() - figures.keys():  # a figure of an earlier report that no longer has data would deceive
        (folder / name).unlink(missing_ok=True)
    for name, data in figures.items():
        write_bytes(folder / name, data)
    write_text(folder / "report.html", html(table, rows, figures, title))
    return table


def about(rows: Sequence[SpeedRow]) -> list[str]:
    """What must stand beside the numbers."""
    hardware = sorted({hardware_line(r.hardware) for r in rows})
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in rows})
    commits = sorted({r.commit for r in rows} - {""})
    lines = {"Hardware": "; ".join(hardware), "Versions": "; ".join(versions), "Commit": ", ".join(commits)}
    return [f"{name}: {text}." for name, text in lines.items() if text]


def markdown(table: pd.DataFrame, rows: Sequence[SpeedRow], title: str) -> str:
    """``table.md``."""
    parts = [f"# {md(title)}", "\n".join(f"- {md(line)}" for line in about(rows))]
    for heading, part in groups(table):
        lines = [" | ".join(HEADER), " | ".join(["---"] + ["---:"] * (len(HEADER) - 1))]
        lines += [" | ".join(map(md, cells)) for cells in (*reader_rows(part), *PUBLISHED)]
        parts += [f"## {md(heading)}", "\n".join(f"| {line} |" for line in lines)]
    return "\n\n".join([*parts, EXPLAINED, PUBLISHED_NOTE]) + "\n"


def terminal(table: pd.DataFrame) -> str:
    """The most important columns, as wide as a terminal."""
    chosen = [0, 1, 2, 3, 4, 6]
    parts = []
    for heading, part in groups(table):
        named = part.assign(label=part["name"])  # what is substituted stands in the files
        rows = [[cells[i] for i in chosen] for cells in (HEADER, *reader_rows(named), *PUBLISHED)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(chosen))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        parts.append("\n".join([heading, "", *lines]))
    return "\n\n".join(parts)


def html(table: pd.DataFrame, rows: Sequence[SpeedRow], figures: dict[str, bytes], title: str) -> str:
    """The page, which needs nothing else."""
    sections = []
    for i, (heading, part) in enumerate(groups(table), 1):
        first = part.iloc[0]
        name = f"{i}. {first['profile']}, {first['image_size']} px"
        files = ((f"speed-{i}.csv", csv_text(part)),)
        sections.append(Section(name, heading, rows=(HEADER, *reader_rows(part), *PUBLISHED), files=files))
    sections.append(Section("How it was measured", f"{EXPLAINED} {PUBLISHED_NOTE}", folded=True))
    sections.append(Section("Figures", figures=tuple((data, FIGURES[name]) for name, data in figures.items())))
    commands = "\n".join(f"lewm-bench speed --profile {name}" for name in dict.fromkeys(r.profile for r in rows))
    items = "".join(f"<li>{escape(line)}</li>" for line in about(rows))
    return assemble(title, sections, {"Reproduce": f"<pre><code>{escape(commands)}</code></pre><ul>{items}</ul>"})


def speedup(table: pd.DataFrame, agents: Agents) -> Figure:
    """Plan times of every row, and DINO-WM over LeWM against tokens per frame."""
    parts = groups(table)
    main = max((part for _, part in parts), key=len)
    figure, (left, right) = panels(2, 1.2 + 0.34 * len(main), (1.7, 1))
    for y, (_, r) in enumerate(main.iterrows()):
        tone = agents.colour(parts_of(r["method"]).base)
        left.plot([r["plan_seconds_q25"], r["plan_seconds_q75"]], [y, y], color=tone, linewidth=5, alpha=0.6)
        left.plot(
            r["plan_seconds_median"], y, agents.marker(r["method"]), color=tone, markersize=7,
            markerfacecolor="white" if r["extrapolated"] else tone,
        )  # fmt: skip
        left.annotate(
            seconds(r["plan_seconds_median"]), (r["plan_seconds_median"], y), (9, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    left.set_yticks(range(len(main)), [f"{r['name']}\n{MODES.get(r['mode'], r['mode'])}" for _, r in main.iterrows()])
    left.tick_params(axis="y", labelsize=8)
    left.set_ylim(len(main) - 0.5, -0.6)
    second_ticks(left)
    low, high = left.get_xlim()
    left.set_xlim(low, high * 6)
    left.set_xlabel("time for one plan, log scale", fontsize=10)
    first = main.iloc[0]
    left.set_title(f"{first['profile']}, {first['image_size']} px", fontsize=11, loc="left")
    same = ["machine", "profile", "solver", "num_samples", "num_iterations", "horizon", "batch", "context", "sweep"]
    curve = table[(table[same] == first[same]).all(axis=1)]
    _curve(right, curve.drop_duplicates(["method", "mode", "image_size"], keep="last"))
    return figure


def _curve(axes, table: pd.DataFrame) -> None:
    """DINO-WM's plan time over LeWM's, per profile and mode."""
    drawn = 0
    alone = table.loc[table["method"] == BASE, "tokens_per_frame"].nunique() == 1
    for (profile, mode), part in table.groupby(["profile", "mode"], sort=False):
        ours = part[part["method"] == "lewm"].set_index("image_size")["plan_seconds_median"]
        theirs = part[(part["method"] == BASE) & part["image_size"].isin(ours.index)].sort_values("tokens_per_frame")
        if theirs.empty:
            continue
        ratio = theirs["plan_seconds_median"].to_numpy() / ours.loc[theirs["image_size"]].to_numpy()
        tokens = theirs["tokens_per_frame"].to_numpy()
        style = SPARE_MARKERS[drawn % len(SPARE_MARKERS)]
        (line,) = axes.plot(
            tokens, ratio, "-", marker=style, label=f"{profile}, {MODES.get(mode, mode)}", markerfacecolor="white"
        )
        for x, y, partly in zip(tokens, ratio, theirs["extrapolated"], strict=True):
            if not partly:
                axes.plot(x, y, style, color=line.get_color())
            if len(tokens) > 1 or alone:
                axes.annotate(f"{y:.0f}x", (x, y), (-9, 3), textcoords="offset points", ha="right", fontsize=8)
        drawn += 1
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([16, 64, 256], ["16", "64", "256"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.minorticks_off()
    axes.set_xlim(8, 512)
    axes.set_ylim(1, 1000)
    axes.set_xlabel("tokens per frame of DINO-WM", fontsize=10)
    axes.set_title("DINO-WM's time / LeWM's", fontsize=11, loc="left")
    axes.grid(color="#e5e5e5")
    if drawn:
        axes.legend(fontsize=8, frameon=False, loc="lower right")


SWEEPS = {
    "num_samples": "candidates",
    "horizon": "blocks planned ahead",
    "batch": "episodes planned together",
}


def scaling(table: pd.DataFrame, agents: Agents) -> Figure:
    """Plan time against candidates, horizon and batch."""
    figure, grid = panels(len(SWEEPS), 3.4, (1,) * len(SWEEPS))
    swept = table[table["machine"] == table["machine"].iloc[0]]
    for axes, (name, text) in zip(grid, SWEEPS.items(), strict=True):
        for method, part in swept[swept["sweep"] == name].groupby("method", sort=False):
            part = part.sort_values(name)
            x, y = part[name].to_numpy(float), part["plan_seconds_median"].to_numpy(float)
            tone = agents.colour(method)
            axes.plot(x, y, "-", color=tone, label=part["name"].iloc[0])
            axes.plot(x, y[0] * x / x[0], "--", color=tone, linewidth=0.8)
            for a, b, partly in zip(x, y, part["extrapolated"], strict=True):
                axes.plot(a, b, agents.marker(method), color=tone, markerfacecolor="white" if partly else tone)
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{v:g}" for v in x])
            axes.minorticks_off()
        second_ticks(axes, vertical=True)
        axes.set_xlabel(text, fontsize=10)
        axes.grid(color="#e5e5e5")
    grid[0].set_ylabel("time for one plan, log scale", fontsize=10)
    if grid[0].get_legend_handles_labels()[0]:
        grid[0].legend(fontsize=8, frameon=False)
    return figure


DRAWN = {"speedup.png": speedup, "scaling.png": scaling}
