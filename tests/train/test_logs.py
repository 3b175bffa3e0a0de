"""Loggers that follow a training: what they hold is what the training logged, and they can neither change nor end it."""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.train import follower
from lewm_bench.train.loggers import CHECKS, mlflow_client, require_loggers
from lewm_bench.train.logs import UNLOGGED, LogOf, LogTo
from lewm_bench.train.loop import TrainConfig, TrainingLog, learning_rate, train

CONFIG = TrainConfig(steps=13, batch_size=4, learning_rate=1e-2, warmup=0.2, log_every=3, save_every=4)
STEPS = [0, 3, 6, 9, 12]
SETTINGS = {"agent": "regression", "device": "cpu", "config": {"train": {"steps": 13}, "encoder": None}}


class Model(nn.Module):
    """Regression whose loss is also logged under another name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1))

    def loss(self, batch, step):
        x, y = batch
        error = (self.net(x) - y).square().mean()
        return error, {"half": error / 2, "never": torch.tensor(torch.nan)}


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(stream(0, "batch", index).standard_normal((4, 3), np.float32))
    return x, x.sum(1, keepdim=True)


class Killed(Exception):
    pass


def killed_at(index: int):
    def batches(i: int):
        if i == index:
            raise Killed
        return batch(i)

    return batches


def run(folder: Path, log_of: LogOf = UNLOGGED, batches=batch, model: nn.Module | None = None) -> TrainingLog:
    model, cpu = Model() if model is None else model, torch.device("cpu")
    return train(model, batches, CONFIG, seed=0, device=cpu, folder=folder, progress=False, log_of=log_of)


def killed_and_resumed(folder: Path, kind: str) -> TrainingLog:
    """A training that logs steps 0, 3 and 6, goes on from 4, and so logs 6 again."""
    of = about(folder, kind)
    with pytest.raises(Killed):
        run(folder, of, killed_at(7))
    return run(folder, replace(of, settings={**SETTINGS, "device": "another"}))


def about(folder: Path, *kinds: str) -> LogOf:
    return LogOf(LogTo(kinds, folder / "logs"), "maze__regression__seed0", "0123456789abcdef", SETTINGS)


def others(step: int) -> dict[str, float]:
    """What can be known beforehand of the numbers that are no column of the training's log."""
    return {"optimiser/learning_rate": learning_rate(CONFIG, step)}


# TensorBoard.


