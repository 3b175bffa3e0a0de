"""Joint-embedding predictive world models: the networks of LeWM, which other objectives train as well.

encoder (small ViT) -> projector -> latent z;  predictor(z, actions) -> next z.
Two sizes share this page: the defaults are the LeWM paper's (18.03M parameters, names and shapes of the released
checkpoints), the profile ``quick`` makes everything small enough for minutes on a CPU.

Shapes: B clips, T frames, D latent size, W predictor width, A numbers of an action block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import AgentConfig, TrainedWorldModel
from lewm_bench.agents.parts.nets import CNN, ActionEncoder, ActionScale, Normalize, Projector, StemViT, ViT
from lewm_bench.core.types import Clip
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, plain_rollout
from lewm_bench.planning.fast.engine import NormedMLP
from lewm_bench.planning.fast.lewm import LeWMBlockParts, LeWMParts, PackedLeWM
from lewm_bench.train.diagnostics import effective_rank, straightness
from lewm_bench.train.loop import Step, TrainableModule
from lewm_bench.train.ranks import gathered


class JEPAConfig(AgentConfig):
    """Sizes; the defaults are the released LeWM's (paper, appendix D)."""

    encoder: Literal["vit-tiny", "stem-vit", "cnn"] = Field(
        "vit-tiny", description="ViT-Tiny, a small ViT behind a convolutional stem, or a convolutional network"
    )
    latent: int = Field(192, ge=1, description="size of a latent")
    projector_hidden: int = Field(2048, ge=1, description="width of the projectors")
    width: int = Field(192, ge=1, description="width of the predictor")
    depth: int = Field(6, ge=1, description="blocks of the predictor")
    heads: int = Field(16, ge=1, description="attention heads of the predictor")
    head_size: int = Field(64, ge=1, description="channels of a head")
    mlp_hidden: int = Field(2048, ge=1, description="width of the predictor's MLPs")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the predictor")


class PredictorBlock(nn.Module):
    """Causal attention and MLP, both modulated by the action embedding (AdaLN-zero): the identity at initialisation.

    The attention and the MLP open with an affine LayerNorm of their own behind the modulated one, as released.
    """

    def __init__(self, config: JEPAConfig, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        W, inner = config.width, config.heads * config.head_size
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1 = nn.LayerNorm(W, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(W, eps=1e-6, elementwise_affine=False)
        self.attn = nn.ModuleDict(
            {
                "norm": nn.LayerNorm(W),
                "to_qkv": nn.Linear(W, 3 * inner, bias=False),
                "to_out": nn.Sequential(nn.Linear(inner, W), nn.Dropout(config.dropout)),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "net": nn.Sequential(
                    nn.LayerNorm(W),
                    nn.Linear(W, config.mlp_hidden),
                    nn.GELU(),
                    nn.Dropout(config.dropout),
                    nn.Linear(config.mlp_hidden, W),
                    nn.Dropout(config.dropout),
                )
            }
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(W, 6 * W))
        nn.init.zeros_(self.adaLN_modulation[1].weight)
        nn.init.zeros_(self.adaLN_modulation[1].bias)

    def forward(self, x: Tensor, condition: Tensor, last_only: bool = False) -> Tensor:
        """(B, T, W) tokens and conditions to (B, T, W), or to (B, 1, W) where only the last token is wanted."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, -1)
        y = self.attn["norm"](self.norm1(x) * (1 + scale1) + shift1)
        if last_only:
            x, gate1, shift2, scale2, gate2 = (t[:, -1:] for t in (x, gate1, shift2, scale2, gate2))
        x = x + gate1 * self._attend(y, last_only)
        y = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp["net"](y)

    def _attend(self, y: Tensor, last_only: bool) -> Tensor:
        q, k, v = self.attn["to_qkv"](y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        if last_only:  # the last query sees everything, so no mask
            out = F.scaled_dot_product_attention(q[:, :, -1:], k, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=self.causal)
        return self.attn["to_out"](out.transpose(1, 2).flatten(2))

    def parts(self) -> LeWMBlockParts:
        """For planning."""
        attention, (mlp_norm, first, _, _, second, _) = self.attn, self.mlp["net"]
        return LeWMBlockParts(
            heads=self.heads,
            norm1=self.norm1,
            attention_norm=attention["norm"],
            qkv=attention["to_qkv"],
            out=attention["to_out"][0],
            norm2=self.norm2,
            mlp=NormedMLP(mlp_norm, first, second),
            modulation=self.adaLN_modulation[1],
        )


class Predictor(nn.Module):
    """Latents with the action blocks executed from them to the features of the next latents (paper, section 3.1)."""

    def __init__(self, config: JEPAConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.width))
        same = config.latent == config.width
        self.input_proj = nn.Identity() if same else nn.Linear(config.latent, config.width)
        self.transformer = nn.ModuleDict(
            {
                "layers": nn.ModuleList(PredictorBlock(config) for _ in range(config.depth)),
                "norm": nn.LayerNorm(config.width),
            }
        )

    def forward(self, latents: Tensor, actions: Tensor, last_only: bool = False) -> Tensor:
        """(B, T, D) latents and (B, T, W) action embeddings to (B, T, W); entry t speaks of frame t+1."""
        x = self.input_proj(latents) + self.pos_embedding[:, : latents.shape[1]]
        *inner, last = self.transformer["layers"]
        for block in inner:
            x = block(x, actions)
        return self.transformer["norm"](last(x, actions, last_only))

    def parts(self, action_encoder: ActionEncoder, projector: Projector) -> LeWMParts:
        """For planning, with what embeds its actions and what turns its features into latents."""
        return LeWMParts(
            positions=self.pos_embedding[0],
            input=self.input_proj,
            action_encoder=action_encoder.parts(),
            blocks=tuple(block.parts() for block in self.transformer["layers"]),
            norm=self.transformer["norm"],
            projector=projector.net,
        )


class JointEmbedding(TrainableModule, ABC):
    """Encoder and projector, for any predictor; a ``WorldModel`` whose latents are (D,).

    What its objective does, and how it predicts, is its subclasses'.
    """

    pred_proj: Projector  # of the predictor's features

    def __init__(self, config: JEPAConfig, image_size: int, action_dim: int) -> None:
        super().__init__()
        self.history, self.frame_skip = config.history, config.frame_skip
        self.config = config
        self.normalize = Normalize()
        self.action_scale = ActionScale(action_dim)
        makers = {"vit-tiny": ViT, "stem-vit": StemViT, "cnn": CNN}
        self.encoder = makers[config.encoder](image_size)
        self.projector = Projector(self.encoder.width, config.projector_hidden, config.latent)
        self.tokens_per_frame = 1

    @abstractmethod
    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The total over a batch of clips, and named scalars for the log."""

    @abstractmethod
    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, D) and z-scored blocks (B, T, A) to (B, T, D); entry t guesses the latent of frame t+1."""

    @abstractmethod
    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and z-scored blocks (N, T, A) to the latent after the last block, (N, D)."""

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, 3, h, w) uint8 to (B, T, D)."""
        return self.embed(frames, self.encoder, self.projector)

    def embed(self, frames: Tensor, encoder: nn.Module, projector: nn.Module) -> Tensor:
        """(B, T, 3, h, w) uint8 to (B, T, D) by networks that are shaped like the model's own."""
        features = encoder.features(self.normalize(frames.flatten(0, 1)))
        return projector(features.unflatten(0, frames.shape[:2]))

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.normalize(actions)

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.denormalize(actions)


