"""What can go wrong between an agent and the world: actions that are lost, late, noisy or weak, and frames that are old.

Letters as in ``core.shift``; K steps of delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_bench.core.exploration import finite_bounds
from lewm_bench.core.shift import Change, Clocked, World, normal, uniform

# Of the random numbers: the same at all levels, so that a stronger one loses what a weaker one does, and more.
_ACTIONS, _FRAMES, _NOISE = 1, 2, 3


def idle(world: World) -> np.ndarray:
    """(A,) float64: the action closest to none."""
    return np.clip(np.zeros(world.action_space.shape), world.action_space.low, world.action_space.high)


@dataclass(frozen=True)
class Lost(Clocked):
    """An action is not carried out, with probability ``share``; where nothing can be at rest the last one goes on."""

    share: float

    def begin(self, states: np.ndarray) -> np.ndarray:
        last = np.repeat(idle(self.world)[None], len(states), axis=0)
        return np.concatenate([super().begin(states), last], axis=1)

    def executed(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        lost = uniform(_ACTIONS, memory[:, 0, None], self._clock(memory, actions.shape[1])) < self.share  # (N, T)
        if self.world.can_rest:
            return np.where(lost[..., None], 0.0, actions)
        out, last = np.empty_like(actions), memory[:, 2:]
        for t in range(actions.shape[1]):
            out[:, t] = last = np.where(lost[:, t, None], last, actions[:, t])
        return out

    def remembered(self, states: np.ndarray, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        clock = super().remembered(states, actions, memory)
        last = np.zeros_like(actions) if self.world.can_rest else self.executed(actions, memory)
        return np.concatenate([clock, last], axis=-1)


@dataclass(frozen=True)
class Delayed(Change):
    """An action is carried out ``steps`` later; memory is the K actions that are under way, the next one first."""

    steps: int

    def begin(self, states: np.ndarray) -> np.ndarray:
        return np.tile(idle(self.world), (len(states), self.steps))

    def executed(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return self._all(actions, memory)[:, : actions.shape[1]]

    def remembered(self, states: np.ndarray, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        queue, steps = self._all(actions, memory), actions.shape[1]
        under_way = [queue[:, 1 + k : 1 + k + steps] for k in range(self.steps)]
        return np.concatenate(under_way, axis=-1)

    def _all(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, K + T, A): those under way, then the new ones."""
        return np.concatenate([memory.reshape(len(memory), self.steps, actions.shape[2]), actions], axis=1)


@dataclass(frozen=True)
class Noisy(Clocked):
    """Normal noise on every number of an action; ``std`` in half ranges of the action space."""

    std: float

    def executed(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        low, high = finite_bounds(self.world.action_space)
        key, clock = memory[:, 0, None, None], self._clock(memory, actions.shape[1])[..., None]
        noise = normal(_NOISE, key, clock, np.arange(actions.shape[2]))
        noisy = actions + self.std * (high - low) / 2 * noise
        return np.clip(noisy, self.world.action_space.low, self.world.action_space.high)


@dataclass(frozen=True)
class Scaled(Change):
    """Every action does ``scale`` of what it did."""

    scale: float

    def executed(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        del memory
        return self.scale * actions


@dataclass(frozen=True)
class Stale(Clocked):
    """A new frame is not there in time, with probability ``share``, and the last one is shown again.

    Memory holds the state that is shown.
    """

    share: float

    def begin(self, states: np.ndarray) -> np.ndarray:
        return np.concatenate([super().begin(states), states], axis=1)

    def remembered(self, states: np.ndarray, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        stale = uniform(_FRAMES, memory[:, 0, None], self._clock(memory, states.shape[1])) < self.share  # (N, T)
        shown, last = np.empty_like(states), memory[:, 2:]
        for t in range(states.shape[1]):
            shown[:, t] = last = np.where(stale[:, t, None], last, states[:, t])
        return np.concatenate([super().remembered(states, actions, memory), shown], axis=-1)

    def seen(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        del states
        return memory[:, 2:]
