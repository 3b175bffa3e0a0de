"""A suite of the file, its profile and the command line, to jobs with settings.

One syntax for a deviation everywhere: nested keys in YAML, the same path with dots in ``--set lewm.train.steps=500``.
Precedence, last wins: class defaults, the profile, the environment's own block and its part for the profile, the suite,
the suite's part for the profile, what the suite says of the environment, ``--planner``, ``--set``.

A suite lists what runs of it in a profile; what the command line names by itself wins over that list: ``--agents X``
(the word ``all`` names nobody) an agent that is left out, ``--seeds`` the seeds, and with them who has none,
``--set evaluate.goal_offset=`` the offsets, ``--set evaluate.num_pairs=`` the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lewm_bench.agent import AgentConfig
from lewm_bench.agents import AGENTS
from lewm_bench.core.config import Config, deep_merge
from lewm_bench.core.errors import NotRun, PluginError, UserError, short_repr, unknown
from lewm_bench.core.names import canonical, names_steps, parse_agent, settings_of, value_of
from lewm_bench.core.renamed import renamed
from lewm_bench.evaluation.episodes import EvalConfig
from lewm_bench.evaluation.protocol import Protocol
from lewm_bench.evaluation.shift import SHIFT_1
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.benchmarks import (
    ADDED,
    ALL,
    AgentPart,
    Benchmarks,
    EnvPart,
    EnvSpec,
    Kind,
    Part,
    Recipe,
    SuiteSpec,
    planner_named,
)
from lewm_bench.run.environments import environment_ids
from lewm_bench.run.names import agent_names
from lewm_bench.run.registry import agent_family
from lewm_bench.run.settings import Settings
from lewm_bench.run.validation import checked

PLANNER = "planner"  # the settings in an agent's name that are the planner's


class Job(Config):
    """One cell: an agent in an environment with a seed, at these goal offsets."""

    env: EnvSpec
    agent: str
    seed: int
    goal_offset: tuple[int, ...]
    num_pairs: int
    protocol: str  # one of protocol.PROTOCOLS


class Resolved(Config):
    """Settings after all layers."""

    settings: Settings
    agent_settings: dict[str, dict[str, Any]]

    def agent_config(self, agent: str) -> AgentConfig:
        """The resolved config of ``agent``, with its variant, the settings in its name and the common budget."""
        config = configure(agent, self.agent_settings)
        steps = self.settings.training.steps
        if steps is None or not shares_budget(agent):
            return config
        return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps, "epochs": None})})

    def planner(self, agent: str) -> PlannerConfig:
        """The planner's config, with the settings in the agent's name.

        Raises:
            UserError: they are not valid, or the agent does not plan.
        """
        own = named_settings(agent).get(PLANNER)
        if own is None:
            return self.settings.planner
        if not agent_family(agent).plans:
            raise UserError(f"{parse_agent(agent).base} does not plan; leave {PLANNER}. out of {agent!r}")
        merged = deep_merge(self.settings.planner.model_dump(), own)
        return checked(lambda: PlannerConfig.model_validate(merged), PLANNER, PlannerConfig)


class Suite(Resolved):
    """A suite with everything resolved. Its own settings are those of its first environment, if any; see ``of``."""

    name: str
    title: str
    profile: str
    jobs: tuple[Job, ...]
    by_env: dict[str, Resolved]
    kind: Kind = "evaluate"

    def of(self, env: EnvSpec) -> Resolved:
        """What holds in an environment."""
        return self.by_env[env.label]

    @property
    def envs(self) -> tuple[EnvSpec, ...]:
        """Its environments, in order."""
        return tuple({job.env.label: job.env for job in self.jobs}.values())


class CommandLine(NamedTuple):
    """What the command line names by itself, which wins over what the suite lists."""

    agents: frozenset[str]
    seeds: tuple[int, ...]
    goal_offset: bool
    num_pairs: bool


def resolve(
    bench: Benchmarks,
    suite: str,
    profile: str,
    *,
    agents: Sequence[str] = (),
    seeds: Sequence[int] = (),
    envs: Sequence[str] = (),
    overrides: Sequence[str] = (),
    planner: str = "",
) -> Suite:
    """The suite's jobs and settings.

    Raises:
        UserError: an unknown suite, profile, planner, agent, environment or setting, with the nearest match.
    """
    if suite not in bench.suites:
        raise unknown("suite", suite, bench.suites)
    if profile not in bench.profiles:
        raise unknown("profile", profile, bench.profiles)
    spec = bench.suites[suite]
    part = spec.profiles.get(profile, Part())
    check_recipes(bench)
    settings = parse_overrides(overrides)
    searching = {PLANNER: planner_named(bench, planner)} if planner else {}
    chosen_agents = choose_agents(agents, spec)
    if spec.kind == "understand":
        check_world_models(chosen_agents)

    def resolved(env: EnvSpec | None) -> Resolved:
        return resolve_settings(
            deep_merge(merged_layers(bench, spec, profile, env), searching), settings, chosen_agents
        )

    envs_of = select_envs(spec, envs)
    by_env = {env.label: resolved(env) for env in envs_of}
    evaluation = settings.get("evaluate")
    given = evaluation if isinstance(evaluation, dict) else {}  # anything else is refused with the settings
    line = CommandLine(named(agents), tuple(dict.fromkeys(seeds)), "goal_offset" in given, "num_pairs" in given)
    jobs = [
        job
        for env in envs_of
        for agent in chosen_agents
        for job in jobs_of(spec, part, env, agent, by_env[env.label].settings.evaluate, line)
    ]
    if spec.kind == "shift":
        check_shift(suite, by_env)
    # A suite that has environments is described by theirs; what holds without one may contradict itself.
    base = by_env[envs_of[0].label] if envs_of else resolved(None)
    return Suite(
        name=suite,
        title=spec.title,
        profile=profile,
        settings=base.settings,
        agent_settings=base.agent_settings,
        jobs=tuple(jobs),
        by_env=by_env,
        kind=spec.kind,
    )


def merged_layers(bench: Benchmarks, spec: SuiteSpec, profile: str, env: EnvSpec | None) -> dict[str, Any]:
    """The settings of the file for an environment of a suite, the last layer winning."""
    recipe = bench.environments.get(env.id, Recipe()) if env else Recipe()
    own = (recipe.settings, recipe.profiles.get(profile, {}))
    part = spec.profiles.get(profile, Part())
    merged: dict[str, Any] = {}
    for layer in (bench.profiles[profile], *own, spec.settings, part.settings, env.settings if env else {}):
        merged = deep_merge(merged, renamed(layer))
    return merged


def resolve_settings(merged: Mapping[str, Any], overrides: Mapping[str, Any], agents: Sequence[str]) -> Resolved:
    """``merged`` with ``overrides``, and both checked for these agents."""
    settings, agent_settings = split_settings(deep_merge(merged, overrides))
    found = Resolved(settings=settings, agent_settings=agent_settings)
    for agent in agents:
        check_agent(agent, agent_settings)
        if named_settings(agent).get(PLANNER):
            found.planner(agent)
    return found


def named(agents: Sequence[str]) -> frozenset[str]:
    """The agents that the command line names by themselves: beside ``all`` only those that it does not stand for."""
    names = {canonical(name.removeprefix(ADDED)) for name in agents if name != ALL}
    return frozenset(name for name in names if ALL not in agents or parse_agent(name).base not in AGENTS)


def jobs_of(
    spec: SuiteSpec, part: Part, env: EnvSpec, agent: str, evaluate: EvalConfig, line: CommandLine
) -> list[Job]:
    """The jobs of an agent in an environment, by protocol and seed."""
    lists = list_of(part, env.label, agent)
    seeds = line.seeds or tuple(dict.fromkeys(part.seeds or spec.seeds))
    offsets, pairs = evaluate.goal_offset, evaluate.num_pairs
    for each in lists:
        left_out = each.seeds == ()
        if each.seeds is not None and not line.seeds and not (left_out and agent in line.agents):
            seeds = tuple(seed for seed in seeds if seed in each.seeds)
        if each.goal_offset is not None and not line.goal_offset:
            offsets = tuple(offset for offset in offsets if offset in each.goal_offset)
        if each.num_pairs is not None and not line.num_pairs:
            pairs = min(pairs, each.num_pairs)
    if not offsets:
        return []
    return [
        Job(env=env, agent=agent, seed=seed, goal_offset=offsets, num_pairs=pairs, protocol=rules.id)
        for rules in rules_of(spec.kind, evaluate)
        for seed in seeds
    ]


def rules_of(kind: Kind, evaluate: EvalConfig) -> Sequence[Protocol]:
    """The protocols of a suite's cells; who looks into models has no pairs, and who changes the world a protocol of that."""
    if kind == "shift":
        return (SHIFT_1,)
    return evaluate.rules[:1] if kind == "understand" else evaluate.rules


