"""Have the latents collapsed? Spread, spectrum, SIGReg's statistic, and a verdict that needs no scale.

The verdict. An encoder that nothing restrains makes its predictor's task trivial: it sends every frame to nearly the
same latent. What variation is left is not the world's state but what weights have not yet undone: noise that no action
explains. Neither a small deviation nor a small rank shows this by itself: objectives without a fixed scale may end at
any deviation, and noise has full rank. So latents count as collapsed if

1. they are constant up to rounding: their deviation is below a millionth of their size; or
2. almost all their variance (effective rank below 1.1: 98 %) lies in one direction; or
3. the next latent is unpredictable: the world model's own prediction explains less than half of its variance, and so
   does its correlation with the latent before it (the best that follows from looking at that latent alone).

The third is a ratio of variances, so it does not depend on scale or rotation, needs no true states, and asks for nothing
that planning does not need as well. Two measures, so that neither a poor predictor on sound latents nor a fast world is
taken for a collapse. An untrained network fails it too. The second can be a sound embedding of a world with a single
degree of freedom, which the reason lets a reader see.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.core.config import Config
from lewm_bench.core.torch_rng import torch_seed
from lewm_bench.planning.cost import rollout
from lewm_bench.understand.model import ExaminedModel
from lewm_bench.understand.records import Collapse

CONSTANT = 1e-6  # of the latents' root mean square: the resolution of float32
ONE_DIRECTION = 1.1
PREDICTABLE = 0.5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class CollapseConfig(Config):
    """How much is looked at."""

    frames: int = Field(1000, ge=10, description="held-out frames")
    clips: int = Field(400, ge=10, description="held-out clips whose last latent is predicted")
    directions: int = Field(512, ge=1, description="random projections of SIGReg's statistic")
    knots: int = Field(17, ge=2, description="quadrature points of SIGReg's statistic")


class Predictability(NamedTuple):
    """Shares of the variance of a next latent."""

    model: float  # that the world model explains; negative if it is worse than the mean
    last: float  # the squared correlation with the latent before

    @property
    def best(self) -> float:
        return max(self)


def examine_collapse(examined: ExaminedModel, config: CollapseConfig) -> Collapse:
    """The verdict and what it rests on, for held-out frames."""
    latents = examined.latents_at(examined.frames("test", config.frames)).double()
    spectrum = eigenvalues(latents)
    rank = float(torch.exp(-torch.special.xlogy(spectrum, spectrum).sum()))
    std, size = float(latents.std(0).mean()), float(latents.square().mean().sqrt())
    collapsed, reason = verdict(std, size, rank, predictability(examined, config.clips))
    statistic = sigreg_by_direction(latents.float(), config)
    return Collapse(
        collapsed=collapsed,
        reason=reason,
        n=len(latents),
        size=latents.shape[1],
        latent_std=std,
        effective_rank=rank,
        spectrum=tuple(spectrum.tolist()),
        sigreg=float(statistic.mean()),
        sigreg_quantiles=tuple(torch.quantile(statistic, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()),
        sigreg_gaussian=float(sigreg_by_direction(_gaussian(latents.shape), config).mean()),
    )


def verdict(std: float, size: float, rank: float, predictable: Predictability) -> tuple[bool, str]:
    """Whether latents have collapsed, and the sentence that says why or why not.

    Args:
        std: mean deviation of their numbers.
        size: their root mean square.
        rank: their effective rank.
    """
    if std <= CONSTANT * size:
        return True, f"every frame has the same latent: its numbers deviate by {std:.2g} at a size of {size:.2g}"
    if rank < ONE_DIRECTION:
        return True, f"nearly all variance of the latents lies in one direction: the effective rank is {rank:.2f}"
    shares = f"{_percent(predictable.model)} by the world model, {_percent(predictable.last)} by the latent before"
    if predictable.best < PREDICTABLE:
        return True, f"what varies in the latents (deviation {std:.2g}) is noise: of the next one is explained {shares}"
    return False, f"the variance of the next latent is explained: {shares}; the effective rank is {rank:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0 else "nothing"


def eigenvalues(latents: Tensor) -> Tensor:
    """(N, D) to the min(N, D) eigenvalues of the covariance, largest first, with sum 1; zeros if nothing varies.

    By singular values: tokens laid flat have too many numbers for a covariance matrix.
    """
    variances = torch.linalg.svdvals(latents - latents.mean(0)).square()
    return variances / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny)


@torch.inference_mode()
def predictability(examined: ExaminedModel, count: int) -> Predictability:
    """How much of the last latent of held-out clips the model, and the latent before, tell."""
    clips = examined.clips("test", examined.model.history + 1, count)
    dataset, agent = examined.dataset, examined.planning_agent
    before, predicted, after = [], [], []
    for rows in np.array_split(clips, -(-len(clips) // 16)):
        frames = torch.from_numpy(np.ascontiguousarray(np.moveaxis(dataset.frames[rows], -1, -3)))
        # All three as the model predicts them: the latents whose distance is planned with may be scaled otherwise.
        latents, blocks = agent.encode(frames, dataset.states[rows]), examined.blocks(rows)
        imagined = rollout(examined.model, latents[:, :-1], blocks[:, :-1], blocks[:, None, -1:])[:, 0, 0]
        for kept, own in ((before, latents[:, -2]), (predicted, imagined), (after, latents[:, -1])):
            kept.append(own.flatten(1).cpu().double())
    return shares(*(torch.cat(parts) for parts in (before, predicted, after)))


def shares(before: Tensor, predicted: Tensor, after: Tensor) -> Predictability:
    """Explained variance of the latents ``after``, all (N, D); 0 where nothing varies."""
    error = (predicted - after).square().sum()
    before, after = before - before.mean(0), after - after.mean(0)
    spread, common = after.square().sum(), (before * after).sum()
    if spread == 0 or before.square().sum() == 0:
        return Predictability(0.0, 0.0)
    correlation = common.clamp_min(0) / (before.square().sum() * spread).sqrt()
    return Predictability(float(1 - error / spread), float(correlation.square()))


def sigreg_by_direction(latents: Tensor, config: CollapseConfig) -> Tensor:
    """(N, D) to SIGReg's statistic (M,) along directions that are the same for every model of this size, float64."""
    generator = torch.Generator().manual_seed(torch_seed(0, "collapse directions"))
    chosen = directions(config.directions, latents.shape[1], generator)
    pieces = chosen.split(64, dim=1)  # (N, 64, knots) at a time
    return torch.cat([sigreg(latents[None], u, config.knots, per_direction=True)[0] for u in pieces]).double()


def _gaussian(shape: torch.Size) -> Tensor:
    """Samples of a standard normal, the same ones for every model of this size."""
    generator = torch.Generator().manual_seed(torch_seed(0, "collapse reference"))
    return torch.randn(shape, generator=generator)
