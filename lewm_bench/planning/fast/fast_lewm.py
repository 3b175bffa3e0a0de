"""Rollouts of candidate plans by Fast-LeWM, whose one pass knows the latent after every prefix of a plan.

Plans longer than the model's horizon are chained: the next piece starts from the last predicted latent. ``reference``
is the plain way; ``PackedFastLeWM`` gives the same numbers up to rounding, from less work:

- where only the end of a plan counts, only the last prefix has queries in the last block, and a predictor pass;
- the state token sees only itself, so it is computed once per episode and shared by all candidates; the blocks attend
  relative to it (see ``lewm``), so that it needs no query, and its share of the output is one matrix;
- the value projection of a predictor block is one matrix, the modulations of all of its blocks are one layer, and
  affine norms are folded into the layers behind them.

Shapes: B episodes, b of them at a time, S candidates, s of them 1 where they share a latent, H blocks of a plan, n of
them in a piece, A numbers of a block, D latent size, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, Rollout, Score
from lewm_bench.planning.fast.engine import (
    ActionEncoderParts,
    NormedMLP,
    Packed,
    fold_norm,
    fold_projector,
    pack_input,
    pack_modulation,
    plain_norm,
    silu,
)
from lewm_bench.planning.fast.linears import Linears, Ranges

INTERMEDIATE = 2  # blocks to the latent that a plan's end is predicted from once more (paper: 10 environment steps)


class PrefixModel(Protocol):
    """What of a Fast-LeWM the plain way calls."""

    horizon: int  # blocks of the longest prefix
    self_consistency: float  # weight of the disagreement of a plan's end with itself

    def predict_prefixes(self, latent: Tensor, actions: Tensor) -> Tensor:
        """(N, D) and z-scored blocks (N, H, A), H <= horizon, to the latents after 1 to H of them, (N, H, D)."""


def rollout(model: PrefixModel, latent: Tensor, plans: Tensor) -> Tensor:
    """(N, D) latents and z-scored plans (N, H, A) to the latents after each block, (N, H, D)."""
    found = []
    for piece in plans.split(model.horizon, 1):
        found.append(model.predict_prefixes(latent, piece))
        latent = found[-1][:, -1]
    return torch.cat(found, 1)


def reference(model: PrefixModel) -> BeginRollout:
    """The plain way, through which gradients flow. With self-consistency the plan's end comes once more at the end."""

    def begin(latents: Tensor, past_actions: Tensor) -> Rollout:
        del past_actions  # the newest frame is all that it knows

        def rollouts(plans: Tensor, score: Score) -> Tensor:
            B, S, H, _ = plans.shape
            flat, latent = plans.flatten(0, 1), latents[:, -1].repeat_interleave(S, 0)
            imagined = rollout(model, latent, flat)
            if model.self_consistency and H > 1:
                middle = min(INTERMEDIATE, H - 1)
                again = rollout(model, imagined[:, middle - 1], flat[:, middle:])
                imagined = torch.cat([imagined, again[:, -1:]], 1)
            return score(imagined.unflatten(0, (B, S)), slice(0, B))

        return rollouts

    return consistent(begin, model.self_consistency)


def consistent(begin: BeginRollout, weight: float) -> BeginRollout:
    """Adds to scores how far a plan's end is from itself, predicted through an intermediate latent (paper's beta).

    ``begin`` gives latents (b, S, H + 1, D) with the second prediction last, for plans of more than one block.
    """
    if not weight:
        return begin

    def scored(latents: Tensor, past_actions: Tensor) -> Rollout:
        rollouts = begin(latents, past_actions)

        def costs(plans: Tensor, score: Score) -> Tensor:
            if plans.shape[2] == 1:
                return rollouts(plans, score)

            def both(imagined: Tensor, episodes: slice) -> Tensor:
                *_, direct, again = imagined.unbind(2)
                return score(imagined[:, :, :-1], episodes) + weight * (direct - again).square().mean(-1)

            return rollouts(plans, both)

        return costs

    return scored


@dataclass(frozen=True)
class PrefixBlockParts:
    """A block of the prefix encoder: causal attention and MLP, each behind an affine LayerNorm."""

    heads: int
    norm: nn.LayerNorm
    qkv: nn.Linear  # without bias
    out: nn.Linear
    mlp: NormedMLP

    @property
    def widths(self) -> tuple[int, int]:
        """Outputs of the widest layers."""
        return self.mlp.first.out_features, self.qkv.out_features


@dataclass(frozen=True)
class PointwiseBlockParts:
    """A block of the predictor: value projection and MLP, each behind a modulated and an affine LayerNorm."""

    norm1: nn.LayerNorm  # not affine, as norm2: what the prefix modulates
    value: tuple[nn.LayerNorm, nn.Linear, nn.Linear]  # the first linear layer without bias
    norm2: nn.LayerNorm
    mlp: NormedMLP
    modulation: nn.Linear  # shift, scale and gate of both, from silu of the prefix

    @property
    def widths(self) -> tuple[int, int]:
        """Outputs of the widest layers."""
        return self.mlp.first.out_features, self.modulation.out_features


