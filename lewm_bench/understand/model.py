"""The world model that is examined, and its latents for rows and clips of the dataset.

Shapes: N frames or clips, T frames of a clip, D numbers of a latent laid flat, X state size, A of an action block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_bench.agent import Embed, Loaded, PlanningAgent, Setting, embed_frames
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import WorldModel
from lewm_bench.data.format import Dataset
from lewm_bench.planning.config import PlannerConfig

PIECE = 64  # frames that are encoded together


@dataclass(frozen=True)
class ExaminedModel:
    """A world model with what it is examined on."""

    env: GoalEnv
    env_id: str
    dataset: Dataset
    model: WorldModel
    embed: Embed
    device: torch.device
    agent: str
    seed: int
    planner: PlanningAgent | None = None  # how it is rolled out while planning; None: by the plain loop

    @property
    def planning_agent(self) -> PlanningAgent:
        """The agent that plans with the model: its ``encode`` for contexts and its ``rollout`` for futures."""
        return self.planner or PlanningAgent(self.model, PlannerConfig(), self.device)

    @torch.inference_mode()
    def latents(self, frames: np.ndarray, states: np.ndarray) -> Tensor:
        """(N, h, w, 3) uint8 frames and their states (N, X) to latents (N, D) float32 on the CPU."""
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3)))
        pieces = range(0, len(images), PIECE)
        found = [self.embed(images[k : k + PIECE], states[k : k + PIECE].copy()) for k in pieces]
        return torch.cat([part.flatten(1).float().cpu() for part in found])

    def episodes_of(self, rows: np.ndarray) -> np.ndarray:
        """The episodes (N,) that dataset rows (N,) belong to."""
        return np.searchsorted(self.dataset.ends, rows, side="right")

    def latents_at(self, rows: np.ndarray) -> Tensor:
        """Latents (N, D) of dataset rows (N,)."""
        return self.latents(self.dataset.frames[rows], self.dataset.states[rows])

    def frames(self, split: str, count: int) -> np.ndarray:
        """At most ``count`` distinct rows (N,) of a split in order, drawn from (seed 0, "understanding", env, split)."""
        rows = self.dataset.rows(split)
        rng = stream(0, "understanding", "frames", self.env_id, split)
        return np.sort(rng.choice(rows, size=min(count, len(rows)), replace=False))

    def clips(self, split: str, frames: int, count: int) -> np.ndarray:
        """Rows (N, T) of at most ``count`` distinct clips of a split, ``frame_skip`` steps apart, balanced over episodes.

        Raises:
            UserError: no episode of the split is that long.
        """
        skip, dataset = self.model.frame_skip, self.dataset
        length = (frames - 1) * skip
        rng = stream(0, "understanding", "clips", self.env_id, split, frames)
        starts: list[np.ndarray] = []
        for episode in dataset.episodes(split):
            room = int(dataset.lengths[episode]) - 1 - length  # of actions behind the clip
            if room >= 0:
                starts.append(dataset.starts[episode] + rng.permutation(room + 1))
        if not starts:
            raise UserError(f"no {split} episode of {self.env_id} has {length} steps; raise collect.steps")
        rounds = range(max(map(len, starts)))
        chosen = [own[k] for k in rounds for own in starts if k < len(own)][:count]
        return np.asarray(chosen)[:, None] + np.arange(frames) * skip

    def blocks(self, clips: np.ndarray) -> Tensor:
        """The z-scored action blocks (N, T-1, A) executed between the frames of clips (N, T)."""
        skip = self.model.frame_skip
        steps = clips[:, :-1, None] + np.arange(skip)  # (N, T-1, skip)
        actions = torch.from_numpy(self.dataset.actions[steps].astype(np.float32)).flatten(2)
        return self.model.normalize_actions(actions.to(self.device))

    def untrained(self, model: WorldModel) -> ExaminedModel:
        """The same examination of another model, for the floor of a randomly initialised encoder."""
        return replace(self, model=model, embed=embed_frames(model, self.device), planner=None)


def downsampled(frames: np.ndarray, side: int) -> np.ndarray:
    """(N, h, w, 3) uint8 frames to (N, side * side * 3) float32 in [0, 1], averaged over areas; never made larger."""
    size = (min(side, frames.shape[1]), min(side, frames.shape[2]))
    pieces = [
        F.adaptive_avg_pool2d(torch.from_numpy(np.moveaxis(frames[k : k + PIECE], -1, -3) / np.float32(255)), size)
        for k in range(0, len(frames), PIECE)
    ]
    return torch.cat(pieces).flatten(1).numpy()


def examined_model(setting: Setting, loaded: Loaded) -> ExaminedModel:
    """What the runner has, ready to be examined.

    Raises:
        UserError: it is not a world model.
    """
    if loaded.model is None:
        raise UserError(f"{setting.agent} is not a world model; there are no latents to look into")
    return ExaminedModel(
        env=setting.env,
        env_id=setting.env_id,
        dataset=setting.dataset,
        model=loaded.model,
        embed=loaded.embed or embed_frames(loaded.model, setting.device),
        device=setting.device,
        agent=setting.agent,
        seed=setting.seed,
        planner=loaded.agent if isinstance(loaded.agent, PlanningAgent) else None,
    )
