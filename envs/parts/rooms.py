"""Two rooms with a door between them, in changed worlds two, seen from above: geometry, collision, frames, exploration.

Coordinates are pixels of the original canvas: x to the right, y down, and pixel i has its centre at coordinate i.
Letters: N states, S image size, P size of the drawn patch around the dot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar

import gymnasium as gym
import numpy as np

from lewm_bench.core.env import GoalEnv, frame_space
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory, generic_policies
from lewm_bench.core.shift import Factor, Group, scale_texts
from lewm_bench.envs.parts.geodesic import Geodesics
from lewm_bench.envs.parts.raster import Backdrop, overlap, pushed
from lewm_bench.envs.parts.sliding import GAP, Sliding

NARROWER = (0.75, 0.5, 0.1)  # room for the disk in the door, by level


@dataclass(frozen=True)
class Rooms:
    """A square arena, divided by a vertical wall with a door or two. All lengths in pixels of the canvas."""

    size: int  # of the canvas
    low: float  # inner face of the border on the left and above
    high: float  # inner face of the border on the right and below
    wall: float  # x of the middle of the wall
    wall_half: float  # half of its thickness
    door: float  # y of the middle of the door
    door_half: float  # half of its height
    radius: float  # of the agent, for collisions
    margin: float  # sampled positions keep this distance from the border and from the wall
    speed: float  # displacement at action 1
    dot_std: float  # of the Gaussian dot that is drawn
    lines: tuple[tuple[int, int], ...]  # first and last pixel of the drawn border lines
    dot_above_walls: bool  # the dot is drawn over the walls, else it disappears behind them
    second_door: float | None = None  # y of its middle; it is as high as the first

    @property
    def doors(self) -> tuple[float, ...]:
        """The y of the middles of all doors, from above."""
        return (self.door,) if self.second_door is None else tuple(sorted((self.door, self.second_door)))

    @property
    def openings(self) -> tuple[tuple[float, float], ...]:
        """The (top, bottom) of each door."""
        return tuple((door - self.door_half, door + self.door_half) for door in self.doors)

    @property
    def pieces(self) -> tuple[tuple[float, float], ...]:
        """The (top, bottom) of each piece of the wall that the doors leave; the outer ones go on without end."""
        tops, bottoms = zip(*self.openings, strict=True)
        return tuple(zip((-np.inf, *bottoms), (*tops, np.inf), strict=True))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A position (2,), uniform over both rooms without the wall's zone and the door's."""
        while True:
            position = rng.uniform(self.low + self.margin, self.high - self.margin, 2)
            if abs(position[0] - self.wall) > self.wall_half + self.margin:
                return position


CHANGED = ("wall", "wall_half", "door", "door_half", "second_door", "radius", "speed", "dot_std")


def changed_rooms(rooms: Rooms, changes: Mapping[str, float]) -> Rooms:
    """The rooms with some of their measures replaced.

    Raises:
        UserError: there is no such measure, or no room for the disk.
    """
    for name in changes:
        if name not in CHANGED:
            raise unknown("measure of the rooms", name, CHANGED)
    out = replace(rooms, **{name: float(value) for name, value in changes.items()})
    # The agent is sampled, and its dot is drawn, as far from walls as before.
    out = replace(out, margin=rooms.margin + max(out.radius - rooms.radius, out.dot_std - rooms.dot_std, 0.0))
    inside = all(out.low <= top and bottom <= out.high for top, bottom in out.openings)
    door = inside and out.door_half > out.radius and all(top < bottom for top, bottom in out.pieces)
    left, right = out.wall - out.wall_half - out.low, out.high - out.wall - out.wall_half
    if not door or min(left, right) <= 2 * out.margin or min(out.radius, out.speed, out.dot_std, out.wall_half) <= 0:
        raise UserError(f"no room for the disk, its door or its walls: {dict(changes)}; choose other measures")
    return out


# Collision.


