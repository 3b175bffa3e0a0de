"""Names to objects: registered environments and agents, those of other packages, and what to say on a miss.

Names alone are in ``lewm_bench.run.names``, which is light.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, get_args, get_type_hints

import gymnasium as gym

from lewm_bench.agent import AgentConfig, Family
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, PluginError, UserError, unknown
from lewm_bench.core.names import parse_agent
from lewm_bench.core.search_space import Dimension
from lewm_bench.data.adapt import is_adapted, register_env
from lewm_bench.data.adapt_config import Adapt
from lewm_bench.run.names import ENV_GROUP, agent_names, agent_path, announced
from lewm_bench.system.elsewhere import elsewhere
from lewm_bench.system.faults import attempted, told

logger = logging.getLogger(__name__)


def load_plugins() -> None:
    """Import our environments and those that installed packages announce (entry points), so that they register."""
    importlib.import_module("lewm_bench.envs")
    for entry in entry_points(group=ENV_GROUP):
        if isinstance(error := attempted(entry.load), Exception):  # somebody's broken package; ours must go on
            logger.warning("the environments of %s cannot be imported: %s", entry.value, told(error))


def environment_ids() -> list[str]:
    """The ids of all goal environments that are registered here."""
    load_plugins()
    ours = announced()  # once: it reads the metadata of every installed package
    return sorted(i for i, spec in gym.registry.items() if spec.namespace in ours or is_adapted(spec))


def origin(env_id: str) -> str:
    """Where a registered environment comes from, for a list."""
    spec = gym.registry[env_id]
    if is_adapted(spec):
        return f"adapted from {spec.kwargs['source']}"
    return f"from {announced().get(spec.namespace or '', spec.namespace)}"


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
    if not isinstance(found, Family):
        raise UserError(f"agent {base!r}: {path} is a {type(found).__name__}, not a lewm_bench.agent.Family instance")
    if (mend := fault_of(found)) is not None:
        raise UserError(f"agent {base!r}: {path}: {mend}")
    return found


def imported_for(agent: str, module: str) -> ModuleType:
    """The module that has an agent's family; raises as ``agent_family`` does."""
    found = attempted(lambda: importlib.import_module(module))
    if isinstance(found, ModuleNotFoundError):
        if agent not in agent_names():
            raise UserError(f"agent {agent!r}: cannot import {found.name!r}; install the package that has it")
        raise NotRun(f"agent {agent!r} needs the package {found.name!r}: pip install {found.name}")
    if isinstance(found, Exception):
        raise PluginError(f"agent {agent!r}: {module} cannot be imported: {told(found)}") from found
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
    imported = attempted(lambda: importlib.import_module(module))
    if isinstance(imported, Exception):  # told of where an environment of the name is made
        return False
    found = getattr(imported, attribute, None)
    return isinstance(found, Family) or (found is not None and attribute not in gym.registry)


def make_env(
    env_id: str, image_size: int, kwargs: Mapping[str, Any] | None = None, adapt: Adapt | None = None
) -> GoalEnv:
    """The environment of an id; ``their_package:TheirMaze-v0`` imports the package first.

    With ``adapt`` the id may be any Gymnasium environment's; ``kwargs`` are then its own.

    Raises:
        UserError: no such id, wrong arguments, or not a ``GoalEnv``.
        NotRun: it needs a package that is not installed.
    """
    load_plugins()
    if adapt is not None:
        if ":" not in env_id and env_id not in gym.registry:
            raise elsewhere(env_id) or unknown(
                "environment", env_id, difflib.get_close_matches(env_id, gym.registry, n=5, cutoff=0.3)
            )
        source, env_id = env_id, f"adapted/{env_id.split(':')[-1].split('/')[-1]}"
        register_env(env_id, source, make=kwargs, **adapt.model_dump())
        kwargs = {}
    known = environment_ids()
    if ":" not in env_id and env_id not in gym.registry:
        raise elsewhere(env_id) or unknown("environment", env_id, known)
    try:
        env = gym.make(env_id, image_size=image_size, disable_env_checker=True, **(kwargs or {})).unwrapped
    except ModuleNotFoundError as error:  # Gymnasium raises another one, without a name, from the first
        name = error.name or getattr(error.__cause__, "name", None) or env_id.partition(":")[0]
        raise UserError(f"environment {env_id!r}: cannot import {name!r}; install the package that has it")
    except (AttributeError, OSError, RuntimeError) as error:  # depends on what is missing
        chosen = os.environ.get("MUJOCO_GL")
        if chosen is None or "mujoco" in sys.modules:
            raise
        # MuJoCo opens it when it is imported, also for environments that it does not draw.
        raise UserError(f"MuJoCo cannot be imported with MUJOCO_GL={chosen} ({error}); unset it")
    except gym.error.DependencyNotInstalled as error:
        raise NotRun(f"environment {env_id!r}: {error}")
    except gym.error.Error as error:
        raise UserError(f"environment {env_id!r}: {error}")
    except (TypeError, ValueError) as error:
        if adapt is None and "image_size" in str(error) and gym.spec(env_id.split(":")[-1]).namespace != "lewm_bench":
            raise not_a_goal_env(env_id)
        raise UserError(f"environment {env_id!r} does not accept these arguments: {error}")
    if not isinstance(env, GoalEnv):
        raise not_a_goal_env(env_id)
    return env


def not_a_goal_env(env_id: str) -> UserError:
    """What to do with an environment that was not written for this benchmark."""
    return UserError(
        f"environment {env_id!r} is not a lewm_bench.core.env.GoalEnv; give it a success rule in YAML "
        f"(adapt: {{threshold: ..., compare: [...]}}) or with lewm_bench.data.adapt.register_env: docs/tutorial.md"
    )
