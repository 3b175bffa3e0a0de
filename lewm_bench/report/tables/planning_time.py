"""The table of planning times beside DINO-WM's, with the published row last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.formatting import seconds, short
from lewm_bench.report.text import hardware_line, number, offset_name, ratio

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


PUBLISHED = ("published (Maes et al. 2026)", "< 1 s", "~47 s", "48x", "about 200 / 1", "not named in the paper")


PUBLISHED_NOTE = (
    "The last row is quoted, not measured here: the factor is the paper's text, the seconds are press reports of its "
    "Figure 3. The ratio grows with the tokens per frame and depends on the hardware, so compare it with ours only "
    "beside those columns."
)


def planning_time_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Header and rows of the planning-time comparison: ours first, the published row last and named as such."""
    if "world model" not in summary.kinds.values():
        return []
    # Planning costs nearly the same at every offset; the tables of the offsets have them all.
    ratios = summary.ratios.drop_duplicates(["protocol", "profile", "env", "agent"])
    header = ("Source", "LeWM", "DINO-WM", "Ratio", "Tokens per frame, DINO-WM / LeWM", "Hardware")
    rows = [
        (
            f"measured here: {short(r['env'])}, {offset_name(r['goal_offset'], r['protocol'])}, {r['profile']}, {summary.labels[r['agent']]}",
            seconds(r["lewm_seconds"]),
            seconds(r["other_seconds"]),
            ratio(r["ratio"]),
            f"{number(r['other_tokens'], 'd') or '?'} / {number(r['lewm_tokens'], 'd') or '?'}",
            timed_on(summary, r) or "not recorded",
        )
        for _, r in ratios.iterrows()
    ]
    return [header, *rows, PUBLISHED]


def timed_on(summary: Summary, row: pd.Series) -> str:
    """The machines that the agent of a row was timed on."""
    place = ("protocol", "profile", "env", "agent")
    cells = [c for c in summary.cells if c.status == "done" and all(getattr(c, k) == row[k] for k in place)]
    machines = {hardware_line({k: v for k, v in c.hardware.items() if k not in ("memory", "os")}) for c in cells}
    return " and ".join(sorted(machines - {""}))
