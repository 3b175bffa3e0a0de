"""The verb that times planning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.options import (
    Choices,
    ConfigOption,
    DeviceOption,
    PlannerOption,
    ProfileOption,
    QuietOption,
    SetOption,
    SolverOption,
    names,
    numbers,
)
from lewm_bench.cli.timing import time_planning


def speed(
    profile: ProfileOption = "quick",
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated: lewm,fast-lewm,pldm,dino-wm,dino-wm:reencode.")
    ] = "",
    planner: PlannerOption = "",
    solver: SolverOption = "",
    samples: Annotated[str, typer.Option("--samples", help="Candidates; several are swept: 300,600,1200.")] = "",
    iterations: Annotated[int, typer.Option("--iterations", help="Of the planner; 30 if left out.")] = 0,
    horizon: Annotated[str, typer.Option("--horizon", help="Blocks planned ahead; several are swept: 5,10.")] = "",
    batch: Annotated[str, typer.Option("--batch", help="Episodes planned together; several are swept: 1,10.")] = "",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Comma-separated: float32,tf32,bfloat16,int8,reference (the plain loop).")
    ] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Also time torch.compile; a minute or more at first.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A trained LeWM (`lewm-bench train --out`, or hf:OWNER/NAME) instead of random weights.")
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/speedup.")] = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Time one plan of LeWM, PLDM and DINO-WM, side by side and without training, at a profile's sizes.

    Example: lewm-bench speed --profile paper --dtype float32,int8 --samples 300,900
    """
    from lewm_bench.evaluation.speed import modes_of
    from lewm_bench.planning.config import PlannerConfig

    chosen = []
    for option, text, main, swept in (
        ("--samples", samples, "planner.num_samples", "speed.samples"),
        ("--horizon", horizon, "planner.horizon", "speed.horizons"),
        ("--batch", batch, "speed.batch", "speed.batches"),
    ):
        values = numbers(option, text)
        if values:
            chosen.append(f"{main}={values[0]}")
        if len(values) > 1:
            chosen.append(f"{swept}={list(values)}")
        if values and option == "--samples":
            chosen.append(f"planner.num_elites={min(values[0], PlannerConfig().num_elites)}")
        if values and option == "--horizon":
            chosen.append(f"planner.receding={min(values[0], PlannerConfig().receding)}")
    if iterations:
        chosen.append(f"planner.num_iterations={iterations}")
    if methods:
        chosen.append(f"speed.methods={list(names(methods))}")
    modes = list(names(dtype))
    if compiled:
        from lewm_bench.system.device import resolve_device

        modes = [*(modes or modes_of(resolve_device(device))), "compile"]
    if modes:
        chosen.append(f"speed.modes={modes}")
    time_planning(Choices.of(locals(), suite="speedup", overrides=[*chosen, *(overrides or [])]), checkpoint)
