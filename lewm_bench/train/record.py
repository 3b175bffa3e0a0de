"""What a training leaves behind beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from lewm_bench.core.config import Record

Curve = dict[str, list[int | float | None]]
"""Of a training's log: one entry per logged step, null where a number was not finite; ``step`` is one of them."""


def even(columns: Mapping[str, Sequence[float | None]]) -> Mapping[str, Sequence[float | None]]:
    """``columns`` as they are.

    Raises:
        ValueError: they do not say the step of every entry.
    """
    steps = columns.get("step", [])
    known = all(step is not None and math.isfinite(step) for step in steps)
    if not known or any(len(values) != len(steps) for values in columns.values()):
        raise ValueError("every entry of every column needs its step")
    return columns


class BaseRecord(Record):
    """What a training was built on."""

    told: str  # "LeWM, seed 0"
    seconds: float | None = None  # that its own training took, where that is known


class TrainingRecord(Record):
    """What a training leaves on disk beside its weights."""

    step: int = Field(0, ge=0)  # of a state that is saved on the way
    of: dict[str, Any] = Field(default_factory=dict)  # what that state is a state of
    columns: Annotated[Curve, AfterValidator(even)]
    seconds: float = Field(ge=0)
    waited: float = Field(0.0, ge=0)  # of them, for data
    hardware: dict[str, str] = Field(default_factory=dict)
    base: BaseRecord | None = None
