"""FourRooms of H-JEPA: a dot walks through four rooms by four doors, while other dots, which do not matter, move about.

Coordinates are pixels of the canvas: x to the right, y down, and pixel i has its centre at coordinate i.
Letters: N states, K distractors, S image size, P size of the drawn patch around a dot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import UserError
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory, generic_policies
from lewm_bench.envs.parts.geodesic import Geodesics
from lewm_bench.envs.parts.raster import overlap, pushed
from lewm_bench.envs.parts.sliding import GAP, Sliding

SIZE = 224  # of the canvas
LOW, HIGH = 14.0, 210.0  # inner faces of the border
LINES = ((10, 13), (210, 213))  # first and last pixel of its drawn lines
WALL, WALL_HALF = 112.0, 5.0  # middle of both inner walls, and half of their thickness
DOORS, DOOR_HALF = (56.0, 168.0), 16.0  # middles of the two doors of each wall along it, and half of their width
RADIUS = 3.5  # of every dot, for collisions; also the deviation of the Gaussian that is drawn
SPEED = 2.5  # displacement at action 1, and of a distractor
AGENT, RECOLORED = (255, 0, 0), (0, 0, 255)
DISTRACTORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66))  # Okabe and Ito's
RED = 90  # levels by which red exceeds the other channels where the agent is and no distractor
WALK_NOISE = 1.0  # std per component, before actions are clipped to 1
THROUGH = 6.0  # from the middle of a door, within which what lies behind it is the aim
_BEYOND = 2.0 * SIZE  # the walls go on outside the border
_CHUNK = 128  # frames that are blended together; larger spills the cache


def wall_boxes() -> np.ndarray:
    """(6, 4): the inner walls between their doors, each (left, upper, right, lower); the middle ones cross."""
    stops = [-_BEYOND, *(door + side * DOOR_HALF for door in DOORS for side in (-1, 1)), _BEYOND]
    pieces = list(zip(stops[::2], stops[1::2], strict=True))
    near, far = WALL - WALL_HALF, WALL + WALL_HALF
    return np.array([(near, a, far, b) for a, b in pieces] + [(a, near, b, far) for a, b in pieces])


class RoomSlide(Sliding):
    """Among the walls of the four rooms."""

    def __init__(self) -> None:
        self._boxes, reach = wall_boxes(), RADIUS + GAP
        self._low, self._high = LOW + reach, HIGH - reach
        self._before, self._after = WALL - WALL_HALF - reach, WALL + WALL_HALF + reach
        faces = [
            (axis, side, at, -np.inf, np.inf) for axis in (0, 1) for side, at in ((1, self._low), (-1, self._high))
        ]
        for left, upper, right, lower in self._boxes.tolist():
            faces += [(0, -1, left - reach, upper, lower), (0, 1, right + reach, upper, lower)]
            faces += [(1, -1, upper - reach, left, right), (1, 1, lower + reach, left, right)]
        corners = self._boxes[:, [[0, 1], [0, 3], [2, 1], [2, 3]]].reshape(-1, 2)
        inside = ((corners > LOW) & (corners < HIGH)).all(-1)
        super().__init__(faces, corners[inside], RADIUS)

    def _clear(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(N,) bool: the whole way lies in one room and touches nothing."""
        lowest, highest = np.minimum(begins, ends), np.maximum(begins, ends)
        inside = (lowest >= self._low) & (highest <= self._high)
        return (inside & ((highest <= self._before) | (lowest >= self._after))).all(-1)

    def _freed(self, at: np.ndarray) -> np.ndarray:
        outside = (at < LOW + RADIUS) | (at > HIGH - RADIUS)
        at = np.where(outside, np.clip(at, self._low, self._high), at)
        for box in self._boxes:
            at = self._out_of(at, box)
        return at

    def _out_of(self, at: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(N, 2) positions, of which those that overlap a box (4,) are put beside it, the shortest way."""
        away = at - np.clip(at, box[:2], box[2:])
        distance = np.sqrt((away**2).sum(-1, keepdims=True))
        beside = at - away + away * (self._reach / np.where(distance > 0, distance, 1.0))
        exits = np.concatenate([at - box[:2], box[2:] - at], axis=-1)  # (N, 4) to each face, from inside
        out = exits.argmin(-1)
        to = (box + self._reach * np.array([-1, -1, 1, 1]))[out]
        through = np.where(out[:, None] % 2 == np.arange(2), to[:, None], at)
        return np.where(distance < RADIUS, np.where(distance > 0, beside, through), at)


def bounced(positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 2) positions and velocities of distractors one step later: each stays in its room, whose walls reflect it."""
    low, high = _room_of(positions)
    ends = np.clip(positions, low, high) + velocities
    over, under = ends > high, ends < low
    ends = np.where(over, 2 * high - ends, np.where(under, 2 * low - ends, ends))
    return np.clip(ends, low, high), np.where(over | under, -velocities, velocities)


def _room_of(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 2) positions to the least and the largest that a dot of their room may have."""
    first = positions < WALL
    low = np.where(first, LOW + RADIUS, WALL + WALL_HALF + RADIUS)
    return low, np.where(first, WALL - WALL_HALF - RADIUS, HIGH - RADIUS)


class FourRoomsRaster:
    """Frames of any size: walls by exact area, dots as Gaussians at the pixels' centres, the agent's above the others."""

    def __init__(self, image_size: int, distractors: int) -> None:
        self._size, self._scale = image_size, image_size / SIZE
        self._std = RADIUS * self._scale
        # Beyond 3.54 std a dot covers less than half a level of 255, and half a pixel is for where its centre lies.
        self._half = int(np.ceil(3.54 * self._std + 0.5))
        self._patch = min(2 * self._half + 1, image_size)
        self._others = [DISTRACTORS[k % len(DISTRACTORS)] for k in range(distractors)]
        shares = overlap(np.arange(SIZE + 1) * self._scale, image_size)
        grey = np.rint(255.0 * (shares @ ~_wall_mask() @ shares.T))
        self.background = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)  # (S, S, 3)

    def draw(self, dots: np.ndarray, agent: tuple[int, int, int] = AGENT) -> np.ndarray:
        """(N, 1 + K, 2) positions, the agent's first, to (N, S, S, 3) uint8 frames."""
        frames = np.empty((len(dots), *self.background.shape), np.uint8)
        colors = [agent, *self._others]
        for begin in range(0, len(dots), _CHUNK):
            some = dots[begin : begin + _CHUNK]
            canvas = np.repeat(self.background[None].astype(np.float32), len(some), axis=0)
            for k in reversed(range(len(colors))):
                self._blend(canvas, some[:, k], np.array(colors[k], np.float32))
            frames[begin : begin + _CHUNK] = np.rint(canvas)
        return frames

    def _blend(self, canvas: np.ndarray, positions: np.ndarray, color: np.ndarray) -> None:
        """Put one dot per frame, at (N, 2), over (N, S, S, 3) ``canvas``."""
        centers = (positions + 0.5) * self._scale - 0.5  # pixels of the image
        corners = np.clip(np.rint(centers) - self._half, 0, self._size - self._patch)
        squares = ((corners - centers)[..., None] + np.arange(self._patch)) ** 2  # (N, 2, P)
        squares -= squares.min(-1, keepdims=True)  # the pixel nearest to the centre has the full colour, as originally
        across, down = np.moveaxis(np.exp(squares / (-2 * self._std**2)).astype(np.float32), 1, 0)
        cover = (down[:, :, None] * across[:, None, :])[..., None]  # (N, P, P, 1)
        columns, rows = np.moveaxis(corners.astype(int)[..., None] + np.arange(self._patch), 1, 0)  # (N, P) each
        where = np.arange(len(canvas))[:, None, None], rows[:, :, None], columns[:, None, :]
        under = canvas[where]
        canvas[where] = under + cover * (color - under)

    def found(self, frames: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) frames to (N, 2) x, y of the agent, whose red no distractor has; NaN where there is none."""
        red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
        weights = np.maximum(red - np.maximum(green, blue) - RED, 0.0)  # (N, S, S)
        pixels = np.arange(self._size)
        with np.errstate(invalid="ignore"):
            weights /= weights.sum((1, 2), keepdims=True)
        center = np.stack([(weights.sum(1) * pixels).sum(-1), (weights.sum(2) * pixels).sum(-1)], axis=-1)
        return (center + 0.5) / self._scale - 0.5


def _wall_mask() -> np.ndarray:
    """(224, 224) bool: the pixels of the canvas that are wall."""
    pixel = np.arange(SIZE)
    line = np.zeros(SIZE, bool)
    for first, last in LINES:
        line[first : last + 1] = True
    wall = np.abs(pixel - WALL) <= WALL_HALF
    solid = (np.abs(pixel[:, None] - np.array(DOORS)) > DOOR_HALF).all(-1)
    return line[:, None] | line | (wall[:, None] & solid) | (wall & solid[:, None])


def next_aim(positions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, 2) positions and targets to (N, 2): the middle of the next door on the shorter way, or the target itself."""
    return _aim(positions, (positions > WALL).astype(int), targets, doors=2)


def _aim(positions: np.ndarray, rooms: np.ndarray, targets: np.ndarray, doors: int) -> np.ndarray:
    """The same for dots that count as in ``rooms`` (N, 2), column and row, and have at most so many doors to pass."""
    if not doors:
        return targets
    others = (targets > WALL).astype(int) != rooms
    middles = np.array(DOORS)[rooms]  # (N, 2)
    across = np.stack([np.full(len(rooms), WALL), middles[:, 1]], axis=-1)  # the door to the room beside this one
    along = np.stack([middles[:, 0], np.full(len(rooms), WALL)], axis=-1)  # the door to the room above or below it
    ways = []
    for first, axis in ((across, 0), (along, 1)):
        behind = np.where(np.arange(2) == axis, 1 - rooms, rooms)
        second = np.where(np.arange(2) == axis, np.array(DOORS)[behind], WALL)
        ways.append(_length(first - positions) + _length(second - first) + _length(targets - second))
    axis = np.where(others.all(-1), ways[1] < ways[0], others[:, 1]).astype(int)  # of the door to go to
    door = np.where(axis[:, None] == 0, across, along)
    through = others.any(-1) & (_length(door - positions) <= THROUGH)
    aim = np.where(others.any(-1)[:, None], door, targets)
    if through.any():
        behind = np.where(np.arange(2) == axis[:, None], 1 - rooms, rooms)
        aim[through] = _aim(positions[through], behind[through], targets[through], doors - 1)
    return aim


def waypoints(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
    """A noisy walk at full speed to one uniformly drawn target after the other, by the doors of the shortest way."""
    targets = np.stack([sample_position(rng) for rng in rngs])  # (N, 2)

    def act(states: np.ndarray) -> np.ndarray:
        positions = states[:, :2]
        for n in np.flatnonzero(_length(targets - positions) < FourRooms.threshold):
            targets[n] = sample_position(rngs[n])
        way = next_aim(positions, targets) - positions
        unit = way / np.maximum(_length(way), 1e-8)[:, None]
        noise = np.stack([rng.standard_normal(2) for rng in rngs])
        return np.clip(unit + WALK_NOISE * noise, -1.0, 1.0).astype(np.float32)

    return act


def sample_position(rng: np.random.Generator) -> np.ndarray:
    """A position (2,), uniform over the four rooms without the doors."""
    margin = RADIUS + 2 * GAP
    while True:
        position = rng.uniform(LOW + margin, HIGH - margin, 2)
        if (np.abs(position - WALL) > WALL_HALF + margin).all():
            return position


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(-1))


class FourRooms(GoalEnv):
    """A red dot in four rooms of a 224-pixel canvas, with doors between neighbours, among ``distractors`` other dots.

    The state is the agent's (x, y) and, for each distractor, its (x, y, vx, vy), in pixels of the canvas and per step,
    y down; an action is a displacement of up to 2.5 px. The agent touches no wall on its way and slides along them.
    A distractor goes straight on in its own room, whose walls and doors reflect it; it passes through the agent and
    other distractors, and success does not ask for it. A goal image shows distractors where they were in that state.
    """

    threshold = 16.0
    distance_unit = "canvas pixels"
    exploration: ClassVar[Mapping[str, float]] = {"ornstein_uhlenbeck": 0.5, "waypoints": 0.5}
    proprioception: ClassVar[tuple[str, ...]] = ("position",)

    def __init__(self, image_size: int = 64, distractors: int = 3, render_mode: str = "rgb_array") -> None:
        if distractors < 0:
            raise UserError(f"distractors must be 0 or more, got {distractors}")
        self.image_size, self.distractors = image_size, distractors
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._raster, self._slide = FourRoomsRaster(image_size, distractors), RoomSlide()
        self._state = self.sample_state(np.random.default_rng(0))

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """Positions uniform over the rooms, and distractors' directions uniform."""
        return np.concatenate([sample_position(rng), *(_sample_distractor(rng) for _ in range(self.distractors))])

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        state, size = np.array(state, np.float64), 2 + 4 * self.distractors
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ValueError(f"a state is {size} finite numbers (x, y; x, y, vx, vy of each distractor), got {state}")
        self._state = state

    def possible(self, states: np.ndarray) -> np.ndarray:
        """(..., X) states to (...) bool: no dot overlaps a wall."""
        agent, others = _apart(np.asarray(states, np.float64))
        boxes = wall_boxes()
        away = agent[..., None, :] - np.clip(agent[..., None, :], boxes[:, :2], boxes[:, 2:])
        free = (_length(away) >= RADIUS).all(-1) & ((agent >= LOW + RADIUS) & (agent <= HIGH - RADIUS)).all(-1)
        low, high = _room_of(others[..., :2])
        return free & ((others[..., :2] >= low) & (others[..., :2] <= high)).all((-1, -2))

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return _length(np.asarray(states)[..., :2] - np.asarray(goals)[..., :2])

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., X) states and goals to the lengths of shortest ways through the doors."""
        return self._geodesics(np.asarray(states)[..., :2], np.asarray(goals)[..., :2])

    @cached_property
    def _geodesics(self) -> Geodesics:
        return Geodesics(wall_boxes(), RADIUS + GAP, slack=RADIUS / 4)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        agent, others = _apart(np.asarray(states))
        if not self.distractors:
            return {"position": agent}
        places, speeds = (others[..., half].reshape(len(agent), -1) for half in (slice(0, 2), slice(2, 4)))
        return {"position": agent, "distractor_positions": places, "distractor_velocities": speeds}

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """The agent is elsewhere, at least two thresholds away; the distractors are where they were."""
        out = np.array(states, np.float64)
        for state, rng in zip(out, rngs, strict=True):
            before = state[:2].copy()
            while _length(state[:2] - before) < 2 * self.threshold:
                state[:2] = sample_position(rng)
        return out

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        self._state = self.simulate(self._state[None], np.asarray(action)[None, None])[0, 0]

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, np.float64)
        if not np.isfinite(actions).all():
            raise ValueError("an action is not a finite number")
        agent, others = _apart(np.asarray(states, np.float64))
        places, speeds = others[..., :2], others[..., 2:]
        moves = SPEED * np.clip(actions, -1.0, 1.0)
        out = np.empty((*moves.shape[:2], 2 + 4 * self.distractors))
        for t in range(moves.shape[1]):
            agent = out[:, t, :2] = self._slide(agent, moves[:, t])
            places, speeds = bounced(places, speeds)
            out[:, t, 2:] = np.concatenate([places, speeds], axis=-1).reshape(len(out), -1)
        return out

    # Frames.

    def render(self) -> np.ndarray:
        return self.render_states(self._state[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._raster.draw(_dots(states))

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states to frames in which the agent is blue."""
        return self._raster.draw(_dots(states), RECOLORED)

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Steps towards where the goal image has the red dot."""
        return pushed((self._raster.found(goals) - self._raster.found(frames)) / SPEED)

    def spots(self, states: np.ndarray) -> np.ndarray:
        """Where the agent is; the middle of the first pixel is at coordinate 0."""
        return (np.asarray(states, np.float64)[:, :2] + 0.5) / SIZE

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        return {**generic_policies(self.action_space), "waypoints": waypoints}


def _apart(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 2 + 4 K) states to the agent's positions (..., 2) and the distractors' (..., K, 4)."""
    return states[..., :2], states[..., 2:].reshape(*states.shape[:-1], -1, 4)


def _dots(states: np.ndarray) -> np.ndarray:
    """(N, 2 + 4 K) states to (N, 1 + K, 2) positions, the agent's first."""
    agent, others = _apart(np.asarray(states, np.float64))
    return np.concatenate([agent[:, None], others[..., :2]], axis=1)


def _sample_distractor(rng: np.random.Generator) -> np.ndarray:
    heading = rng.uniform(-np.pi, np.pi)
    return np.concatenate([sample_position(rng), SPEED * np.array([np.cos(heading), np.sin(heading)])])
