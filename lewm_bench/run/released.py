"""Released weights as checkpoints of ours, and back.

A release has neither the statistics of its actions nor the name of its environment; who imports one says both, unless
they are published and stand in the tables below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lewm_bench.agent import AgentConfig
from lewm_bench.agents.fast_lewm import FAST_LEWM
from lewm_bench.agents.lewm import LEWM
from lewm_bench.agents.parts import released_fast_lewm
from lewm_bench.agents.parts.jepa import JointEmbeddingFamily
from lewm_bench.agents.parts.released import (
    CONFIG,
    MEND,
    PACKAGES,
    PEERS,
    RELEASED,
    SIZES,
    WEIGHTS,
    Released,
    agent_of,
    read_released,
    require_files,
    write_released,
)
from lewm_bench.agents.parts.released_dino_wm import ReleasedDinoWM
from lewm_bench.agents.pldm import PLDM_FAMILY
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


class Layout(NamedTuple):
    """How the weights of an agent are released."""

    family: JointEmbeddingFamily
    read: Callable[[Path, Path], Released]  # from a folder; and what links in it may not leave
    files: tuple[str, ...]


LAYOUTS = {
    "lewm": Layout(LEWM, read_released, RELEASED),
    "pldm": Layout(PLDM_FAMILY, read_released, RELEASED),
    "fast-lewm": Layout(FAST_LEWM, released_fast_lewm.read_released, (WEIGHTS,)),
}
"""Agents of ours whose networks are those of published weights."""


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


def statistics_of(
    agent: str, env_id: str, mean: Sequence[float], std: Sequence[float], data: Path | None
) -> ActionStatistics:
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
            f"import {agent}-weights` takes them from {FLAGS}, or from a folder of `lewm-bench collect` with --data"
        )
    return PUBLISHED[env_id]


def _statistics_of_data(env_id: str, folder: Path) -> ActionStatistics:
    dataset = Dataset.open(folder)
    if dataset.meta.env != env_id:
        raise UserError(f"{folder} is data of {dataset.meta.env}, not of {env_id}; name its environment with --env")
    mean, std = dataset.action_statistics("train")
    return ActionStatistics(tuple(mean.tolist()), tuple(std.tolist()), f"data {dataset.fingerprint}")


def environment_of(agent: str, origin: str, named: str) -> str:
    """The environment of a release: the one that was named, or that of a release that we know.

    Raises:
        UserError: there is none.
    """
    env_id = named or REPOSITORIES.get(origin.removeprefix(PREFIX))
    if env_id is None:
        raise UserError(
            f"{origin} has released weights, which do not say their environment; give `lewm-bench import {agent}-weights` "
            "the --env ID (`lewm-bench list envs`)"
        )
    return env_id


def import_release(
    agent: str, origin: Origin, out: Path, env_id: str, statistics: ActionStatistics, frame_skip: int
) -> None:
    """Make a checkpoint folder of a release.

    Args:
        agent: one of ``LAYOUTS``.
        frame_skip: actions of a block, which the release does not say.

    Raises:
        UserError: it is no release of that agent, or not one for this environment. Nothing is written then.
    """
    layout = LAYOUTS[agent]
    family = layout.family
    if CONFIG in layout.files:
        require_agent(agent, origin)
    found = layout.read(origin.folder, origin.root)
    action_dim = action_dim_of(env_id, found, statistics, frame_skip)
    config = checked(lambda: family.Config(frame_skip=frame_skip, **found.settings), agent, family.Config)
    model = family.build(config, found.image_size, action_dim)
    scale = {"action_scale.mean": statistics.mean, "action_scale.std": statistics.std}
    tensors = found.tensors | {name: torch.tensor(value) for name, value in scale.items()}
    load_strict(model, tensors, str(origin.folder / WEIGHTS), MEND)
    files = [origin.folder / name for name in layout.files]
    card = card_of_release(agent, origin, files, config, found.image_size, env_id, action_dim, statistics)
    save_checkpoint(out, model, card)


def require_agent(agent: str, origin: Origin) -> None:
    """Raise a UserError if a release lacks a file or says that it is of another agent, whose networks may be the same."""
    require_files(origin.folder, origin.root)
    own = agent_of(origin.folder)
    if own not in (None, agent):
        raise UserError(
            f"{origin.folder / CONFIG} says that this is {PEERS[own]}; import it with `lewm-bench import {own}-weights`"
        )


def action_dim_of(env_id: str, found: Released | ReleasedDinoWM, statistics: ActionStatistics, frame_skip: int) -> int:
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


def card_of_release(
    agent: str,
    origin: Origin,
    files: Sequence[Path],
    config: AgentConfig,
    image_size: int,
    env_id: str,
    action_dim: int,
    statistics: ActionStatistics,
) -> dict[str, Any]:
    """What a checkpoint of ours says, as far as a release lets it: neither seed, data nor training are in it."""
    return {
        "agent": agent,
        "config": config.model_dump(mode="json", exclude={"train"}),
        "env": env_id,
        "image_size": image_size,
        "action_dim": action_dim,
        "dataset": None,
        "seed": None,
        "torch": torch.__version__,
        "released": {
            # Not the path on this machine: a card may be published.
            "source": origin.name if origin.name.startswith(PREFIX) else origin.folder.resolve().name,
            "sha256": {file.name: checksum(file) for file in files},
            "action_statistics": statistics.source,
        },
    }


def export_release(agent: str, checkpoint: Path, out: Path) -> ActionStatistics:
    """Write a checkpoint as stable-worldmodel saves weights, and return the statistics that the layout has no place for.

    Args:
        agent: one of ``PACKAGES``.

    Raises:
        UserError: it is another agent, or not of the paper's size, which is all that the released code builds.
    """
    card = load_card(checkpoint)
    own, config, image_size, action_dim = (card.get(name) for name in ("agent", "config", "image_size", "action_dim"))
    if not isinstance(own, str) or parse_agent(own).base != agent:
        raise UserError(f"{checkpoint} holds {short_repr(own)}, not {agent}{_mend_export(own)}")
    if not (isinstance(config, dict) and _is_size(image_size) and _is_size(action_dim)):
        raise UserError(f"{checkpoint} is not a checkpoint: its card does not say config, image_size and action_dim")
    family = LAYOUTS[agent].family
    sizes = checked(lambda: family.Config(**config), agent, family.Config)
    for name in SIZES:
        if (found := getattr(sizes, name)) != (papers := getattr(family.Config(), name)):
            raise UserError(
                f"{checkpoint} has {agent}.{name} {found!r}, but the released code builds {papers!r}; train with --profile paper"
            )
    model = family.build(sizes, image_size, action_dim)
    load_weights(model, checkpoint)
    scale = {name: model.state_dict()[f"action_scale.{name}"].tolist() for name in ("mean", "std")}
    write_released(out, agent, _without_scale(model), sizes, image_size, sizes.frame_skip * action_dim)
    return ActionStatistics(tuple(scale["mean"]), tuple(scale["std"]), str(checkpoint))


def _mend_export(own: object) -> str:
    """What to do with a checkpoint of another agent than was to be exported."""
    base = parse_agent(own).base if isinstance(own, str) else None
    if base in PACKAGES:
        return f"; use `lewm-bench export {base}-weights`"
    return f"; the released code builds {' and '.join(PACKAGES)}"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _without_scale(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("action_scale.")}
