"""DINO-WM (Zhou et al., 2024): frozen patch tokens, a transformer that predicts all of them, planning in token space.

Same protocol and planner as LeWM; what differs is the latent, (P, C) patch tokens in place of one vector, and that the
encoder is not trained with the dynamics. The defaults are the published predictor, the profile ``quick`` a small one.

Shapes: B clips, T frames, P tokens of a frame, C channels of a token, W predictor width, A numbers of an action block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agent import (
    AgentConfig,
    Encoded,
    Family,
    LatentController,
    Loaded,
    PlanningAgent,
    Setting,
    TrainedWorldModel,
    arithmetic_note,
    ready_to_act,
    train_module,
)
from lewm_bench.agents.parts.encoders import (
    FRAMES,
    STATISTICS_FRAMES,
    Dinov2Encoder,
    LocalConfig,
    LocalEncoder,
    dinov2_folder,
    dinov2_identity,
    sample_frames,
)
from lewm_bench.agents.parts.nets import ActionScale
from lewm_bench.agents.parts.token_cache import (
    empty_encoder,
    encoding_seconds,
    frozen_encoder,
    pretraining_seconds,
    token_source,
)
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Past
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, Rollout, plain_rollout
from lewm_bench.planning.fast.dino_wm import DinoWMParts, PackedDinoWM, TokenBlockParts
from lewm_bench.train.loop import Step, TrainConfig, TrainingLog

ENCODERS = ("dinov2-small", "lowpass", "mae")
VARIANTS = (*ENCODERS, "proprio", "reencode")
CHUNK_NUMBERS = 2**26  # activations per layer while planning: candidates are split so that memory never fails


class DinoWMConfig(AgentConfig):
    """Encoder and predictor; the defaults are DINO-WM's."""

    encoder: Literal["dinov2-small", "lowpass", "mae"] = Field(
        "dinov2-small", description="DINOv2, or pretrained on the training frames (lowpass, mae)"
    )
    weights: str | None = Field(
        None, description="folder with DINOv2's config.json and model.safetensors; null: the cache of Hugging Face"
    )
    frames: Literal["dino-wm", "dino-wm-halves", "stable-worldmodel", "jepa-wms"] = Field(
        "dino-wm",
        description="how frames enter DINOv2: 196 px, and so with DINO-WM's own colours (halves); 224 px (the others)",
    )
    local: LocalConfig = Field(LocalConfig(), description="the encoders lowpass and mae")
    cache_tokens: Literal["auto", "disk", "never"] = Field(
        "auto",
        description="where tokens of training frames are; auto: on disk if at most 32 GiB, with 2 GiB left free",
    )
    proprio: bool = Field(
        False, description="also reads, predicts and compares the environment's proprioception, a part of the state"
    )
    proprio_size: int = Field(10, ge=1, description="channels of its embedding in every token")
    proprio_weight: float = Field(1.0, ge=0, description="weight of its distance in the cost of planning")
    conditioning: Literal["concat", "adaln"] = Field(
        "concat", description="how the action enters: as more channels (concat) or as modulation (adaln)"
    )
    action_size: int = Field(10, ge=1, description="channels of the concatenated action")
    width: int | None = Field(None, ge=1, description="width of the predictor; null: as wide as its input")
    depth: int = Field(6, ge=1, description="blocks of the predictor")
    heads: int = Field(16, ge=1, description="attention heads of the predictor")
    head_size: int = Field(64, ge=1, description="channels of a head")
    mlp_hidden: int = Field(2048, ge=1, description="width of the predictor's MLPs")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the predictor")
    reencode: bool = Field(
        False, description="plan as the authors' code: encode the start of every candidate again in every iteration"
    )
    train: TrainConfig = Field(TrainConfig(learning_rate=5e-4, batch_size=32), description="optimisation")

    def unread(self) -> Collection[str]:
        names = ["weights", "frames"] if self.encoder != "dinov2-small" else ["local"]
        names += [] if self.proprio else ["proprio_size", "proprio_weight"]
        return [*names, *(["action_size"] if self.conditioning == "adaln" else [])]


