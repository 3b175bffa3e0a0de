"""A queue may interrupt a training: it stops after the step that it is at, and the same command ends where it would have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals"),
]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SETTINGS = [
    *("image_size=32", "collect.episodes=20", "collect.steps=20", "gcbc.width=16", "gcbc.depth=1", "gcbc.heads=2"),
    *("gcbc.hidden=16", "gcbc.train.batch_size=4", "gcbc.train.on_collapse=continue", "gcbc.train.log_every=4"),
]
COMMON = [
    "--suite",
    "pointmaze",
    "--device",
    "cpu",
    "--set",
    "evaluate.num_pairs=2",
    "--set",
    "evaluate.goal_offset=[5]",
]
COMMON += [word for setting in SETTINGS for word in ("--set", setting)]
UMAZE = "lewm_bench/PointMaze-UMaze-v0"
STOPS = """
import sys, time
from lewm_bench.cli import app
from lewm_bench.train import loop
real = loop.learning_rate
def slow(config, index):
    if index == 17:
        print("ready", flush=True)
        time.sleep(1)
    return real(config, index)
loop.learning_rate = slow
sys.argv = ["lewm-bench", *{command!r}]
app.main()
"""


def command(folder: Path, steps: int = 40) -> list[str]:
    return [
        *("--verbose", "train", "gcbc", "--env", UMAZE, *COMMON, "--set", f"gcbc.train.steps={steps}"),
        *("--cache", str(folder / "cache"), "--out", str(folder / "out" / "gcbc")),
    ]


def called(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lewm_bench", *arguments], check=False, capture_output=True, text=True, env=ENVIRONMENT
    )


def started(code: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        start_new_session=True,
    )  # fmt: skip


def states(folder: Path) -> list[dict]:
    found = sorted((folder / "cache" / "model").glob("*.partial/.state/state.json"))
    return [json.loads(path.read_text()) for path in found]


def until(ask, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, "never true"
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "status"), [("SIGUSR2", 140), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_training_goes_on_at_its_next_step_and_ends_with_the_same_weights(tmp_path: Path, name, status) -> None:
    undisturbed, here = tmp_path / "undisturbed", tmp_path / "here"
    assert called(command(undisturbed)).returncode == 0
    process = started(["-c", STOPS.format(command=command(here))])
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=120)
    assert process.returncode == status and err.splitlines()[-1].endswith("; the same command goes on where it stopped")
    (state,) = states(here)
    assert state["step"] == 18 and state["columns"]["step"] == [0, 4, 8, 12, 16]  # 17 was at work
    done = called(command(here))
    assert done.returncode == 0 and "training goes on at step 18" in done.stderr, done.stderr
    for folder in (undisturbed, here):
        assert not states(folder)
    weights = [(folder / "out" / "gcbc" / "model.safetensors").read_bytes() for folder in (undisturbed, here)]
    assert weights[0] == weights[1]
    curves = [json.loads((f / "out" / "gcbc" / "training.json").read_text())["columns"] for f in (undisturbed, here)]
    assert curves[0] == curves[1]


def test_trainings_side_by_side_save_what_they_are_at(tmp_path: Path) -> None:
    """They get no signals of their own, and stop when the process that started them does."""
    saves = ["gcbc.train.steps=1000000", "gcbc.train.save_every=100", "collect.chunk=20"]
    arguments = ["run", "--envs", UMAZE, "--agents", "gcbc", "--seeds", "0,1", *COMMON, "--jobs", "2"]
    arguments += [word for setting in saves for word in ("--set", setting)]
    arguments += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    program = "import torch; torch.set_num_threads(2)\nfrom lewm_bench.cli.app import main\nif __name__ == '__main__':\n    main()"
    (tmp_path / "program.py").write_text(program)
    process = started([str(tmp_path / "program.py"), *arguments])
    until(lambda: len(states(tmp_path)) == 2 or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.splitlines()[-1].startswith("lewm-bench: ended by SIGTERM")
    assert any(state["step"] % 100 for state in states(tmp_path))  # by chance both stand at a multiple once in 10,000
