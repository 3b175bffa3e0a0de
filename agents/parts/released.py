"""The layout in which LeWM's authors release weights: ``weights.pt``, a state dict, and ``config.json``, its sizes.

stable-worldmodel saves its PLDM alike, whose networks are the same. Our modules have the released names of
transformers before 5.9, so what is left to do is to rename those of later ones, to hold the sizes against the tensors, and
to read nothing but tensors.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.reading import read_json, reason_of, require_file
from lewm_bench.system.faults import result_or_error
from lewm_bench.system.files import write_bytes, write_text

WEIGHTS, CONFIG = RELEASED = ("weights.pt", "config.json")
MEND = "fetch the files of the release again"
LARGEST = 2**30  # bytes of weights; the published ones have 72 MB
PATCH = 14  # pixels

SIZES = ("encoder", "latent", "projector_hidden", "width", "depth", "heads", "head_size", "mlp_hidden")
"""The settings that the released code builds one value of: the paper's."""

FREE = frozenset({"pretrained", "use_mask_token", "emb_dropout", "norm_fn"})
"""Entries of ``config.json`` that change nothing in a network whose tensors are all there and which does not train."""

BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
BLOCK_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
"""What transformers since 5.9 calls the parts of a ViT's block, and what earlier ones and we call them."""


PACKAGES = {"lewm": "stable_worldmodel.wm.lewm", "pldm": "stable_worldmodel.wm.pldm"}
"""Where stable-worldmodel has those of our agents that have LeWM's networks."""

PEERS = {"lewm": "LeWM", "pldm": "PLDM", "dino-wm": "PreJEPA"}
"""What its classes of our agents are called."""


class Released(NamedTuple):
    """A release: its tensors under our names, its sizes, and what it says of the agent's settings."""

    tensors: dict[str, Tensor]
    image_size: int
    block: int  # numbers of an action block
    settings: dict[str, Any]


def is_released(folder: Path) -> bool:
    """Whether a folder has the files of a release."""
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def read_released(folder: Path, root: Path | None = None) -> Released:
    """The release in a folder.

    Args:
        root: where links may lead to; the folder itself if left out.

    Raises:
        UserError: a file is missing, damaged, a link to elsewhere, or more than tensors; or the sizes are not LeWM's.
    """
    require_files(folder, root or folder)
    image_size, history, block, dropout = _sizes(folder)
    found = Released(read_tensors(folder / WEIGHTS), image_size, block, {"history": history, "dropout": dropout})
    _require_sizes(found, folder)
    return found


def agent_of(folder: Path) -> str | None:
    """The agent of ours that ``config.json`` names the peer's class of; None if it names no such class.

    Raises:
        UserError: it is damaged.
    """
    target = read_config(folder / CONFIG).get("_target_")
    models = {model: agent for agent, model in PEERS.items()}
    return models.get(target.rpartition(".")[2]) if isinstance(target, str) else None


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a release.

    Raises:
        UserError: it is missing or damaged.
    """
    sizes = read_json(path, MEND)
    if not isinstance(sizes, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {MEND}")
    return sizes


def _sizes(folder: Path) -> tuple[int, int, int, float]:
    """Image size, history, numbers of an action block and dropout, as ``config.json`` says them.

    Raises:
        UserError: it is damaged, does not say one of them, or is about other networks than the paper's.
    """
    path = folder / CONFIG
    sizes = read_config(path)
    image_size = _number(sizes, path, "encoder", "image_size")
    history = _number(sizes, path, "predictor", "num_frames")
    block = _number(sizes, path, "action_encoder", "input_dim")
    if image_size % PATCH:
        raise UserError(f"{path}: encoder.image_size must be a multiple of {PATCH}, got {image_size}; {MEND}")
    for name, found, expected in differences(sizes, layout("lewm", JEPAConfig(history=history), image_size, block)):
        raise UserError(
            f"{path}: {name} is {short_repr(found)} and not {expected!r}; only networks of the paper's size can be imported"
        )
    return image_size, history, block, _dropout(sizes, path)


def require_files(folder: Path, root: Path) -> None:
    """Raise a UserError unless a folder has both files of a release, and no link in it leaves ``root``."""
    for path in (folder / name for name in RELEASED):
        require_file(path, f"a release has {WEIGHTS} and {CONFIG}", LARGEST)
        require_inside(path, root)


def require_inside(path: Path, root: Path) -> None:
    """Raise a UserError if a file is a link out of ``root``."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leaves {root}; put the file itself there")


def write_released(
    folder: Path, agent: str, tensors: Mapping[str, Tensor], config: JEPAConfig, image_size: int, block: int
) -> None:
    """Write an agent of the paper's size as LeWM's authors do: the names of transformers before 5.9, targets of stable-worldmodel 0.1.1.

    Args:
        agent: one of ``PACKAGES``.
        block: numbers of an action block.
    """
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, buffer)
    write_bytes(folder / WEIGHTS, buffer.getvalue())
    write_text(folder / CONFIG, json.dumps(layout(agent, config, image_size, block), indent=2))


