"""Network parts that several agents use, each readable on its own.

Shapes: N images or sequences, P tokens of an image, W width, D latent size, T frames, A numbers of an action block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_bench.agents.parts.cpu_training import attend, linear
from lewm_bench.core.errors import UserError
from lewm_bench.planning.fast.engine import ActionEncoderParts
from lewm_bench.train.ranks import gathered, in_group

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(..., 3, h, w) uint8 frames to float32, less a mean and by a deviation per channel: ImageNet's if left out."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, deviation: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        std = torch.tensor(deviation).view(3, 1, 1)
        # Not in the state dict: constants, and released LeWM weights do not have them.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(3, 1, 1) / std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Where a CPU trains, channels last in memory, which is how convolutions take the least time."""
        if frames.device.type != "cpu" or not torch.is_grad_enabled():
            return frames.to(self.scale.dtype) * self.scale + self.shift
        stored = frames.movedim(-3, -1)  # (..., h, w, 3)
        x = stored.to(self.scale.dtype, copy=True, memory_format=torch.contiguous_format)
        width = x.shape[-2]  # a row of pixels at a time, since three numbers are too few for a loop
        x.flatten(-2).mul_(self.scale.flatten().repeat(width)).add_(self.shift.flatten().repeat(width))
        return x.movedim(-1, -3)


class Attention(nn.Module):
    """Multi-head self-attention of pre-normalised tokens, (N, P, W) to (N, P, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x, None)

    def beside(self, x: Tensor, onto: Tensor | None) -> Tensor:
        """The same, added to ``onto`` (N, P, W) where that is given."""
        return linear(attend(linear(x, self.qkv), self.heads), self.out, onto)


class Block(nn.Module):
    """Pre-norm transformer block, (N, P, W) to (N, P, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention.beside(self.norm1(x), x)
        first, activation, second = self.mlp
        return linear(activation(linear(self.norm2(x), first)), second, x)


def sine_cosine_positions(side: int, width: int) -> Tensor:
    """Fixed two-dimensional position codes, (side*side, width); ``width`` is a multiple of 4."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies  # (side, width/4)
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width/2)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([axis[rows.flatten()], axis[columns.flatten()]], 1)


class StemViT(nn.Module):
    """A small ViT whose patches come from a convolutional stem of stride 16: (N, channels, h, w) floats to (N, P, W).

    At a few minutes of CPU training a plain patch embedding learns too slowly; three strided convolutions do not.
    """

    patch = 16

    def __init__(self, image_size: int, width: int = 64, depth: int = 2, heads: int = 4, channels: int = 3) -> None:
        super().__init__()
        if image_size % self.patch:
            raise UserError(f"image_size must be a multiple of {self.patch}, got {image_size}")
        self.num_tokens = (image_size // self.patch) ** 2
        self.width = width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width // 4, 4, 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )
        # Scaled down so that at initialisation positions do not drown the content of the tokens.
        self.register_buffer("positions", 0.3 * sine_cosine_positions(image_size // self.patch, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2) + self.positions  # (N, P, W)
        return self.norm(self.blocks(x))

    def features(self, images: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, W). It has no CLS token and averages: its few tokens train faster that way."""
        return self(images).mean(1)


class ViT(nn.Module):
    """The paper's encoder, ViT-Tiny with patch 14 (appendix D): (N, 3, h, w) floats to (N, 1 + P, W), CLS first.

    Parameter names are those of the released checkpoints, so that those load strictly and without a map.
    """

    def __init__(self, image_size: int, patch: int = 14, width: int = 192, depth: int = 12, heads: int = 3) -> None:
        super().__init__()
        if image_size % patch:
            raise UserError(f"image_size must be a multiple of {patch}, got {image_size}")
        self.num_tokens = (image_size // patch) ** 2
        self.width = width
        self.embeddings = _Embeddings(self.num_tokens, patch, width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(width, heads) for _ in range(depth))})
        self.layernorm = nn.LayerNorm(width, eps=1e-12)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings(images)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.layernorm(x)

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) to the CLS token (N, W), all of the last block that the paper reads."""
        x = self.embeddings(images)
        *inner, last = self.encoder["layer"]
        for layer in inner:
            x = layer(x)
        return self.layernorm(last.first(x))


class _Embeddings(nn.Module):
    def __init__(self, num_tokens: int, patch: int, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, num_tokens + 1, width) * 0.02)
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, patch)})

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.position_embeddings


class _Layer(nn.Module):
    """One ViT block with separate query, key and value, as the released weights store it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        qkv = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {"attention": nn.ModuleDict(qkv), "output": nn.ModuleDict({"dense": nn.Linear(width, width)})}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * width, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layernorm_before(x)
        layers = [self.attention["attention"][name] for name in ("query", "key", "value")]
        qkv = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        return self._mlp(linear(attend(linear(y, qkv), self.heads), self.attention["output"]["dense"], x))

    def first(self, x: Tensor) -> Tensor:
        """The first token of ``forward``, (N, P, W) to (N, W), without keys and values of all the tokens.

        A score is q (K y) = (q K) y, and what is attended to V sum_j p_j y_j: each two products with one vector per head.
        """
        y = self.layernorm_before(x)
        query, key, value = (self.attention["attention"][name] for name in ("query", "key", "value"))
        q = query(y[:, 0]).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, N, d)
        weights = [layer.weight.unflatten(0, (self.heads, -1)) for layer in (key, value)]  # each (H, d, W)
        biases = [layer.bias.unflatten(0, (self.heads, 1, -1)) for layer in (key, value)]  # each (H, 1, d)
        scores = (q @ weights[0]).transpose(0, 1) @ y.transpose(1, 2)  # (N, H, P)
        scores = scores + (q * biases[0]).sum(-1).t()[..., None]
        seen = torch.softmax(scores * q.shape[-1] ** -0.5, -1) @ y  # (N, H, W)
        attended = seen.transpose(0, 1) @ weights[1].transpose(1, 2) + biases[1]  # (H, N, d)
        return self._mlp(x[:, 0] + self.attention["output"]["dense"](attended.transpose(0, 1).flatten(1)))

    def _mlp(self, x: Tensor) -> Tensor:
        y = F.gelu(linear(self.layernorm_after(x), self.intermediate["dense"]))
        return linear(y, self.output["dense"], x)


