"""Numbers and places as people read them: the text of a table's cell."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lewm_bench.core.formatting import three_digits
from lewm_bench.core.names import stratum_of
from lewm_bench.evaluation.protocol import PROTOCOLS, nearest


def missing(value: object) -> bool:
    """Whether there is no number."""
    return value is None or bool(pd.isna(value))


def percent(value: float, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    """0.97, 0.915, 0.99 to ``97.0 [91.5, 99.0]``; an empty string for a missing value."""
    if missing(value):
        return ""
    # Rounding first and adding zero: -0.04 is shown as 0.0, not as -0.0.
    text, *ends = (f"{round(100 * v, 1) + 0.0:{sign}.1f}" for v in (value, low, high) if not missing(v))
    return f"{text} [{', '.join(ends)}]" if len(ends) == 2 else text


def count(value: float) -> str:
    """18030000 to ``18.0M``."""
    if missing(value):
        return ""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{three_digits(value / limit)}{suffix}"
    return f"{int(value)}"


def number(value: float, form: str = ".2f") -> str:
    """A formatted number, or an empty string for a missing one."""
    return "" if missing(value) else f"{value:{form}}"


def ratio(value: float) -> str:
    """``7.21x``."""
    return "" if missing(value) else f"{three_digits(value)}x"


def offset_name(offset: object, protocol: str = "") -> str:
    """What a goal offset is called in headings, with the kind of pairs where the protocol has kinds."""
    away = distance_name(offset, protocol)
    return f"{away}, {stratum} pairs" if (stratum := stratum_of(protocol)) else away


def distance_name(offset: object, protocol: str = "") -> str:
    """How far away goals are."""
    if missing(offset):
        return "nothing measured"
    if protocol in PROTOCOLS and PROTOCOLS[protocol].from_tasks:
        return f"goal {nearest(int(offset))} to {int(offset)} oracle steps away"
    return f"goal {offset} steps ahead"


_HARDWARE = ("device", "name", "cpu", "cores", "threads", "memory", "os")


def hardware_line(hardware: Mapping[str, str]) -> str:
    """One machine in one line: ``device cpu, cpu Xeon, 2 cores, 1 threads, memory 8 GiB, os Linux``."""
    shown = [k for k in hardware if k != "name" or hardware[k] != hardware.get("cpu")]
    names = sorted(shown, key=lambda k: (_HARDWARE.index(k) if k in _HARDWARE else len(_HARDWARE), k))
    return ", ".join(f"{hardware[k]} {k}" if k in ("cores", "threads") else f"{k} {hardware[k]}" for k in names)


def csv_text(table: pd.DataFrame) -> str:
    """Rows as ``table.csv`` has them."""
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
