"""Trainings side by side, ahead of the jobs that need them: small networks gain little from a second thread.

Each process makes one training after another with its share of the threads, through the cache; the jobs find what it
made. What fails there is left to the job, which meets it again and tells it in its place. Pairs are sorted beside them, as
nothing of that is timed. While episodes are evaluated, and plans timed, nothing else runs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from threading import RLock
from typing import NamedTuple

import torch
from tqdm import tqdm

from lewm_bench.agent import OnBaseConfig, Setting
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.names import stratum_of
from lewm_bench.run.bases import base_agent
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.during import number_of
from lewm_bench.run.keys import checkpoints_spec, model_spec, pairs_spec
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Job
from lewm_bench.run.stages import Data, Run, Sharing, dataset_of, pairs_of, prepare_agent, setting_of
from lewm_bench.system.faults import result_or_error
from lewm_bench.system.phases import begin, phase, timed
from lewm_bench.system.pool import process_pool, submit
from lewm_bench.system.resources import granted_memory, keep_memory
from lewm_bench.system.store import Store, stage_key

logger = logging.getLogger(__name__)

LONG = 200  # steps of a training from which on it is worth a process, whose start takes seconds
SMALL = 128  # pixels of a frame; networks for larger ones fill several cores by themselves
BYTES = 1.5 * 2**30  # that a training of such a network may take


def sharing(run: Run, spec: EnvSpec, data: Data | Exception) -> Sharing:
    """How the trainings of an environment share the cores.

    It follows from all that the run asks for, never from what the cache lacks: weights depend on the number of threads in
    their last digits, and an interrupted run must end as it would have ended.
    """
    settings = run.suite.of(spec).settings
    alone = settings.training.seconds is not None or run.device.type != "cpu" or settings.image_size > SMALL
    if run.trainings < 2 or alone or isinstance(data, Exception):
        return Sharing()
    processes = min(run.trainings, len(trainings(run, spec, data)), int(granted_memory() / BYTES) - 1)
    if processes < 2:
        return Sharing()
    return Sharing(processes, max(1, torch.get_num_threads() // processes))


def trainings(run: Run, spec: EnvSpec, data: Data) -> dict[str, Job]:
    """A job for each training of an environment that is worth a process, by its stage (kind/key).

    All agents with their lowest seed come first: what several seeds share, such as an encoder, is then made only once.
    But before them all what others are built on, so that nobody waits for it.
    """
    found: dict[str, Job] = {}
    jobs = sorted((job for job in run.suite.jobs if job.env == spec), key=lambda job: job.seed)
    for job in [*bases_of(run, jobs), *jobs]:
        key = result_or_error(lambda job=job: key_of(run, job, data))
        if isinstance(key, str):
            found.setdefault(key, job)
    return found


def bases_of(run: Run, jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs of what the agents of ``jobs`` are built on, which need not be in the suite."""
    for job in jobs:
        config = result_or_error(lambda job=job: run.suite.of(job.env).agent_config(job.agent))
        if isinstance(config, OnBaseConfig) and (name := base_agent(config)) is not None:
            yield job.model_copy(update={"agent": name})


def key_of(run: Run, job: Job, data: Data) -> str | None:
    """The stage (kind/key) of a job's weights, or of the checkpoints on their way if those are asked for.

    None where there is nothing to train, or nothing that is worth a process.
    """
    family = agent_family(job.agent)
    if not family.trainable:
        return None
    setting = setting_of(run, job, *data)
    family.requirements(setting)
    if not is_long(setting):
        return None
    if (number := number_of(run, job)) and family.keeps:
        return f"checkpoints/{stage_key('checkpoints', checkpoints_spec(setting, family, number))}"
    return f"model/{stage_key('model', model_spec(setting, family))}"


def sortings(run: Run, spec: EnvSpec, data: Data) -> dict[str, Task]:
    """For each sorting of pairs of an environment a job that needs it, by that stage."""
    found: dict[str, Task] = {}
    for job in run.suite.jobs:
        if job.env == spec and stratum_of(job.protocol):
            setting = result_or_error(lambda job=job: setting_of(run, job, *data))
            if not isinstance(setting, Exception):
                for offset in job.goal_offset:
                    key = "pairs/" + stage_key("pairs", pairs_spec(run.suite, job, setting, offset))
                    found.setdefault(key, Task(job, offset))
    return found


def made(run: Run, stage: str) -> bool:
    """Whether the cache has a stage (kind/key), and keeps it."""
    return not run.store.renews(stage.partition("/")[0]) and (run.store.root / stage).is_dir()


