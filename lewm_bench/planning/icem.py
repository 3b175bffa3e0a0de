"""The improved cross-entropy method (Pinneri et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.sampling import cheapest, require_finite


@dataclass(frozen=True)
class ElitePlan(Plan):
    """A plan with others that are worth trying again in the next search."""

    elites: Tensor  # (B, E, H, A)


def coloured(white: np.ndarray, beta: float) -> np.ndarray:
    """White noise (..., H, A) to noise whose power along H falls as 1 / frequency^beta, of the same variance.

    A filter of the spectrum (Timmer and Koenig, 1995), whose constant part has the power of the lowest frequency;
    0 changes nothing.
    """
    steps = white.shape[-2]
    frequency = np.fft.rfftfreq(steps)
    frequency[0] = 1 / steps
    gain = frequency ** (-beta / 2)
    twice = np.full(len(gain), 2.0)  # a frequency and its negative, which but for the constant and Nyquist's differ
    twice[0] = 1
    if steps % 2 == 0:
        twice[-1] = 1
    gain /= np.sqrt((twice * gain**2).sum() / steps)
    return np.fft.irfft(np.fft.rfft(white, axis=-2) * gain[:, None], steps, axis=-2)


def icem(
    cost: Cost,
    mean: Tensor,
    config: PlannerConfig,
    rngs: Sequence[np.random.Generator],
    kept: Tensor | None = None,
) -> ElitePlan:
    """The cheapest plan found from ``mean`` (B, H, A) by the improved cross-entropy method (Pinneri et al., 2020).

    Against ``cem``: noise with a colour, momentum, a share of the elites stays among the samples, the mean is one of the
    last ones only, and the cheapest elite is executed. As in ``cem`` nothing is clipped: plans are z-scores, whose
    bounds no solver knows.

    Args:
        kept: (B, E, H, A) of the last search, shifted.

    Returns:
        The cheapest plan of the last iteration, its cost, and the elites to keep (B, E, H, A).
    """
    own, sizes = config.icem, config.plans_per_iteration
    keep = int(own.keep * config.num_elites)
    elites = mean[:, None][:, :0] if kept is None else kept[:, :keep]
    again = [elites.shape[1], *[keep] * (len(sizes) - 1)]
    last = [0] * (len(sizes) - 1) + [1]  # the mean
    fresh = [max(0, n - k - m) for n, k, m in zip(sizes, again, last, strict=True)]
    shape = (sum(fresh), *mean.shape[1:])
    noise = np.stack([coloured(rng.standard_normal(shape, np.float32), own.beta) for rng in rngs])
    std, lowest = torch.full_like(mean, config.std), []
    for standard, m, size in zip(torch.from_numpy(noise).to(mean).split(fresh, 1), last, sizes, strict=True):
        drawn = standard * std[:, None] + mean[:, None]
        plans = torch.cat([elites[:, :keep], mean[:, None][:, :m], drawn], 1)[:, :size]
        elites, costs = cheapest(plans, cost(plans), config.num_elites)
        lowest.append(costs[:, 0])
        fitted = torch.std_mean(elites, dim=1)
        std, mean = (
            own.momentum * old + (1 - own.momentum) * new for old, new in zip((std, mean), fitted, strict=True)
        )
    require_finite(lowest)
    return ElitePlan(elites[:, 0], costs[:, 0], elites[:, :keep])
