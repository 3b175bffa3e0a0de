"""Figures of a report, as PNG bytes. Draws the numbers it is given and computes none of them.

Matplotlib's object-oriented interface on the Agg canvas: no global figure, no backend switch, no change of style.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from lewm_bench.tables import offset_name, seconds, short

if TYPE_CHECKING:
    from lewm_bench.report import Summary

# Okabe and Ito's colours (and two of Tol's), told apart with every common colour vision; fixed so that an agent looks
# the same in every figure of every report.
COLOURS = {
    "lewm": "#0072B2",
    "dino-wm": "#D55E00",
    "pldm": "#CC79A7",
    "jepa-ema": "#882255",
    "fast-lewm": "#56B4E9",
    "gcbc": "#009E73",
    "gcivl": "#117733",
    "gciql": "#44AA99",
    "sac-her": "#E69F00",
    "oracle": "#222222",
    "random": "#777777",
    "noop": "#AAAAAA",
}
SPARE = ("#332288", "#999933", "#AA4499", "#661100", "#6699CC", "#DDAA33", "#AA6633", "#4B0092")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH = 9.0  # inches; at this resolution twice the width of a README, so it stays sharp
DPI = 150


def colour(agent: str) -> str:
    """The colour of an agent; unknown names and variants get one that depends on the name alone."""
    if agent in COLOURS:
        return COLOURS[agent]
    return SPARE[hashlib.sha256(agent.encode()).digest()[0] % len(SPARE)]


def marker(agent: str) -> str:
    """The marker of an agent: a second cue beside the colour."""
    names = list(COLOURS)
    place = names.index(agent) if agent in names else hashlib.sha256(agent.encode()).digest()[1]
    return MARKERS[place % len(MARKERS)]


def draw_all(summary: Summary) -> dict[str, bytes]:
    """File name to PNG of every figure that has data."""
    drawn = {name: draw(summary) for name, draw in FIGURES.items()}
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The file; without a version stamp it is the same for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """One part per environment and offset that was measured, with its heading."""
    place = ["protocol", "profile", "env", "goal_offset"]
    parts = list(table.groupby(place, sort=False))
    many = len({(key[0], key[1]) for key, _ in parts}) > 1
    return [
        (_plain(f"{short(env)}\n{offset_name(offset)}" + (f", {protocol}, {profile}" if many else "")), part)
        for (protocol, profile, env, offset), part in parts
    ]


def _plain(text: str) -> str:
    """Text without Matplotlib's formula sign; names come from users."""
    return text.replace("$", r"\$")


def _clip(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _grid(count: int, columns: int, height: float, bottom: float = 0.0) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height + bottom), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, list(axes[:count])


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)


