"""Our own code has no fingerprint in the keys of the cache, but numbers that are raised by hand: here one is reminded.

``stages.json`` holds, per stage, the number and a digest of the modules that determine it. Where a digest differs,
either results change, then raise the number; or they do not. In both cases record what is there now:
``pytest tests/run/test_stages.py --record-stages``. A conflict in the file is resolved by recording too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import pytest

from lewm_bench.agents import AGENTS
from lewm_bench.core.source import closure, is_ours
from lewm_bench.data.adapt import AdaptedEnv
from lewm_bench.planning.solvers import SOLVERS
from lewm_bench.run import keys
from lewm_bench.run.environments import load_plugins
from lewm_bench.run.names import agent_path
from lewm_bench.run.registry import agent_family

FILE = Path(__file__).with_name("stages.json")
ENVS, AGENTS_FOLDER = "lewm_bench.envs.", "lewm_bench.agents."
PLANNING = {
    *(f"lewm_bench.planning.fast.{name}" for name in ("engine", "linears", "lewm", "dino_wm", "fast_lewm")),
    *(
        f"lewm_bench.planning.{name}"
        for name in ("agent", "company", "config", "cost", "replan", "sampling", "solvers", *SOLVERS)
    ),
}
EVALUATION = {
    "lewm_bench.evaluation.episodes",
    "lewm_bench.evaluation.protocol",
    *PLANNING,
}
SHIFT = {
    f"lewm_bench.{name}"
    for name in (
        "core.controls",
        "core.generic_factors",
        "core.looks",
        "core.shift",
        "evaluation.shift",
        "evaluation.tasks",
    )
}
NO_RESULT = {
    f"lewm_bench.{name}"
    for name in (
        "agent",
        "core.config",
        "core.errors",
        "core.names",
        "core.reading",
        "core.renamed",
        "core.search_space",
        "core.source",
        "core.formatting",
        "data.adapt",
        "data.check",
    )
}
"""What changes no number, or (adapted environments) has a stage of its own."""


class Stage(NamedTuple):
    """What stands for the code of a stage, and that code."""

    number: list[int]
    where: str  # the number is
    modules: Collection[str]

    def recorded(self) -> dict:
        found = closure(self.modules, leave=lambda name: name not in self.modules)
        text = json.dumps([[name, module.digest] for name, module in found.items()])
        return {"number": self.number, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def reached(*roots: str) -> set[str]:
    """Our modules behind some of ours, but for those that change no number."""
    return {n for n in closure(roots) if is_ours(n) and n not in NO_RESULT and _counts(n)} | set(roots)


def _counts(name: str) -> bool:
    """Of the machine's side, what draws and where numbers are computed."""
    return ".system." not in name or name.endswith((".gl", ".device"))


def environments() -> dict[str, type]:
    """The classes of our environments by their names."""
    load_plugins()
    entries = {spec.entry_point for spec in gym.registry.values() if spec.namespace == "lewm_bench"}
    return {entry.partition(":")[2]: gym.envs.registration.load_env_creator(entry) for entry in sorted(entries)}


