"""Two-dimensional maps of latents, coloured by what is true of the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import is_ablation, settings_text, title
from lewm_bench.report.figures.drawing import escape_math, new_figure, shorten
from lewm_bench.understand.records import LatentMap, UnderstandingRecord

COLUMNS = 4
CORNERS = np.array([[[0.10, 0.25, 0.55], [0.95, 0.75, 0.10]], [[0.15, 0.65, 0.55], [0.85, 0.15, 0.20]]])
"""Colours of the corners of a square, [y][x]: between them every place has a colour of its own."""


class Panel(NamedTuple):
    """One map of one cell; without a map the true values themselves, as a key to the colours."""

    cell: UnderstandingRecord
    drawn: LatentMap | None
    like: LatentMap


def maps(cells: Sequence[UnderstandingRecord]) -> Figure | None:
    """Maps of the first seed of every model, for the first quantity, behind a key per environment."""
    panels = list(panels_of(cells))
    if not panels:
        return None
    figure, grids = blocks(panels)
    for place, own in grids.items():
        for axes, panel in zip(own, (p for p in panels if place_of(p.cell) == place), strict=False):
            _draw(axes, panel)
    return figure


def blocks(panels: Sequence[Panel]) -> tuple[Figure, dict[tuple[str, str], list[Axes]]]:
    """A figure and the axes of each environment, which begins on a line of its own."""
    counts = Counter(place_of(panel.cell) for panel in panels)
    lines = {place: -(-count // COLUMNS) for place, count in counts.items()}
    figure = new_figure(2.55 * sum(lines.values()))
    axes = figure.subplots(sum(lines.values()), COLUMNS, squeeze=False)
    found, top = {}, 0
    for place, count in counts.items():
        own = axes[top : top + lines[place]].ravel()
        for spare in own[count:]:
            spare.set_axis_off()
        found[place], top = list(own[:count]), top + lines[place]
    return figure, found


def place_of(cell: UnderstandingRecord) -> tuple[str, str]:
    """Where a cell belongs."""
    return cell.profile, cell.env


def panels_of(cells: Sequence[UnderstandingRecord]) -> list[Panel]:
    """What is drawn, in order."""
    found, seen = [], set()
    for cell in (c for c in cells if c.maps):
        place, quantity = place_of(cell), cell.maps[0].quantity
        if (*place, cell.agent) in seen:
            continue
        if place not in seen and len(cell.maps[0].values[0]) == 2:
            found.append(Panel(cell, None, cell.maps[0]))
        seen |= {place, (*place, cell.agent)}
        found += [Panel(cell, m, m) for m in cell.maps if m.quantity == quantity]
    return found


def _draw(axes: Axes, panel: Panel) -> None:
    values = np.asarray(panel.like.values)
    points = values if panel.drawn is None else np.asarray(panel.drawn.points)
    axes.scatter(*points.T, c=colours(values), s=5, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_color("#cccccc")
    quantity = panel.like.quantity.replace("_", " ")
    if panel.drawn is None:
        heading = f"{short(panel.cell.env)}\nkey: the true {quantity}"
    else:
        agent = panel.cell.agent
        settings = f", {settings_text(agent)}" if is_ablation(agent) else ""
        heading = f"{shorten(title(agent, panel.cell.card) + settings, 32)}\n{described(panel.drawn)}"
    axes.set_title(escape_math(heading), fontsize=8, loc="left")


def described(found: LatentMap) -> str:
    """``PCA (61 % + 30 %)`` of the variance, or ``t-SNE``."""
    if found.explained is None:
        return found.method
    first, second = (f"{100 * share:.0f} %" for share in found.explained)
    return f"{found.method} ({first} + {second})"


def colours(values: np.ndarray) -> np.ndarray:
    """(n, k) values to colours (n, 3): a circle of hues for (cos, sin), a square for two numbers, else the first's size."""
    if values.shape[1] == 2 and np.allclose((values**2).sum(1), 1, atol=1e-3):
        hue = np.arctan2(values[:, 1], values[:, 0]) / (2 * np.pi) % 1
        return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.75), np.full_like(hue, 0.85)], axis=1))
    low, high = values.min(0), values.max(0)
    share = (values - low) / np.where(high > low, high - low, 1)
    if values.shape[1] != 2:
        return colormaps["viridis"](share[:, 0])[:, :3]
    x, y = share[:, :1], share[:, 1:]
    below = (1 - x) * CORNERS[0, 0] + x * CORNERS[0, 1]
    above = (1 - x) * CORNERS[1, 0] + x * CORNERS[1, 1]
    return (1 - y) * below + y * above