class TokenBlock(nn.Module):
    """Attention over the tokens of all frames up to one's own, then an MLP; modulated by the action if ``adaln``."""

    def __init__(self, config: DinoWMConfig, width: int) -> None:
        super().__init__()
        inner = config.heads * config.head_size
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(config.dropout))
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.mlp_hidden, width),
            nn.Dropout(config.dropout),
        )
        self.modulation = nn.Linear(width, 6 * width) if config.conditioning == "adaln" else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            # Gates start open: the output layer starts at zero already, and two zeros would not learn.
            gates = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
            self.modulation.bias.data.copy_(gates.repeat_interleave(width))

    def modulations(self, action: Tensor) -> Tensor | None:
        """(B, T, W) action embeddings to (B, T, 6*W) shifts, scales and gates; None for ``concat``."""
        return None if self.modulation is None else self.modulation(F.silu(action))

    def forward(self, x: Tensor, modulations: Tensor | None, mask: Tensor | None, last_only: bool = False) -> Tensor:
        """(B, T, P, W) to (B, T, P, W), or to (B, 1, P, W) where only the last frame is wanted."""
        shift1, scale1, gate1, shift2, scale2, gate2 = _per_frame(modulations)
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(y).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if last_only:
            q, mask = q[:, :, -x.shape[2] :], None  # the last frame sees everything
            x = x[:, -1:]
            _, _, gate1, shift2, scale2, gate2 = _per_frame(None if modulations is None else modulations[:, -1:])
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        x = x + gate1 * self.out(y.transpose(1, 2).flatten(2)).view_as(x)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def parts(self) -> TokenBlockParts:
        """For planning."""
        return TokenBlockParts(
            heads=self.heads,
            norm1=self.norm1,
            qkv=self.qkv,
            out=self.out[0],
            norm2=self.norm2,
            mlp=(self.mlp[0], self.mlp[3]),
            modulation=self.modulation,
        )


def _per_frame(modulations: Tensor | None) -> tuple[Tensor | float, ...]:
    """(B, T, 6*W) to six (B, T, 1, W) that broadcast over the tokens of a frame; neutral numbers for None."""
    return (0.0, 0.0, 1.0, 0.0, 0.0, 1.0) if modulations is None else modulations[:, :, None].chunk(6, -1)


class TokenPredictor(nn.Module):
    """(B, T, P, C) tokens and (B, T, A) action blocks to the next frame's tokens at every frame, (B, T, P, C)."""

    def __init__(self, config: DinoWMConfig, num_tokens: int, size: int, block: int) -> None:
        super().__init__()
        self.concat = config.conditioning == "concat"
        inputs = size + config.action_size if self.concat else size
        width = config.width or inputs
        self.num_tokens, self.size = num_tokens, size
        self.action = nn.Linear(block, config.action_size if self.concat else width)
        self.input = nn.Linear(inputs, width) if width != inputs else nn.Identity()
        self.positions = nn.Parameter(torch.randn(1, config.history * num_tokens, width) * 0.02)
        self.blocks = nn.ModuleList(TokenBlock(config, width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, size)
        if not self.concat:  # a residual that starts at zero: "nothing moves" is the first guess
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, actions: Tensor, last_only: bool = False) -> Tensor:
        T, P = tokens.shape[1:3]
        action = self.action(actions)
        x = torch.cat([tokens, action[:, :, None].expand(-1, -1, P, -1)], -1) if self.concat else tokens
        x = self.input(x) + self.positions[:, : T * P].unflatten(1, (T, P))
        mask = frame_causal_mask(T, P, x.device)
        *inner, final = self.blocks
        for block in inner:
            x = block(x, block.modulations(action), mask)
        x = final(x, final.modulations(action), mask, last_only)
        change = self.output(self.norm(x))
        if self.concat:
            return change
        return (tokens[:, -1:] if last_only else tokens) + change


