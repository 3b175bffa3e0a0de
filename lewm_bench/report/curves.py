"""Numbers of learning curves: success while agents train, and by how many episodes they had. From records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import Estimate, success_rate
from lewm_bench.report.ablation import DATA, Panel
from lewm_bench.run.records import CellRecord, DuringRecord

PLACE = ("protocol", "profile", "env", "goal_offset")
MEASURES = ("hit", "held")
INTERVALS = tuple(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))
STEP_COLUMNS = (*PLACE, "agent", "steps", "seed", "n_pairs", "seed_hit", "seed_held", *INTERVALS)
EPISODE_COLUMNS = (*PLACE, "agent", "of", "train_episodes", "n_pairs", "n_seeds", *INTERVALS)

Moment = tuple[str, str, str, int, str, int]  # protocol, profile, environment, goal offset, agent, steps


def success_over_steps(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """A row per training seed and checkpoint: its own success, and that of all seeds with 95 % intervals.

    An interval of one pair would say nothing, and is NaN.
    """
    found = {(_moment(cell, during), cell.seed): during for cell in cells for during in cell.during}
    rows = []
    for moment, group in groupby(sorted(found), key=lambda key: key[0]):
        seeds = [(key[1], found[key]) for key in group]
        together = [number for name in MEASURES for number in _estimate(moment, name, seeds)]
        rows += [
            (*moment, seed, len(during.hit), float(np.mean(during.hit)), float(np.mean(during.held)), *together)
            for seed, during in seeds
        ]
    return pd.DataFrame(rows, columns=STEP_COLUMNS)


def _moment(cell: CellRecord, during: DuringRecord) -> Moment:
    rules = cell.protocol.partition("/")[0]  # its pairs are of all strata
    return rules, cell.profile, cell.env, during.goal_offset, cell.agent, during.steps


def _estimate(moment: Moment, name: str, seeds: Sequence[tuple[int, DuringRecord]]) -> Estimate:
    """The success of all seeds; the first pairs are the same where one has more than another."""
    outcomes = [getattr(during, name) for _, during in seeds]
    matrix = np.full((len(seeds), max(map(len, outcomes))), np.nan)
    for row, outcome in zip(matrix, outcomes, strict=True):
        row[: len(outcome)] = outcome
    found = success_rate(matrix, stream(0, "report", *map(str, moment), "while training", name))
    return found if matrix.shape[1] > 1 else Estimate(found.value, math.nan, math.nan)


def success_over_data(panels: Iterable[Panel]) -> pd.DataFrame:
    """A row per agent and number of training episodes, where the name of an agent varies the share of its data."""
    rows = [
        (
            *(panel.protocol, panel.profile, panel.env, panel.goal_offset),
            point.agent,
            panel.of,
            point.train_episodes,
            point.n_pairs,
            point.n_seeds,
            *(point.hit if point.n_pairs > 1 else (point.hit.value, math.nan, math.nan)),
            *(point.held if point.n_pairs > 1 else (point.held.value, math.nan, math.nan)),
        )
        for panel in panels
        if panel.path == DATA
        for point in panel.points
        if point.train_episodes is not None and point.n_pairs
    ]
    table = pd.DataFrame(rows, columns=EPISODE_COLUMNS)
    sizes = table.groupby([*PLACE, "of"])["train_episodes"].transform("nunique")
    kept = table[sizes > 1] if len(table) else table
    return kept.sort_values([*PLACE, "of", "train_episodes"], kind="stable", ignore_index=True)
