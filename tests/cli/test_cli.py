"""The command line: help, one line for every mistake, and the paths that a newcomer takes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import speed_rows
import yaml
from commands import outcome
from PIL import Image
from test_runner import TINY, make_absent

from lewm_bench import __version__
from lewm_bench.cli import speed, verb
from lewm_bench.core.errors import NotRun
from lewm_bench.data.adapt import register_env
from lewm_bench.data.check import CHECKS, Finding, exploration_pairs
from lewm_bench.evaluation.speed_record import load_speed, save_speed
from lewm_bench.run.environments import environment_ids, make_env

COMMANDS = ("run", "list", "collect", "train", "evaluate", "speed", "report", "check", "doctor")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture()
def lewm_bench(monkeypatch, capsys, tmp_path):
    """Run a command line in this process: (exit status, stdout, stderr). Raises what would be a traceback."""
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        return outcome(monkeypatch, capsys, *arguments)

    return call


TINY_RUN = ("--suite", "tiny", "--config", "tiny.yaml", "--device", "cpu")


def test_every_command_has_help_with_an_example(lewm_bench):
    _, everything, _ = lewm_bench()
    for name in COMMANDS:
        status, out, err = lewm_bench(name, "--help")
        assert status == 0 and not err
        assert re.search(rf"Example: lewm-bench {name}\b", out), name
        assert re.search(rf"^  {name} ", everything, re.MULTILINE)
    listed = re.findall(r"^  (\w+)  ", everything.split("Commands:")[1], re.MULTILINE)
    assert set(COMMANDS) <= set(listed)
    for name in set(listed) - set(COMMANDS):
        assert "Example: lewm-bench" in lewm_bench(name, "--help")[1], name


def test_the_examples_name_options_and_settings_that_exist(lewm_bench):
    for name in COMMANDS:
        _, out, _ = lewm_bench(name, "--help")
        example = re.search(r"Example: lewm-bench (.*)", out).group(1)
        for option in re.findall(r"--[\w-]+", example):
            assert out.count(option) >= 2, (name, option)


def test_alone_it_shows_its_help_and_its_version_when_asked(lewm_bench):
    status, out, err = lewm_bench()
    assert status == 0 and "Usage: lewm-bench" in out and not err
    assert lewm_bench("--version") == (0, f"{__version__}\n", "")


TINY_SPEED = (
    "--device", "cpu", "--dtype", "float32,reference", "--set", "image_size=32", "--set", "planner.num_iterations=2",
    "--set", "speed={plans: 3, seconds: 1, image_sizes: [], horizons: [2], batches: []}",
    "--set", "lewm={encoder: cnn, latent: 8, projector_hidden: 16, width: 16, depth: 1, heads: 2, mlp_hidden: 16}",
    "--set", "dino-wm={local: {width: 16, depth: 1, channels: 8}, width: 16, depth: 1, heads: 2, mlp_hidden: 16}",
)  # fmt: skip


@pytest.fixture()
def fast_speed(monkeypatch):
    """No large matrix products."""
    monkeypatch.setattr("lewm_bench.evaluation.speed.gemm_peak", lambda arithmetic, device: 1e9)


MISTAKES = [
    (["rnu"], ["no command 'rnu'", "did you mean 'run'?"]),
    (["--nosuch"], ["--nosuch", "lewm-bench --help"]),
    (["run"], ["--suite", "lewm-bench run --help"]),
    (["run", "--nosuch"], ["--nosuch", "lewm-bench run --help"]),
    (["run", *TINY_RUN, "extra"], ["extra"]),
    (["run", "--suite", "smok"], ["no suite named 'smok'", "did you mean 'smoke'?"]),
    (["run", *TINY_RUN, "--profile", "quik"], ["no profile named 'quik'", "did you mean 'quick'?"]),
    (["run", *TINY_RUN, "--agents", "lewn"], ["no agent named 'lewn'", "did you mean 'lewm'?"]),
    (["run", *TINY_RUN, "--agents", "gcbc,+lewm"], ["gcbc replaces the suite's agents and +lewm adds to them"]),
    (["run", *TINY_RUN, "--agents", ","], ["expected comma-separated names"]),
    (["run", *TINY_RUN, "--envs", "nope"], ["no environment of this suite named 'nope'"]),
    (["run", *TINY_RUN, "--seeds", "one"], ["--seeds takes comma-separated integers, got 'one'"]),
    (["run", *TINY_RUN, "--seeds=-1"], ["--seeds takes integers from 0"]),
    (["run", *TINY_RUN, "--seeds"], ["--seeds", "requires an argument"]),
    (["run", *TINY_RUN, "--set", "planner.std"], ["KEY=VALUE"]),
    (["run", *TINY_RUN, "--set", "planner.samples=3"], ["did you mean 'planner.num_samples'?"]),
    (["run", *TINY_RUN, "--set", "collect.policies={walk: 1}"], ["walk"]),
    (["run", *TINY_RUN, "--device", "gpu"], ["no device 'gpu'", "cuda"]),
    (["run", *TINY_RUN, "--device", "cuda:99"], ["'cuda:99' is not available"]),
    (["run", "--suite", "tiny", "--config", "absent.yaml"], ["absent.yaml", "--config"]),
    (["run", "--suite", "tiny", "--config", "bad.yaml"], ["bad.yaml is not valid YAML in line 2"]),
    (["run", *TINY_RUN, "--out", "tiny.yaml"], ["tiny.yaml", "file is in its way"]),
    (["run", *TINY_RUN, "--cache", "tiny.yaml"], ["tiny.yaml", "--cache"]),
    (["report"], ["lewm-bench report --help"]),
    (["report", "nowhere"], ["no cells in nowhere"]),
    (["report", "corrupt"], ["corrupt/cells/x.json is damaged"]),
    (["list", "suits"], ["did you mean 'suites'?"]),
    (["check", "PointMaze-UMaze"], ["no environment or agent named", "did you mean"]),
    (["check", "absent_package:X-v0"], ["cannot import 'absent_package'", "install"]),
    (["check", "CartPole-v1"], ["CartPole-v1"]),
    (["check", "lewm_bench/PointMaze-UMaze-v0", "--sheet", "corrupt"], ["corrupt", "folder is in its way"]),
    (["train", "noop", *TINY_RUN], ["noop does not train"]),
    (["train", "gcbc", *TINY_RUN, "--seed", "-1"], ["--seed"]),
    (["train", "gcbc", *TINY_RUN, "--env", "nope"], ["no environment of this suite named 'nope'"]),
    (["evaluate", "absent_package.agents:MINE", *TINY_RUN], ["cannot import 'absent_package'"]),
    (["evaluate", "json.decoder:NOPE", *TINY_RUN], ["nothing called 'NOPE'"]),
    (["evaluate", "json.decoder:JSONDecoder", *TINY_RUN], ["not a lewm_bench.agent.Family"]),
    (["evaluate", "gcbc,random", *TINY_RUN], ["expected one agent, got 'gcbc,random'", "lewm-bench run --agents"]),
    (["evaluate", "all", *TINY_RUN], ["expected one agent, got 'all'"]),
    (["evaluate", "+gcbc", *TINY_RUN], ["expected one agent, got '+gcbc'"]),
    (["tune", "+gcbc", *TINY_RUN], ["name an agent to tune"]),
    (["evaluate", "", *TINY_RUN], ["expected one agent, got ''"]),
    (["train", "gcbc:hidden=8,lewm", *TINY_RUN], ["expected one agent, got 'gcbc:hidden=8,lewm'"]),
    (["tune", "", *TINY_RUN], ["name an agent to tune"]),
    (["run", *TINY_RUN, "--agents", "lewm:planner=icem"], ["planner has settings of its own", "example lewm:planner.solver=icem"]),
    (["run", *TINY_RUN, "--set", "collect.policies={{uniform: 1}}"], ["collect.policies: cannot read the value"]),
    (["evaluate", "gcbc", *TINY_RUN, "--checkpoint", "corrupt"], ["corrupt is not a checkpoint"]),
    (["evaluate", "gcbc", *TINY_RUN, "--checkpoint", "other"], ["gcbc.width 99, but here it is 16"]),
    (["collect", "--suite", "speedup"], ["times planning", "no environments", "`lewm-bench run --suite speedup`"]),
    (["evaluate", "lewm", "--suite", "speedup"], ["times planning", "`lewm-bench run --suite speedup`"]),
    *((["run", "--suite", "speedup", option, "lewm"], ["no agents, seeds or environments to choose"])
      for option in ("--agents", "--seeds", "--envs")),
    (["speed", "--dtype", "float23"], ["speed.modes.0", "'float23'", "did you mean 'float32'?"]),
    (["speed", "--dtype", "tf32", "--device", "cpu"], ["tf32 is for CUDA"]),
    (["speed", "--methods", "lewm,dinowm"], ["no agent named 'dinowm'", "did you mean 'dino-wm'?"]),
    (["speed", "--solver", "mpi"], ["no solver named 'mpi'; known: adam, cem, icem", "did you mean 'mppi'?"]),
    (["run", *TINY_RUN, "--planner", "quik"], ["no planner named 'quik'; known: papers, quick", "did you mean 'quick'?"]),
    (["evaluate", "gcbc", *TINY_RUN, "--planner", "quick"], ["no cell of this run plans", "leave the planner 'quick' out"]),
    (["run", *TINY_RUN, "--solver", "gradient"], ["no solver named 'gradient'; known: adam, cem"]),
    (["evaluate", "gcbc", *TINY_RUN, "--solver", "ices"], ["no solver named 'ices'", "did you mean 'icem'?"]),
    (["speed", "--solver", "adam", "--dtype", "float32"], ["adam differentiates the plain loop", "--dtype reference"]),
    (["speed", "--samples", "8,many"], ["--samples takes comma-separated integers, got '8,many'"]),
    (["speed", "--horizon", "5.0"], ["--horizon takes comma-separated integers"]),
    (["speed", "--batch", ","], ["expected comma-separated names"]),
    (["speed", "--batch", "0"], ["speed.batch"]),
    (["speed", "--samples", "1"], ["1 < num_elites <= num_samples"]),
    (["speed", "--iterations", "-1"], ["num_iterations >= 1"]),
    (["speed", "--set", "evaluate=5"], ["evaluate has settings of its own (evaluate.KEY), got 5"]),
    (["speed", "--set", "speed.sample=[8]"], ["did you mean 'speed.samples'?"]),
    (["speed", "--profile", "quik"], ["did you mean 'quick'?"]),
    (["speed", "--config", "tiny.yaml"], ["no suite named 'speedup'"]),
    (["speed", "--checkpoint", "corrupt"], ["corrupt is not a checkpoint"]),
    (["speed", "--checkpoint", "other"], ["other holds gcbc, which is not timed"]),
    (["speed", "--out", "tiny.yaml"], ["tiny.yaml", "file is in its way"]),
    (["report", "slow"], ["slow/speed.json is damaged", "run `lewm-bench speed` again"]),
    (["report", "slow", "corrupt"], ["no cells in slow"]),
]  # fmt: skip


@pytest.mark.parametrize("arguments, says", MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_line_and_status_2(lewm_bench, tmp_path, fast_speed, arguments, says):
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2")
    (tmp_path / "corrupt" / "cells").mkdir(parents=True)
    (tmp_path / "corrupt" / "cells" / "x.json").write_text("{half")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "speed.json").write_text("{half")
    (tmp_path / "other").mkdir()
    card = {"agent": "gcbc", "image_size": 32, "action_dim": 2, "config": gcbc_config() | {"width": 99}}
    (tmp_path / "other" / "card.json").write_text(json.dumps(card))
    status, out, err = lewm_bench(*arguments)
    progress = ("suite tiny, ", "suite speedup, ", "lewm_bench/PointMaze-UMaze-v0: 420 frames collected")
    lines = [line for line in err.splitlines() if not line.startswith(progress)]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("lewm-bench: "), err
    assert (not out or arguments[0] == "check") and "Traceback" not in err and "pydantic" not in err
    for words in says:
        assert words in lines[0], lines[0]


def gcbc_config() -> dict:
    from lewm_bench.run.benchmarks import load
    from lewm_bench.run.resolve import resolve

    return resolve(load(Path("tiny.yaml")), "tiny", "quick").agent_config("gcbc").model_dump(mode="json")


def test_a_full_disk_is_one_line(lewm_bench, monkeypatch):
    import errno

    from lewm_bench.system import files

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    status, _, err = lewm_bench("run", *TINY_RUN, "--agents", "noop", "--out", "out", "--quiet")
    assert status == 2 and err.splitlines()[-1].startswith("lewm-bench: the disk is full")
    assert len(err.splitlines()) == 2  # and what the run was


@pytest.mark.slow
def test_list_has_its_sections(lewm_bench):
    status, out, _ = lewm_bench("list", "--config", "tiny.yaml")
    assert status == 0
    heads = [line.split()[0] for line in out.splitlines() if line and not line.startswith(" ")]
    assert heads == ["suites", "envs", "agents", "profiles", "planners", "protocols", "what"]
    assert "  lewm_bench/PointMaze-UMaze-v0\n" in out and "clean-1" in out and "  tiny: " in out and "dino-wm, " in out
    _, only, _ = lewm_bench("list", "agents")
    assert only.startswith("agents:") and only.count(":\n") == 1 and "dino-wm" in only


def test_a_runs_path_from_collect_to_report(lewm_bench, tmp_path):
    status, out, _ = lewm_bench("collect", *TINY_RUN[:4])
    assert status == 0 and "20 episodes, 420 frames" in out and str(tmp_path / "cache") in out
    status, out, _ = lewm_bench("train", "gcbc", *TINY_RUN, "--out", "mine")
    assert (status, out) == (0, "mine\n")
    assert {p.name for p in (tmp_path / "mine").iterdir()} >= {"model.safetensors", "card.json"}
    assert lewm_bench("train", "gcbc", *TINY_RUN, "--out", "mine")[0] == 0  # over the files that are there
    status, out, err = lewm_bench("evaluate", "gcbc", *TINY_RUN, "--checkpoint", "mine", "--out", "one")
    assert status == 0 and "  gcbc  " in out and "report: one/report.html" in out
    status, out, err = lewm_bench("run", *TINY_RUN, "--agents", "random,noop")
    assert status == 0 and "results/tiny/report.html" in out and "[2/2]" in err
    assert "  random  " in out and "PointMaze-UMaze-v0, goal" in out and max(map(len, out.splitlines())) <= 100
    status, out, _ = lewm_bench("report", "one", "results/tiny", "--out", "both", "--title", "Both")
    assert status == 0 and (tmp_path / "both" / "table.md").read_text().startswith("# Both")
    assert "  gcbc  " in out and "  random  " in out and (tmp_path / "both" / "report.html").is_file()
    films = {folder: {p.name for p in (tmp_path / folder / "videos").iterdir()} for folder in ("one", "both")}
    assert films["one"] and films["one"] < films["both"]
    assert (tmp_path / "both" / "scenes" / "PointMaze-UMaze-v0.png").is_file()
    assert lewm_bench("report", "one", "results/tiny", "--out", "one")[0] == 0  # its films are there already
    assert {p.name for p in (tmp_path / "one" / "videos").iterdir()} == films["both"]
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "tiny.yaml", "mine", "one", "results", "both"}


def test_speed_prints_its_table_and_report_makes_it_again(lewm_bench, tmp_path, fast_speed):
    status, out, err = lewm_bench("speed", *TINY_SPEED, "--samples", "8,16", "--out", "fast")
    assert status == 0 and err.startswith("suite speedup, profile quick, on cpu") and err.count("\n") == 1
    assert out.endswith("report: fast/report.html\n") and (tmp_path / "fast" / "report.html").is_file()
    assert (
        "quick, 32 px, cem, 8 candidates x 2 iterations x 5 blocks" in out
        and "published: LeWM (Maes et al. 2026)" in out
    )
    rows = json.loads((tmp_path / "fast" / "speed.json").read_text())["rows"]
    table, swept = ([r for r in rows if bool(r["sweep"]) == sweep] for sweep in (False, True))
    assert len(table) == 5 * 2 and {r["num_samples"] for r in table} == {8}
    of_samples = [(r["method"], r["num_samples"]) for r in swept if r["sweep"] == "num_samples"]
    assert of_samples == [("lewm", 8), ("lewm", 16), ("dino-wm", 8), ("dino-wm", 16)]
    assert [r["horizon"] for r in swept if r["sweep"] == "horizon"] == [2, 2]
    assert len([line for line in out.splitlines() if re.match("LeWM|PLDM|DINO-WM", line)]) == 8

    status, again, err = lewm_bench("report", "fast", "--out", "again", "--title", "Once more")
    assert status == 0 and not err and again == out.replace("fast/", "again/")
    assert (tmp_path / "again" / "table.md").read_text().startswith("# Once more\n")
    for name in ("table.csv", "speed.json", "speedup.png", "scaling.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "fast" / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "fast", "again"}


def test_a_run_says_where_its_time_went(lewm_bench, monkeypatch):
    monkeypatch.setattr("lewm_bench.report.figures.files.draw_all", lambda *_: {})
    status, out, err = lewm_bench(
        "run", *TINY_RUN, "--agents", "random,gcbc", "--profile-time", "--jobs", "1", "--quiet"
    )
    assert status == 0, err
    rows = out.split("where the time went\n")[1].splitlines()
    shares = {row[:-22].strip(): float(row.split()[-2]) for row in rows}
    assert {"collecting", "loading", "planning: search", "drawing and records", "training: backward"} <= set(shares)
    assert shares.pop("together") == 100 and sum(shares.values()) == pytest.approx(100, abs=0.05 * len(shares))
    assert "where the time went" not in lewm_bench("run", *TINY_RUN, "--agents", "random", "--quiet")[1]
    assert "--jobs" in lewm_bench("run", *TINY_RUN, "--jobs=-1")[2]


def test_the_speed_suite_runs_like_any_other(lewm_bench, tmp_path, fast_speed):
    sets = [part for i, part in enumerate(TINY_SPEED) if part == "--set" or TINY_SPEED[i - 1] == "--set"]
    few = ["--set", "speed.methods=[lewm]", "--set", "speed.modes=[float32]", "--set", "speed.samples=[]"]
    status, out, _ = lewm_bench("run", "--suite", "speedup", *sets, *few, "--device", "cpu", "--quiet")
    assert status == 0 and out.endswith("report: results/speedup/report.html\n") and "300 candidates" in out
    rows = json.loads((tmp_path / "results" / "speedup" / "speed.json").read_text())["rows"]
    assert {(r["method"], r["mode"]) for r in rows} == {("lewm", "float32")} and len(rows) == 2


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], ["speed.modes=['reference']"]),
        (["--samples", "8"], ["planner.num_samples=8", "planner.num_elites=8"]),
        (["--samples", "400,50"], ["planner.num_samples=400", "speed.samples=[400, 50]", "planner.num_elites=30"]),
        (["--horizon", "2"], ["planner.horizon=2", "planner.receding=2"]),
        (["--horizon", "9,3"], ["planner.horizon=9", "speed.horizons=[9, 3]", "planner.receding=5"]),
        (["--batch", "4, 8"], ["speed.batch=4", "speed.batches=[4, 8]"]),
        (["--iterations", "3"], ["planner.num_iterations=3"]),
        (["--methods", "lewm,dino-wm:reencode"], ["speed.methods=['lewm', 'dino-wm:reencode']"]),
        (["--compile"], ["speed.modes=['reference', 'compile']"]),
        (["--set", "planner.std=2"], ["planner.std=2"]),
        (["--solver", "icem"], ["planner.solver=icem"]),
    ],
)
def test_the_options_of_speed_are_settings(lewm_bench, monkeypatch, options, expected):
    asked = []
    monkeypatch.setattr(speed, "time_planning", lambda *arguments: asked.append(arguments))
    dtype = [] if options == ["--samples", "8"] else ["--dtype", "reference"]
    assert lewm_bench("speed", *options, *dtype, "--profile", "paper", "--checkpoint", "mine")[0] == 0
    ((choices, checkpoint),) = asked
    assert (choices.suite, choices.profile, checkpoint) == ("speedup", "paper", Path("mine"))
    modes = [] if not dtype or "speed.modes" in " ".join(expected) else ["speed.modes=['reference']"]
    assert sorted(choices.settings) == sorted([*expected, *modes])


def test_list_names_the_speed_suite(lewm_bench):
    _, out, _ = lewm_bench("list", "suites")
    (line,) = (line for line in out.splitlines() if line.startswith("  speedup "))
    assert line.endswith("Planning time: LeWM, Fast-LeWM, PLDM and DINO-WM with the same planner")  # no envs, no agents


@pytest.mark.parametrize("wrong", ["speed.samples=[8, 0]", "speed.batches=[0]", "speed.horizons=[0]", "image_size=40"])
def test_wrong_numbers_of_speed_are_one_line(lewm_bench, fast_speed, wrong):
    status, _, err = lewm_bench("speed", *TINY_SPEED, "--samples", "8", "--methods", "lewm", "--set", wrong)
    assert status == 2 and err.count("\n") <= 2 and "Traceback" not in err


def test_a_report_of_two_folders_leaves_their_records_alone(lewm_bench, tmp_path):
    save_speed([speed_rows.row()], tmp_path / "a")
    save_speed([speed_rows.row(hardware={"device": "cuda"})], tmp_path / "b")
    assert lewm_bench("report", "a", "b")[0] == 0
    assert load_speed(tmp_path / "a") == [speed_rows.row()]


def test_the_cache_option_wins_over_the_environment(lewm_bench, tmp_path):
    lewm_bench("collect", *TINY_RUN[:4])
    assert (tmp_path / "cache" / "dataset").is_dir()
    lewm_bench("collect", *TINY_RUN[:4], "--cache", "another")
    assert (tmp_path / "another" / "dataset").is_dir()


def test_a_failed_cell_is_status_1_and_one_that_cannot_run_is_not(lewm_bench):
    status, out, err = lewm_bench("run", *TINY_RUN, "--agents", "noop", "--set", "evaluate.num_pairs=5000")
    assert status == 1 and "failed: lewm_bench/PointMaze-UMaze-v0 noop seed 0:" in err
    status, out, err = lewm_bench(
        "run", *TINY_RUN, "--agents", "noop,dino-wm", "--set", "dino-wm.weights=absent-folder"
    )
    assert status == 0 and "not run" in out and "not run" in err, err


def test_check_is_status_0_for_ours(lewm_bench, tmp_path):
    status, out, _ = lewm_bench("check", "lewm_bench/PointMaze-UMaze-v0", "--sheet", "sheet.png")
    assert status == 0 and "MEND" not in out and (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


# Environments: the list of them, and the check of one.

UMAZE = "lewm_bench/PointMaze-UMaze-v0"


@pytest.fixture()
def registered():
    """A function that registers an id for the test."""
    environment_ids()  # what an import registers is there once and for all
    before = set(gym.registry)
    yield gym.register
    for env_id in set(gym.registry) - before:
        if env_id.startswith(("mine/", "tests/", "lewm_bench/Absent")):
            del gym.registry[env_id]


def listed_envs(out: str) -> dict[str, str]:
    head, *lines = out.rstrip("\n").splitlines()
    assert head == "envs:"
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


@pytest.mark.slow
def test_list_says_of_every_environment_what_a_reader_wants_to_know(lewm_bench, registered):
    register_env("mine/Cart-v0", "CartPole-v1", threshold=0.125, compare=[0, 2], unit="metres", state="replay")
    registered("lewm_bench/Absent-v0", make_absent)
    status, out, err = lewm_bench("list", "envs")
    lines = listed_envs(out)
    assert status == 0 and not err and list(lines) == environment_ids()
    assert lines[UMAZE] == "actions 2 in [-1, 1], image 64x64x3, success within 0.45 maze cells, from lewm-bench"
    # A choice of two becomes a number for each.
    cart = "actions 2 in [-1, 1], image 64x64x3, success within 0.125 metres, adapted from CartPole-v1 (vector: 0 to 3 observation)"
    assert lines["mine/Cart-v0"] == cart
    assert lines["lewm_bench/Absent-v0"] == (
        "unavailable: Absent needs the package 'absent': pip install 'lewm-bench[absent]'"
    )
    form = r"actions [1-9]\d* in \[-?[\d.]+, [\d.]+\], image 64x64x3, success within [\d.]+ .+, from lewm-bench"
    for env_id in (env_id for env_id in lines if "adapted from" not in lines[env_id]):
        assert re.fullmatch(form, lines[env_id]) or lines[env_id].startswith("unavailable: "), env_id


def tile(sheet: Path, column: int, row: int) -> np.ndarray:
    """(144, 144, 3): a picture of the contact sheet; rows are starts, goals, starts, goals."""
    return np.asarray(Image.open(sheet))[row * 162 + 16 :][:144, 4 + column * 148 :][:, :144]


@pytest.mark.parametrize(
    "options, name, size",
    [
        ([], "PointMaze-UMaze-v0.png", 64),
        (["--sheet", "folder/mine.png", "--image-size", "16"], "folder/mine.png", 16),
    ],
)
def test_check_draws_starts_and_their_goals(lewm_bench, tmp_path, monkeypatch, options, name, size):
    if size == 16:  # what is found is looked at once, below and in test_envs.py
        monkeypatch.setattr("lewm_bench.data.check.check_goal_env", lambda env: [])
    status, out, err = lewm_bench("check", UMAZE, *options)
    factors = Path(name).with_stem(f"{Path(name).stem}-factors")
    assert status == 0 and not err
    assert out.endswith(f"starts and their goals, 25 steps ahead: {name}\nfactors of changed worlds: {factors}\n")
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", Path(name).parts[0], factors.parts[0]}
    assert Image.open(tmp_path / factors).width == 190 + 4 * 118
    env = make_env(UMAZE, size)
    starts, goals = exploration_pairs(env, 25, 12)
    for n, (column, row) in {0: (0, 0), 5: (5, 0), 6: (0, 2), 11: (5, 2)}.items():
        for below, frame in enumerate(env.render_states(np.stack([starts[n], goals[n]]))):
            large = np.repeat(np.repeat(frame, 144 // 16, 0), 144 // 16, 1) if size == 16 else None
            drawn = tile(tmp_path / name, column, row + below)
            if large is not None:
                np.testing.assert_array_equal(drawn, large)
            assert abs(drawn.astype(float).mean() - frame.mean()) < 3
    if size == 64:
        *findings, _, _ = out.splitlines()
        assert len(findings) == len(CHECKS) and all(line.startswith("ok  ") for line in findings)
        assert "at 64 x 64 px" in out


def test_the_drawn_goals_are_those_of_the_suite(lewm_bench, checked, tmp_path):
    """As many steps ahead as its first goals; they can be reached in so many, and are not reached at the start."""
    text = ADAPTED.replace("title: Two", "title: Two\n    settings: {evaluate: {goal_offset: [7, 30]}}")
    (tmp_path / "theirs.yaml").write_text(text)
    status, out, _ = lewm_bench("check", "Balanced", "--config", "theirs.yaml")
    assert (status, out) == (0, VECTOR + drawn("Balanced").replace("25", "7"))
    env = make_env("lewm_bench/TwoRoom-v0", 32)
    starts, goals = exploration_pairs(env, 7, 12)
    farthest = env.simulate(starts, np.broadcast_to(env.action_space.high, (12, 7, 2)))  # diagonal, at full speed
    step = np.abs(np.diff(np.stack([starts, *farthest.swapaxes(0, 1)])[..., :2], axis=0)).max()
    assert (np.abs(goals - starts)[..., :2] <= 7 * step + 1e-9).all() and (env.distance(starts, goals) > 0).all()
    assert not env.reached(*exploration_pairs(env, 25, 12)).any() and len(starts) == 12


def test_findings_are_said_one_by_one(lewm_bench, monkeypatch, capsys):
    """A check that takes minutes shows what it has found so far."""
    said = []

    def findings(env):
        yield Finding("first", True, "well")
        said.append(capsys.readouterr().out)
        yield Finding("second", True, "well")

    monkeypatch.setattr("lewm_bench.data.check.check_goal_env", findings)
    lewm_bench("check", UMAZE)
    assert said == ["ok    first: well\n"]


def picture(env: gym.Env) -> np.ndarray:
    """CartPole's cart and pole without a graphics library."""
    x, _, angle, _ = env.unwrapped.state
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, :, 0] = np.uint8(np.clip(128 + 50 * x, 0, 255))
    frame[:, :, 1] = np.uint8(np.clip(128 + 500 * angle, 0, 255))
    return frame


