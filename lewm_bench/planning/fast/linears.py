"""Linear layers for inference: weights packed once for the arithmetic and the device that they run on.

Nothing is trained with these. A layer is a function of float32 activations and of the
``Ranges`` that 8-bit arithmetic needs; the others ignore them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_bench.core.errors import UserError
from lewm_bench.planning.config import Arithmetic


class Ranges:
    """Smallest and largest activations of each 8-bit layer, watched while some candidates run in float32."""

    def __init__(self) -> None:
        self.watching = True
        self._found: dict[object, tuple[float, float]] = {}

    def watch(self, layer: object, x: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        before = self._found.get(layer, (0.0, 0.0))  # zero must be exact
        self._found[layer] = min(low, before[0]), max(high, before[1])

    def of(self, layer: object) -> tuple[float, int]:
        """Scale and zero point of the layer's activations as unsigned bytes."""
        low, high = self._found[layer]
        scale = max(high - low, 1e-12) / 255
        return scale, round(-low / scale)


ROWS = 1024  # for which oneDNN lays weights out; a layout for one row is up to a fifth slower at hundreds

Layer = Callable[[Tensor, Ranges], Tensor]


class Norm:
    """LayerNorm without weights. Torch's takes twice as long without as with ones and zeros, for the same numbers."""

    def __init__(self, width: int, eps: float, device: torch.device) -> None:
        self.width, self.eps = width, eps
        self._ones, self._zeros = torch.ones(width, device=device), torch.zeros(width, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, (self.width,), self._ones, self._zeros, self.eps)

    def to_bytes(self, x: Tensor, scale: float, zero: int) -> Tensor:
        """``to_bytes`` of the normalised numbers, which are scaled and shifted on the way."""
        scales, shifts = self._ones / scale, self._zeros + (zero + 0.5)
        return _floored(torch.layer_norm(x, (self.width,), scales, shifts, self.eps))


@cache
def has_onednn() -> bool:
    """Whether this torch has oneDNN's packed linear layers, and they work."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.linspace(-1, 1, 32).view(2, 16), torch.eye(16)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(y, F.gelu(x), atol=1e-5)


@cache
def has_int8() -> bool:
    """Whether this torch has oneDNN's 8-bit linear layers, and large numbers do not overflow in them."""
    x, weight = torch.ones(4, 512), torch.ones(16, 512)
    try:
        layer, ranges = _Int8([(weight, None)]), Ranges()
        layer(x, ranges)
        ranges.watching = False
        y = layer(x, ranges)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(y, x @ weight.T, rtol=0.02)


def require(arithmetic: Arithmetic, device: torch.device) -> None:
    """Refuse an ``arithmetic`` that ``device`` does not have.

    Raises:
        UserError: with what to use.
    """
    if arithmetic == "int8" and (device.type != "cpu" or not has_int8()):
        raise UserError("planner.arithmetic=int8 needs a CPU and a torch with oneDNN's 8-bit layers; use float32")
    if arithmetic == "tf32" and device.type != "cuda":
        raise UserError(f"planner.arithmetic=tf32 is for CUDA, this is {device.type}; use float32")


