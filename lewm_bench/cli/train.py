"""The verb that trains one agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from lewm_bench.core.errors import TrainingFailed, UserError

if TYPE_CHECKING:
    import torch


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
    from lewm_bench.api.training import trainable, trained
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


def training_devices(device: str, devices: str, ranks: int) -> Sequence[torch.device]:
    """Where to train: one device, or several that each get a process; of torchrun's processes each has its own.

    Raises:
        UserError: they are not there, or both options name some.
    """
    from lewm_bench.system.device import device_of_rank, resolve_device, resolve_devices

    if devices and ranks > 1:
        raise UserError("torchrun has started the processes; leave --devices out")
    if devices and device != "auto":
        raise UserError(f"--devices {devices} and --device {device} both say where to train; leave one out")
    if devices:
        return resolve_devices(devices)
    return [resolve_device(device if ranks == 1 else device_of_rank(device, int(os.environ["LOCAL_RANK"])))]


def _take_part(work: Callable[[], object]) -> None:
    """What a process of torchrun's does that is not the first one, which says what all of them find wrong."""
    from lewm_bench.train.ranks import RankLost

    try:
        work()
    except RankLost:
        raise
    except TrainingFailed:
        raise typer.Exit(1)
