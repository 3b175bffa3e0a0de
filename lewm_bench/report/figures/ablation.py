"""The figure of ablations: success over one setting, and beneath it how the training of each ablation ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from lewm_bench.core.formatting import short
from lewm_bench.report.ablation import DATA, Axis, Panel, Point, Value, axis_of
from lewm_bench.report.agents import Agents
from lewm_bench.report.figures.drawing import WIDTH, escape_math, new_figure, percent_axis
from lewm_bench.report.text import offset_name

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

NAMES = {"effective_rank": "effective\nrank", "latent_std": "latent\nstd"}
HEIGHT = 3.1  # inches of a panel


def ablation(summary: Summary) -> Figure | None:
    """One panel per agent, setting, environment and goal offset that has two points or more."""
    panels = [panel for panel in summary.ablations if panel.path != DATA]
    if not panels:
        return None
    asked = list(dict.fromkeys((p.agent, p.path, p.fixed) for p in panels))
    panels = sorted(panels, key=lambda p: (p.path.startswith("planner."), asked.index((p.agent, p.path, p.fixed))))
    places = len({(p.protocol, p.profile, p.env, p.goal_offset) for p in panels})
    columns = min(len(panels), 2 if places % 2 == 0 or len(panels) == 2 else 3)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(HEIGHT * rows + 0.35, WIDTH if columns > 1 else 0.6 * WIDTH)
    many = len({(p.protocol, p.profile) for p in panels}) > 1
    for part, panel in zip(figure.subfigures(rows, columns, squeeze=False).ravel(), panels, strict=False):
        _panel(part, panel, many, summary.agents)
    handles = [
        Line2D([], [], color="#444444", marker="o", label="reached at any step"),
        Line2D([], [], color="#444444", marker="s", markerfacecolor="white", linestyle=":", label="still there at the last step"),
        Line2D([], [], color=summary.agents.colour("random"), linestyle="--", label="random actions"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3 if columns > 1 else 2, frameon=False, fontsize=10
    )
    return figure


def _panel(figure: SubFigure, panel: Panel, many: bool, agents: Agents) -> None:
    below = panel.diagnostic
    ratios = (3.2, 1) if below else (1,)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel()
    axis = axis_of([p.value for p in panel.points])
    place = f"{short(panel.env)}, {offset_name(panel.goal_offset, panel.protocol)}"
    place += f", {panel.protocol}, {panel.profile}" if many else ""
    axes[0].set_title(escape_math(panel.heading), fontsize=10.5, loc="left", fontweight="bold", pad=28)
    axes[0].annotate(
        escape_math(place), (0, 1), (0, 15), "axes fraction", "offset points", fontsize=8.5, color="#555555"
    )
    _success(axes[0], panel, axis, agents)
    if below:
        _diagnostic(axes[1], panel, axis, below, agents.colour(panel.agent))
    _ticks(axes[-1], panel, axis)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8.5)
        _break(each, axis)


def _success(axes: Axes, panel: Panel, axis: Axis, agents: Agents) -> None:
    tone, width = agents.colour(panel.agent), _width(axis)
    for name, shift, style, face in (("hit", -0.11, "o-", tone), ("held", 0.11, "s:", "white")):
        known = [
            (x, getattr(p, name)) for x, p in zip(axis.places, panel.points, strict=True) if p.hit.value == p.hit.value
        ]
        x = np.array([x for x, _ in known]) + shift * width
        value, low, high = (100 * np.array([e[i] for _, e in known]) for i in range(3))
        axes.vlines(x, low, high, color=tone, linewidth=1.3, alpha=0.75)
        axes.plot(
            x, value, style[0], linestyle="none" if axis.kind == "category" else style[1], color=tone,
            markersize=5.5, markerfacecolor=face, linewidth=1.2,
        )  # fmt: skip
    if panel.floor == panel.floor:
        axes.axhline(100 * panel.floor, color=agents.colour("random"), linestyle="--", linewidth=1.1)
    percent_axis(axes, "success, %", vertical=True)
    for x, point in zip(axis.places, panel.points, strict=True):
        _mark(axes, x, point, width)


def _width(axis: Axis) -> float:
    """A measure of distance along the axis: the smallest between two values, but no sliver."""
    steps = np.diff(np.unique(axis.places))
    span = float(np.ptp(axis.places)) or 1.0
    return float(np.clip(steps.min(), 0.06 * span, 0.2 * span)) if len(steps) else 1.0


def _mark(axes: Axes, x: float, point: Point, width: float) -> None:
    """The default as a band; a collapse, or a point that gave no result, in words."""
    if point.default:
        axes.axvspan(x - 0.35 * width, x + 0.35 * width, color="#eeeeee", zorder=0)
        axes.annotate(
            "default",
            (x, 1),
            (0, 1),
            ("data", "axes fraction"),
            "offset points",
            fontsize=7.5,
            ha="center",
            color="#777777",
        )
    word = verdict(point)
    if word:
        axes.annotate(
            word, (x, 0.5), xycoords=("data", "axes fraction"), rotation=90, ha="center", va="center",
            fontsize=9, color="#B00020", fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )  # fmt: skip


def verdict(point: Point) -> str:
    """The word at a point: ``collapsed``, in how many seeds if not in all, or ``failed``."""
    if point.collapsed:
        all_of_them = point.collapsed == point.trained
        return "collapsed" if all_of_them else f"{point.collapsed} of {point.trained} collapsed"
    return "failed" if point.status == "failed" else ""


def _diagnostic(axes: Axes, panel: Panel, axis: Axis, name: str, tone: str) -> None:
    """The last logged value: a dot per seed, a line through the means."""
    known = [(x, p.endings[name]) for x, p in zip(axis.places, panel.points, strict=True) if name in p.endings]
    for x, values in known:
        axes.plot([x] * len(values), values, ".", color=tone, markersize=6, alpha=0.7)
    if axis.kind != "category":
        axes.plot([x for x, _ in known], [np.mean(values) for _, values in known], color=tone, linewidth=1.1)
    axes.set_ylim(0, 1.15 * max(max(values) for _, values in known) or 1)
    axes.set_ylabel(NAMES[name], fontsize=8.5)
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)


def _ticks(axes: Axes, panel: Panel, axis: Axis) -> None:
    """A tick at every value; slanted where the numbers would touch."""
    labels = dict(zip(axis.places, (_text(p.value) for p in panel.points), strict=True))
    slanted = len(labels) > 5 or max(map(len, labels.values())) > 7
    axes.set_xticks(list(labels), [escape_math(t) for t in labels.values()])
    axes.tick_params(axis="x", rotation=40 if slanted else 0)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    pad = max(0.6 * _width(axis), 0.05 * float(np.ptp(axis.places)))
    axes.set_xlim(min(axis.places) - pad, max(axis.places) + pad)
    axes.set_xlabel(escape_math(panel.path) + (", log scale" if axis.kind == "log" else ""), fontsize=9)


def _text(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    name, bracket, own = value.partition(" (")
    # A solver's own settings on lines of their own: slanted, one long line would take the panel's height.
    return "".join((name, "\n(", own.replace(", ", ",\n"))) if bracket else value


def _break(axes: Axes, axis: Axis) -> None:
    """Two strokes through the horizontal axis between 0 and the rest of a log axis."""
    if not axis.zero:
        return
    first, second = np.unique(axis.places)[:2]
    middle, stroke = (first + second) / 2, 0.012 * float(np.diff(axes.get_xlim())[0])
    axes.plot(
        [middle - stroke, middle + stroke], [0, 0], marker=[(-1, -2), (1, 2)], markersize=8, linestyle="none",
        color="black", transform=axes.get_xaxis_transform(), clip_on=False,
    )  # fmt: skip
