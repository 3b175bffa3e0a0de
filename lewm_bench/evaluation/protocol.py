"""Which start and goal pairs an agent is sent on, and how long it may take. Versioned: a change is a new protocol."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import model_validator

from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream

if TYPE_CHECKING:
    from lewm_bench.core.env import GoalEnv
    from lewm_bench.data.format import Dataset


class Protocol(Config):
    """The rules of an evaluation; ``id`` is a column of every row."""

    name: str
    version: str
    held_out: bool  # pairs from held-out episodes, balanced over them; else uniform over the rows of ``rows_of``
    from_tasks: bool = False  # starts and goals are tasks of the environment (lewm_bench.evaluation.tasks), and no rows
    rows_of: Literal["train", "all"] = "train"
    keep_solved: bool  # keep pairs that are solved before the first action
    real_history: bool  # the agent sees the recorded frames and actions before the start; else one frame
    budget_per_offset: int | None = None  # environment steps allowed for each step of the goal offset
    fixed_budget: int | None = None
    stratum: Literal["planning", "plain"] | None = None  # only pairs of this kind (lewm_bench.evaluation.strata)
    one_set_of_starts: bool = False  # every goal offset has the same starts, in episodes that are long enough for all
    success: tuple[str, ...]  # hit: reached at some step; held: reached at the last step
    seed: int

    @model_validator(mode="after")
    def _check(self) -> Protocol:
        if (self.budget_per_offset is None) == (self.fixed_budget is None):
            raise ValueError("give exactly one of budget_per_offset and fixed_budget")
        return self

    @property
    def id(self) -> str:
        """For example ``clean-1``, or ``clean-2/planning``."""
        return f"{self.name}-{self.version}" + (f"/{self.stratum}" if self.stratum else "")

    def budget(self, goal_offset: int) -> int:
        """Environment steps allowed per episode."""
        return self.budget_per_offset * goal_offset if self.fixed_budget is None else self.fixed_budget


CLEAN_1 = Protocol(
    name="clean",
    version="1",
    held_out=True,
    keep_solved=False,
    real_history=True,
    budget_per_offset=2,
    success=("hit", "held"),
    seed=0,
)
CLEAN_2_PLANNING, CLEAN_2_PLAIN = (
    CLEAN_1.model_copy(update={"version": "2", "stratum": stratum}) for stratum in ("planning", "plain")
)
# How far an agent can plan: only the goals move, so that a curve over offsets is not one over different starts.
HORIZON_1_PLANNING, HORIZON_1_PLAIN = (
    rules.model_copy(update={"name": "horizon", "version": "1", "one_set_of_starts": True})
    for rules in (CLEAN_2_PLANNING, CLEAN_2_PLAIN)
)
# Of the clean rules what recordings have no part in.
TASKS_1_PLANNING, TASKS_1_PLAIN = (
    CLEAN_1.model_copy(update={"name": "tasks", "from_tasks": True, "real_history": False, "stratum": stratum})
    for stratum in ("planning", "plain")
)
# LeWM (arXiv version 3) and its code: rows of the training data, with the off-by-one of its issue 77 corrected.
PAPER_V3 = Protocol(
    name="paper",
    version="v3",
    held_out=False,
    keep_solved=True,
    real_history=False,
    fixed_budget=50,
    success=("hit",),
    seed=42,
)
# The released script knows no split: of a published file it draws from every episode (scripts/plan/eval_wm.py of
# stable-worldmodel).
PAPER_V3_ALL = PAPER_V3.model_copy(update={"version": "v3-all", "rows_of": "all"})
RULES = (
    CLEAN_1, CLEAN_2_PLANNING, CLEAN_2_PLAIN, HORIZON_1_PLANNING, HORIZON_1_PLAIN, TASKS_1_PLANNING, TASKS_1_PLAIN,
    PAPER_V3, PAPER_V3_ALL,
)  # fmt: skip
PROTOCOLS = {p.id: p for p in RULES}
CHOICES: dict[str, tuple[Protocol, ...]] = {
    "clean-1": (CLEAN_1,),
    "clean-2": (CLEAN_2_PLANNING, CLEAN_2_PLAIN),
    "horizon-1": (HORIZON_1_PLANNING, HORIZON_1_PLAIN),
    "tasks-1": (TASKS_1_PLANNING, TASKS_1_PLAIN),
    **{name: (protocol,) for name, protocol in PROTOCOLS.items() if name != "clean-1"},
}
"""What ``evaluate.protocol`` may be: each is asked as one cell per protocol, in this order."""


def nearest(offset: int) -> int:
    """The fewest steps of a task at ``offset``: more than half of it, so that offsets that double share no task."""
    return offset // 2 + 1


@dataclass(frozen=True)
class Pairs:
    """Start and goal rows in a dataset, the same for every agent.

    ``solved_at_start`` of ``candidates`` were solved before the first action. Where such pairs are removed the
    candidates are all pairs of the split: a count over draws would weigh episodes that never move more the longer
    one has to look for other pairs. Where they are kept the candidates are the pairs themselves.
    """

    episode: np.ndarray  # (n,)
    start_row: np.ndarray  # (n,) rows of the dataset's columns
    goal_row: np.ndarray  # (n,)
    candidates: int
    solved_at_start: int
    sorted: int = 0  # pairs that were tried to sort them into strata,
    of_stratum: int = 0  # and how many of them are of these pairs' stratum

    def __len__(self) -> int:
        return len(self.episode)


def sample_pairs(
    dataset: Dataset, env: GoalEnv, protocol: Protocol, num_pairs: int, goal_offset: int, split: str = "test"
) -> Pairs:
    """Draw the pairs of a protocol; ``split`` matters only where the protocol holds episodes out.

    They depend on the protocol, the dataset, the goal offset and the split alone. With held-out episodes the first k
    of n pairs are the same for every n >= k.

    Raises:
        UserError: the data cannot give so many pairs.
    """
    if num_pairs < 1 or goal_offset < 1:
        raise UserError(f"need num_pairs >= 1 and goal_offset >= 1, got {num_pairs} and {goal_offset}")
    draw = _held_out if protocol.held_out else _uniform
    return draw(dataset, env, protocol, num_pairs, goal_offset, split)


def first_pairs(
    dataset: Dataset,
    env: GoalEnv,
    protocol: Protocol,
    most: int,
    goal_offset: int,
    split: str = "test",
    longest: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Episodes and start rows of the first pairs that a protocol with held-out episodes deals, (n,) with n <= ``most``.

    Args:
        longest: the largest goal offset of those that share their starts; the starts are those that it deals, without
            the ones that are solved at ``goal_offset`` before the first action.
    """
    every = protocol if longest is None else protocol.model_copy(update={"keep_solved": True})
    dealt = list(itertools.islice(_deal(dataset, env, every, longest or goal_offset, split), most))
    episode, start = np.asarray(dealt, np.int64).reshape(-1, 2).T
    if longest is None:
        return episode, start
    open_ = ~env.reached(dataset.states[start], dataset.states[start + goal_offset])
    return episode[open_], start[open_]


