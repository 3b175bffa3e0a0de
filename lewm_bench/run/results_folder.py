"""A results folder: one command at a time, and no record of another run is ever lost.

What a run makes is written beside the results and joins them cell by cell. With its first record those of an earlier run
go to ``earlier-N``, which is a results folder itself; so a table never mixes two runs. What is there again, as after a
kill, is not kept twice.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import filelock

from lewm_bench.core.errors import UserError
from lewm_bench.system.files import StorageError, disk_errors, make_folder, write_text
from lewm_bench.system.scratch import delete_stale, mark

LOCK, HOLDER = ".in-use.lock", ".in-use.json"
CELLS = "cells"
PARTS = (CELLS, "videos", "scenes", "decoded", "shifts", "errors")
"""What belongs to records; all else is made from them."""


@contextmanager
def claimed(*folders: Path) -> Iterator[None]:
    """Results folders for this process alone, made if they are not there; what killed processes left in them is deleted.

    Raises:
        UserError: another process uses one of them; says which, where and since when.
        StorageError: nothing can be written there.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_claimed(folder))
        yield


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    was_there = folder.is_dir()
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK)
    try:
        with disk_errors(folder / LOCK):
            lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder} is in use{_holder(folder)}; wait for it, or name another folder with --out")
    except NotImplementedError:  # older filelock on a file system without locks
        raise StorageError(f"the file system of {folder} has no locks; choose an --out on a local disk")
    try:
        delete_stale(folder)
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_text(folder / HOLDER, json.dumps({"host": platform.node(), "pid": os.getpid(), "since": since}))
        yield
    finally:
        for name in (HOLDER, LOCK):  # while it is still held: who comes now makes a new one
            with suppress(OSError):
                (folder / name).unlink()
        lock.release()
        if not was_there:
            with suppress(OSError):  # there are results in it
                folder.rmdir()


def _holder(folder: Path) -> str:
    """Who uses a folder, as far as it has said so."""
    try:
        told = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" by process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Incoming:
    """What a run has made and is not yet among the results: written to ``folder``, then published."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self._published = False

    def publish(self) -> None:
        """Move everything that was written into the results, its record last."""
        if not self._published:
            set_aside(self.out, PARTS, CELLS)
            self._published = True
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.parent.name == CELLS, path)):
            name = path.relative_to(self.folder)
            target = self.out / name
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            _forget_copies(self.out, name)

    def finish(self) -> str:
        """Where records of an earlier run are that this one has not made again, in a line; empty if there are none."""
        for earlier in earlier_folders(self.out):
            if not any((earlier / CELLS).glob("*.json")):  # every record is there again, so are their videos
                for part in PARTS:
                    shutil.rmtree(earlier / part, ignore_errors=True)
                with suppress(OSError):  # something else is in it
                    earlier.rmdir()
        return line_about(self.out)


@contextmanager
def incoming(out: Path) -> Iterator[Incoming]:
    """Where a run writes what it makes; what was not published is deleted at the end."""
    make_folder(out)
    with disk_errors(out):
        folder = Path(tempfile.mkdtemp(prefix=mark(), dir=out))
    try:
        yield Incoming(out, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def earlier_folders(out: Path) -> list[Path]:
    """Where records of earlier runs were set aside in a results folder, the oldest first."""
    found = {path: re.fullmatch(r"earlier-(\d+)", path.name) for path in out.glob("earlier-*") if path.is_dir()}
    return sorted((path for path, name in found.items() if name), key=lambda path: int(path.name.split("-")[1]))


def set_aside(out: Path, names: Iterable[str], record: str) -> None:
    """Move what of ``names`` there is in a results folder to ``earlier-N`` in it, if there is a ``record`` to keep.

    Args:
        record: a file, or a folder of JSON files.
    """
    names = list(names)
    if not names or not ((out / record).is_file() or any((out / record).glob("*.json"))):
        return
    number = 1
    while (aside := out / f"earlier-{number}").exists():
        number += 1
    with disk_errors(aside):
        aside.mkdir()
        for name in names:
            if (out / name).exists():
                os.replace(out / name, aside / name)


def line_about(out: Path) -> str:
    """Where records of earlier runs are, in a line; empty if there are none."""
    if not (found := earlier_folders(out)):
        return ""
    return f"records of earlier runs are kept in {', '.join(map(str, found))}"


def _forget_copies(out: Path, name: Path) -> None:
    """Delete what was set aside under a name and is there again, or says of a cell only why it was not measured."""
    for copy in (earlier / name for earlier in earlier_folders(out)):
        with suppress(OSError):  # most have no such file
            if copy.read_bytes() == (out / name).read_bytes() or (name.parent.name == CELLS and not _is_done(copy)):
                copy.unlink()


def _is_done(record: Path) -> bool:
    """Whether a record holds measurements, as far as it can be read."""
    try:
        return json.loads(record.read_text(encoding="utf-8")).get("status") not in ("failed", "not run")
    except (ValueError, AttributeError):
        return True
