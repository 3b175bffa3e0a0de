"""Which planner to use: success against what planning costs per executed environment step, and who is beaten in both.

A place (protocol, profile, environment, goal offset) is told of where three planners or more searched with one model, which
is the question that a frontier answers; agents that learned otherwise stand beside them, floors and what sees the
simulator's state do not. Episodes that were planned several at a time are left out: nobody waits for a share of a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import pandas as pd

from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import NO_DIFFERENCE, Difference, Estimate, quartiles
from lewm_bench.report.agents import Agents, parts_of
from lewm_bench.report.groups import Group, Key
from lewm_bench.report.rankings import LEARNS

if TYPE_CHECKING:
    from lewm_bench.core.names import AgentName

LEAST = 3  # planners of one model
LIMITS = (10, 100, 1000)  # milliseconds per executed environment step that advice is given for
PAPERS = (300, 30)  # samples and iterations of the papers' CEM
PLANNER = "planner."  # what the paths of the planner's settings begin with
SOLVERS = {"cem": "CEM", "icem": "iCEM", "mppi": "MPPI", "shooting": "shooting", "adam": "Adam"}
PLACE = ("protocol", "profile", "env", "goal_offset")
COLUMNS = (
    *PLACE, "agent", "planner", "n_pairs", "n_seeds", "hit", "hit_low", "hit_high",
    "plan_ms_per_step", "plan_ms_per_step_q25", "plan_ms_per_step_q75", "flops_per_step",
    "on_frontier", "on_flops_frontier", "reference", "diff_to_papers", "diff_low", "diff_high", "diff_p",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One planner in one place."""

    agent: str
    name: str  # for people: ``CEM 300 x 30``
    trained: str  # the agent without settings
    solver: str  # that searched, where it is a planner of the place's model; else empty
    often: bool  # such a planner that plans again before its plan is over
    n_pairs: int
    n_seeds: int
    hit: Estimate
    ms: Estimate  # per executed environment step, median and quartiles over episodes
    flops: float  # the same in operations, NaN where they were not counted
    on_frontier: bool  # no other planner is faster and better
    on_flops_frontier: bool  # none computes less and is better
    difference: Difference  # to the papers' CEM, on the pairs of both


@dataclass(frozen=True)
class Advice:
    """The planner to use within a time."""

    limit: int  # milliseconds per executed environment step
    chosen: Point | None  # None where no planner is that fast
    best: Point  # of those that are; the fastest of all where none is
    difference: Difference  # of the best minus the chosen one, where that is another
    count: int  # planners that are that fast
    cheaper: int  # those of them that are cheaper than the best


@dataclass(frozen=True)
class Front:
    """All planners of a place, the fastest first."""

    protocol: str
    profile: str
    env: str
    goal_offset: int
    model: str  # whose planners most of them are, for people
    points: tuple[Point, ...]
    reference: Point | None  # the papers' CEM, or the largest search of a whole plan by CEM that there is
    advice: tuple[Advice, ...]
    machines: int  # that times are from


