"""Search again and again, each time from what is left of the last plan if asked to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.icem import ElitePlan
from lewm_bench.planning.solvers import solve


def shifted(plans: Tensor, executed: int) -> Tensor:
    """What is left of plans (..., H, A) after ``executed`` steps, with zeros, the mean of all actions, behind it."""
    return torch.cat([plans[..., executed:, :], torch.zeros_like(plans[..., :executed, :])], -2)


class Replanner:
    """Searches again and again for one batch of episodes, from what is left of the last plan if asked to."""

    def __init__(self, config: PlannerConfig, frame_skip: int, rngs: Sequence[np.random.Generator]) -> None:
        self._config, self._skip, self._rngs = config, frame_skip, rngs
        self._last: Plan | None = None

    def __call__(self, cost: Cost, block: int, device: torch.device, proposed: Tensor | None = None) -> Tensor:
        """The blocks to execute now (B, receding, A).

        Args:
            cost: of plans (B, S, horizon, A) in blocks; solvers see their environment steps.
            block: A.
            proposed: (B, horizon, A) to search around, in place of the data's mean or of what is left of the last plan.
        """
        config, k = self._config, self._skip
        mean = torch.zeros(len(self._rngs), config.horizon * k, block // k, device=device)
        kept = None
        if config.warm_start and self._last is not None:
            executed = config.receding * k
            mean = shifted(self._last.actions, executed)
            if isinstance(self._last, ElitePlan) and config.receding < config.horizon:
                kept = shifted(self._last.elites, executed)
        if proposed is not None:
            mean = proposed.reshape(mean.shape)

        def in_blocks(plans: Tensor) -> Tensor:
            return cost(plans.reshape(*plans.shape[:2], config.horizon, block))

        self._last = solve(in_blocks, mean, config, self._rngs, kept)
        return self._last.actions.reshape(-1, config.horizon, block)[:, : config.receding]
