"""The runner: what it leaves behind, what it takes from the cache, and what a kill or a failure costs."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from toy_env import ToyEnv

from lewm_bench.agent import Family, Loaded, card_of
from lewm_bench.agents.gcbc import GCBC, GCBCFamily
from lewm_bench.core.errors import NotRun, TrainingFailed, UserError
from lewm_bench.data.collect import collect
from lewm_bench.data.format import Dataset
from lewm_bench.envs.pointmaze import PointMaze
from lewm_bench.report.summarise import COLUMNS
from lewm_bench.report.write import write_report
from lewm_bench.run import checkpoints, keys, runner, stages
from lewm_bench.run.benchmarks import EnvSpec, load
from lewm_bench.run.records import EpisodeRow, load_cells
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run
from lewm_bench.system import files
from lewm_bench.system.device import resolve_device
from lewm_bench.system.files import StorageError, checksum
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainingLog

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
TINY = f"""
profiles:
  quick: {{}}
suites:
  tiny:
    title: Tiny
    envs: [{UMAZE}]
    agents: [noop, random, gcbc]
    seeds: [0]
    settings:
      image_size: 32
      collect: {{episodes: 20, steps: 20}}
      planner: {{num_samples: 8, num_iterations: 1, num_elites: 3}}
      evaluate: {{num_pairs: 3, goal_offset: [5], latent_oracle_pairs: 1, correlation_frames: 16}}
      gcbc: {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 6, batch_size: 8, save_every: 2}}}}
      lewm:
        encoder: cnn
        latent: 8
        projector_hidden: 16
        width: 16
        depth: 1
        heads: 2
        head_size: 8
        mlp_hidden: 16
        num_directions: 8
        train: {{steps: 4, batch_size: 8}}
"""
# Written out once more: a column that moves is a new file format.
EPISODE_COLUMNS = [
    "suite",
    "profile",
    "protocol",
    "env",
    "agent",
    "seed",
    "goal_offset",
    "pair",
    "hit",
    "held",
    "steps_to_hit",
    "distance_start",
    "distance_end",
    "plans",
    "encode_seconds",
    "search_seconds",
    "env_seconds",
    "device",
    "weights",
    "version",
    "key",
]
TABLE_COLUMNS = [
    "n_pairs",
    "n_seeds",
    "latent_oracle_hit",
    "distance_rank_correlation",
    "hit",
    "hit_low",
    "hit_high",
    "held",
    "held_low",
    "held_high",
    "normalised_hit",
    "diff_to_lewm",
    "diff_low",
    "diff_high",
    "distance_end_median",
    "plan_seconds_median",
    "plan_seconds_q25",
    "plan_seconds_q75",
    "speedup_vs_dino_wm",
    "parameters",
    "tokens_per_frame",
    "train_seconds",
    "note",
]
TIMES = {"encode_seconds", "search_seconds", "env_seconds"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Only the run that several tests look at has them: drawing takes longer than everything else here."""
    monkeypatch.setattr("lewm_bench.report.figures.files.draw_all", lambda *_: {})


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def make_run(config: Path, folder: Path, cache: Path | None = None, **asked) -> Run:
    suite = resolve(load(config), "tiny", "quick", **asked)
    lines: list[str] = []
    return Run(suite, Store(cache or folder / "cache"), folder / "out", resolve_device("cpu"), False, lines.append)


def execute(run: Run):
    cells = run_suite(run)
    write_report(cells, run.out, run.suite.title)
    return cells


def rows(out: Path, name: str = "episodes.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(out: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(out)]


@dataclass(frozen=True)
class Finished:
    run: Run
    cells: list


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory) -> Finished:
    """One complete tiny run that the tests below look at and never change."""
    run = make_run(config, tmp_path_factory.mktemp("finished"), agents=["noop", "random", "gcbc", "lewm"])
    return Finished(run, execute(run))


@pytest.fixture()
def families(monkeypatch):
    """A function that registers a family for the test and returns its name."""

    def register(name: str, family: Family) -> str:
        module = sys.modules[__name__]
        monkeypatch.setattr(module, f"family_{name}", family, raising=False)
        monkeypatch.setitem(runner_agents(), name, f"{__name__}:family_{name}")
        return name

    return register


def runner_agents() -> dict[str, str]:
    from lewm_bench.agents import AGENTS

    return AGENTS


# What a run leaves behind.


def test_the_files_and_columns_of_a_results_folder(finished):
    out = finished.run.out
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"table.csv", "table.md", "table.tex", "episodes.csv", "report.html"} <= names
    assert {f"cells/PointMaze-UMaze-v0__{a}__seed0.json" for a in ("noop", "random", "gcbc", "lewm")} <= names
    assert any(name.startswith("videos/") for name in names)
    assert {"scenes/PointMaze-UMaze-v0.png", "success.png"} <= names
    assert not any(Path(name).name.startswith(".") for name in names)  # no half-written file
    assert list(rows(out)[0]) == EPISODE_COLUMNS == list(EpisodeRow.model_fields)
    table = list(rows(out, "table.csv")[0])
    assert table[:3] == ["env", "agent", "goal_offset"] and [c for c in table if c in TABLE_COLUMNS] == [
        c for c in COLUMNS if c in TABLE_COLUMNS
    ]
    assert set(TABLE_COLUMNS) <= set(table)


def test_every_pair_is_one_row_and_all_agents_have_the_same_pairs(finished):
    found = rows(finished.run.out)
    assert len(found) == 4 * 3
    by_agent = {a: [r for r in found if r["agent"] == a] for a in ("noop", "random", "gcbc", "lewm")}
    starts = {a: [(r["pair"], r["distance_start"]) for r in mine] for a, mine in by_agent.items()}
    assert starts["noop"] == starts["random"] == starts["gcbc"] == starts["lewm"]
    assert [pair for pair, _ in starts["noop"]] == ["0", "1", "2"]
    for row in found:
        assert (row["held"], row["hit"]) != ("True", "False")
        assert (row["steps_to_hit"] == "") == (row["hit"] == "False")
        assert row["plans"] == ("1" if row["agent"] == "lewm" else "2")  # 10 steps in blocks of 5, or a plan of 25
    weights = {row["agent"]: row["weights"] for row in found}
    assert weights == {"noop": "none", "random": "none", "gcbc": "trained", "lewm": "trained"}
    assert all(float(row["distance_start"]) >= 0.45 for row in found)  # no pair that is solved at the start


