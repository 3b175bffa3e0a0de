"""Run a suite: collect, train, evaluate, report; every stage cached by what determines it.

Killing the process at any moment loses at most a training checkpoint interval or one batch of episodes; the same
command goes on and ends with the table that it would have had. A cell that fails is recorded with its reason and does
not stop the rest.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

import lewm_bench
from lewm_bench.agent import Family, Loaded, Setting, card_of, load_agent
from lewm_bench.core.env import GoalEnv, require_spaces
from lewm_bench.core.errors import NotRun, PluginError, TrainingFailed, UserError
from lewm_bench.core.names import parse_agent, stratum_of
from lewm_bench.core.reading import is_file, parse_json, read_model, require_tensors
from lewm_bench.data.check import require_sound
from lewm_bench.data.collect import LEARNED, CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.data.sac_exploration import CARD, train_sac_policy
from lewm_bench.data.scenes import scene_name, scene_png
from lewm_bench.data.videos import video_name, write_video
from lewm_bench.evaluation import strata
from lewm_bench.evaluation.episodes import PairResult, distance_rank_correlation, evaluate, latent_oracle
from lewm_bench.evaluation.protocol import PROTOCOLS, Pairs, sample_pairs
from lewm_bench.evaluation.trails import trails
from lewm_bench.run.agreement import disagreement
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.budget import within_seconds
from lewm_bench.run.folder import CELLS, incoming
from lewm_bench.run.keys import (
    DATA_SEED,
    dataset_spec,
    evaluation_spec,
    latent_oracle_pairs,
    model_spec,
    pairs_spec,
    policy_spec,
)
from lewm_bench.run.records import CellRecord, EpisodeRow, OffsetRecord
from lewm_bench.run.registry import agent_family, make_env
from lewm_bench.run.resolve import Job, Suite, shares_budget
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import MEND, WEIGHTS, load_card
from lewm_bench.system.faults import attempted, keep_traceback, machine_line, told
from lewm_bench.system.files import checksum, write_bytes, write_text
from lewm_bench.system.provenance import commit, hardware, versions
from lewm_bench.system.store import Store, stage_key
from lewm_bench.train.loop import raise_if_collapsed, raise_if_mean_action
from lewm_bench.train.record import TrainingRecord

logger = logging.getLogger(__name__)

EPISODES, EXTRAS = "episodes.jsonl", "extras.json"  # of an evaluation's folder
SORTED = "sorted.json"  # of a folder of pairs
TRAINING = "training.json"  # of a checkpoint folder
SCENE_STATES, SCENE_PIXELS = 31, 256  # an odd number, so that a median is one of the values
ERRORS = "errors"  # folder of tracebacks in the results


Data = tuple[GoalEnv, Dataset, str]
"""An environment, its dataset and the dataset's key."""


@dataclass(frozen=True)
class Run:
    """Where a suite runs and where its results go."""

    suite: Suite
    store: Store
    out: Path
    device: torch.device
    progress: bool = True
    say: Callable[[str], None] = logger.info  # one line per finished cell
    workers: int = 1  # processes that collect; more than 1 needs a main module that can be imported again


def dataset_of(run: Run, spec: EnvSpec) -> tuple[GoalEnv, Dataset, str]:
    """The environment, its dataset (collected if it is not in the cache) and the dataset's key."""
    settings = run.suite.of(spec).settings
    env = make_env(spec.id, settings.image_size, spec.kwargs, spec.adapt)
    require_spaces(env, spec.label)
    config = settings.collect.of(env)
    key = dataset_spec(spec, env, config)

    def build(work: Path) -> None:
        if env.spec is None or env.spec.namespace != "lewm_bench":  # ours are held to their promises by tests
            require_sound(env, spec.label)
        learned = policy_of(run, env, config, key) if LEARNED in config.policies else None
        begin, resumed = time.perf_counter(), any(work.iterdir())
        frames = len(collect(env, config, DATA_SEED, work, run.progress, run.workers, learned).frames)
        seconds = time.perf_counter() - begin
        rate = "" if resumed else f" in {seconds:.1f} s, {frames / seconds:.0f} per second"
        run.say(f"{spec.label}: {frames} frames collected{rate}")
        built.append(work)

    built: list[Path] = []
    dataset = Dataset.open(run.store.stage("dataset", key, build))
    if problem := disagreement(env, dataset):
        again = f"`lewm-bench check {spec.id}` says why" if built else "collect again with --fresh collect"
        raise UserError(f"{spec.label} does not do again what its data in {dataset.folder} hold: {problem}; {again}")
    return env, dataset, stage_key("dataset", key)


