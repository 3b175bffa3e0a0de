"""Atomic files: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import read_bytes
from lewm_bench.system.scratch import mark


class StorageError(UserError):
    """Nothing can be written there; a run stops, since no later cell could be saved either."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into a line that says what to do.

    What is said of a file elsewhere, for instance by somebody's code that reads its own, passes as it is.
    """
    try:
        yield
    except OSError as error:
        line = storage_line(error, path)
        if line is None or not _is_about(error, path):
            raise
        raise StorageError(line) from error


AGAIN = "run the same command again"
STORAGE_LINES = {
    (errno.ENOSPC, errno.EDQUOT): f"the disk is full while writing {{path}}; free some space and {AGAIN}",
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ): "cannot write {path}: {reason}; choose another folder with --out or --cache",
    (
        errno.ENOLCK,
        errno.ENOSYS,
        errno.ENOTSUP,
    ): "the file system of {path} has no locks ({reason}); choose an --out and a --cache on a local disk",
    (errno.ENAMETOOLONG,): "the path {path} is too long for its file system; choose a shorter --out or --cache",
    (errno.EIO, errno.ESTALE): f"the disk or network of {{path}} failed ({{reason}}); see to it and {AGAIN}",
    (
        errno.EMFILE,
        errno.ENFILE,
    ): f"too many files are open at {{path}}; raise the limit (`ulimit -n 4096`) and {AGAIN}",
}


def storage_line(error: OSError, path: object) -> str | None:
    """What to do where a disk, a file system or the limit of open files gave out at ``path``; None for all else."""
    for numbers, line in STORAGE_LINES.items():
        if error.errno in numbers:
            return line.format(path=path, reason=error.strerror)
    return None


def _is_about(error: OSError, path: Path) -> bool:
    """Whether an error is about ``path`` or what lies beside it, as far as it names a file; a full disk is about all."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE) or not isinstance(error.filename, str):
        return True
    named, here = Path(error.filename).absolute(), Path(path).absolute()
    return named.is_relative_to(here.parent) or here.is_relative_to(named)


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
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write ``pieces`` one after the other to ``path``, atomically, making parent folders; one is in memory at a time."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    if path.is_dir():
        raise StorageError(f"cannot write {path}: a folder is in its way; choose another name")
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=mark())
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
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
    """Copy the files of a folder and those below it into another, each atomically; one onto itself is left alone.

    Raises:
        UserError: one cannot be read, or is a link to something outside of the folder that ``source`` lies in.
    """
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        if not path.resolve().is_relative_to(source.parent.resolve()):
            raise UserError(
                f"{path} is a link that leaves {source.parent}; put the file itself there, or delete the link"
            )
        to = target / path.relative_to(source)
        if to.exists() and to.samefile(path):
            continue
        write_bytes(to, read_bytes(path, "mend that, or delete it"))


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
