"""Published columns as the states of our environments. What they promise is proved when data are imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.data.importers.table import Column, Names, Table

if TYPE_CHECKING:
    from lewm_bench.envs.cube import Cube
    from lewm_bench.envs.scene import Scene

GENERIC = ("states", "state", "proprio", "observation.state", "observations", "observation")
"""Columns that are an environment's state if they have exactly as many numbers, and what stands for it without one."""


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Rule:
    """How columns become states."""

    columns: tuple[str, ...]
    make: Callable[[Sequence[np.ndarray]], np.ndarray] = _joined
    known: int | None = None  # numbers of a state that are recorded, from its first; None: all
    variants: tuple[Mapping[str, Any], ...] = ({},)  # arguments of environments that may have made it

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


def _of_cube(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(R, 21) qpos and (R, 20) qvel to (R, 74) states of Cube."""
    cube, states = _cube(), []
    for qpos, qvel in zip(*parts, strict=True):
        cube.place(qpos, qvel)
        states.append(cube.get_state())
    return np.stack(states)


def _of_scene(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(R, 25) qpos, (R, 24) qvel and (R, 2) states of the buttons to (R, 88) states of Scene."""
    scene, states = _scene(), []
    for qpos, qvel, buttons in zip(*parts, strict=True):
        scene.place(qpos, qvel, buttons)
        states.append(scene.get_state())
    return np.stack(states)


@cache
def _scene() -> Scene:
    from lewm_bench.envs.scene import Scene

    return Scene()


@cache
def _cube() -> Cube:
    from lewm_bench.envs.cube import Cube

    return Cube()


def _padded(size: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """States of ``size`` numbers, of which the last are not recorded and taken as 0."""
    return lambda parts: np.pad(parts[0], ((0, 0), (0, size - parts[0].shape[1])))


@dataclass(frozen=True)
class Published:
    """What is published as the state of one of our environments."""

    names: tuple[tuple[str, ...], ...]  # columns that it may be in, beside the usual ones
    size: int  # numbers of these columns together
    make: Callable[[Sequence[np.ndarray]], np.ndarray] = _joined
    known: int | None = None
    variants: tuple[Mapping[str, Any], ...] = ({},)

    def rule(self, columns: tuple[str, ...]) -> Rule:
        """How it is read from ``columns``."""
        return Rule(columns, self.make, self.known, self.variants)


PUBLISHED: Mapping[str, Published] = {
    # Both the exact collision and the reference platform's.
    "lewm_bench/TwoRoom-v0": Published((("pos_agent",),), 2, variants=({}, {"legacy": True})),
    "lewm_bench/Wall-v0": Published((), 2, variants=({}, {"legacy": True})),
    # The block's velocities are not published; away from contacts they are 0.
    "lewm_bench/PushT-v0": Published((), 7, _padded(10), known=7),
    "lewm_bench/Cube-v0": Published((("qpos", "qvel"),), 41, _of_cube, known=41),
    "lewm_bench/Scene-v0": Published((("qpos", "qvel", "button_states"),), 51, _of_scene, known=49),
    "lewm_bench/Reacher-v0": Published((("qpos", "qvel"),), 4),
    # OGBench's antmaze-medium and visual-antmaze-medium.
    "lewm_bench/AntMaze-MediumOGBench-v0": Published((("qpos", "qvel"),), 29),
}


def rule_of(env_id: str, size: int, table: Table, names: Names) -> Rule:
    """How the columns of a table become the states, ``size`` numbers, of an environment.

    Raises:
        UserError: none of them can.
    """
    known = PUBLISHED.get(env_id, Published((), size))
    if names.states:
        wanted = _named(table, names)
        count = sum(_count(table.columns[name]) for name in wanted)
        if count not in (size, known.size):
            raise UserError(f"{table.source}: {names.states} has {count} numbers, but a state of {env_id} has {size}")
        return known.rule(wanted) if count == known.size else Rule(wanted)
    for wanted in (*known.names, *((name,) for name in GENERIC)):
        counts = [_count(table.columns[name]) for name in wanted if name in table.columns]
        if len(counts) == len(wanted) and min(counts) > 0 and sum(counts) in (known.size, size):
            return known.rule(wanted) if sum(counts) == known.size else Rule(wanted)
    found = ", ".join(f"{name} {column.shape}" for name, column in table.columns.items() if not column.is_picture)
    raise UserError(
        f"{table.source} has no column that is the state of {env_id}, {size} numbers; name it with --states, or import "
        f"without a simulator: --env none (columns: {found})"
    )


def recorded_rule(table: Table, names: Names) -> Rule:
    """What stands for states where there is no simulator: what was recorded, or one zero."""
    if names.states:
        return Rule(_named(table, names))
    for name in GENERIC:
        if name in table.columns and table.columns[name].is_numbers:
            return Rule((name,))
    return Rule(())


def _count(column: Column) -> int:
    return int(np.prod(column.shape)) if column.is_numbers else -1


def _named(table: Table, names: Names) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in names.states.split(","))
    for name in wanted:
        column = table.column(name)
        if not column.is_numbers:
            raise UserError(f"{table.source}: {name} has rows {column.dtype} {column.shape}, which are no states")
    return wanted
