"""Send an agent on start and goal pairs and measure what happens: one ``PairResult`` per pair.

Shapes: B episodes side by side, T frames of context, X state size, A numbers of an action block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field, field_validator

from lewm_bench.agent import Loaded, Setting, embed_frames
from lewm_bench.agents.oracle import LatentOracle, simulation_of
from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman
from lewm_bench.core.types import Agent, Controller, Goals, Past
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.agent_contract import (
    Place,
    checked_actions,
    checked_agent,
    checked_distances,
    checked_states,
)
from lewm_bench.evaluation.history import History, images
from lewm_bench.evaluation.protocol import CHOICES, Pairs, Protocol
from lewm_bench.planning.cost import frame_costs
from lewm_bench.system.device import Stopwatch, sized
from lewm_bench.system.phases import phase

ENCODES, SEARCHES = "planning: encoding", "planning: search"  # phases


class EvalConfig(Config):
    """What is evaluated. ``protocol`` decides the rest (docs/protocol.md)."""

    protocol: str = Field("clean-1", description="rules of the evaluation (`lewm-bench list protocols`)")
    num_pairs: int = Field(
        100, ge=1, description="start and goal pairs per environment and offset, the same for every agent"
    )
    goal_offset: tuple[int, ...] = Field(
        (25, 50),
        description="environment steps from start to goal in the data, at most collect.steps; tasks-1: steps of the oracle",
    )
    split: str = Field("test", description="episodes that pairs come from: test, val (to tune), train or all")
    candidates: int = Field(
        400,
        ge=1,
        description="pairs sorted at most into strata, until there are num_pairs of each; horizon-1: the starts, all sorted",
    )
    budget: int | None = Field(None, ge=1, description="environment steps allowed; null: as the protocol says")
    batch: int = Field(
        1,
        ge=1,
        description="episodes planned together; times are then per episode; on CUDA it decides how numbers are rounded",
    )
    latent_oracle_pairs: int = Field(
        20,
        ge=0,
        description="pairs for the true simulator with the model's latent cost, at one offset and the lowest seed",
    )
    correlation_frames: int = Field(
        256, ge=2, description="frames for the rank correlation of latent and true distance"
    )
    during_training: int = Field(
        0,
        ge=0,
        le=100,
        description="evaluations on validation pairs while agents train: 5 means after 20, 40 to 100 % of the steps",
    )
    during_pairs: int = Field(20, ge=1, description="validation pairs per goal offset of each such evaluation")

    @field_validator("goal_offset", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, int) else value

    @field_validator("protocol")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CHOICES:
            raise ValueError(str(unknown("protocol", value, CHOICES)))
        return value

    @property
    def rules(self) -> tuple[Protocol, ...]:
        """The protocol itself; one for each of its strata."""
        return CHOICES[self.protocol]


class PairResult(Config):
    """One episode: from the start of a pair towards its goal until the budget is spent. Every number is finite."""

    pair: int
    hit: bool
    held: bool
    steps_to_hit: int | None
    distance_start: float
    distance_end: float
    encode_seconds: tuple[float, ...]  # of each plan
    search_seconds: tuple[float, ...]
    env_seconds: float
    states: tuple[tuple[float, ...], ...]  # (budget + 1, X), from which videos are drawn


def evaluate(
    agent: Agent,
    setting: Setting,
    pairs: Pairs,
    budget: int,
    *,
    goal_offset: int,
    real_history: bool,
    batch: int = 1,
    skip: Sequence[int] = (),
    filled: bool | None = None,
    timed: bool = True,
) -> Iterator[PairResult]:
    """The results of all pairs not in ``skip``, as they are measured.

    Each episode plans with the stream (seed, "plan", env, agent, offset, pair), so results depend on the batch by
    rounding at most.

    Args:
        filled: an agent is always shown ``batch`` episodes, the last one several times where there are fewer, so that
            no number is rounded otherwise; left out, where kernels are chosen by size.
        timed: decisions that nobody counts come first, so that no time is one of a first call.
    """
    checked_agent(agent, setting.agent)
    context = _context_lengths(setting.dataset, pairs, agent, real_history)
    waiting = [i for i in range(len(pairs)) if i not in set(skip)]
    filled = sized(setting.device) if filled is None else filled
    batches = list(_batches(waiting, context, batch, filled))
    if timed:
        _warm_up(agent, setting, pairs, batches, budget)
    for group in batches:
        name = parse_agent(setting.agent).trained
        rngs = [stream(setting.seed, "plan", setting.env_id, name, goal_offset, i) for i in group.shown]
        yield from _episodes(agent, setting, pairs, group, rngs, budget)


Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Batch:
    """Episodes that run together."""

    members: list[int]  # their pairs
    length: int  # frames of context that all of them have
    copies: int = 0  # of the last one, which an agent is shown beside them

    @property
    def shown(self) -> list[int]:
        """The pairs of all episodes that an agent is shown."""
        return self.members + self.members[-1:] * self.copies

    def fill(self, rows: Rows) -> Rows:
        """Rows (members, ...) to those of all episodes that an agent is shown."""
        return rows[[*range(len(rows)), *[-1] * self.copies]] if self.copies else rows


def _batches(waiting: Sequence[int], context: np.ndarray, size: int, filled: bool) -> Iterator[Batch]:
    """Batches of at most ``size`` episodes of one context length, and of just as many if they are ``filled``."""
    for length in sorted(set(context[waiting].tolist())):
        group = [i for i in waiting if context[i] == length]
        for begin in range(0, len(group), size):
            members = group[begin : begin + size]
            yield Batch(members, length, size - len(members) if filled else 0)


def _context_lengths(dataset: Dataset, pairs: Pairs, agent: Agent, real_history: bool) -> np.ndarray:
    """(n,) frames before the start that the data has and the agent wants."""
    if not real_history:
        return np.zeros(len(pairs), np.int64)
    available = (pairs.start_row - dataset.starts[pairs.episode]) // agent.frame_skip
    return np.minimum(available, agent.history - 1)


def _warm_up(agent: Agent, setting: Setting, pairs: Pairs, batches: Sequence[Batch], budget: int) -> None:
    """Discarded decisions of every shape that will be timed, so that none pays for lazy initialisation or compiling.

    Those are the first decision at each context length, and behind the shortest all until the history is full.
    """
    warm: set[tuple[int, int]] = set()
    for group in batches:
        shape = len(group.shown), group.length
        if shape in warm:
            continue
        growing = agent.history > 1 and not any(size == len(group.shown) for size, _ in warm)
        warm.add(shape)

        def seen(decisions: int, frames: int, growing: bool = growing) -> bool:
            return not growing or (decisions > 1 and frames == agent.history)

        rngs = [stream(setting.seed, "warm-up", i) for i in group.shown]
        for _ in _episodes(agent, setting, pairs, group, rngs, budget, seen):
            pass


def _episodes(
    agent: Agent,
    setting: Setting,
    pairs: Pairs,
    batch: Batch,
    rngs: Sequence[np.random.Generator],
    budget: int,
    enough: Callable[[int, int], bool] = lambda decisions, frames: False,
) -> Iterator[PairResult]:
    """Run a batch of episodes together. Whatever is handed to an agent or an environment is a copy.

    ``enough`` ends them early, from the decisions so far and the frames that the last one was shown.
    """
    env, dataset, device = setting.env, setting.dataset, setting.device
    members, shown = batch.members, len(batch.shown)
    place, answers = (Place(setting.agent, setting.env_id, of) for of in (members, batch.shown))
    goal = dataset.states[pairs.goal_row[members]]
    history = History(env, dataset, pairs.start_row[members], batch.length, (agent.history, agent.frame_skip))
    encode_seconds, search_seconds, env_watch = [], [], 0.0
    goals = Goals(batch.fill(images(dataset.frames[pairs.goal_row[members]])), batch.fill(goal.copy()))
    with _decides(place, 0), phase(ENCODES), Stopwatch(device) as watch:
        controller = agent.start(goals, rngs)
    goal_seconds = watch.seconds
    if not isinstance(controller, Controller):
        raise UserError(
            f"{place.agent}: start returned {short_repr(controller)}, which has no encode and search; mend it"
        )
    while (done := history.steps) < budget:
        past = history.past()
        if batch.copies:
            past = Past(*(batch.fill(part) for part in (past.frames, past.actions, past.states, past.frame_states)))
        with _decides(place, done):
            with phase(ENCODES), Stopwatch(device) as encode:
                encoded = controller.encode(past)
            with phase(SEARCHES), Stopwatch(device) as search:
                chosen = controller.search(encoded)
        encode_seconds.append((encode.seconds + goal_seconds) / shown)
        search_seconds.append(search.seconds / shown)
        goal_seconds = 0.0
        chosen = checked_actions(chosen, env.action_space.shape[0], answers, done)[: len(members)]
        with phase("simulating episodes"), Stopwatch(device) as watch:
            _execute(env, history, chosen[:, : budget - done], place)
            if history.steps < budget:  # the last frames are shown to nobody
                history.draw()
        env_watch += watch.seconds / len(members)
        if enough(len(search_seconds), past.frames.shape[1]):
            break
    for b, states in enumerate(history.states):
        yield _result(env, place, b, states, goal[b], encode_seconds, search_seconds, env_watch)


@contextmanager
def _decides(place: Place, step: int) -> Iterator[None]:
    """What an agent cannot do is said with its name and where it was."""
    try:
        yield
    except (UserError, FloatingPointError) as error:
        raise UserError(f"{place.agent} {place.at(step)}: {error}")


def _execute(env: GoalEnv, history: History, chosen: np.ndarray, place: Place) -> None:
    """Go on by the chosen actions (B, k, action_dim), clipped to what the environment takes."""
    actions = np.clip(chosen, env.action_space.low, env.action_space.high)
    now = history.now
    shape = (*actions.shape[:2], now.shape[1])
    after = checked_states(env.simulate(now, actions.copy()), shape, place, history.steps)  # (B, k, X)
    history.append(actions, after)


def _result(
    env: GoalEnv, place: Place, b: int, states, goal, encode_seconds, search_seconds, env_seconds
) -> PairResult:
    """The result of episode ``b`` of the batch, from its states (budget + 1, X) and its goal (X,)."""
    distances = checked_distances(env.distance(states.copy(), goal.copy()), len(states), place, b)
    reached = env.reached(states.copy(), goal.copy())
    # Where an episode is over nothing can leave: that is not holding a goal, unless the goal is such a state itself.
    stuck = env.over(states[-1].copy()) and not env.over(goal.copy())
    hits = np.flatnonzero(reached)
    return PairResult(
        pair=place.pairs[b],
        hit=bool(len(hits)),
        held=bool(reached[-1] and not stuck),
        steps_to_hit=int(hits[0]) if len(hits) else None,
        distance_start=float(distances[0]),
        distance_end=float(distances[-1]),
        encode_seconds=tuple(encode_seconds),
        search_seconds=tuple(search_seconds),
        env_seconds=env_seconds,
        states=tuple(map(tuple, states.tolist())),
    )


def latent_oracle(loaded: Loaded, setting: Setting, pairs: Pairs, budget: int, goal_offset: int, n: int) -> float:
    """The share of the first ``n`` pairs that the true simulator hits when it plans with the model's own latent cost."""
    if loaded.model is None:
        raise UserError(f"{setting.agent} is not a world model and has no latent cost")
    agent = LatentOracle(
        simulation_of(setting),
        setting.planner,
        loaded.model,
        setting.device,
        embed=loaded.embed,
        objective=loaded.objective,
    )
    first = replace(pairs, episode=pairs.episode[:n], start_row=pairs.start_row[:n], goal_row=pairs.goal_row[:n])
    results = evaluate(agent, setting, first, budget, goal_offset=goal_offset, real_history=False)
    return float(np.mean([r.hit for r in results]))


