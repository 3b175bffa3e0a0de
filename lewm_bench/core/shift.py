"""Worlds that differ from the one that an agent was trained in, by one factor and in four levels.

A factor belongs to an environment: level 0 is the world as it was trained in, 3 the strongest change. Frames of another
look, actions that arrive late, another mass, another maze: what is changed is a ``GoalEnv`` again. Its states may
hold more than the environment's own (an action that is still under way, say): ``lift`` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lewm_bench.core.env import GoalEnv

LEVELS = (0, 1, 2, 3)
GROUPS = ("looks", "control", "physics", "layout")


@dataclass(frozen=True)
class Factor:
    """Something of an environment that can be changed."""

    group: Literal["looks", "control", "physics", "layout"]
    about: str  # what is changed, for a table: "camera moved, share of the picture's width"
    values: tuple[str, str, str, str]  # what each level is, for a table; the first is the trained world
    make: Callable[[GoalEnv, int], GoalEnv]  # the environment at a level from 1 to 3
