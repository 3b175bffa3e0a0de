"""The verb that shows what there is."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import ConfigOption
from lewm_bench.core.errors import NotRun, PluginError, UserError, unknown
from lewm_bench.core.names import parse_agent

if TYPE_CHECKING:
    from lewm_bench.run.benchmarks import Benchmarks

SETTINGS = "settings"


def list_(
    what: Annotated[str, typer.Argument(help="suites, envs, agents, profiles or protocols; all if left out. Or settings.")] = "",
    path: Annotated[str, typer.Argument(help="Of settings: planner, lewm.train; the common ones if left out.")] = "",
    config: ConfigOption = None,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Of settings: also what this profile makes of them.")] = "",
) -> None:  # fmt: skip
    """Show the suites, environments, agents, profiles and protocols that there are, or what can be set.

    Example: lewm-bench list agents; lewm-bench list settings planner
    """
    from lewm_bench.evaluation.protocol import CHOICES
    from lewm_bench.run.benchmarks import find_file, load
    from lewm_bench.run.registry import agent_names, environment_ids

    file = find_file(config)
    bench = load(file)
    if what == SETTINGS:
        return _list_settings(path, bench, profile)
    if path or profile:
        raise UserError("a path and --profile are for `lewm-bench list settings`")
    # Described one by one while they are printed: making an environment to look at it takes up to seconds.
    sections = {
        "suites": (bench.suites, lambda name: f"{bench.suites[name].title}{_contents(bench.suites[name])}"),
        "envs": (environment_ids(), _env_line),
        "agents": (agent_names(), _agent_line),
        "profiles": (bench.profiles, lambda name: f"from {file}"),
        "protocols": (CHOICES, lambda name: _protocol_line(CHOICES[name])),
    }
    if what and what not in sections:
        raise unknown("list", what, [*sections, SETTINGS])
    for title, (names, describe) in sections.items():
        if what in ("", title):
            width = max(map(len, names), default=0)
            typer.echo(f"{title}:")
            for name in names:
                typer.echo(f"  {name:<{width}}  {describe(name)}")
            typer.echo()


def _list_settings(path: str, bench: Benchmarks, profile: str) -> None:
    """Print the settings at a path, or all common ones and whose others there are."""
    from lewm_bench.cli.settings import common_settings, laid_out, settings_at
    from lewm_bench.run.registry import agent_names

    found = settings_at(path, bench, profile) if path else common_settings(bench, profile)
    typer.echo(laid_out(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    if not path:
        typer.echo(f"\nagents, each with its own (`lewm-bench list settings lewm`): {', '.join(agent_names())}")


def _protocol_line(rules) -> str:
    protocol, *_ = rules
    episodes = "held-out" if protocol.held_out else "training"
    strata = " and ".join(one.stratum for one in rules if one.stratum)
    return f"success {' and '.join(protocol.success)}, {episodes} episodes{f', {strata} pairs' if strata else ''}"


def _contents(suite) -> str:
    if suite.speed:
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
    return f"{family.kind}{', trained' if family.trainable else ''}: {family.summary}"
