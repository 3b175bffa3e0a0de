"""DINO-WM as stable-worldmodel saves it ("PreJEPA"): ``weights.pt``, a state dict, and ``config.json``, its sizes.

The state dict has the frozen DINOv2 too, which stays outside our checkpoints: whoever imports one holds it against
their own. Its predictor ends with its last norm, where ours has a linear layer behind it, which then passes all
channels but the action's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lewm_bench.agents.parts.encoders import FRAMES
from lewm_bench.agents.parts.released import CONFIG, MEND, PATCH, WEIGHTS, read_config, read_tensors, require_files
from lewm_bench.core.errors import UserError, short_repr

FED = "stable-worldmodel"  # the way in which frames enter DINOv2 there
BACKBONE = "backbone."
MASK = re.compile(r"predictor\.transformer\.layers\.\d+\.0\.bias")
"""Which tokens see which: the same for all models of a size, and not a weight."""

OURS = tuple(
    (re.compile(rf"{theirs}(\..+)"), ours)
    for theirs, ours in (
        (r"predictor\.transformer\.layers\.(\d+)\.0\.norm", r"predictor.blocks.\1.norm1"),
        (r"predictor\.transformer\.layers\.(\d+)\.0\.to_qkv", r"predictor.blocks.\1.qkv"),
        (r"predictor\.transformer\.layers\.(\d+)\.0\.to_out", r"predictor.blocks.\1.out"),
        (r"predictor\.transformer\.layers\.(\d+)\.1\.net\.0", r"predictor.blocks.\1.norm2"),
        (r"predictor\.transformer\.layers\.(\d+)\.1\.net\.1", r"predictor.blocks.\1.mlp.0"),
        (r"predictor\.transformer\.layers\.(\d+)\.1\.net\.4", r"predictor.blocks.\1.mlp.3"),
        (r"predictor\.transformer\.norm", "predictor.norm"),
        (r"extra_encoders\.action\.patch_embed", "predictor.action"),
        (r"extra_encoders\.proprio\.patch_embed", "proprio.embedding"),
    )
)
"""Beginnings of stable-worldmodel's names, and of ours."""

CONVOLUTIONS = ("extra_encoders.action.patch_embed.weight", "extra_encoders.proprio.patch_embed.weight")
"""Of kernel 1 there, linear maps here."""

SETTINGS = {"depth": "depth", "heads": "heads", "mlp_dim": "mlp_hidden", "dim_head": "head_size"}
"""Sizes of the predictor there, and our settings."""


class ReleasedDinoWM(NamedTuple):
    """A release: its tensors under our names, those of its DINOv2, sizes, and what it says of the agent's settings."""

    tensors: dict[str, Tensor]
    backbone: dict[str, Tensor]  # under the names of whichever transformers wrote them
    image_size: int
    block: int  # numbers of an action block
    proprio: int  # numbers of proprioception; 0: it reads none
    settings: dict[str, Any]


def read_released(folder: Path, root: Path | None = None) -> ReleasedDinoWM:
    """The release in a folder.

    Args:
        root: where links may lead to; the folder itself if left out.

    Raises:
        UserError: a file is missing, damaged, a link to elsewhere, or more than tensors; or it is not what our DINO-WM can
            be.
    """
    require_files(folder, root or folder)
    path = folder / CONFIG
    said = read_config(path)
    predictor, read = _sizes(said, path)
    found = read_tensors(folder / WEIGHTS)
    backbone = {name.removeprefix(BACKBONE): t for name, t in found.items() if name.startswith(BACKBONE)}
    rest = {name: t for name, t in found.items() if not name.startswith(BACKBONE) and not MASK.fullmatch(name)}
    tensors = {our_name(name): _without_kernel(t) if name in CONVOLUTIONS else t for name, t in rest.items()}
    _require_sizes(tensors, folder, predictor, read)
    tensors |= _output(predictor["dim"], read["action"][1])
    proprio, size = read.get("proprio", (0, 0))
    settings = {ours: predictor[theirs] for theirs, ours in SETTINGS.items()}
    settings |= {"history": said["history_size"], "dropout": predictor["dropout"], "action_size": read["action"][1]}
    settings |= {"frames": FED, "proprio": proprio > 0, **({"proprio_size": size} if proprio else {})}
    return ReleasedDinoWM(tensors, backbone, FRAMES[FED].size, read["action"][0], proprio, settings)


def our_name(name: str) -> str:
    """A tensor's name here; that of one which nobody knows stays."""
    if name == "predictor.pos_embedding":
        return "predictor.positions"
    for theirs, ours in OURS:
        if match := theirs.fullmatch(name):
            return match.expand(ours) + match[match.lastindex]
    return name


