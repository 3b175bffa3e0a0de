"""How far rollouts stray from what then happened: errors of open-loop rollouts by horizon, on held-out episodes.

Shapes: N clips, T real frames that a clip begins with, H blocks behind them, D numbers of a latent laid flat, E episodes.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import cluster_sums, percentile_interval, resampled_sums
from lewm_bench.understand.model import ExaminedModel
from lewm_bench.understand.records import Interval, OpenLoop

PIECE = 16  # clips whose latents are in memory together
CONSTANT = 1e-10  # a variance below this share of the mean square is rounding


class OpenLoopConfig(Config):
    """How much is rolled out."""

    clips: int = Field(256, ge=2, description="held-out clips, at most")
    horizon: int = Field(10, ge=1, description="blocks imagined; fewer where half of the held-out episodes are shorter")


def open_loop(examined: ExaminedModel, config: OpenLoopConfig) -> OpenLoop:
    """Mean squared error of imagined latents after 1 to H blocks, in units of the latents' variance.

    The error is the mean over dimensions of (imagined - encoded)^2; the unit is the mean over dimensions of the
    variance of the encoded futures of all clips. So 1 is what always predicting their mean gives, averaged over
    horizons; two unrelated frames differ by 2. Intervals resample episodes, errors and unit alike.

    Raises:
        UserError: the held-out episodes are too short, or all their latents are equal.
    """
    context = examined.model.history
    horizon = possible_horizon(examined, config.horizon)
    clips = examined.clips("test", context + horizon, config.clips)
    moments = [_moments(examined, clips[k : k + PIECE]) for k in range(0, len(clips), PIECE)]
    errors, squares, totals = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    episodes = examined.episodes_of(clips[:, 0])
    sums = cluster_sums(np.column_stack([errors, squares, np.full(len(clips), horizon)]), episodes)
    # Resamples need |sum_e c_e s_e|^2 of the episodes' total latents s_e, which R of (s_1 ... s_E) = QR knows as well.
    sums = np.column_stack([sums, np.linalg.qr(cluster_sums(totals, episodes).T, mode="r").T])
    found = _normalised(sums.sum(0), 2 * horizon)
    rng = stream(0, "understanding", "open_loop", examined.env_id)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample of one episode that stands still
        draws = _normalised(resampled_sums(sums, rng), 2 * horizon)
    intervals = [Interval.of(percentile_interval(float(value), own)) for value, own in zip(found, draws.T, strict=True)]
    return OpenLoop(
        horizons=tuple(range(1, horizon + 1)),
        model=tuple(intervals[:horizon]),
        copy_last=tuple(intervals[horizon:]),
        n=len(clips),
        n_episodes=len(np.unique(episodes)),
    )


def possible_horizon(examined: ExaminedModel, wanted: int) -> int:
    """At most ``wanted`` blocks, and no more than half of the held-out episodes have behind a full context.

    Raises:
        UserError: those have none.
    """
    dataset, model = examined.dataset, examined.model
    typical = int(np.median(dataset.lengths[dataset.episodes("test")]))
    room = (typical - 1) // model.frame_skip + 1 - model.history
    if room < 1:
        raise UserError(
            f"held-out episodes of {examined.env_id} end within the model's context of {model.history} frames, "
            f"{model.frame_skip} steps apart; raise collect.steps"
        )
    return min(wanted, room)


@torch.inference_mode()
def rolled_out(examined: ExaminedModel, clips: np.ndarray) -> Tensor:
    """The latents (N, H, D) that the planner predicts for clips (N, T + H), T the model's history, on the CPU.

    It sees the first T frames and is told the recorded actions. While planning only the last latent of a plan is sure
    to be computed (Fast-LeWM skips the others), so each horizon is a plan of its own.
    """
    planner, dataset, T = examined.planning_agent, examined.dataset, examined.model.history
    seen = clips[:, :T]
    frames = torch.from_numpy(np.ascontiguousarray(np.moveaxis(dataset.frames[seen], -1, -3)))
    latents = planner.encode(frames, dataset.states[seen])
    blocks = examined.blocks(clips)
    search = planner.rollout(latents, blocks[:, : T - 1])
    plan, futures = blocks[:, None, T - 1 :], []
    for length in range(1, plan.shape[2] + 1):
        found: list[Tensor] = []

        def keep(imagined: Tensor, _: slice, found: list[Tensor] = found) -> Tensor:
            found.append(imagined[:, 0, -1].flatten(1).float().cpu())
            return imagined.new_zeros(imagined.shape[:2])  # no plan is better than another

        search(plan[:, :, :length], keep)
        futures.append(torch.cat(found))
    return torch.stack(futures, 1)


def _moments(examined: ExaminedModel, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each clip: summed squared errors (N, 2H) of model and copy, and sums of squares (N,) and of latents (N, D)."""
    T = examined.model.history
    seen = examined.latents_at(clips[:, T - 1 :].ravel()).unflatten(0, (len(clips), -1)).double()
    last, real = seen[:, :1], seen[:, 1:]
    errors = torch.cat([(guess - real).square().sum(-1) for guess in (rolled_out(examined, clips).double(), last)], 1)
    return errors.numpy(), real.square().sum((1, 2)).numpy(), real.sum(1).numpy()


def _normalised(sums: np.ndarray, count: int) -> np.ndarray:
    """(..., K) sums over clips to (..., count) errors over variance; the number of latents stands behind the squares."""
    errors, squares, latents, totals = np.split(sums, [count, count + 1, count + 2], axis=-1)
    horizon = count // 2
    variance = squares / latents - np.square(totals / latents).sum(-1, keepdims=True)  # summed over dimensions
    if variance.ndim == 1 and variance[0] <= CONSTANT * squares[0] / latents[0]:
        raise UserError("the latents of all held-out frames are equal, so their variance is no unit of error")
    return errors / (latents / horizon) / variance
