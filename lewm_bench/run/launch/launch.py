"""Have the stages of a run made by workers, whatever starts these; nothing of a result depends on it.

``Workers`` is what a kind of launcher implements. ``make_stages`` hands out tasks as they are due, tells what becomes of
them, and returns why jobs will have no result; a run then goes through its jobs, which find their stages in the cache.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from tqdm import tqdm

from lewm_bench.core.errors import UserError
from lewm_bench.core.formatting import seconds as in_words
from lewm_bench.run.launch.tasks import Due, Failures, Graph, Task, told
from lewm_bench.run.launch.worker import Done, Order, Place, differing, order_for
from lewm_bench.run.stages import Run
from lewm_bench.system.files import write_bytes
from lewm_bench.system.mirror import Mirror
from lewm_bench.system.parcels import Parcel, unpack
from lewm_bench.system.scratch import mark
from lewm_bench.system.store import Store

SHOWN = 3  # running tasks named beside the bar
WAIT = 1.0  # seconds after which the display is renewed


class Finished(NamedTuple):
    """A task that a worker has done, and its stages if the worker's cache is another one."""

    task: Task
    done: Done
    parcel: Parcel


class Workers(Protocol):
    """Workers that have been started."""

    def places(self) -> Mapping[str, Place]:
        """The machines, by a name for each."""

    def submit(self, due: Sequence[Due]) -> None:
        """Have tasks done; those of one call are due at the same moment."""

    def finished(self, timeout: float) -> list[Finished]:
        """What has been done since the last call; waits for something, but not for longer than ``timeout`` seconds.

        Raises:
            UserError: the workers are gone.
        """


Launcher = Callable[[Order], AbstractContextManager[Workers]]
"""Starts workers for an order. At the end of the context what still runs is ended, and can be gone on with."""


def make_stages(run: Run, launcher: Launcher, device: str, storage: str = "") -> tuple[Run, Failures]:
    """Every stage of the run in its cache, and why jobs will have no result.

    Returns the run on the device that the workers have, which belongs to what determines a result.

    Raises:
        UserError: workers cannot be had, or differ from this process.
    """
    if storage:
        mirror = Mirror(storage)
        mirror.require_writable()
        run = replace(run, store=Store(run.store.root, mirror=mirror))
    with _token(run.store.root) as token, launcher(order_for(run, device, token, storage)) as workers:
        places = workers.places()
        if not places:
            raise UserError("no worker is there; start one, or leave --launcher out")
        if problem := differing(places):
            raise UserError(problem)
        run = replace(run, device=torch.device(next(iter(places.values())).device))
        hosts = ", ".join(sorted({f"{place.host} ({place.cores} cores)" for place in places.values()}))
        run.say(f"{len(places)} {'worker' if len(places) == 1 else 'workers'} on {hosts}")
        return run, _follow(run, workers)


def _follow(run: Run, workers: Workers) -> Failures:
    graph, since = Graph(run), dict[Task, float]()
    bar = tqdm(desc=f"suite {run.suite.name}", unit="task", disable=not run.progress)

    def submit(due: Sequence[Due]) -> None:
        if due:
            workers.submit(due)
            since.update({each.task: time.monotonic() for each in due})
        bar.total = graph.total

    with bar:
        submit(graph.first())
        while since:
            due: list[Due] = []
            for task, done, parcel in workers.finished(WAIT):
                unpack(parcel, run.store.root)
                bar.update()
                _tell(run, task, done)
                since.pop(task)
                due += graph.after(task, done.error.received if done.error else None)
            submit(due)
            bar.set_postfix_str(_running(run, since))
    return graph.failures


def _tell(run: Run, task: Task, done: Done) -> None:
    for line in done.lines:
        run.say(line)
    how = (
        f"failed: {' '.join(str(done.error.error).split())[:200]}"
        if done.error
        else f"done in {in_words(done.seconds)}"
    )
    run.say(f"{done.host}: {told(run, task)}: {how}")


def _running(run: Run, since: Mapping[Task, float]) -> str:
    """What runs, longest first, in words."""
    oldest = sorted(since, key=lambda task: since[task])[:SHOWN]
    words = [f"{told(run, task)} {in_words(time.monotonic() - since[task])}" for task in oldest]
    return "; ".join([*words, *([f"and {len(since) - SHOWN} more"] if len(since) > SHOWN else [])])


@contextmanager
def _token(root: Path) -> Iterator[str]:
    """The name of a file in the cache, by which workers see whether it is theirs too."""
    path = root / f"{mark()}{uuid.uuid4().hex}"
    write_bytes(path, b"")
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)