ADAPTED = f"""
profiles: {{quick: {{}}}}
suites:
  one: {{title: One, envs: [{{id: {UMAZE}, name: Wide, kwargs: {{threshold: 0.75}}}}], agents: [noop]}}
  two:
    title: Two
    agents: [noop]
    envs:
      - id: CartPole-v1
        name: Balanced
        kwargs: {{sutton_barto_reward: true}}
        adapt: {{threshold: 0.25, compare: [0, 2], frame: "test_cli:picture"}}
"""


def drawn(stem: str) -> str:
    """What is said of the two sheets of an environment."""
    return f"starts and their goals, 25 steps ahead: {stem}.png\nfactors of changed worlds: {stem}-factors.png\n"


VECTOR = "      vector: 0 to 3 observation\n"


@pytest.fixture()
def checked(monkeypatch, tmp_path) -> list:
    """The environments that are checked, which finds nothing; and a file with environments in its suites."""
    (tmp_path / "theirs.yaml").write_text(ADAPTED)
    made: list = []
    monkeypatch.setattr("lewm_bench.data.check.check_goal_env", lambda env: made.append(env) or [])
    return made


def test_check_finds_an_environment_of_a_suite_by_its_name(lewm_bench, tmp_path, checked):
    status, out, _ = lewm_bench("check", "Balanced", "--config", "theirs.yaml", "--image-size", "24")
    assert (status, out) == (0, f"{VECTOR}{drawn('Balanced')}") and (tmp_path / "Balanced.png").is_file()
    status, out, _ = lewm_bench("check", "Wide", "--config", "theirs.yaml")
    assert (status, out) == (0, drawn("Wide"))
    balanced, wide = checked
    assert (balanced.source, balanced.threshold, balanced.observation_space.shape) == ("CartPole-v1", 0.25, (24, 24, 3))
    assert balanced.settings.compare == (0, 2) and balanced._arguments["sutton_barto_reward"] is True
    assert (wide.spec.id, wide.threshold, wide.observation_space.shape) == (UMAZE, 0.75, (64, 64, 3))


