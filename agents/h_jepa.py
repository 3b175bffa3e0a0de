"""H-JEPA (arXiv 2610.06805): a LeWM at the bottom, and above it JEPAs of the latents below, each at half the pace.

Level 1 is LeWM: frames to latents, blocks of actions. The latents of level k+1 are those of level k at every
``stride``-th step, sent through a small MLP; its actions are macro actions, each pooled from the ``stride`` action
embeddings of level k that it spans. Every level has its own predictor and its own SIGReg, and all train together.

Planning goes top-down. The highest level searches for macro actions that take its latent to the goal's; the first
latents of that plan are subgoals for the level below, which is compared with them in the space above its own; and so
on down to level 1, whose plan is executed.

Shapes: B clips or episodes, T states, S sampled plans, H steps of a plan, D latent size, W predictor width, M numbers
of a macro action, n subgoals. Levels count from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.jepa import JEPA, JEPAFamily, Predictor, latent_diagnostics
from lewm_bench.agents.parts.nets import ActionEncoder, Block, Projector
from lewm_bench.agents.parts.sigreg import SIGRegConfig, sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.core.errors import unknown
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip, Cost
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
from lewm_bench.planning.fast.lewm import LeWMParts, PackedLeWM
from lewm_bench.planning.replan import Replanner
from lewm_bench.planning.solvers import solve
from lewm_bench.system.device import sized
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import gathered

VARIANTS = {"3": {"levels": 3}}


class HJEPAConfig(SIGRegConfig):
    """LeWM's sizes, which the predictors of all levels have; the levels; and how they plan."""

    levels: int = Field(2, ge=2, le=4, description="levels, of which the first is a LeWM")
    stride: int = Field(2, ge=2, description="steps of a level in one step of the level above")
    latent_hidden: int = Field(384, ge=1, description="width of the MLPs that encode the latents of the level below")
    macro_size: int = Field(4, ge=2, description="numbers of a macro action")
    pooler_width: int = Field(64, ge=2, description="width of the transformers that pool macro actions; even")
    pooler_depth: int = Field(1, ge=1, description="blocks of these transformers, with two heads")
    macro_memory: int = Field(
        4000, ge=2, description="latest macro actions of training, whose spread plans are held to"
    )
    inverse_dynamics_weight: float = Field(
        0.0, ge=0, description="weight of the error of each level's actions predicted from two latents; 0: no heads"
    )
    inverse_dynamics_hidden: int = Field(
        256, ge=1, description="width of those heads, which planning does not need: neither saved nor counted"
    )
    reach: int = Field(24, ge=1, description="blocks that the highest level plans ahead")
    approach: bool = Field(
        True, description="plan so much less far as has been executed, at last level 1 alone; or as far every time"
    )
    macro_quantile: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="plans stay between this quantile of the macro actions of training and its mirror",
    )

    def unread(self) -> Collection[str]:
        heads = () if self.inverse_dynamics_weight > 0 else ("inverse_dynamics_hidden",)
        return (*super().unread(), *heads)

    @property
    def steps(self) -> int:
        """Blocks of a clip: the highest level sees ``history`` steps of its own."""
        return self.history * self.stride ** (self.levels - 1)


class LatentEncoder(nn.Module):
    """Latents of the level below (..., D) to those of this one (..., D), one by one."""

    def __init__(self, config: HJEPAConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(config.latent),
            nn.Linear(config.latent, config.latent_hidden),
            nn.GELU(),
            nn.Linear(config.latent_hidden, config.latent),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents)


