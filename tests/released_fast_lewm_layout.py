"""The state dict of Fast-LeWM's published modules, and what those compute, written down from the authors' code.

Nothing of ours is used. Encoder and projectors are LeWM's (released_layout.py). Everything is computed in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from released_layout import random_values, released
from torch import Tensor

WIDTH, HEADS = 192, 6  # of the action encoder's transformer
TRANSFORMER = "action_encoder.impl.temporal_mixer"
STACK = "predictor.transition_stack"


def shapes(inputs: int, image_size: int = 224) -> dict[str, tuple[int, ...]]:
    """Names and shapes, for ``inputs`` numbers of an action block."""
    table = {
        name: shape
        for name, shape in released(inputs, image_size).items()
        if name.startswith(("encoder.", "projector.", "pred_proj."))
    }

    def put(name: str, *weight: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = weight, weight[:1]

    put("action_encoder.impl.latent_proj.0", 768, 192)
    put("action_encoder.impl.latent_proj.2", 192, 768)
    put("action_encoder.impl.token_proj", 32, inputs)
    put("action_encoder.impl.embed.0", 768, 32)
    put("action_encoder.impl.embed.2", 192, 768)
    put("action_encoder.impl.out_norm", 192)
    put(f"{TRANSFORMER}.norm", 192)
    for i in range(3):
        layer = f"{TRANSFORMER}.layers.{i}"
        put(f"{layer}.attn.norm", 192)
        table[f"{layer}.attn.to_qkv.weight"] = (576, 192)
        put(f"{layer}.attn.to_out.0", 192, 192)
        put(f"{layer}.mlp.net.0", 192)
        put(f"{layer}.mlp.net.1", 768, 192)
        put(f"{layer}.mlp.net.4", 192, 768)
    put("predictor.action_fusion_norm", 576)
    put("predictor.action_fusion_mlp.0", 768, 576)
    put("predictor.action_fusion_mlp.2", 192, 768)
    put(f"{STACK}.norm", 192)
    for i in range(6):
        layer = f"{STACK}.layers.{i}"
        put(f"{layer}.value_proj.norm", 192)
        table[f"{layer}.value_proj.to_v.weight"] = (1024, 192)
        put(f"{layer}.value_proj.to_out.0", 192, 1024)
        put(f"{layer}.mlp.net.0", 192)
        put(f"{layer}.mlp.net.1", 2048, 192)
        put(f"{layer}.mlp.net.4", 192, 2048)
        put(f"{layer}.adaLN_modulation.1", 1152, 192)
    return table


def random_tensors(inputs: int, image_size: int = 224) -> dict[str, Tensor]:
    """A state dict that is no initialisation: every tensor matters."""
    return random_values(shapes(inputs, image_size))


class Theirs:
    """What the published module computes from its state dict."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], 1e-5)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.4", F.gelu(self.linear(f"{name}.1", self.norm(f"{name}.0", x))))

    def attention(self, name: str, x: Tensor) -> Tensor:
        parts = self.linear(f"{name}.to_qkv", self.norm(f"{name}.norm", x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        out = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        return self.linear(f"{name}.to_out.0", out.transpose(1, 2).flatten(2))

    def block(self, i: int, x: Tensor) -> Tensor:
        """Of the transformer of prefixes: each part is behind a norm of its own and another one before."""
        x = x + self.attention(f"{TRANSFORMER}.layers.{i}.attn", plain_norm(x))
        return x + self.mlp(f"{TRANSFORMER}.layers.{i}.mlp.net", plain_norm(x))

    def prefixes(self, latent: Tensor, blocks: Tensor) -> Tensor:
        """(N, D) latents and (N, H, A) blocks to (N, H, W)."""
        root = "action_encoder.impl"
        state = self.linear(f"{root}.latent_proj.2", F.gelu(self.linear(f"{root}.latent_proj.0", latent[:, None])))
        tokens = self.linear(f"{root}.embed.0", self.linear(f"{root}.token_proj", blocks))
        x = torch.cat([state, self.linear(f"{root}.embed.2", F.silu(tokens))], 1)
        x = x + positions(x.shape[1])
        for i in range(3):
            x = self.block(i, x)
        return self.norm(f"{root}.out_norm", self.norm(f"{TRANSFORMER}.norm", x)[:, 1:])

    def features(self, latent: Tensor, prefixes: Tensor) -> Tensor:
        x = latent[:, None].expand_as(prefixes)
        joined = self.norm("predictor.action_fusion_norm", torch.cat([x, prefixes, x * prefixes], -1))
        hidden = F.gelu(self.linear("predictor.action_fusion_mlp.0", joined))
        x = x + self.linear("predictor.action_fusion_mlp.2", hidden)
        for i in range(6):
            x = self.transition(f"{STACK}.layers.{i}", x, prefixes)
        return self.norm(f"{STACK}.norm", x)

    def transition(self, name: str, x: Tensor, prefixes: Tensor) -> Tensor:
        a, b, c, d, e, f = self.linear(f"{name}.adaLN_modulation.1", F.silu(prefixes)).chunk(6, -1)
        y = self.norm(f"{name}.value_proj.norm", plain_norm(x) * (1 + b) + a)
        x = x + c * self.linear(f"{name}.value_proj.to_out.0", self.linear(f"{name}.value_proj.to_v", y))
        return x + f * self.mlp(f"{name}.mlp.net", plain_norm(x) * (1 + e) + d)

    def projected(self, x: Tensor) -> Tensor:
        t = {name.removeprefix("pred_proj.net."): tensor for name, tensor in self.tensors.items()}
        x = self.linear("pred_proj.net.0", x)
        x = (x - t["1.running_mean"]) / (t["1.running_var"] + 1e-5).sqrt() * t["1.weight"] + t["1.bias"]
        return self.linear("pred_proj.net.3", F.gelu(x))

    def futures(self, latent: Tensor, blocks: Tensor) -> Tensor:
        """(N, D) latents and z-scored blocks (N, H, A) to the latents after 1 to H of them, (N, H, D)."""
        latent, blocks = latent.double(), blocks.double()
        return self.projected(self.features(latent, self.prefixes(latent, blocks)))


def plain_norm(x: Tensor) -> Tensor:
    """Without an affine map, and with another number added to the variance than elsewhere."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def positions(length: int) -> Tensor:
    """(length, W): sine at even and cosine at odd channels."""
    frequency = 10_000.0 ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    found = torch.empty(length, WIDTH, dtype=torch.float64)
    found[:, 0::2], found[:, 1::2] = angles.sin(), angles.cos()
    return found
