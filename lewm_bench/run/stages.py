"""The stages of a job (data, policy, agent, pairs, episodes), each cached by what determines it (``run.keys``)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from lewm_bench.agent import Family, Loaded, Setting, learning, load_agent
from lewm_bench.core.env import GoalEnv, require_spaces
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.names import stratum_of
from lewm_bench.core.reading import parse_json
from lewm_bench.data.check import require_sound
from lewm_bench.data.collect import LEARNED, CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.data.sac_exploration import CARD, train_sac_policy
from lewm_bench.evaluation import strata, task_sorting
from lewm_bench.evaluation.episodes import PairResult, distance_rank_correlation, evaluate, latent_oracle
from lewm_bench.evaluation.flops import flops_per_step
from lewm_bench.evaluation.protocol import PROTOCOLS, Pairs, Protocol, nearest, sample_pairs
from lewm_bench.run.bases import with_base, with_trained_base
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.budget import within_seconds
from lewm_bench.run.checkpoints import TRAINING, Use, as_trained, check_card, origin_note, training_of
from lewm_bench.run.environments import make_env
from lewm_bench.run.given_data import given_spec, require_made_by
from lewm_bench.run.kept import keep_checkpoints
from lewm_bench.run.keys import (
    DATA_SEED,
    dataset_spec,
    evaluation_spec,
    latent_oracle_pairs,
    longest_of,
    model_spec,
    pairs_spec,
    policy_spec,
    tasks_spec,
)
from lewm_bench.run.registry import agent_family
from lewm_bench.run.reproduction import disagreement
from lewm_bench.run.resolve import Job, Suite, shares_budget
from lewm_bench.system import status
from lewm_bench.system.device import threads
from lewm_bench.system.files import write_text
from lewm_bench.system.phases import phase
from lewm_bench.system.provenance import commit, hardware, versions
from lewm_bench.system.store import Store, stage_key
from lewm_bench.train.keeping import NOTHING_KEPT, Keeping
from lewm_bench.train.logs import NOWHERE, LogTo
from lewm_bench.train.loop import TrainingLog, raise_if_collapsed, raise_if_mean_action

logger = logging.getLogger(__name__)

BESIDE = "beside"  # of a training's hardware: other trainings at the same time
SHARED = "shared"  # of an evaluation's hardware: what else ran on the device while plans were timed
RANKS = "ranks"  # of a training's hardware: processes that made it together
EPISODES, MEASURES = "episodes.jsonl", "extras.json"  # of an evaluation's folder
SORTED = "sorted.json"  # of a folder of pairs


Data = tuple[GoalEnv, Dataset, str]
"""An environment, its dataset and the dataset's key."""


Trained = tuple[TrainingLog, dict[str, str]]
"""The log of a training, and what it was made on."""


@dataclass(frozen=True)
class Sharing:
    """How many processes train side by side, and the threads that each of their trainings has; None: all there are."""

    processes: int = 1
    threads: int | None = None


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
    trainings: int = 1  # made side by side at most (run.ahead); more than 1 needs such a main module too
    sharing: Sharing = Sharing()  # among the trainings of the environment that is at work
    beside: str = ""  # what else runs on the device while plans are timed; empty: nothing
    data: Path | None = None  # a dataset that takes the place of a collected one (run.given_data)
    log_to: LogTo = NOWHERE  # the loggers that follow trainings


def dataset_of(run: Run, spec: EnvSpec) -> tuple[GoalEnv, Dataset, str]:
    """The environment, its dataset (collected if it is not in the cache) and the dataset's key."""
    settings = run.suite.of(spec).settings
    env = make_env(spec.id, settings.image_size, spec.kwargs, spec.adapt)
    require_spaces(env, spec.label)
    if run.data is not None:
        return given_data(run.data, spec, env)
    config = settings.collect.of(env)
    key = dataset_spec(spec, env, config)

    def tell(line: str) -> None:
        run.say(f"{spec.label}: {line}")

    def build(work: Path) -> None:
        if env.spec is None or env.spec.namespace != "lewm_bench":  # ours are held to their promises by tests
            require_sound(env, spec.label)
        learned = policy_of(run, env, config, key) if LEARNED in config.policies else None
        begin, resumed = time.perf_counter(), any(work.iterdir())
        with phase("collecting"), status.doing(run.store.root, f"collect {spec.label}"):
            found = collect(env, config, DATA_SEED, work, run.progress, run.workers, learned, tell)
        frames = len(found.frames)
        seconds = time.perf_counter() - begin
        rate = "" if resumed else f" in {seconds:.1f} s, {frames / seconds:.0f} per second"
        run.say(f"{spec.label}: {frames} frames collected{rate}")
        built.append(work)

    built: list[Path] = []
    dataset = Dataset.open(run.store.stage("dataset", key, build))
    with phase("checking data"):
        problem = disagreement(env, dataset)
    if problem:
        again = f"`lewm-bench check {spec.id}` says why" if built else "collect again with --fresh collect"
        raise UserError(f"{spec.label} does not do again what its data in {dataset.folder} hold: {problem}; {again}")
    return env, dataset, stage_key("dataset", key)