class JEPA(JointEmbedding):
    """With LeWM's action encoder and predictor of the next latent; ``begin_training`` may fill ``auxiliary``."""

    def __init__(self, config: JEPAConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.action_encoder = ActionEncoder(config.frame_skip * action_dim, config.width)
        self.predictor = Predictor(config)
        self.pred_proj = Projector(config.width, config.projector_hidden, config.latent)
        self.auxiliary = nn.ModuleDict()

    def end_training(self) -> None:
        """What is saved and counted has the names and shapes of LeWM, whatever the objective."""
        self.auxiliary.clear()

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, D) and z-scored blocks (B, T, A) to (B, T, D); entry t guesses the latent of frame t+1."""
        return self.pred_proj(self.predictor(latents, self.action_encoder(actions)))

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and z-scored blocks (N, T, A) to the latent after the last block, (N, D)."""
        return self.pred_proj(self.predictor(latents, self.action_encoder(actions), last_only=True)[:, -1])

    def parts(self) -> LeWMParts:
        """For planning, which knows no model."""
        return self.predictor.parts(self.action_encoder, self.pred_proj)

    def teacher_forced(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Latents (B, T, D) of a clip, and what frames 0..T-2 predict of frames 1..T-1, (B, T-1, D)."""
        z = self.encode(clip.frames)
        return z, self.predict(z[:, :-1], self.normalize_actions(clip.actions))


def latent_diagnostics(z: Tensor) -> dict[str, Tensor]:
    """Scalars that show collapse and straightening, from (B, T, D) latents; of all ranks together."""
    z = gathered(z)
    flat = z.float().flatten(0, 1)
    return {
        "latent_std": flat.std(0).mean(),
        "effective_rank": effective_rank(flat),
        "straightness": straightness(z.float()),
    }


class JointEmbeddingFamily(TrainedWorldModel):
    """How an agent with such an encoder is built and called, for the runner."""

    Config = JEPAConfig
    model: ClassVar[type[JointEmbedding]]

    def build(self, config: JEPAConfig, image_size: int, action_dim: int) -> JointEmbedding:
        return self.model(config, image_size, action_dim)

    def label(self, model: JointEmbedding, config: JEPAConfig) -> str:
        kinds = {"vit-tiny": "", "stem-vit": " (small ViT with convolutional stem)", "cnn": " (CNN encoder)"}
        return self.card.name + kinds[config.encoder] + self.peculiarity(config)

    def peculiarity(self, config: JEPAConfig) -> str:
        """What the label says behind the encoder; nothing unless overridden."""
        return ""


class JEPAFamily(JointEmbeddingFamily):
    """How an agent with all of LeWM's networks plans; the objectives are its subclasses."""

    model: ClassVar[type[JEPA]]

    def rollout(self, model: JEPA, config: PlannerConfig) -> BeginRollout:
        if config.rollout == "reference":
            return plain_rollout(model)
        return PackedLeWM(model.parts(), config.arithmetic, config.compile)
