"""The verb that holds an environment or an agent to the contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import ConfigOption, SetOption
from lewm_bench.core.errors import UserError, unknown

if TYPE_CHECKING:
    from lewm_bench.data.check import Finding


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
        typer.Option(
            "--sheet",
            help="The PNG of starts and goals, beside it *-factors.png; ENV.png in the working folder if left out.",
        ),
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
    from lewm_bench.data.check import SHEET_PAIRS, check_goal_env, contact_sheet, exploration_pairs
    from lewm_bench.data.factor_sheet import factor_sheet
    from lewm_bench.run.environments import make_env
    from lewm_bench.run.registry import is_agent
    from lewm_bench.system.faults import error_line, result_or_error
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
    path = sheet or Path(f"{env_stem(spec.label)}.png")
    pictures = {
        f"starts and their goals, {offset} steps ahead": (path, lambda: contact_sheet(made, offset)),
        "factors of changed worlds": (
            path.with_stem(f"{path.stem}-factors"),
            lambda: factor_sheet(made, exploration_pairs(made, offset, SHEET_PAIRS)[0]),
        ),
    }
    for what, (place, draw) in pictures.items():
        drawn = result_or_error(draw)
        kept &= isinstance(drawn, bytes)
        if isinstance(drawn, bytes):
            write_bytes(place, drawn)
            typer.echo(f"{what}: {place}")
        else:
            typer.echo(f"{what.partition(',')[0]} cannot be drawn: {error_line(drawn)}")
    if not kept:
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
    from lewm_bench.run.environments import environment_ids
    from lewm_bench.run.names import agent_names
    from lewm_bench.run.resolve import resolve
    from lewm_bench.system.known_packages import package_hint

    bench = load(find_file(config))
    named = {spec.label: name for name, suite in reversed(bench.suites.items()) for spec in suite.envs}  # the first
    if env not in named and ":" not in env and env not in (known := environment_ids()) and env not in gym.registry:
        raise package_hint(env) or unknown("environment or agent", env, {*known, *named, *agent_names()})
    if env not in named:
        return EnvSpec(id=env), EvalConfig().goal_offset[0]
    profile = "quick" if "quick" in bench.profiles else next(iter(bench.profiles), "quick")
    suite = resolve(bench, named[env], profile, envs=[env])
    (spec,) = (spec for spec in bench.suites[named[env]].envs if spec.label == env)
    return spec, suite.of(spec).settings.evaluate.goal_offset[0]
