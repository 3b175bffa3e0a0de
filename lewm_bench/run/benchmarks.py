"""benchmarks.yaml to a resolved suite: which environments, agents, seeds and goal offsets, with which settings.

One syntax for a deviation everywhere: nested keys in YAML, the same path with dots in ``--set lewm.train.steps=500``.
Precedence, last wins: class defaults, the profile, the environment's own block and its part for the profile, the suite,
the suite's part for the profile, what the suite says of the environment, ``--set``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

import lewm_bench
from lewm_bench.agent import AgentConfig
from lewm_bench.agents import AGENTS
from lewm_bench.core.config import Config, deep_merge
from lewm_bench.core.errors import NotRun, PluginError, UserError, shown, unknown
from lewm_bench.core.names import AskedAgent, canonical, names_steps, parse_agent, settings_of, value_of
from lewm_bench.core.reading import is_file, read_yaml
from lewm_bench.core.renamed import renamed
from lewm_bench.data.adapt import Adapt
from lewm_bench.data.collect import CollectConfig
from lewm_bench.evaluation.episodes import EvalConfig
from lewm_bench.evaluation.speed import SpeedConfig
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.profiles import completed
from lewm_bench.run.registry import agent_family, agent_names, environment_ids
from lewm_bench.understand.config import UnderstandingConfig

FILE = "benchmarks.yaml"
PLANNER = "planner"  # the settings in an agent's name that are the planner's
ALL = "all"  # every agent of this package, behind those of the suite
ADDED = "+"  # before an agent that stands behind those of the suite


class TrainingBudget(Config):
    """One training budget for every agent that learns from the dataset; without one each has its own ``train.steps``."""

    seconds: float | None = Field(
        None,
        gt=0,
        description="equal wall-clock time for all: each trains as many steps as fit at its measured pace",
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="equal number of training steps for all, in place of their own train.steps",
    )

    @model_validator(mode="after")
    def _one(self) -> TrainingBudget:
        if self.seconds is not None and self.steps is not None:
            raise ValueError("seconds or steps, not both")
        return self


class Settings(Config):
    """What is common to all agents of a run. The keys beside these are agents' names."""

    image_size: int = Field(224, ge=16, le=512, description="side of the square frames, pixels")
    collect: CollectConfig = Field(
        CollectConfig(), description="how much data, from which policies, and how it is split"
    )
    evaluate: EvalConfig = Field(EvalConfig(), description="start and goal pairs, and the rules of the evaluation")
    planner: PlannerConfig = Field(
        PlannerConfig(),
        description="the planner of world models and of the oracle; a block is frame_skip environment steps",
    )
    training: TrainingBudget = Field(
        TrainingBudget(),
        description="one training budget for every agent that learns from the dataset; seconds or steps, not both",
    )
    speed: SpeedConfig = Field(
        SpeedConfig(), description="what `lewm-bench speed` and suites that time planning measure"
    )
    understanding: UnderstandingConfig = Field(
        UnderstandingConfig(), description="what `lewm-bench understand` and suites that look into world models examine"
    )

    @model_validator(mode="after")
    def _pairs_exist(self) -> Settings:
        """Found out before anything is collected or trained."""
        offsets, fractions = self.evaluate.goal_offset, self.collect.model_dump(include={"train", "val", "test"})
        if not offsets or not all(1 <= o <= self.collect.steps for o in offsets):
            raise ValueError(
                f"evaluate.goal_offset needs at least one number from 1 to collect.steps ({self.collect.steps}), "
                f"got {list(offsets)}"
            )
        split = self.evaluate.split
        if split != "all" and split not in fractions:
            raise ValueError(f"evaluate.split: {unknown('split', split, [*fractions, 'all'])}")
        if split != "all" and fractions[split] == 0:
            raise ValueError(f"evaluate.split is {split!r}, but collect.{split} is 0")
        return self


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


class Limit(Config):
    """What a suite leaves out: the named agents and environments (all if empty) get only these seeds, offsets and pairs.

    No seeds at all leave the agents out. A choice on the command line lifts what it is about and nothing else:
    ``--seeds`` the limits on seeds, ``--set evaluate.goal_offset`` those on offsets, ``--set evaluate.num_pairs`` those
    on pairs, ``--agents`` an agent left out.
    """

    agents: tuple[AskedAgent, ...] = ()
    envs: tuple[str, ...] = ()
    seeds: Seeds | None = None
    goal_offset: tuple[int, ...] | None = None
    num_pairs: int | None = Field(None, ge=1)  # the first of the pairs, for an agent that takes long


