"""PushT's geometry, and policies that push the block. Lengths are pixels; a pose is (x, y, angle) of the block.

Letters: N episodes side by side, K contact points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory

AGENT_RADIUS = 15.0
AGENT_LOW, AGENT_HIGH = 22.0, 489.0  # of the agent's centre between the walls
BAR = np.array([[-60, 0], [60, 30]], np.float64)  # opposite corners, in the block's frame
STEM = np.array([[-15, 30], [15, 120]], np.float64)
MIDDLE = np.array([0.0, 45.0])  # between the centres of gravity of bar and stem; the block turns about it
ACTION_SCALE = 100.0  # px that action 1 asks for
REACH, CENTER = 75.7, np.array([0.0, 45.9375])  # the smallest circle around the T
INERTIA = 3000.0  # of the block about MIDDLE, at mass 1, as gym-pusht sets it
NEAR = 100.0  # px from the block's middle, per axis, that block_biased stays within

SIDES = np.array(  # contact points x, y and the direction to push there, in the block's frame
    [(x, 0, 0, 1) for x in (-50, -25, 0, 25, 50)]
    + [(x, 30, 0, -1) for x in (-45, 45)]
    + [(x, 15, -np.sign(x), 0) for x in (-60, 60)]
    + [(x, y, -np.sign(x), 0) for x in (-15, 15) for y in (60, 85, 110)]
    + [(0, 120, 0, -1)],
    np.float64,
)
POINTS, PUSHES = SIDES[:, :2], SIDES[:, 2:]
LEVERS = (POINTS - MIDDLE)[:, 0] * PUSHES[:, 1] - (POINTS - MIDDLE)[:, 1] * PUSHES[:, 0]
CLEAR = 10.0  # px between agent and block where a push begins
RING = 98.0  # px from CENTER: the agent goes round the block on this circle
BEARINGS = 24  # points on the ring
DONE = 12.0  # px; how close to its goal, and with the lever of INERTIA in angle, the block is left
PATIENCE = 120  # steps for a goal
PERSISTENCE = 15  # steps for a contact point
SPEEDS = (0.1, 0.4)  # length of an action, drawn per episode; actions have the std of the published data, 0.2
NOISE = (0.0, 0.15)  # std of the noise on an action, drawn per episode


def rotated(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(..., 2) vectors turned by (...) angles."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def corners(pose: np.ndarray) -> np.ndarray:
    """(..., 3) poses to (..., 8, 2): the corners of the bar, then of the stem, each in order."""
    pose = np.asarray(pose, np.float64)
    local = np.array([(box[i, 0], box[j, 1]) for box in (BAR, STEM) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))])
    return pose[..., None, :2] + rotated(local, pose[..., None, 2])


def gap(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(..., 2) points and (..., 3) poses to (...) px from the T, negative inside it."""
    local = rotated(points - pose[..., :2], -pose[..., 2])
    gaps = []
    for low, high in (BAR, STEM):
        beyond = np.abs(local - (low + high) / 2) - (high - low) / 2
        gaps.append(np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0))
    return np.minimum(*gaps)


def pusht_policies(sample_state: Callable[[np.random.Generator], np.ndarray]) -> Mapping[str, PolicyFactory]:
    """Those that know the block; ``sample_state`` draws the poses that it is pushed to."""
    return {"block_biased": block_biased, "pushing_expert": pushing_expert(sample_state)}


def block_biased(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    """Uniform actions whose target is kept within 100 px of the block's middle."""

    def act(states: np.ndarray) -> np.ndarray:
        agent, middle = states[:, :2], states[:, 2:4] + rotated(MIDDLE, states[:, 4])
        target = agent + ACTION_SCALE * np.stack([rng.uniform(-1.0, 1.0, 2) for rng in rngs])
        return _toward(np.clip(target, middle - NEAR, middle + NEAR), agent)

    return act


def _toward(target: np.ndarray, agent: np.ndarray) -> np.ndarray:
    return np.clip((target - agent) / ACTION_SCALE, -1.0, 1.0).astype(np.float32)


def pushing_expert(sample_state: Callable[[np.random.Generator], np.ndarray]) -> PolicyFactory:
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
            for n in np.flatnonzero((_left(pose, goal)[1] < DONE) | (goal_age > PATIENCE)):
                goal[n], goal_age[n], side_age[n] = sample_state(rngs[n])[2:5], 0, PERSISTENCE
            gains = _gains(states, goal)
            worn = (side_age >= PERSISTENCE) | (gains[np.arange(len(side)), side] < 0.25 * gains.max(1))
            side, side_age = np.where(worn, gains.argmax(1), side), np.where(worn, 0, side_age)
            kicks = np.stack([rng.standard_normal(2) for rng in rngs])
            way = _aim(states, goal, side, speed * ACTION_SCALE) - states[:, :2]
            limit = (speed * ACTION_SCALE)[:, None]
            way = way * np.minimum(1, limit / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9))
            return np.clip(way / ACTION_SCALE + noise[:, None] * kicks, -1.0, 1.0).astype(np.float32)

        return act

    return start


