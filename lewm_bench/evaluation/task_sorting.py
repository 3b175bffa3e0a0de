"""The tasks of an environment, sorted by how far away their goals are and by whether they need a plan.

A goal is as far away as the steps that a search along shortest ways takes to it on the true simulator. No recording has a part in it: tasks are drawn by the environment, and the judges sample actions on the scale of its
bounds. X state size, N tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
from pydantic import model_validator
from tqdm import tqdm

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.agents.oracle import PathOracle, Simulation, SimulatorAgent
from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv, Task
from lewm_bench.core.rng import stream
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation import strata
from lewm_bench.evaluation.protocol import Pairs, Protocol, nearest
from lewm_bench.evaluation.tasks import Tasks, with_tasks
from lewm_bench.system import status

# The ceiling of ``strata``, but every block of a plan counts: how it ends alone would take all its steps to a near goal.
JUDGES = {
    "greedy": strata.PLANNERS["greedy"],
    "fast": strata.PLANNERS["ceiling"].model_copy(update={"objective": "sum"}),
}
CHUNK = 50  # tasks that are planned for together

State = tuple[float, ...]


class SortedTasks(Config):
    """The first tasks at one distance, in the order of their numbers; all columns of one length."""

    number: tuple[int, ...]
    start: tuple[State, ...]
    goal: tuple[State, ...]
    steps: tuple[int, ...]  # of a search, or of the environment's own solution
    greedy: tuple[bool, ...]  # whether always taking the best next block reaches the goal
    drawn: int  # tasks that were looked at
    solved_at_start: int  # of those

    @model_validator(mode="after")
    def _check(self) -> SortedTasks:
        if len({len(self.number), len(self.start), len(self.goal), len(self.steps), len(self.greedy)}) != 1:
            raise ValueError("columns of different lengths")
        return self


@dataclass(frozen=True)
class Drawn:
    """A task with its number, before anybody tries it."""

    number: int
    task: Task


@dataclass(frozen=True)
class Sorter:
    """What of a task decides where it belongs."""

    setting: Setting
    protocol: Protocol
    offset: int
    split: str
    budget: int

    def draw(self, number: int) -> Task:
        """The task of a number, whatever else is drawn."""
        rng = stream(self.protocol.seed, "tasks", self.setting.env_id, self.split, number)
        return self.setting.env.sample_task(rng, number)

    def judge(self, name: str) -> SimulatorAgent:
        """Greedy by distance, or fast along shortest ways, on the scale of the environment's actions."""
        env = self.setting.env
        simulation = Simulation(env, AgentConfig().frame_skip, *uniform_scale(env.action_space))
        return (SimulatorAgent if name == "greedy" else PathOracle)(simulation, JUDGES[name])

    def tried(self, judge: str, drawn: Sequence[Drawn], budget: int) -> np.ndarray:
        """(N,) steps to the goals, ``budget + 1`` where one is not reached."""
        address = self.setting.env_id, judge, self.split  # without the offset: how far a goal is is not a matter of it
        rngs = [stream(self.protocol.seed, "sorting tasks", *address, each.number) for each in drawn]
        starts, goals = (stacked([getattr(each.task, end) for each in drawn]) for end in ("start", "goal"))
        return strata.steps_to_goal(self.judge(judge), starts, goals, rngs, budget)

    def steps(self, drawn: Sequence[Drawn]) -> np.ndarray:
        """(N,) steps to the goals along the environment's own solution, else those of a search; ``offset + 1`` if more."""
        own = np.array([each.task.actions is not None for each in drawn], bool)
        out = np.full(len(drawn), self.offset + 1)
        for i in np.flatnonzero(own):
            out[i] = min(steps_along(self.setting.env, drawn[i].task), self.offset + 1)
        rest = np.flatnonzero(~own)
        if len(rest):
            out[rest] = self.tried("fast", [drawn[i] for i in rest], self.offset)
        return out


