"""LeWM's released weights as checkpoints of ours, and back.

A release has neither the statistics of its actions nor the name of its environment; who imports one says both, unless
they are published and stand in the tables below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lewm_bench.agents.lewm import LEWM, LeWMConfig
from lewm_bench.agents.parts.released import CONFIG, SIZES, WEIGHTS, Released, read_released, write_released
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.names import parse_agent
from lewm_bench.data.format import Dataset
from lewm_bench.run.environments import make_env
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import load_card, load_strict, load_weights, save_checkpoint
from lewm_bench.system.files import checksum
from lewm_bench.system.hub import PREFIX

REPOSITORIES = {
    "quentinll/lewm-pusht": "lewm_bench/PushT-v0",
    "quentinll/lewm-cube": "lewm_bench/Cube-v0",
    "quentinll/lewm-tworooms": "lewm_bench/TwoRoom-v0",
    "quentinll/lewm-reacher": "lewm_bench/Reacher-v0",
}
"""The authors' releases on the hub, and our environments of the same task."""


class ActionStatistics(NamedTuple):
    """What z-scores the actions of one environment step."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


PUBLISHED = {
    "lewm_bench/PushT-v0": ActionStatistics(
        (-0.0087, 0.0068), (0.2019, 0.2002), "DINO-WM's code for its PushT data, on which LeWM trained too"
    ),
}
"""Published statistics, in our environments' units of actions. LeWM's own are not published."""

FLAGS = "--action-mean and --action-std"


class Origin(NamedTuple):
    """Where a release is."""

    folder: Path
    root: Path  # what links in it may not leave
    name: str  # as it was asked for


def statistics_of(env_id: str, mean: Sequence[float], std: Sequence[float], data: Path | None) -> ActionStatistics:
    """The action statistics from flags, from a data set, or published for an environment.

    Raises:
        UserError: there are none, two sources of them, or numbers that cannot be; says what to give.
    """
    given = bool(mean or std)
    if given and data is not None:
        raise UserError(f"the action statistics come from --data or from {FLAGS}, not from both")
    if given:
        if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise UserError(
                f"{FLAGS} take as many finite numbers each, deviations above 0; got {list(mean)} and {list(std)}"
            )
        return ActionStatistics(tuple(mean), tuple(std), FLAGS)
    if data is not None:
        return _statistics_of_data(env_id, data)
    if env_id not in PUBLISHED:
        raise UserError(
            f"released weights do not hold the statistics of their actions, and none are published for {env_id}; `lewm-bench "
            f"import lewm-weights` takes them from {FLAGS}, or from a folder of `lewm-bench collect` with --data"
        )
    return PUBLISHED[env_id]


def _statistics_of_data(env_id: str, folder: Path) -> ActionStatistics:
    dataset = Dataset.open(folder)
    if dataset.meta.env != env_id:
        raise UserError(f"{folder} is data of {dataset.meta.env}, not of {env_id}; name its environment with --env")
    mean, std = dataset.action_statistics("train")
    return ActionStatistics(tuple(mean.tolist()), tuple(std.tolist()), f"data {dataset.fingerprint}")


def environment_of(origin: str, named: str) -> str:
    """The environment of a release: the one that was named, or that of a release that we know.

    Raises:
        UserError: there is none.
    """
    env_id = named or REPOSITORIES.get(origin.removeprefix(PREFIX))
    if env_id is None:
        raise UserError(
            f"{origin} has released weights, which do not say their environment; give `lewm-bench import lewm-weights` the "
            "--env ID (`lewm-bench list envs`)"
        )
    return env_id


def import_lewm(origin: Origin, out: Path, env_id: str, statistics: ActionStatistics, frame_skip: int) -> None:
    """Make a checkpoint folder of a release.

    Args:
        frame_skip: actions of a block, which the release does not say.

    Raises:
        UserError: it is no release of LeWM, or not one for this environment. Nothing is written then.
    """
    found = read_released(origin.folder, origin.root)
    action_dim = _action_dim(env_id, found, statistics, frame_skip)
    values = {"history": found.history, "frame_skip": frame_skip, "dropout": found.dropout}
    config = checked(lambda: LeWMConfig(**values), "lewm", LeWMConfig)
    model = LEWM.build(config, found.image_size, action_dim)
    scale = {"action_scale.mean": statistics.mean, "action_scale.std": statistics.std}
    tensors = found.tensors | {name: torch.tensor(value) for name, value in scale.items()}
    load_strict(model, tensors, str(origin.folder / WEIGHTS))
    save_checkpoint(out, model, _card(origin, config, found, env_id, action_dim, statistics))


def _action_dim(env_id: str, found: Released, statistics: ActionStatistics, frame_skip: int) -> int:
    """Numbers of one action, held against the release and the statistics."""
    size = int(make_env(env_id, found.image_size).action_space.shape[0])
    if found.block != frame_skip * size:
        raise UserError(
            f"the release takes action blocks of {found.block} numbers, but {frame_skip} actions of {env_id} have "
            f"{frame_skip * size}; name its environment with --env, or its actions per block with --frame-skip"
        )
    if len(statistics.mean) != size:
        raise UserError(
            f"an action of {env_id} has {size} numbers, but the statistics from {statistics.source} have "
            f"{len(statistics.mean)}; give as many"
        )
    return size


def _card(
    origin: Origin, config: LeWMConfig, found: Released, env_id: str, action_dim: int, statistics: ActionStatistics
) -> dict[str, Any]:
    """What a checkpoint of ours says, as far as a release lets it: neither seed, data nor training are in it."""
    return {
        "agent": "lewm",
        "config": config.model_dump(mode="json", exclude={"train"}),
        "env": env_id,
        "image_size": found.image_size,
        "action_dim": action_dim,
        "dataset": None,
        "seed": None,
        "torch": torch.__version__,
        "released": {
            # Not the path on this machine: a card may be published.
            "source": origin.name if origin.name.startswith(PREFIX) else origin.folder.resolve().name,
            "sha256": {name: checksum(origin.folder / name) for name in (WEIGHTS, CONFIG)},
            "action_statistics": statistics.source,
        },
    }


def export_lewm(checkpoint: Path, out: Path) -> ActionStatistics:
    """Write a checkpoint of LeWM as its authors release weights, and return the statistics that their layout has no place for.

    Raises:
        UserError: it is not LeWM, or not of the paper's size, which is all that the released code builds.
    """
    card = load_card(checkpoint)
    agent, config, image_size, action_dim = (card.get(name) for name in ("agent", "config", "image_size", "action_dim"))
    if not isinstance(agent, str) or parse_agent(agent).base != "lewm":
        raise UserError(f"{checkpoint} holds {short_repr(agent)}, which the released code cannot build; it builds lewm")
    if not (isinstance(config, dict) and _is_size(image_size) and _is_size(action_dim)):
        raise UserError(f"{checkpoint} is not a checkpoint: its card does not say config, image_size and action_dim")
    sizes = checked(lambda: LeWMConfig(**config), "lewm", LeWMConfig)
    for name in SIZES:
        if (own := getattr(sizes, name)) != (papers := getattr(LeWMConfig(), name)):
            raise UserError(
                f"{checkpoint} has lewm.{name} {own!r}, but the released code builds {papers!r}; train with --profile paper"
            )
    model = LEWM.build(sizes, image_size, action_dim)
    load_weights(model, checkpoint)
    scale = {name: model.state_dict()[f"action_scale.{name}"].tolist() for name in ("mean", "std")}
    write_released(out, _without_scale(model), sizes, image_size, sizes.frame_skip * action_dim)
    return ActionStatistics(tuple(scale["mean"]), tuple(scale["std"]), str(checkpoint))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _without_scale(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("action_scale.")}
