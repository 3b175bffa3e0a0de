"""benchmarks.yaml to a resolved suite: which environments, agents, seeds and goal offsets, with which settings.

One syntax for a deviation everywhere: nested keys in YAML, the same path with dots in ``--set lewm.train.steps=500``.
Precedence, last wins: class defaults, the profile, the suite, the suite's part for the profile, ``--set``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

import lewm_bench
from lewm_bench.collect import CollectConfig
from lewm_bench.config import Config, deep_merge
from lewm_bench.errors import NotRun, UserError, unknown
from lewm_bench.evaluate import EvalConfig
from lewm_bench.planning import CEMConfig
from lewm_bench.registry import agent_family, agent_names, split_agent

FILE = "benchmarks.yaml"


class Settings(Config):
    """What is common to all agents of a run. The keys beside these are agents' names."""

    image_size: int = Field(224, ge=16, le=512)
    collect: CollectConfig = CollectConfig()
    evaluate: EvalConfig = EvalConfig()
    cem: CEMConfig = CEMConfig()


class EnvSpec(Config):
    """An environment of a suite: a Gymnasium id, or with arguments under a name of its own."""

    id: str
    name: str = ""
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """What rows and folders call it."""
        return self.name or self.id


class Limit(Config):
    """Cells that a suite leaves out: for the named agents and environments (all if empty) only these seeds, offsets."""

    agents: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    goal_offset: tuple[int, ...] | None = None


class Part(Config):
    """What a suite says for one profile."""

    seeds: tuple[int, ...] | None = None
    limits: tuple[Limit, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)


class SuiteSpec(Config):
    """One block of ``suites``."""

    title: str
    envs: tuple[str | EnvSpec, ...] = Field(min_length=1)
    agents: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[str, Part] = Field(default_factory=dict)


class Benchmarks(Config):
    """The whole file."""

    profiles: dict[str, dict[str, Any]]
    suites: dict[str, SuiteSpec]


class Job(Config):
    """One cell: an agent in an environment with a seed, at these goal offsets."""

    env: EnvSpec
    agent: str
    seed: int
    goal_offset: tuple[int, ...]


class Suite(Config):
    """A suite with everything resolved."""

    name: str
    title: str
    profile: str
    settings: Settings
    agent_settings: dict[str, dict[str, Any]]
    jobs: tuple[Job, ...]

    @property
    def envs(self) -> tuple[EnvSpec, ...]:
        """Its environments, in order."""
        return tuple({job.env.label: job.env for job in self.jobs}.values())

    def agent_config(self, agent: str):
        """The resolved config of ``agent``, variant included."""
        base, variant = split_agent(agent)
        overrides = self.agent_settings.get(base, {})
        return checked(lambda: agent_family(agent).configure(overrides, variant), base)


def find_file(config: Path | None) -> Path:
    """The benchmarks.yaml to use: the one given, else the working folder's, else the package's."""
    if config is not None:
        if not config.is_file():
            raise UserError(f"no file {config}; --config names a benchmarks.yaml")
        return config
    places = [Path.cwd(), *map(Path, lewm_bench.__path__)]
    for place in places:
        if (place / FILE).is_file():
            return place / FILE
    raise UserError(f"no {FILE} in {', '.join(map(str, places))}; give one with --config")