class Slide(Sliding):
    """Among the walls of ``Rooms``, with the four edges of each door."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms, reach = rooms, rooms.radius + GAP
        self._left, self._right = rooms.wall - rooms.wall_half, rooms.wall + rooms.wall_half
        self._low, self._high = rooms.low + reach, rooms.high - reach
        edges = [(x, y) for opening in rooms.openings for y in opening for x in (self._left, self._right)]
        near, far = self._left - reach, self._right + reach
        inf = np.inf
        faces = [
            (0, 1, self._low, -inf, inf),
            (0, -1, self._high, -inf, inf),
            (1, 1, self._low, -inf, inf),
            (1, -1, self._high, -inf, inf),
        ]
        for top, bottom in rooms.pieces:
            faces += [(0, -1, near, top, bottom), (0, 1, far, top, bottom)]
        for top, bottom in rooms.openings:
            faces += [(1, 1, top + reach, self._left, self._right), (1, -1, bottom - reach, self._left, self._right)]
        super().__init__(faces, np.array(edges), rooms.radius)

    def _clear(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """(N,) bool: the whole way lies in one room and touches nothing; decides most rows cheaply."""
        lowest, highest = np.minimum(begins, ends), np.maximum(begins, ends)
        inside = (lowest >= self._low).all(-1) & (highest <= self._high).all(-1)
        one_room = (highest[:, 0] <= self._left - self._reach) | (lowest[:, 0] >= self._right + self._reach)
        return inside & one_room

    def _freed(self, at: np.ndarray) -> np.ndarray:
        """(N, 2) positions, of which those that overlap a wall are put beside it, the shortest way."""
        rooms = self._rooms
        outside = (at < rooms.low + rooms.radius) | (at > rooms.high - rooms.radius)
        at = np.where(outside, np.clip(at, self._low, self._high), at)
        for top, bottom in rooms.pieces:
            at = self._out_of_wall(at, top, bottom)
        return at

    def _out_of_wall(self, at: np.ndarray, top: float, bottom: float) -> np.ndarray:
        """The same for one piece of the wall."""
        x, y = at.T
        nearest = np.stack([np.clip(x, self._left, self._right), np.clip(y, top, bottom)], axis=-1)
        away = at - nearest
        distance = np.sqrt((away**2).sum(-1))
        beside = nearest + away * (self._reach / np.where(distance > 0, distance, 1.0))[:, None]
        exits = np.stack([x - self._left, self._right - x, bottom - y, y - top], axis=-1)  # to each face, from inside
        out = exits.argmin(-1)
        across = np.choose(out, [self._left - self._reach, self._right + self._reach, x, x])
        along = np.choose(out, [y, y, bottom + self._reach, top - self._reach])
        moved = np.where((distance > 0)[:, None], beside, np.stack([across, along], axis=-1))
        return np.where((distance < self._rooms.radius)[:, None], moved, at)


# Frames.


class RoomsRaster(Backdrop):
    """Frames of any size: walls by exact area, the dot by the original's formula at the pixels' centres."""

    def __init__(self, rooms: Rooms, image_size: int) -> None:
        self._size, self._above = image_size, rooms.dot_above_walls
        self._scale = image_size / rooms.size
        self._std = rooms.dot_std * self._scale
        # Beyond 3.54 std the dot covers less than half a level of 255, and half a pixel is for where its centre lies.
        self._half = int(np.ceil(3.54 * self._std + 0.5))
        self._patch = min(2 * self._half + 1, image_size)
        shares = overlap(np.arange(rooms.size + 1) * (image_size / rooms.size), image_size)
        grey = 255.0 * (shares @ ~_wall_mask(rooms) @ shares.T)  # (S, S)
        self.background = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)
        self._windows = np.lib.stride_tricks.sliding_window_view(grey.astype(np.float32), (self._patch,) * 2)

    def _position(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        return (np.stack([column, row], axis=-1) + 0.5) / self._scale - 0.5

    def _draw_chunk(self, positions: np.ndarray, frames: np.ndarray) -> None:
        patch = self._patch
        centers = (positions + 0.5) * self._scale - 0.5  # pixels of the image
        corners = np.clip(np.rint(centers) - self._half, 0, self._size - patch)
        squares = ((corners - centers)[..., None] + np.arange(patch)) ** 2  # (N, 2, P)
        squares -= squares.min(-1, keepdims=True)  # the pixel nearest to the centre has the full colour, as originally
        columns, rows = np.moveaxis(np.exp(squares / (-2 * self._std**2)).astype(np.float32), 1, 0)
        cover = rows[:, :, None] * columns[:, None, :]  # (N, P, P)
        lefts, tops = corners.astype(int).T
        under = self._windows[tops, lefts]
        green = under * (1 - cover)
        red = green + 255 * cover if self._above else under
        blended = np.empty((*cover.shape, 3), np.uint8)
        blended[..., 0] = np.rint(red)
        blended[..., 1] = blended[..., 2] = np.rint(green)
        frames[:] = self.background
        for n, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
            frames[n, top : top + patch, left : left + patch] = blended[n]


def _wall_mask(rooms: Rooms) -> np.ndarray:
    """(size, size) bool: the pixels of the canvas that are wall."""
    pixel = np.arange(rooms.size)
    line = np.zeros(rooms.size, bool)
    for first, last in rooms.lines:
        line[first : last + 1] = True
    column = np.abs(pixel - rooms.wall) <= rooms.wall_half
    row = np.all([np.abs(pixel - door) > rooms.door_half for door in rooms.doors], axis=0)
    return line[:, None] | line[None, :] | (row[:, None] & column[None, :])


# Exploration.


def through_door(rooms: Rooms, noise_std: float, near_door: float, arrived: float) -> PolicyFactory:
    """A noisy walk at full speed to uniformly drawn targets, by way of the door where they are in the other room.

    The door is the aim until its middle is within ``near_door``; a target within ``arrived`` is replaced by a new one.
    Of two doors it is the one that is less of a detour.
    """
    doors = np.array([(rooms.wall, door) for door in rooms.doors])

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        targets = np.stack([rooms.sample(rng) for rng in rngs])  # (N, 2)

        def act(states: np.ndarray) -> np.ndarray:
            for n in np.flatnonzero(_length(targets - states) < arrived):
                targets[n] = rooms.sample(rngs[n])
            other = (states[:, 0] < rooms.wall) != (targets[:, 0] < rooms.wall)
            detours = _length(doors - states[:, None]) + _length(doors - targets[:, None])  # (N, doors)
            door = doors[detours.argmin(1)]
            to_door = other & (_length(door - states) > near_door)
            way = np.where(to_door[:, None], door, targets) - states
            unit = way / np.maximum(_length(way), 1e-8)[:, None]
            noise = np.stack([rng.standard_normal(2) for rng in rngs])
            return np.clip(unit + noise_std * noise, -1.0, 1.0).astype(np.float32)

        return act

    return start


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(-1))


# The environment.


class RoomsEnv(GoalEnv):
    """What TwoRoom and Wall share. The state is the position (x, y), an action the displacement in units of ``speed``.

    Any state may be set; an agent that overlaps a wall is put beside it by its next step, before it moves.
    ``legacy`` exchanges the exact collision for the original's, each as its own class describes. ``rooms`` replaces
    measures of the rooms by name, such as ``{"door": 100}``; the original's collision knows its own only.
    """

    proprioception: ClassVar[tuple[str, ...]] = ("position",)
    rooms: Rooms
    legacy_step: ClassVar[Callable[[np.ndarray, np.ndarray], np.ndarray]]
    doors: ClassVar[tuple[float, ...]] = ()  # y of the door's middle at levels 1 to 3 of the factor "door"
    walls: ClassVar[tuple[float, ...]] = ()  # x of the wall's middle
    second_doors: ClassVar[tuple[float, ...]] = ()  # y of its middle

    def __init__(
        self,
        image_size: int = 64,
        legacy: bool = False,
        render_mode: str = "rgb_array",
        rooms: Mapping[str, float] | None = None,
    ) -> None:
        if legacy and rooms:
            raise UserError("legacy is the original's collision in its own rooms; leave out legacy or rooms")
        self.image_size, self.legacy, self.rooms = image_size, legacy, changed_rooms(type(self).rooms, rooms or {})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = frame_space(image_size, render_mode)
        self._raster = RoomsRaster(self.rooms, image_size)
        self._move = type(self).legacy_step if legacy else Slide(self.rooms)
        self._position = np.array([(self.rooms.low + self.rooms.wall) / 2, self.rooms.door])

    # State.

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        return self.rooms.sample(rng)

    def get_state(self) -> np.ndarray:
        return self._position.copy()

    def set_state(self, state: np.ndarray) -> None:
        state = np.array(state, np.float64)
        if state.shape != (2,) or not np.isfinite(state).all():
            raise ValueError(f"a state is two finite numbers (x, y), got {state}")
        self._position = state

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return _length(np.asarray(states) - np.asarray(goals))

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., 2) states and goals to the lengths of shortest ways, through a door where they are in two rooms."""
        return self._geodesics(states, goals)

    @cached_property
    def _geodesics(self) -> Geodesics:
        rooms = self.rooms
        left, right = rooms.wall - rooms.wall_half, rooms.wall + rooms.wall_half
        ends = rooms.low - rooms.size, rooms.high + rooms.size
        pieces = [(left, max(top, ends[0]), right, min(bottom, ends[1])) for top, bottom in rooms.pieces]
        return Geodesics(np.array(pieces), rooms.radius + GAP, slack=rooms.radius / 4)

    def possible(self, states: np.ndarray) -> np.ndarray:
        """Half of the disk is inside of no wall."""
        rooms, at = self.rooms, np.asarray(states, np.float64)
        inside = ((at > rooms.low + rooms.radius / 2) & (at < rooms.high - rooms.radius / 2)).all(-1)
        beside = np.abs(at[..., 0] - rooms.wall) - rooms.wall_half
        # To the nearer edge of the door, negative beside the wall.
        within = np.max([rooms.door_half - np.abs(at[..., 1] - door) for door in rooms.doors], axis=0)
        gap = np.where(within > 0, np.hypot(np.maximum(beside, 0), within), np.maximum(beside, 0))
        return inside & (gap > rooms.radius / 2)

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"position": states}

    # Dynamics.

    def advance(self, action: np.ndarray) -> None:
        self._position = self.simulate(self._position[None], np.asarray(action)[None, None])[0, 0]

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        positions, actions = np.asarray(states, np.float64), np.asarray(actions, np.float64)
        if not np.isfinite(actions).all():
            raise ValueError("an action is not a finite number")
        moves = self.rooms.speed * np.clip(actions, -1.0, 1.0)
        out = np.empty(moves.shape)
        for t in range(moves.shape[1]):
            positions = out[:, t] = self._move(positions, moves[:, t])
        return out

    # Frames.

    def render(self) -> np.ndarray:
        return self._raster.draw(self._position[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._raster.draw(np.asarray(states, np.float64))

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, 2) states to frames with a blue dot: the walls are grey, so the red and blue channels change places."""
        return np.ascontiguousarray(self.render_states(states)[..., ::-1])

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """(N, 2) states to others at least two thresholds away."""
        out = np.empty(np.shape(states))
        for n, (state, rng) in enumerate(zip(states, rngs, strict=True)):
            out[n] = self.sample_state(rng)
            while self.distance(out[n], state) < 2 * self.threshold:
                out[n] = self.sample_state(rng)
        return out

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Steps towards where the goal image has the dot."""
        return pushed((self._raster.found(goals) - self._raster.found(frames)) / self.rooms.speed)

    def spots(self, states: np.ndarray) -> np.ndarray:
        """Where the dot is; the middle of the first pixel is at coordinate 0."""
        return (np.asarray(states, np.float64) + 0.5) / self.rooms.size

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        return generic_policies(self.action_space)

    # Changed worlds.

    def factors(self) -> Mapping[str, Factor]:
        if self.legacy:
            return super().factors()
        wall = {"wall": _moved("wall", self.rooms.wall, self.walls)} if self.walls else {}
        width = {"door_width": _narrower(self.rooms)}
        return {**super().factors(), **disk_factors(self.rooms), **self._door_factors(), **wall, **width}

    def _door_factors(self) -> Mapping[str, Factor]:
        """Where the only door is; a second one, if every place for it is beside the first."""
        if self.rooms.second_door is not None:
            return {}
        door = {"door": _moved("door", self.rooms.door, self.doors)} if self.doors else {}
        away = [abs(place - self.rooms.door) - 2 * self.rooms.door_half for place in self.second_doors]
        second = {"second_door": _second(self.rooms, self.second_doors)} if away and min(away) > 0 else {}
        return {**door, **second}

    def changed(self, **measures: float) -> RoomsEnv:
        """The same in rooms with other measures."""
        now = {name: vars(self.rooms)[name] for name in CHANGED if vars(self.rooms)[name] is not None}
        return type(self)(self.image_size, rooms={**now, **measures})


def disk_factors(rooms: Rooms) -> Mapping[str, Factor]:
    """What the disk is like; its size where it is not small beside the door."""
    found = {
        "speed": _times(rooms, "physics", "speed", "way that an action goes", 0.75, 0.5, 0.25),
        "dot": _times(rooms, "looks", "dot_std", "size of the drawn dot", 1.25, 1.6, 2.2),
    }
    if rooms.radius > rooms.door_half / 4:
        found["radius"] = _times(rooms, "physics", "radius", "size of the disk that walls stop", 1.2, 1.4, 1.6)
    return found


def _moved(name: str, usual: float, values: Sequence[float]) -> Factor:
    first, second, third = (f"{value - usual:+g}" for value in values)
    about = f"{name} moved, pixels of the canvas"
    return Factor("layout", about, ("0", first, second, third), partial(_with, name, values))


def _second(rooms: Rooms, places: Sequence[float]) -> Factor:
    first, second, third = (f"{place - rooms.door:+g}" for place in places)
    about = "a second door, pixels of the canvas from the first"
    return Factor("layout", about, ("none", first, second, third), partial(_with, "second_door", places))


def _narrower(rooms: Rooms) -> Factor:
    halves = [rooms.radius + (rooms.door_half - rooms.radius) * share for share in NARROWER]
    about = "room that the disk has in the door"
    return Factor("layout", about, scale_texts(NARROWER), partial(_with, "door_half", halves))


def _times(rooms: Rooms, group: Group, name: str, about: str, *scales: float) -> Factor:
    make = partial(_with, name, [vars(rooms)[name] * scale for scale in scales])
    return Factor(group, about, scale_texts(scales), make)


def _with(name: str, values: Sequence[float], env: RoomsEnv, level: int) -> RoomsEnv:
    return env.changed(**{name: values[level - 1]})