def check_shift(suite: str, by_env: Mapping[str, Resolved]) -> None:
    """Raise a UserError for settings that a suite cannot have that changes the world."""
    for label, found in by_env.items():
        evaluate = found.settings.evaluate
        if len(evaluate.goal_offset) != 1:
            raise UserError(
                f"{suite} changes the world at one goal offset; evaluate.goal_offset is {list(evaluate.goal_offset)} "
                f"in {label}"
            )
        if evaluate.protocol != EvalConfig().protocol:
            raise UserError(f"the protocol of {suite} is {SHIFT_1.id}; leave evaluate.protocol out")


def list_of(part: Part, label: str, agent: str) -> list[AgentPart]:
    """What a suite lists of an agent in an environment; what runs is in all of them."""
    here = part.envs.get(label, EnvPart())
    everybody = AgentPart(seeds=here.seeds)
    out = here.only is not None and not {agent, parse_agent(agent).base} & {*here.only}
    found = [most_specific(part.agents, agent), everybody, most_specific(here.agents, agent)]
    return [each for each in (*found, AgentPart(seeds=()) if out else None) if each is not None]


def most_specific(parts: Mapping[str, AgentPart], agent: str) -> AgentPart | None:
    """What is listed under an agent's own name, else under its base."""
    return parts.get(agent, parts.get(parse_agent(agent).base))


