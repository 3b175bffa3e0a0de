"""Goal-conditioned offline reinforcement learning without rewards, the parts that GCIVL and GCIQL share.

Recipe of OGBench (Park et al., 2024, appendix C): goals are relabelled, the reward is -1 until the state *is* the
relabelled goal and 0 there, where the episode ends; values by expectile regression (Kostrikov et al., 2021), the policy
by advantage-weighted regression (Peng et al., 2019). Goals of the policy are those of every policy here
(``later_rows``), where OGBench draws them from the whole rest of the episode. So the value of a state d steps from its goal is
-(1 - discount^d) / (1 - discount). **One step of theirs is one action block here**, ``frame_skip`` environment steps:
goals of values lie whole blocks ahead, and a block is discounted by ``discount ** frame_skip``.

Shapes: B transitions, A numbers of an action block, P tokens of width W, K estimates of a critic.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.goal_policy import (
    Batches,
    GoalPolicy,
    GoalPolicyConfig,
    GoalPolicyFamily,
    later_rows,
    pair_encoder,
)
from lewm_bench.core.rng import stream
from lewm_bench.train.loop import Step, TrainableModule, TrainConfig

MAX_WEIGHT = 100.0  # of a transition in the policy's loss
CROP_PADDING = 3  # pixels


class OfflineConfig(GoalPolicyConfig):
    """Numbers of OGBench's pixel environments.

    OGBench does not clip gradients. Weights make the policy's large, and a low ``clip_norm``, which is of all
    gradients together, would stop the critics whenever they are.
    """

    train: TrainConfig = Field(
        TrainConfig(batch_size=256, learning_rate=3e-4, weight_decay=0, warmup=0, clip_norm=100),
        description="optimisation",
    )
    discount: float = Field(
        0.99, gt=0, lt=1, description="per environment step; an action block has this to the power of frame_skip"
    )
    expectile: float = Field(
        0.9, gt=0, lt=1, description="of the values: 0.5 is the mean over the data, towards 1 the best of it"
    )
    inverse_temperature: float = Field(
        10.0, ge=0, description="of the advantages that weigh the policy's data; 0 is behavioural cloning"
    )
    target_rate: float = Field(
        0.005, gt=0, le=1, description="share of the way that the averaged critic follows per training step"
    )
    current_goals: float = Field(0.2, ge=0, le=1, description="share of value goals that are the frame itself")
    future_goals: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of value goals later in the episode, a geometric number of blocks; the rest is any frame",
    )
    crop: float = Field(
        0.5, ge=0, le=1, description="probability that the images of a batch are shifted by up to three pixels"
    )

    @model_validator(mode="after")
    def _shares(self) -> OfflineConfig:
        if self.current_goals + self.future_goals > 1 + 1e-9:
            raise ValueError(
                f"current_goals and future_goals are shares of one whole, got {self.current_goals} and "
                f"{self.future_goals}"
            )
        return self

    @property
    def block_discount(self) -> float:
        """Discount of one action block."""
        return self.discount**self.frame_skip


class Transitions(NamedTuple):
    """One training batch; frames and goals (B, 3, h, w) uint8."""

    frames: Tensor
    following: Tensor  # the frame after the block
    actions: Tensor  # (B, A) the block, in the environment's units
    value_goals: Tensor
    at_goal: Tensor  # (B,) bool: the value goal is this very frame
    policy_goals: Tensor


class Critic(nn.Module):
    """(B, 6, h, w) pairs, and (B, A) z-scored blocks if it judges actions, to estimates (K, B).

    The estimates have heads of their own on one encoder, as in OGBench.
    """

    def __init__(self, config: OfflineConfig, image_size: int, estimates: int, action_size: int = 0) -> None:
        super().__init__()
        self.encoder = pair_encoder(config, image_size)
        inputs = config.width * self.encoder.num_tokens + action_size
        self.heads = nn.ModuleList(value_head(inputs, config.hidden) for _ in range(estimates))

    def forward(self, pairs: Tensor, *actions: Tensor) -> Tensor:
        features = torch.cat([self.encoder(pairs).flatten(1), *actions], 1)
        return torch.cat([head(features) for head in self.heads], 1).float().T


def value_head(inputs: int, hidden: int) -> nn.Sequential:
    """(B, inputs) features to (B, 1). LayerNorm keeps bootstrapped values from running away (OGBench, appendix C)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, 1),
    )


