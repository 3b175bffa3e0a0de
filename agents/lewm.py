"""LeWorldModel (LeWM, arXiv 2603.19312): a joint-embedding world model trained end to end with two loss terms.

loss = prediction + weight * SIGReg; the networks are those of ``jepa``.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field
from torch import Tensor

from lewm_bench.agents.parts.jepa import JEPA, JEPAConfig, JEPAFamily, latent_diagnostics
from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step


class LeWMConfig(JEPAConfig):
    """The one tunable weight and the sketch of SIGReg (paper, section 3.2 and appendix D)."""

    sigreg_weight: float = Field(0.1, ge=0, description="weight of SIGReg, the one number to tune")
    sigreg_initial_weight: float | None = Field(
        None, gt=0, description="weight at the start, decayed geometrically to sigreg_weight; null: constant"
    )
    sigreg_decay: float = Field(0.4, gt=0, le=1, description="share of the training that the decay takes")
    num_directions: int = Field(1024, ge=1, description="random projections of SIGReg")
    num_knots: int = Field(17, ge=2, description="quadrature points of SIGReg on [0, 3]")

    def unread(self) -> Collection[str]:
        return () if self.sigreg_initial_weight is not None else ("sigreg_decay",)


class LeWM(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by SIGReg."""

    config: LeWMConfig

    def sigreg_weight(self, progress: float) -> float:
        """lambda at a share of the training; constant unless an initial weight is given."""
        start, end = self.config.sigreg_initial_weight, self.config.sigreg_weight
        if start is None or progress >= self.config.sigreg_decay:
            return end
        return start * (end / start) ** (progress / self.config.sigreg_decay)

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared prediction error per dimension plus lambda * SIGReg (paper, equation 3); nothing else.

        Teacher forcing: frames 0..T-2 predict frames 1..T-1. Gradients flow into the targets.
        """
        z, prediction = self.teacher_forced(clip)
        error = (prediction - z[:, 1:]).square().mean()
        u = directions(self.config.num_directions, self.config.latent, step.generator)
        regulariser = sigreg(z.transpose(0, 1), u, self.config.num_knots)
        parts = {"prediction": error, "sigreg": regulariser}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return error + self.sigreg_weight(step.progress) * regulariser, parts


class LeWMFamily(JEPAFamily):
    """``lewm``."""

    Config = LeWMConfig
    model = LeWM
    name = "LeWM"
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    summary = "end-to-end latent world model with SIGReg, plans with CEM (Maes et al., 2026)"


LEWM = LeWMFamily()
