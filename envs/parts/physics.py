"""Another physics of a model of MuJoCo: its masses, damping, forces and friction multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import mujoco

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.shift import Factor, scale_texts

FIELDS: Mapping[str, tuple[str, ...]] = {
    "mass": ("body_mass", "body_inertia"),
    "damping": ("dof_damping",),
    "force": ("actuator_gear",),
    "friction": ("geom_friction", "pair_friction"),
}
"""What of a model is multiplied under each name."""
SCALES = {"mass": (1.5, 3.0, 8.0), "damping": (2.0, 4.0, 8.0), "force": (0.7, 0.45, 0.2), "friction": (0.6, 0.3, 0.05)}
ABOUT = {
    "mass": "mass of everything that moves",
    "damping": "what slows the joints down",
    "force": "force of an action",
    "friction": "friction of everything",
}

Scaled = Callable[[Any, Mapping[str, float]], Any]
"""An environment and scales of its constants to the environment that has them."""


def scale_physics(model: mujoco.MjModel, scales: Mapping[str, float], bodies: Sequence[int] | None = None) -> None:
    """Multiply constants of a model, in place; those of ``bodies`` where only they are meant.

    Raises:
        UserError: there is no such constant, or it would not be positive.
    """
    for name, scale in scales.items():
        if name not in FIELDS:
            raise unknown("constant of the physics", name, FIELDS)
        if not scale > 0:
            raise UserError(f"physics: {name} is multiplied by a positive number, got {scale}")
        for field in FIELDS[name]:
            values = getattr(model, field)
            chosen = list(bodies) if bodies is not None and field.startswith("body_") else slice(None)
            values[chosen] = scale * values[chosen]
    if scales:
        mujoco.mj_setConst(model, mujoco.MjData(model))  # what MuJoCo has derived from them


def physics_factors(names: Iterable[str], scaled: Scaled) -> dict[str, Factor]:
    """The factors of these constants; ``scaled`` makes the environment."""
    return {
        name: Factor("physics", ABOUT[name], scale_texts(SCALES[name]), partial(_at_level, name, scaled))
        for name in names
    }


def _at_level(name: str, scaled: Scaled, env: Any, level: int) -> Any:
    return scaled(env, {name: SCALES[name][level - 1]})


def differing(model: mujoco.MjModel) -> list[str]:
    """The constants of which a model has any that makes a difference."""
    touching = (model.geom_contype > 0) & (model.geom_conaffinity > 0)
    there = {
        "mass": bool((model.body_mass > 0).any()),
        "damping": bool((model.dof_damping > 0).any()),
        "force": model.nu > 0,
        "friction": int(touching.sum()) > 1,
    }
    return [name for name, is_there in there.items() if is_there]
