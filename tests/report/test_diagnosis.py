"""What holds an agent back, on records and numbers whose right answer is known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import OTHER, absent, cell, parse
from test_verdict import PAIRS, found, ran

from lewm_bench.core.statistics import METHOD_RUNS, Difference, wilson
from lewm_bench.report import write
from lewm_bench.report.diagnosis import LOW, MARGIN, Bound, Case, Diagnosis, Latent, finding, told_of
from lewm_bench.report.needed import needed, needed_at_first, rounded, seeds_weigh_more
from lewm_bench.report.page import _in_short
from lewm_bench.report.tables.markdown import md
from lewm_bench.report.tables.terminal import terminal
from lewm_bench.run.records import CellRecord

RANDOM = ran("random", 2, 1)
ORACLE = ran("oracle", PAIRS, 1)


def codes(*cells: list[CellRecord]) -> dict[str, str]:
    """Agent to code, of those that anything is said of."""
    return {d.place[-1]: d.finding.code for d in found(*cells).diagnoses}


def lewm(reached: int, latent: float | None = None, pairs: int = 20, seeds: int = 3) -> list[CellRecord]:
    """LeWM, the true simulator with its latent cost in the first seed only."""
    record = {"record": {"latent_oracle_hit": latent, "latent_oracle_pairs": pairs}} if latent is not None else {}
    return [*ran("lewm", reached, 1, **record), *ran("lewm", reached, seeds)[1:]]


def only(*cells: list[CellRecord]) -> Diagnosis:
    (told,) = found(*cells).diagnoses
    return told


# One code for each fault, from records.


def test_where_a_reflex_reaches_the_ceiling_there_is_nothing_to_tell():
    summary = found(lewm(49), ran("gcbc", 48, 1), ran("greedy", PAIRS, 1), ORACLE, RANDOM)
    assert codes(lewm(49), ran("greedy", PAIRS, 1), ORACLE, RANDOM) == {"lewm": "nothing to tell"}
    (line,) = told_of(summary.contests[0], summary.diagnoses)  # one sentence for both
    assert line.startswith(
        "LeWM and GCBC (one training run): nothing to tell: greedy, which learns nothing, reaches 100.0 % ["
    )
    assert "the oracle 100.0 % [92.9, 100.0], by pairs +0.0 [-3.8, +3.8] points." in line


def test_an_agent_far_below_both_is_at_fault_all_the_same():
    assert codes(lewm(20, 0.3), ran("greedy", PAIRS, 1), ORACLE) == {"lewm": "metric"}


def test_few_pairs_do_not_show_that_there_is_no_room():
    few = [ran(agent, n, 1, pairs=10) for agent, n in (("lewm", 9), ("greedy", 9), ("oracle", 10))]
    told = only(*few)
    assert told.finding.code == "more pairs" and "may be room between them or none; about" in told.sentence
    assert "there are 10." in told.sentence


def test_an_oracle_that_is_low_puts_the_fault_on_the_planner():
    told = only(lewm(24, 0.2), ran("oracle", 25, 1), RANDOM)
    assert told.finding.code == "planner"
    assert "plans on the true simulator and reaches only 50.0 % [36.6, 63.4]; the agent 48.0 % [" in told.sentence


def test_low_ends_where_the_interval_of_the_oracle_holds_the_bar():
    low = [n for n in range(PAIRS + 1) if wilson(n, PAIRS).high < LOW]
    assert codes(lewm(low[-1]), ran("oracle", low[-1], 1), RANDOM) == {"lewm": "planner"}
    assert codes(lewm(low[-1] + 1), ran("oracle", low[-1] + 1, 1), RANDOM) == {"lewm": "fine"}


def test_below_a_low_oracle_the_model_is_at_fault_and_the_oracle_is_called_low():
    told = only(lewm(5, 0.0), ran("oracle", 30, 1), RANDOM)
    assert told.finding.code == "metric" and "; even the oracle 60.0 % [" in told.sentence


@pytest.mark.parametrize(
    ("latent", "pairs", "code", "words"),
    [
        (0.3, 20, "metric", "the latent metric is at fault: in seed 0 the true simulator with its own latent cost"),
        (1.0, 20, "dynamics", "the dynamics are at fault"),
        (0.65, 100, "metric and dynamics", "metric and dynamics are both at fault"),
        (0.8, 10, "more pairs", "metric or dynamics: in seed 0"),
        (None, 0, "more pairs", "was not measured here"),
    ],
)
def test_the_true_simulator_with_the_latent_cost_tells_metric_from_dynamics(latent, pairs, code, words):
    told = only(lewm(20, latent, pairs), ORACLE, RANDOM)
    assert told.finding.code == code and words in told.sentence
    assert "40.0 % [" in told.sentence and "the oracle 100.0 % [92.9, 100.0]" in told.sentence


def test_the_gap_must_be_told_by_the_number_of_pairs_of_the_latent_cost_itself():
    """10 of 12 is within what 50 of 50 may be by chance, 15 of 20 is not."""
    assert wilson(10, 12).high > wilson(50, 50).low > wilson(15, 20).high
    assert codes(lewm(40, 10 / 12, 12), ORACLE, RANDOM) == {"lewm": "more pairs"}
    assert codes(lewm(40, 15 / 20, 20), ORACLE, RANDOM) == {"lewm": "metric"}


def test_a_policy_below_the_ceiling_has_itself_to_blame():
    told = only(ran("gcbc", 20, 1), ORACLE, RANDOM)
    assert told.finding.code == "policy" and told.sentence.startswith("GCBC (one training run): what it learned is at")


def test_what_is_not_told_apart_from_the_ceiling_and_near_it_is_fine():
    assert codes(lewm(PAIRS), ORACLE, RANDOM) == {"lewm": "fine"}
    assert codes(ran("gcbc", PAIRS), ran("oracle", 45, 1), RANDOM) == {"gcbc": "fine"}  # above the ceiling


def test_not_told_apart_and_not_near_needs_more_pairs():
    told = only(ran("lewm", 46, 1), ORACLE, RANDOM)
    assert told.finding.code == "more pairs" and "so it may be below the ceiling or not" in told.sentence
    assert "there are 50." in told.sentence


def test_trainings_that_differ_need_more_seeds():
    spread = [cell("lewm", [1] * n + [0] * (PAIRS - n), seed=i, weights="trained") for i, n in enumerate((50, 50, 20))]
    told = only(spread, ORACLE, RANDOM)
    assert told.finding.code == "more seeds" and "its 3 trainings differ, about" in told.sentence


def test_a_latent_cost_tried_in_a_training_that_is_fine_says_nothing_of_the_others():
    record = {"latent_oracle_hit": 1.0, "latent_oracle_pairs": 20}
    members = [*ran("lewm", PAIRS, 1, record=record), *ran("lewm", 25, 3)[1:], *ran("lewm", 20, 4)[3:]]
    told = only(members, ORACLE, RANDOM)
    assert told.finding.code == "more seeds" and "--seeds 3 " in told.sentence


# Trainings that came to nothing.


def test_a_collapse_comes_before_everything_else():
    gone = {"training": {"step": [0.0, 1.0], "latent_std": [0.5, 0.01]}}
    told = only(ran("lewm", 2, 1, **gone), ORACLE, RANDOM)
    assert told.finding.code == "never trained"
    assert "in its only training the latents collapsed (standard deviation 0.01 at the end)" in told.sentence
    assert codes(ran("lewm", PAIRS, 1, **gone), ORACLE, RANDOM) == {"lewm": "fine"}  # whatever its latents, it arrives


def test_a_training_given_up_counts_even_where_the_others_are_fine():
    failed = absent("lewm", "failed", "the latents collapsed (standard deviation 0.01 < 0.02 at step 9)", seed=2)
    told = only(ran("lewm", PAIRS, 2), [failed], ORACLE, RANDOM)
    assert told.finding.code == "never trained" and "in 1 of 3 trainings the latents collapsed" in told.sentence


def test_an_agent_of_which_nothing_is_left_is_named_behind_the_others():
    reason = "the policy never left the mean action (at the end its error is 99.0 % of the mean action's)"
    summary = found(lewm(PAIRS), [absent("gcbc", "failed", reason, kind="policy")], ORACLE, RANDOM)
    assert [d.finding.code for d in summary.diagnoses] == ["fine", "never trained"]
    other = [absent("gcbc", "failed", "no space left", kind="policy")]
    assert codes(lewm(PAIRS), other, ORACLE, RANDOM) == {"lewm": "fine"}


def test_a_policy_kept_at_the_mean_action_never_trained():
    idle = {"training": {"step": [0.0] * 9, "policy": [0.995] * 9, "mean_action": [1.0] * 9}}
    told = only(ran("gcbc", 3, 1, **idle), ORACLE, RANDOM)
    assert told.finding.code == "never trained" and "in its only training the policy never left" in told.sentence


# Where nothing is said, and of which task.


def test_without_a_ceiling_on_the_same_pairs_nothing_is_said():
    assert codes(lewm(20), RANDOM) == {}
    far = [e.model_copy(update={"distance_start": 99.0}) for e in ORACLE[0].episodes]
    assert codes(lewm(20), [ORACLE[0].model_copy(update={"episodes": tuple(far)})], RANDOM) == {}


def test_the_task_is_that_of_the_verdict_or_where_the_latent_cost_was_tried():
    near = [*lewm(20, 0.3, seeds=1), *ORACLE, *ran("gcbc", 20, 1)]
    far = [*ran("lewm", 20, 1, offset=50), *ran("oracle", PAIRS, 1, offset=50), *ran("gcbc", 20, 1, offset=50)]
    both = [
        a.model_copy(update={"offsets": a.offsets + b.offsets, "episodes": (*a.episodes, *b.episodes)})
        for a, b in zip(near, [far[0], far[1], far[2]], strict=True)
    ]
    told = {d.place[-1]: d for d in found(both).diagnoses}
    assert (told["lewm"].place[3], told["gcbc"].place[3]) == (25, 50)
    assert told["lewm"].sentence.startswith("LeWM (one training run), goal 25 steps ahead: the latent metric")
    assert told["gcbc"].sentence.startswith("GCBC (one training run): what")


# Numbers alone.


def case(rng: np.random.Generator) -> Case:
    """Numbers that may go together or not."""

    def rate() -> Bound:
        n = int(rng.integers(5, 80))
        return Bound("x", wilson(int(rng.binomial(n, rng.choice([0.05, 0.5, 0.8, 1.0]))), n))

    agent, ceiling, floor, latent = rate().rate, rate(), rate(), rate().rate
    half = float(rng.uniform(0.01, 0.4))

    def minus(a, b) -> Difference:
        return Difference(a.value - b.value, a.value - b.value - half, a.value - b.value + half, math.nan)

    return Case(
        kind=str(rng.choice(["world model", "policy"])), rate=agent, pairs=50, runs=int(rng.integers(1, 5)), ceiling=ceiling,
        to_ceiling=minus(agent, ceiling.rate), floor=floor, room=minus(ceiling.rate, floor.rate),
        latent=Latent(latent, 20, (0,), agent) if rng.random() < 0.8 else None,
        seeds_weigh_more=bool(rng.random() < 0.5), worst_seed=1,
    )  # fmt: skip


def test_nothing_is_blamed_where_intervals_overlap():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(3000):
        it = case(rng)
        code = finding(it).code
        seen.add(code)
        if code in ("metric", "dynamics", "metric and dynamics", "policy"):
            assert it.to_ceiling.high < 0
        if "metric" in code:
            assert it.latent.rate.high < it.ceiling.rate.low
        if "dynamics" in code:
            assert it.latent.own.high < it.latent.rate.low
        if code == "planner":
            assert it.ceiling.rate.high < LOW and it.to_ceiling.high >= 0
        if code == "nothing to tell":
            assert it.room.high < MARGIN
        if code == "fine":
            assert it.to_ceiling.low > -MARGIN
    assert seen == {
        "nothing to tell", "planner", "metric", "dynamics", "metric and dynamics", "policy", "fine", "more pairs", "more seeds",
    }  # fmt: skip


def test_the_margins_themselves_decide_nothing():
    rate = wilson(40, 50)
    edge = Case("policy", rate, 50, 1, Bound("the oracle", wilson(50, 50)), Difference(-0.05, -MARGIN, 0.0, math.nan))
    assert finding(edge).code == "more pairs"
    assert finding(replace(edge, to_ceiling=edge.to_ceiling._replace(low=-0.0999))).code == "fine"
    assert finding(replace(edge, to_ceiling=edge.to_ceiling._replace(high=-0.0001))).code == "policy"
    floor = {"floor": Bound("greedy", rate), "room": Difference(0.05, -0.01, MARGIN, math.nan)}
    assert finding(replace(edge, **floor)).code == "more pairs"


def test_how_many_are_needed_grows_with_the_width_and_falls_with_the_gap():
    by_width = [needed(50, half, 0.1) for half in np.linspace(0.05, 0.4, 30)]
    by_gap = [needed(50, 0.2, gap) for gap in np.linspace(0.02, 0.5, 30)]
    at_first = [needed_at_first(gap) for gap in np.linspace(0.02, 0.5, 30)]
    assert by_width == sorted(by_width) and by_gap == sorted(by_gap, reverse=True)
    assert at_first == sorted(at_first, reverse=True) and min(by_gap) > 50
    shown = [rounded(n) for n in range(1, 3000)]
    assert shown == sorted(shown) and all(0 <= s - n < max(10, n / 10) for n, s in enumerate(shown, 1))
    assert [rounded(n) for n in (7, 113, 120, 1130)] == [10, 120, 120, 1200]


def test_as_many_as_are_needed_tell_a_share_from_one_half_in_four_of_five_tries():
    n, rng = needed_at_first(0.1), np.random.default_rng(0)
    hits = rng.binomial(n, 0.4, size=4000)
    assert np.mean([wilson(h, n).high < 0.5 for h in hits]) == pytest.approx(0.8, abs=0.03)


def test_seeds_weigh_more_where_trainings_differ_by_more_than_pairs_explain():
    rng = np.random.default_rng(0)
    equal = (rng.random((3, 400)) < 0.5).astype(float)
    apart = (rng.random((3, 400)) < np.array([[0.95], [0.9], [0.3]])).astype(float)
    assert seeds_weigh_more(apart) and not seeds_weigh_more(equal) and not seeds_weigh_more(apart[:1])
    assert METHOD_RUNS == 3


# Where it is shown.


def test_page_table_and_terminal_have_it(tmp_path):
    cells = [*lewm(20, 0.3), *ran("gcbc", 47), *ORACLE, *RANDOM, *ran("gcivl", 30, env=OTHER)]
    summary = write.write_report(cells, tmp_path, "t")
    metric = next(d for d in summary.diagnoses if d.place[-1] == "lewm")
    short = parse(_in_short(summary)).text
    assert metric.sentence in short and short.index(metric.sentence) < short.index("Task")
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert f"  - {md(metric.sentence)}\n" in text.split("##")[0]
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False).set_index(["env", "agent"])
    row = table.loc[(metric.place[2], "lewm")]
    assert (row["verdict"], row["verdict_text"]) == ("metric", metric.sentence)
    assert set(table.loc[table.index.get_level_values(0) == OTHER, "verdict"]) == {""}
    assert table.loc[(metric.place[2], "random"), "verdict"] == ""
    assert "  verdict: metric (lewm), more pairs (gcbc)\n" in terminal(summary)
