"""Trained agents in changed worlds (protocol shift-1): which worlds, which pairs, and the episodes there.

Nobody learns anything here. Start and goal are those of the trained world's pairs, lifted into the changed one; the agent
sees one frame at the start, drawn there, and its history grows from what happens there. Shapes: n pairs, X state size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from lewm_bench.agent import Loaded, Setting
from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, unknown
from lewm_bench.core.shift import LEVELS, Factor
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.episodes import PairResult, evaluate
from lewm_bench.evaluation.protocol import CLEAN_2_PLANNING, Pairs
from lewm_bench.evaluation.shift_record import TRAINED, Condition, Outcomes
from lewm_bench.evaluation.tasks import Tasks, with_tasks

PAIRS = CLEAN_2_PLANNING
"""The protocol whose pairs these are."""
SHIFT_1 = PAIRS.model_copy(update={"name": "shift", "version": "1", "stratum": None, "real_history": False})
DRAWN_ANEW = ("looks", "layout")  # groups of factors that change pictures, and so also that of a goal


class ShiftConfig(Config):
    """What is changed, in a suite with ``kind: shift``."""

    factors: tuple[str, ...] = Field(
        (), description="what is changed, by name (docs/shift.md); none: all that there is"
    )
    levels: tuple[int, ...] = Field(LEVELS[1:], min_length=1, description="how much, from 1 to 3")
    goals: tuple[Literal["changed", "trained"], ...] = Field(
        ("changed", "trained"),
        min_length=1,
        description="the goal's picture as the changed world looks, or as the trained one did; one or both",
    )

    @field_validator("levels")
    @classmethod
    def _known(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if wrong := [level for level in value if level not in LEVELS[1:]]:
            raise ValueError(f"levels are {', '.join(map(str, LEVELS[1:]))}, got {wrong[0]}")
        return tuple(sorted(set(value)))


def chosen_factors(env: GoalEnv, label: str, names: Iterable[str]) -> dict[str, Factor]:
    """The factors of these names, all without any.

    Raises:
        NotRun: the environment has none at all.
        UserError: it has none of that name.
    """
    known = env.factors()
    if not known:
        raise NotRun(f"nothing of {label} can be changed: it names no factors; choose another of --envs")
    for name in names:
        if name not in known:
            raise unknown(f"factor of {label}", name, known)
    return {name: factor for name, factor in known.items() if name in (set(names) or known)}


def conditions(factors: Mapping[str, Factor], config: ShiftConfig) -> tuple[Condition, ...]:
    """The trained world, and every changed one."""
    return TRAINED, *(
        Condition(factor=name, level=level, goal=goal)
        for name, factor in factors.items()
        for level in config.levels
        for goal in (config.goals if factor.group in DRAWN_ANEW else ("same",))
    )


@dataclass(frozen=True)
class World:
    """Where an agent acts under a condition: the environment, the data with the tasks behind them, and who takes part."""

    env: GoalEnv
    dataset: Dataset
    pairs: Pairs
    kept: np.ndarray  # (n,) bool: pairs that can be asked here


def trained_world(env: GoalEnv, dataset: Dataset, pairs: Pairs) -> World:
    """The world that agents were trained in."""
    return World(env, dataset, pairs, np.ones(len(pairs), bool))


def changed_world(env: GoalEnv, dataset: Dataset, pairs: Pairs, goal: str) -> World:
    """A changed environment with the tasks of ``pairs`` lifted into it.

    A pair that cannot be asked there keeps its number, and another one's rows, which nobody reads.
    """
    starts, goals = (env.lift(dataset.states[rows].copy()) for rows in (pairs.start_row, pairs.goal_row))
    kept = askable(env, starts, goals)
    if not kept.any():
        return World(env, dataset, pairs, kept)
    rows = np.where(kept, np.arange(len(pairs)), kept.argmax())
    starts, goals = starts[rows], goals[rows]
    seen = dataset.frames[pairs.goal_row[rows]] if goal == "trained" else env.render_states(goals.copy())
    tasks = Tasks(starts, goals, env.render_states(starts.copy()), seen)
    more, tasked = with_tasks(dataset, tasks, states=env.lift(dataset.states.copy()))
    return World(env, more, tasked, kept)


def askable(env: GoalEnv, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """(n, X) starts and goals to (n,) bool: both can be, a way leads from one to the other, and it is not gone already."""
    kept = np.asarray(env.possible(starts.copy()) & env.possible(goals.copy()), bool)
    ways, there = (found(starts[kept].copy(), goals[kept].copy()) for found in (env.path_length, env.reached))
    kept[kept] = np.isfinite(ways) & ~there
    return kept


def act_in(world: World, loaded: Loaded, setting: Setting, budget: int, goal_offset: int, batch: int) -> Outcomes:
    """What an agent does in a world. Streams are those of the trained world's episodes: (seed, "plan", ..., pair)."""
    here = replace(setting, env=world.env, dataset=world.dataset)
    left_out = np.flatnonzero(~world.kept).tolist()
    if len(left_out) == len(world.kept):
        return Outcomes()
    results = evaluate(
        loaded.agent,
        here,
        world.pairs,
        budget,
        goal_offset=goal_offset,
        real_history=SHIFT_1.real_history,
        batch=batch,
        skip=left_out,
        timed=False,
    )
    return outcomes_of(sorted(results, key=lambda result: result.pair))


def outcomes_of(results: list[PairResult]) -> Outcomes:
    """Episodes without their ways."""
    columns = {name: tuple(getattr(r, name) for r in results) for name in Outcomes.model_fields if name != "pairs"}
    return Outcomes(pairs=tuple(r.pair for r in results), **columns)
