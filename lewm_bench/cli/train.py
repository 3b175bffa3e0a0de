"""The verb that trains one agent."""

from __future__ import annotations

from collections.abc import Callable
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
    TogetherOption,
    one_agent,
)
from lewm_bench.core.errors import TrainingFailed


def train(
    agent: Annotated[str, typer.Argument(help="An agent (`lewm-bench list agents`).")],
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    devices: TogetherOption = "",
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
    from lewm_bench.api.training import trainable, trained, training_devices
    from lewm_bench.run.together import trained_checkpoint
    from lewm_bench.system.store import default_cache
    from lewm_bench.train.ranks import here

    agent = one_agent(agent)
    trainable(agent)
    ranks = here()
    chosen = training_devices(device, devices, ranks.count)
    logs = (default_cache() if cache is None else cache) / "logs" if out is None else out.parent / "logs"
    options = locals() | {"device": str(chosen[0])}
    it = Choices.of(options, agents=agent, seeds=str(seed), envs=env, out=None, leads=ranks.leads).run()
    if not ranks.leads:
        return _take_part(lambda: trained_checkpoint(it, it.suite.jobs[0], chosen, ranks))
    typer.echo(str(trained(it, out, chosen, ranks)))


def _take_part(work: Callable[[], object]) -> None:
    """What a process of torchrun's does that is not the first one, which says what all of them find wrong."""
    from lewm_bench.train.ranks import RankLost

    try:
        work()
    except RankLost:
        raise
    except TrainingFailed:
        raise typer.Exit(1)
