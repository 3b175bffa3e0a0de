"""Checkpoints that act: a folder, one of the hub, or one of the cache, without data and without a suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.api.acting import ActingAgent
from lewm_bench.api.options import settings_of
from lewm_bench.api.withheld import Withheld
from lewm_bench.core.config import deep_merge
from lewm_bench.core.env import GoalEnv, require_spaces
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.data.format import Dataset
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.bases import base_of_card
from lewm_bench.run.benchmarks import EnvSpec, find_file, planner_named
from lewm_bench.run.benchmarks import load as load_benchmarks
from lewm_bench.run.checkpoints import alike, checkpoint_folder
from lewm_bench.run.environments import make_env
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import PLANNER, parse_overrides, resolve
from lewm_bench.run.stages import load_noted
from lewm_bench.run.understanding import Trained, trained_as
from lewm_bench.run.validation import checked
from lewm_bench.system.checkpoint import load_card
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store, default_cache

MODELS = "model"  # the kind of the cache's checkpoints


def load(
    checkpoint: str | Path,
    *,
    env: gym.Env | None = None,
    agent: str = "",
    suite: str = "",
    profile: str = "quick",
    planner: str = "",
    solver: str = "",
    set: Mapping[str, Any] | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    config: str | Path | None = None,
    data: str | Path | None = None,
) -> ActingAgent:
    """A trained agent that acts in a Gymnasium environment.

    Args:
        checkpoint: a folder of `lewm-bench train --out` or `lewm_bench.train`, `hf:OWNER/NAME`, or a folder of the cache,
            which `lewm-bench cache list` names.
        env: a goal environment with the same frames and actions; the one that it was trained in if left out.
        agent: whose checkpoint it is, needed where that is `their_pkg.agents:MINE`.
        suite: plan as in this suite, and look its environments up there; else with the papers' budget.
        profile: of that suite.
        planner: settings of the planner by name: papers, quick, or one of your benchmarks.yaml.
        solver: how it searches: cem, icem, mppi, shooting, adam.
        set: settings of the planner by dotted path, `{"planner.num_samples": 100}`, and of the agent those that change plans
            and not weights.
        device: auto, cpu, cuda, cuda:1 or mps.
        cache: where stages are kept.
        config: another benchmarks.yaml.
        data: the dataset it was trained on, for the few agents that need one to be loaded (`sac-her`).

    Raises:
        UserError: it is no checkpoint, or not for this environment.
        NotRun: it needs a package or weights that are not here.
    """
    store = Store(Path(cache) if cache is not None else default_cache())
    folder = _folder(str(checkpoint), store)
    card, was = load_card(folder), trained_as(folder, agent)
    name = agent or was.agent
    found, named = None, {}
    if suite or planner:
        bench = load_benchmarks(find_file(None if config is None else Path(config)))
        named = {PLANNER: planner_named(bench, planner)} if planner else {}
        envs = [was.env] if env is None else []
        found = resolve(bench, suite, profile, agents=[name], envs=envs) if suite else None
    made = env.unwrapped if env is not None else _environment(found, was, card)
    if not isinstance(made, GoalEnv):
        raise UserError(f"{made} is not a lewm_bench.core.env.GoalEnv; adapt it: docs/tutorial.md")
    require_spaces(made, was.env)
    wanted = deep_merge(named, parse_overrides(settings_of(set, solver)))
    setting = Setting(
        env=made,
        env_id=was.env,
        agent=name,
        dataset=_dataset(data, name),
        dataset_key=str(card.get("dataset")),
        config=_config(card, name, wanted.pop(parse_agent(name).base, {})),
        planner=_planner(found.of(found.envs[0]).planner(name) if found else PlannerConfig(), wanted),
        seed=was.seed,
        device=resolve_device(device),
        store=store,
    )
    _require_fit(folder, card, setting)
    family = agent_family(name)
    setting = base_of_card(card, setting, family)
    family.requirements(setting)
    return ActingAgent(load_noted(family, setting, folder), setting, folder)


def _folder(named: str, store: Store) -> Path:
    """The checkpoint folder that a name stands for: what is there, else a key of the cache."""
    for place in (store.root / named, store.root / MODELS / named):
        if not Path(named).exists() and place.is_dir():
            return place
    return checkpoint_folder(Path(named), "", store)


def _environment(found: Any, was: Trained, card: Mapping[str, Any]) -> GoalEnv:
    """The one that a checkpoint was trained in, from a suite if one was named."""
    spec = found.envs[0] if found else EnvSpec(id=was.env)
    size = card.get("image_size")
    if not isinstance(size, int):
        raise UserError(f"the card of a checkpoint must say its image_size, got {size!r}; train again")
    try:
        return make_env(spec.id, size, spec.kwargs, spec.adapt)
    except UserError as error:
        if found:
            raise
        raise UserError(f"{error}; the checkpoint is of {was.env}: name its suite, or give env=gym.make(...)")


def _dataset(data: str | Path | None, agent: str) -> Dataset:
    """The dataset, or what says that there is none: hardly an agent looks at it once it is trained."""
    if data is not None:
        return Dataset.open(Path(data))
    return Withheld(f"{agent} cannot be loaded without the data it was trained on; give their folder: data=...")  # type: ignore[return-value]


def _config(card: Mapping[str, Any], agent: str, wanted: Mapping[str, Any]) -> AgentConfig:
    """The settings that the weights were trained with, and of those that plan alone what is wanted."""
    family, had = agent_family(agent), card.get("config")
    if not isinstance(had, dict):
        raise UserError(f"the card of a checkpoint must say the config of {agent}; train again")
    if fixed := [name for name in wanted if name not in family.planning_only]:
        free = ", ".join(family.planning_only) or "none"
        raise UserError(
            f"{agent}.{fixed[0]} belongs to the weights; what can be set of {agent} once it is trained: {free}"
        )
    own = family.Config
    return checked(lambda: own(**{**had, **wanted}), agent, own)


def _planner(base: PlannerConfig, wanted: Mapping[str, Any]) -> PlannerConfig:
    """The planner's settings with what is wanted."""
    own = dict(wanted)
    merged = base.model_dump() | own.pop("planner", {})
    if own:
        raise UserError(
            f"a loaded agent takes settings of its planner, planner.KEY, and its own, got {next(iter(own))}"
        )
    return checked(lambda: PlannerConfig.model_validate(merged), "planner", PlannerConfig)


def _require_fit(folder: Path, card: Mapping[str, Any], setting: Setting) -> None:
    """Refuse frames and actions of another size than the checkpoint's."""
    for name, ours in (("image_size", setting.image_size), ("action_dim", setting.action_dim)):
        if (theirs := card.get(name)) != ours:
            how = f"; make it with image_size={theirs}" if name == "image_size" else alike(card, name, theirs)
            raise UserError(f"checkpoint {folder} was made with {name} {theirs!r}, the environment has {ours!r}{how}")
