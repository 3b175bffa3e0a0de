"""Reacher: a two-link arm that is turned by its joints, seen from above. dm_control's model, stepped by MuJoCo itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.rollout import Rollout

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import UserError
from lewm_bench.core.shift import Factor, scale_texts
from lewm_bench.envs.parts.physics import physics_factors, scale_physics
from lewm_bench.system.extras import require
from lewm_bench.system.gl import Camera
from lewm_bench.system.resources import cores

SUBSTEPS = 2  # physics steps of 0.02 s per environment step
CAMERA = 0  # dm_control's "fixed", from above
ARM = ("root", "arm", "hand", "finger")  # its geoms, and its foot, which the upper link hides in part
LINK_GEOMS, LINK_ENDS = ("arm", "hand"), ("hand", "finger")  # the bodies that begin where links end
HIDDEN = 5  # a geom group that MuJoCo's default options do not draw
SUPERSAMPLING = 3  # the arm is drawn this much larger and averaged down
ARM_SLICES = 12  # sides of a drawn cylinder; most of the time goes into vertices
LINKS = (0.85, 0.7, 0.5)  # of changed worlds, by level
LONGEST = 1.25  # the stretched arm ends at the walls
OTHER_COLORS = {"self": (0.3, 0.7, 0.5), "effector": (0.2, 0.7, 0.4)}  # the arm's orange with rotated channels
_MAX_THREADS = 8
_THREADED_STEPS = 2000  # below this many physics steps, starting threads costs more than they save


class Reacher(GoalEnv):
    """dm_control's reacher with a goal for both joints ("qpos_match"): an action is two torques, held for 0.04 s.

    The state is (shoulder, wrist, their velocities), in radians and seconds. The distance is the larger of the two
    joint errors. The shoulder turns without end: as published, a goal that is a full turn away is not reached although
    it looks the same; ``wrapped=True`` takes the shoulder's error (the wrist is limited) around the circle instead.
    ``physics`` multiplies "mass", "damping" or "force", ``links`` the length of both links, whose density stays.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}
    distance_unit = "radians (larger of the two joint errors)"
    # As the published collection script: 0.6 % of pairs are then solved at the start and random actions reach 10 %
    # (published: 0.57 % and 13 %). With correlated noise the arm moves four times as far and random actions reach 2 %.
    exploration: ClassVar[Mapping[str, float]] = {"uniform": 1.0}
    proprioception: ClassVar[tuple[str, ...]] = ("joint_angles", "joint_velocities")

    def __init__(
        self,
        image_size: int = 64,
        wrapped: bool = False,
        threshold: float = 0.05,
        render_mode: str = "rgb_array",
        physics: Mapping[str, float] | None = None,
        links: float = 1.0,
    ) -> None:
        if not threshold > 0:
            raise UserError(f"threshold must be positive (radians), got {threshold}")
        if not 0 < links <= LONGEST:
            raise UserError(f"need 0 < links <= {LONGEST}, got {links}")
        self.links = links
        self.threshold, self.wrapped, self.image_size = threshold, wrapped, image_size
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self.physics = dict(physics or {})
        self._model = physics_model(links)
        scale_physics(self._model, self.physics)
        self._data = mujoco.MjData(self._model)
        self._pool = [mujoco.MjData(self._model) for _ in range(min(cores(), _MAX_THREADS))]
        self.wrist_range: tuple[float, float] = tuple(self._model.joint("wrist").range.tolist())
        self.lengths: tuple[float, float] = (self._model.body("hand").pos[0], self._model.body("finger").pos[0])
        self._painter: _Painter | None = None
        self._painted_by: Reacher | None = None  # one that looks the same and has opened OpenGL

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_painter": None}  # OpenGL belongs to its process

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """At rest, the shoulder anywhere in [-pi, pi) and the wrist anywhere in its limits, as dm_control resets."""
        return np.array([rng.uniform(-math.pi, math.pi), rng.uniform(*self.wrist_range), 0.0, 0.0])

    def get_state(self) -> np.ndarray:
        return np.concatenate([self._data.qpos, self._data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        if state.shape != (4,) or not np.isfinite(state).all():
            raise ValueError(f"a state is four finite numbers (shoulder, wrist, their velocities), got {state}")
        self._data.qpos[:], self._data.qvel[:] = state[:2], state[2:]

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        error = np.abs(np.asarray(states)[..., :2] - np.asarray(goals)[..., :2])
        if self.wrapped:
            error[..., 0] %= 2 * math.pi
            error[..., 0] = np.minimum(error[..., 0], 2 * math.pi - error[..., 0])
        return error.max(-1)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        """``joint_angles``: cos and sin of the shoulder, then of the wrist; ``finger_position``: x, y in metres."""
        shoulder, wrist = states[:, 0], states[:, 1]
        upper, lower = self.lengths
        direction = shoulder + wrist
        x = upper * np.cos(shoulder) + lower * np.cos(direction)
        y = upper * np.sin(shoulder) + lower * np.sin(direction)
        return {
            "joint_angles": np.stack([np.cos(shoulder), np.sin(shoulder), np.cos(wrist), np.sin(wrist)], axis=1),
            "joint_velocities": states[:, 2:],
            "finger_position": np.stack([x, y], axis=1),
        }

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Other joint angles, the same velocities; the shoulder at most half a turn away, so that far is not alike."""
        out = np.array(states, np.float64)
        angles = super().teleported(out, rngs)[:, :2]
        out[:, 0] += (angles[:, 0] - out[:, 0] + math.pi) % (2 * math.pi) - math.pi
        out[:, 1] = angles[:, 1]
        return out

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        self._data.ctrl[:] = _clipped(action)
        mujoco.mj_step(self._model, self._data, SUBSTEPS)

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        states, actions = np.asarray(states, np.float64), _clipped(actions)
        if not len(states) or not actions.shape[1]:
            return np.empty((len(states), actions.shape[1], 4))
        full = np.concatenate([np.zeros((len(states), 1)), states], axis=1)  # MuJoCo's states begin with the time
        controls = np.repeat(actions, SUBSTEPS, axis=1)
        threads = len(self._pool) if len(states) * controls.shape[1] >= _THREADED_STEPS else 0
        with Rollout(nthread=threads) as rollout:
            every, _ = rollout.rollout(self._model, self._pool[: max(threads, 1)], full, controls)
        return every[:, SUBSTEPS - 1 :: SUBSTEPS, 1:].copy()

    # Frames.

    def render(self) -> np.ndarray:
        return self.render_states(self.get_state()[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._draw(states, {})

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, 4) states to frames with a green arm."""
        return self._draw(states, OTHER_COLORS)

    def _draw(self, states: np.ndarray, colors: Mapping[str, Sequence[float]]) -> np.ndarray:
        if self._painted_by is not None:
            return self._painted_by._draw(states, colors)
        if self._painter is None:
            self._painter = _Painter(self.image_size, self.links)
        return self._painter.draw(np.asarray(states, np.float64)[:, :2], colors)

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    # Changed worlds.

    def factors(self) -> Mapping[str, Factor]:
        found = {**super().factors(), **physics_factors(("mass", "damping", "force"), _scaled)}
        if self.links == 1:
            found["links"] = Factor("layout", "length of the links", scale_texts(LINKS), _shortened)
        return found


def _scaled(env: Reacher, scales: Mapping[str, float]) -> Reacher:
    """The same with constants of its physics multiplied."""
    both = {name: env.physics.get(name, 1.0) * scales.get(name, 1.0) for name in {**env.physics, **scales}}
    made = Reacher(env.image_size, env.wrapped, env.threshold, physics=both, links=env.links)
    made._painted_by = env
    return made


def _shortened(env: Reacher, level: int) -> Reacher:
    return Reacher(env.image_size, env.wrapped, env.threshold, physics=env.physics, links=LINKS[level - 1])


def _clipped(actions: np.ndarray) -> np.ndarray:
    actions = np.asarray(actions, np.float64)
    if not np.isfinite(actions).all():
        raise ValueError("an action is not a finite number")
    return np.clip(actions, -1.0, 1.0)


def reacher_spec(links: float) -> mujoco.MjSpec:
    """dm_control's reacher as its file has it, with the target invisible and the links' length multiplied.

    Only the file is read: importing the suite would choose an OpenGL for the whole process.
    """
    package = require("dm_control", "Reacher")
    spec = mujoco.MjSpec.from_file(str(Path(package.__file__).parent / "suite" / "reacher.xml"))
    spec.geom("target").group = HIDDEN
    for name in LINK_GEOMS:
        spec.geom(name).fromto *= links
    for name in LINK_ENDS:
        spec.body(name).pos *= links
    return spec


def physics_model(links: float = 1.0) -> mujoco.MjModel:
    """The model that is stepped."""
    spec = reacher_spec(links)
    # Without warm start the state determines the future to the last bit.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
    _shrink_textures(spec)
    return spec.compile()


def _shrink_textures(spec: mujoco.MjSpec) -> None:
    """For a model that shows none of them: 12 MB less, and 0.2 s less to open OpenGL."""
    for texture in spec.textures:
        texture.width = texture.height = 1


class _Painter:
    """dm_control's picture from two: the room, drawn once as dm_control does, and the arm alone for each state.

    Drawing the whole scene takes twenty times longer in software: a shadow map of 2048 pixels square, a reflecting
    floor, four samples per pixel, and three passes over finely cut cylinders. What is given up is small, because the
    camera and the light are both straight above: the shadow of the arm and its reflection in the floor. The arm's
    cylinders have 12 sides instead of 28, and edges are smoothed by averaging 3 x 3 pixels instead of 4 samples.
    """

    def __init__(self, image_size: int, links: float) -> None:
        self._size = image_size
        self._room = self._draw_room().astype(np.uint16)
        spec = reacher_spec(links)
        for geom in spec.geoms:
            if geom.name not in ARM:
                geom.group = HIDDEN
        spec.lights[0].castshadow = False
        spec.visual.quality.numslices = spec.visual.quality.numstacks = ARM_SLICES
        spec.visual.quality.offsamples = 0
        _shrink_textures(spec)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._colors = self._model.mat_rgba.copy()
        self._camera = Camera(self._model, SUPERSAMPLING * image_size, CAMERA)
        for flag in (mujoco.mjtRndFlag.mjRND_SKYBOX, mujoco.mjtRndFlag.mjRND_HAZE):
            self._camera.scene.flags[flag] = 0  # so that what is not the arm is black

    def _draw_room(self) -> np.ndarray:
        """(size, size, 3) uint8 without the arm, in full quality."""
        spec = reacher_spec(links=1.0)
        for name in ARM:
            spec.geom(name).group = HIDDEN
        model = spec.compile()
        data, camera = mujoco.MjData(model), Camera(model, self._size, CAMERA)
        mujoco.mj_forward(model, data)
        frame = camera.frame(data)
        camera.close()
        return frame

    def draw(self, angles: np.ndarray, colors: Mapping[str, Sequence[float]]) -> np.ndarray:
        """(N, 2) joint angles to (N, size, size, 3) uint8 frames; ``colors`` replaces those of materials, by name."""
        self._model.mat_rgba[:] = self._colors
        for name, color in colors.items():
            self._model.material(name).rgba[:3] = color
        frames = np.empty((len(angles), self._size, self._size, 3), np.uint8)
        for frame, self._data.qpos[:] in zip(frames, angles, strict=True):
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_camlight(self._model, self._data)
            frame[:] = self._over_room(self._camera.frame(self._data))
        return frames

    def _over_room(self, arm: np.ndarray) -> np.ndarray:
        """The arm on black, (k size, k size, 3), averaged down and put over the room: (size, size, 3)."""
        frame, k = self._room.copy(), SUPERSAMPLING
        seen = arm[..., 0] > 0  # ambient light leaves some red on every part
        rows, columns = (np.flatnonzero(seen.any(axis)) // k for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        fine = tuple(slice(k * side.start, k * side.stop) for side in box)
        bare = _block_sums(~seen[fine], k)[..., None]
        frame[box] = (_block_sums(arm[fine], k) + bare * frame[box] + k * k // 2) // (k * k)
        return frame

    def close(self) -> None:
        self._camera.close()


def _block_sums(image: np.ndarray, k: int) -> np.ndarray:
    """(k h, k w, ...) to (h, w, ...) uint16, the sum over each k x k block."""
    rows = sum(image[i::k].astype(np.uint16) for i in range(k))
    return sum(rows[:, i::k] for i in range(k))
