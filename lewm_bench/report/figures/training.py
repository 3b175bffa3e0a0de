"""Figures about training: success per training seed, loss terms of LeWM beside PLDM's, and every logged quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import Agents, main_rows
from lewm_bench.report.figures.drawing import (
    WIDTH,
    Rows,
    axis_name,
    escape_math,
    grid,
    new_figure,
    percent_axis,
    places,
    rows_of,
    shorten,
    tidy,
)

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

BAND = "#d9d9d9"


def stability(summary: Summary) -> Figure | None:
    """Success of each training seed: a dot per seed, mean and range, and the spread that chance alone explains."""
    table = summary.seeds
    if table.empty:
        return None
    parts = places(table)
    agents = [a for a in dict.fromkeys(summary.table["agent"]) if a in set(table["agent"])]
    rows = rows_of(agents, summary.kinds, summary.agents)
    figure, axes = grid(len(parts), 2, rows.inches(), bottom=0.35)
    for each, (title, part) in zip(axes, parts, strict=True):
        _stability_panel(each, part, rows, summary.agents)
        tidy(each, title)
    grey = {"color": "#444444", "linestyle": "none"}
    handles = [
        Line2D([], [], marker="o", markersize=6, label="one training seed", **grey),
        Line2D([], [], marker="|", markersize=13, markeredgewidth=2, label="mean, and range of the seeds", **grey),
        Patch(color=BAND, label="95 % of seeds by chance alone"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _stability_panel(axes: Axes, part: pd.DataFrame, rows: Rows, agents: Agents) -> None:
    for agent, y in rows.heights.items():
        own, tone = part[part["agent"] == agent], agents.colour(agent)
        hits = 100 * own["hit"].dropna().to_numpy(float)
        count = _seeds(len(hits), len(own) - len(hits))
        axes.annotate(count, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color="#555555")
        if len(hits) > 1:
            low, high = 100 * own["chance_low"].iloc[0], 100 * own["chance_high"].iloc[0]
            axes.fill_betweenx([y - 0.36, y + 0.36], low, high, color=BAND, linewidth=0)
            axes.plot([hits.min(), hits.max()], [y, y], color=tone, linewidth=1.8)
            axes.plot(hits.mean(), y, "|", color="black", markersize=15, markeredgewidth=2)
        height = y + _aside(hits)
        axes.plot(hits, height, "o", color=tone, markersize=6.5, markeredgecolor="white", alpha=0.95)
    rows.draw(axes)
    percent_axis(axes, "reached, %, one dot per training seed")


def _seeds(measured: int, failed: int) -> str:
    """``2 seeds, 1 failed``, of an agent in a place."""
    if not measured:
        return f"{failed} failed" if failed else "not run"
    return f"{measured} seed{'' if measured == 1 else 's'}" + (f", {failed} failed" if failed else "")


def _aside(values: np.ndarray) -> np.ndarray:
    """Small shifts that keep equal values from hiding each other."""
    earlier = np.array([(values[:i] == v).sum() for i, v in enumerate(values)], float)
    equal = np.array([(values == v).sum() for v in values], float)
    return 0.17 * (earlier - (equal - 1) / 2)


def losses(summary: Summary) -> Figure | None:
    """The loss terms of two objectives or more side by side, a small panel per term, a line per run."""
    terms = summary.loss_terms
    if len(terms) < 2:
        return None
    logs = summary.training
    widths = [-(-len(found) // MOST_TERMS) for found in terms.values()]  # columns of each agent
    rows = max(-(-len(found) // width) for found, width in zip(terms.values(), widths, strict=True))
    figure = new_figure(0.9 + 1.45 * rows)
    axes = figure.subplots(rows, sum(widths), squeeze=False)
    styles = line_styles(logs[logs["agent"].isin(terms)])
    for part, agent in zip(np.split(axes, np.cumsum(widths)[:-1], axis=1), terms, strict=True):
        own = logs[logs["agent"] == agent]
        _loss_block(part.ravel(), terms[agent], own, styles, summary.agents.colour(agent))
        name = f"{summary.agents.title(agent)}: {len(terms[agent])} loss terms"
        part[0, 0].annotate(
            escape_math(name), (0, 1), (0, 24), "axes fraction", "offset points",
            fontsize=12, fontweight="bold", color=summary.agents.colour(agent),
        )  # fmt: skip
    if len(styles) > 1:
        legend_of_environments(figure, styles)
    return figure


MOST_TERMS = 4  # of one agent below each other


def _loss_block(
    axes: Sequence[Axes], terms: Mapping[str, str], logs: pd.DataFrame, styles: Mapping[str, str], tone: str
) -> None:
    for each, (term, name) in zip(axes, terms.items(), strict=False):
        curves(each, logs[logs["quantity"] == term], tone, styles, width=0.8)
        each.set_title(escape_math(name), fontsize=9.5, loc="left")
        each.set_xlabel("training step", fontsize=8)
    for spare in axes[len(terms) :]:
        spare.set_axis_off()


def training(summary: Summary) -> Figure | None:
    """Every logged quantity over the training steps: a row per agent (or two), a line per run."""
    logs = summary.training
    logs = main_rows(logs[np.isfinite(logs["value"].to_numpy(float))], summary.kinds)
    if logs.empty:
        return None
    agents = [a for a in dict.fromkeys(summary.table["agent"]) if a in set(logs["agent"])]
    logged = {a: sorted(set(logs.loc[logs["agent"] == a, "quantity"]), key=_quantity_order) for a in agents}
    columns = min(MOST_COLUMNS, max(map(len, logged.values())))
    lines = [(a, q[i : i + columns]) for a, q in logged.items() for i in range(0, len(q), columns)]
    styles = line_styles(logs)
    figure = new_figure(0.5 + 1.6 * len(lines), max(WIDTH, 1.75 * columns))
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for row, (agent, quantities) in zip(axes, lines, strict=True):
        own = logs[logs["agent"] == agent]
        for each, quantity in zip(row, quantities, strict=False):
            curves(each, own[own["quantity"] == quantity], summary.agents.colour(agent), styles)
            each.set_title(escape_math(shorten(quantity.replace("_", " "))), fontsize=9.5, loc="left")
        for spare in row[len(quantities) :]:
            spare.set_axis_off()
        row[0].annotate(
            axis_name(summary.agents.short(agent), 60), (0, 1), (-20, 20), "axes fraction", "offset points", fontsize=10.5, fontweight="bold",
            color=summary.agents.colour(agent),
        )  # fmt: skip
    legend_of_environments(figure, styles)
    return figure


MOST_COLUMNS = 6


def _quantity_order(name: str) -> tuple[int, str]:
    """What many agents log comes first, so that it stands in one column; then what is an agent's own."""
    first = ("loss", "prediction", "latent_std", "effective_rank", "straightness")
    return (first.index(name) if name in first else len(first), name)


def line_styles(logs: pd.DataFrame) -> dict[str, str]:
    """A kind of line per environment."""
    return dict(zip(sorted(set(logs["env"])), cycle(("-", "--", ":", "-.")), strict=False))


def legend_of_environments(figure: Figure, styles: Mapping[str, str]) -> None:
    """What the kinds of lines mean, below the figure."""
    handles = [Line2D([], [], color="#444444", linestyle=s, label=escape_math(short(env))) for env, s in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)


def curves(axes: Axes, own: pd.DataFrame, tone: str, styles: Mapping[str, str], width: float = 1.3) -> None:
    """One line per run."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    for (_, _, env, _), run in own.groupby(["protocol", "profile", "env", "seed"]):
        axes.plot(run["step"], run["value"], styles[env], color=tone, linewidth=width, alpha=0.8)
    values = own["value"].to_numpy(float)
    if np.nanmin(values) > 0 and np.nanmax(values) > 50 * np.nanmin(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())  # between less than two decades they would lie on each other
    axes.xaxis.set_major_locator(MaxNLocator(3))
