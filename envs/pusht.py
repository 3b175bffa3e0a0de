"""PushT: a round pusher moves a T-shaped block about a square table. Physics, shapes and look are those of gym-pusht."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.exploration import PolicyFactory, generic_policies
from lewm_bench.core.shift import Factor, scale_texts
from lewm_bench.envs.parts.pusht_block import AGENT_RADIUS, TEE, Block
from lewm_bench.envs.parts.pusht_policies import (
    ACTION_SCALE,
    AGENT_HIGH,
    AGENT_LOW,
    pusht_policies,
)
from lewm_bench.system.extras import require

WORLD = 512  # pixels, also the unit of length
SUBSTEPS, TIMESTEP = 10, 0.01  # of one environment step, which lasts 0.1 s
K_P, K_V = 100.0, 20.0
POSITION_TOLERANCE = 20.0  # px, of agent and block together
ANGLE_TOLERANCE = math.pi / 9
TARGET_POSE = (256.0, 256.0, math.pi / 4)
WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
WALL_RADIUS = 2
BORDER = 10  # px at the edge of the scene, where walls are drawn
WALL_LOW, WALL_HIGH = 7.0, 504.0  # their faces
PRESSED = 2.0  # px that the agent can press the block into a wall: to the middle of what is drawn
START_MARGIN = 35.0  # px between the block and a wall in sampled states: the agent fits in between
START_GAP = 5.0  # px between agent and block
TELEPORT = 60.0  # px that agent and block are moved at least
RECOLORED = "Orange"
FRICTIONS, STIFFNESSES = (0.3, 1.0, 3.0), (0.7, 0.45, 0.2)  # of changed worlds, by level
SHAPES, BLOCK_SIZES = ("L", "cross", "square"), (0.85, 1.15, 1.3)
SCALE = 30  # gym-pusht's, of its T


class PushT(GoalEnv):
    """A disc, the agent, pushes a T-shaped block; lengths are pixels of a 512 x 512 scene, y points down.

    The action is where the agent should go, in units of 100 px from where it is; a spring-damper follows that target
    for 0.1 s. The state is (agent x, y, block x, y, angle, agent vx, vy, block vx, vy, angular velocity): the seven
    published numbers, then what the block does in the next physics step. Success asks agent and block back.

    Different from stable-worldmodel's PushT: actions are clipped to [-1, 1] (there only declared), the agent cannot
    leave the walls (there it passes through them) nor push the block through one, the state is set without a physics
    step, and contacts are forgotten between environment steps, because a state cannot hold them. Away from the walls
    the motion is that of gym-pusht all the same, but for rounding, unless the agent touches bar and stem at once.

    ``target`` is "fixed" (the green T of the released data, at its default pose whatever the goal is) or "none".
    ``friction`` is that between agent and block, ``stiffness`` multiplies that of the spring, up to 1. ``shape`` is
    "T", "L", "cross" or "square", ``size`` multiplies its lengths; the mass stays, as does gym-pusht's rule for inertia.
    """

    threshold = 1.0
    distance_unit = "tolerances (20 px, 20 degrees)"
    exploration: ClassVar[Mapping[str, float]] = {"pushing_expert": 0.75, "block_biased": 0.25}
    proprioception: ClassVar[tuple[str, ...]] = ("agent_position", "agent_velocity")

    def __init__(
        self,
        image_size: int = 64,
        target: str = "fixed",
        render_mode: str = "rgb_array",
        friction: float = 0.0,
        stiffness: float = 1.0,
        shape: str = TEE.shape,
        size: float = TEE.size,
    ) -> None:
        if target not in ("fixed", "none"):
            raise unknown("target", str(target), ("fixed", "none"))
        if not 0 < stiffness <= 1 or friction < 0:
            raise UserError(f"need 0 < stiffness <= 1 and friction >= 0, got {stiffness} and {friction}")
        self.image_size, self.target, self.friction, self.stiffness = image_size, target, friction, stiffness
        self.block = Block(shape, size)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._state = np.array([256, 400, 256, 300, 0, 0, 0, 0, 0, 0], np.float64)
        self._open()

    def _open(self) -> None:
        packages = _packages()
        self._physics = _Physics(packages, self.block, self.friction, self.stiffness)
        self._scene = _Scene(packages, self.block, self.image_size, self.target)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_physics", "_scene")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._open()

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        low, high = WALL_LOW + START_MARGIN, WALL_HIGH - START_MARGIN
        while True:
            pose = rng.uniform((low, low, 0), (high, high, 2 * math.pi))
            points = self.block.corners(pose)
            if points.min() < low or points.max() > high:
                continue
            agent = rng.uniform(AGENT_LOW + START_GAP, AGENT_HIGH - START_GAP, 2)
            if self.block.gap(agent, pose) > AGENT_RADIUS + START_GAP:
                return np.concatenate([agent, pose, np.zeros(5)])

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        state = np.array(state, np.float64)
        if state.shape != (10,) or not np.isfinite(state).all():
            raise ValueError(f"a state is ten finite numbers, got {state}")
        self._state = state

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(...) the larger of position error / 20 px and angle error / 20 degrees: below 1 both are met."""
        error = np.asarray(states, np.float64)[..., :5] - np.asarray(goals, np.float64)[..., :5]
        turn = np.abs((error[..., 4] + math.pi) % (2 * math.pi) - math.pi)
        return np.maximum(np.linalg.norm(error[..., :4], axis=-1) / POSITION_TOLERANCE, turn / ANGLE_TOLERANCE)

    def possible(self, states: np.ndarray) -> np.ndarray:
        """Of another block than the T: no wall presses it, and half of the agent is outside of it."""
        if self._is_usual:
            return super().possible(states)
        agent, pose = np.asarray(states, np.float64)[..., :2], np.asarray(states, np.float64)[..., 2:5]
        points = self.block.corners(pose)
        inside = (points >= WALL_LOW - PRESSED).all((-2, -1)) & (points <= WALL_HIGH + PRESSED).all((-2, -1))
        return inside & (self.block.gap(agent, pose) > AGENT_RADIUS / 2)

    @property
    def _is_usual(self) -> bool:
        return (self.block.shape, self.block.size) == (TEE.shape, TEE.size)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        """Positions in px, velocity in px/s, the angle as (cos, sin)."""
        angle = states[:, 4]
        return {
            "agent_position": states[:, 0:2],
            "agent_velocity": states[:, 5:7],
            "block_position": states[:, 2:4],
            "block_angle": np.stack([np.cos(angle), np.sin(angle)], axis=-1),
        }

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        self._state = self.simulate(self._state[None], np.asarray(action)[None, None])[0, 0]

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        states, actions = np.asarray(states, np.float64), np.asarray(actions, np.float64)
        if not np.isfinite(actions).all():
            raise ValueError("an action is not a finite number")
        out = np.empty((*actions.shape[:2], 10))
        moves = (ACTION_SCALE * np.clip(actions, -1.0, 1.0)).tolist()
        for n, state in enumerate(states.tolist()):
            for t, move in enumerate(moves[n]):
                state = self._physics.step(state, move)
                out[n, t] = state
        return out

    # Frames.

    def render(self) -> np.ndarray:
        return self._scene.draw(self._state)

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._draw_all(states)

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states to frames with an orange block."""
        return self._draw_all(states, RECOLORED)

    def _draw_all(self, states: np.ndarray, *color: str) -> np.ndarray:
        frames = np.empty((len(states), *self.observation_space.shape), np.uint8)
        for state, frame in zip(np.asarray(states, np.float64), frames, strict=True):
            frame[:] = self._scene.draw(state, *color)
        return frames

    def spots(self, states: np.ndarray) -> np.ndarray:
        """Where the agent is; the block is not followed."""
        return np.asarray(states, np.float64)[:, :2] / WORLD

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """(N, X) states to as many with agent and block elsewhere, at least 60 px away, and at rest."""
        return np.stack([self._elsewhere(state, rng) for state, rng in zip(states, rngs, strict=True)])

    def _elsewhere(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        while True:
            other = self.sample_state(rng)
            if np.linalg.norm((other - state)[:4].reshape(2, 2), axis=-1).min() > TELEPORT:
                return other

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        return {**generic_policies(self.action_space), **pusht_policies(self.block, self.sample_state)}

    # Changed worlds.

    def factors(self) -> Mapping[str, Factor]:
        rough = Factor("physics", "friction between agent and block", ("0", *map(str, FRICTIONS)), _rougher)
        slow = Factor("physics", "stiffness of the spring that moves the agent", scale_texts(STIFFNESSES), _softer)
        found = {**super().factors(), "friction": rough, "stiffness": slow}
        if self._is_usual:
            found["shape"] = Factor("layout", "shape of the block", (TEE.shape, *SHAPES), _reshaped)
            found["size"] = Factor("layout", "size of the block", scale_texts(BLOCK_SIZES), _resized)
        return found


def _rougher(env: PushT, level: int) -> PushT:
    return _with(env, friction=FRICTIONS[level - 1])


def _softer(env: PushT, level: int) -> PushT:
    return _with(env, stiffness=STIFFNESSES[level - 1] * env.stiffness)


def _reshaped(env: PushT, level: int) -> PushT:
    return _with(env, shape=SHAPES[level - 1])


def _resized(env: PushT, level: int) -> PushT:
    return _with(env, size=BLOCK_SIZES[level - 1])


def _with(env: PushT, **changed: Any) -> PushT:
    """The same with other arguments."""
    now = {"friction": env.friction, "stiffness": env.stiffness, "shape": env.block.shape, "size": env.block.size}
    return PushT(env.image_size, env.target, **{**now, **changed})


class _Physics:
    """gym-pusht's agent, block and walls, which are put into a state, stepped, and read, any number of times.

    Each step has a space of its own: cached contacts and the order of the shapes in the collision tree carry the past,
    and the solver's result depends on both. It talks to Chipmunk below pymunk's Python layer, which costs five times
    as much as the physics itself.
    """

    def __init__(self, packages: SimpleNamespace, block: Block, friction: float, stiffness: float) -> None:
        self._form, self._pull = block, K_P * stiffness
        self._lib, pymunk, pusht = packages.cffi.lib, packages.pymunk, packages.PushTEnv
        space, ground = pymunk.Space(), pymunk.Body(body_type=pymunk.Body.STATIC)
        self._agent = pusht.add_circle(space, (256, 400), AGENT_RADIUS)
        self._block, parts = _add_block(packages, block, space)
        if friction:  # 0 is gym-pusht's
            for shape in (*self._agent.shapes, *parts):
                shape.friction = math.sqrt(friction)  # that of two things is the product of theirs
        space.remove(*space.shapes, *space.bodies)
        walls = [pymunk.Segment(ground, *wall, WALL_RADIUS) for wall in WALLS]
        self._kept = ground, walls, parts, list(self._agent.shapes)  # Chipmunk's objects die with pymunk's
        self._parts = [shape._shape for shape in parts]
        self._shapes = [shape._shape for shape in (*walls, *self._agent.shapes, *parts)]
        self._bodies = self._agent._body, self._block._body, ground._body
        self._nearest = packages.cffi.ffi.new("cpPointQueryInfo *")

    def step(self, state: Sequence[float], move: Sequence[float]) -> tuple[float, ...]:
        """The state (10 numbers) one environment step later, when the agent is sent (x, y) px from where it is.

        A function of its arguments to the last bit: nothing is left of what happened before.
        """
        if _out_of_reach(self._form, state, move):
            return self._drive(None, state, move)
        lib, (x, y, block_x, block_y, angle, vx, vy, block_vx, block_vy, spin) = self._lib, state
        agent, block, _ = self._bodies
        lib.cpBodySetPosition(agent, (x, y))
        lib.cpBodySetVelocity(agent, (vx, vy))
        lib.cpBodySetAngle(block, angle)  # first: it turns the block about its centre of gravity
        lib.cpBodySetPosition(block, (block_x, block_y))
        lib.cpBodySetVelocity(block, (block_vx, block_vy))
        lib.cpBodySetAngularVelocity(block, spin)
        space = lib.cpSpaceNew()
        lib.cpSpaceSetDamping(space, 0.0)
        try:
            for body in self._bodies:
                lib.cpSpaceAddBody(space, body)
            for shape in self._shapes:
                lib.cpSpaceAddShape(space, shape)
            return self._drive(space, state, move)
        finally:
            for shape in self._shapes:
                lib.cpSpaceRemoveShape(space, shape)
            for body in self._bodies:
                lib.cpSpaceRemoveBody(space, body)
            lib.cpSpaceFree(space)

    def _drive(self, space: Any, state: Sequence[float], move: Sequence[float]) -> tuple[float, ...]:
        """``step`` with all things in their places in a space; without one the agent meets nothing."""
        lib, (agent, body, _) = self._lib, self._bodies
        x, y, vx, vy, block = *state[:2], *state[5:7], (*state[2:5], *state[7:])
        aim_x, aim_y = x + move[0], y + move[1]
        before = lib.cpBodyGetPosition(body)
        at_wall = _room(self._form, block) <= 2 * self._form.reach  # from further no block gets there in one step
        for _ in range(SUBSTEPS):
            vx, vy = _servo(x, vx, aim_x, self._pull), _servo(y, vy, aim_y, self._pull)
            if space is not None:
                if at_wall:
                    vx, vy = self._relent(x, y, vx, vy)
                lib.cpBodySetVelocity(agent, (vx, vy))
                lib.cpSpaceStep(space, TIMESTEP)
            x, y = x + vx * TIMESTEP, y + vy * TIMESTEP
        if space is not None:
            block = self._take(block, before)
        return x, y, *block[:3], vx, vy, *block[3:]

    def _take(self, block: tuple, before: Any) -> tuple[float, ...]:
        """The block's (x, y, angle, vx, vy, w) after it was placed from ``block`` and stepped."""
        after, angle = self._lib.cpBodyGetPosition(self._bodies[1]), self._lib.cpBodyGetAngle(self._bodies[1])
        # Differences, so that a block that nothing touches keeps its pose to the last bit.
        x, y, angle = block[0] + (after.x - before.x), block[1] + (after.y - before.y), block[2] + (angle - block[2])
        return x, y, angle % (2 * math.pi), *self._motion()

    def _motion(self) -> tuple[float, float, float]:
        """The block's velocities, plus those by which the solver is about to push it out of what it overlaps.

        Chipmunk keeps the latter to itself, applies them once and clears them; here the velocities are good for no
        more than the next physics step either, because damping 0 stops the block at once.
        """
        lib, body = self._lib, self._bodies[1]
        velocity, spin = lib.cpBodyGetVelocity(body), lib.cpBodyGetAngularVelocity(body)
        center = lib.cpBodyGetCenterOfGravity(body)
        before, angle = lib.cpBodyLocalToWorld(body, center), lib.cpBodyGetAngle(body)
        lib.cpBodySetVelocity(body, (0.0, 0.0))
        lib.cpBodySetAngularVelocity(body, 0.0)
        lib.cpBodyUpdatePosition(body, 1.0)
        after = lib.cpBodyLocalToWorld(body, center)
        spin += lib.cpBodyGetAngle(body) - angle
        return velocity.x + (after.x - before.x), velocity.y + (after.y - before.y), spin

    def _relent(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float]:
        """The agent's velocity without what would press the block further into a wall.

        gym-pusht's agent is infinitely strong and crushes the block, which then jumps out of the walls.
        """
        low, high = WALL_LOW - PRESSED, WALL_HIGH + PRESSED
        for shape in self._parts:
            box = self._lib.cpShapeGetBB(shape)
            if box.l < low or box.b < low or box.r > high or box.t > high:
                break
        else:
            return vx, vy
        for shape in self._parts:
            if self._lib.cpShapePointQuery(shape, (x, y), self._nearest) < AGENT_RADIUS:
                away = self._nearest.gradient
                toward = min(vx * away.x + vy * away.y, 0.0)
                vx, vy = vx - toward * away.x, vy - toward * away.y
        return vx, vy


