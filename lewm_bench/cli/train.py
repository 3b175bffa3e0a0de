"""The verb that trains one agent."""

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
    FreshOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SuiteOption,
    one_agent,
)
from lewm_bench.core.errors import UserError


def train(
    agent: Annotated[str, typer.Argument(help="An agent (`lewm-bench list agents`).")],
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also copy the checkpoint into this folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train one agent on one environment and print its checkpoint folder (safetensors and JSON).

    Example: lewm-bench train lewm --env lewm_bench/PointMaze-UMaze-v0 --seed 1 --out my-lewm
    """
    from lewm_bench.agent import Setting
    from lewm_bench.run.during import number_of
    from lewm_bench.run.registry import agent_family
    from lewm_bench.run.results_folder import claimed
    from lewm_bench.run.stages import checkpoint_of, dataset_of, setting_of
    from lewm_bench.system.files import copy_folder

    agent = one_agent(agent)
    family = agent_family(agent)
    if not family.trainable:
        raise UserError(f"{agent} does not train; evaluate it right away: lewm-bench evaluate {agent}")
    it = Choices.of(locals(), agents=agent, seeds=str(seed), envs=env, out=None).run()
    job = it.suite.jobs[0]
    with claimed(*([] if out is None else [out])):
        setting: Setting = setting_of(it, job, *dataset_of(it, job.env))
        family.requirements(setting)
        folder = checkpoint_of(setting, family, it.say, number=number_of(it, job))
        if out is not None:
            copy_folder(folder, out)
    typer.echo(str(out or folder))
