"""The result table: what its columns are, and one view per environment and goal offset.

Another column is another entry of ``RESULT_COLUMNS`` or ``DETAIL_COLUMNS``; its number comes from ``report.summarise``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.formatting import operations, seconds, short
from lewm_bench.core.statistics import LEVEL, METHOD_RUNS
from lewm_bench.report.agents import Agents, is_ablation, settings_text
from lewm_bench.report.commands import run_command
from lewm_bench.report.tables.line import Line
from lewm_bench.report.text import count, missing, number, offset_name, percent, ratio

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


Cell = Callable[[pd.Series], str]


def reached(row: pd.Series) -> str:
    """The share that reached the goal with its interval, or why there is none."""
    if row["status"] in ("not run", "failed"):
        return row["status"]
    star = " (partial)" if row["status"] == "partial" else ""
    return percent(row["hit"], row["hit_low"], row["hit_high"]) + star


def _difference(row: pd.Series) -> str:
    if row["agent"] == "lewm" and not missing(row["hit"]):
        return "reference"
    text = percent(row["diff_to_lewm"], row["diff_low"], row["diff_high"], sign="+")
    runs = row["diff_runs"]
    if text and not missing(runs) and runs < METHOD_RUNS:
        return f"{text} ({'one run' if runs == 1 else f'{runs} runs'})"
    return f"{text} *" if row["diff_p_holm"] < LEVEL else text


def _training(r: pd.Series) -> str:
    """The seconds of a training; of one that is built on another's, those of both, and their sum."""
    whole, base = r["train_seconds"], r["base_seconds"]
    if missing(whole) or missing(base):
        return seconds(whole)
    return f"{seconds(whole)} ({seconds(base)} + {seconds(whole - base)})"


FLOPS = "FLOPs per environment step"  # left out where none were counted, as of older records


RESULT_COLUMNS: Mapping[str, Cell] = {
    "Reached at any step, %": reached,
    "Still there at the last step, %": lambda r: percent(r["held"], r["held_low"], r["held_high"]),
    "Above random, %": lambda r: percent(r["normalised_hit"]),
    "Minus LeWM, points": _difference,
    "Plan time, median [quartiles]": lambda r: seconds(
        r["plan_seconds_median"], r["plan_seconds_q25"], r["plan_seconds_q75"]
    ),
    "Planning per environment step": lambda r: seconds(r["plan_ms_per_step"] / 1000),
    FLOPS: lambda r: operations(r["flops_per_step"]),
    "Speed-up over DINO-WM": lambda r: ratio(r["speedup_vs_dino_wm"]),
    "Tokens per frame": lambda r: number(r["tokens_per_frame"], "d"),
    "Pairs / seeds": lambda r: "" if missing(r["n_pairs"]) else f"{r['n_pairs']} / {r['n_seeds']}",
}


DETAIL_COLUMNS: Mapping[str, Cell] = {
    "Distance left, median": lambda r: number(r["distance_end_median"], "#.3g"),
    "Steps to reach, median": lambda r: number(r["steps_to_hit_median"], "g"),
    "True simulator + latent cost, %": lambda r: percent(r["latent_oracle_hit"]),
    "Rank correlation of latent and true distance": lambda r: number(r["distance_rank_correlation"]),
    "Parameters": lambda r: count(r["parameters"]),
    "Training time": _training,
    "Passes over the data": lambda r: number(r["train_epochs"], ".3g"),
    "Training steps": lambda r: "" if missing(r["train_steps"]) else f"{r['train_steps']:,}",
    "Solved at start, %": lambda r: percent(r["solved_at_start"]),
    "Share of all goals, %": lambda r: percent(r["stratum_share"]),
}


GROUPS = {
    "world model": "World models",
    "policy": "Goal-conditioned policies",
    "privileged": "Privileged (sees the simulator's state)",
    "floor": "Floor",
}


