"""Delta-JEPA (arXiv 2606.31232): actions must be readable from the displacement of the latent; no SIGReg.

loss = prediction + weight * action error; the networks are those of ``jepa``. The decoder of actions is needed in
training only.

Shapes: B clips, T frames, D latent size, A numbers of an action block, N displacements.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agents.parts.jepa import JEPA, JEPAConfig, JEPAFamily, PredictorBlock, latent_diagnostics
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step


class DeltaJEPAConfig(JEPAConfig):
    """The weight of the action error, and the decoder's sizes; it is as wide as the latent and has no dropout."""

    action_weight: float = Field(
        10, ge=0, description="weight of the error of actions decoded from the displacement of latents"
    )
    decoder_depth: int = Field(3, ge=1, description="blocks of the decoder of actions, which is as wide as the latent")
    decoder_heads: int = Field(8, ge=1, description="attention heads of the decoder")
    decoder_head_size: int = Field(64, ge=1, description="channels of a head of the decoder")
    decoder_hidden: int = Field(512, ge=1, description="width of the decoder's MLPs")


class ActionDecoder(nn.Module):
    """Displacements (B, T, D) of consecutive latents to the z-scored action blocks that caused them (B, T, A).

    One learned query per primitive action; the queries see each other in both directions, and the displacement only
    modulates them (AdaLN-zero). No latent itself enters: a place that hints at the action is of no use.
    """

    def __init__(self, config: DeltaJEPAConfig, action_dim: int) -> None:
        super().__init__()
        sizes = {
            "width": config.latent,
            "heads": config.decoder_heads,
            "head_size": config.decoder_head_size,
            "mlp_hidden": config.decoder_hidden,
            "dropout": 0.0,
        }
        block = config.model_copy(update=sizes)
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.frame_skip, config.latent))
        self.blocks = nn.ModuleList(PredictorBlock(block, causal=False) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.latent)
        self.out = nn.Linear(config.latent, action_dim)

    def forward(self, displacement: Tensor) -> Tensor:
        condition = displacement.flatten(0, 1)[:, None]  # (N, 1, D)
        x = self.queries.expand(len(condition), -1, -1)
        for block in self.blocks:
            x = block(x, condition)
        return self.out(self.norm(x)).flatten(1).unflatten(0, displacement.shape[:2])


class DeltaJEPA(JEPA):
    """A ``WorldModel`` whose latents are (D,), kept from collapse by decoding actions from their displacement."""

    config: DeltaJEPAConfig

    def begin_training(self) -> None:
        self.auxiliary["decoder"] = ActionDecoder(self.config, len(self.action_scale.mean))

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared prediction error per dimension plus the weighted mean squared error of z-scored actions.

        Gradients flow into the targets. Without the second term constant latents are a solution.
        """
        z, prediction = self.teacher_forced(clip)
        error = (prediction - z[:, 1:]).square().mean()
        decoded = self.auxiliary["decoder"](z.diff(dim=1))
        action_error = (decoded - self.normalize_actions(clip.actions)).square().mean()
        parts = {"prediction": error, "action": action_error}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return error + self.config.action_weight * action_error, parts


class DeltaJEPAFamily(JEPAFamily):
    """``delta-jepa``."""

    Config = DeltaJEPAConfig
    model = DeltaJEPA
    shares_batches = True
    card = Card(
        name="Delta-JEPA",
        about="a LeWM kept from collapsing by decoding the action from how the vector moves",
        colour="#4B12B5",
        marker="p",
        loss_terms=("prediction", "action"),
        papers={"Delta-JEPA": "2606.31232"},
        rank=20,
    )
    search_space = (Dimension("action_weight", 0.1, 100),)


DELTA_JEPA = DeltaJEPAFamily()
