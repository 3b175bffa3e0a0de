"""Figures of tuning. Draws the trials it is given and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from lewm_bench.core.formatting import short
from lewm_bench.core.names import parse_agent
from lewm_bench.core.search_space import Dimension
from lewm_bench.report.agents import colour
from lewm_bench.report.figures.drawing import escape_math, new_figure, panels, percent_axis
from lewm_bench.run.tuning.trials import Trial, Tuning

COLUMNS = 3  # of panels, one per dimension
GREY = "#999999"


def draw(tuning: Tuning) -> Figure:
    """One dimension: the objective over it, and the path of the search. Several: what was reached by when, and each."""
    return path_figure(tuning) if len(tuning.dimensions) == 1 else panels_figure(tuning)


def path_figure(tuning: Tuning) -> Figure:
    """The objective over the one value, every trial with its number and interval; a thin line is the search's path."""
    figure, (axes,) = panels(1, 4.2, (1,))
    _objective_over(axes, tuning, 0)
    places = [_place(tuning.dimensions[0], t.values[0]) for t in tuning.trials]
    axes.plot(places, [100 * t.objective for t in tuning.trials], "-", color=GREY, linewidth=0.8, zorder=1)
    for x, trial in zip(places, tuning.trials, strict=True):
        if trial.held:
            ends = [100 * v for v in trial.interval[1:]]
            axes.plot([x, x], ends, color=_tone(tuning), linewidth=1.4, alpha=0.5, zorder=2)
    _legend(axes, tuning)
    axes.set_title(_heading(tuning), fontsize=11, loc="left")
    return figure


def panels_figure(tuning: Tuning) -> Figure:
    """What had been reached by each trial, above one panel per dimension."""
    rows = math.ceil(len(tuning.dimensions) / COLUMNS)
    figure = new_figure(3.4 + 2.3 * rows)
    grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=(1.4, *(1,) * rows))
    top = figure.add_subplot(grid[0, :])
    _best_so_far(top, tuning, range(len(tuning.trials)), len(tuning.trials) <= 30)
    _trial_axis(top)
    top.set_title(_heading(tuning), fontsize=11, loc="left")
    _shares_axis(top)
    for number in range(len(tuning.dimensions)):
        axes = figure.add_subplot(grid[1 + number // COLUMNS, number % COLUMNS])
        _objective_over(axes, tuning, number)
        if number % COLUMNS:
            axes.set_ylabel("")
    _legend(top, tuning)
    return figure


def comparison(tunings: Sequence[Tuning]) -> Figure:
    """Several agents: the best so far by number of trials, and by the training time that was spent."""
    figure, (left, right) = panels(2, 4.0, (1, 1))
    for tuning in tunings:
        _best_so_far(left, tuning, range(len(tuning.trials)), False)
        _best_so_far(right, tuning, tuning.spent_seconds, False)
    _trial_axis(left)
    right.set_xlabel("training seconds spent", fontsize=10)
    for axes in (left, right):
        _shares_axis(axes)
    left.set_title(
        f"{escape_math(short(tunings[0].env))}: best so far, lines; each trial, points", fontsize=11, loc="left"
    )
    handles = [
        Line2D([], [], color=_tone(t), label=f"{escape_math(t.agent)} ({len(t.dimensions)} to tune)") for t in tunings
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _heading(tuning: Tuning) -> str:
    return escape_math(f"{tuning.agent}, {short(tuning.env)}: {tuning.method}")


def _tone(tuning: Tuning) -> str:
    return colour(parse_agent(tuning.agent).base, tuning.card)


def _best_so_far(axes: Axes, tuning: Tuning, x: Sequence[float], numbered: bool) -> None:
    tone = _tone(tuning)
    axes.step(x, [100 * v for v in tuning.best_so_far], where="post", color=tone, linewidth=1.8)
    for place, trial in zip(x, tuning.trials, strict=True):
        _point(axes, tuning, trial, place, numbered)


def _objective_over(axes: Axes, tuning: Tuning, number: int) -> None:
    """Every trial at its value of one dimension."""
    dimension = tuning.dimensions[number]
    for trial in tuning.trials:
        _point(axes, tuning, trial, _place(dimension, trial.values[number]), True)
    if dimension.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    # All that was searched, tried or not; an invisible line takes part in the limits.
    axes.plot([_place(dimension, v) for v in (dimension.low, dimension.high)], [0, 0], alpha=0)
    if dimension.one_minus:
        axes.invert_xaxis()
    axes.set_xlabel(f"1 - {dimension.path}" if dimension.one_minus else dimension.path, fontsize=10)
    _shares_axis(axes)


def _place(dimension: Dimension, value: float) -> float:
    """Where a value is drawn; one that the axis cannot show, such as 0 on a logarithmic one, is at the range's end."""
    end = dimension.high if dimension.one_minus else dimension.low
    coordinate, last = (1 - value, 1 - end) if dimension.one_minus else (value, end)
    return last if dimension.log and coordinate <= 0 else coordinate


def _point(axes: Axes, tuning: Tuning, trial: Trial, x: float, numbered: bool) -> None:
    """A trial; hollow if it is the default, a star if it is the best, a cross at 0 if its training failed."""
    tone, best = _tone(tuning), tuning.best
    y = 100 * trial.objective
    style = "x" if trial.status == "failed" else "*" if best is not None and trial.trial == best.trial else "o"
    face = "white" if trial.trial == tuning.default.trial else tone
    axes.plot(
        x, y, style, color=GREY if style == "x" else tone, markerfacecolor=face, markersize=13 if style == "*" else 7,
        markeredgewidth=1.4, linestyle="none", zorder=3, clip_on=False,
    )  # fmt: skip
    if numbered:
        axes.annotate(f"{trial.trial}", (x, y), (6, 5), textcoords="offset points", fontsize=9, zorder=4)


def _legend(axes: Axes, tuning: Tuning) -> None:
    tone = _tone(tuning)
    kinds = {
        "best": ("*", tone, tone, 13),
        "trial": ("o", tone, tone, 7),
        "default": ("o", tone, "white", 7),
        "training failed": ("x", GREY, GREY, 7),
    }
    handles = [
        Line2D([], [], linestyle="none", marker=m, color=c, markerfacecolor=face, markersize=size, label=name)
        for name, (m, c, face, size) in kinds.items()
    ]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _trial_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial; 0 is the default", fontsize=10)


def _shares_axis(axes: Axes) -> None:
    percent_axis(axes, "still there, % (validation)", vertical=True)
    axes.grid(axis="x", color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
