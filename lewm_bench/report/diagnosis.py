"""What holds an agent back: its training, the planner, its metric or its dynamics; one sentence per environment.

It is said of the task that the verdict speaks of, chosen by a rule that looks at no result and at the offset where
there is most to plan. The true simulator with an agent's own latent cost is measured at one offset only; where that is
another one of the same protocol, the sentence is about that one and says so.

Nothing is blamed unless intervals say so: each fault has a condition that two 95 % intervals, or the one of a paired
difference, must meet. Whatever remains is undecided, with what it takes to decide it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import METHOD_RUNS, Difference, Estimate, success_rate, wilson
from lewm_bench.report import stability
from lewm_bench.report.agents import Agents, is_ablation, parts_of
from lewm_bench.report.needed import half_width, needed, needed_at_first, rounded, seeds_weigh_more
from lewm_bench.report.rankings import LEARNS, Contest
from lewm_bench.report.text import offset_name, percent

if TYPE_CHECKING:
    import pandas as pd

    from lewm_bench.report.groups import Group, Key

CEILING = "oracle"  # the same planner on the true simulator

LOW = 0.8  # a planner that surely fails every fifth goal with the truth in its hands is the first thing to mend
MARGIN = 0.1  # nearer than this counts as equal: to tell less takes hundreds of pairs (needed_at_first(0.1) is 197)


class Finding(NamedTuple):
    """What is at fault as a code, and in words."""

    code: str  # one of the values of docs/report.md
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What is said of an agent in an environment."""

    place: Key  # of its group, and of its row in the table
    subject: str  # "LeWM (one training run)"
    ahead: str  # the task, where it is not the verdict's; else empty
    finding: Finding

    @property
    def sentence(self) -> str:
        """With whom it is about."""
        return sentence([self.subject], self)


@dataclass(frozen=True)
class Bound:
    """The ceiling, or the best of the floors."""

    name: str
    rate: Estimate


@dataclass(frozen=True)
class Latent:
    """The true simulator with the model's own latent cost, in the trainings where that was measured."""

    rate: Estimate
    pairs: int
    seeds: tuple[int, ...]
    own: Estimate  # what the agent itself reaches in these trainings


@dataclass(frozen=True)
class Case:
    """Everything that decides about one agent; differences are paired."""

    kind: str
    rate: Estimate
    pairs: int
    runs: int | None  # training runs, None for what does not train
    ceiling: Bound
    to_ceiling: Difference  # the agent minus the ceiling
    floor: Bound | None = None
    room: Difference | None = None  # the ceiling minus the floor
    latent: Latent | None = None
    seeds_weigh_more: bool = False  # in how uncertain the difference to the ceiling is
    worst_seed: int | None = None

    @property
    def below(self) -> bool:
        """Whether it is told apart from the ceiling."""
        return self.to_ceiling.high < 0

    @property
    def near(self) -> bool:
        """Whether it surely reaches as much as the ceiling, but for the margin."""
        return self.to_ceiling.low > -MARGIN


def finding(case: Case) -> Finding:
    """What is at fault, the most telling first; the agent's training is known to have come about."""
    if case.ceiling.rate.high < LOW and not case.below:
        return _planner(case)
    if (case.near or not case.below) and (told := _room(case)):
        return told
    if case.near:
        return Finding("fine", f"it reaches what the ceiling does: {_against(case)}.")
    if not case.below:
        return _undecided(case)
    if case.kind != "world model":
        return Finding("policy", f"what it learned is at fault: {_against(case)}; a policy has no planner to blame.")
    return _inside(case)


def _planner(case: Case) -> Finding:
    bound = f"{case.ceiling.name} plans on the true simulator and reaches only {_share(case.ceiling.rate)}"
    told = f"the agent {_share(case.rate)}, not below it ({_points(case.to_ceiling)} points by pairs)"
    return Finding("planner", f"the planner is at fault: {bound}; {told}.")


def _room(case: Case) -> Finding | None:
    """That there is nothing to tell here, or that it is not known; None where there is room between floor and ceiling."""
    room, floor = case.room, case.floor
    if room is None or floor is None or np.isnan(room.value):
        return None
    both = f"{floor.name}, which learns nothing, reaches {_share(floor.rate)} and {_named(case.ceiling)}"
    if room.high < MARGIN:
        return Finding("nothing to tell", f"nothing to tell: {both}, by pairs {_points(room)} points.")
    if room.low > 0:
        return None
    count = needed(case.pairs, half_width(_estimate(room)), max(room.value, MARGIN - room.value))
    told = f"{both}, by pairs {_points(room)} points, so there may be room between them or none"
    return Finding("more pairs", f"undecided: {told}; {_pairs(count, case.pairs)}.")


