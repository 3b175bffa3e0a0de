"""Pairs sorted by whether they need a plan: what the sorting depends on, and that it means what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.agents.oracle import GREEDY, ORACLE
from lewm_bench.cli import app as cli
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.envs.tworoom import ROOMS
from lewm_bench.evaluation import strata
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import CHOICES, CLEAN_1, CLEAN_2_PLAIN, CLEAN_2_PLANNING, sample_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.report.summarise import build_tables
from lewm_bench.report.write import write_report
from lewm_bench.run.benchmarks import load
from lewm_bench.run.environments import make_env
from lewm_bench.run.records import load_cells
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store

OFFSET, BUDGET = 60, 120


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("strata"), make_env("lewm_bench/TwoRoom-v0", 32)
    config = CollectConfig(episodes=30, steps=100, policies={"door_expert": 1.0}, train=0.3, val=0.1, test=0.6)
    data = collect(env, config, 0, folder / "data", progress=False)
    planner = PlannerConfig(num_samples=100, num_iterations=3, num_elites=10)
    return Setting(env, "TwoRoom", "greedy", data, "key", AgentConfig(), planner, 0, torch.device("cpu"), Store(folder))


@pytest.fixture(scope="module")
def found(setting: Setting) -> strata.Sorted:
    return strata.sort_pairs(setting, CLEAN_2_PLANNING, 1000, 120, OFFSET, "test", BUDGET)


def test_planning_pairs_lie_in_two_rooms_and_plain_ones_need_no_door(setting: Setting, found: strata.Sorted) -> None:
    planning, plain = (strata.choose(found, name, 1000, OFFSET) for name in ("planning", "plain"))
    assert len(planning) >= 20 and len(plain) >= 20
    assert planning.of_stratum == len(planning) and plain.of_stratum == len(plain) and plain.sorted == 120

    def detours(pairs) -> np.ndarray:
        states = setting.dataset.states
        start, goal = states[pairs.start_row], states[pairs.goal_row]
        return setting.env.path_length(start, goal) / setting.env.distance(start, goal)

    rooms = setting.dataset.states[:, 0] < ROOMS.wall
    assert (rooms[planning.start_row] != rooms[planning.goal_row]).all()
    assert np.median(detours(planning)) > 1.2 > np.median(detours(plain))


def test_greedy_solves_plain_pairs_and_a_search_along_paths_planning_ones(setting: Setting, found) -> None:
    def score(family, name: str, **config) -> float:
        pairs = strata.choose(found, name, 20, OFFSET)
        here = replace(setting, config=family.configure(config, None), seed=3)
        agent = family.load(here, None).agent
        results = evaluate(agent, here, pairs, BUDGET, goal_offset=OFFSET, real_history=True, batch=20)
        return float(np.mean([r.hit for r in results]))

    assert score(GREEDY, "plain") >= 0.95 and score(GREEDY, "planning") <= 0.2
    assert score(ORACLE, "planning") >= 0.95


def test_the_sorting_depends_on_no_seed_agent_or_number(setting: Setting, found: strata.Sorted, monkeypatch) -> None:
    other = replace(
        setting,
        seed=5,
        agent="lewm",
        planner=PlannerConfig(num_samples=4, num_elites=2),
        config=AgentConfig(frame_skip=1),
    )
    monkeypatch.setattr(strata, "_CHUNK", 7)
    fewer = strata.sort_pairs(other, CLEAN_2_PLAIN, 1000, 30, OFFSET, "test", BUDGET)
    for name in ("episode", "start", "greedy", "ceiling"):
        assert getattr(fewer, name) == getattr(found, name)[:30]
    for name in ("planning", "plain"):
        few, many = (strata.choose(found, name, n, OFFSET) for n in (4, 12))
        np.testing.assert_array_equal(few.start_row, many.start_row[:4])
        assert few.of_stratum == many.of_stratum


@pytest.mark.parametrize("chunk", [7, 50])
def test_sorting_ends_with_the_pair_that_completes_both_strata(setting: Setting, found, monkeypatch, chunk) -> None:
    monkeypatch.setattr(strata, "_CHUNK", chunk)
    fewer = strata.sort_pairs(setting, CLEAN_2_PLANNING, 3, 120, OFFSET, "test", BUDGET)
    n = len(fewer.start)
    assert n < 120 and fewer.start == found.start[:n] and fewer.greedy == found.greedy[:n]
    kinds = {name: getattr(fewer, name) for name in ("greedy", "ceiling")}
    assert min(map(sum, kinds.values())) == 3 and min(sum(kind[:-1]) for kind in kinds.values()) == 2


def test_what_is_sorted_are_the_pairs_of_clean_1(setting: Setting, found: strata.Sorted) -> None:
    pairs = sample_pairs(setting.dataset, setting.env, CLEAN_1, 120, OFFSET)
    np.testing.assert_array_equal(found.start, pairs.start_row)
    assert (found.candidates, found.solved_at_start) == (pairs.candidates, pairs.solved_at_start)
    assert not set(np.flatnonzero(found.greedy)) & set(np.flatnonzero(found.ceiling))


def test_a_damaged_sorting_is_no_sorting() -> None:
    whole = {"episode": [1], "start": [2], "greedy": [True], "ceiling": [False], "candidates": 5, "solved_at_start": 0}
    assert strata.Sorted.model_validate_json(json.dumps(whole)).start == (2,)
    with pytest.raises(ValueError, match="different lengths"):
        strata.Sorted.model_validate_json(json.dumps(whole | {"greedy": []}))


SUITE = """
profiles: {quick: {}}
suites:
  two:
    title: Two
    envs: [lewm_bench/TwoRoom-v0]
    agents: [random, greedy, oracle]
    seeds: [0]
    settings:
      image_size: 32
      collect: {episodes: 16, steps: 80, train: 0.3, val: 0.1, test: 0.6}
      cem: {num_samples: 60, num_iterations: 2, num_elites: 8}
      evaluate: {num_pairs: 4, goal_offset: [5, 60], protocol: clean-2, candidates: 24}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("ran")
    path = folder / "two.yaml"
    path.write_text(SUITE)
    suite = resolve(load(path), "two", "quick")
    run = Run(suite, Store(folder / "cache"), folder / "out", resolve_device("cpu"), progress=False)
    return run, run_suite(run)


