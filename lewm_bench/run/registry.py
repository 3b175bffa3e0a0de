"""Registered agents: from a name to its family, also of another package; names alone are in ``lewm_bench.run.names``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import get_args, get_type_hints

import gymnasium as gym

from lewm_bench.agent import AgentConfig, Family
from lewm_bench.core.card import Card
from lewm_bench.core.errors import NotRun, PluginError, UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.core.search_space import Dimension
from lewm_bench.run.names import FOUND_WHERE, agent_names, agent_path
from lewm_bench.system.faults import error_line, result_or_error


def agent_family(name: str) -> Family:
    """The family registered as ``name``, or the object at ``module:attribute``.

    Raises:
        UserError: nothing is registered under the name, or the object is not a family.
        NotRun: the family needs a package that is not installed.
        PluginError: its module raised something else while it was imported.
    """
    base, path = parse_agent(name).base, agent_path(name)
    module, _, attribute = path.partition(":")
    imported = imported_for(base, module)
    try:
        found = getattr(imported, attribute)
    except AttributeError:
        raise UserError(f"agent {base!r}: module {module!r} has nothing called {attribute!r}")
    if isinstance(found, type) and issubclass(found, Family):
        raise UserError(f"agent {base!r}: {path} is a class; name an instance of it, {attribute} = {found.__name__}()")
    if not isinstance(found, Family):
        raise UserError(f"agent {base!r}: {path} is a {type(found).__name__}, not a lewm_bench.agent.Family instance")
    if (mend := fault_of(found)) is not None:
        raise UserError(f"agent {base!r}: {path}: {mend}")
    return found


def imported_for(agent: str, module: str) -> ModuleType:
    """The module that has an agent's family; raises as ``agent_family`` does."""
    found = result_or_error(lambda: importlib.import_module(module))
    if isinstance(found, ModuleNotFoundError):
        if agent not in agent_names():
            raise UserError(f"agent {agent!r}: cannot import {found.name!r}; {FOUND_WHERE}")
        raise NotRun(f"agent {agent!r} needs the package {found.name!r}: pip install {found.name}")
    if isinstance(found, Exception):
        raise PluginError(f"agent {agent!r}: {module} cannot be imported: {error_line(found)}") from found
    return found


KINDS = get_args(get_type_hints(Family)["kind"])[0]


def fault_of(family: Family) -> str | None:
    """What to mend in the attributes that a family must have; None if they are as they should be."""
    kind = getattr(family, "kind", None)
    if kind not in get_args(KINDS):
        return f"kind must be one of {', '.join(map(repr, get_args(KINDS)))}, got {kind!r}"
    config = family.Config
    if not (isinstance(config, type) and issubclass(config, AgentConfig)):
        return f"Config must be a subclass of lewm_bench.agent.AgentConfig, got {config!r}"
    for name, kinds in TYPES.items():
        if not isinstance(value := getattr(family, name), kinds):
            return f"{name} must be a {kinds[-1].__name__}, got {value!r}"
    if unknown_names := [name for name in family.planning_only if name not in config.model_fields]:
        return f"planning_only names {unknown_names[0]!r}, which is no setting of {config.__name__}"
    if not all(isinstance(each, Dimension) for each in family.search_space):
        return f"search_space must hold lewm_bench.core.search_space.Dimension, got {family.search_space!r}"
    return None


TYPES: Mapping[str, tuple[type, ...]] = {
    "card": (Card,),
    "trainable": (bool,),
    "plans": (bool,),
    "seeds_share": (bool,),
    "schema": (int,),
    "planning_only": (list, tuple),
    "search_space": (list, tuple),
}
"""What a family's attributes are, but for ``kind`` and ``Config``."""


def is_agent(name: str) -> bool:
    """Whether an agent is registered under the name, or something that is no environment lies at its ``module:attribute``.

    Environments of other packages are named alike, so the module is looked into; one that cannot be imported has none.
    """
    base = parse_agent(name).base
    if base in agent_names():
        return True
    module, colon, attribute = base.partition(":")
    if not colon or "." not in module:
        return False
    imported = result_or_error(lambda: importlib.import_module(module))
    if isinstance(imported, Exception):  # told of where an environment of the name is made
        return False
    found = getattr(imported, attribute, None)
    return isinstance(found, Family) or (found is not None and attribute not in gym.registry)
