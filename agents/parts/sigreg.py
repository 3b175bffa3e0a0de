"""SIGReg: the Sketched Isotropic Gaussian Regulariser (LeWM, section 3.2; LeJEPA), against collapse.

Random one-dimensional projections of the latents are compared with a standard normal by the Epps-Pulley distance of
their characteristic functions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import in_group, mean_over_ranks

MAX_KNOT = 3.0


class SIGRegConfig(JEPAConfig):
    """The one tunable weight and the sketch of SIGReg (LeWM, section 3.2 and appendix D)."""

    sigreg_weight: float = Field(0.1, ge=0, description="weight of SIGReg, the one number to tune")
    sigreg_initial_weight: float | None = Field(
        None, gt=0, description="weight at the start, decayed geometrically to sigreg_weight; null: constant"
    )
    sigreg_decay: float = Field(0.4, gt=0, le=1, description="share of the training that the decay takes")
    num_directions: int = Field(1024, ge=1, description="random projections of SIGReg")
    num_knots: int = Field(17, ge=2, description="quadrature points of SIGReg on [0, 3]")

    def unread(self) -> Collection[str]:
        return () if self.sigreg_initial_weight is not None else ("sigreg_decay",)

    def weight_at(self, progress: float) -> float:
        """lambda at a share of the training; constant unless an initial weight is given."""
        start, end = self.sigreg_initial_weight, self.sigreg_weight
        if start is None or progress >= self.sigreg_decay:
            return end
        return start * (end / start) ** (progress / self.sigreg_decay)


def sigreg_of(z: Tensor, config: SIGRegConfig, step: Step) -> Tensor:
    """The statistic of the latents (B, T, D) of clips, along directions of the step's own."""
    u = directions(config.num_directions, z.shape[-1], step.generator)
    return sigreg(z.transpose(0, 1), u, config.num_knots)


def directions(num: int, size: int, generator: torch.Generator) -> Tensor:
    """(size, num) unit vectors, uniform on the sphere, drawn on the CPU so that every device gets the same."""
    u = torch.randn(size, num, generator=generator)
    return u / u.norm(dim=0)


def sigreg(latents: Tensor, unit_vectors: Tensor, num_knots: int = 17, per_direction: bool = False) -> Tensor:
    """The statistic of (T, B, D) latents along (D, M) directions; 0 for an infinite standard normal sample.

    Each time step is a sample of B latents of its own. For a direction u and h = <z, u>,

        B * integral over [-3, 3] of exp(-t^2 / 2) |mean_b exp(i t h_b) - exp(-t^2 / 2)|^2 dt

    by the trapezoid rule on ``num_knots`` knots of [0, 3], doubled for symmetry; then the mean over steps and directions.
    Among several ranks the means run over the batches of all, so that the value is that of the global batch.

    Args:
        per_direction: return (T, M) instead of the mean.
    """
    knots = torch.linspace(0, MAX_KNOT, num_knots, device=latents.device)
    step = MAX_KNOT / (num_knots - 1)
    target = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * step)
    weights[0] = weights[-1] = step
    with torch.autocast(latents.device.type, enabled=False):  # bfloat16 has too few digits for angles
        projections = latents.float() @ unit_vectors.to(latents.device)  # (T, B, M)
        real, imaginary = characteristic(projections, step, num_knots)
        real, imaginary = mean_over_ranks(real), mean_over_ranks(imaginary)
        count = latents.shape[1] * in_group()
        distance = (real - target).square() + imaginary.square()
        statistic = count * (distance @ (weights * target))  # (T, M)
    return statistic if per_direction else statistic.mean()


def characteristic(projections: Tensor, step: float, num_knots: int) -> tuple[Tensor, Tensor]:
    """(T, B, M) to real and imaginary part, (T, M, K) each, of mean_b exp(i t h_b) at the knots t = 0, step, 2 step, ..."""
    if projections.device.type == "cpu":
        return _Powers.apply(projections, step, num_knots)
    angles = projections.unsqueeze(-1) * (step * torch.arange(num_knots, device=projections.device))
    return angles.cos().mean(1), angles.sin().mean(1)


class _Powers(torch.autograd.Function):
    """exp(i k step h) are the powers of one complex number, and so one sine and cosine are computed instead of K.

    The gradient of sum_k a_k Re + b_k Im is -Im(sum_k k step (a_k - i b_k) z^k), by Horner's rule.
    """

    @staticmethod
    def forward(ctx: Any, projections: Tensor, step: float, num_knots: int) -> tuple[Tensor, Tensor]:
        angles = projections * step
        z = torch.complex(angles.cos(), angles.sin())
        power, means = torch.ones_like(z), []
        for _ in range(num_knots):
            means.append(power.mean(1))
            power = power * z
        ctx.step = step
        ctx.save_for_backward(z)
        mean = torch.stack(means, -1)
        return mean.real.clone(), mean.imag.clone()

    @staticmethod
    def backward(ctx: Any, d_real: Tensor, d_imaginary: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        knots = ctx.step * torch.arange(d_real.shape[-1], dtype=d_real.dtype)
        slopes = (torch.complex(d_real, -d_imaginary) * knots / z.shape[1]).unsqueeze(1)  # (T, 1, M, K)
        total = torch.zeros_like(z)
        for slope in reversed(slopes.unbind(-1)):
            total = torch.addcmul(slope, total, z)
        return -total.imag, None, None
