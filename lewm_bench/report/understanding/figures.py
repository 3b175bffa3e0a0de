"""Figures of examinations, as Matplotlib figures or None where there is nothing to draw. They draw what records hold.

Probes, straightness, collapse, open-loop error and retrieval are here, the others in ``event_figures`` and ``map_figures``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from lewm_bench.report.agents import Agents, colour, is_ablation, marker, parts_of, settings_text
from lewm_bench.report.figures.drawing import escape_math, grid, new_figure, png, rows_of, shorten, tidy
from lewm_bench.report.understanding.event_figures import detection, voe
from lewm_bench.report.understanding.map_figures import maps
from lewm_bench.report.understanding.published import published_probes
from lewm_bench.report.understanding.tables import known, logged, places, probe_of, straightness_of
from lewm_bench.understand.records import Interval, ProbeRow, UnderstandingRecord

Cells = Sequence[UnderstandingRecord]
GREY, GRID = "#777777", "#e5e5e5"
SHIFTS = {"ridge": -0.17, "mlp": 0.17}
SHAPES = {"ridge": "o", "mlp": "s"}
FILLED = {"ridge": True, "mlp": False}
FLOORS = {"random encoder": "#AAAAAA", "pixels, reduced": "#C9A227"}  # a colour for those that differ between models
PIXELS = "#CC3311"


def draw_all(cells: Cells) -> dict[str, bytes]:
    """File name to PNG of every figure that has data."""
    drawn = {name: draw(cells) for name, draw in FIGURES.items()}
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


class Lines:
    """A line per agent, the same in all panels of a figure, and a place on it per training seed."""

    def __init__(self, cells: Cells) -> None:
        self.rows = rows_of([c.agent for c in cells], {c.agent: "world model" for c in cells}, Agents.of(cells))
        self._seeds = {a: sorted({c.seed for c in cells if c.agent == a}) for a in self.rows.heights}

    def place(self, cell: UnderstandingRecord) -> float:
        """The height of a cell: its agent's, seeds a little apart."""
        seeds = self._seeds[cell.agent]
        return self.rows.heights[cell.agent] + 0.11 * (seeds.index(cell.seed) - (len(seeds) - 1) / 2)

    def draw(self, axes: Axes, names: bool = True) -> None:
        """Names at the axis, or an axis without names."""
        self.rows.draw(axes)
        axes.set_yticklabels([short_name(self.rows.names[a]) for a in self.rows.heights] if names else [])
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)


def short_name(agent: str, length: int = 26) -> str:
    """An agent at an axis; of an ablation its first settings, which stand for what is special about it."""
    base = parts_of(agent).trained
    return escape_math(shorten(f"{base}, {settings_text(agent)}" if is_ablation(agent) else base, length))


def with_interval(axes: Axes, interval: Interval, y: float, tone: str, shape: str, filled: bool = True) -> None:
    """A marker with its interval, lying."""
    if known(interval.value):
        axes.plot([interval.low, interval.high], [y, y], color=tone, linewidth=1.6, solid_capstyle="butt")
        face = tone if filled else "white"
        axes.plot(interval.value, y, shape, color=tone, markersize=6, markerfacecolor=face, linestyle="none")


# Probes.


