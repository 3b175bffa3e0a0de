"""What tuning leaves behind: the trials of an agent in one environment, which of them is best, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from pydantic import Field

from lewm_bench.core.card import Card
from lewm_bench.core.config import Record
from lewm_bench.core.names import canonical, parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension, Tried, distance
from lewm_bench.core.statistics import Estimate, paired_comparison, wilson

SCHEMA = 1
SPLIT = "val"  # the test episodes are for reporting


class Trial(Record):
    """One training with its values, and what it reached on the validation pairs."""

    trial: int = Field(ge=0)  # 0 is the agent as it is configured
    agent: str  # the name to run it by
    values: tuple[float, ...]  # one per dimension
    status: Literal["done", "failed"] = "done"
    reason: str = ""
    hit: tuple[tuple[bool, ...], ...] = ()  # of each goal offset, of each pair: reached at some step
    held: tuple[tuple[bool, ...], ...] = ()  # reached at the last step
    distances: tuple[tuple[float, ...], ...] = ()  # left at the last step
    train_seconds: float | None = None
    key: str = ""  # of the weights in the cache
    commit: str = ""  # that measured it, which may be older than the command's

    @property
    def objective(self) -> float:
        """Mean over goal offsets of the share still at the goal at the last step; 0 if the training failed."""
        return float(np.mean([np.mean(pairs) for pairs in self.held])) if self.held else 0.0

    @property
    def hit_rate(self) -> float | None:
        """Mean over goal offsets of the share that was at the goal at some step."""
        return float(np.mean([np.mean(pairs) for pairs in self.hit])) if self.hit else None

    @property
    def distance(self) -> float | None:
        """Median distance left over all pairs."""
        return float(np.median(np.concatenate(self.distances))) if self.distances else None

    @property
    def interval(self) -> Estimate:
        """The share of all pairs at the goal at the last step with Wilson's 95 % interval; NaN if training failed."""
        return wilson(sum(map(sum, self.held)), sum(map(len, self.held)))


class Fresh(Record):
    """What the best trial and the default reached on validation pairs that chose neither: still there, as in a trial."""

    best: tuple[tuple[bool, ...], ...]
    default: tuple[tuple[bool, ...], ...]


class Tuning(Record):
    """Every trial of an agent in an environment, in order, and what they were made with."""

    schema_version: int = SCHEMA
    agent: str
    card: Card = Card()
    env: str
    unit: str  # of distances
    suite: str
    profile: str
    protocol: str
    split: Literal["val"] = SPLIT
    seed: int
    search: Literal["bisection", "random"]
    dimensions: tuple[Dimension, ...]
    goal_offset: tuple[int, ...]
    num_pairs: int  # of each goal offset
    trials: tuple[Trial, ...]
    fresh: Fresh | None = None  # if another trial than the default is the best
    dataset: str = ""  # fingerprint
    settings: dict[str, Any] = Field(default_factory=dict)  # of the run
    config: dict[str, Any] = Field(default_factory=dict)  # of the agent as it is configured
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    commit: str = ""

    @property
    def method(self) -> str:
        """The search, for people."""
        return {"random": "random search"}.get(self.search, self.search)

    @property
    def default(self) -> Trial:
        """The agent as it is configured."""
        return self.trials[0]

    @property
    def best(self) -> Trial | None:
        """The best of the trials that could be trained; None if none could."""
        done = [trial for trial in self.trials if trial.status == "done"]
        return max(done, key=self.rank, default=None)

    def rank(self, trial: Trial) -> tuple[float, ...]:
        """Larger is better: the objective, then reached at some step, less distance left, closer to the default."""
        return rank(trial, self.dimensions, self.default.values)

    @property
    def difference(self) -> Estimate | None:
        """Best minus default on the same fresh pairs, still at the goal at the last step; None without any.

        Not on the pairs of the trials: whatever is best on some pairs of equals is better there than it is.
        """
        if self.fresh is None:
            return None
        ours, reference = (np.concatenate(held).astype(float)[None] for held in (self.fresh.best, self.fresh.default))
        rng = stream(self.seed, "tune", "difference", self.env, self.agent)
        found = paired_comparison(ours, reference, rng)
        return Estimate(found.value, found.low, found.high)

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """The highest objective after each trial."""
        return tuple(accumulate((trial.objective for trial in self.trials), max))

    @property
    def spent_seconds(self) -> tuple[float, ...]:
        """Training time that was spent after each trial, failed ones included."""
        return tuple(accumulate(trial.train_seconds or 0.0 for trial in self.trials))


def rank(trial: Trial, dimensions: Sequence[Dimension], default: Sequence[float]) -> tuple[float, ...]:
    """What trials are compared by, larger is better."""
    left = -np.inf if trial.distance is None else -trial.distance
    reached = trial.hit_rate or 0.0
    done = float(trial.status == "done")
    return trial.objective, done, reached, left, -distance(dimensions, trial.values, default)


def search_points(trials: Sequence[Trial], dimensions: Sequence[Dimension]) -> list[Tried]:
    """The trials as a search sees them."""
    return [Tried(t.values, rank(t, dimensions, trials[0].values)) for t in trials]


def agent_with(agent: str, dimensions: Sequence[Dimension], values: Sequence[float]) -> str:
    """The name of ``agent`` with these values: ``lewm:sigreg_weight=0.0123``; they replace those that it has."""
    name, paths = parse_agent(agent), {d.path for d in dimensions}
    kept = [f"{path}={value}" for path, value in name.settings if path not in paths]
    searched = [f"{d.path}={d.text(v)}" for d, v in zip(dimensions, values, strict=True)]
    return canonical(":".join([name.trained, *kept, *searched]))
