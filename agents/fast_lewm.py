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
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.agents.parts.fast_imagination import PackedFastLeWM, consistent, reference
from lewm_bench.agents.parts.jepa import JEPAFamily, latent_diagnostics
from lewm_bench.agents.parts.nets import ActionEncoder
from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.core.errors import unknown
from lewm_bench.core.names import parse_agent
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import Imagine
from lewm_bench.train.loop import Step, TrainingLog

BOTTLENECK = 32  # of the action encoder
VARIANTS = {"consistent": {"self_consistency": 1.0}}


class FastLeWMConfig(LeWMConfig):
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


def mlp(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """LayerNorm, linear, GELU, linear, with dropout behind both linear layers."""
    return nn.Sequential(
        nn.LayerNorm(width),
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
        self.norm = nn.LayerNorm(W)
        self.qkv = nn.Linear(W, 3 * inner, bias=False)
        self.out = nn.Linear(inner, W)
        self.mlp = mlp(W, config.prefix_mlp_hidden)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, T, size)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


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


class FastLeWM(LeWM):
    """A ``WorldModel`` whose latents are (D,), which also predicts several blocks ahead at once."""

    config: FastLeWMConfig

    def __init__(self, config: FastLeWMConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.horizon = config.horizon
        del self.action_encoder  # the prefix encoder has one of its own
        self.prefix_encoder = PrefixEncoder(config, config.frame_skip * action_dim)
        self.predictor = PrefixPredictor(config)  # in place of LeWM's

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

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of all prefixes from the first frame, per dimension, plus lambda * SIGReg over all frames.

        Gradients flow into the targets.
        """
        z = self.encode(clip.frames)
        errors = (self.predict_prefixes(z[:, 0], self.normalize_actions(clip.actions)) - z[:, 1:]).square()
        u = directions(self.config.num_directions, self.config.latent, step.generator)
        regulariser = sigreg(z.transpose(0, 1), u, self.config.num_knots)
        parts = {"prediction": errors.mean(), "sigreg": regulariser}
        if step.log:
            parts |= {"prediction_last": errors[:, -1].mean()} | latent_diagnostics(z.detach())
        return parts["prediction"] + self.sigreg_weight(step.progress) * regulariser, parts


class FastLeWMFamily(JEPAFamily):
    """``fast-lewm``, and ``fast-lewm:consistent`` that also plans for agreement with itself."""

    Config = FastLeWMConfig
    model = FastLeWM
    name = "Fast-LeWM"
    summary = "LeWM that predicts all prefixes of a plan at once (Gao and Xu, 2026); variant fast-lewm:consistent"
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    decision_cost = 0.1
    planning_only = ("self_consistency",)

    def configure(self, overrides: dict, variant: str | None) -> FastLeWMConfig:
        if variant is not None:
            if variant not in VARIANTS:
                raise unknown("variant", variant, VARIANTS)
            overrides = {**overrides, **VARIANTS[variant]}
        return super().configure(overrides, None)

    def clip_frames(self, config: FastLeWMConfig) -> int:
        return config.horizon + 1

    def train(self, setting: Setting[FastLeWMConfig], folder: Path) -> TrainingLog:
        """The variants plan differently with the same weights: these are those of the plain name."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return super().train(replace(setting, agent=parse_agent(setting.agent).base, config=plain), folder)

    def differentiable(self, model: FastLeWM) -> Imagine:
        return reference(model)

    def imagine(self, model: FastLeWM, config: PlannerConfig) -> Imagine:
        if config.rollout == "reference":
            return reference(model)
        return consistent(PackedFastLeWM(model, config), model.config.self_consistency)

    def label(self, setting: Setting[FastLeWMConfig]) -> str:
        return super().label(setting) + (", self-consistent" if setting.config.self_consistency else "")


FAST_LEWM = FastLeWMFamily()
