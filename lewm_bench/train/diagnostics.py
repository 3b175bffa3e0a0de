"""Scalars that describe a set of latents: how many dimensions are in use, how straight paths are."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(latents: Tensor) -> Tensor:
    """exp of the entropy of the normalised covariance spectrum of (N, D) latents; 1 to D (Roy and Vetterli, 2007).

    On the CPU and without gradients: MPS has no eigenvalues.
    """
    latents = latents.detach().cpu()
    centred = latents - latents.mean(0)
    gram = centred.T @ centred
    if not gram.isfinite().all():  # a training that diverges, which its loss says better than LAPACK
        return gram.new_tensor(torch.nan)
    spectrum = torch.linalg.eigvalsh(gram).clamp_min(0)
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return torch.exp(-torch.special.xlogy(share, share).sum())


def straightness(latents: Tensor) -> Tensor:
    """Mean cosine of consecutive velocities of (B, T, D) latent paths; 1 on a line (LeWM paper, section 5)."""
    velocity = latents.diff(dim=1)
    return torch.cosine_similarity(velocity[:, 1:], velocity[:, :-1], dim=-1).mean()
