"""Tuning: the searches against closed forms and grids, and the whole command on an agent that trains in milliseconds."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from commands import outcome
from hypothesis import given
from hypothesis import strategies as st
from layering import reachable, top
from pydantic import Field
from scipy import stats
from toy_env import ToyEnv

from lewm_bench.agent import AgentConfig, Family, Loaded
from lewm_bench.agents import AGENTS
from lewm_bench.core.errors import NotRun, TrainingFailed
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension, Tried, bisect, distance, random_point
from lewm_bench.report import tuning as tune_report
from lewm_bench.report.figures import tuning as tuning_figures
from lewm_bench.run import stages
from lewm_bench.run.benchmarks import load
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import parse_overrides, resolve
from lewm_bench.run.tuning import tune
from lewm_bench.run.tuning.trials import Fresh, Trial, Tuning, agent_with
from lewm_bench.train.loop import TrainingLog

ROUNDING = 0.005  # of 3 significant digits, relative, at most
WEIGHT = Dimension("weight", 0.001, 0.3)


# Dimensions.

bounds = st.tuples(st.floats(1e-6, 10), st.floats(1.5, 1e6)).map(lambda b: (b[0], b[0] * b[1]))
places = st.floats(0, 1)


@given(bounds, places, places)
def test_a_logarithmic_dimension_is_the_geometric_interpolation(ends, first, second):
    low, high = ends
    d = Dimension("x", low, high)
    for place in (first, second):
        value = d.value(place)
        assert low <= value <= high
        assert value == pytest.approx(low ** (1 - place) * high**place, rel=1.01 * ROUNDING)
        assert d.position(value) == pytest.approx(place, abs=1.01 * ROUNDING / math.log(high / low))
        assert yaml.safe_load(d.text(value)) == value and isinstance(yaml.safe_load(d.text(value)), float)
        assert value in (low, high) or float(f"{value:.2e}") == value
    assert (d.value(first) <= d.value(second)) or first > second


@given(st.floats(-100, 100), st.floats(0.1, 100), places)
def test_a_linear_dimension_is_the_arithmetic_interpolation(low, width, place):
    d = Dimension("x", low, low + width, log=False)
    scale = max(abs(low), abs(low + width))
    assert d.value(place) == pytest.approx(low + place * width, abs=1.01 * ROUNDING * scale)


@pytest.mark.parametrize(("place", "expected"), [(0, 0.9), (0.5, 0.99684), (2 / 3, 0.999), (1, 0.9999)])
def test_one_minus_the_value_is_what_is_logarithmic(place, expected):
    d = Dimension("momentum", 0.9, 0.9999, one_minus=True)
    assert d.value(place) == expected  # 1 - 10 ** (-1 - 3 * place), rounded behind the 1
    assert d.position(expected) == pytest.approx(place, abs=1e-3)


def test_what_lies_beyond_the_ends_is_at_the_ends():
    assert [WEIGHT.position(v) for v in (-1, 0, 0.001, 0.3, 7)] == [0, 0, 0, 1, 1]
    assert Dimension("m", 0.9, 0.9999, one_minus=True).position(1) == 1
    two = (WEIGHT, Dimension("x", 1, 100))
    assert distance(two, (0.001, 1), (0.3, 10)) == pytest.approx(1.5)


@pytest.mark.parametrize(
    "arguments",
    [("x", 1, 1), ("x", 2, 1), ("x", 0, 1), ("x", -1, 1), ("x", 1, math.inf), ("x", 0.5, 1.0, True, True)],
)
def test_impossible_dimensions_are_refused(arguments):
    with pytest.raises(ValueError, match=r"^x: "):
        Dimension(*arguments)


@pytest.mark.parametrize("name", AGENTS)
def test_what_an_agent_searches_are_settings_of_it_that_it_accepts(name):
    try:
        family = agent_family(name)
    except NotRun as reason:
        pytest.skip(str(reason))
    default = family.configure({}, None).model_dump()
    for d in family.search_space:
        published = tune.value_at(name, default, d.path)
        assert published == 0 or d.low <= published <= d.high, d
        for value in (d.low, d.high):
            nested = value
            for key in reversed(d.path.split(".")):
                nested = {key: nested}
            assert tune.value_at(name, family.configure(nested, None).model_dump(), d.path) == value


# Bisection.


def search(f, dimension: Dimension, count: int, default: float | None = None) -> list[float]:
    """The values that bisection tries on the function, the default first."""
    tried = [] if default is None else [Tried((default,), (f(default),))]
    while len(tried) < count and (value := bisect(dimension, tried)) is not None:
        tried.append(Tried((value,), (f(value),)))
    return [t.values[0] for t in tried]


def test_the_path_of_a_search_by_hand():
    """Peak at 0.01: geometric means of neighbours, rounded, always in the wider interval beside the best."""
    found = search(lambda x: -abs(math.log(x / 0.01)), Dimension("x", 0.0001, 1), 8)
    # Ends; sqrt(1e-4); both intervals are equal and so are their far ends: the upper; then the other; and so on.
    assert found[:3] == [0.0001, 1, 0.01]
    assert sorted(found[3:5]) == [0.001, 0.1] and sorted(found[5:7]) == [0.00316, 0.0316]
    assert found[7] in (0.00562, 0.0178)


def test_the_default_is_one_of_the_points():
    """A default at 0.5 of the scale is the middle; elsewhere it is a neighbour like any other."""
    d = Dimension("x", 0.01, 1)
    assert search(lambda x: -abs(math.log(x / 0.1)), d, 4, default=0.1)[:3] == [0.1, 0.01, 1]
    # Best is the default 0.2 between 0.1 and 1: the upper interval is wider.
    assert search(lambda x: -abs(math.log(x / 0.2)), d, 5, default=0.2) == [0.2, 0.01, 1, 0.1, 0.447]
    # One outside the range is no neighbour of anything.
    assert search(lambda x: x, d, 5, default=50)[1:] == search(lambda x: x, d, 4)


@given(bounds, places, st.floats(0.1, 10), st.floats(0.1, 10), st.none() | places, st.integers(0, 5), st.floats(0.2, 3))
def test_every_two_trials_halve_where_the_peak_can_be(ends, peak, up, down, default, k, power):
    """Unimodal functions with any slopes: the best of 3 + 2 k values is within (high / low) ** (1 / 2 ** (k + 1))."""
    d = Dimension("x", *ends)

    def f(value: float) -> float:
        away = d.position(value) - peak
        return -((up * -away) ** power) if away < 0 else -((down * away) ** power)

    first = None if default is None else d.value(default)
    found = search(f, d, 3 + 2 * k + (first is not None), first)
    best = max(found, key=f)
    bound = 0.5 ** (k + 1)
    rounding = 3 * ROUNDING / math.log(d.high / d.low)  # of the value and of both that its interval came from
    neighbours = [v for v in (max((v for v in found if v < best), default=best),
                              min((v for v in found if v > best), default=best))]  # fmt: skip
    assert d.position(neighbours[0]) - 1e-9 <= peak <= d.position(neighbours[1]) + 1e-9
    assert abs(d.position(best) - peak) <= bound + rounding


@pytest.mark.parametrize("peak", [0.0012, 0.002, 0.017, 0.09, 0.25])
def test_bisection_finds_what_a_grid_finds(peak):
    """A plateau-free bump like success over lambda: collapse below, a saturated distance above."""

    def success(x: float) -> float:
        return 1 / (1 + (peak / x) ** 3) / (1 + (x / (3 * peak)) ** 2)

    grid = np.geomspace(WEIGHT.low, WEIGHT.high, 20_001)
    top = grid[np.argmax([success(x) for x in grid])]
    for count, factor in ((3, 300**0.5), (7, 300**0.125), (11, 300 ** (1 / 32))):
        best = max(search(success, WEIGHT, count), key=success)
        assert max(best / top, top / best) <= factor * (1 + 3 * ROUNDING), count
    assert success(best) > 0.99 * success(top)


def test_the_next_value_depends_on_what_was_tried_and_on_nothing_else():
    tried = [Tried((v,), (-abs(math.log(v / 0.02)),)) for v in search(lambda x: -abs(math.log(x / 0.02)), WEIGHT, 6)]
    expected = bisect(WEIGHT, tried)
    assert {bisect(WEIGHT, order) for order in itertools.permutations(tried)} == {expected}


def test_a_search_ends_where_the_digits_do():
    assert search(lambda x: x, Dimension("x", 1.00, 1.02), 9) == [1.00, 1.02, 1.01]


def test_ties_are_broken_by_the_later_parts_of_a_rank():
    tried = [Tried((v,), (1.0, second)) for v, second in ((0.001, 0.0), (0.3, 2.0), (0.0173, 1.0))]
    assert 0.0173 < bisect(WEIGHT, tried) < 0.3


# Random search.


def test_random_search_is_uniform_on_a_logarithmic_scale_and_independent():
    dimensions = (WEIGHT, Dimension("y", 0.01, 10))
    points = np.array([random_point(dimensions, stream(0, "tune", "pldm", i)) for i in range(600)])
    uniform = (np.log(points) - np.log([0.001, 0.01])) / np.log([300, 1000])
    for column in uniform.T:
        assert stats.kstest(column, "uniform").pvalue > 0.05
    assert stats.kstest((points[:, 0] - 0.001) / 0.299, "uniform").pvalue < 1e-6  # so the test can fail
    assert abs(stats.spearmanr(*points.T).statistic) < 0.1


def test_a_random_point_depends_on_seed_agent_and_number():
    def point(*address):
        return random_point((WEIGHT,), stream(*address))

    assert point(0, "tune", "lewm", 1) == point(0, "tune", "lewm", 1)
    others = [(1, "tune", "lewm", 1), (0, "tune", "pldm", 1), (0, "tune", "lewm", 2)]
    assert len({point(0, "tune", "lewm", 1), *(point(*o) for o in others)}) == 4


# Trials.


def trial(number: int, value: float, held: str, hit: str = "", left: float = 1.0, **more) -> Trial:
    """A trial with one goal offset per word of ``held``, one pair per digit."""
    shares = [tuple(c == "1" for c in word) for word in held.split()]
    reached = [tuple(c == "1" for c in word) for word in (hit or held).split()]
    return Trial(
        trial=number,
        agent="toy",
        values=(value,),
        held=tuple(shares),
        hit=tuple(reached),
        distances=tuple((left,) * len(s) for s in shares),
        **more,
    )


def failed(number: int, value: float) -> Trial:
    return Trial(trial=number, agent="toy", values=(value,), status="failed", reason="it collapsed", train_seconds=2.0)


def words(held: str) -> tuple[tuple[bool, ...], ...]:
    return tuple(tuple(c == "1" for c in word) for word in held.split())


def tuning(*trials: Trial, fresh: tuple[str, str] | None = None) -> Tuning:
    """``fresh``: what the best and the default held on the pairs that did not choose."""
    return Tuning(
        agent="toy", env="tests/Toy", unit="m", suite="s", profile="quick", protocol="clean-1", seed=0,
        search="bisection", dimensions=(Dimension("gain", 0.01, 100),), goal_offset=(5, 10), num_pairs=4,
        trials=trials, fresh=None if fresh is None else Fresh(best=words(fresh[0]), default=words(fresh[1])),
    )  # fmt: skip


def test_the_objective_is_the_mean_over_offsets_of_the_share_held():
    t = trial(0, 1, "1110 0001", hit="1111 0011", left=0.5)
    assert (t.objective, t.hit_rate, t.distance) == (0.5, 0.75, 0.5)
    # Wilson's interval of 4 of 8 by hand: (p + z2/2n -+ z sqrt(p q / n + z2/4n2)) / (1 + z2/n).
    z2 = 1.959964**2
    half = math.sqrt(z2 * (0.25 / 8 + z2 / 256)) / (1 + z2 / 8)
    assert t.interval == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    assert failed(0, 1).objective == 0 and failed(0, 1).hit_rate is None and failed(0, 1).distance is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (trial(1, 9, "1100", left=9), trial(2, 1, "1000", hit="1111", left=0)),  # held first
        (trial(2, 9, "1100", hit="1110", left=9), trial(1, 1, "1100", left=0)),  # then hit
        (trial(2, 9, "1100", left=0.1), trial(1, 1, "1100", left=0.2)),  # then distance
        (trial(2, 0.9, "1100"), trial(1, 9, "1100")),  # then closer to the default
        (trial(2, 9, "0000", left=9), failed(1, 1)),  # a training that failed is worse than none held
    ],
)
def test_the_best_trial(better, worse):
    base = trial(0, 1, "0000", left=10)
    for order in ((better, worse), (worse, better)):
        assert tuning(base, *order).best == better
    assert tuning(base, worse, worse).best in (base, worse)


def test_without_any_training_that_succeeded_there_is_no_best():
    t = tuning(failed(0, 1), failed(1, 0.01))
    assert t.best is None and t.difference is None and t.best_so_far == (0, 0) and t.spent_seconds == (2, 4)
    assert "it collapsed" in tune_report.path_text(t)


def test_the_difference_to_the_default_is_paired():
    more, fewer = trial(1, 2, "1" * 21 + "0" * 19), trial(0, 1, "1" * 20 + "0" * 20)
    same = tuning(fewer, more, fresh=("1" * 21 + "0" * 19, "1" * 20 + "0" * 20))
    assert same.difference.value == pytest.approx(1 / 40) and same.difference.low <= 0
    assert "contains 0" in tune_report.path_text(same)
    clear = tuning(fewer, more, fresh=("1" * 30 + "0" * 10, "1" * 10 + "0" * 30))
    assert clear.difference.value == pytest.approx(0.5) and clear.difference.low > 0
    text = tune_report.path_text(clear)
    assert "contains 0" not in text and "optimistic" in text and "--set toy.gain=2.0" in text
    assert "on 40 fresh pairs, which chose neither: +50.0" in text and "(one run)" in text
    assert tuning(trial(0, 1, "11"), trial(1, 2, "10")).difference is None  # the default is the best
    assert tuning(failed(0, 1), trial(1, 2, "10")).difference is None


def test_the_best_of_equals_is_not_better_on_pairs_that_did_not_choose_it():
    """Ten trials of one success rate: on the pairs that chose it the best is 12 points above, on fresh ones it is not."""
    rng, chose, others = np.random.default_rng(0), [], []
    for _ in range(60):
        held = ["".join("01"[int(v)] for v in rng.random(40) < 0.5) for _ in range(22)]
        trials = [trial(i, 1 + i, held[i]) for i in range(10)]
        best = tuning(*trials).best.trial
        if best:
            chose.append(trials[best].objective - trials[0].objective)
            others.append(tuning(*trials, fresh=(held[10 + best], held[21])).difference.value)
    assert np.mean(chose) > 0.08 and abs(np.mean(others)) < 0.045


def drawn(axes) -> dict[str, tuple[float, float]]:
    """Number of a trial to where it stands."""
    return {text.get_text(): tuple(text.xy) for text in axes.texts}


def test_the_figure_of_one_dimension_shows_every_trial_in_order_and_its_interval():
    t = tuning(trial(0, 1, "1100"), trial(1, 0.01, "1000"), failed(2, 100), trial(3, 10, "1110"))
    figure = tuning_figures.draw(t)
    (axes,) = figure.axes
    assert drawn(axes) == {"0": (1, 50), "1": (0.01, 25), "2": (100, 0), "3": (10, 75)}
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "gain"
    path = max(axes.lines, key=lambda line: len(line.get_xdata()))
    assert list(path.get_xdata()) == [1, 0.01, 100, 10] and list(path.get_ydata()) == [50, 25, 0, 75]
    intervals = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_alpha()]
    expected = [[100 * v for v in x.interval[1:]] for x in t.trials if x.held]
    assert [list(ends) for ends in intervals] == expected
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in (*stars, *crosses)] == [[10], [100]]
    assert tune_report.png(figure).startswith(b"\x89PNG")


def test_the_figure_of_several_dimensions_shows_the_best_so_far_and_a_panel_for_each():
    dimensions = (
        Dimension("a", 0.01, 10),
        Dimension("m", 0.9, 0.9999, one_minus=True),
        Dimension("b", -1, 1, log=False),
    )
    trials = [(0, (0, 0.99, 0), "1000"), (1, (1, 0.999, 0.5), "1110"), (2, (5, 0.9, -1), "1100")]
    made = tuple(trial(n, 0, held).model_copy(update={"values": values}) for n, values, held in trials)
    t = tuning(*made).model_copy(update={"dimensions": dimensions, "search": "random"})
    figure = tuning_figures.draw(t)
    top, *panels = figure.axes
    (steps,) = (line for line in top.lines if len(line.get_xdata()) == 3)
    assert list(steps.get_ydata()) == [25, 75, 75] and list(steps.get_xdata()) == [0, 1, 2]
    assert [a.get_xlabel() for a in panels] == ["a", "1 - m", "b"]
    for axes, low, high in zip(panels, (0.01, 0.0001, -1), (10, 0.1, 1), strict=True):  # all that was searched
        assert min(axes.get_xlim()) < low and max(axes.get_xlim()) > high
    assert [a.get_xscale() for a in panels] == ["log", "log", "linear"] and panels[1].xaxis_inverted()
    # 0 has no place on a logarithmic axis and is drawn at its end.
    assert [drawn(a)["0"][0] for a in panels] == pytest.approx([0.01, 0.01, 0])
    assert [drawn(a)["1"][0] for a in panels] == pytest.approx([1, 0.001, 0.5])
    assert tune_report.png(figure).startswith(b"\x89PNG")


def test_the_comparison_shows_what_was_reached_by_trials_and_by_time():
    ours = tuning(*(trial(n, 1 + n, held, train_seconds=10.0) for n, held in enumerate(("1000", "1110", "1100"))))
    theirs = tuning(failed(0, 1), trial(1, 2, "1100", train_seconds=3.0)).model_copy(update={"agent": "pldm"})
    figure = tuning_figures.comparison([ours, theirs])
    left, right = (
        [(list(x.get_xdata()), list(x.get_ydata())) for x in a.lines if len(x.get_xdata()) > 1] for a in figure.axes
    )
    assert left == [([0, 1, 2], [25, 75, 75]), ([0, 1], [0, 50])]
    assert right == [([10, 20, 30], [25, 75, 75]), ([2, 5], [0, 50])]
    assert tune_report.png(figure).startswith(b"\x89PNG")


def test_tables_and_figures_are_made_from_trials_alone():
    for module in ("core.search_space", "run.tuning.trials", "report.figures.tuning", "report.tuning"):
        used = reachable(f"lewm_bench.{module}")
        assert not {"torch", "gymnasium", "mujoco"} & top(used)
        assert not any(
            name.startswith(("lewm_bench.agents", "lewm_bench.envs", "lewm_bench.run.runner", "lewm_bench.run.stages"))
            for name in used
        )


def test_values_replace_those_in_a_name():
    two = (Dimension("a", 1, 10), Dimension("train.b", 1, 10))
    assert agent_with("x", two, (2.0, 3.5)) == "x:a=2:train.b=3.5"
    assert agent_with("x:v:a=7:c=1", two, (2.0, 3.5)) == "x:v:a=2:c=1:train.b=3.5"


# The whole command, with an agent that trains in milliseconds.

SIZED_ID = "tests/SizedToy-v0"


class SizedToy(ToyEnv):
    """The toy environment as suites make environments."""

    def __init__(self, image_size: int = 16) -> None:
        super().__init__(image_size)


class SteeringConfig(AgentConfig):
    """A linear controller: it creeps with a small gain and overshoots with a large one."""

    frame_skip: int = 5
    history: int = 1
    gain: float = Field(0.1, gt=0)
    offset: float = 0.0
    breaks_at: float = 50.0  # gains from here on fail to train


class Steering:
    """Reads true states; all five steps of a block are the same action."""

    history, frame_skip = 1, 5

    def __init__(self, config: SteeringConfig, goals: np.ndarray | None = None) -> None:
        self.config, self.goals = config, goals

    def start(self, goals, rngs) -> Steering:
        return Steering(self.config, goals.states)

    def encode(self, past) -> np.ndarray:
        return past.states

    def search(self, states: np.ndarray) -> np.ndarray:
        action = self.config.gain * (self.goals - states) + self.config.offset
        return np.repeat(np.clip(action, -1, 1)[:, None], 5, axis=1).astype(np.float32)


class SteeringFamily(Family):
    Config = SteeringConfig
    kind = "policy"
    trainable = True
    search_space = (Dimension("gain", 0.01, 100),)
    trained: list[float]  # gains, in order

    def __init__(self) -> None:
        self.trained = []

    def train(self, setting, folder):
        self.trained.append(setting.config.gain)
        if setting.config.gain >= setting.config.breaks_at:
            raise TrainingFailed("the latents collapsed; lower the gain")
        (folder / "weights").write_text("none")
        return TrainingLog(seconds=2.0)

    def load(self, setting, checkpoint):
        return Loaded(Steering(setting.config), "Steering", "trained")


class TwoDimensions(SteeringFamily):
    search_space = (Dimension("gain", 0.01, 100), Dimension("offset", -1, 1, log=False))


SUITE = f"""
profiles:
  quick: {{}}
