"""Test the agents of a suite in changed worlds: train each once or take it from the cache, and record what it does there.

Data, models, pairs and their keys are those of the other suites. Each changed world of a cell is a cached stage of its
own: a killed run goes on, and one that fails is left out of the record with its reason.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.formatting import seconds as in_words
from lewm_bench.core.formatting import short
from lewm_bench.core.shift import Factor
from lewm_bench.data.factor_sheet import factor_sheet
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.evaluation.shift import (
    SHIFT_1,
    World,
    act_in,
    changed_world,
    chosen_factors,
    conditions,
    trained_world,
)
from lewm_bench.evaluation.shift_record import (
    FAILED,
    SHEETS,
    TRAINED,
    ChangedFactor,
    Condition,
    Outcomes,
    ShiftedOutcomes,
    ShiftRecord,
)
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.cells import agent_kind, config_of, failure, reason_with_details, record_fields
from lewm_bench.run.checkpoints import trained_seconds, training_of
from lewm_bench.run.environments import make_env
from lewm_bench.run.keys import for_pairs, model_spec, one_offset, shift_spec
from lewm_bench.run.resolve import Job
from lewm_bench.run.runner import each_job
from lewm_bench.run.stages import (
    Data,
    PreparedAgent,
    Run,
    load_noted,
    no_pairs,
    pairs_of,
    prepare_agent,
    provenance_of,
)
from lewm_bench.system import status
from lewm_bench.system.faults import error_line, result_or_error
from lewm_bench.system.filenames import env_stem
from lewm_bench.system.files import write_bytes, write_text
from lewm_bench.system.phases import phase
from lewm_bench.system.store import read_result, stage_key

logger = logging.getLogger(__name__)

RESULT = "result.json"
SHEET_PIXELS = 112  # side of a frame in the picture of changed worlds
SHEET_STATES = 50  # among which is one to show
Step = Callable[[], object]  # is told that a world is done


@dataclass(frozen=True)
class Changes:
    """What is changed in an environment."""

    factors: Mapping[str, Factor]
    sheet: str  # a picture of it in the results, or empty

    def described(self) -> tuple[ChangedFactor, ...]:
        """The factors for a record."""
        return tuple(
            ChangedFactor(name=name, group=factor.group, about=factor.about, values=factor.values)
            for name, factor in self.factors.items()
        )


@dataclass(frozen=True)
class Case:
    """A cell that is tested."""

    run: Run
    job: Job
    agent: PreparedAgent
    pairs: Pairs
    changes: Changes

    @property
    def offset(self) -> int:
        return one_offset(self.job)

    @property
    def budget(self) -> int:
        """Environment steps."""
        return self.run.suite.of(self.job.env).settings.evaluate.budget or SHIFT_1.budget(self.offset)


class Found(NamedTuple):
    """The outcome of a stage."""

    value: Outcomes
    seconds: float
    loaded: dict[str, Any]  # what a table says of the agent
    made: dict[str, Any]  # where and when


def tried(case: Case, condition: Condition) -> Found:
    """What an agent does under a condition, from the cache if it is there."""
    family, setting, _ = case.agent
    batch = case.run.suite.of(case.job.env).settings.evaluate.batch

    def build(work: Path) -> None:
        begin = time.perf_counter()
        with world_of(case, condition) as world:
            # Loaded anew: an oracle plans in the world that it is in, and who reads its own body does so there.
            agent = load_noted(family, replace(setting, env=world.env), case.agent.folder)
            with phase("evaluating: other"):
                value = act_in(world, agent, setting, case.budget, case.offset, batch).model_dump(mode="json")
        loaded = {name: getattr(agent, name) for name in ("label", "note", "weights", "parameters")}
        outcome = Found(value, time.perf_counter() - begin, loaded, provenance_of(case.run))
        write_text(work / RESULT, json.dumps(outcome._asdict(), allow_nan=False))

    factor = case.changes.factors.get(condition.factor)
    spec = shift_spec(case.run.suite, case.job, setting, family, condition, factor)
    return read(case.run.store.stage("shift", spec, build))


@contextmanager
def world_of(case: Case, condition: Condition) -> Iterator[World]:
    """The world of a condition with a cell's pairs in it, closed behind it."""
    setting = case.agent.setting
    if condition == TRAINED:
        yield trained_world(setting.env, setting.dataset, case.pairs)
        return
    with closing(setting.env.shifted(condition.factor, condition.level)) as env:
        yield changed_world(env, setting.dataset, case.pairs, condition.goal)


def read(folder: Path) -> Found:
    """The outcome in a stage's folder."""
    found = Found(**read_result(folder, RESULT))
    return found._replace(value=Outcomes.model_validate(found.value))


def try_all(case: Case, step: Step) -> tuple[dict[Condition, Found], dict[str, str]]:
    """What was found under each condition, and why others are missing; raises what the trained world does."""
    asked = conditions(case.changes.factors, case.run.suite.of(case.job.env).settings.shift)
    done, skipped = {TRAINED: tried(case, TRAINED)}, {}
    step()
    for number, condition in enumerate(asked[1:], 1):
        status.at(number, len(asked))
        found = result_or_error(lambda condition=condition: tried(case, condition))
        if isinstance(found, Exception):
            skipped[condition.name] = reason(case, condition, found)
        else:
            done[condition] = found
        step()
    return done, skipped


def reason(case: Case, condition: Condition, error: Exception) -> str:
    """Why a condition is missing, in one line; the traceback of what nobody foresaw is kept beside it."""
    if isinstance(error, NotRun):
        return f"not run: {error}"
    if isinstance(error, UserError):
        return f"{FAILED}: {error}"
    name = f"{stem(case.run, case.job)}__{condition.factor}-{condition.level}-{condition.goal}.txt"
    return f"{FAILED}: {reason_with_details(error, case.run.out, name)}"


