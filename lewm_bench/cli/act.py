"""The verb that lets an agent act toward a picture of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import (
    CacheOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    PlannerOption,
    ProfileOption,
    SetOption,
    SolverOption,
    decimals,
    one_agent,
)


def act(
    checkpoint: Annotated[str, typer.Argument(help="A folder of `lewm-bench train --out`, hf:OWNER/NAME, or a key of the cache.")],
    goal: Annotated[Path, typer.Option("--goal", help="A picture of how it should look: PNG or JPEG, of any size.")],
    start: Annotated[str, typer.Option("--start", help="The state to begin in, numbers between commas; else sampled.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampled start and of the planner's noise.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Environment steps.")] = 50,
    agent: Annotated[str, typer.Option("--agent", help="Whose it is, if that is `their_pkg.agents:MINE`.")] = "",
    suite: Annotated[str, typer.Option("--suite", "-s", help="Plan as in this suite; else with the papers' budget.")] = "",
    profile: ProfileOption = "quick",
    planner: PlannerOption = "",
    solver: SolverOption = "",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/act/NAME of the checkpoint.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:  # fmt: skip
    """Let a trained agent act toward a picture, and film it. Nothing says whether it arrived: a picture has no state.

    Example: lewm-bench act my-lewm --goal picture.png --suite pointmaze
    """
    from lewm_bench.api.loading import load
    from lewm_bench.data.pictures import read_picture
    from lewm_bench.run.resolve import parse_overrides
    from lewm_bench.run.results_folder import claimed

    begin = decimals("--start", start)
    loaded = load(
        checkpoint, agent=agent and one_agent(agent), suite=suite, profile=profile, planner=planner, solver=solver,
        set=parse_overrides(overrides or ()), device=device, cache=cache, config=config, data=data,
    )  # fmt: skip
    picture = read_picture(goal, loaded.image_size, loaded.image_size)
    place = out or Path("results/act") / Path(checkpoint).name
    with claimed(place):
        found = loaded.toward(picture, start=begin or None, seed=seed, steps=steps)
        written = found.save(place)
    typer.echo(found)
    typer.echo(f"written: {', '.join(map(str, written))}")
