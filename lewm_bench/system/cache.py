"""What is kept in a cache, and its deletion: only what has the store's own structure, and nothing that is in use.

An entry is a folder ``root/kind/key`` of a finished stage, ``key.partial`` of an unfinished one, or what was set aside:
``key.corrupt-N``, ``key.old-N``, and what an interrupted deletion has left. Everything else in the folder is other
people's: it is not listed, not counted and not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import filelock

from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.reading import read_json
from lewm_bench.system.scratch import is_stale, mark
from lewm_bench.system.store import DONE, lock_file, note_file, uses

KEY = re.compile(r"(?P<key>[0-9a-f]{16})(\.(?P<state>partial|corrupt|old)(-\d+)?)?")
KIND = re.compile(r"[a-z]+")

State = Literal["finished", "partial", "corrupt", "old", "deleted"]
ASIDE = ("corrupt", "old", "deleted")  # nobody will look at them again

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Entry:
    """A folder of the cache."""

    folder: Path
    kind: str
    key: str
    state: State
    size: int  # bytes
    made: float  # seconds since 1970, as is what follows
    used: float  # by a command that found it here, or else made
    spec: Mapping[str, Any]  # of a stage that can be read, else empty
    about: str = ""  # environment, agent and seed, as far as that can be told

    @property
    def name(self) -> str:
        """Relative to the cache."""
        return f"{self.kind}/{self.folder.name}"


@dataclass(frozen=True)
class Wish:
    """What is to be deleted; every condition that is given must hold."""

    kinds: frozenset[str] = frozenset()  # empty: all
    unused_seconds: float = 0  # for so long
    states: frozenset[State] = frozenset()  # empty: all

    def takes(self, entry: Entry, now: float) -> bool:
        """Whether an entry is meant."""
        kind, state = entry.kind in self.kinds or not self.kinds, entry.state in self.states or not self.states
        return kind and state and now - entry.used >= self.unused_seconds


def duration(text: str) -> float:
    """Seconds of ``30d``: a number and m, h, d or w.

    Raises:
        UserError: it is something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text.strip())
    if found is None:
        raise UserError(
            f"expected a number and m, h, d or w (minutes, hours, days, weeks), as in 30d, got {short_repr(text)}"
        )
    return float(found[1]) * UNITS[found[2]]


def entries(root: Path) -> list[Entry]:
    """Everything that is kept in a cache, by kind and time of last use."""
    found = [entry for folder in _kinds(root) for entry in _entries_of(folder)]
    envs = {entry.key: _env_of(entry.spec) for entry in found if entry.kind == "dataset" and entry.state == "finished"}
    told = [replace(entry, about=about(entry.spec, envs)) for entry in found]
    return sorted(told, key=lambda entry: (entry.kind, -entry.used, entry.folder.name))


