"""What a run is asked for, from the command line or from Python, and the run that it describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lewm_bench.core.errors import UserError
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.given_data import with_data
from lewm_bench.run.keys import fresh_kinds
from lewm_bench.run.resolve import Suite, resolve
from lewm_bench.run.stages import Run
from lewm_bench.run.unused_settings import check_read
from lewm_bench.system.device import resolve_device, share_cores
from lewm_bench.system.store import Store, default_cache
from lewm_bench.train.logs import NOWHERE, LogTo


@dataclass(frozen=True)
class Request:
    """The options that everything which runs has in common; what is empty is as the suite says."""

    suite: str
    profile: str
    out: Path  # where the results go
    say: Callable[[str], None]  # is told a line for everything that is done
    agents: Sequence[str] = ()
    seeds: Sequence[int] = ()
    envs: Sequence[str] = ()
    settings: Sequence[str] = ()  # KEY=VALUE
    planner: str = ""  # a named set of planner settings, before those
    device: str = "auto"
    cache: Path | None = None
    config: Path | None = None
    progress: bool = False
    fresh: Sequence[str] = ()
    data: Path | None = None
    jobs: int = 1  # trainings side by side; 0: as many as cores
    workers: int = 1  # processes that collect
    log_to: LogTo = NOWHERE  # the loggers that follow trainings

    @property
    def store(self) -> Store:
        """Where stages are kept."""
        return Store(self.cache or default_cache(), fresh_kinds(self.fresh))

    def resolve(self) -> tuple[Suite, Path]:
        """The suite with its settings, and the file that they are from.

        Raises:
            UserError: a name or a setting that there is not.
        """
        path = find_file(self.config)
        resolved = resolve(
            load(path),
            self.suite,
            self.profile,
            agents=self.agents,
            seeds=self.seeds,
            envs=self.envs,
            overrides=self.settings,
            planner=self.planner,
        )
        if self.data is None or resolved.kind == "speed":
            return resolved, path
        return with_data(resolved, self.data), path

    def run(self) -> Run:
        """The run that it describes.

        Raises:
            UserError: as ``resolve``, or there is nothing to run.
        """
        share_cores()
        resolved, path = self.resolve()
        if resolved.kind == "speed":
            raise UserError(
                f"the suite {self.suite} times planning and has no environments; `lewm-bench run --suite {self.suite}`, "
                "or lewm_bench.speed()"
            )
        if not resolved.jobs:
            raise UserError("the suite lists nothing to run here; name --seeds or --set evaluate.goal_offset=[25]")
        check_read(resolved, self.settings, self.planner)
        run = Run(
            suite=resolved,
            store=self.store,
            out=self.out,
            device=resolve_device(self.device),
            progress=self.progress,
            say=self.say,
            workers=self.workers,
            trainings=self.jobs or torch.get_num_threads(),
            data=self.data,
            log_to=self.log_to,
        )
        count = "1 cell" if len(resolved.jobs) == 1 else f"{len(resolved.jobs)} cells"
        self.say(f"suite {self.suite}, profile {self.profile}, {count} on {run.device}, settings from {path}")
        return run