def is_long(setting: Setting) -> bool:
    """Whether a training is worth a process."""
    return setting.config.train.steps >= LONG


def train_ahead(run: Run, spec: EnvSpec, data: Data | Exception) -> None:
    """Make the trainings of an environment that the cache lacks, if they are several that share the cores."""
    if run.sharing.processes < 2 or isinstance(data, Exception) or not can_share(run, data[0]):
        return
    missing = [Task(job) for key, job in trainings(run, spec, data).items() if not made(run, key)]
    beside = max(0, min(run.sharing.processes, len(missing)) - 1)
    missing += [task for key, task in sortings(run, spec, data).items() if not made(run, key)]
    if len(missing) < 2:
        return
    number = min(run.sharing.processes, len(missing))
    bar = tqdm(total=len(missing), desc=f"train {number} side by side", unit="task", disable=not run.progress)
    timing = timed() is not None
    start = process_pool(number, _start, _Order(_carried(run), beside, *_levels(), timing))
    with phase("training: starting processes, waiting for the last"), bar, start as processes:
        try:
            _follow(run, {submit(processes, _work, task): task for task in missing}, number, bar)
        except BrokenProcessPool:
            logger.warning(
                "a process that trains was ended from outside, probably for its memory; what is left is trained one by "
                "one, as --jobs 1 does from the start"
            )


def _follow(run: Run, running: dict[Future[Done], Task], number: int, bar: tqdm) -> None:
    """Tell of every task when it is finished, ``number`` of which run at the same time, in this order."""
    while running:
        bar.set_postfix_str(", ".join(map(str, list(running.values())[:number])))
        finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in finished:
            del running[future]
            done = future.result()
            for line in done.lines:
                run.say(line)
            if (phases := timed()) is not None:
                phases.spread(done.seconds, number)
            bar.update()


def can_share(run: Run, env: GoalEnv) -> bool:
    """Whether other processes can train for a run."""
    # Each would train again what --fresh asks for. An environment whose class is not found by name is known here only.
    return not run.store.renews("model") and env.spec is not None and isinstance(env.spec.entry_point, str)


class Task(NamedTuple):
    """The training that a job needs, or the sorting of its pairs at a goal offset."""

    job: Job
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.job.agent} seed {self.job.seed}" if self.offset is None else f"pairs at offset {self.offset}"


class Done(NamedTuple):
    """What a process says of a task: lines for the user, and where the time went if that is asked."""

    lines: list[str]
    seconds: dict[str, float]


# In a process of the pool.


@dataclass(frozen=True)
class _Order:
    """What a process needs to know."""

    run: Run
    beside: int  # other trainings at the same time
    level: int  # of everybody's log, and of ours
    our_level: int
    timing: bool


_orders: list[_Order] = []
_data: dict[str, Data] = {}
"""What there is to do, and an environment's data once they are opened."""


def _carried(run: Run) -> Run:
    """The run without what stays in its process."""
    return replace(run, store=Store(run.store.root), progress=False, say=logger.info)


def _levels() -> tuple[int, int]:
    return logging.getLogger().level, logging.getLogger("lewm_bench").level


def _start(order: _Order) -> None:
    logging.basicConfig(level=order.level, format="%(message)s")
    logging.getLogger("lewm_bench").setLevel(order.our_level)
    if order.level > logging.INFO:  # as the command line does
        warnings.filterwarnings("ignore")
    keep_memory()
    tqdm.set_lock(RLock())  # its own is one among processes, and a process that is ended would leave it behind
    torch.set_num_threads(order.run.sharing.threads or torch.get_num_threads())
    _orders.append(order)
    if order.timing:
        begin()


def _work(task: Task) -> Done:
    """Do a task and return what there is to tell; nothing of what goes wrong, which the job will meet."""
    lines: list[str] = []
    run = replace(_orders[0].run, say=lines.append)
    result_or_error(lambda: _do(run, task))
    phases = timed()
    return Done(lines, {} if phases is None else phases.taken())


def _do(run: Run, task: Task) -> None:
    data, job = _opened(run, task.job.env), task.job
    if task.offset is None:
        prepare_agent(run, job, data, beside=_orders[0].beside, number=number_of(run, job))
    else:
        pairs_of(run, job, setting_of(run, job, *data), task.offset)


def _opened(run: Run, spec: EnvSpec) -> Data:
    if spec.label not in _data:
        _data[spec.label] = dataset_of(run, spec)
    return _data[spec.label]