class Part(Config):
    """What a suite says for one profile."""

    seeds: Seeds | None = Field(None, min_length=1)
    limits: tuple[Limit, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)


def _spec(env: Any) -> Any:
    return {"id": env} if isinstance(env, str) else env


class SuiteSpec(Config):
    """One block of ``suites``."""

    title: str
    envs: tuple[Annotated[EnvSpec, BeforeValidator(_spec)], ...] = ()
    agents: tuple[AskedAgent, ...] = ()
    speed: bool = False  # times planning instead of evaluating agents in environments
    understand: bool = False  # looks into world models instead of letting them act
    seeds: Seeds = Field((0, 1, 2), min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[str, Part] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names(self) -> SuiteSpec:
        """Results are filed under the last part of an environment's name; limits must be about something."""
        if self.speed and self.understand:
            raise ValueError("speed or understand, not both")
        for name, there in (("envs", self.envs), ("agents", self.agents)):
            if bool(there) == self.speed:
                raise ValueError(f"{name}: {'a suite that times planning has none' if there else 'needs at least one'}")
        known = [env.label for env in self.envs]
        files = [label.split("/")[-1] for label in known]
        if twice := [label for label, file in zip(known, files, strict=True) if files.count(file) > 1]:
            raise ValueError(
                f"the environments {', '.join(twice)} would share their result files; "
                "give each a name of its own: {id: ..., name: ...}"
            )
        for limit in (limit for part in self.profiles.values() for limit in part.limits):
            for kind, wanted, names in (("agent", limit.agents, self.agents), ("environment", limit.envs, known)):
                bases = {*names, *(AGENTS if kind == "agent" else ())}
                if missing := [name for name in wanted if name not in bases]:
                    raise ValueError(f"limits: {unknown(f'{kind} of this suite', missing[0], names)}")
        return self


class Recipe(Config):
    """What an environment needs in every suite: data, training and planner that fit it."""

    settings: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by profile


class Benchmarks(Config):
    """The whole file."""

    profiles: dict[str, dict[str, Any]]
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
        return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})

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
    speed: bool = False
    understand: bool = False

    def of(self, env: EnvSpec) -> Resolved:
        """What holds in an environment."""
        return self.by_env[env.label]

    @property
    def envs(self) -> tuple[EnvSpec, ...]:
        """Its environments, in order."""
        return tuple({job.env.label: job.env for job in self.jobs}.values())


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
    path = first_file([*map(Path, lewm_bench.__path__)])
    return read_yaml(path, "install lewm-bench again")["profiles"]


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
    """The suite's jobs and settings. ``Limit`` says what of a suite's limits an explicit choice lifts.

    Raises:
        UserError: an unknown suite, profile, agent, environment or setting, with the nearest match.
    """
    if suite not in bench.suites:
        raise unknown("suite", suite, bench.suites)
    if profile not in bench.profiles:
        raise unknown("profile", profile, bench.profiles)
    spec = bench.suites[suite]
    part = spec.profiles.get(profile, Part())
    check_recipes(bench)
    command_line = parse_overrides(overrides)
    chosen_agents = choose_agents(agents, spec)
    named = () if ALL in agents else {canonical(name.removeprefix(ADDED)) for name in agents}

    if spec.understand:
        check_world_models(chosen_agents)

    def resolved(env: EnvSpec | None) -> Resolved:
        recipe = bench.environments.get(env.id, Recipe()) if env else Recipe()
        own = (recipe.settings, recipe.profiles.get(profile, {}))
        merged: dict[str, Any] = {}
        for layer in (bench.profiles[profile], *own, spec.settings, part.settings, env.settings if env else {}):
            merged = deep_merge(merged, renamed(layer))
        settings, agent_settings = split_settings(deep_merge(merged, command_line))
        found = Resolved(settings=settings, agent_settings=agent_settings)
        for agent in chosen_agents:
            check_agent(agent, agent_settings)
            if named_settings(agent).get(PLANNER):
                found.planner(agent)
        return found

    envs_of = select_envs(spec, envs)
    by_env = {env.label: resolved(env) for env in envs_of}
    chosen_seeds = tuple(dict.fromkeys(seeds or part.seeds or spec.seeds))
    evaluation = command_line.get("evaluate")
    asked = evaluation if isinstance(evaluation, dict) else {}  # anything else is refused with the settings
    jobs = []
    for env in envs_of:
        for agent in chosen_agents:
            limits = [limit for limit in part.limits if concerns(limit, env, agent)]
            lifted = Lifted(agent in named, bool(seeds), "goal_offset" in asked, "num_pairs" in asked)
            evaluate = by_env[env.label].settings.evaluate
            allowed_seeds, offsets = allowed(limits, lifted, chosen_seeds, evaluate.goal_offset)
            few = [limit.num_pairs for limit in limits if limit.num_pairs and not lifted.num_pairs]
            pairs = min([evaluate.num_pairs, *few])
            if offsets:
                jobs += [
                    Job(env=env, agent=agent, seed=seed, goal_offset=offsets, num_pairs=pairs, protocol=rules.id)
                    for rules in (evaluate.rules[:1] if spec.understand else evaluate.rules)  # which has no pairs
                    for seed in allowed_seeds
                ]
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
        speed=spec.speed,
        understand=spec.understand,
    )


