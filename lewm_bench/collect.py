"""Reward-free data: exploratory policies drive the environment, all episodes of a chunk in lock step.

An episode depends on the seed, the environment and its own number, not on the chunk size: each has its own generators
for the start state and for the policy. A killed collection starts again from the first episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator
from tqdm import tqdm

from lewm_bench.config import Config
from lewm_bench.data import Dataset, DatasetWriter, apportion, split_episodes
from lewm_bench.env import GoalEnv
from lewm_bench.errors import unknown
from lewm_bench.rng import stream
from lewm_bench.types import Episode

Progress = Callable[[int, int], None]
"""Called with the episodes collected so far and their total."""


class CollectConfig(Config):
    """How much data, from which policies, and how it is split."""

    episodes: int = Field(400, ge=1)
    steps: int = Field(100, ge=1)  # actions per episode; one more frame
    policies: dict[str, float] = Field(default={"ornstein_uhlenbeck": 0.5, "waypoints": 0.5}, min_length=1)
    train: float = Field(0.75, ge=0)
    val: float = Field(0.10, ge=0)
    test: float = Field(0.15, ge=0)
    chunk: int = Field(64, ge=1)  # parallel episodes; changes the speed only

    @model_validator(mode="after")
    def _check(self) -> CollectConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {self.train + self.val + self.test}, not to 1")
        if min(self.policies.values()) < 0 or abs(sum(self.policies.values()) - 1) > 1e-6:
            raise ValueError(f"the fractions of policies must add up to 1, got {self.policies}")
        return self


def collect(env: GoalEnv, config: CollectConfig, seed: int, folder: Path, progress: bool | Progress = True) -> Dataset:
    """Collect a dataset into ``folder``; ``env`` comes from ``gymnasium.make``, which says how to make it again."""
    if env.spec is None:
        raise ValueError("the environment has no spec; make it with gymnasium.make(...).unwrapped")
    env_id = env.spec.id
    policies = episode_policies(env, config, stream(seed, "collect", env_id, "policies"))
    fractions = {"train": config.train, "val": config.val, "test": config.test}
    with DatasetWriter(folder) as writer, _reporter(config, progress) as report:
        for begin in range(0, config.episodes, config.chunk):
            numbers = range(begin, min(begin + config.chunk, config.episodes))
            chunk = [policies[n] for n in numbers]
            states, actions = _roll(env, chunk, _streams(seed, env_id, numbers), config.steps)
            for n, policy in enumerate(chunk):
                writer.add(Episode(env.render_states(states[n]), states[n], actions[n]), policy)
                report(numbers[n] + 1, config.episodes)
        return writer.finish(
            env=env_id,
            env_kwargs=env.spec.kwargs,
            action_low=env.action_space.low,
            action_high=env.action_space.high,
            seed=seed,
            splits=split_episodes(config.episodes, fractions, stream(seed, "collect", env_id, "splits")),
            recipe=config.model_dump(exclude={"chunk"}),
        )


def episode_policies(env: GoalEnv, config: CollectConfig, rng: np.random.Generator) -> list[str]:
    """The policy of each episode, in random order, with the counts that the fractions ask for."""
    known = env.policies()
    for name in config.policies:
        if name not in known:
            raise unknown("policy", name, known)
    counts = apportion(config.episodes, config.policies)
    names = [name for name in sorted(counts) for _ in range(counts[name])]
    return [names[i] for i in rng.permutation(len(names))]


Streams = dict[str, list[np.random.Generator]]


def _streams(seed: int, env_id: str, episodes: Sequence[int]) -> Streams:
    return {purpose: [stream(seed, "collect", env_id, purpose, e) for e in episodes] for purpose in ("start", "policy")}


def _roll(env: GoalEnv, names: Sequence[str], streams: Streams, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States (N, steps+1, X) float64 and actions (N, steps, action_dim) float32 of N parallel episodes."""
    factories, low, high = env.policies(), env.action_space.low, env.action_space.high
    groups = {name: np.flatnonzero(np.asarray(names) == name) for name in sorted(set(names))}
    acts = {name: factories[name]([streams["policy"][n] for n in group]) for name, group in groups.items()}
    start = np.stack([env.sample_state(rng) for rng in streams["start"]])
    states = np.empty((len(names), steps + 1, start.shape[1]))
    actions = np.empty((len(names), steps, *env.action_space.shape), np.float32)
    states[:, 0] = start
    for t in range(steps):
        for name, group in groups.items():
            actions[group, t] = np.clip(acts[name](states[group, t]), low, high)  # what is stored is what was executed
        states[:, t + 1] = env.simulate(states[:, t], actions[:, t, None])[:, 0]
    return states, actions


@contextmanager
def _reporter(config: CollectConfig, progress: bool | Progress) -> Iterator[Progress]:
    """A function to call after every episode: a progress bar on stderr, the caller's own, or nothing."""
    if callable(progress):
        yield progress
        return
    with tqdm(total=config.episodes, desc="collect", unit="episode", disable=not progress) as bar:

        def update(done: int, _: int) -> None:
            bar.update(done - bar.n)
            rate = bar.format_dict["rate"] or done / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{rate * (config.steps + 1):.0f} frames/s", refresh=False)

        yield update
