"""The verb that shows what there is."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import ConfigOption
from lewm_bench.core.errors import NotRun, PluginError, UserError, unknown
from lewm_bench.core.names import parse_agent

if TYPE_CHECKING:
    from lewm_bench.run.benchmarks import Benchmarks

SETTINGS = "settings"


def list_(
    what: Annotated[str, typer.Argument(help="suites, envs, agents, profiles, planners or protocols, each described; the names of all if left out. Or settings.")] = "",
    path: Annotated[str, typer.Argument(help="Of settings: planner, lewm.train; the common ones if left out.")] = "",
    config: ConfigOption = None,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Of settings: also what this profile makes of them.")] = "",
) -> None:  # fmt: skip
    """Show the suites, environments, agents, profiles, planners and protocols that there are, or what can be set.

    Example: lewm-bench list agents; lewm-bench list settings planner
    """
    from lewm_bench.run.benchmarks import find_file, load

    file = find_file(config)
    bench = load(file)
    if what == SETTINGS:
        return _list_settings(path, bench, profile)
    if path or profile:
        raise UserError("a path and --profile are for `lewm-bench list settings`")
    if not what:
        return _overview(bench)
    sections = {
        "suites": _suites,
        "envs": _envs,
        "agents": _agents,
        "profiles": lambda bench: _beside(bench.profiles, lambda name: f"from {file}"),
        "planners": _planners,
        "protocols": _protocols,
    }
    if what not in sections:
        raise unknown("list", what, [*sections, SETTINGS])
    typer.echo(f"{what}:")
    for name, described in sections[what](bench):  # one by one: making an environment to look at it takes up to seconds
        typer.echo(f"  {name}  {described}")


def _overview(bench: Benchmarks) -> None:
    """The names of everything; nothing that takes long to import is needed for them."""
    from lewm_bench.evaluation.protocol import CHOICES
    from lewm_bench.run.benchmarks import planners
    from lewm_bench.run.environments import environment_ids
    from lewm_bench.run.names import agent_names

    sections = {
        "suites": [f"{name}: {suite.title}" for name, suite in bench.suites.items()],
        "envs": environment_ids(),
        "agents": [", ".join(agent_names())],
        "profiles": [", ".join(bench.profiles)],
        "planners": [", ".join(planners(bench))],
        "protocols": [", ".join(CHOICES)],
    }
    for title, lines in sections.items():
        typer.echo(f"{title}  (`lewm-bench list {title}` describes them)")
        for line in lines:
            typer.echo(
                textwrap.fill(line, shutil.get_terminal_size().columns, initial_indent="  ", subsequent_indent="    ")
            )
    typer.echo(f"what can be set: `lewm-bench list {SETTINGS}`")


Described = Iterator[tuple[str, str]]
"""Names, as wide as the widest, and what there is to say of each."""


def _beside(names: Iterable[str], describe: Callable[[str], str]) -> Described:
    names = list(names)
    width = max(map(len, names), default=0)
    return ((f"{name:<{width}}", describe(name)) for name in names)


def _suites(bench: Benchmarks) -> Described:
    return _beside(bench.suites, lambda name: f"{bench.suites[name].title}{_contents(bench.suites[name])}")


def _envs(bench: Benchmarks) -> Described:
    from lewm_bench.run.environments import environment_ids

    return _beside(environment_ids(), _env_line)


def _agents(bench: Benchmarks) -> Described:
    from lewm_bench.run.names import agent_names

    return _beside(agent_names(), _agent_line)


def _planners(bench: Benchmarks) -> Described:
    from lewm_bench.core.names import written
    from lewm_bench.run.benchmarks import planners

    known = planners(bench)
    return _beside(known, lambda name: ", ".join(f"{key}={written(value)}" for key, value in known[name].items()))


def _protocols(bench: Benchmarks) -> Described:
    from lewm_bench.evaluation.protocol import CHOICES

    return _beside(CHOICES, lambda name: _protocol_line(CHOICES[name]))


def _list_settings(path: str, bench: Benchmarks, profile: str) -> None:
    """Print the settings at a path, or all common ones and whose others there are."""
    from lewm_bench.cli.settings import common_settings, laid_out, settings_at
    from lewm_bench.run.names import agent_names

    found = settings_at(path, bench, profile) if path else common_settings(bench, profile)
    typer.echo(laid_out(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    if not path:
        typer.echo(f"\nagents, each with its own (`lewm-bench list settings lewm`): {', '.join(agent_names())}")


def _protocol_line(rules) -> str:
    protocol, *_ = rules
    episodes = "held-out" if protocol.held_out else {"train": "training", "all": "all"}[protocol.rows_of]
    goals = "the environment's own tasks" if protocol.from_tasks else f"{episodes} episodes"
    strata = " and ".join(one.stratum for one in rules if one.stratum)
    return f"success {' and '.join(protocol.success)}, {goals}{f', {strata} pairs' if strata else ''}"


def _contents(suite) -> str:
    if suite.kind == "speed":
        return ""
    names = [parse_agent(agent) for agent in suite.agents]
    ablations = Counter(name.trained for name in names if name.settings)
    agents = (f"{agent}{_ablations(ablations[agent])}" for agent in dict.fromkeys(name.trained for name in names))
    envs = "1 env" if len(suite.envs) == 1 else f"{len(suite.envs)} envs"
    return f" ({envs}, agents {', '.join(agents)})"


def _ablations(count: int) -> str:
    return f" ({count} ablation{'' if count == 1 else 's'})" if count else ""


def _env_line(env_id: str) -> str:
    from lewm_bench.data.adapt import AdaptedEnv
    from lewm_bench.run.environments import make_env, origin
    from lewm_bench.system.faults import error_line, result_or_error

    env = result_or_error(lambda: make_env(env_id, 64))
    if isinstance(env, Exception):
        return f"unavailable: {env if isinstance(env, (UserError, NotRun)) else error_line(env)}"
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
