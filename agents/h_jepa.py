"""H-JEPA (arXiv 2610.06805): a LeWM at the bottom, and above it JEPAs of the latents below, each at half the pace.

Every level has an encoder of its own, an MLP of one latent of the level below, its own predictor, and its own SIGReg. A
head for inverse dynamics, which the authors need where whole scenes differ more than what moves in them, is optional.
Levels, losses and planner are those of ``hierarchy`` and ``hierarchical_planning``.

Shapes: B clips, T states, D latent size, A numbers of an action block, M of a macro action.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agents.parts.hierarchical_planning import HierarchicalFamily
from lewm_bench.agents.parts.hierarchy import HierarchicalJEPA, HierarchyConfig, Terms
from lewm_bench.agents.parts.sigreg import sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.train.loop import Step


class HJEPAConfig(HierarchyConfig):
    """Levels, their encoders, and inverse dynamics."""

    latent_hidden: int = Field(384, ge=1, description="width of the MLPs that encode the latents of the level below")
    inverse_dynamics_weight: float = Field(
        0.0, ge=0, description="weight of the error of each level's actions predicted from two latents; 0: no heads"
    )
    inverse_dynamics_hidden: int = Field(
        256, ge=1, description="width of those heads, which planning does not need: neither saved nor counted"
    )

    def unread(self) -> Collection[str]:
        heads = () if self.inverse_dynamics_weight > 0 else ("inverse_dynamics_hidden",)
        return (*super().unread(), *heads)


class LatentEncoder(nn.Module):
    """Latents of the level below (..., D) to those of this one (..., D), one by one."""

    def __init__(self, config: HJEPAConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(config.latent),
            nn.Linear(config.latent, config.latent_hidden),
            nn.GELU(),
            nn.Linear(config.latent_hidden, config.latent),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.net(latents)


class InverseDynamics(nn.Module):
    """Consecutive latents (B, T+1, D) to the actions between them (B, T, A)."""

    def __init__(self, latent: int, hidden: int, outputs: int) -> None:
        super().__init__()
        layers = nn.Linear(2 * latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        self.net = nn.Sequential(*layers, nn.Linear(hidden, outputs))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(torch.cat([z[:, :-1], z[:, 1:]], -1))


class HJEPA(HierarchicalJEPA):
    """Levels that are kept from collapse by SIGReg, each in a space of its own."""

    config: HJEPAConfig

    def level_encoder(self) -> LatentEncoder:
        return LatentEncoder(self.config)

    def begin_training(self) -> None:
        config = self.config
        if config.inverse_dynamics_weight > 0:
            sizes = config.frame_skip * len(self.action_scale.mean), *[config.macro_size] * (config.levels - 1)
            for level, size in enumerate(sizes, 1):
                head = InverseDynamics(config.latent, config.inverse_dynamics_hidden, size)
                self.auxiliary[f"inverse_dynamics_{level}"] = head

    def terms(self, level: int, z: Tensor, actions: Tensor, step: Step) -> Terms:
        """SIGReg, and inverse dynamics if it has a weight; the actions that it predicts are given."""
        found = {"sigreg": (self.config.weight_at(step.progress), sigreg_of(z, self.config, step))}
        if (name := f"inverse_dynamics_{level}") in self.auxiliary:
            error = (self.auxiliary[name](z) - actions.detach()).square().mean()
            found["inverse_dynamics"] = (self.config.inverse_dynamics_weight, error)
        return found


class HJEPAFamily(HierarchicalFamily):
    """``h-jepa``, and ``h-jepa:3`` with three levels."""

    Config = HJEPAConfig
    model = HJEPA
    card = Card(
        name="H-JEPA",
        about="a LeWM under further ones of its own vectors at half the pace, which set it subgoals on the way to the goal",
        colour="#8A608A",
        marker="X",
        loss_terms=("prediction", "sigreg", "prediction_2", "sigreg_2"),
        papers={"H-JEPA": "2610.06805"},
        variants={"3": "H-JEPA (3 levels)"},
        rank=15,
    )


H_JEPA = HJEPAFamily()
