"""Search: the cross-entropy method over action blocks. Knows a cost function and nothing else.

Shapes: B episodes planned together, S sampled plans, H blocks of a plan, A numbers of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from lewm_bench.config import Config
from lewm_bench.types import Cost, Plan, WorldModel

Arithmetic = Literal["float32", "tf32", "bfloat16", "int8"]


class CEMConfig(Config):
    """The planner of the LeWM paper (appendix D): 300 samples, 30 elites, 5 blocks, all of them executed."""

    num_samples: int = 300
    num_iterations: int = 30
    num_elites: int = 30
    std: float = 1.0  # of the first iteration, in z-scored action units
    horizon: int = 5  # blocks
    receding: int = 5  # blocks executed before planning again
    warm_start: bool = False  # start the next search from what is left of the last plan
    objective: Literal["final", "sum"] = "final"  # distance of the last latent, or of all of them
    rollout: Literal["fast", "reference"] = "fast"  # same costs up to rounding; ``reference`` is the plain loop
    arithmetic: Arithmetic = "float32"  # of the fast rollout; int8 on CPU, tf32 on CUDA, bfloat16 on both
    compile: bool = False  # the fast rollout by torch.compile: a minute at first, for many plans; wants a C++ compiler

    @model_validator(mode="after")
    def _consistent(self) -> CEMConfig:
        if not 1 < self.num_elites <= self.num_samples:
            raise ValueError(
                f"need 1 < num_elites <= num_samples, got {self.num_elites} elites of {self.num_samples} samples"
            )
        if not 1 <= self.receding <= self.horizon:
            raise ValueError(f"need 1 <= receding <= horizon, got receding {self.receding}, horizon {self.horizon}")
        if self.num_iterations < 1 or self.std <= 0:
            raise ValueError("need num_iterations >= 1 and std > 0")
        if self.rollout == "reference" and (self.arithmetic != "float32" or self.compile):
            raise ValueError("arithmetic and compile belong to rollout fast; the reference is plain float32")
        return self


def cem(cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest plans found from the initial ``mean`` (B, H, A).

    Plans are sampled from a diagonal Gaussian that is refitted to the elites, whose deviation is taken as it is
    (no floor, no smoothing, no clipping); the first sample of every iteration is the mean itself.
    Episode b draws only from ``rngs[b]``, on the CPU: its plan does not depend on its batch or on the device.

    Returns:
        The last mean (B, H, A) and the mean cost of the last elites (B,).
    """
    std = torch.full_like(mean, config.std)
    shape = (config.num_iterations, config.num_samples, *mean.shape[1:])
    noise = np.stack([rng.standard_normal(shape, np.float32) for rng in rngs], 1)  # (iterations, B, S, H, A)
    noise[:, :, 0] = 0.0
    # In one copy: a device that has to wait for the host in every iteration stands still.
    for standard in torch.from_numpy(noise).to(mean):
        plans = standard.mul_(std[:, None]).add_(mean[:, None])  # (B, S, H, A)
        elite_costs, index = cost(plans).topk(config.num_elites, dim=1, largest=False)  # (B, E)
        elites = plans.gather(1, index[:, :, None, None].expand(-1, -1, *mean.shape[1:]))
        std, mean = torch.std_mean(elites, dim=1)
    return Plan(mean, elite_costs.mean(1))


def rollout(model: WorldModel, latents: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """Imagined latents (B, S, H, *L) after each block of ``plans`` (B, S, H, A), z-scored.

    ``latents`` (B, T, *L) and ``past_actions`` (B, T-1, A) are the real context. The window slides once it holds
    ``model.history`` frames, as in training.
    """
    B, S, _, A = plans.shape
    window = latents[:, None].expand(B, S, *latents.shape[1:]).flatten(0, 1)  # (B*S, T, *L)
    actions = past_actions[:, None].expand(B, S, -1, A).flatten(0, 1)
    imagined = []
    for block in plans.flatten(0, 1).unbind(1):
        actions = torch.cat([actions, block[:, None]], 1)[:, -model.history :]
        window = window[:, -model.history :]
        imagined.append(model.predict_next(window, actions))
        window = torch.cat([window, imagined[-1][:, None]], 1)
    return torch.stack(imagined, 1).unflatten(0, (B, S))


def goal_distance(latents: Tensor, goal: Tensor) -> Tensor:
    """Mean squared difference over the latent dimensions: (B, S, *L) or (B, S, H, *L) against (B, *L)."""
    extra = latents.dim() - goal.dim()
    goal = goal[(slice(None), *[None] * extra)]
    return (latents - goal).square().flatten(1 + extra).mean(-1)


Score = Callable[[Tensor, slice], Tensor]
"""Imagined latents (b, S, H, *L) of a slice of the episodes to scores (b, S)."""

Imagination = Callable[[Tensor, Score], Tensor]
"""Plans (B, S, H, A), z-scored, to the scores (B, S) of what a model imagines from one context. How many candidates are
imagined at a time is its own affair: the latents of all of them would not fit into memory."""

Imagine = Callable[[Tensor, Tensor], Imagination]
"""Begin a search from latents (B, T, *L) and z-scored past actions (B, T-1, A)."""


def plain(model: WorldModel) -> Imagine:
    """Imagination by ``rollout``: for every model, and what faster ones are held against."""

    def imagine(latents: Tensor, past_actions: Tensor) -> Imagination:
        everything = slice(0, len(latents))
        return lambda plans, score: score(rollout(model, latents, past_actions, plans), everything)

    return imagine


def latent_cost(imagination: Imagination, goal: Tensor, config: CEMConfig) -> Cost:
    """The cost of plans in latent space (paper, section 3.3): distance of imagined latents to the goal's (B, *L)."""

    def score(imagined: Tensor, episodes: slice) -> Tensor:
        if config.objective == "final":
            return goal_distance(imagined[:, :, -1], goal[episodes])
        return goal_distance(imagined, goal[episodes]).sum(-1)

    return lambda plans: imagination(plans, score)


def next_mean(config: CEMConfig, last: Tensor | None, batch: int, block: int, device: torch.device) -> Tensor:
    """The initial mean (B, H, A) of a search: zeros, or the unexecuted rest of the ``last`` plan when warm starting."""
    mean = torch.zeros(batch, config.horizon, block, device=device)
    if config.warm_start and last is not None and config.receding < config.horizon:
        mean[:, : config.horizon - config.receding] = last[:, config.receding :]
    return mean
