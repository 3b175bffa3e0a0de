"""Figures of success and planning time, and of one over the other. Draws the numbers it is given and computes none of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lewm_bench.core.formatting import seconds
from lewm_bench.report.agents import Agents, is_ablation, main_rows, settings_text
from lewm_bench.report.figures.drawing import (
    BESIDE,
    PLACE,
    Label,
    Rows,
    escape_math,
    grid,
    percent_axis,
    place_labels,
    places,
    rows_of,
    second_ticks,
    shorten,
    tidy,
)

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


def success(summary: Summary) -> Figure | None:
    """Hit and held with their intervals, one line per agent, one panel per environment and offset."""
    measured = summary.table["hit"].notna()
    table = main_rows(summary.table[measured], summary.kinds)
    if table.empty:
        return None
    ablation = summary.table["agent"].map(is_ablation)
    failed = (summary.table["status"] == "failed") & (~ablation | ablation[table.index].any())
    table = summary.table[(measured & summary.table["agent"].isin(table["agent"])) | failed]
    parts = places(table)
    rows = rows_of([a for a in summary.table["agent"] if a in set(table["agent"])], summary.kinds, summary.agents)
    figure, axes = grid(len(parts), 2, rows.inches(), bottom=0.35)
    for each, (title, part) in zip(axes, parts, strict=True):
        _success_panel(each, part, rows, summary.agents)
        tidy(each, title)
    handles, names = axes[0].get_legend_handles_labels()
    kept = dict(zip(names, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _success_panel(axes: Axes, part: pd.DataFrame, rows: Rows, agents: Agents) -> None:
    for _, row in part.iterrows():
        y, tone = rows.heights[row["agent"]], agents.colour(row["agent"])
        for column, shift, face in (("hit", -0.16, tone), ("held", 0.16, "white")):
            value, low, high = (100 * row[name] for name in (column, f"{column}_low", f"{column}_high"))
            if pd.isna(value):
                continue
            axes.plot([low, high], [y + shift] * 2, color=tone, linewidth=2, solid_capstyle="butt")
            axes.plot(
                value, y + shift, marker="o" if column == "hit" else "s", markersize=6.5, linestyle="none",
                markerfacecolor=face, markeredgecolor=tone, markeredgewidth=1.6,
            )  # fmt: skip
    # The legend explains the two shapes, not the agents: those stand at the axis.
    axes.plot([], [], "o", color="#444444", markersize=7, label="reached at any step")
    axes.plot([], [], "s", markerfacecolor="white", markeredgecolor="#444444", label="still there at the last step")
    floor = part.loc[part["agent"] == "random", "hit"].dropna()
    if len(floor):
        tone = agents.colour("random")
        axes.axvline(100 * floor.iloc[0], color=tone, linestyle="--", linewidth=1.2, label="random actions")
    status = dict(zip(part["agent"], part["status"], strict=True))
    measured = set(part.loc[part["hit"].notna(), "agent"])
    for agent in rows.heights.keys() - measured:
        told, tone = status.get(agent, "not run"), "#B00020" if agent in status else "#999999"
        axes.text(50, rows.heights[agent], told, color=tone, fontsize=9, ha="center", va="center")
    rows.draw(axes)
    percent_axis(axes, "success, % with 95 % interval")


def _timed(summary: Summary) -> pd.DataFrame:
    """The rows with plan times; the floor decides nothing, so its time would only stretch the axis."""
    floor = summary.table["agent"].map(summary.kinds).eq("floor")
    timed = summary.table[(summary.table["plan_seconds_median"] > 0) & ~floor]
    return main_rows(timed, summary.kinds)


def plan_time(summary: Summary) -> Figure | None:
    """Every timed plan as a dot, the median and quartiles on top, one panel per environment and offset."""
    table = _timed(summary)
    parts = places(table)
    if not parts:
        return None
    rows = rows_of([a for a in summary.table["agent"] if a in set(table["agent"])], summary.kinds, summary.agents)
    figure, axes = grid(len(parts), 2, rows.inches())
    spread = table[["plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75"]].to_numpy(float)
    lowest, highest = np.nanmin(spread[spread > 0]), np.nanmax(spread)
    for each, (title, part) in zip(axes, parts, strict=True):
        _plan_time_panel(each, part, rows, summary)
        each.set_xlim(lowest / 3, highest * 5)
        tidy(each, title)
    return figure


def _plan_time_panel(axes: Axes, part: pd.DataFrame, rows: Rows, summary: Summary) -> None:
    samples = summary.plan_seconds
    for _, row in part.iterrows():
        y, tone = rows.heights[row["agent"]], summary.agents.colour(row["agent"])
        same = [samples[k] == row[k] for k in (*PLACE, "agent")]
        drawn = samples.loc[np.logical_and.reduce(same), "plan_seconds"].to_numpy()
        drawn = drawn[drawn > 0][:: max(1, len(drawn) // 400)]
        height = y + 0.16 * np.sin(np.arange(len(drawn)) * 2.4)  # spreads the dots without drawing random numbers
        axes.plot(drawn, height, ".", color=tone, alpha=0.35, markersize=3.5, markeredgewidth=0)
        axes.plot([row["plan_seconds_q25"], row["plan_seconds_q75"]], [y, y], color=tone, linewidth=5)
        axes.plot(row["plan_seconds_median"], y, "|", color="black", markersize=13, markeredgewidth=2)
        axes.annotate(
            seconds(row["plan_seconds_median"]), (row["plan_seconds_median"], y), (0, 8),
            textcoords="offset points", ha="center", fontsize=8.5,
        )  # fmt: skip
    second_ticks(axes)
    rows.draw(axes)
    axes.set_xlabel("time for one plan, log scale", fontsize=10)


def success_vs_time(summary: Summary) -> Figure | None:
    """Success over planning time: up and to the left is better."""
    table = _timed(summary)
    parts = places(table[table["hit"].notna()])
    if not parts:
        return None
    most = max(len(part) for _, part in parts)
    figure, axes = grid(len(parts), 2, 3.4 + 0.14 * max(0, most - 5))
    times = np.concatenate([part["plan_seconds_median"].to_numpy(float) for _, part in parts])
    room = 5 if max(len(_point_name(a)) for a in table["agent"]) < 15 else 30  # for the names beside the points
    for each, (title, part) in zip(axes, parts, strict=True):
        for _, row in part.iterrows():
            _success_vs_time_point(each, row, summary.agents)
        _floor_line(each, summary, part.iloc[0])
        second_ticks(each)
        each.set_xlim(times.min() / room, times.max() * 2.4 * room)
        percent_axis(each, "reached, % with 95 % interval", vertical=True)
        each.set_xlabel("time for one plan, log scale", fontsize=10)
        each.grid(color="#e5e5e5")
        tidy(each, title)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout must be final before labels are placed
    for each, (_, part) in zip(axes, parts, strict=True):
        place_labels(
            each,
            [Label(_point_name(a), (x, 100 * y), summary.agents.colour(a)) for a, x, y in _points(part, "hit")],
            [(x, 100 * low, 100 * high) for _, x, low, high in _points(part, "hit_low", "hit_high")],
            BESIDE,
        )
    return figure


def _points(part: pd.DataFrame, *columns: str) -> Iterator[tuple[str, float]]:
    """Agent and plan time of each row, with other columns."""
    return part[["agent", "plan_seconds_median", *columns]].itertuples(index=False, name=None)


def _floor_line(axes: Axes, summary: Summary, place: pd.Series) -> None:
    """A dashed line at what random actions reach in the same environment, at the same offset."""
    table, tone = summary.table, summary.agents.colour("random")
    same = [table[k] == place[k] for k in PLACE]
    floor = table.loc[np.logical_and.reduce(same) & (table["agent"] == "random"), "hit"].dropna()
    if len(floor):
        axes.axhline(100 * floor.iloc[0], color=tone, linestyle="--", linewidth=1.2)
        axes.annotate(
            "random actions", (0.99, 100 * floor.iloc[0]), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", fontsize=9, color=tone,
        )  # fmt: skip


def _success_vs_time_point(axes: Axes, row: pd.Series, agents: Agents) -> None:
    time, hit = row["plan_seconds_median"], 100 * row["hit"]
    axes.errorbar(
        time, hit,
        xerr=[[time - row["plan_seconds_q25"]], [row["plan_seconds_q75"] - time]],
        yerr=[[hit - 100 * row["hit_low"]], [100 * row["hit_high"] - hit]],
        color=agents.colour(row["agent"]), marker=agents.marker(row["agent"]), markersize=8, elinewidth=1.6, linestyle="none",
    )  # fmt: skip


def _point_name(agent: str) -> str:
    """What stands beside a point: of an ablation its settings alone."""
    return escape_math(shorten(settings_text(agent) or agent))
