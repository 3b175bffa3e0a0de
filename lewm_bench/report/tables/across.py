"""The table of interquartile means over environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lewm_bench.report.text import percent

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


def across_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Header and rows of the interquartile means over environments; empty with a single environment."""
    if summary.across.empty:
        return []
    header = ("Agent", "Goal offset", "Reached, IQM %", "Above random, IQM %", "Environments", "Seeds", "Profile")
    rows = [
        (
            summary.labels[r["agent"]],
            str(r["goal_offset"]),
            percent(r["hit"], r["hit_low"], r["hit_high"]),
            percent(r["normalised"], r["normalised_low"], r["normalised_high"]),
            str(r["n_envs"]),
            str(r["n_seeds"]),
            f"{r['profile']}, {r['protocol']}",
        )
        for _, r in summary.across.iterrows()
    ]
    return [header, *rows]