def _uniform(dataset: Dataset, env: GoalEnv, protocol: Protocol, num_pairs: int, offset: int, _: str) -> Pairs:
    """Rows of the protocol's episodes, without replacement."""
    valid = dataset.rows(protocol.rows_of, spare=offset)
    if len(valid) < num_pairs:
        raise _too_few(dataset, protocol.rows_of, num_pairs, offset, len(valid), 0)
    start = np.sort(np.random.default_rng(protocol.seed).choice(valid, size=num_pairs, replace=False))
    solved = env.reached(dataset.states[start], dataset.states[start + offset])
    episode = np.searchsorted(dataset.ends, start, side="right")
    return Pairs(episode, start, start + offset, num_pairs, int(np.sum(solved)))


def _held_out(dataset: Dataset, env: GoalEnv, protocol: Protocol, num_pairs: int, offset: int, split: str) -> Pairs:
    """The first admissible pairs of the protocol's endless deal."""
    chosen = list(itertools.islice(_deal(dataset, env, protocol, offset, split), num_pairs))
    rows = dataset.rows(split, spare=offset)
    solved = int(np.sum(env.reached(dataset.states[rows], dataset.states[rows + offset])))
    if len(chosen) < num_pairs:
        raise _too_few(dataset, split, num_pairs, offset, len(chosen), solved)
    episode, start = np.asarray(chosen, np.int64).T
    return Pairs(episode, start, start + offset, len(rows), solved)


def _deal(dataset: Dataset, env: GoalEnv, protocol: Protocol, offset: int, split: str) -> Iterator[tuple[int, int]]:
    """Rounds over the episodes in random order; in each round an episode draws until it gives one pair.

    An episode that has no pair left drops out, so the pairs stay as balanced as the data allows. Nothing here knows
    how many pairs are wanted, so a smaller run is the beginning of a larger one.

    Raises:
        UserError: no episode is held out.
    """
    if not len(dataset.episodes(split)):
        raise UserError(
            f"protocol {protocol.id} takes pairs from split {split!r}, in which {dataset.folder} has no episodes; collect or "
            f"import again with some (--split), or add --set evaluate.protocol={PAPER_V3.id}"
        )
    address = (protocol.seed, "pairs", dataset.meta.env, offset, split)
    episodes = [e for e in dataset.episodes(split).tolist() if dataset.lengths[e] > offset]
    left = {e: _shuffled_starts(dataset, env, e, offset, stream(*address, "episode", e)) for e in episodes}
    for number in itertools.count():
        if not left:
            return
        for e in stream(*address, "round", number).permutation(sorted(left)).tolist():
            for start, solved in left[e]:
                if protocol.keep_solved or not solved:
                    yield e, start
                    break
            else:
                del left[e]


def _shuffled_starts(
    dataset: Dataset, env: GoalEnv, episode: int, offset: int, rng: np.random.Generator
) -> Iterator[tuple[int, bool]]:
    """Every start row of one episode in random order, and whether its pair is solved before the first action."""
    rows = dataset.starts[episode] + rng.permutation(int(dataset.lengths[episode]) - offset)
    solved = env.reached(dataset.states[rows], dataset.states[rows + offset])
    yield from zip(rows.tolist(), solved.tolist(), strict=True)


def _too_few(dataset: Dataset, split: str, wanted: int, offset: int, found: int, solved: int) -> UserError:
    lengths = dataset.lengths[dataset.episodes(split)]
    return UserError(
        f"{dataset.folder} gives {found} of the {wanted} pairs asked for at goal_offset {offset}: "
        f"{int(np.sum(lengths > offset))} of {len(lengths)} episodes of split {split!r} are longer than {offset} steps, "
        f"and {solved} pairs were solved at the start; lower num_pairs or goal_offset, or collect more or longer episodes"
    )
