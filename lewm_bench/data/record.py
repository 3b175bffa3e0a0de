"""Any loop's episodes as a dataset: a Gymnasium wrapper that writes down what is seen and done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.resize import area_mean
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Episode
from lewm_bench.data.collect import CollectConfig, described
from lewm_bench.data.format import Dataset
from lewm_bench.data.recorded import RECORDED_ID, recorded_kwargs
from lewm_bench.data.splits import split_episodes
from lewm_bench.data.writer import DatasetWriter

RECORDED = "record"  # in a dataset's recipe


class RecordTrajectories(gym.Wrapper):
    """Writes every episode, without rewards, into ``folder``, whatever drives the environment.

    An episode ends when the environment says so or is reset; one without an action is left out. ``close`` ends the
    last episode and completes the dataset, which only then is one. If the process ends before, the episodes that were
    over are kept, and a recorder of the same environment and folder goes on behind them.

    Frames are ``render()`` of our environments, the observation where it is a picture (h, w, 3) uint8, and ``render()``
    elsewhere. States are those of our environments (adapted ones too), the observation where it is a flat vector, and
    one zero elsewhere; then there is no simulator, so models can be trained and examined but not scored. A discrete
    action is stored as one number per choice: 1 for the chosen one, -1 for the others.

    Put it next to the environment, inside of wrappers that change actions.

    Args:
        image_size: side of the stored frames in pixels; of our environments their own, else as they are drawn.
        policy: what the dataset calls who acts.

    Raises:
        UserError: there are no frames, actions are neither discrete nor a Box, or the folder holds something else.
    """

    def __init__(
        self, env: gym.Env, folder: Path | str, *, image_size: int | None = None, policy: str = "recorded"
    ) -> None:
        super().__init__(env)
        self._goal_env = env.unwrapped if isinstance(env.unwrapped, GoalEnv) else None
        self._size, self._policy = image_size, policy
        self._actions = _StoredActions(env.action_space)
        if self._goal_env is not None and image_size not in (None, self._goal_env.observation_space.shape[0]):
            raise UserError("image_size is an argument of this environment; give it to gymnasium.make instead")
        self._folder = Path(folder)
        self._writer: DatasetWriter | None = None
        self._frames: list[np.ndarray] = []
        self._states: list[np.ndarray] = []
        self._done: list[np.ndarray] = []
        self._finished: Dataset | None = None

    @property
    def recorded(self) -> int:
        """Episodes that are over, those of an interrupted recording included once there was a reset."""
        return len(self._writer.ends) if self._writer else 0

    @property
    def dataset(self) -> Dataset | None:
        """What was recorded, once it is closed; None before, and if nothing was."""
        return self._finished

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._end_episode()
        observation, info = self.env.reset(seed=seed, options=options)
        self._see(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        stored = self._actions(action)  # before an environment can change it
        taken = action if self._goal_env is None else stored.copy()  # rounded, so that it can be done again to the bit
        observation, reward, terminated, truncated, info = self.env.step(taken)
        if self._frames:  # else the episode is over and the loop goes on without a reset
            self._done.append(stored)
            self._see(observation)
            if terminated or truncated:
                self._end_episode()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        if self._writer is not None:
            self._end_episode()
            if self._writer.ends:
                self._finished = self._finish(self._writer)
            self._writer.__exit__(None, None, None)
            self._writer = None
        super().close()

    def _see(self, observation: Any) -> None:
        self._frames.append(self._frame(observation))
        self._states.append(self._state(observation))
        if self._writer is None:  # what is recorded is known only now
            self._writer = DatasetWriter(self._folder, {RECORDED: self._made_by()}).__enter__()

    def _end_episode(self) -> None:
        if self._done and self._writer:
            episode = Episode(np.stack(self._frames), np.stack(self._states), np.stack(self._done))
            self._writer.add(episode, self._policy)
            self._writer.checkpoint()
        self._frames, self._states, self._done = [], [], []

    def _frame(self, observation: Any) -> np.ndarray:
        """(h, w, 3) uint8 of now."""
        if self._goal_env is not None:
            return self._goal_env.render()
        picture = observation if _is_picture(observation) else self.env.render()
        if not _is_picture(picture):
            raise UserError(
                f"there are no frames to record: neither the observation nor render() is a picture (h, w, 3) uint8, got "
                f"{short_repr(picture)}; make the environment with render_mode='rgb_array'"
            )
        height, width = picture.shape[:2]
        if self._size is None and height != width:
            raise UserError(
                f"the frames are {height} x {width}; agents see square ones: give image_size, for example 224"
            )
        size = self._size or height
        return picture.copy() if (height, width) == (size, size) else area_mean(picture, size, size)

    def _state(self, observation: Any) -> np.ndarray:
        if self._goal_env is not None:
            return self._goal_env.get_state()
        flat = isinstance(observation, np.ndarray) and observation.ndim == 1
        return np.array(observation, np.float64) if flat else np.zeros(1)

    def _finish(self, writer: DatasetWriter) -> Dataset:
        config = CollectConfig()
        fractions = {"train": config.train, "val": config.val, "test": config.test}
        splits = split_episodes(len(writer.ends), fractions, stream(0, "record", "splits"))
        low, high = self._actions.low, self._actions.high
        made = writer.recipe[RECORDED]
        return writer.finish(
            env=made["env"], env_kwargs=made["env_kwargs"], action_low=low, action_high=high, seed=0, splits=splits
        )

    def _made_by(self) -> dict[str, Any]:
        """How to make the environment again, or what was recorded of one that cannot be put into a state."""
        if self._goal_env is not None:
            return described(self._goal_env)
        size, states = self._frames[0].shape[0], self._states[0].size
        spec = self.env.spec
        kwargs = recorded_kwargs(self._actions.low, self._actions.high, states, size)
        return {"env": RECORDED_ID, "env_kwargs": kwargs, "of": spec.id if spec else type(self.env.unwrapped).__name__}


def _is_picture(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3


class _StoredActions:
    """Actions of an environment as flat float32 vectors.

    Raises:
        UserError: the space is neither Discrete nor a Box.
    """

    def __init__(self, space: gym.Space) -> None:
        self._space = space
        if isinstance(space, gym.spaces.Discrete):
            self.low, self.high = -np.ones(int(space.n)), np.ones(int(space.n))
        elif isinstance(space, gym.spaces.Box):
            self.low, self.high = space.low.ravel().astype(float), space.high.ravel().astype(float)
        else:
            raise UserError(f"actions {short_repr(space)} cannot be recorded; a Box and Discrete can")

    def __call__(self, action: Any) -> np.ndarray:
        if isinstance(self._space, gym.spaces.Discrete):
            return np.where(np.arange(int(self._space.n)) == int(action) - int(self._space.start), 1, -1).astype(
                np.float32
            )
        return np.clip(np.asarray(action, np.float32).ravel(), self.low, self.high).astype(np.float32)
