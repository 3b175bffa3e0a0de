"""The verb that finds hyper-parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import (
    CacheOption,
    Choices,
    ConfigOption,
    DataOption,
    DeviceOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SuiteOption,
    agent_names,
)
from lewm_bench.core.errors import UserError


def tune(
    agents: Annotated[str, typer.Argument(help="An agent, or several with commas: each gets as many trials.")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trainings per agent; the first is the default.")] = 7,
    search: Annotated[str, typer.Option("--search", help="bisection, random, or auto: bisection of one value.")] = "auto",
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Holds AGENT-ENV folders; results/tune if left out.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Find an agent's hyper-parameters with validation episodes, and show the path. Kill it and run it again: it goes on.

    Example: lewm-bench tune lewm --suite pointmaze --trials 7
    """
    from lewm_bench.report.tuning import report, terminal
    from lewm_bench.run.benchmarks import ADDED
    from lewm_bench.run.tuning import tune as tuning

    if not agent_names(agents) or any(name.startswith(ADDED) for name in agent_names(agents)):
        raise UserError("name an agent to tune, or several with commas: lewm-bench tune lewm")
    chosen, place = tuning.validation_only(overrides or ()), out or Path("results/tune")
    it = Choices.of(locals(), seeds=str(seed), envs=env, overrides=chosen, out=place).run()
    done, folders = report(tuning.tune(it, agent_names(agents), trials, search), it.out)
    typer.echo(terminal(done))
    for folder in folders:
        typer.echo(f"results: {folder}")
    if any(each.best is None for each in done):
        raise typer.Exit(1)
