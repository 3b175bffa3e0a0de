"""Reward-free data: exploratory policies drive the environment, all episodes of a chunk in lock step.

An episode depends on the seed, the environment and its own number, not on the chunk size: each has its own generators
for the start state and for the policy. A killed collection goes on after its last complete chunk, and a folder that
already holds the wanted dataset is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from pydantic import Field, model_validator
from tqdm import tqdm

from lewm_bench.config import Config
from lewm_bench.data import Dataset, DatasetWriter, apportion, split_episodes
from lewm_bench.env import GoalEnv
from lewm_bench.errors import UserError, unknown
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
    """The dataset in ``folder``, collected first where it is not there yet.

    ``env`` comes from ``gymnasium.make``, which records how to make it again.

    Raises:
        UserError: the folder holds another dataset, or a policy is not known.
    """
    folder, env_id = Path(folder), _spec(env).id
    recipe = {**_description(env), "seed": seed, "config": config.model_dump(mode="json", exclude={"chunk"})}
    if (folder / "meta.json").exists() and (dataset := Dataset.open(folder)).meta.recipe == recipe:
        return dataset
    policies = episode_policies(env, config, stream(seed, "collect", env_id, "policies"))
    fractions = {"train": config.train, "val": config.val, "test": config.test}
    with DatasetWriter(folder, recipe) as writer, _reporter(config, progress) as report:
        for begin in range(len(writer.ends), config.episodes, config.chunk):
            numbers = range(begin, min(begin + config.chunk, config.episodes))
            states, actions = _roll(env, policies[begin : numbers.stop], _streams(seed, env_id, numbers), config.steps)
            for n in numbers:
                episode = Episode(env.render_states(states[n - begin]), states[n - begin], actions[n - begin])
                writer.add(episode, policies[n])
                report(n + 1, config.episodes)
            writer.checkpoint()
        return writer.finish(
            **_description(env),
            action_low=env.action_space.low,
            action_high=env.action_space.high,
            seed=seed,
            splits=split_episodes(config.episodes, fractions, stream(seed, "collect", env_id, "splits")),
        )


def _spec(env: GoalEnv) -> EnvSpec:
    if env.spec is None:
        raise ValueError("the environment has no spec; make it with gymnasium.make(...).unwrapped")
    return env.spec


def _description(env: GoalEnv) -> dict[str, Any]:
    """What it takes to make the environment again, as JSON gives it back."""
    spec = _spec(env)
    try:
        return {"env": spec.id, "env_kwargs": json.loads(json.dumps(spec.kwargs))}
    except TypeError as error:
        raise UserError(f"the arguments of {spec.id} are stored as JSON, so use plain numbers and strings ({error})")


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
