"""Which planner to use, in words and as a table of those that none beats in both time and success."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from lewm_bench.core.formatting import operations, seconds, short
from lewm_bench.report.text import offset_name, percent

if TYPE_CHECKING:
    from lewm_bench.report.pareto import Advice, Front, Point
    from lewm_bench.report.summary import Summary

PARETO = (
    "Time is that of planning (encoding and search) per executed environment step, the median over episodes with its "
    "quartiles. The table has the planners that no other one is both faster and better than, and the papers' CEM (300 samples x 30 "
    "iterations, all five blocks executed; without it the largest search of that kind), which differences are to, on identical "
    "pairs. Which planners stand there depends on chance too: look at the intervals. The advice is the planner that reaches most "
    "among those within the time; where a cheaper one is not told apart from it by the paired difference (its 95 % interval contains "
    "0, not corrected for the number of planners), the cheapest such. Not told apart is not equal: with few pairs the interval is wide."
)


def pareto_tables(summary: Summary) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Heading, sentences, and header with rows of every place that has a frontier."""
    return [(heading(front), sentences(front), _rows(front)) for front in summary.fronts]


def heading(front: Front) -> str:
    """``TwoRoom-v0, goal 50 steps ahead, planning pairs (quick), planners of LeWM``."""
    place = f"{short(front.env)}, {offset_name(front.goal_offset, front.protocol)} ({front.profile})"
    return f"{place}, planners of {front.model}"


def sentences(front: Front) -> tuple[str, ...]:
    """Which planner one should use within each of the limits; one sentence for those that have the same answer."""
    machines = ("The planners were timed on different machines.",) if front.machines > 1 else ()
    alike = groupby(front.advice, key=_answer)
    return (*(sentence(list(same)) for _, same in alike), *machines)


def _answer(advice: Advice) -> tuple[object, ...]:
    """What two pieces of advice share that are told in one sentence."""
    nothing = advice.chosen is not None and advice.best.hit.value == 0
    return advice.chosen, advice.best, nothing and advice.count


def sentence(alike: Sequence[Advice]) -> str:
    """Which planner one should use within some times that have the same answer, and how sure that is."""
    *shorter, advice = alike
    limits = " and ".join(filter(None, [", ".join(f"{a.limit:,}" for a in shorter), f"{advice.limit:,}"]))
    within, best = f"Within {limits} ms per environment step", advice.best
    if advice.chosen is None:
        return f"{within}: none is that fast; the fastest is {best.name} ({_ms(best)}, {_reached(best)} reached)."
    if best.hit.value == 0:
        return f"{within}: none of the {advice.count} that are that fast reaches any goal."
    use = f"{within}: use {advice.chosen.name} ({_ms(advice.chosen)}, {_reached(advice.chosen)} reached)"
    if advice.chosen is not best:
        more = percent(advice.difference.value, advice.difference.low, advice.difference.high, sign="+")
        return (
            f"{use}. {best.name} reaches most, {_reached(best)} at {_ms(best)}, but is not told apart from it: "
            f"{more} points on the same pairs."
        )
    if advice.count == 1:
        return f"{use}, the only one that is that fast."
    if not advice.cheaper:
        return f"{use}; none of the {advice.count} that are that fast reaches more."
    return f"{use}, which reaches most of the {advice.count} that are that fast; all that are cheaper are told apart."


def _ms(point: Point) -> str:
    return seconds(point.ms.value / 1000)


def _reached(point: Point) -> str:
    return percent(*point.hit).replace(" [", " % [")


def _rows(front: Front) -> list[tuple[str, ...]]:
    header = (
        "Planner", "Planning per environment step", "FLOPs per environment step", "Reached at any step, %",
        "Minus the papers' CEM, points", "Pairs / seeds",
    )  # fmt: skip
    shown = [p for p in front.points if p.on_frontier or p is front.reference]
    return [header, *(_row(p, front) for p in shown)]


def _row(point: Point, front: Front) -> tuple[str, ...]:
    beaten = "" if point.on_frontier else " (beaten)"
    minus = percent(point.difference.value, point.difference.low, point.difference.high, sign="+")
    return (
        f"{point.name}{beaten}",
        seconds(*(value / 1000 for value in point.ms)),
        operations(point.flops),
        percent(*point.hit),
        "reference" if point is front.reference else minus,
        f"{point.n_pairs} / {point.n_seeds}",
    )
