"""Scenes: an environment without what moves in it, a picture before which the ways of agents are drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from lewm_bench.core.reading import is_file
from lewm_bench.system.filenames import env_stem


def scene_name(env: str) -> str:
    """The file, relative to a results folder, of an environment's scene."""
    return f"scenes/{env_stem(env)}.png"


def scene_png(frames: np.ndarray) -> bytes:
    """What most of the frames (N, h, w, 3) uint8 have in common, pixel by pixel: what moves is gone from their median."""
    buffer = io.BytesIO()
    Image.fromarray(np.median(frames, axis=0).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def read_scene(folder: Path, env: str) -> np.ndarray | None:
    """(h, w, 3) uint8; None where a results folder has none that can be read."""
    path = folder / scene_name(env)
    if not is_file(path) or not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # damaged, or no picture
        return None
