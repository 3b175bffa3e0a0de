"""Suites: collect, train, plan and report, as `lewm-bench run` does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lewm_bench.api.options import request
from lewm_bench.api.results import Result
from lewm_bench.core.errors import UserError
from lewm_bench.report.summary import Summary
from lewm_bench.report.write import write_report
from lewm_bench.run.launch.choose import Elsewhere
from lewm_bench.run.launch.launch import Launcher, make_stages
from lewm_bench.run.records import CellRecord
from lewm_bench.run.results_folder import claimed
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run
from lewm_bench.system.phases import phase
from lewm_bench.system.scratch import delete_stale, mark


def run(
    suite: str,
    *,
    profile: str = "quick",
    agents: Sequence[str] | str = (),
    seeds: Sequence[int] | int = (),
    envs: Sequence[str] | str = (),
    planner: str = "",
    solver: str = "",
    set: Mapping[str, Any] | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    cache: str | Path | None = None,
    config: str | Path | None = None,
    data: str | Path | None = None,
    fresh: Sequence[str] | str = (),
    jobs: int = 1,
    devices: str = "",
    launcher: str = "",
    ray_address: str = "",
    storage: str = "",
    log: Sequence[str] | str = (),
    progress: bool | None = None,
) -> Result:
    """Run a suite: collect, train, plan and report. Interrupt it and call it again: it goes on where it stopped.

    The keywords are the options of `lewm-bench run`, with values in place of text.

    Args:
        suite: a suite of benchmarks.yaml (`lewm-bench list suites`).
        profile: quick, a laptop; paper, the papers' networks and images; or one of yours.
        agents: replace the suite's; with `+` in front of each they stand behind the suite's; `all` is every agent.
        seeds: training seeds.
        envs: only these of the suite's environments.
        planner: settings of the planner by name: papers, quick, or one of your benchmarks.yaml.
        solver: how it searches: cem, icem, mppi, shooting, adam.
        set: settings by dotted path, `{"lewm.train.steps": 500}`.
        device: auto, cpu, cuda, cuda:1 or mps.
        out: the results folder; nothing is kept outside of the cache if left out.
        cache: where stages are kept.
        config: another benchmarks.yaml.
        data: a dataset that takes the place of collected ones.
        fresh: collect, train or evaluate: this and what follows anew.
        jobs: small trainings side by side on a CPU. A script that asks for more than 1 needs
            `if __name__ == "__main__":` around the call, since other processes import it.
        devices: cells side by side on several devices of this machine, `cuda:0,cuda:1`; as ``jobs`` in a script.
        launcher: ray or slurm: workers make the stages (docs/cluster.md).
        ray_address: of a Ray cluster, or auto; without it one starts on this machine.
        storage: URL through which workers without a shared cache pass stages.
        log: loggers that follow trainings: tensorboard, wandb, mlflow.
        progress: bars on standard error; where there is a terminal if left out.

    Returns:
        Tables, records, figures and films. A cell that cannot run or fails does not stop the rest: ``Result.failures``.

    Raises:
        UserError: a name or a setting that there is not, or a place that cannot be written to.
    """
    options = {name: value for name, value in locals().items() if name not in ("suite", "out")}
    where = Elsewhere(launcher, ray_address, storage, devices)
    workers = where.launcher()
    held = None if out is not None else _temporary()
    it = request(suite, Path(held.name if held else str(out)), **options).run()
    if it.suite.kind == "understand":
        raise UserError(f"the suite {suite} looks into world models; `lewm-bench run --suite {suite}` does that")
    if it.suite.kind == "shift":
        raise UserError(f"the suite {suite} changes the world; `lewm-bench run --suite {suite}` does that")
    return Result(evaluated(it, workers, device, storage)[1], it.out, held)


def evaluated(
    it: Run, launcher: Launcher | None = None, device: str = "auto", storage: str = ""
) -> tuple[list[CellRecord], Summary]:
    """Everything that a suite needs, and its report in the results folder.

    Args:
        launcher: starts workers that make the stages; left out, this process makes them.
        device: of workers.
        storage: URL through which workers without a shared cache pass stages.
    """
    with claimed(it.out):  # before hours of training, not after
        failures = None
        if launcher is not None:
            it, failures = make_stages(it, launcher, device, storage)
        cells = run_suite(it, failures)
        with phase("report: tables and page"):
            return cells, write_report(cells, it.out, it.suite.title)


def _temporary() -> tempfile.TemporaryDirectory:
    """A folder that lives as long as what is returned; those of killed processes go first."""
    delete_stale(Path(tempfile.gettempdir()), below=False)
    return tempfile.TemporaryDirectory(prefix=mark())
