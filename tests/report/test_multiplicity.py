"""p values of paired differences, Holm's correction and binomial ranges, against independent reckonings."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from test_report import DINO, LEWM, OTHER, RANDOM, cell, row

from lewm_bench.core import statistics as stats
from lewm_bench.report import summarise as report
from lewm_bench.report.caption import INTERVALS
from lewm_bench.report.tables.markdown import markdown
from lewm_bench.report.tables.results import _difference


def by_definition(p):
    """Holm's adjusted values as the definition reads: the largest (m - j + 1) p_(j) over j <= i, at most 1."""
    order = np.argsort(p)
    return [min(1, max((len(p) - j) * p[order[j]] for j in range(list(order).index(i) + 1))) for i in range(len(p))]


def test_holm_is_its_definition_and_leaves_gaps_out():
    p = np.random.default_rng(0).random(9) ** 3
    assert stats.holm(p) == pytest.approx(by_definition(p))
    assert stats.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert stats.holm([]).shape == (0,) and stats.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_holm_keeps_the_chance_of_any_false_call():
    """Twelve comparisons of nothing: the uncorrected calls go wrong in 46 % of tables, the corrected in 5 %."""
    p = np.random.default_rng(1).random((4000, 12))
    assert (p.min(1) < 0.05).mean() == pytest.approx(0.46, abs=0.03)
    assert np.mean([stats.holm(row).min() < 0.05 for row in p]) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_p_value_belongs_to_the_interval(confidence):
    """0 lies outside the interval exactly where p is below 1 - confidence."""
    rng = np.random.default_rng(2)
    agree = []
    for shift in np.linspace(0, 0.35, 30):
        ours, theirs = (rng.random((1, 60)) < 0.45 + s for s in (shift, 0))
        found = stats.paired_comparison(ours, theirs, rng, confidence=confidence, resamples=2000)
        if abs(found.p - (1 - confidence)) > 0.3 * (1 - confidence):  # resampling decides near the border
            agree.append((found.low > 0 or found.high < 0) == (found.p < 1 - confidence))
    assert len(agree) > 15 and all(agree)


def test_the_p_value_knows_that_trainings_differ():
    """Seeds that come out at 0.9 or 0.3: the resampled seeds decide, not the pairs."""
    rng = np.random.default_rng(5)
    agree = []
    for shift in np.linspace(0, 0.4, 40):
        rates = np.array([0.9, 0.3, 0.9, 0.3]) - shift
        ours = rng.random((4, 200)) < np.clip(rates, 0, 1)[:, None]
        theirs = rng.random((4, 200)) < 0.6
        found = stats.paired_comparison(ours, theirs, rng, resamples=2000)
        if abs(found.p - 0.05) > 0.015:
            agree.append((found.high < 0) == (found.p < 0.05))
    assert len(agree) > 25 and all(agree)


def test_p_values_of_nothing_are_seldom_small():
    rng = np.random.default_rng(3)
    draws = [(rng.random((1, 50)) < 0.6, rng.random((1, 50)) < 0.6) for _ in range(400)]
    p = np.array([stats.paired_comparison(a, b, rng, resamples=500).p for a, b in draws])
    assert (p < 0.05).mean() < 0.075 and (p < 0.5).mean() > 0.3


def test_p_is_near_mcnemar_and_never_zero():
    ours, theirs = np.zeros((1, 100)), np.zeros((1, 100))
    ours[0, :18], theirs[0, 18:24] = 1, 1  # 18 pairs against 6
    found = stats.paired_comparison(ours, theirs, np.random.default_rng(4))
    exact = scipy.stats.binomtest(6, 24).pvalue
    assert found.p == pytest.approx(exact, rel=0.6)
    same = stats.paired_comparison(ours, ours, np.random.default_rng(4))
    assert same.p == 1
    assert 0 < stats.paired_comparison(np.ones((1, 50)), np.zeros((1, 50)), np.random.default_rng(4)).p < 0.001
    assert np.isnan(stats.paired_comparison(ours * np.nan, ours, np.random.default_rng(4))).all()


@pytest.mark.parametrize(("share", "n"), [(0.5, 50), (0.93, 50), (0.02, 100), (1 / 3, 7)])
def test_binomial_range_agrees_with_scipy(share, n):
    assert stats.binomial_range(share, n) == pytest.approx(tuple(scipy.stats.binom.ppf([0.025, 0.975], n, share) / n))


def test_binomial_range_of_certainty_is_a_point():
    assert stats.binomial_range(1.0, 50) == (1, 1) and stats.binomial_range(0.0, 50) == (0, 0)


# In tables


def many():
    close = [[1] * k + [0] * (10 - k) for k in (9, 8, 8)]
    trained = {"lewm": LEWM, "dino-wm:mae": DINO, **{f"lewm:dropout={i}": hits for i, hits in enumerate(close)}}
    return [
        *(cell(agent, hits, seed=i, weights="trained") for agent, hits in trained.items() for i in range(3)),
        cell("random", RANDOM), cell("noop", [0] * 10), cell("pldm", LEWM, env=OTHER),
    ]  # fmt: skip


