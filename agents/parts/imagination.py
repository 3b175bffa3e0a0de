"""Imagined futures of candidate plans, from far less work than calling a world model step by step.

The same numbers as ``planning.rollout`` up to rounding:

- a frame enters the predictor once, at every position that it will hold in a window: with its keys and values kept,
  nothing is computed twice, and what its action does to the blocks is computed once for all of these positions;
- frames of the real past, which all candidates share, enter once per search;
- in the last block only the newest frame has queries, an output and an MLP;
- a LeWM frame at the first position of a window sees only itself, so its value and output projections are one matrix;
  the later frames attend relative to it: softmax knows differences of keys only, and weights that sum to one make
  sum_j w_j v_j = v_0 + sum_j w_j (v_j - v_0), so the first frame needs no query, key or value at all;
- LeWM's affine LayerNorms, the scale of its attention and its BatchNorm are folded into the linear layers beside them.

Candidates are computed in pieces of a fixed size, so that memory never fails and an episode's plans do not depend on
the episodes beside it.

Shapes: B episodes, b of them at a time, S candidates (1 for what they share), T real frames, H blocks of a plan,
A numbers of a block, D latent size, P tokens and C channels of a token latent, W width, n positions of a frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm_bench.agents.parts.linears import Layer, Linears, Ranges
from lewm_bench.planning.config import Arithmetic
from lewm_bench.planning.cost import Imagination, Score
from lewm_bench.system.device import tf32

if TYPE_CHECKING:
    from lewm_bench.agents.parts.nets import Projector

CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**28}
"""Activations of the widest layer that are computed together. On a CPU more is not faster: they leave its caches."""

Known = dict[int, list[tuple[Tensor, Tensor]]]
"""Keys and values of the frames of windows, by the window's first frame; (b, S or 1, heads, head size) each, with the
tokens behind S where a frame has several. LeWM keeps of the first frame what it attends from and to, (b, S or 1, W)
each, and of the later ones keys and values minus those of the first."""


@dataclass(frozen=True)
class Entry:
    """What is computed when a frame has become known: it enters all windows that will hold it."""

    frame: int
    firsts: tuple[int, ...]  # first frames of these windows; the earliest is the one whose prediction is due
    over: bool  # no later frame enters that one

    @property
    def positions(self) -> list[int]:
        """Where the frame stands in the windows."""
        return [self.frame - first for first in self.firsts]


def entries(real: int, horizon: int, history: int) -> list[Entry]:
    """The frames of a rollout from ``real`` frames over ``horizon`` blocks, in the order in which they become known.

    The last ``horizon`` of them lead to the next latent and differ between candidates; those before are shared.
    """
    firsts = [max(0, real + step - history) for step in range(horizon)]  # of the window of each step
    found = []
    for frame in range(firsts[0], real - 1 + horizon):
        step = frame - (real - 1)  # negative for the shared frames, from which nothing is predicted
        windows = sorted({first for first in firsts[max(step, 0) :] if first <= frame})
        found.append(Entry(frame, tuple(windows), step >= 0 and windows[0] not in firsts[step + 1 :]))
    return found


def silu(x: Tensor) -> Tensor:
    """As in torch, whose own computes the last numbers of a thread's part in another way than the rest: with it a
    candidate's cost would depend on its place among the others. ``sigmoid`` and ``softmax(0)`` are the same."""
    return x / (1 + torch.exp(-x))