def _kinds(root: Path) -> Iterator[Path]:
    """The folders of kinds. A link may lead out of the cache, so it is none."""
    if root.is_dir():
        yield from (p for p in sorted(root.iterdir()) if KIND.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def _entries_of(kind: Path) -> Iterator[Entry]:
    for folder in sorted(kind.iterdir()):
        if folder.is_symlink() or not folder.is_dir() or (named := _named(folder)) is None:
            continue
        with suppress(FileNotFoundError):  # another process has just finished or deleted it
            key, state = named
            used = folder.stat().st_mtime
            done = folder / DONE
            made = done.stat().st_mtime if done.is_file() else used
            yield Entry(folder, kind.name, key, state, size_of(folder), made, max(made, used), _spec_of(done))


def _named(folder: Path) -> tuple[str, State] | None:
    """The key and state that a folder's name says; None if it is not the store's."""
    if is_stale(folder):
        return folder.name.rpartition("-")[2], "deleted"
    if (found := KEY.fullmatch(folder.name)) is None:
        return None
    state = found["state"] or "finished"
    numbered = folder.name.rpartition("-")[2].isdecimal() and "-" in folder.name
    if numbered != (state in ASIDE) or (state == "finished" and not (folder / DONE).is_file()):
        return None
    return found["key"], state


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; what a link leads to is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _spec_of(done: Path) -> Mapping[str, Any]:
    try:
        spec = read_json(done, "delete its folder")["spec"]
    except (UserError, KeyError, TypeError):
        return {}
    return spec if isinstance(spec, dict) else {}


# What an entry is about.


def about(spec: Mapping[str, Any], envs: Mapping[str, str]) -> str:
    """Environment, agent, seed and goal offset that a specification tells of.

    Args:
        envs: environments by the keys of their datasets, for what names only those.
    """
    model = spec.get("model") if isinstance(spec.get("model"), dict) else {}
    data = spec.get("dataset", model.get("dataset"))
    key = data[0] if isinstance(data, list) and data else data
    env = _env_of(spec) or envs.get(str(key), "")
    agent = spec.get("name") or spec.get("agent") or model.get("agent") or ""
    seed = spec.get("seed", model.get("seed")) if agent else None
    numbers = {"seed {}": seed, "offset {}": spec.get("goal_offset"), "{} px": spec.get("image_size")}
    parts = [env.split("/")[-1], str(agent), *(what.format(n) for what, n in numbers.items() if isinstance(n, int))]
    return ", ".join(filter(None, parts))


def _env_of(spec: Mapping[str, Any]) -> str:
    return env if isinstance(env := spec.get("env"), str) else ""


# Deletion.

IN_USE = "in use"


def is_held(entry: Entry) -> bool:
    """Whether a running process builds an entry or has asked for it; nothing is changed by asking."""
    if entry.state in ASIDE:
        return False
    own = entry.folder.with_name(entry.key)
    return (lock_file(own).exists() and _locked(lock_file(own))) or bool(uses(own))


def _locked(path: Path) -> bool:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError, NotImplementedError):  # nobody can tell: then it is not ours to delete
        return True
    lock.release()
    return False


def delete(entry: Entry) -> str:
    """Delete an entry; why it was kept, or nothing.

    It is renamed first, under its lock: an interrupted deletion leaves a folder that no command will take for a stage,
    and that the next build of the kind or the next deletion removes.
    """
    if entry.state in ASIDE:
        return _remove(entry.folder)
    own = entry.folder.with_name(entry.key)
    lock = filelock.FileLock(lock_file(own))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return IN_USE
    except (OSError, NotImplementedError) as error:
        return f"cannot be locked ({error})"
    try:
        aside = entry.folder.with_name(f"{mark()}{entry.key}")
        if (kept := _set_aside(entry, own, aside)) is not None:
            return kept
        with suppress(OSError):
            lock_file(own).unlink()  # while it is held: whoever comes now makes a new one
    finally:
        lock.release()
    return _remove(aside)


def _set_aside(entry: Entry, own: Path, aside: Path) -> str | None:
    """Rename an entry if nobody uses it; why not, if not."""
    if uses(own):
        return IN_USE
    try:
        os.replace(entry.folder, aside)
    except OSError as error:
        return "gone already" if isinstance(error, FileNotFoundError) else f"cannot be moved ({error.strerror})"
    if uses(own):  # somebody has asked for it in between
        os.replace(aside, entry.folder)
        return IN_USE
    if entry.state == "finished":
        with suppress(OSError):
            note_file(own).unlink(missing_ok=True)
    return None


def _remove(folder: Path) -> str:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be deleted ({error.strerror})"
    return ""


def prune(chosen: Iterable[Entry], remove: Callable[[Entry], str] = delete) -> tuple[list[Entry], dict[str, str]]:
    """The entries that were deleted, and why others were kept, by their names."""
    gone, kept = [], {}
    for entry in chosen:
        if reason := remove(entry):
            kept[entry.name] = reason
        else:
            gone.append(entry)
    return gone, kept


def chosen_of(found: Iterable[Entry], wish: Wish) -> tuple[list[Entry], list[Entry]]:
    """Of some entries those that are meant: what can be deleted, and what is in use."""
    now = time.time()
    meant = [entry for entry in found if wish.takes(entry, now)]
    held = [entry for entry in meant if is_held(entry)]
    return [entry for entry in meant if entry not in held], held