def test_each_stratum_has_its_own_cells_rows_and_numbers(ran) -> None:
    run, cells = ran
    assert [(c.agent, c.protocol) for c in cells[:2]] == [("random", "clean-2/planning"), ("random", "clean-2/plain")]
    again = load_cells([run.out])
    assert (
        sorted(c.file_name for c in again) == sorted(c.file_name for c in cells)
        and len({c.file_name for c in cells}) == 6
    )
    table = build_tables(again)
    assert list(dict.fromkeys(table["protocol"])) == ["clean-2/planning", "clean-2/plain"]
    hits = table[table["goal_offset"] == 60].set_index(["protocol", "agent"])["hit"]
    assert hits["clean-2/planning", "greedy"] <= 0.2 and hits["clean-2/plain", "greedy"] >= 0.8
    assert hits["clean-2/planning", "oracle"] >= 0.8
    shares = table[table["goal_offset"] == 60].groupby("protocol")["stratum_share"].first()
    assert 0 < shares["clean-2/planning"] < 1 and shares.sum() <= 1
    videos = [name for c in cells for o in c.offsets for name in o.videos]
    assert len(set(videos)) == len(videos) and all((run.out / name).is_file() for name in videos)


def test_an_offset_without_planning_pairs_is_left_out(ran) -> None:
    _, cells = ran
    assert {tuple(o.goal_offset for o in c.offsets) for c in cells if c.protocol == "clean-2/planning"} == {(60,)}
    assert {tuple(o.goal_offset for o in c.offsets) for c in cells if c.protocol == "clean-2/plain"} == {(5, 60)}


def test_the_page_says_what_the_strata_are(ran) -> None:
    run, cells = ran
    write_report(cells, run.out, "Two")
    page, text = (run.out / "report.html").read_text(), (run.out / "table.md").read_text()
    for shown in (page, text):
        for stratum in ("planning", "plain"):
            assert f"TwoRoom-v0, goal 60 steps ahead, {stratum} pairs" in shown and f"clean-2, {stratum} pairs" in shown


def test_where_no_goal_needs_a_plan_the_cell_says_what_to_ask(ran, tmp_path: Path) -> None:
    run, _ = ran
    data = yaml.safe_load(SUITE)
    data["suites"]["two"]["settings"]["evaluate"] |= {"goal_offset": [5], "protocol": "clean-2/planning"}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(data))
    suite = resolve(load(tmp_path / "two.yaml"), "two", "quick", agents=["greedy"])
    (cell,) = run_suite(replace(run, suite=suite, out=tmp_path / "out"))
    assert cell.status == "not run"
    assert cell.reason.startswith("none of 24 candidates 5 steps ahead in lewm_bench/TwoRoom-v0 is planning; ask for")


def test_a_choice_is_one_or_all_strata() -> None:
    assert [rules.id for rules in CHOICES["clean-2"]] == ["clean-2/planning", "clean-2/plain"]
    assert CHOICES["clean-2/plain"] == (CLEAN_2_PLAIN,) and CHOICES["clean-1"] == (CLEAN_1,)
    assert CLEAN_2_PLAIN.budget(25) == 50


def test_one_agent_is_evaluated_on_all_strata(ran, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(SUITE)
    options = (
        "--config",
        "two.yaml",
        "--suite",
        "two",
        "--cache",
        str(ran[0].store.root),
        "--out",
        "out",
        "--quiet",
        "--set",
        "evaluate.num_pairs=2",
    )
    done = CliRunner().invoke(cli.app, ["evaluate", "greedy", *options, "--set", "evaluate.goal_offset=60"])
    assert done.exit_code == 0, done.output
    assert {c.protocol for c in load_cells([tmp_path / "out"])} == {"clean-2/planning", "clean-2/plain"}


def test_looking_into_models_has_no_strata(tmp_path: Path) -> None:
    data = yaml.safe_load(SUITE)
    data["suites"]["two"] |= {"kind": "understand", "agents": ["lewm"]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(data))
    assert len(resolve(load(tmp_path / "two.yaml"), "two", "quick").jobs) == 1
