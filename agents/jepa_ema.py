"""JEPA with a momentum target encoder: the heuristics that LeWM removes, on LeWM's networks, for comparison.

The prediction's target comes from an exponential moving average of encoder and projector, without gradient (BYOL, arXiv
2006.07733; I-JEPA, arXiv 2301.08243). Nothing else keeps the latents from collapse. Plans are made with the trained
encoder, as context and goal then are of one kind; what it predicts is the average's, which it ends close to.
"""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lewm_bench.agents.parts.jepa import JEPA, JEPAConfig, JEPAFamily, latent_diagnostics
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step


class JEPAEMAConfig(JEPAConfig):
    """How slowly the target follows: target <- momentum * target + (1 - momentum) * trained, after every step."""

    momentum: float = Field(0.996, ge=0, le=1, description="share of the target's weights that a training step keeps")
    final_momentum: float | None = Field(
        None, ge=0, le=1, description="momentum at the end, reached linearly (I-JEPA: 1); null: constant"
    )


class JEPAEMA(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by a momentum target without gradient."""

    config: JEPAEMAConfig

    def begin_training(self) -> None:
        """The target starts as a copy.

        Its BatchNorm uses the statistics of the batch, as BYOL's does: the running ones would be those of weights that
        it no longer has. Only weights are averaged.
        """
        target = nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})
        self.auxiliary["target"] = copy.deepcopy(target).requires_grad_(False)

    def momentum(self, progress: float) -> float:
        """At a share of the training."""
        start, end = self.config.momentum, self.config.final_momentum
        return start if end is None else start + progress * (end - start)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """One step of the moving average."""
        average, target = get_ema_multi_avg_fn(self.momentum(step.progress)), self.auxiliary["target"]
        for name in ("encoder", "projector"):
            average(list(target[name].parameters()), list(self.get_submodule(name).parameters()), 0)

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared prediction error per dimension, to targets without gradient; nothing else.

        Teacher forcing: frames 0..T-2, through the trained encoder, predict frames 1..T-1 through the target's.
        """
        z = self.encode(clip.frames[:, :-1])
        prediction = self.predict(z, self.normalize_actions(clip.actions))
        with torch.no_grad():
            target = self.embed(clip.frames[:, 1:], **self.auxiliary["target"])
        error = (prediction - target).square().mean()
        parts = {"prediction": error}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return error, parts


class JEPAEMAFamily(JEPAFamily):
    """``jepa-ema``."""

    Config = JEPAEMAConfig
    model = JEPAEMA
    shares_batches = True
    card = Card(
        name="JEPA-EMA",
        about="like LeWM, kept from collapsing by a slowly following copy of the encoder (a momentum target)",
        colour="#6B0F5C",
        marker="D",
        loss_terms=("prediction",),
        papers={"BYOL": "2006.07733", "I-JEPA": "2301.08243"},
        rank=40,
    )
    search_space = (Dimension("momentum", 0.9, 0.9999, one_minus=True),)


JEPA_EMA = JEPAEMAFamily()
