"""What a run found, in a few sentences per environment; every number comes from ``rankings`` or the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.formatting import short
from lewm_bench.core.statistics import METHOD_RUNS
from lewm_bench.report.rankings import REFERENCE, Contest, Rival
from lewm_bench.report.text import offset_name, percent

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

HOW = "By paired differences in points, corrected by Holm"
SHOWN = 3  # numbers of a list that stand in a sentence; the tables have them all


def verdict(summary: Summary) -> tuple[str, ...]:
    """A paragraph per environment and profile."""
    return tuple(_paragraph(contest, summary) for contest in summary.contests) or _nothing(summary.table)


def _nothing(table: pd.DataFrame) -> tuple[str, ...]:
    counts = table["status"].value_counts()
    states = [f"{counts[status]} {status}" for status in ("failed", "not run") if status in counts]
    return (f"Nothing was measured yet{': ' if states else ''}{', '.join(states)}.",)


def _paragraph(contest: Contest, summary: Summary) -> str:
    labels = {agent: summary.agents.name(agent) for agent in summary.labels}
    compared = (_told_apart(contest, labels), *_reflexes(contest, labels))
    sentences = (_first(contest, labels), *compared, _bounds(contest, labels, summary.kinds))
    return f"{_task(contest)}: {' '.join(filter(None, sentences))}"


def _task(contest: Contest) -> str:
    pairs = sorted({int(n) for n in contest.rows["n_pairs"]})
    counted = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else f"{pairs[0]}"
    ahead = offset_name(contest.goal_offset, contest.protocol)
    return f"{short(contest.env)}, {ahead} ({counted} pairs, protocol {contest.protocol}, profile {contest.profile})"


def _first(contest: Contest, labels: Mapping[str, str]) -> str:
    """Who reaches most, and beside it LeWM or the next."""
    learners, scores = contest.learners, _scores(contest)
    if not learners:
        return "no agent that learns from the data was measured."
    best, count = learners[0], len(learners)
    if count == 1:
        return f"{labels[best]} is the only agent measured that learns from the data and reaches {scores[best]}."
    among = f"the {count} agents measured that learn from the data"
    hits = contest.rows.set_index("agent")["hit"].round(9)
    equals = [agent for agent in learners if hits[agent] == hits[best]]
    if len(equals) > 1:
        named = [f"{labels[agent]} {scores[agent]}" for agent in equals]
        return f"{_some(named)} reach equally many goals, the most of {among}."
    second = REFERENCE if REFERENCE in learners and best != REFERENCE else learners[1]
    return f"{labels[best]} reaches most goals of {among}, {scores[best]}; {labels[second]} reaches {scores[second]}."


def _scores(contest: Contest) -> dict[str, str]:
    """Success of each agent that learns with its interval and its training seeds."""
    rows = contest.rows[contest.rows["agent"].isin(contest.learners)]
    return {row["agent"]: f"{_share(row)} ({_seeds(row['n_seeds'])})" for _, row in rows.iterrows()}


def _share(row: pd.Series) -> str:
    text = percent(row["hit"], row["hit_low"], row["hit_high"]).replace(" [", " % [")
    return f"{text} (partial)" if row["status"] == "partial" else text


def _seeds(count: int | None) -> str:
    return "one training seed" if count == 1 else f"{count} training seeds"


def _told_apart(contest: Contest, labels: Mapping[str, str]) -> str:
    """The one sentence on what the paired differences tell apart among agents that learn."""
    rivals = contest.rivals
    if not rivals:
        return ""
    best, nothing = labels[contest.learners[0]], "so no methods are told apart"
    if _is_few(contest.runs):
        return f"{best} has {_seeds(contest.runs)} only, and one or two runs do not stand for a method, {nothing}."
    few = [labels[r.agent] for r in rivals if r.few]
    if len(few) == len(rivals):
        return f"No other agent has {METHOD_RUNS} training runs, and fewer do not stand for a method, {nothing}."
    judged = [r for r in rivals if not isnan(r.corrected)]
    apart, close = [r for r in judged if r.apart], [r for r in judged if not r.apart]
    elsewhere = [labels[r.agent] for r in rivals if not r.few and isnan(r.corrected)]
    parts = [f"told apart from {_differences(apart, labels)}"] if apart else []
    parts += [f"not told apart from {_differences(close, labels)}"] if close else []
    parts += [f"not compared with {_some(few)} (fewer than {METHOD_RUNS} training runs)"] if few else []
    parts += [f"not compared with {_some(elsewhere)} (other pairs)"] if elsewhere else []
    how = f"{HOW}, " if judged else ""
    return f"{how}{best} is {'; '.join(parts)}."


def _is_few(runs: int | None) -> bool:
    return runs is not None and runs < METHOD_RUNS


def _differences(rivals: Iterable[Rival], labels: Mapping[str, str]) -> str:
    """Names with differences, the smallest first: what is nearest to the best is what the verdict hangs on."""
    ordered = sorted(rivals, key=lambda r: round(abs(r.difference.value), 9))
    return _some([f"{labels[r.agent]} ({_points(r)})" for r in ordered], [labels[r.agent] for r in ordered])


def _points(rival: Rival) -> str:
    return percent(rival.difference.value, rival.difference.low, rival.difference.high, sign="+")


def _some(full: Sequence[str], names: Sequence[str] = ()) -> str:
    """The first few at length, of the others the names or, where there are none, their number."""
    rest = list(names[SHOWN:]) if names else [f"{len(full) - SHOWN} more"] if len(full) > SHOWN else []
    return _all([*full[:SHOWN], *rest])


def _all(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _reflexes(contest: Contest, labels: Mapping[str, str]) -> Iterator[str]:
    """What learns nothing and reaches as much as the best that learns, as far as paired differences tell."""
    if not contest.learners:
        return
    best = labels[contest.learners[0]]
    if _is_few(contest.runs):
        best = f"this training run of {best}" if contest.runs == 1 else f"the {contest.runs} training runs of {best}"
    known = [r for r in contest.floors if not isnan(r.corrected)]
    above = [r for r in known if r.apart and r.difference.value < 0]
    equal = [r for r in known if not r.apart]
    verb = "do" if _is_few(contest.runs) and contest.runs != 1 else "does"
    if above:
        yield f"{HOW}, {best} {verb} worse than {_differences(above, labels)}: what learns nothing reaches more."
    if equal:
        as_much = "reaches" if max(r.difference.value for r in equal) <= 0 else "may reach"
        told = f"{_differences(equal, labels)}: what learns nothing {as_much} as much"
        yield f"{HOW}, {best} cannot be told apart from {told}."


def _bounds(contest: Contest, labels: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """Success of what does not learn from the data."""
    parts = []
    for kind, heading in (("floor", "Floor"), ("privileged", "with the simulator's state")):
        rows = contest.rows[contest.rows["agent"].map(lambda agent, kind=kind: kinds[agent] == kind)]
        shares = [f"{labels[row['agent']]} {_share(row)}" for _, row in rows.iterrows()]
        parts += [f"{heading}: {_all(shares)}"] if shares else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""
