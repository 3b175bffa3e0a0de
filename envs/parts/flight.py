"""A ball that nothing touches, moved as MuJoCo moves it, to the last bit, but many at once.

Where no wall is near, a step of MuJoCo is six roundings for each axis. Written with numpy they cost a fraction of a step
of its engine, which looks for contacts, assembles matrices and solves. Letters: N balls, S physics steps.
"""

from __future__ import annotations

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from lewm_bench.envs.parts.maze import center_of

_FINE = 64  # cells of the map of what is clear, along each cell of the maze
_CHECKED = 200, 20  # balls and physics steps on which the arithmetic is compared with MuJoCo's
FASTEST = 1e6  # beyond which nothing is promised: MuJoCo resets a state that it holds for diverged


class FreeFlight:
    """Moves balls that are driven by forces along x and y and damped, and says which of them stayed clear of all walls."""

    def __init__(self, model: mujoco.MjModel, walls: np.ndarray, reach: float) -> None:
        """A ``model`` of one ball on two slides; it is clear where its centre is more than ``reach`` away from ``walls``."""
        self._model = model
        self._step, self._damping = model.opt.timestep, model.dof_damping[0]
        self._force = model.actuator_gear[0, 0]
        self._inverse = 1.0 / (model.body_mass[-1] + self._step * self._damping)  # Euler, implicit in the damping
        self._clear = clear_map(walls, reach)
        self._middle = np.array(walls.shape[::-1]) / 2
        self._last = np.array(self._clear.shape[::-1]) - 1.0

    def __call__(self, states: np.ndarray, actions: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, 4) states (x, y, vx, vy) and constant actions (N, 2) to the states after ``steps`` and (N,) bool.

        True where the ball was clear of walls at the beginning of each step, which is when MuJoCo looks for contacts.
        Elsewhere the state means nothing. Speeds must be below ``FASTEST``.
        """
        positions, speeds = states[:, :2].copy(), states[:, 2:].copy()
        push, change, seen = self._force * actions, np.empty_like(speeds), np.empty((steps, *positions.shape))
        for here in seen:
            here[:] = positions
            np.multiply(speeds, -self._damping, out=change)
            change += push
            change *= self._inverse
            change *= self._step
            speeds += change
            np.multiply(speeds, self._step, out=change)
            positions += change
        return np.concatenate([positions, speeds], axis=1), self.clear(seen).all(0)

    def clear(self, positions: np.ndarray) -> np.ndarray:
        """(..., 2) x, y to (...) bool; false outside the maze."""
        cells = positions + self._middle
        cells *= _FINE
        np.maximum(cells, 0, out=cells)
        np.minimum(cells, self._last, out=cells)  # the outermost are walls
        cells = cells.astype(np.intp)
        return self._clear[cells[..., 1], cells[..., 0]]

    def is_exact(self) -> bool:
        """Whether this processor and this MuJoCo round as it is written here: there are others."""
        rng = np.random.default_rng(0)
        balls, steps = _CHECKED
        rows, columns = np.nonzero(self._clear)
        some = rng.integers(len(rows), size=balls)
        positions = (np.stack([columns[some], rows[some]], 1) + 0.5) / _FINE - self._middle
        states, actions = np.concatenate([positions, rng.normal(size=(balls, 2))], 1), rng.uniform(-1, 1, (balls, 2))
        after, clear = self(states, actions, steps)
        full = np.concatenate([np.zeros((balls, 1)), states], axis=1)  # MuJoCo's states begin with the time
        with Rollout(nthread=0) as rollout:
            data = [mujoco.MjData(self._model)]
            every, _ = rollout.rollout(self._model, data, full, np.repeat(actions[:, None], steps, axis=1))
        return bool(clear.any()) and np.array_equal(after[clear], every[clear, -1, 1:])


def clear_map(walls: np.ndarray, reach: float) -> np.ndarray:
    """(rows * 64, columns * 64) bool, rows along y: whether no point of a small square is within ``reach`` of a wall."""
    rows, columns = walls.shape
    x, y = ((np.arange(n * _FINE) + 0.5) / _FINE - n / 2 for n in (columns, rows))
    clear = np.ones((len(y), len(x)), bool)
    half = 0.5 + 0.5 / _FINE  # of a wall, and of the square
    for across, up in center_of(walls, np.argwhere(walls)):
        beside, above = (np.maximum(np.abs(axis - middle) - half, 0) for axis, middle in ((x, across), (y, up)))
        here = np.ix_(above <= reach, beside <= reach)
        clear[here] &= np.hypot(above[above <= reach, None], beside[beside <= reach]) > reach
    return clear
