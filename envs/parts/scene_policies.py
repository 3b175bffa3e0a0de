"""OGBench's scripted oracles for cube, buttons, drawer and window, as policies that draw from their episode's generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from lewm_bench.core.exploration import PolicyFactory
from lewm_bench.envs.parts.cube_policies import (
    LEAST_MOVE,
    NOISE_LEVEL,
    NOISE_SCALES,
    NOISE_SMOOTHING,
    STEP,
    drawing_from,
    side_by_side,
)
from lewm_bench.envs.parts.cube_state import CUBE_HEIGHT, GRIPPER_RANGE
from lewm_bench.envs.parts.scene_state import (
    BUTTONS,
    CUBE_POSITION,
    CUBE_QUATERNION,
    DRAWER,
    DRAWER_RANGE,
    EFFECTOR_POSITION,
    EFFECTOR_ROTATION,
    GRIPPER_CONTACT,
    GRIPPER_JOINT,
    PRESSED,
    WINDOW,
    WINDOW_RANGE,
)
from lewm_bench.system.extras import require

TASKS = ("cube", "button", "drawer", "window")
SELDOM = 0.25  # the weight of a drawer or a window that is locked; of everything else 1
IN_DRAWER, OPEN = 0.3, -0.12  # the chance that the cube's target is the drawer, and how far it must be open for it
DRAWER_LOW, DRAWER_HIGH = (0.21, -0.27, 0.0), (0.45, -0.07, 0.15)  # of its inside; y from the handle's
DRAWER_NOISE = 0.005  # metres to either side of the drawer's middle


def markov_oracle(world: Any) -> PolicyFactory:
    """One thing after the other, deciding anew each step; a noise level per episode, uniform up to 0.1.

    Acts on the states of ``Scene``; ``world`` is OGBench's SceneEnv, whose rules choose what is next.
    """

    def oracles(rng: np.random.Generator) -> Mapping[str, Any]:
        return {name: _oracle("markov", name, rng)(env=world, min_norm=LEAST_MOVE) for name in TASKS}

    return _policy(world, oracles, lambda rng: rng.uniform(0, NOISE_LEVEL) * NOISE_SCALES)


def plan_oracle(world: Any) -> PolicyFactory:
    """As ``markov_oracle``, but along a path that is planned with its noise for each thing: smooth, and often missing."""
    options = {"noise": NOISE_LEVEL, "noise_smoothing": NOISE_SMOOTHING}

    def oracles(rng: np.random.Generator) -> Mapping[str, Any]:
        return {name: _oracle("plan", name, rng)(env=world, **options) for name in TASKS}

    return _policy(world, oracles, lambda rng: np.zeros(5))


def _oracle(kind: str, name: str, rng: np.random.Generator) -> type:
    module = require(f"ogbench.manipspace.oracles.{kind}.{name}_{kind}", f"{kind}_oracle")
    return drawing_from(vars(module)[f"{name.capitalize()}{kind.capitalize()}Oracle"], rng)


def _policy(world: Any, oracles: Callable[..., Mapping[str, Any]], noise: Callable[..., np.ndarray]) -> PolicyFactory:
    places = _Places(world.model)
    return side_by_side(lambda rng: _Episode(world, places, oracles(rng), rng, noise(rng)))


@dataclass(frozen=True)
class _Line:
    """Where a site is while a joint slides, and how it is turned."""

    begin: np.ndarray  # (3,) at 0
    direction: np.ndarray  # (3,) per metre of the joint
    yaw: np.ndarray  # (1,) radians

    def at(self, slid: float) -> np.ndarray:
        return self.begin + slid * self.direction


class _Places:
    """The handles, the tops of the buttons, and the handles' targets of OGBench's scene."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._lie = require("ogbench.manipspace.lie", "the oracle")
        self.handles = {"drawer": self._sliding("drawer", DRAWER), "window": self._sliding("window", WINDOW)}
        self.buttons = [self._line(f"btntop_{n}", PRESSED.start + n) for n in range(2)]
        self.targets = {"drawer": self._target("drawer", axis=1), "window": self._target("window", axis=0)}

    def _sliding(self, name: str, joint: int) -> _Line:
        return self._line(f"{name}_handle_center", joint)

    def _line(self, site: str, joint: int) -> _Line:
        begin, _ = self._seen(site, joint, 0.0)
        end, yaw = self._seen(site, joint, 0.1)
        return _Line(begin, (end - begin) / 0.1, yaw)

    def _seen(self, site: str, joint: int, slid: float) -> tuple[np.ndarray, np.ndarray]:
        self._data.qpos[:] = self._model.qpos0
        self._data.qpos[joint] = slid
        mujoco.mj_kinematics(self._model, self._data)
        turned = self._lie.SO3.from_matrix(self._data.site(site).xmat.reshape(3, 3))
        return self._data.site(site).xpos.copy(), np.array([turned.compute_yaw_radians()])

    def _target(self, name: str, axis: int) -> _Line:
        """OGBench moves this site itself along one of its body's axes."""
        site = self._model.site(f"{name}_handle_center_target")
        body = self._data.body(int(site.bodyid[0]))
        rotation, rest = body.xmat.reshape(3, 3), np.where(np.arange(3) == axis, 0.0, site.pos)
        return _Line(body.xpos + rotation @ rest, rotation[:, axis].copy(), self.handles[name].yaw)


