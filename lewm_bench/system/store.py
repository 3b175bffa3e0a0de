"""The cache: finished stages on disk, addressed by a hash of everything that determines them.

A stage is a folder ``root/kind/key``. While it is built it is called ``key.partial`` and outlives a kill, so that a
build can go on from what it finds there; ``done.json`` with the size and checksum of every file is written last, then
the folder is renamed. A folder with its final name is therefore complete.

On every hit the sizes are compared, and the checksums once per process; those of a large folder only once, as long as its
files keep their size, time and number (``.key.verified`` beside it; ``lewm-bench doctor --verify`` reads all). A folder that differs is moved aside to
``key.corrupt-N`` and built again with a warning: every stage can be rebuilt from its specification, so a flipped bit
costs time and never a wrong number.

Who is given a stage leaves an empty file in ``root/.in-use`` that names both, until the process ends, and renews the
folder's time: ``lewm_bench.system.cache`` deletes nothing that is in use, and knows what was not used for long.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import filelock
import platformdirs

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import MissingFile, read_json
from lewm_bench.system.files import StorageError, checksum, disk_errors, write_text
from lewm_bench.system.scratch import PREFIX, delete_stale, is_stale, mark

log = logging.getLogger(__name__)

DONE = "done.json"
IN_USE = ".in-use"  # folder of files that say which process uses which stage
LARGE = 2**26  # bytes of a stage; reading fewer costs less than a tenth of a second

Signature = dict[str, list[int]]
"""Size, time of last change and inode of every file of a folder, by its path relative to it."""

_verified: dict[Path, Signature] = {}
"""Folders whose checksums this process has seen to be right, with their files at that time."""


def default_cache() -> Path:
    """``$LEWM_BENCH_CACHE``, or this user's cache folder."""
    chosen = os.environ.get("LEWM_BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("lewm-bench")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces.

    Raises:
        UserError: it holds something that JSON cannot say; ours never does, a plug-in's may.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"what determines a result must be plain text and finite numbers ({error}); mend the plug-in")


def stage_key(kind: str, spec: dict[str, Any]) -> str:
    """16 hex digits that name the stage ``kind`` built from ``spec``."""
    return hashlib.sha256(canonical_json({"kind": kind, "spec": spec}).encode()).hexdigest()[:16]


class Mirror(Protocol):
    """A place that caches of several machines reach."""

    def fetch(self, folder: Path) -> bool:
        """Make the stage ``folder``, complete or not at all, if the mirror has it."""

    def publish(self, folder: Path) -> None:
        """Leave a finished stage for others, if the mirror lacks it."""


class Store:
    """A folder of finished stages that several processes may share."""

    def __init__(self, root: Path, fresh: Collection[str] = (), mirror: Mirror | None = None) -> None:
        """A cache.

        Args:
            fresh: kinds of stages that are built again, each stage once, also where the cache has them.
            mirror: where other caches' stages are looked for before one is built, and what is built here is left for them.
        """
        self.root, self._mirror = Path(root).expanduser().absolute(), mirror
        self._fresh, self._renewed = frozenset(fresh), set[Path]()

    def renews(self, kind: str) -> bool:
        """Whether stages of a kind are built again, also where the cache has them."""
        return kind in self._fresh

    def folder(self, kind: str, spec: dict[str, Any]) -> Path:
        """Where the stage is, or will be."""
        return self.root / kind / stage_key(kind, spec)

    def unfinished(self, kind: str, spec: dict[str, Any]) -> Path:
        """Where a build of the stage works, and what a killed one has left."""
        return _partial(self.folder(kind, spec))

    def find(self, kind: str, spec: dict[str, Any]) -> Path | None:
        """The folder of the stage if it is complete and sound; needs no write permission."""
        folder = self.folder(kind, spec)
        if self._due(folder) or not folder.is_dir():
            return None
        _use(folder)
        return folder if fault(folder) is None else None

    def stage(
        self,
        kind: str,
        spec: dict[str, Any],
        build: Callable[[Path], object],
        read: Callable[[Path], object] = lambda folder: None,
    ) -> Path:
        """The folder of the stage, built first if it is not there.

        Args:
            build: gets a work folder, which may hold what an earlier, killed build left. Names in it that begin with a
                dot are scratch: they survive a kill and are deleted when the stage is finished.
            read: reads what was built, and raises a ValueError if it cannot: then it is not sealed, and what was sealed
                before somebody noticed is built again.
        """
        folder = self.folder(kind, spec)
        with disk_errors(folder):
            if not self._due(folder) and folder.is_dir():
                _use(folder)
                if _unusable(folder, read) is None:
                    return folder
        with disk_errors(folder), self._lock(folder):
            if self._due(folder):
                _renew(folder)
                self._renewed.add(folder)
            _use(folder)
            if folder.is_dir():
                if (reason := _unusable(folder, read)) is None:  # another process built it while this one waited
                    return folder
                _move_aside(folder, reason)
            delete_stale(folder.parent, below=False)
            if self._mirror is not None and self._mirror.fetch(folder) and _unusable(folder, read) is None:
                return folder
            work = _partial(folder)
            delete_stale(work)
            if not (work / DONE).is_file() or _unusable(work, read) is not None:
                (work / DONE).unlink(missing_ok=True)
                work.mkdir(exist_ok=True)
                build(work)
                read(work)
                _seal(work, kind, spec)
            _delete_scratch(work)
            os.replace(work, folder)
            _remember(folder, _signature(folder))
            if self._mirror is not None:
                self._mirror.publish(folder)
        return folder

    def _due(self, folder: Path) -> bool:
        """Whether a stage is to be built again, and has not been yet."""
        return folder.parent.name in self._fresh and folder not in self._renewed

    @contextmanager
    def _lock(self, folder: Path) -> Iterator[None]:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f"cannot make the cache folder {folder.parent}: a file is in its way; choose another --cache"
            )
        lock = filelock.FileLock(lock_file(folder))
        try:
            lock.acquire(timeout=0)
        except NotImplementedError:  # older filelock on a file system without locks
            raise StorageError(f"the file system of {folder.parent} has no locks; choose a --cache on a local disk")
        except filelock.Timeout:
            log.warning("another process is building %s/%s; waiting for it", folder.parent.name, folder.name)
            lock.acquire()
        try:
            yield
            # While it is held, and only when the stage is complete: whoever opened it meanwhile finds nothing to build.
            with suppress(OSError):
                lock_file(folder).unlink()
        finally:
            lock.release()


