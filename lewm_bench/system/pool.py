"""Processes that work for this one and never outlive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from lewm_bench.system.signals import end_with_parent, parent_pipe, signals_blocked

T = TypeVar("T")


@contextmanager
def process_pool(workers: int, start: Callable[..., None], *given: Any) -> Iterator[ProcessPoolExecutor]:
    """Processes that each call ``start(*given)`` first; at the end of this context they are gone, whatever they were at.

    Their main module is imported again, so it must be one that can be.
    """
    line, ours = parent_pipe()
    with line, ours:
        with signals_blocked():
            processes = ProcessPoolExecutor(
                workers, get_context("spawn"), initializer=_start, initargs=(line, start, given)
            )
        try:
            yield processes
        finally:
            ours.close()
            processes.shutdown(cancel_futures=True)


def submit(processes: ProcessPoolExecutor, work: Callable[..., T], *given: Any) -> Future[T]:
    """``work(*given)`` in one of the processes; this is what starts them."""
    with signals_blocked():
        return processes.submit(work, *given)


def _start(line: Connection, start: Callable[..., None], given: tuple[Any, ...]) -> None:
    end_with_parent(line)
    start(*given)
