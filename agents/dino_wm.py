"""DINO-WM (Zhou et al., 2024): frozen patch tokens, a transformer that predicts all of them, planning in token space.

Same protocol and planner as LeWM; what differs is the latent, (P, C) patch tokens in place of one vector, and that the
encoder is not trained with the dynamics. The defaults are the published predictor, the profile ``quick`` a small one.

Shapes: B clips, T frames, P tokens of a frame, C channels of a token, W predictor width, A numbers of an action block.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lewm_bench.agent import (
    AgentConfig,
    Family,
    Loaded,
    PlanningAgent,
    Setting,
    arithmetic_note,
    ready_to_act,
    train_module,
)
from lewm_bench.agents.encoders import (
    STATISTICS_FRAMES,
    Dinov2Encoder,
    LocalConfig,
    LocalEncoder,
    dinov2_folder,
    sample_frames,
)
from lewm_bench.agents.imagination import PackedDinoWM
from lewm_bench.agents.nets import ActionScale
from lewm_bench.checkpoint import load_weights
from lewm_bench.errors import unknown
from lewm_bench.files import write_text
from lewm_bench.planning import plain
from lewm_bench.rng import stream, torch_stream
from lewm_bench.train import Step, TrainConfig, TrainingLog
from lewm_bench.types import Clip

ENCODERS = ("dinov2-small", "lowpass", "mae")
ENCODER_SCHEMA, TOKENS_SCHEMA = 2, 1
SECONDS = "pretraining_seconds.json"
CHUNK_NUMBERS = 2**26  # activations per layer while planning: candidates are split so that memory never fails


class DinoWMConfig(AgentConfig):
    """Encoder and predictor; the defaults are DINO-WM's."""

    encoder: Literal["dinov2-small", "lowpass", "mae"] = "dinov2-small"
    weights: str | None = None  # a local folder with DINOv2's config.json and model.safetensors
    local: LocalConfig = LocalConfig()
    conditioning: Literal["concat", "adaln"] = "concat"  # how the action enters: ten more channels, or modulation
    action_size: int = 10  # of the concatenated embedding
    width: int | None = None  # None: as wide as a token with its action channels
    depth: int = 6
    heads: int = 16
    head_size: int = 64
    mlp_hidden: int = 2048
    dropout: float = 0.1
    train: TrainConfig = TrainConfig(learning_rate=5e-4, batch_size=32)


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


class DinoWM(nn.Module):
    """A frozen encoder and a trained predictor; a ``WorldModel`` whose latents are (P, C)."""

    def __init__(self, config: DinoWMConfig, encoder: LocalEncoder | Dinov2Encoder, action_dim: int) -> None:
        super().__init__()
        self.history, self.frame_skip = config.history, config.frame_skip
        self.action_scale = ActionScale(action_dim)
        # A pretrained encoder stays out of the checkpoint: its weights have a home and a licence of their own.
        self._outside = (encoder,) if isinstance(encoder, Dinov2Encoder) else ()
        self._inside = encoder if isinstance(encoder, LocalEncoder) else None
        self.predictor = TokenPredictor(config, encoder.num_tokens, encoder.size, config.frame_skip * action_dim)
        self.tokens_per_frame = encoder.num_tokens
        self._mlp_hidden = config.mlp_hidden
        encoder.requires_grad_(False)

    @property
    def encoder(self) -> LocalEncoder | Dinov2Encoder:
        return self._outside[0] if self._inside is None else self._inside

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, 3, h, w) uint8 to (B, T, P, C)."""
        return self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

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

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher-forced mean squared error of the next frame's tokens; ``clip.frames`` holds tokens (B, T, P, C)."""
        tokens = clip.frames.float()
        prediction = self.predictor(tokens[:, :-1], self.normalize_actions(clip.actions))
        error = (prediction - tokens[:, 1:]).square().mean()
        parts = {"prediction": error}
        if step.log:
            parts["copy_last"] = (tokens[:, 1:] - tokens[:, :-1]).square().mean()
        return error, parts