def _undecided(case: Case) -> Finding:
    """It may be as good as the ceiling, or below it by more than the margin: whichever is nearer is to be told."""
    value, half = case.to_ceiling.value, half_width(_estimate(case.to_ceiling))
    gap = max(abs(value), MARGIN + value)
    told = f"undecided: {_against(case)}, so it may be below the ceiling or not"
    if case.runs is not None and case.seeds_weigh_more:
        count = max(METHOD_RUNS, needed(case.runs, half, gap))
        return Finding("more seeds", f"{told}; its {case.runs} trainings differ, about {count} would tell.")
    return Finding("more pairs", f"{told}; {_pairs(needed(case.pairs, half, gap), case.pairs)}.")


def _inside(case: Case) -> Finding:
    """Metric or dynamics, of a world model that is below the ceiling."""
    if case.latent is None:
        return _unmeasured(case)
    latent, top = case.latent, case.ceiling.rate
    metric, dynamics = latent.rate.high < top.low, latent.own.high < latent.rate.low
    told = _measured(case, latent)
    if metric and dynamics:
        return Finding("metric and dynamics", f"metric and dynamics are both at fault: {told}.")
    if metric:
        return Finding(
            "metric", f"the latent metric is at fault: {told}; beside it the dynamics are not shown to cost anything."
        )
    if dynamics:
        return Finding("dynamics", f"the dynamics are at fault: {told}; the metric is not shown to cost anything.")
    return _between(case, latent, told)


def _unmeasured(case: Case) -> Finding:
    count = needed_at_first(abs(case.to_ceiling.value) / 2)
    told = "the true simulator with its own latent cost was not measured here"
    more = f"about {rounded(count)} pairs (evaluate.latent_oracle_pairs) would tell metric from dynamics"
    return Finding("more pairs", f"metric or dynamics: {_against(case)}; {told}, {more}.")


def _between(case: Case, latent: Latent, told: str) -> Finding:
    """Neither is told: the gap that is nearest to being told says how many pairs are needed."""
    if latent.own.high >= case.ceiling.rate.low and case.worst_seed not in (None, *latent.seeds):
        worst = f"a run with --seeds {case.worst_seed} measures the worst one"
        return Finding(
            "more seeds", f"metric or dynamics: {told}; that training may not be below the ceiling, {worst}."
        )
    sides = (latent.rate, case.ceiling.rate), (latent.own, latent.rate)
    gaps = [(above.value - below.value, half_width(below) + half_width(above)) for below, above in sides]
    counts = [needed(latent.pairs, half, gap) for gap, half in gaps if gap > 0]
    if not counts:
        return Finding("more pairs", f"metric or dynamics: {told}; {_pairs(2 * case.pairs, case.pairs)}.")
    more = f"about {rounded(min(counts))} pairs (evaluate.latent_oracle_pairs) would tell"
    return Finding("more pairs", f"metric or dynamics: {told}; {more}.")


def _measured(case: Case, latent: Latent) -> str:
    where = f"in seed {', '.join(map(str, latent.seeds))} " if case.runs != len(latent.seeds) else ""
    simulated = (
        f"{where}the true simulator with its own latent cost reaches {_share(latent.rate)} ({latent.pairs} pairs)"
    )
    top = f"{'even ' if case.ceiling.rate.high < LOW else ''}{_named(case.ceiling)}"
    apart = f"{_points(_estimate(case.to_ceiling, -1))} points above the agent by pairs"
    return f"{simulated}, the model itself {_share(latent.own)}; {top}, {apart}"


def _against(case: Case) -> str:
    return f"{_share(case.rate)}, {_named(case.ceiling)}, by pairs {_points(case.to_ceiling)} points"


def _named(bound: Bound) -> str:
    return f"{bound.name} {_share(bound.rate)}"


def _share(rate: Estimate) -> str:
    return percent(*rate).replace(" [", " % [")


def _points(difference: Difference | Estimate) -> str:
    return percent(difference.value, difference.low, difference.high, sign="+")


def _pairs(count: int, so_far: int) -> str:
    return f"about {rounded(count)} pairs (evaluate.num_pairs) would tell, there are {so_far}"