def given_data(folder: Path, spec: EnvSpec, env: GoalEnv) -> Data:
    """An environment, the dataset that the user gives for it, and its key.

    Raises:
        UserError: it was changed, is of another environment, or not what the simulator does.
    """
    dataset = Dataset.open(folder)
    require_made_by(env, dataset)
    if problem := disagreement(env, dataset):
        raise UserError(
            f"{spec.label} does not do again what the data in {folder} hold: {problem}; import or record them again"
        )
    return env, dataset, stage_key("dataset", given_spec(spec, env, dataset))


def policy_of(run: Run, env: GoalEnv, config: CollectConfig, dataset: dict[str, Any]) -> Path:
    """The folder of the policy that is trained before it collects, from the cache if it is there."""

    def build(work: Path) -> None:
        if not (work / CARD).is_file():  # else it was trained, and its stage could not be completed
            with status.doing(run.store.root, "train the policy sac, which collects"):
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
        log_to=run.log_to,
    )
    family = agent_family(job.agent)

    def other(agent: str) -> Setting:
        return setting_of(run, job.model_copy(update={"agent": agent}), env, dataset, dataset_key)

    setting = with_base(setting, family, other)
    seconds = run.suite.of(job.env).settings.training.seconds
    if seconds is None or not shares_budget(job.agent):
        return in_steps(setting)
    family.requirements(setting)
    return within_seconds(setting, family, seconds, model_spec(setting, family))


def in_steps(setting: Setting) -> Setting:
    """The setting with the steps that its passes over the data take, if its training is given in passes."""
    train = setting.config.train
    if train.epochs is None:
        return setting
    train = train.on(agent_family(setting.agent).training_clips(learning(setting)))
    return replace(setting, config=setting.config.model_copy(update={"train": train}))


def checkpoint_of(
    setting: Setting,
    family: Family,
    say: Callable[[str], None] = logger.info,
    beside: int = 0,
    train: Callable[[Path], Trained] | None = None,
    number: int = 0,
) -> Path | None:
    """The checkpoint folder of a job, trained if it is not in the cache; None for agents that do not train.

    ``say`` is told how long a training took and which share of that went by in waiting for data; ``beside`` are the other
    trainings that run at the same time. ``train`` is another way to train in a folder than this process alone, which keeps
    no checkpoints; else ``number`` are kept of the training, with the last (``run.kept``).

    Raises:
        TrainingFailed: it did not learn anything usable.
    """
    if not family.trainable:
        return None

    task = f"train {setting.agent}, seed {setting.seed}, {setting.env_id}"

    def trained(keeping: Keeping, work: Path) -> Trained:
        with phase("training: other"), status.doing(setting.store.root, task):
            return train_here(replace(setting, keeping=keeping), family, work) if train is None else train(work)

    def build(work: Path, keeping: Keeping = NOTHING_KEPT) -> None:
        log, where = trained(keeping, work)
        where |= {BESIDE: str(beside)} if beside else {}
        record = {"columns": log.columns, "seconds": log.seconds, "waited": log.waited, "hardware": where}
        if setting.base is not None:
            whole = training_of(setting.base.folder).get("seconds")
            record["base"] = {"told": setting.base.told, "seconds": whole}
        write_text(work / TRAINING, json.dumps(record))
        others = f", threads: {where['threads']}, others at the same time: {beside}" if beside else ""
        say(f"{setting.env_id}: {setting.agent}, seed {setting.seed}, {trained_in(log)}{others}")

    setting = with_trained_base(setting, lambda own, base: checkpoint_of(own, base, say, beside))
    spec = model_spec(setting, family)
    if number and family.keeps and train is None:

        def whole(keeping: Keeping) -> Path:
            return setting.store.stage("model", spec, lambda work: build(work, keeping))

        def again(keeping: Keeping, work: Path) -> None:
            with status.doing(setting.store.root, f"{task}, again for its checkpoints"):
                train_here(replace(setting, keeping=keeping, log_to=NOWHERE), family, work)

        keep_checkpoints(setting, family, number, whole, again, say)
    folder = setting.store.stage("model", spec, build)
    if setting.config.train.on_collapse == "fail":
        # The weights may be those of a training that was told to go on.
        columns = training_of(folder)["columns"]
        raise_if_collapsed(columns)
        raise_if_mean_action(columns)
    return folder