def frame_causal_mask(T: int, P: int, device: torch.device) -> Tensor | None:
    """(T*P, T*P) bool: a token sees the tokens of its own and of earlier frames. None for one frame."""
    if T == 1:
        return None
    frame = torch.arange(T, device=device).repeat_interleave(P)
    return frame[:, None] >= frame


class Proprioception(nn.Module):
    """(..., k) proprioceptive vectors to embeddings (..., E): z-scores of the training split, then a linear map."""

    def __init__(self, numbers: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("std", torch.ones(numbers))
        self.embedding = nn.Linear(numbers, size)

    def fit(self, vectors: Tensor) -> None:
        """Take the statistics of (N, k) vectors; a number that never changes gets deviation 1."""
        std, mean = torch.std_mean(vectors.double(), 0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.embedding((vectors - self.mean) / self.std)


class DinoWM(nn.Module):
    """A frozen encoder and a trained predictor; a ``WorldModel`` whose latents are (P, C).

    With proprioception the last ``proprio_size`` of the C channels are its embedding, the same in all tokens of an
    observed frame, as in the authors' code. It is predicted like the rest.
    """

    def __init__(
        self, config: DinoWMConfig, encoder: LocalEncoder | Dinov2Encoder, action_dim: int, proprio_dim: int = 0
    ) -> None:
        """``proprio_dim``: how many numbers of proprioception there are; none for a model that sees frames only."""
        super().__init__()
        self.history, self.frame_skip = config.history, config.frame_skip
        self.action_scale = ActionScale(action_dim)
        # A pretrained encoder stays out of the checkpoint: its weights have a home and a licence of their own.
        self._outside = (encoder,) if isinstance(encoder, Dinov2Encoder) else ()
        self._inside = encoder if isinstance(encoder, LocalEncoder) else None
        if isinstance(encoder, Dinov2Encoder):
            self.register_buffer("encoder_identity", torch.tensor(list(encoder.identity), dtype=torch.uint8))
        self.proprio = Proprioception(proprio_dim, config.proprio_size) if proprio_dim else None
        felt = config.proprio_size if proprio_dim else 0
        size, weights = encoder.size + felt, ((1.0, encoder.size), (config.proprio_weight, felt))
        # With these factors a mean square over all channels is that over the visual ones plus, weighted, over the rest.
        factors = torch.tensor([(weight * size / n) ** 0.5 for weight, n in weights for _ in range(n)])
        self.register_buffer("cost_factors", factors, persistent=False)
        self.predictor = TokenPredictor(config, encoder.num_tokens, size, config.frame_skip * action_dim)
        self.tokens_per_frame = encoder.num_tokens
        self._mlp_hidden = config.mlp_hidden
        encoder.requires_grad_(False)

    @property
    def encoder(self) -> LocalEncoder | Dinov2Encoder:
        return self._outside[0] if self._inside is None else self._inside

    def encode(self, frames: Tensor, proprio: Tensor | None = None) -> Tensor:
        """(B, T, 3, h, w) uint8, and proprioceptive vectors (B, T, k) if it has any use for them, to (B, T, P, C)."""
        return self.join(self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), proprio)

    def join(self, tokens: Tensor, proprio: Tensor | None) -> Tensor:
        """The encoder's tokens (B, T, P, *) and proprioceptive vectors (B, T, k) to latents (B, T, P, C)."""
        if self.proprio is None:
            return tokens
        if proprio is None:
            raise ValueError("this DINO-WM reads proprioception beside the frames, and was given none")
        embedding = self.proprio(proprio)[:, :, None]
        return torch.cat([tokens, embedding.expand(-1, -1, tokens.shape[2], -1)], -1)

    def compared(self, latents: Tensor) -> Tensor:
        """Latents (..., P, C) scaled so that their mean squared difference is the cost of DINO-WM's planner.

        That is the visual distance plus ``proprio_weight`` times the proprioceptive one. The authors take the latter
        from the first token; all tokens predict it alike, and here their errors are averaged.
        """
        return latents if self.proprio is None else latents * self.cost_factors

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.normalize(actions)

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return self.action_scale.denormalize(actions)

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, P, C) and z-scored blocks (N, T, A) to (N, P, C)."""
        numbers = latents.shape[1] * self.tokens_per_frame * self._mlp_hidden
        size = max(1, CHUNK_NUMBERS // numbers)
        parts = zip(latents.split(size), actions.split(size), strict=True)
        return torch.cat([self.predictor(z, a, last_only=True)[:, 0] for z, a in parts])

    def parts(self) -> DinoWMParts:
        """For planning, which knows no model."""
        predictor = self.predictor
        return DinoWMParts(
            positions=predictor.positions[0].unflatten(0, (self.history, predictor.num_tokens)),
            concat=predictor.concat,
            action=predictor.action,
            input=predictor.input,
            blocks=tuple(block.parts() for block in predictor.blocks),
            norm=predictor.norm,
            output=predictor.output,
        )

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher-forced mean squared error of the next latents, which give no gradient themselves.

        Args:
            batch: tokens (B, T, P, *), action blocks (B, T-1, A) and, with proprioception, its vectors (B, T, k).
        """
        tokens, actions, *proprio = batch
        latents = self.join(tokens.float(), *proprio or [None])
        before, after = latents[:, :-1], latents[:, 1:].detach()
        errors = (self.predictor(before, self.normalize_actions(actions)) - after).square()
        parts = {"prediction": errors.mean()}
        if self.proprio is not None:
            parts["proprioception"] = errors[..., tokens.shape[-1] :].mean()
        if step.log:
            parts["copy_last"] = (before - after).square().mean()
        return parts["prediction"], parts


