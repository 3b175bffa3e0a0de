"""Wall of DINO-WM: a dot walks between two rooms through a door, on a canvas of 65 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.envs.parts.rooms import Rooms, RoomsEnv, through_door

DOT_STD = 1.7
PUSH_BACK = 0.5  # how far from a wall the original puts a dot that has run into it
ROOMS = Rooms(
    size=65,
    low=4.0,
    high=60.0,
    wall=32.0,
    wall_half=3.0,
    door=10.0,
    door_half=4.0,
    radius=PUSH_BACK,
    margin=2 * DOT_STD,
    speed=2.0,
    dot_std=DOT_STD,
    lines=((4, 4), (60, 60)),
    dot_above_walls=False,
)
LEAST_GAP = 0.3  # legacy: from a wall, where the push would end behind it
GAUSSIAN_STD = 0.45  # of the original data's actions
WALK_NOISE = 1.0  # std per component, before actions are clipped to 1
NEAR_DOOR = 3.0  # as TwoRoom's, whose canvas is 3.5 times as large


def legacy_step(positions: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """(N, 2) positions and displacements to positions, by the original's rules for a dot that runs into a wall."""
    ends = positions + moves
    on_right = positions[:, 0] >= ROOMS.wall
    least = np.stack([np.where(on_right, ROOMS.wall + ROOMS.wall_half, ROOMS.low), np.full(len(ends), ROOMS.low)], -1)
    most = np.stack([np.where(on_right, ROOMS.high, ROOMS.wall - ROOMS.wall_half), np.full(len(ends), ROOMS.high)], -1)
    met = []  # where the way crosses the room's left or right limit, and its upper or lower one
    for axis in (0, 1):
        below, above = (_crossing(positions, ends, axis, limit[:, axis]) for limit in (least, most))
        if axis == 0:  # the limit towards the other room has the door
            below, above = _unless(on_right & _at_door(below), below), _unless(~on_right & _at_door(above), above)
        met.append(np.where(np.isnan(below), above, below))
    across, along = (np.nan_to_num(_distance(point, positions), nan=np.inf) for point in met)
    sideways = across < along
    point = np.where(sideways[:, None], *met)
    side = np.sign(positions - point)
    push = PUSH_BACK * np.where(np.stack([sideways, ~sideways], axis=-1), side, 1.0)  # also along the wall, always
    pushed = np.clip(point + push, least, most)
    pushed = np.where(pushed <= least, least + LEAST_GAP, pushed)
    pushed = np.where(pushed >= most, most - LEAST_GAP, pushed)
    return _stopped_in_door(positions, ends, np.where(np.isnan(point), ends, pushed))


def _stopped_in_door(positions: np.ndarray, ends: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """(N, 2): where the way leaves the door's height inside the wall it ends there; the rest is ``otherwise``."""
    out = otherwise
    for into in (1.0, -1.0):  # downwards, upwards
        line = ROOMS.door + into * ROOMS.door_half
        point = _crossing(positions, ends, 1, line)
        leaves = ((positions[:, 1] - line) * into < 0) & ((ends[:, 1] - line) * into > 0)
        inside = np.abs(point[:, 0] - ROOMS.wall) <= ROOMS.wall_half
        pushed = point + PUSH_BACK * np.array([1.0, -into])
        out = np.where((leaves & inside)[:, None], pushed, out)
    return out


def _crossing(begins: np.ndarray, ends: np.ndarray, axis: int, line: np.ndarray | float) -> np.ndarray:
    """(N, 2) points where the ways meet the line on which coordinate ``axis`` is ``line``; NaN where they do not."""
    before, after = begins[:, axis] - line, ends[:, axis] - line
    share = before / np.where(before == after, 1.0, before - after)
    point = begins + share[:, None] * (ends - begins)
    point[:, axis] = line
    return _unless(np.sign(before) * np.sign(after) > 0, point)


def _unless(void: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.where(void[:, None], np.nan, points)


def _at_door(points: np.ndarray) -> np.ndarray:
    return np.abs(points[:, 1] - ROOMS.door) <= ROOMS.door_half


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).sum(-1))


def gaussian(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    """Independent normal actions with the standard deviation of DINO-WM's data, clipped to 1."""

    def act(states: np.ndarray) -> np.ndarray:
        del states
        noise = np.stack([rng.standard_normal(2) for rng in rngs])
        return np.clip(GAUSSIAN_STD * noise, -1.0, 1.0).astype(np.float32)

    return act


class Wall(RoomsEnv):
    """A red dot in two rooms of a 65-pixel canvas; state (x, y) in its pixels, y down; 2 px per step.

    The dot keeps half a pixel from walls, where the original puts a dot that has run into one, and slides along them;
    it is drawn behind them. ``legacy`` is the original's collision: no sliding; a dot that would cross a wall ends
    half a pixel in front of where it would cross, and half a pixel further right or down along the wall. Actions are
    clipped to 1 in either case, which the original does not do. Positions are sampled as the original's starts and
    goals, two standard deviations of the dot from the walls.
    """

    threshold = 4.5
    distance_unit = "canvas pixels"
    exploration: ClassVar[Mapping[str, float]] = {"ornstein_uhlenbeck": 0.25, "waypoints": 0.75}
    rooms = ROOMS
    legacy_step = staticmethod(legacy_step)
    doors = (19.0, 32.0, 54.0)
    walls = (29.0, 24.0, 17.0)
    second_doors = (21.0, 36.0, 54.0)

    def policies(self) -> Mapping[str, PolicyFactory]:
        """``gaussian`` has the original data's statistics; ``waypoints`` crosses from room to room."""
        walk = through_door(self.rooms, WALK_NOISE, NEAR_DOOR, arrived=self.threshold)
        return {**super().policies(), "gaussian": gaussian, "waypoints": walk}
