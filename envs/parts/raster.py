"""Top-down pictures of a maze, drawn with numpy: exact anti-aliasing, many frames at once, no graphics library."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

WALL = (38, 44, 62)
FLOOR = (242, 239, 230)
BALL = (235, 64, 52)
RECOLORED_BALL = (52, 235, 64)  # the channels of the red one, rotated
BALL_RADIUS = 0.2  # maze cells; twice the physical ball, so that it covers enough pixels to be learnt from
MIN_BALL_RADIUS = 2.0  # pixels; keeps the ball visible where a large maze leaves few pixels per cell
_NOISE = 24  # levels of 255, over three channels, that a recompressed picture may differ by
_CHUNK = 128  # frames whose patches are blended together; larger spills the cache


def overlap(edges: np.ndarray, size: int) -> np.ndarray:
    """(K+1,) cell edges in pixels to (size, K): the share of each pixel that each cell covers."""
    pixel = np.arange(size)[:, None]
    return np.clip(np.minimum(pixel + 1, edges[None, 1:]) - np.maximum(pixel, edges[None, :-1]), 0.0, 1.0)


def pushed(wish: np.ndarray) -> np.ndarray:
    """(N, 2) actions, shortened where a number is beyond -1 to 1, so that they keep their direction; NaN to 0."""
    largest = np.abs(wish).max(-1, keepdims=True)
    return np.nan_to_num(wish / np.maximum(largest, 1.0)).astype(np.float32)


class Backdrop(ABC):
    """A fixed background with one thing that moves before it."""

    background: np.ndarray  # (size, size, 3) uint8

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """(N, 2) x, y of what moves to (N, size, size, 3) uint8 frames."""
        frames = np.empty((len(positions), *self.background.shape), np.uint8)
        for begin in range(0, len(positions), _CHUNK):
            self._draw_chunk(positions[begin : begin + _CHUNK], frames[begin : begin + _CHUNK])
        return frames

    def found(self, frames: np.ndarray) -> np.ndarray:
        """(N, size, size, 3) frames to (N, 2) x, y of what moves: the centre of what differs from the background.

        NaN where nothing does.
        """
        change = np.abs(frames.astype(np.float32) - self.background).sum(-1)  # (N, size, size)
        change[change < _NOISE] = 0
        pixels = np.arange(change.shape[-1])
        with np.errstate(invalid="ignore"):
            weights = change / change.sum((1, 2), keepdims=True)
        return self._position((weights.sum(1) * pixels).sum(-1), (weights.sum(2) * pixels).sum(-1))

    @abstractmethod
    def _position(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(N,) columns and rows, 0 at the middle of the first pixel, to (N, 2) x, y."""

    @abstractmethod
    def _draw_chunk(self, positions: np.ndarray, frames: np.ndarray) -> None:
        """Fill (N, size, size, 3) ``frames``."""


class Raster(Backdrop):
    """Draws the ball in a maze given as (rows, columns) bool walls; coordinates have the maze's centre at 0, y up.

    The outer walls are cropped to half a cell. A maze that is not square is centred in the image.
    """

    def __init__(self, walls: np.ndarray, image_size: int, ball: tuple[int, int, int] = BALL) -> None:
        rows, columns = walls.shape
        self._size, self._ball = image_size, np.array(ball, np.float32)
        self._scale = image_size / (max(rows, columns) - 1)  # pixels per cell
        self._radius = max(BALL_RADIUS * self._scale, MIN_BALL_RADIUS)
        self.ball_radius = self._radius / self._scale  # cells
        # The ball and its soft edge fit, wherever between two pixels its centre lies.
        self._patch = min(2 * int(np.ceil(self._radius + 0.5)) + 1, image_size)
        row_edges = (np.arange(rows + 1) - rows / 2) * self._scale + image_size / 2
        column_edges = (np.arange(columns + 1) - columns / 2) * self._scale + image_size / 2
        floor = overlap(row_edges, image_size) @ ~walls @ overlap(column_edges, image_size).T
        blend = np.array(WALL) + floor[..., None] * (np.array(FLOOR) - np.array(WALL))
        self.background = np.rint(blend).astype(np.uint8)  # (size, size, 3)
        self._windows = np.lib.stride_tricks.sliding_window_view(self.background, (self._patch, self._patch), (0, 1))

    def spots(self, positions: np.ndarray) -> np.ndarray:
        """(N, 2) x, y to (N, 2) shares of the frame's width and height, from its upper left corner."""
        return 0.5 + positions * (1, -1) * self._scale / self._size

    def _position(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        middle = self._size / 2 - 0.5
        return np.stack([column - middle, middle - row], axis=-1) / self._scale

    def _draw_chunk(self, positions: np.ndarray, frames: np.ndarray) -> None:
        size, patch = self._size, self._patch
        column = positions[:, 0] * self._scale + size / 2
        row = size / 2 - positions[:, 1] * self._scale
        # A patch lies inside the image even where the ball does not; distances below use the true centre.
        left = np.clip(np.floor(column - patch / 2 + 0.5), 0, size - patch).astype(int)
        top = np.clip(np.floor(row - patch / 2 + 0.5), 0, size - patch).astype(int)
        offsets = np.arange(patch, dtype=np.float32) + 0.5
        across = (offsets + (left - column)[:, None].astype(np.float32)) ** 2  # (N, P)
        down = (offsets + (top - row)[:, None].astype(np.float32)) ** 2
        distance = np.sqrt(down[:, :, None] + across[:, None, :])  # (N, P, P)
        cover = np.clip(np.float32(self._radius + 0.5) - distance, 0, 1)[..., None]
        under = np.moveaxis(self._windows[top, left], 1, -1).astype(np.float32)  # (N, P, P, 3)
        blended = np.rint(under + cover * (self._ball - under)).astype(np.uint8)
        frames[:] = self.background
        for n, (t, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            frames[n, t : t + patch, x : x + patch] = blended[n]