def stages() -> dict[str, Stage]:
    worlds = {name: reached(world.__module__) for name, world in environments().items()}
    # What only one kind of stage reaches is that one's; the rest is the data's.
    shared = {n for found in worlds.values() for n in found if not n.startswith(ENVS)}
    data = (shared | reached("lewm_bench.data.collect", "lewm_bench.data.format")) - EVALUATION - SHIFT
    training = (
        reached("lewm_bench.agent.family", "lewm_bench.train.loop", "lewm_bench.system.checkpoint") - EVALUATION - data
    )
    acting = reached("lewm_bench.evaluation.episodes", "lewm_bench.evaluation.protocol", *PLANNING) - training - data
    acting = {n for n in acting if not n.startswith(AGENTS_FOLDER)} | EVALUATION
    found = {
        "data": Stage([keys.DATA_SCHEMA], "DATA_SCHEMA in lewm_bench/run/keys.py", data),
        "training": Stage([keys.MODEL_SCHEMA], "MODEL_SCHEMA in lewm_bench/run/keys.py", training),
        "evaluation": Stage([keys.EVALUATION_SCHEMA], "EVALUATION_SCHEMA in lewm_bench/run/keys.py", acting),
        "pairs": Stage(
            [keys.PAIRS_SCHEMA],
            "PAIRS_SCHEMA in lewm_bench/run/keys.py",
            {
                f"lewm_bench.{name}"
                for name in (
                    "agents.oracle",
                    "evaluation.protocol",
                    "evaluation.strata",
                    "evaluation.task_sorting",
                    "planning.agent",
                    "planning.solvers",
                )
            },
        ),
        "changed worlds": Stage([keys.SHIFT_SCHEMA], "SHIFT_SCHEMA in lewm_bench/run/keys.py", SHIFT),
        "adapted environments": Stage([AdaptedEnv.schema], "AdaptedEnv.schema", {"lewm_bench.data.adapt"}),
    }
    for name, world in environments().items():
        own = {n for n in worlds[name] if n.startswith(ENVS)}
        found[f"environment {name}"] = Stage([world.schema], f"{name}.schema", own)
    for name in AGENTS:
        module, family = agent_path(name).partition(":")[0], agent_family(name)
        own = {n for n in reached(module) if n.startswith(AGENTS_FOLDER)} - PLANNING
        found[f"agent {name}"] = Stage([family.schema], f"{type(family).__name__}.schema", own)
    return dict(sorted(found.items()))


def complaint(name: str, stage: Stage, known: dict | None) -> str:
    """What to do about a stage whose record is another; empty if nothing is."""
    now = stage.recorded()
    if now == known:
        return ""
    if known is not None and now["number"] == known["number"]:
        return f"{name}: its code has changed. If results change, raise {stage.where}; then record it"
    return f"{name}: not recorded with the number {now['number'][0]}; record it"


def test_what_changes_results_has_another_number(request: pytest.FixtureRequest) -> None:
    current = stages()
    if request.config.getoption("--record-stages"):
        lines = [f"{json.dumps(name)}: {json.dumps(stage.recorded())}" for name, stage in current.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    known = json.loads(FILE.read_text())
    complaints = [complaint(name, stage, known.get(name)) for name, stage in current.items()]
    complaints += [f"{name}: is no more; record it" for name in known.keys() - current.keys()]
    told = "\n".join(filter(None, complaints))
    assert not told, f"{told}\nwith: pytest tests/run/test_stages.py --record-stages"


def test_each_stage_is_made_of_what_one_would_think() -> None:
    found = {name: {n.removeprefix("lewm_bench.") for n in stage.modules} for name, stage in stages().items()}
    parts = {"envs.parts.flight", "envs.parts.geodesic", "envs.parts.maze", "envs.parts.raster", "envs.parts.waypoints"}
    assert found["environment PointMaze"] == {"envs.pointmaze", *parts}
    assert "envs.parts.rooms" in found["environment TwoRoom"]
    assert "envs.parts.maze" not in found["environment TwoRoom"]
    assert {"data.collect", "data.format", "core.env", "core.exploration", "core.rng", "system.gl"} <= found["data"]
    assert {"agent.family", "train.loop"} <= found["training"]
    acting = {"evaluation.episodes", "planning.solvers", "planning.agent", "evaluation.protocol"}
    assert not found["training"] & acting
    assert {*acting, "planning.fast.lewm"} <= found["evaluation"]
    assert {"agents.lewm", "agents.parts.jepa", "agents.parts.sigreg"} <= found["agent lewm"]
    assert not found["agent lewm"] & {"planning.fast.lewm", "agents.gcbc"}


def test_a_change_is_told_apart_from_a_raised_number() -> None:
    stage = Stage([3], "X.schema", {"lewm_bench.envs.parts.rooms"})
    known = stage.recorded()
    assert complaint("x", stage, known) == ""
    assert "raise X.schema; then record it" in complaint("x", stage, {**known, "digest": "0" * 16})
    assert complaint("x", stage._replace(number=[4]), known) == "x: not recorded with the number 4; record it"
    assert complaint("x", stage, None) == "x: not recorded with the number 3; record it"
    assert stage._replace(modules={"lewm_bench.envs.tworoom"}).recorded() != known
