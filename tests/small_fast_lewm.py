"""A Fast-LeWM that takes a moment."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from lewm_bench.agents.fast_lewm import FastLeWM, FastLeWMConfig

BLOCK = 6  # numbers of an action block
SMALL = FastLeWMConfig(
    encoder="cnn",
    latent=12,
    projector_hidden=24,
    width=16,
    depth=3,
    heads=2,
    head_size=4,
    mlp_hidden=32,
    prefix_depth=2,
    prefix_heads=2,
    prefix_head_size=8,
    prefix_mlp_hidden=24,
    fusion_hidden=20,
    num_directions=16,
    frame_skip=2,
)


@cache
def small(**changes) -> FastLeWM:
    """A small model ready to act and without a silent part: freshly initialised blocks are the identity."""
    torch.manual_seed(0)
    model = FastLeWM(FastLeWMConfig(**(SMALL.model_dump() | changes)), 32, 3)
    for name, p in model.named_parameters():
        size = 0.5 if "modulation" in name else 0.2
        if p.dim() > 1:
            size *= min(1, 4 / p.shape[1] ** 0.5)
        p.data += size * torch.randn(p.shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean += 0.5 * torch.randn(module.running_mean.shape)
            module.running_var *= 0.5 + torch.rand(module.running_var.shape)
    return model.eval().requires_grad_(False)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
