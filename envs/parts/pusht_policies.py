"""Policies that push the block of PushT. Lengths are pixels; a pose is (x, y, angle) of the block.

Letters: N episodes side by side, K contact points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.envs.parts.pusht_block import AGENT_RADIUS, CLEAR, Block, rotated

AGENT_LOW, AGENT_HIGH = 22.0, 489.0  # of the agent's centre between the walls
ACTION_SCALE = 100.0  # px that action 1 asks for
NEAR = 100.0  # px from the block's middle, per axis, that block_biased stays within
RING = 22.3  # px from the circle around the block: the agent goes round it on a wider one
BEARINGS = 24  # points on the ring
DONE = 12.0  # px; how close to its goal, and with the lever of its inertia in angle, the block is left
PATIENCE = 120  # steps for a goal
PERSISTENCE = 15  # steps for a contact point
SPEEDS = (0.1, 0.4)  # length of an action, drawn per episode; actions have the std of the published data, 0.2
NOISE = (0.0, 0.15)  # std of the noise on an action, drawn per episode


def pusht_policies(
    block: Block, sample_state: Callable[[np.random.Generator], np.ndarray]
) -> Mapping[str, PolicyFactory]:
    """Those that know the block; ``sample_state`` draws the poses that it is pushed to."""
    return {"block_biased": block_biased(block), "pushing_expert": pushing_expert(block, sample_state)}


def block_biased(block: Block) -> PolicyFactory:
    """Uniform actions whose target is kept within 100 px of the block's middle."""

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        def act(states: np.ndarray) -> np.ndarray:
            agent, middle = states[:, :2], states[:, 2:4] + rotated(block.middle, states[:, 4])
            target = agent + ACTION_SCALE * np.stack([rng.uniform(-1.0, 1.0, 2) for rng in rngs])
            return _toward(np.clip(target, middle - NEAR, middle + NEAR), agent)

        return act

    return start


def _toward(target: np.ndarray, agent: np.ndarray) -> np.ndarray:
    return np.clip((target - agent) / ACTION_SCALE, -1.0, 1.0).astype(np.float32)


def pushing_expert(block: Block, sample_state: Callable[[np.random.Generator], np.ndarray]) -> PolicyFactory:
    """Pushes the block to one random pose after the other, from whichever side brings it nearest, with noise."""

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        speed, noise = np.array([(rng.uniform(*SPEEDS), rng.uniform(*NOISE)) for rng in rngs]).T
        goal = np.stack([sample_state(rng)[2:5] for rng in rngs])
        side, goal_age, side_age = np.zeros((3, len(rngs)), int)
        side_age[:] = PERSISTENCE  # choose at once

        def act(states: np.ndarray) -> np.ndarray:
            nonlocal side, goal_age, side_age
            pose = states[:, 2:5]
            goal_age, side_age = goal_age + 1, side_age + 1
            for n in np.flatnonzero((_left(block, pose, goal)[1] < DONE) | (goal_age > PATIENCE)):
                goal[n], goal_age[n], side_age[n] = sample_state(rngs[n])[2:5], 0, PERSISTENCE
            gains = _gains(block, states, goal)
            worn = (side_age >= PERSISTENCE) | (gains[np.arange(len(side)), side] < 0.25 * gains.max(1))
            side, side_age = np.where(worn, gains.argmax(1), side), np.where(worn, 0, side_age)
            kicks = np.stack([rng.standard_normal(2) for rng in rngs])
            way = _aim(block, states, goal, side, speed * ACTION_SCALE) - states[:, :2]
            limit = (speed * ACTION_SCALE)[:, None]
            way = way * np.minimum(1, limit / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9))
            return np.clip(way / ACTION_SCALE + noise[:, None] * kicks, -1.0, 1.0).astype(np.float32)

        return act

    return start


