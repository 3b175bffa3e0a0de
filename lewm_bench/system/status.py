"""What runs where: a process at work leaves a small file in the cache, from which ``lewm-bench watch`` makes its table.

A thread writes the file every few seconds, so that working costs nothing but the count of what is done. It is deleted at
the end. That of a killed process is known by its process id, from another machine by its age, and deleted by whoever
comes next.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from lewm_bench.core.config import Record
from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import read_model, reason_of
from lewm_bench.system.files import write_text
from lewm_bench.system.scratch import delete_stale, host_id, is_alive

FOLDER = "running"  # of a cache
EVERY = 3.0  # seconds between two writings of a file
STALE = 300.0  # seconds without any, after which a process counts as gone


class Status(Record):
    """What one process does. Times are seconds since 1970 of its machine's clock."""

    host: str
    machine: str  # what tells machines and containers apart whose hosts are called the same
    pid: int
    task: str
    within: str = ""  # the task that this one is a part of, and how far it is
    since: float
    done: int | None = Field(None, ge=0)
    total: int | None = Field(None, ge=0)
    seconds_left: float | None = Field(None, ge=0)  # at the pace so far
    updated: float


@dataclass(eq=False)
class Task:
    """Something that takes long, as far as it is."""

    text: str
    since: float = field(default_factory=time.time)
    done: int | None = None
    total: int | None = None
    _first: tuple[int, float] | None = None  # what was done when counting began, and when: an interrupted task goes on

    def at(self, done: int, total: int) -> None:
        """Say how much is done of how much."""
        self.done, self.total = done, total
        if self._first is None:
            self._first = done, time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the pace so far; None before there is one."""
        if self._first is None or self.done is None or self.total is None or self.done <= self._first[0]:
            return None
        pace = (time.monotonic() - self._first[1]) / (self.done - self._first[0])
        return max(0.0, pace * (self.total - self.done))

    def __str__(self) -> str:
        return self.text if self.total is None else f"{self.text}, {self.done} of {self.total} done"


class _Writer:
    """The file of this process, kept up to date by a thread as long as there are tasks."""

    def __init__(self, path: Path) -> None:
        self.path, self.tasks = path, list[Task]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop writing and delete the file."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _keep_writing(self) -> None:
        while not self._ended.is_set():
            if tasks := tuple(self.tasks):
                with suppress(OSError, UserError):  # a cache that is only read, or full: work goes on unseen
                    write_text(self.path, status_of(tasks).model_dump_json())
            self._ended.wait(EVERY)


_lock = threading.Lock()
_writer: _Writer | None = None


def status_of(tasks: tuple[Task, ...]) -> Status:
    """What this process does, from its tasks, each a part of the one before."""
    own = tasks[-1]
    return Status(
        host=platform.node(),
        machine=host_id(),
        pid=os.getpid(),
        task=own.text,
        within=str(tasks[-2]) if len(tasks) > 1 else "",
        since=own.since,
        done=own.done,
        total=own.total,
        seconds_left=own.seconds_left,
        updated=time.time(),
    )


@contextmanager
def doing(cache: Path, text: str) -> Iterator[None]:
    """Inside this context the process is at work on a task, which may be a part of another one."""
    global _writer
    task = Task(text)
    with _lock:
        if _writer is None:
            delete_dead(cache)
            _writer = _Writer(cache / FOLDER / f"{host_id()}-{os.getpid()}.json")
            _writer.tasks.append(task)
            _writer.start()
        else:
            _writer.tasks.append(task)
    try:
        yield
    finally:
        with _lock:
            _writer.tasks.remove(task)
            if not _writer.tasks:
                _writer.end()
                _writer = None


def at(done: int, total: int) -> None:
    """Say how far the innermost task is; costs next to nothing, also where nobody has begun one."""
    writer = _writer
    if writer is not None and writer.tasks:
        writer.tasks[-1].at(done, total)


def running(cache: Path) -> list[Status]:
    """What the processes that share a cache do, by machine and time of beginning; files of dead ones are deleted.

    Raises:
        UserError: there is no such cache, or it cannot be read.
    """
    folder = cache / FOLDER
    try:
        os.listdir(cache)
        names = os.listdir(folder) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read the cache {cache}: {reason_of(error)}; name that of the run with --cache")
    delete_stale(folder, below=False)
    found = (_live(folder / name) for name in names if name.endswith(".json"))
    return sorted(filter(None, found), key=lambda status: (status.host, status.since, status.pid))


def delete_dead(cache: Path) -> None:
    """Delete the files of processes that are gone, where that is allowed."""
    with suppress(UserError):
        running(cache)


def _live(path: Path) -> Status | None:
    """The status in a file, None where its process is gone."""
    try:
        status = read_model(path, Status, "delete it")
    except UserError:  # deleted just now, somebody else's, or not ours
        return None
    if time.time() - status.updated < STALE and (status.machine != host_id() or is_alive(status.pid)):
        return status
    with suppress(OSError):
        path.unlink()
    return None
