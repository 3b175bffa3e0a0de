"""The command line: help, one line for every mistake, and the paths that a newcomer takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_runner import TINY

from lewm_bench import __version__, cli

COMMANDS = ("run", "list", "collect", "train", "evaluate", "speed", "report", "check", "doctor")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture()
def lewm_bench(monkeypatch, capsys, tmp_path):
    """Run a command line in this process: (exit status, stdout, stderr). Raises what would be a traceback."""
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lewm-bench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

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
    "--device", "cpu", "--dtype", "float32,reference", "--set", "image_size=32", "--set", "cem.num_iterations=2",
    "--set", "speed={plans: 3, seconds: 1, image_sizes: [], horizons: [2], batches: []}",
    "--set", "lewm={encoder: cnn, latent: 8, projector_hidden: 16, width: 16, depth: 1, heads: 2, mlp_hidden: 16}",
    "--set", "dino-wm={local: {width: 16, depth: 1}, width: 16, depth: 1, heads: 2, mlp_hidden: 16}",
)  # fmt: skip


@pytest.fixture()
def fast_speed(monkeypatch):
    """No large matrix products."""
    monkeypatch.setattr("lewm_bench.speed.gemm_peak", lambda arithmetic, device: 1e9)


MISTAKES = [
    (["rnu"], ["no command 'rnu'", "did you mean 'run'?"]),
    (["--nosuch"], ["--nosuch", "lewm-bench --help"]),
    (["run"], ["--suite", "lewm-bench run --help"]),
    (["run", "--nosuch"], ["--nosuch", "lewm-bench run --help"]),
    (["run", *TINY_RUN, "extra"], ["extra"]),
    (["run", "--suite", "smok"], ["no suite named 'smok'", "did you mean 'smoke'?"]),
    (["run", *TINY_RUN, "--profile", "quik"], ["no profile named 'quik'", "did you mean 'quick'?"]),
    (["run", *TINY_RUN, "--agents", "lewn"], ["no agent named 'lewn'", "did you mean 'lewm'?"]),
    (["run", *TINY_RUN, "--agents", ","], ["expected comma-separated names"]),
    (["run", *TINY_RUN, "--envs", "nope"], ["no environment of this suite named 'nope'"]),
    (["run", *TINY_RUN, "--seeds", "one"], ["--seeds takes comma-separated integers, got 'one'"]),
    (["run", *TINY_RUN, "--seeds=-1"], ["--seeds takes integers from 0"]),
    (["run", *TINY_RUN, "--seeds"], ["--seeds", "requires an argument"]),
    (["run", *TINY_RUN, "--set", "cem.std"], ["KEY=VALUE"]),
    (["run", *TINY_RUN, "--set", "cem.samples=3"], ["did you mean 'cem.num_samples'?"]),
    (["run", *TINY_RUN, "--set", "collect.policies={walk: 1}"], ["walk"]),
    (["run", *TINY_RUN, "--device", "gpu"], ["no device 'gpu'", "cuda"]),
    (["run", *TINY_RUN, "--device", "cuda:99"], ["'cuda:99' is not available"]),
    (["run", "--suite", "tiny", "--config", "absent.yaml"], ["absent.yaml", "--config"]),
    (["run", "--suite", "tiny", "--config", "bad.yaml"], ["bad.yaml is not valid YAML in line 2"]),
    (["run", *TINY_RUN, "--out", "tiny.yaml"], ["tiny.yaml", "file is in its way"]),
    (["run", *TINY_RUN, "--cache", "tiny.yaml"], ["tiny.yaml", "--cache"]),
    (["report"], ["lewm-bench report --help"]),
    (["report", "nowhere"], ["no cells in nowhere"]),
    (["report", "corrupt"], ["corrupt/cells/x.json is not a cell record"]),
    (["list", "suits"], ["did you mean 'suites'?"]),
    (["check", "PointMaze-UMaze"], ["no environment named", "did you mean"]),
    (["check", "absent_package:X-v0"], ["cannot import 'absent_package'", "install"]),
    (["check", "CartPole-v1"], ["CartPole-v1"]),
    (["check", "lewm_bench/PointMaze-UMaze-v0", "--sheet", "corrupt"], ["corrupt", "folder is in its way"]),
    (["train", "noop", *TINY_RUN], ["noop does not train"]),
    (["train", "gcbc", *TINY_RUN, "--seed", "-1"], ["--seed"]),
    (["train", "gcbc", *TINY_RUN, "--env", "nope"], ["no environment of this suite named 'nope'"]),
    (["evaluate", "absent_package.agents:MINE", *TINY_RUN], ["cannot import 'absent_package'"]),
    (["evaluate", "json.decoder:NOPE", *TINY_RUN], ["nothing called 'NOPE'"]),
    (["evaluate", "json.decoder:JSONDecoder", *TINY_RUN], ["not a lewm_bench.agent.Family"]),
    (["evaluate", "gcbc", *TINY_RUN, "--checkpoint", "corrupt"], ["corrupt is not a checkpoint"]),
    (["evaluate", "gcbc", *TINY_RUN, "--checkpoint", "other"], ["gcbc.width 99, but here it is 16"]),
    (["collect", "--suite", "speedup"], ["times planning", "no environments", "`lewm-bench run --suite speedup`"]),
    (["evaluate", "lewm", "--suite", "speedup"], ["times planning", "`lewm-bench run --suite speedup`"]),
    *((["run", "--suite", "speedup", option, "lewm"], ["no agents, seeds or environments to choose"])
      for option in ("--agents", "--seeds", "--envs")),
    (["speed", "--dtype", "float23"], ["speed.modes.0", "'float23'", "did you mean 'float32'?"]),
    (["speed", "--dtype", "tf32", "--device", "cpu"], ["tf32 is for CUDA"]),
    (["speed", "--methods", "lewm,dinowm"], ["no method named 'dinowm'", "did you mean 'dino-wm'?"]),
    (["speed", "--solver", "mppi"], ["no solver named 'mppi'; known: cem"]),
    (["speed", "--samples", "8,many"], ["--samples takes comma-separated integers, got '8,many'"]),
    (["speed", "--horizon", "5.0"], ["--horizon takes comma-separated integers"]),
    (["speed", "--batch", ","], ["expected comma-separated names"]),
    (["speed", "--batch", "0"], ["speed.batch"]),
    (["speed", "--samples", "1"], ["1 < num_elites <= num_samples"]),
    (["speed", "--iterations", "-1"], ["num_iterations >= 1"]),
    (["speed", "--set", "speed.sample=[8]"], ["did you mean 'speed.samples'?"]),
    (["speed", "--profile", "quik"], ["did you mean 'quick'?"]),
    (["speed", "--config", "tiny.yaml"], ["no suite named 'speedup'"]),
    (["speed", "--checkpoint", "corrupt"], ["corrupt is not a checkpoint"]),
    (["speed", "--checkpoint", "other"], ["--checkpoint takes a LeWM, other holds gcbc"]),
    (["speed", "--out", "tiny.yaml"], ["tiny.yaml", "file is in its way"]),
    (["report", "slow"], ["slow/speed.json is not a speed record", "run `lewm-bench speed` again"]),
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
    lines = [line for line in err.splitlines() if not line.startswith(("suite tiny, ", "suite speedup, "))]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("lewm-bench: "), err
    assert (not out or arguments[0] == "check") and "Traceback" not in err and "pydantic" not in err
    for words in says:
        assert words in lines[0], lines[0]


def gcbc_config() -> dict:
    from lewm_bench.suite import load, resolve

    return resolve(load(Path("tiny.yaml")), "tiny", "quick").agent_config("gcbc").model_dump(mode="json")


def test_a_full_disk_is_one_line(lewm_bench, monkeypatch):
    import errno

    from lewm_bench import files

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    status, _, err = lewm_bench("run", *TINY_RUN, "--agents", "noop", "--out", "out", "--quiet")
    assert status == 2 and err.splitlines()[-1].startswith("lewm-bench: the disk is full")
    assert len(err.splitlines()) == 2  # and what the run was


def test_list_has_its_sections(lewm_bench):
    status, out, _ = lewm_bench("list", "--config", "tiny.yaml")
    assert status == 0
    heads = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert heads == ["suites:", "envs:", "agents:", "profiles:", "protocols:"]
    assert "lewm_bench/PointMaze-UMaze-v0" in out and "clean-1" in out and "  tiny " in out
    _, only, _ = lewm_bench("list", "agents")
    assert only.startswith("agents:") and only.count(":\n") == 1 and "dino-wm" in only


def test_a_runs_path_from_collect_to_report(lewm_bench, tmp_path):
    status, out, _ = lewm_bench("collect", *TINY_RUN[:4])
    assert status == 0 and "20 episodes, 420 frames" in out and str(tmp_path / "cache") in out
    status, out, _ = lewm_bench("train", "gcbc", *TINY_RUN, "--out", "mine")
    assert (status, out) == (0, "mine\n")
    assert {p.name for p in (tmp_path / "mine").iterdir()} >= {"model.safetensors", "card.json"}
    status, out, err = lewm_bench("evaluate", "gcbc", *TINY_RUN, "--checkpoint", "mine", "--out", "one")
    assert status == 0 and "  gcbc  " in out and "report: one/report.html" in out
    status, out, err = lewm_bench("run", *TINY_RUN, "--agents", "random,noop")
    assert status == 0 and "results/tiny/report.html" in out and "[2/2]" in err
    assert "  random  " in out and "PointMaze-UMaze-v0, goal" in out and max(map(len, out.splitlines())) <= 100
    status, out, _ = lewm_bench("report", "one", "results/tiny", "--out", "both", "--title", "Both")
    assert status == 0 and (tmp_path / "both" / "table.md").read_text().startswith("# Both")
    assert "  gcbc  " in out and "  random  " in out and (tmp_path / "both" / "report.html").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "tiny.yaml", "mine", "one", "results", "both"}


def test_speed_prints_its_table_and_report_makes_it_again(lewm_bench, tmp_path, fast_speed):
    status, out, err = lewm_bench("speed", *TINY_SPEED, "--samples", "8,16", "--out", "fast")
    assert status == 0 and err.startswith("suite speedup, profile quick, on cpu") and err.count("\n") == 1
    assert out.endswith("report: fast/report.html\n") and (tmp_path / "fast" / "report.html").is_file()
    assert "quick, 32 px, 8 candidates x 2 iterations x 5 blocks" in out and "published: LeWM (Maes et al. 2026)" in out
    rows = json.loads((tmp_path / "fast" / "speed.json").read_text())["rows"]
    table, swept = ([r for r in rows if bool(r["sweep"]) == sweep] for sweep in (False, True))
    assert len(table) == 4 * 2 and {r["num_samples"] for r in table} == {8}
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
        (["--samples", "8"], ["cem.num_samples=8", "cem.num_elites=8"]),
        (["--samples", "400,50"], ["cem.num_samples=400", "speed.samples=[400, 50]", "cem.num_elites=30"]),
        (["--horizon", "2"], ["cem.horizon=2", "cem.receding=2"]),
        (["--horizon", "9,3"], ["cem.horizon=9", "speed.horizons=[9, 3]", "cem.receding=5"]),
        (["--batch", "4, 8"], ["speed.batch=4", "speed.batches=[4, 8]"]),
        (["--iterations", "3"], ["cem.num_iterations=3"]),
        (["--methods", "lewm,dino-wm:reencode"], ["speed.methods=['lewm', 'dino-wm:reencode']"]),
        (["--compile"], ["speed.modes=['reference', 'compile']"]),
        (["--set", "cem.std=2"], ["cem.std=2"]),
    ],
)
def test_the_options_of_speed_are_settings(lewm_bench, monkeypatch, options, expected):
    asked = []
    monkeypatch.setattr(cli, "_speed", lambda *arguments: asked.append(arguments))
    dtype = [] if options == ["--samples", "8"] else ["--dtype", "reference"]
    assert lewm_bench("speed", *options, *dtype, "--profile", "paper", "--checkpoint", "mine")[0] == 0
    ((suite, profile, overrides, *_, checkpoint),) = asked
    assert (suite, profile, checkpoint) == ("speedup", "paper", Path("mine"))
    modes = [] if not dtype or "speed.modes" in " ".join(expected) else ["speed.modes=['reference']"]
    assert sorted(overrides) == sorted([*expected, *modes])


def test_list_names_the_speed_suite(lewm_bench):
    _, out, _ = lewm_bench("list", "suites")
    (line,) = (line for line in out.splitlines() if line.startswith("  speedup "))
    assert line.endswith("Planning time: LeWM, PLDM and DINO-WM with the same planner")  # no envs, no agents


@pytest.mark.parametrize("wrong", ["speed.samples=[8, 0]", "speed.batches=[0]", "speed.horizons=[0]", "image_size=40"])
def test_wrong_numbers_of_speed_are_one_line(lewm_bench, fast_speed, wrong):
    status, _, err = lewm_bench("speed", *TINY_SPEED, "--samples", "8", "--methods", "lewm", "--set", wrong)
    assert status == 2 and err.count("\n") <= 2 and "Traceback" not in err


def test_a_report_of_two_folders_leaves_their_records_alone(lewm_bench, tmp_path):
    from test_speed_report import row

    from lewm_bench.records import load_speed, save_speed

    save_speed([row()], tmp_path / "a")
    save_speed([row(hardware={"device": "cuda"})], tmp_path / "b")
    assert lewm_bench("report", "a", "b")[0] == 0
    assert load_speed(tmp_path / "a") == [row()]


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


def test_interrupting_says_that_the_same_command_goes_on(lewm_bench, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lewm_bench.runner.run_job", interrupt)
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
    code = "import sys; sys.argv = ['lewm-bench', '--help']\nfrom lewm_bench.cli import main\ntry: main()\n"
    code += "except SystemExit: pass\nprint([m for m in ('torch', 'mujoco', 'matplotlib', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-300:]
