"""Numbers of ablations: which agents differ in one setting only, what the setting was, and what came of it.

The ablations of an agent are its names with settings; beside them stands the agent itself with its default, read from
its record.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from lewm_bench.core.names import AgentName, value_of
from lewm_bench.core.statistics import Estimate
from lewm_bench.report.agents import HARMLESS, Agents, parts_of, size
from lewm_bench.report.stability import ending, has_collapsed
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.planning.config import PlannerConfig

FLOOR = "random"
PLANNER = "planner."  # what the paths of the planner's settings begin with
SOLVER = f"{PLANNER}solver"
DATA = "data"  # the share of the training episodes, which has a figure of its own
DIAGNOSTICS = ("latent_std", "effective_rank")  # the first that was logged is drawn; the rank of a collapse is high

Value = float | str
Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """One ablation, or the agent itself, in one environment at one goal offset."""

    agent: str
    value: Value  # of the setting that varies: a number, or text for everything else
    default: bool  # the agent itself
    status: str
    hit: Estimate
    held: Estimate
    plan_seconds: Estimate
    n_pairs: int
    n_seeds: int
    trained: int  # seeds that were run, failed ones included
    collapsed: int  # those of them whose latents hardly vary at the end
    endings: Mapping[str, tuple[float, ...]]  # diagnostic to its last logged value, seed by seed
    train_episodes: int | None  # that it learned from, where that is recorded
    plans: int | None  # whose costs one search asks for
    differentiates: bool  # and their gradients


@dataclass(frozen=True)
class Panel:
    """All ablations of an agent that differ in one setting, in one environment at one goal offset."""

    protocol: str
    profile: str
    env: str
    goal_offset: int
    agent: str  # without settings
    name: str  # for people
    path: str  # the setting
    fixed: Settings  # others that all of these have
    points: tuple[Point, ...]  # by value
    floor: float  # success of random actions, NaN if not measured

    @property
    def of(self) -> str:
        """The agent with the settings that all points share, as names are written."""
        return ":".join([self.agent, *(f"{path}={value}" for path, value in self.fixed)])

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(p.value, float) for p in self.points)

    @property
    def diagnostic(self) -> str | None:
        """What tells a collapse, if it was logged; nothing for the planner's settings, which no training knows."""
        if self.path.startswith(PLANNER):
            return None
        return next((d for d in DIAGNOSTICS if any(d in p.endings for p in self.points)), None)

    @property
    def heading(self) -> str:
        """``LeWM: sigreg_weight``, with the settings that all points share."""
        fixed = ", ".join(f"{path}={value}" for path, value in self.fixed)
        return f"{self.name}: {self.path}" + (f" (at {fixed})" if fixed else "")


def ablations(table: pd.DataFrame, cells: Sequence[CellRecord]) -> tuple[Panel, ...]:
    """The panels with two points or more, from the rows of the report's table and the records behind them."""
    records = defaultdict(list)
    for cell in cells:
        records[cell.protocol, cell.profile, cell.env, cell.agent].append(cell)
    panels, known = [], Agents.of(cells)
    for place, part in table.groupby(["protocol", "profile", "env", "goal_offset"], sort=False):
        floor = part.loc[part["agent"] == FLOOR, "hit"]
        rows = {row["agent"]: row for _, row in part.iterrows() if row["status"] != "not run"}
        for agent, path, fixed in _questions(rows):
            members = {a: records[(*place[:3], a)] for a in rows if _answers(a, agent, path, fixed)}
            default = [a for a in members if tuple(sorted(parts_of(a).settings)) == fixed]
            alike = _alike(members, path, [a for a in members if a not in default])
            found = [_point(rows[a], members[a], path, a in default) for a in alike]
            points = sorted((p for p in found if p is not None), key=lambda p: (size(p.value), str(p.value), p.agent))
            if len(points) > 1:
                panels.append(
                    Panel(
                        *place,
                        agent,
                        known.title(agent),
                        path,
                        fixed,
                        tuple(points),
                        float(floor.iloc[0]) if len(floor) else np.nan,
                    )
                )
    return tuple(panels)


def _questions(agents: Iterable[str]) -> list[tuple[str, str, Settings]]:
    """Every (agent, path, other settings) that the names of ablations vary, in the order of the table."""
    found = {}
    for name in map(parts_of, agents):
        for path, _ in name.settings:
            found[name.trained, path, _others(name, path)] = None
    return list(found)


def _others(name: AgentName, path: str) -> Settings:
    """The settings in a name beside one; a solver's own belong to the choice of it."""
    own = [f"{PLANNER}{value}." for key, value in name.settings if key == path == SOLVER]
    return tuple(sorted(s for s in name.settings if s[0] != path and not s[0].startswith(tuple(own))))


def _answers(candidate: str, agent: str, path: str, fixed: Settings) -> bool:
    """Whether a name is the agent with the fixed settings, and with the varied one or without it."""
    name = parts_of(candidate)
    return name.trained == agent and _others(name, path) == fixed


