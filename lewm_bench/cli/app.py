"""The command line; the only file that prints."""

from __future__ import annotations

import ctypes
import difflib
import logging
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm
from typer.core import TyperCommand, TyperGroup

import lewm_bench
from lewm_bench.core.errors import Explained, NotRun, PluginError, TrainingFailed, UserError, one_line, unknown
from lewm_bench.core.names import canonical, parse_agent, split
from lewm_bench.system.granted import limit_threads
from lewm_bench.system.signals import Stopped, stopping

if TYPE_CHECKING:
    from lewm_bench.data.check import Finding

# Typer stands on click, or on a copy of it inside itself, depending on its version; both have this base.
UsageProblem = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class Commands(TyperGroup):
    """Suggests the nearest command on a miss."""

    def resolve_command(self, context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"no command {args[0]!r}; known: {', '.join(self.commands)}{hint}")
        return super().resolve_command(context, args)


class Verb(TyperCommand):
    """A command that ends with one line, whatever is raised in it and by whose code."""

    def invoke(self, ctx):
        from lewm_bench.system.faults import attempted, explained

        found = attempted(lambda: super(Verb, self).invoke(ctx))
        if not isinstance(found, Exception):
            return found
        if isinstance(
            found, (UserError, NotRun, TrainingFailed, UsageProblem, typer.Exit, typer.Abort, BrokenPipeError)
        ):
            raise found
        raise explained(found, _error_folder(ctx.params), ctx.info_name)


def _error_folder(options: Mapping[str, Any]) -> Path:
    """Where a traceback is kept: in the results if the user has named a folder for them, else in the cache."""
    from lewm_bench.system.store import default_cache

    # An old typer (0.13) gives text here.
    return Path(options.get("out") or options.get("cache") or default_cache()) / "errors"


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Trustworthy, one-command benchmarking of latent world models.",
)

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
    str, typer.Option("--solver", help="The planner: cem, icem, mppi, shooting, adam; the suite's if left out.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Where stages are kept; also $LEWM_BENCH_CACHE.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Another benchmarks.yaml.")]
FreshOption = Annotated[
    list[str] | None,
    typer.Option("--fresh", help="collect, train or evaluate: this and what follows anew; the old is kept aside."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in split(text, ",") if part.strip()))
    if text and not names:
        raise UserError(f"expected comma-separated names, got {text!r}")
    return names


def _agents(text: str) -> tuple[str, ...]:
    """Several agents under their canonical names, each once."""
    return tuple(dict.fromkeys(map(canonical, _names(text))))


def _one_agent(text: str) -> str:
    """The agent of a command that has one."""
    from lewm_bench.run.benchmarks import ADDED, ALL

    names = _agents(text)
    if len(names) != 1 or names[0] == ALL or names[0].startswith(ADDED):
        raise UserError(f"expected one agent, got {text!r}; several are for `lewm-bench run --agents`")
    return names[0]


def _solver(name: str) -> list[str]:
    """``--solver`` as a setting."""
    if not name:
        return []
    from lewm_bench.planning.solvers import SOLVERS

    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    return [f"planner.solver={name}"]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in _names(text))
    except ValueError:
        raise UserError(f"--seeds takes comma-separated integers, got {text!r}")
    if any(seed < 0 for seed in seeds):
        raise UserError(f"--seeds takes integers from 0, got {text!r}")
    return seeds


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _prepare(
    suite: str,
    profile: str,
    *,
    agents: str = "",
    seeds: str = "",
    envs: str = "",
    overrides: Sequence[str] | None = None,
    device: str = "auto",
    cache: Path | None = None,
    config: Path | None = None,
    out: Path | None = None,
    quiet: bool = False,
    fresh: Sequence[str] | None = None,
):
    """The run that the common options describe."""
    from lewm_bench.run import benchmarks as suites
    from lewm_bench.run.keys import fresh_kinds
    from lewm_bench.run.resolve import resolve
    from lewm_bench.run.stages import Run
    from lewm_bench.run.unread import check_read
    from lewm_bench.system.device import resolve_device, share_cores
    from lewm_bench.system.granted import cores
    from lewm_bench.system.store import Store, default_cache

    share_cores()
    path = suites.find_file(config)
    resolved = resolve(
        suites.load(path),
        suite,
        profile,
        agents=_agents(agents),
        seeds=_seeds(seeds),
        envs=_names(envs),
        overrides=overrides or (),
    )
    if resolved.kind == "speed":
        raise UserError(f"the suite {suite} times planning and has no environments; `lewm-bench run --suite {suite}`")
    if not resolved.jobs:
        raise UserError("the suite's limits leave nothing to run; name --seeds or --set evaluate.goal_offset=[25]")
    check_read(resolved, overrides or ())
    run = Run(
        suite=resolved,
        store=Store(cache or default_cache(), fresh_kinds(_names(",".join(fresh or ())))),
        out=out or Path("results") / suite,
        device=resolve_device(device),
        progress=not quiet and sys.stderr.isatty(),
        say=_say,
        workers=cores(),
    )
    _say(f"suite {suite}, profile {profile}, {len(resolved.jobs)} cells on {run.device}, settings from {path}")
    return run


