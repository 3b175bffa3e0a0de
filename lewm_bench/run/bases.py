"""Agents that are built on the frozen weights of another: which one that is, and that it is trained first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm_bench.agent import AgentConfig, Base, Family, OnBaseConfig, Setting, TrainedWorldModel
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import canonical
from lewm_bench.run.registry import agent_family
from lewm_bench.run.validation import checked


def base_agent(config: OnBaseConfig) -> str:
    """The name of the agent that one with this config is built on."""
    return canonical(config.base)


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
    return on_base(setting, setting_of(base_agent(setting.config))) if family.on_base else setting


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
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise UserError(f"the card of a checkpoint must say what {setting.agent} is built on; train again")
    name = str(found.get("agent"))
    own = agent_family(name).Config
    config: AgentConfig = checked(lambda: own(**found["config"]), name, own)
    return on_base(setting, replace(setting, agent=name, config=config, seed=int(found.get("seed", setting.seed))))