class CNN(nn.Module):
    """Three convolutions and a linear layer, (N, 3, h, w) floats to (N, 1, W): the architecture ablation of `quick`."""

    def __init__(self, image_size: int, width: int = 128) -> None:
        super().__init__()
        if image_size % 16:
            raise UserError(f"image_size must be a multiple of 16, got {image_size}")
        self.num_tokens = 1
        self.width = width
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (image_size // 16) ** 2, width),
            nn.LayerNorm(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)[:, None]

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, W)."""
        return self.net(images)


class BatchNorm(nn.BatchNorm1d):
    """Of rows (R, C); while several processes train one model, with the statistics of all their rows together."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or in_group() == 1:
            return super().forward(x)
        rows = x.to(self.running_mean.dtype)  # bfloat16 has too few digits for sums
        own = torch.stack([rows.mean(0), rows.var(0, correction=0)])
        means, variances = gathered(own[None]).unbind(1)  # (ranks, C) each, of as many rows
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._follow(mean.detach(), variance.detach(), len(rows) * in_group())
        return ((rows - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Move the running statistics (C,) as torch does."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)


class Projector(nn.Module):
    """Linear, BatchNorm, GELU, linear on the last axis. The batch statistics run over all other axes.

    The encoder's last LayerNorm would keep SIGReg from shaping the latent; this undoes it (paper, section 3.1).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, hidden), BatchNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class ActionEncoder(nn.Module):
    """(N, T, A) z-scored action blocks to (N, T, W) embeddings: a linear bottleneck, then a two-layer MLP."""

    def __init__(self, inputs: int, width: int, bottleneck: int = 10) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(inputs, bottleneck, 1)
        self.embed = nn.Sequential(nn.Linear(bottleneck, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, actions: Tensor) -> Tensor:
        # A convolution of kernel 1 is this linear map; F.linear skips the two transpositions.
        return self.embed(F.linear(actions, self.patch_embed.weight[:, :, 0], self.patch_embed.bias))

    def parts(self) -> ActionEncoderParts:
        """For planning."""
        return ActionEncoderParts(self.patch_embed, self.embed[0], self.embed[2])


class ActionScale(nn.Module):
    """Action statistics of the training split, saved with the weights: a checkpoint acts without its dataset."""

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(action_dim))
        self.register_buffer("std", torch.ones(action_dim))

    def fit(self, mean, std) -> None:
        """Take the statistics (action_dim,) of ``Dataset.action_statistics``."""
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))

    def normalize(self, actions: Tensor) -> Tensor:
        """(..., frame_skip * action_dim) environment units to z-scores."""
        return ((actions.unflatten(-1, (-1, len(self.mean))) - self.mean) / self.std).flatten(-2)

    def denormalize(self, actions: Tensor) -> Tensor:
        """(..., frame_skip * action_dim) z-scores to environment units."""
        return (actions.unflatten(-1, (-1, len(self.mean))) * self.std + self.mean).flatten(-2)