def events(folder: Path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_has_every_logged_step_once_also_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    log = killed_and_resumed(tmp_path, "tensorboard")
    found = events(tmp_path / "logs" / "tensorboard" / "maze__regression__seed0")
    for name in ("loss", "half"):
        scalars = found.Scalars(f"train/{name}")
        assert [one.step for one in scalars] == STEPS
        assert [one.value for one in scalars] == pytest.approx(log.columns[name], rel=1e-6)
    rates = found.Scalars("optimiser/learning_rate")
    assert [one.value for one in rates] == pytest.approx([learning_rate(CONFIG, step) for step in STEPS], rel=1e-6)
    assert "train/never" not in found.Tags()["scalars"]
    assert all(0 <= one.value <= 1 for one in found.Scalars("pace/waiting_for_data"))


def test_the_pace_is_that_since_the_point_before() -> None:
    found = follower.Follower(UNLOGGED, 4, clips=8, seconds=10.0, waited=1.0, device=torch.device("cpu"))
    assert found._pace(7, 12.0, 1.5) == {"pace/clips_per_second": 12.0, "pace/waiting_for_data": 0.25}
    assert found._pace(12, 16.0, 1.5) == {"pace/clips_per_second": 10.0, "pace/waiting_for_data": 0.0}


class Slope(nn.Module):
    """A loss whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def loss(self, batch, step):
        return 3 * self.w[0] + 4 * self.w[1], {}


def test_the_norm_is_that_of_the_gradient_before_it_is_clipped(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    run(tmp_path, about(tmp_path, "tensorboard"), lambda _: (), Slope())
    norms = events(tmp_path / "logs" / "tensorboard" / "maze__regression__seed0").Scalars("optimiser/gradient_norm")
    assert [one.value for one in norms] == [5.0] * 5 and CONFIG.clip_norm == 1.0


def test_a_training_that_is_followed_ends_with_the_same_weights(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    alone, followed = Model(), Model()
    run(tmp_path / "alone", model=alone)
    run(tmp_path / "followed", about(tmp_path, "tensorboard"), model=followed)
    for a, b in zip(alone.parameters(), followed.parameters(), strict=True):
        assert torch.equal(a, b)


# Weights & Biases.


def records(path: Path) -> Iterator[bytes]:
    """The records of a file as LevelDB's log has them: blocks of 32 KiB, in each checksum, length, type and bytes."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, last
            yield part
            part = b""


def test_wandb_logs_offline_into_one_run(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    log = killed_and_resumed(tmp_path, "wandb")
    files = sorted((tmp_path / "logs" / "wandb").glob("offline-run-*-0123456789abcdef/*.wandb"))
    assert files  # one for each part of the training; `wandb sync` makes one run of them
    points: dict[int, dict] = {}
    for file in files:
        for one in map(Record.FromString, records(file)):
            if one.WhichOneof("record_type") == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.history.item
                }
                points[items["step"]] = items
    assert sorted(points) == STEPS
    assert [points[step]["train/loss"] for step in STEPS] == pytest.approx(log.columns["loss"])
    assert all(points[step].items() >= others(step).items() for step in STEPS)


def test_wandb_without_a_key_is_told_of_before_anything_begins(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing may be asked
    monkeypatch.chdir(tmp_path)
    import wandb

    wandb.teardown()  # it remembers its settings
    with pytest.raises(UserError, match=r"W&B needs a key.*WANDB_MODE=offline"):
        require_loggers(LogTo(("wandb",), tmp_path / "logs"))
    wandb.teardown()
    assert not (tmp_path / "logs").exists()


# MLflow.


def test_mlflow_has_every_logged_step_in_one_run(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    log = killed_and_resumed(tmp_path, "mlflow")
    client = mlflow_client(tmp_path / "logs")
    (experiment,) = [one for one in client.search_experiments() if one.name == "lewm-bench"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "maze__regression__seed0" and found.info.status == "FINISHED"
    assert found.data.params == {
        "agent": "regression",
        "config.train.steps": "13",
        "config.encoder": "None",
        "device": "cpu",
    }
    history = {one.step: one.value for one in client.get_metric_history(found.info.run_id, "train/loss")}
    assert [history[step] for step in STEPS] == pytest.approx(log.columns["loss"]) and len(history) == len(STEPS)
    rates = {one.step: one.value for one in client.get_metric_history(found.info.run_id, "optimiser/learning_rate")}
    assert rates == {step: others(step)["optimiser/learning_rate"] for step in STEPS}


def test_an_mlflow_that_is_not_there_is_told_of_before_anything_begins(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begin, before = time.monotonic(), dict(os.environ)
    with pytest.raises(UserError, match=r"MLflow cannot be reached at MLFLOW_TRACKING_URI='http://127.0.0.1:9'"):
        require_loggers(LogTo(("mlflow",), tmp_path))
    assert time.monotonic() - begin < 20
    assert {name: os.environ.get(name) for name in before} == before


# Whatever the logger.


class Recorder:
    """A logger that keeps what it is given, until it fails or hangs."""

    def __init__(self, fails_at: int = 100, hangs: float = 0.0) -> None:
        self.fails_at, self.hangs = fails_at, hangs
        self.points: list[tuple[int, dict[str, float]]] = []
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        time.sleep(self.hangs)
        if len(self.points) == self.fails_at:
            raise ConnectionError("the server\nhas gone")
        self.points.append((step, metrics))

    def finalize(self, status: str) -> None:
        self.ended.append(status)


@pytest.fixture
def recorders(monkeypatch) -> dict[str, Recorder]:
    found: dict[str, Recorder] = {}
    monkeypatch.setattr(follower, "_opened", lambda *_: dict(found))
    return found


def test_a_logger_that_fails_on_the_way_costs_one_warning_and_the_others_go_on(tmp_path, recorders, caplog) -> None:
    recorders |= {"wandb": Recorder(fails_at=2), "mlflow": Recorder()}
    log = run(tmp_path)
    assert log.columns["step"] == STEPS
    assert [step for step, _ in recorders["wandb"].points] == STEPS[:2] and recorders["wandb"].ended == []
    assert [step for step, _ in recorders["mlflow"].points] == STEPS and recorders["mlflow"].ended == ["success"]
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warning == "wandb logs no more of this training, which goes on (ConnectionError: the server has gone)"


def test_a_logger_that_hangs_holds_nothing_up(tmp_path, recorders, caplog, monkeypatch) -> None:
    monkeypatch.setattr(follower, "PATIENCE", 0.2)
    recorders["mlflow"] = Recorder(hangs=60)
    begin = time.monotonic()
    log = run(tmp_path)
    assert log.columns["step"] == STEPS and log.seconds < 10 and time.monotonic() - begin < 20
    assert "the log of mlflow is not complete" in caplog.text


@pytest.mark.parametrize(("error", "status"), [(Killed, "failed"), (KeyboardInterrupt, "aborted")])
def test_a_logger_is_told_how_it_ended(tmp_path, recorders, error, status) -> None:
    recorders["wandb"] = Recorder()

    def batches(index: int):
        if index == 5:
            raise error
        return batch(index)

    with pytest.raises(error):
        run(tmp_path, batches=batches)
    assert recorders["wandb"].ended == [status]


def test_a_logger_that_cannot_be_opened_costs_one_warning(tmp_path, monkeypatch, caplog) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    (tmp_path / "logs").write_text("a file in the way of the folder")
    run(tmp_path, about(tmp_path, "tensorboard"))
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert warning.startswith("tensorboard logs no more of this training, which goes on (")


def test_an_unknown_logger_is_named_with_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"no logger named 'tensorbord'.*did you mean 'tensorboard'"):
        require_loggers(LogTo(("tensorbord",)))


@pytest.mark.parametrize("kind", CHECKS)
def test_a_logger_that_is_not_installed_is_named_with_its_extra(kind: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(NotRun, match=rf"--log {kind} needs the package '{kind}': pip install 'lewm-bench\[{kind}\]'"):
        require_loggers(LogTo((kind,), tmp_path))