def _left(block: Block, pose: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) poses to what is left to the goal: (N, 2) px in the block's frame, (N,) its length, (N,) angle.

    In that length an angle counts by the block's radius of gyration, as it does in kinetic energy.
    """
    middle = [at[:, :2] + rotated(block.middle, at[:, 2]) for at in (pose, goal)]
    turn = (goal[:, 2] - pose[:, 2] + np.pi) % (2 * np.pi) - np.pi
    shift = rotated(middle[1] - middle[0], -pose[:, 2])
    return shift, np.sqrt((shift**2).sum(-1) + block.inertia * turn**2), turn


def _gains(block: Block, states: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(N, K): how much of what is left a push at each contact point saves, per px; less where the way there is long."""
    shift, length, turn = _left(block, states[:, 2:5], goal)
    # A frictionless push moves the middle along the push and turns the block by lever / inertia, per unit of impulse.
    wanted = (shift[:, None] * block.pushes).sum(-1) + turn[
        :, None
    ] * block.levers  # no matmul: its rounding depends on N
    saved = wanted / (1 + block.levers**2 / block.inertia) / np.maximum(length, 1.0)[:, None]
    starts = _world(states[:, 2:5], block.points - (AGENT_RADIUS + CLEAR) * block.pushes)
    shut = ((starts < AGENT_LOW) | (starts > AGENT_HIGH)).any(-1)
    away = np.linalg.norm(starts - states[:, None, :2], axis=-1)
    return np.where(shut, -1.0, saved - 0.001 * away)


def _aim(block: Block, states: np.ndarray, goal: np.ndarray, side: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """(N, 2) where the agent should go: on with the push, to where it begins, or round the block to there."""
    agent, pose = states[:, :2], states[:, 2:5]
    point, push = block.points[side], block.pushes[side]
    shift, _, turn = _left(block, pose, goal)
    behind = rotated(agent - pose[:, :2], -pose[:, 2]) - point
    along = (behind * push).sum(-1)
    across = np.linalg.norm(behind - along[:, None] * push, axis=-1)
    pushing = (along < 0) & (along > -AGENT_RADIUS - 2 * CLEAR) & (across < CLEAR)
    needed = (shift * push).sum(-1) + turn * block.levers[side]  # px that this push can be useful for
    on = _world(pose, (point + (np.clip(needed, 5.0, speed) - AGENT_RADIUS)[:, None] * push)[:, None])[:, 0]
    start = _world(pose, (point - (AGENT_RADIUS + CLEAR) * push)[:, None])[:, 0]
    return np.where(pushing[:, None], on, _around(block, agent, pose, start))


def _around(block: Block, agent: np.ndarray, pose: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N, 2) the next point on the way to ``end``: itself if nothing is between, else one on a ring about the block."""
    angles = np.arange(BEARINGS) * (2 * np.pi / BEARINGS)
    center = pose[:, :2] + rotated(block.center, pose[:, 2])
    ring = np.clip(
        center[:, None] + (block.reach + RING) * np.stack([np.cos(angles), np.sin(angles)], -1), AGENT_LOW, AGENT_HIGH
    )
    shut = block.gap(ring, pose[:, None]) < AGENT_RADIUS  # the block is at the wall there
    here, there = (
        np.rint(np.arctan2(*(at - center).T[::-1]) * BEARINGS / (2 * np.pi)).astype(int) for at in (agent, end)
    )
    rows, steps = np.arange(len(agent))[:, None], np.arange(BEARINGS)
    costs, paths = [], []
    for sign in (1, -1):
        count = (sign * (there - here)) % BEARINGS
        path = (here[:, None] + sign * steps) % BEARINGS
        costs.append(count + BEARINGS * (shut[rows, path] & (steps <= count[:, None])).any(-1))
        paths.append(ring[rows, path[:, 3::-1]])  # three, two, one bearing on, and straight out
    path = np.where((costs[0] <= costs[1])[:, None, None], *paths)
    options = np.concatenate([end[:, None], path], axis=1)
    ways = agent[:, None, None] + np.linspace(0.2, 1, 5)[:, None] * (options - agent[:, None])[:, :, None]
    free = (block.gap(ways, pose[:, None, None]) > AGENT_RADIUS).all(-1)
    free[:, -1] = True
    return options[np.arange(len(agent)), free.argmax(1)]


def _world(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) poses and (K, 2) or (N, K, 2) points of the block's frame to (N, K, 2)."""
    return pose[:, None, :2] + rotated(points, pose[:, None, 2])
