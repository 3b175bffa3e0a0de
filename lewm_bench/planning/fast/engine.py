"""Rollouts of candidate plans, from far less work than calling a world model step by step.

The same numbers as ``cost.rollout`` up to rounding:

- a frame enters the predictor once, at every position that it will hold in a window: with its keys and values kept,
  nothing is computed twice, and what its action does to the blocks is computed once for all of these positions;
- frames of the real past, which all candidates share, enter once per search;
- in the last block only the newest frame has queries, an output and an MLP;
- affine LayerNorms, the scale of attention and BatchNorm are folded into the linear layers beside them, where they can be.

Candidates are computed in pieces of a fixed size, so that memory never fails and an episode's plans do not depend on
the episodes beside it. Where kernels are chosen by size, the calls of all episodes have one size.

Shapes: B episodes, b of them at a time, S candidates (1 for what they share), T real frames, H blocks of a plan,
A numbers of a block, D latent size, P tokens and C channels of a token latent, W width, n positions of a frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lewm_bench.planning.config import Arithmetic
from lewm_bench.planning.cost import Rollout, Score
from lewm_bench.planning.fast.linears import Layer, Linears, Norm, Ranges
from lewm_bench.system.device import sized, tf32

CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**28}
"""Activations of the widest layer that are computed together. On a CPU more is not faster: they leave its caches."""

WATCHED = 40
"""At least so many candidates of a search's first iteration are rolled out in float32 too, for the ranges of 8 bits."""

Sharing = Literal["any size", "one size", "no"]
"""Whether episodes share a call: so many as fit, so many in every call, or never."""

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
    below = torch.neg(x).exp_().add_(1)
    return torch.div(x, below, out=below)


