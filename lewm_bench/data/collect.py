"""Reward-free data: exploratory policies drive the environment, all episodes of a chunk in lock step.

An episode depends on the seed, the environment and its own number, not on the chunk size: each has its own generators
for the start state and for the policy. It ends after ``steps`` actions, or where the environment says that it is over. A killed collection goes on after its last complete chunk, and a folder that
already holds the wanted dataset is left as it is.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.exploration import LEARNED, PolicyFactory, check_shares
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import LEVELS
from lewm_bench.core.types import Episode
from lewm_bench.data.estimate import Estimate, folder_bytes
from lewm_bench.data.format import Dataset
from lewm_bench.data.sac_exploration import SACPolicyConfig, load_sac_policy
from lewm_bench.data.splits import apportion, split_episodes
from lewm_bench.data.worlds import TRAINED, WORLDS, Shift, episode_worlds, in_world, policies_in
from lewm_bench.data.writer import DatasetWriter
from lewm_bench.system import status
from lewm_bench.system.files import disk_errors
from lewm_bench.system.pool import process_pool, submit

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**26  # of frames between two checkpoints
_PARTS = ".parts"  # what processes have collected and what waits for its turn to be appended, on disk
TIMED = 4  # episodes that tell how long the others will take
_WORTH_PROCESSES = 10.0  # seconds of work left; starting processes costs a few

Progress = Callable[[int, int], None]
"""Called with the episodes collected so far and their total."""


class CollectConfig(Config):
    """How much data, from which policies, and how it is split."""

    episodes: int = Field(400, ge=1, description="episodes collected per environment")
    steps: int = Field(100, ge=1, description="actions per episode, unless it is over before; it has one more frame")
    policies: dict[str, float] = Field(
        default_factory=dict,
        description="share of the episodes by exploratory policy, together 1; empty: the environment's own mix",
    )
    sac: SACPolicyConfig = Field(
        SACPolicyConfig(),
        description="the policy sac, trained on the true state before it collects, and kept in the cache",
    )
    factors: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="worlds that training episodes are drawn from: factor to levels, or a list of factors; empty: one world",
    )
    train: float = Field(0.75, ge=0, description="share of the episodes for training")
    val: float = Field(0.10, ge=0, description="share of the episodes for tuning")
    test: float = Field(0.15, ge=0, description="share of the episodes for reporting; train, val and test add up to 1")
    chunk: int = Field(64, ge=1, description="episodes simulated side by side; changes the speed only")

    @field_validator("factors", mode="before")
    @classmethod
    def _all_levels(cls, given: Any) -> Any:
        return dict.fromkeys(given, LEVELS) if isinstance(given, (list, tuple)) else given

    @field_validator("factors")
    @classmethod
    def _known_levels(cls, factors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        for name, levels in factors.items():
            if not levels or not set(levels) <= set(LEVELS):
                raise ValueError(f"{name} has levels of {', '.join(map(str, LEVELS))}, got {list(levels)}")
        return factors

    @model_validator(mode="after")
    def _check(self) -> CollectConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {self.train + self.val + self.test}, not to 1")
        if self.policies:
            check_shares(self.policies)
        return self

    def of(self, env: GoalEnv) -> CollectConfig:
        """With the environment's own policies where none are given."""
        return self if self.policies else self.model_copy(update={"policies": _explores(env)})

    def recipe(self) -> dict[str, Any]:
        """What determines the data, as JSON."""
        unused = {"chunk"} if LEARNED in self.policies else {"chunk", "sac"}
        unused |= set() if self.factors else {"factors"}
        return self.model_dump(mode="json", exclude=unused)


def _explores(env: GoalEnv) -> dict[str, float]:
    """The environment's own policies and their shares.

    Raises:
        UserError: there are none, they are not known, or their shares make no sense.
    """
    known = [*env.policies(), LEARNED]
    for name in env.exploration:
        if name not in known:
            raise unknown(f"policy of {type(env).__name__}.exploration", name, known)
    try:
        check_shares(env.exploration)
    except ValueError as error:
        raise UserError(f"{type(env).__name__}.exploration: {error}; known: {', '.join(known)}")
    return dict(env.exploration)


