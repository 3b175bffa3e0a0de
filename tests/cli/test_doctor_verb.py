"""The verb doctor: what a suite's data would take, every byte read again, and its exit status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import outcome
from test_runner import TINY

from lewm_bench.system import doctor, store
from lewm_bench.system.doctor import Check

TRAIN = ("train", "gcbc", "--suite", "tiny", "--config", "tiny.yaml", "--device", "cpu")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Run a command line in this process, as a new one that looks at no packages: (exit status, stdout, stderr)."""
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "diagnose", lambda cache: [Check("python", "ok", "3")])
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        store._verified.clear()
        return outcome(monkeypatch, capsys, *arguments)

    return run


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose checksums are taken."""
    read: list[str] = []
    real = store.checksum
    monkeypatch.setattr(store, "checksum", lambda path: read.append(path.name) or real(path))
    return read


def flip(path: Path, *, secretly: bool) -> None:
    """Change a byte in the middle, and if asked leave no trace of it in the file's times."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    if secretly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_it_says_what_data_would_take(call) -> None:
    status, out, err = call("doctor", "--suite", "tiny", "--config", "tiny.yaml")
    assert status == 0 and "20 episodes to collect take about 0 MB and" in out and "profile quick" in err
    assert "data: together: about " in out and " free in " in out
    status, out, _ = call("doctor", "--config", "tiny.yaml", "--set", "collect.episodes=7")
    assert status == 0 and "7 episodes to collect" in out  # the file has no suite pointmaze: its first one
    status, out, err = call("doctor", "--suite", "nope", "--config", "tiny.yaml")
    assert status == 2 and "no suite named 'nope'; known: tiny" in err and "python" in out


def test_what_does_not_work_is_an_exit_status(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda cache: [Check("python", "fail", "2", "install 3")])
    status, out, _ = call("doctor", "--suite", "tiny", "--config", "tiny.yaml")
    assert status == 1 and "fail  python: 2\n        -> install 3\n" in out


@pytest.mark.parametrize(
    "name", ["dataset/*/frames.zarr/c.0.0.0.0", "dataset/*/states.npy", "model/*/model.safetensors"]
)
@pytest.mark.parametrize("secretly", [False, True])
def test_a_damaged_byte_is_found_named_and_mended_by_the_next_command(
    call, reads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, secretly: bool
) -> None:
    monkeypatch.setattr(store, "LARGE", 0)  # what is verified once is remembered across processes
    ask = ("doctor", "--suite", "tiny", "--config", "tiny.yaml", "--verify")
    assert call(*TRAIN)[0] == 0
    status, out, _ = call(*ask)
    assert (
        status == 0
        and "every byte of 2 stages in" in out
        and "data: lewm_bench/PointMaze-UMaze-v0: in the cache" in out
    )
    (path,) = (tmp_path / "cache").glob(name)
    flip(path, secretly=secretly)
    reads.clear()
    if secretly:
        assert call(*TRAIN)[0] == 0 and not reads  # nothing shows it but the bytes
    status, out, _ = call(*ask)
    assert status == 1 and "it is built again by the next command that needs it" in out
    stage = path.relative_to(tmp_path / "cache").parts[:2]
    inside = path.relative_to((tmp_path / "cache").joinpath(*stage)).as_posix()
    assert f"fail  cache: {'/'.join(stage)}: {inside} has changed since it was written" in out
    assert call(*TRAIN)[0] == 0
    status, out, _ = call(*ask)
    assert status == 0, out
    assert len(list(tmp_path.glob("cache/*/*.corrupt-1"))) == 1


def test_only_verify_reads_what_was_read_before(call, reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGE", 0)
    assert call(*TRAIN)[0] == 0
    reads.clear()
    ask = ("doctor", "--suite", "tiny", "--config", "tiny.yaml")
    call(*ask)
    assert not reads
    call(*ask, "--verify")
    assert {"c.0.0.0.0", "states.npy", "model.safetensors"} <= set(reads)


def test_given_data_that_are_damaged_are_named(call, tmp_path: Path) -> None:
    assert call(*TRAIN)[0] == 0
    (folder,) = (tmp_path / "cache" / "dataset").iterdir()
    assert call("doctor", "--data", str(folder), "--verify")[0] == 0
    flip(folder / "frames.zarr" / "c.0.0.0.0", secretly=True)
    assert call("doctor", "--data", str(folder))[0] == 0
    status, _, err = call("doctor", "--data", str(folder), "--verify")
    assert status == 2 and "c.0.0.0.0 has changed since it was written" in err and "collect it again" in err


def test_the_log_says_how_long_a_training_waited(call) -> None:
    status, _, err = call(*TRAIN)
    assert status == 0
    line = next(line for line in err.splitlines() if "trained in" in line)
    assert line.startswith("lewm_bench/PointMaze-UMaze-v0: gcbc, seed 0, trained in ")
    assert line.endswith(" % of it waiting for data")
    assert "trained in" not in call(*TRAIN)[2]  # it is in the cache
