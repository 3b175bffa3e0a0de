"""The numbers of changed worlds: a row per agent and condition, with what was lost against the trained world.

Seeds are training seeds; a success matrix is (seeds, pairs) over all pairs of an environment, NaN where a pair was not asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lewm_bench.core.rng import stream
from lewm_bench.core.shift import GROUPS
from lewm_bench.core.statistics import (
    LEVEL,
    METHOD_RUNS,
    NO_DIFFERENCE,
    Difference,
    Estimate,
    holm,
    paired_drops,
    success_rate,
)
from lewm_bench.evaluation.shift_record import TRAINED, ChangedFactor, Condition, Outcomes, ShiftRecord
from lewm_bench.report.agents import Agents

COLUMNS = (
    "profile", "protocol", "env", "goal_offset", "agent", "status", "factor", "group", "level", "value", "goal_look",
    "n_pairs", "n_left_out", "n_seeds", "hit", "hit_low", "hit_high", "held", "hit_trained", "drop", "drop_low",
    "drop_high", "drop_p", "drop_runs", "drop_p_holm", "distance_end_median", "note",
)  # fmt: skip
INTEGERS = ("goal_offset", "level", "n_pairs", "n_left_out", "n_seeds", "drop_runs")
RESAMPLES = 2000  # of each rate: a page has hundreds


@dataclass(frozen=True)
class Loss:
    """What an agent does under a condition, and what that is less than in the trained world on the same pairs."""

    condition: Condition
    pairs: int
    left_out: int
    seeds: int
    hit: Estimate
    held: float
    trained: float  # hit there on the same pairs
    drop: Difference  # positive where the changed world is worse
    runs: int | None  # trainings behind the difference; None for what does not train
    p_holm: float  # of the drop, corrected for all of the agent in the environment; NaN with too few trainings
    distance_end: float  # median

    @property
    def told_apart(self) -> bool:
        """Whether the drop survives the correction, and speaks of a method and not of one training."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class Tested:
    """The records of one agent in one environment."""

    cells: tuple[ShiftRecord, ...]  # done, a training seed each

    @property
    def first(self) -> ShiftRecord:
        return self.cells[0]

    @property
    def runs(self) -> int | None:
        """How many trainings there are; None for what does not train."""
        weights = self.first.weights
        return None if weights == "none" else len(self.cells) if weights == "trained" else 1

    @cached_property
    def factors(self) -> dict[str, ChangedFactor]:
        """By name."""
        return {factor.name: factor for cell in self.cells for factor in cell.factors}

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The trained world first, then by group, factor, level and the look of goals."""
        names = {name: i for i, name in enumerate(self.factors)}
        found = {each.condition for cell in self.cells for each in cell.found}

        def place(condition: Condition) -> tuple:
            if condition == TRAINED:
                return (-1,)
            group = self.factors[condition.factor].group
            return group_order(group), names[condition.factor], condition.level, condition.goal

        return tuple(sorted(found, key=place))

    @cached_property
    def _outcomes(self) -> list[dict[Condition, Outcomes]]:
        return [{each.condition: each.outcomes for each in cell.found} for cell in self.cells]

    def matrix(self, condition: Condition, what: str = "hit") -> np.ndarray:
        """(seeds, pairs) of a column of the outcomes."""
        found = np.full((len(self.cells), max(cell.num_pairs for cell in self.cells)), np.nan)
        for row, known in zip(found, self._outcomes, strict=True):
            if (outcomes := known.get(condition)) is not None:
                row[list(outcomes.pairs)] = getattr(outcomes, what)
        return found

    @cached_property
    def losses(self) -> tuple[Loss, ...]:
        """What was found under each condition."""
        first, *changed = self.conditions
        before, rng = self.matrix(first), stream(0, "report", *self._key, "drops")
        afters = np.array([self.matrix(condition) for condition in changed]).reshape(-1, *before.shape)
        drops = [NO_DIFFERENCE, *paired_drops(before, afters, rng)]
        p = holm([np.nan if self.few else drop.p for drop in drops])
        return tuple(self._loss(*each) for each in zip(self.conditions, drops, p.tolist(), strict=True))

    @property
    def _key(self) -> tuple[str, str, str]:
        return self.first.profile, self.first.env, self.first.agent

    def _loss(self, condition: Condition, drop: Difference, p_holm: float) -> Loss:
        hits = self.matrix(condition)
        asked = np.isfinite(hits).any(0)
        return Loss(
            condition,
            pairs=int(asked.sum()),
            left_out=hits.shape[1] - int(asked.sum()),
            seeds=int(np.isfinite(hits).any(1).sum()),
            hit=success_rate(hits, stream(0, "report", *self._key, condition.name), resamples=RESAMPLES),
            held=mean(self.matrix(condition, "held")),
            trained=mean(np.where(asked, self.matrix(TRAINED), np.nan)),
            drop=drop,
            runs=self.runs,
            p_holm=p_holm,
            distance_end=median(self.matrix(condition, "distance_end")),
        )

    @property
    def few(self) -> bool:
        """Whether its trainings are too few to stand for a method."""
        return self.runs is not None and self.runs < METHOD_RUNS

    def average(self, level: int) -> Estimate:
        """Success at a level over all factors, goals drawn as the changed world looks where both were asked."""
        if level == 0:
            return self.losses[0].hit
        parts = [self.matrix(condition) for condition in main(self.conditions) if condition.level == level]
        if not parts:
            return Estimate(np.nan, np.nan, np.nan)
        stack = np.stack(parts)
        known = np.isfinite(stack).sum(0)
        matrix = np.divide(np.nansum(stack, 0), known, out=np.full(known.shape, np.nan), where=known > 0)
        return success_rate(matrix, stream(0, "report", *self._key, f"level {level}"), resamples=RESAMPLES)


def group_order(group: str) -> int:
    """Where a group of factors stands in tables."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def main(conditions: Iterable[Condition]) -> list[Condition]:
    """The changed worlds, each once: where goals were drawn in both looks, in the changed one."""
    conditions = list(conditions)
    both = {(c.factor, c.level) for c in conditions if c.goal == "changed"}
    return [c for c in conditions if c != TRAINED and not (c.goal == "trained" and (c.factor, c.level) in both)]


