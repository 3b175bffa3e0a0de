"""What determines a stage: an edit of code is another stage, and a table never mixes two."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from lewm_bench.core import source
from lewm_bench.data.collect import CollectConfig
from lewm_bench.run import keys
from lewm_bench.run.benchmarks import EnvSpec, load
from lewm_bench.run.environments import make_env
from lewm_bench.run.records import load_cells
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
ENVIRONMENT, FACTORS, AGENT, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SUITE = """
profiles: {quick: {image_size: 32}}
suites:
  theirs:
    title: A box of their own
    envs: ["their_pkg:TheirMaze-v0"]
    agents: [random, "their_pkg.agents:MINE"]
    seeds: [0]
    settings:
      collect: {episodes: 20, steps: 15}
      evaluate: {num_pairs: 12, goal_offset: [10]}
      "their_pkg.agents:MINE": {samples: 4}
"""


@dataclass
class Outcome:
    """What a run of the page's suite left behind."""

    dataset: str
    episodes: list[dict]  # the rows of episodes.csv without times
    collected: int

    @property
    def hits(self) -> int:
        return sum(row["hit"] for row in self.episodes)


@pytest.fixture()
def theirs(tmp_path, monkeypatch):
    """A function that edits the page's package (old text to new), runs its suite as a new process would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = tmp_path / "their_pkg"
    package.mkdir()
    (package / "__init__.py").write_text(ENVIRONMENT)
    (package / "agents.py").write_text(AGENT)
    (tmp_path / "theirs.yaml").write_text(SUITE)

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "their_pkg"]:
            del sys.modules[name]
        gym.registry.pop("TheirMaze-v0", None)
        importlib.invalidate_caches()

    def run(file: str = "__init__.py", old: str = "", new: str = "") -> Outcome:
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new))
        forget()
        said: list[str] = []
        suite = resolve(load(tmp_path / "theirs.yaml"), "theirs", "quick")
        device = resolve_device("cpu")
        it = Run(suite, Store(tmp_path / "cache"), tmp_path / "out", device, progress=False, say=said.append)
        cells = run_suite(it)
        rows = [row.model_dump() for cell in load_cells([it.out]) for row in cell.episodes]
        episodes = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
        return Outcome(cells[0].dataset, episodes, sum("frames collected" in line for line in said))

    yield run
    forget()


def test_another_physics_is_another_dataset_and_other_episodes(theirs):
    before = theirs()
    after = theirs(old="self.step_size * push", new="0.5 * self.step_size * push")
    assert before.collected == after.collected == 1
    assert after.dataset != before.dataset and after.episodes != before.episodes


@pytest.mark.slow
def test_another_picture_is_another_dataset(theirs):
    before, after = theirs(), theirs(old="255 - square", new="255 - square // 2")
    assert after.collected == 1 and after.dataset != before.dataset


def test_a_stricter_rule_is_another_success(theirs):
    before, after = theirs(), theirs(old="threshold = 0.15", new="threshold = 0.05")
    assert after.hits < before.hits / 2


@pytest.mark.slow
def test_words_about_it_are_the_same_stages(theirs):
    before = theirs()
    after = theirs(old="        push = ", new="        # how hard\n        push = ")
    assert after == Outcome(before.dataset, before.episodes, collected=0)


@pytest.mark.slow
def test_another_agent_is_evaluated_again_on_the_same_data(theirs):
    before = theirs()
    after = theirs(
        "agents.py", "plans[env.distance(after, goal).argmin()]", "plans[env.distance(after, goal).argmax()]"
    )
    assert after.collected == 0 and after.dataset == before.dataset
    mine = [[row for row in one.episodes if "MINE" in row["agent"]] for one in (before, after)]
    others = [[row for row in one.episodes if "MINE" not in row["agent"]] for one in (before, after)]
    assert mine[0] != mine[1] and others[0] == others[1]


ADAPTED = {
    "planted_inner.py": """