def _servo(position: float, velocity: float, aim: float, pull: float) -> float:
    """The agent's velocity along an axis in the next physics step; in gym-pusht's order of operations.

    gym-pusht's agent is kinematic and passes through walls; ours arrives there and stops.
    """
    velocity = velocity + (pull * (aim - position) + K_V * (0.0 - velocity)) * TIMESTEP
    if AGENT_LOW <= position + velocity * TIMESTEP <= AGENT_HIGH:
        return velocity
    if velocity > 0.0:
        return min(velocity, max((AGENT_HIGH - position) / TIMESTEP, 0.0))
    return max(velocity, min((AGENT_LOW - position) / TIMESTEP, 0.0))


def _add_block(packages: SimpleNamespace, block: Block, space: Any) -> tuple[Any, list[Any]]:
    """The block's body and the shapes of its parts; a T is gym-pusht's own."""
    if block.shape == TEE.shape:
        return packages.PushTEnv.add_tee(space, (256, 300), 0, scale=SCALE * block.size)
    body = packages.pymunk.Body(1, block.inertia)
    parts = [packages.pymunk.Poly(body, part) for part in block.corners(np.zeros(3)).reshape(-1, 4, 2).tolist()]
    body.center_of_gravity = tuple(block.middle.tolist())
    space.add(body, *parts)
    return body, parts


