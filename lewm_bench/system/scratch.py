"""Temporary files and folders that say whose they are, so that those of killed processes can be deleted."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PREFIX = ".lewm-bench-tmp"
NAME = re.compile(rf"{re.escape(PREFIX)}-(?P<host>[0-9a-f]{{8}})-(?P<pid>\d+)-")
OLD_SECONDS = 7 * 24 * 3600  # a file that long in writing is of no process, whatever its machine


def mark() -> str:
    """What the names of this process's temporary files begin with."""
    return f"{PREFIX}-{host_id()}-{os.getpid()}-"


@cache
def host_id() -> str:
    """This machine; another container counts as another machine, since its process ids are its own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def is_stale(path: Path) -> bool:
    """Whether a temporary file or folder is of a process that is gone; False where that cannot be known."""
    found = NAME.match(path.name)
    if found is None:
        return False
    if found["host"] == host_id():
        return not is_alive(int(found["pid"]))
    return path.is_file() and time.time() - path.lstat().st_mtime > OLD_SECONDS


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there; True where that cannot be known."""
    if os.name != "posix":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def delete_stale(folder: Path, *, below: bool = True) -> None:
    """Delete what killed processes have left in ``folder`` and, if asked, in the folders below it."""
    for path in sorted(folder.glob(f"{'**/' if below else ''}{PREFIX}-*")):
        try:
            if not is_stale(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except OSError:  # somebody else's, or just deleted by another process
            continue


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is deleted at the end, in the machine's place for such; those of killed processes go first."""
    delete_stale(Path(tempfile.gettempdir()), below=False)
    with tempfile.TemporaryDirectory(prefix=mark()) as folder:
        yield Path(folder)
