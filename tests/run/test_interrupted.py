"""A queue may interrupt a training: it stops after the step that it is at, and the same command ends where it would have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
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


LOGS = ["--log", "tensorboard"] if find_spec("tensorboard") else []


def command(folder: Path) -> list[str]:
    return [
        *("--verbose", "train", "gcbc", "--env", UMAZE, *COMMON, "--set", "gcbc.train.steps=40", *LOGS),
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = called(command(folder))
    assert done.returncode == 0 and not states(folder), done.stderr
    return folder


@pytest.mark.parametrize(("name", "status"), [("SIGUSR2", 140), ("SIGTERM", 143)])
def test_a_training_goes_on_at_its_next_step_and_ends_with_the_same_weights(undisturbed, tmp_path, name, status):
    shutil.copytree(undisturbed / "cache" / "dataset", tmp_path / "cache" / "dataset")
    process = started(["-c", STOPS.format(command=command(tmp_path))])
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=120)
    last = f"lewm-bench: ended by {name}; the same command goes on where it stopped"
    assert (process.returncode, err.splitlines()[-1]) == (status, last)
    (state,) = states(tmp_path)
    assert state["step"] == 18 and state["columns"]["step"] == [0, 4, 8, 12, 16]  # 17 was at work

    done = called(command(tmp_path))
    assert done.returncode == 0 and "training goes on at step 18" in done.stderr, done.stderr
    made = [folder / "out" / "gcbc" for folder in (undisturbed, tmp_path)]
    weights = [(folder / "model.safetensors").read_bytes() for folder in made]
    assert weights[0] == weights[1]
    curves = [json.loads((folder / "training.json").read_text())["columns"] for folder in made]
    assert curves[0] == curves[1]
    if LOGS:
        assert logged(tmp_path) == curves[0]["step"]


def logged(folder: Path) -> list[int]:
    """The steps in the one log that there is of a training and what went on from it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = (folder / "out" / "logs" / "tensorboard").iterdir()
    events = EventAccumulator(str(log))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


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
