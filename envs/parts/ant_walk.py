"""A walk for the ant of AntMaze: a trot that is pushed towards the next cell of a maze, by PD control of its joints.

Letters: N ants. Legs are numbered as their joints are, counter-clockwise from the one at 45 degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.envs.parts.maze import cell_distances, cell_of, center_of, neighbours
from lewm_bench.envs.parts.waypoints import next_cells

LEGS = np.pi / 4 * np.array([1, 3, 5, 7])  # where they point from the torso
ANKLE_SIGN = np.array([1, -1, -1, 1])  # of the angle that presses the foot down
PHASES = np.pi * np.array([0, 1, 0, 1])  # opposite legs step together
ACTUATORS = [3, 0, 1, 2]  # the legs in the order of the actions
HEADING_STD = 0.3  # radians, of the direction of an episode's every step
ARRIVED = 0.25  # cells from the centre of the target


@dataclass(frozen=True)
class Gait:
    """The constants of a trot, found by random search for the way of ants in PointMaze's Medium that are not overturned."""

    period: float  # environment steps
    swing: float  # radians of the hips to either side
    lift: float  # radians of the ankles to either side of ``bend``
    bend: float  # radians
    stiffness: float  # action per radian
    damping: float  # action per radian per second
    noise: float  # std of actions


GYMNASIUM_GAIT = Gait(period=2.384, swing=0.52, lift=0.045, bend=0.768, stiffness=0.995, damping=0.01, noise=0.05)
OGBENCH_GAIT = Gait(period=8.137, swing=0.945, lift=0.357, bend=0.442, stiffness=1.379, damping=0.016, noise=0.2)


def trot(gait: Gait, states: np.ndarray, steps: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N, 29) states, (N,) steps since the walk began and (N,) directions in radians to (N, 8) actions.

    A leg that is down sweeps back, as far as it stands across the direction, while its opposite does the same.
    """
    w, x, y, z = states[:, 3:7].T
    turn = directions - np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    phase = 2 * np.pi * steps[:, None] / gait.period + PHASES  # (N, 4)
    hips = gait.swing * np.sin(turn[:, None] - LEGS) * np.cos(phase)
    ankles = ANKLE_SIGN * (gait.bend + gait.lift * np.sin(phase))
    wanted = np.stack([hips, ankles], axis=-1)  # (N, 4, 2)
    angles, speeds = (states[:, part].reshape(-1, 4, 2) for part in (slice(7, 15), slice(21, 29)))
    torques = gait.stiffness * (wanted - angles) - gait.damping * speeds
    return torques[:, ACTUATORS].reshape(-1, 8)


def waypoints(gait: Gait, walls: np.ndarray, cells: Callable[[np.ndarray], np.ndarray]) -> PolicyFactory:
    """Walks along shortest cell paths to uniformly drawn free cells; ``cells`` has states to x, y in cells."""
    free, following = np.argwhere(~walls), next_cells(walls)

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        target = np.array([rng.integers(len(free)) for rng in rngs])
        steps = np.array([rng.uniform(0, gait.period) for rng in rngs])

        def act(states: np.ndarray) -> np.ndarray:
            position = cells(states)
            arrived = np.linalg.norm(center_of(walls, free[target]) - position, axis=-1) < ARRIVED
            for n in np.flatnonzero(arrived):
                target[n] = rngs[n].integers(len(free))
            row, column = cell_of(walls, position).T
            way = center_of(walls, following[target, row, column]) - position
            noise = np.stack([rng.standard_normal(9) for rng in rngs])
            directions = np.arctan2(way[:, 1], way[:, 0]) + HEADING_STD * noise[:, 0]
            actions = trot(gait, states, steps, directions) + gait.noise * noise[:, 1:]
            steps[:] += 1
            return np.clip(actions, -1.0, 1.0).astype(np.float32)

        return act

    return start


class WalkTo:
    """A trot without noise along a shortest cell path to a ``place`` (2,), that begins ``steps`` after its period does.

    ``cells`` has states to x, y in cells.
    """

    finished = True  # wherever it is

    def __init__(
        self,
        gait: Gait,
        walls: np.ndarray,
        cells: Callable[[np.ndarray], np.ndarray],
        place: np.ndarray,
        steps: float,
    ) -> None:
        self._gait, self._walls, self._cells, self._place = gait, walls, cells, place
        self._left = cell_distances(walls, *cell_of(walls, place))
        self._steps = np.array([steps])

    def act(self, state: np.ndarray) -> np.ndarray:
        """(29,) state to (8,) action."""
        position = self._cells(state)
        x, y = self._next(position) - position
        action = trot(self._gait, state[None], self._steps, np.array([np.arctan2(y, x)]))[0]
        self._steps += 1
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _next(self, position: np.ndarray) -> np.ndarray:
        """(2,) place in cells to the middle of the cell that follows, or to the target."""
        row, column = cell_of(self._walls, position)
        if self._left[row, column] <= 0:
            return self._place
        following = min(neighbours(self._walls, row, column), key=lambda cell: self._left[cell])
        return center_of(self._walls, np.array(following))
