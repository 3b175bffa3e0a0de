"""Environments and agents of other people, by the three ways that docs/extending.md names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from lewm_bench.agent import Family
from lewm_bench.agents import AGENTS
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.adapt import Adapt, ReplayEnv, register_env
from lewm_bench.evaluation.speed_record import load_speed
from lewm_bench.run import environments, names, registry
from lewm_bench.run.records import load_cells
from lewm_bench.understand.records import load_records

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml", "toml")}


@pytest.fixture()
def package(tmp_path) -> Path:
    """The page's package and suite in a folder of their own."""
    environment, _, agent, model = BLOCKS["python"]
    (tmp_path / "their_pkg").mkdir()
    (tmp_path / "their_pkg" / "__init__.py").write_text(environment)
    (tmp_path / "their_pkg" / "agents.py").write_text(agent)
    (tmp_path / "their_pkg" / "models.py").write_text(model)
    (tmp_path / "theirs.yaml").write_text(BLOCKS["yaml"][0])
    return tmp_path


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "LEWM_BENCH_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "lewm_bench", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
    )


def test_the_examples_are_short():
    assert len(BLOCKS["python"]) == 4
    assert all(len(block.splitlines()) <= 70 for block in BLOCKS["python"])


def test_the_pages_environment_agent_and_suite_run(package):
    line = re.search(r"PYTHONPATH=\. lewm-bench (run --suite theirs .*)", PAGE).group(1)
    done = command(package, *line.split(), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    cells = {(c.env, c.agent): c for c in load_cells([package / "results" / "theirs"])}
    mine = cells["their_pkg:TheirMaze-v0", "their_pkg.agents:MINE"]
    assert len(cells) == 10 and all(c.status == "done" for c in cells.values()), done.stderr
    assert mine.config["image_size"] == 32 and mine.kind == "privileged"
    page = (package / "results" / "theirs" / "report.html").read_text(encoding="utf-8")
    assert "executes the best of random blocks in the simulator" in page
    model = cells["their_pkg:TheirMaze-v0", "their_pkg.models:INVERSE"]
    assert (model.card.name, model.card.colour, model.card.marker) == ("Inverse", "#7A5230", "h")
    assert model.weights == "trained" and {"prediction", "inverse"} <= set(model.training)
    assert "from which the actions in between must be read" in page and "background:#7A5230" in page
    rate = {k: sum(e.hit for e in c.episodes) for k, c in cells.items()}
    assert rate["their_pkg:TheirMaze-v0", "their_pkg.agents:MINE"] > rate["their_pkg:TheirMaze-v0", "random"]
    assert cells["SlowMaze", "noop"].dataset != cells["their_pkg:TheirMaze-v0", "noop"].dataset


@pytest.mark.slow
def test_the_pages_world_model_is_timed_and_looked_into(package):
    """By the two commands of the page, made small."""
    timed, examined = re.findall(r"PYTHONPATH=\. lewm-bench (.*their_pkg.models:INVERSE.*)", PAGE)
    small = [
        "--set",
        "speed.seconds=0.5",
        "--set",
        "speed={samples: [], horizons: [], batches: []}",
        "--set",
        "speed.plans=3",
    ]
    done = command(package, *timed.split(), *small, "--device", "cpu")
    assert done.returncode == 0 and "\nInverse " in done.stdout and "\nLeWM " in done.stdout, done.stderr
    assert {row.method: row.card.name for row in load_speed(package / "results" / "speedup")} == {
        "lewm": "LeWM", "their_pkg.models:INVERSE": "Inverse",
    }  # fmt: skip
    few = ["--set", "collect.episodes=40", "--set", "their_pkg.models:INVERSE.train.steps=60", "--seeds", "0"]
    done = command(package, *examined.split(), *few, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (record,) = load_records([package / "results" / "understanding"])
    assert record.status == "done" and record.card.name == "Inverse" and record.probes and record.open_loop
    assert "Inverse" in (package / "results" / "understanding" / "report.html").read_text(encoding="utf-8")


def test_the_pages_environment_keeps_the_contract(package):
    done = command(package, "check", "their_pkg:TheirMaze-v0")
    assert done.returncode == 0, done.stdout


def announce(package: Path, toml: str) -> None:
    """What installing a package with this table of entry points leaves on the path."""
    lines = []
    for line in toml.splitlines():
        if group := re.fullmatch(r'\[project\.entry-points\."(.*)"\]', line):
            lines.append(f"[{group.group(1)}]")
        elif line:
            lines.append(line.replace('"', ""))
    folder = package / "their_pkg-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their_pkg\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_what_packages_announce_is_read_once_for_each_path(package, monkeypatch):
    announce(package, BLOCKS["toml"][0])
    assert "best-of" not in names.agent_names()
    monkeypatch.syspath_prepend(package)
    assert "best-of" in names.agent_names()

    def refuse(**_):
        raise AssertionError("read again")

    monkeypatch.setattr(names, "entry_points", refuse)
    assert names.agent_path("best-of").startswith("their_pkg")


@pytest.mark.slow
def test_entry_points_make_names_like_ours(package):
    announce(package, BLOCKS["toml"][0])
    source = package / "their_pkg" / "__init__.py"
    source.write_text(source.read_text().replace('register("TheirMaze-v0"', 'register("their_pkg/TheirMaze-v0"'))
    listed = command(package, "list").stdout
    assert "their_pkg/TheirMaze-v0" in listed and "best-of, " in listed
    described = command(package, "list", "agents").stdout
    assert re.search(r"best-of +privileged: executes the best of random", described)
    (package / "named.yaml").write_text(
        "profiles: {quick: {image_size: 32}}\nsuites: {named: {title: N, envs: [their_pkg/TheirMaze-v0], agents: [best-of],"
        " seeds: [0], settings: {best-of: {samples: 8}, collect: {episodes: 20, steps: 30,"
        " policies: {ornstein_uhlenbeck: 1}}, evaluate: {num_pairs: 2, goal_offset: [20]}}}}"
    )
    done = command(package, "run", "--suite", "named", "--config", "named.yaml", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (cell,) = load_cells([package / "results" / "named"])
    assert (cell.agent, cell.status) == ("best-of", "done")
    misspelt = command(package, "run", "--suite", "named", "--config", "named.yaml", "--set", "best-of.sample=3")
    assert misspelt.returncode == 2 and "did you mean 'best-of.samples'?" in misspelt.stderr


@pytest.mark.slow
def test_a_package_that_does_not_import_costs_a_warning_and_not_the_run(package):
    announce(package, BLOCKS["toml"][0])
    for name in ("__init__", "agents"):
        (package / "their_pkg" / f"{name}.py").write_text("import package_that_is_absent\n")
    done = command(package, "list")
    assert done.returncode == 0 and "lewm_bench/PointMaze-UMaze-v0" in done.stdout
    assert "cannot be imported" in done.stderr and "package_that_is_absent" in done.stderr
    listed = command(package, "list", "agents").stdout
    assert re.search(r"best-of +unavailable: .*package_that_is_absent", listed)


def test_an_agent_of_ours_that_lacks_a_package_is_not_run(monkeypatch):
    monkeypatch.setitem(AGENTS, "needy", "package_that_is_absent.agents:NEEDY")
    with pytest.raises(NotRun, match="pip install package_that_is_absent"):
        registry.agent_family("needy")


@pytest.mark.parametrize(
    "name, says",
    [
        ("lewn", "did you mean 'lewm'"),
        ("absent_package.agents:MINE", "cannot import 'absent_package'; install"),
        ("json.decoder:MINE", "nothing called 'MINE'"),
        ("json.decoder:JSONDecoder", "not a lewm_bench.agent.Family"),
    ],
)
def test_agents_that_are_not_there(name, says):
    with pytest.raises(UserError, match=re.escape(says)):
        registry.agent_family(name)


@pytest.mark.parametrize(
    "env_id, kwargs, says",
    [
        ("lewm_bench/PointMaze-UMase-v0", {}, "did you mean 'lewm_bench/PointMaze-UMaze-v0'"),
        ("absent_package:X-v0", {}, "cannot import 'absent_package'; install"),
        ("json:X-v0", {}, "json:X-v0"),
        ("CartPole-v1", {}, "CartPole-v1"),
        ("lewm_bench/PointMaze-UMaze-v0", {"colour": "red"}, "does not accept these arguments"),
        ("lewm_bench/PointMaze-UMaze-v0", {"maze": "###"}, "the maze has no free cell"),
    ],
)
def test_environments_that_are_not_there(env_id, kwargs, says):
    with pytest.raises(UserError) as raised:
        environments.make_env(env_id, 64, kwargs)
    assert says in str(raised.value) and "\n" not in str(raised.value)


FAULTS = {
    "kind": ({"kind": "worldmodel"}, "kind must be one of 'world model', 'policy', 'privileged', 'floor', got 'worldm"),
    "no kind": ({}, "kind must be one of 'world model', 'policy', 'privileged', 'floor', got None"),
    "Config": ({"kind": "policy", "Config": dict}, "Config must be a subclass of lewm_bench.agent.AgentConfig"),
    "trainable": ({"kind": "policy", "trainable": "yes"}, "trainable must be a bool, got 'yes'"),
    "card": ({"kind": "policy", "card": None}, "card must be a Card, got None"),
    "planning_only": ({"kind": "policy", "planning_only": ("nothing",)}, "planning_only names 'nothing'"),
    "space": ({"kind": "policy", "search_space": ("train.steps",)}, "search_space must hold lewm_bench.core.search_space.Dimension"),
}  # fmt: skip


@pytest.mark.parametrize("attributes, says", FAULTS.values(), ids=FAULTS)
def test_a_family_with_a_wrong_attribute_is_refused_where_it_is_looked_up(monkeypatch, attributes, says):
    faulty = type("Faulty", (Family,), {"load": lambda *_: None, **attributes})()
    monkeypatch.setattr(registry, "faulty", faulty, raising=False)
    monkeypatch.setitem(AGENTS, "faulty", "lewm_bench.run.registry:faulty")
    with pytest.raises(UserError) as raised:
        registry.agent_family("faulty:some=setting")
    assert str(raised.value).startswith(f"agent 'faulty': lewm_bench.run.registry:faulty: {says}")
    assert "\n" not in str(raised.value)


def test_every_name_is_a_family():
    assert set(AGENTS) <= set(registry.agent_names())
    for name in AGENTS:
        family = registry.agent_family(name)
        assert family.kind and family.card.about


@pytest.fixture()
def own_registry():
    """What a test registers is gone after it."""
    environments.load_plugins()  # what an import registers is there once and for all
    before = set(gym.registry)
    yield
    for env_id in set(gym.registry) - before:
        if env_id.startswith(("mine/", "tests/", "adapted/")):
            del gym.registry[env_id]


def test_an_adapted_environment_is_known_by_its_id_and_what_it_comes_from(own_registry):
    assert environments.origin("lewm_bench/PushT-v0") == "from lewm-bench"
    register_env("mine/Cart-v0", "CartPole-v1", threshold=0.5)
    assert "mine/Cart-v0" in environments.environment_ids() and "CartPole-v1" not in environments.environment_ids()
    assert environments.origin("mine/Cart-v0") == "adapted from CartPole-v1"
    env = environments.make_env("mine/Cart-v0", 16)
    assert (env.threshold, env.observation_space.shape, env.source) == (0.5, (16, 16, 3), "CartPole-v1")


def test_adapt_makes_any_id_a_goal_environment_with_its_own_arguments(own_registry):
    settings = Adapt(threshold=0.25, compare=(0, 2), max_steps=40)
    env = environments.make_env("CartPole-v1", 24, {"sutton_barto_reward": True}, settings)
    assert type(env) is ReplayEnv and env.settings == settings and env.observation_space.shape == (24, 24, 3)
    assert env._live.env._sutton_barto_reward is True
    # A second one of the same source does not change the first, which can still be made again.
    other = environments.make_env("CartPole-v1", 16, None, Adapt(threshold=9))
    again = gym.make(env.spec).unwrapped
    assert (env.threshold, other.threshold, again.threshold) == (0.25, 9, 0.25)
    assert again._live.env._sutton_barto_reward is True and again.observation_space.shape == (24, 24, 3)


@pytest.mark.parametrize(
    "env_id, kwargs, says",
    [
        ("CartPoel-v1", {}, "did you mean 'CartPole-v1'"),
        ("CartPole-v1", {"colour": "red"}, "does not accept these arguments"),
        ("absent_package:X-v0", {}, "cannot import 'absent_package'; install"),
        ("Taxi-v3", {}, ""),
    ],
)
def test_what_cannot_be_adapted_is_one_line(own_registry, env_id, kwargs, says):
    with pytest.raises(UserError) as raised:
        environments.make_env(env_id, 16, kwargs, Adapt(threshold=1))
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_a_foreign_environment_is_told_to_be_adapted():
    with pytest.raises(
        UserError, match=r"CartPole-v1.*not a lewm_bench.core.env.GoalEnv; give it a success rule.*adapt"
    ):
        environments.make_env("CartPole-v1", 64)


def test_an_environment_that_needs_a_package_is_not_run(own_registry):
    def needs(image_size):
        raise gym.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")

    gym.register("tests/Needs-v0", needs)
    with pytest.raises(NotRun, match=r"tests/Needs-v0.*pip install pygame"):
        environments.make_env("tests/Needs-v0", 16)


def test_a_broken_mujoco_gl_is_said_where_mujoco_is_imported():
    code = (
        "from lewm_bench.core.errors import UserError\n"
        "from lewm_bench.run.environments import make_env\n"
        "try:\n    make_env('lewm_bench/Cube-v0', 64)\n"
        "except UserError as error:\n    print(error)\n"
    )
    env = {**os.environ, "MUJOCO_GL": "osmeza", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
    assert "MUJOCO_GL=osmeza" in done.stdout and "unset it" in done.stdout and done.stdout.count("\n") == 1, done.stderr
