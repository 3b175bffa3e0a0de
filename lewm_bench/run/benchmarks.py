"""benchmarks.yaml: its profiles, environments and suites, checked as far as that needs no environment and no agent.

Read without importing either, so that a list of suites is there at once; ``lewm_bench.run.resolve`` makes jobs of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

import lewm_bench
from lewm_bench.agents import AGENTS
from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.names import AskedAgent, parse_agent
from lewm_bench.core.reading import is_file, read_yaml
from lewm_bench.data.adapt_config import Adapt
from lewm_bench.run.profiles import completed
from lewm_bench.run.validation import checked

FILE = "benchmarks.yaml"
ALL = "all"  # every agent of this package, behind those of the suite
ADDED = "+"  # before an agent that stands behind those of the suite

Kind = Literal["evaluate", "speed", "understand", "shift"]
"""What a suite does: lets agents act in environments, times planning, looks into world models, or changes the world."""


class EnvSpec(Config):
    """An environment of a suite: a Gymnasium id, or with arguments under a name of its own."""

    id: str
    name: str = ""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    adapt: Adapt | None = None  # any Gymnasium id as a goal environment
    settings: dict[str, Any] = Field(default_factory=dict)  # of this environment in this suite

    @property
    def label(self) -> str:
        """What rows and folders call it."""
        return self.name or self.id


Seeds = tuple[Annotated[int, Field(ge=0)], ...]


class AgentPart(Config):
    """What runs of an agent: these seeds and goal offsets of the suite's, and the first of its pairs.

    No seeds at all leave the agent out.
    """

    seeds: Seeds | None = None
    goal_offset: tuple[int, ...] | None = None
    num_pairs: int | None = Field(None, ge=1)  # for an agent that takes long


AgentParts = dict[AskedAgent, AgentPart]
"""By an agent's name; a base stands for its variants and ablations too, except for those that are named themselves."""


class EnvPart(Config):
    """What runs in one environment, of what the suite runs in all of them.

    ``only`` leaves out everybody else: to have no seeds. A base stands for its variants and ablations too.
    """

    only: tuple[AskedAgent, ...] | None = None
    seeds: Seeds | None = None
    agents: AgentParts = Field(default_factory=dict)


def without_limits(data: Any) -> Any:
    """``data``, unless it has a key that suites once had."""
    if isinstance(data, Mapping) and "limits" in data:
        raise ValueError(
            "limits: a suite's part for a profile lists what runs instead: "
            "agents: {NAME: {seeds: [0], goal_offset: [25], num_pairs: 20}} "
            "and for one environment envs: {NAME: {only: [AGENT], seeds: [0], agents: {...}}}"
        )
    return data


class Part(Config):
    """What runs of a suite in one profile, and its settings there."""

    seeds: Seeds | None = Field(None, min_length=1)
    agents: AgentParts = Field(default_factory=dict)
    envs: dict[str, EnvPart] = Field(default_factory=dict)  # by label
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _lists_what_runs(cls, data: Any) -> Any:
        return without_limits(data)

    @property
    def agent_names(self) -> list[str]:
        """Every agent that it names."""
        inside = [name for env in self.envs.values() for name in (*(env.only or ()), *env.agents)]
        return [*self.agents, *inside]


def _spec(env: Any) -> Any:
    return {"id": env} if isinstance(env, str) else env


