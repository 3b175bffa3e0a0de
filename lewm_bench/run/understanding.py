"""Examine every world model of a suite: train it or take it from the cache, look into it, record what was found.

Models, datasets and their keys are those of the other suites, so nothing is trained twice. Every examination is a cached
stage of its own: a killed run goes on, and one that fails is left out of the record with its reason.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter
from tqdm import tqdm

from lewm_bench.agent import Family, Loaded, Setting, load_agent
from lewm_bench.core.config import Config
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.formatting import seconds as in_words
from lewm_bench.core.formatting import short
from lewm_bench.core.names import parse_agent
from lewm_bench.core.reading import read_bytes
from lewm_bench.run.cells import config_of, failure, reason_with_details
from lewm_bench.run.cells import record_fields as common
from lewm_bench.run.checkpoints import origin_note, trained_seconds, training_of
from lewm_bench.run.keys import model_spec
from lewm_bench.run.names import agent_names
from lewm_bench.run.resolve import Job
from lewm_bench.run.results_folder import CELLS
from lewm_bench.run.runner import each_job, publish_together
from lewm_bench.run.stages import Data, Run, dataset_of, prepare_agent, provenance_of
from lewm_bench.system.checkpoint import load_card
from lewm_bench.system.faults import result_or_error
from lewm_bench.system.files import write_bytes, write_text
from lewm_bench.system.store import read_result, stage_key
from lewm_bench.understand.collapse import examine_collapse
from lewm_bench.understand.config import Name
from lewm_bench.understand.decoder import decode
from lewm_bench.understand.maps import maps
from lewm_bench.understand.model import ExaminedModel, examined_model
from lewm_bench.understand.open_loop import open_loop
from lewm_bench.understand.paths import straightness
from lewm_bench.understand.probes import ProbeConfig, probe
from lewm_bench.understand.records import (
    FAILED,
    PICTURES,
    Decoded,
    Features,
    ProbeRow,
    UnderstandingRecord,
    holds_understanding,
    strict,
)
from lewm_bench.understand.retrieval import retrieval
from lewm_bench.understand.surprise import examine_surprise

RESULT = "result.json"
Step = Callable[[str], object]  # is told what begins


@dataclass(frozen=True)
class Case:
    """A cell under examination. What takes long is made when the first examination asks for it."""

    run: Run
    job: Job
    setting: Setting
    family: Family
    checkpoint: Path | None

    @cached_property
    def examined(self) -> ExaminedModel:
        """The trained model and its data."""
        return examined_model(self.setting, self.loaded)

    @cached_property
    def loaded(self) -> Loaded:
        """The trained model as its family hands it out."""
        return load_agent(self.family, self.setting, self.checkpoint)

    @cached_property
    def untrained(self) -> ExaminedModel | None:
        """The same networks with random weights; None where they cannot be (an encoder that is only known by its weights)."""
        try:
            return examined_model(self.setting, self.family.load(self.setting, None))
        except (NotRun, UserError):
            return None

    @property
    def rollout(self) -> dict[str, Any]:
        """How the planner computes rollouts, for the keys of what looks at them; under its first name, which caches hold."""
        return {"imagination": self.setting.planner.model_dump(mode="json", include={"arithmetic", "rollout"})}

    def stage(self, name: str, what: Mapping[str, Any], find: Callable[[Path], Any]) -> Path:
        """The folder with the outcome of ``find`` and the seconds that it took, from the cache if it is there."""
        spec = {
            "examination": name,
            "model": model_spec(self.setting, self.family),
            "name": self.setting.agent,
            "env": self.setting.env_id,
            "planning": self.setting.config.model_dump(mode="json", include=set(self.family.planning_only)),
            **what,
        }

        def build(work: Path) -> None:
            _ = self.examined  # loading is not what is timed
            begin = time.perf_counter()
            found = find(work)
            outcome = {"value": strict(found), "seconds": time.perf_counter() - begin, "made": provenance_of(self.run)}
            write_text(work / RESULT, json.dumps(outcome, allow_nan=False))

        return self.run.store.stage("understanding", spec, build)


PROBE_SCHEMA = 3


def probed(case: Case, config: ProbeConfig) -> tuple[ProbeRow, ...]:
    """The probes' rows; those of floors from the cache if another model of the environment had the same features."""
    rows = TypeAdapter(tuple[ProbeRow, ...])

    def keep(name: Features, features: list[np.ndarray], find: Callable[[], tuple[ProbeRow, ...]]) -> Any:
        spec = {
            "floor": name,
            "schema": PROBE_SCHEMA,
            "env": case.setting.env_id,
            "data": [case.setting.dataset_key, case.setting.dataset.fingerprint],
            "features": digest(features),
            "config": config.model_dump(mode="json"),
        }

        def build(work: Path) -> None:
            write_text(work / RESULT, json.dumps(strict(rows.dump_python(find(), mode="json")), allow_nan=False))

        return rows.validate_python(read(case.run.store.stage("understanding", spec, build)))

    return probe(case.examined, case.untrained, config, keep)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """What tells arrays from others."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class Examination(NamedTuple):
    """How one part of a record is made."""

    field: str  # of the record
    make: Callable[[Case, Any, Path], Any]  # from a case, the examination's settings and a folder for files
    schema: int = 1  # raise it when the code changes what is found
    rolls_out: bool = False  # as the planner does, with its arithmetic

    @property
    def adapter(self) -> TypeAdapter:
        """Between what is found and JSON."""
        return TypeAdapter(UnderstandingRecord.model_fields[self.field].annotation)


EXAMINATIONS: Mapping[Name, Examination] = {
    "collapse": Examination("collapse", lambda case, config, _: examine_collapse(case.examined, config), 2),
    "paths": Examination(
        "straightness", lambda case, config, _: straightness(case.examined, case.untrained, config), 2
    ),
    "probe": Examination("probes", lambda case, config, _: probed(case, config), PROBE_SCHEMA),
    "surprise": Examination("surprise", lambda case, config, _: examine_surprise(case.examined, config), 2),
    "open_loop": Examination("open_loop", lambda case, config, _: open_loop(case.examined, config), rolls_out=True),
    "retrieval": Examination(
        "retrieval", lambda case, config, _: retrieval(case.examined, case.untrained, config), rolls_out=True
    ),
    "maps": Examination("maps", lambda case, config, _: maps(case.examined, config), 2),
    "decoder": Examination(
        "decoded",
        lambda case, config, folder: decode(case.examined, folder, config, case.run.progress),
        rolls_out=True,
    ),
}


class Found(NamedTuple):
    """The outcome of a stage."""

    value: Any
    seconds: float
    made: dict[str, Any]  # where and when


def examine(case: Case, name: str) -> Found:
    """What an examination finds."""
    how = EXAMINATIONS[name]
    config: Config = getattr(case.run.suite.of(case.job.env).settings.understanding, name)

    def find(work: Path) -> Any:
        return how.adapter.dump_python(how.make(case, config, work), mode="json")

    what = {"schema": how.schema, "config": config.model_dump(mode="json")}
    folder = case.stage(name, what | (case.rollout if how.rolls_out else {}), find)
    found = Found(**read(folder))
    value = how.adapter.validate_python(found.value)
    return found._replace(value=placed(case, folder, value) if isinstance(value, Decoded) else value)


def read(folder: Path) -> dict[str, Any]:
    """The outcome in a stage's folder."""
    return read_result(folder, RESULT)