class Linears:
    """Makes the linear layers of one predictor.

    ``compiled``: for ``torch.compile``, which packs weights itself and cannot look into packed ones.
    """

    def __init__(self, arithmetic: Arithmetic, device: torch.device, compiled: bool = False) -> None:
        require(arithmetic, device)
        if compiled and arithmetic == "int8":
            raise UserError("planner.compile does not go with planner.arithmetic=int8; choose one of them")
        self.arithmetic, self.device = arithmetic, device
        self.onednn = device.type == "cpu" and not compiled and has_onednn()

    def linear(self, weight: Tensor, bias: Tensor | None) -> Layer:
        """x @ weight.T + bias, (..., inputs) to (..., outputs)."""
        if self.arithmetic == "int8":
            return _Int8([(weight, bias)])
        if self.arithmetic == "bfloat16":
            weight, bias = weight.bfloat16(), None if bias is None else bias.bfloat16()
            return lambda x, _: F.linear(x.bfloat16(), weight, bias).float()
        return self.exact(weight, bias)

    def exact(self, weight: Tensor, bias: Tensor | None) -> Layer:
        """In float32 whatever the arithmetic: for layers that cost little."""
        weight, bias = weight.float(), None if bias is None else bias.float()
        if self.onednn:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
            return lambda x, _: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return lambda x, _: F.linear(x, weight, bias)

    def mlp(self, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, norm: Norm | None = None) -> Layer:
        """A norm, where there is one, linear, GELU, linear: (..., inputs) to (..., outputs)."""
        if self.arithmetic == "int8":
            return _Int8([(weight1, bias1), (weight2, bias2)], norm)
        layer = self._mlp(weight1, bias1, weight2, bias2)
        return layer if norm is None else lambda x, ranges: layer(norm(x), ranges)

    def _mlp(self, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Layer:
        if self.arithmetic == "bfloat16":
            weight1, bias1, weight2, bias2 = (t.bfloat16() for t in (weight1, bias1, weight2, bias2))
            return lambda x, _: F.linear(F.gelu(F.linear(x.bfloat16(), weight1, bias1)), weight2, bias2).float()
        second = self.exact(weight2, bias2)
        if self.onednn:
            first = torch.ops.mkldnn._reorder_linear_weight(weight1.contiguous(), ROWS)
            arguments = first, bias1, "gelu", [], "none"
            return lambda x, ranges: second(torch.ops.mkldnn._linear_pointwise(x, *arguments), ranges)
        return lambda x, ranges: second(F.gelu(F.linear(x, weight1, bias1)), ranges)


@cache
def _half_above(zero: int) -> Tensor:
    return torch.tensor(zero + 0.5)


def to_bytes(x: Tensor, scale: float, zero: int) -> Tensor:
    """Float32 numbers to the nearest unsigned bytes that stand for scale * (byte - zero), of the same shape.

    Plain arithmetic, since torch's quantized tensors are going away; conversion drops fractions, hence the half.
    """
    return _floored(torch.add(_half_above(zero), x, alpha=1 / scale))


def _floored(x: Tensor) -> Tensor:
    """Numbers, overwritten, to the bytes below. By way of 16 bits: torch's direct conversion takes four times as long."""
    return x.clamp_(0, 255).to(torch.int16).to(torch.uint8)


class _Int8:
    """One linear layer, or two with GELU between, in unsigned 8-bit activations times signed 8-bit weights.

    Weights are scaled per output. Between the two layers nothing leaves 8 bits, nor between a norm and the first.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor | None]], norm: Norm | None = None) -> None:
        self._float, self._norm = layers, norm
        self._packed = []
        for weight, bias in layers:
            scale = weight.abs().amax(1).clamp_min(1e-12) / 127
            signed = (weight / scale[:, None]).round().to(torch.int8)
            packed = torch.ops.onednn.qlinear_prepack(signed, None)
            self._packed.append((packed, scale, torch.zeros(len(weight), dtype=torch.long), bias))

    def __call__(self, x: Tensor, ranges: Ranges) -> Tensor:
        if ranges.watching:
            return self._watch(x, ranges)
        scale, zero = ranges.of((self, 0))
        y = self._norm.to_bytes(x, scale, zero) if self._norm else to_bytes(x, scale, zero)
        for i, packed in enumerate(self._packed[:-1]):
            after, after_zero = ranges.of((self, i + 1))
            y = torch.ops.onednn.qlinear_pointwise(
                y, scale, zero, *packed, after, after_zero, torch.uint8, "gelu", [], "none"
            )
            scale, zero = after, after_zero
        return torch.ops.onednn.qlinear_pointwise(
            y, scale, zero, *self._packed[-1], 1.0, 0, torch.float32, "none", [], ""
        )

    def _watch(self, x: Tensor, ranges: Ranges) -> Tensor:
        x = self._norm(x) if self._norm else x
        for i, (weight, bias) in enumerate(self._float):
            x = F.gelu(x) if i else x
            ranges.watch((self, i), x)
            x = F.linear(x, weight, bias)
        return x
