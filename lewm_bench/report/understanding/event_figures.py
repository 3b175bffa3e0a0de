"""Figures of violated expectations: surprise around the event, and how well it tells the conditions apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import is_ablation, settings_text, title
from lewm_bench.report.figures.drawing import escape_math, grid, shorten, tidy
from lewm_bench.report.understanding.tables import tested
from lewm_bench.understand.records import SurpriseCurve, UnderstandingRecord

COLUMNS = 3
TONES = {"untouched": "#444444", "camera noise": "#0099AA", "recoloured": "#E69F00", "teleported": "#CC3311"}
STYLES = {"untouched": "-", "camera noise": ":", "recoloured": "--", "teleported": "-"}


def groups(cells: Sequence[UnderstandingRecord]) -> list[list[UnderstandingRecord]]:
    """The seeds of each model in each environment, as far as they were tested."""
    cells = [c for c in cells if c.surprise]
    keys = dict.fromkeys((c.profile, c.env, c.agent) for c in cells)
    return [[c for c in cells if (c.profile, c.env, c.agent) == key] for key in keys]


def heading(cells: Sequence[UnderstandingRecord]) -> str:
    """Model and environment above a panel."""
    agent = cells[0].agent
    settings = f", {settings_text(agent)}" if is_ablation(agent) else ""
    return escape_math(f"{shorten(title(agent, cells[0].card) + settings, 28)}\n{short(cells[0].env)}")


def voe(cells: Sequence[UnderstandingRecord]) -> Figure | None:
    """Surprise per step and condition, a panel per model: the first seed with its interval, further seeds thin."""
    parts = groups(cells)
    if not parts:
        return None
    figure, panels = grid(len(parts), COLUMNS, 2.7, bottom=0.4)
    for axes, seeds in zip(panels, parts, strict=True):
        for number, cell in enumerate(seeds):
            for curve in cell.surprise.curves:
                _curve(axes, curve, number == 0)
        _log_if_wide(axes, seeds)
        axes.axvline(0, color="#bbbbbb", linewidth=1, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("blocks after the event", fontsize=9)
        tidy(axes, heading(seeds))
        axes.set_title(heading(seeds), fontsize=9, loc="left", fontweight="bold")
        axes.tick_params(labelsize=8.5)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("surprise", fontsize=9)
    _legend(figure, parts)
    return figure


def _curve(axes: Axes, curve: SurpriseCurve, first: bool) -> None:
    tone, style = TONES[curve.condition], STYLES[curve.condition]
    axes.plot(curve.steps, curve.mean, style, color=tone, linewidth=1.7 if first else 0.7)
    if first:
        axes.fill_between(curve.steps, curve.low, curve.high, color=tone, alpha=0.2, linewidth=0)


def _log_if_wide(axes: Axes, seeds: Sequence[UnderstandingRecord]) -> None:
    """A log axis where the largest surprise would flatten all others."""
    means = np.concatenate([curve.mean for cell in seeds for curve in cell.surprise.curves])
    lows = np.concatenate([curve.low for cell in seeds for curve in cell.surprise.curves])
    if lows.min() > 0 and means.max() > WIDE * means.min():
        axes.set_yscale("log")


WIDE = 20


def _legend(figure: Figure, parts: Sequence[Sequence[UnderstandingRecord]]) -> None:
    drawn = {curve.condition for seeds in parts for cell in seeds for curve in cell.surprise.curves}
    handles = [Line2D([], [], color=TONES[c], linestyle=STYLES[c], label=c) for c in TONES if c in drawn]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10)


def detection(cells: Sequence[UnderstandingRecord]) -> Figure | None:
    """How often an event is detected against how often an untouched step is taken for one, of the first seed."""
    parts = [seeds for seeds in groups(cells) if seeds[0].surprise.detection]
    if not parts:
        return None
    figure, panels = grid(len(parts), COLUMNS, 3.3)
    for axes, (cell, *_) in zip(panels, parts, strict=True):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        for condition, points in cell.surprise.detection.items():
            false, true = zip(*points, strict=True)
            tone, style = TONES.get(condition, "#6B0F5C"), STYLES.get(condition, "-.")
            axes.plot(false, true, style, color=tone, linewidth=1.6, label=_named(cell, condition))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xlabel("false alarms", fontsize=9)
        tidy(axes, "")
        axes.set_title(heading([cell]), fontsize=9, loc="left", fontweight="bold")
        axes.tick_params(labelsize=8.5)
        axes.legend(fontsize=7.5, loc="lower right", handlelength=1.6, edgecolor="none", framealpha=0.85)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("detected", fontsize=9)
    return figure


def _named(cell: UnderstandingRecord, condition: str) -> str:
    test = tested(cell, condition)
    against = cell.surprise.teleport_against_recolour
    auc = test.auc if test else against if "against" in condition else None
    condition = condition.replace(" against ", " against\n")
    return condition if auc is None else f"{condition}, AUC {auc.value:.2f}"
