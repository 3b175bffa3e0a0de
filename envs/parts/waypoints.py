"""A noisy walk through a maze from one random free cell to the next: data that crosses the whole maze."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.envs.parts.maze import cell_distances, cell_of, center_of, neighbours

GAIN = 3.0  # action per cell of distance to the next cell's centre
BRAKE = 0.5  # action per unit of velocity
NOISE_STD = 0.5
ARRIVED = 0.25  # cells from the centre of the target


def waypoints(walls: np.ndarray) -> PolicyFactory:
    """Walks along shortest cell paths to uniformly drawn free cells; states are (x, y, vx, vy), actions 2 numbers."""
    free = np.argwhere(~walls)
    next_cell = next_cells(walls)

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        target = np.array([rng.integers(len(free)) for rng in rngs])

        def act(states: np.ndarray) -> np.ndarray:
            position, velocity = states[:, :2], states[:, 2:]
            arrived = np.linalg.norm(center_of(walls, free[target]) - position, axis=-1) < ARRIVED
            for n in np.flatnonzero(arrived):
                target[n] = rngs[n].integers(len(free))
            row, column = cell_of(walls, position).T
            aim = center_of(walls, next_cell[target, row, column])
            noise = np.stack([rng.standard_normal(2) for rng in rngs])
            actions = GAIN * (aim - position) - BRAKE * velocity + NOISE_STD * noise
            return np.clip(actions, -1.0, 1.0).astype(np.float32)

        return act

    return start


def next_cells(walls: np.ndarray) -> np.ndarray:
    """(free, rows, columns, 2): on the way to each free cell, the cell that follows each cell (a wall: itself)."""
    free = np.argwhere(~walls)
    table = np.empty((len(free), *walls.shape, 2), int)
    table[:] = np.moveaxis(np.indices(walls.shape), 0, -1)
    for k, target in enumerate(free):
        steps = cell_distances(walls, *target)
        for row, column in free:
            if steps[row, column] > 0:
                table[k, row, column] = min(neighbours(walls, row, column), key=lambda cell: steps[cell])
    return table
