"""Run a suite: its jobs one after the other, every stage of them cached by what determines it (``run.stages``).

Killing the process at any moment loses at most a training checkpoint interval or one batch of episodes; the same
command goes on and ends with the table that it would have had. A cell that fails is recorded with its reason and does
not stop the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeVar

from tqdm import tqdm

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.format import Dataset
from lewm_bench.run.ahead import sharing, train_ahead
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.cells import failure, outcome, record
from lewm_bench.run.checkpoints import training_of
from lewm_bench.run.during import during_training, number_of
from lewm_bench.run.forecast import require_room
from lewm_bench.run.launch.tasks import Failures
from lewm_bench.run.records import CellRecord
from lewm_bench.run.resolve import Job
from lewm_bench.run.results_folder import CELLS, incoming
from lewm_bench.run.stages import Data, Run, dataset_of, measure_job
from lewm_bench.system import status
from lewm_bench.system.faults import result_or_error
from lewm_bench.system.phases import phase


def run_job(
    run: Run, job: Job, env: GoalEnv, dataset: Dataset, dataset_key: str, checkpoint: Path | None = None
) -> CellRecord:
    """Train and evaluate one cell, or evaluate a ``checkpoint`` folder from elsewhere in its place.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
    """
    agent, measured = measure_job(run, job, (env, dataset, dataset_key), checkpoint, number_of(run, job))
    during = during_training(run, job, agent)
    with phase("drawing and records"):
        return record(run, job, agent.setting, agent.family, measured, training_of(agent.folder), during)


def run_suite(run: Run, failures: Failures | None = None) -> list[CellRecord]:
    """Run every job, save every record under ``out/cells`` as it is made, and return them all.

    ``failures`` are why workers, who have made the stages of all others, could not make those of some jobs.
    """
    failures = failures or Failures()
    bar = tqdm(total=len(run.suite.jobs), desc=f"suite {run.suite.name}", unit="cell", disable=not run.progress)

    def counted(run: Run, job: Job, data: Data | Exception) -> CellRecord:
        error = failures.of(run.suite.jobs.index(job), job.env.label)
        cell = record_or_failure(run, job, data) if error is None else failure(run, job, error)
        bar.update()
        return cell

    with bar:
        return each_job(run, counted, outcome, failures.environments)


class Saved(Protocol):
    """The record of a cell."""

    def save(self, folder: Path) -> Path: ...


R = TypeVar("R", bound=Saved)


def each_job(
    run: Run,
    make: Callable[[Run, Job, Data | Exception], R],
    tell: Callable[[R], str],
    missing: Mapping[str, Exception] = MappingProxyType({}),
) -> list[R]:
    """The records of all jobs, each published in the results (``run.results_folder``) as it is made and told in a line.

    Args:
        make: makes the record of a job from its environment's data, or from why there is none.
        missing: why environments have no data, where that is known already.

    Raises:
        UserError: the disk has no room for the data.
    """
    cells: list[R] = []
    require_room(run)
    with incoming(run.out) as new, status.doing(run.store.root, f"suite {run.suite.name}"):
        status.at(0, len(run.suite.jobs))
        beside = replace(run, out=new.folder)
        for spec in run.suite.envs:
            data = missing.get(spec.label) or dataset_or_error(beside, spec)
            here = replace(beside, sharing=sharing(beside, spec, data))
            train_ahead(here, spec, data)
            for number, job in enumerate(run.suite.jobs, 1):
                if job.env == spec:
                    cells.append(make(here, job, data))
                    cells[-1].save(new.folder / CELLS)
                    new.publish()
                    status.at(len(cells), len(run.suite.jobs))
                    run.say(f"[{number}/{len(run.suite.jobs)}] {tell(cells[-1])}")
        if line := new.finish():
            run.say(line)
    return cells


def publish_together(run: Run, make: Callable[[Run], list[R]]) -> list[R]:
    """The records of one agent, published together in the results of a run.

    Args:
        make: makes them and their files in the results folder of the run that it is given.
    """
    with incoming(run.out) as new:
        cells = make(replace(run, out=new.folder))
        for cell in cells:
            cell.save(new.folder / CELLS)
        new.publish()
        if line := new.finish():
            run.say(line)
    return cells


def dataset_or_error(run: Run, spec: EnvSpec) -> Data | Exception:
    """The data of an environment, or why there is none; a user's mistake ends a suite that has no other environment."""
    data = result_or_error(lambda: dataset_of(run, spec))
    if isinstance(data, (NotRun, UserError)) and len(run.suite.envs) == 1:
        raise data
    return data


def record_or_failure(run: Run, job: Job, data: Data | Exception) -> CellRecord:
    """The record of a job, whatever happens to it."""
    cell = data if isinstance(data, Exception) else result_or_error(lambda: run_job(run, job, *data))
    return failure(run, job, cell) if isinstance(cell, Exception) else cell
