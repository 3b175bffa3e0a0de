"""Dealing episodes to policies and splits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``total`` in proportion to ``shares`` (largest remainders)."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(np.floor(value + 1e-9)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: ties go to the first named
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def split_episodes(n: int, fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    """Episodes 0 to n-1 dealt at random to the named splits, each sorted; the sizes follow the fractions."""
    order = rng.permutation(n)
    splits, begin = {}, 0
    for name, count in apportion(n, fractions).items():
        splits[name] = tuple(sorted(order[begin : begin + count].tolist()))
        begin += count
    return splits
