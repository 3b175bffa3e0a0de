"""Trainings side by side: the same weights, the same failures told once, and nothing that depends on the cache."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lewm_bench.run import ahead
from lewm_bench.run.benchmarks import load
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run, Sharing, dataset_of
from lewm_bench.system.store import Store
from lewm_bench.train.logs import LogTo

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
TINY = f"""
profiles:
  quick: {{}}
suites:
  tiny:
    title: Tiny
    envs: [{UMAZE}]
    agents: [noop, gcbc]
    seeds: [0, 1]
    settings:
      image_size: 32
      collect: {{episodes: 20, steps: 20}}
      planner: {{num_samples: 8, num_iterations: 1, num_elites: 3}}
      evaluate: {{num_pairs: 2, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 16}}
      gcbc: {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 200, batch_size: 4, on_collapse: continue}}}}
"""


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def much_memory(monkeypatch) -> None:
    monkeypatch.setattr(ahead, "granted_memory", lambda: 2.0**36)


def tiny(folder: Path, *overrides: str, trainings: int = 2) -> tuple[Run, list[str]]:
    path = folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    suite, lines = resolve(load(path), "tiny", "quick", overrides=overrides), []
    cpu = torch.device("cpu")
    return Run(suite, Store(folder / "cache"), folder / "out", cpu, False, lines.append, trainings=trainings), lines


def weights(folder: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in (folder / "cache" / "model").glob("*/*.safetensors")}


def test_side_by_side_trains_what_one_thread_trains_alone(tmp_path):
    (tmp_path / "together").mkdir()
    run, lines = tiny(tmp_path / "together")
    if find_spec("tensorboard"):
        run = replace(run, log_to=LogTo(("tensorboard",), tmp_path / "logs"))  # which changes no weight
    cells = run_suite(run)
    assert [c.status for c in cells] == ["done"] * 4
    trained = [c.train_hardware for c in cells if c.agent == "gcbc"]
    assert [(h["threads"], h["beside"]) for h in trained] == [("1", "1")] * 2
    assert (
        len([line for line in lines if "trained in" in line and "threads: 1, others at the same time: 1" in line]) == 2
    )
    assert torch.get_num_threads() == 2

    (tmp_path / "alone").mkdir()
    torch.set_num_threads(1)
    alone, _ = tiny(tmp_path / "alone", trainings=1)
    assert all("beside" not in c.train_hardware for c in run_suite(alone))
    found = weights(tmp_path / "together")
    assert len(found) == 2 and found == weights(tmp_path / "alone")
    if find_spec("tensorboard"):
        names = sorted(path.name.rpartition("__")[0] for path in (tmp_path / "logs" / "tensorboard").iterdir())
        assert names == [f"PointMaze-UMaze-v0__gcbc__seed{seed}" for seed in (0, 1)]


def test_what_fails_there_is_told_once_by_its_own_cell(tmp_path):
    run, lines = tiny(tmp_path, "gcbc.train.learning_rate=1e30")
    cells = run_suite(run)
    assert {(c.agent, c.status) for c in cells} == {("noop", "done"), ("gcbc", "failed")}
    assert all("not a finite number" in c.reason for c in cells if c.agent == "gcbc")
    assert len([line for line in lines if "not a finite number" in line]) == 2  # one for each seed


def test_how_they_share_does_not_depend_on_what_is_in_the_cache(tmp_path):
    run, _ = tiny(tmp_path)
    spec = run.suite.envs[0]
    data = dataset_of(run, spec)
    before = ahead.sharing(run, spec, data)
    ahead.train_ahead(replace(run, sharing=before), spec, data)
    assert len(weights(tmp_path)) == 2
    assert before == ahead.sharing(run, spec, data) == Sharing(2, 1)


@pytest.mark.parametrize(
    "override", ["training.seconds=60", "image_size=256", "gcbc.train.steps=100", "image_size=32"], ids=str
)
def test_what_is_timed_large_or_short_trains_alone(tmp_path, override):
    run, _ = tiny(tmp_path, override, trainings=1 if override == "image_size=32" else 2)
    spec = run.suite.envs[0]
    assert ahead.sharing(run, spec, dataset_of(run, spec)) == Sharing()


def test_processes_that_do_not_fit_into_memory_are_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "granted_memory", lambda: 4 * 2.0**30)
    run, _ = tiny(tmp_path)
    spec = run.suite.envs[0]
    assert ahead.sharing(run, spec, dataset_of(run, spec)) == Sharing()


def die(task) -> ahead.Done:
    os._exit(1)


def test_a_process_that_is_killed_costs_only_time(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ahead, "_work", die)
    run, _ = tiny(tmp_path)
    cells = run_suite(run)
    assert [c.status for c in cells] == ["done"] * 4
    assert [c.train_hardware["threads"] for c in cells if c.agent == "gcbc"] == ["1", "1"]
    assert len([r for r in caplog.records if "ended from outside" in r.message]) == 1


def test_pairs_are_sorted_beside_the_trainings_and_are_the_same(tmp_path, monkeypatch):
    strata = ("evaluate.protocol=clean-2", "evaluate.candidates=6")
    found = {}
    for name, trainings in (("alone", 1), ("together", 2)):
        (tmp_path / name).mkdir()
        run, _ = tiny(tmp_path / name, *strata, trainings=trainings)
        spec = run.suite.envs[0]
        data = dataset_of(run, spec)
        if trainings == 2:
            ahead.train_ahead(replace(run, sharing=ahead.sharing(run, spec, data)), spec, data)
        else:
            for job, offset in ahead.sortings(run, spec, data).values():
                ahead.pairs_of(run, job, ahead.setting_of(run, job, *data), offset)
        found[name] = {
            p.parent.name: p.read_bytes() for p in (tmp_path / name / "cache" / "pairs").glob("*/sorted.json")
        }
    assert len(found["alone"]) == 1 and found["alone"] == found["together"]
    assert len(weights(tmp_path / "together")) == 2
