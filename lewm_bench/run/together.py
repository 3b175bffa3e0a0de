"""One training by several processes: who builds its stage, who takes part, and what ends them.

With ``--devices`` this process builds the stage and starts a rank per device for the training alone. Under torchrun all
ranks are there from the start: the first builds, the others wait for its word. Either way one process holds the lock of
the cache, and all of them are in ``Family.train`` with the same folder, where the first one writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock

import torch
from tqdm import tqdm

from lewm_bench.agent import Family, Setting, learning
from lewm_bench.core.errors import UserError
from lewm_bench.run.during import number_of
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Job
from lewm_bench.run.stages import Run, Trained, checkpoint_of, dataset_of, setting_of, train_here
from lewm_bench.system.pool import process_pool, submit
from lewm_bench.system.resources import keep_memory
from lewm_bench.system.store import Store
from lewm_bench.train.ranks import (
    GONE,
    RankLost,
    Ranks,
    announce,
    environment_of,
    host_meeting,
    require_divided,
    told,
)

logger = logging.getLogger(__name__)

WORK = "work"  # the note that says where the training takes place; empty where there is none to do


def trained_checkpoint(run: Run, job: Job, devices: Sequence[torch.device], ranks: Ranks) -> Path | None:
    """The checkpoint folder of a job, trained if it is not in the cache.

    Args:
        devices: a process is started for each, if they are several.
        ranks: what torchrun has made this process. On those behind the first there is nothing to return.

    Raises:
        UserError: its training cannot be shared.
        TrainingFailed: it did not learn anything usable, or a rank has gone.
    """
    family = agent_family(job.agent)
    require_shareable(run, job, family, max(len(devices), ranks.count))
    if not ranks.leads:
        return _take_part(run, job, family, ranks)
    setting = replace(setting_of(run, job, *dataset_of(run, job.env)), ranks=ranks)
    family.requirements(setting)
    if ranks.count > 1:
        return _lead(run, setting, family)
    if len(devices) < 2:
        return checkpoint_of(setting, family, run.say, number=number_of(run, job))

    def train(work: Path) -> Trained:
        family.prepare(learning(setting))
        return _on_devices(_Order(_carried(run), job, tuple(devices), work, *_inherited()))

    return checkpoint_of(setting, family, run.say, train=train)


def require_shareable(run: Run, job: Job, family: Family, count: int) -> None:
    """Raise a UserError for a training that so many processes cannot make as one would."""
    if count == 1:
        return
    settings = run.suite.of(job.env)
    if not family.shares_batches:
        raise UserError(f"{job.agent} trains in one process: what it learns from cannot be shared; name one device")
    if settings.settings.training.seconds is not None:
        raise UserError("training.seconds is measured with one process; set train.steps to train on several devices")
    require_divided(settings.agent_config(job.agent).train.batch_size, count)


# Under torchrun.


def _lead(run: Run, setting: Setting, family: Family) -> Path | None:
    """Build the stage, and call the others to where it is trained."""
    called: list[Path] = []

    def train(work: Path) -> Trained:
        family.prepare(learning(setting))
        announce(WORK, str(work))
        called.append(work)
        return train_here(setting, family, work)

    folder = checkpoint_of(setting, family, run.say, train=train)
    if not called:
        announce(WORK, "")
    return folder


def _take_part(run: Run, job: Job, family: Family, ranks: Ranks) -> None:
    """Train where the first rank says, when it does: its data are in the cache by then."""
    work = told(WORK)
    if work:
        _train(run, job, family, ranks, Path(work))


# On devices of this machine.


@dataclass(frozen=True)
class _Order:
    """What a process needs to know."""

    run: Run
    job: Job
    devices: tuple[torch.device, ...]
    work: Path
    threads: int  # of all ranks together
    level: int  # of everybody's log, and of ours
    our_level: int
    port: int = 0  # where they meet


def _carried(run: Run) -> Run:
    """The run without what stays in its process; what ``--fresh`` asked for has been made anew."""
    return replace(run, store=Store(run.store.root), say=logger.info, workers=1)


def _inherited() -> tuple[int, int, int]:
    return torch.get_num_threads(), logging.getLogger().level, logging.getLogger("lewm_bench").level


def _on_devices(order: _Order) -> Trained:
    """Train with a process per device; none of them outlives the first that ends without success."""
    count = len(order.devices)
    meeting = host_meeting(count)
    with process_pool(count, _begin, order) as processes:
        running = [submit(processes, _rank, replace(order, port=meeting.port), rank) for rank in range(count)]
        wait(running, return_when=FIRST_EXCEPTION)
        if (error := _cause(running)) is not None:
            raise error
        return running[0].result()


def _cause(running: Sequence[Future[Trained]]) -> BaseException | None:
    """Why a training did not succeed: what a rank has to say of itself, rather than that another one has gone."""
    errors = [error for future in running if future.done() and (error := future.exception()) is not None]
    own = [error for error in errors if not isinstance(error, (RankLost, BrokenProcessPool))]
    if own:
        return own[0]
    return RankLost(f"{GONE}; if it was ended for its memory, lower train.batch_size") if errors else None


# In a process of the pool.


def _begin(order: _Order) -> None:
    logging.basicConfig(level=order.level, format="%(message)s")
    logging.getLogger("lewm_bench").setLevel(order.our_level)
    keep_memory()
    tqdm.set_lock(RLock())  # its own is one among processes, and a process that is ended would leave it behind
    torch.set_num_threads(max(1, order.threads // len(order.devices)))


def _rank(order: _Order, rank: int) -> Trained:
    os.environ.update(environment_of(rank, len(order.devices), order.port))
    if rank:  # what it would warn of the first one warns of
        logging.getLogger("lewm_bench").setLevel(logging.ERROR)
    run = replace(order.run, device=order.devices[rank])
    return _train(run, order.job, agent_family(order.job.agent), Ranks(len(order.devices), rank), order.work)


def _train(run: Run, job: Job, family: Family, ranks: Ranks, work: Path) -> Trained:
    """This rank's part of a training."""
    setting = replace(setting_of(run, job, *dataset_of(run, job.env)), ranks=ranks)
    return train_here(setting, family, work)
