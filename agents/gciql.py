"""GCIQL: goal-conditioned implicit Q-learning from pixels (Kostrikov et al., 2021; OGBench, Park et al., 2024).

OGBench's default policy maximises Q beside cloning (DDPG+BC); here it is advantage-weighted regression, its other
choice: it is Kostrikov's original and GCIVL's, so that the two differ in the critic alone.
"""

from __future__ import annotations

import torch
from pydantic import Field
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


class GCIQLConfig(OfflineConfig):
    """OGBench weighs Q's advantages less."""

    inverse_temperature: float = Field(
        3.0, ge=0, description="of the advantages that weigh the policy's data; 0 is behavioural cloning"
    )


class GCIQL(ImplicitPolicy):
    """A policy, a value V(s, g), a critic Q(s, a, g) with two estimates, and the critic's moving average."""

    averaged = "critic"

    def __init__(self, config: GCIQLConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.value = Critic(config, image_size, estimates=1)
        self.critic = Critic(config, image_size, estimates=2, action_size=config.frame_skip * action_dim)
        self.target = target_of(self.critic)

    def critic_loss(self, batch: Transitions, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Expectile regression of V(s, g) to the lower target Q(s, a, g), and Q to -1 + discount * V(s', g)."""
        now = self.pair(batch.frames, batch.value_goals)
        with torch.no_grad():
            best = self.target(now, actions).amin(0)
            following = self.value(self.pair(batch.following, batch.value_goals))[0]
            targets = bellman_target(batch.at_goal, following, self.config.block_discount)
        error = best - self.value(now)[0]
        value_loss = expectile_loss(error, error >= 0, self.config.expectile).mean()
        estimates = self.critic(now, actions)
        critic_loss = (targets - estimates).square().mean(1).sum()
        parts = {"critic": critic_loss, "value_loss": value_loss, "value": (best - error).mean()}
        return value_loss + critic_loss, parts

    def advantage(self, pairs: Tensor, batch: Transitions, actions: Tensor) -> Tensor:
        """Q(s, a, g) - V(s, g), with the lower Q."""
        return self.critic(pairs, actions).amin(0) - self.value(pairs)[0]


class GCIQLFamily(OfflineFamily):
    """``gciql``."""

    Config = GCIQLConfig
    card = Card(
        name="GCIQL",
        about="learns values of actions for goals, then imitates the better ones; it does not plan",
        colour="#99DB7A",
        marker="h",
        papers={"Implicit Q-learning": "2110.06169", "OGBench": "2410.20092"},
        rank=20,
    )
    search_space = (Dimension("inverse_temperature", 0.3, 30), Dimension("train.learning_rate", 3e-5, 3e-3))
    label = "GCIQL (implicit Q-learning from pixels)"
    model = GCIQL


GCIQL_FAMILY = GCIQLFamily()
