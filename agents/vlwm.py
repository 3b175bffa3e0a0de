"""VLWM (Variable-length Latent World Model, arXiv 2606.21775): the latent after k blocks in one step, for any k.

One causal transformer reads context and plan as a sequence of tokens, latents and blocks in turns and then blocks alone;
behind each block of the plan it says which latent follows. A training step draws how many blocks it predicts over, up to
a length that grows while it learns: beginning with long ones is unstable. Encoder, projectors and SIGReg are LeWM's.

Shapes: B clips, T frames, N situations, S candidates, c frames of context, H blocks of a plan, A numbers of a block, D
latent size, W width, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.parts.jepa import JointEmbedding, JointEmbeddingFamily, latent_diagnostics
from lewm_bench.agents.parts.nets import ActionEncoder, Projector
from lewm_bench.agents.parts.sigreg import SIGRegConfig, sigreg_of
from lewm_bench.core.card import Card
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.types import Clip
from lewm_bench.planning.agent import default_rollout
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, Rollout, Score
from lewm_bench.train.loop import Step

CANDIDATES = 2**11  # that are rolled out at a time; the score of one depends on no other


class VLWMConfig(SIGRegConfig):
    """LeWM's sizes, and how far one prediction goes."""

    horizon: int = Field(5, ge=1, description="blocks of the longest prediction, in training and planning")
    planning_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks predicted at once while planning, at most horizon; 1: step by step; null: horizon",
    )

    def longest(self, progress: float) -> int:
        """Blocks of the longest prediction that is trained at a share of the training; grows to the end of it."""
        return max(1, min(self.horizon, math.ceil(self.horizon * progress)))