import gymnasium as gym
import numpy as np
from planted_rules import GAIN
class Inner(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    def __init__(self, render_mode="rgb_array"):
        self.x = 0.0
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    observation_space = gym.spaces.Box(-9, 9, (1,), np.float64)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return np.array([self.x]), {}
    def step(self, action):
        self.x += GAIN * float(action[0])
        return np.array([self.x]), 0.0, False, False, {}
    def render(self):
        return np.full((8, 8, 3), 9, np.uint8)
gym.register("PlantedInner-v0", "planted_inner:Inner")
""",
    "planted_rules.py": "GAIN = 0.1\n",
    "planted_distance.py": "import numpy as np\ndef far(a, b):\n    return np.abs(a - b)[..., 0]\n",
    "planted_frame.py": "def look(env):\n    return env.render()\n",
    "planted_wrapper.py": """
import gymnasium as gym
from planted_factor import FACTOR
class Scaled(gym.ObservationWrapper):
    def __init__(self, env, by=1.0):
        super().__init__(env)
        self.by = by
    def observation(self, observation):
        return FACTOR * self.by * observation
""",
    "planted_factor.py": "FACTOR = 1.0\n",
}


@pytest.fixture()
def adapted(tmp_path, monkeypatch):
    """A function from files (name to text) beside ``ADAPTED`` to the specification of the adapted environment's data."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def spec(changes: dict[str, str], by: float = 1.0) -> dict:
        for name, text in {**ADAPTED, **changes}.items():
            (tmp_path / name).write_text(text)
            sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()
        rules = {"threshold": 0.1, "distance": "planted_distance:far", "frame": "planted_frame:look"}
        rules["wrappers"] = [{"name": "planted_wrapper:Scaled", "kwargs": {"by": by}}]
        planted = EnvSpec(id="planted_inner:PlantedInner-v0", adapt=rules)
        env = make_env(planted.id, 16, {}, planted.adapt)
        return keys.dataset_spec(planted, env, CollectConfig().of(env))

    yield spec
    for name in ADAPTED:
        sys.modules.pop(name.removesuffix(".py"), None)
    for env_id in ("PlantedInner-v0", "adapted/PlantedInner-v0"):
        gym.registry.pop(env_id, None)


@pytest.mark.parametrize("file", ADAPTED)
def test_an_adapted_environment_is_made_of_the_inner_one_and_what_its_block_names(adapted, file):
    before = adapted({})
    assert adapted({}) == before and before["source"]
    assert adapted({file: ADAPTED[file] + "OTHER = 1\n"}) != before
    assert adapted({}, by=2.0) != before


def test_another_version_of_a_package_is_another_stage(monkeypatch):
    spec, family = EnvSpec(id="lewm_bench/PointMaze-UMaze-v0"), agent_family("gcbc")
    env = make_env(spec.id, 32)

    def stages() -> list:
        learned = CollectConfig(policies={"sac": 1.0})
        data = [keys.dataset_spec(spec, env, config) for config in (CollectConfig().of(env), learned)]
        return [*data, keys.policy_spec(learned, data[1]), keys.code_of("gcbc", family)]

    def changed(package: str) -> list[bool]:
        with monkeypatch.context() as patch:
            known = source._versions
            patch.setattr(source, "_versions", lambda top: known(top) if top != package else {package: "0"})
            return [one != other for one, other in zip(stages(), before, strict=True)]

    before = stages()
    assert changed("nothing") == [False] * 4
    assert changed("mujoco") == [True, True, True, False]
    assert changed("stable_baselines3") == [False, True, True, False]
    assert changed("torch") == [False, True, True, True]


def test_numbers_stand_for_our_own_code(monkeypatch):
    spec, family = EnvSpec(id="lewm_bench/TwoRoom-v0"), agent_family("gcbc")
    env = make_env(spec.id, 32)

    def stages() -> list:
        return [keys.dataset_spec(spec, env, CollectConfig().of(env)), keys.code_of("gcbc", family)]

    before = stages()
    assert [one["source"] for one in before] == ["", ""]
    for where, name, expected in (
        (keys, "DATA_SCHEMA", [True, False]),
        (type(env), "schema", [True, False]),
        (keys, "MODEL_SCHEMA", [False, True]),
        (type(family), "schema", [False, True]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, 99)
            assert [one != other for one, other in zip(stages(), before, strict=True)] == expected


@pytest.mark.parametrize("env_id", ["PointMaze-UMaze-v0", "TwoRoom-v0", "Wall-v0", "Reacher-v0"])
def test_no_data_depend_on_the_version_of_torch(env_id: str) -> None:
    assert "torch" not in make_env(f"lewm_bench/{env_id}", 32).made_of().packages


def test_the_factor_of_the_page_changes_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_varied.py").write_text(ENVIRONMENT.replace("gym.register", "# ") + FACTORS)
    monkeypatch.syspath_prepend(tmp_path)
    env, push = importlib.import_module("planted_varied").VariedMaze(16), np.ones((1, 1, 2))
    ways = [env.shifted("slower", level).simulate(np.zeros((1, 2)), push)[0, 0, 0] for level in range(4)]
    assert ways == pytest.approx([0.1, 0.075, 0.05, 0.025]) and "delay" in env.factors()