def probe(cells: Cells) -> Figure | None:
    """Pearson's r and MSE of every quantity: a row of panels per environment and quantity, a line per agent."""
    cells = [c for c in cells if c.probes]
    parts = [(h, q, own) for h, own in places(cells) for q in dict.fromkeys(p.quantity for c in own for p in c.probes)]
    if not parts:
        return None
    inches = [Lines(own).rows.inches() + 0.25 for *_, own in parts]
    figure = new_figure(sum(inches) + 0.6)
    panels = figure.subplots(len(parts), 2, squeeze=False, height_ratios=inches)
    for row, (heading, quantity, own) in zip(panels, parts, strict=True):
        lines = Lines(own)
        for axes, measure in zip(row, ("r", "mse"), strict=True):
            _probe_panel(axes, own, quantity, measure, lines)
            lines.draw(axes, names=measure == "r")
        tidy(row[0], escape_math(f"{heading}: {quantity.replace('_', ' ')}"))
        tidy(row[1], "")
    figure.legend(handles=_probe_legend(cells), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _probe_panel(axes: Axes, cells: Cells, quantity: str, measure: str, lines: Lines) -> None:
    for cell in cells:
        for kind, shift in SHIFTS.items():
            for features, tone in (*FLOORS.items(), ("model", colour(cell.agent, cell.card))):
                if found := probe_of(cell, quantity, kind, features):
                    y = lines.place(cell) + shift
                    with_interval(axes, getattr(found, measure), y, tone, SHAPES[kind], FILLED[kind])
    for floor in _pixels(cells, quantity):
        if known(value := getattr(floor, measure).value):
            axes.axvline(value, color=PIXELS, linewidth=1.2, linestyle="--" if floor.kind == "ridge" else ":")
    for row in published_probes(cells[0].env, quantity):
        if row.agent in lines.rows.heights:
            y = lines.rows.heights[row.agent] + 2 * SHIFTS[row.kind]
            face = "#111111" if FILLED[row.kind] else "white"
            axes.plot(getattr(row, measure), y, "D", color="#111111", markerfacecolor=face, markersize=4.5)
    if measure == "r":
        axes.set_xlabel("Pearson r, with 95 % interval", fontsize=9)
        axes.set_xlim(right=1.03)
    else:
        axes.set_xscale("log")
        axes.axvline(1, color="#bbbbbb", linewidth=1)
        axes.set_xlim(left=min(axes.get_xlim()[0], 0.1))  # a decade at least, so that there are ticks
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("MSE, standardised, log scale; 1: nothing known", fontsize=9)


def _pixels(cells: Cells, quantity: str) -> list[ProbeRow]:
    """The floor that all models of an environment share, from the first that has it."""
    found = ([probe_of(c, quantity, kind, "pixels") for kind in SHIFTS] for c in cells)
    return next(([p for p in both if p] for both in found if any(both)), [])


def _probe_legend(cells: Cells) -> list[Line2D]:
    """Full shapes are ridge, hollow squares the MLP, whatever the colour."""
    none = {"linestyle": "none"}
    drawn = {p.features for c in cells for p in c.probes}
    names = {"random encoder": "random encoder", "pixels, reduced": "pixels, reduced to the latent's size"}
    found = [
        Line2D([], [], marker="o", color="#444444", label="model, ridge", **none),
        Line2D([], [], marker="s", color="#444444", markerfacecolor="white", label="model, MLP", **none),
        *(Line2D([], [], marker="o", color=FLOORS[f], label=names[f], **none) for f in FLOORS if f in drawn),
        Line2D([], [], color=PIXELS, linestyle="--", label="raw pixels, ridge"),
        Line2D([], [], color=PIXELS, linestyle=":", label="raw pixels, MLP"),
    ]
    quoted = {row.kind for c in cells for p in c.probes for row in published_probes(c.env, p.quantity)}
    for kind in (kind for kind in FILLED if kind in quoted):
        black = {"marker": "D", "color": "#111111", "markersize": 4.5}
        face, name = ("#111111", "linear") if FILLED[kind] else ("white", "MLP")
        found.append(Line2D([], [], markerfacecolor=face, label=f"published, {name}", **black, **none))
    return found


# Straightness.


def straightness(cells: Cells) -> Figure | None:
    """Straightness over training (left), and on held-out paths at its end beside two floors (right)."""
    cells = [c for c in cells if c.straightness or logged(c, "straightness")]
    parts = list(places(cells))
    if not parts:
        return None
    inches = [max(2.9, Lines(own).rows.inches()) for _, own in parts]
    figure = new_figure(sum(inches) + 0.4)
    panels = figure.subplots(len(parts), 2, squeeze=False, height_ratios=inches)
    for (left, right), (heading, own) in zip(panels, parts, strict=True):
        _straightness_curves(left, own)
        _straightness_ends(right, own, Lines(own))
        tidy(left, escape_math(heading))
        tidy(right, "")
    grey = {"color": "#444444", "linestyle": "none"}
    handles = [
        Line2D([], [], color="#444444", label="a training run"),
        Line2D([], [], marker="o", label="held-out paths at the end", **grey),
        Line2D([], [], marker="x", color="#888888", linestyle="none", label="random encoder"),
        Line2D([], [], color=PIXELS, linestyle="--", label="raw pixels"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _straightness_curves(axes: Axes, cells: Cells) -> None:
    for cell in cells:
        if curve := logged(cell, "straightness"):
            steps, values = zip(*curve, strict=True)
            style = "--" if is_ablation(cell.agent) else "-"
            axes.plot(steps, values, style, color=colour(cell.agent, cell.card), linewidth=1.1, alpha=0.85)
    axes.axhline(0, color="#bbbbbb", linewidth=1)
    axes.grid(color=GRID)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel("straightness of the batch", fontsize=9)


def _straightness_ends(axes: Axes, cells: Cells, lines: Lines) -> None:
    for cell in cells:
        if found := straightness_of(cell, "model"):
            with_interval(
                axes, found.value, lines.place(cell), colour(cell.agent, cell.card), marker(cell.agent, cell.card)
            )
        if (floor := straightness_of(cell, "random encoder")) and known(floor.value.value):
            axes.plot(floor.value.value, lines.place(cell), "x", color="#888888", markersize=6)
    pixels = next((s for c in cells if (s := straightness_of(c, "pixels"))), None)
    if pixels:
        axes.axvline(pixels.value.value, color=PIXELS, linestyle="--", linewidth=1.2)
    lines.draw(axes)
    axes.set_xlabel("straightness at the end, with 95 % interval", fontsize=9)


# Collapse.


def collapse(cells: Cells) -> Figure | None:
    """Spectrum, deviation, effective rank and SIGReg's statistic of every model; collapsed ones are marked."""
    cells = [c for c in cells if c.collapse]
    parts = list(places(cells))
    if not parts:
        return None
    inches = [max(2.9, Lines(own).rows.inches()) for _, own in parts]
    figure = new_figure(sum(inches) + 0.4, 10.5)
    panels = figure.subplots(len(parts), 4, squeeze=False, width_ratios=(1.5, 1, 1, 1), height_ratios=inches)
    for row, (heading, own) in zip(panels, parts, strict=True):
        lines = Lines(own)
        _spectra(row[0], own)
        _scale(row[1], own, lines, "latent_std", "mean deviation, log")
        row[1].set_xscale("log")
        row[1].xaxis.set_minor_formatter(NullFormatter())
        _scale(row[2], own, lines, "effective_rank", "effective rank")
        row[2].set_xlim(left=0)
        _sigreg(row[3], own, lines)
        tidy(row[0], escape_math(heading))
        for axes in row[1:]:
            lines.draw(axes, names=axes is row[1])
            tidy(axes, "")
            axes.tick_params(labelsize=8.5)
    handles = [
        Line2D([], [], color="#444444", linestyle="--", label="collapsed, its spectrum"),
        Line2D([], [], marker="X", color="#CC3311", linestyle="none", markersize=8, label="collapsed"),
        Line2D([], [], marker="|", color="black", linestyle="none", markersize=11, label="SIGReg of a true Gaussian"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _spectra(axes: Axes, cells: Cells) -> None:
    for cell in cells:
        spectrum = np.asarray(cell.collapse.spectrum)
        spectrum = spectrum[spectrum > LEAST]
        style = "--" if cell.collapse.collapsed else "-"
        number = np.arange(1, len(spectrum) + 1)
        axes.plot(number, spectrum, style, color=colour(cell.agent, cell.card), linewidth=1.3, alpha=0.9)
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRID)
    axes.set_xlabel("eigenvalue of the covariance, largest first", fontsize=9)
    axes.set_ylabel("share of the variance, log scale", fontsize=9)


LEAST = 1e-12  # eigenvalues below it are rounding


def _scale(axes: Axes, cells: Cells, lines: Lines, name: str, label: str) -> None:
    for cell in cells:
        value, y = getattr(cell.collapse, name), lines.place(cell)
        axes.plot(value, y, marker(cell.agent, cell.card), color=colour(cell.agent, cell.card), markersize=6)
        if cell.collapse.collapsed:
            axes.plot(value, y, "X", color="#CC3311", markersize=9)
    axes.set_xlabel(label, fontsize=9)


def _sigreg(axes: Axes, cells: Cells, lines: Lines) -> None:
    for cell in cells:
        found, y, tone = cell.collapse, lines.place(cell), colour(cell.agent, cell.card)
        least, low, middle, high, most = found.sigreg_quantiles
        axes.plot([least, most], [y, y], color=tone, linewidth=1)
        axes.plot([low, high], [y, y], color=tone, linewidth=3, solid_capstyle="butt")
        axes.plot(middle, y, marker(cell.agent, cell.card), color=tone, markerfacecolor="white", markersize=5)
        axes.plot(found.sigreg_gaussian, y, "|", color="black", markersize=11, markeredgewidth=1.4)
    axes.set_xscale("log")
    axes.set_xlabel("SIGReg per direction, log", fontsize=9)


# Open loop.


def open_loop(cells: Cells) -> Figure | None:
    """Error of imagined latents against the horizon, a panel per environment, copying the last frame dashed."""
    cells = [c for c in cells if c.open_loop]
    parts = list(places(cells))
    if not parts:
        return None
    figure, panels = grid(len(parts), 2, 3.6, bottom=0.6)
    for axes, (heading, own) in zip(panels, parts, strict=True):
        for cell in own:
            found = cell.open_loop
            _by_horizon(axes, cell, found.horizons, found.model, found.copy_last, "--")
        axes.axhline(1, color="#bbbbbb", linewidth=1)
        axes.set(yscale="log", xticks=sorted({h for c in own for h in c.open_loop.horizons}))
        axes.set_xlabel("blocks ahead", fontsize=9)
        axes.set_ylabel("squared error over the variance, log", fontsize=9)
        axes.grid(color=GRID)
        tidy(axes, escape_math(heading))
    handles = _agent_handles(cells)
    handles.append(Line2D([], [], color="#444444", linestyle="--", linewidth=1, label="copy the last frame"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _by_horizon(
    axes: Axes,
    cell: UnderstandingRecord,
    horizons: Sequence[int],
    found: Sequence[Interval],
    other: Sequence[Interval],
    style: str,
) -> None:
    """A model's values with their intervals, and in another line style what they are shown beside."""
    tone = colour(cell.agent, cell.card)
    value, low, high = (np.array([getattr(each, end) for each in found]) for end in ("value", "low", "high"))
    axes.plot(horizons, value, "-", color=tone, marker=marker(cell.agent, cell.card), markersize=4.5, linewidth=1.5)
    axes.fill_between(horizons, low, high, color=tone, alpha=0.15, linewidth=0)
    axes.plot(horizons, [each.value for each in other], style, color=tone, linewidth=1)


# Retrieval of goals.


def retrieval(cells: Cells) -> Figure | None:
    """How often the moment that was imagined is found by latent distance, by horizon, a panel per environment."""
    cells = [c for c in cells if c.retrieval]
    parts = list(places(cells))
    if not parts:
        return None
    figure, panels = grid(len(parts), 2, 3.6, bottom=0.6)
    for axes, (heading, own) in zip(panels, parts, strict=True):
        for cell in own:
            found = cell.retrieval
            _by_horizon(axes, cell, found.horizons, found.near, found.exact, ":")
        axes.axhline(own[0].retrieval.near_chance, color="#999999", linestyle="--", linewidth=1)
        axes.set(ylim=(0, 1.02), xticks=sorted({h for c in own for h in c.retrieval.horizons}))
        axes.set_xlabel("blocks ahead", fontsize=9)
        axes.set_ylabel("share of goals that are found", fontsize=9)
        axes.grid(color=GRID)
        tidy(axes, escape_math(heading))
    handles = _agent_handles(cells)
    for label, style in (("within a block", "-"), ("the very frame", ":"), ("chance", "--")):
        handles.append(Line2D([], [], color="#444444", linestyle=style, linewidth=1, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _agent_handles(cells: Cells) -> list[Line2D]:
    """What a legend shows of each agent."""
    return [
        Line2D(
            [],
            [],
            color=colour(agent, card),
            marker=marker(agent, card),
            markersize=5,
            label=short_name(Agents.of(cells).short(agent), 40),
        )
        for agent, card in {c.agent: c.card for c in cells}.items()
    ]


FIGURES: Mapping[str, Callable[[Cells], Figure | None]] = {
    "probe.png": probe,
    "voe.png": voe,
    "detection.png": detection,
    "straightness.png": straightness,
    "collapse.png": collapse,
    "open_loop.png": open_loop,
    "retrieval.png": retrieval,
    "maps.png": maps,
}
