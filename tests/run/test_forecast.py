"""What is told of data before they are collected, held against what they really take."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_runner import TINY

from lewm_bench.core.errors import UserError
from lewm_bench.data import estimate
from lewm_bench.data.estimate import Estimate, folder_bytes
from lewm_bench.run import forecast as forecasting
from lewm_bench.run.benchmarks import load
from lewm_bench.run.forecast import check_data, check_given, forecast, require_room
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run, dataset_of
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store

MAZE, WALL = "lewm_bench/PointMaze-UMaze-v0", "lewm_bench/Wall-v0"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str]):
    """A run of TINY in a maze and another environment."""
    (tmp_path / "tiny.yaml").write_text(TINY.replace(f"[{MAZE}]", f"[{MAZE}, {WALL}]"), encoding="utf-8")

    def run(*overrides: str, **options) -> Run:
        suite = resolve(load(tmp_path / "tiny.yaml"), "tiny", "quick", agents=("noop",), overrides=overrides)
        store = Store(tmp_path / "cache")
        return Run(suite, store, tmp_path / "out", resolve_device("cpu"), progress=False, say=said.append, **options)

    return run


def leave_free(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    """Pretend that the disk has room for so many bytes beside what stays free."""
    free = shutil._ntuple_diskusage(0, 0, int(estimate.SPARE + count))
    monkeypatch.setattr(forecasting.shutil, "disk_usage", lambda folder: free)


def test_a_forecast_is_near_what_the_data_take_and_leaves_nothing_behind(make, tmp_path: Path) -> None:
    run = make("collect.episodes=40")
    spec = run.suite.envs[0]
    told = forecast(run, spec)
    assert (told.done, told.left) == (0, 40) and told.seconds_left > 0
    assert not (tmp_path / "cache").exists()
    _, dataset, _ = dataset_of(run, spec)
    assert 0.6 < told.bytes_left / folder_bytes(dataset.folder) < 2  # each has its zarr.json and meta.json
    assert forecast(run, spec) is None  # the cache has them
    again = Run(run.suite, Store(tmp_path / "cache", ["dataset"]), run.out, run.device)
    assert forecast(again, spec).left == 40  # and with --fresh they are collected again


def test_what_a_killed_collection_left_counts(make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("collect.episodes=40", "collect.chunk=10")
    spec = run.suite.envs[0]
    monkeypatch.setattr(estimate, "SPARE", 1e18)
    with pytest.raises(UserError, match="30 episodes to collect"):
        dataset_of(run, spec)
    monkeypatch.undo()
    assert 20 < forecast(run, spec).left < 36


def test_more_processes_take_less_time(make) -> None:
    run = make()
    one, four = (forecast(Run(run.suite, run.store, run.out, run.device, workers=n), run.suite.envs[0]) for n in (1, 4))
    assert four.seconds_left < one.seconds_left and abs(four.bytes_left / one.bytes_left - 1) < 0.01


def test_a_policy_that_is_trained_first_is_not_trained_to_tell(make) -> None:
    spec = make().suite.envs[0]
    for policies in ("{sac: 1}", "{sac: 0.5, waypoints: 0.5}"):
        assert forecast(make(f"collect.policies={policies}"), spec).left == 20


def test_a_suite_is_refused_before_anything_is_collected(make, said, tmp_path, monkeypatch) -> None:
    each = [forecast(make(), spec).bytes_left for spec in make().suite.envs]
    monkeypatch.setattr(forecasting, "LARGE", 0)
    monkeypatch.setattr(estimate, "WORTH_BYTES", 0)
    leave_free(monkeypatch, 0.5 * sum(each))
    with pytest.raises(
        UserError, match=r"^the data take about .* has \d+ MB free; (49|5[01]) % of the episodes would fit"
    ):
        run_suite(make())
    assert [line.split(":")[0] for line in said] == [MAZE, WALL] and "20 episodes to collect take about" in said[0]
    assert not list(tmp_path.glob("cache/*/*")) and not (tmp_path / "out").exists()
    leave_free(monkeypatch, 1.2 * sum(each))
    require_room(make())
    leave_free(monkeypatch, 0)
    require_room(make(data=tmp_path))  # nothing is collected then
    monkeypatch.setattr(forecasting, "LARGE", 1e10)
    said.clear()
    require_room(make())
    assert said == []


def test_an_environment_that_cannot_be_made_does_not_hide_the_others(make, monkeypatch) -> None:
    real = forecasting.make_env

    def absent(env_id: str, *arguments):
        if env_id == WALL:
            raise UserError("it lacks a package")
        return real(env_id, *arguments)

    monkeypatch.setattr(forecasting, "make_env", absent)
    maze, wall, together = check_data(make())
    assert (maze.status, wall.status, together.status) == ("ok", "warn", "ok")
    assert wall.detail == "cannot be collected here: it lacks a package" and "20 episodes" in maze.detail
    monkeypatch.setattr(forecasting, "LARGE", 0)
    leave_free(monkeypatch, 0)
    with pytest.raises(UserError, match="0 % of the episodes would fit"):
        require_room(make())
    *_, together = check_data(make())
    assert together.status == "fail" and "0 % of the episodes" in together.remedy


def test_sums_are_of_all_environments() -> None:
    estimates = [Estimate(0, 10, 1e9, 60.0), Estimate(5, 20, 2e9, 90.0)]
    assert forecasting._takes(estimates) == "about 50.0 GB and 40 minutes"


def test_given_data_are_looked_at_and_read_if_asked(make) -> None:
    run = make()
    _, dataset, _ = dataset_of(run, run.suite.envs[0])
    assert check_given(dataset.folder, verify=False).detail.startswith("20 episodes, 420 frames of 32 x 32, ")
    assert "every byte is as it was written" in check_given(dataset.folder, verify=True).detail
    path = dataset.folder / "states.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    check_given(dataset.folder, verify=False)  # a digit of a state
    with pytest.raises(UserError, match=r"states\.npy has changed since it was written; delete the folder"):
        check_given(dataset.folder, verify=True)
