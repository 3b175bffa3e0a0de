"""Tasks that no recording chose: that they are as far away as they say, the same for everybody, and go through a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from toy_env import ToyEnv
from typer.testing import CliRunner

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.agents.oracle import ORACLE
from lewm_bench.cli import app as cli
from lewm_bench.core.env import Task
from lewm_bench.data.adapt import Adapt
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.envs.tworoom import ROOMS
from lewm_bench.evaluation import task_sorting
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import CHOICES, TASKS_1_PLAIN, nearest
from lewm_bench.evaluation.task_sorting import SortedTasks, Sorter, sort_tasks, task_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.report.text import offset_name
from lewm_bench.run.environments import make_env
from lewm_bench.run.records import load_cells
from lewm_bench.system.cache import entries
from lewm_bench.system.store import Store

PLANNER = PlannerConfig(num_samples=100, num_iterations=3, num_elites=10)


class Listed(ToyEnv):
    """Two tasks of its own, the second with a way that does not lead there."""

    def sample_task(self, rng: np.random.Generator, number: int) -> Task:
        start = np.array([-0.5, rng.uniform(-0.5, 0.5)])
        right, left = (np.tile([sign, 0.0], (12, 1)) for sign in (1.0, -1.0))
        return Task(start, start + np.array([0.95, 0]), left if number % 2 else right)


for name, kind in (("Tasks", ToyEnv), ("ListedTasks", Listed)):
    gym.register(f"tests/{name}-v0", entry_point=kind)


def setting_of(folder: Path, env_id: str, episodes: int = 8, **policies: float) -> Setting:
    env = gym.make(env_id).unwrapped if env_id.startswith("tests/") else make_env(env_id, 32)
    config = CollectConfig(episodes=episodes, steps=20, **({"policies": policies} if policies else {}))
    data = collect(env, config, 0, folder / f"{env_id.rpartition('/')[2]}-{episodes}", progress=False)
    return Setting(env, env_id, "a", data, "key", AgentConfig(), PLANNER, 0, torch.device("cpu"), Store(folder))


def sorted_of(setting: Setting, offset: int, most: int, wanted: int = 1000, split: str = "test") -> SortedTasks:
    return sort_tasks(Sorter(setting, TASKS_1_PLAIN, offset, split, 2 * offset), wanted, most)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return setting_of(tmp_path_factory.mktemp("toy"), "tests/Tasks-v0", jitter=1.0)


@pytest.fixture(scope="module")
def far(toy: Setting) -> SortedTasks:
    return sorted_of(toy, 16, 120)


def test_a_goal_is_as_far_away_as_its_offset_says(toy: Setting, far: SortedTasks) -> None:
    """An action moves each coordinate by 0.1 at most, so the fewest steps are known."""
    starts, goals = np.array(far.start), np.array(far.goal)
    fewest = [
        next(t for t in range(40) if np.hypot(*np.maximum(gap - 0.1 * t, 0)) < 0.1) for gap in abs(goals - starts)
    ]
    assert len(far.steps) >= 20 and all(nearest(16) <= steps <= 16 for steps in far.steps)
    assert (np.array(fewest) <= far.steps).all() and np.max(np.array(far.steps) / fewest) < 3
    assert all(far.greedy)  # nothing is in the way
    assert far.drawn == 120 and 0 < far.solved_at_start < 20


def test_the_oracle_solves_the_tasks_within_their_steps(toy: Setting, far: SortedTasks) -> None:
    data, pairs = task_pairs(toy.dataset, toy.env, far, "plain", 20)
    here = replace(toy, dataset=data, seed=5)
    agent = ORACLE.load(replace(here, config=ORACLE.configure({}, None)), None).agent
    results = list(evaluate(agent, here, pairs, 32, goal_offset=16, real_history=False, batch=20))
    assert len(results) == 20 and np.mean([result.hit for result in results]) >= 0.9
    assert [result.states[0] for result in results] == list(far.start[:20])
    np.testing.assert_array_equal(data.frames[pairs.goal_row], toy.env.render_states(np.array(far.goal[:20])))


def test_no_start_and_no_goal_is_recorded(toy: Setting, far: SortedTasks) -> None:
    recorded = set(map(tuple, toy.dataset.states.tolist()))
    assert not recorded & {*far.start, *far.goal}
    data, _ = task_pairs(toy.dataset, toy.env, far, None, 5)
    assert data.fingerprint == toy.dataset.fingerprint
    np.testing.assert_array_equal(data.rows("train"), toy.dataset.rows("train"))


def test_the_tasks_depend_on_the_environment_alone(toy: Setting, far: SortedTasks, tmp_path: Path, monkeypatch) -> None:
    other = replace(
        setting_of(tmp_path, "tests/Tasks-v0", episodes=5, drift=1.0),
        seed=3,
        agent="lewm",
        planner=PlannerConfig(num_samples=4, num_elites=2),
        config=AgentConfig(frame_skip=1),
    )
    monkeypatch.setattr(task_sorting, "CHUNK", 7)
    fewer = sorted_of(other, 16, 40)
    count = len(fewer.number)
    assert 3 < count < len(far.number) and fewer.drawn == 40
    for column in ("number", "start", "goal", "steps", "greedy"):
        assert getattr(fewer, column) == getattr(far, column)[:count]


def test_offsets_that_double_and_splits_share_no_task(toy: Setting, far: SortedTasks) -> None:
    assert not set(far.number) & set(sorted_of(toy, 8, 60).number)
    assert not set(far.start) & set(sorted_of(toy, 16, 60, split="val").start)
    assert offset_name(16, "tasks-1/plain") == "goal 9 to 16 oracle steps away, plain pairs"
    assert offset_name(16, "clean-1") == "goal 16 steps ahead"


@pytest.mark.parametrize("chunk", [5, 50])
def test_planning_tasks_lie_in_two_rooms(tmp_path: Path, monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(task_sorting, "CHUNK", chunk)
    found = sorted_of(setting_of(tmp_path, "lewm_bench/TwoRoom-v0"), 80, 100, wanted=3)
    rooms, plain = (np.array(ends)[:, 0] < ROOMS.wall for ends in (found.start, found.goal)), np.array(found.greedy)
    start, goal = rooms
    assert (start != goal)[~plain].all() and not (start != goal)[plain].all()
    assert min(plain.sum(), (~plain).sum()) == 3 and found.drawn == found.number[-1] + 1 < 100
    assert min(plain[:-1].sum(), (~plain[:-1]).sum()) == 2
    gap = np.linalg.norm(np.array(found.start) - np.array(found.goal), axis=1) - 16
    assert (np.array(found.steps) >= gap / (math.sqrt(2) * ROOMS.speed)).all()


def test_an_environment_may_bring_tasks_and_their_solutions(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, "tests/ListedTasks-v0", still=1.0)
    found = sorted_of(setting, 12, 6)
    assert found.number == (0, 2, 4) and found.steps == (9, 9, 9)


def test_what_is_unbounded_is_tried_with_deviation_one() -> None:
    space = gym.spaces.Box(np.array([-2, -np.inf], np.float32), np.array([4, np.inf], np.float32))
    mean, std = task_sorting.uniform_scale(space)
    np.testing.assert_allclose(mean, [1, 0])
    np.testing.assert_allclose(std, [6 / math.sqrt(12), 1], rtol=1e-6)


def test_a_replayed_environment_has_tasks(tmp_path: Path) -> None:
    picture = f"{__name__}:_black"
    env = make_env("CartPole-v1", 32, adapt=Adapt(threshold=0.02, compare=[0], frame=picture, warmup=3))
    config = CollectConfig(episodes=5, steps=5)
    data = collect(env, config, 0, tmp_path / "data", progress=False)
    setting = Setting(env, "c", "a", data, "k", AgentConfig(), PLANNER, 0, torch.device("cpu"), Store(tmp_path))
    sorter = Sorter(setting, TASKS_1_PLAIN, 4, "test", 8)
    tasks = [sorter.draw(number) for number in range(3)]
    assert [task_sorting.is_solved(env, Task(task.start, task.start)) for task in tasks] == [True] * 3
    np.testing.assert_array_equal(tasks[1].goal, sorter.draw(1).goal)
    found = SortedTasks(
        number=(0,), start=(tuple(tasks[0].start),), goal=(tuple(tasks[0].goal),), steps=(3,), greedy=(True,),
        drawn=1, solved_at_start=0,
    )  # fmt: skip
    joined, pairs = task_pairs(data, env, found, "plain", 5)
    assert len(pairs) == 1 and len(joined.frames) == len(data.frames) + 2


def _black(env: gym.Env) -> np.ndarray:
    return np.zeros((8, 8, 3), np.uint8)


def test_a_damaged_sorting_is_no_sorting() -> None:
    whole = {"number": [1], "start": [[0.5]], "goal": [[1]], "steps": [3], "greedy": [True]}
    counts = {"drawn": 2, "solved_at_start": 0}
    assert SortedTasks.model_validate(whole | counts).start == ((0.5,),)
    with pytest.raises(ValueError, match="different lengths"):
        SortedTasks.model_validate(whole | counts | {"greedy": []})


def test_a_choice_is_one_or_both_kinds() -> None:
    assert [rules.id for rules in CHOICES["tasks-1"]] == ["tasks-1/planning", "tasks-1/plain"]
    assert CHOICES["tasks-1/plain"] == (TASKS_1_PLAIN,) and TASKS_1_PLAIN.budget(25) == 50


SUITE = """
profiles: {quick: {}}
suites:
  two:
    title: Two
    envs: [lewm_bench/TwoRoom-v0]
    agents: [random, oracle, gcbc]
    seeds: [0]
    settings:
      image_size: 32
      collect: {episodes: 12, steps: 20}
      planner: {num_samples: 60, num_iterations: 2, num_elites: 8}
      evaluate: {num_pairs: 1, goal_offset: [80], protocol: tasks-1, candidates: 25, during_training: 1, during_pairs: 1}
      gcbc: {width: 16, depth: 1, heads: 2, hidden: 16, train: {steps: 4, batch_size: 4, on_collapse: continue}}