@dataclass(frozen=True)
class View:
    """One environment at one goal offset, ready to be written in any format; plain text, nothing escaped."""

    env: str
    offset: str
    protocol: str
    profile: str
    header: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    detail_header: tuple[str, ...]
    detail_groups: tuple[tuple[str, tuple[Line, ...]], ...]
    comparisons: str  # how many differences are shown, and what an asterisk means
    notes: tuple[tuple[str, str], ...]  # agent, note
    rows: pd.DataFrame  # of table.csv

    @property
    def heading(self) -> str:
        """What tells this table from the others."""
        return f"{short(self.env)}, {self.offset}"

    @property
    def setting(self) -> str:
        """Under which rules it was measured."""
        return f"protocol {self.protocol}, profile {self.profile}"


def views(summary: Summary) -> Iterator[View]:
    """The reader's tables in reading order."""
    table = summary.table
    for (protocol, profile, env, offset), part in table.groupby(
        ["protocol", "profile", "env", "goal_offset"], dropna=False, sort=False
    ):
        run = part[~part["status"].isin(["not run", "failed"])]
        counted = run["flops_per_step"].notna().any()
        columns = {name: cell for name, cell in RESULT_COLUMNS.items() if counted or name != FLOPS}
        detail = [name for name, cell in DETAIL_COLUMNS.items() if any(cell(row) for _, row in run.iterrows())]
        yield View(
            env=env,
            offset=offset_name(offset, protocol),
            protocol=protocol,
            profile=profile,
            header=tuple(columns),
            groups=_lines(part, summary, columns),
            detail_header=tuple(detail),
            detail_groups=_lines(run, summary, {name: DETAIL_COLUMNS[name] for name in detail}),
            comparisons=comparisons(part, summary.agents),
            notes=tuple((summary.labels[r["agent"]], r["note"]) for _, r in part.iterrows() if r["note"]),
            rows=part,
        )


def _lines(
    part: pd.DataFrame, summary: Summary, columns: Mapping[str, Cell]
) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    groups: dict[str, list[Line]] = {}
    for _, row in part.iterrows():
        heading, shown = _heading(row["agent"], summary)
        commands = {0: command(summary, row)} if row["status"] == "not run" else {}
        line = Line(shown, tuple(cell(row) for cell in columns.values()), summary.agents.colour(row["agent"]), commands)
        groups.setdefault(heading, []).append(line)
    return tuple((name, tuple(lines)) for name, lines in groups.items())


def command(summary: Summary, row: Mapping[str, str] | pd.Series) -> str:
    """The command that runs what a row lacks."""
    return run_command(summary.cells, row["protocol"], row["profile"], row["env"], row["agent"])


def _heading(agent: str, summary: Summary) -> tuple[str, str]:
    """The block that an agent stands in, and how it is called there."""
    if is_ablation(agent):
        return f"Ablations of {summary.agents.title(agent)}", settings_text(agent)
    more, label = summary.agents.card(agent).learns_from, summary.labels[agent]
    return GROUPS[summary.kinds[agent]], label if more in label else f"{label}: {more}"


ASTERISK = "An asterisk marks what differs from LeWM at 5 % after Holm's correction for that many."


FEW_RUNS = (
    "marked (one run) or (2 runs), after the side that has fewer, speak of those training runs and not of the methods, and "
    "have no asterisk"
)


def comparisons(part: pd.DataFrame, agents: Agents) -> str:
    """How many differences to LeWM a table holds, and what its asterisks mean; empty if it holds none."""
    shown, counted = part.loc[part["diff_p"].notna(), "agent"], part.loc[part["diff_p_holm"].notna(), "agent"]
    if shown.empty:
        return ""
    families = [f" among the ablations of {agents.title(a)}" if is_ablation(a) else "" for a in counted]
    numbers = {family: families.count(family) for family in dict.fromkeys(families)}
    told = " and ".join(f"{_compared(n)}{family}" for family, n in numbers.items())
    few = len(shown) - len(counted)
    sentences = [f"{told}. {ASTERISK}"] if told else []
    sentences += [f"{_compared(few)} {FEW_RUNS}."] if few else []
    return f"Minus LeWM: {' '.join(sentences)}"


def _compared(count: int) -> str:
    return f"{count} comparison{'' if count == 1 else 's'}"
