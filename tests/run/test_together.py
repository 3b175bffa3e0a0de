"""One training on several devices, from the command line: the same curve, the same end after a kill, one line for a mistake."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import outcome
from test_runner import TINY

from lewm_bench.core.errors import UserError
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.device import device_of_rank, resolve_devices

gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
COMMON = ("--suite", "tiny", "--config", "tiny.yaml")
# Warmed up: Adam's first steps go by the sign of a gradient, so without it rounding grows to 1e-3 of a loss in fifty steps,
# between one thread and two of one process as well.
TRAIN = {"steps": 50, "batch_size": 8, "log_every": 1, "save_every": 5, "learning_rate": 1e-3, "warmup": 0.5}
TRAIN |= {"on_collapse": "continue"}
SMALL = {
    "encoder": "stem-vit", "latent": 8, "projector_hidden": 32, "width": 16, "depth": 1, "heads": 2, "head_size": 8,
    "mlp_hidden": 32, "dropout": 0,
}  # fmt: skip
SETTINGS = {
    "lewm": {**SMALL, "num_directions": 16, "train": TRAIN},
    # Its hinges magnify rounding: at ten times the rate two curves of 50 steps may part from step 25 on.
    "pldm": {
        **SMALL,
        "inverse_dynamics_weight": 1,
        "inverse_dynamics_hidden": 16,
        "train": {**TRAIN, "learning_rate": 1e-4},
    },
    "gcbc": {"width": 16, "depth": 1, "heads": 2, "hidden": 16, "train": TRAIN},
}


@pytest.fixture()
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has the data and nothing else."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    subprocess.run(program("collect", *COMMON, "--cache", "cache"), cwd=folder, check=True, capture_output=True)
    return folder / "cache"


@pytest.fixture(scope="module")
def made(data: Path) -> Callable[..., Path]:
    """The cache of a training that nothing disturbs, made once for all tests."""

    @functools.cache
    def make(agent: str, *options: str, steps: int = 50) -> Path:
        cache = cache_with(data, data.parent, f"{agent} {' '.join(options)} {steps}")
        done = run(program(*words_of(agent, cache, steps=steps), *options), data.parent)
        assert done.returncode == 0, done.stderr
        return cache

    return make


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "lewm_bench", *words]


def torchrun(*words: str) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return [*start, "--rdzv-endpoint", "localhost:0", "-m", "lewm_bench", *words]


def words_of(agent: str, cache: Path, **train) -> tuple[str, ...]:
    settings = {**SETTINGS[agent], "train": {**SETTINGS[agent]["train"], **train}}
    return "train", agent, *COMMON, "--cache", str(cache), "--set", f"{agent}={json.dumps(settings)}"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def cache_with(data: Path, folder: Path, name: str) -> Path:
    shutil.copytree(data, folder / name)
    return folder / name


def record(cache: Path) -> dict:
    (path,) = cache.glob("model/*/training.json")
    return json.loads(path.read_text())


def weights(cache: Path) -> dict[str, torch.Tensor]:
    (path,) = cache.glob("model/*/*.safetensors")
    return load_tensors(path)


def assert_same_curve(found: dict, expected: dict) -> None:
    assert found["columns"].keys() == expected["columns"].keys() and len(found["columns"]["step"]) == 50
    for name, values in expected["columns"].items():
        if name not in ("effective_rank", "straightness"):  # which no loss sees, and which magnify differences
            np.testing.assert_allclose(found["columns"][name], values, rtol=1e-4, atol=1e-4, err_msg=name)


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("agent", SETTINGS)
def test_two_processes_give_the_curve_of_one(made, agent: str) -> None:
    one, two = made(agent, "--device", "cpu"), made(agent, "--devices", "cpu,cpu")
    assert_same_curve(record(two), record(one))
    assert np.ptp(record(one)["columns"]["loss"]) > 0.1, "there is something to agree on"
    keys = [{path.name for path in (cache / "model").iterdir()} for cache in (one, two)]
    assert keys[0] == keys[1], "the number of processes is not part of what a stage is"
    assert record(two)["hardware"]["ranks"] == "2" and "ranks" not in record(one)["hardware"]


@gloo
@pytest.mark.slow
def test_torchrun_gives_the_curve_of_one(made, data: Path, place: Path) -> None:
    one, two = made("lewm", "--device", "cpu"), cache_with(data, place, "two")
    again = torchrun(*words_of("lewm", two), "--device", "cpu", "--out", "kept")
    done = run(again, place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "kept", "one of them says where the checkpoint is"
    assert_same_curve(record(two), record(one))
    assert record(two)["hardware"]["ranks"] == "2"
    shutil.rmtree(place / "kept")
    assert run(again, place).returncode == 0 and (place / "kept").is_dir(), "nothing is left to train"


@gloo
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(made, data: Path, place: Path, number: int) -> None:
    whole, killed = made("lewm", "--devices", "cpu,cpu", steps=300), cache_with(data, place, "killed")
    command = program(*words_of("lewm", killed, steps=300), "--devices", "cpu,cpu")
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)
    saved = wait_for_state(killed)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[number], signal.SIGKILL)
    begin = time.monotonic()
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - begin < 15
    assert process.returncode == 1
    lines = [line for line in told.splitlines() if not line.startswith("suite ")]
    assert len(lines) == 1 and "the same command goes on from the last saved state" in lines[0], told
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert saved > 0 and not list(killed.glob("model/*/training.json"))

    assert run(command, place).returncode == 0
    found, expected = weights(killed), weights(whole)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
    assert record(killed)["columns"] == record(whole)["columns"]


def wait_for_state(cache: Path, seconds: float = 120) -> int:
    """The step of the first state that is saved."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in cache.glob("model/*.partial/.state/state.json"):
            return json.loads(path.read_text())["step"]
        time.sleep(0.02)
    raise AssertionError("no state was saved")


def children(parent: int) -> list[int]:
    """The ranks that a process has started, in order."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
            command = (path.parent / "cmdline").read_text()
        except OSError:  # it has ended meanwhile
            continue
        if int(text.rsplit(")", 1)[1].split()[1]) == parent and "spawn_main" in command:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--devices", "cpu,cpu", "--device", "cpu"), "both say where to train"),
        (("--devices", "cpu,cpu,cpu"), "8 is not a multiple of 3; set it to 6 or 9"),
        (("--devices", "cuda:7,cuda:8"), "'cuda:7' is not available: torch sees"),
        (("--devices", "99"), "torch sees"),
        (("--devices", "cpu,meta"), "is not supported"),
        (("--devices", "cpu,cpu", "--set", "training.seconds=5"), "training.seconds is measured with one process"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(place: Path, monkeypatch, capsys, words, told: str) -> None:
    status, out, err = outcome(monkeypatch, capsys, "train", "lewm", *COMMON, "--cache", "cache", *words)
    lines = [line for line in err.splitlines() if not line.startswith("suite ")]
    assert status == 2 and not out and len(lines) == 1 and told in lines[0], err
    assert not (place / "cache").exists()


def test_what_cannot_be_shared_is_refused(place: Path, monkeypatch, capsys) -> None:
    words = ("train", "sac-her", *COMMON, "--cache", "cache", "--devices", "cpu,cpu")
    status, _, err = outcome(monkeypatch, capsys, *words)
    assert status == 2 and "sac-her trains in one process" in err and not (place / "cache").exists()


def test_one_device_is_a_training_as_ever(place: Path, monkeypatch, capsys) -> None:
    words = ("train", "gcbc", *COMMON, "--cache", "cache", "--devices", "cpu")
    status, _, err = outcome(monkeypatch, capsys, *words)
    assert status == 0, err
    assert "ranks" not in record(place / "cache")["hardware"]


def test_devices_by_number_and_by_name(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = [torch.device("cuda", index) for index in range(4)]
    assert resolve_devices("3") == tuple(cuda[:3])
    assert resolve_devices("cuda:2,cuda:0") == (cuda[2], cuda[0])
    assert resolve_devices("cpu,cpu") == (torch.device("cpu"),) * 2
    for wrong in ("5", "0", "cuda:0,cuda:4", "cuda:1,cuda:1", "cuda,cuda", "cuda:0,cpu", "cpu,", ","):
        with pytest.raises(UserError):
            resolve_devices(wrong)


def test_the_device_of_a_process_of_torchrun(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_of_rank(name, 3) for name in ("auto", "cuda", "cpu")] == ["cuda:3", "cuda:3", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_rank("auto", 3) == "cpu"
    with pytest.raises(UserError, match="is for one process"):
        device_of_rank("cuda:1", 0)


def test_devices_are_not_for_processes_of_torchrun(place: Path, monkeypatch, capsys) -> None:
    told = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    status, _, err = outcome(monkeypatch, capsys, "train", "lewm", *COMMON, "--devices", "cpu,cpu")
    assert status == 2 and "torchrun has started the processes; leave --devices out" in err
