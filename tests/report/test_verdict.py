"""The verdict on records whose right answer is known by hand, and the table of all agents under it."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from test_report import ENV, OTHER, absent, cell, parse

from lewm_bench.agents import AGENTS
from lewm_bench.core import statistics as stats
from lewm_bench.report import summarise as report
from lewm_bench.report import write
from lewm_bench.report.page import INTRODUCTION, _in_short
from lewm_bench.report.summary import Summary
from lewm_bench.report.tables.markdown import md
from lewm_bench.run.records import CellRecord
from lewm_bench.run.registry import agent_family

PAIRS = 50
FLOORS = ("random", "greedy", "straight", "noop")


def ran(agent: str, reached: int, seeds: int = 3, pairs: int = PAIRS, **change) -> list[CellRecord]:
    """An agent that reaches the first so many goals in every seed."""
    hits = [1] * reached + [0] * (pairs - reached)
    kind = {"kind": "floor"} if agent in FLOORS else {}
    weights = "none" if agent in (*FLOORS, "oracle") else "trained"
    return [cell(agent, hits, seed=i, weights=weights, **kind, **change) for i in range(seeds)]


def found(*cells: list[CellRecord]) -> Summary:
    return report.summarise([c for members in cells for c in members], "t")


def said(*cells: list[CellRecord]) -> str:
    (text,) = found(*cells).verdict
    return text


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.])\s+(?=[A-Z])", text)


def test_a_policy_that_is_best_is_named_first_and_told_apart():
    text = said(ran("lewm", 20), ran("gcbc", 47), ran("pldm", 5), ran("random", 2, 1), ran("oracle", 50, 1))
    first, compared, bounds = sentences(text)
    assert first.startswith("PointMaze-UMaze-v0, goal 25 steps ahead (50 pairs, protocol clean-1, profile quick): GCBC")
    assert "most goals of the 3 agents measured that learn from the data, 94.0 % [" in first
    assert "(3 training seeds); LeWM reaches 40.0 % [" in first
    assert "GCBC is told apart from LeWM (+54.0 [" in compared and "PLDM (+84.0 [" in compared and "not" not in compared
    assert bounds.startswith("Floor: random actions 4.0 % [") and "the oracle 100.0 % [92.9, 100.0]." in bounds


def test_the_best_is_not_told_apart_from_what_lies_within_its_interval():
    text = said(ran("lewm", 20), ran("gcbc", 47), ran("pldm", 46), ran("random", 2, 1))
    assert "GCBC is told apart from LeWM (+54.0" in text and "not told apart from PLDM (+2.0 [" in text
    assert "cannot be told apart" not in text  # random actions are far below


def test_differences_to_lewm_are_those_of_the_table_with_the_sign_of_the_best():
    worse = found(ran("lewm", 45), ran("gcbc", 30), ran("random", 2, 1))
    (contest,) = worse.contests
    row = worse.table.set_index("agent").loc["gcbc"]
    (rival,) = contest.rivals
    assert contest.learners == ("lewm", "gcbc")
    assert rival.difference[:3] == pytest.approx((-row["diff_to_lewm"], -row["diff_high"], -row["diff_low"]))
    assert rival.corrected == row["diff_p_holm"]
    better = found(ran("lewm", 30), ran("gcbc", 45))
    row, (rival,) = better.table.set_index("agent").loc["gcbc"], better.contests[0].rivals
    assert rival.difference[:3] == pytest.approx((row["diff_to_lewm"], row["diff_low"], row["diff_high"]))


def test_the_best_pays_for_having_been_chosen():
    """Its p values are Holm's among all pairs of agents, never smaller than among its own comparisons."""
    reached = {"gcbc": 40, "pldm": 36, "gcivl": 33, "jepa-ema": 25}
    summary = found(*(ran(agent, n) for agent, n in reached.items()))
    rivals = summary.contests[0].rivals
    p = [r.difference.p for r in rivals]
    pairs = len(list(combinations(reached, 2)))
    ordered = sorted(p)
    by_hand = [max(ordered[j] * (pairs - j) for j in range(ordered.index(value) + 1)) for value in p]
    assert [r.corrected for r in rivals] == pytest.approx(np.minimum(by_hand, 1))
    assert all(r.corrected >= alone for r, alone in zip(rivals, stats.holm(p), strict=True))


def test_the_best_of_equals_is_seldom_told_apart_from_any():
    """Six equal methods: of 25 tables at most a few may tell the best from another (5 % are allowed)."""
    rng = np.random.default_rng(0)
    names = ("gcbc", "gcivl", "gciql", "pldm", "jepa-ema", "delta-jepa")
    wrong = 0
    for _ in range(25):
        hits = {a: [cell(a, rng.random(20) < 0.5, seed=i, weights="trained") for i in range(3)] for a in names}
        wrong += any(r.apart for r in found(*hits.values()).contests[0].rivals)
    assert wrong <= 3


def test_equals_share_the_first_place():
    text = said(ran("lewm", 40), ran("gcbc", 40), ran("pldm", 40, 1), ran("gcivl", 40), ran("gciql", 3))
    assert "reach equally many goals, the most of the 5 agents" in text and "and 1 more reach" in text
    assert "LeWM is told apart from GCIQL (+74.0 [" in text and "; not told apart from GCIVL (+0.0 [" in text
    assert "not compared with PLDM (fewer than 3 training runs)" in text


