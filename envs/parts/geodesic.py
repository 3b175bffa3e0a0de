"""How far it is around the walls: shortest paths of a disk among boxes, by a graph of the corners that see each other.

A disk of radius r among boxes is a point among boxes that have grown by r. They keep their sharp corners, so that a path
around one is longer than the true one, by less than (2 - pi / 2) r for each right angle that it turns.
Letters: N starts, C corners, K boxes.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import shortest_path

_CHUNK = 256  # starts whose ways to every corner are tested together; more of them spill the cache


class Geodesics:
    """Lengths of shortest paths among ``boxes`` (K, 4), each (left, low, right, high), of a disk of ``radius``.

    The disk may overlap a wall by up to ``slack``, as it does where it leans on it. From deeper inside, from where
    nothing can be seen, the way to the nearest path counts as if there were no wall.
    """

    def __init__(self, boxes: np.ndarray, radius: float, slack: float) -> None:
        boxes = np.asarray(boxes, np.float64)
        grown = boxes + radius * np.array([-1.0, -1.0, 1.0, 1.0])
        inner = grown + slack * np.array([1.0, 1.0, -1.0, -1.0])
        self._low, self._high = inner[:, :2], inner[:, 2:]  # (K, 2)
        corners = np.concatenate([grown[:, [i, j]] for i in (0, 2) for j in (1, 3)])
        self._corners = np.unique(corners[~self._inside(corners)], axis=0)  # (C, 2)
        ways = self._ways(self._corners, self._corners)
        self._between = shortest_path(np.where(np.isfinite(ways), ways, 0.0))  # (C, C), 0 is no edge

    def __call__(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 2) starts and goals, which are broadcast, to (...) lengths, in the unit of the boxes."""
        starts, goals = np.broadcast_arrays(np.asarray(starts, np.float64), np.asarray(goals, np.float64))
        flat, out = starts.reshape(-1, 2), np.empty(starts.shape[:-1])
        targets, which = np.unique(goals.reshape(-1, 2), axis=0, return_inverse=True)
        for k, goal in enumerate(targets):
            rows = np.flatnonzero(which.reshape(-1) == k)
            out.reshape(-1)[rows] = self._to(flat[rows], goal)
        return out

    def _to(self, starts: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """(N, 2) to (N,) lengths to one goal (2,)."""
        lengths = self._ways(starts, goal[None])[:, 0]
        around = np.flatnonzero(~np.isfinite(lengths))
        from_corner = (self._between + self._ways_or_straight(goal[None], self._corners)).min(-1)  # (C,)
        for begin in range(0, len(around), _CHUNK):
            rows = around[begin : begin + _CHUNK]
            lengths[rows] = (self._ways_or_straight(starts[rows], self._corners) + from_corner).min(-1)
        return lengths

    def _ways_or_straight(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The same as ``_ways``, but where a start sees no end at all the walls do not count."""
        ways = self._ways(starts, ends)
        blind = ~np.isfinite(ways).any(-1)
        ways[blind] = _lengths(starts[blind], ends)
        return ways

    def _ways(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(N, 2) and (M, 2) to (N, M) lengths of the straight ways, infinite where a wall is in between."""
        blocked = np.zeros((len(starts), len(ends)), bool)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            across, up = (_Axis(starts[:, i], ends[:, i]) for i in (0, 1))
            for low, high in zip(self._low, self._high, strict=True):
                enter, leave = across.inside(low[0], high[0])
                enter_up, leave_up = up.inside(low[1], high[1])
                np.maximum(enter, enter_up, out=enter)
                np.minimum(leave, leave_up, out=leave)
                blocked |= (enter < leave) & (leave > 0) & (enter < 1)
        lengths = _lengths(starts, ends)
        return np.where(blocked & (lengths > 0), np.inf, lengths)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) to (N,) bool: inside a wall."""
        return ((points[:, None] > self._low) & (points[:, None] < self._high)).all(-1).any(-1)


class _Axis:
    """Straight ways from N starts to M ends along one axis, at times from 0 to 1."""

    def __init__(self, starts: np.ndarray, ends: np.ndarray) -> None:
        self._starts, self._move = starts[:, None], ends - starts[:, None]  # (N, 1), (N, M)
        self._still = self._move == 0
        self._rests = bool(self._still.any())

    def inside(self, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        """When a way goes in between two faces and when it comes out, (N, M) each."""
        one, other = (low - self._starts) / self._move, (high - self._starts) / self._move
        enter, leave = np.minimum(one, other), np.maximum(one, other)
        if self._rests:  # without motion the way is between the faces always or never
            between = (self._starts > low) & (self._starts < high)
            enter = np.where(self._still, np.where(between, -np.inf, np.inf), enter)
            leave = np.where(self._still, np.where(between, np.inf, -np.inf), leave)
        return enter, leave


def _lengths(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return np.linalg.norm(ends[None] - starts[:, None], axis=-1)
