"""LeWM's predictor and those of the objectives that train the same networks, packed.

Beside what ``engine`` saves:

- a frame at the first position of a window sees only itself, so its value and output projections are one matrix;
- the later frames attend relative to it: softmax knows differences of keys only, and weights that sum to one make
  sum_j w_j v_j = v_0 + sum_j w_j (v_j - v_0), so the first frame needs no query, key or value at all.

Shapes as in ``engine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lewm_bench.planning.config import Arithmetic
from lewm_bench.planning.fast.engine import (
    ActionEncoderParts,
    Entry,
    Known,
    NormedMLP,
    PackedModel,
    fold_norm,
    fold_projector,
    pack_input,
    pack_modulations,
    plain_norm,
    silu,
)
from lewm_bench.planning.fast.linears import Linears, Ranges


@dataclass(frozen=True)
class LeWMBlockParts:
    """A block of the predictor: attention and MLP, each behind a modulated and an affine LayerNorm."""

    heads: int
    norm1: nn.LayerNorm  # not affine, as norm2: what the action modulates
    attention_norm: nn.LayerNorm
    qkv: nn.Linear
    out: nn.Linear
    norm2: nn.LayerNorm
    mlp: NormedMLP
    modulation: nn.Linear  # shift, scale and gate of the attention, then of the MLP, from silu of the action embedding

    @property
    def widths(self) -> tuple[int, int]:
        """Outputs of the widest layers."""
        return self.mlp.first.out_features, self.qkv.out_features


@dataclass(frozen=True)
class LeWMParts:
    """What of a model with LeWM's networks plans."""

    positions: Tensor  # (history, W)
    input: nn.Linear | nn.Identity
    action_encoder: ActionEncoderParts
    blocks: tuple[LeWMBlockParts, ...]
    norm: nn.LayerNorm
    projector: nn.Sequential  # linear, BatchNorm, GELU, linear