class Packed(ABC):
    """A model packed for inference; called with a context it begins a search."""

    def __init__(self, arithmetic: Arithmetic, compiled: bool, device: torch.device, numbers: int) -> None:
        """``numbers``: activations of the widest layer for one candidate."""
        self.arithmetic = arithmetic
        self.linears = Linears(arithmetic, device, compiled)
        self.candidates = max(1, CHUNK_NUMBERS.get(device.type, 2**28) // numbers)
        # With oneDNN a row's numbers do not depend on how many rows there are. CUDA's libraries choose their kernels by
        # size, so there it has to be one (whether a row's place matters: ``planning.company``); 8-bit ranges belong to
        # one episode.
        self.sharing: Sharing = "no"
        if self.linears.onednn and arithmetic == "float32":
            self.sharing = "any size"
        elif sized(device):
            self.sharing = "one size"
        self.compiled = None
        if compiled:
            options = {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": {"freezing": True}}
            self.compiled = torch.compile(self._from_scratch, dynamic=False, **options)

    def __call__(self, latents: Tensor, past_actions: Tensor) -> Rollout:
        """Begin a search from latents (B, T, *L) and z-scored actions (B, T-1, A)."""
        return _Search(self, latents, past_actions)

    def episodes(self, B: int, S: int) -> int:
        """How many of B episodes with S candidates each share a call."""
        most = max(1, self.candidates // S)
        if self.sharing == "any size":
            return most
        if self.sharing == "one size":
            return next(n for n in range(min(most, B), 0, -1) if B % n == 0)
        return 1

    @abstractmethod
    def remember(self, latents: Tensor, past_actions: Tensor, horizon: int, ranges: Ranges) -> Any:
        """What all candidates of ``horizon`` blocks share, from the real frames (b, T, *L)."""

    @abstractmethod
    def roll_out(self, latents: Tensor, known: Any, plans: Tensor, ranges: Ranges) -> Tensor:
        """Plans (b, S, H, A) from real frames (b, T, *L), and what is known of them, to latents (b, S, H, *L)."""

    def _from_scratch(self, latents: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """Both of the above, in tensors only."""
        known = self.remember(latents, past_actions, plans.shape[2], Ranges())
        return self.roll_out(latents, known, plans, Ranges())


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

    def roll_out(self, latents: Tensor, known: list[Known], plans: Tensor, ranges: Ranges) -> Tensor:
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
    """A ``Rollout`` from one context. 8-bit ranges are those of some of the first candidates of each piece."""

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
        episodes = self._packed.episodes(B, S)
        rows = []
        with tf32(self._packed.arithmetic == "tf32"):
            for begin in range(0, B, episodes):
                chosen = slice(begin, min(begin + episodes, B))
                parts = plans[chosen].split(size, 1)
                scores = [score(self._roll_out(part, chosen, number), chosen) for number, part in enumerate(parts)]
                rows.append(torch.cat(scores, 1))
        return torch.cat(rows)

    def _roll_out(self, plans: Tensor, episodes: slice, piece: int) -> Tensor:
        """(b, S, H, A) to (b, S, H, *L)."""
        packed, latents, past = self._packed, self._latents[episodes], self._past[episodes]
        if packed.compiled is not None:
            return packed.compiled(latents, past, plans)
        ranges = self._ranges.setdefault((episodes.start, piece, *plans.shape[1:3]), Ranges())
        key = episodes.start, episodes.stop, plans.shape[2]
        if key not in self._known:
            self._known[key] = packed.remember(latents, past, plans.shape[2], ranges)
        if ranges.watching and packed.arithmetic == "int8":
            every = max(1, plans.shape[1] // WATCHED)
            packed.roll_out(latents, self._known[key], plans[:, ::every], ranges)
        ranges.watching = False
        return packed.roll_out(latents, self._known[key], plans, ranges)


class NormedMLP(NamedTuple):
    """An affine LayerNorm, linear, GELU, linear."""

    norm: nn.LayerNorm
    first: nn.Linear
    second: nn.Linear

    def pack(self, linears: Linears) -> Layer:
        """The same, with what is affine about the norm in the first layer."""
        folded = fold_norm(self.norm, self.first.weight, self.first.bias)
        return linears.mlp(*folded, self.second.weight, self.second.bias, plain_norm(self.norm, linears.device))


class ActionEncoderParts(NamedTuple):
    """A linear bottleneck (a convolution of kernel 1), then linear, SiLU, linear."""

    bottleneck: nn.Conv1d
    first: nn.Linear
    second: nn.Linear

    def pack(self, linears: Linears) -> Layer:
        """Z-scored blocks (..., A) to embeddings (..., W), in float32 whatever the arithmetic."""
        bottleneck = linears.exact(self.bottleneck.weight[:, :, 0], self.bottleneck.bias)
        first, second = (linears.exact(layer.weight, layer.bias) for layer in (self.first, self.second))
        return lambda x, ranges: second(silu(first(bottleneck(x, ranges), ranges)), ranges)


def pack_input(layer: nn.Linear | nn.Identity, linears: Linears) -> Layer:
    """What takes latents to the predictor's width: nothing where they have it."""
    if isinstance(layer, nn.Identity):
        return lambda x, _: x
    return linears.exact(layer.weight, layer.bias)


def pack_modulation(layer: nn.Linear, linears: Linears) -> Layer:
    """Shift, scale and gate of the attention and of the MLP (AdaLN), for x * scale + shift in place of x * (1 + scale)."""
    return pack_modulations([layer], linears)


def pack_modulations(layers: Sequence[nn.Linear], linears: Linears) -> Layer:
    """Those of several blocks, one behind the other, from one matrix product."""
    bias = torch.stack([layer.bias.unflatten(0, (6, -1)) for layer in layers])  # (blocks, 6, W)
    bias[:, [1, 4]] += 1
    return linears.linear(torch.cat([layer.weight for layer in layers]), bias.flatten())


def plain_norm(norm: nn.LayerNorm, device: torch.device) -> Norm:
    """What ``fold_norm`` leaves of a norm."""
    (width,) = norm.normalized_shape
    return Norm(width, norm.eps, device)


def fold_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A linear layer behind an affine LayerNorm as one behind a plain LayerNorm."""
    shift = weight @ norm.bias
    return weight * norm.weight, shift if bias is None else bias + shift


def fold_projector(projector: nn.Sequential) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of the two linear layers of linear, BatchNorm (in evaluation mode), GELU, linear."""
    first, batch_norm, _, second = projector
    scale = batch_norm.weight / (batch_norm.running_var + batch_norm.eps).sqrt()
    bias = (first.bias - batch_norm.running_mean) * scale + batch_norm.bias
    return first.weight * scale[:, None], bias, second.weight, second.bias
