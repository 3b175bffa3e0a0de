"""GCBC: goal-conditioned behavioural cloning from pixels (Lynch et al., 2019; Ghosh et al., 2021), hindsight goals.

The policy imitates the action block that the data took; in training the goal is a later frame of the same episode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.goal_policy import Batches, GoalPolicy, GoalPolicyConfig, GoalPolicyFamily, later_rows
from lewm_bench.core.card import Card
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension
from lewm_bench.train.loop import Step


class GCBC(GoalPolicy):
    """A policy that imitates."""

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of z-scored actions."""
        frames, goals, actions = batch
        wanted = self.action_scale.normalize(actions)
        error = (self(frames, goals) - wanted).square().mean()
        return error, {"action_error": error, "mean_action": wanted.square().mean()}


class GCBCFamily(GoalPolicyFamily):
    """``gcbc``."""

    Config = GoalPolicyConfig
    card = Card(
        name="GCBC",
        about="imitates the recorded actions given the goal; it acts at once and does not plan",
        colour="#009E73",
        marker="P",
        loss_terms=("action_error",),
        papers={"GCSL": "1912.06088"},
        rank=0,
    )
    label = "GCBC (behavioural cloning from pixels)"
    shares_batches = True
    search_space = (Dimension("train.learning_rate", 3e-5, 3e-3),)
    schema = 4
    model = GCBC

    def batches(self, setting: Setting[GoalPolicyConfig]) -> Batches:
        return hindsight_batches(setting)


def hindsight_batches(setting: Setting[GoalPolicyConfig]) -> Batches:
    """A function from a step index to (frames, goal frames, action blocks) of that step."""
    config, dataset = setting.config, setting.dataset
    clips = dataset.clips("train", 2, config.frame_skip)
    starts, last = clips.starts, clips.last_rows

    def batch(index: int) -> tuple[Tensor, ...]:
        rng = stream(setting.seed, "batch", index)
        chosen = rng.integers(len(clips), size=config.train.batch_size)
        later = later_rows(rng, starts[chosen], last[chosen], config.max_goal_offset)
        clip, goals = clips.batch(chosen[setting.own]), dataset.frames[later[setting.own]]
        return clip.frames[:, 0], torch.from_numpy(goals).permute(0, 3, 1, 2), clip.actions[:, 0]

    return batch


GCBC_FAMILY = GCBCFamily()