class ProprioAgent(PlanningAgent):
    """Plans with a model that reads, beside the frames, the proprioception that ``env`` names."""

    def __init__(
        self, model: DinoWM, config: PlannerConfig, device: torch.device, rollout: BeginRollout, env: GoalEnv
    ) -> None:
        super().__init__(model, config, device, rollout)
        self._env, begin = env, self.rollout

        def compared(latents: Tensor, past_actions: Tensor) -> Rollout:
            inner = begin(latents, past_actions)
            return lambda plans, score: inner(plans, lambda z, episodes: score(model.compared(z), episodes))

        self.rollout = compared

    def encode(self, frames: Tensor, states: np.ndarray) -> Tensor:
        vectors = proprio_of(self._env, states.reshape(-1, states.shape[-1])).unflatten(0, states.shape[:2])
        return self.model.encode(frames.to(self.device), vectors.to(self.device))

    def embed(self, frames: Tensor, states: np.ndarray) -> Tensor:
        return self.model.compared(super().embed(frames, states))


class ReencodingAgent(PlanningAgent):
    """DINO-WM as its authors' planner runs it: every iteration encodes the start of every candidate again."""

    def controller(self, goal: Tensor, rngs: Sequence[np.random.Generator]) -> ReencodingController:
        return ReencodingController(self, goal, rngs)


class ReencodingController(LatentController):
    """One batch of episodes of a ``ReencodingAgent``."""

    def __init__(self, agent: ReencodingAgent, goal: Tensor, rngs: Sequence[np.random.Generator]) -> None:
        super().__init__(agent, goal, rngs)
        self._frames: Tensor | None = None

    @torch.inference_mode()
    def encode(self, past: Past) -> Encoded:
        self._frames = past.frames.to(self._agent.device)
        return super().encode(past)

    def rollout(self, encoded: Encoded) -> Rollout:
        inner, frames, model = super().rollout(encoded), self._frames, self._agent.model

        def encoding_again(plans: Tensor, score) -> Tensor:
            for episode in frames:
                for part in episode[None].expand(plans.shape[1], *[-1] * episode.dim()).split(ENCODED_TOGETHER):
                    model.encode(part)
            return inner(plans, score)

        return encoding_again


ENCODED_TOGETHER = 32


