"""The block of PushT: gym-pusht's T, also in other sizes, and other shapes. Lengths are pixels; a pose is (x, y, angle).

Letters: P rectangles, K contact points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lewm_bench.core.errors import UserError, unknown

AGENT_RADIUS = 15.0
CLEAR = 10.0  # px between agent and block where a push begins
SIZES = (0.5, 1.5)  # least and most: there is room between the walls, and something to see
SPREAD = (0.15, 0.5, 0.85)  # where contact points are on a side, as shares of it

Rectangle = tuple[tuple[float, float], tuple[float, float]]
"""Opposite corners."""


@dataclass(frozen=True)
class Outline:
    """A shape in a frame of its own, at size 1."""

    parts: Sequence[Rectangle]
    center_y: float  # of a circle around it, on the axis x = 0
    reach: float  # the radius of that circle, rounded up
    sides: Sequence[tuple[float, float, float, float]] = ()  # contact points x, y and the direction to push there


BAR = ((-60.0, 0.0), (60.0, 30.0))
OUTLINES: Mapping[str, Outline] = {
    "T": Outline(
        (BAR, ((-15.0, 30.0), (15.0, 120.0))),
        45.9375,
        75.7,
        sides=[(x, 0, 0, 1) for x in (-50, -25, 0, 25, 50)]
        + [(x, 30, 0, -1) for x in (-45, 45)]
        + [(x, 15, -np.sign(x), 0) for x in (-60, 60)]
        + [(x, y, -np.sign(x), 0) for x in (-15, 15) for y in (60, 85, 110)]
        + [(0, 120, 0, -1)],
    ),
    "L": Outline((BAR, ((-60.0, 30.0), (-30.0, 120.0))), 60.0, 84.9),
    "cross": Outline((BAR, ((-15.0, -45.0), (15.0, 75.0))), 15.0, 61.9),
    "square": Outline((((-40.0, 0.0), (40.0, 80.0)),), 40.0, 56.6),
}


class Block:
    """A shape at a size: where it is, how it turns, and where it can be pushed."""

    def __init__(self, shape: str, size: float) -> None:
        if shape not in OUTLINES:
            raise unknown("shape of the block", str(shape), OUTLINES)
        if not SIZES[0] <= size <= SIZES[1]:
            raise UserError(f"need {SIZES[0]} <= size <= {SIZES[1]}, got {size}")
        outline = OUTLINES[shape]
        self.shape, self.size = shape, size
        self.parts = size * np.array(outline.parts)  # (P, 2, 2)
        # gym-pusht's rules for mass 1: the block turns about the mean of its parts' middles, and each part counts as
        # the first one does, by its moment about the origin.
        self.middle = self.parts.mean((0, 1))
        extent, first = self.parts[0, 1] - self.parts[0, 0], self.parts[0].mean(0)
        self.inertia = float(len(self.parts) * ((extent**2).sum() / 12 + (first**2).sum()))
        self.center_y, self.reach = size * outline.center_y, size * outline.reach  # a float of Python is quicker
        self.center = np.array([0.0, self.center_y])
        sides = np.array(outline.sides or self._sides(), np.float64)
        self.points, self.pushes = size * sides[:, :2] if outline.sides else sides[:, :2], sides[:, 2:]  # (K, 2) each
        arms = self.points - self.middle
        self.levers = arms[:, 0] * self.pushes[:, 1] - arms[:, 1] * self.pushes[:, 0]  # (K,)

    def _sides(self) -> list[tuple[float, ...]]:
        """Contact points in the middle and near the ends of every side, where the agent has room to begin."""
        found = []
        for low, high in self.parts:
            for axis, direction in enumerate(np.eye(2)):
                for face, push in ((low, direction), (high, -direction)):
                    for share in SPREAD:
                        point = low + share * (high - low)
                        point[axis] = face[axis]
                        begin = self._gap(point - (AGENT_RADIUS + CLEAR) * push)
                        if self._gap(point) >= 0 and begin > AGENT_RADIUS:
                            found.append((*point, *push))
        return found

    def corners(self, pose: np.ndarray) -> np.ndarray:
        """(..., 3) poses to (..., 4 P, 2): the corners of each rectangle in order."""
        pose = np.asarray(pose, np.float64)
        order = ((0, 0), (1, 0), (1, 1), (0, 1))
        local = np.array([(part[i, 0], part[j, 1]) for part in self.parts for i, j in order])
        return pose[..., None, :2] + rotated(local, pose[..., None, 2])

    def gap(self, points: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """(..., 2) points and (..., 3) poses to (...) px from the block, negative inside it."""
        return self._gap(rotated(points - pose[..., :2], -pose[..., 2]))

    def _gap(self, local: np.ndarray) -> np.ndarray:
        gaps = []
        for low, high in self.parts:
            beyond = np.abs(local - (low + high) / 2) - (high - low) / 2
            gaps.append(np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0))
        return np.min(gaps, axis=0)


def rotated(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(..., 2) vectors turned by (...) angles."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


TEE = Block("T", 1.0)
"""gym-pusht's."""
