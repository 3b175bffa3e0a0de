"""Model predictive path integral control (Williams et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.sampling import ranked, require_finite, standard_normal


def mppi(cost: Cost, mean: Tensor, config: PlannerConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The plan to which ``mean`` (B, H, A) is moved by path integral updates (Williams et al., 2017, algorithm 2).

    The mean becomes the average of its noisy neighbours with weights exp(-cost / temperature); the noise stays as wide
    as it is. Without the paper's cost of control: none of our objectives has one. The first neighbour is the mean.

    Returns:
        The last mean (B, H, A) and the weighted cost of the last neighbours (B,).
    """
    noise = standard_normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[:, :, 0] = 0.0
    lowest = []
    for standard in noise:
        plans = standard * config.mppi.noise_std + mean[:, None]
        costs = ranked(cost(plans))
        lowest.append(costs.amin(1))
        weights = path_weights(costs, config.mppi.temperature)
        mean = (plans * weights[:, :, None, None]).sum(1)
    require_finite(lowest)
    return Plan(mean, (torch.where(costs < torch.inf, costs, 0) * weights).sum(1))


def path_weights(costs: Tensor, temperature: float) -> Tensor:
    """(B, S) costs to weights that add up to 1; the temperature is in standard deviations of an episode's finite costs.

    The weight of an infinite cost is 0.
    """
    above = costs - costs.amin(1, keepdim=True)
    finite = costs < torch.inf
    # All that the others add to the variance is nothing where they lie at the mean of the finite ones.
    middle = torch.where(finite, costs, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    spread = torch.where(finite, costs, middle).std(1, keepdim=True)
    counted = ((costs.shape[1] - 1) / (finite.sum(1, keepdim=True) - 1).clamp_min(1)).sqrt()  # 1 if all are finite
    scale = (spread * counted).clamp_min(torch.finfo(costs.dtype).tiny)
    return (-(above / scale) / temperature).softmax(1)
