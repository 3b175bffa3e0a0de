"""PushT's geometry, and policies that push the block. Lengths are pixels; a pose is (x, y, angle) of the block.

Letters: N episodes side by side, K contact points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lewm_bench.env import BatchPolicy, PolicyFactory

AGENT_RADIUS = 15.0
AGENT_LOW, AGENT_HIGH = 22.0, 489.0  # of the agent's centre between the walls
BAR = np.array([[-60, 0], [60, 30]], np.float64)  # opposite corners, in the block's frame
STEM = np.array([[-15, 30], [15, 120]], np.float64)
MIDDLE = np.array([0.0, 45.0])  # between the centres of gravity of bar and stem; the block turns about it
ACTION_SCALE = 100.0
NEAR = 100.0  # px from the block's middle, per axis, that block_biased stays within


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
    del sample_state
    return {"block_biased": block_biased}


def block_biased(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    """Uniform actions whose target is kept within 100 px of the block's middle."""

    def act(states: np.ndarray) -> np.ndarray:
        agent, middle = states[:, :2], states[:, 2:4] + rotated(MIDDLE, states[:, 4])
        target = agent + ACTION_SCALE * np.stack([rng.uniform(-1.0, 1.0, 2) for rng in rngs])
        return _toward(np.clip(target, middle - NEAR, middle + NEAR), agent)

    return act


def _toward(target: np.ndarray, agent: np.ndarray) -> np.ndarray:
    return np.clip((target - agent) / ACTION_SCALE, -1.0, 1.0).astype(np.float32)