def _left(pose: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) poses to what is left to the goal: (N, 2) px in the block's frame, (N,) its length, (N,) angle.

    In that length an angle counts by the block's radius of gyration, as it does in kinetic energy.
    """
    middle = [at[:, :2] + rotated(MIDDLE, at[:, 2]) for at in (pose, goal)]
    turn = (goal[:, 2] - pose[:, 2] + np.pi) % (2 * np.pi) - np.pi
    shift = rotated(middle[1] - middle[0], -pose[:, 2])
    return shift, np.sqrt((shift**2).sum(-1) + INERTIA * turn**2), turn


def _gains(states: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(N, K): how much of what is left a push at each contact point saves, per px; less where the way there is long."""
    shift, length, turn = _left(states[:, 2:5], goal)
    # A frictionless push moves the middle along the push and turns the block by lever / inertia, per unit of impulse.
    wanted = (shift[:, None] * PUSHES).sum(-1) + turn[:, None] * LEVERS  # no matmul: its rounding depends on N
    saved = wanted / (1 + LEVERS**2 / INERTIA) / np.maximum(length, 1.0)[:, None]
    starts = _world(states[:, 2:5], POINTS - (AGENT_RADIUS + CLEAR) * PUSHES)
    shut = ((starts < AGENT_LOW) | (starts > AGENT_HIGH)).any(-1)
    away = np.linalg.norm(starts - states[:, None, :2], axis=-1)
    return np.where(shut, -1.0, saved - 0.001 * away)


def _aim(states: np.ndarray, goal: np.ndarray, side: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """(N, 2) where the agent should go: on with the push, to where it begins, or round the block to there."""
    agent, pose = states[:, :2], states[:, 2:5]
    point, push = POINTS[side], PUSHES[side]
    shift, _, turn = _left(pose, goal)
    behind = rotated(agent - pose[:, :2], -pose[:, 2]) - point
    along = (behind * push).sum(-1)
    across = np.linalg.norm(behind - along[:, None] * push, axis=-1)
    pushing = (along < 0) & (along > -AGENT_RADIUS - 2 * CLEAR) & (across < CLEAR)
    needed = (shift * push).sum(-1) + turn * LEVERS[side]  # px that this push can be useful for
    on = _world(pose, (point + (np.clip(needed, 5.0, speed) - AGENT_RADIUS)[:, None] * push)[:, None])[:, 0]
    start = _world(pose, (point - (AGENT_RADIUS + CLEAR) * push)[:, None])[:, 0]
    return np.where(pushing[:, None], on, _around(agent, pose, start))


def _around(agent: np.ndarray, pose: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N, 2) the next point on the way to ``end``: itself if nothing is between, else one on a ring about the block."""
    angles = np.arange(BEARINGS) * (2 * np.pi / BEARINGS)
    center = pose[:, :2] + rotated(CENTER, pose[:, 2])
    ring = np.clip(center[:, None] + RING * np.stack([np.cos(angles), np.sin(angles)], -1), AGENT_LOW, AGENT_HIGH)
    shut = gap(ring, pose[:, None]) < AGENT_RADIUS  # the block is at the wall there
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
    free = (gap(ways, pose[:, None, None]) > AGENT_RADIUS).all(-1)
    free[:, -1] = True
    return options[np.arange(len(agent)), free.argmax(1)]


def _world(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) poses and (K, 2) or (N, K, 2) points of the block's frame to (N, K, 2)."""
    return pose[:, None, :2] + rotated(points, pose[:, None, 2])
