"""Imagined futures of candidate plans, several times faster than calling a world model step by step.

The same numbers as ``planning.rollout`` up to rounding, from less work:

- the action embeddings of all candidates, and what the blocks make of them, are computed once per call;
- while the window grows, keys and values of its earlier frames are kept (once it slides, positions shift and they
  are computed anew); those of the real past, which all candidates share, are computed once per search;
- in the last layer only the last frame has a query, an output and an MLP; the first frame of a window sees only
  itself, so it needs no query, and its value and output projections are one matrix;
- affine LayerNorms, the scale of the attention and BatchNorm are folded into the linear layers next to them.

Shapes: B episodes, S candidates, N = B*S rows, T real frames, H blocks of a plan, A numbers of a block, D latent size,
W width, I inner width = heads x head size, n new frames of a window. New frames lie in the first axis, (n, N, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_bench.agents.linears import Layer, Ranges, has_onednn, linear, mlp, require
from lewm_bench.planning import Arithmetic, Score

if TYPE_CHECKING:
    from lewm_bench.agents.lewm import LeWM, PredictorBlock
    from lewm_bench.agents.nets import Projector

Keys = list[tuple[Tensor, Tensor]]  # keys and values (B, S or 1, heads, head size) of the frames of a window


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


@dataclass(frozen=True)
class Window:
    """What one step of a rollout computes: frames ``start`` to ``stop`` at positions from ``start - first``."""

    first: int  # frame at position 0
    start: int  # first frame whose keys are not there yet
    stop: int  # one behind the newest frame
    kept: bool  # keys of the window before go on; otherwise those of the shared frames ``first`` to ``start``
    grows: bool  # the next window begins with the same frame


def windows(real: int, horizon: int, history: int) -> list[Window]:
    """The windows of a rollout from ``real`` frames over ``horizon`` blocks.

    The last real frame is the first whose action differs between candidates; the frames before it are shared.
    """
    firsts = [max(0, real + step - history) for step in range(horizon)]
    found = []
    for step, first in enumerate(firsts):
        kept = step > 0 and firsts[step - 1] == first
        grows = step + 1 < horizon and firsts[step + 1] == first
        newest = real - 1 + step
        found.append(Window(first, newest if kept else max(first, real - 1), newest + 1, kept, grows))
    return found


class _Block:
    """One predictor block, packed."""

    def __init__(self, block: PredictorBlock, arithmetic: Arithmetic) -> None:
        self.heads = block.heads
        self.eps1, self.eps2 = block.norm1.eps, block.norm2.eps
        norm, qkv, out = block.attn["norm"], block.attn["to_qkv"], block.attn["to_out"][0]
        self.attention_eps = norm.eps
        weight, bias = fold_norm(norm, qkv.weight, qkv.bias)
        inner = len(weight) // 3
        scale = (inner // block.heads) ** -0.5
        self.query = linear(weight[:inner] * scale, bias[:inner] * scale, arithmetic)
        self.key_value = linear(weight[inner:], bias[inner:], arithmetic)
        self.out = linear(out.weight, out.bias, arithmetic)
        value, value_bias = weight[2 * inner :], bias[2 * inner :]
        self.alone = linear(out.weight @ value, out.weight @ value_bias + out.bias, arithmetic)
        norm, first, second = block.mlp["net"][0], block.mlp["net"][1], block.mlp["net"][4]
        self.mlp_eps = norm.eps
        self.mlp = mlp(*fold_norm(norm, first.weight, first.bias), second.weight, second.bias, arithmetic)
        modulation = block.adaLN_modulation[1]
        bias = modulation.bias.unflatten(0, (6, -1)).clone()
        bias[[1, 4]] += 1  # x * (1 + scale) + shift
        self.modulation = linear(modulation.weight, bias.flatten(), arithmetic)

    def __call__(
        self, x: Tensor, modulations: Tensor, keys: Keys, episodes: int, keep: bool, last: bool, ranges: Ranges
    ) -> Tensor:
        """(n, N, W) new frames to the same, or to the last of them, (1, N, W); ``keys`` grows by the new frames'.

        Args:
            modulations: (n, N, 6*W).
            keep: whether keys of a lone first frame will be asked for.
            last: whether only the last frame is wanted.
        """
        W = x.shape[-1]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations.chunk(6, -1)
        y = torch.addcmul(shift1, F.layer_norm(x, (W,), eps=self.eps1), scale1)
        y = F.layer_norm(y, (W,), eps=self.attention_eps)
        alone = not keys  # the first new frame has position 0 and sees only itself
        if keep or not alone or len(x) > 1:
            key, value = self.key_value(y, ranges).chunk(2, -1)
            key, value = (t.unflatten(-1, (self.heads, -1)).unflatten(1, (episodes, -1)) for t in (key, value))
            keys += list(zip(key, value, strict=True))
        wanted = len(x) - 1 if last else 0
        if last:
            x, gate1, shift2, scale2, gate2 = (t[-1:] for t in (x, gate1, shift2, scale2, gate2))
        parts = []
        if alone and wanted == 0:
            parts.append(self.alone(y[:1], ranges))
        begin = max(wanted, int(alone))
        if begin < len(y):
            query = self.query(y[begin:], ranges).unflatten(-1, (self.heads, -1)).unflatten(1, (episodes, -1))
            seen = len(keys) - len(y) + 1 + begin  # frames that the first of these queries sees
            attended = [_attend(q, keys[: seen + i]) for i, q in enumerate(query)]
            parts.append(self.out(torch.stack(attended) if len(attended) > 1 else attended[0][None], ranges))
        y = torch.cat(parts) if len(parts) > 1 else parts[0]
        x = torch.addcmul(x, gate1, y)
        y = torch.addcmul(shift2, F.layer_norm(x, (W,), eps=self.eps2), scale2)
        return torch.addcmul(x, gate2, self.mlp(F.layer_norm(y, (W,), eps=self.mlp_eps), ranges))


def _attend(query: Tensor, keys: Keys) -> Tensor:
    """One query (B, S, heads, size) over few keys to (N, I). For three keys a fused kernel costs more than this."""
    scores = torch.stack([torch.linalg.vecdot(query, key) for key, _ in keys])
    weights = scores.softmax(0).unsqueeze(-1)
    out = weights[0] * keys[0][1]
    for weight, (_, value) in zip(weights[1:], keys[1:], strict=True):
        out = torch.addcmul(out, weight, value)
    return out.flatten(2).flatten(0, 1)


CHUNK_NUMBERS = 2**22
"""Activations of the widest layer that are computed together. More does not run faster on a CPU, and caches are small."""


class LeWMImagination:
    """A LeWM's predictor, packed; called with a context it begins a search."""

    def __init__(self, model: LeWM, arithmetic: Arithmetic = "float32") -> None:
        config, predictor = model.config, model.predictor
        device = predictor.pos_embedding.device
        require(arithmetic, device)
        self.history = config.history
        self.arithmetic = arithmetic
        self.position = predictor.pos_embedding[0, :, None].float()  # (history, 1, W)
        self.enter: Layer = lambda x, _: x
        if config.latent != config.width:
            self.enter = linear(*_parameters(predictor.input_proj), "float32")
        self.blocks = [_Block(block, arithmetic) for block in predictor.transformer["layers"]]
        norm, projection = predictor.transformer["norm"], fold_projector(model.pred_proj)
        self.eps = norm.eps
        self.leave = mlp(*fold_norm(norm, *projection[:2]), *projection[2:], arithmetic)
        encoder = model.action_encoder
        self.bottleneck = linear(encoder.patch_embed.weight[:, :, 0], encoder.patch_embed.bias, "float32")
        self.embed = [linear(*_parameters(encoder.embed[i]), "float32") for i in (0, 2)]
        # With oneDNN a row's numbers do not depend on how many rows there are, so episodes can share a call.
        shared = device.type == "cpu" and arithmetic == "float32" and has_onednn()
        self.rows = CHUNK_NUMBERS // (config.history * config.mlp_hidden) if shared else 1

    def __call__(self, latents: Tensor, past_actions: Tensor) -> _Search:
        """Begin a search from latents (B, T, D) and z-scored actions (B, T-1, A)."""
        return _Search(self, latents, past_actions)

    def modulations(self, actions: Tensor, ranges: Ranges) -> list[Tensor]:
        """(n, N, A) z-scored blocks to what each block takes from them, (n, N, 6*W) each."""
        y = self.embed[0](self.bottleneck(actions, ranges), ranges)
        y = F.silu(self.embed[1](F.silu(y), ranges))
        return [block.modulation(y, ranges) for block in self.blocks]


