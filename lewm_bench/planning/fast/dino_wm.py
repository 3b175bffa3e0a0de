"""DINO-WM's predictor of all tokens of the next frame, packed. Shapes as in ``engine``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_bench.planning.config import Arithmetic
from lewm_bench.planning.fast.engine import Entry, Known, PackedModel, pack_input, pack_modulation, silu
from lewm_bench.planning.fast.linears import Layer, Linears, Ranges


@dataclass(frozen=True)
class TokenBlockParts:
    """A block of the predictor: attention over the tokens of a window, then an MLP."""

    heads: int
    norm1: nn.LayerNorm
    qkv: nn.Linear  # without bias
    out: nn.Linear
    norm2: nn.LayerNorm
    mlp: tuple[nn.Linear, nn.Linear]  # GELU between
    modulation: (
        nn.Linear | None
    )  # shift, scale and gate of both, from silu of the action; None: the action is in the tokens

    @property
    def widths(self) -> tuple[int, int]:
        """Outputs of the widest layers."""
        return self.mlp[0].out_features, self.qkv.out_features


@dataclass(frozen=True)
class DinoWMParts:
    """What of a DINO-WM plans."""

    positions: Tensor  # (history, P, W)
    concat: bool  # the action is further channels of every token; else it modulates, and the output is a change
    action: nn.Linear
    input: nn.Linear | nn.Identity
    blocks: tuple[TokenBlockParts, ...]
    norm: nn.LayerNorm
    output: nn.Linear


class _TokenBlock:
    """One block of DINO-WM's predictor, packed."""

    def __init__(self, block: TokenBlockParts, linears: Linears) -> None:
        self.heads = block.heads
        self.norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in (block.norm1, block.norm2)]
        inner = len(block.qkv.weight) // 3
        self.query = linears.linear(block.qkv.weight[:inner], None)
        self.key_value = linears.linear(block.qkv.weight[inner:], None)
        self.out = linears.linear(block.out.weight, block.out.bias)
        first, second = block.mlp
        self.mlp = linears.mlp(first.weight, first.bias, second.weight, second.bias)
        self.modulation: Layer | None = None
        if block.modulation is not None:
            self.modulation = pack_modulation(block.modulation, linears)

    def __call__(self, x: Tensor, condition: Tensor, entry: Entry, known: Known, last: bool, ranges: Ranges) -> Tensor:
        """A frame's tokens at its positions (n, b, S, P, W), overwritten, to the same; to the first if ``last``.

        Args:
            condition: (b, S, K) of the frame's action.
            known: of the frames before; this one's are added.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = [None] * 6
        if self.modulation is not None:
            modulations = self.modulation(condition, ranges)[:, :, None]  # (b, S, 1, 6*W)
            shift1, scale1, gate1, shift2, scale2, gate2 = modulations.chunk(6, -1)
        y = _modulate(F.layer_norm(x, *self.norms[0]), shift1, scale1)
        key_value = self.key_value(y, ranges).unflatten(-1, (2, self.heads, -1))  # (n, b, S, P, 2, heads, size)
        for first, new in zip(entry.firsts, key_value, strict=True):
            known.setdefault(first, []).append(tuple(new.unbind(-3)))
        if last:
            x, y = x[:1], y[:1]
        queries = self.query(y, ranges).unflatten(-1, (self.heads, -1))
        attended = [_attend_tokens(q, known[first]) for q, first in zip(queries, entry.firsts, strict=False)]
        _add(x, gate1, self.out(torch.stack(attended), ranges))
        if entry.over:
            known.pop(entry.firsts[0])
        y = _modulate(F.layer_norm(x, *self.norms[1]), shift2, scale2)
        return _add(x, gate2, self.mlp(y, ranges))


def _modulate(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    return x if shift is None else torch.addcmul(shift, x, scale)


def _add(x: Tensor, gate: Tensor | None, y: Tensor) -> Tensor:
    return x.add_(y) if gate is None else x.addcmul_(gate, y)


def _attend_tokens(query: Tensor, known: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Queries of a frame (b, S, P, heads, size) over all tokens of its window to (b, S, P, heads * size)."""
    b, S = query.shape[:2]
    keys, values = (
        torch.cat([frame.expand(b, S, -1, -1, -1) for frame in frames], 2).flatten(0, 1).transpose(1, 2)
        for frames in zip(*known, strict=True)
    )  # (b*S, heads, tokens, size)
    out = F.scaled_dot_product_attention(query.flatten(0, 1).transpose(1, 2), keys, values)
    return out.transpose(1, 2).flatten(2).unflatten(0, (b, S))


class PackedDinoWM(PackedModel):
    """DINO-WM's predictor of all tokens of the next frame."""

    def __init__(self, parts: DinoWMParts, arithmetic: Arithmetic = "float32", compiled: bool = False) -> None:
        history, num_tokens, _ = parts.positions.shape
        numbers = num_tokens * max(parts.blocks[0].widths)
        super().__init__(history, arithmetic, compiled, parts.positions.device, numbers)
        self.concat = parts.concat
        self.positions = parts.positions[:, None, None].float()  # (history, 1, 1, P, W)
        self.action = self.linears.exact(parts.action.weight, parts.action.bias)
        self.input = pack_input(parts.input, self.linears)
        self.blocks = [_TokenBlock(block, self.linears) for block in parts.blocks]
        self.depth = len(self.blocks)
        norm = parts.norm
        self.norm = norm.normalized_shape, norm.weight, norm.bias, norm.eps
        self.output = self.linears.exact(parts.output.weight, parts.output.bias)

    def condition(self, actions: Tensor, ranges: Ranges) -> Tensor:
        y = self.action(actions, ranges)
        return y if self.concat else silu(y)

    def advance(self, latent: Tensor, condition: Tensor, entry: Entry, known: list[Known], ranges: Ranges) -> Tensor:
        x = latent
        if self.concat:
            x = torch.cat([x, condition[:, :, None].expand(-1, -1, x.shape[2], -1)], -1)
        x = self.input(x, ranges) + self.positions[entry.positions]  # (n, b, S, P, W)
        for block, keys in zip(self.blocks, known, strict=True):
            x = block(x, condition, entry, keys, block is self.blocks[-1], ranges)
        change = self.output(F.layer_norm(x[0], *self.norm), ranges)
        return change if self.concat else latent + change