class SuiteSpec(Config):
    """One block of ``suites``."""

    title: str
    envs: tuple[Annotated[EnvSpec, BeforeValidator(_spec)], ...] = ()
    agents: tuple[AskedAgent, ...] = ()
    kind: Kind = "evaluate"
    seeds: Seeds = Field((0, 1, 2), min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[str, Part] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _has_a_kind(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for old in ("speed", "understand"):
                if old in data:
                    raise ValueError(f"{old}: what a suite does is its kind; write kind: {old}, or nothing to evaluate")
        return without_limits(data)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> SuiteSpec:
        timed = self.kind == "speed"
        for name, there in (("envs", self.envs), ("agents", self.agents)):
            if bool(there) == timed:
                raise ValueError(f"{name}: {'a suite that times planning has none' if there else 'needs at least one'}")
        return self

    @model_validator(mode="after")
    def _has_files_apart(self) -> SuiteSpec:
        """Results are filed under the last part of an environment's name."""
        known = [env.label for env in self.envs]
        files = [label.split("/")[-1] for label in known]
        if twice := [label for label, file in zip(known, files, strict=True) if files.count(file) > 1]:
            raise ValueError(
                f"the environments {', '.join(twice)} would share their result files; "
                "give each a name of its own: {id: ..., name: ...}"
            )
        return self

    @model_validator(mode="after")
    def _parts_are_of_it(self) -> SuiteSpec:
        labels = [env.label for env in self.envs]
        agents = {*self.agents, *(parse_agent(agent).base for agent in self.agents)}
        for profile, part in self.profiles.items():
            for kind, wanted, names, more in (
                ("agent", part.agent_names, agents, AGENTS),
                ("environment", part.envs, labels, ()),
            ):
                if missing := [name for name in wanted if name not in names and name not in more]:
                    raise ValueError(f"profiles.{profile}: {unknown(f'{kind} of this suite', missing[0], names)}")
        return self


class Recipe(Config):
    """What an environment needs in every suite: data, training and planner that fit it."""

    settings: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by profile


class Benchmarks(Config):
    """The whole file."""

    profiles: dict[str, dict[str, Any]]
    planners: dict[str, dict[str, Any]] = Field(default_factory=dict)  # settings of the planner, by name
    environments: dict[str, Recipe] = Field(default_factory=dict)  # by id
    suites: dict[str, SuiteSpec]

    @model_validator(mode="after")
    def _profiles_exist(self) -> Benchmarks:
        named = {f"suites.{name}": suite.profiles for name, suite in self.suites.items()}
        named |= {f"environments.{name}": recipe.profiles for name, recipe in self.environments.items()}
        for place, profiles in named.items():
            if missing := [profile for profile in profiles if profile not in self.profiles]:
                raise ValueError(f"{place}.profiles: {unknown('profile', missing[0], self.profiles)}")
        return self


def find_file(config: Path | None) -> Path:
    """The benchmarks.yaml to use: the one given, else the working folder's, else the package's."""
    if config is not None:
        if not is_file(config):
            raise UserError(f"no file {config}; --config names a benchmarks.yaml")
        return config
    return first_file([Path.cwd(), *map(Path, lewm_bench.__path__)])


def first_file(places: Sequence[Path]) -> Path:
    """The benchmarks.yaml of the first folder that has one."""
    for place in places:
        if is_file(place / FILE):
            return place / FILE
    raise UserError(f"no {FILE} in {', '.join(map(str, places))}; give one with --config")


def shipped_profiles() -> dict[str, Any]:
    """The profiles of the package's own file."""
    return _shipped("profiles")


def _shipped(block: str) -> dict[str, Any]:
    return read_yaml(first_file([*map(Path, lewm_bench.__path__)]), "install lewm-bench again")[block]


def planners(bench: Benchmarks) -> dict[str, dict[str, Any]]:
    """The settings of all named planners: those that lewm-bench brings, and the file's, which win."""
    return {**_shipped("planners"), **bench.planners}


def planner_named(bench: Benchmarks, name: str) -> dict[str, Any]:
    """The settings of a named planner; raises a UserError where there is none, with the nearest match."""
    known = planners(bench)
    if name not in known:
        raise unknown("planner", name, known)
    return known[name]


def load(path: Path) -> Benchmarks:
    """The parsed and checked file.

    Raises:
        UserError: not YAML, or not of this structure, with the place.
    """
    data = read_yaml(path, "mend it or name another with --config")
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold the keys 'profiles' and 'suites'")
    try:
        if isinstance(data.get("profiles"), dict):
            data["profiles"] = completed(data["profiles"], shipped_profiles)
        return checked(lambda: Benchmarks.model_validate(data), "", Benchmarks)
    except UserError as error:
        raise UserError(f"{path}: {error}")
