"""Gradient descent on plans, through the world model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.sampling import cheaper_plan, no_plan_yet, require_finite, standard_normal

OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}


def adam(cost: Cost, mean: Tensor, config: PlannerConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest plan on ``num_iterations`` steps of gradient descent, by torch's optimiser of the config's name.

    Several starts are drawn around ``mean`` (B, H, A), the first of which is the mean, and descend side by side.
    The budget: a step needs every start's cost and gradient, counted as ``GRADIENT_COST`` plans, so that a third of
    ``num_samples`` starts is as much work per iteration as the samples of the other solvers (100 starts x 30 steps x 3
    against 300 samples x 30 iterations); one look at where the last step led comes on top.

    Returns:
        The cheapest plan of all starts and steps, and its cost.
    """
    starts = config.plans_per_iteration[0]
    (drawn,) = standard_normal(rngs, 1, starts, mean)  # (B, S, H, A)
    drawn[:, 0] = 0.0
    with torch.enable_grad():
        # A tensor per episode: what an optimiser computes must not depend on how many episodes there are.
        leaves = [(d * config.std + m).requires_grad_() for d, m in zip(drawn, mean, strict=True)]
        optimizer = OPTIMIZERS[config.adam.optimizer](leaves, lr=config.adam.learning_rate)
        best = no_plan_yet(mean)
        for _ in range(config.num_iterations):
            plans = torch.stack(leaves)
            costs = cost(plans)
            for leaf, gradient in zip(leaves, torch.autograd.grad(costs.sum(), leaves), strict=True):
                leaf.grad = gradient
            best = cheaper_plan(best, plans.detach(), costs.detach())
            optimizer.step()
    plans = torch.stack([leaf.detach() for leaf in leaves])
    with torch.no_grad():
        best = cheaper_plan(best, plans, cost(plans))
    require_finite([best.cost])
    return best
