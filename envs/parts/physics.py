"""Another physics of a model of MuJoCo: its masses, damping, forces and friction multiplied."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mujoco
import numpy as np

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.shift import Factor, scale_texts

FIELDS: Mapping[str, tuple[str, ...]] = {
    "mass": ("body_mass", "body_inertia"),
    "damping": ("dof_damping",),
    "force": ("actuator_gear",),
    "friction": ("geom_friction", "pair_friction"),
    "step": (),
}
"""What of a model is multiplied under each name; "step" is the time of a physics step."""
SCALES = {"mass": (1.5, 3.0, 8.0), "damping": (2.0, 4.0, 8.0), "force": (0.7, 0.45, 0.2), "friction": (0.6, 0.3, 0.05)}
ABOUT = {
    "mass": "mass of everything that moves",
    "damping": "what slows the joints down",
    "force": "force of an action",
    "friction": "friction of everything",
}

Scaled = Callable[[str, float], object]
"""A name and a scale to the environment with that much of it."""


def scale_physics(model: mujoco.MjModel, scales: Mapping[str, float]) -> None:
    """Multiply a model's constants in place.

    Raises:
        UserError: there is no such constant, or it is not positive.
    """
    for name, scale in scales.items():
        if name not in FIELDS:
            raise unknown("constant of the physics", name, FIELDS)
        if not scale > 0:
            raise UserError(f"physics: {name} is multiplied by a positive number, got {scale}")
        for field in FIELDS[name]:
            getattr(model, field)[:] *= scale
        if name == "step":
            model.opt.timestep *= scale
    if scales:
        mujoco.mj_setConst(model, mujoco.MjData(model))  # what MuJoCo has derived from them


def physics_factors(model: mujoco.MjModel, scaled: Callable[[object, Mapping[str, float]], object]) -> dict[str, Factor]:
    """Those that make a difference in ``model``; ``scaled`` makes an environment with constants multiplied."""
    there = {
        "mass": True,
        "damping": bool(np.any(model.dof_damping > 0)),
        "force": model.nu > 0,
        "friction": bool(np.any((model.geom_contype > 0) & (model.geom_conaffinity > 0))),
    }

    def factor(name: str) -> Factor:
        def make(env: object, level: int) -> object:
            return scaled(env, {name: SCALES[name][level - 1]})

        return Factor("physics", ABOUT[name], scale_texts(SCALES[name]), make)

    return {name: factor(name) for name, is_there in there.items() if is_there}
