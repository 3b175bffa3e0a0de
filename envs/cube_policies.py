"""OGBench's scripted pick-and-place of one cube, as LeWM's data were collected with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm_bench.env import BatchPolicy, PolicyFactory
from lewm_bench.envs import cube
from lewm_bench.extras import require

NOISE_LEVEL = 0.1  # the largest of an episode, which draws its own uniformly from 0 on
NOISE_SCALES = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # standard deviations of the action's noise at level 1
LEAST_MOVE = 0.4  # the norm to which the oracle lengthens a shorter difference of positions


def markov_oracle(world: Any) -> PolicyFactory:
    """Carries the cube of ``world`` (OGBench's CubeEnv) to one random place after the other, with noise.

    An episode draws its noise level, and a new target whenever the oracle has put the cube down and moved away.
    Acts on the states of ``Cube``. Source: OGBench's generate_manipspace.py (``noisy``), as in LeWM, appendix E.
    """

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        episodes = [_Episode(world, rng) for rng in rngs]

        def act(states: np.ndarray) -> np.ndarray:
            return np.stack([episode.act(state) for episode, state in zip(episodes, states, strict=True)])

        return act

    return start


class _Episode:
    """What evolves between the steps of one episode."""

    def __init__(self, world: Any, rng: np.random.Generator) -> None:
        self._lie = require("ogbench.manipspace.lie", "markov_oracle")
        oracles = require("ogbench.manipspace.oracles.markov.cube_markov", "markov_oracle")
        self._oracle = oracles.CubeMarkovOracle(env=world, min_norm=LEAST_MOVE)
        self._world, self._rng = world, rng
        self._noise = rng.uniform(0, NOISE_LEVEL) * NOISE_SCALES
        self._aim()

    def _aim(self) -> None:
        """A new target for the cube, and a place for the effector afterwards."""
        world, oracle = self._world, self._oracle
        self._target = np.array([*self._rng.uniform(*world._target_sampling_bounds), 0.02])
        self._target_yaw = self._rng.uniform(0, 2 * np.pi)
        # The oracle's own reset draws from numpy's global generator.
        oracle._done, oracle._step, oracle._max_step = False, 0, 200
        oracle._final_pos = self._rng.uniform(*world._arm_sampling_bounds)
        oracle._final_yaw = self._rng.uniform(-np.pi, np.pi)

    def act(self, state: np.ndarray) -> np.ndarray:
        action = self._oracle.select_action(None, self._observation(state))
        action = np.clip(action + self._noise * self._rng.standard_normal(5), -1, 1).astype(np.float32)
        if self._oracle.done:
            self._aim()
        return action

    def _observation(self, state: np.ndarray) -> dict[str, Any]:
        """(74,) state to the part of OGBench's info that the oracle reads."""
        rotation = self._lie.SO3.from_matrix(state[cube.EFFECTOR_ROTATION].reshape(3, 3))
        orientation = self._lie.SO3(wxyz=state[cube.CUBE_QUATERNION])
        return {
            "proprio/effector_pos": state[cube.EFFECTOR_POSITION],
            "proprio/effector_yaw": np.array([rotation.compute_yaw_radians()]),
            "proprio/gripper_opening": np.clip(state[[cube.GRIPPER_JOINT]] / cube.GRIPPER_RANGE, 0, 1),
            "proprio/gripper_contact": state[[cube.GRIPPER_CONTACT]],
            "privileged/target_block": 0,
            "privileged/block_0_pos": state[cube.CUBE_POSITION],
            "privileged/block_0_yaw": np.array([orientation.compute_yaw_radians()]),
            "privileged/target_block_pos": self._target,
            "privileged/target_block_yaw": np.array([self._target_yaw]),
        }