def _estimate(difference: Difference, sign: int = 1) -> Estimate:
    ends = sorted((sign * difference.low, sign * difference.high))
    return Estimate(sign * difference.value, *ends)


# From records to cases.


def diagnoses(
    contests: Iterable[Contest],
    table: pd.DataFrame,
    kinds: Mapping[str, str],
    groups: Mapping[Key, Group],
    agents: Agents,
) -> Iterator[Diagnosis]:
    """For each contest its agents that learn, the best first and those without a result last."""
    for contest in contests:
        here = contest.protocol, contest.profile, contest.env
        ceilings = {key[3] for key, group in groups.items() if key[:3] == here and _is_ceiling(key) and group.pairs}
        for agent in (*contest.learners, *_failed(contest, table, kinds)):
            offset = _offset(here, agent, contest.goal_offset, groups, ceilings)
            place = (*here, offset, agent)
            if (told := _found(place, kinds, groups, agents)) is not None:
                ahead = "" if offset == contest.goal_offset else offset_name(offset, contest.protocol)
                yield Diagnosis(place, _subject(agent, groups[place], agents), ahead, told)


def _failed(contest: Contest, table: pd.DataFrame, kinds: Mapping[str, str]) -> list[str]:
    """The agents that learn and have no result where the others have one."""
    same = (table[name] == getattr(contest, name) for name in ("protocol", "profile", "env", "goal_offset"))
    failed = table[np.logical_and.reduce([table["status"] == "failed", *same])]
    return [agent for agent in failed["agent"] if kinds[agent] in LEARNS and not is_ablation(agent)]


def _offset(
    here: tuple[str, str, str], agent: str, contested: int, groups: Mapping[Key, Group], ceilings: Collection[int]
) -> int:
    """The goal offset of the contest, or the farthest where there is what the diagnosis of this agent needs.

    That is the ceiling, and for a world model the true simulator with its latent cost if it was measured anywhere.
    """
    own = {offset: groups[key] for offset in ceilings if (key := (*here, offset, agent)) in groups}
    known = {offset for offset, group in own.items() if group.pairs}
    known = {offset for offset in known if _oracles(own[offset])} or known
    return contested if contested in known or not known else max(known)


def _is_ceiling(key: Key) -> bool:
    return parts_of(key[-1]).base == CEILING


def _oracles(group: Group) -> list[tuple[int, float, int]]:
    """Seed, success and pairs of the true simulator with the model's own latent cost."""
    return [
        (cell.seed, record.latent_oracle_hit, record.latent_oracle_pairs)
        for cell, record in group.done
        if record.latent_oracle_hit is not None and record.latent_oracle_pairs
    ]


def _found(place: Key, kinds: Mapping[str, str], groups: Mapping[Key, Group], agents: Agents) -> Finding | None:
    group = groups[place]
    case = _case(place, kinds, groups, agents) if group.pairs else None
    told = finding(case) if case else None
    untrained = [c for c in group.cells if stability.untrained(c)]
    lost = any(c.status == "failed" for c in untrained)
    if untrained and (lost or told is None or told.code != "fine"):
        return _never_trained(group, untrained, case)
    return told


def _never_trained(group: Group, untrained: Sequence, case: Case | None) -> Finding:
    reasons = "; ".join(dict.fromkeys(map(stability.untrained, untrained)))
    trained = sum(c.status in ("done", "failed") for c in group.cells)
    reached = f"; what was measured reaches {_against(case)}" if case else ""
    share = f"in {len(untrained)} of {trained} trainings" if trained > 1 else "in its only training"
    return Finding("never trained", f"the training is at fault: {share} {reasons}{reached}.")


