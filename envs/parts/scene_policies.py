"""OGBench's scripted oracles for cube, buttons, drawer and window, as policies that draw from their episode's generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
from lewm_bench.envs.parts.solved import Script
from lewm_bench.system.extras import require

TASKS = ("cube", "button", "drawer", "window")
SELDOM = 0.25  # the weight of a drawer or a window that is locked; of everything else 1
CLOSE = 0.035  # metres: what is nearer than this to where it should be is left alone
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


def arrange(world: Any, goal: np.ndarray, rng: np.random.Generator) -> Script:
    """The Markov oracles without noise: one thing after the other until all is as in ``goal`` (88,)."""
    places = _Places(world.model)
    oracles = {name: _oracle("markov", name, rng)(env=world, min_norm=LEAST_MOVE) for name in TASKS}
    return _Episode(places, oracles, _Wanted(places, goal), rng, np.zeros(5))


def _oracle(kind: str, name: str, rng: np.random.Generator) -> type:
    module = require(f"ogbench.manipspace.oracles.{kind}.{name}_{kind}", f"{kind}_oracle")
    return drawing_from(vars(module)[f"{name.capitalize()}{kind.capitalize()}Oracle"], rng)


def _policy(world: Any, oracles: Callable[..., Mapping[str, Any]], noise: Callable[..., np.ndarray]) -> PolicyFactory:
    places = _Places(world.model)
    return side_by_side(lambda rng: _Episode(places, oracles(rng), _Anything(world, places, rng), rng, noise(rng)))


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

    def slide(self, name: str, end: float) -> dict[str, Any]:
        """What the oracle of drawer or window is told that is to slide it to ``end``."""
        return {f"target_{name}_handle_pos": self.targets[name].at(end)}

    def in_drawer(self, state: np.ndarray) -> bool:
        """Whether the cube of a state (88,) lies in the drawer."""
        offset = np.array([0.0, self.handles["drawer"].at(state[DRAWER])[1], 0.0])
        cube = state[CUBE_POSITION] - offset
        return bool((cube >= DRAWER_LOW).all() and (cube <= DRAWER_HIGH).all())


Next = tuple[str, dict[str, Any]]  # which of TASKS, and what its oracle is told beside the state


@dataclass(frozen=True)
class _Anything:
    """As OGBench chooses: any of four, a locked drawer or window seldom, a cube in the drawer never."""

    world: Any
    places: _Places
    rng: np.random.Generator

    def __call__(self, state: np.ndarray) -> Next:
        locked = np.where(np.rint(state[BUTTONS]) == 0, SELDOM, 1.0)
        weights = np.array([float(not self.places.in_drawer(state)), 1.0, *locked])
        task = TASKS[self.rng.choice(4, p=weights / weights.sum())]
        return task, {"cube": self._cube, "button": self._button}.get(task, partial(self._slide, task))(state)

    def _cube(self, state: np.ndarray) -> dict[str, Any]:
        if state[DRAWER] < OPEN and self.rng.uniform() < IN_DRAWER:
            place = self.world._drawer_center.copy()
            place[:2] += self.rng.uniform(-DRAWER_NOISE, DRAWER_NOISE, 2)
        else:
            place = np.array([*self.rng.uniform(*self.world._target_sampling_bounds), CUBE_HEIGHT])
        return _carry(place, self.rng.uniform(0, 2 * np.pi))

    def _button(self, state: np.ndarray) -> dict[str, Any]:
        return _press(int(self.rng.integers(2)), state)

    def _slide(self, task: str, state: np.ndarray) -> dict[str, Any]:
        """To the other end than the one that drawer or window is nearer to."""
        joint, ends = (DRAWER, DRAWER_RANGE) if task == "drawer" else (WINDOW, WINDOW_RANGE)
        return self.places.slide(task, ends[0] if state[joint] > sum(ends) / 2 else ends[1])


@dataclass(frozen=True)
class _Wanted:
    """What is still to be done for a goal (88,): the cube first, then the drawer that it may lie in, the locks last."""

    places: _Places
    goal: np.ndarray

    def __call__(self, state: np.ndarray) -> Next:
        inside = self.places.in_drawer(self.goal)
        place = self.goal[CUBE_POSITION].copy()
        if inside:  # it moves with the drawer
            place += (state[DRAWER] - self.goal[DRAWER]) * self.places.handles["drawer"].direction
        if np.linalg.norm(state[CUBE_POSITION] - place) > CLOSE:
            opens = inside and state[DRAWER] > OPEN
            return self._slide("drawer", DRAWER_RANGE[0], state) if opens else ("cube", _carry(place, 0.0))
        for name, joint in (("drawer", DRAWER), ("window", WINDOW)):
            if abs(state[joint] - self.goal[joint]) > CLOSE:
                return self._slide(name, self.goal[joint], state)
        return "button", _press(int(np.abs(state[BUTTONS] - self.goal[BUTTONS]).argmax()), state)

    def _slide(self, name: str, end: float, state: np.ndarray) -> Next:
        """That, or the button that frees it."""
        number = ("drawer", "window").index(name)
        locked = round(state[BUTTONS][number]) == 0
        return ("button", _press(number, state)) if locked else (name, self.places.slide(name, end))


def _carry(place: np.ndarray, yaw: float) -> dict[str, Any]:
    return {"target_block": 0, "target_block_pos": place, "target_block_yaw": np.array([yaw])}


def _press(number: int, state: np.ndarray) -> dict[str, Any]:
    return {"target_button": number, "target_button_state": 1 - round(state[BUTTONS][number])}


class _Episode:
    """The oracles and what evolves between the steps of one episode.

    ``choose`` says of a state (88,) what to do next; ``noise`` (5,) is the std of what is added to actions.
    """

    def __init__(
        self,
        places: _Places,
        oracles: Mapping[str, Any],
        choose: Callable[[np.ndarray], Next],
        rng: np.random.Generator,
        noise: np.ndarray,
    ) -> None:
        self._places, self._oracles, self._choose, self._rng, self._noise = places, oracles, choose, rng, noise
        self.finished = False
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
        self.finished = bool(oracle.done)
        if self.finished:
            self._aim(state, seen)
        self._steps += 1
        return np.clip(action, -1, 1).astype(np.float32)

    def _aim(self, state: np.ndarray, seen: dict[str, Any]) -> None:
        self._task, self._target = self._choose(state)
        self._oracles[self._task].reset(None, self._with_target(state, seen))

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
