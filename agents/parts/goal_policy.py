"""What goal-conditioned policies from pixels share: the network, the agent that acts with it, training and loading.

A policy sees the current frame and a goal frame and answers with an action block. What it learns from is the business
of each family (gcbc, gcivl, gciql). No planning.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lewm_bench.agent import AgentConfig, Family, Loaded, Setting, primitive_actions, ready_to_act, train_module
from lewm_bench.agents.parts.nets import ActionScale, Normalize, StemViT
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Goals, Past
from lewm_bench.train.loop import TrainingLog

Batches = Callable[[int], tuple[Tensor, ...]]


class GoalPolicyConfig(AgentConfig):
    """Sizes of the policy, and how far ahead the goals lie that it learns to go to."""

    history: int = Field(1, ge=1, le=1, description="frames of context: it sees one")
    width: int = Field(256, ge=4, multiple_of=4, description="width of each encoder")  # sine and cosine of two axes
    depth: int = Field(4, ge=1, description="blocks of each encoder")
    heads: int = Field(4, ge=1, description="attention heads of each encoder")
    hidden: int = Field(512, ge=1, description="width of the heads")
    max_goal_offset: int = Field(
        50,
        ge=1,
        description="the policy's goals lie uniformly 1 to this many environment steps ahead, or to the episode's end",
    )

    @model_validator(mode="after")
    def _heads(self) -> GoalPolicyConfig:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        return self


class GoalPolicy(nn.Module):
    """(B, 3, h, w) uint8 frames and goals to z-scored action blocks (B, A).

    The frame and its difference to the goal enter the encoder as one image of six channels (OGBench stacks them too):
    with separate encoders, or without the difference, some seeds never leave the plateau of the mean action.
    """

    def __init__(self, config: GoalPolicyConfig, image_size: int, action_dim: int) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.action_scale = ActionScale(action_dim)
        self.encoder = pair_encoder(config, image_size)
        self.head = nn.Sequential(
            nn.Linear(config.width * self.encoder.num_tokens, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.frame_skip * action_dim),
        )

    def pair(self, frames: Tensor, goals: Tensor) -> Tensor:
        """The six-channel images (B, 6, h, w) of frames and goals."""
        now, goal = self.normalize(frames), self.normalize(goals)
        return torch.cat([now, goal - now], 1)

    def block(self, pairs: Tensor) -> Tensor:
        """(B, 6, h, w) pairs to z-scored action blocks (B, A)."""
        return self.head(self.encoder(pairs).flatten(1))

    def forward(self, frames: Tensor, goals: Tensor) -> Tensor:
        return self.block(self.pair(frames, goals))

    @property
    def acting_parameters(self) -> int:
        """Parameters that acting needs; what only training needs (values, targets) is not counted."""
        return sum(p.numel() for part in (self.encoder, self.head) for p in part.parameters())


def pair_encoder(config: GoalPolicyConfig, image_size: int) -> StemViT:
    """The encoder of six-channel images: (B, 6, h, w) floats to (B, P, W)."""
    return StemViT(image_size, config.width, config.depth, config.heads, channels=6)


def later_rows(rng: np.random.Generator, starts: np.ndarray, last_rows: np.ndarray, max_goal_offset: int) -> np.ndarray:
    """(B,) rows after rows ``starts``, uniform from 1 to ``max_goal_offset`` environment steps or the episode's end.

    The goals of every policy are drawn here, so that what each is trained for is the same.
    """
    return starts + rng.integers(1, np.minimum(last_rows - starts, max_goal_offset) + 1)


class GoalPolicyAgent:
    """Asks the policy for one block at a time."""

    def __init__(self, model: GoalPolicy, config: GoalPolicyConfig, device: torch.device) -> None:
        self.model, self.device = model, device
        self.history, self.frame_skip = config.history, config.frame_skip

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> GoalPolicyController:
        return GoalPolicyController(self, goals.frames.to(self.device))


class GoalPolicyController:
    """One batch of episodes."""

    def __init__(self, agent: GoalPolicyAgent, goal: Tensor) -> None:
        self._agent, self._goal = agent, goal

    def encode(self, past: Past) -> Tensor:
        return past.frames[:, -1].to(self._agent.device)

    @torch.inference_mode()
    def search(self, encoded: Tensor) -> np.ndarray:
        model = self._agent.model
        block = model.action_scale.denormalize(model(encoded, self._goal))
        return primitive_actions(block[:, None], self._agent.frame_skip)


class GoalPolicyFamily(Family):
    """A family whose agent is a ``GoalPolicy``."""

    kind = "policy"
    trainable = True
    label: ClassVar[str]  # its name for people
    model: ClassVar[type[GoalPolicy]]

    def build(self, config: GoalPolicyConfig, image_size: int, action_dim: int) -> GoalPolicy:
        """The untrained module, from sizes alone."""
        return self.model(config, image_size, action_dim)

    def training_clips(self, setting: Setting) -> int:
        return len(setting.dataset.clips("train", 2, setting.config.frame_skip))

    @abstractmethod
    def batches(self, setting: Setting) -> Batches:
        """A function from a step index to the batch of that step."""

    def train(self, setting: Setting, folder: Path) -> TrainingLog:
        def build() -> GoalPolicy:
            model = self.build(setting.config, setting.image_size, setting.action_dim)
            model.action_scale.fit(*setting.dataset.action_statistics("train"))
            return model

        return train_module(setting, build, self.batches(setting), folder)

    def load(self, setting: Setting, checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = self.build(setting.config, setting.image_size, setting.action_dim)
        ready_to_act(model, setting, checkpoint)
        return Loaded(
            GoalPolicyAgent(model, setting.config, setting.device),
            self.label,
            "random" if checkpoint is None else "trained",
            model.acting_parameters,
            model.encoder.num_tokens,
        )
