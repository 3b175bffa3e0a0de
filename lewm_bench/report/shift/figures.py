"""The figure of changed worlds: success of every agent under every condition, as a map. Draws what records hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lewm_bench.core.formatting import short
from lewm_bench.evaluation.shift_record import TRAINED, Condition
from lewm_bench.report.agents import Agents
from lewm_bench.report.figures.drawing import WIDTH, escape_math, new_figure, shorten
from lewm_bench.report.shift.tables import Loss, Tested, group_order

COLOURS = "cividis"  # the same order of lightness for every colour vision
GAP = 0.45  # cells between two agents and between two groups of factors
CELL, LINE, MARGIN = 0.3, 0.27, 1.9  # inches: width of a cell, height of a row, names of factors


def success_map(tested: Sequence[Tested], agents: Agents) -> Figure | None:
    """Factors down, agents and levels across; a second map where goals were also drawn as trained."""
    losses = [{loss.condition: loss for loss in each.losses} for each in tested]
    names = {condition.factor for each in tested for condition in each.conditions} - {""}
    goals = {condition.goal for found in losses for condition in found}
    if not names:
        return None
    maps = [Map(tested, losses, agents, names, "changed", "Success, %: goals drawn as the changed world looks")]
    if "trained" in goals:
        drawn = {condition.factor for found in losses for condition in found if condition.goal == "trained"}
        maps.append(
            Map(tested, losses, agents, drawn, "trained", "Success, %: goals drawn as the trained world looked")
        )
    width = max(WIDTH, MARGIN + CELL * maps[0].width)
    heights = [LINE * each.height for each in maps]
    figure = new_figure(sum(heights) + 0.85 * len(maps) + 0.4, width)
    all_axes = figure.subplots(len(maps), 1, squeeze=False, height_ratios=heights).ravel()
    for axes, each in zip(all_axes, maps, strict=True):
        each.draw(axes)
    figure.suptitle(escape_math(short(tested[0].first.env)), fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


@dataclass(frozen=True)
class Map:
    """One map of some factors: where its rows and columns are, and what they hold."""

    tested: Sequence[Tested]
    losses: Sequence[dict[Condition, Loss]]
    agents: Agents
    names: set[str]  # of factors
    goal: str
    title: str

    @cached_property
    def levels(self) -> list[int]:
        return sorted({condition.level for found in self.losses for condition in found} - {0})

    @cached_property
    def rows(self) -> dict[str, float]:
        """The height of each factor, the trained world first, with a gap before each group."""
        groups = {f.name: f.group for each in self.tested for f in each.factors.values() if f.name in self.names}
        at, last, rows = 1.0, "", {"": 0.0}
        for name in sorted(groups, key=lambda name: group_order(groups[name])):
            at += GAP if groups[name] != last else 0.0
            rows[name], last, at = at, groups[name], at + 1
        return rows

    @property
    def height(self) -> float:
        return max(self.rows.values()) + 1

    @property
    def block(self) -> float:
        """Cells from one agent to the next."""
        return len(self.levels) + GAP

    @property
    def width(self) -> float:
        return self.block * len(self.tested)

    def loss(self, agent: int, factor: str, level: int) -> Loss | None:
        """What a cell shows."""
        found = self.losses[agent]
        return found.get(Condition(factor=factor, level=level, goal=self.goal)) or found.get(
            Condition(factor=factor, level=level)
        )

    def draw(self, axes: Axes) -> None:
        for agent, found in enumerate(self.losses):
            left = agent * self.block
            self._cell(axes, (left, 0.0), len(self.levels), found.get(TRAINED))
            for name in list(self.rows)[1:]:
                for i, level in enumerate(self.levels):
                    self._cell(axes, (left + i, self.rows[name]), 1, self.loss(agent, name, level))
        self._label(axes)

    def _cell(self, axes: Axes, at: tuple[float, float], width: int, loss: Loss | None) -> None:
        """A cell whose left edge and middle are ``at``."""
        value = np.nan if loss is None else loss.hit.value
        known = not np.isnan(value)
        colour = mpl.colormaps[COLOURS](value) if known else "#f4f4f4"
        axes.add_patch(Rectangle((at[0], at[1] - 0.5), width, 1, facecolor=colour, edgecolor="white", linewidth=1))
        text = f"{100 * value:.0f}" if known else "" if loss is None else "-"
        axes.text(
            at[0] + width / 2, at[1], text, ha="center", va="center", fontsize=7.5,
            color=("white" if value < 0.5 else "black") if known else "#777777",
            fontweight="bold" if known and loss.told_apart else "normal",
        )  # fmt: skip

    def _label(self, axes: Axes) -> None:
        """Factors at the left, levels below, agents above."""
        axes.set(xlim=(-0.1, self.width - GAP + 0.1), ylim=(self.height - 0.4, -0.6))
        names = [escape_math(shorten(name.replace("_", " "), 26)) or "trained world" for name in self.rows]
        axes.set_yticks(list(self.rows.values()), names)
        starts = [agent * self.block for agent in range(len(self.tested))]
        places = [left + i + 0.5 for left in starts for i in range(len(self.levels))]
        axes.set_xticks(places, [str(level) for _ in starts for level in self.levels])
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        for left, each in zip(starts, self.tested, strict=True):
            name = escape_math(shorten(self.agents.short(each.first.agent), 4 * len(self.levels)))
            axes.text(left + len(self.levels) / 2, -0.62, name, ha="center", va="bottom", fontsize=8.5)
        axes.set_title(self.title, fontsize=10, loc="left", pad=18)
