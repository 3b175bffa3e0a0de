"""Checkpoints: a folder of ``model.safetensors`` and ``card.json``. Tensors and JSON only; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.core.reading import MissingFile, is_file, read_json, read_tensors
from lewm_bench.system.files import write_bytes, write_text

WEIGHTS = "model.safetensors"
CARD = "card.json"
MEND = "delete its folder and train again"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    write_bytes(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, None if all numbers are finite."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats cannot be asked
    return bool(wide.isfinite().all())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing or damaged, or a number in it is not finite.
    """
    try:
        tensors = read_tensors(path, MEND)
    except MissingFile:
        raise UserError(f"no weights at {path}; train the agent first or name another checkpoint folder")
    _require_finite(tensors, str(path))
    return tensors


def _require_finite(tensors: Mapping[str, Tensor], source: str, mend: str = MEND) -> None:
    if (name := not_finite(tensors)) is not None:
        raise UserError(f"{source} holds numbers that are not finite (tensor {name}); {mend}")


def save_checkpoint(folder: Path, model: nn.Module, card: dict[str, Any]) -> None:
    """Write the weights and what one must know to use them.

    Raises:
        TrainingFailed: a weight is not finite, and nothing is written.
    """
    require_trained(model)
    save_tensors(folder / WEIGHTS, model.state_dict())
    write_text(folder / CARD, json.dumps(card, indent=1, sort_keys=True))


def require_trained(model: nn.Module) -> None:
    """Raise a TrainingFailed for parameters or buffers that are not finite."""
    if (name := not_finite(model.state_dict())) is not None:
        raise TrainingFailed(f"the weights are not finite numbers (tensor {name}); try a lower train.learning_rate")


def load_card(folder: Path) -> dict[str, Any]:
    """The card of a checkpoint folder.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    path = folder / CARD
    try:
        card = read_json(path, MEND)
    except MissingFile:
        if is_file(folder):
            raise UserError(f"{folder} is a file; name the folder of the checkpoint, which has a {CARD}")
        raise UserError(f"{folder} is not a checkpoint: it has no {CARD}")
    if not isinstance(card, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {MEND}")
    return card


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill ``model`` from a checkpoint folder; every tensor must be there, have its shape, and be used.

    Raises:
        UserError: names, shapes or the file itself do not fit, or a number is not finite.
    """
    load_strict(model, load_tensors(folder / WEIGHTS), str(folder / WEIGHTS))


def load_strict(model: nn.Module, tensors: dict[str, Tensor], source: str, mend: str = MEND) -> None:
    """Copy ``tensors`` into ``model``, strict in both directions; ``source`` names them in errors, ``mend`` the way out."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    both = own.keys() & tensors.keys()
    wrong = [k for k in both if own[k].shape != tensors[k].shape]
    other = [k for k in both if own[k].dtype != tensors[k].dtype]
    if missing or extra or wrong or other:
        parts = [
            f"{len(names)} {what} (first: {min(names)})"
            for what, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("of another shape", wrong),
                ("of another type", other),
            )
            if names
        ]
        raise UserError(f"{source} does not fit this model: tensors {', '.join(parts)}; check the config it came with")
    _require_finite(tensors, source, mend)
    with torch.no_grad():
        model.load_state_dict(tensors)
