"""TwoRoom of LeWM (stable-worldmodel's TwoRoom-v1): a disk walks between two rooms through a door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lewm_bench.core.exploration import PolicyFactory
from lewm_bench.envs.parts.rooms import Rooms, RoomsEnv, through_door

RADIUS = 7.0
ROOMS = Rooms(
    size=224,
    low=14.0,
    high=210.0,
    wall=112.0,
    wall_half=5.0,
    door=49.0,
    door_half=14.0,
    radius=RADIUS,
    margin=RADIUS + 0.01,
    speed=5.0,
    dot_std=RADIUS,
    lines=((10, 13), (210, 213)),
    dot_above_walls=True,
)
DOOR_TOLERANCE = 1.75  # legacy: how far the agent's centre may be beyond the door's edge
PUSH_BACK = 0.5  # legacy: between the agent and the wall that stopped it
NEAR_DOOR = 10.5  # where the expert leaves the door for its target
EXPERT_NOISE = 2.0  # std per component, before actions are clipped to 1


def legacy_step(positions: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """(N, 2) positions and displacements to positions, with only the end point tested."""
    low, high = ROOMS.low + RADIUS, ROOMS.high - RADIUS
    x, y = np.clip(positions + moves, low, high).T
    left, right = ROOMS.wall - ROOMS.wall_half - RADIUS, ROOMS.wall + ROOMS.wall_half + RADIUS
    from_left = positions[:, 0] < ROOMS.wall
    at_door = np.abs(y - ROOMS.door) <= ROOMS.door_half + DOOR_TOLERANCE
    stopped = np.where(from_left, x > left, x < right) & ~at_door
    return np.stack([np.where(stopped, np.where(from_left, left - PUSH_BACK, right + PUSH_BACK), x), y], axis=-1)


class TwoRoom(RoomsEnv):
    """A red disk of radius 7 in two rooms of a 224-pixel canvas; state (x, y) in its pixels, y down; 5 px per step.

    The disk touches neither the walls nor the door's edges on its way and slides along them. ``legacy`` is the
    collision of the reference platform, which its released data and weights have seen: only the end of a step is
    tested, so the disk overlaps the door's edges, cuts corners, and is put beside the wall when it leaves the door's
    height inside it. (The reference computes in float32.) Frames differ from the reference's by at most one level
    of 255, because it cuts off fractions instead of rounding them.
    """

    threshold = 16.0
    distance_unit = "canvas pixels"
    exploration: ClassVar[Mapping[str, float]] = {"door_expert": 1.0}
    rooms = ROOMS
    legacy_step = staticmethod(legacy_step)
    doors = (80.0, 120.0, 175.0)
    walls = (102.0, 87.0, 62.0)
    second_doors = (90.0, 140.0, 190.0)

    def policies(self) -> Mapping[str, PolicyFactory]:
        """``door_expert`` is LeWM's; where the reference ends an episode at its target this one draws another."""
        expert = through_door(self.rooms, EXPERT_NOISE, NEAR_DOOR, arrived=self.threshold)
        return {**super().policies(), "door_expert": expert}
