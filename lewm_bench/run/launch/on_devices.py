"""Tasks in processes of this machine, one for each of several devices."""

from __future__ import annotations

import logging
import platform
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import RLock

import torch
from tqdm import tqdm

from lewm_bench.core.errors import NotRun
from lewm_bench.run.launch.config import LaunchConfig
from lewm_bench.run.launch.launch import Finished, Launcher
from lewm_bench.run.launch.tasks import Due, Task
from lewm_bench.run.launch.worker import Done, Order, Place, code_version, work
from lewm_bench.system.device import resolve_devices
from lewm_bench.system.faults import sent
from lewm_bench.system.parcels import Parcel
from lewm_bench.system.pool import process_pool, submit
from lewm_bench.system.resources import cores

logger = logging.getLogger(__name__)

BESIDE = "other processes on the same cores"


def devices_launcher(text: str) -> Launcher:
    """Workers for devices such as ``cuda:0,cuda:1``, or ``2`` for the first two of CUDA.

    Raises:
        UserError: one of them is not there, or they are of several kinds.
    """
    found = resolve_devices(text)

    @contextmanager
    def start(order: Order) -> Iterator[DeviceWorkers]:
        with ExitStack() as stack:
            yield DeviceWorkers(order, found, stack)

    return start


class DeviceWorkers:
    """``Workers`` as processes, each with a device for itself; one that dies is started again."""

    def __init__(self, order: Order, devices: Sequence[torch.device], stack: ExitStack) -> None:
        self._order, self._devices, self._stack = order, devices, stack
        self._config: LaunchConfig = order.run.suite.settings.launch
        self._pools: list[ProcessPoolExecutor] = [self._pool() for _ in devices]
        self._waiting: deque[Due] = deque()
        self._running: dict[Future[tuple[Done, Parcel]], tuple[Due, int]] = {}
        self._deaths: dict[Task, int] = {}

    def _pool(self) -> ProcessPoolExecutor:
        return self._stack.enter_context(process_pool(1, _start))

    def places(self) -> Mapping[str, Place]:
        kind = self._devices[0].type
        return {
            f"{number} {device}": Place(platform.node(), code_version(), kind, cores(), True, "")
            for number, device in enumerate(self._devices)
        }

    def submit(self, due: Sequence[Due]) -> None:
        self._waiting += due
        self._begin()

    def _begin(self) -> None:
        """Give every idle process something to do."""
        busy = {number for _, number in self._running.values()}
        for number, device in enumerate(self._devices):
            if number in busy or not self._waiting:
                continue
            due = self._waiting.popleft()
            order = replace(self._order, device=str(device))
            beside = BESIDE if device.type == "cpu" and len(self._devices) > 1 else ""
            share = max(1, cores() // len(self._devices))
            self._running[submit(self._pools[number], work, order, due, share, beside)] = due, number

    def finished(self, timeout: float) -> list[Finished]:
        ready, _ = wait(self._running, timeout=timeout, return_when=FIRST_COMPLETED)
        found = [each for future in ready if (each := self._result(future)) is not None]
        self._begin()
        return found

    def _result(self, future: Future[tuple[Done, Parcel]]) -> Finished | None:
        due, number = self._running.pop(future)
        try:
            return Finished(due.task, *future.result())
        except BrokenProcessPool:
            self._pools[number] = self._pool()
        deaths = self._deaths[due.task] = self._deaths.get(due.task, 0) + 1
        if deaths > self._config.retries:
            reason = NotRun(f"its process was ended {deaths} times from outside, probably for its memory")
            return Finished(due.task, Done((), platform.node(), error=sent(reason)), {})
        logger.warning("a process was ended from outside, probably for its memory; what it did is begun again")
        self._waiting.appendleft(due)
        return None


def _start() -> None:
    tqdm.set_lock(RLock())  # its own is one among processes, and a process that is ended would leave it behind
