"""Whether the nearest latent is that of the goal's own moment, among held-out frames. Needs no simulator.

Planning goes where imagined latents come near the goal's. So two questions: which other frame lies nearest to a goal frame
that is left out, and which frame lies nearest to what was imagined for the goal from the frames and actions before it.
Shapes: N clips, T real frames that a clip begins with, H blocks behind them, C candidate rows, D numbers of a latent.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.core.config import Config
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import cluster_sums, percentile_interval, resampled_sums
from lewm_bench.understand.model import ExaminedModel, downsampled
from lewm_bench.understand.open_loop import PIECE, possible_horizon, rolled_out
from lewm_bench.understand.records import Features, FrameRetrieval, Interval, Retrieval


class RetrievalConfig(Config):
    """How many goals, and how far ahead they are imagined."""

    clips: int = Field(64, ge=2, description="held-out clips, at most; their frames are goals and candidates")
    horizon: int = Field(10, ge=1, description="blocks imagined; fewer where half of the held-out episodes are shorter")
    pixels: int = Field(16, ge=1, description="side of the downsampled frames they are compared with")


def retrieval(examined: ExaminedModel, untrained: ExaminedModel | None, config: RetrievalConfig) -> Retrieval:
    """How often the nearest held-out frame is the goal's, or at most one block away from it in the same episode.

    Goals are the H frames behind the contexts of clips, candidates are all frames of all clips. Of several nearest
    candidates (frames that look alike) each counts its share, so that equal latents score as chance does. Intervals
    resample episodes.

    Args:
        untrained: the same networks with random weights; None leaves them out.

    Raises:
        UserError: the held-out episodes are too short.
    """
    context = examined.model.history
    horizon = possible_horizon(examined, config.horizon)
    clips = examined.clips("test", context + horizon, config.clips)
    candidates = np.unique(clips)
    goals = clips[:, context:]
    sources = {"model": examined.latents_at}
    if untrained is not None:
        sources["random encoder"] = untrained.latents_at
    sources["pixels"] = lambda rows: torch.from_numpy(downsampled(examined.dataset.frames[rows], config.pixels))
    near = _near(examined, goals.ravel(), candidates)
    own = goals.reshape(-1, 1) == candidates
    episodes = examined.episodes_of(clips[:, 0])
    features = {name: find(candidates) for name, find in sources.items()}

    def interval(hits: np.ndarray) -> Interval:  # (N,) the share of a clip's goals that are found
        sums = cluster_sums(np.stack([hits, np.ones_like(hits)], 1), episodes)
        draws = resampled_sums(sums, stream(0, "understanding", "retrieval", examined.env_id))
        return Interval.of(percentile_interval(float(hits.mean()), draws[:, 0] / draws[:, 1]))

    def frames(name: Features) -> FrameRetrieval:
        queries = features[name][np.searchsorted(candidates, goals.ravel())]
        hits = found(queries, features[name], near & ~own, ~own).reshape(goals.shape)
        return FrameRetrieval(features=name, near=interval(hits.mean(1)))

    imagined = torch.cat([rolled_out(examined, clips[k : k + PIECE]) for k in range(0, len(clips), PIECE)])
    exact, close = (
        found(imagined.flatten(0, 1), features["model"], wanted).reshape(goals.shape) for wanted in (own, near)
    )
    return Retrieval(
        frames=tuple(frames(name) for name in sources),
        frames_chance=float(((near & ~own).sum(1) / (len(candidates) - 1)).mean()),
        horizons=tuple(range(1, horizon + 1)),
        exact=tuple(interval(hits) for hits in exact.T),
        near=tuple(interval(hits) for hits in close.T),
        exact_chance=1 / len(candidates),
        near_chance=float(near.mean()),
        within=examined.model.frame_skip,
        candidates=len(candidates),
        n=len(clips),
        n_episodes=len(np.unique(episodes)),
    )


@torch.inference_mode()
def found(queries: Tensor, features: Tensor, wanted: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """(Q,) share of the candidates nearest to each query that are wanted.

    Args:
        queries: (Q, D).
        features: (C, D) of the candidates.
        wanted: (Q, C) which of them answer a query.
        allowed: (Q, C) which of them may be found; all of them if left out.
    """
    shares = []
    for rows in np.array_split(np.arange(len(queries)), max(len(queries) // 64, 1)):
        # Not by matrix products, whose rounding would tell equal latents apart.
        distances = torch.cdist(queries[rows], features, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        if allowed is not None:
            distances = np.where(allowed[rows], distances, np.inf)
        nearest = distances == distances.min(1, keepdims=True)
        shares.append((nearest & wanted[rows]).sum(1) / nearest.sum(1))
    return np.concatenate(shares)


def _near(examined: ExaminedModel, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(Q, C) whether a candidate is of the same episode as a row and at most one block away from it."""
    same = examined.episodes_of(rows)[:, None] == examined.episodes_of(candidates)
    return same & (np.abs(rows[:, None] - candidates) <= examined.model.frame_skip)