@dataclass(frozen=True)
class FastLeWMParts:
    """What of a Fast-LeWM plans: the prefix encoder up to ``prefix_norms``, then the predictor."""

    positions: Tensor  # (1 + horizon, W), of the state and the blocks behind it
    action_encoder: ActionEncoderParts
    state: tuple[nn.Linear, nn.Linear]  # GELU between
    prefix_blocks: tuple[PrefixBlockParts, ...]
    prefix_norms: tuple[nn.LayerNorm, nn.LayerNorm]  # one after the other
    input: nn.Linear | nn.Identity
    fusion: NormedMLP
    blocks: tuple[PointwiseBlockParts, ...]
    norm: nn.LayerNorm
    projector: nn.Sequential  # linear, BatchNorm, GELU, linear
    self_consistency: float


class Anchor(NamedTuple):
    """What is computed once for a latent from which plans begin."""

    latent: Tensor  # (b, s, W) as the predictor takes it in
    tokens: list[tuple[Tensor, Tensor]]  # per block of the prefix encoder: (b, s, W) normalised, (b, s, W) attended


class _PrefixBlock:
    """One block of the prefix encoder, packed."""

    def __init__(self, block: PrefixBlockParts, linears: Linears) -> None:
        self.heads, self.norm = block.heads, plain_norm(block.norm, linears.device)
        weight, bias = fold_norm(block.norm, block.qkv.weight, None)
        inner = len(weight) // 3
        scale = (inner // block.heads) ** -0.5
        self.query = linears.linear(weight[:inner] * scale, bias[:inner] * scale)
        self.key_value = linears.linear(weight[inner:], None)  # of differences, from which the bias falls out
        value, value_bias, out = weight[2 * inner :], bias[2 * inner :], block.out
        self.out = linears.linear(out.weight, None)
        self.alone = linears.linear(out.weight @ value, out.weight @ value_bias + out.bias)
        self.mlp = block.mlp.pack(linears)

    def leave(self, x: Tensor, ranges: Ranges) -> Tensor:
        """The MLP and its residual, (..., W) to (..., W)."""
        return x + self.mlp(x, ranges)

    def __call__(self, x: Tensor, token: tuple[Tensor, Tensor], wanted: Sequence[int], ranges: Ranges) -> Tensor:
        """Tokens of the blocks (n, b, S, W) to those ``wanted`` of them, (w, b, S, W); ``token`` is the state's."""
        y = self.norm(x)
        keys, values = self.key_value(y - token[0], ranges).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if len(wanted) < len(x):
            x, y = x[list(wanted)], y[list(wanted)]
        queries = self.query(y, ranges).unflatten(-1, (self.heads, -1))
        attended = [_attend(q, keys[: k + 1], values[: k + 1]) for q, k in zip(queries, wanted, strict=True)]
        out = self.out(torch.stack(attended).flatten(3), ranges)
        return self.leave(out.add_(x).add_(token[1]), ranges)


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What a query (b, S, heads, size) adds to the state's value, from keys and values minus the state's.

    These are (k, b, S, heads, size).
    """
    scores = torch.linalg.vecdot(query, keys).movedim(0, -1)  # (b, S, heads, k)
    weights = F.pad(scores, (1, 0)).softmax(-1)[..., 1:, None].unbind(-2)
    out = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        out.addcmul_(weight, value)
    return out


class _PointwiseBlock:
    """One block of the predictor, packed."""

    def __init__(self, block: PointwiseBlockParts, linears: Linears) -> None:
        norm, into, out = block.value
        weight, bias = fold_norm(norm, out.weight @ into.weight, out.bias)
        self.value = linears.linear(weight, bias)
        self.mlp = block.mlp.pack(linears)
        self.modulation = pack_modulation(block.modulation, linears)
        self.norm1, self.value_norm, self.norm2 = (
            plain_norm(each, linears.device) for each in (block.norm1, norm, block.norm2)
        )

    def __call__(self, x: Tensor, condition: Tensor, ranges: Ranges) -> Tensor:
        """States (w, b, S, W), overwritten, to the same; ``condition`` (w, b, S, W) is silu of the prefixes."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition, ranges).chunk(6, -1)
        y = self.value_norm(torch.addcmul(shift1, self.norm1(x), scale1))
        x.addcmul_(gate1, self.value(y, ranges))
        return x.addcmul_(gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), scale2), ranges))


