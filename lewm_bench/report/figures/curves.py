"""Figures of learning curves: success over training steps, and over the episodes that agents learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lewm_bench.report.agents import Agents, main_rows
from lewm_bench.report.figures.drawing import axis_name, grid, percent_axis, places, tidy

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

HEIGHT = 3.0  # inches of a panel
ASIDE = 0.007  # of the axis, between the intervals of two agents


def over_steps(summary: Summary) -> Figure | None:
    """One panel per environment and offset: a faint line per seed, a thick one through their means with intervals."""
    table = main_rows(summary.over_steps, summary.kinds)
    shown = _ordered(table["agent"], summary)
    aside = {agent: ASIDE * (place - (len(shown) - 1) / 2) for place, agent in enumerate(shown)}

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for agent, own in part.groupby("agent", sort=False):
            tone = summary.agents.colour(agent)
            if own["seed"].nunique() > 1:
                for _, run in own.groupby("seed"):
                    axes.plot(run["steps"], 100 * run["seed_hit"], color=tone, linewidth=0.8, alpha=0.45)
            _curve(
                axes, own.drop_duplicates("steps"), "steps", agent, summary.agents, aside[agent] * part["steps"].max()
            )
        axes.set_xlim(left=0)

    return _panels(table, draw, shown, summary.agents, "training steps")


def over_data(summary: Summary) -> Figure | None:
    """One panel per environment and offset, a line per agent through its means with intervals."""
    table = summary.over_data

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for agent, own in part.groupby("of", sort=False):
            _curve(axes, own, "train_episodes", agent, summary.agents)
        axes.set_xscale("log", base=2)
        sizes = sorted(part["train_episodes"].unique())
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.minorticks_off()

    return _panels(table, draw, _ordered(table["of"], summary), summary.agents, "training episodes")


def _ordered(names: Iterable[str], summary: Summary) -> list[str]:
    """Each once, as in the tables, and what does not stand there by itself behind."""
    known = list(dict.fromkeys(summary.table["agent"]))
    return sorted(dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known))


def _curve(axes: Axes, own: pd.DataFrame, x: str, agent: str, agents: Agents, aside: float = 0.0) -> None:
    """A line through the means; ``aside`` keeps intervals of several agents from hiding each other."""
    tone = agents.colour(agent)
    axes.vlines(own[x] + aside, 100 * own["hit_low"], 100 * own["hit_high"], color=tone, linewidth=1.3, alpha=0.6)
    axes.plot(own[x], 100 * own["hit"], color=tone, marker=agents.marker(agent), markersize=5.5, linewidth=1.8)


def _panels(
    table: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame], None],
    shown: Sequence[str],
    agents: Agents,
    label: str,
) -> Figure | None:
    """A panel per environment and offset, and beneath all of them who is who; None for a table without rows."""
    if table.empty:
        return None
    parts = places(table)
    rows = -(-len(shown) // 4)
    figure, axes = grid(len(parts), 2, HEIGHT, bottom=0.15 + 0.22 * rows)
    for each, (title, part) in zip(axes, parts, strict=True):
        draw(each, part)
        tidy(each, title)
        percent_axis(each, "reached, %", vertical=True)
        each.set_xlabel(label, fontsize=10)
    handles = [
        Line2D([], [], color=agents.colour(a), marker=agents.marker(a), label=axis_name(agents.short(a), 40))
        for a in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(shown)), frameon=False, fontsize=10)
    return figure
