"""A point in a box, drawn as a blob: the smallest environment with every property that the benchmark asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory

TOY_ID = "tests/Toy-v0"


class ToyEnv(GoalEnv):
    """State (x, y) in [-1, 1]^2; an action moves the point by 0.1 of itself, and walls stop it."""

    threshold = 0.1
    distance_unit = "box half-widths"

    def __init__(self, size: int = 16, speed: float = 0.1) -> None:
        self.size, self.speed = size, speed
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._state = np.zeros(2)

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, 2)

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        self._state = np.array(state, np.float64)

    def advance(self, action: np.ndarray) -> None:
        self._state = self.simulate(self._state[None], np.asarray(action)[None, None])[0, 0]

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.sqrt(((states - goals) ** 2).sum(-1))

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray:
        grid = np.linspace(-1.2, 1.2, self.size)
        red = [pictures[..., 0].astype(np.float64) + 1e-9 for pictures in (frames, goals)]
        here, there = (np.stack([r.sum(1) @ grid, r.sum(2) @ grid], -1) / r.sum((1, 2))[:, None] for r in red)
        return np.clip((there - here) / self.speed, -1, 1)

    def render(self) -> np.ndarray:
        return self.render_states(self._state[None])[0]

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        steps = np.clip(np.asarray(actions, np.float64), -1, 1) * self.speed
        out = np.empty((*actions.shape[:2], 2))
        for t in range(actions.shape[1]):
            states = np.clip(states + steps[:, t], -1, 1)
            out[:, t] = states
        return out

    def render_states(self, states: np.ndarray) -> np.ndarray:
        grid = np.linspace(-1.2, 1.2, self.size)
        x = np.exp(-(((grid - states[:, :1]) / 0.25) ** 2))  # (N, w)
        y = np.exp(-(((grid - states[:, 1:]) / 0.25) ** 2))
        blob = (255 * y[:, :, None] * x[:, None, :]).astype(np.uint8)
        background = np.broadcast_to((grid > 0).astype(np.uint8) * 60, blob.shape)
        return np.stack([blob, background, 255 - blob], axis=-1)

    def policies(self) -> Mapping[str, PolicyFactory]:
        return {"jitter": _jitter, "drift": _drift, "still": _still}


def _jitter(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    return lambda states: np.stack([rng.uniform(-1.5, 1.5, 2) for rng in rngs])  # beyond the bounds, to be clipped


def _drift(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    directions = np.stack([rng.normal(size=2) for rng in rngs])

    def act(states: np.ndarray) -> np.ndarray:
        directions[np.abs(states) >= 1] *= -1
        return directions * 0.3 + np.stack([rng.normal(0, 0.1, 2) for rng in rngs])

    return act


def _still(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    return lambda states: np.zeros((len(rngs), 2))


def make_toy(**kwargs: Any) -> ToyEnv:
    """The environment as ``gymnasium.make`` makes it, without its wrappers."""
    if TOY_ID not in gym.registry:
        gym.register(TOY_ID, entry_point=ToyEnv)
    return gym.make(TOY_ID, **kwargs).unwrapped
