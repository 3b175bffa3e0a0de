"""The stages of a run as tasks that workers do, and which of them are due as others finish.

A task makes stages in a cache and nothing else. Whoever launches does not know what they are about: afterwards the run
goes through its jobs as ever, finds every stage made, and writes the records that it would have written alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lewm_bench.agent import OnBaseConfig
from lewm_bench.core.names import parse_agent, stratum_of
from lewm_bench.evaluation.protocol import PROTOCOLS
from lewm_bench.run.ahead import sharing
from lewm_bench.run.bases import base_agent
from lewm_bench.run.during import during_training, number_of
from lewm_bench.run.registry import agent_family
from lewm_bench.run.stages import Data, Run, Sharing, dataset_of, measure_job, pairs_of, prepare_agent, setting_of
from lewm_bench.system.faults import result_or_error

Kind = Literal["data", "training", "pairs", "episodes"]


class Task(NamedTuple):
    """Something to make, named by a job that needs it."""

    kind: Kind
    job: int  # its number in the suite, from 0
    offset: int | None = None  # of pairs


class Due(NamedTuple):
    """A task whose turn has come."""

    task: Task
    needs: tuple[Task, ...]  # finished ones whose stages it reads
    sharing: Sharing = (
        Sharing()
    )  # what the run would have, were it alone: weights depend on threads in their last digits


def told(run: Run, task: Task) -> str:
    """A task in words."""
    job = run.suite.jobs[task.job]
    env = job.env.label.split("/")[-1]
    match task.kind:
        case "data":
            return f"{env}: data"
        case "training":
            return f"{env}: training of {job.agent}, seed {job.seed}"
        case "pairs":
            return f"{env}: pairs at offset {task.offset}"
        case "episodes":
            return (
                f"{env}: episodes of {job.agent}, seed {job.seed}{', ' + s if (s := stratum_of(job.protocol)) else ''}"
            )


def do(run: Run, task: Task, data: Data | None = None) -> Data:
    """Make the stages of a task; raises what ``run_job`` does. ``data`` are its environment's if they are at hand."""
    job = run.suite.jobs[task.job]
    data = data or dataset_of(run, job.env)
    match task.kind:
        case "training":
            prepare_agent(run, job, data, beside=run.sharing.processes - 1, number=number_of(run, job))
        case "pairs":
            pairs_of(run, job, setting_of(run, job, *data), task.offset)
        case "episodes":
            agent, _ = measure_job(run, job, data, number=number_of(run, job))
            during_training(run, job, agent)
    return data


class Failures:
    """Why tasks failed, for the jobs that needed them."""

    def __init__(self) -> None:
        self.environments: dict[str, Exception] = {}
        self.jobs: dict[int, Exception] = {}

    def of(self, job: int, env: str) -> Exception | None:
        """Why a job, or its environment, failed."""
        return self.jobs.get(job) or self.environments.get(env)


