"""Area means against a truth that needs no weights: every pixel repeated until both sizes divide, then block sums."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lewm_bench.core.resize import area_mean
from lewm_bench.core.rng import stream


def truth(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    fine = np.repeat(np.repeat(frame.astype(np.int64), height, 0), width, 1)
    sums = fine.reshape(height, frame.shape[0], width, frame.shape[1], -1).sum((1, 3))
    pixels = frame.shape[0] * frame.shape[1]
    return (2 * sums + pixels) // (2 * pixels)  # halves up


@pytest.mark.parametrize(
    ("source", "target"),
    [((20, 30), (16, 16)), ((33, 50), (21, 21)), ((17, 13), (7, 16)), ((64, 32), (16, 16)), ((5, 9), (9, 5)), ((3, 3), (3, 3)), ((1, 2), (4, 3))],
)  # fmt: skip
def test_every_pixel_is_the_mean_over_its_area(source: tuple[int, int], target: tuple[int, int]) -> None:
    for low, high in ((0, 256), (254, 256), (0, 2)):
        frame = stream(high, "test", low).integers(low, high, (*source, 3)).astype(np.uint8)
        found = area_mean(frame, *target)
        assert found.dtype == np.uint8 and found.shape == (*target, 3)
        np.testing.assert_array_equal(found, truth(frame, *target))


def test_a_half_is_rounded_up() -> None:
    assert area_mean(np.uint8([[[0], [1]], [[2], [3]]]), 1, 1).item() == 2
    assert area_mean(np.uint8([[[0], [1]]]), 1, 1).item() == 1


def test_the_brightest_and_largest_picture_does_not_overflow() -> None:
    frame = np.full((2899, 2900, 1), 255, np.uint8)
    assert (area_mean(frame, 64, 64) == 255).all()
    with pytest.raises(ValueError, match="too large"):
        area_mean(np.zeros((2903, 2903, 1), np.uint8), 64, 64)


def test_a_thousand_frames_take_about_a_second() -> None:
    frame = stream(0, "test").integers(0, 256, (400, 600, 3)).astype(np.uint8)
    taken = []
    for _ in range(50):
        begin = time.perf_counter()
        area_mean(frame, 64, 64)
        taken.append(time.perf_counter() - begin)
    assert min(taken) < 0.01  # 0.001 on a quiet machine
