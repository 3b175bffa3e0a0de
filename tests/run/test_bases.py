"""Agents that are built on another: it is trained first and once, its settings are part of them, and tables say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import lewm_bench
from lewm_bench.cli import app as cli
from lewm_bench.run import ahead
from lewm_bench.run.benchmarks import load
from lewm_bench.run.checkpoints import training_of
from lewm_bench.run.environments import make_env
from lewm_bench.run.keys import failure_spec, model_spec
from lewm_bench.run.records import load_cells
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve
from lewm_bench.run.stages import Run, dataset_of, setting_of
from lewm_bench.system.cache import entries
from lewm_bench.system.store import Store, stage_key

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
SUITE = f"""
profiles: {{quick: {{}}}}
suites:
  two:
    title: Two
    envs: [{UMAZE}]
    agents: [random, trm, gc-idm]
    seeds: [0]
    settings:
      image_size: 32
      collect: {{episodes: 16, steps: 30}}
      planner: {{num_samples: 8, num_iterations: 1, num_elites: 3}}
      evaluate: {{num_pairs: 2, goal_offset: [10], latent_oracle_pairs: 1, correlation_frames: 16}}
      training: {{steps: 5}}
      lewm: {{encoder: cnn, latent: 8, projector_hidden: 16, width: 16, depth: 1, heads: 2, head_size: 8, mlp_hidden: 16,
        num_directions: 8, train: {{batch_size: 4, on_collapse: continue}}}}
      trm: &head {{hidden: 16, depth: 1, train: {{steps: 8, batch_size: 8, on_collapse: continue}}}}
      gc-idm: *head