class Graph:
    """The tasks of a run. Those of an environment are known once its data are."""

    def __init__(self, run: Run) -> None:
        self.failures = Failures()
        self.total = len(run.suite.envs)  # tasks, as far as they are known
        self._run = run
        self._waiting: dict[Task, set[Task]] = {}  # what each still waits for
        self._needs: dict[Task, tuple[Task, ...]] = {}
        self._jobs: dict[Task, list[int]] = {}  # that fail with a task
        self._sharing: dict[str, Sharing] = {}

    def first(self) -> list[Due]:
        """The data of every environment."""
        jobs = self._run.suite.jobs
        numbers = {job.env.label: number for number, job in reversed(list(enumerate(jobs)))}
        return [Due(Task("data", numbers[spec.label]), ()) for spec in self._run.suite.envs]

    def after(self, task: Task, error: Exception | None) -> list[Due]:
        """What is due now that a task is finished.

        The data must be in this process's cache.
        """
        label = self._run.suite.jobs[task.job].env.label
        if task.kind == "data":
            error = error or self._open(task)
            if error is not None:
                self.failures.environments[label] = error
                return []
        elif error is not None:
            for number in self._jobs.get(task, [task.job]):
                self.failures.jobs.setdefault(number, error)
        return self._released(task)

    def _open(self, data_task: Task) -> Exception | None:
        """Learn which tasks an environment has, or why it has no data here."""
        spec = self._run.suite.jobs[data_task.job].env
        data = result_or_error(lambda: dataset_of(self._run, spec))
        if isinstance(data, Exception):
            return data
        self._sharing[spec.label] = sharing(self._run, spec, data)
        for number in (n for n, job in enumerate(self._run.suite.jobs) if job.env == spec):
            self._add(number, data_task)
        self.total += sum(task.kind != "data" for task in self._waiting if self._label(task) == spec.label)
        return None

    def _add(self, number: int, data: Task) -> None:
        job, needed = self._run.suite.jobs[number], [data]
        if (training := self._training(number)) is not None:
            needed.append(training)
            first = self._first_of_seeds(training)
            before = [first, self._base_of(number)]
            self._wait(training, [data, *(task for task in before if task not in (None, training))])
        if stratum_of(job.protocol):
            for offset in job.goal_offset:
                needed.append(self._known(Task("pairs", number, offset)))
                self._wait(needed[-1], [data])
        for task in needed[1:]:
            self._jobs.setdefault(task, []).append(number)
        self._wait(Task("episodes", number), needed)

    def _wait(self, task: Task, needs: Sequence[Task]) -> None:
        self._waiting.setdefault(task, set(needs))
        self._needs.setdefault(task, tuple(needs))

    def _training(self, number: int) -> Task | None:
        """The training that a job needs; agents that only plan differently share one."""
        family = result_or_error(lambda: agent_family(self._run.suite.jobs[number].agent))
        if isinstance(family, Exception) or not family.trainable:
            return None
        return self._known(Task("training", number))

    def _known(self, task: Task) -> Task:
        """The task that makes the same, if there is one."""
        same = self._identity(task)
        return next((t for t in self._waiting if t.kind == task.kind and self._identity(t) == same), task)

    def _identity(self, task: Task) -> tuple[object, ...]:
        job = self._run.suite.jobs[task.job]
        if task.kind == "pairs":
            rules = PROTOCOLS[job.protocol].model_copy(update={"stratum": None})
            return job.env.label, rules.id, task.offset
        return job.env.label, parse_agent(job.agent).trained, job.seed

    def _first_of_seeds(self, training: Task) -> Task | None:
        """The training that makes what other seeds of the agent read too, such as the tokens of its encoder."""
        label, name, _ = self._identity(training)
        if not agent_family(name).seeds_share:
            return None
        return next(
            (t for t in self._waiting if t.kind == "training" and self._identity(t)[:2] == (label, name)), training
        )

    def _base_of(self, number: int) -> Task | None:
        """The training of what a job's agent is built on, if the suite lists it before; else the training makes it."""
        job = self._run.suite.jobs[number]
        config = result_or_error(lambda: self._run.suite.of(job.env).agent_config(job.agent))
        name = base_agent(config) if isinstance(config, OnBaseConfig) else None
        if name is None:
            return None
        same = job.env.label, parse_agent(name).trained, job.seed
        return next((t for t in self._waiting if t.kind == "training" and self._identity(t) == same), None)

    def _label(self, task: Task) -> str:
        return self._run.suite.jobs[task.job].env.label

    def _released(self, finished: Task) -> list[Due]:
        due = []
        for task, left in list(self._waiting.items()):
            if finished not in left:
                continue
            left.discard(finished)
            if left:
                continue
            del self._waiting[task]
            if task.kind == "episodes" and task.job in self.failures.jobs:
                self.total -= 1
                continue
            due.append(Due(task, self._needs[task], self._sharing[self._label(task)]))
        return due