def mean(matrix: np.ndarray) -> float:
    """NaN of nothing."""
    return float(np.nanmean(matrix)) if np.isfinite(matrix).any() else np.nan


def median(matrix: np.ndarray) -> float:
    """NaN of nothing."""
    return float(np.nanmedian(matrix)) if np.isfinite(matrix).any() else np.nan


def ordered(cells: Iterable[ShiftRecord]) -> list[ShiftRecord]:
    """The newest record of each cell: by environment, then agents as in every report, then seeds."""
    newest: dict[tuple[str, str, str, int], ShiftRecord] = {}
    for cell in sorted(cells, key=lambda c: (c.created, c.key, c.status == "done", c.model_dump_json())):
        newest[cell.profile, cell.env, cell.agent, cell.seed] = cell
    agents = Agents.of(newest.values())
    return sorted(newest.values(), key=lambda c: (c.profile, c.env, agents.order(c.agent, c.agent_kind), c.seed))


def groups(cells: Iterable[ShiftRecord]) -> list[Tested]:
    """The agents of every environment that have been tested there, in order."""
    found: dict[tuple[str, str, str], list[ShiftRecord]] = {}
    for cell in cells:
        if cell.status == "done":
            found.setdefault((cell.profile, cell.env, cell.agent), []).append(cell)
    return [Tested(tuple(each)) for each in found.values()]


def places(tested: Iterable[Tested]) -> list[tuple[str, str, list[Tested]]]:
    """Profile, environment and agents of each."""
    found: dict[tuple[str, str], list[Tested]] = {}
    for each in tested:
        found.setdefault((each.first.profile, each.first.env), []).append(each)
    return [(profile, env, agents) for (profile, env), agents in found.items()]


def build_table(cells: Sequence[ShiftRecord], tested: Sequence[Tested]) -> pd.DataFrame:
    """``table.csv``: a row per environment, agent and condition; shares from 0 to 1."""
    rows = [row for each in tested for row in _rows(each)]
    seen = {(each.first.profile, each.first.env, each.first.agent) for each in tested}
    rows += [
        {name: getattr(c, name) for name in ("profile", "protocol", "env", "agent", "status")} | {"note": c.reason}
        for c in cells
        if (c.profile, c.env, c.agent) not in seen
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(INTEGERS, "Int64"))


def _rows(tested: Tested) -> list[dict]:
    cell, factors = tested.first, tested.factors
    skipped = {name: why for each in tested.cells for name, why in each.skipped.items()}
    place = {name: getattr(cell, name) for name in ("profile", "protocol", "env", "goal_offset", "agent", "status")}
    rows = []
    for loss in tested.losses:
        condition, factor = loss.condition, factors.get(loss.condition.factor)
        rows.append(
            place
            | {
                "factor": condition.factor,
                "group": factor.group if factor else "",
                "level": condition.level,
                "value": factor.values[condition.level] if factor else "",
                "goal_look": condition.goal,
                "n_pairs": loss.pairs,
                "n_left_out": loss.left_out,
                "n_seeds": loss.seeds,
                "hit": loss.hit.value,
                "hit_low": loss.hit.low,
                "hit_high": loss.hit.high,
                "held": loss.held,
                "hit_trained": loss.trained,
                "drop": loss.drop.value,
                "drop_low": loss.drop.low,
                "drop_high": loss.drop.high,
                "drop_p": loss.drop.p,
                "drop_runs": loss.runs,
                "drop_p_holm": loss.p_holm,
                "distance_end_median": loss.distance_end,
                "note": cell.note if condition == TRAINED else skipped.get(condition.name, ""),
            }
        )
    return rows
