"""An agent that plans with a world model: encode context and goal once, search in latent space, execute, plan again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Controller, Goals, Past, WorldModel
from lewm_bench.planning.company import Company, Encode
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import (
    BeginRollout,
    Objective,
    Rollout,
    imagined_cost,
    in_pieces,
    objective_of,
    plain_rollout,
)
from lewm_bench.planning.replan import Replanner
from lewm_bench.system.device import sized


def default_rollout(model: WorldModel, config: PlannerConfig) -> BeginRollout:
    """The plain loop, for models that have nothing faster.

    Raises:
        UserError: ``config`` asks for more.
    """
    if config.arithmetic != "float32" or config.compile:
        raise UserError(
            "this world model plans in plain float32 only; leave planner.arithmetic and planner.compile alone"
        )
    return plain_rollout(model)


class Encoded(NamedTuple):
    """Context in latent space."""

    latents: Tensor  # (B, T, *L)
    actions: Tensor  # (B, T-1, A) z-scored


Propose = Callable[[Encoded, Tensor], Tensor]
"""Context and encoded goals (B, *L) to plans (B, H, A), z-scored, around which a search begins."""


class PlanningAgent:
    """Plans with a world model: encode context and goal once, search in latent space, execute, plan again."""

    def __init__(
        self,
        model: WorldModel,
        config: PlannerConfig,
        device: torch.device,
        rollout: BeginRollout | None = None,
        differentiable: BeginRollout | None = None,
        company: Company | None = None,
        objective: Objective | None = None,
        propose: Propose | None = None,
    ) -> None:
        """How the model's futures are computed; each is the plain loop if left out.

        Args:
            rollout: for solvers that look at costs only.
            differentiable: for those that want gradients, so neither in inference mode nor in place.
            company: decides what episodes may share; left out it is asked where kernels are chosen by size.
            objective: what plans cost; left out the latent distance to the goal, as ``config`` says.
            propose: where searches begin; left out at the mean of the data's actions.
        """
        self.model, self.config, self.device, self.differentiable = model, config, device, differentiable
        self.objective, self.propose = objective or objective_of(config), propose
        self.company = company or (Company() if sized(device) else None)
        if config.differentiates:
            self.rollout = in_pieces(differentiable or plain_rollout(model))
        else:
            self.rollout = rollout or default_rollout(model, config)
            if self.company is not None:
                self.rollout = self.company.rollouts(self.rollout, self.objective)
        self.history, self.frame_skip = model.history, model.frame_skip

    def encode(self, frames: Tensor, states: np.ndarray) -> Tensor:
        """(B, T, 3, h, w) frames to latents (B, T, *L); their ``states`` (B, T, X) are read by no agent but the marked."""
        del states
        return self.model.encode(frames.to(self.device))

    def embed(self, frames: Tensor, states: np.ndarray) -> Tensor:
        """(N, 3, h, w) frames and their states (N, X) to what imagined latents are compared with, (N, *L)."""
        return self.encode(frames[:, None], states[:, None])[:, 0]

    def in_company(self, encode: Encode, frames: Tensor, states: np.ndarray) -> Tensor:
        """``encode`` of the frames of all episodes, in one call where that may be."""
        return encode(frames, states) if self.company is None else self.company.encoded(encode, frames, states)

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> Controller:
        with torch.inference_mode():
            goal = self.in_company(self.embed, goals.frames, goals.states)
        return self.controller(goal, rngs)

    def controller(self, goal: Tensor, rngs: Sequence[np.random.Generator]) -> LatentController:
        """What steers to encoded goals (B, *L)."""
        return LatentController(self, goal, rngs)


class LatentController:
    """One batch of episodes of a ``PlanningAgent``."""

    def __init__(self, agent: PlanningAgent, goal: Tensor, rngs: Sequence[np.random.Generator]) -> None:
        self._agent, self._goal = agent, goal
        self._plan = Replanner(agent.config, agent.frame_skip, rngs)

    @torch.inference_mode()
    def encode(self, past: Past) -> Encoded:
        agent = self._agent
        states = past.states[:, None] if past.frame_states is None else past.frame_states
        actions = agent.model.normalize_actions(past.actions.to(agent.device))
        return Encoded(agent.in_company(agent.encode, past.frames, states), actions)

    def rollout(self, encoded: Encoded) -> Rollout:
        """How candidates are rolled out from here."""
        return self._agent.rollout(encoded.latents, encoded.actions)

    def search(self, encoded: Encoded) -> np.ndarray:
        agent, goal = self._agent, self._goal
        with torch.inference_mode(not agent.config.differentiates):
            if agent.config.differentiates:  # tensors made in inference mode can take no part in a gradient
                encoded, goal = Encoded(encoded.latents.clone(), encoded.actions.clone()), goal.clone()
            cost = imagined_cost(self.rollout(encoded), goal, agent.objective)
            proposed = None if agent.propose is None else agent.propose(encoded, goal)
            blocks = self._plan(cost, encoded.actions.shape[-1], agent.device, proposed)
            return primitive_actions(agent.model.denormalize_actions(blocks), agent.frame_skip)


Embed = Callable[[Tensor, np.ndarray], Tensor]
"""Frames (N, 3, h, w) and their true states (N, X) to latents (N, *L) whose distance is the cost of planning."""


def embed_frames(model: WorldModel, device: torch.device) -> Embed:
    """``model.encode`` of single frames; their states are not looked at."""
    return lambda frames, states: model.encode(frames[:, None].to(device))[:, 0]


def primitive_actions(blocks: Tensor, frame_skip: int) -> np.ndarray:
    """(B, k, A) blocks to (B, k * frame_skip, action_dim) actions."""
    actions = blocks.float().cpu().numpy()
    return actions.reshape(len(actions), actions.shape[1] * frame_skip, -1)
