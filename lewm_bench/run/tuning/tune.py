"""Find an agent's hyper-parameters with validation episodes; the test episodes are never looked at.

A trial is an agent whose name carries the values (``lewm:sigreg_weight=0.0123``), trained, evaluated and cached like any
other cell. So tuning that was interrupted goes on with the trials that are missing, and the
same command gives the same table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from lewm_bench.core.errors import TrainingFailed, UserError, unknown
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension, bisect, random_point
from lewm_bench.evaluation.protocol import CLEAN_1, PROTOCOLS, sample_pairs
from lewm_bench.run.cells import card_of_agent
from lewm_bench.run.checkpoints import training_of
from lewm_bench.run.keys import failure_spec, model_spec
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Job, parse_overrides
from lewm_bench.run.results_folder import claimed
from lewm_bench.run.stages import Data, Run, dataset_of, measure_job, setting_of
from lewm_bench.run.tuning.trials import SPLIT, Fresh, Trial, Tuning, agent_with, search_points
from lewm_bench.system import status
from lewm_bench.system.filenames import agents_stem
from lewm_bench.system.files import write_text
from lewm_bench.system.provenance import commit, hardware, versions
from lewm_bench.system.store import read_result, stage_key

SEARCHES = ("auto", "bisection", "random")
FAILURE = "failure"  # kind of a cache entry
FAILURE_FILE = "failure.json"


def validation_only(overrides: Sequence[str]) -> list[str]:
    """The command line's settings for tuning: validation pairs, and no latent oracle, which decides nothing here.

    Pairs of all kinds together, whatever the suite asks, since one score decides.

    Raises:
        UserError: they ask for other episodes.
    """
    asked = parse_overrides(overrides).get("evaluate", {})
    if not isinstance(asked, dict):
        return list(overrides)  # a mistake that is about to be named
    check_split(asked.get("split", SPLIT))
    unsorted = [] if "protocol" in asked else [f"evaluate.protocol={CLEAN_1.id}"]
    return [*overrides, *unsorted, f"evaluate.split={SPLIT}", "evaluate.latent_oracle_pairs=0"]


def check_split(split: str) -> None:
    """Raise a UserError for anything but validation episodes."""
    if split != SPLIT:
        raise UserError(
            f"tuning looks at validation episodes only, got evaluate.split={split}; leave it out, and evaluate what "
            "tuning finds with `lewm-bench evaluate`"
        )


def space_of(agent: str) -> tuple[Dimension, ...]:
    """What there is to tune.

    Raises:
        UserError: nothing.
    """
    space = agent_family(agent).search_space
    if not space:
        raise UserError(f"{agent} has nothing to tune: its family has no search_space")
    return space


def search_of(agent: str, wanted: str) -> str:
    """``bisection`` or ``random``; ``auto`` is bisection where there is one dimension.

    Raises:
        UserError: no such search, or bisection of several dimensions.
    """
    if wanted not in SEARCHES:
        raise unknown("search", wanted, SEARCHES)
    count = len(space_of(agent))
    if wanted == "bisection" and count > 1:
        raise UserError(f"bisection needs one dimension, {agent} has {count}; use --search random")
    return wanted if wanted != "auto" else "bisection" if count == 1 else "random"


def jobs_of(run: Run, agents: Sequence[str]) -> list[Job]:
    """The job of each agent in the run's first environment, all with the same pairs.

    Raises:
        UserError: the suite leaves an agent out or give it other pairs, or test episodes would be seen.
    """
    spec = run.suite.envs[0]
    config = run.suite.of(spec).settings.evaluate
    check_split(config.split)
    whole = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.held_out and not protocol.stratum)
    if not all(rules.held_out for rules in config.rules):
        raise UserError(
            f"protocol {config.protocol} draws pairs from episodes that were trained on, which tell nothing about others; tune with {whole}"
        )
    if any(rules.stratum for rules in config.rules):
        raise UserError(f"protocol {config.protocol} has no single score to tune for; tune with {whole}")
    found = {job.agent: job for job in run.suite.jobs if job.env == spec}
    if missing := [agent for agent in agents if agent not in found]:
        raise UserError(f"the suite lists nothing to run of {missing[0]}; --set evaluate.goal_offset=[25]")
    jobs = [found[agent] for agent in agents]
    for job in jobs[1:]:
        if (job.goal_offset, job.num_pairs) != (jobs[0].goal_offset, jobs[0].num_pairs):
            raise UserError(
                f"the suite gives {jobs[0].agent} and {job.agent} different pairs; make them equal with "
                "--set evaluate.goal_offset=[25] and --set evaluate.num_pairs=50"
            )
    return jobs


def tune(run: Run, agents: Sequence[str], trials: int, search: str = "auto") -> Iterator[Tuning]:
    """Tune each agent with the same number of trials, in the run's first environment; one after the other.

    Args:
        run: resolved with ``validation_only`` settings.

    Raises:
        UserError: something cannot be tuned like this; found out before anything is trained.
        NotRun: an agent cannot run here.
    """
    searches = {agent: search_of(agent, search) for agent in agents}
    jobs = jobs_of(run, agents)
    for job in jobs:
        default_values(run, job)
    folders = [run.out / agents_stem([job.agent], job.env.label) for job in jobs]
    with claimed(*folders):  # before hours of training, not after
        data = dataset_of(run, jobs[0].env)
        check_pairs(run, jobs[0], data)
        check_requirements(run, jobs, data)
        for job in jobs:
            yield tune_agent(run, job, data, trials, searches[job.agent])


def check_pairs(run: Run, job: Job, data: Data) -> None:
    """Raise a UserError if the validation episodes do not have twice as many pairs as asked for: half of them are fresh."""
    env, dataset, _ = data
    (rules,) = run.suite.of(job.env).settings.evaluate.rules
    for offset in job.goal_offset:
        try:
            sample_pairs(dataset, env, rules, 2 * job.num_pairs, offset, SPLIT)
        except UserError as error:
            raise UserError(
                f"tuning needs twice evaluate.num_pairs ({job.num_pairs}), so that pairs that chose nothing compare the best "
                f"trial with the default: {error}"
            )


def check_requirements(run: Run, jobs: Sequence[Job], data: Data) -> None:
    """Raise a NotRun for the first agent that cannot run here, lest it ends a tuning that has gone on for hours."""
    for job in jobs:
        with suppress(TrainingFailed):  # of the training that measures the pace: a failed trial, not the end
            agent_family(job.agent).requirements(setting_of(run, job, *data))


def tune_agent(run: Run, job: Job, data: Data, count: int, search: str) -> Tuning:
    """The trials of one agent: first as it is configured, then what the search names."""
    dimensions, done = space_of(job.agent), []
    bar = tqdm(total=count, desc=f"tune {job.agent}", unit="trial", disable=not run.progress)
    with bar, status.doing(run.store.root, f"tune {job.agent}, {job.env.label}"):
        while len(done) < count and (values := next_values(run, job, done, search)) is not None:
            name = agent_with(job.agent, dimensions, values) if done else job.agent
            trial = Trial(trial=len(done), agent=name, values=values)
            done.append(attempt(run, job.model_copy(update={"agent": name}), data, trial))
            bar.update()
            status.at(len(done), count)
            run.say(f"[{len(done)}/{count}] {outcome(done[-1])}")
    env, dataset, _ = data
    resolved = run.suite.of(job.env)
    tuning = Tuning(
        agent=job.agent,
        card=card_of_agent(job.agent),
        env=job.env.label,
        unit=env.distance_unit,
        suite=run.suite.name,
        profile=run.suite.profile,
        protocol=resolved.settings.evaluate.protocol,
        seed=job.seed,
        search=search,
        dimensions=dimensions,
        goal_offset=job.goal_offset,
        num_pairs=job.num_pairs,
        trials=tuple(done),
        dataset=dataset.fingerprint,
        settings=resolved.settings.model_dump(mode="json"),
        config=resolved.agent_config(job.agent).model_dump(mode="json"),
        versions=versions(),
        hardware=hardware(run.device),
        commit=commit(),
    )
    return tuning.model_copy(update={"fresh": on_fresh_pairs(run, job, data, tuning)})


def on_fresh_pairs(run: Run, job: Job, data: Data, tuning: Tuning) -> Fresh | None:
    """The best trial and the default on as many pairs more as chose them; None where there is nothing to compare.

    The first pairs of a larger evaluation are those of a smaller one, so what is behind them is new.
    """
    best, default = tuning.best, tuning.default
    if best is None or best.trial == default.trial or default.status != "done":
        return None
    found = {}
    for name, trial in (("best", best), ("default", default)):
        more = job.model_copy(update={"agent": trial.agent, "num_pairs": 2 * job.num_pairs})
        offsets = measure_job(run, more, data)[1].values()
        found[name] = tuple(tuple(r.held for r in offset.results[job.num_pairs :]) for offset in offsets)
    return Fresh(**found)


def next_values(run: Run, job: Job, done: Sequence[Trial], search: str) -> tuple[float, ...] | None:
    """The values of the next trial; None if bisection has nothing left between neighbours."""
    dimensions = space_of(job.agent)
    if not done:
        return default_values(run, job)
    if search == "random":
        return random_point(dimensions, stream(job.seed, "tune", parse_agent(job.agent).trained, len(done)))
    value = bisect(dimensions[0], search_points(done, dimensions))
    return None if value is None else (value,)


def default_values(run: Run, job: Job) -> tuple[float, ...]:
    """What the agent is configured with, one value per dimension.

    Raises:
        UserError: the family's search space names what is not a number among its settings.
    """
    config = run.suite.of(job.env).agent_config(job.agent).model_dump()
    return tuple(value_at(job.agent, config, dimension.path) for dimension in space_of(job.agent))


def value_at(agent: str, config: dict[str, Any], path: str) -> float:
    """The number at a dotted path."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        raise UserError(f"the search_space of {agent} names {path}, which is {value!r} and not a number")
    return float(value)