"""


def resolved(folder: Path, *overrides: str, agents: tuple[str, ...] = ()):
    path = folder / "two.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return resolve(load(path), "two", "quick", overrides=overrides, agents=agents)


def run_of(folder: Path, *overrides: str, agents: tuple[str, ...] = ()) -> Run:
    suite = resolved(folder, *overrides, agents=agents)
    return Run(suite, Store(folder / "cache"), folder / "out", torch.device("cpu"), False, lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "two.yaml").write_text(SUITE, encoding="utf-8")
    common = [
        "--config",
        f"{folder}/two.yaml",
        "--suite",
        "two",
        "--cache",
        f"{folder}/cache",
        "--quiet",
        "--jobs",
        "1",
    ]
    done = CliRunner().invoke(cli.app, ["run", *common, "--out", f"{folder}/out"])
    assert done.exit_code == 0, done.output
    return folder


def test_what_agents_are_built_on_is_trained_first_and_once(made: Path) -> None:
    cells = {c.agent: c for c in load_cells([made / "out"])}
    models = [e for e in entries(made / "cache") if e.kind == "model"]
    assert len(models) == 3 and set(cells) == {"random", "trm", "gc-idm"}  # lewm, which nobody listed, and both heads
    for agent in ("trm", "gc-idm"):
        cell = cells[agent]
        assert cell.base == "LeWM, seed 0" and cell.label.endswith("on LeWM (CNN encoder)")
        assert 0 < cell.base_seconds < cell.train_seconds
        own = training_of(made / "cache" / "model" / cell.key)
        assert cell.train_seconds == pytest.approx(own["seconds"] + cell.base_seconds)
    assert cells["trm"].base_seconds == cells["gc-idm"].base_seconds
    assert cells["random"].base == "" and cells["random"].base_seconds is None


def test_a_table_names_it_and_shows_both_times(made: Path) -> None:
    text = (made / "out" / "table.md").read_text(encoding="utf-8")
    assert "on the frozen weights of LeWM, seed 0" in text
    assert len([x for x in text.splitlines() if x.startswith("| TRM on LeWM") and " + " in x]) == 1
    table = pd.read_csv(made / "out" / "table.csv").set_index("agent")
    assert table.base["trm"] == "LeWM, seed 0" and pd.isna(table.base["random"])
    assert 0 < table.base_seconds["trm"] < table.train_seconds["trm"] and pd.isna(table.base_seconds["random"])


def test_it_is_found_again_by_whoever_lists_it(made: Path) -> None:
    before = {e.name for e in entries(made / "cache") if e.kind == "model"}
    assert stage_key("model", spec_of(run_of(made, agents=("lewm",)))) in " ".join(before)


def spec_of(run: Run) -> dict:
    (job,) = run.suite.jobs
    return model_spec(setting_of(run, job, *dataset_of(run, job.env)), agent_family(job.agent))


def test_its_settings_belong_to_whoever_is_built_on_it(made: Path) -> None:
    def spec(*overrides: str, agent: str = "trm") -> dict:
        return spec_of(run_of(made, *overrides, agents=(agent,)))

    def failing(*overrides: str) -> dict:
        run = run_of(made, *overrides, agents=("trm",))
        return failure_spec(run.suite, run.suite.jobs[0], agent_family("trm"), "data", "cpu")

    assert spec()["base"] == spec(agent="lewm")
    for change in ("lewm.dropout=0.2", "training.steps=6", "trm.base=pldm", 'trm.base="lewm:dropout=0"'):
        assert spec(change)["base"] != spec()["base"] and spec(change) != spec()
        assert failing(change) != failing()
    assert spec("lewm.dropout=0.1") == spec() and "base" not in spec(agent="lewm")
    assert spec("trm.hidden=8")["base"] == spec()["base"]
    assert spec()["config"]["train"]["steps"] == 8, "the common budget is its base's"


def test_trainings_side_by_side_begin_with_it(made: Path) -> None:
    run = run_of(made, "training.steps=300", "trm.train.steps=300", "gc-idm.train.steps=300")
    data = dataset_of(run, run.suite.jobs[0].env)
    names = [job.agent for job in ahead.trainings(run, run.suite.jobs[0].env, data).values()]
    assert names == ["lewm", "trm", "gc-idm"]


def test_a_checkpoint_acts_by_itself(made: Path, tmp_path: Path) -> None:
    cell = next(c for c in load_cells([made / "out"]) if c.agent == "gc-idm")
    folder = tmp_path / "copied"
    (made / "cache" / "model" / cell.key).rename(folder)
    agent, env = lewm_bench.load(folder, cache=tmp_path / "empty"), make_env(UMAZE, 32)
    frame, info = env.reset(seed=0)
    agent.start(info["goal"])
    action = agent.act(frame)
    folder.rename(made / "cache" / "model" / cell.key)
    again = lewm_bench.load(folder if folder.is_dir() else cell.key, cache=made / "cache")
    again.start(info["goal"])
    assert agent.label == cell.label and action.shape == (2,) and (again.act(frame) == action).all()


def test_it_may_be_a_checkpoint_from_elsewhere(made: Path, tmp_path: Path) -> None:
    """Which need not be of the run's settings; where the weights are from is said, and that nobody knows their time."""
    from_yaml = run_of(made, agents=("lewm",))
    key = stage_key("model", spec_of(from_yaml))
    folder = tmp_path / "weights"
    shutil.copytree(made / "cache" / "model" / key, folder)
    common = ["--config", f"{made}/two.yaml", "--suite", "two", "--cache", f"{made}/cache", "--quiet", "--jobs", "1"]
    wanted = ["--agents", "trm", "--set", f"trm.base={folder}", "--set", "evaluate.latent_oracle_pairs=0"]
    done = CliRunner().invoke(cli.app, ["run", *common, *wanted, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (cell,) = load_cells([tmp_path / "out"])
    assert cell.base == f"LeWM of {folder}" and cell.label == "TRM on LeWM (CNN encoder)"
    assert f"on the frozen weights of LeWM of {folder}" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert cell.key != next(c for c in load_cells([made / "out"]) if c.agent == "trm").key
    small = ["--set", "image_size=48"]
    done = CliRunner().invoke(cli.app, ["run", *common, *wanted, *small, "--out", str(tmp_path / "small")])
    assert "was made with image_size 32, here it is 48" in load_cells([tmp_path / "small"])[0].reason


def test_another_base_than_the_checkpoints_is_refused(made: Path) -> None:
    cell = next(c for c in load_cells([made / "out"]) if c.agent == "gc-idm")
    folder = made / "cache" / "model" / cell.key
    common = ["--config", f"{made}/two.yaml", "--suite", "two", "--cache", f"{made}/cache", "--quiet"]
    arguments = ["evaluate", "gc-idm", *common, "--checkpoint", str(folder), "--out", str(made / "other")]
    done = CliRunner().invoke(cli.app, [*arguments, "--set", "lewm.width=32"])
    assert "is built on lewm.width 16, but here it is 32; set it alike" in str(done.exception)
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
