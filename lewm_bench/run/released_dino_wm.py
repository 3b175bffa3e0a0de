"""A DINO-WM of stable-worldmodel, jepa-wms or its authors as a checkpoint of ours.

Beside the statistics of actions it lacks those of proprioception. One of stable-worldmodel has DINOv2 in it, which our
checkpoints leave where it is published.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lewm_bench.agents.dino_wm import DinoWM, DinoWMConfig, proprio_of
from lewm_bench.agents.parts.encoders import DINOV2_FILES, Dinov2Encoder, dinov2_folder
from lewm_bench.agents.parts.released import MEND, RELEASED, WEIGHTS
from lewm_bench.agents.parts.released_dino_wm import ReleasedDinoWM, read_file, read_released
from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import is_file
from lewm_bench.data.format import Dataset
from lewm_bench.run.environments import make_env
from lewm_bench.run.released import ActionStatistics, Origin, action_dim_of, card_of_release, require_agent
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import load_strict, load_tensors, save_checkpoint

FLAGS = "--proprio-mean and --proprio-std"


class ProprioStatistics(NamedTuple):
    """What z-scores the proprioception of one frame."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


PUBLISHED = {
    "lewm_bench/PushT-v0": ProprioStatistics(
        (236.6155, 264.5674, -2.93032027, 2.54307914), (101.1202, 87.0112, 74.84556075, 74.14009094)
    ),
}
"""Published statistics, in our environments' units: of DINO-WM's code for its PushT data."""


def proprio_statistics_of(
    env_id: str, mean: Sequence[float], std: Sequence[float], data: Path | None
) -> ProprioStatistics | None:
    """The statistics from flags, from a data set, or published for an environment; None if there are none.

    Raises:
        UserError: numbers that cannot be, or two sources of them.
    """
    if mean or std:
        if data is not None:
            raise UserError(f"the statistics of proprioception come from --data or from {FLAGS}, not from both")
        if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UserError(
                f"{FLAGS} take as many finite numbers each, deviations above 0; got {list(mean)} and {list(std)}"
            )
        return ProprioStatistics(tuple(mean), tuple(std))
    if data is None:
        return PUBLISHED.get(env_id)
    dataset = Dataset.open(data)
    env = make_env(env_id, dataset.frames.shape[1])
    if not env.proprioception:
        return None
    felt = proprio_of(env, dataset.states[dataset.rows("train")]).double()
    std_of, mean_of = torch.std_mean(felt, 0, correction=0)
    return ProprioStatistics(tuple(mean_of.tolist()), tuple(torch.where(std_of > 0, std_of, 1.0).tolist()))


def import_dino_wm(
    origin: Origin,
    out: Path,
    env_id: str,
    statistics: ActionStatistics,
    proprio: ProprioStatistics | None,
    weights: str | None,
    frame_skip: int,
) -> None:
    """Make a checkpoint folder of a release.

    Args:
        weights: folder with DINOv2; None: the cache of Hugging Face.
        frame_skip: actions of a block, which the release does not say.

    Raises:
        UserError: it is no such release, or not one for this environment or DINOv2. Nothing is written then.
        NotRun: there is no DINOv2.
    """
    found, file = _read(origin)
    folder = dinov2_folder(weights)
    if found.backbone is not None:
        _require_backbone(found.backbone, folder, file)
    action_dim = action_dim_of(env_id, found, statistics, frame_skip)
    own = {"encoder": "dinov2-small", "weights": weights, "frame_skip": frame_skip, **found.settings}
    config = checked(lambda: DinoWMConfig(**own), "dino-wm", DinoWMConfig)
    model = DinoWM(config, Dinov2Encoder(folder, config.frames), action_dim, found.proprio)
    tensors = found.tensors | _scales(found, env_id, statistics, proprio) | {"encoder_identity": model.encoder_identity}
    load_strict(model, tensors, str(file), MEND)
    files = [file] if file == origin.folder else [origin.folder / name for name in RELEASED]
    card = card_of_release("dino-wm", origin, files, config, found.image_size, env_id, action_dim, statistics)
    save_checkpoint(out, model, card)


def _read(origin: Origin) -> tuple[ReleasedDinoWM, Path]:
    """A release and the file with its tensors: one of stable-worldmodel is a folder."""
    if is_file(origin.folder):
        return read_file(origin.folder), origin.folder
    require_agent("dino-wm", origin)
    return read_released(origin.folder, origin.root), origin.folder / WEIGHTS


def _scales(
    found: ReleasedDinoWM, env_id: str, statistics: ActionStatistics, proprio: ProprioStatistics | None
) -> dict[str, Tensor]:
    """The statistics as tensors of the model, held against what the release reads."""
    scales = {"action_scale.mean": statistics.mean, "action_scale.std": statistics.std}
    if found.proprio:
        env = make_env(env_id, found.image_size)
        size = proprio_of(env, env.get_state()[None]).shape[1] if env.proprioception else 0
        if size != found.proprio:
            raise UserError(
                f"the release reads {found.proprio} numbers of proprioception, but {env_id} has {size}; name its environment "
                "with --env"
            )
        if proprio is None:
            raise UserError(
                "released weights do not hold the statistics of proprioception, and none are published for "
                f"{env_id}; give {FLAGS}, or a folder of `lewm-bench collect` with --data"
            )
        if len(proprio.mean) != size:
            raise UserError(f"proprioception of {env_id} has {size} numbers, but {FLAGS} have {len(proprio.mean)}")
        scales |= {"proprio.mean": proprio.mean, "proprio.std": proprio.std}
    return {name: torch.tensor(value) for name, value in scales.items()}


def _require_backbone(backbone: dict[str, Tensor], folder: Path, file: Path) -> None:
    """Raise a UserError unless a release has the DINOv2 of a folder in it, whatever the tensors are called."""
    own = load_tensors(folder / DINOV2_FILES[1])
    if _digests(backbone.values()) != _digests(own.values()):
        raise UserError(
            f"{file} has another DINOv2 in it than {folder}; name the folder of the one that it was "
            "trained with, --dinov2 FOLDER"
        )


def _digests(tensors: Iterable[Tensor]) -> Counter[tuple[object, ...]]:
    """Of every tensor its shape, type and checksum."""
    return Counter(
        (t.shape, t.dtype, hashlib.sha256(t.contiguous().flatten().view(torch.uint8).numpy()).digest()) for t in tensors
    )
