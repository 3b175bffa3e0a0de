"""Checkpoints from elsewhere: whether one is what a job would have trained, and what its training was."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lewm_bench.agent import AgentConfig, Base, Setting
from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.agents.parts.released import RELEASED, agent_of, is_released, require_files
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.core.reading import is_file, read_model, require_tensors
from lewm_bench.run.registry import agent_family
from lewm_bench.run.released import LAYOUTS, Origin, environment_of, import_release, statistics_of
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import CARD, MEND, WEIGHTS, load_card
from lewm_bench.system.files import checksum
from lewm_bench.system.hub import download, repository_of
from lewm_bench.system.store import Store
from lewm_bench.train.record import TrainingRecord

TRAINING = "training.json"  # of a checkpoint folder


TRAINED_ON = ("train", "data")  # settings of a training that its use need not name
FILES = (WEIGHTS, CARD, TRAINING)


def located(named: Path) -> Origin:
    """Where a checkpoint is: a folder here, or that of ``hf:OWNER/NAME``, fetched from the hub.

    Raises:
        UserError: it cannot be fetched.
    """
    repository = repository_of(named)
    if repository is None:
        return Origin(named, named, str(named))
    folder = download(repository, (*FILES, *RELEASED))
    # The hub keeps files once, in a folder of the repository, and links to them from each revision's.
    return Origin(folder, folder.parents[1], named.as_posix())


def checkpoint_folder(named: Path, env_id: str, store: Store) -> Path:
    """The checkpoint folder of ours that ``--checkpoint`` names: itself, the hub's, or made of released weights.

    Args:
        env_id: that was named beside it, "" if none was.

    Raises:
        UserError: it cannot be fetched, or is released weights that need to be imported by hand.
    """
    origin = located(named)
    if is_file(origin.folder / CARD) or not is_released(origin.folder):
        return origin.folder
    require_files(origin.folder, origin.root)
    agent = agent_of(origin.folder) or "lewm"
    if agent not in LAYOUTS:
        raise UserError(
            f"{origin.folder} is no checkpoint yet; make one of it with `lewm-bench import {agent}-weights`"
        )
    env_id = environment_of(agent, origin.name, env_id)
    statistics = statistics_of(agent, env_id, (), (), None)
    files = {name: checksum(origin.folder / name) for name in RELEASED}
    spec = {"schema": 2, "agent": agent, "source": origin.name, "files": files}
    spec |= {"env": env_id, "statistics": list(statistics)}
    skip = JEPAConfig().frame_skip
    return store.stage("imported", spec, lambda work: import_release(agent, origin, work, env_id, statistics, skip))


def origin_note(folder: Path | None) -> str:
    """What a table says of weights that somebody else has trained."""
    if folder is None or not is_file(folder / CARD):
        return ""
    released = load_card(folder).get("released")
    source = released.get("source") if isinstance(released, dict) else None
    return f"released weights of {source}, whose training is not ours" if isinstance(source, str) else ""


def as_trained(checkpoint: Path, setting: Setting) -> Setting:
    """``setting`` with the training that the weights of a checkpoint have had, and their checksum.

    Raises:
        UserError: its card has settings of training that there are not.
    """
    require_tensors(checkpoint / WEIGHTS, MEND)  # before its checksum, which reads a file of any size
    card, own = load_card(checkpoint).get("config", {}), type(setting.config)
    had = {name: card[name] for name in TRAINED_ON if name in card}
    config = checked(lambda: own(**setting.config.model_dump() | had), setting.agent, own)
    return replace(setting, config=config, outside=checksum(checkpoint / WEIGHTS))


def training_of(folder: Path | None) -> dict[str, Any]:
    """The seconds and the columns of the training that a checkpoint folder tells of, if it does."""
    if folder is None or not os.path.lexists(folder / TRAINING):
        return {}
    mend = "delete this file, which the weights do not need, or train again"
    return read_model(folder / TRAINING, TrainingRecord, mend).model_dump()


def trained_seconds(training: Mapping[str, Any]) -> float | None:
    """What ``training_of`` says that a training took, that of what it is built on included; None where that is not known."""
    own, base = training.get("seconds"), training.get("base")
    if own is None or base is None:
        return own
    return None if base["seconds"] is None else own + base["seconds"]


@dataclass(frozen=True)
class Use:
    """What a checkpoint is used for, as far as that is known before there are data."""

    env: GoalEnv
    env_id: str
    agent: str
    config: AgentConfig
    seed: int

    @property
    def image_size(self) -> int:
        return int(self.env.observation_space.shape[0])

    @property
    def action_dim(self) -> int:
        return int(self.env.action_space.shape[0])


def check_card(folder: Path, setting: Setting | Use) -> None:
    """Refuse a checkpoint that was made with another configuration than the one it would be evaluated with.

    Raises:
        UserError: the first field that differs, and both values.
    """
    free = (*TRAINED_ON, *agent_family(setting.agent).planning_only)
    found = load_card(folder)
    card, own = flat_card(_with_later_settings(found, setting), free), flat_card(_card_of(setting), free)
    for name in sorted({*card, *own}, key=lambda name: (name != "agent", name)):
        if (theirs := card.get(name)) != (ours := own.get(name)):
            raise UserError(
                f"checkpoint {folder} was made with {name} {theirs!r}, but here it is {ours!r}; set it alike"
                + (alike(found, name, theirs) if name in card else "")
            )
    if isinstance(setting, Setting) and setting.base is not None:
        check_base(folder, found, setting.base)
    check_environment(folder, found, setting)
    if isinstance(seed := found.get("seed"), int) and seed != setting.seed:
        raise UserError(f"checkpoint {folder} was trained with seed {seed}, not {setting.seed}; add --seed {seed}")
    if not is_file(folder / WEIGHTS):
        raise UserError(f"{folder} is not a checkpoint: it has no {WEIGHTS}")


def check_base(folder: Path, card: Any, base: Base) -> None:
    """Refuse a checkpoint that is built on an agent of another configuration.

    Raises:
        UserError: the first field that differs, and both values.
    """
    found, ours = card.get("base"), base.identity
    theirs = found if isinstance(found, dict) else {}
    config = theirs.get("config") if isinstance(theirs.get("config"), dict) else {}
    differs = [("agent", theirs.get("agent"), ours["agent"])]
    differs += [(n, config.get(n), v) for n, v in ours["config"].items() if n not in TRAINED_ON]
    for name, was, here in differs:
        if was != here:
            told = name if name == "agent" else f"{base.setting.agent}.{name}"
            raise UserError(f"checkpoint {folder} is built on {told} {was!r}, but here it is {here!r}; set it alike")


def _card_of(setting: Setting | Use) -> dict[str, Any]:
    """What of a card is held against another."""
    config, name = setting.config.model_dump(mode="json"), parse_agent(setting.agent).trained
    return {"agent": name, "config": config, "image_size": setting.image_size, "action_dim": setting.action_dim}


def _with_later_settings(card: Any, setting: Setting | Use) -> Any:
    """A card with the defaults of the settings that there were not when it was written: a default changes no weights."""
    config = card.get("config") if isinstance(card, dict) else None
    if not isinstance(config, dict) or parse_agent(str(card.get("agent"))).base != parse_agent(setting.agent).base:
        return card
    return {**card, "config": {**type(setting.config)().model_dump(mode="json"), **config}}


def alike(card: Any, name: str, value: Any) -> str:
    """How a setting is made that of a card, to be read behind "set it alike"."""
    if name == "agent":
        return ""
    if name == "action_dim":
        return ", by the environment that it was made in: --env"
    paper = ", or all of them by --profile paper" if isinstance(card, dict) and "released" in card else ""
    return f": --set {name}={json.dumps(value)}{paper}"


def check_environment(folder: Path, card: dict[str, Any], setting: Setting | Use) -> None:
    """Refuse a checkpoint that was made in another environment, or in another version of this one.

    Raises:
        UserError: it was; a card of before there were identities is believed for its environment's name.
    """
    was, here, identity = card.get("env"), setting.env_id, setting.env.identity()
    known = "environment" in card
    same = card["environment"] == identity if known else was in (here, None)
    if not same and was == here:
        raise UserError(f"checkpoint {folder} was made in {here} before its code or arguments changed; train again")
    if not same:
        raise UserError(f"checkpoint {folder} was made in {was}, not in {here}; name its environment with --env")


def flat_card(card: Any, free: Collection[str]) -> dict[str, Any]:
    """What must agree between a checkpoint and its use; settings in ``free`` may differ, and with them the variant."""
    flat = {name: card.get(name) for name in ("agent", "image_size", "action_dim")} if isinstance(card, dict) else {}
    flat["agent"] = parse_agent(str(flat.get("agent"))).base
    config = card.get("config") if isinstance(card, dict) else None
    settings = config.items() if isinstance(config, dict) else ()
    return flat | {f"{flat['agent']}.{key}": value for key, value in settings if key not in free}