def collect(
    env: GoalEnv,
    config: CollectConfig,
    seed: int,
    folder: Path,
    progress: bool | Progress = True,
    workers: int = 1,
    learned: Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> Dataset:
    """The dataset in ``folder``, collected first where it is not there yet.

    ``env`` comes from ``gymnasium.make``, which records how to make it again. With ``workers`` above 1 processes share
    what takes long; then the main module must be one that can be imported again. ``learned`` is the folder of the
    policy "sac" (``sac_policy.py``). ``say`` is told what a large collection will take, after its first episodes.

    Raises:
        UserError: the folder holds another dataset, a policy is not known, or the disk has no room.
    """
    folder, env_id, config = Path(folder), _spec(env).id, config.of(env)
    fractions = {"train": config.train, "val": config.val, "test": config.test}
    splits = split_episodes(config.episodes, fractions, stream(seed, "collect", env_id, "splits"))
    worlds = episode_worlds(config.factors, config.episodes, splits["train"], seed, env_id)
    recipe = {**described(env), "seed": seed, "config": config.recipe(), **_varied(env, config, worlds)}
    if (folder / "meta.json").exists() and (dataset := Dataset.open(folder)).meta.recipe == recipe:
        return dataset
    names = episode_policies([*env.policies(), LEARNED], config, stream(seed, "collect", env_id, "policies"))
    if LEARNED in names and learned is None:
        raise unknown("policy", LEARNED, env.policies())
    with DatasetWriter(folder, recipe) as writer, _reporter(config, progress, writer) as report:
        most = min(config.chunk, max(1, _CHUNK_BYTES // _episode_bytes(env, config)))
        parts = [
            Part(tuple(numbers), tuple(names[n] for n in numbers), seed, tuple(worlds[n] for n in numbers))
            for numbers in _ranges(len(writer.ends), config.episodes, most, workers)
        ]
        # Closed at once when something is raised here: its processes must not outlive it.
        with closing(_roll_parts(env, config.steps, learned, parts, workers, folder / _PARTS)) as rolled:
            before, begin = folder_bytes(folder), time.perf_counter()
            for part, episodes in zip(parts, rolled, strict=True):
                for number, name, episode in zip(part.numbers, part.policies, episodes, strict=True):
                    writer.add(episode, name)
                    report(number + 1, config.episodes)
                    status.at(number + 1, config.episodes)
                writer.checkpoint()
                if part is parts[0]:
                    seconds = (time.perf_counter() - begin) / share(env, workers)
                    _look_ahead(folder, config.episodes, part, folder_bytes(folder) - before, seconds, say)
        return writer.finish(
            **described(env),
            action_low=env.action_space.low,
            action_high=env.action_space.high,
            seed=seed,
            splits=splits,
        )


def _varied(env: GoalEnv, config: CollectConfig, worlds: Sequence[Shift]) -> dict[str, Any]:
    """What a recipe says of the episodes' worlds: nothing where there is one.

    Raises:
        UserError: the environment has no such factor.
    """
    for name in config.factors:
        env.shifted(name, 0)
    return {WORLDS: [list(world) for world in worlds]} if config.factors else {}


def _look_ahead(
    folder: Path, episodes: int, first: Part, written: int, seconds: float, say: Callable[[str], None]
) -> None:
    """Say what the episodes after the first part will take, if it is much; raise a UserError if there is no room."""
    count, done = len(first.numbers), first.numbers[-1] + 1
    estimate = Estimate(done, episodes - done, written / count, seconds / count)
    if estimate.worth_a_line:
        say(str(estimate))
    estimate.require_room(folder)


def share(env: GoalEnv, workers: int) -> int:
    """How many episodes are rolled at once where that is worth it."""
    return workers if isinstance(_spec(env).entry_point, str) else 1


def _ranges(done: int, episodes: int, most: int, workers: int) -> Iterator[range]:
    """The episodes that are left, in parts of at most ``most``.

    With several workers the first part is small, because it is only timed, and the others are several for each.
    """
    first, even = (TIMED, -(-(episodes - done) // (4 * workers))) if workers > 1 else (most, most)
    begin, size = done, min(first, most)
    while begin < episodes:
        yield range(begin, min(begin + size, episodes))
        begin, size = begin + size, max(1, min(even, most))


def _episode_bytes(env: GoalEnv, config: CollectConfig) -> int:
    return int(np.prod(env.observation_space.shape)) * (config.steps + 1)


@dataclass(frozen=True)
class Part:
    """Episodes that are rolled in lock step: their numbers, policies and worlds, and the seed of all."""

    numbers: tuple[int, ...]
    policies: tuple[str, ...]
    seed: int
    worlds: tuple[Shift, ...] = ()  # none: the trained one for all

    def of_world(self, world: Shift) -> Part:
        """The episodes in one world."""
        mine = [n for n, other in enumerate(self.worlds) if other == world]
        return Part(tuple(self.numbers[n] for n in mine), tuple(self.policies[n] for n in mine), self.seed)


def _roll_parts(
    env: GoalEnv, steps: int, learned: Path | None, parts: Sequence[Part], workers: int, scratch: Path
) -> Iterator[Iterator[Episode]]:
    """The parts in order. The first is rolled here; if the rest would take long, by ``workers`` processes."""
    if not parts:
        return
    policies = _policies(env, learned)
    begin = time.perf_counter()
    yield _roll(env, steps, policies, parts[0])
    seconds, rest = time.perf_counter() - begin, parts[1:]
    left = seconds / len(parts[0].numbers) * sum(len(part.numbers) for part in rest)
    # An environment whose class is not found by name is known to this process only.
    if workers < 2 or left < _WORTH_PROCESSES or not isinstance(_spec(env).entry_point, str):
        yield from (_roll(env, steps, policies, part) for part in rest)
        return
    order = _Order(_spec(env), steps, learned, scratch)
    with _emptied(scratch), process_pool(workers, _start_worker, order) as processes:
        try:
            yield from map(_load, _in_order(processes, rest, 2 * workers))
        except BrokenProcessPool:
            raise UserError(
                "a process that collects was ended from outside, probably for its memory; the same command goes on "
                "where it stopped, with --set collect.chunk=1 it needs less"
            )


@dataclass(frozen=True)
class _Order:
    """What a process of the pool needs to know."""

    spec: EnvSpec
    steps: int
    learned: Path | None
    scratch: Path


def _in_order(processes: ProcessPoolExecutor, parts: Sequence[Part], most: int) -> Iterator[Path]:
    """The files of the parts, of which at most ``most`` are worked on or wait for their turn."""

    def begin(part: Part) -> Future[Path]:
        return submit(processes, _roll_in_worker, part)

    waiting = deque(map(begin, parts[:most]))
    for part in [*parts[most:], *[None] * len(waiting)]:
        yield waiting.popleft().result()
        if part is not None:
            waiting.append(begin(part))


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """A folder that is there in this context only; what a killed process has left in it is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_order: _Order | None = None
_made: list[GoalEnv] = []
"""In a process of the pool: what to do, and the environment once it is made."""


def _start_worker(order: _Order) -> None:
    global _order
    _order = order


def _roll_in_worker(part: Part) -> Path:
    assert _order is not None
    if not _made:  # not at the start of the process, where an error could not say what it is
        _made.append(gym.make(_order.spec, disable_env_checker=True).unwrapped)
    path = _order.scratch / f"{part.numbers[0]}.npy"
    _save(path, _roll(_made[0], _order.steps, _policies(_made[0], _order.learned), part))
    return path


def _save(path: Path, episodes: Iterator[Episode]) -> None:
    """Write episodes into a file, one in memory at a time."""
    with disk_errors(path), path.open("wb") as file:
        for episode in episodes:
            for values in (episode.frames, episode.states, episode.actions):
                np.save(file, values, allow_pickle=False)


def _load(path: Path) -> Iterator[Episode]:
    """The episodes of a file, one in memory at a time; then it is deleted."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            yield Episode(*(np.load(file, allow_pickle=False) for _ in range(3)))
    path.unlink()


def _policies(env: GoalEnv, learned: Path | None) -> Mapping[str, PolicyFactory]:
    """The environment's policies and the learned one."""
    if learned is None:
        return env.policies()
    return {**env.policies(), LEARNED: load_sac_policy(env, learned)}


def _spec(env: GoalEnv) -> EnvSpec:
    if env.spec is None:
        raise ValueError("the environment has no spec; make it with gymnasium.make(...).unwrapped")
    return env.spec


def described(env: GoalEnv) -> dict[str, Any]:
    """What it takes to make the environment again, as JSON gives it back."""
    spec = _spec(env)
    try:
        return {"env": spec.id, "env_kwargs": json.loads(json.dumps(spec.kwargs))}
    except TypeError as error:
        raise UserError(f"the arguments of {spec.id} are stored as JSON, so use plain numbers and strings ({error})")


def episode_policies(known: Collection[str], config: CollectConfig, rng: np.random.Generator) -> list[str]:
    """The policy of each episode, in random order, with the counts that the fractions ask for."""
    for name in config.policies:
        if name not in known:
            raise unknown("policy", name, known)
    counts = apportion(config.episodes, config.policies)
    names = [name for name in sorted(counts) for _ in range(counts[name])]
    return [names[i] for i in rng.permutation(len(names))]


def _roll(env: GoalEnv, steps: int, factories: Mapping[str, PolicyFactory], part: Part) -> Iterator[Episode]:
    """The episodes of a part, moved in lock step and drawn one by one, since frames are what takes memory.

    Each has frames (T+1, h, w, 3) uint8, states (T+1, X) float64 and actions (T, action_dim) float32.
    """
    rolled: dict[int, Iterator[Episode]] = {}
    for world in sorted(set(part.worlds) or {TRAINED}):
        changed, mine = in_world(env, world), part.of_world(world) if part.worlds else part
        policies = factories if changed is env else policies_in(changed, factories)
        episodes = _episodes(changed, *_moved(changed, steps, policies, mine))
        rolled |= dict.fromkeys(mine.numbers, episodes)
    for number in part.numbers:
        yield next(rolled[number])


def _episodes(world: GoalEnv, states: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> Iterator[Episode]:
    """Episodes from what moved in a world: (N, T+1, Y) states of it, (N, T, action_dim) actions and (N,) lengths."""
    for n, length in enumerate(lengths.tolist()):
        seen = states[n, : length + 1].copy()
        yield Episode(_drawn(world, seen), world.lower(states[n, : length + 1]), actions[n, :length])


def _drawn(env: GoalEnv, states: np.ndarray) -> np.ndarray:
    """The frames (N, h, w, 3) uint8 of states (N, X)."""
    frames, wanted = env.render_states(states), (len(states), *env.observation_space.shape)
    if not isinstance(frames, np.ndarray) or frames.shape != wanted or frames.dtype != np.uint8:
        found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else short_repr(frames)
        raise UserError(f"render_states must return uint8 {wanted}, got {found}; mend the environment")
    return frames


def _moved(
    env: GoalEnv, steps: int, factories: Mapping[str, PolicyFactory], part: Part
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States (N, steps+1, X), executed actions (N, steps, action_dim) and how many of them (N,), of a part."""

    def streams(purpose: str) -> list[np.random.Generator]:
        return [stream(part.seed, "collect", _spec(env).id, purpose, number) for number in part.numbers]

    low, high = env.action_space.low, env.action_space.high
    of_policy, chosen = streams("policy"), np.asarray(part.policies)
    groups = {name: np.flatnonzero(chosen == name) for name in sorted(set(part.policies))}
    acts = {name: factories[name]([of_policy[n] for n in group]) for name, group in groups.items()}
    start = np.stack([env.sample_state(rng) for rng in streams("start")])
    if env.over(start).any():
        raise UserError(f"{_spec(env).id} begins an episode in a state that is over; sample_state must not return one")
    states = np.empty((len(chosen), steps + 1, start.shape[1]))
    actions = np.empty((len(chosen), steps, *env.action_space.shape), np.float32)
    states[:, 0] = start
    lengths, going = np.full(len(chosen), steps), np.arange(len(chosen))
    for t in range(steps):
        for name, group in groups.items():
            actions[group, t] = np.clip(acts[name](states[group, t]), low, high)  # what is stored is what was executed
        states[:, t + 1] = states[:, t]  # where an episode is over it stays
        states[going, t + 1] = env.simulate(states[going, t], actions[going, t, None])[:, 0]
        ended = env.over(states[going, t + 1])
        lengths[going[ended]], going = t + 1, going[~ended]
        if not len(going):
            break
    return states, actions, lengths


@contextmanager
def _reporter(config: CollectConfig, progress: bool | Progress, writer: DatasetWriter) -> Iterator[Progress]:
    """A function to call after every episode: a progress bar on stderr, the caller's own, or nothing."""
    if callable(progress):
        yield progress
        return
    with tqdm(total=config.episodes, desc="collect", unit="episode", disable=not progress) as bar:

        def update(done: int, _: int) -> None:
            bar.update(done - bar.n)
            rate = bar.format_dict["rate"] or done / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{rate * writer.ends[-1] / len(writer.ends):.0f} frames/s", refresh=False)

        yield update