def check_recipes(bench: Benchmarks) -> None:
    """Raise a UserError for a block of settings that no environment would ever read."""
    used = {env.id for suite in bench.suites.values() for env in suite.envs}
    for env_id in bench.environments:
        if env_id not in used and ":" not in env_id and env_id not in environment_ids():
            raise UserError(f"environments: {unknown('environment', env_id, [*used, *environment_ids()])}")


def select_envs(spec: SuiteSpec, wanted: Sequence[str]) -> tuple[EnvSpec, ...]:
    """The suite's environments, or those of them that were asked for."""
    known = {e.label: e for e in spec.envs}
    for name in wanted:
        if name not in known:
            raise unknown("environment of this suite", name, known)
    return tuple(known[name] for name in dict.fromkeys(wanted or known))


def configure(agent: str, agent_settings: Mapping[str, dict[str, Any]]) -> AgentConfig:
    """The checked config of ``agent``, variant included."""
    name, family = parse_agent(agent), agent_family(agent)
    own = {key: value for key, value in named_settings(agent).items() if key != PLANNER}

    def make() -> AgentConfig:
        config = family.configure(agent_settings.get(name.base, {}), name.variant)
        if not isinstance(config, AgentConfig):
            raise UserError(f"{name.base}: configure returned {short_repr(config)}, not a lewm_bench.agent.AgentConfig")
        return type(config)(**deep_merge(config.model_dump(), own)) if own else config  # a name's settings win

    return checked(make, name.base, family.Config)


def named_settings(agent: str) -> dict[str, Any]:
    """The settings in an agent's name, nested.

    Raises:
        UserError: they are not PATH=VALUE.
    """
    merged = settings_of(agent)
    if not isinstance(merged.get(PLANNER, {}), dict):
        example = f"{parse_agent(agent).trained}:{PLANNER}.solver=icem"
        raise UserError(f"agent {short_repr(agent)}: {PLANNER} has settings of its own, for example {example}")
    return merged