def test_each_table_is_a_family_and_arms_are_their_own():
    table = report.build_tables(many())
    main = [row(table, a) for a in ("random", "noop", "dino-wm:mae")]
    assert [r["diff_p_holm"] for r in main] == pytest.approx(list(stats.holm([r["diff_p"] for r in main])))
    arms = [row(table, f"lewm:dropout={i}") for i in range(3)]
    assert [r["diff_p_holm"] for r in arms] == pytest.approx(list(stats.holm([r["diff_p"] for r in arms])))
    assert np.isnan(row(table, "lewm")["diff_p"])


def test_every_agent_is_compared_with_lewm_variants_and_arms_too():
    table = report.build_tables(many()).set_index(["env", "agent"])
    here = table.loc[many()[0].env]
    assert here["diff_to_lewm"].notna().sum() == 6
    assert here.loc["dino-wm:mae", "diff_to_lewm"] == pytest.approx(-0.2)
    assert here.loc["lewm:dropout=1", "diff_to_lewm"] == pytest.approx(np.mean([1] * 8 + [0] * 2) - 0.9)


def test_tables_count_the_comparisons_and_mark_what_survives():
    summary = report.summarise(many(), "t")
    text = markdown(summary)
    assert "Minus LeWM: 3 comparisons and 3 comparisons among the ablations of LeWM." in text
    (noop,) = [line for line in text.splitlines() if line.startswith("| noop | 0.0")]
    assert r" \* |" in noop
    (mae,) = [line for line in text.splitlines() if line.startswith("| dino-wm:mae |") and "[" in line]
    assert r"\*" not in mae
    assert "Holm's correction" in INTERVALS
    alone = markdown(report.summarise([cell("lewm", LEWM), cell("pldm", DINO)], "t"))
    assert "Minus LeWM: 1 comparison." in alone
    assert "Minus LeWM:" not in markdown(report.summarise([cell("pldm", DINO)], "t"))


def runs(*agents, seeds=3, weights="trained"):
    """Cells of agents that differ from LeWM everywhere, with so many training seeds."""
    return [cell(a, [0] * 10, seed=i, weights=weights) for a in agents for i in range(seeds)]


def lewm(seeds=3):
    return [cell("lewm", [1] * 10, seed=i, weights="trained") for i in range(seeds)]


@pytest.mark.parametrize(
    ("ours", "theirs", "word"), [(3, 3, "*"), (1, 3, "(one run)"), (3, 1, "(one run)"), (2, 5, "(2 runs)")]
)
def test_fewer_than_three_training_seeds_are_runs_and_not_a_method(ours, theirs, word):
    table = report.build_tables([*runs("gcbc", seeds=ours), *lewm(theirs)])
    found = row(table, "gcbc")
    assert _difference(found).endswith(word) and ("*" in _difference(found)) == (word == "*")
    assert found["diff_runs"] == min(ours, theirs) and found["diff_p"] < 0.05
    assert np.isnan(found["diff_p_holm"]) == (word != "*")


@pytest.mark.parametrize(("seeds", "word"), [(3, "*"), (1, "(one run)")])
def test_what_does_not_train_needs_no_training_seeds_but_lewm_does(seeds, word):
    """Two seeds of random actions are two draws of actions, not two trainings."""
    table = report.build_tables(
        [*(cell("random", [0] * 10, seed=i) for i in range(2)), cell("oracle", [0] * 10), *lewm(seeds)]
    )
    for agent in ("random", "oracle"):
        assert _difference(row(table, agent)).endswith(word)
        assert row(table, agent)["diff_runs"] == seeds


def test_downloaded_weights_are_one_run_and_untrained_ones_as_many_as_seeds():
    pretrained, untrained = runs("theirs", weights="pretrained"), runs("fresh", weights="random")
    table = report.build_tables([*pretrained, *untrained, *lewm()])
    assert (row(table, "theirs")["diff_runs"], row(table, "fresh")["diff_runs"]) == (1, 3)


def test_comparisons_of_runs_are_counted_by_themselves_and_not_corrected_for():
    few = runs("gcbc", "gcivl", "gciql", seeds=2)
    text = markdown(report.summarise([*few, *runs("pldm"), *lewm()], "t"))
    assert (
        "Minus LeWM: 1 comparison. An asterisk marks" in text and "3 comparisons marked (one run) or (2 runs)" in text
    )
    table = report.build_tables([*few, *runs("pldm"), *lewm()])
    assert row(table, "pldm")["diff_p_holm"] == row(table, "pldm")["diff_p"]
    none = markdown(report.summarise([*few, *lewm(1)], "t"))
    assert "Minus LeWM: 3 comparisons marked" in none and "An asterisk" not in none.split("How to read it")[0]