class _Episode:
    """The oracles and what evolves between the steps of one episode; ``noise`` (5,) is the std of what is added."""

    def __init__(
        self, world: Any, places: _Places, oracles: Mapping[str, Any], rng: np.random.Generator, noise: np.ndarray
    ) -> None:
        self._world, self._places, self._oracles, self._rng, self._noise = world, places, oracles, rng, noise
        self._lie = require("ogbench.manipspace.lie", "the oracle")
        self._steps, self._task = 0, ""
        self._target: dict[str, Any] = {}

    def act(self, state: np.ndarray) -> np.ndarray:
        """(88,) state to (5,) action."""
        seen = self._observation(state)
        if not self._steps:
            self._aim(state, seen)
        oracle = self._oracles[self._task]
        action = oracle.select_action(None, self._with_target(state, seen))
        if self._noise.any():
            action = action + self._noise * self._rng.standard_normal(5)
        if oracle.done:
            self._aim(state, seen)
        self._steps += 1
        return np.clip(action, -1, 1).astype(np.float32)

    def _aim(self, state: np.ndarray, seen: dict[str, Any]) -> None:
        """What to do next: any of four, a locked drawer or window seldom, a cube in the drawer never."""
        locked = np.where(np.rint(state[BUTTONS]) == 0, SELDOM, 1.0)
        weights = np.array([float(not self._in_drawer(state)), 1.0, *locked])
        self._task = TASKS[self._rng.choice(4, p=weights / weights.sum())]
        self._target = {"cube": self._cube, "button": self._button}.get(self._task, self._slide)(state)
        self._oracles[self._task].reset(None, self._with_target(state, seen))

    def _in_drawer(self, state: np.ndarray) -> bool:
        offset = np.array([0.0, self._places.handles["drawer"].at(state[DRAWER])[1], 0.0])
        cube = state[CUBE_POSITION] - offset
        return bool((cube >= DRAWER_LOW).all() and (cube <= DRAWER_HIGH).all())

    def _cube(self, state: np.ndarray) -> dict[str, Any]:
        if state[DRAWER] < OPEN and self._rng.uniform() < IN_DRAWER:
            place = self._world._drawer_center.copy()
            place[:2] += self._rng.uniform(-DRAWER_NOISE, DRAWER_NOISE, 2)
        else:
            place = np.array([*self._rng.uniform(*self._world._target_sampling_bounds), CUBE_HEIGHT])
        yaw = np.array([self._rng.uniform(0, 2 * np.pi)])
        return {"target_block": 0, "target_block_pos": place, "target_block_yaw": yaw}

    def _button(self, state: np.ndarray) -> dict[str, Any]:
        number = int(self._rng.integers(2))
        return {"target_button": number, "target_button_state": 1 - round(state[BUTTONS][number])}

    def _slide(self, state: np.ndarray) -> dict[str, Any]:
        """To the other end than the one that drawer or window is nearer to."""
        joint, ends = (DRAWER, DRAWER_RANGE) if self._task == "drawer" else (WINDOW, WINDOW_RANGE)
        end = ends[0] if state[joint] > sum(ends) / 2 else ends[1]
        return {f"target_{self._task}_handle_pos": self._places.targets[self._task].at(end)}

    def _with_target(self, state: np.ndarray, seen: dict[str, Any]) -> dict[str, Any]:
        target = {f"privileged/{name}": value for name, value in self._target.items()}
        if self._task == "button":
            number = self._target["target_button"]
            top = self._places.buttons[number].at(state[PRESSED][number])
            target["privileged/target_button_top_pos"] = top
        return {**seen, **target}

    def _observation(self, state: np.ndarray) -> dict[str, Any]:
        """The part of OGBench's info that the oracles read, but for the target."""
        rotation = self._lie.SO3.from_matrix(state[EFFECTOR_ROTATION].reshape(3, 3))
        orientation = self._lie.SO3(wxyz=state[CUBE_QUATERNION])
        seen = {
            "time": np.array([self._steps * STEP]),
            "proprio/effector_pos": state[EFFECTOR_POSITION],
            "proprio/effector_yaw": np.array([rotation.compute_yaw_radians()]),
            "proprio/gripper_opening": np.clip(state[[GRIPPER_JOINT]] / GRIPPER_RANGE, 0, 1),
            "proprio/gripper_contact": state[[GRIPPER_CONTACT]],
            "privileged/block_0_pos": state[CUBE_POSITION],
            "privileged/block_0_yaw": np.array([orientation.compute_yaw_radians()]),
        }
        for number, pressed in enumerate(np.rint(state[BUTTONS])):
            seen[f"privileged/button_{number}_state"] = int(pressed)
        for name, slid in (("drawer", state[DRAWER]), ("window", state[WINDOW])):
            handle = self._places.handles[name]
            seen |= {f"privileged/{name}_handle_pos": handle.at(slid), f"privileged/{name}_handle_yaw": handle.yaw}
        return seen
