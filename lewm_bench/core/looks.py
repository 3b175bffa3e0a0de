"""Other looks of the same world: functions of its frames, exact in whole numbers or row by row.

Letters as in ``core.shift``; h, w pixels of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lewm_bench.core.rng import stream
from lewm_bench.core.shift import Change, Clocked, World, hashed, normal, uniform

_NOISE, _PATHS = 4, 5
BACKDROPS = 15  # frames whose median is what does not move; odd, so that it is one of the colours that were seen
MOVES = 12  # levels of 255 from the backdrop within which a pixel is backdrop
CERTAIN = 0.6  # of the largest difference that is seen, from where on it is none at all; in between it is an edge
TINTS = np.array([[225, 120, 100], [120, 220, 110], [96, 150, 235]], np.float32)
COLOURFUL = 0.6  # of a picture: how far its channels go ways of their own
OCCLUDER = np.array([120, 120, 120], np.uint8)
OCCLUDED_AT = (0.35, 0.62)  # the middle of the patch: shares of the height and of the width
SLOWEST, FASTEST = 0.01, 0.04  # of the frame's width that a distractor goes in a step


def rounded(frames: np.ndarray) -> np.ndarray:
    """Colours as numbers to uint8."""
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Colour(Change):
    """What moves has another colour, ``share`` of the way to the one that the environment has ready."""

    share: float

    def draw(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return self._between(states, self.share)

    def recolored(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return self._between(states, 1 - self.share)

    def _between(self, states: np.ndarray, share: float) -> np.ndarray:
        usual, other = self.world.render_states(states), self.world.recolored(states)
        return rounded(usual + np.float32(share) * (other.astype(np.float32) - usual))


@dataclass(frozen=True)
class Brightness(Change):
    """All colours ``scale`` as bright."""

    scale: float

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return rounded(np.float32(self.scale) * frames)


@dataclass(frozen=True)
class Contrast(Change):
    """All colours ``scale`` as far from grey."""

    scale: float

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return rounded(128 + np.float32(self.scale) * (frames.astype(np.float32) - 128))


@dataclass(frozen=True)
class Moved(Change):
    """The camera has moved: the picture is ``share`` of its width further right and down; its edge goes on."""

    share: float

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        down, right = (round(self.share * size) for size in frames.shape[1:3])
        padded = np.pad(frames, ((0, 0), (down, 0), (right, 0), (0, 0)), mode="edge")
        return np.ascontiguousarray(padded[:, : frames.shape[1], : frames.shape[2]])

    def moved(self, spots: np.ndarray) -> np.ndarray:
        height, width, _ = self.world.observation_space.shape
        shift = round(self.share * width) / width, round(self.share * height) / height
        return np.clip(spots + shift, 0, 1)


@dataclass(frozen=True)
class Zoomed(Change):
    """The camera is further away: the picture ``scale`` as large, in its middle; its edge goes on."""

    scale: float

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            low, high, weight = _between_pixels(frames.shape[axis], self.scale)
            weight = np.expand_dims(weight, tuple(a for a in range(4) if a != axis))
            lower, upper = (np.take(frames, index, axis).astype(np.uint16) for index in (low, high))
            frames = ((lower * (256 - weight) + upper * weight + 128) // 256).astype(np.uint8)
        return frames

    def moved(self, spots: np.ndarray) -> np.ndarray:
        return 0.5 + self.scale * (spots - 0.5)


def _between_pixels(size: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of a line that is drawn smaller: two pixels (size,) and 256 times the weight of the second."""
    at = np.clip((np.arange(size) + 0.5 - size / 2) / scale + size / 2 - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    return low, np.minimum(low + 1, size - 1), np.rint(256 * (at - low)).astype(np.uint16)


@dataclass(frozen=True)
class Grain(Clocked):
    """Noise of the camera: normal, on every channel of every pixel, anew in every frame."""

    std: float  # levels of 255

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        pixels = np.arange(frames[0].size).reshape(frames.shape[1:])
        frame_key = hashed(_NOISE, memory[:, 0], memory[:, 1]) >> np.uint64(11)
        noise = normal(frame_key[:, None, None, None], pixels)
        return rounded(frames + self.std * noise)


@dataclass(frozen=True)
class Blurred(Change):
    """Out of focus: every pixel mixed with its neighbours, ``times`` over."""

    times: int

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        sums = 16 * frames.astype(np.uint32)
        for _ in range(self.times):
            for axis in (1, 2):
                before, after = (_shifted_by_one(sums, axis, step) for step in (1, -1))
                sums = (before + 2 * sums + after + 2) // 4
        return ((sums + 8) // 16).astype(np.uint8)


def _shifted_by_one(values: np.ndarray, axis: int, step: int) -> np.ndarray:
    """The neighbours of all pixels on one side; beyond the edge there is the edge again."""
    last = values.shape[axis] - 1
    return np.take(values, np.clip(np.arange(last + 1) - step, 0, last), axis)


@dataclass(frozen=True)
class Occluded(Change):
    """A grey square hides a part of the picture, ``share`` of its width wide."""

    share: float

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        out = frames.copy()
        rows, columns = (
            slice(round(size * (middle - self.share / 2)), round(size * (middle + self.share / 2)))
            for size, middle in zip(frames.shape[1:3], OCCLUDED_AT, strict=True)
        )
        out[:, rows, columns] = OCCLUDER
        return out


class Backdrop:
    """What does not move, as far as some frames of a world tell, and what does."""

    def __init__(self, world: World) -> None:
        rng = stream(0, "shift", "backdrop")
        self._world, self._states = world, np.stack([world.sample_state(rng) for _ in range(BACKDROPS)])
        self.frames = world.render_states(self._states)
        self.picture = np.median(self.frames, axis=0).astype(np.uint8)  # (h, w, 3)
        self._certain = np.float32(max(CERTAIN * self._away(self.frames).max(), 2 * MOVES))

    def _away(self, frames: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) frames to (N, h, w, 1) levels of 255 from the backdrop."""
        return np.abs(frames.astype(np.int16) - self.picture).max(-1, keepdims=True)

    def cover(self, frames: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) frames to (N, h, w, 1) float32: 0 where the backdrop is seen, 1 where something is before it."""
        return np.clip((self._away(frames) - MOVES) / (self._certain - MOVES), 0, 1).astype(np.float32)

    def figure(self) -> tuple[np.ndarray, np.ndarray]:
        """What moves, cut out of the frame where it is smallest: (a, b, 3) colours and (a, b, 1) how dense it is.

        It is what can have another colour. It is taken to be as dense as it differs from the backdrop, and its colours
        are those that would give its frame.
        """
        coloured = (self._world.recolored(self._states) != self.frames).any(-1, keepdims=True)
        shown = coloured & (self.cover(self.frames) > 0)
        found = [(n, *box) for n, each in enumerate(shown) if (box := _box(each[..., 0])) is not None]
        place = min(found, key=lambda at: shown[at].size, default=(0, slice(0), slice(0)))
        under = self.picture[place[1:]].astype(np.float32)
        away = (self._away(self.frames)[place] * shown[place]).astype(np.float32)
        dense = away / away.max(initial=1)
        return under + (self.frames[place] - under) / np.maximum(dense, 1e-3), dense


def _box(shown: np.ndarray) -> tuple[slice, slice] | None:
    """The rows and columns of (h, w) bool that hold all that is true, or None."""
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


@dataclass(frozen=True)
class Repainted(Change):
    """Another backdrop behind what moves; ``share`` is how much of the old one is gone."""

    share: float

    @cached_property
    def _difference(self) -> np.ndarray:
        """(h, w, 3) float32: what is added where the backdrop is seen."""
        return np.float32(self.share) * (self.picture(self.world.backdrop.picture) - self.world.backdrop.picture)

    def picture(self, usual: np.ndarray) -> np.ndarray:
        """The usual backdrop (h, w, 3) uint8 to the new one, float32."""
        raise NotImplementedError

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        return rounded(frames + (1 - self.world.backdrop.cover(frames)) * self._difference)


class Textured(Repainted):
    """Behind what moves is something like a photograph: soft shapes of all sizes and colours."""

    def picture(self, usual: np.ndarray) -> np.ndarray:
        return photograph(*usual.shape[:2])


class Tinted(Repainted):
    """What does not move has a colour that is nowhere else, and is as bright and dark as it was."""

    def picture(self, usual: np.ndarray) -> np.ndarray:
        bright = usual.astype(np.float32).mean(-1, keepdims=True) / 255
        return self._tint() * (0.25 + 0.75 * bright)

    def _tint(self) -> np.ndarray:
        """The tint (3,) that is least like the backdrop and what is before it."""
        backdrop = self.world.backdrop
        covered = backdrop.frames[backdrop.cover(backdrop.frames)[..., 0] == 1]
        away = [_unlike(colours) for colours in (covered, backdrop.picture.reshape(-1, 3)) if len(colours)]
        return TINTS[np.min(away, axis=0).argmax()]


def _unlike(colours: np.ndarray) -> np.ndarray:
    """(K, 3) colours to how far each tint is from the nearest tenth of them, brightness left out of account."""
    pure, tints = (each / np.maximum(each.max(-1, keepdims=True), 1) for each in (colours.astype(np.float32), TINTS))
    return np.percentile(np.linalg.norm(tints[:, None] - pure, axis=-1), 10, axis=1)


def photograph(height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32: noise whose parts are the stronger the larger they are, as in pictures of the world."""
    rng, out = stream(0, "shift", "photograph"), np.zeros((height, width, 3))
    for cells in (2, 4, 8, 16):
        grid = rng.normal(size=(cells + 1, cells + 1, 1)) + COLOURFUL * rng.normal(size=(cells + 1, cells + 1, 3))
        for axis, size in ((0, height), (1, width)):
            at = np.linspace(0, cells, size)
            low = np.minimum(at.astype(int), cells - 1)
            share = np.expand_dims(at - low, (1, 2) if axis == 0 else (0, 2))
            grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, low + 1, axis) * share
        out += grid / cells**0.7
    low, high = out.min((0, 1)), out.max((0, 1))
    return (255 * (out - low) / (high - low)).astype(np.float32)


@dataclass(frozen=True)
class Distracted(Clocked):
    """``count`` more of what moves wander about behind it, each on its own way."""

    count: int

    @cached_property
    def _figure(self) -> tuple[np.ndarray, np.ndarray]:
        return self.world.backdrop.figure()

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        colours, cover = self._figure
        (height, width), free = cover.shape[:2], 1 - self.world.backdrop.cover(frames)
        out = frames.astype(np.float32)
        for n, corners in enumerate(self._corners(memory, frames.shape[1] - height, frames.shape[2] - width)):
            for top, left in corners.tolist():
                place = n, slice(top, top + height), slice(left, left + width)
                out[place] += cover * free[place] * (colours - out[place])
        return rounded(out)

    def _corners(self, memory: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """(N, count, 2) int: the upper left corners at this time, between 0 and what is given; they bounce there."""
        key, clock = memory[:, 0, None, None], memory[:, 1, None, None]
        which, axis = np.arange(self.count)[:, None], np.arange(2)
        begin, speed, sign = (uniform(_PATHS, key, which, axis, part) for part in range(3))
        way = SLOWEST + (FASTEST - SLOWEST) * speed
        at = (2 * begin + np.where(sign < 0.5, -way, way) * clock) % 2
        return np.rint(np.where(at < 1, at, 2 - at) * (rows, columns)).astype(int)