class CausalBlock(nn.Module):
    """Pre-norm transformer block with causal attention, (N, L, W) to (N, L, W)."""

    def __init__(self, config: VLWMConfig) -> None:
        super().__init__()
        W, inner = config.width, config.heads * config.head_size
        self.heads, self.dropout = config.heads, config.dropout
        self.norm, self.qkv = nn.LayerNorm(W), nn.Linear(W, 3 * inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, W), nn.Dropout(config.dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(W),
            nn.Linear(W, config.mlp_hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden, W),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (N, heads, L, size)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class VariableLengthPredictor(nn.Module):
    """Latents and blocks to the features of the latents after each block of the plan."""

    def __init__(self, config: VLWMConfig, block: int) -> None:
        super().__init__()
        self.past = 2 * (config.history - 1)  # tokens before the newest latent
        self.positions = nn.Parameter(0.02 * torch.randn(self.past + 1 + config.horizon, config.width))
        self.state = nn.Linear(config.latent, config.width)
        self.action_encoder = ActionEncoder(block, config.width)
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, c, D) latents and (N, c - 1 + H, A) z-scored blocks to (N, H, W); entry k - 1 knows the first k of H."""
        c = latents.shape[1]
        states, blocks = self.state(latents), self.action_encoder(actions)
        turns = torch.stack([states[:, :-1], blocks[:, : c - 1]], 2).flatten(1, 2)  # (N, 2 (c - 1), W)
        x = torch.cat([turns, states[:, -1:], blocks[:, c - 1 :]], 1)
        x = x + self.positions[self.past - 2 * (c - 1) :][: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 2 * c - 1 :])


class VLWM(JointEmbedding):
    """A ``WorldModel`` whose latents are (D,), which predicts over any number of blocks up to its horizon."""

    config: VLWMConfig

    def __init__(self, config: VLWMConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.predictor = VariableLengthPredictor(config, config.frame_skip * action_dim)
        self.pred_proj = Projector(config.width, config.projector_hidden, config.latent)

    def predict_ahead(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, c, D) and z-scored blocks (N, c - 1 + H, A), H <= horizon, to the latents after 1 to H of them, (N, H, D)."""
        return self.pred_proj(self.predictor(latents, actions))

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and z-scored blocks (N, T, A) to the latent after the last block, (N, D)."""
        return self.predict_ahead(latents[:, -self.history :], actions[:, -self.history :])[:, 0]

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, D) and z-scored blocks (B, T, A) to (B, T, D), one block ahead of every frame."""
        ends = range(1, latents.shape[1] + 1)
        return torch.stack([self.predict_next(latents[:, :t], actions[:, :t]) for t in ends], 1)

    def imagine(self, latents: Tensor, actions: Tensor, plans: Tensor) -> Tensor:
        """(N, T, D) latents, blocks between them (N, T - 1, A) and plans (N, H, A) to what follows each block, (N, H, D).

        In pieces of ``planning_blocks``: the next one starts from the last latents that were predicted.
        """
        found = []
        for piece in plans.split(min(self.config.planning_blocks or self.config.horizon, self.config.horizon), 1):
            latents = latents[:, -self.history :]
            done = actions[:, actions.shape[1] - (latents.shape[1] - 1) :]
            actions = torch.cat([done, piece], 1)
            found.append(self.predict_ahead(latents, actions))
            latents = torch.cat([latents, found[-1]], 1)
        return torch.cat(found, 1)

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error per dimension of the latent k blocks ahead, whose target has no gradient, plus SIGReg.

        k and the frames of context are the step's own draws: an agent plans from few frames where an episode begins.
        """
        z = self.encode(clip.frames)
        regulariser = sigreg_of(z, self.config, step)
        context, k = drawn(step, self.history), drawn(step, self.config.longest(step.progress))
        seen = slice(self.history - context, self.history)
        actions = self.normalize_actions(clip.actions)[:, seen.start : self.history - 1 + k]
        ahead = self.pred_proj(self.predictor(z[:, seen], actions)[:, -1:])[:, 0]
        error = (ahead - z[:, self.history - 1 + k].detach()).square().mean()
        parts = {"prediction": error, "sigreg": regulariser}
        if step.log:
            parts |= latent_diagnostics(z.detach())
        return error + self.config.weight_at(step.progress) * regulariser, parts


def drawn(step: Step, most: int) -> int:
    """A whole number from 1 to ``most``, the same in all processes of a training."""
    return int(torch.randint(1, most + 1, (), generator=step.generator))


def in_leaps(model: VLWM) -> BeginRollout:
    """Rollouts by as few predictions as there can be, some candidates at a time."""

    def begin(latents: Tensor, past_actions: Tensor) -> Rollout:
        def rollouts(plans: Tensor, score: Score) -> Tensor:
            B = len(plans)
            size = max(1, CANDIDATES // B)

            def pieces() -> Iterator[Tensor]:
                for piece in plans.split(size, 1):
                    context, past = (x.repeat_interleave(piece.shape[1], 0) for x in (latents, past_actions))
                    imagined = model.imagine(context, past, piece.flatten(0, 1))
                    yield score(imagined.unflatten(0, (B, piece.shape[1])), slice(0, B))

            return torch.cat(list(pieces()), 1)

        return rollouts

    return begin


class VLWMFamily(JointEmbeddingFamily):
    """``vlwm``."""

    Config = VLWMConfig
    model = VLWM
    shares_batches = True
    planning_only = ("planning_blocks",)
    search_space = (Dimension("sigreg_weight", 0.001, 0.3),)
    card = Card(
        name="VLWM",
        about="predicts over any number of blocks in one step, actions and states being the tokens of one sequence",
        colour="#2A002A",
        marker="h",
        loss_terms=("prediction", "sigreg"),
        papers={"Variable-length Latent World Models": "2606.21775"},
        rank=13,
    )

    def clip_frames(self, config: VLWMConfig) -> int:
        return config.history + config.horizon

    def trained_as(self, setting: Setting[VLWMConfig]) -> Setting[VLWMConfig]:
        """Weights are those of every way to plan with them."""
        fields = self.Config.model_fields
        plain = setting.config.model_copy(update={name: fields[name].default for name in self.planning_only})
        return replace(setting, config=plain)

    def differentiable(self, model: VLWM) -> BeginRollout:
        return in_leaps(model)

    def rollout(self, model: VLWM, config: PlannerConfig) -> BeginRollout:
        default_rollout(model, config)  # which refuses what only a faster way has
        return in_leaps(model)

    def peculiarity(self, config: VLWMConfig) -> str:
        leap = config.planning_blocks
        return "" if leap is None or leap >= config.horizon else f", planning {leap} at a time"


VLWM_FAMILY = VLWMFamily()
