"""Published columns as the states of our environments. What they promise is proved when data are imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.data.importers.table import Column, Names, Table

GENERIC = ("states", "state", "proprio", "observation.state", "observations", "observation")
"""Columns that are an environment's state if they have exactly as many numbers, and what stands for it without one."""


@dataclass(frozen=True)
class Rule:
    """How columns become states."""

    columns: tuple[str, ...]
    make: Callable[[Sequence[np.ndarray]], np.ndarray] = lambda parts: np.concatenate(parts, axis=1)
    known: int | None = None  # numbers of a state that are recorded, from its first; None: all
    variants: tuple[Mapping[str, Any], ...] = field(default=({},))  # arguments of environments that may have made it

    def read(self, table: Table, episode: int) -> np.ndarray:
        """(R, X) float64 states of an episode.

        Raises:
            UserError: a number of them is not finite.
        """
        parts = [flat(table.read(name, episode)) for name in self.columns]
        if not parts:
            return np.zeros((int(table.lengths[episode]), 1))
        states = self.make(parts)
        if not np.isfinite(states).all():
            raise UserError(
                f"{table.source}: {' and '.join(self.columns)} of episode {episode} has numbers that are not finite"
            )
        return states


def flat(values: np.ndarray) -> np.ndarray:
    """(R,) or (R, X) as (R, X) float64."""
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _padded(size: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """States of ``size`` numbers, of which the last are not recorded and taken as 0."""
    return lambda parts: np.pad(parts[0], ((0, 0), (0, size - parts[0].shape[1])))


LEGACY = ({}, {"legacy": True})  # the exact collision, and the reference platform's
PUBLISHED: Mapping[str, tuple[tuple[tuple[str, ...], int, Rule], ...]] = {
    "lewm_bench/TwoRoom-v0": tuple(
        ((name,), 2, Rule((name,), variants=LEGACY)) for name in ("states", "state", "pos_agent", "proprio")
    ),
    # The block's velocities are not published; away from contacts they are 0.
    "lewm_bench/PushT-v0": tuple(((name,), 7, Rule((name,), _padded(10), known=7)) for name in ("state", "states")),
    "lewm_bench/Reacher-v0": ((("qpos", "qvel"), 4, Rule(("qpos", "qvel"))),),
}
"""By environment: columns, how many numbers they have together, and what to do with them."""


def rule_of(env_id: str, size: int, table: Table, names: Names) -> Rule:
    """How the columns of a table become the states, ``size`` numbers, of an environment.

    Raises:
        UserError: none of them can.
    """
    columns = table.columns
    if names.states:
        wanted = tuple(name.strip() for name in names.states.split(","))
        count = sum(_numbers(table.column(name), name, table) for name in wanted)
        known = [rule for _, numbers, rule in PUBLISHED.get(env_id, ()) if numbers == count]
        if count != size and not known:
            raise UserError(f"{table.source}: {names.states} has {count} numbers, but a state of {env_id} has {size}")
        if not known:
            return Rule(wanted)
        return Rule(wanted, known[0].make, known[0].known, known[0].variants)
    for needed, count, rule in PUBLISHED.get(env_id, ()):
        if set(needed) <= set(columns) and sum(_count(columns[name]) for name in needed) == count:
            return rule
    for name in GENERIC:
        if name in columns and _count(columns[name]) == size:
            return Rule((name,))
    found = ", ".join(f"{name} {column.shape}" for name, column in columns.items() if not column.is_picture)
    raise UserError(
        f"{table.source} has no column that is the state of {env_id}, {size} numbers; name it with --states, or import "
        f"without a simulator: --env none (columns: {found})"
    )


def recorded_rule(table: Table, names: Names) -> Rule:
    """What stands for states where there is no simulator: what was recorded, or one zero."""
    if names.states:
        wanted = tuple(name.strip() for name in names.states.split(","))
        for name in wanted:
            _numbers(table.column(name), name, table)
        return Rule(wanted)
    for name in GENERIC:
        if name in table.columns and table.columns[name].is_numbers:
            return Rule((name,))
    return Rule(())


def _count(column: Column) -> int:
    return int(np.prod(column.shape)) if column.is_numbers else -1


def _numbers(column: Column, name: str, table: Table) -> int:
    if not column.is_numbers:
        raise UserError(f"{table.source}: {name} has rows {column.dtype} {column.shape}, which are no states")
    return _count(column)
