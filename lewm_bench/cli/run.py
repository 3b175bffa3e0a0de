"""The verb that does everything a suite needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.ending import end_examination, end_run, end_shift
from lewm_bench.cli.options import (
    AgentsOption,
    CacheOption,
    Choices,
    ConfigOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    EnvsOption,
    FreshOption,
    JobsOption,
    LauncherOption,
    LogOption,
    PlannerOption,
    ProfileOption,
    ProfileTimeOption,
    QuietOption,
    RayAddressOption,
    SeedsOption,
    SetOption,
    SolverOption,
    StorageOption,
    SuiteOption,
)
from lewm_bench.cli.timing import time_planning, where_time_went
from lewm_bench.core.errors import UserError


def run(
    suite: SuiteOption,
    profile: ProfileOption = "quick",
    agents: AgentsOption = "",
    seeds: SeedsOption = "",
    envs: EnvsOption = "",
    planner: PlannerOption = "",
    solver: SolverOption = "",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/SUITE.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    fresh: FreshOption = None,
    jobs: JobsOption = 0,
    devices: DevicesOption = "",
    launcher: LauncherOption = "",
    ray_address: RayAddressOption = "",
    storage: StorageOption = "",
    log: LogOption = "",
    profile_time: ProfileTimeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Collect, train, plan and report: everything a suite needs. Kill it and run it again: it goes on.

    Example: lewm-bench run --suite pointmaze --seeds 0,1,2
    """
    choices = Choices.of(locals())
    if _is_speed(suite, config):
        if agents or seeds or envs:
            raise UserError(f"the suite {suite} times planning and has no agents, seeds or environments to choose")
        if data is not None:
            raise UserError(f"the suite {suite} times planning and has no data; leave --data out")
        if log:
            raise UserError(f"--log follows trainings, and the suite {suite} has none; leave it out")
        if fresh:
            raise UserError("--fresh is for what the cache keeps; times are measured anew every time")
        return time_planning(choices)
    with where_time_went(profile_time):
        _run(choices, (launcher, ray_address, storage, devices))


def _run(choices: Choices, elsewhere: tuple[str, str, str, str]) -> None:
    from lewm_bench.report.tables.terminal import terminal
    from lewm_bench.run.results_folder import claimed
    from lewm_bench.system.phases import phase

    with phase("starting"):
        from lewm_bench.run.launch.choose import Elsewhere

        where = Elsewhere(*elsewhere)
        launcher = where.launcher()
        it = choices.run()
    if it.suite.kind == "understand":
        from lewm_bench.run.understanding import examine_suite

        if launcher is not None:
            raise UserError(
                f"the suite {it.suite.name} looks into models, which is done in this process; leave --launcher out"
            )
        with claimed(it.out):  # before hours of training, not after
            return end_examination(examine_suite(it), it)
    if it.suite.kind == "shift":
        from lewm_bench.run.shift import shift_suite

        if launcher is not None:
            raise UserError(
                f"the suite {it.suite.name} changes the world, which is done in this process; leave --launcher and "
                "--devices out"
            )
        with claimed(it.out):
            return end_shift(shift_suite(it), it)
    from lewm_bench.api.running import evaluated

    cells, summary = evaluated(it, launcher, choices.device, where.storage)
    end_run(terminal(summary), it.out, cells, [(cell, cell.reason) for cell in cells if cell.status == "failed"])


def _is_speed(suite: str, config: Path | None) -> bool:
    """Whether a suite times planning."""
    from lewm_bench.run import benchmarks as suites

    spec = suites.load(suites.find_file(config)).suites.get(suite)
    return spec is not None and spec.kind == "speed"
