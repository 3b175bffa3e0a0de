"""Numbers of the verdict: which agent that learns from the data reaches most, and from which others it is told apart.

One task per environment and profile stands for all, chosen by a rule that looks at no result: pairs that need a plan
if there are any, and the largest goal offset. The agent that is best there is known only after the results are, so
its differences are corrected for every pair of agents that might have been compared. LeWM is named beforehand: its
differences are those of the table, corrected there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lewm_bench.core.names import reading_order, stratum_of
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import LEVEL, METHOD_RUNS, Difference, holm
from lewm_bench.report.agents import BLOCKS, Agents, is_ablation, parts_of

if TYPE_CHECKING:
    from lewm_bench.report.groups import Group, Key

REFERENCE = "lewm"
LEARNS = ("world model", "policy")  # kinds that learn from the data


@dataclass(frozen=True)
class Rival:
    """An agent that the best one is compared with."""

    agent: str
    difference: Difference  # of the best minus this one on the pairs of both; NaN where they share none
    corrected: float  # p by Holm; NaN where there is no difference or where training runs are too few for one
    runs: int | None  # training runs of the side that has fewer, None where neither trains

    @property
    def apart(self) -> bool:
        """Whether the two are told apart."""
        return self.corrected < LEVEL

    @property
    def few(self) -> bool:
        """Whether training runs are compared and not methods."""
        return self.runs is not None and self.runs < METHOD_RUNS


@dataclass(frozen=True)
class Contest:
    """The leading task of an environment under a profile."""

    protocol: str
    profile: str
    env: str
    goal_offset: int
    rows: pd.DataFrame  # of the table: what was measured, agents that learn first and the best of them on top
    learners: tuple[str, ...]  # best first
    runs: int | None  # training runs of the best
    rivals: tuple[Rival, ...]  # the other learners
    floors: tuple[Rival, ...]


def contests(
    table: pd.DataFrame, kinds: Mapping[str, str], groups: Mapping[Key, Group], agents: Agents
) -> tuple[Contest, ...]:
    """The leading tasks in the order of environments."""
    measured = table[table["hit"].notna()]
    measured = measured[measured["agent"].isin(compared(measured["agent"], kinds))]
    places = measured.groupby(["env", "profile"], sort=True)
    return tuple(_contest(_leading(rows, kinds), kinds, groups, agents) for _, rows in places)


def compared(agents: Iterable[str], kinds: Mapping[str, str]) -> set[str]:
    """Those that are no ablations; all of them where no other agent that learns is among them.

    A floor or a ceiling is asked for with settings because it is wanted so (``oracle:cost=path``), and stands for itself
    where it was not run without them.
    """
    agents = set(agents)
    plain = {agent for agent in agents if not is_ablation(agent)}
    if not any(kinds[agent] in LEARNS for agent in plain):
        return agents
    return plain | {a for a in agents - plain if kinds[a] not in LEARNS and parts_of(a).trained not in plain}


def _leading(rows: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The rows of one task: where an agent that learns was measured, if any was."""
    learn = rows["agent"].map(lambda agent: kinds[agent] in LEARNS)
    known = rows[learn] if learn.any() else rows
    first = min(set(known["protocol"]), key=lambda name: (stratum_of(name) != "planning", reading_order(name)))
    farthest = known.loc[known["protocol"] == first, "goal_offset"].max()
    return rows[(rows["protocol"] == first) & (rows["goal_offset"] == farthest)]


def _contest(rows: pd.DataFrame, kinds: Mapping[str, str], groups: Mapping[Key, Group], agents: Agents) -> Contest:
    first = rows.iloc[0]
    place = first["protocol"], first["profile"], first["env"], int(first["goal_offset"])
    here = {agent: groups[(*place, agent)] for agent in rows["agent"]}
    ranked = sorted(rows.index, key=lambda i: _rank(rows.loc[i], here, kinds, agents))
    rows = rows.loc[ranked]
    learners = tuple(agent for agent in rows["agent"] if kinds[agent] in LEARNS)
    floors = tuple(agent for agent in rows["agent"] if kinds[agent] == "floor")
    shared = (*place, rows, learners)
    if not learners:
        return Contest(*shared, None, (), ())
    found = rows.set_index("agent")
    best, *others = learners
    rivals = [_rival(best, agent, found, here, place) for agent in others]
    below = [_rival(best, agent, found, here, place) for agent in floors]
    methods = sum(agent != REFERENCE and not _few(here[agent]) for agent in learners)
    return Contest(
        *shared,
        here[best].runs,
        _corrected(rivals, methods * (methods - 1) // 2, spare_few=True),
        _corrected(below, len(learners) * len(floors), spare_few=False),
    )


def _rank(row: pd.Series, here: Mapping[str, Group], kinds: Mapping[str, str], agents: Agents) -> tuple:
    """By kind and success; of equals the one with most training runs, which can be compared best, comes first."""
    agent = row["agent"]
    learns = kinds[agent] in LEARNS
    runs = here[agent].runs
    return (
        not learns,
        not learns and BLOCKS.index(kinds[agent]),
        -round(row["hit"], 9),
        -(runs or 0),
        agents.order(agent, kinds[agent]),
    )


def _few(group: Group) -> bool:
    return group.runs is not None and group.runs < METHOD_RUNS


def _rival(best: str, agent: str, found: pd.DataFrame, here: Mapping[str, Group], place: tuple) -> Rival:
    """Not corrected yet, unless the table has done so."""
    runs = min((n for n in (here[best].runs, here[agent].runs) if n), default=None)
    if REFERENCE not in (best, agent):
        rng = stream(0, "report", *map(str, (*place, best)), f"difference to {agent}")
        return Rival(agent, here[best].minus(here[agent], rng), np.nan, runs)
    row = found.loc[agent if best == REFERENCE else best]
    value, low, high = (float(row[name]) for name in ("diff_to_lewm", "diff_low", "diff_high"))
    if best == REFERENCE:
        value, low, high = -value, -high, -low
    return Rival(agent, Difference(value, low, high, float(row["diff_p"])), float(row["diff_p_holm"]), runs)


def _corrected(rivals: Sequence[Rival], family: int, spare_few: bool) -> tuple[Rival, ...]:
    """With Holm's p values among as many comparisons as the family has.

    Those that were not made count as the least striking ones, which can only make the others larger.
    """
    asked = [r for r in rivals if np.isnan(r.corrected) and not np.isnan(r.difference.p) and not (spare_few and r.few)]
    p = [r.difference.p for r in asked]
    adjusted = dict(zip((r.agent for r in asked), holm([*p, *[1.0] * (family - len(p))]), strict=False))
    return tuple(_with(r, adjusted.get(r.agent, r.corrected)) for r in rivals)


def _with(rival: Rival, corrected: float) -> Rival:
    return Rival(rival.agent, rival.difference, float(corrected), rival.runs)


def ranking(found: Sequence[Contest]) -> Iterator[str]:
    """The agents of the task in which most agents that learn were measured, in its order."""
    if found:
        widest = max(found, key=lambda contest: len(contest.learners))
        yield from widest.rows["agent"]
