"""The figure of success over how far ahead the goal is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lewm_bench.core.formatting import short
from lewm_bench.core.names import stratum_of
from lewm_bench.report.agents import is_ablation
from lewm_bench.report.figures.drawing import axis_name, escape_math, grid, percent_axis, tidy
from lewm_bench.report.horizon import BAR, Bounds, bounds, curves

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

HEIGHT = 3.3  # inches of a panel
ASIDE = 0.7  # steps between the intervals of two agents
FLOOR, CEILING = "#d9d4cc", "#dfe6ee"


def horizon(summary: Summary) -> Figure | None:
    """One panel per environment and kind of pairs, a line per agent; floor and ceiling are shaded."""
    parts = sorted(
        curves(summary.table), key=lambda part: part[0][2]
    )  # the kinds of pairs of one environment beside each other
    if not parts:
        return None
    shown = [
        agent for agent in dict.fromkeys(a for _, part in parts for a in part["agent"]) if _is_drawn(agent, summary)
    ]
    rows = -(-(len(shown) + 2) // 3)
    figure, axes = grid(len(parts), 2, HEIGHT, bottom=0.2 + 0.22 * rows)
    for each, ((protocol, profile, env), part) in zip(axes, parts, strict=True):
        _panel(each, part, shown, summary)
        tidy(each, escape_math(f"{short(env)}, {stratum_of(protocol)} pairs ({profile})"))
        percent_axis(each, "reached, %", vertical=True)
        each.set_xlabel("goal, steps ahead (pairs below)", fontsize=10)
    figure.legend(handles=_legend(shown, summary), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _is_drawn(agent: str, summary: Summary) -> bool:
    return summary.kinds[agent] not in ("floor", "privileged")


def _panel(axes: Axes, part: pd.DataFrame, shown: list[str], summary: Summary) -> None:
    _shade(axes, bounds(part, summary.kinds))
    axes.axhline(100 * BAR, color="#999999", linewidth=0.8, linestyle=":")
    for place, agent in enumerate(shown):
        own = part[part["agent"] == agent].sort_values("goal_offset")
        tone, x = summary.agents.colour(agent), own["goal_offset"].astype(float) + ASIDE * (place - len(shown) / 2)
        axes.vlines(x, 100 * own["hit_low"], 100 * own["hit_high"], color=tone, linewidth=1.3, alpha=0.6)
        axes.plot(
            x, 100 * own["hit"], color=tone, marker=summary.agents.marker(agent), markersize=5.5, linewidth=1.8,
            linestyle=_style(agent),
        )  # fmt: skip
    counts = part.groupby("goal_offset")["n_pairs"].max()
    axes.set_xticks(list(counts.index), [f"{k}\n{n}" for k, n in counts.items()])


def _style(agent: str) -> str:
    return "--" if is_ablation(agent) else "-"


def _shade(axes: Axes, limits: dict[int, Bounds]) -> None:
    """What no agent falls below for want of a plan, and what none can rise above."""
    offsets = list(limits)
    axes.fill_between(offsets, 0, [100 * b.floor for b in limits.values()], color=FLOOR, linewidth=0, zorder=0)
    axes.fill_between(offsets, [100 * b.ceiling for b in limits.values()], 106, color=CEILING, linewidth=0, zorder=0)


def _legend(shown: list[str], summary: Summary) -> list[Line2D | Patch]:
    lines = [
        Line2D(
            [], [], color=summary.agents.colour(a), marker=summary.agents.marker(a), linestyle=_style(a),
            label=axis_name(summary.agents.short(a), 44),
        )
        for a in shown
    ]  # fmt: skip
    return [
        *lines,
        Patch(color=FLOOR, label="below the best floor's interval"),
        Patch(color=CEILING, label="above the oracle"),
    ]