def _out_of_reach(block: Block, state: Sequence[float], move: Sequence[float]) -> bool:
    """Whether a resting block can touch neither wall nor agent in this step."""
    x, y, block_x, block_y, angle, vx, vy, *motion = state
    if any(motion) or _room(block, (block_x, block_y, angle)) <= block.reach + 1:
        return False
    middle_x, middle_y = _middle(block, block_x, block_y, angle)
    # The spring-damper covers less than 0.4 of the move, and the present velocity fades. One pixel is for rounding.
    way = 0.4 * math.hypot(*move) + 0.1 * math.hypot(vx, vy)
    return math.hypot(middle_x - x, middle_y - y) > block.reach + AGENT_RADIUS + 1 + way


def _room(block: Block, pose: Sequence[float]) -> float:
    """Distance between the middle of the circle around the block and the nearest wall."""
    x, y = _middle(block, *pose[:3])
    return min(x - WALL_LOW, y - WALL_LOW, WALL_HIGH - x, WALL_HIGH - y)


def _middle(block: Block, x: float, y: float, angle: float) -> tuple[float, float]:
    """The centre of the circle around a block, which is on its axis."""
    return x - block.center_y * math.sin(angle), y + block.center_y * math.cos(angle)


class _Scene:
    """Draws a state as gym-pusht does, but keeps what never changes and shrinks only what did."""

    def __init__(self, packages: SimpleNamespace, block: Block, image_size: int, target: str) -> None:
        self._pygame, self._cv2, self._debug_color = packages.pygame, packages.cv2, packages.SpaceDebugColor
        self._block, self._size = block, image_size
        # Parts that begin and end on this grid of screen pixels are shrunk to whole pixels of the frame.
        self._grid = WORLD // math.gcd(WORLD, image_size) if image_size <= WORLD else WORLD
        self._screen = packages.pygame.Surface((WORLD, WORLD), depth=32)
        self._draw = packages.DrawOptions(self._screen)
        self._screen.fill((255, 255, 255))
        if target == "fixed":
            for part in block.corners(np.array(TARGET_POSE)).round().reshape(-1, 4, 2).tolist():
                packages.pygame.draw.polygon(self._screen, packages.pygame.Color("LightGreen"), part)
        self._draw_walls()
        # A view of the surface's memory, whatever the order of its channels there.
        self._pixels = np.frombuffer(self._screen.get_buffer(), np.uint8).reshape(WORLD, WORLD, 4)
        self._channels = [shift // 8 for shift in self._screen.get_shifts()[:3]]
        self._background = self._pixels.copy()
        self._small = self._shrunk(0, WORLD, 0, WORLD)

    def draw(self, state: np.ndarray, block: str = "LightSlateGray") -> np.ndarray:
        """(X,) to a fresh (size, size, 3) uint8 frame."""
        agent, parts = state[:2], self._block.corners(state[2:5])
        for part in parts.reshape(-1, 4, 2).tolist():
            self._draw.draw_polygon(part, 0.0, None, self._color(block))
        self._draw.draw_circle(agent.tolist(), 0.0, AGENT_RADIUS, None, self._color("RoyalBlue"))
        changed = [self._box(agent, agent, AGENT_RADIUS + 2), self._box(parts.min(0), parts.max(0), 4)]
        if any(min(box) < BORDER or max(box) > WORLD - BORDER for box in changed):
            self._draw_walls()  # they are drawn over everything
        frame = self._small.copy()
        for top, bottom, left, right in changed:
            if top < bottom and left < right:
                to = [edge * self._size // WORLD for edge in (top, bottom, left, right)]
                frame[to[0] : to[1], to[2] : to[3]] = self._shrunk(top, bottom, left, right)
        for top, bottom, left, right in changed:
            self._pixels[top:bottom, left:right] = self._background[top:bottom, left:right]
        return frame

    def _color(self, name: str) -> Any:
        return self._debug_color(*self._pygame.Color(name))

    def _draw_walls(self) -> None:
        for wall in WALLS:
            self._draw.draw_fat_segment(*wall, WALL_RADIUS, None, self._color("LightGray"))

    def _box(self, low: np.ndarray, high: np.ndarray, margin: float) -> tuple[int, int, int, int]:
        """Top, bottom, left, right of what lies between two points (2,) x, y, on multiples of the grid."""
        edges = [(value - margin) // self._grid for value in low.tolist()]
        edges += [-((-value - margin) // self._grid) for value in high.tolist()]
        left, top, right, bottom = (int(min(max(edge * self._grid, 0), WORLD)) for edge in edges)
        return top, bottom, left, right

    def _shrunk(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """That part of the screen, (h, w, 3) uint8 in the frame's scale."""
        size = (right - left) * self._size // WORLD, (bottom - top) * self._size // WORLD
        way = self._cv2.INTER_AREA if self._size < WORLD else self._cv2.INTER_LINEAR
        return self._cv2.resize(self._pixels[top:bottom, left:right], size, interpolation=way)[..., self._channels]


def _packages() -> SimpleNamespace:
    what = "PushT"
    with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
        pusht = require("gym_pusht.envs.pusht", what)
    return SimpleNamespace(
        pygame=require("pygame", what),
        PushTEnv=pusht.PushTEnv,
        DrawOptions=require("gym_pusht.envs.pymunk_override", what).DrawOptions,
        pymunk=require("pymunk", what),
        cffi=require("pymunk._chipmunk_cffi", what),
        SpaceDebugColor=require("pymunk.space_debug_draw_options", what).SpaceDebugColor,
        cv2=require("cv2", what),
    )
