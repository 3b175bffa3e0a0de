"""What stands in the place of an environment where data were recorded and nothing can simulate them, on a robot for instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import NotRun
from lewm_bench.core.shift import Factor

RECORDED_ID = "recorded/Episodes-v0"
WHY = "its data were recorded and there is no simulator"


def register_recorded() -> None:
    """Register the id of recorded data with Gymnasium; it is no environment to choose, so no list shows it."""
    if RECORDED_ID not in gym.registry:
        gym.register(RECORDED_ID, "lewm_bench.data.recorded:RecordedEnv")


class RecordedEnv(GoalEnv):
    """Spaces and recorded numbers, and nothing that moves or can be drawn: models train on such data and are examined.

    A state is what was recorded beside the frames. No state ever counts as reached.

    Raises:
        NotRun: it is asked to simulate or to draw.
    """

    threshold = 0.0
    distance_unit = "recorded numbers"

    def __init__(
        self,
        action_low: Sequence[float],
        action_high: Sequence[float],
        state_size: int,
        image_size: int = 64,
        render_mode: str = "rgb_array",
    ) -> None:
        self.action_space = gym.spaces.Box(np.float32(action_low), np.float32(action_high), dtype=np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._state = np.zeros(state_size)

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        self._state = np.array(state, np.float64)

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.asarray(states) - np.asarray(goals), axis=-1)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"recorded": states}

    def factors(self) -> Mapping[str, Factor]:
        """None: nothing else can be drawn or done than what was recorded."""
        return {}

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        _refuse("no other state can be drawn")

    def advance(self, action: np.ndarray) -> None:
        _refuse("planning cannot be scored")

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        _refuse("planning cannot be scored")

    def render(self) -> np.ndarray:
        _refuse("no frame can be drawn")

    def render_states(self, states: np.ndarray) -> np.ndarray:
        _refuse("no frame can be drawn")

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        _refuse("no other state can be drawn")


def _refuse(what: str) -> NoReturn:
    raise NotRun(f"{what}: {WHY}; training and `lewm-bench understand` work")


def recorded_kwargs(
    actions_low: np.ndarray, actions_high: np.ndarray, state_size: int, image_size: int
) -> dict[str, Any]:
    """The arguments of ``RecordedEnv``, as JSON gives them back."""
    return {
        "action_low": np.asarray(actions_low, float).tolist(),
        "action_high": np.asarray(actions_high, float).tolist(),
        "state_size": state_size,
        "image_size": image_size,
    }