def test_check_of_an_id_needs_no_suite(lewm_bench, tmp_path, checked):
    assert lewm_bench("check", UMAZE, "--config", "theirs.yaml")[0] == 0  # its only suite calls it Wide
    assert checked[0].threshold == 0.45 and (tmp_path / "PointMaze-UMaze-v0.png").is_file()
    status, _, err = lewm_bench("check", "CartPole-v1", "--config", "theirs.yaml")
    assert status == 2 and "CartPole-v1" in err  # that it is adapted under another name does not make it ours
    status, _, err = lewm_bench("check", "Wide")
    assert status == 2 and "no environment or agent named 'Wide'" in err and not (tmp_path / "Wide.png").exists()


def test_check_of_an_agent(lewm_bench, tmp_path, monkeypatch):
    asked = []
    findings = [Finding("shapes", True, "5 actions"), Finding("frames", False, "look at them")]
    monkeypatch.setattr("lewm_bench.run.agent_check.check_agent", lambda *given: asked.append(given) or findings)
    status, out, err = lewm_bench("check", "lewm", "--set", "lewm.depth=1")
    assert (status, err) == (1, "") and out == "ok    shapes: 5 actions\nMEND  frames: look at them\n"
    del findings[1]
    assert lewm_bench("check", "dino-wm:mae")[:2] == (0, "ok    shapes: 5 actions\n")
    assert [(name, tuple(overrides)) for name, _, overrides in asked] == [
        ("lewm", ("lewm.depth=1",)),
        ("dino-wm:mae", ()),
    ]
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml"}
    for wrong, said in (
        (["lewm", "--sheet", "s.png"], "--sheet draws an environment, and lewm is an agent"),
        ([UMAZE, "--set", "lewm.depth=1"], f"--set is for the settings of an agent, and {UMAZE} is none"),
        (["lewn"], "no environment or agent named 'lewn'"),
    ):
        status, out, err = lewm_bench("check", *wrong)
        assert status == 2 and not out and said in err and len(err.splitlines()) == 1


