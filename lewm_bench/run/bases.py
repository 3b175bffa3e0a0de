"""Agents that are built on the frozen weights of another: which one that is, and that it is trained first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm_bench.agent import AgentConfig, Base, Family, OnBaseConfig, Setting, TrainedWorldModel
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import canonical
from lewm_bench.run.checkpoints import as_trained, checkpoint_folder
from lewm_bench.run.registry import agent_family
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import load_card
from lewm_bench.system.hub import repository_of


def base_agent(config: OnBaseConfig) -> str | None:
    """The name of the agent that one with this config is built on; None where that is a checkpoint from elsewhere."""
    return None if is_checkpoint(config.base) else canonical(config.base)


def is_checkpoint(base: str) -> bool:
    """Whether a base is named by its checkpoint: a folder, or a repository of the hub."""
    return repository_of(Path(base)) is not None or Path(base).is_dir()


def on_base(setting: Setting[OnBaseConfig], base: Setting) -> Setting:
    """``setting`` with what it is built on, not trained yet.

    Raises:
        UserError: that is no world model with weights of its own, or has other blocks of actions.
    """
    family = agent_family(base.agent)
    if not isinstance(family, TrainedWorldModel):
        raise UserError(
            f"{setting.agent} is built on a world model that is trained here, such as lewm; its base is {base.agent!r}"
        )
    if (ours := setting.config.frame_skip) != (theirs := base.config.frame_skip):
        raise UserError(
            f"{setting.agent} has {ours} environment steps per action block and its base {base.agent} has {theirs}; "
            "set frame_skip alike"
        )
    return replace(setting, base=Base(family, replace(base, base=None)))


def with_base(setting: Setting, family: Family, setting_of: Callable[[str], Setting]) -> Setting:
    """``setting`` with what it is built on, if it is built on something.

    Args:
        setting_of: the setting of the agent of a name, in the same cell.
    """
    if not family.on_base:
        return setting
    name = base_agent(setting.config)
    return on_checkpoint(setting, setting.config.base) if name is None else on_base(setting, setting_of(name))


def on_checkpoint(setting: Setting[OnBaseConfig], named: str) -> Setting:
    """``setting`` with a checkpoint from elsewhere that it is built on.

    Raises:
        UserError: it is none, or of frames or actions of another size.
    """
    folder = checkpoint_folder(Path(named), setting.env_id, setting.store)
    card = load_card(folder)
    for what, ours in (("image_size", setting.image_size), ("action_dim", setting.action_dim)):
        if (theirs := card.get(what)) != ours:
            raise UserError(f"{setting.agent}: its base {named} was made with {what} {theirs!r}, here it is {ours!r}")
    built = on_base(setting, as_trained(folder, _of_card(card, setting)))
    return replace(built, base=replace(built.base, folder=folder, source=named))


def _of_card(card: Mapping[str, Any], setting: Setting) -> Setting:
    """The setting of the agent that a card is of.

    Raises:
        UserError: it does not say.
    """
    if not isinstance(card.get("config"), dict):
        raise UserError(f"the card of what {setting.agent} is built on must say its config; train it again")
    name = str(card.get("agent"))
    own = agent_family(name).Config
    config: AgentConfig = checked(lambda: own(**card["config"]), name, own)
    seed = card.get("seed")
    return replace(setting, agent=name, config=config, seed=seed if isinstance(seed, int) else setting.seed)


def with_trained_base(setting: Setting, train: Callable[[Setting, Family], Path | None]) -> Setting:
    """``setting`` with the checkpoint of what it is built on, if it is built on something."""
    if setting.base is None or setting.base.folder is not None:
        return setting
    folder = train(setting.base.setting, setting.base.family)
    return replace(setting, base=replace(setting.base, folder=folder))


def base_of_card(card: Mapping[str, Any], setting: Setting, family: Family) -> Setting:
    """``setting`` with what a checkpoint's card says that it is built on.

    Raises:
        UserError: it does not say.
    """
    if not family.on_base:
        return setting
    found = card.get("base")
    if not isinstance(found, dict):
        raise UserError(f"the card of a checkpoint must say what {setting.agent} is built on; train again")
    return on_base(setting, _of_card(found, setting))
