"""Which goals need a plan: sorted by the true simulator, before any agent is asked.

A pair is *plain* if always taking the locally best block reaches its goal (``greedy``), and *planning* if that does not
and a search along shortest ways does. What neither reaches within the budget says nothing about an agent and is left out.
Both judges draw from streams of their own, so that the sorting depends on no seed and no agent of a run.
Letters: N pairs, X state size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import model_validator
from tqdm import tqdm

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.agents.oracle import GREEDY_PLANNER, PathOracle, SimulatorAgent, simulation_of
from lewm_bench.core.config import Config
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals
from lewm_bench.evaluation.protocol import Pairs, Protocol, first_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.system import status

PLANNERS = {
    "greedy": GREEDY_PLANNER,
    "ceiling": PlannerConfig(horizon=5, receding=5, num_samples=100, num_iterations=3, num_elites=10),
}
_CHUNK = 50  # pairs that are planned for together


class Sorted(Config):
    """The first pairs of a protocol, in the order of its deal; all of one length."""

    episode: tuple[int, ...]
    start: tuple[int, ...]  # rows of the dataset
    greedy: tuple[bool, ...]  # whether the goal is reached
    ceiling: tuple[bool, ...]  # the same; not asked, and false, where greedy reaches it
    candidates: int  # as in ``protocol.Pairs``
    solved_at_start: int

    @model_validator(mode="after")
    def _check(self) -> Sorted:
        if len({len(self.episode), len(self.start), len(self.greedy), len(self.ceiling)}) != 1:
            raise ValueError("columns of different lengths")
        return self


def sort_pairs(
    setting: Setting,
    protocol: Protocol,
    wanted: int,
    most: int,
    offset: int,
    split: str,
    budget: int,
    progress: bool = False,
    longest: int | None = None,
) -> Sorted:
    """The first pairs of a protocol, and which of them the two judges reach within ``budget`` steps.

    As many pairs as hold ``wanted`` of each stratum, and ``most`` at most; those of all ``most`` starts where goal
    offsets up to ``longest`` share them.
    """
    dataset, env = setting.dataset, setting.env
    episode, start = first_pairs(dataset, env, protocol, most, offset, split, longest)
    states, goals = dataset.states[start], dataset.states[start + offset]
    simulation = simulation_of(setting, AgentConfig().frame_skip)
    judges = {
        "greedy": SimulatorAgent(simulation, PLANNERS["greedy"]),
        "ceiling": PathOracle(simulation, PLANNERS["ceiling"]),
    }
    reached = {name: np.zeros(len(start), bool) for name in judges}
    enough: int | None = None
    with tqdm(total=len(start), desc=f"sort pairs offset {offset}", disable=not progress, leave=False) as bar:
        for begin in range(0, len(start), _CHUNK):
            chunk = np.arange(begin, min(begin + _CHUNK, len(start)))
            for name, judge in judges.items():
                left = chunk[~reached["greedy"][chunk]]
                rngs = [stream(protocol.seed, "strata", setting.env_id, name, offset, split, int(i)) for i in left]
                reached[name][left] = steps_to_goal(judge, states[left], goals[left], rngs, budget) <= budget
            bar.update(len(chunk))
            status.at(int(chunk[-1]) + 1, len(start))
            if longest is None and (enough := _holds(wanted, reached)) is not None:
                break
    rows = dataset.rows(split, spare=offset)
    return Sorted(
        episode=tuple(episode[:enough].tolist()),
        start=tuple(start[:enough].tolist()),
        greedy=tuple(reached["greedy"][:enough].tolist()),
        ceiling=tuple(reached["ceiling"][:enough].tolist()),
        candidates=len(rows),
        solved_at_start=int(np.sum(env.reached(dataset.states[rows], dataset.states[rows + offset]))),
    )


def _holds(wanted: int, reached: dict[str, np.ndarray]) -> int | None:
    """How many pairs hold ``wanted`` that each judge reaches; None if all of them are too few. Knows nothing of chunks."""
    counts = np.minimum(*(np.cumsum(found) for found in reached.values()))
    return int(np.searchsorted(counts, wanted)) + 1 if len(counts) and counts[-1] >= wanted else None


def choose(found: Sorted, stratum: str, num_pairs: int, offset: int) -> Pairs:
    """The first ``num_pairs`` pairs of a stratum, or as many as there are."""
    greedy, ceiling = np.array(found.greedy, bool), np.array(found.ceiling, bool)
    (like,) = np.nonzero(greedy if stratum == "plain" else ceiling & ~greedy)
    first = like[:num_pairs]
    start = np.array(found.start, np.int64)[first]
    return Pairs(
        np.array(found.episode, np.int64)[first],
        start,
        start + offset,
        found.candidates,
        found.solved_at_start,
        sorted=len(greedy),
        of_stratum=len(like),
    )


def steps_to_goal(
    judge: SimulatorAgent, states: np.ndarray, goals: np.ndarray, rngs: Sequence[np.random.Generator], budget: int
) -> np.ndarray:
    """(N,) steps in which a search on the simulator brings (N, X) states to their goals; where not, ``budget + 1``.

    Who has arrived is planned for no longer, which changes nothing for the others: each draws from its own generator.
    """
    env, out = judge.simulation.env, np.full(len(states), budget + 1)
    left, done = np.arange(len(states)), 0
    while len(left) and done < budget:
        targets = Goals(torch.empty(0), goals[left].copy())  # of which a search on the simulator sees the states alone
        actions = judge.start(targets, [rngs[i] for i in left]).search(states.copy())[:, : budget - done]
        after = env.simulate(states.copy(), np.clip(actions, env.action_space.low, env.action_space.high))
        there = env.reached(after.copy(), np.repeat(goals[left][:, None], after.shape[1], axis=1))
        arrived = there.any(1)
        out[left[arrived]] = done + 1 + there[arrived].argmax(1)
        left, states, done = left[~arrived], after[~arrived, -1], done + actions.shape[1]
    return out
