"""How long a plan takes, as `lewm-bench speed` measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lewm_bench.api.options import path_of, request, several
from lewm_bench.api.results import SpeedResult
from lewm_bench.evaluation.speed import SpeedConfig, measure, method_of
from lewm_bench.run.checkpoints import checkpoint_folder
from lewm_bench.run.registry import agent_family
from lewm_bench.run.request import Request
from lewm_bench.run.resolve import Suite
from lewm_bench.system.device import resolve_device, share_cores

SUITE = "speedup"


def speed(
    methods: Sequence[str] | str = (),
    *,
    profile: str = "quick",
    dtype: Sequence[str] | str = (),
    planner: str = "",
    solver: str = "",
    set: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    config: str | Path | None = None,
    progress: bool | None = None,
) -> SpeedResult:
    """Time one plan of world models, side by side and without training, at a profile's sizes.

    Args:
        methods: world models, `["lewm", "pldm", "dino-wm"]`; the suite's if left out.
        profile: quick, a laptop; paper, the papers' networks and images; or one of yours.
        dtype: float32, tf32, bfloat16, int8, compile or reference (the plain loop); what the device has if left out.
        planner: settings of the planner by name: papers, quick, or one of your benchmarks.yaml.
        solver: how it searches: cem, icem, mppi, shooting, adam.
        set: settings by dotted path: `planner.num_samples`, `planner.horizon`, `speed.batch`, `speed.plans`,
            `speed.samples` and `speed.horizons` for the figure of scaling, and those of the networks.
        checkpoint: a trained LeWM instead of random weights: a folder, or `hf:OWNER/NAME`.
        device: auto, cpu, cuda, cuda:1 or mps.
        config: another benchmarks.yaml.
        progress: bars on standard error; where there is a terminal if left out.

    Raises:
        UserError: a name or a setting that there is not, or a checkpoint that does not fit.
    """
    names, modes = several("methods", methods, str), several("dtype", dtype, str)
    chosen = {**({"speed.methods": names} if names else {}), **({"speed.modes": modes} if modes else {})}
    asked = request(
        SUITE, Path(), profile=profile, planner=planner, solver=solver, set={**chosen, **(set or {})}, device=device, config=config,
        progress=progress,
    )  # fmt: skip
    return timed(asked, asked.resolve()[0], weights_of(asked, path_of(checkpoint)))


def weights_of(asked: Request, checkpoint: Path | None) -> Path | None:
    """The folder of a checkpoint that is named, fetched if need be."""
    return None if checkpoint is None else checkpoint_folder(checkpoint, "", asked.store)


def timed(asked: Request, suite: Suite, weights: Path | None) -> SpeedResult:
    """Planning times of a suite that a request has resolved to."""
    share_cores()
    methods = [method_of(name, agent_family(name), suite.agent_config(name)) for name in suite.settings.speed.methods]
    where = resolve_device(asked.device)
    rows = measure(suite.settings, methods, asked.profile, where, weights, progress=asked.progress)
    known = suite.settings.speed.methods == SpeedConfig().methods
    named = ", ".join(dict.fromkeys(row.card.name or row.method for row in rows))
    return SpeedResult(rows, suite.title if known else f"Planning time: {named}")
