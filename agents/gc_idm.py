"""GC-IDM (goal-conditioned inverse dynamics, arXiv 2605.08732): what a search would find, by one look at frozen latents.

A head learns from recorded episodes which action block was taken on the way from one frame to a later one, given the
latents of both and the steps between them. ``gc-idm`` executes what it says, without any search; ``gc-idm-cem`` lets it
propose a plan, one imagined block after the other, around which the planner searches.

The steps that are left are known in training and to nobody at test time. The authors count down the evaluation's budget,
of which no other agent is told; here the head estimates them as well, unless it is told a number (``steps_left``).

Shapes: B samples or episodes, T frames, D latent size, H blocks of a plan, A numbers of an action block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Encoded, PlanningAgent, Setting, primitive_actions
from lewm_bench.agents.parts.frozen import Batches, HeadConfig, HeadFamily, Latents, OnFrozen, mlp
from lewm_bench.agents.parts.goal_policy import later_rows
from lewm_bench.agents.parts.jepa import JointEmbedding
from lewm_bench.core.card import Card
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Goals, Past
from lewm_bench.planning.cost import plain_rollout
from lewm_bench.train.loop import Step

FREQUENCIES = 32  # of the code of the steps that are left


class GCIDMConfig(HeadConfig):
    """How far ahead the goals lie that it learns to go to, and what it is told of them."""

    max_goal_offset: int = Field(
        50, ge=1, description="goals lie uniformly 1 to this many environment steps ahead, or to the episode's end"
    )
    steps_left: int | None = Field(
        None, ge=1, description="environment steps to the goal that it is told when it acts; null: its own estimate"
    )


class GCIDM(OnFrozen):
    """Latents of now and of the goal to the next action block."""

    def __init__(self, config: GCIDMConfig, base: JointEmbedding, action_dim: int) -> None:
        super().__init__(base, action_dim)
        self.config = config
        pair, hidden = 2 * self.latent, config.hidden
        self.trunk = mlp(pair, config, hidden)
        self.modulation = nn.Sequential(nn.Linear(2 * FREQUENCIES, hidden), nn.GELU(), nn.Linear(hidden, 2 * hidden))
        nn.init.zeros_(self.modulation[-1].weight)  # AdaLN-zero: at first the steps change nothing
        nn.init.zeros_(self.modulation[-1].bias)
        self.out = nn.Linear(hidden, self.frame_skip * action_dim)
        self.time = mlp(pair, config, 1)

    def blocks(self, latents: Tensor, goals: Tensor, steps: Tensor) -> Tensor:
        """(B, D) latents and goals, environment steps between them (B,), to z-scored action blocks (B, A)."""
        x = F.gelu(self.trunk(torch.cat([latents, goals], -1)))
        scale, shift = self.modulation(self._code(steps)).chunk(2, -1)
        return self.out(x * (1 + scale) + shift)

    def _code(self, steps: Tensor) -> Tensor:
        """(B,) steps to sines and cosines of them, (B, 2 FREQUENCIES), of wavelengths from 2 pi to 20,000 pi steps."""
        frequencies = 10_000 ** (-torch.arange(FREQUENCIES, device=steps.device) / FREQUENCIES)
        angles = steps[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)

    def steps(self, latents: Tensor, goals: Tensor) -> Tensor:
        """(B, D) latents and goals to the environment steps from one to the other (B,): estimated, or as told."""
        if self.config.steps_left is not None:
            return torch.full_like(latents[:, 0], self.config.steps_left)
        estimate = self.time(torch.cat([latents, goals], -1))[:, 0] * self.config.max_goal_offset
        return estimate.clamp(1, self.config.max_goal_offset)

    def act(self, latents: Tensor, goals: Tensor) -> Tensor:
        """(B, D) latents of now and of the goals to z-scored action blocks (B, A)."""
        return self.blocks(latents, goals, self.steps(latents, goals))

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared errors of z-scored actions, and of the steps in units of ``max_goal_offset``.

        Args:
            batch: latents (B, D) of now and of the goals, steps between them (B,), action blocks (B, A).
        """
        latents, goals, steps, actions = batch
        wanted = self.action_scale.normalize(actions)
        error = (self.blocks(latents, goals, steps) - wanted).square().mean()
        estimate = self.time(torch.cat([latents, goals], -1))[:, 0]
        time = (estimate - steps / self.config.max_goal_offset).square().mean()
        return error + time, {"action_error": error, "mean_action": wanted.square().mean(), "steps_error": time}