class PackedFastLeWM(Packed):
    """Fast-LeWM's prefix encoder and predictor, with the projector behind them."""

    def __init__(self, parts: FastLeWMParts, config: PlannerConfig) -> None:
        self.horizon, self.final = len(parts.positions) - 1, config.objective == "final"
        self.consistent = parts.self_consistency > 0
        latents = 1 + self.consistent if self.final else self.horizon
        prefix, widest = max(parts.prefix_blocks[0].widths), max(parts.blocks[0].widths)
        numbers = max(self.horizon * prefix, latents * widest)
        super().__init__(config.arithmetic, config.compile, parts.positions.device, numbers)
        self.positions = parts.positions[:, None, None]  # (1 + horizon, 1, 1, W)
        self.embed = parts.action_encoder.pack(self.linears)
        first, second = parts.state
        self.state = self.linears.mlp(first.weight, first.bias, second.weight, second.bias)
        self.prefix_blocks = [_PrefixBlock(block, self.linears) for block in parts.prefix_blocks]
        self.norms = [(n.normalized_shape, n.weight, n.bias, n.eps) for n in parts.prefix_norms]
        self.enter = pack_input(parts.input, self.linears)
        self.fusion = parts.fusion.pack(self.linears)
        self.blocks = [_PointwiseBlock(block, self.linears) for block in parts.blocks]
        projection = fold_projector(parts.projector)
        norm = plain_norm(parts.norm, self.linears.device)
        self.leave = self.linears.mlp(*fold_norm(parts.norm, *projection[:2]), *projection[2:], norm)

    def remember(self, latents: Tensor, past_actions: Tensor, horizon: int, ranges: Ranges) -> Anchor:
        return self.anchor(latents[:, -1:], ranges)

    def roll_out(self, latents: Tensor, known: Anchor, plans: Tensor, ranges: Ranges) -> Tensor:
        """Plans (b, S, H, A) to latents (b, S, H, D), or only the last of them; and once more if ``consistent``."""
        H = plans.shape[2]
        embedded = self.embed(plans.movedim(2, 0).contiguous(), ranges)
        asked = [H - 1] if self.final else list(range(H))
        if not self.consistent or H == 1:
            found = self.chain(known, embedded, asked, ranges)
            return torch.stack([found[k] for k in asked], 2)
        middle = min(INTERMEDIATE, H - 1)
        found = self.chain(known, embedded, [middle - 1, *asked], ranges)
        again = self.chain(self.anchor(found[middle - 1], ranges), embedded[middle:], [H - middle - 1], ranges)
        return torch.stack([*(found[k] for k in asked), again[H - middle - 1]], 2)

    def anchor(self, latent: Tensor, ranges: Ranges) -> Anchor:
        """Of latents (b, s, D)."""
        x, tokens = self.state(latent, ranges) + self.positions[0], []
        for block in self.prefix_blocks:
            y = block.norm(x)
            tokens.append((y, block.alone(y, ranges)))
            if block is not self.prefix_blocks[-1]:
                x = block.leave(x + tokens[-1][1], ranges)
        return Anchor(self.enter(latent, ranges), tokens)

    def chain(self, anchor: Anchor, embedded: Tensor, asked: Sequence[int], ranges: Ranges) -> dict[int, Tensor]:
        """The latents (b, S, D) after blocks ``asked`` (counted from 0) of embedded plans (H, b, S, W)."""
        found: dict[int, Tensor] = {}
        for begin in range(0, len(embedded), self.horizon):
            if begin:
                anchor = self.anchor(found[begin - 1], ranges)
            piece = embedded[begin : begin + self.horizon]
            ends = {k - begin for k in asked if begin <= k < begin + len(piece)} | {len(piece) - 1}
            wanted = sorted(ends)
            latents = self.predict(anchor, self.prefixes(anchor, piece, wanted, ranges), ranges)
            found |= {begin + k: latent for k, latent in zip(wanted, latents, strict=True)}
        return found

    def prefixes(self, anchor: Anchor, embedded: Tensor, wanted: Sequence[int], ranges: Ranges) -> Tensor:
        """Embedded blocks (n, b, S, W), n <= horizon, to the summaries of the ``wanted`` prefixes, (w, b, S, W)."""
        n = len(embedded)
        x = embedded + self.positions[1 : n + 1]
        for block, token in zip(self.prefix_blocks, anchor.tokens, strict=True):
            x = block(x, token, wanted if block is self.prefix_blocks[-1] else range(n), ranges)
        for norm in self.norms:
            x = F.layer_norm(x, *norm)
        return x

    def predict(self, anchor: Anchor, prefixes: Tensor, ranges: Ranges) -> Tensor:
        """Summaries (w, b, S, W) to latents (w, b, S, D)."""
        x = anchor.latent.expand_as(prefixes)
        joined = torch.cat([x, prefixes, x * prefixes], -1)
        x = self.fusion(joined, ranges).add_(x)
        condition = silu(prefixes)
        for block in self.blocks:
            x = block(x, condition, ranges)
        return self.leave(x, ranges)
