"""Examine every world model of a suite: train it or take it from the cache, look into it, record what was found.

Models, datasets and their keys are those of the other suites, so nothing is trained twice. Every examination is a cached
stage of its own: a killed run goes on, and one that fails is left out of the record with its reason.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter
from tqdm import tqdm

from lewm_bench.agent import Family, Loaded, Setting
from lewm_bench.checkpoint import WEIGHTS, load_card
from lewm_bench.config import Config
from lewm_bench.errors import NotRun, UserError
from lewm_bench.files import checksum, make_folder, write_bytes, write_text
from lewm_bench.provenance import commit, hardware, versions
from lewm_bench.registry import agent_family
from lewm_bench.runner import (
    Data,
    Run,
    check_card,
    checkpoint_of,
    clear_cells,
    config_of,
    dataset_of,
    failure,
    model_spec,
    obtain,
    setting_of,
    tried,
)
from lewm_bench.store import stage_key
from lewm_bench.suite import Job
from lewm_bench.tables import seconds as in_words
from lewm_bench.tables import short
from lewm_bench.understanding.collapse import examine_collapse
from lewm_bench.understanding.config import Name
from lewm_bench.understanding.decoder import decode
from lewm_bench.understanding.maps import maps
from lewm_bench.understanding.open_loop import open_loop
from lewm_bench.understanding.paths import straightness
from lewm_bench.understanding.probes import ProbeConfig, probe
from lewm_bench.understanding.records import (
    FAILED,
    PICTURES,
    Decoded,
    Features,
    ProbeRow,
    UnderstandingRecord,
    strict,
)
from lewm_bench.understanding.subject import Subject, subject_of
from lewm_bench.understanding.surprise import examine_surprise

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
    def subject(self) -> Subject:
        """The trained model and its data."""
        return subject_of(self.setting, self.loaded)

    @cached_property
    def loaded(self) -> Loaded:
        """The trained model as its family hands it out."""
        return self.family.load(self.setting, self.checkpoint)

    @cached_property
    def untrained(self) -> Subject | None:
        """The same networks with random weights; None where they cannot be (an encoder that is only known by its weights)."""
        try:
            return subject_of(self.setting, self.family.load(self.setting, None))
        except (NotRun, UserError):
            return None

    @property
    def imagination(self) -> dict[str, Any]:
        """How the planner computes what it imagines, for the keys of what looks at that."""
        return {"imagination": self.setting.cem.model_dump(mode="json", include={"arithmetic", "rollout"})}

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
            _ = self.subject  # loading is not what is timed
            begin = time.perf_counter()
            found = find(work)
            outcome = {"result": strict(found), "seconds": time.perf_counter() - begin}
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

    return probe(case.subject, case.untrained, config, keep)


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
    imagines: bool = False  # as the planner does, with its arithmetic

    @property
    def adapter(self) -> TypeAdapter:
        """Between what is found and JSON."""
        return TypeAdapter(UnderstandingRecord.model_fields[self.field].annotation)


EXAMINATIONS: Mapping[Name, Examination] = {
    "collapse": Examination("collapse", lambda case, config, _: examine_collapse(case.subject, config), 2),
    "paths": Examination("straightness", lambda case, config, _: straightness(case.subject, case.untrained, config), 2),
    "probe": Examination("probes", lambda case, config, _: probed(case, config), PROBE_SCHEMA),
    "surprise": Examination("surprise", lambda case, config, _: examine_surprise(case.subject, config), 2),
    "open_loop": Examination("open_loop", lambda case, config, _: open_loop(case.subject, config), imagines=True),
    "maps": Examination("maps", lambda case, config, _: maps(case.subject, config)),
    "decoder": Examination(
        "decoded",
        lambda case, config, folder: decode(case.subject, folder, config, case.run.progress),
        imagines=True,
    ),
}


def examine(case: Case, name: str) -> tuple[Any, float]:
    """What an examination finds, and the seconds that it took."""
    how = EXAMINATIONS[name]
    config: Config = getattr(case.run.suite.of(case.job.env).settings.understanding, name)

    def find(work: Path) -> Any:
        return how.adapter.dump_python(how.make(case, config, work), mode="json")

    what = {"schema": how.schema, "config": config.model_dump(mode="json")}
    folder = case.stage(name, what | (case.imagination if how.imagines else {}), find)
    outcome = read(folder)
    found = how.adapter.validate_python(outcome["result"])
    return (placed(case, folder, found) if isinstance(found, Decoded) else found), outcome["seconds"]


def read(folder: Path) -> dict[str, Any]:
    """The outcome in a stage's folder."""
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def placed(case: Case, folder: Path, decoded: Decoded) -> Decoded:
    """Pictures and videos copied from a stage's folder into the results, under names that no other cell has."""
    target = f"{PICTURES}/{stem(case.run, case.job)}"

    def copied(name: str) -> str:
        write_bytes(case.run.out / target / name, (folder / name).read_bytes())
        return f"{target}/{name}"

    return decoded.model_copy(
        update={"pictures": copied(decoded.pictures), "videos": tuple(map(copied, decoded.videos))}
    )


