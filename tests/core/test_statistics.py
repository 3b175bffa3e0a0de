"""Statistics against closed forms, scipy, brute force and simulation."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_bench.core import statistics as stats


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(matrix: np.ndarray) -> np.ndarray:
    """Every crossed resample of a tiny matrix, by enumeration."""
    seeds, pairs = map(range, matrix.shape)
    rows, columns = product(seeds, repeat=len(seeds)), list(product(pairs, repeat=len(pairs)))
    return np.array([matrix[np.ix_(r, c)].mean() for r in rows for c in columns])


# Wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 1, 0.0, 0.7935), (45, 50, 0.7864, 0.9565)],
)  # fmt: skip
def test_wilson_has_its_published_values(successes, n, low, high):
    found = stats.wilson(successes, n)
    assert found.value == successes / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 300), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_wilson_agrees_with_scipy(n, data, confidence):
    successes = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(successes, n).proportion_ci(confidence, "wilson")
    found = stats.wilson(successes, n, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_nothing_is_nan_and_nonsense_is_refused():
    assert np.isnan(stats.wilson(0, 0)).all()
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        stats.wilson(3, 2)
    with pytest.raises(ValueError, match="confidence"):
        stats.wilson(1, 2, confidence=95)


# The crossed bootstrap


def test_crossed_bootstrap_has_the_distribution_of_brute_force():
    matrix = np.array([[1.0, 0.0, 0.3], [0.2, 0.0, 0.9]])
    expected = draws(matrix)
    found = stats.crossed_means(matrix, generator(), 40_000)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert found.std() == pytest.approx(expected.std(), rel=0.02)
    places = np.linspace(0, 1, 51) + 1e-6  # off the few values that the mean of a tiny matrix can have
    shares = (found[:, None] <= places).mean(0) - (expected[:, None] <= places).mean(0)
    assert np.abs(shares).max() < 0.015


def test_crossed_bootstrap_with_one_seed_resamples_pairs():
    row = generator(1).random((1, 40))
    found = stats.crossed_means(row, generator(), 20_000)
    assert found.std() == pytest.approx(row.std() / np.sqrt(40), rel=0.03)


def test_a_pair_that_is_hard_for_every_seed_counts_once():
    hard = (np.arange(40) % 2).astype(float)
    shared = stats.crossed_means(np.tile(hard, (5, 1)), generator()).std()
    assert shared == pytest.approx(hard.std() / np.sqrt(40), rel=0.05)  # not / sqrt(200)


def test_missing_episodes_are_left_out():
    matrix = np.array([[1.0, 1.0, 0.0, 1.0], [1.0, np.nan, np.nan, np.nan]])
    assert stats.bootstrap_mean(matrix, generator()).value == pytest.approx(4 / 5)
    assert stats.success_rate(matrix, generator()).value == pytest.approx(4 / 5)
    assert np.isnan(stats.bootstrap_mean(np.full((2, 3), np.nan), generator())).all()


def test_one_seed_gets_wilson_exactly():
    matrix = np.array([[1.0] * 45 + [0.0] * 5])
    assert stats.success_rate(matrix, generator()) == stats.wilson(45, 50)
    # A second seed without a single episode is no second seed.
    assert stats.success_rate(np.vstack([matrix, np.full((1, 50), np.nan)]), generator()) == stats.wilson(45, 50)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_all_or_nothing_keeps_an_interval(outcome):
    found = stats.success_rate(np.full((3, 20), outcome), generator())
    assert found == stats.wilson(20 * outcome, 20)  # the three seeds share the pairs
    assert found.high - found.low > 0.15


def coverage(seeds: int, pairs: int, seed_spread: float, pair_spread: float, trials: int = 250) -> float:
    """How often the interval contains the true rate, by simulation of a logistic model with known truth."""
    rng = generator(seeds)
    everywhere = 1.5 + seed_spread * rng.normal(size=200_000) + pair_spread * rng.normal(size=200_000)
    truth = (1 / (1 + np.exp(-everywhere))).mean()
    covered = 0
    for _ in range(trials):
        logit = 1.5 + seed_spread * rng.normal(size=(seeds, 1)) + pair_spread * rng.normal(size=(1, pairs))
        matrix = (rng.random((seeds, pairs)) < 1 / (1 + np.exp(-logit))).astype(float)
        found = stats.success_rate(matrix, rng, resamples=400)
        covered += found.low <= truth <= found.high
    return covered / trials


@pytest.mark.parametrize(("seeds", "seed_spread", "pair_spread"), [(1, 0, 1.5), (2, 0, 1.5), (3, 0.3, 1.0)])
def test_intervals_cover_the_truth(seeds, seed_spread, pair_spread):
    assert coverage(seeds, 50, seed_spread, pair_spread) >= 0.91  # 0.95 less three standard errors of 250 trials


def test_missing_episodes_are_no_pairs():
    matrix = np.full((2, 30), np.nan)
    matrix[0, :20], matrix[1, :10] = 1.0, 1.0
    assert stats.success_rate(matrix, generator()) == stats.wilson(20, 20)
    assert np.isnan(stats.success_rate(np.full((2, 3), np.nan), generator())).all()


# Memory


def bootstraps():
    """Every bootstrap there is, of matrices with gaps."""
    matrix = (generator(5).random((3, 40)) < 0.6).astype(float)
    holes = np.where(generator(6).random((3, 40)) < 0.1, np.nan, matrix)
    values = generator(7).normal(3, 1, (2, 40))
    clusters = np.arange(40) // 2
    return [
        lambda: stats.crossed_means(holes, generator(3), 500),
        lambda: stats.paired_comparison(holes, matrix[:1], generator(3), resamples=500),
        lambda: stats.interquartile_mean_interval([matrix, holes], generator(3), resamples=500),
        lambda: stats.interquartile_mean_interval([matrix], generator(3), resamples=500, floors=[holes * 0.2]),
        lambda: stats.ratio_of_means(*values, generator(3), resamples=500),
        lambda: stats.clustered_auc(*values, clusters, generator(3), resamples=500),
        lambda: stats.resampled_sums(values.T, generator(3), resamples=500),
    ]


@pytest.mark.parametrize("at_once", [1, 97, 40 * 7])
def test_results_do_not_depend_on_how_much_is_drawn_at_once(monkeypatch, at_once):
    whole = [call() for call in bootstraps()]
    monkeypatch.setattr(stats, "AT_ONCE", at_once)
    for expected, call in zip(whole, bootstraps(), strict=True):
        np.testing.assert_allclose(call(), expected, rtol=1e-12)


def test_the_bootstrap_of_many_pairs_does_not_hold_them_all():
    """10,000 resamples of 20,000 pairs are 1.6 GB of indices, and as much of counts."""
    matrix = np.ones((1, 20_000))
    tracemalloc.start()
    try:
        stats.crossed_means(matrix, generator(), resamples=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 8 * stats.AT_ONCE < 8 * 1000 * 20_000


# Paired differences


def test_paired_difference_is_the_mean_difference_on_the_same_pairs():
    ours, reference = generator(1).random((2, 30)), generator(2).random((3, 30))
    found = stats.paired_comparison(ours, reference, generator())
    assert found.value == pytest.approx((ours.mean(0) - reference.mean(0)).mean())
    assert found.low < found.value < found.high


def test_paired_difference_beats_two_separate_intervals():
    hard = (generator(3).random(100) < 0.5).astype(float)
    ours = hard[None].copy()
    ours[0, np.flatnonzero(hard == 0)[:8]] = 1.0  # ours also solves eight pairs that the reference does not
    found = stats.paired_comparison(ours, hard[None], generator())
    assert found.value == pytest.approx(0.08) and found.low > 0
    assert stats.success_rate(ours, generator()).low < stats.success_rate(hard[None], generator()).high


def test_equal_outcomes_keep_the_interval_of_agresti_and_min():
    n = 50
    found = stats.paired_comparison(np.ones((1, n)), np.ones((1, n)), generator())
    half = scipy.stats.norm.ppf(0.975) * np.sqrt(1.0 / (n + 2)) / np.sqrt(n + 2)
    assert found == pytest.approx((0, -half, half, 1))


def test_paired_seeds_share_what_training_on_one_seed_does():
    """With one effect per seed in both agents the joint resampling cancels it, the separate one does not."""
    effect = np.array([[0.0], [1.0]]) * np.ones((1, 400))
    joint = stats.paired_comparison(effect, effect, generator(), seeds_paired=True)
    separate = stats.paired_comparison(effect, effect, generator())
    assert joint.high < 0.02 and separate.high > 0.4


def test_paired_difference_leaves_out_pairs_that_one_side_lacks():
    ours, reference = np.array([[1.0, 1.0, np.nan]]), np.array([[0.0, np.nan, 0.0]])
    assert stats.paired_comparison(ours, reference, generator()).value == 1.0
    assert np.isnan(stats.paired_comparison(ours[:, 2:], reference[:, 2:], generator())).all()


def test_paired_difference_refuses_other_pairs_and_other_seeds():
    with pytest.raises(ValueError, match="same pairs"):
        stats.paired_comparison(np.ones((1, 3)), np.ones((1, 4)), generator())
    with pytest.raises(ValueError, match="as many rows"):
        stats.paired_comparison(np.ones((1, 3)), np.ones((2, 3)), generator(), seeds_paired=True)
    with pytest.raises(ValueError, match=r"\(seeds, pairs\)"):
        stats.bootstrap_mean(np.ones(3), generator())


def test_paired_difference_covers_the_truth():
    rng, covered = generator(7), 0
    for _ in range(250):
        skill = rng.normal(size=(1, 50))
        ours = (rng.random((2, 50)) < 1 / (1 + np.exp(-1.5 - skill))).astype(float)
        reference = (rng.random((1, 50)) < 1 / (1 + np.exp(-0.5 - skill))).astype(float)
        found = stats.paired_comparison(ours, reference, rng, resamples=400)
        covered += found.low <= 0.1765 <= found.high  # E[sigmoid(1.5 + z)] - E[sigmoid(0.5 + z)], z ~ N(0, 1)
    assert covered / 250 >= 0.91


# Aggregates


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    assert stats.interquartile_mean(np.array(values)) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_interquartile_mean_works_over_the_last_axis():
    values = generator().random((5, 3, 9))
    expected = scipy.stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(stats.interquartile_mean(values), expected)


def test_interquartile_mean_interval_draws_within_environments():
    """Two environments, one seed each: every resample of the pairs of both, by enumeration."""
    first, second = np.array([[0.0, 1.0, 1.0]]), np.array([[0.2, 0.4]])
    expected = [(a + b) / 2 for a in draws(first) for b in draws(second)]
    found = stats.interquartile_mean_interval([first, second], generator(), confidence=0.9)
    assert found.value == pytest.approx((2 / 3 + 0.3) / 2)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.05, 0.95])), abs=1e-9)


def test_interquartile_mean_interval_draws_seeds_too():
    apart = np.array([[0.0] * 50, [1.0] * 50])  # pairs do not vary, seeds do
    found = stats.interquartile_mean_interval([apart], generator())
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_interquartile_mean_ignores_an_outlying_environment_and_claims_no_empty_interval():
    matrices = [np.full((1, 10), v) for v in (0.0, 0.6, 0.6, 0.6)]
    found = stats.interquartile_mean_interval(matrices, generator())
    assert found.value == pytest.approx(0.6) and np.isnan(found.low)
    assert np.isnan(stats.interquartile_mean_interval([np.full((1, 2), np.nan)], generator())).all()


def test_the_floor_is_resampled_with_the_pairs_of_the_scores():
    """One environment, one seed each: every resample of the pairs that both share, by enumeration."""
    ours, floor = np.array([[1.0, 0.6, 0.2]]), np.array([[0.5, 0.1, 0.0]])
    expected = [
        (ours[0, list(p)].mean() - f) / (1 - f) for p in product(range(3), repeat=3) for f in [floor[0, list(p)].mean()]
    ]
    found = stats.interquartile_mean_interval([ours], generator(), confidence=0.9, floors=[floor])
    assert found.value == pytest.approx((0.6 - 0.2) / 0.8)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.05, 0.95])), abs=1e-9)


def test_the_seeds_of_the_floor_are_resampled_too():
    """Scores that do not vary at all, above a floor of two seeds: 0, 0.25 or 0.5, the middle one half of the time."""
    ours, floor = np.full((1, 8), 0.75), np.array([[0.0], [0.5]]) * np.ones((1, 8))
    found = stats.interquartile_mean_interval([ours], generator(), floors=[floor])
    assert (found.low, found.value, found.high) == pytest.approx((0.5, (0.75 - 0.25) / 0.75, 0.75))


def test_a_floor_that_reaches_everything_leaves_nothing_to_be_above():
    found = stats.interquartile_mean_interval([np.ones((1, 4))], generator(), floors=[np.ones((1, 4))])
    assert np.isnan(found).all()


def test_floor_normalised():
    assert stats.floor_normalised(0.2, 0.2) == 0 and stats.floor_normalised(1.0, 0.2) == 1
    np.testing.assert_allclose(stats.floor_normalised(np.array([0.6, 0.1]), 0.2), [0.5, -0.125])
    assert np.isnan(stats.floor_normalised(1.0, 1.0))


def test_quartiles_skip_missing_values():
    assert stats.quartiles([4.0, np.nan, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)
    assert np.isnan(stats.quartiles([])).all()


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=25))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_spearman_agrees_with_scipy_also_with_ties(points):
    x, y = np.array(points, float).T
    np.testing.assert_allclose(stats.ranks(x), scipy.stats.rankdata(x))
    if np.ptp(x) and np.ptp(y):
        assert stats.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    else:
        assert np.isnan(stats.spearman(x, y))


def test_spearman_refuses_shapes_that_do_not_match_and_passes_on_nan():
    with pytest.raises(ValueError, match="one length"):
        stats.spearman(np.ones(3), np.ones(4))
    assert np.isnan(stats.spearman(np.array([1.0, np.nan, 2.0]), np.arange(3.0)))


def test_equal_generators_give_equal_numbers():
    matrix = (generator(5).random((3, 20)) < 0.6).astype(float)
    calls = [
        lambda rng: stats.success_rate(matrix, rng),
        lambda rng: stats.paired_comparison(matrix, matrix[:1], rng),
        lambda rng: stats.interquartile_mean_interval([matrix, matrix], rng),
    ]
    for call in calls:
        assert call(generator(3)) == call(generator(3))