def placed(case: Case, folder: Path, decoded: Decoded) -> Decoded:
    """Pictures and videos copied from a stage's folder into the results, under names that no other cell has."""
    target = f"{PICTURES}/{stem(case.run, case.job)}"

    def copied(name: str) -> str:
        write_bytes(case.run.out / target / name, read_bytes(folder / name, f"delete {folder} and run again"))
        return f"{target}/{name}"

    return decoded.model_copy(
        update={"pictures": copied(decoded.pictures), "videos": tuple(map(copied, decoded.videos))}
    )


def about(case: Case) -> Found:
    """What a report says of the model."""

    def find(_: Path) -> dict[str, Any]:
        return {name: getattr(case.loaded, name) for name in ("label", "note", "weights", "parameters")}

    return Found(**read(case.stage("about", {"schema": 1} | case.rollout, find)))


def ignore(_: str) -> None:
    """Tells nobody."""


def examine_job(
    run: Run, job: Job, data: Data, checkpoint: Path | None = None, step: Step = ignore
) -> UnderstandingRecord:
    """Train and examine one cell, or examine a ``checkpoint`` folder from elsewhere.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
        UserError: it is not a world model, or the checkpoint is another agent's.
    """
    step("train")
    family, setting, folder = prepare_agent(run, job, data, checkpoint)
    notes = [] if checkpoint is None else [origin_note(checkpoint), *foreign_data(load_card(checkpoint), setting)]
    case = Case(run, job, setting, family, folder)
    facts = about(case)
    found, skipped = examine_all(case, step)
    newest = max([facts, *found.values()], key=lambda one: one.made["created"])
    training = training_of(folder)
    return UnderstandingRecord(
        **record_fields(run, job, "done"),
        **newest.made,
        **facts.value | {"note": "; ".join(filter(None, [facts.value["note"], *notes]))},
        **{EXAMINATIONS[name].field: one.value for name, one in found.items()},
        checkpoint="" if checkpoint is None else str(checkpoint),
        key=stage_key("model", model_spec(setting, family)),
        config=config_of(run, job, setting, family),
        dataset=setting.dataset.fingerprint,
        train_seconds=trained_seconds(training),
        training=training.get("columns", {}),
        skipped=skipped,
        seconds={name: one.seconds for name, one in found.items()},
    )


class Trained(NamedTuple):
    """What a checkpoint's card says of it."""

    agent: str
    seed: int
    env: str


