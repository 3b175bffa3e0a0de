"""GCBC: goal-conditioned behavioural cloning from pixels (Lynch et al., 2019; Ghosh et al., 2021), hindsight goals.

The policy sees the current frame and a goal frame and imitates the action block that the data took from there; in
training the goal is a later frame of the same episode. No planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import (
    AgentConfig,
    Family,
    Loaded,
    Setting,
    primitive_actions,
    ready_to_act,
    train_module,
)
from lewm_bench.agents.nets import ActionScale, Normalize, StemViT
from lewm_bench.rng import stream, torch_stream
from lewm_bench.train import Step, TrainingLog
from lewm_bench.types import Goals, Past


class GCBCConfig(AgentConfig):
    """Sizes of the policy, and how far ahead hindsight goals lie."""

    history: int = 1
    width: int = 256
    depth: int = 4
    heads: int = 4
    hidden: int = 512
    max_goal_offset: int = Field(50, ge=1)  # environment steps; uniform from 1


class GCBC(nn.Module):
    """(B, 3, h, w) uint8 frames and goals to z-scored action blocks (B, A).

    The frame and its difference to the goal enter the encoder as one image of six channels (OGBench stacks them too):
    with separate encoders, or without the difference, some seeds never leave the plateau of the mean action.
    """

    def __init__(self, config: GCBCConfig, image_size: int, action_dim: int) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.action_scale = ActionScale(action_dim)
        self.encoder = StemViT(image_size, config.width, config.depth, config.heads, channels=6)
        self.head = nn.Sequential(
            nn.Linear(config.width * self.encoder.num_tokens, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.frame_skip * action_dim),
        )

    def forward(self, frames: Tensor, goals: Tensor) -> Tensor:
        now, goal = self.normalize(frames), self.normalize(goals)
        return self.head(self.encoder(torch.cat([now, goal - now], 1)).flatten(1))

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of z-scored actions."""
        frames, goals, actions = batch
        error = (self(frames, goals) - self.action_scale.normalize(actions)).square().mean()
        return error, {"action_error": error}


class GCBCAgent:
    """Asks the policy for one block at a time."""

    def __init__(self, model: GCBC, config: GCBCConfig, device: torch.device) -> None:
        self.model, self.device = model, device
        self.history, self.frame_skip = config.history, config.frame_skip

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> GCBCController:
        return GCBCController(self, goals.frames.to(self.device))


class GCBCController:
    """One batch of episodes."""

    def __init__(self, agent: GCBCAgent, goal: Tensor) -> None:
        self._agent, self._goal = agent, goal

    def encode(self, past: Past) -> Tensor:
        return past.frames[:, -1].to(self._agent.device)

    @torch.inference_mode()
    def search(self, encoded: Tensor) -> np.ndarray:
        model = self._agent.model
        block = model.action_scale.denormalize(model(encoded, self._goal))
        return primitive_actions(block[:, None], self._agent.frame_skip)


class GCBCFamily(Family):
    """``gcbc``."""

    Config = GCBCConfig
    summary = "goal-conditioned behavioural cloning from pixels, no planning"
    step_cost = 0.03
    kind = "policy"
    schema = 3
    trainable = True

    def build(self, setting: Setting[GCBCConfig]) -> GCBC:
        return GCBC(setting.config, setting.image_size, setting.action_dim)

    def train(self, setting: Setting[GCBCConfig], folder: Path) -> TrainingLog:
        def build() -> GCBC:
            model = self.build(setting)
            model.action_scale.fit(*setting.dataset.action_statistics("train"))
            return model

        return train_module(setting, build, hindsight_batches(setting), folder)

    def load(self, setting: Setting[GCBCConfig], checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = self.build(setting)
        ready_to_act(model, setting, checkpoint)
        return Loaded(
            GCBCAgent(model, setting.config, setting.device),
            "GCBC (behavioural cloning from pixels)",
            "random" if checkpoint is None else "trained",
            sum(p.numel() for p in model.parameters()),
            model.encoder.num_tokens,
        )


def hindsight_batches(setting: Setting[GCBCConfig]):
    """A function from a step index to (frames, goal frames, action blocks) of that step."""
    config, dataset = setting.config, setting.dataset
    clips = dataset.clips("train", 2, config.frame_skip)
    starts = clips.starts
    last = dataset.ends[np.searchsorted(dataset.ends, starts, side="right")] - 1  # of each clip's episode

    def batch(index: int) -> tuple[Tensor, ...]:
        rng = stream(setting.seed, "batch", index)
        chosen = rng.integers(len(clips), size=config.train.batch_size)
        clip = clips.batch(chosen)
        offset = rng.integers(1, config.max_goal_offset + 1, size=config.train.batch_size)
        goals = dataset.frames[np.minimum(starts[chosen] + offset, last[chosen])]
        return clip.frames[:, 0], torch.from_numpy(goals).permute(0, 3, 1, 2), clip.actions[:, 0]

    return batch


GCBC_FAMILY = GCBCFamily()
