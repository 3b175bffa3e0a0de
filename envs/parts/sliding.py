"""Motion of a disk that slides along walls: exact contact times in closed form, for many disks at once.

Letters: N disks, F flat faces, E edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

GAP = 1e-3  # pixels between the agent and a wall that it touches: far more than rounding, far less than is seen
ROUNDING = 1e-9  # cosine of the angle to a wall below which a motion is along it
CONTACTS = 5  # per step: two walls of a corner or an edge and what lies behind it; motion left after that is dropped

Face = tuple[int, int, float, float, float]
"""Axis of its normal, sign of its normal, coordinate, and the range that it spans on the other axis."""


class Sliding(ABC):
    """A disk of radius r among walls is a point among walls that have grown by r: flat faces, and arcs around edges.

    Each contact stops the component of the motion into the wall and keeps the rest.
    """

    def __init__(self, faces: Sequence[Face], edges: np.ndarray, radius: float) -> None:
        """Faces where the disk's centre stops, and edges (E, 2) of the walls themselves."""
        self._reach, self._edges = radius + GAP, edges
        axis, self._sign, self._at, self._begin, self._end = np.array(faces).T  # (F,) each
        self._axis = axis.astype(int)
        self._normals = np.where(self._axis[:, None] == np.arange(2), self._sign[:, None], 0.0)  # (F, 2)

    def __call__(self, positions: np.ndarray, moves: np.ndarray) -> np.ndarray:
        """(N, 2) positions and displacements to (N, 2) positions; a row depends on no other row."""
        ends = positions + moves
        near = ~self._clear(positions, ends)
        if near.any():
            ends[near] = self._slide(self._freed(positions[near]), moves[near])
        return ends

    def _slide(self, at: np.ndarray, left: np.ndarray) -> np.ndarray:
        for _ in range(CONTACTS):
            time, normal = self._contact(at, left)
            at = at + time[:, None] * left
            left = (1 - time[:, None]) * left
            left = left - np.minimum((left * normal).sum(-1, keepdims=True), 0.0) * normal
            if not left.any():  # for the rows that have arrived a further round changes nothing
                break
        return at

    def _contact(self, at: np.ndarray, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2) positions and displacements to (N,) time of the first contact, at most 1, and (N, 2) its normal."""
        times = np.concatenate([self._face_times(at, move), self._edge_times(at, move)], axis=1)  # (N, F + E)
        which, rows = times.argmin(1), np.arange(len(at))
        time = np.minimum(times[rows, which], 1.0)
        edge = which >= len(self._at)
        flat = self._normals[np.where(edge, 0, which)]
        outward = at + time[:, None] * move - self._edges[np.where(edge, which - len(self._at), 0)]
        length = np.sqrt((outward**2).sum(-1, keepdims=True))
        return time, np.where(edge[:, None], outward / np.maximum(length, GAP / 2), flat)

    def _face_times(self, at: np.ndarray, move: np.ndarray) -> np.ndarray:
        """(N, F) contact times with the flat faces, infinite where there is none."""
        gap = (at[:, self._axis] - self._at) * self._sign
        speed = -move[:, self._axis] * self._sign
        toward = (speed > 0) & (gap > -2 * GAP)  # within the gap: touching, and no way further in
        time = np.maximum(gap, 0.0) / np.where(toward, speed, 1.0)
        along = at[:, 1 - self._axis] + time * move[:, 1 - self._axis]
        return np.where(toward & (along >= self._begin) & (along <= self._end), time, np.inf)

    def _edge_times(self, at: np.ndarray, move: np.ndarray) -> np.ndarray:
        """(N, E) contact times with the arcs around the edges: the smaller root of a quadratic."""
        offset = at[:, None] - self._edges  # (N, E, 2)
        a = (move**2).sum(-1)[:, None]
        b = (offset * move[:, None]).sum(-1)
        c = (offset**2).sum(-1) - self._reach**2
        root = b**2 - a * c
        # What is left of a motion after a contact is tangential but for rounding, and must not count as a new contact.
        hit = (b < -ROUNDING * self._reach * np.sqrt(a)) & (root > 0)
        # c / (-b + sqrt) is (-b - sqrt) / a without cancellation where the disk is already close.
        time = np.maximum(c, 0.0) / np.where(hit, np.sqrt(np.maximum(root, 0.0)) - b, 1.0)
        return np.where(hit, time, np.inf)

    @abstractmethod
    def _clear(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(N,) bool: the whole way touches nothing; decides most rows cheaply."""

    @abstractmethod
    def _freed(self, at: np.ndarray) -> np.ndarray:
        """(N, 2) positions, of which those that overlap a wall are put beside it."""
