"""Tasks as jobs of Slurm, by submitit: an array for what is due at the same moment and asks for the same."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.run.launch.config import LaunchConfig
from lewm_bench.run.launch.launch import Finished, Launcher
from lewm_bench.run.launch.tasks import Due, Task
from lewm_bench.run.launch.worker import Done, Order, Place, look, work
from lewm_bench.system.extras import require
from lewm_bench.system.faults import sent
from lewm_bench.system.resources import cores

POLL, ASK = 0.5, 20.0  # seconds between two looks for results, and between two questions to Slurm
MINUTES = 24 * 60  # of a job, unless launch.slurm says something else
BESIDE = "other jobs on the same machine"

Cluster = Literal["slurm", "local"]
"""``local`` is submitit's own: jobs are processes of this machine."""


def slurm_launcher(cluster: Cluster = "slurm") -> Launcher:
    """Workers that Slurm starts, on whatever nodes it finds.

    Raises:
        NotRun: submitit is not installed.
        UserError: there is no Slurm here.
    """
    submitit = require("submitit", "--launcher slurm")
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("--launcher slurm: there is no sbatch here; run it on a machine that submits jobs")

    @contextmanager
    def start(order: Order) -> Iterator[SlurmWorkers]:
        workers = SlurmWorkers(submitit, order, cluster)
        try:
            yield workers
        finally:
            workers.cancel()

    return start


class SlurmWorkers:
    """``Workers`` as jobs, whose logs lie in ``OUT/slurm``. A job that is preempted is queued again by submitit."""

    def __init__(self, submitit: ModuleType, order: Order, cluster: Cluster) -> None:
        self._submitit, self._cluster = submitit, cluster
        self._order = replace(order, our_level=logging.INFO)  # into the logs of jobs
        self._config: LaunchConfig = order.run.suite.settings.launch
        self._folder = Path(order.run.out) / "slurm"
        self._running: dict[Any, Task] = {}
        self._cuda = order.device.startswith("cuda")
        self._asked, self._missed = time.monotonic(), set[str]()
        logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns of every cluster that keeps no accounts

    def places(self) -> Mapping[str, Place]:
        job = self._executor("look", 1, 1 if self._cuda else 0, alone=False).submit(look, self._order)
        while not (self._has_result(job) or self._gone([job])):
            time.sleep(POLL)
        place = self._answer(job)
        if isinstance(place, NotRun):
            raise UserError(str(place))
        self._cuda = place.device == "cuda"
        if not (place.shares or self._order.storage):
            raise UserError(
                f"{place.host} does not see the cache {self._order.run.store.root}; choose a --cache that nodes share, "
                "or name a --storage"
            )
        return {place.host: place}

    def submit(self, due: Sequence[Due]) -> None:
        groups: dict[tuple[Any, ...], list[Due]] = defaultdict(list)
        for each in due:
            groups[(each.task.kind, *self._resources(each))].append(each)
        for (kind, cpus, gpus), group in groups.items():
            alone = kind == "episodes"
            executor = self._executor(kind, cpus, gpus, alone)
            beside = BESIDE if alone and self._cluster == "local" else ""
            job = _resumable(self._submitit)
            count = len(group)
            jobs = executor.map_array(job, [self._order] * count, group, [cpus or cores()] * count, [beside] * count)
            self._running.update({job: each.task for job, each in zip(jobs, group, strict=True)})

    def _resources(self, due: Due) -> tuple[int, int]:
        """Cores and GPUs of a task; 0 cores: those of a node."""
        gpus = int(self._cuda)
        match due.task.kind:
            case "data":
                return self._config.collect_cpus or 0, 0
            case "training":
                wanted = self._config.train_gpus
                cpus = self._config.train_cpus or due.sharing.threads or self._order.threads
                return cpus, gpus if wanted is None else round(wanted)
            case "pairs":
                return 1, gpus
            case "episodes":
                return self._order.threads if gpus else 0, gpus

    def _executor(self, name: str, cpus: int, gpus: int, alone: bool) -> Any:
        executor = self._submitit.AutoExecutor(self._folder / "%j", cluster=self._cluster)
        given: dict[str, Any] = {"name": f"lewm-bench-{name}", "timeout_min": MINUTES}
        if cpus:
            given["cpus_per_task"] = cpus
        if gpus:
            given["gpus_per_node"] = gpus
        if self._cluster == "slurm" and not gpus and (alone or not cpus):
            given["slurm_exclusive"] = True  # plans are timed, or every core is used
        try:
            executor.update_parameters(**given | self._config.slurm)
        except (NameError, TypeError, ValueError, AssertionError) as error:
            raise UserError(f"launch.slurm: {' '.join(str(error).split())[:300]}")
        return executor

    def finished(self, timeout: float) -> list[Finished]:
        until = time.monotonic() + timeout
        while not (ready := [job for job in self._running if self._has_result(job)]) and time.monotonic() < until:
            time.sleep(POLL)
        return [self._result(job) for job in ready or self._gone(list(self._running))]

    def _has_result(self, job: Any) -> bool:
        return job.paths.result_pickle.exists()

    def _gone(self, jobs: Sequence[Any]) -> list[Any]:
        """Jobs that Slurm does not know any more, twice in a row: a result may take a moment to be seen.

        Many clusters keep no accounts, so the queue is asked.
        """
        if time.monotonic() < self._asked + ASK:
            return []
        self._asked = time.monotonic()
        missing = {job.job_id for job in jobs if not self._is_queued(job)}
        gone = [job for job in jobs if job.job_id in missing & self._missed]
        self._missed = missing
        return gone

    def _is_queued(self, job: Any) -> bool:
        if self._cluster == "local":
            return not job.done()
        asked = subprocess.run(
            ["squeue", "--noheader", "--format=%i", f"--jobs={job.job_id}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        known = asked.returncode == 0 or "Invalid job id" in asked.stderr  # else Slurm itself does not answer
        return bool(asked.stdout.strip()) or not known

    def _answer(self, job: Any) -> Any:
        """What a job returned, or why it has no result."""
        if not self._has_result(job):
            return NotRun(f"its job {job.job_id} ended without a result; log: {job.paths.stderr}")
        if (error := job.exception()) is None:
            return job.result()
        trace = [line for line in str(error).split("-" * 22)[1].splitlines() if line.strip()]
        return NotRun(f"its job {job.job_id} failed: {trace[-1].strip()[:300]}; log: {job.paths.stderr}")

    def _result(self, job: Any) -> Finished:
        task, answer = self._running.pop(job), self._answer(job)
        if isinstance(answer, NotRun):
            return Finished(task, Done((), "", error=sent(answer)), {})
        return Finished(task, answer[0], {})

    def cancel(self) -> None:
        """End what still runs; its state stays in the cache."""
        for job in self._running:
            with suppress(OSError):
                job.cancel(check=False)


def _resumable(submitit: ModuleType) -> Any:
    """The work of a job, which begins again from its last state when it has been preempted."""

    class Resumable(submitit.helpers.Checkpointable):
        def __call__(self, order: Order, due: Due, cpus: int, beside: str) -> tuple[Done, dict[str, Any]]:
            return work(order, due, cpus, beside)

    return Resumable()
