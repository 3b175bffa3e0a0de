"""LeWorldModel (LeWM, arXiv 2603.19312): a joint-embedding world model trained end to end with two loss terms.

loss = prediction + weight * SIGReg; the networks are those of ``jepa``.
"""

from __future__ import annotations

from torch import Tensor

from lewm_bench.agents.parts.jepa import JEPA, JEPAFamily, latent_diagnostics
from lewm_bench.agents.parts.sigreg import SIGRegConfig, sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step


class LeWMConfig(SIGRegConfig):
    """The sizes of ``jepa`` and the weight and sketch of SIGReg."""


class LeWM(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by SIGReg."""

    config: LeWMConfig

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared prediction error per dimension plus lambda * SIGReg (paper, equation 3); nothing else.

        Teacher forcing: frames 0..T-2 predict frames 1..T-1. Gradients flow into the targets.
        """
        z, prediction = self.teacher_forced(clip)
        error = (prediction - z[:, 1:]).square().mean()
        regulariser = sigreg_of(z, self.config, step)
        parts = {"prediction": error, "sigreg": regulariser}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return error + self.config.weight_at(step.progress) * regulariser, parts


class LeWMFamily(JEPAFamily):
    """``lewm``."""

    Config = LeWMConfig
    model = LeWM
    shares_batches = True
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    card = Card(
        name="LeWM",
        about="turns each frame into one vector and learns encoder and predictor together, from pixels alone",
        colour="#0072B2",
        marker="o",
        loss_terms=("prediction", "sigreg"),
        papers={"LeWorldModel": "2603.19312"},
        rank=0,
    )


LEWM = LeWMFamily()
