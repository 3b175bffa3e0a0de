"""The speed table, from ``SpeedRow``s alone; they may come from several machines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lewm_bench.core.formatting import seconds
from lewm_bench.core.statistics import quartiles
from lewm_bench.evaluation.speed_record import SpeedRow
from lewm_bench.report.agents import title
from lewm_bench.report.text import count, hardware_line, number, ratio

BASE = "dino-wm"  # speed-ups are over this method in the same mode


COLUMNS = (
    "machine", "profile", "image_size", "method", "name", "label", "mode", "tokens_per_frame", "parameters", "gflop_per_plan",
    "encode_seconds_median", "search_seconds_median", "plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75",
    "n", "candidate_step_microseconds", "speedup_vs_dino_wm", "peak_share", "extrapolated", "solver",
    "num_samples", "num_iterations", "horizon", "batch", "context", "weights", "sweep",
    "share_of_one_by_one",
)  # fmt: skip


HEADER = (
    "method", "arithmetic", "tokens per frame", "one plan, median [quartiles]", "times faster than DINO-WM", "n",
    "extrapolated", "encode", "search", "per candidate and block", "GFLOP per plan", "of GEMM peak", "parameters",
    "weights",
)  # fmt: skip


PLANS = 100

TOGETHER = (
    "method",
    "arithmetic",
    "episodes planned together",
    f"{PLANS} plans",
    "of one after another",
    "n",
    "extrapolated",
)


MODES = {
    "float32": "float32",
    "tf32": "tf32",
    "bfloat16": "bfloat16",
    "int8": "8 bits",
    "compile": "float32, torch.compile",
    "reference": "float32, plain loop",
}


PUBLISHED = (
    ("published: LeWM (Maes et al. 2026)", "", "1", "< 1 s", "48x", "50", "", "", "", "", "", "", "about 15M", "trained"),
    ("published: DINO-WM", "", "about 200", "~47 s", "1x", "50", "", "", "", "", "", "", "", "trained"),
)  # fmt: skip


def build_table(rows: Sequence[SpeedRow]) -> pd.DataFrame:
    """One line per row with the columns of ``table.csv``, in the order in which they were measured."""
    base = {_place(r): quartiles(r.plan_seconds).value for r in rows if r.method == BASE}
    alone = {_plan(r): quartiles(r.plan_seconds).value for r in rows if r.batch == 1}
    return pd.DataFrame([_line(r, base.get(_place(r)), alone.get(_plan(r))) for r in rows], columns=COLUMNS)


def _place(row: SpeedRow) -> tuple[object, ...]:
    """What must be equal for two times to be compared."""
    plan = row.solver, row.num_samples, row.num_iterations, row.horizon, row.batch, row.context
    return _machine(row), row.commit, row.profile, row.image_size, row.mode, row.sweep, *plan


def _plan(row: SpeedRow) -> tuple[object, ...]:
    """What is planned and how, but for how many episodes at a time."""
    plan = row.solver, row.num_samples, row.num_iterations, row.horizon, row.context
    return _machine(row), row.commit, row.profile, row.image_size, row.method, row.mode, row.sweep, *plan


def _machine(row: SpeedRow) -> str:
    return hardware_line({k: v for k, v in row.hardware.items() if k not in ("os", "memory")})


def _line(row: SpeedRow, base: float | None, alone: float | None) -> dict[str, object]:
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
        "share_of_one_by_one": plan.value / (row.batch * alone) if alone else np.nan,
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


def together_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """What ``PLANS`` plans take by how many are made at a time, beside one after another; the cells that people read."""
    return [
        (
            r["label"],
            MODES.get(r["mode"], r["mode"]),
            str(r["batch"]),
            seconds(r["plan_seconds_median"] * PLANS / r["batch"]),
            "" if np.isnan(r["share_of_one_by_one"]) else f"{100 * r['share_of_one_by_one']:.0f} %",
            str(r["n"]),
            r["extrapolated"],
        )
        for _, r in table[table["sweep"] == "batch"].iterrows()
    ]


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
