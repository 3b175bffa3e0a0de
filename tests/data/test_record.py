"""Recorded trajectories are datasets that the simulator does again."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Episode
from lewm_bench.data.adapt import register_env
from lewm_bench.data.format import Dataset
from lewm_bench.data.recorded import RECORDED_ID
from lewm_bench.record import RecordTrajectories
from lewm_bench.run.environments import load_plugins
from lewm_bench.run.reproduction import disagreement

TWOROOM = "lewm_bench/TwoRoom-v0"


def walk(env: RecordTrajectories, episodes: int, seed: int = 0) -> None:
    """Random actions until so many episodes are over."""
    env.action_space.seed(seed)
    env.reset(seed=seed)
    for _ in range(episodes):
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
        env.reset()


def tworoom() -> gym.Env:
    load_plugins()
    return gym.make(TWOROOM, image_size=16, max_episode_steps=5, disable_env_checker=True)


def episodes_in(folder: Path) -> list[Episode]:
    return list(Dataset.open(folder))


def test_our_environments_are_done_again_to_the_bit(tmp_path: Path) -> None:
    env = RecordTrajectories(tworoom(), tmp_path / "data")
    walk(env, 3)
    env.close()
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.meta.env == TWOROOM and dataset.meta.env_kwargs == {"image_size": 16}
    assert dataset.lengths.tolist() == [6, 6, 6]
    inner = env.unwrapped
    for episode in dataset:
        again = inner.simulate(episode.states[:1], episode.actions[None])[0]
        np.testing.assert_array_equal(again, episode.states[1:])
        np.testing.assert_array_equal(inner.render_states(episode.states), episode.frames)
    assert disagreement(inner, dataset) == ""
    assert env.dataset.fingerprint == dataset.fingerprint


def test_an_interrupted_recording_goes_on(tmp_path: Path) -> None:
    whole, part = (RecordTrajectories(tworoom(), tmp_path / name) for name in ("whole", "part"))
    for seed in range(4):
        walk(whole, 1, seed)
    whole.close()
    walk(part, 1, 0)
    walk(part, 1, 1)
    part.step(part.action_space.sample())  # of an episode that is lost: the process ends here
    assert not (tmp_path / "part/meta.json").exists()
    part = RecordTrajectories(tworoom(), tmp_path / "part")
    walk(part, 1, 2)
    assert part.recorded == 3
    walk(part, 1, 3)
    part.close()
    for found, wanted in zip(episodes_in(tmp_path / "part"), episodes_in(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(found.frames, wanted.frames)
        np.testing.assert_array_equal(found.actions, wanted.actions)


def test_a_reset_ends_an_episode_and_one_without_actions_is_left_out(tmp_path: Path) -> None:
    env = RecordTrajectories(tworoom(), tmp_path / "data")
    env.reset(seed=0)
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))
    env.reset(seed=2)
    env.step(np.full(2, 3.0))  # clipped, as the environment does
    env.close()
    env.close()
    found = episodes_in(tmp_path / "data")
    assert [len(each.actions) for each in found] == [1, 1]
    np.testing.assert_array_equal(found[1].actions, [[1, 1]])


def test_a_reused_action_is_stored_as_it_was(tmp_path: Path) -> None:
    env, action = RecordTrajectories(tworoom(), tmp_path / "data"), np.zeros(2, np.float32)
    env.reset(seed=0)
    for value in (0.1, 0.2, 0.3):
        action[:] = value
        env.step(action)
    env.close()
    np.testing.assert_allclose(episodes_in(tmp_path / "data")[0].actions[:, 0], [0.1, 0.2, 0.3])


def test_adapted_environments(tmp_path: Path) -> None:
    register_env("tests/RecordedPole-v0", "CartPole-v1", threshold=0.1, state="replay", frame="test_record:squares")
    made = gym.make("tests/RecordedPole-v0", image_size=16, disable_env_checker=True)
    env = RecordTrajectories(made, tmp_path / "data")
    walk(env, 2)
    env.close()
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.meta.env == "tests/RecordedPole-v0" and dataset.actions.shape[1] == 2
    assert disagreement(env.unwrapped, dataset) == ""


def squares(env: gym.Env) -> np.ndarray:
    """A picture of the pole's angle."""
    return np.full((16, 16, 3), int(127 + 200 * env.unwrapped.state[2]), np.uint8)


class Drawn(gym.Wrapper):
    """Without a window."""

    def render(self) -> np.ndarray:
        return np.full((20, 30, 3), 7, np.uint8)


def test_plain_environments(tmp_path: Path) -> None:
    env = RecordTrajectories(Drawn(gym.make("CartPole-v1")), tmp_path / "data", image_size=16)
    walk(env, 2)
    env.close()
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.meta.env == RECORDED_ID and dataset.meta.env_kwargs["state_size"] == 4
    assert dataset.frames.shape[1:] == (16, 16, 3) and (dataset.frames[:] == 7).all()
    executed = dataset.actions[np.isfinite(dataset.actions).all(1)]
    assert set(map(tuple, executed.tolist())) == {(1, -1), (-1, 1)}


def test_observations_that_are_pictures(tmp_path: Path) -> None:
    class Camera(gym.ObservationWrapper):
        observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return np.full((16, 16, 3), 9, np.uint8)

    env = RecordTrajectories(Camera(gym.make("CartPole-v1")), tmp_path / "data")
    walk(env, 1)
    env.close()
    assert (env.dataset.frames[:] == 9).all() and env.dataset.states.shape[1] == 1


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="render_mode='rgb_array'"):
        RecordTrajectories(gym.make("CartPole-v1"), tmp_path / "a").reset()
    with pytest.raises(UserError, match="give image_size"):
        RecordTrajectories(Drawn(gym.make("CartPole-v1")), tmp_path / "b").reset()
    with pytest.raises(UserError, match=r"gymnasium\.make"):
        RecordTrajectories(tworoom(), tmp_path / "c", image_size=20)
    env = RecordTrajectories(tworoom(), tmp_path / "d")
    walk(env, 1)
    env.close()
    with pytest.raises(UserError, match="already holds a dataset"):
        RecordTrajectories(tworoom(), tmp_path / "d").reset()