class _LeWMBlock:
    """One block of LeWM's predictor, packed."""

    def __init__(self, block: LeWMBlockParts, linears: Linears) -> None:
        self.heads = block.heads
        norms = block.norm1, block.attention_norm, block.norm2
        self.norm1, self.attention_norm, self.norm2 = (plain_norm(norm, linears.device) for norm in norms)
        weight, bias = fold_norm(block.attention_norm, block.qkv.weight, block.qkv.bias)
        out = block.out
        inner = len(weight) // 3
        scale = (inner // block.heads) ** -0.5
        self.query = linears.linear(weight[:inner] * scale, bias[:inner] * scale)
        self.key_value = linears.linear(weight[inner:], None)  # of differences, from which the bias falls out
        self.out = linears.linear(out.weight, None)
        value, value_bias = weight[2 * inner :], bias[2 * inner :]
        self.alone = linears.linear(out.weight @ value, out.weight @ value_bias + out.bias)
        self.mlp = block.mlp.pack(linears)

    def __call__(
        self, x: Tensor, modulations: Sequence[Tensor], entry: Entry, known: Known, last: bool, ranges: Ranges
    ) -> Tensor:
        """A frame at its positions (n, b, S, W), overwritten, to the same; to the first position (1, b, S, W) if ``last``.

        Args:
            modulations: of the frame's action, (b, S, W) each.
            known: of the frames before; this one's are added.
            last: whether this is the last block, so that nothing else is asked of the later windows.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations
        y = self.attention_norm(torch.addcmul(shift1, self.norm1(x), scale1))
        seeing = len(x) - (entry.firsts[-1] == entry.frame)  # the others stand first in their window and see themselves
        if seeing < len(x):
            known[entry.frame] = [(y[-1], self.alone(y[-1], ranges))]
        if seeing:
            windows = [known[first] for first in entry.firsts[:seeing]]
            change = torch.empty_like(y[:seeing])
            for each, here, window in zip(change.unbind(), y.unbind(), windows, strict=False):
                torch.sub(here, window[0][0], out=each)
            key_value = self.key_value(change, ranges).unflatten(-1, (2, self.heads, -1))
            for window, new in zip(windows, key_value.unbind(), strict=True):
                window.append(new.unbind(-3))
        if last:
            x, seeing = x[:1], min(seeing, 1)
        if seeing:
            queries = self.query(y[:seeing], ranges)  # (seeing, b, S, heads * size)
            for query, window in zip(queries.unflatten(-1, (self.heads, -1)).unbind(), windows, strict=False):
                _attend(query, window[1:])
            out = self.out(queries, ranges)
            for each, window in zip(out.unbind(), windows, strict=False):
                each += window[0][1]
            x[:seeing].addcmul_(gate1, out)
        if seeing < len(x):
            x[-1].addcmul_(gate1, known[entry.frame][0][1])
        if entry.over:
            known.pop(entry.firsts[0])
        return x.addcmul_(gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), scale2), ranges))


def _attend(query: Tensor, changes: list[tuple[Tensor, Tensor]]) -> None:
    """Overwrites a query (b, S, heads, size) with what it adds to the first frame's value, from keys and values minus
    the first frame's.

    For so few frames a fused attention kernel takes longer, and torch's softmax longer still: it is for long rows.
    """
    weights = _weights([torch.linalg.vecdot(query, key) for key, _ in changes])
    torch.mul(weights[0], changes[0][1], out=query)
    for weight, (_, value) in zip(weights[1:], changes[1:], strict=True):
        query.addcmul_(weight, value)


def _weights(scores: list[Tensor]) -> list[Tensor]:
    """Softmax over frames, from their scores minus the first frame's, overwritten; (b, S, heads) to (b, S, heads, 1) each.

    The first's are left out. Of sums and ``exp`` alone: see ``silu``.
    """
    if len(scores) == 1:
        return [scores[0].neg_().exp_().add_(1).reciprocal_()[..., None]]
    top = torch.stack(scores).amax(0).clamp_min_(0)
    powers = [score.sub_(top).exp_() for score in scores]
    total = top.neg_().exp_()
    for power in powers:
        total += power
    return [power.div_(total)[..., None] for power in powers]


class PackedLeWM(PackedModel):
    """LeWM's predictor, with the projector behind it."""

    def __init__(self, parts: LeWMParts, arithmetic: Arithmetic = "float32", compiled: bool = False) -> None:
        history, numbers = len(parts.positions), max(parts.blocks[0].widths)
        super().__init__(history, arithmetic, compiled, parts.positions.device, numbers)
        self.positions = parts.positions[:, None, None].float()  # (history, 1, 1, W)
        self.embed_latent = pack_input(parts.input, self.linears)
        self.embed_action = parts.action_encoder.pack(self.linears)
        self.blocks = [_LeWMBlock(block, self.linears) for block in parts.blocks]
        self.depth = len(self.blocks)
        self.modulation = pack_modulations([block.modulation for block in parts.blocks], self.linears)
        projection = fold_projector(parts.projector)
        norm = plain_norm(parts.norm, self.linears.device)
        self.leave = self.linears.mlp(*fold_norm(parts.norm, *projection[:2]), *projection[2:], norm)

    def condition(self, actions: Tensor, ranges: Ranges) -> Tensor:
        return silu(self.embed_action(actions, ranges))

    def advance(self, latent: Tensor, condition: Tensor, entry: Entry, known: list[Known], ranges: Ranges) -> Tensor:
        x = self.embed_latent(latent, ranges) + self.positions[entry.positions]  # (n, b, S, W)
        modulations = self.modulation(condition, ranges).chunk(6 * self.depth, -1)  # (b, S, W) each
        for i, (block, keys) in enumerate(zip(self.blocks, known, strict=True)):
            x = block(x, modulations[6 * i : 6 * i + 6], entry, keys, block is self.blocks[-1], ranges)
        return self.leave(x[0], ranges)
