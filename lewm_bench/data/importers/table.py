"""What every recorded data set is read as: episodes of named columns, one episode in memory at a time.

Letters: R rows of an episode, one per frame.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from PIL import Image, UnidentifiedImageError

from lewm_bench.core.errors import UserError, unknown


@dataclass(frozen=True)
class Column:
    """One row of a column."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_picture(self) -> bool:
        """Whether a row could be a picture: three axes, one of them of 1, 3 or 4 channels, none very short."""
        return (
            len(self.shape) == 3 and (self.shape[2] in (1, 3, 4) or self.shape[0] in (1, 3, 4)) and max(self.shape) > 7
        )

    @property
    def is_numbers(self) -> bool:
        """Whether a row is a number or a flat vector of them."""
        return len(self.shape) < 2 and self.dtype.kind in "fiub"


@dataclass(frozen=True)
class Names:
    """The columns that the user has named; empty where they are to be recognised."""

    pixels: str = ""
    actions: str = ""
    states: str = ""
    episodes: str = ""


class Table(ABC):
    """A recorded data set, open for reading."""

    kind: ClassVar[str]
    """What its format is called in messages."""
    source: str
    """What it is called in messages."""
    columns: Mapping[str, Column]
    lengths: np.ndarray
    """(episodes,) frames of each episode."""

    @abstractmethod
    def read(self, name: str, episode: int) -> np.ndarray:
        """The rows of a column in an episode, (R, ...); of actions there may be R - 1."""

    def close(self) -> None:
        """Let go of files."""
        return

    @final
    def column(self, name: str) -> Column:
        """The column of a name.

        Raises:
            UserError: there is none.
        """
        if name not in self.columns:
            raise UserError(f"{self.source}: {unknown('column', name, self.columns)}")
        return self.columns[name]


class FlatTable(Table):
    """Columns of one length, episodes one after the other in them."""

    def __init__(self, source: str, columns: Mapping[str, Column], ends: np.ndarray) -> None:
        self.source, self.columns, self.ends = source, columns, ends
        self.lengths = np.diff(ends, prepend=0)

    @abstractmethod
    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows of a column."""

    def read(self, name: str, episode: int) -> np.ndarray:
        end = int(self.ends[episode])
        begin = end - int(self.lengths[episode])
        values = self.rows(name, begin, end)
        if len(values) != end - begin:
            raise UserError(f"{self.source}: {name} ends at row {begin + len(values)} of {end}; the file is cut short")
        return values


def ends_of_index(index: np.ndarray, source: str, name: str) -> np.ndarray:
    """(episodes,) the row after each episode's last, of (rows,) numbers that say which episode a row belongs to.

    Raises:
        UserError: the rows of an episode do not stand together.
    """
    index = np.asarray(index).ravel()
    if not len(index):
        raise UserError(f"{source} has no rows")
    changes = np.flatnonzero(np.diff(index))
    if len(np.unique(index)) != len(changes) + 1:
        raise UserError(f"{source}: the rows of an episode do not stand together in {name}; sort the rows by it")
    return np.append(changes + 1, len(index)).astype(np.int64)


def checked_ends(ends: np.ndarray, rows: int, source: str, name: str) -> np.ndarray:
    """(episodes,) int64 rows after each episode's last, which fill all rows.

    Accepts as well the last rows themselves.

    Raises:
        UserError: they do not increase, or do not end with the rows.
    """
    ends = np.asarray(ends).ravel()
    if not len(ends) or ends.dtype.kind not in "iu":
        raise UserError(f"{source}: {name} must list the row after each episode's last as integers, got {ends.dtype}")
    ends = ends.astype(np.int64)
    if ends[-1] == rows - 1:
        ends = ends + 1
    if ends[-1] != rows or (np.diff(ends, prepend=0) < 1).any():
        raise UserError(
            f"{source}: {name} must increase to the number of rows, {rows}, and be the row after each episode's last; "
            f"it goes from {ends[0]} to {ends[-1]}"
        )
    return ends


def ends_of_flags(flags: Sequence[np.ndarray], source: str, name: str) -> np.ndarray:
    """(episodes,) the row after each episode's last, of (rows,) booleans that are true in the last row of an episode.

    Raises:
        UserError: no row is the last of an episode, or rows follow the last episode.
    """
    last = np.logical_or.reduce([np.asarray(each).ravel().astype(bool) for each in flags])
    ends = np.flatnonzero(last) + 1
    if not len(ends) or ends[-1] != len(last):
        raise UserError(f"{source}: {name} is not true in the last row, so its last episode has no end; cut it off")
    return ends.astype(np.int64)


def same_length(columns: Mapping[str, Column], lengths: Mapping[str, int], wanted: Sequence[str], source: str) -> int:
    """The number of rows of the ``wanted`` columns.

    Raises:
        UserError: they have different ones.
    """
    counts = {name: lengths[name] for name in wanted if name in columns}
    if len(set(counts.values())) > 1:
        raise UserError(f"{source}: columns differ in length: {', '.join(f'{n} {c}' for n, c in counts.items())}")
    return next(iter(counts.values()), 0)


def decoded(blob: Any, source: str) -> np.ndarray:
    """An encoded picture (PNG, JPEG, WebP) as (h, w, 3) uint8.

    Raises:
        UserError: it is none.
    """
    try:
        with Image.open(io.BytesIO(bytes(blob))) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, TypeError) as error:
        raise UserError(f"{source} has a picture that cannot be decoded: {error}")


Opener = Callable[..., Table]
