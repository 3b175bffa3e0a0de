"""AntMaze: a four-legged ant walks through a maze. The ant is Gymnasium's or OGBench's, the physics MuJoCo's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import Element, SubElement, parse, tostring

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.rollout import Rollout

from lewm_bench.core.env import GoalEnv, Task, frame_space
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.exploration import PolicyFactory, generic_policies
from lewm_bench.envs.parts.ant_walk import GYMNASIUM_GAIT, OGBENCH_GAIT, Gait, WalkTo, waypoints
from lewm_bench.envs.parts.geodesic import Geodesics
from lewm_bench.envs.parts.maze import clearance, parse_maze, wall_boxes
from lewm_bench.envs.parts.raster import FLOOR, WALL
from lewm_bench.envs.parts.solved import solved
from lewm_bench.system.gl import Camera
from lewm_bench.system.resources import cores

CELL = 4.0  # metres
WALL_HEIGHT = 2.0  # metres
SUBSTEPS = 5  # physics steps per environment step
TORSO = 0.25  # metres: the radius of the ball in the middle
REACH = 1.0  # metres from the middle, within which the feet stand
STANDING, STANCE = 0.6, (0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)  # height of the torso and the eight joints
JOINT_NOISE = 0.1  # radians: the largest of a sampled state
QPOS, QVEL, STATE_SIZE = slice(0, 15), slice(15, 29), 29
JITTER = 1.0  # metres to either side of the middle of a cell in which a task of OGBench's begins or ends
MOST_STEPS = 1000  # of a solution, as OGBench gives an agent
SUPERSAMPLING = 2
TEXELS = 300  # of the floor's side in the view "back"
SHADOW_SIZE = 1024  # texels of the shadow map's side, of MuJoCo's 4096
LEG = ("aux_1_geom", "left_leg_geom", "left_ankle_geom")  # the one of another colour, as in OGBench's pictures
_MAX_THREADS = 8
_THREADED_STEPS = 200  # below this many physics steps, starting threads costs more than they save


@dataclass(frozen=True)
class Body:
    """The constants in which the two ants, whose limbs are the same, differ."""

    timestep: float  # seconds of one physics step
    gear: float  # newton metres of a joint at action 1
    solimp: tuple[float, float, float] | None  # of contacts, where it is not MuJoCo's
    rows_up: bool  # the maze's first row is at the smallest y, and its second row and column are 0, else the middle is
    gait: Gait


BODIES = {
    "gymnasium": Body(timestep=0.01, gear=150.0, solimp=None, rows_up=False, gait=GYMNASIUM_GAIT),
    "ogbench": Body(timestep=0.02, gear=30.0, solimp=(0.8, 0.8, 0.01), rows_up=True, gait=OGBENCH_GAIT),
}
VIEWS = ("top", "back")

# By body and maze: where episodes begin and end, row and column from the smallest y.
TASKS = {
    ("ogbench", "Medium"): (
        ((1, 1), (6, 6)),
        ((6, 1), (1, 6)),
        ((5, 3), (4, 2)),
        ((6, 5), (6, 1)),
        ((2, 6), (1, 1)),
    ),
}


class AntMaze(GoalEnv):
    """An ant of eight joints in a maze of cells of 4 m; an action is eight torques, for 0.05 s (OGBench's: 0.1 s).

    ``body`` is the ant and the coordinates of gymnasium-robotics' AntMaze ("gymnasium", the maze's middle at the origin)
    or of OGBench's ("ogbench"). ``maze`` is as in ``PointMaze``. The state is qpos (15: x, y, z and quaternion of the
    torso; hip and ankle of four legs) and qvel (14). The distance is that of the torsos' x, y. ``view`` is the whole maze
    from above ("top") or OGBench's camera behind the ant, with a floor whose colour tells the place ("back").
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    distance_unit = "metres"
    tasks_schema: ClassVar[int] = 1
    exploration: ClassVar[Mapping[str, float]] = {"ornstein_uhlenbeck": 0.25, "waypoints": 0.75}
    proprioception: ClassVar[tuple[str, ...]] = (
        "height",
        "orientation",
        "joint_angles",
        "velocity",
        "joint_velocities",
    )

    def __init__(
        self,
        maze: str = "UMaze",
        image_size: int = 64,
        body: str = "gymnasium",
        view: str = "top",
        threshold: float = 0.5,
        render_mode: str = "rgb_array",
    ) -> None:
        if body not in BODIES:
            raise unknown("body", body, tuple(BODIES))
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)
        if not threshold > 0:
            raise UserError(f"threshold must be positive (metres), got {threshold}")
        self.image_size, self.threshold, self.view, self._body = image_size, threshold, view, BODIES[body]
        self._tasks = TASKS.get((body, maze), ())
        self.action_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        drawn = parse_maze(maze)
        self.walls = drawn[::-1].copy() if self._body.rows_up else drawn  # rows from the largest y to the smallest
        rows, columns = self.walls.shape
        self._origin = CELL * np.array([columns - 3, rows - 3]) / 2 if self._body.rows_up else np.zeros(2)
        self._model = _compiled(ant_xml(self.walls, self._origin, self._body))
        self._data = mujoco.MjData(self._model)
        self._pool = [mujoco.MjData(self._model) for _ in range(min(cores(), _MAX_THREADS))]
        self._painter: _Painter | None = None
        self.set_state(self.sample_state(np.random.default_rng(0)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_painter": None}  # OpenGL belongs to its process

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """Standing still, away from walls, turned anywhere, the joints within 0.1 rad of a stance."""
        turn = rng.uniform(-np.pi, np.pi)
        return self._standing(turn, self._free_place(rng), rng)

    def _standing(self, turn: float, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(29,) state at x, y in metres."""
        state = np.zeros(STATE_SIZE)
        state[:2], state[2] = place, STANDING
        state[3:7] = np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)
        state[7:15] = STANCE + rng.uniform(-JOINT_NOISE, JOINT_NOISE, 8)
        return state

    def _free_place(self, rng: np.random.Generator) -> np.ndarray:
        """(2,) x, y at which the ant touches no wall, in metres."""
        rows, columns = self.walls.shape
        while True:
            place = rng.uniform(-0.5, 0.5, 2) * (columns, rows)
            if clearance(self.walls, place) > REACH / CELL:
                return CELL * place + self._origin

    def get_state(self) -> np.ndarray:
        return np.concatenate([self._data.qpos, self._data.qvel])

    def set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        if state.shape != (STATE_SIZE,) or not np.isfinite(state).all():
            raise ValueError(f"a state is {STATE_SIZE} finite numbers (qpos, qvel), got {state}")
        self._data.qpos[:], self._data.qvel[:] = state[QPOS], state[QVEL]

    def possible(self, states: np.ndarray) -> np.ndarray:
        """(..., 29) states to (...) bool: the torso is in no wall."""
        cells = self._cells(states)
        flat = [clearance(self.walls, place) >= TORSO / CELL for place in cells.reshape(-1, 2)]
        rows, columns = self.walls.shape
        inside = (np.abs(cells) < np.array([columns, rows]) / 2).all(-1)
        return inside & np.array(flat, bool).reshape(cells.shape[:-1])

    def _cells(self, states: np.ndarray) -> np.ndarray:
        """(..., 29) states to (..., 2): x, y in cells from the maze's middle."""
        return (np.asarray(states)[..., :2] - self._origin) / CELL

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.asarray(states)[..., :2] - np.asarray(goals)[..., :2], axis=-1)

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 29) states and goals to the lengths of shortest ways of the torso through the maze."""
        return CELL * self._geodesics(self._cells(states), self._cells(goals))

    @cached_property
    def _geodesics(self) -> Geodesics:
        rows, columns = self.walls.shape
        boxes = [
            (left - columns / 2, rows / 2 - bottom, right - columns / 2, rows / 2 - top)
            for top, left, bottom, right in wall_boxes(self.walls)
        ]
        return Geodesics(np.array(boxes), TORSO / CELL, slack=TORSO / CELL / 4)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        """Metres, radians and seconds; ``orientation`` is a quaternion, ``heading`` the (cos, sin) of its yaw."""
        states = np.asarray(states, np.float64)
        yaw = heading(states)
        return {
            "position": states[:, :2],
            "height": states[:, 2:3],
            "heading": np.stack([np.cos(yaw), np.sin(yaw)], axis=1),
            "orientation": states[:, 3:7],
            "joint_angles": states[:, 7:15],
            "velocity": states[:, 15:21],
            "joint_velocities": states[:, 21:],
        }

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """The same posture elsewhere, at least a metre and two thresholds away."""
        out, least = np.array(states, np.float64), max(1.0, 2 * self.threshold)
        for state, rng in zip(out, rngs, strict=True):
            before = state[:2].copy()
            while np.linalg.norm(state[:2] - before) < least:
                state[:2] = self._free_place(rng)
        return out

    def sample_task(self, rng: np.random.Generator, number: int) -> Task:
        """Two sampled states; in OGBench's medium maze its five tasks in turn, both ends within 1 m of theirs.

        The solution is a trot along cells, as far as the ant stays on its feet.
        """
        if not self._tasks:
            return super().sample_task(rng, number)
        cells = self._tasks[number % len(self._tasks)]
        start, goal = (self._near(CELL * (np.array(cell[::-1]) - 1.0), rng) for cell in cells)
        place, walls, gait = self._cells(goal), self.walls, self._body.gait

        def walk() -> WalkTo:
            return WalkTo(gait, walls, self._cells, place, rng.uniform(0, gait.period))

        return replace(solved(self, walk, start, goal, MOST_STEPS), goal=goal)  # where it stands, not walks

    def _near(self, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A standing state (29,) within 1 m of x, y to either side."""
        return self._standing(rng.uniform(-np.pi, np.pi), place + rng.uniform(-JITTER, JITTER, 2), rng)

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        self._data.ctrl[:] = _clipped(action)
        mujoco.mj_step(self._model, self._data, SUBSTEPS)

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        states, actions = np.asarray(states, np.float64), _clipped(actions)
        if not len(states) or not actions.shape[1]:
            return np.empty((len(states), actions.shape[1], STATE_SIZE))
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
        return self._drawn().draw(np.asarray(states, np.float64)[:, QPOS], COLORS[self.view][0])

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, 29) states to frames with a blue ant."""
        return self._drawn().draw(np.asarray(states, np.float64)[:, QPOS], COLORS[self.view][1])

    def _drawn(self) -> _Painter:
        if self._painter is None:
            scene = from_above if self.view == "top" else from_behind
            model = scene(self.walls, self._origin, self._body)
            self._painter = _Painter(model, self.image_size, self.view)
        return self._painter

    def spots(self, states: np.ndarray) -> np.ndarray | None:
        """Where the torso is; None where the camera goes with the ant."""
        if self.view != "top":
            return None
        return 0.5 + self._cells(states) * (1, -1) / (max(self.walls.shape) - 1)

    def close(self) -> None:
        if self._painter is not None:
            self._painter.camera.close()
            self._painter = None

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        walk = waypoints(self._body.gait, self.walls, lambda states: self._cells(states))
        return {**generic_policies(self.action_space), "waypoints": walk}


def heading(states: np.ndarray) -> np.ndarray:
    """(..., 29) states to (...) yaw of the torso in radians."""
    w, x, y, z = np.moveaxis(np.asarray(states)[..., 3:7], -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _clipped(actions: np.ndarray) -> np.ndarray:
    actions = np.asarray(actions, np.float64)
    if not np.isfinite(actions).all():
        raise ValueError("an action is not a finite number")
    return np.clip(actions, -1.0, 1.0)


def ant_xml(walls: np.ndarray, origin: np.ndarray, body: Body) -> Element:
    """The MJCF of Gymnasium's ant among walls, with the constants of ``body`` and without looks."""
    root = parse(Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml").getroot()
    _bare(root)
    option, geom, world = (root.find(path) for path in ("option", "default/geom", "worldbody"))
    option.set("timestep", repr(body.timestep))
    SubElement(option, "flag", warmstart="disable")  # so that the state determines the future to the last bit
    if body.solimp is not None:
        geom.set("solimp", _text(body.solimp))
    for motor in root.iter("motor"):
        motor.set("gear", repr(body.gear))
    rows, columns = walls.shape
    floor = world.find("geom[@name='floor']")
    floor.set("pos", _text((*origin, 0.0)))
    floor.set("size", _text((CELL * columns / 2, CELL * rows / 2, 1.0)))
    for top, left, bottom, right in wall_boxes(walls):
        middle = CELL * np.array([left + right - columns, rows - top - bottom]) / 2 + origin
        half = CELL * np.array([right - left, bottom - top]) / 2
        size, pos = _text((*half, WALL_HEIGHT / 2)), _text((*middle, WALL_HEIGHT / 2))
        name = f"wall_{top}_{left}_{bottom}_{right}"
        SubElement(world, "geom", name=name, type="box", pos=pos, size=size, contype="1", conaffinity="1")
    return root


def _bare(root: Element) -> None:
    """Without the materials, lights and cameras of Gymnasium's file."""
    root.remove(root.find("asset"))
    for parent in list(root.iter()):
        parent.attrib.pop("material", None)
        for child in [child for child in parent if child.tag in ("light", "camera")]:
            parent.remove(child)


def _text(numbers: Iterable[float]) -> str:
    """Numbers of MJCF, written so that they are read back to the last bit."""
    return " ".join(repr(float(number)) for number in numbers)


def _compiled(root: Element) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(tostring(root, encoding="unicode"))


# Frames.


@dataclass(frozen=True)
class Colors:
    """Red, green and blue from 0 to 1, of the ant and of the leg that differs."""

    ant: tuple[float, float, float]
    leg: tuple[float, float, float]


COLORS = {
    "top": (Colors((0.92, 0.25, 0.20), (1.0, 0.65, 0.1)), Colors((0.20, 0.25, 0.92), (0.1, 0.65, 1.0))),
    "back": (Colors((0.7, 0.5, 0.3), (0.8, 0.8, 0.8)), Colors((0.3, 0.5, 0.7), (0.8, 0.8, 0.8))),
}
"""Per view, as the ant is drawn and as it is recoloured."""


def from_above(walls: np.ndarray, origin: np.ndarray, body: Body) -> mujoco.MjModel:
    """The scene of the view "top": PointMaze's colours, and lit so that they come out as they are."""
    root, size = ant_xml(walls, origin, body), CELL * (max(walls.shape) - 1)
    height, world = 10 * size, root.find("worldbody")  # so far away that lines are nearly parallel
    SubElement(SubElement(root, "visual"), "headlight", ambient=".65 .65 .65", diffuse=".35 .35 .35", specular="0 0 0")
    SubElement(root, "statistic", extent=repr(size), center=_text((*origin, 0.0)))
    for geom in world.findall("geom[@type='box']"):  # flat, so that they hide no part of the ant
        x, y, _ = geom.get("pos").split()
        geom.set("pos", f"{x} {y} -0.05")
        geom.set("size", " ".join([*geom.get("size").split()[:2], "0.1"]))
        geom.set("rgba", _rgba(WALL))
    world.find("geom[@name='floor']").set("rgba", _rgba(FLOOR))
    around = {"pos": _text((*origin, -0.5)), "size": _text((2 * size, 2 * size, 1.0)), "rgba": _rgba(WALL)}
    SubElement(world, "geom", type="plane", **around)  # a maze that is not square leaves room beside it
    fovy = repr(math.degrees(2 * math.atan(size / 2 / height)))
    SubElement(world, "camera", name="top", pos=_text((*origin, height)), fovy=fovy)
    return _compiled(root)


def from_behind(walls: np.ndarray, origin: np.ndarray, body: Body) -> mujoco.MjModel:
    """The scene of the view "back": OGBench's, whose floor has more red towards larger y and more green towards larger x."""
    root = ant_xml(walls, origin, body)
    assets, world = SubElement(root, "asset"), root.find("worldbody")
    SubElement(assets, "texture", type="skybox", builtin="gradient", width="100", height="100")
    SubElement(assets, "texture", name="floor", type="2d", builtin="flat", width=str(TEXELS), height=str(TEXELS))
    SubElement(assets, "material", name="floor", texture="floor", texrepeat="1 1")
    floor = world.find("geom[@name='floor']")
    floor.set("material", "floor")
    floor.set("rgba", "1 1 1 1")
    for geom in world.findall("geom[@type='box']"):
        geom.set("rgba", "0.6 0.6 0.6 1")
    light = {"directional": "true", "cutoff": "100", "exponent": "1", "diffuse": "1 1 1", "specular": ".1 .1 .1"}
    SubElement(world, "light", pos="0 0 1.3", dir="0 0 -1.3", **light)
    torso = world.find("body[@name='torso']")
    SubElement(torso, "camera", name="back", pos="0 -2.5 5", xyaxes="1 0 0 0 2 1", mode="trackcom")
    model = _compiled(root)
    model.vis.quality.shadowsize = SHADOW_SIZE
    texels = np.full((TEXELS, TEXELS, 3), 128, np.uint8)
    ramp = (np.arange(TEXELS) / TEXELS * 192).astype(np.uint8)
    texels[..., 0], texels[..., 1] = ramp[:, None], ramp
    begin = model.tex_adr[model.texture("floor").id]
    model.tex_data[begin : begin + texels.size] = texels.ravel()
    return model


def _rgba(color: tuple[int, int, int]) -> str:
    return _text([*(channel / 255 for channel in color), 1.0])


class _Painter:
    """A scene that is drawn, apart from the one that moves."""

    def __init__(self, model: mujoco.MjModel, image_size: int, camera: str) -> None:
        self._model, self._size = model, image_size
        model.vis.quality.offsamples = 0
        self._data = mujoco.MjData(model)
        self.camera = Camera(model, SUPERSAMPLING * image_size, camera)
        self._ant = np.flatnonzero(model.geom_bodyid > 0)
        self._leg = [model.geom(name).id for name in LEG]

    def draw(self, positions: np.ndarray, colors: Colors) -> np.ndarray:
        """(N, 15) qpos to (N, size, size, 3) uint8 frames."""
        self._model.geom_rgba[self._ant, :3], self._model.geom_rgba[self._leg, :3] = colors.ant, colors.leg
        size, samples = self._size, SUPERSAMPLING**2
        frames = np.empty((len(positions), size, size, 3), np.uint8)
        for frame, self._data.qpos[:] in zip(frames, positions, strict=True):
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_comPos(self._model, self._data)  # which the camera behind the ant follows
            mujoco.mj_camlight(self._model, self._data)
            fine = self.camera.frame(self._data).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
            frame[:] = (fine.sum((1, 3), dtype=np.uint16) + samples // 2) // samples
        return frames