def _without_kernel(tensor: Tensor) -> Tensor:
    """The linear map that a convolution of kernel 1 is; any other tensor as it is."""
    return tensor.squeeze(-1) if tensor.dim() == 3 and tensor.shape[-1] == 1 else tensor


def _output(width: int, action: int) -> dict[str, Tensor]:
    """The linear layer that drops the channels of the action, which are the last."""
    return {
        "predictor.output.weight": torch.eye(width)[: width - action],
        "predictor.output.bias": torch.zeros(width - action),
    }


def _require_sizes(
    tensors: Mapping[str, Tensor], folder: Path, predictor: Mapping[str, int], read: Mapping[str, tuple[int, int]]
) -> None:
    """Hold what ``config.json`` says against the tensors, before anything of that size is made."""
    width, patches, frames = predictor["dim"], predictor["num_patches"], predictor["num_frames"]
    block = "predictor.blocks.0"
    for name, shape in (
        ("predictor.positions", (1, patches * frames, width)),
        (f"{block}.qkv.weight", (3 * predictor["heads"] * predictor["dim_head"], width)),
        (f"{block}.mlp.0.weight", (predictor["mlp_dim"], width)),
        *((our_name(f"extra_encoders.{name}.patch_embed.weight"), sizes[::-1]) for name, sizes in read.items()),
    ):
        found = tensors.get(name)
        if found is None or tuple(found.shape) != shape:
            has = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
            raise UserError(f"{folder / CONFIG} says that {name} has the shape {shape}, but it {has}; {MEND}")
    blocks = len({name.split(".")[2] for name in tensors if name.startswith("predictor.blocks.")})
    if blocks != predictor["depth"]:
        raise UserError(
            f"{folder / CONFIG} says predictor.depth {predictor['depth']}, but there are {blocks} blocks; {MEND}"
        )


def _sizes(said: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The predictor's sizes, and (numbers, channels) of what it reads beside frames."""
    predictor = _part(said, path, "predictor")
    for name in ("num_patches", "num_frames", "dim", *SETTINGS):
        _require_size(predictor.get(name), f"predictor.{name}", path)
    _require_size(said.get("history_size"), "history_size", path)
    dropout = predictor.get("dropout")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise UserError(f"{path}: predictor.dropout must be from 0 to below 1, got {short_repr(dropout)}; {MEND}")
    encoders = _part(_part(said, path, "extra_encoders"), path, "modules")
    if list(encoders) not in (["action"], ["proprio", "action"]):
        raise UserError(
            f"{path}: extra_encoders has {short_repr(list(encoders))}, but our DINO-WM reads frames and action, or frames, "
            "proprio and action, in that order"
        )
    read = {name: _encoder(part, name, path) for name, part in encoders.items()}
    patches = (FRAMES[FED].size // PATCH) ** 2
    for name, found, expected in (
        ("num_pred", said.get("num_pred", 1), 1),
        ("predictor.num_patches", predictor["num_patches"], patches),
        ("predictor.num_frames", predictor["num_frames"], said["history_size"]),
        ("decoder", said.get("decoder"), None),
    ):
        if isinstance(found, bool) or found != expected:
            raise UserError(f"{path}: {name} is {short_repr(found)} and not {expected!r}, which our DINO-WM cannot be")
    if predictor["dim"] <= sum(channels for _, channels in read.values()):
        raise UserError(f"{path}: predictor.dim {predictor['dim']} leaves no channels for the frame; {MEND}")
    return predictor, read


def _encoder(part: Any, name: str, path: Path) -> tuple[int, int]:
    sizes = part if isinstance(part, dict) else {}
    for size in ("in_chans", "emb_dim"):
        _require_size(sizes.get(size), f"extra_encoders.modules.{name}.{size}", path)
    if sizes.get("tubelet_size", 1) != 1:
        raise UserError(f"{path}: extra_encoders.modules.{name}.tubelet_size is not 1, which our DINO-WM cannot be")
    return sizes["in_chans"], sizes["emb_dim"]


def _part(said: Mapping[str, Any], path: Path, name: str) -> dict[str, Any]:
    part = said.get(name)
    if not isinstance(part, dict):
        raise UserError(f"{path} must say {name}, an object, got {short_repr(part)}; {MEND}")
    return part


def _require_size(value: Any, name: str, path: Path) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{path} must say {name}, a whole number from 1, got {short_repr(value)}; {MEND}")
