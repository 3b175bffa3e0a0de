"""The tensors of Fast-LeWM as its authors' modules name them: ``weights.pt``, a state dict and nothing beside it.

They publish whole modules, pickled, which nothing here reads: their owner takes the state dict out (docs/weights.md).
It has no sizes with it. Those that its shapes do not tell (heads, dropout) are the published ones, which are our
defaults.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from lewm_bench.agents.parts.released import (
    LARGEST,
    PATCH,
    WEIGHTS,
    Released,
    read_tensors,
    require_inside,
)
from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import require_file

MEND = "take the state dict out of the published module again, as docs/weights.md says"

OURS = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"action_encoder\.impl\.latent_proj", "prefix_encoder.state"),
        (r"action_encoder\.impl\.token_proj", "prefix_encoder.action_encoder.patch_embed"),
        (r"action_encoder\.impl\.embed", "prefix_encoder.action_encoder.embed"),
        (r"action_encoder\.impl\.temporal_mixer\.layers\.(\d+)\.attn\.to_qkv", r"prefix_encoder.blocks.\1.qkv"),
        (r"action_encoder\.impl\.temporal_mixer\.layers\.(\d+)\.attn\.to_out\.0", r"prefix_encoder.blocks.\1.out"),
        (r"action_encoder\.impl\.temporal_mixer\.layers\.(\d+)\.attn\.norm", r"prefix_encoder.blocks.\1.norm"),
        (r"action_encoder\.impl\.temporal_mixer\.layers\.(\d+)\.mlp\.net", r"prefix_encoder.blocks.\1.mlp"),
        (r"action_encoder\.impl\.temporal_mixer\.norm", "prefix_encoder.norm"),
        (r"action_encoder\.impl\.out_norm", "prefix_encoder.out_norm"),
        (r"predictor\.action_fusion_norm", "predictor.fusion.0"),
        (r"predictor\.action_fusion_mlp\.0", "predictor.fusion.1"),
        (r"predictor\.action_fusion_mlp\.2", "predictor.fusion.3"),
        (r"predictor\.transition_stack\.layers\.(\d+)\.value_proj\.norm", r"predictor.blocks.\1.value.0"),
        (r"predictor\.transition_stack\.layers\.(\d+)\.value_proj\.to_v", r"predictor.blocks.\1.value.1"),
        (r"predictor\.transition_stack\.layers\.(\d+)\.value_proj\.to_out\.0", r"predictor.blocks.\1.value.2"),
        (r"predictor\.transition_stack\.layers\.(\d+)\.mlp\.net", r"predictor.blocks.\1.mlp"),
        (r"predictor\.transition_stack\.layers\.(\d+)\.adaLN_modulation\.1", r"predictor.blocks.\1.modulation"),
        (r"predictor\.transition_stack\.norm", "predictor.norm"),
    )
)
"""Beginnings of the authors' names, and of ours. Encoder and projectors have LeWM's names."""

# Their prefix encoder normalises twice in a row, with A added to the variance v without an affine map and then with B:
# (x - mean) / sqrt(v + B (v + A)), which is a single normalisation with A B / (1 + B) added, divided by sqrt(1 + B).
A, B = 1e-6, 1e-5
PREFIX_EPSILON = A * B / (1 + B)
TWICE = re.compile(r"prefix_encoder\.blocks\.\d+\.(norm|mlp\.0)\.weight")
CONVOLUTION = (
    "prefix_encoder.action_encoder.patch_embed.weight"  # a linear map for them, a convolution of kernel 1 here
)
POSITIONS = "encoder.embeddings.position_embeddings"


def read_released(folder: Path, root: Path | None = None) -> Released:
    """The state dict in a folder.

    Args:
        root: where links may lead to; the folder itself if left out.

    Raises:
        UserError: it is missing, damaged, a link to elsewhere, more than tensors, or does not tell its sizes.
    """
    path = folder / WEIGHTS
    require_file(path, MEND, LARGEST)
    require_inside(path, root or folder)
    found = read_tensors(path, MEND)
    tensors = {our_name(name): tensor for name, tensor in found.items()}
    if len(tensors) < len(found):
        raise UserError(f"{path} holds tensors twice, under the authors' names and ours; {MEND}")
    patches, block = _size(tensors, path, POSITIONS) - 1, _size(tensors, path, CONVOLUTION)
    if patches < 1 or math.isqrt(patches) ** 2 != patches:
        raise UserError(f"{path}: {POSITIONS} is for {patches} patches, which are no square; {MEND}")
    # Tensors of another shape are left to whoever loads them, who says which.
    tensors[CONVOLUTION] = tensors[CONVOLUTION].unsqueeze(-1)
    tensors = {name: t / (1 + B) ** 0.5 if TWICE.fullmatch(name) else t for name, t in tensors.items()}
    return Released(tensors, PATCH * math.isqrt(patches), block, {"prefix_epsilon": PREFIX_EPSILON})


def our_name(name: str) -> str:
    """A tensor's name here; that of one which nobody knows stays."""
    for theirs, ours in OURS:
        if match := re.fullmatch(rf"{theirs.pattern}(\..+)", name):
            return match.expand(ours) + match[match.lastindex]
    return name


def _size(tensors: dict[str, Tensor], path: Path, name: str) -> int:
    """The second size of a tensor that tells one of the model's."""
    tensor = tensors.get(name)
    if tensor is None or tensor.dim() < 2 or not torch.is_floating_point(tensor):
        found = "none" if tensor is None else tuple(tensor.shape)
        raise UserError(f"{path} is no Fast-LeWM: it has to have {name} of two or more sizes, got {found}; {MEND}")
    return tensor.shape[1]