def load(path: Path) -> Benchmarks:
    """The parsed and checked file.

    Raises:
        UserError: not YAML, or not of this structure, with the place.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}")
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold the keys 'profiles' and 'suites'")
    return checked(lambda: Benchmarks(**data), str(path))


def resolve(
    bench: Benchmarks,
    suite: str,
    profile: str,
    *,
    agents: Sequence[str] = (),
    seeds: Sequence[int] = (),
    envs: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Suite:
    """The suite's jobs and settings. What is asked for explicitly is run, whatever the suite's limits leave out.

    Raises:
        UserError: an unknown suite, profile, agent, environment or setting, with the nearest match.
    """
    if suite not in bench.suites:
        raise unknown("suite", suite, bench.suites)
    if profile not in bench.profiles:
        raise unknown("profile", profile, bench.profiles)
    spec = bench.suites[suite]
    part = spec.profiles.get(profile, Part())
    command_line = parse_overrides(overrides)
    merged: dict[str, Any] = {}
    for layer in (bench.profiles[profile], spec.settings, part.settings, command_line):
        merged = deep_merge(merged, layer)
    settings, agent_settings = split_settings(merged)
    chosen_agents = tuple(dict.fromkeys(agents)) or spec.agents
    for agent in chosen_agents:
        check_agent(agent, agent_settings)
    env_specs = select_envs(spec, envs)
    explicit_offsets = "goal_offset" in command_line.get("evaluate", {})
    limits = () if agents and seeds and explicit_offsets else part.limits
    jobs = []
    for env in env_specs:
        for agent in chosen_agents:
            for seed, offsets in cells(env, agent, spec, part, limits, seeds, explicit_offsets, settings):
                jobs.append(Job(env=env, agent=agent, seed=seed, goal_offset=offsets))
    return Suite(
        name=suite,
        title=spec.title,
        profile=profile,
        settings=settings,
        agent_settings=agent_settings,
        jobs=tuple(jobs),
    )


def cells(
    env: EnvSpec,
    agent: str,
    spec: SuiteSpec,
    part: Part,
    limits: Sequence[Limit],
    seeds: Sequence[int],
    explicit_offsets: bool,
    settings: Settings,
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(seed, goal offsets) of one agent in one environment, after the limits that no explicit choice lifts."""
    chosen = tuple(seeds) or part.seeds or spec.seeds
    offsets = settings.evaluate.goal_offset
    for limit in limits:
        names = {agent, split_agent(agent)[0]}
        if (limit.agents and not names & set(limit.agents)) or (limit.envs and env.label not in limit.envs):
            continue
        if limit.seeds is not None and not seeds:
            chosen = tuple(s for s in chosen if s in limit.seeds)
        if limit.goal_offset is not None and not explicit_offsets:
            offsets = tuple(o for o in offsets if o in limit.goal_offset)
    if offsets:
        yield from ((seed, offsets) for seed in dict.fromkeys(chosen))


def select_envs(spec: SuiteSpec, wanted: Sequence[str]) -> tuple[EnvSpec, ...]:
    """The suite's environments, or those of them that were asked for."""
    all_specs = [e if isinstance(e, EnvSpec) else EnvSpec(id=e) for e in spec.envs]
    known = {e.label: e for e in all_specs}
    for name in wanted:
        if name not in known:
            raise unknown("environment of this suite", name, known)
    return tuple(known[name] for name in dict.fromkeys(wanted)) if wanted else tuple(all_specs)


def check_agent(agent: str, agent_settings: Mapping[str, dict[str, Any]]) -> None:
    """Raise a UserError unless the agent exists and its settings are valid; a missing package is the cell's matter."""
    base, variant = split_agent(agent)
    try:
        family = agent_family(agent)
    except NotRun:
        return
    checked(lambda: family.configure(agent_settings.get(base, {}), variant), base)


def split_settings(merged: Mapping[str, Any]) -> tuple[Settings, dict[str, dict[str, Any]]]:
    """Common settings and, for every agent named, its own; all checked."""
    common = {k: v for k, v in merged.items() if k in Settings.model_fields}
    rest = {k: v for k, v in merged.items() if k not in common}
    names = agent_names()
    for key, value in rest.items():
        if key not in names and "." not in key:
            raise unknown("setting or agent", key, [*Settings.model_fields, *names])
        if not isinstance(value, dict):
            raise UserError(f"the settings of agent {key!r} must be a mapping, got {value!r}")
        check_agent(key, rest)
    return checked(lambda: Settings(**common), ""), rest


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """``["cem.num_samples=64"]`` to nested dictionaries; values are YAML."""
    merged: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not all(path.split(".")):
            raise UserError(f"--set takes KEY=VALUE with a dotted key, for example cem.num_samples=64, got {pair!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {path}: cannot read the value {text!r}")
        for key in reversed(path.split(".")):
            value = {key: value}
        merged = deep_merge(merged, value)
    return merged


M = TypeVar("M", bound=BaseModel)


def checked(make, where: str):
    """``make()``, with a validation error turned into one line that names the setting and the nearest valid one."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(p) for p in first["loc"]]
        path = ".".join([where, *parts]) if where else ".".join(parts)
        if first["type"] == "extra_forbidden":
            raise unknown("setting", path, _siblings(make, where, parts))
        if first["type"] == "missing":
            raise UserError(f"{path} is missing")
        reason = first["msg"].removeprefix("Value error, ")
        value = first["input"]
        shown = "" if isinstance(value, (dict, BaseModel)) else f", got {value!r}"
        raise UserError(f"{path}: {reason}{shown}" if path else reason)


def _siblings(make, where: str, parts: list[str]) -> list[str]:
    """The valid settings beside a misspelt one, as dotted paths; empty if its place cannot be told."""
    model: Any = Settings if not where else Benchmarks
    if where in agent_names():
        model = agent_family(where).Config
    for part in parts[:-1]:
        field = model.model_fields.get(part)
        model = field.annotation if field is not None else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    prefix = ".".join([where, *parts[:-1]] if where else parts[:-1])
    return [f"{prefix}.{name}" if prefix else name for name in model.model_fields]