def lock_file(folder: Path) -> Path:
    """What the process holds that builds a stage."""
    return folder.with_name(f".{folder.name}.lock")


_used: set[Path] = set()
"""The files that say what this process uses; their names have its number, since a forked one has its parent's list."""


def _use_file(folder: Path, who: str) -> Path:
    """What says that a process uses a stage."""
    return folder.parent.parent / IN_USE / f"{who}{folder.parent.name}-{folder.name}"


def _use(folder: Path) -> None:
    """Say that this process uses a stage, as far as the cache can be written to."""
    own = _use_file(folder, mark())
    with suppress(OSError):
        if folder.is_dir():
            os.utime(folder)
        if own not in _used:
            own.parent.mkdir(exist_ok=True)
            delete_stale(own.parent, below=False)
            own.touch()
            _used.add(own)


@atexit.register
def _end_use() -> None:
    """This process uses nothing any longer."""
    while _used:
        own = _used.pop()
        with suppress(OSError):
            if own.name.startswith(mark()):
                own.unlink(missing_ok=True)


def uses(folder: Path) -> list[Path]:
    """The files of the processes that use a stage and are alive, this one's too."""
    pattern = _use_file(folder, f"{PREFIX}-*-")
    return [path for path in pattern.parent.glob(pattern.name) if not is_stale(path)]


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _unusable(folder: Path, read: Callable[[Path], object]) -> str | None:
    """Why a finished stage cannot be used, or None."""
    if (reason := fault(folder)) is not None:
        return reason
    try:
        read(folder)
    except ValueError as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}"
    return None