def policy_of(run: Run, env: GoalEnv, config: CollectConfig, dataset: dict[str, Any]) -> Path:
    """The folder of the policy that is trained before it collects, from the cache if it is there."""

    def build(work: Path) -> None:
        if not (work / CARD).is_file():  # else it was trained, and its stage could not be completed
            train_sac_policy(env, config.sac, DATA_SEED, work, run.progress)

    return run.store.stage("policy", policy_spec(config, dataset), build)


def setting_of(run: Run, job: Job, env: GoalEnv, dataset: Dataset, dataset_key: str) -> Setting:
    """Everything that determines the job's agent; under a budget in seconds with the steps that fit into them."""
    setting = Setting(
        env=env,
        env_id=job.env.label,
        agent=job.agent,
        dataset=dataset,
        dataset_key=dataset_key,
        config=run.suite.of(job.env).agent_config(job.agent),
        planner=run.suite.of(job.env).planner(job.agent),
        seed=job.seed,
        device=run.device,
        store=run.store,
        progress=run.progress,
    )
    seconds = run.suite.of(job.env).settings.training.seconds
    if seconds is None or not shares_budget(job.agent):
        return setting
    family = agent_family(job.agent)
    family.requirements(setting)
    return within_seconds(setting, family, seconds, model_spec(setting, family))


def checkpoint_of(setting: Setting, family: Family) -> Path | None:
    """The checkpoint folder of a job, trained if it is not in the cache; None for agents that do not train.

    Raises:
        TrainingFailed: it did not learn anything usable.
    """
    if not family.trainable:
        return None

    def build(work: Path) -> None:
        log, where = family.train(setting, work), hardware(setting.device)
        write_text(work / TRAINING, json.dumps({"columns": log.columns, "seconds": log.seconds, "hardware": where}))

    folder = setting.store.stage("model", model_spec(setting, family), build)
    if setting.config.train.on_collapse == "fail":
        # The weights may be those of a training that was told to go on.
        columns = training_of(folder)["columns"]
        raise_if_collapsed(columns)
        raise_if_mean_action(columns)
    return folder


def pairs_of(run: Run, job: Job, setting: Setting, offset: int) -> Pairs:
    """The pairs of a job at one goal offset; those of a stratum from the cache, if they have been sorted before.

    Raises:
        UserError: the data cannot give so many; of a stratum there may be fewer, or none.
    """
    config, rules = run.suite.of(job.env).settings.evaluate, PROTOCOLS[job.protocol]
    if rules.stratum is None:
        return sample_pairs(setting.dataset, setting.env, rules, job.num_pairs, offset, config.split)
    budget = config.budget or rules.budget(offset)
    spec = pairs_spec(run.suite, job, setting, offset)

    def build(work: Path) -> None:
        asked = config.num_pairs, config.candidates, offset, config.split, budget, run.progress
        found = strata.sort_pairs(setting, rules, *asked)
        write_text(work / SORTED, found.model_dump_json())

    folder = setting.store.stage("pairs", spec, build, read_sorted)
    return strata.choose(read_sorted(folder), rules.stratum, job.num_pairs, offset)