def train_here(setting: Setting, family: Family, work: Path) -> Trained:
    """Train in this process, which may be one of several."""
    ranks = setting.ranks.count
    log, where = family.train(learning(setting), work), hardware(setting.device)
    return log, where | ({RANKS: str(ranks)} if ranks > 1 else {})


def trained_in(log: TrainingLog) -> str:
    """How long a training took, in words; agents that make their data while they learn wait for none."""
    waiting = f", {100 * log.waited / log.seconds:.1f} % of it waiting for data" if log.waited else ""
    return f"trained in {log.seconds:.1f} s{waiting}"


def pairs_of(run: Run, job: Job, setting: Setting, offset: int) -> tuple[Dataset, Pairs]:
    """The pairs of a job at one goal offset, and the dataset whose rows they are, with its tasks if they are none of it.

    Those of a stratum from the cache, if they have been sorted before.

    Raises:
        UserError: the data cannot give so many; of a stratum there may be fewer, or none.
    """
    config, rules = run.suite.of(job.env).settings.evaluate, PROTOCOLS[job.protocol]
    if rules.stratum is None:
        pairs = sample_pairs(setting.dataset, setting.env, rules, job.num_pairs, offset, config.split)
        return setting.dataset, pairs
    if rules.from_tasks:
        return tasks_of(run, job, setting, offset, config.split, rules.stratum, job.num_pairs)
    budget, longest = config.budget or rules.budget(offset), longest_of(rules, config)
    spec = pairs_spec(run.suite, job, setting, offset)

    def build(work: Path) -> None:
        task = f"sort pairs, {offset} steps ahead, {setting.env_id}"
        with phase("sorting pairs"), status.doing(run.store.root, task):
            found = strata.sort_pairs(
                setting, rules, config.num_pairs, config.candidates, offset, config.split, budget, run.progress, longest
            )
        write_text(work / SORTED, found.model_dump_json())

    folder = setting.store.stage("pairs", spec, build, read_sorted)
    return setting.dataset, strata.choose(read_sorted(folder), rules.stratum, job.num_pairs, offset)


def tasks_of(
    run: Run, job: Job, setting: Setting, offset: int, split: str, stratum: str | None, num_tasks: int
) -> tuple[Dataset, Pairs]:
    """The first tasks of a stratum, or of all, at one distance, and a dataset that has them; there may be fewer, or none."""
    config, rules = run.suite.of(job.env).settings.evaluate, PROTOCOLS[job.protocol]
    sorter = task_sorting.Sorter(setting, rules, offset, split, config.budget or rules.budget(offset))

    def build(work: Path) -> None:
        task = f"sort tasks, {offset} steps away, {setting.env_id}"
        with phase("sorting pairs"), status.doing(run.store.root, task):
            found = task_sorting.sort_tasks(sorter, config.num_pairs, config.candidates, run.progress)
        write_text(work / SORTED, found.model_dump_json())

    folder = setting.store.stage("pairs", tasks_spec(run.suite, job, setting, offset, split), build, read_tasks)
    return task_sorting.task_pairs(setting.dataset, setting.env, read_tasks(folder), stratum, num_tasks)


def read_tasks(folder: Path) -> task_sorting.SortedTasks:
    """The tasks of a finished sorting; raises a ValueError where they cannot be read."""
    return task_sorting.SortedTasks.model_validate_json((folder / SORTED).read_text(encoding="utf-8"))


