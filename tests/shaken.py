"""Models whose every part has a say."""

from __future__ import annotations

import torch
from torch import nn


def shaken(model: nn.Module) -> nn.Module:
    """``model`` ready to act and without a silent part: freshly initialised blocks hide most mistakes."""
    g = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        size = 0.5 if "modulation" in name else 0.2
        if p.dim() > 1:
            size *= min(1, 4 / p.shape[1] ** 0.5)
        p.data += size * torch.randn(p.shape, generator=g)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean += 0.5 * torch.randn(module.running_mean.shape, generator=g)
            module.running_var *= 0.5 + torch.rand(module.running_var.shape, generator=g)
    return model.eval().requires_grad_(False)
