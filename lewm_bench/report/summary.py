"""All numbers of a report; ``summarise`` makes them from records, everything else only shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from lewm_bench.report.ablation import Panel
from lewm_bench.report.agents import Agents
from lewm_bench.report.diagnosis import Diagnosis
from lewm_bench.report.pareto import Front
from lewm_bench.report.rankings import Contest
from lewm_bench.run.records import CellRecord


@dataclass(frozen=True)
class Summary:
    """Everything the writers draw from; nothing below it computes a statistic."""

    title: str
    cells: tuple[CellRecord, ...]
    agents: Agents
    table: pd.DataFrame  # one row per environment, agent and goal offset
    across: pd.DataFrame  # interquartile means over environments
    ratios: pd.DataFrame  # measured plan times of LeWM and DINO-WM side by side
    plan_seconds: pd.DataFrame  # every timed plan
    training: pd.DataFrame  # the logs, long: env, agent, seed, step, quantity, value
    seeds: pd.DataFrame  # success of every training seed, if any agent has two
    over_steps: pd.DataFrame  # success of every checkpoint on the way of a training
    over_data: pd.DataFrame  # success by number of training episodes
    ranges: pd.DataFrame  # how far ahead agents plan, where goals at several offsets share their starts
    ablations: tuple[Panel, ...] = ()
    fronts: tuple[
        Front, ...
    ] = ()  # success against the cost of planning, where several planners searched with one model
    loss_terms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # agent -> logged term -> its name
    labels: Mapping[str, str] = field(default_factory=dict)  # agent -> name for people, with every substitute
    kinds: Mapping[str, str] = field(default_factory=dict)
    contests: tuple[Contest, ...] = ()  # the leading task of each environment: who is best, and told apart from whom
    verdict: tuple[str, ...] = ()  # the same in sentences
    diagnoses: tuple[Diagnosis, ...] = ()  # what holds each agent back there