def attempt(run: Run, job: Job, data: Data, trial: Trial) -> Trial:
    """``trial`` with what came of it.

    A training that failed would fail again, so that is kept in the cache like the weights of one that succeeded.
    """
    spec = failure_spec(run.suite, job, agent_family(job.agent), data[2], run.device.type)
    if (known := run.store.find(FAILURE, spec)) is not None:
        return trial.model_copy(update=read_result(known, FAILURE_FILE))
    begin = time.perf_counter()
    try:
        return trial.model_copy(update=measured(run, job, data))
    except TrainingFailed as error:
        failure = {"status": "failed", "reason": str(error), "train_seconds": time.perf_counter() - begin}
    run.store.stage(FAILURE, spec, lambda work: write_text(work / FAILURE_FILE, json.dumps(failure)))
    return trial.model_copy(update=failure)


def measured(run: Run, job: Job, data: Data) -> dict[str, Any]:
    """The fields of a trial that was trained and evaluated, all but the report of a cell (records, videos).

    Raises:
        TrainingFailed: it did not learn anything usable.
        NotRun: it cannot run here.
    """
    (family, setting, folder), found = measure_job(run, job, data)
    offsets = list(found.values())
    return {
        "hit": tuple(tuple(r.hit for r in offset.results) for offset in offsets),
        "held": tuple(tuple(r.held for r in offset.results) for offset in offsets),
        "distances": tuple(tuple(r.distance_end for r in offset.results) for offset in offsets),
        "train_seconds": training_of(folder).get("seconds"),
        "key": stage_key("model", model_spec(setting, family)),
        "commit": offsets[0].measures["commit"],
    }


def outcome(trial: Trial) -> str:
    """One line about a finished trial."""
    if trial.status == "failed":
        return f"{trial.agent}: failed: {trial.reason}"
    value, low, high = (100 * v for v in trial.interval)
    return f"{trial.agent}: held {value:.1f} % [{low:.1f}, {high:.1f}], hit {100 * trial.hit_rate:.1f} %"