def test_check_offers_the_nearest_name_of_a_suite(lewm_bench, checked):
    _, _, err = lewm_bench("check", "Balancd", "--config", "theirs.yaml")
    assert "did you mean 'Balanced'?" in err


def test_an_adapted_environment_of_a_suite_keeps_its_promises(lewm_bench, tmp_path):
    (tmp_path / "theirs.yaml").write_text(ADAPTED)
    status, out, _ = lewm_bench("check", "Balanced", "--config", "theirs.yaml", "--image-size", "16")
    *findings, sheet, factors = out.splitlines()
    assert status == 0 and len(findings) == len(CHECKS) + 1 and findings.pop(0) == "      vector: 0 to 3 observation"
    assert all(line.startswith("ok  ") for line in findings), out
    assert f"{sheet}\n{factors}\n" == drawn("Balanced")


def test_check_is_status_1_and_draws_for_what_must_be_mended(lewm_bench, tmp_path, monkeypatch):
    findings = [Finding("visible", True, "all of them"), Finding("clipping", False, "clip its action")]
    monkeypatch.setattr("lewm_bench.data.check.check_goal_env", lambda env: findings)
    status, out, err = lewm_bench("check", UMAZE, "--sheet", "s.png")
    assert status == 1 and not err
    assert out == f"ok    visible: all of them\nMEND  clipping: clip its action\n{drawn('s')}"
    assert Image.open(io.BytesIO((tmp_path / "s.png").read_bytes())).size == (6 * 148 + 4, 4 * 162)