def test_of_equals_the_one_with_most_training_runs_is_compared():
    assert found(ran("lewm", 40, 1), ran("gcbc", 40)).contests[0].learners == ("gcbc", "lewm")


@pytest.mark.parametrize(("seeds", "word"), [(1, "one training seed"), (2, "2 training seeds")])
def test_one_or_two_runs_tell_no_methods_apart(seeds, word):
    text = said(ran("gcbc", 50, seeds), ran("lewm", 0, 3))
    assert f"GCBC has {word} only, and one or two runs do not stand for a method, so no methods are told apart." in text
    other = said(ran("gcbc", 50), ran("lewm", 0, seeds))
    assert "No other agent has 3 training runs" in other and "is told apart" not in text + other


def test_a_reflex_that_reaches_as_much_is_named():
    text = said(ran("gcbc", 40), ran("greedy", 40, 1), ran("random", 0, 1))
    assert "GCBC cannot be told apart from greedy (+0.0 [" in text and "what learns nothing reaches as much." in text
    near = said(ran("gcbc", 40), ran("greedy", 39, 1))
    assert "what learns nothing may reach as much." in near
    assert "as much" not in said(ran("gcbc", 40), ran("greedy", 5, 1))
    assert "GCBC does worse than greedy (-80.0 [" in said(ran("gcbc", 5), ran("greedy", 45, 1))


def test_a_single_run_is_called_one_beside_a_reflex():
    assert "this training run of GCBC cannot be told apart from greedy" in said(
        ran("gcbc", 40, 1), ran("greedy", 40, 1)
    )


def test_floors_and_ceilings_alone_are_told_as_they_are():
    text = said(ran("greedy", 25, 1), ran("random", 0, 1), ran("oracle", 50, 1))
    assert "no agent that learns from the data was measured. Floor: greedy 50.0 % [" in text
    assert "told apart" not in text and "with the simulator's state: the oracle 100.0 % [" in text


def test_one_that_learns_is_compared_with_none():
    text = said(ran("lewm", 40, 1), ran("random", 2, 1))
    assert "LeWM is the only agent measured that learns from the data and reaches 80.0 % [" in text
    assert "told apart" not in text


def test_arms_are_compared_only_where_there_is_nothing_else():
    arms = ran("lewm:dropout=0", 45), ran("lewm:dropout=0.5", 10)
    text = said(*arms, ran("random", 1, 1))
    assert "LeWM with dropout=0 reaches most goals of the 2 agents" in text
    assert "LeWM with dropout=0 is told apart from LeWM with dropout=0.5 (+70.0" in text
    assert "dropout" not in said(*arms, ran("lewm", 30))
    assert "with cost=path 100.0 %" in said(ran("lewm", 30), [cell("oracle:cost=path", [1] * PAIRS, kind="privileged")])


def test_nothing_measured_is_said():
    assert found([absent("lewm", "failed", "NaN"), absent("pldm")]).verdict == (
        "Nothing was measured yet: 1 failed, 1 not run.",
    )


def test_agents_on_other_pairs_are_not_compared():
    """Other start distances are other pairs, whatever their numbers."""
    moved = [
        c.model_copy(update={"episodes": tuple(e.model_copy(update={"distance_start": 99.0}) for e in c.episodes)})
        for c in ran("pldm", 10)
    ]
    assert "not compared with PLDM (other pairs)" in said(ran("gcbc", 40), moved)


def test_the_leading_task_needs_a_plan_and_lies_farthest():
    """Which one it is does not hang on what was reached."""
    cells = [
        *ran("gcbc", 10, protocol="clean-2/planning", offset=50), *ran("lewm", 20, protocol="clean-2/planning", offset=50),
        *ran("gcbc", 50, protocol="clean-2/plain", offset=90), *ran("lewm", 1, protocol="clean-2/plain", offset=90),
        *ran("gcbc", 30, env=OTHER), *ran("lewm", 20, env=OTHER),
    ]  # fmt: skip
    first, second = report.summarise(cells, "t").verdict
    assert first.startswith("PointMaze-UMaze-v0, goal 50 steps ahead, planning pairs") and "LeWM reaches most" in first
    assert second.startswith("Wall-v0, goal 25 steps ahead (50 pairs") and "GCBC reaches most" in second


def test_no_sentence_is_long_however_many_agents_there_are():
    names = [name for name in AGENTS if agent_family(name).card.papers][:9]
    text = said(*(ran(a, 50 - 6 * i) for i, a in enumerate(names)), *(ran(f, 30, 1) for f in FLOORS))
    assert max(len(s.split()) for s in sentences(text)) <= 62, sentences(text)


# Where it is shown.


def test_the_page_begins_with_the_verdict_and_shows_all_agents(tmp_path):
    cells = [*ran("lewm", 20), *ran("gcbc", 47), *ran("oracle", 50, 1), *ran("random", 2, 1), *ran("pldm:dropout=0", 9)]
    summary = write.write_report([*cells, *ran("gcivl", 30, env=OTHER)], tmp_path, "t")
    short = parse(_in_short(summary)).text
    assert short.startswith(summary.verdict[0]) and short.index("Task") < short.index(INTRODUCTION[:40])
    header = re.findall(r"<th scope=\"col\">(.*?)</th>", _in_short(summary))
    assert header == ["Task", "GCBC, %", "LeWM, %", "GCIVL, %", "oracle, %", "random actions, %"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert f"What was found:\n\n- {md(summary.verdict[0])}" in text.split("##")[0]
    assert "not run" in short and f"--envs {ENV} --agents gcivl" in short
