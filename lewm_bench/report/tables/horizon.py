"""The table of plannable ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.formatting import short
from lewm_bench.core.names import stratum_of
from lewm_bench.report.horizon import PLACE, curves
from lewm_bench.report.text import percent

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

HORIZON = (
    "The plannable range is the largest number of steps at which the lower end of an agent's 95 % interval is above the upper "
    "end of every floor's and above 50 %: 'none' where there is no such number, '>=' where none farther was measured. All "
    "distances share one set of starts; how many of their goals are planning or plain pairs changes with the distance."
)


def horizon_tables(summary: Summary) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Heading, header and rows of every place where goals at several distances share their starts."""
    ranges_of = dict(list(summary.ranges.groupby(list(PLACE), sort=False)))
    found = []
    for (protocol, profile, env), part in curves(summary.table):
        ranges, rows = ranges_of[protocol, profile, env], part.set_index(["agent", "goal_offset"])
        offsets = sorted(rows.index.unique("goal_offset"))
        header = ("Agent", "Plannable range", *(f"{k} steps ahead, %" for k in offsets), "Seeds")
        lines = [
            (
                summary.labels[r["agent"]],
                range_text(r),
                *(_share(rows, r["agent"], k) for k in offsets),
                str(rows.loc[r["agent"], "n_seeds"].max()),
            )
            for _, r in ranges.iterrows()
        ]
        pairs = ("", "", *(f"n {rows.xs(k, level='goal_offset')['n_pairs'].max()}" for k in offsets), "")
        found.append((f"{short(env)}, {stratum_of(protocol)} pairs ({profile})", [header, pairs, *lines]))
    return found


def range_text(row: pd.Series) -> str:
    """``50``, ``>= 150`` where no larger offset was measured, ``none``; empty where no floor was measured."""
    if pd.isna(row["plannable_range"]):
        return ""
    if not row["plannable_range"]:
        return "none"
    return f"{'>= ' if row['beyond'] else ''}{row['plannable_range']} steps"


def _share(rows: pd.DataFrame, agent: str, offset: int) -> str:
    if (agent, offset) not in rows.index:
        return "not run"
    row = rows.loc[(agent, offset)]
    return percent(row["hit"], row["hit_low"], row["hit_high"])