def test_check_says_that_an_environment_cannot_be_drawn(lewm_bench, tmp_path, monkeypatch):
    """What is wrong with it stands in the findings; it is no fault of ours."""
    monkeypatch.setattr(
        "lewm_bench.data.check.check_goal_env", lambda env: [Finding("reset", False, "return two values")]
    )
    monkeypatch.setattr("lewm_bench.data.check.exploration_pairs", lambda *_: None)
    status, out, err = lewm_bench("check", UMAZE, "--sheet", "s.png")
    assert (status, err) == (1, "") and "starts and their goals cannot be drawn: TypeError: " in out
    assert not (tmp_path / "s.png").exists()


# Environments that cannot run here.


@pytest.fixture()
def absent(registered, tmp_path) -> None:
    """A file whose suites have such environments: ``alone`` has nothing else."""
    ids = ["tests/Absent-v0", "tests/AbsentToo-v0"]
    for env_id in ids:
        registered(env_id, make_absent)
    data = yaml.safe_load(TINY)
    suite = data["suites"]["tiny"] | {"agents": ["noop"]}
    for name, envs in {"alone": ids[:1], "both": ids, "beside": [ids[0], UMAZE]}.items():
        data["suites"][name] = suite | {"envs": envs}
    (tmp_path / "absent.yaml").write_text(yaml.safe_dump(data))