@app.command(cls=Verb)
def run(
    suite: SuiteOption,
    profile: ProfileOption = "quick",
    agents: AgentsOption = "",
    seeds: SeedsOption = "",
    envs: EnvsOption = "",
    solver: SolverOption = "",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/SUITE.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Collect, train, plan and report: everything a suite needs. Kill it and run it again: it goes on.

    Example: lewm-bench run --suite pointmaze --seeds 0,1,2
    """
    from lewm_bench.report.tables import terminal
    from lewm_bench.report.write import write_report
    from lewm_bench.run.folder import claimed
    from lewm_bench.run.runner import run_suite

    overrides = [*_solver(solver), *(overrides or [])]
    if _is_speed(suite, config):
        if agents or seeds or envs:
            raise UserError(f"the suite {suite} times planning and has no agents, seeds or environments to choose")
        if fresh:
            raise UserError("--fresh is for what the cache keeps; times are measured anew every time")
        return _speed(suite, profile, overrides, device, out, config, quiet, None)
    it = _prepare(
        suite, profile, agents=agents, seeds=seeds, envs=envs, overrides=overrides, device=device, cache=cache,
        config=config, out=out, quiet=quiet, fresh=fresh,
    )  # fmt: skip
    with claimed(it.out):  # before hours of training, not after
        if it.suite.kind == "understand":
            from lewm_bench.run.understanding import examine_suite

            return _understood(examine_suite(it), it)
        cells = run_suite(it)
        shown = terminal(write_report(cells, it.out, it.suite.title))
    _end(shown, it.out, cells, [(cell, cell.reason) for cell in cells if cell.status == "failed"])


def _end(shown: str, out: Path, cells: list, failures: list[tuple]) -> None:
    """Print what a run found and where its report is; exit status 1 if some of it failed."""
    typer.echo(shown)
    typer.echo(f"report: {out / 'report.html'}")
    if all(cell.status == "not run" for cell in cells):
        raise NotRun(f"nothing could be run here: {cells[0].reason}")
    for cell, reason in failures:
        typer.echo(f"failed: {cell.env} {cell.agent} seed {cell.seed}: {reason}", err=True)
    if failures:
        raise typer.Exit(1)


@app.command(name="list", cls=Verb)
def list_(
    what: Annotated[str, typer.Argument(help="suites, envs, agents, profiles or protocols; all if left out.")] = "",
    config: ConfigOption = None,
) -> None:
    """Show the suites, environments, agents, profiles and protocols that there are.

    Example: lewm-bench list agents
    """
    from lewm_bench.evaluation.protocol import CHOICES
    from lewm_bench.run.benchmarks import find_file, load
    from lewm_bench.run.registry import agent_names, environment_ids

    path = find_file(config)
    bench = load(path)
    # Described one by one while they are printed: making an environment to look at it takes up to seconds.
    sections = {
        "suites": (bench.suites, lambda name: f"{bench.suites[name].title}{_contents(bench.suites[name])}"),
        "envs": (environment_ids(), _env_line),
        "agents": (agent_names(), _agent_line),
        "profiles": (bench.profiles, lambda name: f"from {path}"),
        "protocols": (CHOICES, lambda name: _protocol_line(CHOICES[name])),
    }
    if what and what not in sections:
        raise unknown("list", what, sections)
    for title, (names, describe) in sections.items():
        if what in ("", title):
            width = max(map(len, names), default=0)
            typer.echo(f"{title}:")
            for name in names:
                typer.echo(f"  {name:<{width}}  {describe(name)}")
            typer.echo()


def _protocol_line(rules) -> str:
    protocol, *_ = rules
    episodes = "held-out" if protocol.held_out else "training"
    strata = " and ".join(one.stratum for one in rules if one.stratum)
    return f"success {' and '.join(protocol.success)}, {episodes} episodes{f', {strata} pairs' if strata else ''}"


def _contents(suite) -> str:
    if suite.kind == "speed":
        return ""
    arms = Counter(parse_agent(agent).trained for agent in suite.agents)
    agents = ", ".join(name if count == 1 else f"{name} ({count} arms)" for name, count in arms.items())
    return f" ({len(suite.envs)} envs, agents {agents})"


def _env_line(env_id: str) -> str:
    from lewm_bench.data.adapt import AdaptedEnv
    from lewm_bench.run.registry import make_env, origin
    from lewm_bench.system.faults import attempted, told

    env = attempted(lambda: make_env(env_id, 64))
    if isinstance(env, Exception):
        return f"unavailable: {env if isinstance(env, (UserError, NotRun)) else told(env)}"
    space, size = env.action_space, "x".join(map(str, env.observation_space.shape))
    low, high = float(space.low.min()), float(space.high.max())
    vector = f" (vector: {env.described()})" if isinstance(env, AdaptedEnv) else ""
    return (
        f"actions {space.shape[0]} in [{low:g}, {high:g}], image {size}, success within {env.threshold:g} "
        f"{env.distance_unit}, {origin(env_id)}{vector}"
    )


def _agent_line(name: str) -> str:
    from lewm_bench.run.registry import agent_family

    try:
        family = agent_family(name)
    except (NotRun, PluginError, UserError) as error:
        return f"unavailable: {error}"
    variants = "".join(f"; {name}:{variant}" for variant in family.card.variants)
    return f"{family.kind}{', trained' if family.trainable else ''}: {family.card.about}{variants}"


@app.command(cls=Verb)
def collect(
    env: Annotated[str, typer.Argument(help="An environment of the suite; all of them if left out.")] = "",
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Collect the reward-free trajectories of a suite's environments and print where they are.

    Example: lewm-bench collect lewm_bench/PointMaze-UMaze-v0 --set collect.episodes=100
    """
    from lewm_bench.run.stages import dataset_of

    it = _prepare(
        suite,
        profile,
        envs=env,
        overrides=overrides,
        device="cpu",
        cache=cache,
        config=config,
        quiet=quiet,
        fresh=fresh,
    )
    for spec in it.suite.envs:
        _, dataset, _ = dataset_of(it, spec)
        rows = len(dataset.frames)
        typer.echo(f"{spec.label}: {len(dataset)} episodes, {rows} frames, {dataset.fingerprint}, {dataset.folder}")


@app.command(cls=Verb)
def train(
    agent: Annotated[str, typer.Argument(help="An agent (`lewm-bench list agents`).")],
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also copy the checkpoint into this folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train one agent on one environment and print its checkpoint folder (safetensors and JSON).

    Example: lewm-bench train lewm --env lewm_bench/PointMaze-UMaze-v0 --seed 1 --out my-lewm
    """
    from lewm_bench.agent import Setting
    from lewm_bench.run.folder import claimed
    from lewm_bench.run.registry import agent_family
    from lewm_bench.run.stages import checkpoint_of, dataset_of, setting_of
    from lewm_bench.system.files import copy_folder

    agent = _one_agent(agent)
    family = agent_family(agent)
    if not family.trainable:
        raise UserError(f"{agent} does not train; evaluate it right away: lewm-bench evaluate {agent}")
    it = _prepare(
        suite, profile, agents=agent, seeds=str(seed), envs=env, overrides=overrides, device=device, cache=cache,
        config=config, quiet=quiet, fresh=fresh,
    )  # fmt: skip
    job = it.suite.jobs[0]
    with claimed(*([] if out is None else [out])):
        setting: Setting = setting_of(it, job, *dataset_of(it, job.env))
        family.requirements(setting)
        folder = checkpoint_of(setting, family)
        if out is not None:
            copy_folder(folder, out)
    typer.echo(str(out or folder))


@app.command(cls=Verb)
def evaluate(
    agent: Annotated[str, typer.Argument(help="An agent (`lewm-bench list agents`).")],
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A folder of `lewm-bench train --out`; else the cache's.")
    ] = None,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    solver: SolverOption = "",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also write a report into this folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    fresh: FreshOption = None,
    quiet: QuietOption = False,
) -> None:
    """Evaluate one agent on one environment, training it first if there is no checkpoint.

    Example: lewm-bench evaluate lewm --seed 1 --set evaluate.num_pairs=20
    """
    import dataclasses

    from lewm_bench.report.tables import terminal
    from lewm_bench.report.write import write_report
    from lewm_bench.run.folder import claimed
    from lewm_bench.run.runner import publish_together, run_job
    from lewm_bench.run.stages import dataset_of
    from lewm_bench.system.checkpoint import load_card
    from lewm_bench.system.scratch import scratch_folder

    agent = _one_agent(agent)
    if checkpoint is not None:
        load_card(checkpoint)  # a wrong folder is found out before data is collected
    overrides = [*_solver(solver), *(overrides or [])]
    it = _prepare(
        suite, profile, agents=agent, seeds=str(seed), envs=env, overrides=overrides, device=device, cache=cache,
        config=config, out=out, quiet=quiet, fresh=fresh,
    )  # fmt: skip
    jobs = it.suite.jobs  # one, or one for each stratum of its protocol
    with scratch_folder() as scratch, claimed(*([] if out is None else [out])):
        it = dataclasses.replace(it, out=out or scratch)
        cells = publish_together(
            it, lambda run: [run_job(run, j, *dataset_of(run, j.env), checkpoint=checkpoint) for j in jobs]
        )
        summary = write_report(cells, it.out, f"{agent} on {jobs[0].env.label}")
        typer.echo(terminal(summary))
    if out is not None:
        typer.echo(f"report: {out / 'report.html'}")


@app.command(cls=Verb)
def understand(
    checkpoint: Annotated[Path, typer.Argument(help="A folder of `lewm-bench train --out`.")],
    agent: Annotated[str, typer.Option("--agent", help="Whose it is, if that is `their_pkg.agents:MINE`.")] = "",
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; where it was trained if left out.")] = "",
    suite: SuiteOption = "understanding-all",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Default: results/understand/NAME of the folder.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Look into one trained world model: probes, violated expectations, straightness, collapse, decoded dreams.

    Example: lewm-bench understand my-lewm --env lewm_bench/PointMaze-UMaze-v0
    """
    from lewm_bench.run.folder import claimed
    from lewm_bench.run.understanding import examine_one, trained_as

    was = trained_as(checkpoint, agent and _one_agent(agent))  # a wrong folder is found out before data is collected
    place = out or Path("results/understand") / checkpoint.resolve().name
    it = _prepare(
        suite, profile, agents=was.agent, seeds=str(was.seed), envs=env or was.env, overrides=overrides, device=device,
        cache=cache, config=config, out=place, quiet=quiet,
    )  # fmt: skip
    with claimed(it.out):
        _understood([examine_one(it, checkpoint)], it, f"{was.agent} on {it.suite.jobs[0].env.label}")


def _understood(cells: list, it, title: str = "") -> None:
    """Write and print the report of an examination."""
    from lewm_bench.report.understanding.report import terminal, write_understanding

    shown = terminal(write_understanding(cells, it.out, title or it.suite.title))
    _end(shown, it.out, cells, [(cell, failure) for cell in cells for failure in cell.failures])


@app.command(cls=Verb)
def tune(
    agents: Annotated[str, typer.Argument(help="An agent, or several with commas: each gets as many trials.")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trainings per agent; the first is the default.")] = 7,
    search: Annotated[str, typer.Option("--search", help="bisection, random, or auto: bisection of one value.")] = "auto",
    env: Annotated[str, typer.Option("--env", help="An environment of the suite; its first if left out.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    suite: SuiteOption = "pointmaze",
    profile: ProfileOption = "quick",
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Holds AGENT-ENV folders; results/tune if left out.")] = None,
    cache: CacheOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Find an agent's hyper-parameters with validation episodes, and show the path. Kill it and run it again: it goes on.

    Example: lewm-bench tune lewm --suite pointmaze --trials 7
    """
    from lewm_bench.report.tuning import report, terminal
    from lewm_bench.run.benchmarks import ADDED
    from lewm_bench.run.tuning import tune as tuning

    if not _agents(agents) or any(name.startswith(ADDED) for name in _agents(agents)):
        raise UserError("name an agent to tune, or several with commas: lewm-bench tune lewm")
    chosen, place = tuning.validation_only(overrides or ()), out or Path("results/tune")
    it = _prepare(
        suite, profile, agents=agents, seeds=str(seed), envs=env, overrides=chosen, device=device, cache=cache,
        config=config, out=place, quiet=quiet,
    )  # fmt: skip
    done, folders = report(tuning.tune(it, _agents(agents), trials, search), it.out)
    typer.echo(terminal(done))
    for folder in folders:
        typer.echo(f"results: {folder}")
    if any(each.best is None for each in done):
        raise typer.Exit(1)


def _is_speed(suite: str, config: Path | None) -> bool:
    from lewm_bench.run import benchmarks as suites

    spec = suites.load(suites.find_file(config)).suites.get(suite)
    return spec is not None and spec.kind == "speed"


def _speed(
    suite: str, profile: str, overrides: list[str], device: str, out: Path | None, config: Path | None, quiet: bool,
    checkpoint: Path | None,
) -> None:  # fmt: skip
    """Time planning and write the speed report."""
    from lewm_bench.evaluation.speed import measure, method_of
    from lewm_bench.evaluation.speed_record import SPEED_FILE
    from lewm_bench.report.speed import terminal, write_speed_report
    from lewm_bench.run import benchmarks as suites
    from lewm_bench.run.folder import claimed, line_about, set_aside
    from lewm_bench.run.registry import agent_family
    from lewm_bench.run.resolve import resolve
    from lewm_bench.system.device import resolve_device, share_cores

    share_cores()
    path = suites.find_file(config)
    resolved = resolve(suites.load(path), suite, profile, overrides=overrides)
    asked = resolved.settings.speed.methods
    methods = [method_of(name, agent_family(name), resolved.agent_config(name)) for name in asked]
    where, folder = resolve_device(device), out or Path("results") / suite
    progress = not quiet and sys.stderr.isatty()
    with claimed(folder):
        _say(f"suite {suite}, profile {profile}, on {where}, settings from {path}")
        rows = measure(resolved.settings, methods, profile, where, checkpoint, progress=progress)
        set_aside(folder, [SPEED_FILE], SPEED_FILE)
        shown = terminal(write_speed_report(rows, folder, resolved.title))
    if line := line_about(folder):
        _say(line)
    typer.echo(shown)
    typer.echo(f"report: {folder / 'report.html'}")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in _names(text))
    except ValueError:
        raise UserError(f"{option} takes comma-separated integers, got {text!r}")
    return numbers


@app.command(cls=Verb)
def speed(
    profile: ProfileOption = "quick",
    methods: Annotated[
        str, typer.Option("--methods", help="Comma-separated world models, also yours; lewm,pldm,fast-lewm,dino-wm,dino-wm:reencode if left out.")
    ] = "",
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
        Path | None, typer.Option("--checkpoint", help="A trained LeWM (`lewm-bench train --out`) instead of random weights.")
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

    chosen = _solver(solver)
    for option, text, main, swept in (
        ("--samples", samples, "planner.num_samples", "speed.samples"),
        ("--horizon", horizon, "planner.horizon", "speed.horizons"),
        ("--batch", batch, "speed.batch", "speed.batches"),
    ):
        numbers = _numbers(option, text)
        if numbers:
            chosen.append(f"{main}={numbers[0]}")
        if len(numbers) > 1:
            chosen.append(f"{swept}={list(numbers)}")
        if numbers and option == "--samples":
            chosen.append(f"planner.num_elites={min(numbers[0], PlannerConfig().num_elites)}")
        if numbers and option == "--horizon":
            chosen.append(f"planner.receding={min(numbers[0], PlannerConfig().receding)}")
    if iterations:
        chosen.append(f"planner.num_iterations={iterations}")
    if methods:
        chosen.append(f"speed.methods={list(_names(methods))}")
    modes = list(_names(dtype))
    if compiled:
        from lewm_bench.system.device import resolve_device

        modes = [*(modes or modes_of(resolve_device(device))), "compile"]
    if modes:
        chosen.append(f"speed.modes={modes}")
    _speed("speedup", profile, [*chosen, *(overrides or [])], device, out, config, quiet, checkpoint)


@app.command(cls=Verb)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Result folders, for example of several machines.")],
    out: Annotated[Path | None, typer.Option("--out", help="Default: the first folder.")] = None,
    title: Annotated[str, typer.Option("--title")] = "",
    pack: Annotated[
        bool, typer.Option("--pack", help="Also write all cells into one compressed file, cells.jsonl.xz, of --out.")
    ] = False,
) -> None:
    """Make tables, figures and the report page again from the cells of one or several result folders.

    Example: lewm-bench report results/pointmaze other-machine/pointmaze --out results/both
    """
    from lewm_bench.evaluation.speed_record import SPEED_FILE, load_speed
    from lewm_bench.report.speed import terminal as terminal_speed
    from lewm_bench.report.speed import write_speed_report
    from lewm_bench.report.tables import terminal
    from lewm_bench.report.write import write_report
    from lewm_bench.run.folder import claimed, set_aside
    from lewm_bench.run.records import load_cells
    from lewm_bench.system.files import copy_folder
    from lewm_bench.system.packed import write_packed
    from lewm_bench.understand.records import holds_understanding

    if any(map(holds_understanding, folders)):
        return _report_understanding(folders, out, title, pack)
    if all((folder / SPEED_FILE).is_file() for folder in folders):
        rows = [row for folder in folders for row in load_speed(folder)]
        target = out or folders[0]
        elsewhere = target not in folders
        with claimed(target):
            set_aside(target, [SPEED_FILE] if elsewhere else [], SPEED_FILE)
            shown = terminal_speed(write_speed_report(rows, target, title or "Planning time", records=elsewhere))
        typer.echo(shown)
        typer.echo(f"report: {target / 'report.html'}")
        return
    cells = load_cells(folders)
    target = out or folders[0]
    with claimed(target):
        for part in (folder / name for folder in folders for name in ("videos", "scenes")):
            if out is not None and part.is_dir():
                copy_folder(part, target / part.name)
        if pack:
            write_packed(folders, target)
        summary = write_report(cells, target, title or f"Suite {cells[0].suite}")
    typer.echo(terminal(summary))
    typer.echo(f"report: {target / 'report.html'}")


def _report_understanding(folders: list[Path], out: Path | None, title: str, pack: bool) -> None:
    """Tables, figures and page of examinations again."""
    from lewm_bench.report.understanding.report import terminal, write_understanding
    from lewm_bench.run.folder import claimed
    from lewm_bench.system.files import copy_folder
    from lewm_bench.system.packed import write_packed
    from lewm_bench.understand.records import PICTURES, load_records

    cells = load_records(folders)
    target = out or folders[0]
    with claimed(target):
        for folder in folders:
            if folder != target and (folder / PICTURES).is_dir():
                copy_folder(folder / PICTURES, target / PICTURES)
        if pack:
            write_packed(folders, target)
        shown = terminal(write_understanding(cells, target, title or f"Suite {cells[0].suite}"))
    typer.echo(shown)
    typer.echo(f"report: {target / 'report.html'}")


@app.command(cls=Verb)
def check(
    name: Annotated[
        str,
        typer.Argument(
            help="An environment: a Gymnasium id, also `their_package:TheirMaze-v0`, or one of --config. "
            "Or an agent, also `their_package.agents:MINE`."
        ),
    ],
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="The PNG of starts and goals; ENV.png in the working folder if left out."),
    ] = None,
    image_size: Annotated[int, typer.Option("--image-size", min=16, help="Pixels.")] = 64,
    overrides: SetOption = None,
    config: ConfigOption = None,
) -> None:
    """Hold an environment or an agent to the contract of the benchmark and say what to mend.

    Pairs of an environment are drawn as a run would; --set is for the settings of an agent.

    Example: lewm-bench check lewm_bench/PointMaze-UMaze-v0; lewm-bench check their_package.agents:MINE
    """
    from lewm_bench.data.adapt import AdaptedEnv
    from lewm_bench.data.check import check_goal_env, contact_sheet
    from lewm_bench.run.registry import is_agent, make_env
    from lewm_bench.system.faults import attempted, told
    from lewm_bench.system.filenames import env_stem
    from lewm_bench.system.files import write_bytes

    if is_agent(name):
        from lewm_bench.run.agent_check import check_agent
        from lewm_bench.run.benchmarks import find_file, load

        if sheet is not None:
            raise UserError(f"--sheet draws an environment, and {name} is an agent")
        if not _well(check_agent(name, load(find_file(config)), overrides or ())):
            raise typer.Exit(1)
        return
    if overrides:
        raise UserError(f"--set is for the settings of an agent, and {name} is none")
    spec, offset = _spec_of(name, config)
    made = make_env(spec.id, image_size, spec.kwargs, spec.adapt)
    if isinstance(made, AdaptedEnv):
        typer.echo(f"      vector: {made.described()}")
    kept = _well(check_goal_env(made))
    drawn = attempted(lambda: contact_sheet(made, offset))
    if isinstance(drawn, bytes):
        path = sheet or Path(f"{env_stem(spec.label)}.png")
        write_bytes(path, drawn)
        typer.echo(f"starts and their goals, {offset} steps ahead: {path}")
    else:
        typer.echo(f"starts and their goals cannot be drawn: {told(drawn)}")
    if not kept or not isinstance(drawn, bytes):
        raise typer.Exit(1)


def _well(findings: Iterable[Finding]) -> bool:
    """Whether all findings are well; each is said in a line as soon as it is there."""
    well = True
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'MEND'}  {finding.name}: {finding.detail}")
        well &= finding.ok
    return well


def _spec_of(env: str, config: Path | None):
    """The environment of that id or, in the suites of the file, of that name, and how far ahead a run's first goals are."""
    import gymnasium as gym

    from lewm_bench.evaluation.episodes import EvalConfig
    from lewm_bench.run.benchmarks import EnvSpec, find_file, load
    from lewm_bench.run.registry import agent_names, environment_ids
    from lewm_bench.run.resolve import resolve
    from lewm_bench.system.elsewhere import elsewhere

    bench = load(find_file(config))
    named = {spec.label: name for name, suite in reversed(bench.suites.items()) for spec in suite.envs}  # the first
    if env not in named and ":" not in env and env not in (known := environment_ids()) and env not in gym.registry:
        raise elsewhere(env) or unknown("environment or agent", env, {*known, *named, *agent_names()})
    if env not in named:
        return EnvSpec(id=env), EvalConfig().goal_offset[0]
    profile = "quick" if "quick" in bench.profiles else next(iter(bench.profiles), "quick")
    suite = resolve(bench, named[env], profile, envs=[env])
    (spec,) = (spec for spec in bench.suites[named[env]].envs if spec.label == env)
    return spec, suite.of(spec).settings.evaluate.goal_offset[0]


@app.command(cls=Verb)
def doctor(cache: CacheOption = None) -> None:
    """Say what works on this machine, and the command that mends the rest.

    Example: lewm-bench doctor
    """
    from lewm_bench.system.doctor import diagnose

    for item in diagnose(cache):
        remedy = f"\n        -> {item.remedy}" if item.remedy and item.status != "ok" else ""
        typer.echo(f"{item.status:<4}  {item.name}: {item.detail}{remedy}")


def _version(value: bool) -> None:
    if value:
        typer.echo(lewm_bench.__version__)
        raise typer.Exit()


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
    # Our own warnings (a damaged cache entry, another process at work) are for users; those of libraries are not.
    logging.getLogger("lewm_bench").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        warnings.filterwarnings("ignore")


INTERRUPTED = 130  # what a shell expects of a program that Control-C ended


SPIN = "10000"
"""How long an idle OpenMP thread spins before it sleeps. By default (some 10^5) one busy program beside us costs a
factor of 20 to 40 on two cores: 2.1 s instead of 0.06 s per training step. With this it is 0.2 s, and 5 % alone."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def _keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the kernel.

    Activations of some megabytes come and go with every layer; without this each one is mapped and zeroed anew, 40,000
    page faults per iteration of the planner at paper size. Other C libraries are left alone.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 2**30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is imported, which is later
    limit_threads(os.environ)
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # pygame's SDL takes those that nobody has, and swallows
    _keep_memory()
    try:
        with stopping():
            status = app(sys.argv[1:] or ["--help"], prog_name="lewm-bench", standalone_mode=False)
        if status == INTERRUPTED:  # some versions of typer return it
            raise KeyboardInterrupt
    except Stopped as stopped:
        with suppress(OSError):  # the terminal may be what is gone
            _fail(str(stopped), stopped.status)
        status = stopped.status
    except (UserError, NotRun) as error:
        status = _fail(str(error), 2)
    except TrainingFailed as error:
        status = _fail(str(error), 1)
    except UsageProblem as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "lewm-bench"
        status = _fail(f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`", 2)
    except Explained as error:
        status = _fail(str(error), error.status)
    except BrokenPipeError:  # `lewm-bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (typer.Abort, KeyboardInterrupt):
        status = _fail(str(Stopped(signal.SIGINT)), INTERRUPTED)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    typer.echo(f"lewm-bench: {one_line(message)}", err=True)
    return status