def read_sorted(folder: Path) -> strata.Sorted:
    """The candidates of a finished sorting.

    Raises:
        ValueError: they cannot be read.
    """
    return strata.Sorted.model_validate_json((folder / SORTED).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Measured:
    """One evaluated goal offset."""

    dataset: Dataset  # whose rows the pairs are
    pairs: Pairs
    results: tuple[PairResult, ...]
    measures: dict[str, Any]
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
        run_episodes(run, job, setting, agent, rules, offset, pairs, work / EPISODES)
        with phase("measuring latents"):
            found = measures_of(run, job, setting, agent, pairs, budget, offset)
        write_text(work / MEASURES, json.dumps(found, allow_nan=False))

    folder = run.store.stage("evaluation", spec, build, lambda folder: read_evaluation(folder, len(pairs)))
    return Measured(setting.dataset, pairs, *read_evaluation(folder, len(pairs)), stage_key("evaluation", spec))


def run_episodes(
    run: Run,
    job: Job,
    setting: Setting,
    agent: Loaded,
    rules: Protocol,
    offset: int,
    pairs: Pairs,
    rows: Path,
    told: str = "",
) -> None:
    """Write the results of all pairs into ``rows``, going on behind those that are there; ``told`` says of which agent."""
    config = run.suite.of(job.env).settings.evaluate
    done = finished_rows(rows, len(pairs))
    # Rewritten, so that a line torn by a kill is gone before the next one is appended.
    write_text(rows, "".join(r.model_dump_json() + "\n" for r in done))
    todo = evaluate(
        agent.agent,
        setting,
        pairs,
        config.budget or rules.budget(offset),
        goal_offset=offset,
        real_history=rules.real_history,
        batch=config.batch,
        skip=[r.pair for r in done],
    )
    name = f"evaluate {setting.agent}{told} offset {offset}"
    task = f"evaluate {setting.agent}{told}, seed {setting.seed}, {offset} steps ahead, {setting.env_id}"
    with phase("evaluating: other"), status.doing(run.store.root, task), rows.open("a", encoding="utf-8") as file:
        bar = tqdm(todo, name, len(pairs), initial=len(done), disable=not run.progress, leave=False)
        status.at(len(done), len(pairs))
        for number, result in enumerate(bar, len(done) + 1):
            file.write(result.model_dump_json() + "\n")
            file.flush()
            status.at(number, len(pairs))


def read_evaluation(folder: Path, count: int) -> tuple[tuple[PairResult, ...], dict[str, Any]]:
    """The results of ``count`` pairs, in order, and the other measures of a finished evaluation.

    Raises:
        ValueError: they are not all there, or a number is not finite.
    """
    return read_episodes(folder, count), parse_json((folder / MEASURES).read_text(encoding="utf-8"))


def read_episodes(folder: Path, count: int) -> tuple[PairResult, ...]:
    """The results of ``count`` pairs, in order; raises a ValueError where they are not all there."""
    lines = (folder / EPISODES).read_text(encoding="utf-8").splitlines()
    results = sorted((PairResult.model_validate_json(line) for line in lines), key=lambda r: r.pair)
    if [r.pair for r in results] != list(range(count)):
        raise ValueError(f"{EPISODES} has {len(results)} results of {count} pairs")
    return tuple(results)


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


def measures_of(
    run: Run, job: Job, setting: Setting, loaded: Loaded, pairs: Pairs, budget: int, offset: int
) -> dict[str, Any]:
    """What is measured once per cell and offset beside the episodes, and where.

    Which measures there are is no part of the evaluation's key: one that an older evaluation lacks reads as None.
    """
    config = run.suite.of(job.env).settings.evaluate
    count = latent_oracle_pairs(run.suite, job, offset)
    values: dict[str, Any] = {"latent_oracle_pairs": 0, "latent_oracle_hit": None, "rank_correlation": None}
    if loaded.model is not None:
        values["rank_correlation"] = distance_rank_correlation(loaded, setting, config.split, config.correlation_frames)
        if count:
            values["latent_oracle_pairs"] = count
            values["latent_oracle_hit"] = latent_oracle(loaded, setting, pairs, budget, offset, count)
    values["flops_per_step"] = None
    if may_compute(job, loaded):
        history = PROTOCOLS[job.protocol].real_history
        values["flops_per_step"] = flops_per_step(loaded.agent, setting, pairs, budget, real_history=history)
    return values | {
        "label": loaded.label,
        "weights": loaded.weights,
        "parameters": loaded.parameters,
        "tokens_per_frame": loaded.tokens_per_frame,
        "note": loaded.note,
        **provenance_of(run),
    }


def may_compute(job: Job, loaded: Loaded) -> bool:
    """Whether planning may have operations to count: not of a floor or a search on the simulator, which may take minutes."""
    return loaded.parameters is not None or agent_family(job.agent).kind not in ("privileged", "floor")


def provenance_of(run: Run) -> dict[str, Any]:
    """Where and when something is measured."""
    return {
        "versions": versions(),
        "hardware": hardware(run.device) | ({SHARED: run.beside} if run.beside else {}),
        "commit": commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def check_use(run: Run, job: Job, checkpoint: Path) -> None:
    """Refuse a ``checkpoint`` folder that is not for a job before data are collected for it; raises a UserError."""
    settings = run.suite.of(job.env)
    env = make_env(job.env.id, settings.settings.image_size, job.env.kwargs, job.env.adapt)
    check_card(checkpoint, Use(env, job.env.label, job.agent, settings.agent_config(job.agent), job.seed))


class PreparedAgent(NamedTuple):
    """The agent of a cell before it is loaded."""

    family: Family
    setting: Setting
    folder: Path | None  # its checkpoint; None for agents that do not train


def prepare_agent(
    run: Run, job: Job, data: Data, checkpoint: Path | None = None, beside: int = 0, number: int = 0
) -> PreparedAgent:
    """The agent of a cell, trained if it is not in the cache, or that of a ``checkpoint`` folder from elsewhere.

    ``beside`` are the other trainings that run at the same time, ``number`` the checkpoints that are kept of its own.

    Raises:
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
        UserError: the checkpoint is of another agent, configuration or seed.
    """
    family = agent_family(job.agent)
    setting = setting_of(run, job, *data)
    family.requirements(setting)
    if checkpoint is None:
        with threads(run.sharing.threads):
            return PreparedAgent(family, setting, checkpoint_of(setting, family, run.say, beside, number=number))
    check_card(checkpoint, setting)
    training_of(checkpoint)  # a damaged one is found out before anything is evaluated
    return PreparedAgent(family, as_trained(checkpoint, setting), checkpoint)


def measure_job(
    run: Run, job: Job, data: Data, checkpoint: Path | None = None, number: int = 0
) -> tuple[PreparedAgent, dict[int, Measured]]:
    """A cell's agent, trained if it is not in the cache, and its episodes by goal offset; raises what ``run_job`` does.

    ``number`` checkpoints are kept of its training.
    """
    agent = prepare_agent(run, job, data, checkpoint, number=number)
    loaded = cache(lambda: load_noted(*agent))
    found = {offset: pairs_of(run, job, agent.setting, offset) for offset in job.goal_offset}
    nonempty = {offset: (dataset, pairs) for offset, (dataset, pairs) in found.items() if len(pairs)}
    if not nonempty:
        raise NotRun(no_pairs(run, job))
    return agent, {
        offset: measure(run, job, replace(agent.setting, dataset=dataset), agent.family, loaded, offset, pairs)
        for offset, (dataset, pairs) in nonempty.items()
    }


def load_noted(family: Family, setting: Setting, folder: Path | None) -> Loaded:
    """The agent, with whose weights it has if they are somebody else's."""
    with phase("loading"):
        loaded = load_agent(family, setting, folder)
    return replace(loaded, note="; ".join(filter(None, [loaded.note, origin_note(folder)])))


def no_pairs(run: Run, job: Job) -> str:
    """That a job has no pairs, and what to ask for, in words."""
    config = run.suite.of(job.env).settings.evaluate
    offsets = " or ".join(map(str, job.goal_offset))
    if PROTOCOLS[job.protocol].from_tasks:
        ranges = " or ".join(f"{nearest(offset)} to {offset}" for offset in job.goal_offset)
        return (
            f"none of the first {config.candidates} tasks of {job.env.label} takes the oracle {ranges} steps and is "
            f"{stratum_of(job.protocol)}; ask for another evaluate.goal_offset or more evaluate.candidates"
        )
    return (
        f"none of {config.candidates} candidates {offsets} steps ahead in {job.env.label} is {stratum_of(job.protocol)}; "
        "ask for a larger evaluate.goal_offset or more evaluate.candidates"
    )