def sort_tasks(sorter: Sorter, wanted: int, most: int, progress: bool = False) -> SortedTasks:
    """The first tasks that are ``nearest(offset)`` to ``offset`` steps away, and which of them greedy reaches.

    Until ``wanted`` of each kind are found, and at most those with a number below ``most``.
    """
    found: list[tuple[Drawn, int, bool]] = []
    solved: list[int] = []
    drawn = 0
    with tqdm(total=most, desc=f"sort tasks offset {sorter.offset}", disable=not progress, leave=False) as bar:
        while drawn < most and complete(found, wanted) is None:
            chunk = [Drawn(number, sorter.draw(number)) for number in range(drawn, min(drawn + CHUNK, most))]
            drawn += len(chunk)
            solved += [each.number for each in chunk if is_solved(sorter.setting.env, each.task)]
            found += _at_distance(sorter, [each for each in chunk if is_asked(sorter.setting.env, each.task)])
            bar.update(len(chunk))
            status.at(drawn, most)
    if (last := complete(found, wanted)) is not None:  # knows nothing of chunks
        found = found[: last + 1]
        drawn = found[-1][0].number + 1
    return SortedTasks(
        number=tuple(each.number for each, _, _ in found),
        start=tuple(tuple(map(float, each.task.start)) for each, _, _ in found),
        goal=tuple(tuple(map(float, each.task.goal)) for each, _, _ in found),
        steps=tuple(steps for _, steps, _ in found),
        greedy=tuple(plain for _, _, plain in found),
        drawn=drawn,
        solved_at_start=sum(number < drawn for number in solved),
    )


def _at_distance(sorter: Sorter, drawn: Sequence[Drawn]) -> Iterator[tuple[Drawn, int, bool]]:
    """The tasks at the sorter's distance, with their steps and whether greedy reaches them."""
    if not drawn:
        return
    steps = sorter.steps(drawn)
    here = np.flatnonzero((steps >= nearest(sorter.offset)) & (steps <= sorter.offset))
    if len(here):
        plain = sorter.tried("greedy", [drawn[i] for i in here], sorter.budget) <= sorter.budget
        yield from ((drawn[i], int(steps[i]), bool(p)) for i, p in zip(here, plain, strict=True))


def complete(found: Sequence[tuple[Drawn, int, bool]], wanted: int) -> int | None:
    """Where the task stands that completes ``wanted`` of each kind; None if there are too few."""
    plain = np.array([greedy for _, _, greedy in found], bool)
    counts = np.minimum(np.cumsum(plain), np.cumsum(~plain))
    return int(np.searchsorted(counts, wanted)) if len(counts) and counts[-1] >= wanted else None


def is_solved(env: GoalEnv, task: Task) -> bool:
    """Whether there is nothing to do."""
    return bool(env.reached(task.start[None].copy(), task.goal[None].copy())[0])


def is_asked(env: GoalEnv, task: Task) -> bool:
    """Whether there is something to do, and a way."""
    start, goal = task.start[None], task.goal[None]
    if env.over(start.copy())[0] or is_solved(env, task):
        return False
    return bool(np.isfinite(env.path_length(start.copy(), goal.copy())[0]))


def steps_along(env: GoalEnv, task: Task) -> int:
    """Steps until the environment's own solution reaches the goal; more than it has if it does not."""
    after = env.simulate(task.start[None].copy(), task.actions[None].copy())[0]
    there = env.reached(after, np.repeat(task.goal[None], len(after), 0))
    return int(there.argmax()) + 1 if there.any() else np.iinfo(np.int64).max


def uniform_scale(space: gym.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (action_dim,) float32, of uniform actions; 0 and 1 where there are no bounds."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -np.sqrt(3)), np.where(bounded, high, np.sqrt(3))
    return ((low + high) / 2).astype(np.float32), ((high - low) / np.sqrt(12)).astype(np.float32)


def stacked(states: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, X) float64."""
    return np.stack([np.asarray(state, np.float64) for state in states])


def choose(found: SortedTasks, stratum: str | None, num_tasks: int) -> tuple[np.ndarray, int]:
    """Which of them (n,) are the first ``num_tasks`` of a stratum, or of all without one, and how many it has."""
    plain = np.array(found.greedy, bool)
    like = np.flatnonzero(np.ones_like(plain) if stratum is None else plain == (stratum == "plain"))
    return like[:num_tasks], len(like)


def task_pairs(
    dataset: Dataset, env: GoalEnv, found: SortedTasks, stratum: str | None, num_tasks: int
) -> tuple[Dataset, Pairs]:
    """The first tasks of a stratum, drawn by the environment, behind the rows of a dataset."""
    chosen, count = choose(found, stratum, num_tasks)
    counts = {"candidates": found.drawn, "solved_at_start": found.solved_at_start}
    counts |= {"sorted": len(found.number), "of_stratum": count}
    if not len(chosen):
        return dataset, Pairs(*np.zeros((3, 0), np.int64), **counts)
    starts, goals = (stacked([ends[i] for i in chosen]) for ends in (found.start, found.goal))
    pictures = (env.render_states(states.copy()) for states in (starts, goals))
    joined, pairs = with_tasks(dataset, Tasks(starts, goals, *pictures))
    return joined, replace(pairs, **counts)