class GCIDMAgent:
    """Asks the head for one block at a time."""

    history = 1

    def __init__(self, model: GCIDM, device: torch.device) -> None:
        self.model, self.device, self.frame_skip = model, device, model.frame_skip

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 to (B, D)."""
        return self.model.encode(frames[:, None].to(self.device))[:, 0]

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> GCIDMController:
        return GCIDMController(self, self.encode(goals.frames))


class GCIDMController:
    """One batch of episodes."""

    def __init__(self, agent: GCIDMAgent, goal: Tensor) -> None:
        self._agent, self._goal = agent, goal

    def encode(self, past: Past) -> Tensor:
        return self._agent.encode(past.frames[:, -1])

    @torch.inference_mode()
    def search(self, encoded: Tensor) -> np.ndarray:
        model = self._agent.model
        block = model.denormalize_actions(model.act(encoded, self._goal))
        return primitive_actions(block[:, None], model.frame_skip)


def proposal(model: GCIDM, horizon: int, encoded: Encoded, goal: Tensor) -> Tensor:
    """The plan (B, H, A) that the head makes if every imagined latent were the next frame."""
    latents, actions, plan = encoded.latents, encoded.actions, []
    for _ in range(horizon):
        plan.append(model.act(latents[:, -1], goal))
        actions = torch.cat([actions, plan[-1][:, None]], 1)[:, -model.history :]
        latents = latents[:, -model.history :]
        latents = torch.cat([latents, model.predict_next(latents, actions)[:, None]], 1)
    return torch.stack(plan, 1)


class GCIDMFamily(HeadFamily):
    """``gc-idm``."""

    Config = GCIDMConfig
    kind = "policy"
    planning_only = ("steps_left",)
    card = Card(
        name="GC-IDM",
        about="reads the next actions off a frozen LeWM's latents of now and of the goal; it does not search",
        colour="#75AA4A",
        marker="D",
        loss_terms=("action_error", "steps_error"),
        papers={"GC-IDM": "2605.08732"},
        rank=5,
    )
    search_space = (Dimension("train.learning_rate", 5e-5, 5e-3),)

    def build(self, config: GCIDMConfig, base: JointEmbedding, action_dim: int) -> GCIDM:
        return GCIDM(config, base, action_dim)

    def batches(self, setting: Setting[GCIDMConfig], latents: Latents) -> Batches:
        config = setting.config
        clips = setting.dataset.clips("train", 2, config.frame_skip)
        starts, last = clips.starts, clips.last_rows

        def batch(index: int) -> tuple[Tensor, ...]:
            rng = stream(setting.seed, "batch", index)
            chosen = rng.integers(len(clips), size=config.train.batch_size)
            rows = starts[chosen]
            later = later_rows(rng, rows, last[chosen], config.max_goal_offset)
            steps = torch.from_numpy((later - rows).astype(np.float32))
            return latents(rows), latents(later), steps, clips.action_blocks(chosen)[:, 0]

        return batch

    def agent(self, model: GCIDM, setting: Setting[GCIDMConfig]) -> GCIDMAgent | PlanningAgent:
        return GCIDMAgent(model, setting.device)


class GCIDMCEMFamily(GCIDMFamily):
    """``gc-idm-cem``."""

    kind = "world model"
    plans = True
    card = Card(
        name="GC-IDM + search",
        about="a frozen LeWM whose search begins at the plan that inverse dynamics on its latents proposes",
        colour="#4A7535",
        marker="^",
        loss_terms=("action_error", "steps_error"),
        papers={"GC-IDM": "2605.08732"},
        rank=26,
    )

    def agent(self, model: GCIDM, setting: Setting[GCIDMConfig]) -> PlanningAgent:
        planner = setting.planner

        def propose(encoded: Encoded, goal: Tensor) -> Tensor:
            with torch.no_grad():
                return proposal(model, planner.horizon, encoded, goal)

        fast = None if planner.differentiates else self.rollout(model, setting)
        return PlanningAgent(model, planner, setting.device, fast, plain_rollout(model), propose=propose)


GC_IDM, GC_IDM_CEM = GCIDMFamily(), GCIDMCEMFamily()
