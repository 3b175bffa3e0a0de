"""The way that an agent went, as it is kept in a record."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from lewm_bench.core.config import Record

Spot = tuple[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]]
"""Where something is in a frame: per mille of its width and height, from its upper left corner."""


def _spots(value: object) -> object:
    """``"12,500 13,498"`` to a tuple of numbers each; anything else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(tuple(map(int, spot.split(","))) for spot in value.split())


Spots = Annotated[
    tuple[Spot, ...],
    Field(min_length=1),
    BeforeValidator(_spots),
    # In a file as text: indented JSON takes ten times as much for numbers in lists in lists.
    PlainSerializer(lambda spots: " ".join(f"{x},{y}" for x, y in spots), return_type=str, when_used="json"),
]


class Trail(Record):
    """The way that an agent went in one episode, until it first reached the goal or to the end."""

    pair: int
    goal: Spot
    spots: Spots  # of every fifth environment step, the start and the last one included
    reached: bool
    distance: float  # from start to goal, in the environment's unit
    path: float | None = None  # length of the shortest way there, where the environment knows it

    @property
    def detour(self) -> float | None:
        """How many times as long as the distance the shortest way is."""
        return None if self.path is None or not self.distance > 0 else self.path / self.distance
