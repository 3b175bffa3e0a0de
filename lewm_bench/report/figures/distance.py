"""Where agents fail: success by how far it is to the goal, and by how much longer the way is than the straight line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lewm_bench.core.formatting import short
from lewm_bench.core.statistics import wilson
from lewm_bench.report.agents import Agents, main_rows
from lewm_bench.report.figures.drawing import axis_name, escape_math, new_figure, percent_axis, tidy
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

QUANTILES = (0.25, 0.5, 0.75)
DETOURS = (1.1, 1.5, 2.5)  # edges of the bins, as multiples of the straight line
DETOUR_NAMES = ("1 to 1.1", "1.1 to 1.5", "1.5 to 2.5", "above 2.5")
PLACE = ["protocol", "profile", "offset", "pair", "start"]  # what makes two episodes of an environment the same pair


def by_distance(summary: Summary) -> Figure | None:
    """Success by the length of the shortest way and by the detour, a row of two panels per environment."""
    table = episodes(summary.cells)
    if table.empty:
        return None
    table = main_rows(table, summary.kinds)
    envs = list(dict.fromkeys(table["env"]))
    agents = [a for a in dict.fromkeys(summary.table["agent"]) if a in set(table["agent"])]
    figure = new_figure(3.3 * len(envs) + 0.3 * -(-len(agents) // 5) + 0.3)
    rows = figure.subplots(len(envs), 2, squeeze=False)
    for (left, right), env in zip(rows, envs, strict=True):
        part = table[table["env"] == env]
        edges = np.unique(np.quantile(part.drop_duplicates(PLACE)["length"], QUANTILES))
        _panel(left, part, "length", edges, _between(edges), agents, summary.agents)
        tidy(left, escape_math(short(env)))
        left.set_xlabel("shortest way from start to goal" if part["detour"].notna().any() else "distance to the goal")
        known = part[part["detour"].notna()]
        if known.empty:
            right.set_axis_off()
            continue
        _panel(right, known, "detour", DETOURS, DETOUR_NAMES, agents, summary.agents)
        tidy(right, "")
        right.set_xlabel("shortest way / straight line")
    handles = {name: h for axes in rows[:, 0] for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=10
    )  # fmt: skip
    return figure


def episodes(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """One row per episode that left a trail: env, agent, seed, what ``PLACE`` names, hit, length and detour (NaN: unknown)."""
    rows = [
        {
            **{name: getattr(cell, name) for name in ("env", "agent", "seed", "protocol", "profile")},
            "offset": offset.goal_offset,
            "pair": trail.pair,
            "start": trail.spots[0],
            "hit": trail.reached,
            "length": trail.distance if trail.path is None else trail.path,
            "detour": np.nan if trail.detour is None else trail.detour,
        }
        for cell in cells
        if cell.status == "done"
        for offset in cell.offsets
        for trail in offset.trails
    ]
    columns = ["env", "agent", "seed", "protocol", "profile", *PLACE[2:], "hit", "length", "detour"]
    table = pd.DataFrame(rows, columns=columns)
    return table[np.isfinite(table["length"].to_numpy(float))]


def _between(edges: np.ndarray) -> list[str]:
    """Names of the bins between edges, open at both ends."""
    told = [f"{edge:.3g}" for edge in edges]
    inner = [f"{a} to {b}" for a, b in itertools.pairwise(told)]
    return [f"below {told[0]}", *inner, f"above {told[-1]}"]


def _panel(
    axes: Axes,
    part: pd.DataFrame,
    column: str,
    edges: Sequence[float],
    names: Sequence[str],
    drawn: Sequence[str],
    agents: Agents,
) -> None:
    """The share of hits of each agent in each bin of a column."""
    bins = np.searchsorted(edges, part[column].to_numpy(float), side="right")
    pairs = part.assign(bin=bins).drop_duplicates(PLACE)["bin"].value_counts()
    for number, agent in enumerate(drawn):
        own = (part["agent"] == agent).to_numpy()
        if not own.any():
            continue
        groups = [(k, part["hit"].to_numpy(bool)[own & (bins == k)]) for k in range(len(names))]
        found = [(k, wilson(int(hits.sum()), len(hits))) for k, hits in groups if len(hits)]
        x = [k + 0.6 * ((number + 0.5) / len(drawn) - 0.5) for k, _ in found]
        y = [100 * share.value for _, share in found]
        reach = [[100 * (s.value - s.low) for _, s in found], [100 * (s.high - s.value) for _, s in found]]
        tone = agents.colour(agent)
        axes.errorbar(x, y, yerr=reach, color=tone, elinewidth=1.3, linestyle="none")
        axes.plot(
            x,
            y,
            color=tone,
            marker=agents.marker(agent),
            markersize=6,
            linewidth=1,
            label=axis_name(agents.short(agent)),
        )
    axes.set_xticks(range(len(names)), [f"{name}\n{_pairs(pairs.get(k, 0))}" for k, name in enumerate(names)])
    axes.set_xlim(-0.5, len(names) - 0.5)
    percent_axis(axes, "reached, %", vertical=True)
    for edge in np.arange(len(names) - 1) + 0.5:
        axes.axvline(edge, color="#e5e5e5", linewidth=0.8, zorder=0)


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"
