"""One agent, trained on one environment, as `lewm-bench train` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lewm_bench.agent import Family
from lewm_bench.api.options import path_of, request
from lewm_bench.core.errors import UserError
from lewm_bench.run.benchmarks import ADDED, ALL
from lewm_bench.run.registry import agent_family
from lewm_bench.run.results_folder import claimed
from lewm_bench.run.stages import Run
from lewm_bench.run.together import trained_checkpoint
from lewm_bench.system.device import device_of_rank, resolve_device, resolve_devices
from lewm_bench.system.files import copy_folder
from lewm_bench.train.ranks import ALONE, Ranks


def train(
    agent: str,
    *,
    suite: str = "pointmaze",
    env: str = "",
    seed: int = 0,
    profile: str = "quick",
    set: Mapping[str, Any] | None = None,
    device: str = "auto",
    devices: str = "",
    out: str | Path | None = None,
    cache: str | Path | None = None,
    config: str | Path | None = None,
    data: str | Path | None = None,
    fresh: str = "",
    log: Sequence[str] | str = (),
    progress: bool | None = None,
) -> Path:
    """Train one agent on one environment; the folder of its checkpoint, from the cache if it is there.

    The keywords are the options of `lewm-bench train`, with values in place of text.

    Args:
        agent: its name (`lewm-bench list agents`).
        suite: the suite whose settings, data and environment it takes.
        env: an environment of the suite; its first if left out.
        seed: of the training.
        profile: quick, a laptop; paper, the papers' networks and images; or one of yours.
        set: settings by dotted path, `{"lewm.train.steps": 500}`.
        device: auto, cpu, cuda, cuda:1 or mps.
        devices: train on several together, a process each: `cuda:0,cuda:1` or `cpu,cpu`; in a script this needs
            `if __name__ == "__main__":` around the call, since the processes import it.
        out: also copy the checkpoint into this folder, and return that.
        cache: where stages are kept.
        config: another benchmarks.yaml.
        data: a dataset that takes the place of the collected one.
        fresh: collect or train: this and what follows anew.
        log: loggers that follow it: tensorboard, wandb, mlflow.
        progress: bars on standard error; where there is a terminal if left out.

    Raises:
        UserError: a name or a setting that there is not, or an agent that does not train.
        NotRun: it cannot run here.
        TrainingFailed: it did not learn anything usable.
    """
    own = ("agent", "suite", "env", "seed", "out", "devices")
    options = {name: value for name, value in locals().items() if name not in own}
    if agent == ALL or agent.startswith(ADDED):
        raise UserError(f"expected one agent, got {agent!r}")
    trainable(agent)
    chosen, target = training_devices(device, devices), path_of(out)
    options["device"] = str(chosen[0])
    it = request(suite, target or Path(), agents=agent, seeds=seed, envs=env or (), **options).run()
    return trained(it, target, chosen)


def trainable(agent: str) -> Family:
    """The family of an agent that learns.

    Raises:
        UserError: it does not train.
    """
    family = agent_family(agent)
    if not family.trainable:
        raise UserError(f"{agent} does not train; evaluate it right away: lewm-bench evaluate {agent}")
    return family


def training_devices(device: str, devices: str, ranks: int = 1) -> Sequence[torch.device]:
    """Where to train: one device, or several that each get a process; of torchrun's processes each has its own.

    Raises:
        UserError: they are not there, or both options name some.
    """
    if devices and ranks > 1:
        raise UserError("torchrun has started the processes; leave --devices out")
    if devices and device != "auto":
        raise UserError(f"--devices {devices} and --device {device} both say where to train; leave one out")
    if devices:
        return resolve_devices(devices)
    return [resolve_device(device if ranks == 1 else device_of_rank(device, int(os.environ["LOCAL_RANK"])))]


def trained(it: Run, out: Path | None, devices: Sequence[torch.device] = (), ranks: Ranks = ALONE) -> Path:
    """The checkpoint of a run's first job, trained if it is not in the cache, and copied to ``out`` if that is given.

    Args:
        devices: a process is started for each, if they are several.
        ranks: the processes that torchrun has started, of which this is the first.
    """
    with claimed(*([] if out is None else [out])):
        folder = trained_checkpoint(it, it.suite.jobs[0], devices, ranks)
        if out is not None:
            copy_folder(folder, out)
    return out or folder
