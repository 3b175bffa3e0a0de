"""A picture of the user's, in the size that an agent sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lewm_bench.core.errors import UserError
from lewm_bench.core.resize import LARGEST, area_mean


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """The picture in a file as (height, width, 3) uint8: turned upright, without transparency, resized by area means.

    Raises:
        UserError: there is none, or it is too large.
    """
    if not path.is_file():
        raise UserError(f"there is no picture {path}; give a PNG or JPEG file")
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > LARGEST:
                raise UserError(
                    f"{path} has {picture.width} x {picture.height} pixels, more than {LARGEST:,}; make it smaller"
                )
            frame = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file")
    return area_mean(frame, height, width)