def _parameters(layer: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


class _Search:
    """Imagination from one context. Its ranges (of 8-bit arithmetic) are those of each episode's first candidates."""

    def __init__(self, packed: LeWMImagination, latents: Tensor, past_actions: Tensor) -> None:
        self._packed, self._real = packed, latents.shape[1]
        self._latents, self._past = latents.float(), past_actions.float()
        self._ranges: dict[int, Ranges] = {}
        self._shared: dict[tuple[int, int], list[Keys]] = {}

    def __call__(self, plans: Tensor, score: Score) -> Tensor:
        """Scores (B, S) of candidates (B, S, H, A)."""
        B, S = plans.shape[:2]
        size = max(1, self._packed.rows // S)
        chunks = [slice(begin, min(begin + size, B)) for begin in range(0, B, size)]
        return torch.cat([score(self._imagine(plans[episodes], episodes), episodes) for episodes in chunks])

    def _imagine(self, plans: Tensor, episodes: slice) -> Tensor:
        """(b, S, H, A) to (b, S, H, D)."""
        packed, now = self._packed, self._real - 1
        b, S, H, _ = plans.shape
        ranges = self._ranges.setdefault(episodes.start, Ranges())
        modulations = packed.modulations(plans.flatten(0, 1).transpose(0, 1).contiguous(), ranges)
        latent = self._latents[episodes, -1:].expand(-1, S, -1).flatten(0, 1)  # (N, D)
        frames = latent.new_empty(H, b * S, packed.position.shape[-1])  # the last real frame and the imagined ones
        imagined = []
        for step, window in enumerate(windows(self._real, H, packed.history)):
            frames[step] = packed.enter(latent, ranges)
            if not window.kept:
                keys = [list(known) for known in self._shared_keys(window, episodes, ranges)]
            new, place = slice(window.start - now, window.stop - now), window.start - window.first
            x = frames[new] + packed.position[place : place + window.stop - window.start]
            for block, modulation, known in zip(packed.blocks, modulations, keys, strict=True):
                x = block(x, modulation[new], known, b, window.grows, block is packed.blocks[-1], ranges)
            latent = packed.leave(F.layer_norm(x[0], x.shape[-1:], eps=packed.eps), ranges)
            imagined.append(latent)
        ranges.watching = False
        return torch.stack(imagined, 1).unflatten(0, (b, S))

    def _shared_keys(self, window: Window, episodes: slice, ranges: Ranges) -> list[Keys]:
        """Per block, keys and values of the real frames that all candidates share, (b, 1, heads, size) each."""
        key = episodes.start, window.first
        if key not in self._shared:
            packed, frames = self._packed, slice(window.first, window.start)
            keys: list[Keys] = [[] for _ in packed.blocks]
            if window.first < window.start:
                x = packed.enter(self._latents[episodes, frames].transpose(0, 1).contiguous(), ranges)
                x = x + packed.position[: len(x)]
                modulations = packed.modulations(self._past[episodes, frames].transpose(0, 1).contiguous(), ranges)
                for block, modulation, known in zip(packed.blocks, modulations, keys, strict=True):
                    x = block(x, modulation, known, x.shape[1], True, False, ranges)
            self._shared[key] = keys
        return self._shared[key]
