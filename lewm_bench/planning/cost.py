"""What a plan costs in latent space: imagined latents of a world model, and their distance to the goal's.

Shapes: B episodes planned together, S sampled plans, H blocks of a plan, A numbers of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lewm_bench.core.types import Cost, WorldModel
from lewm_bench.planning.config import PlannerConfig


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

Rollout = Callable[[Tensor, Score], Tensor]
"""Plans (B, S, H, A), z-scored, to the scores (B, S) of their latent rollouts from one context. How many candidates are
rolled out at a time is its own affair: the latents of all of them would not fit into memory."""

BeginRollout = Callable[[Tensor, Tensor], Rollout]
"""Latents (B, T, *L) and z-scored past actions (B, T-1, A), the context of one search, to the rollout from there."""


def plain_rollout(model: WorldModel) -> BeginRollout:
    """The plain loop of ``rollout``: for every model, and what faster ones are held against."""

    def begin(latents: Tensor, past_actions: Tensor) -> Rollout:
        everything = slice(0, len(latents))
        return lambda plans, score: score(rollout(model, latents, past_actions, plans), everything)

    return begin


LATENT_NUMBERS = 2**19  # of the latents of one frame that are differentiated at a time: 6 plans of 196 DINOv2 tokens


def in_pieces(begin: BeginRollout, numbers: int = LATENT_NUMBERS) -> BeginRollout:
    """``begin`` for gradients, of some plans of one episode at a time.

    A plan's score depends on no other plan, so a piece's gradient is computed with the piece and its activations are
    dropped: the memory is that of one piece, and nothing of an episode depends on those beside it.
    """

    def begin_in_pieces(latents: Tensor, past_actions: Tensor) -> Rollout:
        size = max(1, numbers // latents[0, 0].numel())
        searches = [begin(z[None], a[None]) for z, a in zip(latents, past_actions, strict=True)]

        def rollout_in_pieces(plans: Tensor, score: Score) -> Tensor:
            rows = []
            for b, (search, own) in enumerate(zip(searches, plans.split(1), strict=True)):

                def of_piece(piece: Tensor, search: Rollout = search, b: int = b) -> Tensor:
                    return search(piece, lambda imagined, _: score(imagined, slice(b, b + 1)))

                rows.append(torch.cat([_AtOnce.apply(piece, of_piece) for piece in own.split(size, 1)], 1))
            return torch.cat(rows)

        return rollout_in_pieces

    return begin_in_pieces


class _AtOnce(torch.autograd.Function):
    """Costs (1, S) of plans (1, S, H, A), with a backward pass that is over before the forward pass returns."""

    @staticmethod
    def forward(ctx, plans: Tensor, cost: Cost) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return cost(plans)
        with torch.enable_grad():
            leaf = plans.detach().requires_grad_()
            costs = cost(leaf)
            ctx.save_for_backward(*torch.autograd.grad(costs.sum(), leaf))
        return costs.detach()

    @staticmethod
    def backward(ctx, above: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return above[:, :, None, None] * gradient, None


Distance = Callable[[Tensor, Tensor], Tensor]
"""Imagined latents (b, S, H, *L) and the goals' (b, *L) to how far each is from its goal, (b, S, H)."""


class Objective(NamedTuple):
    """What a plan costs, by the latents that are imagined of it."""

    score: Callable[
        [Tensor, Tensor], Tensor
    ]  # latents (b, S, h, *L) after the blocks that count, goals (b, *L) -> (b, S)
    last: bool  # whether the last block alone counts, so that h is 1; else h is H


def objective_of(config: PlannerConfig, distance: Distance = goal_distance) -> Objective:
    """The cost of the LeWM paper (section 3.3), the distance of the last latent, or the sum over all of them."""
    return Objective(lambda latents, goal: distance(latents, goal).sum(-1), config.objective == "final")


def frame_costs(objective: Objective, latents: Tensor, goals: Tensor) -> Tensor:
    """What each of N frames (N, *L) costs where it is all that comes of a plan to each of M goals (M, *L): (M, N)."""
    plans = latents[None, :, None]  # (1, N, 1, *L)
    return torch.cat([objective.score(plans, goal[None]) for goal in goals])


def latent_cost(rollout: Rollout, goal: Tensor, config: PlannerConfig) -> Cost:
    """The cost of plans in latent space (paper, section 3.3): distance of imagined latents to the goal's (B, *L)."""
    return imagined_cost(rollout, goal, objective_of(config))


def imagined_cost(rollout: Rollout, goal: Tensor, objective: Objective) -> Cost:
    """The cost of plans on the way to goals (B, *L), by what is imagined of them."""

    def score(imagined: Tensor, episodes: slice) -> Tensor:
        return objective.score(imagined[:, :, -1:] if objective.last else imagined, goal[episodes])

    return lambda plans: rollout(plans, score)
