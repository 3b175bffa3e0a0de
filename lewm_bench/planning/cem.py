"""The cross-entropy method, the planner of the LeWM paper (appendix D)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.sampling import cheapest, require_finite, standard_normal


def cem(cost: Cost, mean: Tensor, config: PlannerConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest plans found from the initial ``mean`` (B, H, A), by the cross-entropy method.

    Plans are sampled from a diagonal Gaussian that is refitted to the elites, whose deviation is taken as it is
    (no floor, no smoothing, no clipping); the first sample of every iteration is the mean itself.

    Returns:
        The last mean (B, H, A) and the mean cost of the last elites (B,).
    """
    std = torch.full_like(mean, config.std)
    noise = standard_normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[:, :, 0] = 0.0
    lowest = []
    for standard in noise:
        plans = standard * std[:, None] + mean[:, None]  # (B, S, H, A)
        elites, elite_costs = cheapest(plans, cost(plans), config.num_elites)
        std, mean = torch.std_mean(elites, dim=1)
        lowest.append(elite_costs[:, 0])
    require_finite(lowest)
    return Plan(mean, elite_costs.mean(1))
