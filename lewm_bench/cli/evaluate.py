"""The verb that evaluates one agent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import (
    CacheOption,
    Choices,
    ConfigOption,
    DataOption,
    DeviceOption,
    FreshOption,
    PlannerOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SolverOption,
    SuiteOption,
    one_agent,
)


def evaluate(
    agent: Annotated[str, typer.Argument(help="An agent (`lewm-bench list agents`).")],
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A folder of `lewm-bench train --out`, or hf:OWNER/NAME; else the cache's."),
    ] = None,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    planner: PlannerOption = "",
    solver: SolverOption = "",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also write a report into this folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Evaluate one agent on one environment, training it first if there is no checkpoint.

    Example: lewm-bench evaluate lewm --seed 1 --set evaluate.num_pairs=20
    """
    from lewm_bench.report.tables.terminal import terminal
    from lewm_bench.report.write import write_report
    from lewm_bench.run.checkpoints import checkpoint_folder
    from lewm_bench.run.results_folder import claimed
    from lewm_bench.run.runner import publish_together, run_job
    from lewm_bench.run.stages import check_use, dataset_of
    from lewm_bench.system.checkpoint import load_card
    from lewm_bench.system.scratch import scratch_folder
    from lewm_bench.system.store import Store, default_cache

    agent = one_agent(agent)
    if checkpoint is not None:
        checkpoint = checkpoint_folder(checkpoint, env, Store(cache or default_cache()))
        load_card(checkpoint)
    it = Choices.of(locals(), agents=agent, seeds=str(seed), envs=env).run()
    jobs = it.suite.jobs  # one, or one for each stratum of its protocol
    if checkpoint is not None:
        check_use(it, jobs[0], checkpoint)  # what is wrong is found out before data are collected
    with scratch_folder() as scratch, claimed(*([] if out is None else [out])):
        it = dataclasses.replace(it, out=out or scratch)
        cells = publish_together(
            it, lambda run: [run_job(run, j, *dataset_of(run, j.env), checkpoint=checkpoint) for j in jobs]
        )
        summary = write_report(cells, it.out, f"{agent} on {jobs[0].env.label}")
        typer.echo(terminal(summary))
    if out is not None:
        typer.echo(f"report: {out / 'report.html'}")