def check_encoder(model: DinoWM, setting: Setting[DinoWMConfig]) -> None:
    """Refuse a checkpoint whose predictor has learned the tokens of other DINOv2 weights, or of other positions.

    Raises:
        UserError: saying so.
    """
    if isinstance(model.encoder, Dinov2Encoder) and bytes(model.encoder_identity.tolist()) != model.encoder.identity:
        raise UserError(
            f"{setting.agent} was trained with the tokens of other DINOv2 weights than those in "
            f"{dinov2_folder(setting.config.weights)}; name the folder of the old ones with "
            "--set dino-wm.weights=FOLDER, or train it again"
        )


FELT = "with proprioception (reads part of the state)"


def proprio_of(env: GoalEnv, states: np.ndarray) -> Tensor:
    """(N, X) states to proprioceptive vectors (N, k) float32."""
    return torch.from_numpy(env.proprio(states).astype(np.float32))


def proprio_dim(setting: Setting[DinoWMConfig]) -> int:
    """How many numbers of proprioception the setting's model reads.

    Raises:
        UserError: it wants some and the environment names none.
    """
    if not setting.config.proprio:
        return 0
    if not setting.env.proprioception:
        raise UserError(
            f"{setting.env_id} names no proprioception, so {setting.agent} cannot read any; set dino-wm.proprio=false, "
            "or name quantities of the environment in its class's `proprioception`"
        )
    return proprio_of(setting.env, setting.env.get_state()[None]).shape[1]


