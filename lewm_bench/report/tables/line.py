"""What every table is made of: lines in groups, plain text that a format escapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One row of a reader's table."""

    agent: str  # as it is shown
    cells: tuple[str, ...]
    colour: str = ""  # of the dot before it
    commands: Mapping[int, str] = field(default_factory=dict)  # number of a cell that was not run -> what runs it


def one_group(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """Rows of text as one group without a heading."""
    return (("", tuple(Line(row[0], tuple(row[1:])) for row in rows)),)
