"""The figure of planners: success against what planning costs per executed environment step, in time and in operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from lewm_bench.core.formatting import operations, short
from lewm_bench.report.figures.drawing import (
    Label,
    axis_name,
    escape_math,
    grid,
    percent_axis,
    place_labels,
    second_ticks,
    shorten,
    tidy,
)
from lewm_bench.report.pareto import SOLVERS, Front, Point
from lewm_bench.report.text import offset_name

if TYPE_CHECKING:
    from lewm_bench.report.agents import Agents
    from lewm_bench.report.summary import Summary

HEIGHT = 3.9  # inches of a panel
MARKERS = {"cem": "o", "icem": "s", "mppi": "^", "shooting": "D", "adam": "v"}
LINE = "#444444"
LOW = 0.5  # of the goals


def pareto(summary: Summary) -> Figure | None:
    """A row per place: time on the left, operations on the right where any were counted."""
    found = summary.fronts
    if not found:
        return None
    counted = any(p.flops == p.flops for front in found for p in front.points)
    columns = 2 if counted else 1
    handles = _legend(found, summary.agents)
    rows = -(-len(handles) // 4)
    figure, axes = grid(len(found) * columns, max(columns, min(2, len(found))), HEIGHT, bottom=0.25 + 0.22 * rows)
    drawn = []
    for number, front in enumerate(found):
        drawn.append((axes[columns * number], front, _seconds, _by_time))
        _panel(*drawn[-1], summary.agents)
        second_ticks(axes[columns * number])
        axes[columns * number].set_xlabel("planning per executed step, log scale", fontsize=10)
        if counted:
            drawn.append((axes[columns * number + 1], front, _flops, _by_flops))
            _panel(*drawn[-1], summary.agents)
            _operation_ticks(axes[columns * number + 1])
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout must be final before labels are placed
    for each, front, cost, on in drawn:
        _name(each, front, cost, on, summary.agents)
    return figure


Cost = Callable[[Point], float]


def _seconds(point: Point) -> float:
    return point.ms.value / 1000


def _flops(point: Point) -> float:
    return point.flops


def _by_time(point: Point) -> bool:
    return point.on_frontier


def _by_flops(point: Point) -> bool:
    return point.on_flops_frontier


def _panel(axes: Axes, front: Front, cost: Cost, on: Callable[[Point], bool], agents: Agents) -> None:
    known = [p for p in front.points if cost(p) == cost(p)]
    axes.set_xscale("log")
    for point in known:
        _draw(axes, point, cost, on(point), agents)
    costs = [cost(p) for p in known] or [1.0]
    left, right = min(costs) / 2.5, max(costs) * 3
    _steps(axes, sorted((cost(p), 100 * p.hit.value) for p in known if on(p)), right)
    axes.set_xlim(left, right)
    percent_axis(axes, "reached, % with 95 % interval", vertical=True)
    axes.grid(axis="x", color="#eeeeee")
    place = f"{short(front.env)}\n{offset_name(front.goal_offset, front.protocol)} ({front.profile})"
    tidy(axes, escape_math(place))


def _draw(axes: Axes, point: Point, cost: Cost, on: bool, agents: Agents) -> None:
    """A point with its interval, and the quartiles of its time; those that are beaten stand back."""
    tone, x, y = _colour(point, agents), cost(point), 100 * point.hit.value
    strength, order = (0.9, 3) if on else (0.35, 2)
    axes.plot([x, x], [100 * point.hit.low, 100 * point.hit.high], color=tone, linewidth=1.1, alpha=0.55 if on else 0.2)
    if cost is _seconds:
        axes.plot([point.ms.low / 1000, point.ms.high / 1000], [y, y], color=tone, linewidth=1.8, alpha=strength)
    axes.plot(
        x, y, marker=_marker(point, agents), markersize=7.5 if on else 6, linestyle="none", color=tone, zorder=order + 1,
        markerfacecolor="white" if point.often else tone, markeredgewidth=1.3, alpha=1 if on else 0.5,
    )  # fmt: skip


def _steps(axes: Axes, corners: list[tuple[float, float]], right: float) -> None:
    """The most that is reached within a cost."""
    if corners:
        x, y = zip(*corners, (right, corners[-1][1]), strict=True)
        axes.plot(x, y, drawstyle="steps-post", color=LINE, linewidth=1.1, alpha=0.7, zorder=1.5)


def _name(axes: Axes, front: Front, cost: Cost, on: Callable[[Point], bool], agents: Agents) -> None:
    """Numbers at the points of the frontier, and beside the axis' end what they stand for.

    Names are too long to stand beside points that lie close together. Below right of a frontier there is room for them, or
    above one that stays low.
    """
    known = [p for p in front.points if cost(p) == cost(p)]
    named = sorted((p for p in known if on(p)), key=lambda p: (cost(p), p.hit.value))
    labels = [Label(str(i), (cost(p), 100 * p.hit.value), _colour(p, agents)) for i, p in enumerate(named, 1)]
    place_labels(axes, labels, [(cost(p), 100 * p.hit.value, 100 * p.hit.value) for p in known], _BESIDE, size=9)
    low = max((p.hit.value for p in known), default=0.0) < LOW
    for i, point in enumerate(named, 1):
        place = ((1, 1), (-4, -2 - 10.5 * i)) if low else ((1, 0), (-4, 5 + 10.5 * (len(named) - i)))
        axes.annotate(
            escape_math(f"{i}  {shorten(point.name, 40)}"), *place, "axes fraction", "offset points", ha="right", fontsize=8, color=_colour(point, agents), path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


_BESIDE = [(dx, dy, align) for dy in (9, -10, 0) for dx, align in ((-7, "right"), (0, "center"), (7, "left"))]


def _operation_ticks(axes: Axes) -> None:
    def name(value: float, _: int) -> str:
        number, unit = operations(value).split()
        return f"{float(number):g} {unit}"

    axes.xaxis.set_major_formatter(FuncFormatter(name))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("FLOPs of planning per executed step, log scale", fontsize=10)


def _colour(point: Point, agents: Agents) -> str:
    return agents.colour(point.trained)


def _marker(point: Point, agents: Agents) -> str:
    return MARKERS.get(point.solver, agents.marker(point.agent))


def _legend(found: tuple[Front, ...], agents: Agents) -> list[Line2D]:
    """The solvers that search with the model, other agents, what hollow means, and the line."""
    seen: dict[tuple[str, str], Point] = {}
    for point in (p for front in found for p in front.points):
        seen.setdefault((point.trained, point.solver), point)
    handles = [
        Line2D(
            [], [], color=_colour(p, agents), marker=_marker(p, agents), linestyle="none", markersize=7,
            label=axis_name(f"{agents.title(p.trained)}{f', {SOLVERS.get(p.solver, p.solver)}' if p.solver else ''}", 34),
        )
        for p in seen.values()
    ]  # fmt: skip
    if any(p.often for front in found for p in front.points):
        handles.append(
            Line2D(
                [], [], color=LINE, marker="o", markerfacecolor="white", linestyle="none", label="plans again sooner"
            )
        )
    return [*handles, Line2D([], [], color=LINE, linewidth=1.1, label="frontier")]
