"""The verb that looks into one world model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.ending import end_examination
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
    one_agent,
)


def understand(
    checkpoint: Annotated[Path, typer.Argument(help="A folder of `lewm-bench train --out`, or hf:OWNER/NAME.")],
    agent: Annotated[str, typer.Option("--agent", help="Whose it is, if that is `their_pkg.agents:MINE`.")] = "",
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; where it was trained if left out.")] = "",
    suite: SuiteOption = "understanding-all",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/understand/NAME of the folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Look into one trained world model: probes, violated expectations, straightness, collapse, decoded dreams.

    Example: lewm-bench understand my-lewm --env lewm_bench/PointMaze-UMaze-v0
    """
    from lewm_bench.run.checkpoints import checkpoint_folder
    from lewm_bench.run.results_folder import claimed
    from lewm_bench.run.understanding import examine_one, trained_as
    from lewm_bench.system.store import Store, default_cache

    place = out or Path("results/understand") / checkpoint.resolve().name
    checkpoint = checkpoint_folder(checkpoint, env, Store(cache or default_cache()))
    was = trained_as(checkpoint, agent and one_agent(agent))  # a wrong folder is found out before data is collected
    it = Choices.of(locals(), agents=was.agent, seeds=str(was.seed), envs=env or was.env, out=place).run()
    with claimed(it.out):
        end_examination([examine_one(it, checkpoint)], it, f"{was.agent} on {it.suite.jobs[0].env.label}")