def fault(folder: Path, again: bool = False) -> str | None:
    """What is wrong with a finished stage, or None. Sizes every time, checksums where they are not known or ``again``."""
    try:
        files = read_json(folder / DONE, "delete its folder")["files"]
        before = _signature(folder)
        for name, entry in files.items():
            if name not in before:
                return f"{name} is missing"
            if before[name][0] != entry["size"]:
                return f"{name} has {before[name][0]} bytes instead of {entry['size']}"
        if not again and before in (_verified.get(folder), _remembered(folder, before)):
            return None
        for name, entry in files.items():
            if checksum(folder / name) != entry["sha256"]:
                _forget(folder)
                return f"{name} has changed since it was written"
    except MissingFile:
        return f"{DONE} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return f"{DONE} cannot be read"
    _remember(folder, before)
    return None


def stages(root: Path) -> list[Path]:
    """The folders of all finished stages of a cache."""
    return sorted(done.parent for done in root.glob(f"*/*/{DONE}") if not done.parent.suffix)


def note_file(folder: Path) -> Path:
    """Where it is noted which files of a large stage were right."""
    return folder.with_name(f".{folder.name}.verified")


def _remember(folder: Path, files: Signature) -> None:
    _verified[folder] = files
    if _bytes(files) >= LARGE:
        with suppress(OSError, StorageError):  # a cache that is only read is read again by the next process
            write_text(note_file(folder), json.dumps(files))


def _forget(folder: Path) -> None:
    """What is known to be damaged is read again by everybody, also where its times say that nothing has changed."""
    _verified.pop(folder, None)
    with suppress(OSError):
        note_file(folder).unlink(missing_ok=True)


def _remembered(folder: Path, files: Signature) -> Signature | None:
    """The files of a large stage that an earlier process has seen to be right."""
    if _bytes(files) < LARGE or not note_file(folder).is_file():
        return None
    try:
        return read_json(note_file(folder), "delete it")
    except UserError:
        return None


def _bytes(files: Signature) -> int:
    return sum(size for size, *_ in files.values())


def read_result(folder: Path, name: str) -> Any:
    """The JSON value that a stage has left under ``name`` in its folder, NaN included.

    Raises:
        UserError: it is damaged.
    """
    return read_json(folder / name, f"delete {folder} and run the same command again", finite=False)


def _signature(folder: Path) -> Signature:
    """The files of a stage without its scratch, which may come and go."""
    stats = {p.relative_to(folder).as_posix(): p.stat() for p in sorted(folder.rglob("*")) if p.is_file()}
    known = {name: [stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats.items()}
    return {name: entry for name, entry in known.items() if not _is_scratch(name)}


def _seal(work: Path, kind: str, spec: dict[str, Any]) -> None:
    """Write ``done.json``. Scratch is not in it and goes after it: on a full disk a training must not be lost."""
    kept = {name: size for name, (size, *_) in _signature(work).items()}
    files = {name: {"size": size, "sha256": checksum(work / name)} for name, size in kept.items()}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    done = {"kind": kind, "spec": spec, "created": created, "files": files}
    write_text(work / DONE, json.dumps(done, indent=1, sort_keys=True))


def _is_scratch(name: str) -> bool:
    """Whether a path relative to a work folder has a part that begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _delete_scratch(work: Path) -> None:
    for scratch in sorted(work.rglob(".*")):
        if scratch.is_dir() and not scratch.is_symlink():
            shutil.rmtree(scratch)
        else:
            scratch.unlink(missing_ok=True)


def _aside(folder: Path, why: str) -> Path:
    """Where ``folder`` has been moved to."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{why}-{number}")).exists():
        number += 1
    os.replace(folder, aside)
    _verified.pop(folder, None)
    return aside


def _renew(folder: Path) -> None:
    """Move a stage, and what there is of an unfinished one, out of the way of a new one."""
    for old in (folder, _partial(folder)):
        if old.is_dir():
            aside = _aside(old, "old")
            log.warning("building %s again; the old one is now %s, which you can delete", folder, aside.name)


def _move_aside(folder: Path, reason: str) -> None:
    aside = _aside(folder, "corrupt")
    log.warning(
        "%s is damaged (%s); moved to %s, which you can delete, and building it again", folder, reason, aside.name
    )
