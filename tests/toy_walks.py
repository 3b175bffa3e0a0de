"""Random walks whose dynamics are known to the bit, as a dataset in memory, and examined models that see the true state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from toy_env import ToyEnv

from lewm_bench.agent import PlanningAgent
from lewm_bench.core.types import WorldModel
from lewm_bench.data.format import Dataset, Meta
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.understand.model import ExaminedModel

CPU = torch.device("cpu")
SKIP = 2


def dataset(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], held_out: int, frames: np.ndarray | None = None
) -> Dataset:
    """Episodes of states (T, X) and actions (T-1, A), the last ``held_out`` of them for testing; nothing is written."""
    ends = np.cumsum([len(s) for s in states])
    split = len(states) - held_out
    low, high = (-1.0,) * actions[0].shape[1], (1.0,) * actions[0].shape[1]
    meta = Meta(
        env="walk", action_low=low, action_high=high, policies=("walk",) * len(states), seed=0, digests={},
        splits={"train": tuple(range(split)), "test": tuple(range(split, len(states)))},
    )  # fmt: skip
    last = np.full((1, actions[0].shape[1]), np.nan, np.float32)
    steps = np.concatenate([part for a in actions for part in (a.astype(np.float32), last)])
    if frames is None:
        frames = np.zeros((ends[-1], 4, 4, 3), np.uint8)
    return Dataset(Path("nowhere"), meta, frames, np.concatenate(states), steps, ends)


def walks(lengths: Sequence[int], held_out: int, seed: int = 0, draw: bool = False) -> Dataset:
    """Two-dimensional walks x' = x + a in steps of 1/64, exact in float32, each around a place of its own."""
    rng = np.random.default_rng(seed)
    actions = [rng.integers(-8, 9, (length - 1, 2)) / 64 for length in lengths]
    places = [rng.integers(-32, 33, (1, 2)) / 64 for _ in lengths]
    states = [np.concatenate([p, p + np.cumsum(a, 0)]) for p, a in zip(places, actions, strict=True)]
    frames = ToyEnv().render_states(np.concatenate(states)) if draw else None
    return dataset(states, actions, held_out, frames)


class Walk:
    """The walk itself: latents are states, in whatever shape."""

    history, frame_skip = 3, SKIP

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias

    def normalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        return 4 * actions

    def denormalize_actions(self, actions: torch.Tensor) -> torch.Tensor:
        return actions / 4

    def predict_next(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        moves = self.denormalize_actions(actions[:, -1]).unflatten(-1, (self.frame_skip, -1)).sum(1)
        return latents[:, -1] + moves.view_as(latents[:, -1]) + self.bias


class Watchful(Walk):
    """The same, but off by as much as the window's actions do not explain its latents."""

    def predict_next(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        moves = self.denormalize_actions(actions[:, :-1]).unflatten(-1, (self.frame_skip, -1)).sum(2)
        return super().predict_next(latents, actions) + (latents.diff(dim=1) - moves).abs().sum((1, 2))[:, None]


class Constant(Walk):
    """Always predicts the same."""

    def __init__(self, latent: torch.Tensor) -> None:
        super().__init__()
        self.latent = latent

    def predict_next(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.latent.expand_as(latents[:, -1])


class Knowing(PlanningAgent):
    """Encodes by looking at the states, as agents with proprioception do; ``shape`` is that of a latent."""

    shape: tuple[int, ...] = (-1,)

    def encode(self, frames: torch.Tensor, states: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(states.astype(np.float32)).unflatten(-1, self.shape)


class Tokens(Knowing):
    """The same with every number as a token of its own."""

    shape = (-1, 1)


def knowing(
    data: Dataset, model: WorldModel, kind: type[Knowing] = Knowing, seed: int = 0, **planner: Callable
) -> ExaminedModel:
    """The examined model whose latents are the true states."""
    agent = kind(model, PlannerConfig(), CPU, **planner)
    return ExaminedModel(ToyEnv(), "tests/Walk-v0", data, model, agent.embed, CPU, "walk", seed, agent)
