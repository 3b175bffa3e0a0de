"""Frozen encoders for DINO-WM: images to patch tokens.

``dinov2-small`` is the published one. ``lowpass`` and ``mae`` are small ViTs pretrained on the suite's own training
frames without labels; they are what a laptop can have, and the tables name them so.

Shapes: N images, P tokens, C channels of a token.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lewm_bench.agents.parts.nets import IMAGENET_MEAN, IMAGENET_STD, Normalize, StemViT
from lewm_bench.core.config import Config
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.format import Dataset
from lewm_bench.system.checkpoint import not_finite
from lewm_bench.system.files import checksum
from lewm_bench.train.loop import Step, TrainConfig

logger = logging.getLogger(__name__)

DINOV2 = "facebook/dinov2-small"
DINOV2_FILES = ("config.json", "model.safetensors")
TOKEN_RULE = "positions of the original code"  # changes whenever the same weights give other tokens
STATISTICS_FRAMES = 4096  # training frames behind the mean frame, the token means and the principal components


class LocalConfig(Config):
    """A small ViT pretrained on the training frames, and its objective.

    ``lowpass``: each token predicts, linearly, Gaussian low-pass maps of its patch of the frame minus the mean frame.
    Blurred far enough, a patch knows about things that lie beyond it, so token distances tell positions apart.
    ``mae``: each token of a hidden patch predicts that patch's pixels (He et al., 2022, without a separate decoder).
    """

    width: int = Field(64, ge=4, multiple_of=4, description="width of the encoder")
    depth: int = Field(2, ge=1, description="blocks of the encoder")
    heads: int = Field(4, ge=1, description="attention heads")
    channels: int = Field(32, ge=1, description="principal components of a token that are kept")
    scales: tuple[float, ...] = Field(
        (8, 16, 32), min_length=1, description="deviations of the low-pass maps, pixels of a 64 px image"
    )
    lowpass_mask: float = Field(0.1, ge=0, lt=1, description="share of hidden patches with lowpass")
    mae_mask: float = Field(0.5, gt=0, lt=1, description="share of hidden patches with mae")
    train: TrainConfig = Field(
        TrainConfig(steps=600, batch_size=128, learning_rate=2e-3, warmup=0.05),
        description="optimisation of the encoder",
    )

    @model_validator(mode="after")
    def _sizes(self) -> LocalConfig:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.channels > self.width:
            raise ValueError(f"there are no more than width ({self.width}) channels, got {self.channels}")
        return self


def gaussian_pool(size: int, cells: int, deviation: float) -> Tensor:
    """(cells, size) matrix that blurs a line of pixels and then averages it into cells."""
    x = torch.arange(size, dtype=torch.float32)
    blur = torch.exp(-0.5 * ((x[:, None] - x) / deviation).square())
    blur = blur / blur.sum(1, keepdim=True)
    return blur.unflatten(0, (cells, -1)).mean(1)


class LocalEncoder(nn.Module):
    """(N, 3, h, w) uint8 to (N, P, C) tokens; ``loss`` is its pretraining, ``fit`` its final normalisation."""

    cells = 4  # target resolution per patch side

    def __init__(self, config: LocalConfig, objective: Literal["lowpass", "mae"], image_size: int) -> None:
        super().__init__()
        self.config, self.objective = config, objective
        self.normalize = Normalize()
        self.vit = StemViT(image_size, config.width, config.depth, config.heads)
        self.num_tokens, self.size = self.vit.num_tokens, config.channels
        side, patch = image_size // StemViT.patch, StemViT.patch
        pools = [gaussian_pool(image_size, side * self.cells, s * image_size / 64) for s in config.scales]
        self.register_buffer("pools", torch.stack(pools), persistent=False)
        self.register_buffer("mean_frame", torch.zeros(3, image_size, image_size))
        self.register_buffer("target_scale", torch.ones(len(pools)))
        targets = len(pools) * 3 * self.cells**2 if objective == "lowpass" else 3 * patch**2
        self.head = nn.Linear(config.width, targets)
        self.register_buffer("token_mean", torch.zeros(self.num_tokens, config.width))
        self.register_buffer("components", torch.zeros(config.width, config.channels))

    def forward(self, frames: Tensor) -> Tensor:
        return (self.vit(self.normalize(frames)) - self.token_mean) @ self.components

    def lowpass_targets(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) images minus the mean frame to (N, scales, P, 3 * cells * cells), unscaled."""
        maps = torch.einsum("kih,nchw,kjw->nkcij", self.pools, images, self.pools)
        c = self.cells
        patches = maps.unflatten(-1, (-1, c)).unflatten(-3, (-1, c))  # (N, k, 3, side, c, side, c)
        return patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def fit_frames(self, frames: Tensor) -> None:
        """Before pretraining: the mean frame, and the deviation of the targets at each scale."""
        images = self.normalize(frames)
        self.mean_frame.copy_(images.mean(0))
        targets = self.lowpass_targets(images[:512] - self.mean_frame)
        self.target_scale.copy_(targets.transpose(0, 1).flatten(1).std(1))

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """After pretraining: remove each position's mean token, keep the principal channels, one global scale."""
        # On the CPU, because not every device has float64.
        tokens = torch.cat([self.vit(self.normalize(part)).cpu() for part in frames.split(256)])
        mean = tokens.mean(0)
        self.token_mean.copy_(mean)
        centred = (tokens - mean).flatten(0, 1).double()
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : self.size]
        # A sign convention: eigenvectors are defined up to sign, and a table must not depend on the library's choice.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        scale = (centred @ vectors).std()
        self.components.copy_((vectors / scale).float())

    def loss(self, batch: tuple[Tensor], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The pretraining objective on (N, 3, h, w) uint8 frames."""
        images = self.normalize(batch[0])
        share = self.config.lowpass_mask if self.objective == "lowpass" else self.config.mae_mask
        hidden = (torch.rand(len(images), self.num_tokens, generator=step.generator) < share).to(images.device)
        prediction = self.head(self.vit(self._hide(images, hidden)))  # (N, P, targets)
        if self.objective == "lowpass":
            targets = self.lowpass_targets(images - self.mean_frame) / self.target_scale[:, None, None]
            error = (prediction - targets.transpose(1, 2).flatten(2)).square().mean()
        else:
            patch = StemViT.patch
            targets = F.unfold(images - self.mean_frame, patch, stride=patch).transpose(1, 2)  # (N, P, 3*patch*patch)
            error = (prediction - targets).square().mean(-1)[hidden].mean()
        return error, {f"{self.objective}_error": error}

    def _hide(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Replace the hidden patches by the mean frame's."""
        side, patch = images.shape[-1] // StemViT.patch, StemViT.patch
        mask = hidden.view(-1, 1, side, side).repeat_interleave(patch, -1).repeat_interleave(patch, -2)
        return torch.where(mask, self.mean_frame, images)


class PositionRule(NamedTuple):
    """How the code of a kind of DINOv2 (github.com/facebookresearch/dinov2) resamples its learned positions."""

    offset: float  # patches that are added to the size before the scale is computed from it; 0: the size alone
    antialias: bool


PLAIN, WITH_REGISTERS = "dinov2", "dinov2_with_registers"
POSITION_RULES = {PLAIN: PositionRule(0.1, False), WITH_REGISTERS: PositionRule(0.0, True)}
"""By the ``model_type`` of a ``config.json``. The offset was meant to save the size from being rounded down; what the
published weights have been used with since includes it. transformers resamples by size, without it."""


TRANSFORMERS = PositionRule(0.0, False)


class FrameRule(NamedTuple):
    """How frames enter DINOv2."""

    size: int  # pixels to which they are resized, of 14 px patches
    positions: PositionRule | None  # None: the original code's, for the kind of weights
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


HALF = (0.5, 0.5, 0.5)
FRAMES = {
    "dino-wm": FrameRule(196, None),
    "dino-wm-halves": FrameRule(196, None, HALF, HALF),
    "stable-worldmodel": FrameRule(224, TRANSFORMERS),
    "jepa-wms": FrameRule(224, None, HALF, HALF),
}
"""By whose code does so: 14 x 14 or 16 x 16 tokens of a frame. DINO-WM's own takes halves for mean and deviation of
colours; ours takes ImageNet's, which DINOv2 was trained with, unless it is asked for halves."""


def resampled_positions(positions: Tensor, side: int, rule: PositionRule) -> Tensor:
    """(1, 1 + s*s, W) positions of the class token and of s x s patches to (1, 1 + side*side, W), bicubically."""
    own = math.isqrt(positions.shape[1] - 1)
    if own == side:
        return positions
    grid = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2).float()
    scale = (side + rule.offset) / own
    size = {"scale_factor": (scale, scale)} if rule.offset else {"size": (side, side)}
    grid = F.interpolate(grid, mode="bicubic", antialias=rule.antialias, **size)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], 1)


