"""Intervals by resampling whole episodes: frames of one episode resemble each other and are no sample of their own.

Letters: E episodes, N frames, B resamples.
"""

from __future__ import annotations

import numpy as np

from lewm_bench.core.statistics import chunks
from lewm_bench.understand.records import Interval

RESAMPLES = 2000


def episode_sums(values: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """(N, ...) values and the episodes (N,) that they are from to their sums per episode, (E, ...)."""
    _, place = np.unique(episodes, return_inverse=True)
    sums = np.zeros((place.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums


def resampled(sums: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """(E, ...) sums per episode to their totals (B, ...) over E episodes drawn with replacement."""
    count = len(sums)
    totals = np.empty((resamples, *sums.shape[1:]))
    for rows in chunks(resamples, count):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=rows.stop - rows.start).astype(np.float64)
        totals[rows] = np.tensordot(drawn, sums, axes=1)
    return totals


def interval(value: float, draws: np.ndarray) -> Interval:
    """``value`` with the central 95 % of what it is in resamples (B,); draws that are NaN (nothing drawn) are left out."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value=float(value), low=float(low), high=float(high))