def layout(agent: str, config: JEPAConfig, image_size: int, block: int) -> dict[str, Any]:
    """``config.json`` of an agent; keys that begin with _ are for the released code alone."""
    peer = PACKAGES[agent]
    width = JEPAConfig().width
    projector = {
        "_target_": f"{peer}.module.MLP",
        "input_dim": width,
        "output_dim": config.latent,
        "hidden_dim": config.projector_hidden,
        "norm_fn": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True},
    }
    return {
        "_target_": f"{peer}.{PEERS[agent]}",
        "encoder": {
            "_target_": "stable_pretraining.backbone.utils.vit_hf",
            "size": "tiny",
            "patch_size": PATCH,
            "image_size": image_size,
            "pretrained": False,
            "use_mask_token": False,
        },
        "predictor": {
            "_target_": f"{peer}.module.Predictor",
            "num_frames": config.history,
            "input_dim": config.latent,
            "hidden_dim": config.width,
            "output_dim": config.width,
            "depth": config.depth,
            "heads": config.heads,
            "mlp_dim": config.mlp_hidden,
            "dim_head": config.head_size,
            "dropout": config.dropout,
            "emb_dropout": 0.0,
        },
        "action_encoder": {"_target_": f"{peer}.module.Embedder", "input_dim": block, "emb_dim": config.width},
        "projector": projector,
        "pred_proj": projector,
    }


def differences(found: Any, expected: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, found, expected) of the sizes in which a ``config.json`` is not what it should be; a missing one is None."""
    for name, value in expected.items():
        if name.startswith("_") or name in FREE or name == "dropout":
            continue
        own = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, dict):
            yield from differences(own, value, f"{at}{name}.")
        elif isinstance(own, bool) or own != value:
            yield f"{at}{name}", own, value


def read_tensors(path: Path, mend: str = MEND) -> dict[str, Tensor]:
    """The tensors of a state dict under our names; anything else that a file of torch can hold is refused unread."""
    found = load_plain(path, mend)
    if not is_state_dict(found):
        raise UserError(f"{path} is not a state dict: it must map names to tensors and hold nothing else; {mend}")
    tensors = {renamed(name): tensor for name, tensor in found.items()}
    if len(tensors) < len(found):
        raise UserError(f"{path} holds tensors twice, under older and newer names of transformers; {mend}")
    return tensors


def load_plain(path: Path, mend: str) -> Any:
    """What a file of torch holds, if that is tensors, numbers, texts and containers of them; nothing in it runs."""
    require_file(path, mend, LARGEST)
    found = result_or_error(lambda: torch.load(path, map_location="cpu", weights_only=True))
    if isinstance(found, Exception):
        reason = reason_of(found).partition(". ")[0]
        raise UserError(f"{path} is damaged, or holds more than tensors ({short_repr(reason)}); {mend}")
    return found


def is_state_dict(found: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether it maps names to plain tensors and holds nothing else."""
    return isinstance(found, dict) and all(map(_is_entry, found.items()))


def renamed(name: str) -> str:
    """A tensor's name as transformers before 5.9 has it."""
    match = BLOCK.fullmatch(name)
    if match is None or match[2] not in BLOCK_NAMES:
        return name
    return f"encoder.encoder.layer.{match[1]}.{BLOCK_NAMES[match[2]]}.{match[3]}"


def _is_entry(entry: tuple[object, object]) -> bool:
    name, tensor = entry
    return (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
    )


def _number(sizes: Mapping[str, Any], path: Path, block: str, name: str) -> int:
    part = sizes.get(block)
    value = part.get(name) if isinstance(part, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{path} must say {block}.{name}, a whole number from 1, got {short_repr(value)}; {MEND}")
    return value


def _dropout(sizes: Mapping[str, Any], path: Path) -> float:
    value = sizes["predictor"].get("dropout", JEPAConfig().dropout)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"{path}: predictor.dropout must be from 0 to below 1, got {short_repr(value)}; {MEND}")
    return float(value)


def _require_sizes(found: Released, folder: Path) -> None:
    """Hold what ``config.json`` says against the tensors, before anything of that size is made."""
    history = found.settings["history"]
    for what, said, name, axis, size in (
        (
            "images of",
            found.image_size,
            "encoder.embeddings.position_embeddings",
            1,
            (found.image_size // PATCH) ** 2 + 1,
        ),
        ("history", history, "predictor.pos_embedding", 1, history),
        ("action blocks of", found.block, "action_encoder.patch_embed.weight", 1, found.block),
    ):
        tensor = found.tensors.get(name)
        if tensor is None:
            raise UserError(f"{folder / WEIGHTS} does not fit this model: the tensor {name} is missing; {MEND}")
        if tensor.dim() <= axis or tensor.shape[axis] != size:
            raise UserError(
                f"{folder / CONFIG} says {what} {said}, which the tensor {name} of shape {tuple(tensor.shape)} is not for; "
                f"{MEND}"
            )
