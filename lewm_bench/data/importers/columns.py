"""Which columns of a table are the frames and the actions, and how an episode is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Episode
from lewm_bench.data.importers.frames import Layout, resized
from lewm_bench.data.importers.states import Rule
from lewm_bench.data.importers.table import Column, Names, Table

PIXELS = (
    "pixels",
    "frames",
    "images",
    "image",
    "rgb",
    "observations.pixels",
    "observations.image",
    "observation.image",
)
ACTIONS = ("actions", "action")


def pixels_of(table: Table, names: Names) -> str:
    """The column of the frames: the one that is named, a usual one, or the only one with pictures.

    Raises:
        UserError: there is none, or there are several.
    """
    if names.pixels:
        table.column(names.pixels)
        return names.pixels
    found = [name for name, column in table.columns.items() if column.is_picture]
    for name in PIXELS:
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    which = (
        f"several columns of pictures ({', '.join(found)})"
        if found
        else f"no pictures (columns: {_listed(table.columns)})"
    )
    raise UserError(f"{table.source} has {which}; name the frames with --pixels")


def actions_of(table: Table, names: Names) -> str:
    """The column of the actions.

    Raises:
        UserError: there is none, or its rows are no flat vectors.
    """
    name = names.actions or next((name for name in ACTIONS if name in table.columns), "")
    if not name:
        raise UserError(f"{table.source} has no actions; name their column with --actions ({_listed(table.columns)})")
    column = table.column(name)
    if not column.is_numbers:
        raise UserError(f"{table.source}: {name} has rows {column.dtype} {column.shape}, not flat vectors of numbers")
    return name


def _listed(columns: Mapping[str, Column]) -> str:
    return ", ".join(f"{name} {column.shape}" for name, column in columns.items())


@dataclass(frozen=True)
class Reader:
    """How a table is read as episodes of ours."""

    table: Table
    pixels: str
    layout: Layout
    size: int  # pixels of a side of a stored frame
    actions: str
    choices: int  # of discrete actions; 0 for continuous ones
    rule: Rule

    def episode(self, number: int) -> Episode:
        """An episode.

        Raises:
            UserError: its columns contradict each other, or a number is missing.
        """
        rows = int(self.table.lengths[number])
        frames = self.layout.frames(self.table.read(self.pixels, number))
        states = self.rule.read(self.table, number)
        for name, found in ((self.pixels, len(frames)), (" and ".join(self.rule.columns), len(states))):
            if found != rows:
                raise UserError(f"{self.table.source}: {name} has {found} rows in episode {number}, which has {rows}")
        return Episode(resized(frames, self.size), states, self.executed(number))

    def executed(self, number: int) -> np.ndarray:
        """(rows - 1, action_dim) float32 actions of an episode: entry t was executed from frame t.

        Raises:
            UserError: one is missing.
        """
        rows = int(self.table.lengths[number])
        stored = self.table.read(self.actions, number)
        place = f"{self.table.source}: {self.actions} of episode {number}"
        if len(stored) not in (rows, rows - 1):
            raise UserError(
                f"{place} has {len(stored)} rows for {rows} frames; one action leads from each frame to the next"
            )
        values = (
            one_hot(stored, self.choices, place)
            if self.choices
            else np.asarray(stored, np.float32).reshape(len(stored), -1)
        )
        if len(values) == rows:
            if rows > 1 and np.isnan(values[0]).all() and np.isfinite(values[1:]).all():
                return values[1:]  # stored beside the frame that they lead to
            values = values[:-1]
        if not np.isfinite(values).all():
            step = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise UserError(f"{place} is not finite at step {step}; only the last one of an episode may be")
        return values


def one_hot(stored: np.ndarray, choices: int, place: str) -> np.ndarray:
    """(R,) integers as (R, choices) float32: 1 for what was chosen and -1 for all else, as adapted environments read it.

    Raises:
        UserError: one is out of range.
    """
    stored = np.asarray(stored).ravel()
    if len(stored) and not (stored.min() >= 0 and stored.max() < choices):
        raise UserError(f"{place} goes from {stored.min()} to {stored.max()}, but there are {choices} discrete actions")
    return np.where(stored[:, None] == np.arange(choices), 1, -1).astype(np.float32)
