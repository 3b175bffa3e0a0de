"""How many pairs or training seeds would tell what these do not."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from lewm_bench.core.statistics import LEVEL, Estimate

POWER = 0.8  # chance to tell a gap that is there: at half of it one would try twice as often as needed
# An interval that just reaches over the gap excludes it in half of all tries; this many times narrower, in POWER of them.
_NARROWER = 1 + NormalDist().inv_cdf(POWER) / NormalDist().inv_cdf(1 - LEVEL / 2)


def half_width(estimate: Estimate) -> float:
    """The longer side of an interval."""
    return max(estimate.value - estimate.low, estimate.high - estimate.value)


def needed(count: int, half: float, gap: float) -> int:
    """How many there must be, when ``count`` give an interval of this half width and a gap is to be told.

    A half width shrinks with the square root of the count, so it is count * (1.43 * half / gap)^2, where 1.43 is what
    makes the chance to tell the gap 80 % and not 50 %. More than there are in any case.
    """
    return max(count + 1, math.ceil(count * (_NARROWER * half / gap) ** 2 - 1e-9))


def needed_at_first(gap: float) -> int:
    """How many pairs tell a gap between shares of which nothing is known yet: (1.43 * 1.96 / gap)^2 / 4.

    A quarter is the variance of a share of one half, the largest there is.
    """
    return math.ceil((_NARROWER * NormalDist().inv_cdf(1 - LEVEL / 2) / gap) ** 2 / 4 - 1e-9)


def rounded(count: int) -> int:
    """Up to tens or two digits, since an estimate has no more: 113 to 120, 1130 to 1200."""
    step = 10 ** max(1, len(str(count)) - 2)
    return math.ceil(count / step) * step


def seeds_weigh_more(delta: np.ndarray) -> bool:
    """Whether seeds make the mean of (seeds, pairs) differences more uncertain than pairs do.

    By the two-way analysis of variance: what the means of S seeds spread beyond what N pairs explain, over S, against
    the spread of the means of pairs, over N. False for one seed, whose spread is not known.
    """
    delta = delta[:, np.isfinite(delta).all(axis=0)]
    seeds, pairs = delta.shape
    if seeds < 2 or pairs < 2:
        return False
    rows, columns = delta.mean(axis=1), delta.mean(axis=0)
    rest = delta - rows[:, None] - columns + delta.mean()
    noise = float((rest**2).sum()) / ((seeds - 1) * (pairs - 1))
    return max(rows.var(ddof=1) - noise / pairs, 0.0) / seeds > columns.var(ddof=1) / pairs
