from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from toy_env import ToyEnv, make_toy

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Episode
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.data.writer import DatasetWriter
from lewm_bench.evaluation.protocol import CLEAN_1, PAPER_V3, PAPER_V3_ALL, PROTOCOLS, Pairs, Protocol, sample_pairs


@pytest.fixture(scope="module")
def env() -> ToyEnv:
    return make_toy()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = CollectConfig(episodes=30, steps=20, policies={"jitter": 0.5, "drift": 0.5}, train=0.5, val=0.1, test=0.4)
    return collect(make_toy(), config, 0, tmp_path_factory.mktemp("data"), progress=False)


def walk(folder: Path, positions: list[list[float]], splits: dict[str, tuple[int, ...]] | None = None) -> Dataset:
    """Episodes that pass through the given x positions."""
    with DatasetWriter(folder) as writer:
        for xs in positions:
            states = np.stack([np.asarray(xs, float), np.zeros(len(xs))], axis=1)
            frames = np.zeros((len(xs), 4, 4, 3), np.uint8)
            writer.add(Episode(frames, states, np.zeros((len(xs) - 1, 2), np.float32)), "walk")
        splits = splits or {"train": (), "val": (), "test": tuple(range(len(positions)))}
        return writer.finish(
            env="tests/Walk-v0", env_kwargs={}, action_low=[-1, -1], action_high=[1, 1], seed=0, splits=splits
        )


def enumerate_pairs(dataset: Dataset, env: ToyEnv, episodes, offset: int) -> dict[tuple[int, int, int], bool]:
    """Every (episode, start, goal) there is, and whether it is solved at the start; the slow way."""
    pairs, first = {}, 0
    for e in range(len(dataset)):
        states = dataset[e].states
        for t in range(len(states) - offset):
            if e in episodes:
                solved = np.hypot(*(states[t] - states[t + offset])) < env.threshold
                pairs[(e, first + t, first + t + offset)] = bool(solved)
        first += len(states)
    return pairs


def triples(pairs: Pairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.episode.tolist(), pairs.start_row.tolist(), pairs.goal_row.tolist(), strict=True))


def test_the_protocols_of_the_design() -> None:
    assert set(PROTOCOLS) == {
        "clean-1",
        "clean-2/planning",
        "clean-2/plain",
        "horizon-1/planning",
        "horizon-1/plain",
        "tasks-1/planning",
        "tasks-1/plain",
        "paper-v3",
        "paper-v3-all",
    }
    assert [PROTOCOLS["clean-1"].budget(offset) for offset in (25, 50, 100)] == [50, 100, 200]
    assert [PROTOCOLS["paper-v3"].budget(offset) for offset in (25, 50, 100)] == [50, 50, 50]
    with pytest.raises(ValidationError, match="one of budget_per_offset and fixed_budget"):
        Protocol(**{**CLEAN_1.model_dump(), "fixed_budget": 50})


# clean-1


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("num_pairs, offset", [(1, 5), (11, 5), (30, 5), (12, 10), (25, 10)])
def test_clean_pairs_are_admissible_distinct_and_balanced(dataset, env, num_pairs, offset, split) -> None:
    pairs = sample_pairs(dataset, env, CLEAN_1, num_pairs, offset, split)
    every = enumerate_pairs(dataset, env, dataset.splits[split], offset)
    got = triples(pairs)
    assert len(got) == len(set(got)) == num_pairs
    assert all(every[pair] is False for pair in got)
    available = Counter(e for (e, _, _), solved in every.items() if not solved)
    used = Counter(pairs.episode.tolist())
    level = max(used.values())
    assert all(used[e] >= level - 1 or used[e] == available[e] for e in available)
    if num_pairs <= len(available) * min(available.values()):  # no episode ran out
        assert {used[e] for e in available} <= {num_pairs // len(available), -(-num_pairs // len(available))}
    assert pairs.candidates == len(every) and pairs.solved_at_start == sum(every.values())


def test_clean_counts_what_it_removes(dataset, env) -> None:
    """All that can be drawn is drawn: the counts are then the exact ones."""
    every = enumerate_pairs(dataset, env, dataset.splits["test"], 2)
    solved = sum(every.values())
    assert 0 < solved < len(every)
    with pytest.raises(UserError, match=f"gives {len(every) - solved} of the 10000.*{solved} pairs were solved"):
        sample_pairs(dataset, env, CLEAN_1, 10000, 2)
    pairs = sample_pairs(dataset, env, CLEAN_1, len(every) - solved, 2)
    assert sorted(triples(pairs)) == sorted(pair for pair, is_solved in every.items() if not is_solved)


def test_the_share_solved_at_start_is_the_share_of_the_data(tmp_path: Path, env) -> None:
    """Steps of 0.08 are solved at offset 1 (threshold 0.1), steps of 0.2 are not; a quarter of the steps are small."""
    rng = np.random.default_rng(0)
    positions = [np.cumsum(np.where(rng.random(400) < 0.25, 0.08, 0.2)).tolist() for _ in range(20)]
    pairs = sample_pairs(walk(tmp_path, positions), env, CLEAN_1, 2000, 1)
    assert abs(pairs.solved_at_start / pairs.candidates - 0.25) < 0.03


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([3, 5, 10]))
def test_a_smaller_clean_run_is_the_beginning_of_a_larger_one(dataset, env, k: int, n: int, offset: int) -> None:
    k, n = sorted((k, n))
    few, many = (sample_pairs(dataset, env, CLEAN_1, count, offset) for count in (k, n))
    assert triples(few) == triples(many)[:k]
    assert (few.candidates, few.solved_at_start) == (many.candidates, many.solved_at_start)