def success(summary: Summary) -> Figure | None:
    """Hit and held with their intervals, one line per agent, one panel per environment and offset."""
    panels = _panels(summary.table[summary.table["hit"].notna()])
    if not panels:
        return None
    longest = max(len(part) for _, part in panels)
    figure, grid = _grid(len(panels), 2, 1.25 + 0.38 * longest, bottom=0.35)
    for axes, (title, part) in zip(grid, panels, strict=True):
        _success_panel(axes, part.reset_index(drop=True))
        _tidy(axes, title)
    handles, names = grid[0].get_legend_handles_labels()
    kept = dict(zip(names, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _success_panel(axes: Axes, part: pd.DataFrame) -> None:
    for y, row in part.iterrows():
        for column, shift, face in (("hit", -0.14, colour(row["agent"])), ("held", 0.14, "white")):
            value, low, high = (100 * row[name] for name in (column, f"{column}_low", f"{column}_high"))
            if pd.isna(value):
                continue
            axes.plot([low, high], [y + shift] * 2, color=colour(row["agent"]), linewidth=2, solid_capstyle="butt")
            axes.plot(
                value, y + shift, marker="o" if column == "hit" else "s", markersize=7, linestyle="none",
                markerfacecolor=face, markeredgecolor=colour(row["agent"]), markeredgewidth=1.6,
            )  # fmt: skip
    # The legend explains the two shapes, not the agents: those stand at the axis.
    axes.plot([], [], "o", color="#444444", markersize=7, label="reached at any step")
    axes.plot([], [], "s", markerfacecolor="white", markeredgecolor="#444444", label="still there at the last step")
    floor = part.loc[part["agent"] == "random", "hit"]
    if len(floor):
        axes.axvline(100 * floor.iloc[0], color=colour("random"), linestyle="--", linewidth=1.2, label="random actions")
    axes.set_yticks(range(len(part)), [_plain(_clip(a)) for a in part["agent"]])
    axes.set_ylim(len(part) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("success, % with 95 % interval", fontsize=10)
    axes.grid(axis="x", color="#e5e5e5")
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


def panels(count: int, height: float, widths: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A row of axes with these relative widths."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False, width_ratios=widths).ravel()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _timed(summary: Summary) -> pd.DataFrame:
    """The rows with plan times; the floor decides nothing, so its time would only stretch the axis."""
    floor = summary.table["agent"].map(summary.kinds).eq("floor")
    return summary.table[(summary.table["plan_seconds_median"] > 0) & ~floor]


def plan_time(summary: Summary) -> Figure | None:
    """Every timed plan as a dot, the median and quartiles on top, one panel per environment and offset."""
    table = _timed(summary)
    panels = _panels(table)
    if not panels:
        return None
    longest = max(len(part) for _, part in panels)
    figure, grid = _grid(len(panels), 2, 1.25 + 0.38 * longest)
    spread = table[["plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75"]].to_numpy(float)
    lowest, highest = np.nanmin(spread[spread > 0]), np.nanmax(spread)
    for axes, (title, part) in zip(grid, panels, strict=True):
        _plan_time_panel(axes, part.reset_index(drop=True), summary)
        axes.set_xlim(lowest / 3, highest * 5)
        _tidy(axes, title)
    return figure


def _plan_time_panel(axes: Axes, part: pd.DataFrame, summary: Summary) -> None:
    samples = summary.plan_seconds
    for y, row in part.iterrows():
        same = [samples[k] == row[k] for k in ("protocol", "profile", "env", "goal_offset", "agent")]
        drawn = samples.loc[np.logical_and.reduce(same), "plan_seconds"].to_numpy()
        drawn = drawn[drawn > 0][:: max(1, len(drawn) // 400)]
        height = y + 0.16 * np.sin(np.arange(len(drawn)) * 2.4)  # spreads the dots without drawing random numbers
        axes.plot(drawn, height, ".", color=colour(row["agent"]), alpha=0.35, markersize=3.5, markeredgewidth=0)
        axes.plot([row["plan_seconds_q25"], row["plan_seconds_q75"]], [y, y], color=colour(row["agent"]), linewidth=5)
        axes.plot(row["plan_seconds_median"], y, "|", color="black", markersize=15, markeredgewidth=2)
        axes.annotate(
            seconds(row["plan_seconds_median"]), (row["plan_seconds_median"], y), (0, 10),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
    second_ticks(axes)
    axes.set_yticks(range(len(part)), [_plain(_clip(a)) for a in part["agent"]])
    axes.set_ylim(len(part) - 0.5, -0.75)
    axes.set_xlabel("time for one plan, log scale", fontsize=10)


def success_vs_time(summary: Summary) -> Figure | None:
    """Success over planning time: up and to the left is better."""
    table = _timed(summary)
    panels = _panels(table[table["hit"].notna()])
    if not panels:
        return None
    figure, grid = _grid(len(panels), 2, 3.4)
    times = np.concatenate([part["plan_seconds_median"].to_numpy(float) for _, part in panels])
    for axes, (title, part) in zip(grid, panels, strict=True):
        for _, row in part.iterrows():
            _success_vs_time_point(axes, row)
        _floor_line(axes, summary.table, part.iloc[0])
        second_ticks(axes)
        axes.set_xlim(times.min() / 5, times.max() * 12)
        axes.set_ylim(-4, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_xlabel("time for one plan, log scale", fontsize=10)
        axes.set_ylabel("reached, % with 95 % interval", fontsize=10)
        axes.grid(color="#e5e5e5")
        _tidy(axes, title)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout must be final before labels are placed
    for axes, (_, part) in zip(grid, panels, strict=True):
        _label_points(axes, part)
    return figure


def _floor_line(axes: Axes, table: pd.DataFrame, place: pd.Series) -> None:
    """A dashed line at what random actions reach in the same environment, at the same offset."""
    same = [table[k] == place[k] for k in ("protocol", "profile", "env", "goal_offset")]
    floor = table.loc[np.logical_and.reduce(same) & (table["agent"] == "random"), "hit"].dropna()
    if len(floor):
        axes.axhline(100 * floor.iloc[0], color=colour("random"), linestyle="--", linewidth=1.2)
        axes.annotate(
            "random actions", (0.99, 100 * floor.iloc[0]), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", fontsize=9, color=colour("random"),
        )  # fmt: skip


def _success_vs_time_point(axes: Axes, row: pd.Series) -> None:
    time, hit = row["plan_seconds_median"], 100 * row["hit"]
    axes.errorbar(
        time, hit,
        xerr=[[time - row["plan_seconds_q25"]], [row["plan_seconds_q75"] - time]],
        yerr=[[hit - 100 * row["hit_low"]], [100 * row["hit_high"] - hit]],
        color=colour(row["agent"]), marker=marker(row["agent"]), markersize=8, elinewidth=1.6, linestyle="none",
    )  # fmt: skip


def _label_points(axes: Axes, part: pd.DataFrame) -> None:
    """Write each agent's name beside its point, at the first of a few places that covers nothing else."""
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [_cross(axes, row) for _, row in part.iterrows()]
    for _, row in part.iterrows():
        point = (row["plan_seconds_median"], 100 * row["hit"])
        name = _plain(_clip(row["agent"]))
        text = axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=9.5, va="center", color=colour(row["agent"]),
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        costs = []
        for rank, (dx, dy, align) in enumerate(_PLACES):
            text.set(position=(dx, dy), horizontalalignment=align)
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            costs.append((sum(box.overlaps(other) for other in taken) + 3 * (not inside), rank))
        dx, dy, align = _PLACES[min(costs)[1]]
        text.set(position=(dx, dy), horizontalalignment=align)
        taken.append(text.get_window_extent(renderer))


_PLACES = [
    (dx, dy, align) for dy in (0, 10, -10, 20, -20, 32, -32, 44, -44) for dx, align in ((9, "left"), (-9, "right"))
]


def _cross(axes: Axes, row: pd.Series) -> Bbox:
    """The box, in pixels, that a point and its vertical interval cover."""
    x, low = axes.transData.transform((row["plan_seconds_median"], 100 * row["hit_low"]))
    _, high = axes.transData.transform((row["plan_seconds_median"], 100 * row["hit_high"]))
    _, middle = axes.transData.transform((row["plan_seconds_median"], 100 * row["hit"]))
    return Bbox.from_extents(x - 8, min(low, middle - 8), x + 8, max(high, middle + 8))


def training(summary: Summary) -> Figure | None:
    """Every logged quantity over the training steps: a row per quantity, a column per agent, a line per run."""
    logs = summary.training
    logs = logs[np.isfinite(logs["value"].to_numpy(float))]
    if logs.empty:
        return None
    agents = [a for a in dict.fromkeys(summary.table["agent"]) if a in set(logs["agent"])]
    quantities = sorted(set(logs["quantity"]), key=_quantity_order)
    styles = dict(zip(sorted(set(logs["env"])), cycle(("-", "--", ":", "-.")), strict=False))
    figure = Figure(figsize=(max(WIDTH, 1.8 * len(agents)), 0.7 + 1.5 * len(quantities)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(quantities), len(agents), squeeze=False)
    for line, quantity in zip(grid, quantities, strict=True):
        for axes, agent in zip(line, agents, strict=True):
            _curves(axes, logs[(logs["agent"] == agent) & (logs["quantity"] == quantity)], colour(agent), styles)
        line[0].set_ylabel(_plain(_clip(quantity.replace("_", " "))), fontsize=10)
    for axes, agent in zip(grid[0], agents, strict=True):
        axes.set_title(_plain(_clip(agent)), fontsize=11, fontweight="bold")
    handles = [Line2D([], [], color="#444444", linestyle=s, label=_plain(short(env))) for env, s in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _quantity_order(name: str) -> tuple[int, str]:
    first = ("loss", "pred", "sigreg", "latent_std", "effective_rank", "straightness")
    places = [i for i, part in enumerate(first) if part in name.lower()]
    return (places[-1] if places else len(first), name)


def _curves(axes: Axes, own: pd.DataFrame, line_colour: str, styles: Mapping[str, str]) -> None:
    """One line per run; the frame alone, without ticks, where an agent does not log the quantity."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    if own.empty:
        axes.set(xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        return
    for (_, _, env, _), run in own.groupby(["protocol", "profile", "env", "seed"]):
        axes.plot(run["step"], run["value"], styles[env], color=line_colour, linewidth=1.3, alpha=0.8)
    values = own["value"].to_numpy(float)
    if values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(3))


FIGURES: Mapping[str, Callable[[Summary], Figure | None]] = {
    "success.png": success,
    "plan_time.png": plan_time,
    "success_vs_time.png": success_vs_time,
    "training.png": training,
}
