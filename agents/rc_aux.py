"""RC-aux (Reachability-Correction auxiliary objective, arXiv 2605.07278) on LeWM's networks: two corrections for planning.

Along time, open-loop rollouts of several blocks take the place of LeWM's prediction of one. Along space, a head learns
whether one latent can be reached from another within a budget of blocks, and shapes the latents by doing so. Plans are
cheaper where the head believes, anywhere on the way, that the goal is within the blocks that are left.

loss = prediction + weight * SIGReg + weight * reachability

Shapes: B clips, T frames, D latent size, P pairs of a source and a goal, K the largest budget, R rows of the head,
b S H episodes, plans and blocks while planning.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.jepa import JEPA, JEPAFamily, latent_diagnostics
from lewm_bench.agents.parts.sigreg import SIGRegConfig, sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import Objective, objective_of
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import further_on, whole_batch

HARD_IMAGINED = 0.5
"""Weight of budgets that are too small beside goals elsewhere, for imagined goals; 1 for all others (authors' code)."""


class RCAuxConfig(SIGRegConfig):
    """LeWM's sizes; the rollouts, the head, and what both weigh in training and planning."""

    rollout_blocks: int = Field(4, ge=1, description="blocks of the longest open-loop rollout in training")
    rollout_curriculum: float = Field(
        0.4, gt=0, le=1, description="share of the training in which rollouts grow to rollout_blocks"
    )
    max_budget: int = Field(
        5, ge=1, description="blocks of the largest budget that the reachability head knows; larger ones count as it"
    )
    reachability_weight: float = Field(
        0.35, ge=0, description="weight of the reachability head's loss; the prediction's is 1"
    )
    imagined_weight: float = Field(0.5, ge=0, description="weight of its pairs with imagined latents beside real ones")
    way_weight: float = Field(
        1.0, ge=0, description="weight of its pairs from all along a rollout to its end, as planning asks"
    )
    head_hidden: int = Field(512, ge=1, description="width of the reachability head")
    head_budget: int = Field(32, ge=1, description="size of its embedding of the budget")
    planning_weight: float = Field(
        0.35, ge=0, le=1, description="how much reachable goals cheapen plans; 0: the latent distance alone, as LeWM"
    )
    planning_floor: float = Field(0.05, ge=0, le=1, description="share of the latent distance that always counts")

    def longest_rollout(self, progress: float) -> int:
        """Blocks of the longest rollout at a share of the training; every length is the longest for equally long."""
        return min(self.rollout_blocks, 1 + int(self.rollout_blocks * progress / self.rollout_curriculum))

    def unread(self) -> Collection[str]:
        of_planning = () if self.planning_weight else ("planning_floor",)
        return (*super().unread(), *of_planning, *(() if self.rollout_blocks > 1 else ("rollout_curriculum",)))


class ReachabilityHead(nn.Module):
    """How surely, as a logit, a goal is reached from a source within a budget of blocks."""

    def __init__(self, config: RCAuxConfig) -> None:
        super().__init__()
        hidden, inputs = config.head_hidden, 4 * config.latent + config.head_budget
        self.budgets = nn.Embedding(config.max_budget, config.head_budget)
        self.net = nn.Sequential(
            nn.LayerNorm(inputs),
            nn.Linear(inputs, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, sources: Tensor, goals: Tensor, budgets: Tensor) -> Tensor:
        """(..., D) sources, (..., D) goals and budgets (...) from 1, which broadcast, to logits (...)."""
        budget = self.budgets(budgets.clamp(max=self.budgets.num_embeddings) - 1)
        features = [sources, goals, (sources - goals).abs(), sources * goals]
        shape = torch.broadcast_shapes(sources.shape[:-1], goals.shape[:-1], budgets.shape)
        return self.net(torch.cat([x.expand(*shape, -1) for x in (*features, budget)], -1))[..., 0]


class Pairs(NamedTuple):
    """Sources and goals of the same clips, and which budgets are asked of them."""

    sources: Tensor  # (B, P, D)
    goals: Tensor  # (B, P, D)
    enough: Tensor  # (P, K) bool: the budgets 1 to K within which the clip went from source to goal
    short: Tensor  # (P, K) bool: those within which it did not


def ahead(source: Tensor, goals: Tensor) -> Pairs:
    """From one latent (B, D) to each of the K that follow it (B, K, D), with every budget."""
    K = goals.shape[1]
    gaps, budgets = torch.arange(1, K + 1)[:, None], torch.arange(1, K + 1)
    return Pairs(source[:, None].expand_as(goals), goals, budgets >= gaps, budgets < gaps)


def on_the_way(sources: Tensor, goal: Tensor) -> Pairs:
    """From each of P successive latents (B, P, D) to the one after them (B, D), with the blocks left and with fewer."""
    P = sources.shape[1]
    gaps, budgets = torch.arange(P, 0, -1)[:, None], torch.arange(1, P + 1)
    return Pairs(sources, goal[:, None].expand_as(sources), budgets == gaps, budgets < gaps)


def logits_of(head: ReachabilityHead, sources: Tensor, goals: Tensor, asked: Tensor) -> Tensor:
    """(B, R): the head's logits of pairs (B, P, D) with the budgets that are asked of them (P, K)."""
    pair, budget = (index.to(sources.device) for index in asked.nonzero(as_tuple=True))
    return head(sources[:, pair], goals[:, pair], budget + 1).to(sources.dtype)


def reachability_loss(head: ReachabilityHead, pairs: Pairs, shift: int, hard_weight: float = 1.0) -> Tensor:
    """Binary cross entropy: half of it of budgets that are enough, half of those too small and of goals elsewhere.

    Args:
        shift: the goals of the clip so many further in the whole batch stand for those of another trajectory.
        hard_weight: of budgets that are too small, beside goals elsewhere.
    """
    reached = F.softplus(-logits_of(head, pairs.sources, pairs.goals, pairs.enough)).mean()
    elsewhere = F.softplus(logits_of(head, pairs.sources, further_on(pairs.goals, shift), pairs.enough)).mean()
    if not pairs.short.any():
        return (reached + elsewhere / (1 + hard_weight)) / 2
    beyond = F.softplus(logits_of(head, pairs.sources, pairs.goals, pairs.short)).mean()
    return (reached + (elsewhere + hard_weight * beyond) / (1 + hard_weight)) / 2


class RCAux(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by SIGReg, with a head that planning asks."""

    config: RCAuxConfig

    def __init__(self, config: RCAuxConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.reachability = ReachabilityHead(config)

    def open_loop(self, context: Tensor, actions: Tensor, blocks: int) -> Tensor:
        """Latents (B, c, D) and z-scored blocks (B, c - 1 + blocks, A) to the ``blocks`` latents that follow, (B, _, D)."""
        c, window = context.shape[1], context
        for n in range(blocks):
            known, done = window[:, -self.history :], actions[:, : c + n][:, -self.history :]
            window = torch.cat([window, self.predict(known, done)[:, -1:]], 1)
        return window[:, c:]

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted mean squared error of an open-loop rollout, plus SIGReg, plus what the reachability head gets wrong.

        Every step rolls out from as many frames of context as it draws, as planning begins with few, for as many blocks as
        it draws; error k of n weighs k. Gradients flow into the targets, and from the head into encoder and predictor.
        """
        config, now = self.config, self.history - 1
        z = self.encode(clip.frames)
        regulariser = sigreg_of(z, config, step)
        context = drawn(step, self.history)
        blocks = drawn(step, config.longest_rollout(step.progress))
        shift = drawn(step, whole_batch(len(z)) - 1)
        actions = self.normalize_actions(clip.actions)[:, self.history - context :]
        imagined = self.open_loop(z[:, self.history - context : self.history], actions, blocks)
        real, imagined = self.as_weights(z[:, now:]), self.as_weights(imagined)
        errors = (imagined - real[:, 1 : 1 + blocks]).square().mean((0, 2))  # (blocks,)
        weights = torch.arange(1, blocks + 1, device=z.device) / (blocks * (blocks + 1) / 2)
        parts = {"prediction": (weights * errors).sum(), "sigreg": regulariser}
        parts["reachability"] = self.reachability_terms(real, imagined, shift)
        if step.log:
            parts |= latent_diagnostics(z.detach())
        total = parts["prediction"] + config.weight_at(step.progress) * regulariser
        return total + config.reachability_weight * parts["reachability"], parts

    def as_weights(self, x: Tensor) -> Tensor:
        """``x`` in the precision of the weights: bfloat16 has too few digits for differences of latents."""
        return x.to(self.reachability.budgets.weight.dtype)

    def reachability_terms(self, real: Tensor, imagined: Tensor, shift: int) -> Tensor:
        """The head's loss on real latents (B, 1 + K or more, D) from now on and on imagined ones (B, n, D) after now."""
        config, head, n = self.config, self.reachability, imagined.shape[1]
        now, future, goals = real[:, 0], real[:, 1 : 1 + config.max_budget], imagined[:, : config.max_budget]
        total = reachability_loss(head, ahead(now, future), shift)
        total = total + config.imagined_weight * reachability_loss(head, ahead(now, goals), shift, HARD_IMAGINED)
        end = min(n, config.max_budget)
        way = reachability_loss(head, on_the_way(real[:, :end], real[:, end]), shift)
        if end > 1:
            dreamt = on_the_way(imagined[:, : end - 1], real[:, end])
            way = way + config.imagined_weight * reachability_loss(head, dreamt, shift)
        return total + config.way_weight * way

    def reaches(self, imagined: Tensor, goals: Tensor) -> Tensor:
        """(b, S, H, D) and goals (b, D) to (b, S): the best chance of plans to be within the blocks left on their way."""
        left = torch.arange(imagined.shape[2], 0, -1, device=imagined.device)
        return self.reachability(imagined, goals[:, None, None], left).sigmoid().amax(-1)


def drawn(step: Step, most: int) -> int:
    """A whole number from 1 to ``most``, the same in all processes of a training."""
    return int(torch.randint(1, most + 1, (), generator=step.generator))


class RCAuxFamily(JEPAFamily):
    """``rc-aux``."""

    Config = RCAuxConfig
    model = RCAux
    shares_batches = True
    planning_only = ("planning_weight", "planning_floor")
    search_space = (Dimension("sigreg_weight", 0.001, 0.3), Dimension("reachability_weight", 0.035, 3.5))
    card = Card(
        name="RC-aux",
        about="a LeWM trained on rollouts of several blocks, with a head that says what is reachable in how many",
        colour="#4A0B8A",
        marker="s",
        loss_terms=("prediction", "sigreg", "reachability"),
        papers={"RC-aux": "2605.07278"},
        rank=12,
    )

    def clip_frames(self, config: RCAuxConfig) -> int:
        return config.history + max(config.rollout_blocks, config.max_budget)

    def trained_as(self, setting: Setting[RCAuxConfig]) -> Setting[RCAuxConfig]:
        """Weights are those of every way to plan with them."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return replace(setting, config=plain)

    def objective(self, model: RCAux, planner: PlannerConfig) -> Objective | None:
        """The latent distance, times 1 - weight * the best chance to reach the goal from a block of the plan in time."""
        weight, floor = model.config.planning_weight, model.config.planning_floor
        if weight == 0:
            return None
        distance = objective_of(planner)

        def score(imagined: Tensor, goals: Tensor) -> Tensor:
            far = distance.score(imagined[:, :, -1:] if distance.last else imagined, goals)
            return far * (1 - weight * model.reaches(imagined, goals)).clamp(min=floor)

        return Objective(score, last=False)

    def peculiarity(self, config: RCAuxConfig) -> str:
        return "" if config.planning_weight else ", plans by distance alone"


RC_AUX = RCAuxFamily()
