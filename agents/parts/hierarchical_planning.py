"""How world models on several time scales plan: top-down, every level setting subgoals to the one below.

The highest level searches for macro actions that take its latent to the goal's; the first latents of that plan are
subgoals for the level below, which is compared with them in the space above its own; and so on down to level 1, whose
plan is executed. Every level searches with the planner's solver and budget.

Shapes: B episodes, S sampled plans, H steps of a plan, D latent size, M numbers of a macro action, n subgoals. Levels
count from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.hierarchy import HierarchicalJEPA, HierarchyConfig, Level
from lewm_bench.agents.parts.jepa import JEPAFamily
from lewm_bench.core.errors import unknown
from lewm_bench.core.search_space import Dimension
from lewm_bench.planning.agent import Encoded, LatentController, PlanningAgent, primitive_actions
from lewm_bench.planning.company import Company
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import (
    BeginRollout,
    Objective,
    imagined_cost,
    in_pieces,
    objective_of,
    plain_rollout,
    rollout,
)
from lewm_bench.planning.fast.lewm import PackedLeWM
from lewm_bench.planning.replan import Replanner
from lewm_bench.planning.solvers import solve
from lewm_bench.system.device import sized

VARIANTS = {"3": {"levels": 3}}


def horizons(levels: int, stride: int, blocks: int, reach: int) -> tuple[int, ...]:
    """The steps that every level plans, from level 1 to the highest that has a say.

    Level 1 plans at least ``blocks`` and every level but the highest as many as end in a step of the level above. The
    highest is the one whose plan over ``reach`` blocks has two steps or more: of one step nothing but the goal itself
    would be left for a subgoal. Level 1 has nobody above where no more than its own blocks are left.
    """
    spans = [-(-reach // stride**k) for k in range(levels)]
    top = max((k for k in range(levels) if spans[k] >= 2), default=0) if reach > blocks else 0
    needed = [blocks]
    for _ in range(top):
        needed.append(-(-needed[-1] // stride))
    below = [stride * above for above in needed[1:]]
    return (*below, max(spans[top], needed[top])) if top else (blocks,)


def subgoal_objective(encode: Callable[[Tensor], Tensor], stride: int) -> Objective:
    """What a plan costs below another level: squared distances, in the space above, to all subgoals (b, n, D).

    Args:
        encode: latents of the plan's level (..., D) to those of the level above.
        stride: of the level above; the plan's steps stride, 2 stride, ... are compared.
    """

    def score(imagined: Tensor, subgoals: Tensor) -> Tensor:
        reached = imagined[:, :, stride - 1 :: stride]  # (b, S, n, D)
        # An episode at a time, so that nothing of it depends on those beside it.
        lifted = torch.cat([encode(one[None]) for one in reached])
        return (lifted - subgoals[:, None]).square().mean(-1).sum(-1)

    return Objective(score, last=False)


class LevelPlanner:
    """Searches for the macro actions of one level."""

    def __init__(self, level: Level, config: HierarchyConfig, planner: PlannerConfig, device: torch.device) -> None:
        self.level, self.planner, self.device = level, planner, device
        self.scale = level.scale(config.macro_quantile)
        self.size = config.macro_size
        self.begin = self._begin()

    def _begin(self) -> BeginRollout:
        planner = self.planner
        if planner.differentiates:
            return in_pieces(plain_rollout(self.level))
        if planner.rollout == "reference":
            begin = plain_rollout(self.level)
        else:
            begin = PackedLeWM(self.level.parts(), planner.arithmetic, planner.compile)
        return Company().rollouts(begin, objective_of(planner)) if sized(self.device) else begin

    def __call__(
        self,
        latent: Tensor,
        goal: Tensor,
        objective: Objective,
        steps: int,
        rngs: Sequence[np.random.Generator],
    ) -> Tensor:
        """The latents (B, steps, D) after each macro action of the best plan from ``latent`` (B, D)."""
        context = latent[:, None], latent.new_zeros(len(latent), 0, self.size)
        inner = imagined_cost(self.begin(*context), goal, objective)
        plan = solve(
            lambda plans: inner(self.scale.macros(plans)),
            latent.new_zeros(len(latent), steps, self.size),
            self.planner,
            rngs,
        )
        macros = self.scale.macros(plan.actions)[:, None]
        with torch.no_grad():
            one = (slice(b, b + 1) for b in range(len(latent)))
            return torch.cat([rollout(self.level, context[0][b], context[1][b], macros[b])[:, 0] for b in one])


class HierarchicalAgent(PlanningAgent):
    """Plans at every level, the highest first."""

    model: HierarchicalJEPA

    def __init__(
        self,
        model: HierarchicalJEPA,
        config: HierarchyConfig,
        planner: PlannerConfig,
        device: torch.device,
        rollout: BeginRollout,
    ) -> None:
        super().__init__(model, planner, device, rollout)
        self.settings = config
        self.planners = tuple(LevelPlanner(level, config, planner, device) for level in model.upper)

    def horizons(self, executed: int) -> tuple[int, ...]:
        """Of the levels, once so many blocks have been executed."""
        settings = self.settings
        reach = settings.reach - executed if settings.approach else settings.reach
        return horizons(settings.levels, settings.stride, self.config.horizon, reach)

    def lifted(self, latents: Tensor, level: int) -> Tensor:
        """Latents (B, D) of level 1 to those of a level, an episode at a time."""
        return torch.cat([self.model.lifted(one[None], level) for one in latents])

    def below(self, level: int) -> Objective:
        """What plans of a level cost that has subgoals from the one above."""
        return subgoal_objective(self.model.upper[level - 1].encoder, self.settings.stride)

    def controller(self, goal: Tensor, rngs: Sequence[np.random.Generator]) -> HierarchicalController:
        return HierarchicalController(self, goal, rngs)


class HierarchicalController(LatentController):
    """One batch of episodes of a ``HierarchicalAgent``."""

    _agent: HierarchicalAgent

    def __init__(self, agent: HierarchicalAgent, goal: Tensor, rngs: Sequence[np.random.Generator]) -> None:
        super().__init__(agent, goal, rngs)
        self._rngs, self._searches = rngs, 0
        self._guided: dict[int, Replanner] = {}  # by the blocks that they plan, since a plan that is left has as many

    def search(self, encoded: Encoded) -> np.ndarray:
        agent, goal = self._agent, self._goal
        steps = agent.horizons(self._searches * agent.config.receding)
        self._searches += 1
        with torch.inference_mode(not agent.config.differentiates):
            if agent.config.differentiates:  # tensors made in inference mode can take no part in a gradient
                encoded, goal = Encoded(encoded.latents.clone(), encoded.actions.clone()), goal.clone()
            with torch.no_grad():
                subgoals = self.subgoals(encoded.latents[:, -1], goal, steps)
            objective = agent.objective if len(steps) == 1 else agent.below(1)
            cost = imagined_cost(self.rollout(encoded), subgoals, objective)
            blocks = self._replanner(steps[0])(cost, encoded.actions.shape[-1], agent.device)
            return primitive_actions(agent.model.denormalize_actions(blocks), agent.frame_skip)

    def subgoals(self, latent: Tensor, goal: Tensor, steps: Sequence[int]) -> Tensor:
        """What level 1 is to reach from ``latent`` (B, D): subgoals (B, n, D) of level 2, or the goal (B, D) itself.

        A plan as long as its subgoals are many ends at the goal, so its last subgoal is the goal and not what was
        imagined of it.
        """
        agent, top = self._agent, len(steps)
        aim, at_goal = agent.lifted(goal, top), True
        for level in range(top, 1, -1):
            objective = agent.objective if level == top else agent.below(level)
            here = agent.lifted(latent, level)
            imagined = agent.planners[level - 2](here, aim, objective, steps[level - 1], self._rngs)
            aim = imagined[:, : steps[level - 2] // agent.settings.stride].clone()
            at_goal = at_goal and aim.shape[1] == steps[level - 1]
            if at_goal:
                aim[:, -1] = agent.lifted(goal, level)
        return aim

    def _replanner(self, blocks: int) -> Replanner:
        agent = self._agent
        if blocks not in self._guided:
            config = agent.config.model_copy(update={"horizon": blocks})
            self._guided[blocks] = Replanner(config, agent.frame_skip, self._rngs)
        return self._guided[blocks]


class HierarchicalFamily(JEPAFamily):
    """``NAME`` with two levels, and ``NAME:3`` with three."""

    Config = HierarchyConfig
    model: ClassVar[type[HierarchicalJEPA]]
    shares_batches = True
    planning_only = ("reach", "approach", "macro_quantile")
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)

    def configure(self, overrides: dict, variant: str | None) -> HierarchyConfig:
        if variant is not None:
            if variant not in VARIANTS:
                raise unknown("number of levels", variant, VARIANTS)
            overrides = {**overrides, **VARIANTS[variant]}
        return super().configure(overrides, None)

    def clip_frames(self, config: HierarchyConfig) -> int:
        return config.steps + 1

    def trained_as(self, setting: Setting[HierarchyConfig]) -> Setting[HierarchyConfig]:
        """How a model plans is no part of its training."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return replace(setting, config=plain)

    def agent(
        self, model: HierarchicalJEPA, config: HierarchyConfig, planner: PlannerConfig, device: torch.device
    ) -> HierarchicalAgent:
        return HierarchicalAgent(model, config, planner, device, self.rollout(model, planner))

    def peculiarity(self, config: HierarchyConfig) -> str:
        return f" ({config.levels} levels)" if config.levels > 2 else ""
