"""Registered environments: their ids, where they come from, and how one is made; agents are in ``lewm_bench.run.registry``."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, PluginError, UserError, unknown
from lewm_bench.data.adapt import is_adapted, register_env
from lewm_bench.data.adapt_config import Adapt
from lewm_bench.run.names import ENV_GROUP, FOUND_WHERE, announced, plugins
from lewm_bench.system.faults import error_line, result_or_error
from lewm_bench.system.known_packages import package_hint

logger = logging.getLogger(__name__)


def load_plugins() -> None:
    """Import our environments and those that installed packages announce (entry points), so that they register."""
    importlib.import_module("lewm_bench.envs")
    for entry in plugins(ENV_GROUP):
        if isinstance(error := result_or_error(entry.load), Exception):  # somebody's broken package; ours must go on
            logger.warning("the environments of %s cannot be imported: %s", entry.value, error_line(error))


def environment_ids() -> list[str]:
    """The ids of all goal environments that are registered here."""
    load_plugins()
    ours = announced()
    return sorted(i for i, spec in gym.registry.items() if spec.namespace in ours or is_adapted(spec))


def origin(env_id: str) -> str:
    """Where a registered environment comes from, for a list."""
    spec = gym.registry[env_id]
    if is_adapted(spec):
        return f"adapted from {spec.kwargs['source']}"
    return f"from {announced().get(spec.namespace or '', spec.namespace)}"


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
            raise package_hint(env_id) or unknown(
                "environment", env_id, difflib.get_close_matches(env_id, gym.registry, n=5, cutoff=0.3)
            )
        source, env_id = env_id, f"adapted/{env_id.split(':')[-1].split('/')[-1]}"
        register_env(env_id, source, make=kwargs, **adapt.model_dump())
        kwargs = {}
    known = environment_ids()
    if ":" not in env_id and env_id not in gym.registry:
        raise package_hint(env_id) or unknown("environment", env_id, known)
    module, colon, _ = env_id.partition(":")
    error = result_or_error(lambda: importlib.import_module(module)) if colon else None
    if isinstance(error, (TypeError, ValueError)):  # not what is raised below for wrong arguments
        raise PluginError(f"{module} cannot be imported: {error_line(error)}") from error
    try:
        env = gym.make(env_id, image_size=image_size, disable_env_checker=True, **(kwargs or {})).unwrapped
    except ModuleNotFoundError as error:  # Gymnasium raises another one, without a name, from the first
        name = error.name or getattr(error.__cause__, "name", None) or env_id.partition(":")[0]
        raise UserError(f"environment {env_id!r}: cannot import {name!r}; {FOUND_WHERE}")
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