"""


def test_a_run_asks_them_of_everybody(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(SUITE)
    common = ("--config", "two.yaml", "--suite", "two", "--cache", "cache", "--quiet")
    done = CliRunner().invoke(cli.app, ["run", *common, "--out", "out"])
    assert done.exit_code == 0, done.output
    assert "goal 41 to 80 oracle steps away (tasks-1/planning" in done.output
    cells = load_cells([Path("out")])
    assert {c.protocol for c in cells} == {"tasks-1/planning", "tasks-1/plain"} and len(cells) == 6
    distances = {(c.protocol, tuple(e.distance_start for e in c.episodes)) for c in cells}
    assert len(distances) == 2  # the same tasks for every agent
    assert all(c.offsets[0].pairs_sorted >= c.offsets[0].pairs_of_stratum >= 1 for c in cells)
    oracle = [e.hit for c in cells if c.agent == "oracle" for e in c.episodes]
    assert oracle == [True, True]
    assert all(len(d.hit) == 1 for c in cells if c.agent == "gcbc" for d in c.during)
    assert len([e for e in entries(Path("cache")) if e.kind == "pairs"]) == 2  # of test and of val
    videos = [name for c in cells for o in c.offsets for name in o.videos]
    assert videos and all(Path("out", name).is_file() for name in videos)
    page = Path("out", "report.html").read_text()
    assert "Protocol tasks-1, planning pairs" in page and "TwoRoom-v0, goal 41 to 80 oracle steps away" in page

    none = ("--set", "evaluate.goal_offset=200", "--set", "evaluate.candidates=5", "--agents", "random")
    done = CliRunner().invoke(cli.app, ["run", *common, "--out", "none", *none])
    assert (
        "none of the first 5 tasks of lewm_bench/TwoRoom-v0 takes the oracle 101 to 200 steps and is plain"
        in done.output
    )
