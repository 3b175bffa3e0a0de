"""Pictures at another size by exact area means: every source pixel counts by the area that a target pixel takes of it."""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

LARGEST = (2**31 - 1) // 255  # pixels of a picture whose weighted sum fits into 32 bits


def area_mean(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, C) uint8 to (height, width, C) uint8: means over areas, rounded to the nearest, halves up.

    Computed in integers, so that the result is the same to the last bit on every machine.

    Raises:
        ValueError: the picture has more than ``LARGEST`` pixels, 8.4 million.
    """
    if frame.shape[0] * frame.shape[1] > LARGEST:
        raise ValueError(f"a picture of {frame.shape[0]} x {frame.shape[1]} pixels is too large to be resized exactly")
    rows, high = _sums(frame, height)
    columns, wide = _sums(np.ascontiguousarray(rows.swapaxes(0, 1)), width)
    total = 2 * high * wide
    return ((2 * columns.swapaxes(0, 1).astype(np.int64) + high * wide) // total).astype(np.uint8)


def _sums(values: np.ndarray, target: int) -> tuple[np.ndarray, int]:
    """(S, ...) numbers to weighted sums (target, ...) int32 along the first axis, and what the weights of each add up to."""
    rows, weights = _bands(len(values), target)
    flat = values.reshape(len(values), -1)
    sums = np.zeros((target, flat.shape[1]), np.int32)
    for row, weight in zip(rows, weights, strict=True):
        sums += weight * flat[row]
    return sums.reshape(target, *values.shape[1:]), len(values) // gcd(len(values), target)


@lru_cache(maxsize=64)
def _bands(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For the k-th source pixel under each target pixel: its index (K, target), and how much of it counts (K, target, 1).

    In units in which a source pixel is ``target / gcd`` long and a target pixel ``source / gcd``, all are integers.
    """
    shared = gcd(source, target)
    long, short = source // shared, target // shared
    begin = np.arange(target) * long
    rows = begin // short + np.arange(-(-long // short) + 1)[:, None]
    weights = np.minimum((rows + 1) * short, begin + long) - np.maximum(rows * short, begin)
    weights = np.maximum(weights, 0).astype(np.int32)
    counts = weights.any(1)
    return np.minimum(rows, source - 1)[counts], weights[counts][..., None]
