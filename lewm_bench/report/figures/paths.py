"""The ways that agents went, seen from above: a panel is one pair of start and goal, before the environment's scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, withStroke

from lewm_bench.core.formatting import short
from lewm_bench.core.names import stratum_of
from lewm_bench.data.scenes import read_scene
from lewm_bench.evaluation.trail_record import Trail
from lewm_bench.report.agents import Agents, is_ablation, parts_of
from lewm_bench.report.figures.drawing import axis_name, escape_math, new_figure
from lewm_bench.report.text import offset_name
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

WIDTH = 7.5  # inches; narrower than other figures, so that its letters can be read on a telephone
COLUMNS = 3
MOST_ENVS, MOST_AGENTS, MOST_FAILURES = 3, 5, 6
FIRST = ("lewm", "gcbc", "dino-wm", "greedy", "oracle")  # what each does, in this order, tells most
AIMLESS = ("random", "noop")  # whose ways say nothing
BEHIND = ("greedy", "oracle")  # faint in the gallery of failures
LINE, LINE_STEP, FAINT_LINE = 2.2, 0.7, 2.6  # points; of the first line, of each further one, of what is behind
GREY = "#d9d9d9"
INK = "#111111"

Pair = tuple[int, tuple[int, int], tuple[int, int]]  # its number, start and goal


@dataclass(frozen=True)
class Place:
    """The trails of one environment under one protocol, at one goal offset: agent, then pair."""

    env: str
    protocol: str
    offset: int
    trails: Mapping[str, Mapping[Pair, Trail]]

    def most_telling(self, pairs: Iterable[Pair], agents: Sequence[str]) -> list[Pair]:
        """``pairs``, those with the longest detour first, then by their numbers."""
        known = {pair: trail for a in agents for pair, trail in self.trails.get(a, {}).items()}
        return sorted(pairs, key=lambda pair: (-(known[pair].detour or 0.0), pair))


def paths(summary: Summary, folder: Path) -> Figure | None:
    """The pairs with the longest detours of each environment, a line per agent."""
    found = [place for place in places(summary) if shown_agents(place)][:MOST_ENVS]
    if not found:
        return None
    chosen = {place.env: shown_agents(place) for place in found}
    agents = sorted(dict.fromkeys(chain.from_iterable(chosen.values())), key=_rank)
    figure = new_figure(len(found) * 2.95 + 0.25 * -(-(len(agents) + 3) // 4), WIDTH)
    for part, place in zip(np.atleast_1d(figure.subfigures(len(found), 1)), found, strict=True):
        part.suptitle(_heading(place), x=0.01, ha="left", fontsize=13, fontweight="bold")
        scene = read_scene(folder, place.env)
        own = chosen[place.env]
        pairs = place.most_telling({pair for a in own for pair in place.trails[a]}, own)[:COLUMNS]
        for axes, pair in zip_longest(part.subplots(1, COLUMNS), pairs):
            if pair is None:
                axes.set_axis_off()
                continue
            lines = {a: place.trails[a][pair] for a in own if pair in place.trails[a]}
            _panel(axes, scene, pair, lines, summary.agents)
    _legend(figure, [_agent_handle(a, summary.agents) for a in agents])
    return figure


def failures(summary: Summary, folder: Path) -> Figure | None:
    """Pairs that the best world model did not reach, each before what the true simulator makes of it."""
    found = places(summary)
    agent = best_learner(summary, found)
    if agent is None:
        return None
    lost = []
    for place in found:
        own = place.trails.get(agent, {})
        failed = place.most_telling((pair for pair, trail in own.items() if not trail.reached), [agent])
        lost.append([(place, pair) for pair in failed])
    # From all environments in turn, so that no single one fills the gallery.
    gallery = [each for turn in zip_longest(*lost) for each in turn if each is not None][:MOST_FAILURES]
    if not gallery:
        return None
    rows = -(-len(gallery) // COLUMNS)
    figure = new_figure(rows * 3.0 + 0.7, WIDTH)
    behind = []
    for axes, each in zip_longest(figure.subplots(rows, COLUMNS, squeeze=False).ravel(), gallery):
        if each is None:
            axes.set_axis_off()
            continue
        place, pair = each
        faint = [a for a in place.trails if parts_of(a).base in BEHIND and pair in place.trails[a]]
        behind += faint
        lines = {a: place.trails[a][pair] for a in (agent, *faint)}
        _panel(axes, read_scene(folder, place.env), pair, lines, summary.agents, faint)
        axes.set_title(escape_math(short(place.env)), fontsize=12, fontweight="bold")
    _legend(figure, [_agent_handle(a, summary.agents, a in behind) for a in (agent, *dict.fromkeys(behind))])
    return figure


def places(summary: Summary) -> list[Place]:
    """Of each environment the pairs that need planning, or those of its first protocol, at the largest goal offset."""
    found = []
    order = {agent: i for i, agent in enumerate(dict.fromkeys(summary.table["agent"]))}
    for env in dict.fromkeys(summary.table["env"]):
        cells = [c for c in summary.cells if c.env == env and any(o.trails for o in c.offsets)]
        if not cells:
            continue
        protocol, profile = min((stratum_of(c.protocol) != "planning", c.protocol, c.profile) for c in cells)[1:]
        here = [c for c in cells if (c.protocol, c.profile) == (protocol, profile)]
        offset = max(o.goal_offset for c in here for o in c.offsets if o.trails)
        trails: dict[str, dict[Pair, Trail]] = {}
        for cell in sorted(here, key=lambda c: (order[c.agent], c.seed)):
            if own := _trails(cell, offset):
                trails.setdefault(cell.agent, own)
        found.append(Place(env, protocol, offset, trails))
    return found


def _trails(cell: CellRecord, offset: int) -> dict[Pair, Trail]:
    """The trails of a cell at a goal offset, by pair."""
    return {(t.pair, t.spots[0], t.goal): t for o in cell.offsets if o.goal_offset == offset for t in o.trails}


def shown_agents(place: Place) -> list[str]:
    """Up to five agents, those first that tell most; ablations last, the floor never."""

    return sorted((a for a in place.trails if parts_of(a).base not in AIMLESS), key=_rank)[:MOST_AGENTS]


def _rank(agent: str) -> tuple[bool, int]:
    base = parts_of(agent).base
    return is_ablation(agent), FIRST.index(base) if base in FIRST else len(FIRST)


def best_learner(summary: Summary, found: Sequence[Place]) -> str | None:
    """The world model that reached the largest share of the goals in these places, else the policy that did."""
    for kind in ("world model", "policy"):
        shares = {}
        for agent in dict.fromkeys(summary.table["agent"]):
            own = [t.reached for place in found for t in place.trails.get(agent, {}).values()]
            if own and summary.kinds[agent] == kind and not is_ablation(agent):
                shares[agent] = sum(own) / len(own)
        if shares:
            return max(shares, key=shares.__getitem__)
    return None


def _heading(place: Place) -> str:
    return escape_math(f"{short(place.env)}: {offset_name(place.offset, place.protocol)}")


def _panel(
    axes: Axes,
    scene: np.ndarray | None,
    pair: Pair,
    lines: Mapping[str, Trail],
    agents: Agents,
    faint: Sequence[str] = (),
) -> None:
    """A pair before its scene; where lines lie on each other the later ones are wider and below, so that all are seen."""
    _, start, goal = pair
    if scene is None:
        axes.set_facecolor(GREY)
    else:
        axes.imshow(scene, extent=(0, 1000, 1000, 0), interpolation="antialiased")
    for depth, (agent, trail) in enumerate(lines.items()):
        x, y = np.array(trail.spots).T
        pale = agent in faint
        width = FAINT_LINE if pale else LINE + LINE_STEP * depth
        style = {"color": agents.colour(agent), "alpha": 0.5 if pale else 1.0, "zorder": 10 - depth}
        halo = None if pale else _outlined(width + 1.4)
        axes.plot(x, y, linewidth=width, solid_capstyle="round", solid_joinstyle="round", path_effects=halo, **style)
        if trail.reached:
            axes.plot(x[-1], y[-1], "o", markersize=width + 4, **style)
        else:
            axes.plot(x[-1], y[-1], "x", markersize=9, markeredgewidth=2.4, path_effects=_outlined(4.4), **style)
    axes.plot(*start, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=2, zorder=20,
              path_effects=_outlined(3.6))  # fmt: skip
    axes.plot(*goal, "*", markersize=17, markerfacecolor="#FFD400", markeredgecolor=INK, markeredgewidth=1.2, zorder=21)
    axes.set(xlim=(0, 1000), ylim=(1000, 0), xticks=[], yticks=[], aspect="equal")
    detour = next(iter(lines.values())).detour
    if detour is not None:
        axes.set_xlabel(f"way {detour:.1f}x the straight line", fontsize=12)


def _outlined(width: float) -> list:
    return [withStroke(linewidth=width, foreground="white"), Normal()]


def _agent_handle(agent: str, agents: Agents, faint: bool = False) -> Line2D:
    tone = agents.colour(agent)
    return Line2D(
        [], [], color=tone, linewidth=3.5, alpha=0.45 if faint else 1.0, label=axis_name(agents.short(agent), 20)
    )


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Agents, then what the signs mean, below the panels."""
    signs = [
        Line2D([], [], marker="o", linestyle="none", markersize=10, markerfacecolor="none", markeredgecolor=INK,
               markeredgewidth=2, label="start"),
        Line2D([], [], marker="*", linestyle="none", markersize=15, markerfacecolor="#FFD400", markeredgecolor=INK,
               label="goal"),
        Line2D([], [], marker="x", linestyle="none", markersize=9, markeredgecolor=INK, markeredgewidth=2.4,
               label="not reached"),
    ]  # fmt: skip
    figure.legend(
        handles=[*signs, *handles], loc="outside lower center", ncols=4, frameon=False, fontsize=12.5,
        columnspacing=1.2, handlelength=1.4, handletextpad=0.5,
    )  # fmt: skip