def check_recipes(bench: Benchmarks) -> None:
    """Raise a UserError for a block of settings that no environment would ever read."""
    used = {env.id for suite in bench.suites.values() for env in suite.envs}
    for env_id in bench.environments:
        if env_id not in used and ":" not in env_id and env_id not in environment_ids():
            raise UserError(f"environments: {unknown('environment', env_id, [*used, *environment_ids()])}")


class Lifted(NamedTuple):
    """What the command line asks for by name, so that no limit withholds it."""

    agent: bool
    seeds: bool
    goal_offset: bool
    num_pairs: bool


def concerns(limit: Limit, env: EnvSpec, agent: str) -> bool:
    """Whether a limit is about this agent in this environment; one about ``dino-wm`` is about its variants too."""
    agents = not limit.agents or agent in limit.agents or parse_agent(agent).base in limit.agents
    return agents and (not limit.envs or env.label in limit.envs)


def allowed(
    limits: Sequence[Limit], lifted: Lifted, seeds: tuple[int, ...], offsets: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds and goal offsets that the limits leave of ``seeds`` and ``offsets``."""
    for limit in limits:
        left_out = limit.seeds == ()
        if limit.seeds is not None and not lifted.seeds and not (left_out and lifted.agent):
            seeds = tuple(s for s in seeds if s in limit.seeds)
        if limit.goal_offset is not None and not lifted.goal_offset:
            offsets = tuple(o for o in offsets if o in limit.goal_offset)
    return seeds, offsets


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
            raise UserError(f"{name.base}: configure returned {shown(config)}, not a lewm_bench.agent.AgentConfig")
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
        raise UserError(f"agent {shown(agent)}: {PLANNER} has settings of its own, for example {example}")
    return merged


def shares_budget(agent: str) -> bool:
    """Whether the common training budget is for this agent: it learns from the dataset and names no steps itself."""
    family = agent_family(agent)
    return family.trainable and family.kind != "privileged" and not names_steps(agent)


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
    return [name for name in names if not spec.understand or is_world_model(name)]


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
            raise UserError(f"{key} has settings of its own ({key}.KEY), got {shown(value)}")
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


M = TypeVar("M", bound=BaseModel)


def checked(make: Callable[[], M], where: str, model: type[BaseModel]) -> M:
    """``make()``, which fills ``model``; a validation error becomes one line that names the setting.

    ``where`` is the path of the model's own place, empty for the top.
    """
    try:
        return make()
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda e: e["type"] != "extra_forbidden"
        )  # a misspelt key explains a missing one
    parts = [str(p) for p in first["loc"]]
    path = ".".join([where, *parts] if where else parts)
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        prefix = path[: len(path) - len(parts[-1])]
        raise unknown("setting", path, [f"{prefix}{name}" for name in fields_at(model, parts[:-1])])
    if kind == "missing":
        raise UserError(f"{path} is missing")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        raise UserError(f"{path} has settings of its own ({path}.KEY), got {shown(value)}")
    reason = first["msg"].removeprefix("Value error, ")
    if kind != "value_error":
        reason = f"{reason.replace('Input should be', 'must be')}, got {shown(value)}"
    if kind == "literal_error":
        choices = [part for part in first["ctx"]["expected"].split("'") if part.isprintable()]
        close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
        reason += f"; did you mean {close[0]!r}?" if close else ""
    if kind == "tuple_type":
        reason = f"must be a list, written in brackets, got {shown(value)}"
    raise UserError(f"{path}: {reason}" if path else reason)


def fields_at(model: Any, parts: Sequence[str]) -> list[str]:
    """The settings of the model that lies at a path inside ``model``; what stands in brackets of a type is looked into."""
    for part in parts:
        inside = is_model(model) and part in model.model_fields
        model = model.model_fields[part].annotation if inside else model
        while not is_model(model) and (inner := [a for a in get_args(model) if is_model(a) or get_args(a)]):
            model = inner[-1]
    return list(model.model_fields) if is_model(model) else []


def is_model(annotation: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
