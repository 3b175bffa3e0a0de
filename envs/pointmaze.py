"""PointMaze: a force-driven ball in a maze, seen from above. Physics by MuJoCo."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar
from xml.etree.ElementTree import Element, SubElement, tostring

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.rollout import Rollout

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.exploration import PolicyFactory, generic_policies
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import Factor, scale_texts
from lewm_bench.envs.parts.flight import FASTEST, FreeFlight
from lewm_bench.envs.parts.geodesic import Geodesics
from lewm_bench.envs.parts.maze import (
    BALL_RADIUS,
    Box,
    altered_mazes,
    clearance,
    drawing,
    parse_maze,
    turned_mazes,
    wall_boxes,
)
from lewm_bench.envs.parts.raster import BALL, FLOOR, RECOLORED_BALL, WALL, Raster, pushed
from lewm_bench.envs.parts.waypoints import waypoints
from lewm_bench.system.resources import cores

CONTACT_MARGIN = 0.002
START_SPEED = 0.2  # cells per second, per axis: the largest initial velocity
REFLEX_GAIN = 3.0  # action per cell
ALTERED, ALTERED_SMALL, SMALL = (2, 5, 10), (1, 2, 3), 36  # cells that are changed by level; cells of a small maze
_MAX_THREADS = 8
_FEW = 12  # balls that MuJoCo moves faster one by one than numpy all together
_THREADED_STEPS = 2000  # below this many physics steps, starting threads costs more than they save


@dataclass(frozen=True)
class Dynamics:
    """The constants of the ball."""

    timestep: float  # seconds of one physics step
    substeps: int  # physics steps per environment step
    mass: float
    force: float  # at action 1
    damping: float
    max_speed: float  # per axis, enforced before each environment step


DAMPED = Dynamics(timestep=0.02, substeps=5, mass=1.0, force=5.0, damping=4.0, max_speed=math.inf)
# gymnasium-robotics: density 1000, gear 100, damping 1, one step of 0.01 s per environment step, clipped to 5.
INERTIAL = Dynamics(
    timestep=0.01, substeps=1, mass=1000 * 4 / 3 * math.pi * BALL_RADIUS**3, force=100.0, damping=1.0, max_speed=5.0
)


def changed_dynamics(dynamics: Dynamics, changes: Mapping[str, float]) -> Dynamics:
    """The constants with some of them replaced.

    Raises:
        UserError: there is no such constant, or it is not positive.
    """
    known = vars(dynamics)
    for name, value in changes.items():
        if name not in known:
            raise unknown("constant of PointMaze's dynamics", name, known)
        if not value > 0:
            raise UserError(f"dynamics: {name} must be positive, got {value}")
    return replace(dynamics, **{name: type(known[name])(value) for name, value in changes.items()})


class PointMaze(GoalEnv):
    """A ball pushed through a maze by a force; one unit is one cell, and the maze's centre is the origin.

    ``maze`` is "UMaze", "Medium", "Large" (the maps of gymnasium-robotics) or a drawing: lines of ``#`` for a wall and
    ``.`` or a space for free. The state is (x, y, vx, vy). ``renderer`` is "raster" (numpy) or "mujoco" (needs OpenGL).
    ``dynamics`` replaces constants of the ball by name, such as ``{"mass": 2}``.
    """

    distance_unit = "maze cells"
    exploration: ClassVar[Mapping[str, float]] = {"ornstein_uhlenbeck": 0.5, "waypoints": 0.5}
    proprioception: ClassVar[tuple[str, ...]] = ("position", "velocity")

    def __init__(
        self,
        maze: str = "UMaze",
        image_size: int = 64,
        damped: bool = True,
        renderer: str = "raster",
        threshold: float = 0.45,
        render_mode: str = "rgb_array",
        dynamics: Mapping[str, float] | None = None,
    ) -> None:
        if renderer not in ("raster", "mujoco"):
            raise unknown("renderer", renderer, ("raster", "mujoco"))
        self.threshold, self.image_size, self.renderer = threshold, image_size, renderer
        self.walls = parse_maze(maze)
        self.dynamics = changed_dynamics(DAMPED if damped else INERTIAL, dynamics or {})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._raster, self._recolored = (Raster(self.walls, image_size, ball) for ball in (BALL, RECOLORED_BALL))
        self._gl = _GLCamera(self.walls, image_size, self._raster.ball_radius) if renderer == "mujoco" else None
        self._model = mujoco.MjModel.from_xml_string(physics_xml(self.walls, self.dynamics))
        self._data = mujoco.MjData(self._model)
        self._pool = [mujoco.MjData(self._model) for _ in range(min(cores(), _MAX_THREADS))]

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        rows, columns = self.walls.shape
        while True:
            position = rng.uniform(-0.5, 0.5, 2) * (columns, rows)
            if clearance(self.walls, position) > BALL_RADIUS + CONTACT_MARGIN:
                return np.concatenate([position, rng.uniform(-START_SPEED, START_SPEED, 2)])

    def get_state(self) -> np.ndarray:
        return np.concatenate([self._data.qpos, self._data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        if state.shape != (4,) or not np.isfinite(state).all():
            raise ValueError(f"a state is four finite numbers (x, y, vx, vy), got {state}")
        self._data.qpos[:], self._data.qvel[:] = state[:2], state[2:]

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.asarray(states)[..., :2] - np.asarray(goals)[..., :2], axis=-1)

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 4) states and goals to the lengths of shortest ways through the maze."""
        return self._geodesics(np.asarray(states)[..., :2], np.asarray(goals)[..., :2])

    @cached_property
    def _geodesics(self) -> Geodesics:
        rows, columns = self.walls.shape
        boxes = [
            (left - columns / 2, rows / 2 - bottom, right - columns / 2, rows / 2 - top)
            for top, left, bottom, right in wall_boxes(self.walls)
        ]
        return Geodesics(np.array(boxes), BALL_RADIUS, slack=BALL_RADIUS / 4)

    def possible(self, states: np.ndarray) -> np.ndarray:
        """In the maze and not in a wall; a ball that is pushed against one overlaps it a little."""
        at, (rows, columns) = np.asarray(states)[..., :2], self.walls.shape
        inside = (np.abs(at) < np.array([columns, rows]) / 2).all(-1)
        return inside & (clearance(self.walls, at) > BALL_RADIUS / 2)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"position": states[:, :2], "velocity": states[:, 2:]}

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """(N, 4) states to others with the same velocity."""
        return np.concatenate([super().teleported(states, rngs)[:, :2], np.asarray(states)[:, 2:]], axis=1)

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        limit = self.dynamics.max_speed
        self._data.ctrl[:] = self._clipped(action)
        self._data.qvel[:] = np.clip(self._data.qvel, -limit, limit)
        mujoco.mj_step(self._model, self._data, self.dynamics.substeps)

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        states, actions = np.asarray(states, np.float64), self._clipped(actions)
        if len(states) < _FEW or self._flight is None or not (np.abs(states) < FASTEST).all():
            return self._by_mujoco(states, actions)
        now, out = states, np.empty((*actions.shape[:2], 4))
        for t in range(actions.shape[1]):
            after, clear = self._flight(self._slowed(now), actions[:, t], self.dynamics.substeps)
            if len(near := np.flatnonzero(~clear)):
                after[near] = self._by_mujoco(now[near], actions[near, t : t + 1])[:, 0]
            out[:, t] = now = after
        return out

    def _slowed(self, states: np.ndarray) -> np.ndarray:
        """(N, 4) states with the velocities that the ball may have at most."""
        limit = self.dynamics.max_speed
        if math.isinf(limit):
            return states
        return np.concatenate([states[:, :2], np.clip(states[:, 2:], -limit, limit)], axis=1)

    @cached_property
    def _flight(self) -> FreeFlight | None:
        """What moves balls away from walls; None where it would be other numbers."""
        flight = FreeFlight(self._model, self.walls, BALL_RADIUS + 2 * CONTACT_MARGIN)
        return flight if flight.is_exact() else None

    def _by_mujoco(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """``simulate`` for states (N, 4) and clipped actions (N, T, 2), by MuJoCo alone."""
        steps, substeps, limit = actions.shape[1], self.dynamics.substeps, self.dynamics.max_speed
        # Velocities are clipped between environment steps, which MuJoCo does not do inside a rollout.
        stride = steps if math.isinf(limit) else 1
        threads = len(self._pool) if len(states) * stride * substeps >= _THREADED_STEPS else 0
        out = np.empty((len(states), steps, 4))
        if not out.size:
            return out
        full = np.zeros((len(states), 5))  # time, x, y, vx, vy
        full[:, 1:] = states
        with Rollout(nthread=threads) as rollout:
            for t in range(0, steps, stride):
                full[:, 3:] = np.clip(full[:, 3:], -limit, limit)
                control = np.repeat(actions[:, t : t + stride], substeps, axis=1)
                every, _ = rollout.rollout(self._model, self._pool[: max(threads, 1)], full, control)
                out[:, t : t + stride] = every[:, substeps - 1 :: substeps, 1:]
                full = every[:, -1].copy()
        return out

    def _clipped(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, np.float64)
        if not np.isfinite(actions).all():
            raise ValueError("an action is not a finite number")
        return np.clip(actions, -1.0, 1.0)

    # Frames.

    def render(self) -> np.ndarray:
        return self.render_states(self.get_state()[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        positions = np.asarray(states, np.float64)[:, :2]
        return self._raster.draw(positions) if self._gl is None else self._gl.draw(positions)

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, 4) states to frames with a green ball."""
        positions = np.asarray(states, np.float64)[:, :2]
        return self._recolored.draw(positions) if self._gl is None else self._gl.draw(positions, RECOLORED_BALL)

    def close(self) -> None:
        if self._gl is not None:
            self._gl.close()

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray | None:
        """A push towards where the goal image has the ball; None for MuJoCo's frames, which have shades."""
        if self._gl is not None:
            return None
        return pushed(REFLEX_GAIN * (self._raster.found(goals) - self._raster.found(frames)))

    def spots(self, states: np.ndarray) -> np.ndarray:
        """Where the ball is; MuJoCo's camera has the raster's view."""
        return self._raster.spots(np.asarray(states, np.float64)[:, :2])

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        return {**generic_policies(self.action_space), "waypoints": waypoints(self.walls)}

    # Changed worlds.

    def factors(self) -> Mapping[str, Factor]:
        return {**super().factors(), **physics_factors(), **self._maze_factors}

    @cached_property
    def _maze_factors(self) -> Mapping[str, Factor]:
        return maze_factors(self.walls)

    def changed(self, walls: np.ndarray | None = None, **dynamics: float) -> PointMaze:
        """The same with other walls or other constants of the ball."""
        maze = drawing(self.walls if walls is None else walls)
        constants = {**vars(self.dynamics), **dynamics}
        return PointMaze(maze, self.image_size, True, self.renderer, self.threshold, dynamics=constants)


def physics_factors() -> Mapping[str, Factor]:
    """Those of the ball, each a multiple of a constant."""
    return {
        "mass": _times("mass", "mass of the ball", 1.5, 3, 8),
        "damping": _times("damping", "what slows the ball down", 0.6, 0.3, 0.1),
        "force": _times("force", "force of an action", 1.5, 2.5, 4),
        "step": _times("timestep", "time that an action lasts", 1.25, 1.6, 2.5),
    }


def _times(constant: str, about: str, *scales: float) -> Factor:
    def make(env: PointMaze, level: int) -> PointMaze:
        return env.changed(**{constant: vars(env.dynamics)[constant] * scales[level - 1]})

    return Factor("physics", about, scale_texts(scales), make)


def maze_factors(walls: np.ndarray) -> Mapping[str, Factor]:
    """Other mazes of the same size, as far as there are three."""
    turned = dict([*turned_mazes(walls).items()][-3:])
    counts = ALTERED if walls.size > SMALL else ALTERED_SMALL
    altered = altered_mazes(walls, counts, stream(0, "shift", "walls"))
    about = {
        "maze": ("the maze mirrored or turned", ["as it is", *turned], [*turned.values()]),
        "walls": ("cells that became free or a wall", ["0", *map(str, counts)], altered),
    }
    return {
        name: Factor("layout", text, tuple(values), partial(_in_maze, mazes))
        for name, (text, values, mazes) in about.items()
        if len(mazes) == 3
    }


def _in_maze(mazes: Sequence[np.ndarray], env: PointMaze, level: int) -> PointMaze:
    return env.changed(walls=mazes[level - 1])


def physics_xml(walls: np.ndarray, dynamics: Dynamics) -> str:
    """The MJCF of the simulation. Whatever the ball cannot feel is left out or disabled, which halves the time."""
    root = Element("mujoco", model="pointmaze")
    option = _add(root, "option", timestep=dynamics.timestep, jacobian="dense", iterations=20)
    unused = ("gravity", "island", "midphase", "sensor", "limit", "equality", "frictionloss")
    # Without warm start the state determines the future to the last bit.
    _add(option, "flag", **dict.fromkeys(("warmstart", *unused), "disable"))
    _add(_add(root, "default"), "geom", condim=1, margin=CONTACT_MARGIN)
    world = _add(root, "worldbody")
    _add_boxes(world, walls.shape, wall_boxes(walls))
    ball = _add(world, "body", name="ball")
    _add(ball, "geom", type="sphere", size=BALL_RADIUS, mass=dynamics.mass, contype=0, conaffinity=1)
    actuator = _add(root, "actuator")
    for name, axis in (("x", (1, 0, 0)), ("y", (0, 1, 0))):
        _add(ball, "joint", name=name, type="slide", axis=axis, damping=dynamics.damping)
        _add(actuator, "motor", name=name, joint=name, gear=dynamics.force)
    return tostring(root, encoding="unicode")


def _add(parent: Element, tag: str, **attributes: str | float | Sequence[float]) -> Element:
    """A new MJCF element; numbers are written so that they are read back to the last bit."""
    texts = {}
    for name, value in attributes.items():
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        texts[name] = " ".join(str(v) if isinstance(v, (str, int)) else repr(float(v)) for v in numbers)
    return SubElement(parent, tag, texts)


def _add_boxes(world: Element, shape: tuple[int, int], boxes: Iterable[Box], **look: Sequence[float]) -> None:
    rows, columns = shape
    for top, left, bottom, right in boxes:
        center = ((left + right - columns) / 2, (rows - top - bottom) / 2, 0)
        size = ((right - left) / 2, (bottom - top) / 2, 0.2)
        _add(world, "geom", type="box", pos=center, size=size, contype=1, conaffinity=0, **look)


def _rgba(color: tuple[int, int, int]) -> list[float]:
    return [*(channel / 255 for channel in color), 1.0]


class _GLCamera:
    """The same view drawn by MuJoCo's own renderer."""

    def __init__(self, walls: np.ndarray, image_size: int, ball_radius: float) -> None:
        from lewm_bench.system.gl import Camera

        rows, columns = walls.shape
        wall, floor, ball = map(_rgba, (WALL, FLOOR, BALL))
        root = Element("mujoco", model="pointmaze")
        visual = _add(root, "visual")
        _add(visual, "headlight", ambient=(0.65,) * 3, diffuse=(0.35,) * 3, specular=(0, 0, 0))
        world = _add(root, "worldbody")
        cells = [(row, column, row + 1, column + 1) for row, column in np.argwhere(walls)]
        _add_boxes(world, walls.shape, cells, rgba=wall)
        _add(world, "geom", type="plane", size=(columns / 2, rows / 2, 1), rgba=floor)
        # A maze that is not square leaves room beside it.
        _add(world, "geom", type="plane", pos=(0, 0, -0.01), size=(rows + columns, rows + columns, 1), rgba=wall)
        body = _add(world, "body", name="ball", mocap="true")
        _add(body, "geom", name="ball", type="sphere", size=ball_radius, rgba=ball)
        view = max(rows, columns) - 1
        # MuJoCo 3.5, the first to count in thousands, has another name for it.
        parallel = {"projection": "orthographic"} if mujoco.mj_version() >= 3005000 else {"orthographic": "true"}
        _add(world, "camera", name="top", pos=(0, 0, 5), fovy=view, **parallel)
        self._model = mujoco.MjModel.from_xml_string(tostring(root, encoding="unicode"))
        self._data = mujoco.MjData(self._model)
        self._camera = Camera(self._model, image_size, "top")

    def draw(self, positions: np.ndarray, ball: tuple[int, int, int] = BALL) -> np.ndarray:
        """(N, 2) x, y of the ball and its colour to (N, size, size, 3) uint8 frames."""
        self._model.geom("ball").rgba[:] = _rgba(ball)
        frames = np.empty((len(positions), self._camera.image_size, self._camera.image_size, 3), np.uint8)
        for position, frame in zip(positions, frames, strict=True):
            self._data.mocap_pos[0] = *position, 1.0  # above the walls, so that they hide no part of it
            mujoco.mj_forward(self._model, self._data)
            frame[:] = self._camera.frame(self._data)
        return frames

    def close(self) -> None:
        self._camera.close()
