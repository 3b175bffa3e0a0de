"""Searching for hyper-parameters: what is searched, and which values come next. Knows numbers and no agents.

A search sees what was tried and names the next values. Nothing is hidden between two calls, so a search that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import yaml

DIGITS = 3  # significant, of every value that is tried, so that names stay short


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter of an agent and the range that is searched.

    ``position`` and ``value`` translate between values and the scale on which the search is uniform, 0 at ``low`` and
    1 at ``high``. With ``log`` equal steps are equal factors. With ``one_minus`` it is 1 - value that is looked at and
    rounded, for what lives close to 1, such as a momentum; position 0 is then still ``low``.
    """

    path: str  # of a setting of the agent: "train.learning_rate"
    low: float
    high: float
    log: bool = True
    one_minus: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self.path}: need low < high, both finite, got {self.low} and {self.high}")
        if self.log and min(self._coordinate(self.low), self._coordinate(self.high)) <= 0:
            raise ValueError(f"{self.path}: a logarithmic scale does not reach 0, got {self.low} to {self.high}")

    def _coordinate(self, value: float) -> float:
        return 1 - value if self.one_minus else value

    def _scaled(self, value: float) -> float:
        coordinate = self._coordinate(value)
        return math.log(coordinate) if self.log else coordinate

    def position(self, value: float) -> float:
        """A value to its place on the scale; what lies beyond an end, such as 0 on a logarithmic scale, is at that end."""
        inside = min(max(value, self.low), self.high)
        return (self._scaled(inside) - self._scaled(self.low)) / (self._scaled(self.high) - self._scaled(self.low))

    def value(self, position: float) -> float:
        """The value at a place from 0 to 1, rounded, and never outside the range."""
        if position in (0, 1):
            return self.high if position else self.low
        scaled = self._scaled(self.low) + position * (self._scaled(self.high) - self._scaled(self.low))
        coordinate = float(f"{math.exp(scaled) if self.log else scaled:.{DIGITS}g}")
        # A difference such as 1 - 0.004 has digits that mean nothing.
        value = float(f"{1 - coordinate:.12g}") if self.one_minus else coordinate
        return min(max(value, self.low), self.high)

    def text(self, value: float) -> str:
        """The value as YAML, exact."""
        return yaml.safe_dump(float(value)).split("\n")[0]


class Tried(NamedTuple):
    """One trial, for a search."""

    values: tuple[float, ...]
    rank: tuple[float, ...]  # larger is better, the first difference decides


def bisect(dimension: Dimension, tried: Iterable[Tried]) -> float | None:
    """The next value of a search along one dimension; None when neighbours differ in their last digit.

    The ends and the middle come first. Then the wider of the two intervals beside the best value is halved, again and
    again. If the score rises to one peak and falls behind it, the peak lies between the best value's neighbours, and
    after 3 + 2 k values none of the two is further from it than (high / low) ** (1 / 2 ** (k + 1)): every two trials
    halve the interval. Values that are already known (a default) are used and not tried again.
    """
    ranks: dict[float, tuple[float, ...]] = {}
    for (value,), rank in tried:
        if dimension.low <= value <= dimension.high:
            ranks[value] = max(rank, ranks.get(value, rank))
    for position in (0.0, 1.0, 0.5):
        if (value := dimension.value(position)) not in ranks:
            return value
    values = sorted(ranks)
    best = max(range(len(values)), key=lambda i: (ranks[values[i]], -i))
    places = [dimension.position(value) for value in values]
    sides = [i for i in (best - 1, best) if 0 <= i < len(values) - 1]  # intervals, by their lower end
    # Of two equally wide intervals, the one whose other end is better.
    other = {best - 1: best - 1, best: best + 1}
    sides.sort(key=lambda i: (round(places[i + 1] - places[i], 6), ranks[values[other[i]]]), reverse=True)
    for side in sides:
        value = dimension.value((places[side] + places[side + 1]) / 2)
        if value not in ranks:
            return value
    return None


def random_point(dimensions: Sequence[Dimension], rng: np.random.Generator) -> tuple[float, ...]:
    """A point of random search (Bergstra and Bengio, 2012), each dimension uniform on its scale."""
    return tuple(d.value(position) for d, position in zip(dimensions, rng.uniform(size=len(dimensions)), strict=True))


def distance(dimensions: Sequence[Dimension], values: Sequence[float], others: Sequence[float]) -> float:
    """How far two points are from each other, summed over the scales."""
    pairs = zip(dimensions, values, others, strict=True)
    return sum(abs(d.position(a) - d.position(b)) for d, a, b in pairs)
