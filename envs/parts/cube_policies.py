"""OGBench's two scripted pick-and-place oracles for one cube, as policies that draw from their episode's generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.envs.parts.cube_state import (
    CUBE_HEIGHT,
    CUBE_POSITION,
    CUBE_QUATERNION,
    EFFECTOR_POSITION,
    EFFECTOR_ROTATION,
    GRIPPER_CONTACT,
    GRIPPER_JOINT,
    GRIPPER_RANGE,
)
from lewm_bench.envs.parts.solved import Script
from lewm_bench.system.extras import require

NOISE_LEVEL = 0.1  # the largest of an episode (Markov), the one of all (plan)
NOISE_SCALES = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # standard deviations of the action's noise at level 1
NOISE_SMOOTHING = 0.5  # steps: of the plan's noise
LEAST_MOVE = 0.4  # the norm to which the Markov oracle lengthens a shorter difference of positions
STEP = 0.05  # seconds


def markov_oracle(world: Any) -> PolicyFactory:
    """Carries the cube of ``world`` (OGBench's CubeEnv) to one random place after the other, deciding anew each step.

    An episode draws its noise level uniformly up to 0.1, and a new target whenever the oracle has put the cube down and
    moved away. Acts on the states of ``Cube``. Source: ``noisy`` of OGBench's generate_manipspace.py.
    """
    oracles = require("ogbench.manipspace.oracles.markov.cube_markov", "markov_oracle")

    def episode(rng: np.random.Generator) -> _Episode:
        oracle = drawing_from(oracles.CubeMarkovOracle, rng)(env=world, min_norm=LEAST_MOVE)
        return _Episode(oracle, _anywhere(world, rng), rng, rng.uniform(0, NOISE_LEVEL) * NOISE_SCALES)

    return side_by_side(episode)


def plan_oracle(world: Any) -> PolicyFactory:
    """As ``markov_oracle``, but along a path that is planned with its noise for each target: smooth, and often missing.

    Source: ``play`` of OGBench's generate_manipspace.py. LeWM's published data look like this policy's: of pairs 25 steps
    apart, 39 % are solved at the start and 47 % are hit by uniform actions within 50 steps (published: 38 and 49; the
    Markov oracle's: 25 and 31).
    """
    oracles = require("ogbench.manipspace.oracles.plan.cube_plan", "plan_oracle")

    def episode(rng: np.random.Generator) -> _Episode:
        options = {"noise": NOISE_LEVEL, "noise_smoothing": NOISE_SMOOTHING}
        oracle = drawing_from(oracles.CubePlanOracle, rng)(env=world, **options)
        return _Episode(oracle, _anywhere(world, rng), rng, None)

    return side_by_side(episode)


def carry(world: Any, place: np.ndarray, rng: np.random.Generator) -> Script:
    """The Markov oracle without noise: carries the cube to ``place`` (3,), then the arm anywhere; again if it missed."""
    oracles = require("ogbench.manipspace.oracles.markov.cube_markov", "carry")
    oracle = drawing_from(oracles.CubeMarkovOracle, rng)(env=world, min_norm=LEAST_MOVE)
    return _Episode(oracle, lambda: _target(place, 0.0), rng, None)


def drawing_from(oracle: type, rng: np.random.Generator) -> type:
    """A subclass whose methods see ``rng`` where OGBench's say ``np.random``, numpy's global generator."""
    methods = {}
    for base in reversed(oracle.__mro__[:-1]):
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and not name.startswith("__"):
                scope = {**method.__globals__, "np": _Numpy(rng)}
                methods[name] = FunctionType(method.__code__, scope, name, method.__defaults__, method.__closure__)
    return type(oracle.__name__, (oracle,), methods)


class _Numpy:
    """numpy with another generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.random = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def side_by_side(episode: Any) -> PolicyFactory:
    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        episodes = [episode(rng) for rng in rngs]

        def act(states: np.ndarray) -> np.ndarray:
            return np.stack([one.act(state) for one, state in zip(episodes, states, strict=True)])

        return act

    return start


def _anywhere(world: Any, rng: np.random.Generator) -> Callable[[], dict[str, Any]]:
    """Random targets for the cube, with as many numbers drawn as OGBench draws for one."""
    return lambda: _target([*rng.uniform(*world._target_sampling_bounds), CUBE_HEIGHT], rng.uniform(0, 2 * np.pi))


def _target(place: Sequence[float] | np.ndarray, yaw: float) -> dict[str, Any]:
    return {
        "privileged/target_block": 0,
        "privileged/target_block_pos": np.array(place),
        "privileged/target_block_yaw": np.array([yaw]),
    }


class _Episode:
    """One oracle and what evolves between the steps of its episode.

    ``targets`` says where the cube goes next; ``noise`` (5,) or None is added to the actions.
    """

    def __init__(
        self,
        oracle: Any,
        targets: Callable[[], dict[str, Any]],
        rng: np.random.Generator,
        noise: np.ndarray | None,
    ) -> None:
        self._oracle, self._targets, self._rng, self._noise = oracle, targets, rng, noise
        self.finished = False
        self._lie = require("ogbench.manipspace.lie", "the oracle")
        self._steps = 0
        self._target: dict[str, Any] = {}

    def act(self, state: np.ndarray) -> np.ndarray:
        """(74,) state to (5,) action."""
        seen = self._observation(state)
        if not self._steps:
            self._aim(seen)
        action = self._oracle.select_action(None, {**seen, **self._target})
        if self._noise is not None:
            action = action + self._noise * self._rng.standard_normal(5)
        self.finished = bool(self._oracle.done)
        if self.finished:
            self._aim(seen)
        self._steps += 1
        return np.clip(action, -1, 1).astype(np.float32)

    def _aim(self, seen: dict[str, Any]) -> None:
        self._target = self._targets()
        self._oracle.reset(None, {**seen, **self._target})

    def _observation(self, state: np.ndarray) -> dict[str, Any]:
        """The part of OGBench's info that the oracles read, but for the target."""
        rotation = self._lie.SO3.from_matrix(state[EFFECTOR_ROTATION].reshape(3, 3))
        orientation = self._lie.SO3(wxyz=state[CUBE_QUATERNION])
        return {
            "time": np.array([self._steps * STEP]),
            "proprio/effector_pos": state[EFFECTOR_POSITION],
            "proprio/effector_yaw": np.array([rotation.compute_yaw_radians()]),
            "proprio/gripper_opening": np.clip(state[[GRIPPER_JOINT]] / GRIPPER_RANGE, 0, 1),
            "proprio/gripper_contact": state[[GRIPPER_CONTACT]],
            "privileged/block_0_pos": state[CUBE_POSITION],
            "privileged/block_0_yaw": np.array([orientation.compute_yaw_radians()]),
        }