def _case(place: Key, kinds: Mapping[str, str], groups: Mapping[Key, Group], agents: Agents) -> Case | None:
    """None where no ceiling was measured on the same pairs."""
    *task, agent = place
    others = {key[-1]: other for key, other in groups.items() if list(key[:-1]) == task and other.pairs}
    ceilings = sorted((a for a in others if _is_ceiling((*task, a))), key=lambda a: agents.order(a, kinds[a]))
    group = groups[place]
    if not ceilings or not set(others[ceilings[0]].pairs) & set(group.pairs):
        return None
    ceiling = others[ceilings[0]]
    rates = {a: _rate(task, a, others[a]) for a in (agent, ceilings[0], *(a for a in others if kinds[a] == "floor"))}
    floor = max((a for a in rates if kinds[a] == "floor"), key=lambda a: rates[a].value, default=None)
    scores = np.nanmean(group.matrix("hit", group.pairs), axis=1)
    return Case(
        kind=kinds[agent],
        rate=rates[agent],
        pairs=len(group.pairs),
        runs=group.runs,
        ceiling=Bound(agents.name(ceilings[0]), rates[ceilings[0]]),
        to_ceiling=group.minus(ceiling, _rng(place, f"difference to {CEILING}")),
        floor=None if floor is None else Bound(agents.name(floor), rates[floor]),
        room=None if floor is None else ceiling.minus(others[floor], _rng(place, f"{CEILING} above {floor}")),
        latent=_latent(place, group),
        seeds_weigh_more=group.runs is not None and seeds_weigh_more(_deltas(group, ceiling)),
        worst_seed=group.seeds[int(np.argmin(scores))],
    )


def _deltas(group: Group, ceiling: Group) -> np.ndarray:
    """(seeds, pairs) success minus the ceiling's mean on the pairs of both."""
    shared = sorted(set(group.pairs) & set(ceiling.pairs))
    return group.matrix("hit", shared) - np.nanmean(ceiling.matrix("hit", shared), axis=0)


def _rate(task: Sequence, agent: str, group: Group) -> Estimate:
    """The table's, from the same stream."""
    return success_rate(group.matrix("hit", group.pairs), _rng((*task, agent), "hit"))


def _latent(place: Key, group: Group) -> Latent | None:
    """Its interval counts the pairs once, however many trainings went through them."""
    found = _oracles(group)
    if not found:
        return None
    pairs, total = max(n for *_, n in found), sum(n for *_, n in found)
    share = sum(hit * n for _, hit, n in found) / total
    seeds = tuple(seed for seed, *_ in found)
    rows = np.isin(group.seeds, seeds)
    own = success_rate(group.matrix("hit", group.pairs)[rows], _rng(place, "hit beside the latent cost"))
    return Latent(wilson(min(share, 1.0) * pairs, pairs), pairs, seeds, own)


def _rng(key: Sequence, purpose: str) -> np.random.Generator:
    return stream(0, "report", *(str(part) for part in key), purpose)


def _subject(agent: str, group: Group, agents: Agents) -> str:
    runs = group.runs
    few = f" ({'one training run' if runs == 1 else f'{runs} training runs'})" if runs and runs < METHOD_RUNS else ""
    return f"{agents.name(agent)}{few}"


# How they are shown.


def sentence(subjects: Sequence[str], diagnosis: Diagnosis) -> str:
    """What is said of all of these."""
    names = f"{', '.join(subjects[:-1])} and {subjects[-1]}" if len(subjects) > 1 else subjects[0]
    return f"{names}{f', {diagnosis.ahead}' if diagnosis.ahead else ''}: {diagnosis.finding.text}"


def below(contest: Contest, found: Iterable[Diagnosis]) -> list[Diagnosis]:
    """What belongs to a contest."""
    return [d for d in found if d.place[:3] == (contest.protocol, contest.profile, contest.env)]


def told_of(contest: Contest, found: Iterable[Diagnosis]) -> list[str]:
    """The sentences below a contest; agents of which the same is said share one."""
    same: dict[tuple[str, str], list[Diagnosis]] = {}
    for diagnosis in below(contest, found):
        same.setdefault((diagnosis.ahead, diagnosis.finding.text), []).append(diagnosis)
    return [sentence([d.subject for d in members], members[0]) for members in same.values()]


def in_codes(told: Iterable[tuple[str, str]]) -> str:
    """Names and codes as a line: ``fine (GCBC), metric (LeWM, PLDM)``; empty for none."""
    names: dict[str, list[str]] = {}
    for name, code in told:
        names.setdefault(code, []).append(name)
    return ", ".join(f"{code} ({', '.join(members)})" for code, members in names.items())


def with_verdicts(table: pd.DataFrame, found: Iterable[Diagnosis]) -> pd.DataFrame:
    """The table with code and sentence in the row that each is about."""
    said = {d.place: (d.finding.code, d.sentence) for d in found}
    places = zip(*(table[name] for name in ("protocol", "profile", "env", "goal_offset", "agent")), strict=True)
    both = [said.get(place, ("", "")) for place in places]
    return table.assign(verdict=[code for code, _ in both], verdict_text=[text for _, text in both])
