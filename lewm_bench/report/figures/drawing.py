"""What all figures share: grids of panels, PNG bytes.

Matplotlib's object-oriented interface on the Agg canvas: no global figure, no backend switch, no change of style.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from lewm_bench.core.formatting import seconds, short
from lewm_bench.report.agents import Agents, is_ablation
from lewm_bench.report.text import offset_name

BLOCK_NAMES = {
    "world model": "world models",
    "policy": "policies",
    "privileged": "privileged",
    "floor": "floor",
    "ablation": "ablations",
}
GAP = 0.75  # rows between two blocks


WIDTH = 9.0  # inches; at this resolution twice the width of a README, so it stays sharp
DPI = 150


class Drawing(Figure):
    """A figure that a notebook shows as it is, without a backend of Matplotlib's and without ``pyplot``."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The file; without a version stamp it is the same for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


PLACE = ["protocol", "profile", "env", "goal_offset"]


def places(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """One part per environment and offset, with its heading."""
    parts = list(table.groupby(PLACE, sort=False))
    many = len({(key[0].partition("/")[0], key[1]) for key, _ in parts}) > 1
    return [
        (
            escape_math(
                f"{short(env)}\n{offset_name(offset, protocol)}" + (f", {protocol}, {profile}" if many else "")
            ),
            part,
        )
        for (protocol, profile, env, offset), part in parts
    ]


def escape_math(text: str) -> str:
    """Text without Matplotlib's formula sign; names come from users."""
    return text.replace("$", r"\$")


def shorten(text: str, length: int = 24) -> str:
    """Text that is not longer than ``length``."""
    return text if len(text) <= length else text[: length - 1] + "…"


def axis_name(agent: str, length: int = 24) -> str:
    """An agent's name at an axis; of a long name with settings the end stays, which tells ablations apart."""
    kept = agent if len(agent) <= length or not is_ablation(agent) else f"…{agent[1 - length :]}"
    return escape_math(shorten(kept, length))


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def grid(count: int, columns: int, height: float, bottom: float = 0.0) -> tuple[Figure, list[Axes]]:
    """``count`` panels of equal size in rows of at most ``columns``."""
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    figure = new_figure(rows * height + bottom)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])


def panels(count: int, height: float, widths: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A row of axes with these relative widths."""
    figure = new_figure(height)
    axes = figure.subplots(1, count, squeeze=False, width_ratios=widths).ravel()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def tidy(axes: Axes, title: str) -> None:
    """Heading on the left, no box."""
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)


def percent_axis(axes: Axes, label: str, vertical: bool = False) -> None:
    """0 to 100 with light lines; the ends of an interval at 100 stay inside."""
    if vertical:
        axes.set(ylim=(-4, 106), yticks=range(0, 101, 20))
        axes.set_ylabel(label, fontsize=10)
    else:
        axes.set(xlim=(-3, 103), xticks=range(0, 101, 20))
        axes.set_xlabel(label, fontsize=10)
    axes.grid(axis="y" if vertical else "x", color="#e5e5e5")
    axes.set_axisbelow(True)


def second_ticks(axes: Axes, vertical: bool = False) -> None:
    """A log axis of times with units at its ticks."""

    def name(value: float, _: int) -> str:
        number, unit = seconds(value).split()
        return f"{float(number):g} {unit}"

    (axes.set_yscale if vertical else axes.set_xscale)("log")
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.grid(axis="y" if vertical else "x", color="#e5e5e5")
    axes.set_axisbelow(True)


@dataclass(frozen=True)
class Label:
    """Text beside a point of a figure."""

    text: str
    point: tuple[float, float]
    colour: str


Place = tuple[float, float, str]
"""Points to the right and up from a point, and how text is aligned there."""


def place_labels(
    axes: Axes,
    labels: Iterable[Label],
    covered: Iterable[tuple[float, float, float]],
    places: Sequence[Place],
    size: float = 9.5,
) -> None:
    """Write each label beside its point, at the first of a few places that covers nothing else.

    The layout must be final. ``covered`` are the horizontal place, lower and upper end of each point with its interval,
    ``places`` are tried in their order.
    """
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [_cross(axes, *each) for each in covered]
    for label in labels:
        text = axes.annotate(
            label.text, label.point, (0, 0), textcoords="offset points", fontsize=size, va="center", color=label.colour,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        costs = []
        for rank, (dx, dy, align) in enumerate(places):
            text.set(position=(dx, dy), horizontalalignment=align)
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            costs.append((sum(box.overlaps(other) for other in taken) + 3 * (not inside), rank))
        dx, dy, align = places[min(costs)[1]]
        text.set(position=(dx, dy), horizontalalignment=align)
        taken.append(text.get_window_extent(renderer))


BESIDE: Sequence[Place] = [
    (dx, dy, align)
    for dy in (0, 10, -10, 20, -20, 32, -32, 44, -44, 56, -56)
    for dx, align in ((9, "left"), (-9, "right"))
]


def _cross(axes: Axes, place: float, bottom: float, top: float) -> Bbox:
    """The box, in pixels, that a point and its vertical interval cover."""
    x, low = axes.transData.transform((place, bottom))
    _, high = axes.transData.transform((place, top))
    return Bbox.from_extents(x - 8, low - 8, x + 8, high + 8)


@dataclass(frozen=True)
class Rows:
    """Where the agents of a figure stand on its vertical axis: the same in all panels, with a gap before each block."""

    heights: Mapping[str, float]
    names: Mapping[str, str]
    blocks: tuple[tuple[float, str], ...]

    @property
    def bottom(self) -> float:
        return max(self.heights.values()) + 0.6

    def inches(self, row: float = 0.34) -> float:
        """The height of a panel, with its heading and axis."""
        return 1.2 + row * (self.bottom + 0.6)

    def draw(self, axes: Axes) -> None:
        """Names at the axis, block names above the blocks."""
        axes.set_yticks(list(self.heights.values()), [axis_name(self.names[a]) for a in self.heights])
        axes.set_ylim(self.bottom, -0.95)
        for height, name in self.blocks:
            axes.axhline(height, color="#dddddd", linewidth=0.8, zorder=0)
            axes.annotate(
                name, (1, height), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="top", fontsize=8, color="#777777", style="italic",
            )  # fmt: skip


def rows_of(names: Iterable[str], kinds: Mapping[str, str], agents: Agents) -> Rows:
    """Rows for the agents of these names, which are in the order of the table."""
    heights, blocks, last, at = {}, [], "", 0.0
    for agent in dict.fromkeys(names):
        block = "ablation" if is_ablation(agent) else kinds[agent]
        if block != last:
            at += GAP if last else 0.0
            blocks.append((at - 0.5 - GAP / 2, BLOCK_NAMES[block]))
        heights[agent], last, at = at, block, at + 1
    return Rows(heights, {agent: agents.short(agent) for agent in heights}, tuple(blocks[1:] and blocks))