REASON = "Absent needs the package 'absent': pip install 'lewm-bench[absent]'"


@pytest.mark.parametrize("options", [["alone"], ["beside", "--envs", "tests/Absent-v0"]])
@pytest.mark.parametrize("command", [["run"], ["train", "gcbc"], ["evaluate", "noop"], ["collect"]])
def test_a_suite_without_any_environment_here_is_status_2_and_one_line(lewm_bench, absent, tmp_path, command, options):
    suite, *envs = options
    if command[0] != "run":
        envs = ["--env", *envs[1:]] if envs and command[0] != "collect" else envs[1:]
    device = [] if command[0] == "collect" else ["--device", "cpu"]
    status, out, err = lewm_bench(*command, *envs, "--suite", suite, "--config", "absent.yaml", "--quiet", *device)
    assert status == 2 and not out and err.splitlines()[1:] == [f"lewm-bench: {REASON}"], err
    assert not list((tmp_path / "results").glob("*/cells/*"))


def test_a_suite_with_one_environment_that_is_not_here_goes_on(lewm_bench, absent, tmp_path):
    status, out, err = lewm_bench("run", "--suite", "beside", "--config", "absent.yaml", "--device", "cpu", "--quiet")
    assert status == 0, err
    assert f"[1/2] Absent-v0 noop seed 0: not run: {REASON}" in err.splitlines() and "[2/2] PointMaze" in err
    assert "not run" in out and out.endswith("report: results/beside/report.html\n")