def test_cells_say_what_they_were_made_of(finished):
    cells = {c.agent: c for c in load_cells([finished.run.out])}
    lewm = cells["lewm"]
    assert lewm.status == "done" and lewm.kind == "world model" and cells["noop"].kind == "floor"
    assert lewm.config["agent"]["latent"] == 8 and lewm.config["image_size"] == 32
    assert lewm.config["planner"]["num_samples"] == 8 and lewm.config["planner"]["horizon"] == 5  # defaults included
    assert {c.dataset for c in cells.values()} == {lewm.dataset} and lewm.dataset
    assert lewm.hardware["device"] == "cpu" and lewm.versions["torch"] == torch.__version__
    assert lewm.training["step"][-1] == 3 and len(lewm.training["loss"]) == len(lewm.training["step"])
    assert lewm.offsets[0].latent_oracle_pairs == 1 and lewm.offsets[0].distance_rank_correlation is not None
    assert cells["noop"].offsets[0].latent_oracle_pairs == 0
    assert all((finished.run.out / video).is_file() for o in lewm.offsets for video in o.videos)


def test_the_second_run_takes_everything_from_the_cache(finished, config, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("built although it is in the cache")

    for name in ("collect", "evaluate", "latent_oracle", "distance_rank_correlation"):
        monkeypatch.setattr(stages, name, refuse)
    monkeypatch.setattr(GCBCFamily, "train", refuse)
    monkeypatch.setattr("lewm_bench.agent.train_module", refuse)
    run = make_run(config, tmp_path, finished.run.store.root, agents=["noop", "random", "gcbc", "lewm"])
    cells = execute(run)
    assert [c.status for c in cells] == ["done"] * 4, [c.reason for c in cells]
    for name in ("table.csv", "episodes.csv", "table.md", "table.tex"):
        assert (run.out / name).read_bytes() == (finished.run.out / name).read_bytes(), name


@pytest.mark.parametrize(
    "override, rebuilt",
    [
        ("evaluate.num_pairs=2", {"evaluation"}),
        ("planner.num_samples=9", {"evaluation"}),
        ("lewm.dropout=0.2", {"model", "evaluation"}),
        ("collect.episodes=21", {"dataset", "model", "evaluation"}),
        ("lewm.train.log_every=2", set()),
        ("collect.chunk=7", set()),
    ],
)
def test_a_setting_rebuilds_what_depends_on_it_and_nothing_else(finished, config, tmp_path, override, rebuilt):
    run = make_run(config, tmp_path, finished.run.store.root, agents=["lewm"], overrides=[override])
    kinds = {p.parent.name for p in finished.run.store.root.glob("*/*/done.json")}
    before = {p.parent for p in finished.run.store.root.glob("*/*/done.json")}
    run_suite(run)
    new = {p.parent for p in finished.run.store.root.glob("*/*/done.json")} - before
    assert {p.parent.name for p in new} == rebuilt and kinds


def test_what_an_earlier_run_had_in_the_cache_does_not_show_in_the_table(config, finished, tmp_path):
    # Seed 1 alone is the lowest seed and has the latent oracle; beside seed 0 it has not, whatever is in the cache.
    cache = tmp_path / "cache"
    run_suite(make_run(config, tmp_path / "alone", cache, agents=["lewm"], seeds=[1]))
    later = run_suite(make_run(config, tmp_path / "both", cache, agents=["lewm"], seeds=[0, 1]))
    assert [c.offsets[0].latent_oracle_pairs for c in later] == [1, 0]


def test_nothing_is_written_outside_out_and_cache(config, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    execute(make_run(config, tmp_path / "run", agents=["noop", "gcbc"]))
    assert not list((tmp_path / "elsewhere").iterdir())
    ours = [p for p in (tmp_path / "home").rglob("*") if "lewm" in p.name.lower()]
    assert not ours and {p.name for p in (tmp_path / "run").iterdir()} == {"cache", "out"}


def test_an_earlier_runs_cells_do_not_mix_with_this_ones(config, tmp_path):
    execute(make_run(config, tmp_path, agents=["noop", "random"]))
    execute(make_run(config, tmp_path, agents=["random"]))
    assert [c.agent for c in load_cells([tmp_path / "out"])] == ["random"]
    assert {r["agent"] for r in rows(tmp_path / "out")} == {"random"}


# Failures.


class Raising(GCBCFamily):
    def train(self, setting, folder):
        raise ZeroDivisionError("boom\nin two lines")


class Missing(GCBCFamily):
    def requirements(self, setting):
        raise NotRun("its weights are not here; fetch them")


class NaN(GCBC):
    def loss(self, batch, step):
        error, _ = super().loss(batch, step)
        return error * float("nan"), {}


class Diverging(GCBCFamily):
    def build(self, config, image_size, action_dim):
        return NaN(config, image_size, action_dim)


class Nowhere:
    """Returns actions that are not numbers."""

    history, frame_skip = 1, 5

    def start(self, goals, rngs):
        return self

    def encode(self, past):
        return past

    def search(self, encoded):
        return np.full((len(encoded.states), 5, 2), np.nan, np.float32)


class Broken(Family):
    kind = "policy"

    def load(self, setting, checkpoint):
        return Loaded(Nowhere(), "Broken")


def test_a_cell_that_fails_says_why_and_the_others_are_reported(config, tmp_path, families):
    names = [families("raising", Raising()), families("missing", Missing()), families("diverging", Diverging())]
    run = make_run(config, tmp_path, agents=[*names, "random"])
    cells = {c.agent: c for c in execute(run)}
    assert {a: c.status for a, c in cells.items()} == {
        "raising": "failed",
        "missing": "not run",
        "diverging": "failed",
        "random": "done",
    }
    assert cells["raising"].reason.startswith("ZeroDivisionError: boom in two lines")
    assert "errors/" in cells["raising"].reason
    (trace,) = (run.out / "errors").glob("*.txt")
    assert "Traceback" in trace.read_text() and trace.name in cells["raising"].reason
    assert cells["missing"].reason == "its weights are not here; fetch them"
    assert "not a finite number" in cells["diverging"].reason and "learning_rate" in cells["diverging"].reason
    table = {r["agent"]: r for r in rows(run.out, "table.csv")}
    assert table["random"]["n_pairs"] == "3"
    assert "its weights are not here" in table["missing"]["note"] and "boom" in table["raising"]["note"]
    assert {r["agent"] for r in rows(run.out)} == {"random"}
    assert not list(run.store.root.glob("model/*/done.json"))


def test_a_failed_cell_is_tried_again(config, tmp_path, families, monkeypatch):
    name = families("raising", Raising())
    asked = {"agents": [name], "overrides": ["raising={width: 16, depth: 1, train: {steps: 2, batch_size: 8}}"]}
    assert [c.status for c in run_suite(make_run(config, tmp_path, **asked))] == ["failed"]
    monkeypatch.setattr(Raising, "train", GCBCFamily.train)
    assert [c.status for c in run_suite(make_run(config, tmp_path, **asked))] == ["done"]


def test_an_agent_whose_actions_are_not_numbers_does_not_get_a_success_rate(config, tmp_path, families, monkeypatch):
    """And what it did is not kept: the same command gives the right table once it is mended."""
    name = families("broken", Broken())
    (cell,) = run_suite(make_run(config, tmp_path, agents=[name]))
    assert cell.status == "failed", [e.distance_end for e in cell.episodes]
    assert re.fullmatch(
        r"broken chose an action that is not a finite number at step 0 of pair \d: \[nan nan\]", cell.reason
    )
    assert not list((tmp_path / "cache").glob("evaluation/*/done.json"))
    monkeypatch.setattr(Nowhere, "search", lambda self, encoded: np.zeros((len(encoded.states), 5, 2), np.float32))
    (cell,) = run_suite(make_run(config, tmp_path, agents=[name]))
    assert cell.status == "done" and len(cell.episodes) == 3


def test_an_environment_whose_distance_is_infinite_fails_and_may_be_mended(config, tmp_path, monkeypatch):
    real, far = PointMaze.distance, lambda self, states, goals: np.full(np.shape(states)[:-1], np.inf)
    monkeypatch.setattr(PointMaze, "distance", far)
    (cell,) = run_suite(make_run(config, tmp_path, agents=["noop"]))
    assert cell.status == "failed" and re.search(r"PointMaze.*the distance to the goal is inf at step 0", cell.reason)
    monkeypatch.setattr(PointMaze, "distance", real)
    assert run_suite(make_run(config, tmp_path, agents=["noop"]))[0].status == "done"


@pytest.mark.parametrize("sealed", [True, False])
def test_rows_with_nulls_of_an_earlier_version_are_measured_again(config, tmp_path, finished, caplog, sealed):
    """They were sealed in the cache, or left by a kill, and could never be read."""
    run = make_run(config, tmp_path, agents=["random"])
    run_suite(run)
    (folder,) = (p for p in run.store.root.glob("evaluation/*") if p.is_dir())
    rows, done = folder / "episodes.jsonl", folder / "done.json"
    first, *others = rows.read_text().splitlines()
    null = json.dumps(json.loads(first) | {"distance_end": None})
    rows.write_text(
        "".join(f"{line}\n" for line in [null, *others, others[0], null.replace('"pair": 0', '"pair": 99')])
    )
    if sealed:
        content = json.loads(done.read_text())
        content["files"][rows.name] = {"size": rows.stat().st_size, "sha256": checksum(rows)}
        done.write_text(json.dumps(content))
    else:
        done.unlink()
        folder.rename(folder.with_name(f"{folder.name}.partial"))
    (cell,) = execute(run)
    assert cell.status == "done" and "cannot be read" in caplog.text
    assert without_times(run.out) == [r for r in without_times(finished.run.out) if r["agent"] == "random"]


def test_no_memory_says_what_to_lower(config, tmp_path, families, monkeypatch):
    def train(self, setting, folder):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Raising, "train", train)
    (cell,) = run_suite(make_run(config, tmp_path, agents=[families("raising", Raising())]))
    assert cell.status == "failed" and "batch_size" in cell.reason


def test_pairs_that_the_data_cannot_give_are_one_line(config, tmp_path):
    (cell,) = run_suite(make_run(config, tmp_path, agents=["noop"], overrides=["evaluate.num_pairs=5000"]))
    assert cell.status == "failed" and "lower num_pairs" in cell.reason and "\n" not in cell.reason


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("where", ["cells", "videos", "training.json"])
def test_a_full_disk_stops_the_run_with_one_line(config, tmp_path, monkeypatch, number, where):
    if where == "training.json" and number != errno.ENOSPC:
        pytest.skip("one kind is enough for the slower place")
    real = files.os.replace

    def replace(source, target):
        if where in str(target):
            raise OSError(number, os.strerror(number))
        return real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    agent = "gcbc" if where == "training.json" else "noop"
    with pytest.raises(StorageError) as raised:
        run_suite(make_run(config, tmp_path, agents=[agent]))
    message = str(raised.value)
    assert "\n" not in message and where in message
    assert ("disk is full" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert not [p for p in (tmp_path / "out").rglob(".*")]


def test_the_results_folder_is_tried_before_anything_is_built(config, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="file is in its way"):
        run_suite(make_run(config, tmp_path, agents=["noop"]))
    assert not (tmp_path / "cache").exists()


def full_once(monkeypatch, kind: str, name: str) -> None:
    """The disk is full for one file of a work folder of that kind, the first time."""
    real, left = files.os.replace, [True]

    def replace(source, target):
        target = Path(target)
        if left and target.name == name and target.parent.suffix == ".partial" and target.parents[1].name == kind:
            left.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json", "training.json", "done.json"])
@pytest.mark.parametrize("agent", ["gcbc", "sac-her"])
def test_a_finished_training_that_cannot_be_saved_is_not_trained_again(config, tmp_path, monkeypatch, agent, name):
    if agent == "sac-her":
        pytest.importorskip("stable_baselines3")
    settings = (
        ["sac-her={train: {steps: 60, batch_size: 8}, hidden: [8], episode_steps: 4}"] if agent == "sac-her" else []
    )

    def folder(where: str) -> Path:
        run = make_run(config, tmp_path / where, tmp_path / where, agents=[agent], overrides=settings)
        setting = stages.setting_of(run, run.suite.jobs[0], *stages.dataset_of(run, run.suite.jobs[0].env))
        return stages.checkpoint_of(setting, stages.agent_family(agent))

    whole = folder("whole")
    full_once(monkeypatch, "model", name)
    with pytest.raises(StorageError, match="disk is full"):
        folder("full")
    if agent == "gcbc" or name != "model.safetensors":  # for SAC's weights room is held, the test takes even that

        def refuse(*_, **__):
            raise AssertionError("trained again")

        monkeypatch.setattr("lewm_bench.train.loop.learning_rate", refuse)
        if agent == "sac-her" and name != "card.json":
            monkeypatch.setattr("stable_baselines3.SAC.learn", refuse)
    again = folder("full")
    assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    columns = [json.loads((each / "training.json").read_text())["columns"] for each in (whole, again)]
    assert columns[0] == columns[1]


def test_room_for_the_weights_of_sac_is_held_while_it_trains(config, tmp_path, monkeypatch):
    sb3 = pytest.importorskip("stable_baselines3")
    held, learn = [], sb3.SAC.learn

    def watched(self, *args, **kwargs):
        held.extend(p.stat().st_size for p in (tmp_path / "cache").glob("*/*.partial/.room"))
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(sb3.SAC, "learn", watched)
    settings = [
        "sac-her={train: {steps: 60, batch_size: 8}, hidden: [8], episode_steps: 4}",
        "collect.policies={sac: 1.0}",
    ]
    settings += ["collect.sac={steps: 100, warmup: 50, hidden: [8], batch_size: 8}"]
    run = make_run(config, tmp_path, agents=["sac-her"], overrides=settings)
    setting = stages.setting_of(run, run.suite.jobs[0], *stages.dataset_of(run, run.suite.jobs[0].env))
    folder = stages.checkpoint_of(setting, stages.agent_family("sac-her"))
    assert len(held) == 2 and held[1] >= 0.95 * (folder / "model.safetensors").stat().st_size
    assert held[0] > 1000 and not list((tmp_path / "cache").rglob(".room"))


@pytest.mark.parametrize(
    "kind, name",
    [("dataset", "frames.zarr/c.0.0.0.0"), ("model", "model.safetensors"), ("evaluation", "episodes.jsonl")],
)
def test_a_damaged_stage_is_built_again_with_the_same_result(config, tmp_path, kind, name, caplog):
    first = execute(make_run(config, tmp_path, agents=["gcbc"]))
    before = without_times(tmp_path / "out")
    (path,) = (tmp_path / "cache").glob(f"{kind}/*/**/{name}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    second = execute(make_run(config, tmp_path, agents=["gcbc"]))
    assert [c.status for c in (*first, *second)] == ["done", "done"], second[0].reason
    assert without_times(tmp_path / "out") == before
    assert "is damaged" in caplog.text and name in caplog.text
    assert len(list((tmp_path / "cache").glob(f"{kind}/*.corrupt-1"))) == 1


def test_weights_of_a_collapse_are_not_taken_for_a_training_that_must_not(config, tmp_path, monkeypatch):
    """Trained on with ``continue``, the latents even recover: a training with ``fail`` would not have seen that."""
    std = [1.0] * 3 + [0.01] * 5 + [1.0]
    log = TrainingLog({"step": list(range(0, 180, 20)), "loss": [1.0] * 9, "latent_std": std}, 1.0)
    monkeypatch.setattr(GCBCFamily, "train", lambda *_: log)

    def folder(on_collapse):
        run = make_run(config, tmp_path, agents=["gcbc"], overrides=[f"gcbc.train.on_collapse={on_collapse}"])
        job = run.suite.jobs[0]
        setting = stages.setting_of(run, job, *stages.dataset_of(run, job.env))
        return stages.checkpoint_of(setting, stages.agent_family("gcbc"))

    first = folder("continue")
    with pytest.raises(TrainingFailed, match=r"the latents collapsed .*0\.0100 < 0.02 at step 140"):
        folder("fail")
    assert folder("continue") == first


# Checkpoints from elsewhere.


def test_a_checkpoint_is_evaluated_only_with_the_settings_it_was_made_with(finished, config, tmp_path):
    run = make_run(config, tmp_path, finished.run.store.root, agents=["gcbc"])
    job = run.suite.jobs[0]
    data = stages.dataset_of(run, job.env)
    folder = stages.checkpoint_of(stages.setting_of(run, job, *data), stages.agent_family("gcbc"))
    mine = {r.pair: r.distance_end for r in runner.run_job(run, job, *data, checkpoint=folder).episodes}
    cached = {int(r["pair"]): float(r["distance_end"]) for r in rows(finished.run.out) if r["agent"] == "gcbc"}
    assert mine == pytest.approx(cached)

    def refused(reason, **asked):
        other = make_run(config, tmp_path, finished.run.store.root, **asked)
        job = other.suite.jobs[0]
        with pytest.raises(UserError, match=reason):
            runner.run_job(other, job, *stages.dataset_of(other, job.env), checkpoint=folder)

    refused(r"gcbc.hidden 16, but here it is 17", agents=["gcbc"], overrides=["gcbc.hidden=17"])
    refused(r"agent 'gcbc', but here it is 'lewm'", agents=["lewm"])
    other = runner.run_job(
        make_run(config, tmp_path, finished.run.store.root, agents=["gcbc"], overrides=["gcbc.train.steps=9"]),
        job, *data, checkpoint=folder,
    )  # fmt: skip
    assert {r.pair: r.distance_end for r in other.episodes} == pytest.approx(cached)
    assert (
        other.config["agent"]["train"]["steps"]
        == json.loads((folder / "card.json").read_text())["config"]["train"]["steps"]
    )
    refused(r"trained with seed 0, not 1; add --seed 0", agents=["gcbc"], seeds=[1])


def test_a_checkpoint_of_another_environment_is_refused(finished, config, tmp_path, monkeypatch):
    run = make_run(config, tmp_path, finished.run.store.root, agents=["gcbc"])
    job, data = run.suite.jobs[0], stages.dataset_of(run, run.suite.jobs[0].env)
    setting = stages.setting_of(run, job, *data)
    made = stages.checkpoint_of(setting, stages.agent_family("gcbc"))
    card = json.loads((made / "card.json").read_text())
    assert card["env"] == UMAZE and card["environment"] == data[0].identity()

    def given(**changes) -> Path:
        folder = tmp_path / "given"
        files.copy_folder(made, folder)
        changed = {name: value for name, value in {**card, **changes}.items() if value is not None}
        (folder / "card.json").write_text(json.dumps(changed))
        return folder

    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(UserError, match=reason) as error:
            runner.run_job(run, job, *data, checkpoint=folder)
        assert "\n" not in str(error.value)

    medium = "lewm_bench/PointMaze-Medium-v0"
    refused(
        given(env=medium, environment="0" * 16), f"made in {medium}, not in {UMAZE}; name its environment with --env"
    )
    refused(given(env=medium, environment=None), f"made in {medium}, not in {UMAZE}")  # a card of an earlier version
    refused(given(environment="0" * 16), f"made in {UMAZE} before its code or arguments changed; train again")
    runner.run_job(run, job, *data, checkpoint=given(env="another name of the same"))
    runner.run_job(run, job, *data, checkpoint=given(environment=None))
    monkeypatch.setattr(type(data[0]), "schema", 99)
    refused(made, "before its code or arguments changed")


def test_what_is_not_a_checkpoint_is_said_so(finished, config, tmp_path):
    run = make_run(config, tmp_path, finished.run.store.root, agents=["gcbc"])
    job, data = run.suite.jobs[0], stages.dataset_of(run, run.suite.jobs[0].env)
    setting = stages.setting_of(run, job, *data)

    def refused(reason):
        with pytest.raises(UserError, match=reason):
            runner.run_job(run, job, *data, checkpoint=tmp_path)

    refused("has no card.json")
    (tmp_path / "card.json").write_text("[]")
    refused("is damaged")
    (tmp_path / "card.json").write_text(json.dumps(card_of(setting)))
    refused("has no model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    refused("is damaged")


# Kills, and other processes.


def command(config: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "lewm_bench", "run", "--suite", "tiny", "--config", str(config), "--device", "cpu",
            "--cache", str(folder / "cache"), "--out", str(folder / "out"), *more]  # fmt: skip


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_with_their_own_caches_give_the_same_episodes(config, tmp_path):
    for name in ("one", "two"):
        subprocess.run(command(config, tmp_path / name), check=True, capture_output=True, env=ENVIRONMENT)
    assert without_times(tmp_path / "one" / "out") == without_times(tmp_path / "two" / "out")
    first, second = (load_cells([tmp_path / name / "out"]) for name in ("one", "two"))
    assert [c.key for c in first] == [c.key for c in second] and [c.dataset for c in first] == [
        c.dataset for c in second
    ]
    assert [c.training for c in first] == [c.training for c in second]


def kill_when(process: subprocess.Popen, folder: Path, pattern: str, delay: float) -> bool:
    """Kill a process ``delay`` seconds after it has written a file of the pattern; False if it ended before."""
    begin = time.time()
    while process.poll() is None:
        try:
            written = any(p.stat().st_size and p.stat().st_mtime > begin for p in folder.glob(pattern))
        except FileNotFoundError:  # renamed or replaced between the two calls
            written = False
        if written:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_any_moment_leave_the_same_episodes(config, tmp_path, seed):
    longer = ["--agents", "noop,gcbc", "--set", "gcbc.train.steps=150", "--set", "gcbc.train.save_every=10",
              "--set", "gcbc.train.on_collapse=continue", "--set", "evaluate.num_pairs=12"]  # fmt: skip
    subprocess.run(command(config, tmp_path / "whole", *longer), check=True, capture_output=True, env=ENVIRONMENT)
    rng, killed = random.Random(seed), {}
    moments = [("dataset/*.partial/*", 0.01), ("model/*.partial/.state/state.json", 0.3)]
    moments += [("model/*.partial/.state/state.json", 0.02), ("evaluation/*.partial/episodes.jsonl", 0.01)]
    for pattern, delay in moments:
        arguments = command(config, tmp_path / "killed", *longer)
        process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        happened = kill_when(process, tmp_path / "killed" / "cache", pattern, rng.uniform(0, delay))
        killed[pattern] = killed.get(pattern, False) or happened
    subprocess.run(command(config, tmp_path / "killed", *longer), check=True, capture_output=True, env=ENVIRONMENT)
    assert killed["model/*.partial/.state/state.json"] and sum(killed.values()) >= 2, killed
    assert without_times(tmp_path / "killed" / "out") == without_times(tmp_path / "whole" / "out")
    names = ("killed", "whole")
    trained = [next(c for c in load_cells([tmp_path / n / "out"]) if c.agent == "gcbc").training for n in names]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("after", [1, 2])
def test_an_evaluation_goes_on_after_a_torn_line(config, tmp_path, finished, monkeypatch, after):
    real = stages.evaluate

    def dying(*args, **kwargs):
        for number, result in enumerate(real(*args, **kwargs)):
            if number == after:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(stages, "evaluate", dying)
    with pytest.raises(KeyboardInterrupt):
        run_suite(make_run(config, tmp_path, agents=["random"]))
    (partial,) = (tmp_path / "cache").glob("evaluation/*.partial/episodes.jsonl")
    lines = partial.read_text().splitlines()
    assert len(lines) == after
    with partial.open("a") as file:
        file.write(lines[0][:40])
    asked = []

    def watched(*args, **kwargs):
        asked.append(list(kwargs["skip"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(stages, "evaluate", watched)
    execute(make_run(config, tmp_path, agents=["random"]))
    assert asked == [list(range(after))]
    expected = [r for r in without_times(finished.run.out) if r["agent"] == "random"]
    assert without_times(tmp_path / "out") == expected


# Environments that cannot run here.

NEEDS = "Absent needs the package 'absent': pip install 'lewm-bench[absent]'"


def make_absent(image_size: int, **_):
    raise NotRun(NEEDS)


class Undrawn(ToyEnv):
    """It is made and moves, but cannot be drawn, as without OpenGL."""

    def __init__(self, image_size: int = 32) -> None:
        super().__init__(image_size)

    def render_states(self, states: np.ndarray) -> np.ndarray:
        raise NotRun("no OpenGL here")


@pytest.fixture()
def absent(monkeypatch) -> list[str]:
    """Ids of environments that raise NotRun: when made, again so, and when drawn."""
    entries = {"tests/Absent-v0": make_absent, "tests/AlsoAbsent-v0": make_absent, "tests/Undrawn-v0": Undrawn}
    for env_id, entry in entries.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry)
    return list(entries)


def varied(folder: Path, envs: list, cache: Path | None = None, profile: dict | None = None, **asked) -> Run:
    """The tiny suite with other environments and, for its profile, a part of its own."""
    data = yaml.safe_load(TINY)
    data["suites"]["tiny"] |= {"envs": envs, "profiles": {"quick": profile or {}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "varied.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return make_run(folder / "varied.yaml", folder, cache, **asked)


def test_an_environment_that_cannot_run_here_costs_its_cells_only(finished, tmp_path, absent):
    made, _, drawn = absent
    envs = [made, {"id": drawn, "settings": {"collect": {"policies": {"jitter": 1.0}}}}, UMAZE]
    run = varied(tmp_path, envs, finished.run.store.root, agents=["noop", "random"])
    cells = execute(run)
    status = {(c.env, c.agent): (c.status, c.reason) for c in cells}
    assert status == {
        (made, "noop"): ("not run", NEEDS),
        (made, "random"): ("not run", NEEDS),
        (drawn, "noop"): ("not run", "no OpenGL here"),
        (drawn, "random"): ("not run", "no OpenGL here"),
        (UMAZE, "noop"): ("done", ""),
        (UMAZE, "random"): ("done", ""),
    }
    kept = {(c.env, c.agent): c.status for c in load_cells([run.out])}
    assert kept == {name: found for name, (found, _) in status.items()}
    notes = {(r["env"], r["agent"]): r["note"] for r in rows(run.out, "table.csv")}
    assert NEEDS in notes[made, "noop"] and "no OpenGL here" in notes[drawn, "random"]
    # What did run is what it is without the others.
    mine = [row for row in without_times(finished.run.out) if row["agent"] in ("noop", "random")]
    assert without_times(run.out) == mine
    assert not list((run.out).glob("errors/*"))


def test_a_suite_of_nothing_but_one_absent_environment_says_so(tmp_path, absent):
    with pytest.raises(NotRun, match=r"pip install 'lewm-bench\[absent\]'"):
        run_suite(varied(tmp_path, absent[:1], agents=["noop", "random"]))
    overrides = ["collect.policies={jitter: 1}"]
    run = varied(tmp_path, [{"id": absent[2], "name": "Undrawn"}], agents=["noop"], overrides=overrides)
    with pytest.raises(NotRun, match="no OpenGL here"):
        run_suite(run)
    assert load_cells_of(tmp_path / "out") == []


def load_cells_of(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "cells").glob("*.json"))


def test_several_absent_environments_make_a_table_of_reasons(tmp_path, absent):
    cells = execute(varied(tmp_path, absent[:2], agents=["noop"]))
    assert [(c.status, c.reason) for c in cells] == [("not run", NEEDS)] * 2
    assert len(load_cells_of(tmp_path / "out")) == 2 and (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(("error", "reason"), [(UserError("mend it"), "mend it"), (KeyError("x"), "KeyError: 'x'")])
def test_an_environment_that_fails_costs_its_cells_only(tmp_path, finished, monkeypatch, error, reason):
    data_of = runner.dataset_of

    def broken(run: Run, spec: EnvSpec):
        if spec.label == "Broken":
            raise error
        return data_of(run, spec)

    monkeypatch.setattr(runner, "dataset_of", broken)
    cells = execute(
        varied(tmp_path, [{"id": UMAZE, "name": "Broken"}, UMAZE], finished.run.store.root, agents=["noop"])
    )
    assert [(c.env, c.status) for c in cells] == [("Broken", "failed"), (UMAZE, "done")]
    assert cells[0].reason.startswith(reason)


# Settings of an environment.


def test_each_environment_runs_with_its_own_settings(tmp_path, finished):
    longer = {"id": UMAZE, "name": "Longer"}
    longer["settings"] = {"collect": {"episodes": 24}, "evaluate": {"goal_offset": [8], "num_pairs": 2}}
    wide = {"id": UMAZE, "name": "Wide", "kwargs": {"threshold": 0.6}}
    run = varied(tmp_path, [UMAZE, longer, wide], finished.run.store.root, agents=["noop"])
    cells = execute(run)
    assert [c.env for c in cells] == [UMAZE, "Longer", "Wide"] and len({c.dataset for c in cells}) == 3
    for spec, cell, episodes, offset, pairs in zip(
        run.suite.envs, cells, (20, 24, 20), (5, 8, 5), (3, 2, 3), strict=True
    ):
        env, dataset, _ = stages.dataset_of(run, spec)
        assert len(dataset) == episodes and env.threshold == (0.6 if spec.name == "Wide" else 0.45)
        assert cell.config["collect"]["episodes"] == episodes and cell.config["evaluate"]["goal_offset"] == [offset]
        assert [(e.goal_offset, e.pair) for e in cell.episodes] == [(offset, pair) for pair in range(pairs)]
        assert cell.config["env"]["kwargs"] == spec.kwargs
    # They do not leak into the one beside it: that one is still the cell of the run without the others.
    assert {e.key for e in cells[0].episodes} == {r["key"] for r in rows(finished.run.out) if r["agent"] == "noop"}


# The number of pairs of a job.


def test_a_limit_on_pairs_reaches_the_pairs_the_key_and_the_record(tmp_path, finished):
    listed = {"agents": {"random": {"num_pairs": 2}, "gcbc": {"num_pairs": 1}}}
    cache = finished.run.store.root
    run = varied(tmp_path / "a", [UMAZE], cache, listed, agents=["noop", "random", "gcbc"])
    cells = {c.agent: c for c in execute(run)}
    assert {a: len(c.episodes) for a, c in cells.items()} == {"noop": 3, "random": 2, "gcbc": 1}
    assert {a: c.config["evaluate"]["num_pairs"] for a, c in cells.items()} == {"noop": 3, "random": 2, "gcbc": 1}
    before = {(r["agent"], r["pair"]): r for r in without_times(finished.run.out)}
    for row in without_times(run.out):  # the first of the pairs, and the same ones
        whole = before[row["agent"], row["pair"]]
        assert {k: v for k, v in row.items() if k != "key"} == {k: v for k, v in whole.items() if k != "key"}
        assert (row["key"] == whole["key"]) == (row["agent"] == "noop")
    job = run.suite.jobs[1].model_copy(update={"seed": 0})
    few = [keys.latent_oracle_pairs(run.suite, job.model_copy(update={"num_pairs": n}), 5) for n in (1, 2)]
    many = make_run(tmp_path / "a" / "varied.yaml", tmp_path, cache, overrides=["evaluate.latent_oracle_pairs=9"])
    assert few == [1, 1] and keys.latent_oracle_pairs(many.suite, job, 5) == 2
    # The same number of pairs from the settings is the same cell.
    said = varied(tmp_path / "b", [UMAZE], cache, agents=["random"], overrides=["evaluate.num_pairs=2"])
    (again,) = execute(said)
    assert {e.key for e in again.episodes} == {e.key for e in cells["random"].episodes}
    # And asking for pairs lifts the limit.
    lifted = varied(tmp_path / "c", [UMAZE], cache, listed, agents=["random"], overrides=["evaluate.num_pairs=3"])
    assert len(execute(lifted)[0].episodes) == 3


# A policy that is trained before it collects.

SAC = [
    "collect.policies={sac: 1.0}",
    "collect.sac={steps: 200, warmup: 50, hidden: [8], batch_size: 8}",
    "collect.episodes=12",
]


def stages_in(cache: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"policy": set(), "dataset": set()}
    for path in cache.glob("*/*/done.json"):
        found.setdefault(path.parent.parent.name, set()).add(path.parent.name)
    return found


@pytest.mark.slow
def test_the_learned_policy_is_trained_once_kept_and_collects(config, tmp_path, monkeypatch):
    trained = []
    real = stages.train_sac_policy

    def watched(*arguments):
        trained.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(stages, "train_sac_policy", watched)

    def data(*changes: str) -> Dataset:
        run = make_run(config, tmp_path, agents=["noop"], overrides=[*SAC, *changes])
        return stages.dataset_of(run, run.suite.envs[0])[1]

    cache = tmp_path / "cache"
    first = data()
    assert len(trained) == 1 and set(first.meta.policies) == {"sac"}
    assert {kind: len(names) for kind, names in stages_in(cache).items()} == {"policy": 1, "dataset": 1}

    # The data are those that this policy collects, and no other's.
    (policy,) = (cache / "policy").glob("*/done.json")
    env = stages.make_env(UMAZE, 32)
    settings = make_run(config, tmp_path, overrides=SAC).suite.settings.collect
    by_hand = collect(env, settings, keys.DATA_SEED, tmp_path / "by hand", False, learned=policy.parent)
    assert by_hand.fingerprint == first.fingerprint
    other = settings.model_copy(update={"sac": settings.sac.model_copy(update={"noise": 0.0})})
    stages.train_sac_policy(env, other.sac, keys.DATA_SEED, tmp_path / "other", False)
    trained.clear()
    elsewhere = collect(env, other, keys.DATA_SEED, tmp_path / "otherwise", False, learned=tmp_path / "other")
    assert (elsewhere.actions[:-1] != first.actions[:-1]).any()

    # Nothing is trained for the same data, nor for other data by the same policy.
    assert data().fingerprint == first.fingerprint and data("collect.chunk=3").fingerprint == first.fingerprint
    for change in ("collect.episodes=13", "image_size=16", "collect.steps=21"):
        assert data(change).fingerprint != first.fingerprint, change
    assert not trained and {k: len(v) for k, v in stages_in(cache).items()} == {"policy": 1, "dataset": 4}
    data("collect.sac.noise=0.5")
    assert len(trained) == 1 and {k: len(v) for k, v in stages_in(cache).items()} == {"policy": 2, "dataset": 5}


def test_settings_of_a_policy_that_is_not_used_change_no_data_and_train_nothing(
    finished, config, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("trained or collected for nothing")

    monkeypatch.setattr(stages, "train_sac_policy", refuse)
    monkeypatch.setattr(stages, "collect", refuse)
    run = make_run(config, tmp_path, finished.run.store.root, agents=["noop"], overrides=["collect.sac.noise=0.5"])
    (cell,) = run_suite(run)
    assert cell.dataset == finished.cells[0].dataset and not list(run.store.root.glob("policy/*"))


def test_a_learned_policy_is_one_of_several(config, tmp_path):
    mixed = [SAC[1], "collect.policies={sac: 0.2, ornstein_uhlenbeck: 0.8}", "evaluate.split=all"]
    run = make_run(config, tmp_path, agents=["noop"], overrides=mixed)
    (cell,) = run_suite(run)
    assert cell.status == "done", cell.reason
    assert cell.config["collect"]["sac"]["steps"] == 200
    _, dataset, _ = stages.dataset_of(run, run.suite.envs[0])
    assert sorted(dataset.meta.policies) == ["ornstein_uhlenbeck"] * 16 + ["sac"] * 4


# Ablations and budgets.


def test_ablations_that_only_plan_differently_share_one_training_and_are_rows_of_their_own(tmp_path, config):
    cache = tmp_path / "cache"
    arms = ["lewm", "lewm:planner.num_iterations=2", "lewm:sigreg_weight=0.5"]
    run = make_run(config, tmp_path, cache, agents=arms)
    cells = {c.agent: c for c in execute(run)}
    assert [cells[a].status for a in arms] == ["done"] * 3
    assert len(list((cache / "model").glob("*/done.json"))) == 2
    assert cells[arms[0]].key == cells[arms[1]].key != cells[arms[2]].key
    assert cells[arms[1]].config["planner"]["num_iterations"] == 2 != cells["lewm"].config["planner"]["num_iterations"]
    assert cells[arms[2]].config["agent"]["sigreg_weight"] == 0.5
    assert len({c.file_name for c in cells.values()}) == 3
    # The agent without settings is the one that a run without ablations has.
    alone = make_run(config, tmp_path / "alone", agents=["lewm"])
    execute(alone)
    assert without_times(alone.out) == [r for r in without_times(run.out) if r["agent"] == "lewm"]


def test_an_arm_with_the_default_value_has_the_same_episodes(tmp_path, config):
    value = make_run(config, tmp_path).suite.agent_config("lewm").dropout
    run = make_run(config, tmp_path, agents=["lewm", f"lewm:dropout={value}"])
    execute(run)
    first, second = ([r["distance_end"] for r in rows(run.out) if r["agent"] == job.agent] for job in run.suite.jobs)
    assert first == second


def test_a_budget_in_seconds_shows_as_steps_in_the_record(tmp_path, config):
    run = make_run(
        config, tmp_path, agents=["noop", "gcbc"], overrides=["training.seconds=2", "gcbc.train.on_collapse=continue"]
    )
    cells = {c.agent: c for c in execute(run)}
    steps = cells["gcbc"].config["agent"]["train"]["steps"]
    assert cells["gcbc"].status == cells["noop"].status == "done"
    (pace,) = (json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("pace.json"))
    assert steps == int((2 - pace["fixed"]) / pace["step"])
    assert cells["gcbc"].training["step"][-1] == steps - 1


def test_a_card_may_differ_in_training_and_in_what_only_planning_reads():
    card = {"agent": "fast-lewm:consistent", "image_size": 64, "action_dim": 2}
    card["config"] = {"width": 8, "self_consistency": 1.0, "train": {"steps": 3}}
    plain = {**card, "agent": "fast-lewm", "config": {"width": 8, "self_consistency": 0.0, "train": {"steps": 4}}}
    free = ("train", "self_consistency")
    assert checkpoints.flat_card(card, free) == checkpoints.flat_card(
        plain, free
    ) and "fast-lewm.width" in checkpoints.flat_card(card, ())
    assert checkpoints.flat_card(card, ("train",)) != checkpoints.flat_card(plain, ("train",))
    plain["config"]["width"] = 16
    assert checkpoints.flat_card(card, free) != checkpoints.flat_card(plain, free)


def test_operations_are_counted_once_per_offset_and_of_what_has_a_network(finished):
    """Of the oracle, whose one decision may take minutes, nothing is."""
    found = {cell.agent: [o.flops_per_step for o in cell.offsets] for cell in finished.cells}
    assert all(value > 0 for value in found["lewm"] + found["gcbc"])
    for name in {"random", "noop", "oracle"} & set(found):
        assert set(found[name]) == {None}


def test_an_evaluation_from_before_operations_were_counted_stays_valid(config, tmp_path):
    """A measure is no part of a key: what an older evaluation lacks reads as None until it is measured again."""
    run = make_run(config, tmp_path, agents=["gcbc"])
    (counted,) = execute(run)
    (folder,) = (p for p in run.store.root.glob("evaluation/*") if p.is_dir())
    measures, done = folder / stages.MEASURES, folder / "done.json"
    older = {name: value for name, value in json.loads(measures.read_text()).items() if name != "flops_per_step"}
    measures.write_text(json.dumps(older))
    content = json.loads(done.read_text())
    content["files"][measures.name] = {"size": measures.stat().st_size, "sha256": checksum(measures)}
    done.write_text(json.dumps(content))
    before = {path.name for path in run.store.root.glob("evaluation/*")}
    (cell,) = execute(run)
    assert {path.name for path in run.store.root.glob("evaluation/*")} == before
    assert counted.offsets[0].flops_per_step > 0 and cell.offsets[0].flops_per_step is None
    assert cell.episodes == counted.episodes
