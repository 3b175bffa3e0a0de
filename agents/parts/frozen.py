"""Heads on the frozen latents of a trained model: the latents of the training frames once on disk, and, in one checkpoint,
the head with a copy of the model, so that it acts without anything else.

Shapes: B samples, N frames, D latent size, A numbers of an action block.
"""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import (
    Base,
    Family,
    Loaded,
    OnBaseConfig,
    PlanningAgent,
    Setting,
    arithmetic_note,
    ready_to_act,
    train_module,
)
from lewm_bench.agents.parts.jepa import JointEmbedding
from lewm_bench.agents.parts.nets import ActionScale
from lewm_bench.agents.parts.token_cache import write_tokens
from lewm_bench.core.errors import UserError
from lewm_bench.core.source import made_of
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Agent
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout
from lewm_bench.system import status
from lewm_bench.system.arrays import read_array
from lewm_bench.system.checkpoint import WEIGHTS
from lewm_bench.system.files import checksum, write_text
from lewm_bench.system.phases import phase
from lewm_bench.system.store import read_result
from lewm_bench.train.loop import TrainableModule, TrainingLog

LATENTS_SCHEMA = 1
LATENTS, ENCODING = "latents.npy", "encoding_seconds.json"

Batches = Callable[[int], tuple[Tensor, ...]]
"""A step index to the batch of that step."""


class HeadConfig(OnBaseConfig):
    """The sizes of a head; its frames of context are those of what it is built on."""

    hidden: int = Field(512, ge=1, description="width of the head")
    depth: int = Field(3, ge=1, description="hidden layers of the head")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the head")

    def unread(self) -> tuple[str, ...]:
        return ("history",)


def mlp(inputs: int, config: HeadConfig, outputs: int) -> nn.Sequential:
    """(B, inputs) to (B, outputs): hidden layers with LayerNorm, GELU and dropout."""
    layers: list[nn.Module] = []
    for width in [inputs, *[config.hidden] * (config.depth - 1)]:
        hidden = config.hidden
        layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(config.hidden, outputs))


class OnFrozen(TrainableModule):
    """A module that learns beside a model that does not; a ``WorldModel`` by that model, whose latents are (D,)."""

    def __init__(self, base: JointEmbedding, action_dim: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.action_scale = ActionScale(action_dim)
        self.history, self.frame_skip, self.tokens_per_frame = base.history, base.frame_skip, base.tokens_per_frame

    def train(self, mode: bool = True) -> OnFrozen:
        """Switch the head to training; what it is built on keeps neither statistics nor dropout."""
        super().train(mode)
        self.base.eval()
        return self

    @property
    def latent(self) -> int:
        """D."""
        return self.base.config.latent

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, 3, h, w) uint8 to (B, T, D)."""
        return self.base.encode(frames)

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, D) and z-scored blocks (B, T, A) to (B, D)."""
        return self.base.predict_next(latents, actions)

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.normalize(actions)

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.denormalize(actions)


class _OneToken(nn.Module):
    """A model's latents as one token of every frame, for the cache of tokens."""

    num_tokens = 1

    def __init__(self, model: JointEmbedding) -> None:
        super().__init__()
        self.model, self.size = model, model.config.latent

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, h, w) uint8 to (N, 1, D)."""
        return self.model.encode(frames[:, None])


@dataclass(frozen=True)
class Latents:
    """Of the training frames."""

    rows: np.ndarray  # (N,) of the dataset, in order
    values: np.ndarray  # (N, 1, D) float16, left on disk
    seconds: float  # that encoding them took

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Rows (B, ...) of the dataset to their latents (B, ..., D) float32."""
        return torch.from_numpy(self.values[np.searchsorted(self.rows, rows), 0].astype(np.float32))


def latents_of(setting: Setting[OnBaseConfig], base: Base, model: JointEmbedding) -> Latents:
    """The latents of the training frames by what the setting's agent is built on, encoded once for all heads."""
    rows = setting.dataset.rows("train")
    spec = {
        "schema": LATENTS_SCHEMA,
        "weights": checksum(base.folder / WEIGHTS),
        "dataset": [setting.dataset_key, setting.dataset.fingerprint, setting.config.data],
        "device": setting.device.type,
        "packages": dict(made_of([__name__]).packages),
    }

    def build(work: Path) -> None:
        begin = time.perf_counter()
        with phase("encoding frames"), status.doing(setting.store.root, f"encode frames of {setting.env_id}"):
            share = write_tokens(setting, _OneToken(model), rows, work / LATENTS)
        seconds = (time.perf_counter() - begin) / share if share else 0.0
        write_text(work / ENCODING, json.dumps(seconds))

    folder = setting.store.stage("latents", spec, build)
    values = read_array(folder / LATENTS, np.float16, 3, f"delete {folder} and run the same command again")
    return Latents(rows, values, read_result(folder, ENCODING))


class HeadFamily(Family):
    """A family whose agent is a head on the latents of a ``JointEmbedding`` that stays as it is."""

    trainable = True
    on_base = True
    Config = HeadConfig

    @abstractmethod
    def build(self, config: Any, base: JointEmbedding, action_dim: int) -> OnFrozen:
        """The untrained head beside what it is built on."""

    @abstractmethod
    def batches(self, setting: Setting, latents: Latents) -> Batches:
        """A function from a step index to the batch of that step."""

    @abstractmethod
    def agent(self, model: OnFrozen, setting: Setting) -> Agent:
        """What acts with a trained model."""

    def rollout(self, model: OnFrozen, setting: Setting) -> BeginRollout:
        """How plans are imagined by what a model is built on."""
        return setting.base.family.rollout(model.base, setting.planner)

    def training_clips(self, setting: Setting) -> int:
        return len(setting.dataset.clips("train", 2, setting.config.frame_skip))

    def base_model(self, setting: Setting) -> JointEmbedding:
        """What the setting's agent is built on, before its weights are loaded.

        Raises:
            UserError: its latents are no vectors.
        """
        base = setting.base
        model = base.family.build(base.setting.config, setting.image_size, setting.action_dim)
        if not isinstance(model, JointEmbedding):
            raise UserError(
                f"{setting.agent} reads one vector per frame, which {base.setting.agent} does not have; "
                "set its base to lewm or another agent with LeWM's encoder"
            )
        return model

    def train(self, setting: Setting, folder: Path) -> TrainingLog:
        with torch_stream(setting.seed, "init", "load"):
            base = self.base_model(setting)
        ready_to_act(base, setting, setting.base.folder)
        latents = latents_of(setting, setting.base, base)

        def build() -> OnFrozen:
            model = self.build(setting.config, base, setting.action_dim)
            model.action_scale.load_state_dict(base.action_scale.state_dict())  # by which its predictor reads actions
            return model

        log = train_module(setting, build, self.batches(setting, latents), folder)
        log.seconds += latents.seconds  # whoever needs the latents of all frames pays for them
        return log

    def load(self, setting: Setting, checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = self.build(setting.config, self.base_model(setting), setting.action_dim)
        ready_to_act(model, setting, checkpoint)
        base, planner = setting.base, setting.planner if self.plans else PlannerConfig()
        agent = self.agent(model, setting)
        world = self.kind == "world model"
        return Loaded(
            agent,
            f"{self.card.name} on {base.family.label(model.base, base.setting.config)}",
            "random" if checkpoint is None else "trained",
            sum(p.numel() for p in model.parameters()),
            model.tokens_per_frame,
            model if world else None,
            arithmetic_note(planner),
            objective=agent.objective if isinstance(agent, PlanningAgent) else None,
        )