def test_a_suite_of_several_that_are_not_here_says_so_of_each(lewm_bench, absent):
    status, out, err = lewm_bench("run", "--suite", "both", "--config", "absent.yaml", "--device", "cpu", "--quiet")
    assert status == 2 and err.count(f"not run: {REASON}") == 2 and "Traceback" not in err + out
    assert err.splitlines()[-1] == f"lewm-bench: nothing could be run here: {REASON}"


def test_an_environment_that_is_not_here_is_not_checked_either(lewm_bench, absent, tmp_path):
    status, out, err = lewm_bench("check", "tests/Absent-v0")
    assert (status, out, err) == (2, "", f"lewm-bench: {REASON}\n") and not list(tmp_path.glob("*.png"))


def test_an_environment_that_cannot_draw_is_one_line_of_check(lewm_bench, monkeypatch):
    def fail(env):
        raise NotRun("MuJoCo finds no OpenGL to draw with: sudo apt-get install libegl1")

    monkeypatch.setitem(CHECKS, "gymnasium", fail)
    status, _, err = lewm_bench("check", UMAZE)
    assert status == 2 and err == "lewm-bench: MuJoCo finds no OpenGL to draw with: sudo apt-get install libegl1\n"


def test_a_misspelt_sac_is_offered(lewm_bench):
    status, _, err = lewm_bench("run", *TINY_RUN, "--set", "collect.policies={sca: 1}", "--quiet")
    assert status == 2 and "did you mean 'sac'?" in err