class DinoWMFamily(TrainedWorldModel):
    """``dino-wm`` with the config's encoder, and ``dino-wm:ENCODER``; ``:proprio`` and ``:reencode`` behind either."""

    Config = DinoWMConfig
    seeds_share = True  # the tokens of the frozen encoder
    card = Card(
        name="DINO-WM",
        about="predicts the many patch tokens of an image encoder that was trained beforehand and stays frozen",
        colour="#D55E00",
        marker="s",
        loss_terms=("prediction",),
        papers={"DINO-WM": "2411.04983"},
        variants={
            **{name: f"DINO-WM ({name})" for name in VARIANTS},
            "reencode": "DINO-WM, re-encodes in every iteration",
        },
        rank=50,
    )
    search_space = (Dimension("train.learning_rate", 5e-5, 5e-3),)
    schema = 3
    shares_batches = True
    planning_only = ("reencode",)
    rehearsal: ClassVar = {**Family.rehearsal, "local": Family.rehearsal}

    def configure(self, overrides: dict, variant: str | None) -> DinoWMConfig:
        for part in variant.split(":") if variant is not None else ():
            if part not in VARIANTS:
                raise unknown("variant of dino-wm", part, VARIANTS)
            overrides = {**overrides, **({"encoder": part} if part in ENCODERS else {part: True})}
        config = super().configure(overrides, None)
        if config.reencode and config.proprio:
            raise UserError("dino-wm re-encodes frames alone; leave reencode or proprio out")
        return config

    def build(self, config: DinoWMConfig, image_size: int, action_dim: int) -> DinoWM:
        dinov2 = config.encoder == "dinov2-small"
        encoder = (
            Dinov2Encoder(None, config.frames) if dinov2 else LocalEncoder(config.local, config.encoder, image_size)
        )
        return DinoWM(config, encoder.eval(), action_dim)

    def beside(self, model: DinoWM) -> tuple[nn.Module, ...]:
        return (model.encoder,)

    def rollout(self, model: DinoWM, planner: PlannerConfig) -> BeginRollout:
        if planner.rollout == "reference":
            return plain_rollout(model)
        return PackedDinoWM(model.parts(), planner.arithmetic, planner.compile)

    def agent(self, model: DinoWM, config: DinoWMConfig, planner: PlannerConfig, device: torch.device) -> PlanningAgent:
        kind = ReencodingAgent if config.reencode else PlanningAgent
        return kind(model, planner, device, self.rollout(model, planner))

    def label(self, model: DinoWM, config: DinoWMConfig) -> str:
        names = {"dinov2-small": "DINOv2 ViT-S/14", "lowpass": "frozen low-pass ViT", "mae": "frozen MAE ViT"}
        registers = " with registers" if isinstance(model.encoder, Dinov2Encoder) and model.encoder.registers else ""
        told = f"DINO-WM ({names[config.encoder]}{registers}, {model.tokens_per_frame} tokens)"
        return (
            f"{told} {FELT}"
            if config.proprio
            else told + (", re-encodes in every iteration" if config.reencode else "")
        )

    def trained_as(self, setting: Setting[DinoWMConfig]) -> Setting[DinoWMConfig]:
        return replace(setting, config=setting.config.model_copy(update={"reencode": False}))

    def requirements(self, setting: Setting[DinoWMConfig]) -> None:
        proprio_dim(setting)
        if setting.config.encoder == "dinov2-small":
            dinov2_folder(setting.config.weights)

    def outside(self, setting: Setting[DinoWMConfig]) -> str:
        if setting.config.encoder != "dinov2-small":
            return ""
        return dinov2_identity(dinov2_folder(setting.config.weights), setting.config.frames).hex()

    def prepare(self, setting: Setting[DinoWMConfig]) -> None:
        token_source(setting, frozen_encoder(setting))

    def train(self, setting: Setting[DinoWMConfig], folder: Path) -> TrainingLog:
        setting = self.trained_as(setting)
        encoder, dataset = frozen_encoder(setting), setting.dataset
        tokens = token_source(setting, encoder)

        def build() -> DinoWM:
            model = DinoWM(setting.config, encoder, setting.action_dim, proprio_dim(setting))
            model.action_scale.fit(*dataset.action_statistics("train"))
            if model.proprio is not None:
                model.proprio.fit(proprio_of(setting.env, dataset.states[dataset.rows("train")]))
            return model

        clips = dataset.clips("train", setting.config.history + 1, setting.config.frame_skip)

        def batch(index: int) -> tuple[Tensor, ...]:
            size = setting.config.train.batch_size
            chosen = stream(setting.seed, "batch", index).integers(len(clips), size=size)[setting.own]
            rows = clips.starts[chosen][:, None] + np.arange(clips.frames) * clips.frame_skip  # (B, T)
            batch = tokens(rows), clips.action_blocks(chosen)
            if not setting.config.proprio:
                return batch
            return *batch, proprio_of(setting.env, dataset.states[rows.ravel()]).unflatten(0, rows.shape)

        log = train_module(setting, build, batch, folder)
        # Whoever needs an encoder of their own, and tokens of all frames, pays for them.
        log.seconds += pretraining_seconds(setting, encoder) + encoding_seconds(setting, encoder)
        return log

    def load(self, setting: Setting[DinoWMConfig], checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = DinoWM(setting.config, empty_encoder(setting), setting.action_dim, proprio_dim(setting))
        ready_to_act(model, setting, checkpoint)
        check_encoder(model, setting)
        model.encoder.to(setting.device).eval()
        if checkpoint is None and isinstance(model.encoder, LocalEncoder):
            # Its principal components are zeros until they are fitted, and so would be every token of random weights.
            model.encoder.fit(sample_frames(setting.dataset, STATISTICS_FRAMES).to(setting.device))
        counted = sum(p.numel() for module in {model, model.encoder} for p in module.parameters())
        inside = sum(p.numel() for p in model.encoder.parameters()) if model.encoder in model.modules() else 0
        original = FRAMES[setting.config.frames].positions is None
        about = f"positions resampled as in {'the original DINOv2' if original else 'transformers'}"
        if isinstance(model.encoder, LocalEncoder):
            about = "local encoder, not DINOv2"
        agent = self.agent(model, setting.config, setting.planner, setting.device)
        if setting.config.proprio:
            agent = ProprioAgent(model, setting.planner, setting.device, agent.rollout, setting.env)
        felt = FELT if setting.config.proprio else ""
        return Loaded(
            agent,
            self.label(model, setting.config),
            "random" if checkpoint is None else "trained",
            counted - inside,
            model.tokens_per_frame,
            model,
            note="; ".join(filter(None, (felt, about, arithmetic_note(setting.planner)))),
            embed=agent.embed,
        )


DINO_WM = DinoWMFamily()
