"""Success while an agent trains: checkpoints on its way, sent on validation pairs by the engine that reports test pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lewm_bench.evaluation.protocol import PROTOCOLS, Pairs, Protocol, sample_pairs
from lewm_bench.run.keys import checkpoints_spec, during_spec
from lewm_bench.run.records import DuringRecord
from lewm_bench.run.resolve import Job
from lewm_bench.run.stages import EPISODES, PreparedAgent, Run, load_noted, read_episodes, run_episodes, tasks_of
from lewm_bench.train.keeping import Keeping, shares_of

SPLIT = "val"  # never test: whoever looks at these curves may choose by them


def number_of(run: Run, job: Job) -> int:
    """How many checkpoints of its training a cell evaluates."""
    return run.suite.of(job.env).settings.evaluate.during_training if run.suite.kind == "evaluate" else 0


def rules_of(protocol: str) -> Protocol:
    """The rules of these evaluations: those of the cell, on held-out episodes, or tasks, and without strata."""
    return PROTOCOLS[protocol].model_copy(update={"held_out": True, "keep_solved": False, "stratum": None})


def during_training(run: Run, job: Job, agent: PreparedAgent) -> tuple[DuringRecord, ...]:
    """Success after equal shares of the training, by goal offset; nothing for agents without such a training.

    Of a protocol with strata all cells have the same, since its pairs are of all strata.

    Raises:
        UserError: the data have too few validation pairs.
    """
    number = number_of(run, job)
    trained = agent.family.trainable and agent.family.keeps and agent.folder is not None
    if not number or not trained:
        return ()
    spec = checkpoints_spec(agent.setting, agent.family, number)
    if (kept := agent.setting.store.find("checkpoints", spec)) is None:
        return ()  # a checkpoint from elsewhere, whose training nobody saw
    return tuple(_measured(run, job, agent, kept, number))


def _measured(run: Run, job: Job, agent: PreparedAgent, kept: Path, number: int) -> Iterator[DuringRecord]:
    setting = agent.setting
    count, rules = run.suite.of(job.env).settings.evaluate.during_pairs, rules_of(job.protocol)
    steps = shares_of(setting.config.train.steps, number)
    for offset in job.goal_offset:
        if rules.from_tasks:
            dataset, pairs = tasks_of(run, job, setting, offset, SPLIT, None, count)
            if not len(pairs):
                continue
            asked = agent._replace(setting=replace(setting, dataset=dataset))
        else:
            asked, pairs = agent, sample_pairs(setting.dataset, setting.env, rules, count, offset, SPLIT)
        for done in steps:
            folder = agent.folder if done == steps[-1] else Keeping(steps, kept).of(done)
            yield _after(run, job, asked._replace(folder=folder), rules, offset, pairs, done)


def _after(
    run: Run, job: Job, agent: PreparedAgent, rules: Protocol, offset: int, pairs: Pairs, steps: int
) -> DuringRecord:
    """Success of one checkpoint, from the cache if it is there."""
    spec = during_spec(run.suite, job, agent.setting, agent.family, offset, rules, steps, SPLIT)

    def build(work: Path) -> None:
        loaded = load_noted(*agent)
        told = f" after {steps} steps"
        run_episodes(run, job, agent.setting, loaded, rules, offset, pairs, work / EPISODES, told)

    folder = run.store.stage("evaluation", spec, build, lambda folder: read_episodes(folder, len(pairs)))
    results = read_episodes(folder, len(pairs))
    return DuringRecord(
        steps=steps,
        goal_offset=offset,
        hit=tuple(result.hit for result in results),
        held=tuple(result.held for result in results),
    )
