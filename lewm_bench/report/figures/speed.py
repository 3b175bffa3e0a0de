"""Figures of the speed table: how long a plan takes, and how that grows."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lewm_bench.core.formatting import seconds
from lewm_bench.report.agents import SPARE_MARKERS, Agents, parts_of
from lewm_bench.report.figures.drawing import panels, second_ticks
from lewm_bench.report.tables.speed import BASE, MODES, groups

SWEEPS = {
    "num_samples": "candidates",
    "horizon": "blocks planned ahead",
    "batch": "episodes planned together",
}


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


def _curve(axes: Axes, table: pd.DataFrame) -> None:
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
    axes.set_visible(drawn > 0)
    if drawn:
        axes.legend(fontsize=8, frameon=False, loc="lower right")


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
