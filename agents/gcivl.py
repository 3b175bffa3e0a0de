"""GCIVL: goal-conditioned implicit value learning from pixels (OGBench, Park et al., 2024), a critic of states alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_bench.agents.parts.implicit_policy import (
    Critic,
    ImplicitPolicy,
    OfflineConfig,
    OfflineFamily,
    Transitions,
    bellman_target,
    expectile_loss,
    target_of,
)
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension


class GCIVL(ImplicitPolicy):
    """A policy, a value V(s, g) with two estimates, and its moving average."""

    averaged = "value"

    def __init__(self, config: OfflineConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.value = Critic(config, image_size, estimates=2)
        self.target = target_of(self.value)

    def critic_loss(self, batch: Transitions, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Expectile regression of V(s, g) to -1 + discount * target V(s', g), or 0 at the goal.

        Each estimate has its own target, but what counts as better than expected is one decision of both: the lower
        target against the target network's own mean.
        """
        now = self.pair(batch.frames, batch.value_goals)
        with torch.no_grad():
            following = self.target(self.pair(batch.following, batch.value_goals))
            targets = bellman_target(batch.at_goal, following, self.config.block_discount)  # (2, B)
            better = targets.amin(0) >= self.target(now).mean(0)
        values = self.value(now)
        loss = expectile_loss(targets - values, better, self.config.expectile).mean(1).sum()
        return loss, {"critic": loss, "value": values.mean()}

    def advantage(self, pairs: Tensor, batch: Transitions, actions: Tensor) -> Tensor:
        """V(s', g) - V(s, g)."""
        following = self.pair(batch.following, batch.policy_goals)
        return self.value(following).mean(0) - self.value(pairs).mean(0)


class GCIVLFamily(OfflineFamily):
    """``gcivl``."""

    Config = OfflineConfig
    card = Card(
        name="GCIVL",
        about="learns the value of states for goals, then imitates actions that raise it; it does not plan",
        colour="#0A4A12",
        marker="X",
        papers={"OGBench": "2410.20092"},
        rank=10,
    )
    search_space = (Dimension("inverse_temperature", 1, 100), Dimension("train.learning_rate", 3e-5, 3e-3))
    label = "GCIVL (implicit value learning from pixels)"
    model = GCIVL


GCIVL_FAMILY = GCIVLFamily()
