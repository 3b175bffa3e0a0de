"""Random shooting: the cheapest of many random plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.sampling import cheaper_plan, no_plan_yet, require_finite, standard_normal


def shooting(cost: Cost, mean: Tensor, config: PlannerConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest of plans drawn around ``mean`` (B, H, A), the first of which is the mean; and its cost."""
    noise = standard_normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[0, :, 0] = 0.0
    best = no_plan_yet(mean)
    for standard in noise:
        plans = standard * config.std + mean[:, None]
        best = cheaper_plan(best, plans, cost(plans))
    require_finite([best.cost])
    return best
