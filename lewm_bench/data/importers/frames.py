"""Pictures of any layout as (R, h, w, 3) uint8, the only one that we keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.core.resize import LARGEST, area_mean
from lewm_bench.data.importers.table import Column

CHANNELS = (1, 3, 4)
SMALLEST, LARGEST_SIDE = 16, 4096  # pixels


@dataclass(frozen=True)
class Layout:
    """How the pictures of a column are stored."""

    place: str  # for messages
    channels_first: bool
    scale: float  # what a value is multiplied by

    @classmethod
    def of(cls, place: str, column: Column, first: np.ndarray) -> Layout:
        """The layout of a column, of which ``first`` are the first rows.

        Raises:
            UserError: its rows are no pictures, or floats of an unknown range.
        """
        if not column.is_picture:
            raise UserError(
                f"{place} has rows {column.dtype} {column.shape}, not pictures (h, w, 3); name another column"
            )
        return cls(place, column.shape[2] not in CHANNELS, _scale(place, first))

    def frames(self, values: np.ndarray) -> np.ndarray:
        """(R, ...) stored pictures as (R, h, w, 3) uint8.

        Raises:
            UserError: a value is outside of the range that the first pictures have.
        """
        if self.channels_first:
            values = values.transpose(0, 2, 3, 1)
        if values.dtype != np.uint8:
            values = values.astype(np.float64) * self.scale
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
                raise UserError(
                    f"{self.place} has values outside of 0 to {255 / self.scale:g}, the range of its first frames"
                )
            values = np.rint(values).astype(np.uint8)
        if values.shape[3] == 1:
            values = np.repeat(values, 3, axis=3)
        return np.ascontiguousarray(values[..., :3])


def _scale(place: str, first: np.ndarray) -> float:
    """What makes levels from 0 to 255 of stored values."""
    if first.dtype == np.uint8:
        return 1.0
    if not np.isfinite(first).all() or first.min() < 0 or first.max() > 255:
        raise UserError(
            f"{place} holds {first.dtype} from {np.nanmin(first):.3g} to {np.nanmax(first):.3g}, which are no levels "
            "from 0 to 255 or 0 to 1; undo the normalisation before"
        )
    return 255.0 if first.dtype.kind == "f" and first.max() <= 1 else 1.0


def wanted_size(place: str, height: int, width: int, image_size: int | None) -> int:
    """The side of the frames to store.

    Raises:
        UserError: they would not be square, or too small or large.
    """
    if image_size is None and height != width:
        raise UserError(f"{place} has pictures of {height} x {width}; agents see square ones: add --image-size 224")
    size = image_size or height
    if (height, width) != (size, size) and height * width > LARGEST:
        raise UserError(f"{place} has pictures of {height} x {width}, too large to be resized here; resize them before")
    if not SMALLEST <= size <= LARGEST_SIDE:
        raise UserError(f"frames must have {SMALLEST} to {LARGEST_SIDE} pixels a side, got {size}; set --image-size")
    return size


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """(R, h, w, 3) uint8 to (R, size, size, 3), by means over areas."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([area_mean(frame, size, size) for frame in frames])
