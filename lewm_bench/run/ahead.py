"""Trainings side by side, ahead of the jobs that need them: small networks gain little from a second thread.

Each process makes one training after another with its share of the threads, through the cache; the jobs find what it
made. What fails there is left to the job, which meets it again and tells it in its place. While episodes are evaluated,
and plans timed, nothing else runs.
"""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from threading import RLock
from typing import NamedTuple

import torch
from tqdm import tqdm

from lewm_bench.agent import Setting
from lewm_bench.core.env import GoalEnv
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.keys import model_spec
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Job
from lewm_bench.run.stages import Data, Run, Sharing, dataset_of, prepare_agent, setting_of
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
    """A job for each training of an environment that is worth a process, by the key of its weights.

    All agents with their lowest seed come first: what several seeds share, such as an encoder, is then made only once.
    """
    found: dict[str, Job] = {}
    for job in sorted(run.suite.jobs, key=lambda job: job.seed):
        key = result_or_error(lambda job=job: key_of(run, job, data)) if job.env == spec else None
        if isinstance(key, str):
            found.setdefault(key, job)
    return found


def key_of(run: Run, job: Job, data: Data) -> str | None:
    """The key of a job's weights; None where there is nothing to train, or nothing that is worth a process."""
    family = agent_family(job.agent)
    if not family.trainable:
        return None
    setting = setting_of(run, job, *data)
    family.requirements(setting)
    return stage_key("model", model_spec(setting, family)) if is_long(setting) else None


def is_long(setting: Setting) -> bool:
    """Whether a training is worth a process."""
    return setting.config.train.steps >= LONG


def train_ahead(run: Run, spec: EnvSpec, data: Data | Exception) -> None:
    """Make the trainings of an environment that the cache lacks, if they are several that share the cores."""
    if run.sharing.processes < 2 or isinstance(data, Exception) or not can_share(run, data[0]):
        return
    made = run.store.root / "model"
    missing = [job for key, job in trainings(run, spec, data).items() if not (made / key).is_dir()]
    if len(missing) < 2:
        return
    number = min(run.sharing.processes, len(missing))
    bar = tqdm(total=len(missing), desc=f"train {number} side by side", unit="training", disable=not run.progress)
    timing = timed() is not None
    start = process_pool(number, _start, _carried(run), _levels(), timing)
    with phase("training: starting processes, waiting for the last"), bar, start as processes:
        try:
            _follow(run, {submit(processes, _train, job): job for job in missing}, number, bar)
        except BrokenProcessPool:
            logger.warning(
                "a process that trains was ended from outside, probably for its memory; what is left is trained one by "
                "one, as --jobs 1 does from the start"
            )


def _follow(run: Run, running: dict[Future[Trained], Job], number: int, bar: tqdm) -> None:
    """Tell of every training when it is finished, ``number`` of which run at the same time, in this order."""
    while running:
        bar.set_postfix_str(", ".join(f"{job.agent} seed {job.seed}" for job in list(running.values())[:number]))
        finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in finished:
            del running[future]
            trained = future.result()
            for line in trained.lines:
                run.say(line)
            if (phases := timed()) is not None:
                phases.spread(trained.seconds, number)
            bar.update()


def can_share(run: Run, env: GoalEnv) -> bool:
    """Whether other processes can train for a run."""
    # Each would build again what --fresh asks for. An environment whose class is not found by name is known here only.
    return not run.store.renews("model") and env.spec is not None and isinstance(env.spec.entry_point, str)


class Trained(NamedTuple):
    """What a process says of a training: lines for the user, and where the time went if that is asked."""

    lines: list[str]
    seconds: dict[str, float]


# In a process of the pool.

_run: list[Run] = []
_data: dict[str, Data] = {}
"""What it trains for, and an environment's data once they are opened."""


def _carried(run: Run) -> Run:
    """The run without what stays in its process."""
    return replace(run, store=Store(run.store.root), progress=False, say=logger.info)


def _levels() -> tuple[int, int]:
    return logging.getLogger().level, logging.getLogger("lewm_bench").level


def _start(run: Run, levels: tuple[int, int], timing: bool) -> None:
    everybody, ours = levels
    logging.basicConfig(level=everybody, format="%(message)s")
    logging.getLogger("lewm_bench").setLevel(ours)
    keep_memory()
    tqdm.set_lock(RLock())  # its own is one among processes, and a process that is ended would leave it behind
    torch.set_num_threads(run.sharing.threads or torch.get_num_threads())
    _run.append(run)
    if timing:
        begin()


def _train(job: Job) -> Trained:
    """Train for a job and return what there is to tell; nothing of what goes wrong, which the job will meet."""
    lines: list[str] = []
    run = replace(_run[0], say=lines.append)
    others = run.sharing.processes - 1
    result_or_error(lambda: prepare_agent(run, job, _opened(run, job.env), beside=others))
    phases = timed()
    return Trained(lines, {} if phases is None else phases.taken())


def _opened(run: Run, spec: EnvSpec) -> Data:
    if spec.label not in _data:
        _data[spec.label] = dataset_of(run, spec)
    return _data[spec.label]
