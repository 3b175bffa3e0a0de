"""Exploratory policies for collecting data. Each episode draws from its own generator only, so a trajectory does not
depend on how many run side by side. Letters: N episodes side by side, A numbers of one action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import gymnasium as gym

BatchPolicy = Callable[[np.ndarray], np.ndarray]
"""(N, X) states of N parallel episodes to (N, action_dim) actions. Holds whatever evolves between steps."""


PolicyFactory = Callable[[Sequence[np.random.Generator]], BatchPolicy]
"""One generator per parallel episode to a fresh policy for them."""


OU_DECAY = 0.9  # correlation of an action with the next one: it turns after about ten steps
OU_STD = 0.7  # of the noise, in half ranges of the action space; about 15 % of the numbers reach its bounds
GENERIC = ("uniform", "ornstein_uhlenbeck")  # what ``generic_policies`` has
LEARNED = "sac"
"""The policy that is trained before it collects, for any environment."""


def check_shares(policies: Mapping[str, float]) -> None:
    """Raise a ValueError unless there is a policy and the fractions of episodes make sense."""
    fractions = list(policies.values())
    if not fractions or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        raise ValueError(f"the fractions of policies must add up to 1, got {dict(policies)}")


def finite_bounds(space: gym.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest number of each action that is drawn at random, float64 in the space's shape.

    Those of the space; 2 apart where it has one of them, and -1 and 1 where it has neither.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    low = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2, -1))
    return low, np.where(np.isfinite(high), high, low + 2)


def generic_policies(action_space: gym.spaces.Box) -> Mapping[str, PolicyFactory]:
    """The policies that need to know nothing of the environment but its actions."""
    return dict(zip(GENERIC, (uniform(action_space), ornstein_uhlenbeck(action_space)), strict=True))


def uniform(action_space: gym.spaces.Box) -> PolicyFactory:
    """Independent actions, uniform over the action space."""
    fit = _Scale(action_space)

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        def act(states: np.ndarray) -> np.ndarray:
            del states
            return fit(np.stack([rng.uniform(-1.0, 1.0, fit.size) for rng in rngs]))

        return act

    return start


def ornstein_uhlenbeck(action_space: gym.spaces.Box) -> PolicyFactory:
    """Actions that wander: stationary first-order noise around the middle of the action space, clipped to it."""
    fit = _Scale(action_space)
    kick = math.sqrt(1 - OU_DECAY**2)

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        noise = np.stack([rng.standard_normal(fit.size) for rng in rngs])  # (N, A), stationary from the first step

        def act(states: np.ndarray) -> np.ndarray:
            nonlocal noise
            del states
            actions = fit(OU_STD * noise)
            noise = OU_DECAY * noise + kick * np.stack([rng.standard_normal(fit.size) for rng in rngs])
            return actions

        return act

    return start


class _Scale:
    """(N, A) numbers, of which [-1, 1] spans the action space, to actions inside it."""

    def __init__(self, space: gym.spaces.Box) -> None:
        if len(space.shape) != 1:
            raise ValueError(f"actions must be flat vectors, got the shape {space.shape}")
        low, high = finite_bounds(space)
        self.size = space.shape[0]
        self._space, self._middle, self._half = space, (low + high) / 2, (high - low) / 2

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        actions = (self._middle + self._half * numbers).astype(self._space.dtype)
        return np.clip(actions, self._space.low, self._space.high)
