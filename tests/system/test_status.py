"""Who is at work: a file per process, true of real other processes, and none of dead ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.system import status
from lewm_bench.system.scratch import mark
from lewm_bench.system.status import STALE, Status, Task, doing, running

WORK = """
import sys, time
from pathlib import Path
from lewm_bench.system import status
with status.doing(Path(sys.argv[1]), "suite tiny"):
    status.at(1, 4)
    with status.doing(Path(sys.argv[1]), "train lewm, seed 0"):
        status.at(10, 100)
        sys.stdin.readline()
"""


def until(true: Callable[[], object], seconds: float = 60.0) -> object:
    """What ``true`` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.05)
    return found


@pytest.fixture()
def worker(tmp_path):
    """A process at work in the cache ``tmp_path``, until it is told to end."""
    process = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path)], stdin=subprocess.PIPE, text=True)
    until(lambda: any("train" in found.task for found in running(tmp_path)))
    yield process
    process.kill()
    process.communicate()


def files(cache: Path) -> list[str]:
    return sorted(os.listdir(cache / "running")) if (cache / "running").is_dir() else []


@pytest.fixture(autouse=True)
def often(monkeypatch) -> None:
    monkeypatch.setattr(status, "EVERY", 0.05)


def written(cache: Path, **change) -> Path:
    """The file of a process that there need not be."""
    now = time.time()
    fields = {"host": "elsewhere", "machine": "00000000", "pid": 1, "task": "train", "since": now, "updated": now}
    path = cache / "running" / f"{len(files(cache))}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(Status(**{**fields, **change}).model_dump_json())
    return path


def test_another_process_is_seen_with_what_it_does_and_how_far_it_is(tmp_path, worker) -> None:
    (found,) = running(tmp_path)
    assert (found.pid, found.task, found.within) == (worker.pid, "train lewm, seed 0", "suite tiny, 1 of 4 done")
    assert (found.done, found.total) == (10, 100) and 0 <= time.time() - found.since < 60
    worker.communicate("end\n")
    assert worker.returncode == 0 and files(tmp_path) == []


def test_a_killed_process_is_ignored_and_its_file_deleted(tmp_path, worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert len(files(tmp_path)) == 1
    assert running(tmp_path) == [] and files(tmp_path) == []


def test_the_next_one_at_work_deletes_the_files_of_the_dead(tmp_path, worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with doing(tmp_path, "collect"):
        own = until(lambda: [name for name in files(tmp_path) if str(os.getpid()) in name])
        assert files(tmp_path) == own
    assert files(tmp_path) == []


def test_of_another_machine_the_age_counts(tmp_path) -> None:
    written(tmp_path, host="b")
    old = written(tmp_path, host="a", updated=time.time() - STALE - 1)
    young = written(tmp_path, host="a", updated=time.time() - STALE + 60)
    assert [found.host for found in running(tmp_path)] == ["a", "b"]
    assert not old.exists() and young.exists()


def test_inner_tasks_give_way_to_the_outer_ones_and_errors_end_them(tmp_path) -> None:
    def now() -> list[str]:
        return [found.task for found in running(tmp_path)]

    with pytest.raises(ZeroDivisionError), doing(tmp_path, "outer"):
        until(lambda: now() == ["outer"])
        with pytest.raises(KeyError), doing(tmp_path, "inner"):
            until(lambda: now() == ["inner"])
            raise KeyError
        until(lambda: now() == ["outer"])
        raise ZeroDivisionError
    assert files(tmp_path) == []


def test_the_time_left_follows_from_the_pace_since_it_went_on(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: clock[0])
    task = Task("train")
    assert task.seconds_left is None
    clock[0] = 500.0  # preparing is no pace
    task.at(900, 1000)
    assert task.seconds_left is None
    clock[0] = 510.0
    task.at(920, 1000)
    assert task.seconds_left == pytest.approx(40.0)  # 20 steps took 10 s, 80 are left
    task.at(1000, 1000)
    assert task.seconds_left == 0.0


def test_nothing_to_say_is_no_error() -> None:
    status.at(1, 2)


def test_a_cache_in_which_nothing_can_be_written_stops_nobody(tmp_path) -> None:
    (tmp_path / "running").write_text("in the way")
    with doing(tmp_path, "train"):
        status.at(1, 2)
        time.sleep(0.2)
    assert (tmp_path / "running").read_text() == "in the way" and running(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\x00" * 100])
def test_other_files_are_left_alone(tmp_path, text) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "odd.json").write_text(text)
    os.mkfifo(tmp_path / "running" / "pipe.json")  # reading it would never end
    assert running(tmp_path) == []
    assert files(tmp_path) == ["odd.json", "pipe.json"]


def test_half_a_file_of_a_killed_process_is_deleted(tmp_path) -> None:
    (tmp_path / "running").mkdir()
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    gone = subprocess.run(command, capture_output=True, text=True, check=True)
    torn = mark().replace(f"-{os.getpid()}-", f"-{int(gone.stdout)}-")
    (tmp_path / "running" / f"{torn}abc").write_text("{")
    assert running(tmp_path) == [] and files(tmp_path) == []


def test_what_cannot_be_read_is_said(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"cannot read the cache .*none: No such file or directory; name that of the run"
    ):
        running(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot read the cache .*file: Not a directory"):
        running(tmp_path / "file")
