"""What a worker does: one task, in a cache that it shares with whoever launched it, or in one of its own."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import lewm_bench
from lewm_bench.run.launch.tasks import Due, do
from lewm_bench.run.stages import Data, Run
from lewm_bench.system.device import resolve_device
from lewm_bench.system.faults import Sent, result_or_error, sent
from lewm_bench.system.mirror import Mirror
from lewm_bench.system.parcels import Parcel, Recording, pack, unpack
from lewm_bench.system.resources import cores, keep_memory
from lewm_bench.system.store import Store


@dataclass(frozen=True)
class Order:
    """What every worker must know of a run."""

    run: Run  # without what stays in its process
    device: str  # as on the command line
    threads: int  # of everything that no training shares; the bits of a result depend on it
    token: str  # a file in the launching cache: who sees it shares that cache
    storage: str  # URL through which stages go; empty: none
    level: int  # of everybody's log, and of ours
    our_level: int


class Place(NamedTuple):
    """A worker's machine, before any work starts."""

    host: str
    version: str
    device: str
    cores: int
    shares: bool  # the cache of whoever launches
    problem: str  # why it cannot work; empty: it can


class Done(NamedTuple):
    """What a worker says of a task."""

    lines: tuple[str, ...]
    host: str
    seconds: float = 0.0
    error: Sent | None = None


def order_for(run: Run, device: str, token: str, storage: str) -> Order:
    """The order that a run gives to its workers."""
    carried = replace(run, store=Store(run.store.root), progress=False, say=logging.getLogger(__name__).info)
    levels = logging.getLogger().level, logging.getLogger("lewm_bench").level
    return Order(carried, device, torch.get_num_threads(), token, storage, *levels)


@cache
def code_version() -> str:
    """Version and a checksum of the code of this package: workers with another one would make other results."""
    here, digest = Path(lewm_bench.__file__).parent, hashlib.sha256()
    folders = [here, *(here.parent / name for name in ("agents", "envs") if (here.parent / "pyproject.toml").is_file())]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return f"{lewm_bench.__version__} ({digest.hexdigest()[:8]})"


def look(order: Order) -> Place:
    """This machine as a worker of a run."""
    found = result_or_error(lambda: resolve_device(order.device))
    problem = str(found) if isinstance(found, Exception) else ""
    if order.storage and not problem:
        tried = result_or_error(Mirror(order.storage).require_writable)
        problem = str(tried) if isinstance(tried, Exception) else ""
    root = cache_root(order)
    device = "" if isinstance(found, Exception) else found.type
    return Place(platform.node(), code_version(), device, cores(), (root / order.token).exists(), problem)


def cache_root(order: Order) -> Path:
    """This machine's cache: the one that its environment names, or the one that the run names."""
    own = os.environ.get("LEWM_BENCH_CACHE")
    return Path(own).expanduser() if own else order.run.store.root


_opened: dict[tuple[str, str], Data] = {}
"""Environments and data of this process, by cache and label."""


def work(order: Order, due: Due, cpus: int, beside: str, parcels: Sequence[Parcel] = ()) -> tuple[Done, Parcel]:
    """Do a task and return what there is to tell of it, and its stages for those who do not share this cache.

    Args:
        cpus: that it may use; results do not depend on it.
        beside: what else runs on the device while plans are timed; empty: nothing.
        parcels: stages that it reads.
    """
    _prepare(order)
    root, lines = cache_root(order), []
    store = Recording(root, mirror=Mirror(order.storage) if order.storage else None)
    run = replace(
        order.run,
        store=store,
        sharing=due.sharing,
        device=resolve_device(order.device),
        workers=cpus,
        say=lines.append,
        beside=beside,
    )
    shares = (root / order.token).exists()

    def made() -> None:
        for parcel in parcels:
            unpack(parcel, root)
        key = str(root), run.suite.jobs[due.task.job].env.label
        _opened[key] = do(run, due.task, _opened.get(key))

    begin = time.perf_counter()
    error = result_or_error(made)
    seconds = time.perf_counter() - begin
    done = Done(tuple(lines), platform.node(), seconds, sent(error) if isinstance(error, Exception) else None)
    return done, {} if shares or order.storage else pack(store.touched, root)


def _prepare(order: Order) -> None:
    """This process as the command line would be."""
    logging.basicConfig(level=order.level, format="%(message)s")
    logging.getLogger("lewm_bench").setLevel(order.our_level)
    if order.level > logging.INFO:  # as the command line does
        warnings.filterwarnings("ignore")
    keep_memory()
    torch.set_num_threads(order.threads)
    tqdm.monitor_interval = 0


def differing(places: Mapping[str, Place]) -> str:
    """What is wrong with workers, in a line; empty if nothing is."""
    ours = code_version()
    for name, place in places.items():
        where = f"the worker {place.host}" if place.host else name
        if place.version != ours:
            return f"{where} has lewm-bench {place.version}, this is {ours}; install the same there"
        if place.problem:
            return f"{where}: {place.problem}"
    if len(devices := sorted({place.device for place in places.values()})) > 1:
        return f"workers have different devices ({', '.join(devices)}); choose one with --device"
    return ""
