"""Scene: a robot arm, a cube, a drawer, a window, and two buttons that lock these. OGBench's scene, physics by MuJoCo."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np

from lewm_bench.core.env import GoalEnv, Task, frame_space
from lewm_bench.core.exploration import PolicyFactory, generic_policies
from lewm_bench.envs.parts.cube_state import CUBE_HEIGHT, GRIPPER_RANGE
from lewm_bench.envs.parts.robot_view import RobotView
from lewm_bench.envs.parts.scene_state import (
    BUTTONS,
    CUBE_POSITION,
    CUBE_QUATERNION,
    CUBE_VELOCITY,
    DRAWER,
    DRAWER_RANGE,
    EFFECTOR_POSITION,
    EFFECTOR_ROTATION,
    GRIPPER_CONTACT,
    GRIPPER_JOINT,
    JOINTS,
    PRESSED,
    QPOS,
    QVEL,
    STATE_SIZE,
    WARMSTART,
    WINDOW,
    WINDOW_RANGE,
)
from lewm_bench.envs.parts.solved import solved
from lewm_bench.system.extras import require

SUBSTEPS = 25  # of 2 ms: 0.05 s of one environment step
CONTACT_FORCE = 50.0  # newtons on a finger that count as a contact of 1
PRESS = -0.02  # metres: a button that goes down past it changes its state
WRONG_BUTTON = 0.2  # metres of distance, the whole way of the window
TELEPORT = 0.1  # metres: the least that a cube is moved
JITTER = 0.01  # metres to either side of where a task of OGBench's has cube, drawer and window
MOST_STEPS = 500  # of a solution; the longest seen had 395
CLEAR = 0.12  # metres from the axis of the gripper, within which its fingers could touch a cube on the table
NEW_COLOR = (0.35, 0.55, 0.91)  # OGBench's blue
LOCKED, FREE = "red", "white"  # OGBench's colours of a button and of the handle that it locks


class Scene(GoalEnv):
    """A UR5e arm at a table with a cube, a drawer, a window, and a button each that locks the drawer and the window.

    Actions are those of ``Cube``. As OGBench has it, a success is a cube within 4 cm of where it is in the goal, drawer
    and window slid to within 4 cm, and both buttons in the goal's states; the arm does not count. ``distance`` is the
    largest of these errors, of which a button in another state counts 0.2 m, and ``path_length`` their sum.

    The state is 88 numbers: qpos (25: six joints of the arm, eight of the gripper, the cube's position and quaternion,
    two buttons, drawer, window), qvel (24), the warm start of MuJoCo's solver (24), the effector's position (3) and
    rotation (9), the gripper's contact (1) and what the buttons are set to (2). Frames are drawn as Cube's.

    Source: Park et al., OGBench, 2025 (scene).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    threshold = 0.04
    distance_unit = "metres (largest error of cube, drawer and window; a wrong button is 0.2)"
    tasks_schema: ClassVar[int] = 1
    exploration: ClassVar[Mapping[str, float]] = {"plan_oracle": 1.0}
    proprioception: ClassVar[tuple[str, ...]] = ("effector_position", "effector_yaw", "gripper_opening", "joint_angles")

    def __init__(self, image_size: int = 64, render_mode: str = "rgb_array") -> None:
        self.image_size = image_size
        self.action_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._build()

    def _build(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
            scene = require("ogbench.manipspace.envs.scene_env", "Scene")
        # In this mode a reset randomises the scene, and no success changes a colour.
        options = {"mode": "data_collection", "visualize_info": False, "terminate_at_goal": False}
        self._world = scene.SceneEnv("scene", ob_type="states", **options)
        self._world.np_random = np.random.default_rng(0)
        self._world.reset()
        self._model, self._data = self._world.model, self._world.data
        self._view: RobotView | None = None
        self._pinch = self._model.site("ur5e/robotiq/pinch").id
        self._finger = self._model.body("ur5e/robotiq/right_pad").id
        self._contact = 0.0

    def __getstate__(self) -> dict[str, Any]:
        rebuilt = ("_world", "_model", "_data", "_view")
        return {**{k: v for k, v in self.__dict__.items() if k not in rebuilt}, "state": self.get_state()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        kept = dict(kept)
        state = kept.pop("state")
        self.__dict__.update(kept)
        self._build()
        self.set_state(state)

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        before = self.get_state()
        self._world.np_random = rng
        self._world.reset()
        self._contact = 0.0
        state = self.get_state()
        self.set_state(before)
        return state

    def get_state(self) -> np.ndarray:
        data = self._data
        effector = data.site_xpos[self._pinch], data.site_xmat[self._pinch]
        memory = [self._contact], self._world._cur_button_states
        return np.concatenate([data.qpos, data.qvel, data.qacc_warmstart, *effector, *memory]).astype(np.float64)

    def set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        if state.shape != (STATE_SIZE,) or not np.isfinite(state).all():
            raise ValueError(f"a state is {STATE_SIZE} finite numbers, got {state}")
        data = self._data
        data.qpos[:], data.qvel[:] = state[QPOS], state[QVEL]
        self._lock(np.rint(state[BUTTONS]).astype(int))
        data.qacc_warmstart[:] = state[WARMSTART]
        data.site_xpos[self._pinch], data.site_xmat[self._pinch] = state[EFFECTOR_POSITION], state[EFFECTOR_ROTATION]
        self._contact = float(state[GRIPPER_CONTACT])

    def _lock(self, buttons: np.ndarray) -> None:
        """Set the buttons (2,): OGBench locks by damping and ends with MuJoCo's ``mj_forward``."""
        self._world._cur_button_states = buttons
        self._world._apply_button_states()

    def place(self, qpos: np.ndarray, qvel: np.ndarray, buttons: np.ndarray) -> None:
        """Put everything at (25,) positions with (24,) velocities and the buttons (2,) as recordings have them."""
        self._data.qpos[:], self._data.qvel[:], self._contact = qpos, qvel, 0.0
        self._lock(np.rint(buttons).astype(int))

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self._errors(states, goals).max(-1)

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 88) states and goals to the sum of all errors: what is still to be done."""
        return self._errors(states, goals).sum(-1)

    @staticmethod
    def _errors(states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 88) states and goals to (..., 5) metres: of cube, drawer, window and the two buttons."""
        away = np.asarray(states, np.float64) - np.asarray(goals, np.float64)
        cube = np.linalg.norm(away[..., CUBE_POSITION], axis=-1, keepdims=True)
        slid = np.abs(away[..., [DRAWER, WINDOW]])
        wrong = np.where(np.rint(away[..., BUTTONS]) != 0, WRONG_BUTTON, 0.0)
        return np.concatenate([cube, slid, wrong], axis=-1)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        """Metres and (cos, sin) pairs; the gripper's opening as OGBench's: 0 is open, 1 is closed; a button is 0 or 1."""
        states = np.asarray(states, np.float64)
        rotation = states[:, EFFECTOR_ROTATION]
        w, x, y, z = states[:, CUBE_QUATERNION].T
        return {
            "effector_position": states[:, EFFECTOR_POSITION],
            "effector_yaw": _pairs(np.arctan2(rotation[:, 3], rotation[:, 0])),
            "gripper_opening": np.clip(states[:, [GRIPPER_JOINT]] / GRIPPER_RANGE, 0, 1),
            "joint_angles": np.concatenate([_pairs(angle) for angle in states[:, JOINTS].T], axis=1),
            "cube_position": states[:, CUBE_POSITION],
            "cube_yaw": _pairs(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))),
            "drawer": states[:, [DRAWER]],
            "window": states[:, [WINDOW]],
            "buttons": states[:, BUTTONS],
        }

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """The cube lies still elsewhere on the table, at least 10 cm away and not under the gripper."""
        out = np.array(states, np.float64)
        low, high = self._world._object_sampling_bounds
        for state, rng in zip(out, rngs, strict=True):
            away = (state[CUBE_POSITION][:2].copy(), TELEPORT), (state[EFFECTOR_POSITION][:2], CLEAR)
            while True:
                place = rng.uniform(low, high)
                if all(np.linalg.norm(place - point) > least for point, least in away):
                    break
            yaw = rng.uniform(0, 2 * np.pi)
            state[CUBE_POSITION] = *place, CUBE_HEIGHT
            state[CUBE_QUATERNION] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
            state[CUBE_VELOCITY] = 0
        return out

    def ogbench_tasks(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """OGBench's five tasks by name: a start and a goal (88,) each, the arm in the same place in all of them.

        OGBench moves the start's things by up to 1 cm and turns its cube; here they are where the task says.
        """
        arm = self.sample_state(np.random.default_rng(0))
        self._world.set_tasks()
        return {
            task["task_name"]: (self._arranged(arm, task["init"]), self._arranged(arm, task["goal"]))
            for task in self._world.task_infos
        }

    def sample_task(self, rng: np.random.Generator, number: int) -> Task:
        """OGBench's five in turn, from its random starts: ``ogbench_tasks`` moved, and the arm anywhere.

        The goal is where its Markov oracles leave things and arm: a success for what OGBench asks for.
        """
        from lewm_bench.envs.parts.scene_policies import arrange

        self._world.set_tasks()
        asked, arm = self._world.task_infos[number % len(self._world.task_infos)], self.sample_state(rng)
        target = self._arranged(arm, asked["goal"])
        start = self._arranged(arm, _moved(asked["init"], rng), rng.uniform(0, 2 * np.pi))
        return solved(self, lambda: arrange(self._world, target, rng), start, target, MOST_STEPS)

    def _arranged(self, arm: np.ndarray, things: Mapping[str, Any], yaw: float = 0.0) -> np.ndarray:
        """The state (88,) with the arm of a state and a task's things, the cube turned, all still."""
        before, qpos = self.get_state(), arm[QPOS].copy()
        qpos[CUBE_POSITION] = things["block_xyzs"][0]
        qpos[CUBE_QUATERNION] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        qpos[PRESSED], qpos[DRAWER], qpos[WINDOW] = 0, things["drawer_pos"], things["window_pos"]
        self.place(qpos, np.zeros(self._model.nv), things["button_states"])
        state = self.get_state()
        self.set_state(before)
        return state

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        action = np.asarray(action, np.float64)
        if not np.isfinite(action).all():
            raise ValueError("an action is not a finite number")
        before = self._data.qpos[PRESSED].copy()
        self._world.set_control(np.clip(action, -1.0, 1.0))
        mujoco.mj_step(self._model, self._data, SUBSTEPS)
        mujoco.mj_rnePostConstraint(self._model, self._data)  # for the force on the finger
        force = np.linalg.norm(self._data.cfrc_ext[self._finger])
        self._contact = float(np.clip(force / CONTACT_FORCE, 0, 1))
        pressed = (before > PRESS) & (self._data.qpos[PRESSED] <= PRESS)
        self._lock(np.where(pressed, 1 - self._world._cur_button_states, self._world._cur_button_states))

    # Frames.

    def render(self) -> np.ndarray:
        return self.render_states(self.get_state()[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        out, view = np.empty((len(states), *self.observation_space.shape), np.uint8), self._opened()
        for frame, state in zip(out, np.asarray(states, np.float64), strict=True):
            self._paint(view.model, state[BUTTONS])
            frame[:] = view.draw(state[QPOS])
        return out

    def _paint(self, model: mujoco.MjModel, buttons: np.ndarray) -> None:
        """Give buttons and handles the colours of their states."""
        for number, handle in enumerate(("drawer_handle", "window_handle")):
            color = self._world._colors[FREE if round(buttons[number]) else LOCKED]
            model.geom(f"btngeom_{number}").rgba[:] = color
            model.material(handle).rgba[:] = color

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """The cube is blue."""
        color = self._opened().model.geom("object_0").rgba
        before = color.copy()
        color[:3] = NEW_COLOR
        try:
            return self.render_states(states)
        finally:
            color[:] = before

    def _opened(self) -> RobotView:
        if self._view is None:
            self._view = RobotView(self._model, self.image_size)
        return self._view

    def close(self) -> None:
        if self._view is not None:
            self._view.camera.close()
            self._view = None

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        from lewm_bench.envs.parts.scene_policies import markov_oracle, plan_oracle

        oracles = {"markov_oracle": markov_oracle(self._world), "plan_oracle": plan_oracle(self._world)}
        return {**generic_policies(self.action_space), **oracles}


def _moved(things: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
    """Cube, drawer and window up to 1 cm from where a task has them."""
    x, y, drawer, window = rng.uniform(-JITTER, JITTER, 4)
    return {
        **things,
        "block_xyzs": things["block_xyzs"] + (x, y, 0.0),
        "drawer_pos": np.clip(things["drawer_pos"] + drawer, *DRAWER_RANGE),
        "window_pos": np.clip(things["window_pos"] + window, *WINDOW_RANGE),
    }


def _pairs(angles: np.ndarray) -> np.ndarray:
    """(N,) radians to (N, 2) cosines and sines."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