def trained_as(checkpoint: Path, named: str = "") -> Trained:
    """Agent, seed and environment of a checkpoint folder.

    Args:
        named: the agent that the user says it is. A card may come from anywhere, so what it names is imported only if it
            is registered or if the user has named it too.

    Raises:
        UserError: it is none, or another agent's than named, or of one that nobody but its card names.
    """
    card = load_card(checkpoint)
    if "released" in card:  # by somebody who did not say the seed
        card = card | {"seed": card.get("seed") or 0}
    found = Trained(*(card.get(name) for name in Trained._fields))
    if not (isinstance(found.agent, str) and isinstance(found.seed, int) and isinstance(found.env, str)):
        raise UserError(f"{checkpoint} is not a checkpoint: its card does not name agent, seed and environment")
    base = parse_agent(found.agent).base
    if named and parse_agent(named).base != base:
        raise UserError(f"{checkpoint} is of the agent {base!r}, not of {named!r}; leave --agent out or name that one")
    if not named and base not in agent_names():
        raise UserError(
            f"{checkpoint} names the agent {base!r}, which is not registered here; if you know it and would run its "
            f"code, add --agent {shlex.quote(base)}"
        )
    return found


def examine_one(run: Run, checkpoint: Path) -> UnderstandingRecord:
    """Examine a checkpoint folder as the run's only cell, and save the record.

    Raises:
        UserError: the results folder has records of other cells, which this one would stand among or replace.
    """
    job = run.suite.jobs[0]
    own = UnderstandingRecord(**record_fields(run, job, "not run")).file_name
    for path in sorted((run.out / CELLS).glob("*.json")):
        if path.name != own or not holds_understanding(run.out):
            raise UserError(f"{run.out} has records of other cells ({path.name}); name another folder with --out")
    with progress(run) as step:
        return publish_together(run, lambda run: [examine_job(run, job, dataset_of(run, job.env), checkpoint, step)])[0]


def foreign_data(card: Mapping[str, Any], setting: Setting) -> list[str]:
    """What a reader must know of a checkpoint that was trained on other data than it is examined on."""
    if card.get("dataset") == setting.dataset_key:
        return []
    return ["trained on another dataset than the one it is examined on, so held-out episodes may not be new to it"]


def examine_all(case: Case, step: Step) -> tuple[dict[str, Found], dict[str, str]]:
    """What each examination found, and why others are missing."""
    done, skipped = {}, {}
    for name in case.run.suite.of(case.job.env).settings.understanding.examinations:
        step(name)
        found = result_or_error(lambda name=name: examine(case, name))
        if isinstance(found, Exception):
            skipped[name] = reason(case, name, found)
        else:
            done[name] = found
    return done, skipped


def reason(case: Case, name: str, error: Exception) -> str:
    """Why an examination is missing, in one line; the traceback of what nobody foresaw is kept beside it."""
    if isinstance(error, NotRun):
        return f"not run: {error}"
    if isinstance(error, UserError):
        return f"{FAILED}: {error}"
    found = reason_with_details(error, case.run.out, f"{stem(case.run, case.job)}__{name}.txt")
    return f"{FAILED}: {found}"


def record_fields(run: Run, job: Job, status: str) -> dict[str, Any]:
    """The fields that every record of a job has."""
    return {name: value for name, value in common(run, job, status).items() if name != "protocol"}


def stem(run: Run, job: Job) -> str:
    """What files of a cell begin with."""
    return Path(UnderstandingRecord(**record_fields(run, job, "not run")).file_name).stem


def record_or_failure(run: Run, job: Job, data: Data | Exception, step: Step = ignore) -> UnderstandingRecord:
    """The record of a job, whatever happens to it."""
    found = data if isinstance(data, Exception) else result_or_error(lambda: examine_job(run, job, data, step=step))
    if not isinstance(found, Exception):
        return found
    cell = failure(run, job, found)
    return UnderstandingRecord(**record_fields(run, job, cell.status), reason=cell.reason)


def examine_suite(run: Run) -> list[UnderstandingRecord]:
    """Examine every cell, save every record under ``out/cells`` as it is made, and return them all."""
    with progress(run) as step:
        return each_job(run, lambda run, job, data: record_or_failure(run, job, data, step), outcome)


@contextmanager
def progress(run: Run) -> Iterator[Step]:
    """A bar over all trainings and examinations of a run."""
    total = sum(1 + len(run.suite.of(job.env).settings.understanding.examinations) for job in run.suite.jobs)
    with tqdm(total=total, desc=f"suite {run.suite.name}", disable=not run.progress) as bar:
        running = 0

        def step(name: str) -> None:
            nonlocal running
            bar.set_postfix_str(name)
            bar.update(running)
            running = 1

        yield step
        bar.update(running)


def outcome(cell: UnderstandingRecord) -> str:
    """One line about a finished cell."""
    name = f"{short(cell.env)} {cell.agent} seed {cell.seed}"
    if cell.status != "done":
        return f"{name}: {cell.status}: {cell.reason}"
    words = [f"examined in {in_words(sum(cell.seconds.values()))}"]
    if cell.collapse is not None:
        words.append("collapsed" if cell.collapse.collapsed else "not collapsed")
    return "; ".join([f"{name}: {', '.join(words)}", *(f"{key} {why}" for key, why in cell.skipped.items())])