class DinoWMFamily(Family):
    """``dino-wm`` with the config's encoder, and ``dino-wm:ENCODER``."""

    Config = DinoWMConfig
    summary = f"frozen patch tokens, plans with CEM (Zhou et al., 2024); variants dino-wm:{{{','.join(ENCODERS)}}}"
    step_cost = 0.15
    decision_cost = 2.0
    kind = "world model"
    trainable = True
    plans = True
    schema = 2

    def configure(self, overrides: dict, variant: str | None) -> DinoWMConfig:
        if variant is not None:
            if variant not in ENCODERS:
                raise unknown("encoder", variant, ENCODERS)
            overrides = {**overrides, "encoder": variant}
        return super().configure(overrides, None)

    def requirements(self, setting: Setting[DinoWMConfig]) -> None:
        if setting.config.encoder == "dinov2-small":
            dinov2_folder(setting.config.weights)

    def train(self, setting: Setting[DinoWMConfig], folder: Path) -> TrainingLog:
        encoder = frozen_encoder(setting)
        rows, tokens = cached_tokens(setting, encoder)

        def build() -> DinoWM:
            model = DinoWM(setting.config, encoder, setting.action_dim)
            model.action_scale.fit(*setting.dataset.action_statistics("train"))
            return model

        clips = setting.dataset.clips("train", setting.config.history + 1, setting.config.frame_skip)

        def batch(index: int) -> Clip:
            chosen = stream(setting.seed, "batch", index).integers(len(clips), size=setting.config.train.batch_size)
            wanted = clips.starts[chosen][:, None] + np.arange(clips.frames) * clips.frame_skip  # (B, T)
            latents = torch.from_numpy(tokens[np.searchsorted(rows, wanted)])
            return Clip(latents, clips.action_blocks(chosen))

        log = train_module(setting, build, batch, folder)
        log.seconds += pretraining_seconds(setting)  # whoever pretrains an encoder of their own pays for it
        return log

    def load(self, setting: Setting[DinoWMConfig], checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = DinoWM(setting.config, empty_encoder(setting), setting.action_dim)
        ready_to_act(model, setting, checkpoint)
        model.encoder.to(setting.device).eval()
        names = {"dinov2-small": "DINOv2 ViT-S/14", "lowpass": "frozen low-pass ViT", "mae": "frozen MAE ViT"}
        counted = sum(p.numel() for module in {model, model.encoder} for p in module.parameters())
        inside = sum(p.numel() for p in model.encoder.parameters()) if model.encoder in model.modules() else 0
        substitute = "" if setting.config.encoder == "dinov2-small" else "local encoder, not DINOv2"
        fast = setting.cem.rollout == "fast"
        imagine = PackedDinoWM(model, setting.cem.arithmetic, setting.cem.compile) if fast else plain(model)
        return Loaded(
            PlanningAgent(model, setting.cem, setting.device, imagine),
            f"DINO-WM ({names[setting.config.encoder]}, {model.tokens_per_frame} tokens)",
            "random" if checkpoint is None else "trained",
            counted - inside,
            model.tokens_per_frame,
            model,
            note="; ".join(filter(None, (substitute, arithmetic_note(setting.cem)))),
        )


def empty_encoder(setting: Setting[DinoWMConfig]) -> LocalEncoder | Dinov2Encoder:
    """The encoder without its local pretraining, which a checkpoint holds."""
    if setting.config.encoder == "dinov2-small":
        return Dinov2Encoder(dinov2_folder(setting.config.weights))
    return LocalEncoder(setting.config.local, setting.config.encoder, setting.image_size)


def frozen_encoder(setting: Setting[DinoWMConfig]) -> LocalEncoder | Dinov2Encoder:
    """The encoder, pretrained (once per dataset, whatever the seed) if it is a local one."""
    with torch_stream(setting.seed, "init", "encoder"):
        encoder = empty_encoder(setting)
    if isinstance(encoder, Dinov2Encoder):
        return encoder.to(setting.device).eval()
    spec = encoder_spec(setting)
    folder = setting.store.stage("encoder", spec, lambda work: pretrain(setting, work))
    load_weights(encoder, folder)
    return encoder.to(setting.device).eval()


def pretraining_seconds(setting: Setting[DinoWMConfig]) -> float:
    """What the local encoder's pretraining took; 0 for an encoder that others have trained."""
    folder = setting.store.find("encoder", encoder_spec(setting))
    return 0.0 if folder is None else json.loads((folder / SECONDS).read_text(encoding="utf-8"))


def encoder_spec(setting: Setting[DinoWMConfig]) -> dict:
    """What determines the tokens of a dataset."""
    spec = {"schema": ENCODER_SCHEMA, "dataset": setting.dataset_key, "encoder": setting.config.encoder}
    if setting.config.encoder != "dinov2-small":
        spec |= {"local": setting.config.local.model_dump(mode="json"), "device": setting.device.type}
    return spec


def pretrain(setting: Setting[DinoWMConfig], work: Path) -> None:
    """Pretrain the local encoder on frames of the training episodes and leave its checkpoint in ``work``."""
    config, dataset = setting.config.local, setting.dataset
    inner = replace(setting, config=AgentConfig(train=config.train), seed=0, agent=f"{setting.config.encoder} encoder")
    rows = dataset.rows("train")
    statistics = sample_frames(dataset, STATISTICS_FRAMES)

    def build() -> LocalEncoder:
        encoder = LocalEncoder(config, setting.config.encoder, setting.image_size)
        encoder.fit_frames(statistics)
        return encoder

    def batch(index: int) -> tuple[Tensor]:
        chosen = stream(0, "encoder batch", index).choice(rows, config.train.batch_size)
        return (torch.from_numpy(np.moveaxis(dataset.frames[chosen], -1, 1).copy()),)

    def finish(encoder: LocalEncoder) -> None:
        encoder.fit(statistics.to(setting.device))

    log = train_module(inner, build, batch, work, finish)
    write_text(work / SECONDS, json.dumps(log.seconds))


@torch.inference_mode()
def cached_tokens(setting: Setting[DinoWMConfig], encoder: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The training rows (rows,) and their tokens (rows, P, C) float16, memory-mapped; computed once per dataset."""
    rows = setting.dataset.rows("train")

    def build(work: Path) -> None:
        shape = (len(rows), encoder.num_tokens, encoder.size)
        out = np.lib.format.open_memmap(work / "tokens.npy", "w+", np.float16, shape)
        for begin in tqdm(range(0, len(rows), 256), "encode frames", disable=not setting.progress, leave=False):
            part = rows[begin : begin + 256]
            frames = torch.from_numpy(np.moveaxis(setting.dataset.frames[part], -1, 1).copy())
            out[begin : begin + 256] = encoder(frames.to(setting.device)).half().cpu().numpy()
        out.flush()

    folder = setting.store.stage("tokens", {"schema": TOKENS_SCHEMA, **encoder_spec(setting)}, build)
    return rows, np.load(folder / "tokens.npy", mmap_mode="r")


DINO_WM = DinoWMFamily()
