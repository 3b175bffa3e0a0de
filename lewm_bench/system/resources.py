"""Cores and memory that this process may use, which in a container is less than the machine has."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """Whole cores that this process may use: what affinity and the container grant."""
    return max(1, int(min(_affinity(), quota(root))))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def quota(root: Path = ROOT) -> float:
    """Cores that control groups allow, the tightest of this process's own and all above it; infinite without a limit."""
    return min(_limits(root, "cpu", _quota), default=float("inf"))


def memory(root: Path = ROOT) -> float:
    """Bytes that control groups allow, the tightest of this process's own and all above it; infinite without a limit."""
    return min(_limits(root, "memory", _memory), default=float("inf"))


def granted_memory() -> float:
    """Bytes that this process may use: the machine's, or what control groups allow; infinite where neither is told."""
    named = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(getattr(os, "sysconf_names", ()))  # Windows has none
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if named else float("inf")
    return min(installed, memory())


def limit_threads(environment: MutableMapping[str, str], root: Path = ROOT) -> None:
    """Where this process's share is less than the affinity, tell numerical libraries that are imported later.

    They see the affinity only, and with more threads than cores these wait for each other. torch, OpenBLAS, MKL and
    scikit-learn, also those of processes that are started from here, all read ``OMP_NUM_THREADS``; if it is set, it wins.
    """
    share = min(_affinity(), quota(root)) / local_ranks(environment)
    if share < _affinity():
        environment.setdefault("OMP_NUM_THREADS", str(max(1, int(share))))


def local_ranks(environment: Mapping[str, str]) -> int:
    """Processes of one training that share this machine."""
    text = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(text)) if text.isdecimal() else 1


def _quota(group: Path) -> float:
    """Of one group, of version 2 or 1."""
    if (group / "cpu.max").is_file():
        limit, period = (group / "cpu.max").read_text(encoding="ascii").split()
    else:
        limit, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
    return float("inf") if limit == "max" or int(limit) <= 0 else int(limit) / int(period)


def _memory(group: Path) -> float:
    """Of one group, of version 2 or 1, which says some 2**63 where there is no limit."""
    version_2 = group / "memory.max"
    text = (version_2 if version_2.is_file() else group / "memory.limit_in_bytes").read_text(encoding="ascii").strip()
    return float("inf") if text == "max" or int(text) >= 2**62 else int(text)


def _limits(root: Path, controller: str, read: Callable[[Path], float]) -> Iterator[float]:
    for group in _groups(root, controller):
        try:
            yield read(group)
        except (OSError, ValueError, ZeroDivisionError):  # a group without a limit has no such file
            continue


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups and of all above them that can be seen from here."""
    usual = root / "sys/fs/cgroup"
    yield from (usual, usual / controller)  # where /proc does not tell
    try:
        own = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
        mounts = [line.split() for line in _lines(root / "proc/self/mountinfo")]
        for _, controllers, path in own:
            for fields in mounts:
                kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
                fits = kind == "cgroup" and controller in options if controllers else kind == "cgroup2"
                if fits and (not controllers or controller in controllers.split(",")):
                    top, mounted = _unescaped(fields[3]), _unescaped(fields[4])
                    yield from _upwards(root / mounted.lstrip("/"), _below(top, path))
    except (OSError, ValueError, IndexError):  # not Linux, or no /proc
        return


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which spaces and backslashes are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(top: str, path: str) -> PurePosixPath:
    """``path`` relative to the group that is mounted; a container may see only its own, whatever it is called outside."""
    try:
        inner = PurePosixPath(path).relative_to(top)
    except ValueError:
        return PurePosixPath()
    return PurePosixPath() if ".." in inner.parts else inner


def _upwards(mounted: Path, inner: PurePosixPath) -> Iterator[Path]:
    for part in (inner, *inner.parents):
        yield mounted / part


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the kernel.

    Activations of some megabytes come and go with every layer; without this each one is mapped and zeroed anew, 40,000
    page faults per iteration of the planner at paper size. Other C libraries are left alone.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 2**30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
