"""Fast-LeWM (Fast LeWorldModel, arXiv 2606.26217): the futures of all prefixes of a plan, each in one step from now.

LeWM applies a one-step model H times. Here a small causal transformer reads the H blocks of a plan behind a token of
the current latent; its output k summarises the first k blocks, and a predictor maps (latent, summary k) to the latent
after them, for all k at once. Encoder, projectors and SIGReg are LeWM's.

Defaults are the sizes of the released weights (17,913,184 parameters with blocks of ten numbers).
Shapes: N situations, H blocks of a plan, A numbers of a block, D latent size, W width, B clips, T frames.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.jepa import JointEmbedding, JointEmbeddingFamily, Predictor, latent_diagnostics
from lewm_bench.agents.parts.nets import ActionEncoder, Projector
from lewm_bench.agents.parts.sigreg import SIGRegConfig, sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.core.errors import unknown
from lewm_bench.core.names import parse_agent
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout
from lewm_bench.planning.fast.engine import NormedMLP
from lewm_bench.planning.fast.fast_lewm import (
    FastLeWMParts,
    PackedFastLeWM,
    PointwiseBlockParts,
    PrefixBlockParts,
    consistent,
    reference,
)
from lewm_bench.train.loop import Step

BOTTLENECK = 32  # of the action encoder
VARIANTS = {"consistent": {"self_consistency": 1.0}}


class FastLeWMConfig(SIGRegConfig):
    """LeWM's sizes, of which ``heads`` and ``head_size`` give the width of the value projection; and the prefixes."""

    history: int = Field(1, ge=1, le=1, description="frames of context: it sees one")
    horizon: int = Field(
        5,
        ge=1,
        description="blocks of the longest prefix; training clips have one more frame, longer plans are chained",
    )
    prefix_depth: int = Field(3, ge=1, description="blocks of the prefix encoder")
    prefix_heads: int = Field(6, ge=1, description="attention heads of the prefix encoder")
    prefix_head_size: int = Field(32, ge=1, description="channels of a head of the prefix encoder")
    prefix_mlp_hidden: int = Field(768, ge=1, description="width of the prefix encoder's MLPs")
    prefix_epsilon: float = Field(
        1e-5, gt=0, description="added to variances in the blocks of the prefix encoder; about 1e-11 as released"
    )
    fusion_hidden: int = Field(768, ge=1, description="width of the MLP that joins latent and prefix")
    self_consistency: float = Field(
        0.0,
        ge=0,
        description="weight in planning of the disagreement with a prediction through the latent after two blocks",
    )


def sinusoids(length: int, width: int) -> Tensor:
    """Position codes (length, width): sine and cosine in turns, wavelengths from 2 pi to 20,000 pi."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies  # (length, ceil(width / 2))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def mlp(width: int, hidden: int, dropout: float = 0.0, epsilon: float = 1e-5) -> nn.Sequential:
    """LayerNorm, linear, GELU, linear, with dropout behind both linear layers; ``epsilon`` is the norm's."""
    return nn.Sequential(
        nn.LayerNorm(width, eps=epsilon),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )


class PrefixBlock(nn.Module):
    """Pre-norm transformer block with causal attention, (N, T, W) to (N, T, W)."""

    def __init__(self, config: FastLeWMConfig) -> None:
        super().__init__()
        W, inner = config.width, config.prefix_heads * config.prefix_head_size
        self.heads = config.prefix_heads
        self.norm = nn.LayerNorm(W, eps=config.prefix_epsilon)
        self.qkv = nn.Linear(W, 3 * inner, bias=False)
        self.out = nn.Linear(inner, W)
        self.mlp = mlp(W, config.prefix_mlp_hidden, epsilon=config.prefix_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, T, size)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)

    def parts(self) -> PrefixBlockParts:
        """For planning."""
        mlp = NormedMLP(self.mlp[0], self.mlp[1], self.mlp[4])
        return PrefixBlockParts(heads=self.heads, norm=self.norm, qkv=self.qkv, out=self.out, mlp=mlp)


