"""What solvers share: noise of each episode's own stream, and the choice of the cheapest plans.

Shapes: B episodes planned together, S sampled plans, E elites, H steps of a plan, A numbers of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Plan


def standard_normal(rngs: Sequence[np.random.Generator], count: int, plans: int, mean: Tensor) -> Tensor:
    """Standard normal numbers (count, B, plans, H, A) for a ``mean`` (B, H, A), moved to its device in one copy: a
    device that has to wait for the host in every iteration stands still. Episodes are drawn side by side."""
    drawn = np.empty((len(rngs), count, plans, *mean.shape[1:]), np.float32)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy draws without the interpreter's lock
        each = pool.map if len(rngs) > 1 else map
        list(each(lambda rng, out: rng.standard_normal(dtype=np.float32, out=out), rngs, drawn))
    return torch.from_numpy(drawn).to(mean).transpose(0, 1)


def gather_plans(plans: Tensor, index: Tensor) -> Tensor:
    """(B, S, H, A) and (B, E) to (B, E, H, A)."""
    return plans.gather(1, index[:, :, None, None].expand(-1, -1, *plans.shape[2:]))


def ranked(costs: Tensor) -> Tensor:
    """Costs with all that are not finite numbers behind the others, as infinity."""
    return costs.nan_to_num(torch.inf, torch.inf, torch.inf)


def cheapest(plans: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` cheapest of plans (B, S, H, A) and their costs (B, E), in order.

    Where fewer have a finite cost, the cheapest takes the places of those that have none.
    """
    cheapest, index = ranked(costs).topk(count, dim=1, largest=False)
    finite = cheapest < torch.inf
    index = torch.where(finite, index, index[:, :1])
    return gather_plans(plans, index), torch.where(finite, cheapest, cheapest[:, :1])


def require_finite(lowest: Sequence[Tensor]) -> None:
    """Raise a FloatingPointError unless every episode has had a finite cost in every iteration; (B,) of each.

    Asked once per search: a device that has to wait for the host in every iteration stands still.
    """
    wrong = int((~torch.stack(list(lowest)).isfinite().all(0)).sum())
    if wrong:
        raise FloatingPointError(f"not one plan has a finite cost, in {wrong} of {len(lowest[0])} episodes")


def no_plan_yet(mean: Tensor) -> Plan:
    return Plan(mean, mean.new_full((len(mean),), torch.inf))


def cheaper_plan(best: Plan, plans: Tensor, costs: Tensor) -> Plan:
    """The cheapest of the best plan and of (B, S, H, A) plans; costs that are not finite numbers lose."""
    lowest, index = ranked(costs).min(1)
    better = lowest < best.cost
    chosen = gather_plans(plans, index[:, None])[:, 0]
    return Plan(torch.where(better[:, None, None], chosen, best.actions), torch.where(better, lowest, best.cost))