def read_sorted(folder: Path) -> strata.Sorted:
    """The candidates of a finished sorting.

    Raises:
        ValueError: they cannot be read.
    """
    return strata.Sorted.model_validate_json((folder / SORTED).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Measured:
    """One evaluated goal offset."""

    pairs: Pairs
    results: tuple[PairResult, ...]
    extras: dict[str, Any]
    key: str


def measure(
    run: Run, job: Job, setting: Setting, family: Family, loaded: Callable[[], Loaded], offset: int, pairs: Pairs
) -> Measured:
    """The episodes of one goal offset, from the cache as far as they are there."""
    config = run.suite.of(job.env).settings.evaluate
    rules = PROTOCOLS[job.protocol]
    budget = config.budget or rules.budget(offset)
    spec = evaluation_spec(run.suite, job, setting, family, offset)

    def build(work: Path) -> None:
        agent = loaded()
        rows = work / EPISODES
        done = finished_rows(rows, len(pairs))
        # Rewritten, so that a line torn by a kill is gone before the next one is appended.
        write_text(rows, "".join(r.model_dump_json() + "\n" for r in done))
        todo = evaluate(
            agent.agent,
            setting,
            pairs,
            budget,
            goal_offset=offset,
            real_history=rules.real_history,
            batch=config.batch,
            skip=[r.pair for r in done],
        )
        name = f"evaluate {setting.agent} offset {offset}"
        with rows.open("a", encoding="utf-8") as file:
            for result in tqdm(todo, name, len(pairs), initial=len(done), disable=not run.progress, leave=False):
                file.write(result.model_dump_json() + "\n")
                file.flush()
        found = extras(run, job, setting, agent, pairs, budget, offset)
        write_text(work / EXTRAS, json.dumps(found, allow_nan=False))

    folder = run.store.stage("evaluation", spec, build, lambda folder: read_evaluation(folder, len(pairs)))
    return Measured(pairs, *read_evaluation(folder, len(pairs)), stage_key("evaluation", spec))


def read_evaluation(folder: Path, count: int) -> tuple[tuple[PairResult, ...], dict[str, Any]]:
    """The results of ``count`` pairs, in order, and the extras of a finished evaluation.

    Raises:
        ValueError: they are not all there, or a number is not finite.
    """
    lines = (folder / EPISODES).read_text(encoding="utf-8").splitlines()
    results = sorted((PairResult.model_validate_json(line) for line in lines), key=lambda r: r.pair)
    if [r.pair for r in results] != list(range(count)):
        raise ValueError(f"{EPISODES} has {len(results)} results of {count} pairs")
    return tuple(results), parse_json((folder / EXTRAS).read_text(encoding="utf-8"))


def finished_rows(path: Path, count: int) -> list[PairResult]:
    """The results of an unfinished evaluation that can be used, each pair once.

    A line torn by a kill is left out, and so is one that an earlier version wrote though a number was not finite.
    """
    if not path.is_file():
        return []
    found: dict[int, PairResult] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            result = PairResult.model_validate_json(line)
        except ValueError:
            logger.warning("a result in %s cannot be read; its pair is evaluated again", path)
            continue
        if 0 <= result.pair < count:
            found.setdefault(result.pair, result)
    return list(found.values())


def extras(
    run: Run, job: Job, setting: Setting, loaded: Loaded, pairs: Pairs, budget: int, offset: int
) -> dict[str, Any]:
    """What is measured once per cell and offset beside the episodes, and where."""
    config = run.suite.of(job.env).settings.evaluate
    count = latent_oracle_pairs(run.suite, job, offset)
    values: dict[str, Any] = {"latent_oracle_pairs": 0, "latent_oracle_hit": None, "rank_correlation": None}
    if loaded.model is not None:
        values["rank_correlation"] = distance_rank_correlation(loaded, setting, config.split, config.correlation_frames)
        if count:
            values["latent_oracle_pairs"] = count
            values["latent_oracle_hit"] = latent_oracle(loaded, setting, pairs, budget, offset, count)
    return values | {
        "label": loaded.label,
        "weights": loaded.weights,
        "parameters": loaded.parameters,
        "tokens_per_frame": loaded.tokens_per_frame,
        "note": loaded.note,
        **made(run),
    }


def made(run: Run) -> dict[str, Any]:
    """Where and when something is measured."""
    return {
        "versions": versions(),
        "hardware": hardware(run.device),
        "commit": commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def run_job(
    run: Run, job: Job, env: GoalEnv, dataset: Dataset, dataset_key: str, checkpoint: Path | None = None
) -> CellRecord:
    """Train and evaluate one cell, or evaluate a ``checkpoint`` folder from elsewhere in its place.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
    """
    (family, setting, folder), measured = measured_job(run, job, (env, dataset, dataset_key), checkpoint)
    return record(run, job, setting, family, measured, training_of(folder))


def measured_job(run: Run, job: Job, data: Data, checkpoint: Path | None = None) -> tuple[Ready, dict[int, Measured]]:
    """A cell's agent, trained if it is not in the cache, and its episodes by goal offset; raises what ``run_job`` does."""
    family, setting, folder = it = ready(run, job, data, checkpoint)
    loaded = cache(lambda: load_agent(family, setting, folder))
    found = {offset: pairs_of(run, job, setting, offset) for offset in job.goal_offset}
    asked = {offset: pairs for offset, pairs in found.items() if len(pairs)}
    if not asked:
        raise NotRun(f"{no_pairs(run, job)}; ask for a larger evaluate.goal_offset or more evaluate.candidates")
    return it, {o: measure(run, job, setting, family, loaded, o, pairs) for o, pairs in asked.items()}


def no_pairs(run: Run, job: Job) -> str:
    """That a job has no pairs, in words."""
    config = run.suite.of(job.env).settings.evaluate
    offsets = " or ".join(map(str, job.goal_offset))
    return (
        f"none of {config.candidates} candidates {offsets} steps ahead in {job.env.label} is {stratum_of(job.protocol)}"
    )


class Ready(NamedTuple):
    """The agent of a cell before it is loaded."""

    family: Family
    setting: Setting
    folder: Path | None  # its checkpoint; None for agents that do not train


def ready(run: Run, job: Job, data: Data, checkpoint: Path | None = None) -> Ready:
    """The agent of a cell, trained if it is not in the cache, or that of a ``checkpoint`` folder from elsewhere.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
        UserError: the checkpoint is of another agent, configuration or seed.
    """
    family = agent_family(job.agent)
    setting = setting_of(run, job, *data)
    family.requirements(setting)
    if checkpoint is None:
        return Ready(family, setting, checkpoint_of(setting, family))
    check_card(checkpoint, setting)
    training_of(checkpoint)  # a damaged one is found out before anything is evaluated
    return Ready(family, as_trained(checkpoint, setting), checkpoint)


def as_trained(checkpoint: Path, setting: Setting) -> Setting:
    """``setting`` with the training that the weights of a checkpoint have had, and their checksum.

    Raises:
        UserError: its card has settings of training that there are not.
    """
    require_tensors(checkpoint / WEIGHTS, MEND)  # before its checksum, which reads a file of any size
    card, own = load_card(checkpoint).get("config", {}), type(setting.config)
    had = {name: card[name] for name in ("train",) if name in card}
    config = checked(lambda: own(**setting.config.model_dump() | had), setting.agent, own)
    return replace(setting, config=config, outside=checksum(checkpoint / WEIGHTS))


def training_of(folder: Path | None) -> dict[str, Any]:
    """The seconds and the columns of the training that a checkpoint folder tells of, if it does."""
    if folder is None or not os.path.lexists(folder / TRAINING):
        return {}
    mend = "delete this file, which the weights do not need, or train again"
    return read_model(folder / TRAINING, TrainingRecord, mend).model_dump()


def check_card(folder: Path, setting: Setting) -> None:
    """Refuse a checkpoint that was made with another configuration than the one it would be evaluated with.

    Raises:
        UserError: the first field that differs, and both values.
    """
    free = ("train", *agent_family(setting.agent).planning_only)
    found = load_card(folder)
    card, own = flat_card(found, free), flat_card(card_of(setting), free)
    for name in sorted({*card, *own}, key=lambda name: (name != "agent", name)):
        if (theirs := card.get(name)) != (ours := own.get(name)):
            raise UserError(
                f"checkpoint {folder} was made with {name} {theirs!r}, but here it is {ours!r}; set it alike"
            )
    check_environment(folder, found, setting)
    if isinstance(seed := found.get("seed"), int) and seed != setting.seed:
        raise UserError(f"checkpoint {folder} was trained with seed {seed}, not {setting.seed}; add --seed {seed}")
    if not is_file(folder / WEIGHTS):
        raise UserError(f"{folder} is not a checkpoint: it has no {WEIGHTS}")


def check_environment(folder: Path, card: dict[str, Any], setting: Setting) -> None:
    """Refuse a checkpoint that was made in another environment, or in another version of this one.

    Raises:
        UserError: it was; a card of before there were identities is believed for its environment's name.
    """
    was, here, identity = card.get("env"), setting.env_id, setting.env.identity()
    known = "environment" in card
    same = card["environment"] == identity if known else was in (here, None)
    if not same and was == here:
        raise UserError(f"checkpoint {folder} was made in {here} before its code or arguments changed; train again")
    if not same:
        raise UserError(f"checkpoint {folder} was made in {was}, not in {here}; name its environment with --env")


def flat_card(card: Any, free: Collection[str]) -> dict[str, Any]:
    """What must agree between a checkpoint and its use; settings in ``free`` may differ, and with them the variant."""
    flat = {name: card.get(name) for name in ("agent", "image_size", "action_dim")} if isinstance(card, dict) else {}
    flat["agent"] = parse_agent(str(flat.get("agent"))).base
    config = card.get("config") if isinstance(card, dict) else None
    settings = config.items() if isinstance(config, dict) else ()
    return flat | {f"{flat['agent']}.{key}": value for key, value in settings if key not in free}


def record(
    run: Run, job: Job, setting: Setting, family: Family, measured: dict[int, Measured], training: dict[str, Any]
) -> CellRecord:
    """The cell's record, with one video of a success and one of a failure per offset."""
    extra = next(iter(measured.values())).extras
    rows, offsets = [], []
    for offset, m in measured.items():
        rows += [episode_row(run, job, offset, r, m) for r in m.results]
        offsets.append(
            OffsetRecord(
                goal_offset=offset,
                plan_seconds=[
                    e + s for r in m.results for e, s in zip(r.encode_seconds, r.search_seconds, strict=True)
                ],
                encode_seconds=[e for r in m.results for e in r.encode_seconds],
                pairs_candidates=m.pairs.candidates,
                pairs_solved_at_start=m.pairs.solved_at_start,
                pairs_sorted=m.pairs.sorted,
                pairs_of_stratum=m.pairs.of_stratum,
                latent_oracle_hit=m.extras["latent_oracle_hit"],
                latent_oracle_pairs=m.extras["latent_oracle_pairs"],
                distance_rank_correlation=m.extras["rank_correlation"],
                videos=videos(run, job, setting, offset, m),
                trails=trails(setting.env, m.results, setting.dataset.states[m.pairs.goal_row]),
            )
        )
    draw_scene(run, job, setting)
    return CellRecord(
        **base(run, job, "done"),
        label=extra["label"],
        kind=family.kind,
        note=extra["note"],
        key=stage_key("model", model_spec(setting, family)),
        config=config_of(run, job, setting, family),
        dataset=setting.dataset.fingerprint,
        weights=extra["weights"],
        parameters=extra["parameters"],
        tokens_per_frame=extra["tokens_per_frame"],
        train_seconds=training.get("seconds"),
        training=training.get("columns", {}),
        train_hardware=training.get("hardware", {}),
        offsets=offsets,
        episodes=rows,
        versions=extra["versions"],
        hardware=extra["hardware"],
        commit=extra["commit"],
        created=extra["created"],
    )


def config_of(run: Run, job: Job, setting: Setting, family: Family) -> dict[str, Any]:
    """Everything that a reader needs to repeat the cell, defaults included."""
    settings = run.suite.of(job.env).settings.model_dump(mode="json")
    settings["evaluate"]["num_pairs"] = job.num_pairs
    settings["planner"] = setting.planner.model_dump(mode="json")
    settings["env"] = job.env.model_dump(mode="json")
    settings["agent"] = setting.config.model_dump(mode="json") if family.trainable else {}
    return settings


def base(run: Run, job: Job, status: str) -> dict[str, Any]:
    """The fields that every record of a job has."""
    return {
        "status": status,
        "suite": run.suite.name,
        "profile": run.suite.profile,
        "protocol": job.protocol,
        "env": job.env.label,
        "agent": job.agent,
        "seed": job.seed,
    }


def episode_row(run: Run, job: Job, offset: int, result: PairResult, measured: Measured) -> EpisodeRow:
    """One line of episodes.csv."""
    fields = {k: v for k, v in base(run, job, "").items() if k != "status"}
    return EpisodeRow(
        **fields,
        goal_offset=offset,
        pair=result.pair,
        hit=result.hit,
        held=result.held,
        steps_to_hit=result.steps_to_hit,
        distance_start=result.distance_start,
        distance_end=result.distance_end,
        plans=len(result.search_seconds),
        encode_seconds=sum(result.encode_seconds),
        search_seconds=sum(result.search_seconds),
        env_seconds=result.env_seconds,
        device=measured.extras["hardware"]["device"],
        weights=measured.extras["weights"],
        version=lewm_bench.__version__,
        key=measured.key,
    )


def videos(run: Run, job: Job, setting: Setting, offset: int, measured: Measured) -> tuple[str, ...]:
    """Write the first success and the first failure of the suite's first seed; their file names."""
    if job.seed != min(j.seed for j in run.suite.jobs):
        return ()
    names = []
    for wanted in (True, False):
        result = next((r for r in measured.results if r.hit is wanted), None)
        if result is None:
            continue
        name = video_name(job.env.label, job.agent, job.seed, offset, result.pair, stratum_of(job.protocol))
        states = np.asarray(result.states)
        goal_row = measured.pairs.goal_row[result.pair]
        write_video(
            run.out / name,
            setting.env.render_states(states.copy()),
            setting.dataset.frames[goal_row],
            setting.env.distance(states.copy(), setting.dataset.states[goal_row].copy()),
            setting.env.threshold,
            job.agent,
            unit=setting.env.distance_unit,
        )
        names.append(name)
    return tuple(names)


def draw_scene(run: Run, job: Job, setting: Setting) -> None:
    """Write the job's environment without what moves, before which its trails are drawn; they can do without."""
    spec, dataset = job.env, setting.dataset
    if setting.env.spots(dataset.states[:1].copy()) is None:
        return
    rows = np.linspace(0, len(dataset.states) - 1, SCENE_STATES).astype(int)
    large = attempted(lambda: make_env(spec.id, SCENE_PIXELS, spec.kwargs, spec.adapt))
    frames = large if isinstance(large, Exception) else attempted(lambda: large.render_states(dataset.states[rows]))
    if isinstance(large, GoalEnv):
        large.close()
    if isinstance(frames, Exception):
        logger.warning("%s: no scene for the figures of paths: %s", spec.label, told(frames))
        return
    write_bytes(run.out / scene_name(spec.label), scene_png(frames))


def run_suite(run: Run) -> list[CellRecord]:
    """Run every job, save every record under ``out/cells`` as it is made, and return them all."""
    bar = tqdm(total=len(run.suite.jobs), desc=f"suite {run.suite.name}", unit="cell", disable=not run.progress)

    def counted(run: Run, job: Job, data: Data | Exception) -> CellRecord:
        cell = attempt(run, job, data)
        bar.update()
        return cell

    with bar:
        return each_job(run, counted, outcome)


class Saved(Protocol):
    """The record of a cell."""

    def save(self, folder: Path) -> Path: ...


R = TypeVar("R", bound=Saved)


def each_job(run: Run, attempt: Callable[[Run, Job, Data | Exception], R], tell: Callable[[R], str]) -> list[R]:
    """The records of all jobs, each published in the results (``run.folder``) as it is made and told in a line.

    Args:
        attempt: makes the record of a job from its environment's data, or from why there is none.
    """
    cells: list[R] = []
    with incoming(run.out) as new:
        beside = replace(run, out=new.folder)
        for spec in run.suite.envs:
            data = obtain(beside, spec)
            for number, job in enumerate(run.suite.jobs, 1):
                if job.env == spec:
                    cells.append(attempt(beside, job, data))
                    cells[-1].save(new.folder / CELLS)
                    new.publish()
                    run.say(f"[{number}/{len(run.suite.jobs)}] {tell(cells[-1])}")
        if line := new.finish():
            run.say(line)
    return cells


def alone(run: Run, make: Callable[[Run], list[R]]) -> list[R]:
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


def obtain(run: Run, spec: EnvSpec) -> Data | Exception:
    """The data of an environment, or why there is none; a user's mistake ends a suite that has no other environment."""
    data = attempted(lambda: dataset_of(run, spec))
    if isinstance(data, (NotRun, UserError)) and len(run.suite.envs) == 1:
        raise data
    return data


def attempt(run: Run, job: Job, data: Data | Exception) -> CellRecord:
    """The record of a job, whatever happens to it."""
    cell = data if isinstance(data, Exception) else attempted(lambda: run_job(run, job, *data))
    return failure(run, job, cell) if isinstance(cell, Exception) else cell


def failure(run: Run, job: Job, error: Exception) -> CellRecord:
    """The record of a job that raised ``error``."""
    kind = agent_kind(job.agent)
    if isinstance(error, NotRun):
        return CellRecord(**base(run, job, "not run"), reason=str(error), kind=kind)
    if isinstance(error, (TrainingFailed, UserError)):
        return CellRecord(**base(run, job, "failed"), reason=str(error), kind=kind)
    cell = CellRecord(**base(run, job, "failed"), kind=kind)
    name = cell.file_name.replace(".json", ".txt")
    return cell.model_copy(update={"reason": reason_with_details(error, run.out, name)})


def reason_with_details(error: Exception, out: Path, name: str) -> str:
    """What went wrong, in one line; the traceback of what nobody foresaw is kept as ``errors/NAME`` in the results."""
    if (line := machine_line(error)) is not None:
        return line
    keep_traceback(error, out / ERRORS / name)
    return f"{told(error)} (details: {ERRORS}/{name})"


def agent_kind(agent: str) -> str:
    """Where a cell without results stands in the tables."""
    try:
        return agent_family(agent).kind
    except (NotRun, PluginError, UserError):
        return "world model"


def outcome(cell: CellRecord) -> str:
    """One line about a finished cell."""
    name = " ".join(filter(None, (cell.env.split("/")[-1], cell.agent, f"seed {cell.seed}", stratum_of(cell.protocol))))
    if cell.status != "done":
        return f"{name}: {cell.status}: {cell.reason}"
    parts = []
    for offset in cell.offsets:
        rows = [r for r in cell.episodes if r.goal_offset == offset.goal_offset]
        hit, held = (100 * np.mean([getattr(r, k) for r in rows]) for k in ("hit", "held"))
        parts.append(f"offset {offset.goal_offset} hit {hit:.0f} % held {held:.0f} % (n {len(rows)})")
    return f"{name}: {', '.join(parts)}, plan {np.median(cell.offsets[0].plan_seconds):.3g} s"
