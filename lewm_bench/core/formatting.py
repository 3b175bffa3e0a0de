"""Numbers and names as people read them."""

from __future__ import annotations

import math


def seconds(value: float, low: float | None = None, high: float | None = None) -> str:
    """A duration with its quartiles in the unit of its size: ``352 ms [340, 366]``."""
    if _missing(value):
        return ""
    unit, scale = next(
        (u, s) for limit, u, s in ((1e-3, "µs", 1e6), (1, "ms", 1e3), (120, "s", 1), (7200, "min", 1 / 60), (1e99, "h", 1 / 3600))
        if value < limit
    )  # fmt: skip
    text = f"{three_digits(value * scale)} {unit}"
    return (
        text
        if _missing(low) or _missing(high)
        else f"{text} [{three_digits(low * scale)}, {three_digits(high * scale)}]"
    )


def operations(value: float | None) -> str:
    """A number of floating-point operations: ``352 M``, ``4.20 G``; empty where there is none."""
    if _missing(value):
        return ""
    unit, scale = next((u, s) for limit, u, s in ((1e6, "k", 1e3), (1e9, "M", 1e6), (1e12, "G", 1e9), (math.inf, "T", 1e12)) if value < limit)  # fmt: skip
    return f"{three_digits(value / scale)} {unit}"


def duration(value: float) -> str:
    """Seconds in the two largest units: ``42 s``, ``3 min 05 s``, ``2 h 40 min``, ``3 d 01 h``."""
    whole = round(value)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller:02d} {below}"
    return f"{whole} s"


def three_digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def short(env: str) -> str:
    """``lewm_bench/PointMaze-UMaze-v0`` to ``PointMaze-UMaze-v0``."""
    return env.split("/")[-1]


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)
