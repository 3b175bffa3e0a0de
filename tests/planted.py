"""An examined model whose latents are any function of the true state, so that what can be found in them is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from toy_env import TOY_ID, ToyEnv, make_toy

from lewm_bench.agent import PlanningAgent
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.understand.model import ExaminedModel

SKIP = 2
CPU = torch.device("cpu")
Latent = Callable[[np.ndarray], np.ndarray]
"""States (N, X) to latents (N, D)."""


class PlantedEnv(ToyEnv):
    """With quantities by name, one of which never changes."""

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"depth": np.full((len(states), 1), 0.3), "position": states}


class PlantedModel:
    """What it predicts is what a function of the last latent (N, D) and the last block (N, A) says."""

    def __init__(self, predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.history, self.frame_skip, self.tokens_per_frame = 3, SKIP, 1
        self._predict = predict

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        return self._predict(latents[:, -1], actions[:, -1])


class PlantedAgent(PlanningAgent):
    """Reads states instead of frames."""

    latent: Latent

    def encode(self, frames: Tensor, states: np.ndarray) -> Tensor:
        flat = self.latent(states.reshape(-1, states.shape[-1]))
        return torch.from_numpy(np.asarray(flat, np.float32)).unflatten(0, states.shape[:-1])


def planted_data(folder: Path, episodes: int = 40, steps: int = 20) -> Dataset:
    """Episodes that move all the time (drift), half of the way (jitter) or not at all (still)."""
    config = CollectConfig(episodes=episodes, steps=steps, policies={"drift": 0.6, "jitter": 0.3, "still": 0.1})
    make_toy()
    return collect(make_toy(), config, 0, folder / "data", progress=False)


def planted(
    dataset: Dataset, latent: Latent, predict: Callable[[Tensor, Tensor], Tensor] | None = None
) -> ExaminedModel:
    """The examined model; it predicts that nothing changes unless told otherwise."""
    model = PlantedModel(predict or (lambda latent, _: latent))
    agent = PlantedAgent(model, PlannerConfig(), CPU)
    agent.latent = latent
    return ExaminedModel(PlantedEnv(), TOY_ID, dataset, model, agent.embed, CPU, "planted", 0, agent)
