"""How often intervals contain the truth and equal methods are called different: the tables of docs/protocol.md.

Outcomes are drawn from a logistic model whose truth is known: a rate, pairs of unequal difficulty, runs of unequal luck.
``pytest -m slow -s tests/core/test_coverage.py`` prints the tables.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lewm_bench.core import statistics as stats

PAIRS, SPREAD = 50, 1.5  # logits between pairs
NORMAL = np.random.default_rng(5).normal(size=100_000)
Draw = Callable[[np.random.Generator, int, float], np.ndarray]  # generator, seeds, true rate -> (seeds, pairs)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def centre(rate: float, spread: float) -> float:
    """The mean logit at which normal logits of this deviation have the mean rate."""
    low, high = -15.0, 15.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if logistic(middle + spread * NORMAL).mean() < rate else (low, middle)
    return low


def differing(runs: float) -> Draw:
    """Runs that differ by so many logits."""
    centres: dict[float, float] = {}

    def draw(rng: np.random.Generator, seeds: int, rate: float) -> np.ndarray:
        middle = centres.setdefault(rate, centres.get(rate) or centre(rate, float(np.hypot(SPREAD, runs))))
        logits = middle + SPREAD * rng.normal(size=(1, PAIRS)) + runs * rng.normal(size=(seeds, 1))
        return (rng.random((seeds, PAIRS)) < logistic(logits)).astype(float)

    return draw


def identical(rng: np.random.Generator, seeds: int, rate: float) -> np.ndarray:
    """Every seed solves the same pairs."""
    return np.tile((rng.random(PAIRS) < rate).astype(float), (seeds, 1))


def coverage(draw: Draw, seeds: int, rate: float, trials: int) -> float:
    rng, covered = np.random.default_rng(seeds), 0
    for _ in range(trials):
        found = stats.success_rate(draw(rng, seeds, rate), rng, resamples=400)
        covered += found.low <= rate <= found.high
    return covered / trials


def false_calls(runs: float, seeds: int, rate: float, trials: int) -> float:
    """How often two methods with the same distribution of runs, on the same pairs, are called different."""
    rng, called = np.random.default_rng(seeds), 0
    middle = centre(rate, float(np.hypot(SPREAD, runs)))
    for _ in range(trials):
        pairs = middle + SPREAD * rng.normal(size=(1, PAIRS))
        logits = [pairs + runs * rng.normal(size=(seeds, 1)) for _ in range(2)]
        sides = [(rng.random((seeds, PAIRS)) < logistic(x)).astype(float) for x in logits]
        found = stats.paired_comparison(*sides, rng, resamples=400)
        called += found.low > 0 or found.high < 0
    return called / trials


def test_three_seeds_that_solve_the_same_pairs_are_no_more_episodes():
    """Wilson's interval of seeds x pairs covers a true 97 % in 75 % of experiments."""
    assert coverage(identical, 3, 0.97, 300) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "draw", "least"),
    [
        ("all seeds solve the same pairs", identical, 0.89),
        ("runs alike", differing(0.0), 0.95),
        ("runs differ by 0.3", differing(0.3), 0.92),
        ("runs differ by 0.6", differing(0.6), 0.86),
    ],
)
def test_intervals_of_several_seeds_contain_the_methods_rate(name, draw, least):
    for seeds in (2, 3, 5):
        found = [coverage(draw, seeds, rate, 250) for rate in (0.5, 0.8, 0.9, 0.97)]
        print(f"{name}, {seeds} seeds: {', '.join(f'{100 * share:.0f}' for share in found)} %")
        assert min(found) >= least


@pytest.mark.slow
@pytest.mark.parametrize("runs", [0.0, 0.3, 0.6])
def test_three_seeds_seldom_call_equal_methods_different(runs):
    for seeds in (1, 3):
        found = [false_calls(runs, seeds, rate, 300) for rate in (0.5, 0.8, 0.95)]
        print(f"runs differ by {runs}, {seeds} seeds: {', '.join(f'{100 * share:.0f}' for share in found)} %")
        assert (max(found) > 0.2) if (runs, seeds) == (0.6, 1) else max(found) <= (0.12 if seeds == 3 else 0.18)
