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
    LogOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SuiteOption,
    one_agent,
)


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
    log: LogOption = "",
    quiet: QuietOption = False,
) -> None:
    """Train one agent on one environment and print its checkpoint folder (safetensors and JSON).

    Example: lewm-bench train lewm --env lewm_bench/PointMaze-UMaze-v0 --seed 1 --out my-lewm
    """
    from lewm_bench.api.training import trainable, trained
    from lewm_bench.system.store import default_cache

    agent = one_agent(agent)
    family = trainable(agent)
    logs = (default_cache() if cache is None else cache) / "logs" if out is None else out.parent / "logs"
    it = Choices.of(locals(), agents=agent, seeds=str(seed), envs=env, out=None).run()
    typer.echo(str(trained(it, family, out)))