def try_job(run: Run, job: Job, data: Data, changes: Changes, step: Step) -> ShiftRecord:
    """Train one cell and test it in all worlds.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
    """
    agent = prepare_agent(run, job, data)
    family, setting, folder = agent
    _, pairs = pairs_of(run, for_pairs(job), setting, one_offset(job))
    if not len(pairs):
        raise NotRun(f"{no_pairs(run, for_pairs(job))}; ask for a larger evaluate.goal_offset")
    case = Case(run, job, agent, pairs, changes)
    with status.doing(run.store.root, f"change the world of {job.agent}, seed {job.seed}, {job.env.label}"):
        done, skipped = try_all(case, step)
    newest, training = max(done.values(), key=lambda one: one.made["created"]), training_of(folder)
    return ShiftRecord(
        **record_fields(run, job, "done"),
        **newest.made,
        **done[TRAINED].loaded,
        agent_kind=family.kind,
        key=stage_key("model", model_spec(setting, family)),
        config=config_of(run, job, setting, family),
        dataset=setting.dataset.fingerprint,
        train_seconds=trained_seconds(training),
        train_hardware=training.get("hardware", {}),
        goal_offset=case.offset,
        budget=case.budget,
        num_pairs=len(pairs),
        factors=changes.described(),
        sheet=changes.sheet,
        found=tuple(ShiftedOutcomes(condition=c, outcomes=f.value, seconds=f.seconds) for c, f in done.items()),
        skipped=skipped,
    )


def stem(run: Run, job: Job) -> str:
    """What files of a cell begin with."""
    return Path(ShiftRecord(**record_fields(run, job, "not run")).file_name).stem


def shift_suite(run: Run) -> list[ShiftRecord]:
    """Test every cell, save every record under ``out/cells`` as it is made, and return them all.

    Raises:
        UserError: a setting names a factor that an environment does not have.
    """
    check_factors(run)
    known: dict[str, Changes | Exception] = {}

    def make(run: Run, job: Job, data: Data | Exception) -> ShiftRecord:
        label = job.env.label
        if label not in known:
            known[label] = data if isinstance(data, Exception) else result_or_error(lambda: changes_of(run, job, data))
        return record_or_failure(run, job, data, known[label], step)

    with progress(run) as step:
        return each_job(run, make, outcome)


def record_or_failure(
    run: Run, job: Job, data: Data | Exception, changes: Changes | Exception, step: Step
) -> ShiftRecord:
    """The record of a job, whatever happens to it."""
    found = changes
    if isinstance(changes, Changes):
        found = result_or_error(lambda: try_job(run, job, data, changes, step))
    if isinstance(found, ShiftRecord):
        return found
    cell = failure(run, job, found)
    return ShiftRecord(**record_fields(run, job, cell.status), reason=cell.reason, agent_kind=agent_kind(job.agent))


def check_factors(run: Run) -> None:
    """Raise a UserError for a factor that there is not, before anything is collected or trained."""
    for spec in run.suite.envs:
        settings = run.suite.of(spec).settings
        env = result_or_error(
            lambda spec=spec, size=settings.image_size: make_env(spec.id, size, spec.kwargs, spec.adapt)
        )
        if not isinstance(env, Exception):  # which is the matter of its cells
            with suppress(NotRun), closing(env):
                chosen_factors(env, spec.label, settings.shift.factors)


def changes_of(run: Run, job: Job, data: Data) -> Changes:
    """What is changed in a job's environment, and a picture of it in the results."""
    env, dataset, _ = data
    factors = chosen_factors(env, job.env.label, run.suite.of(job.env).settings.shift.factors)
    name = f"{SHEETS}/{env_stem(job.env.label)}.png"
    drawn = result_or_error(lambda: draw_sheet(run, job.env, dataset))
    if isinstance(drawn, Exception):
        logger.warning("%s: no picture of changed worlds: %s", job.env.label, error_line(drawn))
        return Changes(factors, "")
    write_bytes(run.out / name, drawn)
    return Changes(factors, name)


def draw_sheet(run: Run, spec: EnvSpec, dataset: Dataset) -> bytes:
    """PNG of an environment at all levels of what can be seen."""
    rows = np.linspace(0, len(dataset.states) - 1, SHEET_STATES).astype(int)
    with closing(make_env(spec.id, SHEET_PIXELS, spec.kwargs, spec.adapt)) as large:
        return factor_sheet(large, dataset.states[rows], SHEET_PIXELS)


@contextmanager
def progress(run: Run) -> Iterator[Step]:
    """A bar over the worlds of all cells."""
    with tqdm(desc=f"suite {run.suite.name}", unit="world", disable=not run.progress) as bar:
        yield bar.update


def outcome(cell: ShiftRecord) -> str:
    """One line about a finished cell."""
    name = f"{short(cell.env)} {cell.agent} seed {cell.seed}"
    if cell.status != "done":
        return f"{name}: {cell.status}: {cell.reason}"
    hits = [each.outcomes.hit for each in cell.found]
    changed = [hit for each in hits[1:] for hit in each]
    words = [f"hit {100 * np.mean(hits[0]):.0f} % (n {len(hits[0])})"]
    words += [f"in {len(hits) - 1} changed worlds {100 * np.mean(changed):.0f} %"] if changed else []
    words.append(f"tested in {in_words(sum(each.seconds for each in cell.found))}")
    return "; ".join([f"{name}: {', '.join(words)}", *(f"{key}: {why}" for key, why in cell.skipped.items())])
