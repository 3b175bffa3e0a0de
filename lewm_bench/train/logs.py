"""Which loggers follow a training (TensorBoard, Weights & Biases, MLflow), and what they are told that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lewm_bench.core.errors import LONGEST_VALUE, shortened


@dataclass(frozen=True)
class LogTo:
    """Which loggers follow the trainings of a command, and the folder for what they write on this machine."""

    kinds: tuple[str, ...] = ()
    folder: Path = Path("logs")


NOWHERE = LogTo()


@dataclass(frozen=True)
class LogOf:
    """The training that a log is about."""

    to: LogTo = NOWHERE
    name: str = ""  # for people; also that of a folder
    key: str = ""  # of everything that determines it: a training that goes on goes on in its log
    settings: Mapping[str, Any] = field(default_factory=dict)  # as JSON gives them


UNLOGGED = LogOf()


def text_of(error: Exception) -> str:
    """What an error says, on one line, the middle of a long one left out."""
    return shortened(" ".join(str(error).split()), LONGEST_VALUE)