def frontier(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """For each of several whether no other one costs as little and gains as much, and one of the two is better there.

    What has no cost is on no frontier, and beats nobody.
    """
    points = list(zip(costs, gains, strict=True))
    return [not isnan(c) and not any(_beats(other, (c, g)) for other in points) for c, g in points]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def fronts(
    table: pd.DataFrame, groups: Mapping[Key, Group], kinds: Mapping[str, str], agents: Agents
) -> tuple[Front, ...]:
    """Every place where three planners or more searched with one model, in the order of the table."""
    found = []
    timed = table[table["hit"].notna() & (table["plan_ms_per_step"] > 0)]
    for place, part in timed.groupby(list(PLACE), sort=False):
        here = {row["agent"]: groups[(*place, row["agent"])] for _, row in part.iterrows()}
        here = {agent: g for agent, g in here.items() if kinds[agent] in LEARNS and _alone(g)}
        models = Counter(map(_model, here))
        if models and max(models.values()) >= LEAST:
            rows = part.set_index("agent", drop=False).loc[list(here)]
            found.append(_front(place, rows, here, models.most_common(1)[0][0], agents))
    return tuple(found)


def _alone(group: Group) -> bool:
    """Whether every decision was one episode's."""
    return all((cell.config.get("evaluate") or {}).get("batch", 1) == 1 for cell, _ in group.done)


def _model(agent: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What was trained, of an agent's name: the name without the settings of its planner."""
    name: AgentName = parts_of(agent)
    return name.trained, tuple(s for s in name.settings if not s[0].startswith(PLANNER))


def _front(
    place: tuple[str, str, str, int],
    rows: pd.DataFrame,
    groups: Mapping[str, Group],
    model: tuple[str, tuple[tuple[str, str], ...]],
    agents: Agents,
) -> Front:
    own = {agent: _planner(groups[agent]) for agent in groups if _model(agent) == model}
    reference = papers_cem(own)
    times = {agent: quartiles(group.step_seconds) for agent, group in groups.items()}
    hits = [row["hit"] for _, row in rows.iterrows()]
    on_time = frontier([times[agent].value for agent in rows["agent"]], hits)
    on_flops = frontier(list(rows["flops_per_step"].astype(float)), hits)
    names = _names(own, agents)
    points = [
        Point(
            agent=row["agent"],
            name=names.get(row["agent"]) or agents.name(row["agent"]),
            trained=parts_of(row["agent"]).trained,
            solver=str(own[row["agent"]].get("solver", "cem")) if row["agent"] in own else "",
            often=row["agent"] in own and _often(own[row["agent"]]),
            n_pairs=int(row["n_pairs"]),
            n_seeds=int(row["n_seeds"]),
            hit=Estimate(row["hit"], row["hit_low"], row["hit_high"]),
            ms=Estimate(*(1000 * value for value in times[row["agent"]])),
            flops=float(row["flops_per_step"]),
            on_frontier=fast,
            on_flops_frontier=lean,
            difference=_difference(place, row["agent"], reference, groups),
        )
        for (_, row), fast, lean in zip(rows.iterrows(), on_time, on_flops, strict=True)
    ]
    points.sort(key=lambda p: (p.ms.value, -p.hit.value, p.agent))
    return Front(
        *place,
        model=agents.title(model[0]),
        points=tuple(points),
        reference=next((p for p in points if p.agent == reference), None),
        advice=tuple(_advice(place, points, limit, groups) for limit in LIMITS),
        machines=len({machine for group in groups.values() for machine in group.machines}),
    )


def _planner(group: Group) -> Mapping[str, Any]:
    """The settings of the planner, as recorded."""
    return next((cell.config["planner"] for cell, _ in group.done if cell.config.get("planner")), {})


def papers_cem(planners: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The agent whose CEM is the papers', 300 samples x 30 iterations executed whole; without it the largest such search."""
    whole = {
        agent: (int(p["num_samples"]), int(p["num_iterations"]))
        for agent, p in planners.items()
        if p and p.get("solver", "cem") == "cem" and not p.get("warm_start") and not _often(p)
    }
    ranked = sorted(
        whole, key=lambda a: (whole[a] != PAPERS, -whole[a][0] * whole[a][1], len(parse_agent(a).settings), a)
    )
    return ranked[0] if ranked else None


def _often(planner: Mapping[str, Any]) -> bool:
    return bool(planner) and planner["receding"] < planner["horizon"]


def planner_name(planner: Mapping[str, Any]) -> str:
    """``CEM 300 x 30``, and behind it whether it looks farther, plans again sooner, or begins where it was."""
    solver, horizon, receding = planner.get("solver", "cem"), planner["horizon"], planner["receding"]
    parts = [f"{SOLVERS.get(solver, solver)} {planner['num_samples']} x {planner['num_iterations']}"]
    parts += [f"{horizon} ahead"] if horizon != 5 else []
    parts += ["every block" if receding == 1 else f"every {receding} blocks"] if receding != horizon else []
    parts += ["warm"] if planner.get("warm_start") else []
    return ", ".join(parts)


def _names(planners: Mapping[str, Mapping[str, Any]], agents: Agents) -> dict[str, str]:
    """What the planners of the model are called; with all of its settings where two would be called the same."""
    named = {agent: planner_name(p) if p else agents.name(agent) for agent, p in planners.items()}
    twice = {name for name, count in Counter(named.values()).items() if count > 1}
    return {agent: agents.name(agent) if name in twice else name for agent, name in named.items()}


def _difference(place: tuple, agent: str, reference: str | None, groups: Mapping[str, Group]) -> Difference:
    if reference in (None, agent):
        return NO_DIFFERENCE
    rng = stream(0, "report", *map(str, place), agent, f"difference to {reference}")
    return groups[agent].minus(groups[reference], rng)


def _advice(place: tuple, points: Sequence[Point], limit: int, groups: Mapping[str, Group]) -> Advice:
    """The cheapest planner that is not told apart from the best of those within the limit."""
    fast = [p for p in points if p.ms.value <= limit]
    if not fast:
        return Advice(limit, None, points[0], NO_DIFFERENCE, 0, 0)
    best = max(fast, key=lambda p: (round(p.hit.value, 9), -p.ms.value))
    cheaper = [p for p in fast if p.ms.value < best.ms.value]
    for point in cheaper:
        found = _difference(place, best.agent, point.agent, groups)
        if found.low <= 0 <= found.high:
            return Advice(limit, point, best, found, len(fast), len(cheaper))
    return Advice(limit, best, best, NO_DIFFERENCE, len(fast), len(cheaper))


def pareto_table(found: Iterable[Front]) -> pd.DataFrame:
    """A row per place and planner, the columns of ``pareto.csv``."""
    return pd.DataFrame([row for front in found for row in _rows(front)], columns=COLUMNS)


def _rows(front: Front) -> Iterator[tuple]:
    place = front.protocol, front.profile, front.env, front.goal_offset
    reference = front.reference.agent if front.reference else ""
    for p in front.points:
        flops = p.flops if p.flops == p.flops else nan
        flags = p.on_frontier, p.on_flops_frontier
        yield (*place, p.agent, p.name, p.n_pairs, p.n_seeds, *p.hit, *p.ms, flops, *flags, reference, *p.difference)
