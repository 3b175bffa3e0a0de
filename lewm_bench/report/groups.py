"""Episodes of one agent under one protocol, at one goal offset of one environment: what every number is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_bench.core.statistics import NO_DIFFERENCE, Difference, paired_comparison
from lewm_bench.evaluation.protocol import PROTOCOLS
from lewm_bench.run.records import CellRecord, Episodes, OffsetRecord


@dataclass(frozen=True)
class Group:
    """All seeds of one agent at one goal offset of one environment, under one profile and protocol."""

    cells: tuple[CellRecord, ...]  # every seed, also those that did not run
    offset: int | None

    @property
    def done(self) -> list[tuple[CellRecord, OffsetRecord]]:
        """The seeds that were measured at this offset."""
        return [(c, o) for c in self.cells if c.status == "done" for o in c.offsets if o.goal_offset == self.offset]

    def episodes(self, *names: str) -> list[tuple[Any, ...]]:
        """The values of some fields, of each episode of all seeds."""
        return [values for c, _ in self.done for values in Episodes.of(c.episodes).at(self.offset, *names)]

    def values(self, name: str) -> list[Any]:
        """The values of one field."""
        return [value for (value,) in self.episodes(name)]

    def matrix(self, column: str, pairs: Sequence[tuple[int, str]]) -> np.ndarray:
        """(seeds, pairs) outcomes, NaN where an episode is missing."""
        out = np.full((len(self.done), len(pairs)), np.nan)
        place = {pair: j for j, pair in enumerate(pairs)}
        row = {cell.seed: i for i, (cell, _) in enumerate(self.done)}
        for seed, value, *pair in self.episodes("seed", column, *_PAIR):
            if (j := place.get(_pair(*pair))) is not None:
                out[row[seed], j] = value
        return out

    @property
    def pairs(self) -> list[tuple[int, str]]:
        """The pairs that at least one seed ran."""
        return sorted({_pair(*pair) for pair in self.episodes(*_PAIR)})

    @property
    def seeds(self) -> list[int]:
        """The measured training seeds, in the order of the matrix rows."""
        return [c.seed for c, _ in self.done]

    @property
    def runs(self) -> int | None:
        """How many training runs were measured; None for what does not train, so that more seeds are no other agents."""
        own = [c for c, _ in self.done if c.weights != "none" or c.train_seconds is not None]
        return None if not own else 1 if all(c.weights == "pretrained" for c in own) else len(own)

    def minus(self, other: Group, rng: np.random.Generator) -> Difference:
        """Success minus that of another agent on the pairs of both."""
        shared = sorted(set(self.pairs) & set(other.pairs))
        if not shared:
            return NO_DIFFERENCE
        sides = self.matrix("hit", shared), other.matrix("hit", shared)
        return paired_comparison(*sides, rng, seeds_paired=self.seeds == other.seeds)

    @property
    def plan_seconds(self) -> list[float]:
        """Every timed plan of every seed."""
        return [s for _, o in self.done for s in o.plan_seconds]

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of planning per executed environment step, of every episode of every seed.

        One plan is 25, 5 or 1 steps, depending on the agent. Empty where the protocol is not known here.
        """
        found = []
        for cell, _ in self.done:
            if (steps := budget_of(cell, self.offset)) is not None:
                times = Episodes.of(cell.episodes).at(self.offset, "encode_seconds", "search_seconds")
                found += [sum(seconds) / steps for seconds in times]
        return found

    @property
    def flops_per_step(self) -> list[float]:
        """Floating-point operations of planning per executed environment step, of every seed that has them counted."""
        return [o.flops_per_step for _, o in self.done if o.flops_per_step is not None]

    @property
    def unasked(self) -> bool:
        """Whether nobody asked for this agent here."""
        return not self.done and all(c.status == "done" for c in self.cells)

    @property
    def beside(self) -> str:
        """What else ran on the devices while plans were timed; empty: nothing."""
        return ", ".join(
            sorted({c.hardware["shared"] for c, o in self.done if o.plan_seconds and "shared" in c.hardware})
        )

    @property
    def machines(self) -> set[tuple[tuple[str, str], ...]]:
        """What the plans were timed on."""
        named = ("device", "name", "cpu", "cores", "threads")
        return {tuple((k, c.hardware[k]) for k in named if k in c.hardware) for c, o in self.done if o.plan_seconds}


def budget_of(cell: CellRecord, offset: int | None) -> int | None:
    """Environment steps of each episode of a cell at a goal offset; None where its protocol is not known here."""
    given = (cell.config.get("evaluate") or {}).get("budget")
    if given is not None or cell.protocol not in PROTOCOLS or offset is None:
        return given
    return PROTOCOLS[cell.protocol].budget(offset)


_PAIR = ("pair", "distance_start")


def _pair(number: int, distance_start: float) -> tuple[int, str]:
    """What makes two episodes the same pair: the number, and the start distance, lest the number alone deceives."""
    return number, f"{distance_start:.6g}"


Key = tuple[str, str, str, int | None, str]  # protocol, profile, environment, goal offset, agent
