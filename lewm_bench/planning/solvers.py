"""Search for the cheapest plan. Knows a cost function and nothing else.

Every solver has the same budget: ``num_samples`` x ``num_iterations`` plans whose costs it asks for, or gradients of so
many fewer plans that they are as much work. Episode b draws only from ``rngs[b]``, on the CPU: its plan depends neither
on its batch nor on the device. A cost that is not a finite number never wins; where an episode has no other, a solver
raises a ``FloatingPointError``.

Shapes: B episodes planned together, S sampled plans, E elites, H steps of a plan, A numbers of a step. A step is an
action block to whoever has no finer one; only ``icem`` looks at it, since its noise has a colour along time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from lewm_bench.core.types import Cost, Plan
from lewm_bench.planning.adam import adam
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig, SolverName
from lewm_bench.planning.icem import icem
from lewm_bench.planning.mppi import mppi
from lewm_bench.planning.shooting import shooting

Solver = Callable[[Cost, Tensor, PlannerConfig, Sequence[np.random.Generator]], Plan]

SOLVERS: dict[SolverName, Solver] = {"cem": cem, "icem": icem, "mppi": mppi, "shooting": shooting, "adam": adam}


def solve(
    cost: Cost, mean: Tensor, config: PlannerConfig, rngs: Sequence[np.random.Generator], kept: Tensor | None = None
) -> Plan:
    """The cheapest plans (B, H, A) that the config's solver finds from ``mean``, and from ``kept`` if it kept any."""
    if kept is not None:
        return icem(cost, mean, config, rngs, kept)
    return SOLVERS[config.solver](cost, mean, config, rngs)
