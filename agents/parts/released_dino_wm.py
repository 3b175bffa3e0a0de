"""DINO-WM as others save it.

stable-worldmodel ("PreJEPA"): ``weights.pt``, a state dict, and ``config.json``, its sizes. The state dict has the
frozen DINOv2 too, which stays outside our checkpoints: whoever imports one holds it against their own.

jepa-wms, which publishes such files: one file, ``NAME.pth.tar``, of the state dicts of predictor, action encoder and
perhaps proprioception's encoder, of the optimiser's state, which is not read, and no sizes. Those that shapes do not
tell (heads, dropout) are the published ones, which are our defaults. DINO-WM's authors publish whole modules, pickled,
which nothing here reads; whoever takes their state dicts out (docs/weights.md) has such a file too.

All predictors end with their last norm, where ours has a linear layer behind it, which then passes all channels but
the action's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lewm_bench.agents.parts.encoders import FRAMES
from lewm_bench.agents.parts.released import (
    CONFIG,
    MEND,
    PATCH,
    WEIGHTS,
    is_state_dict,
    load_plain,
    read_config,
    read_tensors,
    require_files,
)
from lewm_bench.core.errors import UserError, short_repr

IMAGE = 224  # pixels of the frames that all of them train with
STABLE = "stable-worldmodel"  # how frames enter DINOv2 there
CONTEXTS = {"jepa-wms": 2, "dino-wm-halves": None}
"""How frames enter DINOv2 where there is one file, and of how many it plans; None: as many as it has positions for."""

STATE_DICTS = {
    "predictor": "predictor.",
    "action_encoder": "extra_encoders.action.",
    "proprio_encoder": "extra_encoders.proprio.",
}
"""Those of jepa-wms, and how the names of stable-worldmodel begin, which are the same behind that."""
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
    backbone: dict[str, Tensor] | None  # under the names of whichever transformers wrote them; None: not in it
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
    settings |= {"frames": STABLE, "proprio": proprio > 0, **({"proprio_size": size} if proprio else {})}
    return ReleasedDinoWM(tensors, backbone, IMAGE, read["action"][0], proprio, settings)


def read_file(path: Path) -> ReleasedDinoWM:
    """The model in a file of jepa-wms, or in one of the state dicts of DINO-WM's authors, by the tokens of a frame.

    Raises:
        UserError: it is missing, damaged, more than plain values and tensors, or not such a DINO-WM.
    """
    found = load_plain(path, MEND)
    parts = found if isinstance(found, dict) else {}
    if not all(is_state_dict(parts.get(name)) for name in ("predictor", "action_encoder")):
        raise UserError(
            f"{path} has no state dicts of predictor and action_encoder, as files of jepa-wms have (docs/weights.md); {MEND}"
        )
    dicts = {name: parts[name] for name in STATE_DICTS if is_state_dict(parts.get(name))}
    named = {
        STATE_DICTS[part] + name.removeprefix("module."): t for part, own in dicts.items() for name, t in own.items()
    }
    rest = {name: t for name, t in named.items() if not MASK.fullmatch(name)}
    tensors = {our_name(name): _without_kernel(t) if name in CONVOLUTIONS else t for name, t in rest.items()}
    _, rows, width = _shape(tensors, path, "predictor.positions", 3)
    action, block = _shape(tensors, path, "predictor.action.weight", 2)
    size, proprio = _shape(tensors, path, "proprio.embedding.weight", 2) if "proprio_encoder" in dicts else (0, 0)
    frames, context = _frames(rows, path)
    positions = tensors["predictor.positions"][:, : context * _patches(frames)]
    if width <= action + size:
        raise UserError(
            f"{path}: a predictor of width {width} has no channels for the frame beside {action + size} others"
        )
    settings = {"history": context, "frames": frames, "action_size": action, "depth": _blocks(tensors)}
    settings |= {"mlp_hidden": _shape(tensors, path, "predictor.blocks.0.mlp.0.weight", 2)[0]}
    settings |= {"proprio": proprio > 0, **({"proprio_size": size} if proprio else {})}
    tensors |= {"predictor.positions": positions.clone(), **_output(width, action)}
    return ReleasedDinoWM(tensors, None, IMAGE, block, proprio, settings)


def _patches(frames: str) -> int:
    return (FRAMES[frames].size // PATCH) ** 2


def _frames(rows: int, path: Path) -> tuple[str, int]:
    """How frames enter DINOv2, and how many there are, from the number of positions."""
    for name, context in CONTEXTS.items():
        number, rest = divmod(rows, _patches(name))
        if not rest and number >= (context or 1):
            return name, context or number
    raise UserError(
        f"{path} has positions for {rows} tokens, which are neither two or more frames of 256, as those of jepa-wms, nor "
        f"frames of 196, as those of DINO-WM's authors; {MEND}"
    )


def _shape(tensors: Mapping[str, Tensor], path: Path, name: str, dimensions: int) -> tuple[int, ...]:
    """That of a tensor which tells sizes of the model."""
    found = tensors.get(name)
    if found is None or found.dim() != dimensions or 0 in found.shape:
        has = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
        raise UserError(f"{path} is no DINO-WM: the tensor {name} {has}; {MEND}")
    return tuple(found.shape)


def _blocks(tensors: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in tensors if name.startswith("predictor.blocks.")})


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
    blocks = _blocks(tensors)
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
    patches = _patches(STABLE)
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
