"""GCBC: goal-conditioned behavioural cloning from pixels (Lynch et al., 2019; Ghosh et al., 2021), hindsight goals.

The policy imitates the action block that the data took; in training the goal is a later frame of the same episode.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.agent import Setting
from lewm_bench.agents.goal_policy import Batches, GoalPolicy, GoalPolicyConfig, GoalPolicyFamily
from lewm_bench.rng import stream
from lewm_bench.search import Dimension
from lewm_bench.train import Step


class GCBCConfig(GoalPolicyConfig):
    """How far ahead hindsight goals lie."""

    max_goal_offset: int = Field(50, ge=1)  # environment steps; uniform from 1


class GCBC(GoalPolicy):
    """A policy that imitates."""

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of z-scored actions."""
        frames, goals, actions = batch
        error = (self(frames, goals) - self.action_scale.normalize(actions)).square().mean()
        return error, {"action_error": error}


class GCBCFamily(GoalPolicyFamily):
    """``gcbc``."""

    Config = GCBCConfig
    summary = "goal-conditioned behavioural cloning from pixels, no planning"
    label = "GCBC (behavioural cloning from pixels)"
    step_cost = 0.03
    search_space = (Dimension("train.learning_rate", 3e-5, 3e-3),)
    schema = 3
    model = GCBC

    def batches(self, setting: Setting[GCBCConfig]) -> Batches:
        return hindsight_batches(setting)


def hindsight_batches(setting: Setting[GCBCConfig]) -> Batches:
    """A function from a step index to (frames, goal frames, action blocks) of that step."""
    config, dataset = setting.config, setting.dataset
    clips = dataset.clips("train", 2, config.frame_skip)
    starts, last = clips.starts, clips.last_rows

    def batch(index: int) -> tuple[Tensor, ...]:
        rng = stream(setting.seed, "batch", index)
        chosen = rng.integers(len(clips), size=config.train.batch_size)
        clip = clips.batch(chosen)
        offset = rng.integers(1, config.max_goal_offset + 1, size=config.train.batch_size)
        goals = dataset.frames[np.minimum(starts[chosen] + offset, last[chosen])]
        return clip.frames[:, 0], torch.from_numpy(goals).permute(0, 3, 1, 2), clip.actions[:, 0]

    return batch


GCBC_FAMILY = GCBCFamily()
