"""How far ahead agents reach their goals: success over the goal offset, and where it stops being planning.

Only protocols whose goal offsets share their starts are drawn as curves: elsewhere another offset is another set of
starts too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from lewm_bench.evaluation.protocol import PROTOCOLS

PLACE = ("protocol", "profile", "env")
BAR = 0.5  # of the goals: below it an agent fails more often than not
JUDGE = "greedy"  # decides what a planning pair is (evaluation.strata), so it is no floor among them
COLUMNS = (*PLACE, "agent", "plannable_range", "beyond", "offsets", "floor")


class Bounds(NamedTuple):
    """What an agent is held against at one goal offset, shares; NaN where nobody measured it."""

    floor: float  # the upper end of the best floor's interval
    ceiling: float  # of the oracle


def curves(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Protocol, profile and environment, and the measured rows, of each with several offsets on one set of starts."""
    shared = table["protocol"].map(lambda name: name in PROTOCOLS and PROTOCOLS[name].one_set_of_starts).astype(bool)
    measured = table[shared & table["hit"].notna()]
    for place, part in measured.groupby(list(PLACE), sort=False):
        if part["goal_offset"].nunique() > 1:
            yield place, part


def bounds(part: pd.DataFrame, kinds: Mapping[str, str]) -> dict[int, Bounds]:
    """Floor and ceiling by goal offset, of the rows of one place."""
    floors = part[part["agent"].map(lambda agent: kinds[agent] == "floor" and agent != JUDGE)]
    oracle = part[part["agent"] == "oracle"].set_index("goal_offset")["hit"]
    highest = floors.groupby("goal_offset")["hit_high"].max()
    nan = float("nan")
    return {
        int(k): Bounds(float(highest.get(k, nan)), float(oracle.get(k, nan)))
        for k in sorted(part["goal_offset"].unique())
    }


def plannable_ranges(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The plannable range of every agent that learns or plans, a row per place and agent.

    It is the largest goal offset at which the lower end of the agent's interval is above the upper end of every floor's
    and above 50 %; 0 where there is none, ``beyond`` where no larger offset was measured. NaN without a floor.
    """
    rows = []
    for place, part in curves(table):
        limits = bounds(part, kinds)
        for agent, own in part.groupby("agent", sort=False):
            if kinds[agent] == "floor":
                continue
            known = own[own["goal_offset"].map(lambda k, limits=limits: limits[int(k)].floor == limits[int(k)].floor)]
            above = [
                int(r["goal_offset"]) for _, r in known.iterrows()
                if r["hit_low"] > max(limits[int(r["goal_offset"])].floor, BAR)
            ]  # fmt: skip
            found = pd.NA if known.empty else max(above, default=0)
            measured = sorted(map(int, own["goal_offset"]))
            floor = "; ".join(f"{k}: {100 * limits[k].floor:.0f} %" for k in measured)
            beyond = bool(above) and found == measured[-1]
            rows.append((*place, agent, found, beyond, ", ".join(map(str, measured)), floor))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"plannable_range": "Int64"})