suites:
  toys:
    title: Toys
    envs: [{SIZED_ID}]
    agents: [noop, steering, twofold]
    seeds: [0]
    settings:
      image_size: 16
      collect: {{episodes: 30, steps: 30, policies: {{drift: 1}}}}
      evaluate: {{num_pairs: 6, goal_offset: [15, 25]}}
"""


@pytest.fixture()
def toys(monkeypatch) -> dict[str, SteeringFamily]:
    """The families, registered for one test."""
    if SIZED_ID not in gym.registry:
        gym.register(SIZED_ID, entry_point=SizedToy)
    made = {"steering": SteeringFamily(), "twofold": TwoDimensions()}
    for name, family in made.items():
        monkeypatch.setattr(sys.modules[__name__], f"family_{name}", family, raising=False)
        monkeypatch.setitem(AGENTS, name, f"{__name__}:family_{name}")
    for module in (stages, tune):  # asking git takes longer than a trial
        monkeypatch.setattr(module, "commit", lambda: "c0ffee")
    monkeypatch.setattr(tune_report, "png", lambda figure: b"\x89PNG")  # drawn below, from trials made by hand
    return made


@pytest.fixture()
def lewm_bench(toys, monkeypatch, capsys, tmp_path):
    """Run a command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("toys.yaml").write_text(SUITE, encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        common = ["--suite", "toys", "--config", "toys.yaml", "--device", "cpu", "--cache", "cache", "--quiet"]
        return outcome(monkeypatch, capsys, arguments[0], *common, *arguments[1:])

    return call


RESULTS = Path("results/tune") / tune_report.folder_name(["steering"], SIZED_ID)


def table(folder: Path = RESULTS) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tuning_finds_the_gain_and_says_how_to_use_it(lewm_bench, toys, monkeypatch):
    seen = []
    real = stages.sample_pairs

    def watched(dataset, env, protocol, num_pairs, goal_offset, split="test"):
        pairs = real(dataset, env, protocol, num_pairs, goal_offset, split)
        seen.append((split, set(pairs.episode.tolist()), dataset))
        return pairs

    monkeypatch.setattr(stages, "sample_pairs", watched)
    status, out, err = lewm_bench("tune", "steering", "--trials", "7")
    assert status == 0, err

    # The path: the default, ends, geometric middle; the rest is between neighbours of the best.
    rows = table()
    gains = [float(r["gain"]) for r in rows]
    assert gains[:4] == [0.1, 0.01, 100, 1] and len(set(gains)) == 7
    assert [r["trial"] for r in rows] == list("0123456")
    assert [r["agent"] for r in rows[:2]] == ["steering", "steering:gain=0.01"]
    assert toys["steering"].trained == gains  # each once
    # 2 is the gain that arrives with one block; bisection of four decades comes within sqrt(sqrt(10)) of it.
    best = max(rows, key=lambda r: (float(r["objective"]), float(r["hit"] or 0), -float(r["distance"] or 9)))
    assert 2 / 10**0.5 < float(best["gain"]) < 2 * 10**0.5 and float(best["objective"]) > float(rows[0]["objective"])
    assert float(rows[0]["held_low"]) <= float(rows[0]["held"]) <= float(rows[0]["held_high"])

    # A training that failed counts as nothing held, says why, and stops nobody.
    bad = rows[2]
    assert (bad["status"], bad["objective"], bad["held"]) == ("failed", "0", "") and "collapsed" in bad["reason"]
    assert "the latents collapsed; lower the gain" in out and all(r["status"] == "done" for r in rows if r is not bad)

    # Validation episodes, and never those of the test or training split.
    assert {split for split, _, _ in seen} == {"val"}
    for _, episodes, dataset in seen:
        assert episodes <= set(dataset.episodes("val").tolist())
        assert not episodes & {*dataset.episodes("test").tolist(), *dataset.episodes("train").tolist()}

    # The best is compared with the default on as many pairs more, which no trial saw.
    (comparison,) = [json.loads((RESULTS / "tune.json").read_text())["fresh"]]
    assert [len(offset) for offset in comparison["best"]] == [len(offset) for offset in comparison["default"]] == [6, 6]
    assert "on 12 fresh pairs" in out

    # What is left behind.
    assert {p.name for p in RESULTS.iterdir()} == {"trials.csv", "tune.json", "tune.png", "best.yaml"}
    record = json.loads((RESULTS / "tune.json").read_text())
    assert record["best"]["agent"] == best["agent"] and record["split"] == "val" and record["search"] == "bisection"
    assert len(record["trials"]) == 7 and record["num_pairs"] == 6 and record["goal_offset"] == [15, 25]
    assert (
        record["commit"] == record["trials"][0]["commit"] == "c0ffee"
        and {"torch", "python"} <= set(record["versions"])
        and record["hardware"]["device"] == "cpu"
    )
    assert np.mean(np.concatenate(record["trials"][0]["held"])) == pytest.approx(float(rows[0]["held"]), abs=1e-6)
    assert (RESULTS / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in Path("results").iterdir()] == ["tune"] and len(list(Path("results/tune").iterdir())) == 1

    # The block and the option mean the same gain.
    assert f"--set steering.gain={best['gain']}" in out
    data = yaml.safe_load(SUITE)
    data["profiles"]["quick"] = yaml.safe_load((RESULTS / "best.yaml").read_text())
    Path("tuned.yaml").write_text(yaml.safe_dump(data))
    (option,) = re.findall(r"--set (\S+)", out)
    pasted = resolve(load(Path("tuned.yaml")), "toys", "quick")
    overridden = resolve(load(Path("toys.yaml")), "toys", "quick", overrides=[option])
    assert pasted.agent_config("steering").gain == overridden.agent_config("steering").gain == float(best["gain"])


def test_the_same_command_trains_nothing_and_writes_the_same(lewm_bench, toys):
    assert lewm_bench("tune", "steering")[0] == 0
    before, record = (RESULTS / "trials.csv").read_bytes(), (RESULTS / "tune.json").read_bytes()
    toys["steering"].trained.clear()
    assert lewm_bench("tune", "steering", "--out", "again")[0] == 0
    assert not toys["steering"].trained  # not even what failed
    assert (Path("again") / RESULTS.name / "trials.csv").read_bytes() == before
    assert (Path("again") / RESULTS.name / "tune.json").read_bytes() == record


def test_an_interrupted_tuning_goes_on_with_what_is_missing(lewm_bench, toys, monkeypatch):
    assert lewm_bench("tune", "steering", "--out", "whole", "--cache", "other")[0] == 0
    gains = list(toys["steering"].trained)
    toys["steering"].trained.clear()
    real = SteeringFamily.train

    def interrupted(self, setting, folder):
        if len(self.trained) == 4:
            raise KeyboardInterrupt
        return real(self, setting, folder)

    with monkeypatch.context() as patch:
        patch.setattr(SteeringFamily, "train", interrupted)
        assert lewm_bench("tune", "steering")[0] == 130
    assert toys["steering"].trained == gains[:4]
    assert lewm_bench("tune", "steering")[0] == 0
    assert toys["steering"].trained == gains

    def reached(folder):
        return [{k: v for k, v in r.items() if r["status"] == "done" or k != "train_seconds"} for r in table(folder)]

    assert reached(RESULTS) == reached(Path("whole") / RESULTS.name)


def test_a_failure_is_remembered_as_long_as_what_fails_is_the_same(lewm_bench, toys):
    lewm_bench("tune", "steering", "--trials", "3")
    assert [r["status"] for r in table()] == ["done", "done", "failed"]
    toys["steering"].trained.clear()
    lewm_bench("tune", "steering", "--trials", "3", "--set", "steering.breaks_at=200")
    assert [r["status"] for r in table()] == ["done"] * 3 and toys["steering"].trained == [0.1, 0.01, 100]


def test_several_agents_get_as_many_trials_and_one_comparison(lewm_bench, toys):
    status, out, err = lewm_bench("tune", "steering,twofold", "--trials", "5", "--seed", "3")
    assert status == 0, err
    both = Path("results/tune") / tune_report.folder_name(["steering", "twofold"], SIZED_ID)
    assert {p.name for p in Path("results/tune").iterdir()} == {
        RESULTS.name, tune_report.folder_name(["twofold"], SIZED_ID), both.name
    }  # fmt: skip
    with (both / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (both / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert [(r["agent"], r["trial"]) for r in rows] == [(a, str(n)) for a in ("steering", "twofold") for n in range(5)]
    for agent in ("steering", "twofold"):
        own = [r for r in rows if r["agent"] == agent]
        objective = [float(r["objective"]) for r in own]
        assert [float(r["best_so_far"]) for r in own] == list(itertools.accumulate(objective, max))
        seconds = [float(r["train_seconds"]) for r in own]
        assert [float(r["spent_seconds"]) for r in own] == pytest.approx(np.cumsum(seconds), rel=1e-4)
    # One dimension is bisected, two are searched at random, the default first.
    assert [json.loads((p / "tune.json").read_text())["search"] for p in (RESULTS, both.with_name(tune_report.folder_name(["twofold"], SIZED_ID)))] \
        == ["bisection", "random"]  # fmt: skip
    (first, *others) = table(both.with_name(tune_report.folder_name(["twofold"], SIZED_ID)))
    assert (float(first["gain"]), float(first["offset"])) == (0.1, 0)
    space = TwoDimensions.search_space
    for number, row in enumerate(others, 1):
        drawn = random_point(space, stream(3, "tune", "twofold", number))
        assert (float(row["gain"]), float(row["offset"])) == drawn
        assert row["agent"] == agent_with("twofold", space, drawn)
    assert re.search(r"^steering +1 +5 +1 ", out, re.MULTILINE) and re.search(r"^twofold +2 +5 ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("noop",), "noop has nothing to tune"),
        (("steerin",), "did you mean 'steering'"),
        (("twofold", "--search", "bisection"), "twofold has 2; use --search random"),
        (("steering", "--search", "grid"), "no search named 'grid'"),
        (("steering", "--set", "evaluate.split=test"), "validation episodes only, got evaluate.split=test"),
        (("steering", "--set", "evaluate={split: all}"), "validation episodes only, got evaluate.split=all"),
        (("steering", "--set", "evaluate=3"), "evaluate has settings of its own"),
        (("steering", "--set", "evaluate.protocol=paper-v3"), "tell nothing about others; tune with clean-1"),
        (("steering", "--set", "collect.val=0", "--set", "collect.test=0.25"), "collect.val is 0"),
        (("steering", "--trials", "0"), "--trials"),
        (("steering", "--set", "evaluate.num_pairs=9999"), "lower num_pairs"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(lewm_bench, toys, arguments, reason):
    status, out, err = lewm_bench("tune", *arguments)
    last = err.strip().splitlines()[-1]
    assert status == 2 and reason in last and last.startswith("lewm-bench: ") and not out, err
    assert not toys["steering"].trained and not toys["twofold"].trained
    assert not list(Path().glob("results/tune/*"))


def test_a_suite_that_evaluates_test_episodes_is_tuned_on_validation_episodes(lewm_bench):
    Path("toys.yaml").write_text(SUITE.replace("num_pairs: 6", "num_pairs: 6, split: test"), encoding="utf-8")
    assert lewm_bench("tune", "steering", "--trials", "1")[0] == 0
    assert json.loads((RESULTS / "tune.json").read_text())["settings"]["evaluate"]["split"] == "val"


def test_agents_with_other_pairs_are_not_compared(lewm_bench):
    limited = SUITE + "    profiles: {quick: {agents: {twofold: {goal_offset: [15]}}}}\n"
    Path("toys.yaml").write_text(limited, encoding="utf-8")
    status, _, err = lewm_bench("tune", "steering,twofold")
    assert status == 2 and "different pairs" in err
    assert lewm_bench("tune", "twofold", "--trials", "1")[0] == 0
    assert lewm_bench("tune", "steering,twofold", "--trials", "1", "--set", "evaluate.goal_offset=[15]")[0] == 0


def test_what_can_never_be_trained_ends_with_its_reason_and_no_block(lewm_bench):
    RESULTS.mkdir(parents=True)
    (RESULTS / "best.yaml").write_text("of an earlier tuning")
    status, out, _ = lewm_bench("tune", "steering", "--trials", "2", "--set", "steering.breaks_at=0.001")
    assert "No trial could be trained: the latents collapsed" in out and status == 1
    assert {p.name for p in RESULTS.iterdir()} == {"trials.csv", "tune.json", "tune.png"}


def test_the_names_settings_stay(lewm_bench, toys):
    assert lewm_bench("tune", "steering:offset=0.5:gain=3", "--trials", "2")[0] == 0
    folder = Path("results/tune") / tune_report.folder_name(["steering:gain=3:offset=0.5"], SIZED_ID)
    assert [r["agent"] for r in table(folder)] == ["steering:gain=3:offset=0.5", "steering:gain=0.01:offset=0.5"]
    assert toys["steering"].trained == [3, 0.01]


@pytest.mark.parametrize("kept", ["offset=0.5", "offset=0.5:planner.horizon=6:gain=3"])
def test_what_was_found_holds_with_the_other_settings_of_the_name(kept):
    """The block and the options configure what the best trial's name says."""
    best = trial(1, 2, "1111").model_copy(update={"agent": f"steering:{kept.removesuffix(':gain=3')}:gain=2.0"})
    t = tuning(trial(0, 1, "0000"), best).model_copy(update={"agent": f"steering:{kept}"})
    options = re.findall(r"--set (\S+)", tune_report.path_text(t))
    assert options == ["steering.offset=0.5", *["planner.horizon=6"] * ("planner" in kept), "steering.gain=2.0"]
    assert yaml.safe_load(tune_report.best_yaml(t, best)) == parse_overrides(options)


def test_a_variant_is_used_by_its_name():
    best = trial(1, 2, "1111").model_copy(update={"agent": "steering:fast:gain=2.0"})
    t = tuning(trial(0, 1, "0000"), best).model_copy(update={"agent": "steering:fast"})
    assert "use it: --agents steering:fast:gain=2.0" in tune_report.path_text(t)


def test_an_agent_that_cannot_run_is_found_out_before_another_is_tuned(lewm_bench, toys, monkeypatch):
    def absent(setting):
        raise NotRun("its weights are not here; fetch them")

    monkeypatch.setattr(toys["twofold"], "requirements", absent)
    status, _, err = lewm_bench("tune", "steering,twofold")
    assert status == 2 and err.strip().endswith("lewm-bench: its weights are not here; fetch them")
    assert not toys["steering"].trained


def test_help_has_an_example(lewm_bench, monkeypatch):
    _, out, _ = lewm_bench("tune", "--help")
    assert "Example: lewm-bench tune lewm --suite pointmaze --trials 7" in out and out.count("--trials") == 2
