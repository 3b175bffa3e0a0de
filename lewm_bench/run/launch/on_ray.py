"""Tasks on a Ray cluster: of an address, or one that starts on this machine by itself."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.run.launch.config import LaunchConfig
from lewm_bench.run.launch.launch import Finished, Launcher
from lewm_bench.run.launch.tasks import Due, Task, told
from lewm_bench.run.launch.worker import Done, Order, Place, look, work
from lewm_bench.system.extras import require
from lewm_bench.system.faults import sent
from lewm_bench.system.parcels import Parcel
from lewm_bench.system.resources import cores
from lewm_bench.system.signals import ENDING

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TQDM": "0",
}
SECONDS = 10  # that an address has to answer
BESIDE = "other Ray nodes on the same machine"


class Machine(NamedTuple):
    """A node of a cluster."""

    id: str
    name: str
    cpus: int
    gpus: int


def ray_launcher(address: str = "") -> Launcher:
    """Workers of the cluster at ``address`` (``auto``: the one that this machine belongs to), or of one that is started here.

    Inside a Ray job ``RAY_ADDRESS`` is the address.

    Raises:
        NotRun: Ray is not installed.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    _settle(address, os.environ)
    ray = require("ray", "--launcher ray")

    @contextmanager
    def start(order: Order) -> Iterator[RayWorkers]:
        with _connected(ray, address, order):
            workers = RayWorkers(ray, order)
            try:
                yield workers
            finally:
                workers.cancel()

    return start


def _settle(address: str, environment: MutableMapping[str, str]) -> None:
    """What Ray reads when it is imported.

    Where a token of this user lies, `ray start` makes clusters that want it shown, but clients look for it only if they
    are told to; a cluster that wants none does not mind. One that starts by itself would leave such a token, and so
    has one of its own.
    """
    for name, value in QUIET.items():
        environment.setdefault(name, value)
    kept = Path(environment.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    there = "RAY_AUTH_TOKEN" in environment or kept.is_file()
    if address and there:
        environment.setdefault("RAY_AUTH_MODE", "token")
    if not address and not there and "RAY_AUTH_MODE" not in environment:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def _connected(ray: ModuleType, address: str, order: Order) -> Iterator[None]:
    _require_answer(address)
    own: dict[str, Any] = {"address": address}
    if not address:  # another one that was started on this machine is not ours
        own = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        with _cache_named("" if address else str(order.run.store.root)):
            ray.init(**own, log_to_driver=False, logging_level=logging.ERROR, _node_ip_address=_here(address))
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"no Ray cluster answers at {address or 'this machine'} ({line}); start one with `ray start --head`"
        )
    finally:
        for number, handler in before.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _cache_named(root: str) -> Iterator[None]:
    """The processes that are started in here inherit the cache; nothing changes without a ``root``."""
    before = os.environ.get("LEWM_BENCH_CACHE")
    if root:
        os.environ["LEWM_BENCH_CACHE"] = root
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LEWM_BENCH_CACHE", None)
        else:
            os.environ["LEWM_BENCH_CACHE"] = before


def _require_answer(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):  # none, or ``auto``, of which Ray knows at once
        return
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`")


def _here(address: str) -> str | None:
    """Where a cluster of this machine listens: nowhere else."""
    return None if address else "127.0.0.1"


class RayWorkers:
    """``Workers`` as tasks of Ray, which starts those of a dead process or machine again."""

    def __init__(self, ray: ModuleType, order: Order) -> None:
        self._ray, self._plain, self._order = ray, order, ray.put(order)
        self._config: LaunchConfig = order.run.suite.settings.launch
        self._machines = [
            Machine(
                n["NodeID"],
                n["NodeManagerHostname"],
                int(n["Resources"].get("CPU", 0)),
                int(n["Resources"].get("GPU", 0)),
            )
            for n in ray.nodes()
            if n["Alive"]
        ]
        self._running: dict[Any, Task] = {}
        self._parcels: dict[Task, Any] = {}
        self._cuda = False

    def places(self) -> Mapping[str, Place]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self._ray.remote(look)
        asked = {
            f"{m.name} {m.id[:6]}": probe.options(
                num_cpus=0,
                num_gpus=1 if m.gpus else 0,
                max_retries=2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(m.id, False),
            ).remote(self._order)
            for m in self._machines
            if m.cpus
        }
        places = {name: self._place(name, ref) for name, ref in asked.items()}
        self._cuda = any(place.device == "cuda" for place in places.values())
        return places

    def _place(self, name: str, ref: Any) -> Place:
        try:
            return self._ray.get(ref, timeout=12 * SECONDS)
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            told = (
                lines[-1]
                if isinstance(error, self._ray.exceptions.RayTaskError)
                else f"{type(error).__name__}: {lines[0]}"
            )
            raise UserError(f"the worker {name} cannot begin ({told}); is the same lewm-bench installed there?")

    def submit(self, due: Sequence[Due]) -> None:
        for each in due:
            needed = [self._parcels[task] for task in each.needs]
            cpus, gpus = self._resources(each)
            beside = BESIDE if each.task.kind == "episodes" and self._crowded else ""
            remote = self._ray.remote(_work).options(
                num_cpus=cpus,
                num_gpus=gpus,
                num_returns=2,
                max_retries=self._config.retries,
                name=told(self._plain.run, each.task),
            )
            done, parcel = remote.remote(self._order, each, cpus, beside, *needed)
            self._running[done], self._parcels[each.task] = each.task, parcel

    @property
    def _crowded(self) -> bool:
        """Whether nodes share a machine, so that none has it for itself."""
        names = [machine.name for machine in self._machines if machine.cpus]
        return len(names) > len(set(names))

    def _resources(self, due: Due) -> tuple[int, float]:
        """Cores and GPUs of a task; what is timed has a machine, or a GPU and its share of the cores, for itself."""
        most = max(machine.cpus for machine in self._machines)
        gpus = max(machine.gpus for machine in self._machines) if self._cuda else 0
        share = max(1, most // gpus) if gpus else most
        match due.task.kind:
            case "data":
                return min(self._config.collect_cpus or most, most), 0
            case "training":
                threads = due.sharing.threads or self._plain.threads
                wanted = self._config.train_gpus
                return min(self._config.train_cpus or threads, share), (1 if gpus else 0) if wanted is None else wanted
            case "pairs":
                return 1, 1 if gpus else 0
            case "episodes":
                return share, 1 if gpus else 0

    def finished(self, timeout: float) -> list[Finished]:
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        return [self._result(ref) for ref in ready]

    def _result(self, ref: Any) -> Finished:
        task = self._running.pop(ref)
        errors = self._ray.exceptions
        try:
            done: Done = self._ray.get(ref)
            parcel: Parcel = self._ray.get(self._parcels[task])
        except errors.RayTaskError as error:  # a full disk, or a fault of ours: all else comes as an answer
            raise error.cause if isinstance(error.cause, Exception) else error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            line = " ".join(str(error).split())[:300]
            return Finished(task, Done((), "", error=sent(NotRun(f"its worker died again and again: {line}"))), {})
        except errors.RayError as error:
            raise UserError(f"the Ray cluster is gone ({' '.join(str(error).split())[:200]}); the same command goes on")
        return Finished(task, done, parcel)

    def cancel(self) -> None:
        """End what still runs; its state stays in the caches."""
        for ref in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(ref, force=True)


def _work(order: Order, due: Due, cpus: int, beside: str, *parcels: Parcel) -> tuple[Done, Parcel]:
    return work(order, due, cpus, beside, parcels)
