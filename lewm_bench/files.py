"""Atomic files: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lewm_bench.errors import UserError


class StorageError(UserError):
    """Nothing can be written there; a run stops, since no later cell could be saved either."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into a line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"the disk is full while writing {path}; free some space and run the same command again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"cannot write {path}: {error.strerror}; choose another folder with --out or --cache")
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless it is there; also find out that files can be written into it.

    Raises:
        StorageError: they cannot.
    """
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except (FileExistsError, NotADirectoryError):
        raise StorageError(
            f"cannot make the folder {folder}: a file is in its way; choose another with --out or --cache"
        )
    except FileNotFoundError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out or --cache")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, making parent folders."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder is in its way; choose another name")
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder and those below it into another, each atomically; one onto itself is left alone."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        to = target / path.relative_to(source)
        if to.exists() and to.samefile(path):
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}")
        write_bytes(to, data)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