class Dinov2Encoder(nn.Module):
    """DINOv2 ViT-S/14 patch tokens (Oquab et al., 2023): (N, 3, h, w) uint8 to (N, 196, 384), or (N, 256, 384).

    Its learned positions, of 37 x 37 patches, are resampled to 14 x 14 by the rule of the original code, which DINO-WM
    uses, and not by that of transformers: they differ by up to 1.5 for positions from a standard normal distribution.
    ``FRAMES`` has another way.
    """

    def __init__(self, folder: Path | None, frames: str = "dino-wm") -> None:
        """From a folder with its weights; without one, untrained at the published size, which is enough for timing.

        Args:
            frames: one of ``FRAMES``.
        """
        super().__init__()
        rule = FRAMES[frames]
        self.normalize = Normalize(rule.mean, rule.std)
        self.identity = b"" if folder is None else dinov2_identity(folder, frames)
        self.model, self.kind = _dinov2_model(folder)
        self.image_size = rule.size
        side = rule.size // self.model.config.patch_size
        embeddings = self.model.embeddings
        own = POSITION_RULES[self.kind] if rule.positions is None else rule.positions
        positions = resampled_positions(embeddings.position_embeddings.detach(), side, own)
        embeddings.position_embeddings = nn.Parameter(positions)
        self.registers = self.model.config.num_register_tokens if self.kind == WITH_REGISTERS else 0
        self.num_tokens = side**2
        self.size = self.model.config.hidden_size

    def forward(self, frames: Tensor) -> Tensor:
        images = self.normalize(frames)
        images = F.interpolate(images, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return self.model(images).last_hidden_state[:, 1 + self.registers :]


def _dinov2_model(folder: Path | None) -> tuple[nn.Module, str]:
    """transformers' model and its kind."""
    from transformers import AutoConfig, Dinov2Config, Dinov2Model, Dinov2WithRegistersModel

    if folder is None:
        size = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
        return Dinov2Model(Dinov2Config(**size, patch_size=14, image_size=518)), PLAIN
    kinds = {PLAIN: Dinov2Model, WITH_REGISTERS: Dinov2WithRegistersModel}
    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind not in kinds:
        raise UserError(f"{folder} holds a model of type {kind!r}, not DINOv2; mend dino-wm.weights")
    with _without_progress():
        model = kinds[kind].from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if (name := not_finite(model.state_dict())) is not None:
        raise UserError(f"the weights in {folder} are not finite numbers (tensor {name}); fetch them again")
    return model, kind


@contextmanager
def _without_progress() -> Iterator[None]:
    """Without the bar that transformers 5 shows while it reads a file."""
    from transformers.utils import logging as shown

    was = shown.is_progress_bar_enabled()
    shown.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            shown.enable_progress_bar()


def dinov2_folder(weights: str | None) -> Path:
    """The folder with DINOv2's ``config.json`` and ``model.safetensors``: the user's own, the cache's or the hub's.

    Raises:
        NotRun: they are in neither place, with what to do.
    """
    if weights is not None:
        folder = Path(weights).expanduser()
        missing = [name for name in DINOV2_FILES if not (folder / name).is_file()]
        if missing:
            raise NotRun(f"weights unavailable: {folder} has no {' and no '.join(missing)}; mend dino-wm.weights")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # of the client library of this version of the hub

    try:
        return Path(snapshot_download(DINOV2, allow_patterns=list(DINOV2_FILES), etag_timeout=5))
    except (HTTPError, OSError) as error:
        logger.debug("no DINOv2 weights", exc_info=error)
        raise NotRun(
            f"weights unavailable: do `hf download {DINOV2}` where there is internet, or copy that folder here and "
            "add --set dino-wm.weights=FOLDER"
        )


def dinov2_identity(folder: Path, frames: str) -> bytes:
    """What tells the tokens of one folder of weights from those of another, wherever they lie, and however frames enter."""
    content = [TOKEN_RULE if frames == "dino-wm" else frames, *(checksum(folder / name) for name in DINOV2_FILES)]
    return hashlib.sha256("".join(content).encode()).digest()


def sample_frames(dataset: Dataset, count: int) -> Tensor:
    """(count, 3, h, w) uint8 random frames of the training episodes."""
    rows = dataset.rows("train")
    chosen = stream(0, "encoder statistics", dataset.meta.env).choice(rows, min(count, len(rows)), replace=False)
    return torch.from_numpy(np.moveaxis(dataset.frames[np.sort(chosen)], -1, 1).copy())
