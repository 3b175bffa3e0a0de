"""Which package of the field has an id that Gymnasium does not know yet; only looked at where an id is not known."""

from __future__ import annotations

import difflib
import importlib
import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec

import gymnasium as gym

from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.system.extras import remedy
from lewm_bench.system.faults import result_or_error

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "gymnasium_robotics": (
        "Fetch", "HandReach", "HandManipulate", "AdroitHand", "FrankaKitchen", "PointMaze_", "AntMaze_"
    ),
    "minigrid": ("MiniGrid-", "BabyAI-"),
    "miniworld": ("MiniWorld-",),
    "ale_py": ("ALE/",),
    "metaworld": ("Meta-World/",),
    "ogbench": ("pointmaze-", "antmaze-", "humanoidmaze-", "antsoccer-", "cube-", "scene-", "puzzle-", "powderworld-"),
    "gym_pusht": ("gym_pusht/",),
    "gym_xarm": ("gym_xarm/",),
    "gym_aloha": ("gym_aloha/",),
    "panda_gym": ("Panda",),
    "highway_env": ("highway-", "merge-", "roundabout-", "parking-", "intersection-", "racetrack-"),
}  # fmt: skip
"""Packages that register environments when they are imported, and how the ids of each begin."""


def package_hint(env_id: str) -> UserError | None:
    """What to write for an id without a package in front of it, if one of ``PACKAGES`` has it or should have it."""
    if ":" in env_id:
        return None
    likely = [package for package, beginnings in PACKAGES.items() if env_id.startswith(beginnings)]
    for package in dict.fromkeys([*likely, *PACKAGES]):
        if find_spec(package) is None:
            continue
        _import_quietly(package)
        if env_id in gym.registry:
            return UserError(
                f"no environment named {short_repr(env_id)} here, but {package} has it: {package}:{env_id}"
            )
    for package in likely:
        if find_spec(package) is None:
            return UserError(
                f"no environment named {short_repr(env_id)} here; such ids are of the package {package}: "
                f"{remedy(package)}, then write {package}:{env_id}"
            )
        if close := difflib.get_close_matches(env_id, _ids_of(package), n=1, cutoff=0.5):
            return UserError(
                f"no environment named {short_repr(env_id)} here or in {package}; did you mean {package}:{close[0]}?"
            )
    return None


def _import_quietly(package: str) -> None:
    """Import a package, so that it registers its ids; what it says, and whether it works, is no matter here."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result_or_error(lambda: importlib.import_module(package))


def _ids_of(package: str) -> list[str]:
    entries = {env_id: spec.entry_point for env_id, spec in gym.registry.items()}
    return [env_id for env_id, entry in entries.items() if isinstance(entry, str) and entry.startswith(package)]
