"""The results as a terminal shows them."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from lewm_bench.core.formatting import seconds, short
from lewm_bench.report.diagnosis import in_codes
from lewm_bench.report.tables.results import reached
from lewm_bench.report.text import distance_name, number, percent

if TYPE_CHECKING:
    import pandas as pd

    from lewm_bench.report.summary import Summary


def terminal(summary: Summary) -> str:
    """The results in 100 columns of plain text."""
    lines = []
    place = ["protocol", "profile", "env", "goal_offset"]
    for (protocol, profile, env, offset), part in summary.table.groupby(place, sort=False, dropna=False):
        lines += ["", f"{short(env)}, {distance_name(offset, protocol)} ({protocol}, {profile}; % with 95 % intervals)"]
        width = max(22, *(min(len(agent), 46) for agent in part["agent"]))
        lines.append(f"  {'agent':<{width}}{'reached':>20}{'still there':>20}{'plan time':>12}{'pairs':>7}{'seeds':>7}")
        for _, row in part.iterrows():
            plan = seconds(row["plan_seconds_median"])
            held = percent(row["held"], row["held_low"], row["held_high"])
            pairs, seeds = (number(row[name], "d") for name in ("n_pairs", "n_seeds"))
            lines.append(f"  {row['agent']:<{width}}{reached(row):>20}{held:>20}{plan:>12}{pairs:>7}{seeds:>7}")
            if row["status"] in ("not run", "failed"):
                lines.append(f"      {row['note']}")
        lines += _verdict(part)
    return "\n".join([*lines[1:], ""])


def _verdict(part: pd.DataFrame) -> list[str]:
    told = part[part["verdict"] != ""]
    codes = in_codes(zip(told["agent"], told["verdict"], strict=True))
    return wrap(f"verdict: {codes}", 100, initial_indent="  ", subsequent_indent="    ") if codes else []
