"""PLDM (Sobal et al., 2025, arXiv 2502.14819) on LeWM's networks: seven loss terms, six weights.

loss = prediction + variance and covariance over the batch (VICReg, arXiv 2105.04906) + similarity, variance and
covariance over time + inverse dynamics. The default weights are those of the LeWM paper's PLDM (appendix).

Shapes: B clips, T frames, D latent size, A numbers of an action block, N samples of a statistic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agents.parts.jepa import JEPA, JEPAConfig, JEPAFamily, latent_diagnostics
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import gathered

EPSILON = 1e-4
"""Added to a variance before its root, whose gradient would be infinite for latents that are all equal (VICReg)."""


class PLDMConfig(JEPAConfig):
    """Weights beside the prediction's 1, and the size of the head for inverse dynamics."""

    variance_weight: float = Field(
        18, ge=0, description="weight of standard deviations below 1 over the batch; the prediction's is 1"
    )
    covariance_weight: float = Field(12, ge=0, description="weight of squared covariances over the batch")
    time_similarity_weight: float = Field(0.2, ge=0, description="weight of squared differences of consecutive latents")
    time_variance_weight: float = Field(
        0.7, ge=0, description="weight of standard deviations below 1 over the frames of a clip"
    )
    time_covariance_weight: float = Field(
        0.0, ge=0, description="weight of squared covariances over the frames of a clip"
    )
    inverse_dynamics_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the error of action blocks predicted from two latents; 0: there is no head",
    )
    inverse_dynamics_hidden: int = Field(
        512, ge=1, description="width of that head, which planning does not need: neither saved nor counted"
    )

    @property
    def weights(self) -> dict[str, float]:
        """Term to weight."""
        return {
            "variance": self.variance_weight,
            "covariance": self.covariance_weight,
            "time_similarity": self.time_similarity_weight,
            "time_variance": self.time_variance_weight,
            "time_covariance": self.time_covariance_weight,
            "inverse_dynamics": self.inverse_dynamics_weight,
        }


def variance(samples: Tensor) -> Tensor:
    """Mean of max(0, 1 - std) over all dimensions of (..., N, D) samples; 0.99 where they are equal, by ``EPSILON``."""
    return F.relu(1 - (samples.var(-2) + EPSILON).sqrt()).mean()


def covariance(samples: Tensor) -> Tensor:
    """Mean square of the covariances of two different dimensions of (..., N, D) samples.

    As PLDM's code divides, by D (D - 1): VICReg's value over D - 1, so that a weight suits every latent size.
    """
    N, D = samples.shape[-2:]
    centred = samples - samples.mean(-2, keepdim=True)
    squares = (centred.mT @ centred / (N - 1)).square()  # (..., D, D)
    off_diagonal = squares.sum((-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (off_diagonal / max(1, D * (D - 1))).mean()


def regularisers(z: Tensor) -> dict[str, Tensor]:
    """The five terms that latents (B, T, D) have by themselves.

    Over the batch each time step is a sample of its own, over time each clip is; then the mean of all of them. Every
    frame is in every term, as in stable-worldmodel; PLDM's own code takes the first frame alone over the batch and the
    others alone over time.
    """
    steps = z.transpose(0, 1)  # (T, B, D)
    return {
        "variance": variance(steps),
        "covariance": covariance(steps),
        "time_similarity": z.diff(dim=1).square().mean(),
        "time_variance": variance(z),
        "time_covariance": covariance(z),
    }


class InverseDynamics(nn.Module):
    """Consecutive latents (B, T, D) to the z-scored action blocks between them (B, T-1, A)."""

    def __init__(self, latent: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2 * latent, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(torch.cat([z[:, :-1], z[:, 1:]], -1))


class PLDM(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by variance and covariance terms."""

    config: PLDMConfig

    def begin_training(self) -> None:
        if self.config.inverse_dynamics_weight > 0:
            block = self.frame_skip * len(self.action_scale.mean)
            head = InverseDynamics(self.config.latent, self.config.inverse_dynamics_hidden, block)
            self.auxiliary["inverse_dynamics"] = head

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared prediction error per dimension plus the weighted terms; gradients flow into the targets.

        Terms without a weight are logged too; inverse dynamics, which has no head then, as 0.
        """
        z, prediction = self.teacher_forced(clip)
        error = (prediction - z[:, 1:]).square().mean()
        with torch.autocast(z.device.type, enabled=False):  # squares of covariances want more than bfloat16
            terms = regularisers(gathered(z.float()))
        terms["inverse_dynamics"] = self._inverse_dynamics(z, clip.actions)
        total = error + sum(weight * terms[name] for name, weight in self.config.weights.items())
        parts = {"prediction": error, **terms}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return total, parts

    def _inverse_dynamics(self, z: Tensor, actions: Tensor) -> Tensor:
        if "inverse_dynamics" not in self.auxiliary:
            return z.new_zeros(())
        return (self.auxiliary["inverse_dynamics"](z) - self.normalize_actions(actions)).square().mean()


class PLDMFamily(JEPAFamily):
    """``pldm``."""

    Config = PLDMConfig
    model = PLDM
    shares_batches = True
    card = Card(
        name="PLDM",
        about="like LeWM one vector per frame, kept from collapsing by variance and covariance terms",
        colour="#C584BC",
        marker="^",
        loss_terms=(
            "prediction", "variance", "covariance", "time_similarity", "time_variance", "time_covariance",
            "inverse_dynamics",
        ),
        papers={"PLDM": "2502.14819"},
        rank=30,
    )  # fmt: skip
    search_space = (  # ten times less to ten times more than published; two are published as 0
        Dimension("variance_weight", 1.8, 180),
        Dimension("covariance_weight", 1.2, 120),
        Dimension("time_similarity_weight", 0.02, 2),
        Dimension("time_variance_weight", 0.07, 7),
        Dimension("time_covariance_weight", 0.01, 10),
        Dimension("inverse_dynamics_weight", 0.01, 10),
    )

    def label(self, model: PLDM, config: PLDMConfig) -> str:
        return super().label(model, config).replace("PLDM", "PLDM on LeWM's networks", 1)


PLDM_FAMILY = PLDMFamily()