class ActionPooler(nn.Module):
    """The action embeddings of the level below (B, T * stride, W) to macro actions (B, T, M), a chunk to each.

    What it says of a chunk is a LayerNorm's, so of one size: plans are searched around numbers of that size.
    """

    def __init__(self, config: HJEPAConfig) -> None:
        super().__init__()
        V = config.pooler_width
        self.stride = config.stride
        self.step = nn.Linear(config.width, V)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + config.stride, V))  # the first is a query's, of no action
        self.blocks = nn.Sequential(*[Block(V, 2) for _ in range(config.pooler_depth)])
        self.head = nn.Sequential(
            nn.Linear(V, V),
            nn.GELU(),
            nn.LayerNorm(V),
            nn.Linear(V, config.macro_size),
            nn.LayerNorm(config.macro_size),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        chunks = self.step(embeddings).unflatten(1, (-1, self.stride))  # (B, T, stride, V)
        tokens = torch.cat([torch.zeros_like(chunks[:, :, :1]), chunks], 2) + self.positions
        return self.head(self.blocks(tokens.flatten(0, 1))[:, 0]).unflatten(0, chunks.shape[:2])


class MacroScale(NamedTuple):
    """The macro actions that training has seen, (M,) each."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def macros(self, plans: Tensor) -> Tensor:
        """Plans (..., M), in deviations from the mean, to macro actions (..., M) inside the bounds.

        The gradient ignores the bounds, so that a plan outside of them still moves.
        """
        wanted = self.mean + self.std * plans
        return wanted + (wanted.detach().clamp(self.low, self.high) - wanted.detach())


class Level(nn.Module):
    """A level above the first; for its planner a ``WorldModel`` of latents, whose actions are macro actions."""

    def __init__(self, config: HJEPAConfig) -> None:
        super().__init__()
        self.history = config.history
        self.encoder, self.pooler = LatentEncoder(config), ActionPooler(config)
        self.action_encoder = ActionEncoder(config.macro_size, config.width, config.macro_size)
        self.predictor = Predictor(config)
        self.pred_proj = Projector(config.width, config.projector_hidden, config.latent)
        # Standard normal until training fills it, since planning with random weights must do something.
        self.register_buffer("macro_actions", torch.randn(config.macro_memory, config.macro_size))

    def predict(self, latents: Tensor, embeddings: Tensor) -> Tensor:
        """(B, T, D) and embeddings of macro actions (B, T, W) to (B, T, D); entry t guesses the latent of step t+1."""
        return self.pred_proj(self.predictor(latents, embeddings))

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and macro actions (N, T, M) to the latent after the last of them, (N, D)."""
        return self.pred_proj(self.predictor(latents, self.action_encoder(actions), last_only=True)[:, -1])

    def remember(self, macro_actions: Tensor) -> None:
        """Keep the newest of (B, T, M), of all ranks together."""
        with torch.no_grad():
            new = gathered(macro_actions.detach().to(self.macro_actions.dtype)).flatten(0, 1)
            self.macro_actions.copy_(torch.cat([self.macro_actions, new])[-len(self.macro_actions) :])

    def scale(self, quantile: float) -> MacroScale:
        """The spread of what is remembered."""
        std, mean = torch.std_mean(self.macro_actions, 0, correction=0)
        bounds = torch.tensor([quantile, 1 - quantile], device=mean.device, dtype=mean.dtype)
        return MacroScale(mean, std.clamp_min(1e-4), *self.macro_actions.quantile(bounds, 0))

    def parts(self) -> LeWMParts:
        """For planning, which knows no model."""
        predictor = self.predictor
        return LeWMParts(
            positions=predictor.pos_embedding[0],
            input=predictor.input_proj,
            action_encoder=self.action_encoder.parts(),
            blocks=tuple(block.parts() for block in predictor.transformer["layers"]),
            norm=predictor.transformer["norm"],
            projector=self.pred_proj.net,
        )


class InverseDynamics(nn.Module):
    """Consecutive latents (B, T+1, D) to the actions between them (B, T, A)."""

    def __init__(self, latent: int, hidden: int, outputs: int) -> None:
        super().__init__()
        layers = nn.Linear(2 * latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        self.net = nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(torch.cat([z[:, :-1], z[:, 1:]], -1))


def windows(levels: int, stride: int, history: int, generator: torch.Generator) -> tuple[int, ...]:
    """The first step of every level's window of ``history + 1`` states, in steps of the level.

    A level has more states in a clip than it learns from, but for the highest; the window is drawn.
    """
    lengths = [history * stride ** (levels - level) + 1 for level in range(1, levels + 1)]
    return tuple(int(torch.randint(n - history, (), generator=generator)) for n in lengths)


def window_frames(firsts: Sequence[int], stride: int, history: int) -> list[list[int]]:
    """The frames of a clip at which the states of every level's window stand."""
    return [[(first + t) * stride**k for t in range(history + 1)] for k, first in enumerate(firsts)]


class HJEPA(JEPA):
    """A LeWM, whose names its weights have, with the levels above it in ``upper``."""

    config: HJEPAConfig

    def __init__(self, config: HJEPAConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.upper = nn.ModuleList(Level(config) for _ in range(config.levels - 1))

    def begin_training(self) -> None:
        config = self.config
        if config.inverse_dynamics_weight > 0:
            sizes = config.frame_skip * len(self.action_scale.mean), *[config.macro_size] * (config.levels - 1)
            for level, size in enumerate(sizes, 1):
                head = InverseDynamics(config.latent, config.inverse_dynamics_hidden, size)
                self.auxiliary[f"inverse_dynamics_{level}"] = head

    def lifted(self, latents: Tensor, level: int) -> Tensor:
        """Latents (..., D) of level 1 to those of a level at the same times, (..., D)."""
        for upper in self.upper[: level - 1]:
            latents = upper.encoder(latents)
        return latents

    def actions_of_levels(self, actions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Actions and their embeddings of every level, from the blocks of a clip (B, T, A).

        Of level k (B, T / stride^(k-1), A or M) and (B, T / stride^(k-1), W).
        """
        blocks = self.normalize_actions(actions)
        found = [(blocks, self.action_encoder(blocks))]
        for upper in self.upper:
            macro = upper.pooler(found[-1][1])
            found.append((macro, upper.action_encoder(macro)))
        return found

    def states_of_levels(self, frames: Tensor, at: Sequence[Sequence[int]]) -> list[Tensor]:
        """Latents (B, history + 1, D) of every level at its frames of a clip (B, T, 3, h, w); no other is encoded."""
        seen = sorted({frame for own in at for frame in own})
        z = self.encode(frames[:, seen])
        return [self.lifted(z[:, [seen.index(f) for f in own]], level) for level, own in enumerate(at, 1)]

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the levels of prediction + lambda * SIGReg + weight * inverse dynamics.

        Teacher forcing in a window of ``history + 1`` states per level. Gradients flow into the targets, and from every
        level into those below; the actions that inverse dynamics predicts are given.
        """
        config = self.config
        firsts = windows(config.levels, config.stride, config.history, step.generator)
        states = self.states_of_levels(clip.frames, window_frames(firsts, config.stride, config.history))
        parts: dict[str, Tensor] = {}
        total = states[0].new_zeros(())
        for k, (z, (actions, embeddings)) in enumerate(zip(states, self.actions_of_levels(clip.actions), strict=True)):
            own = slice(firsts[k], firsts[k] + config.history)
            terms = self._terms(k + 1, z, actions[:, own], embeddings[:, own], step)
            parts |= {name if k == 0 else f"{name}_{k + 1}": term for name, term in terms.items()}
            total = total + terms["prediction"] + config.weight_at(step.progress) * terms["sigreg"]
            if "inverse_dynamics" in terms:
                total = total + config.inverse_dynamics_weight * terms["inverse_dynamics"]
            if k > 0 and self.training:
                self.upper[k - 1].remember(actions)
            if step.log:
                names = latent_diagnostics(z.detach()).items()
                parts |= {name if k == 0 else f"{name}_{k + 1}": value for name, value in names}
        return total, parts

    def _terms(self, level: int, z: Tensor, actions: Tensor, embeddings: Tensor, step: Step) -> dict[str, Tensor]:
        """The terms of one level, from its latents (B, T+1, D) and the actions between them."""
        if level == 1:
            prediction = self.pred_proj(self.predictor(z[:, :-1], embeddings))
        else:
            prediction = self.upper[level - 2].predict(z[:, :-1], embeddings)
        terms = {"prediction": (prediction - z[:, 1:]).square().mean(), "sigreg": sigreg_of(z, self.config, step)}
        if (name := f"inverse_dynamics_{level}") in self.auxiliary:
            terms["inverse_dynamics"] = (self.auxiliary[name](z) - actions.detach()).square().mean()
        return terms


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

    def __init__(self, level: Level, config: HJEPAConfig, planner: PlannerConfig, device: torch.device) -> None:
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
        cost: Cost = lambda plans: inner(self.scale.macros(plans))
        plan = solve(cost, latent.new_zeros(len(latent), steps, self.size), self.planner, rngs)
        macros = self.scale.macros(plan.actions)[:, None]
        with torch.no_grad():
            one = (slice(b, b + 1) for b in range(len(latent)))
            return torch.cat([rollout(self.level, context[0][b], context[1][b], macros[b])[:, 0] for b in one])


class HierarchicalAgent(PlanningAgent):
    """Plans at every level, the highest first."""

    model: HJEPA

    def __init__(
        self,
        model: HJEPA,
        config: HJEPAConfig,
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


class HJEPAFamily(JEPAFamily):
    """``h-jepa`` with two levels, and ``h-jepa:3`` with three."""

    Config = HJEPAConfig
    model = HJEPA
    shares_batches = True
    planning_only = ("reach", "approach", "macro_quantile")
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    card = Card(
        name="H-JEPA",
        about="a LeWM under further ones of its own vectors at half the pace, which set it subgoals on the way to the goal",
        colour="#B8336A",
        marker="h",
        loss_terms=("prediction", "sigreg", "prediction_2", "sigreg_2"),
        papers={"H-JEPA": "2610.06805"},
        variants={"3": "H-JEPA (3 levels)"},
        rank=15,
    )

    def configure(self, overrides: dict, variant: str | None) -> HJEPAConfig:
        if variant is not None:
            if variant not in VARIANTS:
                raise unknown("variant of h-jepa", variant, VARIANTS)
            overrides = {**overrides, **VARIANTS[variant]}
        return super().configure(overrides, None)

    def clip_frames(self, config: HJEPAConfig) -> int:
        return config.steps + 1

    def trained_as(self, setting: Setting[HJEPAConfig]) -> Setting[HJEPAConfig]:
        """How a model plans is no part of its training."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return replace(setting, config=plain)

    def agent(
        self, model: HJEPA, config: HJEPAConfig, planner: PlannerConfig, device: torch.device
    ) -> HierarchicalAgent:
        return HierarchicalAgent(model, config, planner, device, self.rollout(model, planner))

    def peculiarity(self, config: HJEPAConfig) -> str:
        return f" ({config.levels} levels)" if config.levels > 2 else ""


H_JEPA = HJEPAFamily()