class Packed(ABC):
    """A model packed for inference; called with a context it begins a search."""

    def __init__(self, arithmetic: Arithmetic, compiled: bool, device: torch.device, numbers: int) -> None:
        """``numbers``: activations of the widest layer for one candidate."""
        self.arithmetic = arithmetic
        self.linears = Linears(arithmetic, device, compiled)
        self.candidates = max(1, CHUNK_NUMBERS.get(device.type, 2**28) // numbers)
        # With oneDNN a row's numbers do not depend on how many rows there are, so episodes can share a call. Other
        # libraries choose their kernels by size, and 8-bit ranges belong to one episode.
        self.together = self.linears.onednn and arithmetic == "float32"
        self.compiled = None
        if compiled:
            options = {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": {"freezing": True}}
            self.compiled = torch.compile(self._from_scratch, dynamic=False, **options)

    def __call__(self, latents: Tensor, past_actions: Tensor) -> Imagination:
        """Begin a search from latents (B, T, *L) and z-scored actions (B, T-1, A)."""
        return _Search(self, latents, past_actions)

    @abstractmethod
    def remember(self, latents: Tensor, past_actions: Tensor, horizon: int, ranges: Ranges) -> Any:
        """What all candidates of ``horizon`` blocks share, from the real frames (b, T, *L)."""

    @abstractmethod
    def imagine(self, latents: Tensor, known: Any, plans: Tensor, ranges: Ranges) -> Tensor:
        """Plans (b, S, H, A) from real frames (b, T, *L), and what is known of them, to latents (b, S, H, *L)."""

    def _from_scratch(self, latents: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """Both of the above, in tensors only."""
        known = self.remember(latents, past_actions, plans.shape[2], Ranges())
        return self.imagine(latents, known, plans, Ranges())


class PackedModel(Packed):
    """A predictor of the next frame from a window of frames, packed."""

    depth: int  # blocks

    def __init__(self, history: int, arithmetic: Arithmetic, compiled: bool, device: torch.device, numbers: int):
        """``numbers``: activations of the widest layer for one frame of one candidate."""
        super().__init__(arithmetic, compiled, device, history * numbers)
        self.history = history

    @abstractmethod
    def condition(self, actions: Tensor, ranges: Ranges) -> Tensor:
        """Z-scored blocks (..., A) to what the predictor reads of them, (..., K)."""

    @abstractmethod
    def advance(self, latent: Tensor, condition: Tensor, entry: Entry, known: list[Known], ranges: Ranges) -> Tensor:
        """A frame's latent (b, S, *L) and condition (b, S, K) to the next latent; ``known``, per block, takes it in."""

    def remember(self, latents: Tensor, past_actions: Tensor, horizon: int, ranges: Ranges) -> list[Known]:
        """Per block, what is known of the real frames (b, T, *L) but the last: what all candidates share."""
        known: list[Known] = [{} for _ in range(self.depth)]
        conditions = self.condition(past_actions, ranges)  # (b, T-1, K)
        for entry in entries(latents.shape[1], horizon, self.history)[:-horizon]:
            now = slice(entry.frame, entry.frame + 1)
            self.advance(latents[:, now], conditions[:, now], entry, known, ranges)
        return known

    def imagine(self, latents: Tensor, known: list[Known], plans: Tensor, ranges: Ranges) -> Tensor:
        """Plans (b, S, H, A) from real frames (b, T, *L), and what is known of them, to latents (b, S, H, *L)."""
        _, S, H, _ = plans.shape
        known = [{first: list(pairs) for first, pairs in block.items()} for block in known]
        conditions = self.condition(plans.movedim(2, 0).contiguous(), ranges)  # (H, b, S, K)
        latent = latents[:, -1:].expand(-1, S, *latents.shape[2:])
        imagined = []
        for condition, entry in zip(conditions, entries(latents.shape[1], H, self.history)[-H:], strict=True):
            latent = self.advance(latent, condition, entry, known, ranges)
            imagined.append(latent)
        return torch.stack(imagined, 2)


class _Search:
    """Imagination from one context. 8-bit ranges are those of the first candidates of each piece."""

    def __init__(self, packed: Packed, latents: Tensor, past_actions: Tensor) -> None:
        self._packed = packed
        self._latents, self._past = latents.float(), past_actions.float()
        self._ranges: dict[tuple[int, ...], Ranges] = {}
        self._known: dict[tuple[int, ...], Any] = {}

    def __call__(self, plans: Tensor, score: Score) -> Tensor:
        """Scores (B, S) of plans (B, S, H, A)."""
        B, S = plans.shape[:2]
        pieces = -(-S // self._packed.candidates)
        size = -(-S // pieces)
        episodes = max(1, self._packed.candidates // S) if self._packed.together else 1
        rows = []
        with tf32(self._packed.arithmetic == "tf32"):
            for begin in range(0, B, episodes):
                chosen = slice(begin, min(begin + episodes, B))
                parts = plans[chosen].split(size, 1)
                scores = [score(self._imagine(part, chosen, number), chosen) for number, part in enumerate(parts)]
                rows.append(torch.cat(scores, 1))
        return torch.cat(rows)

    def _imagine(self, plans: Tensor, episodes: slice, piece: int) -> Tensor:
        """(b, S, H, A) to (b, S, H, *L)."""
        packed, latents, past = self._packed, self._latents[episodes], self._past[episodes]
        if packed.compiled is not None:
            return packed.compiled(latents, past, plans)
        ranges = self._ranges.setdefault((episodes.start, piece, *plans.shape[1:3]), Ranges())
        key = episodes.start, episodes.stop, plans.shape[2]
        if key not in self._known:
            self._known[key] = packed.remember(latents, past, plans.shape[2], ranges)
        imagined = packed.imagine(latents, self._known[key], plans, ranges)
        ranges.watching = False
        return imagined


def fold_norm(norm: torch.nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A linear layer behind an affine LayerNorm as one behind a plain LayerNorm."""
    shift = weight @ norm.bias
    return weight * norm.weight, shift if bias is None else bias + shift


def fold_projector(projector: Projector) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of the two linear layers, the BatchNorm between in evaluation mode included."""
    first, batch_norm, _, second = projector.net
    scale = batch_norm.weight / (batch_norm.running_var + batch_norm.eps).sqrt()
    bias = (first.bias - batch_norm.running_mean) * scale + batch_norm.bias
    return first.weight * scale[:, None], bias, second.weight, second.bias


class _LeWMBlock:
    """One block of LeWM's predictor, packed."""

    def __init__(self, block: nn.Module, linears: Linears) -> None:
        self.heads = block.heads
        self.eps1, self.eps2 = block.norm1.eps, block.norm2.eps
        norm, qkv, out = block.attn["norm"], block.attn["to_qkv"], block.attn["to_out"][0]
        self.attention_eps = norm.eps
        weight, bias = fold_norm(norm, qkv.weight, qkv.bias)
        inner = len(weight) // 3
        scale = (inner // block.heads) ** -0.5
        self.query = linears.linear(weight[:inner] * scale, bias[:inner] * scale)
        self.key_value = linears.linear(weight[inner:], None)  # of differences, from which the bias falls out
        self.out = linears.linear(out.weight, None)
        value, value_bias = weight[2 * inner :], bias[2 * inner :]
        self.alone = linears.linear(out.weight @ value, out.weight @ value_bias + out.bias)
        norm, first, second = block.mlp["net"][0], block.mlp["net"][1], block.mlp["net"][4]
        self.mlp_eps = norm.eps
        self.mlp = linears.mlp(*fold_norm(norm, first.weight, first.bias), second.weight, second.bias)
        modulation = block.adaLN_modulation[1]
        bias = modulation.bias.unflatten(0, (6, -1)).clone()
        bias[[1, 4]] += 1  # x * (1 + scale) + shift
        self.modulation = linears.linear(modulation.weight, bias.flatten())

    def __call__(
        self, x: Tensor, modulations: Tensor, entry: Entry, known: Known, last: bool, ranges: Ranges
    ) -> Tensor:
        """A frame at its positions (n, b, S, W), overwritten, to the same; to the first position (1, b, S, W) if ``last``.

        Args:
            modulations: (b, S, 6*W) of the frame's action.
            known: of the frames before; this one's are added.
            last: whether this is the last block, so that nothing else is asked of the later windows.
        """
        W = x.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations.chunk(6, -1)
        y = torch.addcmul(shift1, F.layer_norm(x, (W,), eps=self.eps1), scale1)
        y = F.layer_norm(y, (W,), eps=self.attention_eps)
        seeing = len(x) - (entry.firsts[-1] == entry.frame)  # the others stand first in their window and see themselves
        if seeing < len(x):
            known[entry.frame] = [(y[-1], self.alone(y[-1], ranges))]
        if seeing:
            windows = [known[first] for first in entry.firsts[:seeing]]
            change = torch.stack([here - window[0][0] for here, window in zip(y, windows, strict=False)])
            key_value = self.key_value(change, ranges).unflatten(-1, (2, self.heads, -1))
            for window, new in zip(windows, key_value, strict=True):
                window.append(tuple(new.unbind(-3)))
        if last:
            x, seeing = x[:1], min(seeing, 1)
        if seeing:
            queries = self.query(y[:seeing], ranges).unflatten(-1, (self.heads, -1))
            attended = [_attend(q, window[1:]) for q, window in zip(queries, windows, strict=False)]
            out = self.out(torch.stack(attended).flatten(3), ranges)
            for each, window in zip(out, windows, strict=False):
                each += window[0][1]
            x[:seeing].addcmul_(gate1, out)
        if seeing < len(x):
            x[-1].addcmul_(gate1, known[entry.frame][0][1])
        if entry.over:
            known.pop(entry.firsts[0])
        y = torch.addcmul(shift2, F.layer_norm(x, (W,), eps=self.eps2), scale2)
        return x.addcmul_(gate2, self.mlp(F.layer_norm(y, (W,), eps=self.mlp_eps), ranges))


def _attend(query: Tensor, changes: list[tuple[Tensor, Tensor]]) -> Tensor:
    """What a query (b, S, heads, size) adds to the first frame's value, from keys and values minus the first frame's.

    For so few frames a fused attention kernel takes longer.
    """
    scores = [torch.linalg.vecdot(query, key) for key, _ in changes]
    scores = torch.stack([torch.zeros_like(scores[0]), *scores], -1)  # (b, S, heads, frames)
    weights = scores.softmax(-1)[..., 1:, None].unbind(-2)
    out = weights[0] * changes[0][1]
    for weight, (_, value) in zip(weights[1:], changes[1:], strict=True):
        out.addcmul_(weight, value)
    return out


class PackedLeWM(PackedModel):
    """LeWM's predictor, with the projector behind it."""

    def __init__(self, model: nn.Module, arithmetic: Arithmetic = "float32", compiled: bool = False) -> None:
        config, predictor, encoder = model.config, model.predictor, model.action_encoder
        device = predictor.pos_embedding.device
        numbers = max(config.mlp_hidden, 3 * config.heads * config.head_size)
        super().__init__(config.history, arithmetic, compiled, device, numbers)
        self.positions = predictor.pos_embedding[0, :, None, None].float()  # (history, 1, 1, W)
        self.embed_latent: Layer = lambda x, _: x
        if config.latent != config.width:
            self.embed_latent = self.linears.exact(predictor.input_proj.weight, predictor.input_proj.bias)
        self.blocks = [_LeWMBlock(block, self.linears) for block in predictor.transformer["layers"]]
        self.depth = len(self.blocks)
        norm, projection = predictor.transformer["norm"], fold_projector(model.pred_proj)
        self.eps = norm.eps
        self.leave = self.linears.mlp(*fold_norm(norm, *projection[:2]), *projection[2:])
        self.bottleneck = self.linears.exact(encoder.patch_embed.weight[:, :, 0], encoder.patch_embed.bias)
        self.embed1 = self.linears.exact(encoder.embed[0].weight, encoder.embed[0].bias)
        self.embed2 = self.linears.exact(encoder.embed[2].weight, encoder.embed[2].bias)

    def condition(self, actions: Tensor, ranges: Ranges) -> Tensor:
        y = self.embed1(self.bottleneck(actions, ranges), ranges)
        return silu(self.embed2(silu(y), ranges))

    def advance(self, latent: Tensor, condition: Tensor, entry: Entry, known: list[Known], ranges: Ranges) -> Tensor:
        x = self.embed_latent(latent, ranges) + self.positions[entry.positions]  # (n, b, S, W)
        for block, keys in zip(self.blocks, known, strict=True):
            x = block(x, block.modulation(condition, ranges), entry, keys, block is self.blocks[-1], ranges)
        return self.leave(F.layer_norm(x[0], x.shape[-1:], eps=self.eps), ranges)


class _TokenBlock:
    """One block of DINO-WM's predictor, packed."""

    def __init__(self, block: nn.Module, linears: Linears) -> None:
        self.heads = block.heads
        self.norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in (block.norm1, block.norm2)]
        inner = len(block.qkv.weight) // 3
        self.query = linears.linear(block.qkv.weight[:inner], None)
        self.key_value = linears.linear(block.qkv.weight[inner:], None)
        self.out = linears.linear(block.out[0].weight, block.out[0].bias)
        first, second = block.mlp[0], block.mlp[3]
        self.mlp = linears.mlp(first.weight, first.bias, second.weight, second.bias)
        self.modulation: Layer | None = None
        if block.modulation is not None:
            bias = block.modulation.bias.unflatten(0, (6, -1)).clone()
            bias[[1, 4]] += 1  # x * (1 + scale) + shift
            self.modulation = linears.linear(block.modulation.weight, bias.flatten())

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

    def __init__(self, model: nn.Module, arithmetic: Arithmetic = "float32", compiled: bool = False) -> None:
        predictor = model.predictor
        device, blocks = predictor.positions.device, predictor.blocks
        hidden = blocks[0].mlp[0].out_features
        numbers = predictor.num_tokens * max(hidden, blocks[0].qkv.out_features)
        super().__init__(model.history, arithmetic, compiled, device, numbers)
        self.concat = predictor.concat
        positions = predictor.positions[0].unflatten(0, (model.history, predictor.num_tokens))
        self.positions = positions[:, None, None].float()  # (history, 1, 1, P, W)
        self.action = self.linears.exact(predictor.action.weight, predictor.action.bias)
        self.input: Layer = lambda x, _: x
        if isinstance(predictor.input, nn.Linear):
            self.input = self.linears.exact(predictor.input.weight, predictor.input.bias)
        self.blocks = [_TokenBlock(block, self.linears) for block in blocks]
        self.depth = len(self.blocks)
        norm = predictor.norm
        self.norm = norm.normalized_shape, norm.weight, norm.bias, norm.eps
        self.output = self.linears.exact(predictor.output.weight, predictor.output.bias)

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
