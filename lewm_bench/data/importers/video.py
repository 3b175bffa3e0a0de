"""Frames of videos, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.system.extras import require

WHAT = "importing videos"


class Video:
    """A video that is read forward; a step back begins anew."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0
        self._frames: Iterator[np.ndarray] = _all_frames(path)

    def frames(self, begin: int, count: int) -> np.ndarray:
        """``count`` frames from the one with number ``begin``, (count, h, w, 3) uint8.

        Raises:
            UserError: it cannot be read, or has fewer.
        """
        if begin < self._at:
            self._frames, self._at = _all_frames(self.path), 0
        found = list(islice(self._frames, begin - self._at, begin - self._at + count))
        self._at = begin + count
        if len(found) < count:
            raise UserError(f"{self.path} has fewer than {begin + count} frames; it is cut short, copy it again")
        return np.stack(found)


def frame_count(path: Path) -> int:
    """Frames of a video: what its header says, else counted."""
    av = require("av", WHAT)
    try:
        with av.open(str(path)) as container:
            said = container.streams.video[0].frames
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}")
    return said or sum(1 for _ in _all_frames(path))


def _all_frames(path: Path) -> Iterator[np.ndarray]:
    av = require("av", WHAT)
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a video: {error}")
