"""The verb that collects data."""

from __future__ import annotations

from typing import Annotated

import typer

from lewm_bench.cli.options import (
    CacheOption,
    Choices,
    ConfigOption,
    DataOption,
    FreshOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SuiteOption,
)


def collect(
    env: Annotated[str, typer.Argument(help="An environment of the suite; all of them if left out.")] = "",
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Collect the reward-free trajectories of a suite's environments and print where they are.

    Example: lewm-bench collect lewm_bench/PointMaze-UMaze-v0 --set collect.episodes=100
    """
    from lewm_bench.run.forecast import require_room
    from lewm_bench.run.stages import dataset_of

    it = Choices.of(locals(), envs=env, device="cpu").run()
    require_room(it)
    for spec in it.suite.envs:
        _, dataset, _ = dataset_of(it, spec)
        rows = len(dataset.frames)
        typer.echo(f"{spec.label}: {len(dataset)} episodes, {rows} frames, {dataset.fingerprint}, {dataset.folder}")