@torch.inference_mode()
def distance_rank_correlation(loaded: Loaded, setting: Setting, split: str, num_frames: int) -> float | None:
    """Spearman's correlation of latent and true distance over all pairs of ``num_frames`` random frames of a split.

    Where plans cost something else than the latent distance it is that, which may differ there and back: of every pair
    the mean of both. None where there is none, as of latents that are all equal, or of a split without frames.
    """
    rows = setting.dataset.rows(split)
    if len(rows) < 2:
        return None
    rng = stream(0, "rank correlation", setting.env_id, split)
    rows = np.sort(rng.choice(rows, size=min(num_frames, len(rows)), replace=False))
    frames, states = images(setting.dataset.frames[rows]), setting.dataset.states[rows]
    embed = loaded.embed or embed_frames(loaded.model, setting.device)
    chunks = range(0, len(rows), 64)
    latents = torch.cat([embed(frames[k : k + 64], states[k : k + 64].copy()) for k in chunks]).float()
    i, j = np.triu_indices(len(rows), 1)
    if loaded.objective is None:
        apart = torch.cdist(latents.flatten(1), latents.flatten(1))
    else:
        costs = frame_costs(loaded.objective, latents, latents)
        apart = (costs + costs.T) / 2
    latent = apart.cpu().numpy()[i, j]
    found = spearman(latent, setting.env.distance(states[i], states[j]))
    return float(found) if np.isfinite(found) else None
