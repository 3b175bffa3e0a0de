"""Linear layers and attention as they train fastest on a CPU in float32: other routines, the same numbers up to rounding.

Elsewhere, without gradients and under autocast these are torch's own. Measurements are in docs/speed.md.

Shapes: N images or sequences, P tokens, W width, H heads, d = W / H, R rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_bench.planning.fast.linears import has_onednn

MANY = 256
"""Rows from which oneDNN's products are faster than what ``F.linear`` calls."""

LARGE = 2**15
"""Numbers of a weight from which laying it out for one product is worth it."""

FEW = 32
"""Tokens up to which plain attention, which keeps its probabilities, takes less time than the fused kernel."""


def linear(x: Tensor, layer: nn.Linear | tuple[Tensor, Tensor], onto: Tensor | None = None) -> Tensor:
    """(..., I) to (..., O) by weight (O, I) and bias (O,), added to ``onto`` (..., O) where that is given."""
    weight, bias = (layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer
    if _trains_here(x) and x.dtype == torch.float32 and x.numel() >= MANY * x.shape[-1] and has_onednn():
        return _Linear.apply(x, weight, bias, onto)
    y = F.linear(x, weight, bias)
    return y if onto is None else onto + y


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention without mask, (N, P, 3W) queries, keys and values to (N, P, W)."""
    if _trains_here(qkv):
        return _Attention.apply(qkv, heads)
    return _joined(F.scaled_dot_product_attention(*_split(qkv, heads)))


def _split(qkv: Tensor, heads: int) -> Tensor:
    """(N, P, 3W) to a view (3, N, H, P, d)."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def _joined(x: Tensor) -> Tensor:
    """(N, H, P, d) to (N, P, W)."""
    return x.transpose(1, 2).flatten(2)


def _trains_here(x: Tensor) -> bool:
    return (
        x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    )


class _Linear(torch.autograd.Function):
    """By oneDNN, with a large weight laid out for it, both ways; a tenth to a quarter faster than what ``F.linear`` calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor | None) -> Tensor:
        rows = x.flatten(0, -2)
        ctx.save_for_backward(rows, weight)
        ctx.leading = x.shape[:-1]
        return _product(rows, weight, bias, None if onto is None else onto.flatten(0, -2)).unflatten(0, ctx.leading)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        rows, weight = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        d_rows = _product(flat, weight.t(), None, None).unflatten(0, ctx.leading)
        return d_rows, flat.t() @ rows, flat.sum(0), gradient if ctx.needs_input_grad[3] else None


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None) -> Tensor:
    """(R, I) to (R, O)."""
    rows, weight = rows.contiguous(), weight.contiguous()
    if weight.numel() >= LARGE:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, len(rows))
    if onto is None:
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return torch.ops.mkldnn._linear_pointwise.binary(rows, onto.contiguous(), weight, bias, "add")


class _Attention(torch.autograd.Function):
    """Gradients of queries, keys and values are written once, beside each other; autograd by itself copies them twice.

    Few tokens are attended to by plain arithmetic that keeps the probabilities.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int) -> Tensor:
        ctx.heads, ctx.few = heads, qkv.shape[1] <= FEW
        if ctx.few:
            q, k, v = _split(qkv, heads).contiguous().flatten(1, 2)  # each (N H, P, d)
            chances = torch.softmax(_scaled(q, k.transpose(1, 2), q.shape[-1] ** -0.5), -1)
            ctx.save_for_backward(q, k, v, chances)
            return _joined((chances @ v).unflatten(0, (-1, heads)))
        q, k, v = _split(qkv, heads)
        out, logarithms = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        ctx.save_for_backward(q, k, v, out, logarithms)
        return _joined(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        d_out = gradient.unflatten(-1, (ctx.heads, -1)).transpose(1, 2)  # (N, H, P, d)
        q, k, v, *kept = ctx.saved_tensors
        if not ctx.few:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            return torch.cat([_joined(d) for d in backward(d_out, q, k, v, *kept, 0.0, False)], -1), None
        (chances,), d_out = kept, d_out.flatten(0, 1)
        d_scores = torch._softmax_backward_data(d_out @ v.transpose(1, 2), chances, -1, chances.dtype)
        scale = q.shape[-1] ** -0.5
        parts = (
            _scaled(d_scores, k, scale),
            _scaled(d_scores.transpose(1, 2), q, scale),
            chances.transpose(1, 2) @ d_out,
        )
        return torch.cat([_joined(d.unflatten(0, (-1, ctx.heads))) for d in parts], -1), None


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``scale * a @ b`` of (N H, ., .) each, in one pass."""
    return torch.baddbmm(a.new_empty(len(a), a.shape[1], b.shape[2]), a, b, beta=0, alpha=scale)