def _alike(members: Mapping[str, Sequence[CellRecord]], path: str, ablations: Sequence[str]) -> list[str]:
    """The members that differ from the first ablation in the one setting only: an agent of another suite may differ in more."""
    rest = {
        a: _rest(done[0], path) for a, cells in members.items() if (done := [c for c in cells if c.status == "done"])
    }
    first = next((rest[a] for a in ablations if a in rest), {})
    return [a for a in members if all(first.get(key, value) == value for key, value in rest.get(a, {}).items())]


def _rest(cell: CellRecord, path: str) -> dict[str, Any]:
    """All settings of the agent and its planner, flat, but for one and those that change no result."""
    left_out = {path, *HARMLESS}
    if path == DATA:
        left_out.add("train.steps")  # follow from the data where a training is so many passes over them
    if (cell.config.get("training") or {}).get("seconds") is not None:
        left_out.add("train.steps")  # follow from the pace, which the varied setting may change
    blocks = _solver_blocks() if path == SOLVER else ()
    return {k: v for k, v in _settings(cell).items() if k not in left_out and not k.startswith(blocks)}


def _solver_blocks() -> tuple[str, ...]:
    """What the paths of the solvers' own settings begin with."""
    # Inside, lest a report without ablations imports torch.
    from lewm_bench.planning.solvers import SOLVERS

    return tuple(f"{PLANNER}{name}." for name in SOLVERS)


def _settings(cell: CellRecord) -> dict[str, Any]:
    """Path to value of everything that a name may set."""
    planner = planner_of(cell.config)
    return {**flatten(cell.config.get("agent") or {}), **flatten(dict(planner) if planner else {}, PLANNER)}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path to value of nested settings."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, (dict, BaseModel))
        flat |= flatten(dict(value), f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _point(row: pd.Series, cells: Sequence[CellRecord], path: str, default: bool) -> Point | None:
    done = [c for c in cells if c.status == "done"]
    value = _value(row["agent"], done, path)
    if value is None:
        return None
    logged = {d: tuple(e for c in done if not math.isnan(e := ending(c, d))) for d in DIAGNOSTICS}
    planner = planner_of(done[0].config) if done else None
    return Point(
        agent=row["agent"],
        value=value,
        default=default,
        status=row["status"],
        hit=Estimate(*row[["hit", "hit_low", "hit_high"]].astype(float)),
        held=Estimate(*row[["held", "held_low", "held_high"]].astype(float)),
        plan_seconds=Estimate(*row[["plan_seconds_median", "plan_seconds_q25", "plan_seconds_q75"]].astype(float)),
        n_pairs=0 if pd.isna(row["n_pairs"]) else int(row["n_pairs"]),
        n_seeds=0 if pd.isna(row["n_seeds"]) else int(row["n_seeds"]),
        trained=sum(c.status != "not run" for c in cells),
        collapsed=sum(map(has_collapsed, cells)),
        endings={name: values for name, values in logged.items() if values},
        train_episodes=next((c.train_episodes for c in done if c.train_episodes), None),
        plans=sum(planner.plans_per_iteration) if planner else None,
        differentiates=planner is not None and planner.differentiates,
    )


def _value(agent: str, done: Sequence[CellRecord], path: str) -> Value | None:
    """The resolved value in a record, else what the name says; None for an agent whose default nobody recorded."""
    for cell in done:
        if path in (settings := _settings(cell)):
            return _with_own(agent, path, _plain(settings[path]))
    written = dict(parts_of(agent).settings).get(path)
    return None if written is None else _with_own(agent, path, _plain(value_of(written)))


def _with_own(agent: str, path: str, value: Value) -> Value:
    """A solver with the settings of its own that a name gives it: ``adam (optimizer=rmsprop)``."""
    block = f"{PLANNER}{value}."
    own = [f"{key.removeprefix(block)}={v}" for key, v in parts_of(agent).settings if key.startswith(block)]
    return f"{value} ({', '.join(own)})" if own and path == SOLVER else value


def _plain(value: Any) -> Value:
    """A number as a float, everything else as text."""
    if value is None:
        return "none"
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value).lower()


def planner_of(config: Mapping[str, Any]) -> PlannerConfig | None:
    """The planner's settings in a record, defaults that it does not write included; None for another version's."""
    # Inside, lest a report without ablations imports torch.
    from lewm_bench.planning.config import PlannerConfig

    try:
        return PlannerConfig.model_validate(config["planner"]) if config.get("planner") else None
    except ValidationError:
        return None


@dataclass(frozen=True)
class Axis:
    """Where the values of a panel stand on its horizontal axis."""

    kind: str  # linear, log, or category
    places: tuple[float, ...]  # of the points
    zero: bool  # on a log axis: 0 stands apart at the left


def axis_of(values: Sequence[Value]) -> Axis:
    """Log where positive numbers span more than a decade, with 0 apart; categories unless all are numbers."""
    if not all(isinstance(v, float) for v in values):
        kinds = list(dict.fromkeys(values))
        return Axis("category", tuple(float(kinds.index(v)) for v in values), False)
    positive = [v for v in values if v > 0]
    if min(values) < 0 or not positive or max(positive) <= 10 * min(positive):
        return Axis("linear", tuple(values), False)
    low, high = math.log10(min(positive)), math.log10(max(positive))
    left = low - max(0.5, 0.18 * (high - low))
    return Axis("log", tuple(math.log10(v) if v > 0 else left for v in values), 0.0 in values)