@pytest.mark.parametrize(
    "options, says", [(["--image-size", "8"], "--image-size"), (["--image-size", "big"], "integer")]
)
def test_an_image_size_that_is_none(lewm_bench, options, says):
    status, _, err = lewm_bench("check", UMAZE, *options)
    assert status == 2 and says in err and err.count("\n") == 1


def test_interrupting_says_that_the_same_command_goes_on(lewm_bench, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lewm_bench.run.runner.run_job", interrupt)
    status, _, err = lewm_bench("run", *TINY_RUN, "--agents", "noop", "--quiet")
    assert status == 130 and err.splitlines()[-1].startswith("lewm-bench: interrupted; the same command goes on")


# What only a process of its own shows.


def test_a_reader_that_leaves_is_not_an_error(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "lewm_bench", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    process.stdout.close()  # before anything is written, so that every write fails
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() in (0, 1) and "Traceback" not in err and "Exception" not in err, err


def test_the_module_and_its_one_line_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "lewm_bench", "run"],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd="/",
    )
    assert done.returncode == 2 and done.stderr.startswith("lewm-bench: ") and done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['lewm-bench', '--help']\nfrom lewm_bench.cli.app import main\ntry: main()\n"
    code += "except SystemExit: pass\nprint([m for m in ('torch', 'mujoco', 'matplotlib', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-300:]


@pytest.mark.slow
def test_a_run_with_every_solver(lewm_bench, tmp_path):
    """One model, five planners: the weights are trained once, and only the oracle has no gradient to offer."""
    sets = (
        "--seeds",
        "0",
        "--set",
        "evaluate.num_pairs=2",
        "--set",
        "lewm.train.steps=3",
        "--device",
        "cpu",
        "--quiet",
    )
    run = ("run", "--suite", "smoke", "--agents", "lewm,oracle", *sets)
    ends = set()
    for name in ("cem", "icem", "mppi", "shooting", "adam"):
        status, _, err = lewm_bench(*run, "--solver", name, "--out", name)
        assert status == (1 if name == "adam" else 0)
        assert (name == "adam") == ("the solver adam needs gradients and the true simulator has none" in err)
        (record,) = (tmp_path / name / "cells").glob("*lewm*.json")
        cell = json.loads(record.read_text(encoding="utf-8"))
        assert cell["status"] == "done" and cell["config"]["planner"].get("solver", "cem") == name
        ends.add(json.dumps([r["distance_end"] for r in cell["episodes"]]))
    assert len(list((tmp_path / "cache" / "model").glob("[!.]*"))) == 1 and len(ends) == 5


def test_a_traceback_has_a_place_also_under_an_old_typer() -> None:
    """It passes a path on as text."""
    assert verb.error_folder({"out": "there"}) == verb.error_folder({"out": Path("there")}) == Path("there/errors")
    assert verb.error_folder({"out": None, "cache": "here"}) == Path("here/errors")
