"""How straight latent paths are: the mean cosine of consecutive velocities (LeWM paper, section 5)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import cluster_sums, percentile_interval, resampled_sums
from lewm_bench.understand.model import ExaminedModel, downsampled
from lewm_bench.understand.records import Features, Interval, Straightness


class PathsConfig(Config):
    """How many paths, and what they are compared with."""

    episodes: int = Field(200, ge=2, description="held-out episodes, at most")
    pixels: int = Field(16, ge=1, description="side of the downsampled frames they are compared with")


def straightness(
    examined: ExaminedModel, untrained: ExaminedModel | None, config: PathsConfig
) -> tuple[Straightness, ...]:
    """Straightness of held-out paths in the latents, in those of random weights and in downsampled frames.

    A path is a whole episode, a frame every ``frame_skip`` steps. Where a frame equals the one before it nothing moved
    and there is no direction: such velocities are left out, the same ones for all features. Features in which no path
    turns up (constant latents) have no row.

    Args:
        untrained: the same networks with random weights; None leaves them out.

    Raises:
        UserError: no test episode has three frames.
    """
    paths = _paths(examined, config.episodes)
    moved = [_changed(examined.dataset.frames[rows]) for rows in paths]
    sources = {"model": examined.latents_at}
    if untrained is not None:
        sources["random encoder"] = untrained.latents_at
    sources["pixels"] = lambda rows: downsampled(examined.dataset.frames[rows], config.pixels)
    rows = []
    for name, features in sources.items():
        found = [cosines(np.asarray(features(p), np.float64), m) for p, m in zip(paths, moved, strict=True)]
        rows += _summary(name, found, stream(0, "straightness intervals", examined.env_id))
    return tuple(rows)


def cosines(path: np.ndarray, moved: np.ndarray | None = None) -> np.ndarray:
    """Cosines (at most T-2,) of the consecutive velocities of a path (T, D), where both are not 0.

    Args:
        moved: (T-1,) which velocities count; all of them if left out.
    """
    velocity = np.diff(path, axis=0)
    length = np.linalg.norm(velocity, axis=1)
    counts = length > 0 if moved is None else (length > 0) & moved
    both = counts[1:] & counts[:-1]
    direction = velocity / np.where(length > 0, length, 1)[:, None]
    return (direction[1:] * direction[:-1]).sum(1)[both]


def _paths(examined: ExaminedModel, count: int) -> list[np.ndarray]:
    """Rows of the first ``count`` test episodes that have three frames, a block apart."""
    dataset, skip = examined.dataset, examined.model.frame_skip
    paths = [np.arange(dataset.starts[e], dataset.ends[e], skip) for e in dataset.episodes("test")]
    paths = [rows for rows in paths if len(rows) >= 3]
    if not paths:
        raise UserError(f"no test episode of {examined.env_id} has {2 * skip} steps; raise collect.steps")
    return paths[:count]


def _changed(frames: np.ndarray) -> np.ndarray:
    """(T, h, w, 3) to (T-1,) bool: is a frame another one than the frame before?"""
    return (frames[1:] != frames[:-1]).any((1, 2, 3))


def _summary(name: Features, found: list[np.ndarray], rng: np.random.Generator) -> list[Straightness]:
    """The row of the cosines of each path, if there are any; every cosine counts alike."""
    found = [values for values in found if len(values)]
    if not found:
        return []
    values = np.concatenate(found)
    paths = np.repeat(np.arange(len(found)), [len(v) for v in found])
    sums = cluster_sums(np.stack([values, np.ones_like(values)], 1), paths)
    draws = resampled_sums(sums, rng)
    return [
        Straightness(
            features=name,
            value=Interval.of(percentile_interval(float(values.mean()), draws[:, 0] / draws[:, 1])),
            n_paths=len(found),
            n_episodes=len(found),
        )
    ]