def about(case: Case) -> dict[str, Any]:
    """What a report says of the model, and where and when it was examined first."""

    def find(_: Path) -> dict[str, Any]:
        loaded = case.loaded
        return {
            "label": loaded.label,
            "note": loaded.note,
            "weights": loaded.weights,
            "parameters": loaded.parameters,
            "versions": versions(),
            "hardware": hardware(case.run.device),
            "commit": commit(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    return read(case.stage("about", {"schema": 1} | case.imagination, find))["result"]


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
    family = agent_family(job.agent)
    setting = setting_of(run, job, *data)
    family.requirements(setting)
    notes = []
    if checkpoint is not None:
        check_card(checkpoint, setting)
        notes = foreign_data(load_card(checkpoint), setting)
        setting = replace(setting, outside=checksum(checkpoint / WEIGHTS))
    step("train")
    folder = checkpoint or checkpoint_of(setting, family)
    case = Case(run, job, setting, family, folder)
    facts = about(case)
    parts, skipped, seconds = examine_all(case, step)
    log = folder / "training.json" if folder else None
    training = json.loads(log.read_text(encoding="utf-8")) if log and log.is_file() else {}
    return UnderstandingRecord(
        **base(run, job, "done"),
        **facts | {"note": "; ".join(filter(None, [facts["note"], *notes]))},
        **parts,
        key=stage_key("model", model_spec(setting, family)),
        config=config_of(run, job, setting, family),
        dataset=setting.dataset.fingerprint,
        train_seconds=training.get("seconds"),
        training=training.get("columns", {}),
        skipped=skipped,
        seconds=seconds,
    )


class Trained(NamedTuple):
    """What a checkpoint's card says of it."""

    agent: str
    seed: int
    env: str


def trained_as(checkpoint: Path) -> Trained:
    """Agent, seed and environment of a checkpoint folder.

    Raises:
        UserError: it is none.
    """
    card = load_card(checkpoint)
    found = Trained(*(card.get(name) for name in Trained._fields))
    if not (isinstance(found.agent, str) and isinstance(found.seed, int) and isinstance(found.env, str)):
        raise UserError(f"{checkpoint} is not a checkpoint: its card does not name agent, seed and environment")
    return found


def examine_one(run: Run, checkpoint: Path) -> UnderstandingRecord:
    """Examine a checkpoint folder as the run's only cell, and save the record."""
    clear_cells(run.out)
    job = run.suite.jobs[0]
    with progress(run) as step:
        cell = examine_job(run, job, dataset_of(run, job.env), checkpoint, step)
    cell.save(run.out / "cells")
    return cell


def foreign_data(card: Mapping[str, Any], setting: Setting) -> list[str]:
    """What a reader must know of a checkpoint that was trained on other data than it is examined on."""
    if card.get("dataset") == setting.dataset_key:
        return []
    return ["trained on another dataset than the one it is examined on, so held-out episodes may not be new to it"]


def examine_all(case: Case, step: Step) -> tuple[dict[str, Any], dict[str, str], dict[str, float]]:
    """The parts of the record, why others are missing, and what each took."""
    parts, skipped, seconds = {}, {}, {}
    for name in case.run.suite.of(case.job.env).settings.understanding.examinations:
        step(name)
        found = tried(lambda name=name: examine(case, name))
        if isinstance(found, Exception):
            skipped[name] = reason(case, name, found)
        else:
            parts[EXAMINATIONS[name].field], seconds[name] = found
    return parts, skipped, seconds


def reason(case: Case, name: str, error: Exception) -> str:
    """Why an examination is missing, in one line; the traceback of what nobody foresaw is kept beside it."""
    if isinstance(error, NotRun):
        return f"not run: {error}"
    if isinstance(error, UserError):
        return f"{FAILED}: {error}"
    path = case.run.out / "errors" / f"{stem(case.run, case.job)}__{name}.txt"
    write_text(path, "".join(traceback.format_exception(error)))
    text = " ".join(str(error).split())[:300]
    return f"{FAILED}: {type(error).__name__}: {text} (details: errors/{path.name})"


def base(run: Run, job: Job, status: str) -> dict[str, Any]:
    """The fields that every record of a job has."""
    return {
        "status": status,
        "suite": run.suite.name,
        "profile": run.suite.profile,
        "env": job.env.label,
        "agent": job.agent,
        "seed": job.seed,
    }


def stem(run: Run, job: Job) -> str:
    """What files of a cell begin with."""
    return Path(UnderstandingRecord(**base(run, job, "not run")).file_name).stem


def attempt(run: Run, job: Job, data: Data | Exception, step: Step = ignore) -> UnderstandingRecord:
    """The record of a job, whatever happens to it."""
    found = data if isinstance(data, Exception) else tried(lambda: examine_job(run, job, data, step=step))
    if not isinstance(found, Exception):
        return found
    cell = failure(run, job, found)
    return UnderstandingRecord(**base(run, job, cell.status), reason=cell.reason)


def examine_suite(run: Run) -> list[UnderstandingRecord]:
    """Examine every cell, save every record under ``out/cells`` as it is made, and return them all."""
    make_folder(run.out)
    clear_cells(run.out)
    cells: list[UnderstandingRecord] = []
    with progress(run) as step:
        for spec in run.suite.envs:
            data = obtain(run, spec)
            for number, job in enumerate(run.suite.jobs, 1):
                if job.env == spec:
                    cells.append(attempt(run, job, data, step))
                    cells[-1].save(run.out / "cells")
                    run.say(f"[{number}/{len(run.suite.jobs)}] {outcome(cells[-1])}")
    return cells


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
