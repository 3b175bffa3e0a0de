"""The options that several verbs share, and the run that they describe."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.names import canonical, split

if TYPE_CHECKING:
    from lewm_bench.run.request import Request
    from lewm_bench.run.stages import Run
    from lewm_bench.train.logs import LogTo

logger = logging.getLogger(__name__)

SuiteOption = Annotated[str, typer.Option("--suite", "-s", help="A suite of benchmarks.yaml (`lewm-bench list`).")]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile", "-p", help="quick: a laptop; paper: the papers' networks and images, not their training."
    ),
]
AgentsOption = Annotated[
    str,
    typer.Option(
        "--agents", help="Comma-separated; replaces the suite's agents. +lewm,+mine adds to them, all adds every agent."
    ),
]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Comma-separated training seeds, for example 0,1,2.")]
EnvsOption = Annotated[str, typer.Option("--envs", help="Comma-separated; only these of the suite's environments.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE, a dotted key, repeatable: --set lewm.train.steps=500")
]
SolverOption = Annotated[
    str,
    typer.Option("--solver", help="How it searches: cem, icem, mppi, shooting, adam; as the suite says if left out."),
]
PlannerOption = Annotated[
    str, typer.Option("--planner", help="A planner of benchmarks.yaml (`lewm-bench list planners`): papers, quick.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
TogetherOption = Annotated[
    str,
    typer.Option(
        "--devices", help="One training on several: 8 (GPUs), or cuda:0,cuda:2, or cpu,cpu; in place of --device."
    ),
]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Where stages are kept; also $LEWM_BENCH_CACHE.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Another benchmarks.yaml.")]
FreshOption = Annotated[
    list[str] | None,
    typer.Option("--fresh", help="collect, train or evaluate: this and what follows anew; the old is kept aside."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Use this dataset (of `import data` or RecordTrajectories) in place of collected ones."
    ),
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", min=0, help="Small trainings side by side on a CPU; 0: as many as cores, 1: one by one."),
]
DevicesOption = Annotated[
    str, typer.Option("--devices", help="Cells side by side on several devices of this machine: cuda:0,cuda:1.")
]
LauncherOption = Annotated[
    str,
    typer.Option("--launcher", help="Where cells run: in this process (default), ray or slurm."),
]
RayAddressOption = Annotated[
    str, typer.Option("--ray-address", help="Of a Ray cluster, or auto; without it one starts on this machine.")
]
StorageOption = Annotated[
    str,
    typer.Option("--storage", help="URL through which workers without a shared cache pass stages: s3://bucket/lewm."),
]
LogOption = Annotated[
    str, typer.Option("--log", help="Follow trainings with tensorboard, wandb or mlflow, comma-separated.")
]
ProfileTimeOption = Annotated[bool, typer.Option("--profile-time", help="Say at the end where the time went.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    found = tuple(dict.fromkeys(part.strip() for part in split(text, ",") if part.strip()))
    if text and not found:
        raise UserError(f"expected comma-separated names, got {text!r}")
    return found


def agent_names(text: str) -> tuple[str, ...]:
    """Several agents under their canonical names, each once."""
    return tuple(dict.fromkeys(map(canonical, names(text))))


def one_agent(text: str) -> str:
    """The agent of a command that has one."""
    from lewm_bench.run.benchmarks import ADDED, ALL

    found = agent_names(text)
    if len(found) != 1 or found[0] == ALL or found[0].startswith(ADDED):
        raise UserError(f"expected one agent, got {text!r}; several are for `lewm-bench run --agents`")
    return found[0]


def solver_setting(name: str) -> list[str]:
    """``--solver`` as a setting."""
    if not name:
        return []
    from lewm_bench.planning.solvers import SOLVERS

    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    return [f"planner.solver={name}"]


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Integers between commas, each once."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError:
        raise UserError(f"{option} takes comma-separated integers, got {text!r}")


def decimals(option: str, text: str) -> tuple[float, ...]:
    """Decimal numbers between commas."""
    try:
        return tuple(float(part) for part in split(text, ",")) if text else ()
    except ValueError:
        raise UserError(f"{option} takes comma-separated numbers, got {text!r}")


def require_new(folder: Path) -> None:
    """Refuse a folder that has anything in it, so that nothing is replaced or mixed."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new folder with --out, or delete it")


def seed_numbers(text: str) -> tuple[int, ...]:
    """Training seeds."""
    found = numbers("--seeds", text)
    if any(seed < 0 for seed in found):
        raise UserError(f"--seeds takes integers from 0, got {text!r}")
    return found


def say(line: str) -> None:
    """Tell the user beside the results, above the progress bars."""
    tqdm.write(line, file=sys.stderr)


@dataclass(frozen=True)
class Choices:
    """What the common options say, as it was typed; every verb has some of them."""

    suite: str
    profile: str = "quick"
    agents: str = ""
    seeds: str = ""
    envs: str = ""
    planner: str = ""
    solver: str = ""
    overrides: Sequence[str] | None = None
    device: str = "auto"
    cache: Path | None = None
    config: Path | None = None
    out: Path | None = None
    quiet: bool = False
    fresh: Sequence[str] | None = None
    data: Path | None = None
    jobs: int = 1
    log: str = ""
    logs: Path | None = None
    leads: bool = True  # of several processes that do the same the one that speaks

    @classmethod
    def of(cls, options: Mapping[str, Any], **others: Any) -> Choices:
        """Those of a verb: its ``locals()``, of which only the common options are taken, and what it calls otherwise."""
        common = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in common} | others)

    @property
    def settings(self) -> list[str]:
        """``--solver`` and ``--set``, of which the later wins."""
        return [*solver_setting(self.solver), *(self.overrides or ())]

    @property
    def progress(self) -> bool:
        """Whether somebody looks at progress bars."""
        return self.leads and not self.quiet and sys.stderr.isatty()

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("results") / self.suite

    def log_to(self) -> LogTo:
        """The loggers that follow trainings, which can be used: whatever they lack is said before hours of work."""
        from lewm_bench.train.logs import LogTo

        found = LogTo(names(self.log), self.logs or self.folder / "logs")
        if found.kinds:
            from lewm_bench.train.loggers import require_loggers

            require_loggers(found)
        return found

    @property
    def request(self) -> Request:
        """The same as values."""
        from lewm_bench.run.request import Request
        from lewm_bench.system.resources import cores

        return Request(
            suite=self.suite,
            profile=self.profile,
            out=self.folder,
            say=say if self.leads else logger.debug,
            agents=agent_names(self.agents),
            seeds=seed_numbers(self.seeds),
            envs=names(self.envs),
            settings=self.settings,
            planner=self.planner,
            device=self.device,
            cache=self.cache,
            config=self.config,
            progress=self.progress,
            fresh=names(",".join(self.fresh or ())),
            data=self.data,
            jobs=self.jobs,
            workers=cores(),
        )

    def run(self) -> Run:
        """The run that they describe."""
        request, log_to = self.request, self.log_to()
        if log_to.kinds:
            say(f"trainings are logged in {log_to.folder}")
        return replace(request, log_to=log_to).run()