def test_clean_pairs_depend_on_the_protocol_the_offset_and_the_split_alone(dataset, env) -> None:
    first = triples(sample_pairs(dataset, env, CLEAN_1, 20, 5))
    np.random.seed(1)
    np.random.random()
    assert triples(sample_pairs(Dataset.open(dataset.folder), make_toy(), CLEAN_1, 20, 5)) == first
    reseeded = CLEAN_1.model_copy(update={"seed": 1})
    assert triples(sample_pairs(dataset, env, reseeded, 20, 5)) != first
    other = sample_pairs(dataset, env, CLEAN_1, 20, 6)
    assert [e for e, _, _ in triples(other)] != [e for e, _, _ in first]


def test_clean_starts_are_uniform_in_the_episode(tmp_path: Path, env) -> None:
    """Chi-square over 600 protocol seeds; two episodes of 10 and 30 valid starts, each used once per seed."""
    data = walk(tmp_path, [np.arange(15.0).tolist(), np.arange(35.0).tolist()])
    starts: dict[int, list[int]] = {0: [], 1: []}
    first = []
    for seed in range(600):
        pairs = sample_pairs(data, env, CLEAN_1.model_copy(update={"seed": seed}), 2, 5)
        first.append(int(pairs.episode[0]))
        for e, start, _ in triples(pairs):
            starts[e].append(start - int(data.starts[e]))
    assert stats.chisquare(np.bincount(first, minlength=2)).pvalue > 1e-3  # short episodes weigh as much as long ones
    for e, count in ((0, 10), (1, 30)):
        assert max(starts[e]) == count - 1
        assert stats.chisquare(np.bincount(starts[e], minlength=count)).pvalue > 1e-3


def test_an_episode_that_runs_out_leaves_its_turn_to_the_others(tmp_path: Path, env) -> None:
    """Episode 0 never moves, episode 1 has two starts, episode 2 is too short, episode 3 has plenty."""
    positions = [[0.0] * 20, np.arange(4.0).tolist(), [0.0, 1.0], np.arange(30.0).tolist()]
    pairs = sample_pairs(walk(tmp_path, positions), env, CLEAN_1, 12, 2)
    assert np.bincount(pairs.episode, minlength=4).tolist() == [0, 2, 0, 10]
    assert pairs.solved_at_start == 18 and pairs.candidates == 18 + 2 + 28


@pytest.mark.parametrize(
    "num_pairs, offset, message",
    [
        (5, 21, r"gives 0 of the 5 pairs.*goal_offset 21: 0 of 12 episodes of split 'test' are longer than 21 steps"),
        (100, 20, "gives .* of the 100 pairs.*12 of 12 episodes.*lower num_pairs or goal_offset"),
        (0, 5, "num_pairs >= 1"),
        (5, 0, "goal_offset >= 1"),
    ],
)
def test_too_little_data_is_answered_with_numbers(dataset, env, num_pairs, offset, message) -> None:
    with pytest.raises(UserError, match=message):
        sample_pairs(dataset, env, CLEAN_1, num_pairs, offset)


def test_data_without_held_out_episodes_say_so(tmp_path: Path, env) -> None:
    data = walk(tmp_path, [np.arange(9.0).tolist()] * 2, {"train": (0, 1), "val": (), "test": ()})
    with pytest.raises(UserError, match=r"pairs from split 'test', in which .* has no episodes; .*\(--split\)"):
        sample_pairs(data, env, CLEAN_1, 2, 3)
    assert len(sample_pairs(data, env, PAPER_V3, 2, 3)) == 2


# paper-v3


def test_paper_pairs_are_numpys_choice_of_the_training_rows_with_a_goal(dataset, env) -> None:
    trained_on = dataset.episodes("train").tolist()
    assert 0 < len(trained_on) < len(dataset)
    every = enumerate_pairs(dataset, env, trained_on, 5)
    pairs = sample_pairs(dataset, env, PAPER_V3, 50, 5)
    rows = sorted(start for _, start, _ in every)
    chosen = np.random.default_rng(42).choice(len(rows), size=50, replace=False)
    assert sorted(pairs.start_row.tolist()) == sorted(rows[i] for i in chosen)
    assert all(pair in every for pair in triples(pairs)) and set(pairs.episode) <= set(trained_on)
    assert pairs.candidates == 50 and pairs.solved_at_start == sum(every[pair] for pair in triples(pairs))


def test_the_released_scripts_pairs_are_numpys_choice_of_all_rows_with_a_goal(dataset, env) -> None:
    every = sorted(start for _, start, _ in enumerate_pairs(dataset, env, range(len(dataset)), 5))
    pairs = sample_pairs(dataset, env, PAPER_V3_ALL, 50, 5)
    chosen = np.random.default_rng(42).choice(len(every), size=50, replace=False)
    assert pairs.start_row.tolist() == sorted(every[i] for i in chosen)
    assert not set(pairs.episode) <= set(dataset.episodes("train").tolist())


def test_paper_can_choose_every_training_row_the_last_one_included_and_no_other(tmp_path: Path, env) -> None:
    episodes = [np.arange(8.0).tolist(), np.arange(9.0).tolist(), [0.0] * 6]
    data = walk(tmp_path, episodes, {"train": (0, 2), "val": (), "test": (1,)})
    for split in ("test", "train", "all"):  # which is of the other protocol's
        pairs = sample_pairs(data, env, PAPER_V3, 8, 3, split)
        assert triples(pairs) == [(0, t, t + 3) for t in range(5)] + [(2, 17 + t, 20 + t) for t in range(3)]
        assert pairs.solved_at_start == 3 and pairs.candidates == 8
    with pytest.raises(UserError, match="gives 8 of the 9"):
        sample_pairs(data, env, PAPER_V3, 9, 3)