class ImplicitPolicy(GoalPolicy, TrainableModule):
    """A policy trained by advantage-weighted regression, with whatever critics its subclass adds."""

    averaged: ClassVar[str]  # the critic whose moving average is ``target``
    target: Critic

    def __init__(self, config: OfflineConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.config = config

    def after_step(self, step: Step) -> None:
        move_average(self.target, self.get_submodule(self.averaged), self.config.target_rate)

    @abstractmethod
    def critic_loss(self, batch: Transitions, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the critics and scalars for the log; ``actions`` (B, A) are the z-scored blocks."""

    @abstractmethod
    def advantage(self, pairs: Tensor, batch: Transitions, actions: Tensor) -> Tensor:
        """(B,) how much better than expected the blocks are on the way to the policy goals; ``pairs`` are now's."""

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Critics' losses plus the weighted error of z-scored actions.

        The error is the negative log-likelihood of a Gaussian of constant deviation, up to its scale.
        """
        transitions = Transitions(*batch)
        actions = self.action_scale.normalize(transitions.actions)
        critic_loss, parts = self.critic_loss(transitions, actions)
        pairs = self.pair(transitions.frames, transitions.policy_goals)
        with torch.no_grad():
            advantage = self.advantage(pairs, transitions, actions)
        weights = advantage_weights(advantage, self.config.inverse_temperature)
        error = (self.block(pairs) - actions).square().mean(1)
        policy_loss, mean_action = (weights * error).mean(), (weights * actions.square().mean(1)).mean()
        parts |= {"policy": policy_loss, "mean_action": mean_action}
        parts |= {"action_error": error.mean(), "weight": weights.mean()}
        return critic_loss + policy_loss, parts


def expectile_loss(error: Tensor, positive: Tensor, expectile: float) -> Tensor:
    """Squared ``error`` (target - estimate), weighted by ``expectile`` where ``positive`` holds, else by the rest.

    With ``positive = error > 0`` the best constant is the expectile of the targets (Kostrikov et al., equation 5).
    """
    return torch.where(positive, expectile, 1 - expectile) * error.square()


def bellman_target(at_goal: Tensor, following: Tensor, discount: float) -> Tensor:
    """Reward and discounted value (..., B) of what follows: 0 at the goal, where it ends, else -1 and going on."""
    return torch.where(at_goal, 0.0, -1 + discount * following)


def advantage_weights(advantage: Tensor, inverse_temperature: float) -> Tensor:
    """exp(inverse_temperature * advantage), at most ``MAX_WEIGHT``."""
    return (inverse_temperature * advantage).exp().clamp(max=MAX_WEIGHT)


def target_of(critic: Critic) -> Critic:
    """A copy that does not train; ``move_average`` lets it follow."""
    return deepcopy(critic).requires_grad_(False)


def move_average(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * online, parameter by parameter."""
    for average, current in zip(target.parameters(), online.parameters(), strict=True):
        average.lerp_(current, rate)


class OfflineFamily(GoalPolicyFamily):
    """A family that learns from relabelled transitions."""

    schema = 2
    shares_batches = True

    def batches(self, setting: Setting[OfflineConfig]) -> Batches:
        return relabelled_batches(setting)


def relabelled_batches(setting: Setting[OfflineConfig]) -> Batches:
    """A function from a step index to the ``Transitions`` of that step."""
    config, dataset, size = setting.config, setting.dataset, setting.config.train.batch_size
    clips = dataset.clips("train", 2, config.frame_skip)
    rows = dataset.rows("train")
    blocks_left = (clips.last_rows - clips.starts) // config.frame_skip

    def batch(index: int) -> tuple[Tensor, ...]:
        rng = stream(setting.seed, "batch", index)
        chosen = rng.integers(len(clips), size=size)
        now, left = clips.starts[chosen], blocks_left[chosen]
        value_goals = sample_value_goals(rng, now, left, rows, config)
        policy_goals = later_rows(rng, now, clips.last_rows[chosen], config.max_goal_offset)
        rows_of_images = (now, now + config.frame_skip, value_goals, policy_goals)
        images = [dataset.frames[r[setting.own]] for r in rows_of_images]
        if rng.random() < config.crop:
            images = shifted(images, random_shifts(rng, size)[:, setting.own])
        frames, following, *goals = (torch.from_numpy(i).permute(0, 3, 1, 2).contiguous() for i in images)
        at_goal = torch.from_numpy(value_goals == now)[setting.own]
        actions = clips.action_blocks(chosen[setting.own])[:, 0]
        return Transitions(frames, following, actions, goals[0], at_goal, goals[1])

    return batch


def sample_value_goals(
    rng: np.random.Generator, now: np.ndarray, left: np.ndarray, rows: np.ndarray, config: OfflineConfig
) -> np.ndarray:
    """(B,) rows of goals for rows ``now`` that have ``left`` whole blocks until their episode ends.

    The row itself, or a geometric number of blocks later (at the end of the episode if it ends before), or any of
    ``rows``, with the shares of ``config``.
    """
    offset = np.minimum(rng.geometric(1 - config.block_discount, len(now)), left)
    anywhere = rng.choice(rows, len(now))
    kind = rng.random(len(now))
    own = np.where(kind < config.current_goals, now, now + config.frame_skip * offset)
    return np.where(kind < config.current_goals + config.future_goals, own, anywhere)


def random_shifts(rng: np.random.Generator, size: int) -> np.ndarray:
    """(2, B, 1) pixels, down and to the right, by which the images of B transitions are shifted."""
    return rng.integers(-CROP_PADDING, CROP_PADDING + 1, (2, size, 1))


def shifted(images: Sequence[np.ndarray], shifts: np.ndarray) -> list[np.ndarray]:
    """Each (B, h, w, 3) image shifted by ``shifts`` (2, B, 1), its border repeated.

    All images of one transition are shifted alike, so that where things are to each other stays true.
    """
    B, height, width = images[0].shape[:3]
    y = np.clip(np.arange(height) + shifts[0], 0, height - 1)[:, :, None]  # (B, h, 1)
    x = np.clip(np.arange(width) + shifts[1], 0, width - 1)[:, None]  # (B, 1, w)
    return [image[np.arange(B)[:, None, None], y, x] for image in images]