def shares_budget(agent: str) -> bool:
    """Whether the common training budget is for this agent: it learns from the dataset and names no steps itself.

    What is built on another agent has had that budget in its base.
    """
    family = agent_family(agent)
    return family.trainable and family.kind != "privileged" and not family.on_base and not names_steps(agent)


def choose_agents(wanted: Sequence[str], spec: SuiteSpec) -> tuple[str, ...]:
    """The agents that names on the command line stand for, each once.

    None are the suite's own, ``all`` every one behind those; names replace the suite's agents, ``+name`` adds to them.

    Raises:
        UserError: some replace and some add.
    """
    added = [name.removeprefix(ADDED) for name in wanted if name.startswith(ADDED)]
    others = [name for name in wanted if not name.startswith(ADDED)]
    if added and (replacing := [name for name in others if name != ALL]):
        raise UserError(
            f"--agents: {replacing[0]} replaces the suite's agents and {ADDED}{added[0]} adds to them; "
            f"write {ADDED} before all of them or before none"
        )
    found: list[str] = [] if others and not added else [*spec.agents]
    for name in [*others, *added]:
        found += [*spec.agents, *unlisted(spec)] if name == ALL else [canonical(name)]
    return tuple(dict.fromkeys(found))


def unlisted(spec: SuiteSpec) -> list[str]:
    """The agents of this package that a suite does not name and could run."""
    names = [name for name in AGENTS if name not in spec.agents]
    return [name for name in names if spec.kind != "understand" or is_world_model(name)]


def is_world_model(agent: str) -> bool:
    """Whether an agent has latents to look into, as far as that can be told without the package that it may need."""
    try:
        return agent_family(agent).kind == "world model"
    except (NotRun, PluginError):
        return True


def check_world_models(agents: Sequence[str]) -> None:
    """Raise a UserError for the first agent that is none."""
    for agent in agents:
        if not is_world_model(agent):
            known = ", ".join(filter(is_world_model, AGENTS))
            raise UserError(f"{agent} is not a world model, so there is nothing to look into; world models: {known}")


def check_agent(agent: str, agent_settings: Mapping[str, dict[str, Any]]) -> None:
    """Raise a UserError unless the agent exists and its settings are valid; a missing package is the cell's matter."""
    try:
        configure(agent, agent_settings)
    except (NotRun, PluginError):
        return


def split_settings(merged: Mapping[str, Any]) -> tuple[Settings, dict[str, dict[str, Any]]]:
    """Common settings and, for every agent named, its own; all checked."""
    common = {k: v for k, v in merged.items() if k in Settings.model_fields}
    rest = {k: v for k, v in merged.items() if k not in common}
    names = agent_names()
    for key, value in rest.items():
        if key not in names and "." not in key:
            raise unknown("setting or agent", key, [*Settings.model_fields, *names])
        if not isinstance(value, dict):
            raise UserError(f"{key} has settings of its own ({key}.KEY), got {short_repr(value)}")
        check_agent(key, rest)
    return checked(lambda: Settings.model_validate(common), "", Settings), rest


def split_path(path: str) -> list[str]:
    """``lewm.train.steps`` to its parts; dots of a ``their_pkg.agents:MINE`` in front belong to that name."""
    module, colon, rest = path.rpartition(":")
    first, *others = rest.split(".")
    return [f"{module}{colon}{first}", *others]


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["planner.num_samples=64"]`` to nested dictionaries; values are YAML."""
    merged: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        path = path.strip()
        if not equals or not all(split_path(path)):
            raise UserError(
                f"--set takes KEY=VALUE with a dotted key, for example planner.num_samples=64, got {pair!r}"
            )
        merged = deep_merge(merged, override(path, text))
    return renamed(merged)


def override(path: str, text: str) -> dict[str, Any]:
    """A dotted path and a YAML value to nested dictionaries."""
    value = value_of(text, path)
    for key in reversed(split_path(path)):
        value = {key: value}
    return value