class PrefixEncoder(nn.Module):
    """A latent and the blocks executed from it to a summary of each prefix of the blocks."""

    def __init__(self, config: FastLeWMConfig, block: int) -> None:
        super().__init__()
        W = config.width
        self.action_encoder = ActionEncoder(block, W, BOTTLENECK)
        self.state = nn.Sequential(nn.Linear(config.latent, 4 * W), nn.GELU(), nn.Linear(4 * W, W))
        self.register_buffer("positions", sinusoids(1 + config.horizon, W), persistent=False)
        self.blocks = nn.ModuleList(PrefixBlock(config) for _ in range(config.prefix_depth))
        self.norm, self.out_norm = nn.LayerNorm(W), nn.LayerNorm(W)

    def forward(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(N, D) latents and (N, H, A) z-scored blocks to (N, H, W); entry k-1 knows the first k blocks."""
        x = torch.cat([self.state(latent)[:, None], self.action_encoder(actions)], 1)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.out_norm(self.norm(x[:, 1:]))


class PointwiseBlock(nn.Module):
    """LeWM's predictor block for a token that sees only itself, whose attention is then its value projection."""

    def __init__(self, config: FastLeWMConfig) -> None:
        super().__init__()
        W, inner = config.width, config.heads * config.head_size
        self.norm1 = nn.LayerNorm(W, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(W, eps=1e-6, elementwise_affine=False)
        self.value = nn.Sequential(
            nn.LayerNorm(W), nn.Linear(W, inner, bias=False), nn.Linear(inner, W), nn.Dropout(config.dropout)
        )
        self.mlp = mlp(W, config.mlp_hidden, config.dropout)
        self.modulation = nn.Linear(W, 6 * W)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, prefix: Tensor) -> Tensor:
        """(..., W) states and prefixes to (..., W)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(prefix)).chunk(6, -1)
        x = x + gate1 * self.value(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def parts(self) -> PointwiseBlockParts:
        """For planning."""
        return PointwiseBlockParts(
            norm1=self.norm1,
            value=(self.value[0], self.value[1], self.value[2]),
            norm2=self.norm2,
            mlp=NormedMLP(self.mlp[0], self.mlp[1], self.mlp[4]),
            modulation=self.modulation,
        )


class PrefixPredictor(nn.Module):
    """A latent and summaries of prefixes to the features of the latents after them, every prefix for itself."""

    def __init__(self, config: FastLeWMConfig) -> None:
        super().__init__()
        W = config.width
        same = config.latent == W
        self.input_proj = nn.Identity() if same else nn.Linear(config.latent, W)
        self.fusion = nn.Sequential(
            nn.LayerNorm(3 * W), nn.Linear(3 * W, config.fusion_hidden), nn.GELU(), nn.Linear(config.fusion_hidden, W)
        )
        nn.init.zeros_(self.fusion[-1].weight)
        nn.init.zeros_(self.fusion[-1].bias)
        self.blocks = nn.ModuleList(PointwiseBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(W)

    def forward(self, latent: Tensor, prefixes: Tensor) -> Tensor:
        """(N, D) and (N, H, W) to (N, H, W)."""
        x = self.input_proj(latent)[:, None].expand_as(prefixes)
        x = x + self.fusion(torch.cat([x, prefixes, x * prefixes], -1))
        for block in self.blocks:
            x = block(x, prefixes)
        return self.norm(x)


class FastLeWM(JointEmbedding):
    """A ``WorldModel`` whose latents are (D,), which also predicts several blocks ahead at once."""

    config: FastLeWMConfig

    def __init__(self, config: FastLeWMConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.horizon, self.self_consistency = config.horizon, config.self_consistency
        block = config.frame_skip * action_dim
        # LeWM's networks are drawn and dropped, and modules stand in the order of before they were: so the weights and
        # the sums of gradients of a seed stay what they are in published results.
        ActionEncoder(block, config.width)
        Predictor(config)
        pred_proj = Projector(config.width, config.projector_hidden, config.latent)
        prefix_encoder = PrefixEncoder(config, block)
        self.predictor, self.pred_proj, self.prefix_encoder = PrefixPredictor(config), pred_proj, prefix_encoder

    def predict_prefixes(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(N, D) and z-scored blocks (N, H, A), H <= horizon, to the latents after 1 to H of them, (N, H, D)."""
        return self.pred_proj(self.predictor(latent, self.prefix_encoder(latent, actions)))

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, D) and z-scored blocks (B, T, A) to (B, T, D), one block ahead of every frame."""
        found = self.predict_prefixes(latents.flatten(0, 1), actions.flatten(0, 1)[:, None])
        return found[:, 0].unflatten(0, latents.shape[:2])

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and z-scored blocks (N, T, A) to (N, D), from the newest frame alone."""
        return self.predict_prefixes(latents[:, -1], actions[:, -1:])[:, 0]

    def parts(self) -> FastLeWMParts:
        """For planning, which knows no model."""
        encoder, predictor = self.prefix_encoder, self.predictor
        norm, first, _, second = predictor.fusion
        return FastLeWMParts(
            positions=encoder.positions,
            action_encoder=encoder.action_encoder.parts(),
            state=(encoder.state[0], encoder.state[2]),
            prefix_blocks=tuple(block.parts() for block in encoder.blocks),
            prefix_norms=(encoder.norm, encoder.out_norm),
            input=predictor.input_proj,
            fusion=NormedMLP(norm, first, second),
            blocks=tuple(block.parts() for block in predictor.blocks),
            norm=predictor.norm,
            projector=self.pred_proj.net,
            self_consistency=self.self_consistency,
        )

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of all prefixes from the first frame, per dimension, plus lambda * SIGReg over all frames.

        Gradients flow into the targets.
        """
        z = self.encode(clip.frames)
        errors = (self.predict_prefixes(z[:, 0], self.normalize_actions(clip.actions)) - z[:, 1:]).square()
        regulariser = sigreg_of(z, self.config, step)
        parts = {"prediction": errors.mean(), "sigreg": regulariser}
        if step.log:
            parts |= {"prediction_last": errors[:, -1].mean()} | latent_diagnostics(z.detach())
        return parts["prediction"] + self.config.weight_at(step.progress) * regulariser, parts


class FastLeWMFamily(JointEmbeddingFamily):
    """``fast-lewm``, and ``fast-lewm:consistent`` that also plans for agreement with itself."""

    Config = FastLeWMConfig
    model = FastLeWM
    shares_batches = True
    card = Card(
        name="Fast-LeWM",
        about="a LeWM that predicts all prefixes of a plan at once, which makes planning cheaper",
        colour="#4FBFF2",
        marker="v",
        loss_terms=("prediction", "sigreg"),
        papers={"Fast LeWorldModel": "2606.26217"},
        variants={"consistent": "Fast-LeWM (consistent)"},
        rank=10,
    )
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    planning_only = ("self_consistency",)

    def configure(self, overrides: dict, variant: str | None) -> FastLeWMConfig:
        if variant is not None:
            if variant not in VARIANTS:
                raise unknown("variant", variant, VARIANTS)
            overrides = {**overrides, **VARIANTS[variant]}
        return super().configure(overrides, None)

    def clip_frames(self, config: FastLeWMConfig) -> int:
        return config.horizon + 1

    def trained_as(self, setting: Setting[FastLeWMConfig]) -> Setting[FastLeWMConfig]:
        """The variants plan differently with the same weights: these are those of the plain name."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return replace(setting, agent=parse_agent(setting.agent).base, config=plain)

    def differentiable(self, model: FastLeWM) -> BeginRollout:
        return reference(model)

    def rollout(self, model: FastLeWM, config: PlannerConfig) -> BeginRollout:
        if config.rollout == "reference":
            return reference(model)
        return consistent(PackedFastLeWM(model.parts(), config), model.self_consistency)

    def peculiarity(self, config: FastLeWMConfig) -> str:
        return ", self-consistent" if config.self_consistency else ""


FAST_LEWM = FastLeWMFamily()
