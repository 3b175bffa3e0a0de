"""The tasks that OGBench lists: theirs, five different ones, with a way that leads there and a goal that stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv, Task
from lewm_bench.core.rng import stream
from lewm_bench.envs.antmaze import AntMaze
from lewm_bench.envs.cube import Cube
from lewm_bench.envs.parts.cube_state import CUBE_POSITION
from lewm_bench.envs.parts.solved import solved
from lewm_bench.envs.scene import Scene
from lewm_bench.evaluation.task_sorting import is_asked, steps_along

pytest.importorskip("ogbench", reason="ogbench, the extra 'cube', is not installed")

MAKE: dict[str, Callable[[], GoalEnv]] = {
    "ant": lambda: AntMaze("Medium", 16, body="ogbench"),
    "cube": lambda: Cube(16),
    "scene": lambda: Scene(16),
}
STEPS = {"ant": (101, 400), "cube": (26, 100), "scene": (51, 200)}  # the four shorter ones of Scene's
made = cache(lambda name: MAKE[name]())


def drawn(name: str, number: int, split: str = "test") -> Task:
    return made(name).sample_task(stream(0, "test tasks", name, split, number), number)


@cache
def first(name: str) -> list[Task]:
    return [drawn(name, number) for number in range(4 if name == "scene" else 5)]


def ants_cells() -> Any:
    from ogbench.locomaze.maze import make_maze_env

    return make_maze_env("ant", "maze", maze_type="medium").task_infos


def cubes_places() -> Any:
    from ogbench.manipspace.envs.cube_env import CubeEnv

    other = CubeEnv("single", ob_type="states", mode="data_collection")
    other.set_tasks()
    return other.task_infos


@pytest.mark.parametrize(
    "name", [pytest.param("ant", marks=pytest.mark.slow), "cube", pytest.param("scene", marks=pytest.mark.slow)]
)
def test_solutions_lead_to_goals_that_stay(name: str) -> None:
    env, (least, most) = made(name), STEPS[name]
    for task in first(name):
        assert is_asked(env, task) and np.isfinite(env.path_length(task.start, task.goal))
        assert least <= steps_along(env, task) <= min(most, len(task.actions))
        still = env.simulate(task.goal[None], np.zeros((1, 5, env.action_space.shape[0])))[0]
        assert env.reached(still, task.goal).all() and env.possible(task.goal)
    ends = [np.round([*task.start[:2], *task.goal], 3) for task in first(name)]
    assert len(np.unique(ends, axis=0)) == len(ends)


@pytest.mark.slow  # a walk of OGBench's environment
def test_the_ants_tasks_are_theirs() -> None:
    for task, asked in zip(first("ant"), ants_cells(), strict=True):
        assert (
            np.abs(task.start[:2] - asked["init_xy"]).max() <= 1 and np.abs(task.goal[:2] - asked["goal_xy"]).max() <= 1
        )


def test_the_cubes_tasks_are_theirs() -> None:
    for task, asked in zip(first("cube"), cubes_places(), strict=True):
        assert np.abs(task.start[CUBE_POSITION] - asked["init_xyzs"][0]).max() <= 0.0101
        assert np.linalg.norm(task.goal[CUBE_POSITION] - asked["goal_xyzs"][0]) < 0.04


@pytest.mark.slow
def test_scenes_tasks_are_theirs() -> None:
    env = made("scene")
    for task, (start, goal) in zip(first("scene"), env.ogbench_tasks().values(), strict=False):
        assert env.reached(task.goal, goal) and 0 < env.distance(task.start, start) <= 0.015


def test_a_number_is_a_task_and_the_generator_its_start() -> None:
    one, again, other, next_round = drawn("cube", 2), drawn("cube", 2), drawn("cube", 2, "val"), drawn("cube", 7)
    for part in ("start", "goal", "actions"):
        np.testing.assert_array_equal(getattr(one, part), getattr(again, part))
    for same in (other, next_round):
        assert 0 < np.linalg.norm(one.start[CUBE_POSITION] - same.start[CUBE_POSITION]) < 0.03
        assert 0 < np.linalg.norm(one.goal[CUBE_POSITION] - same.goal[CUBE_POSITION]) < 0.08


def test_drawing_a_task_leaves_the_environment_as_it_was() -> None:
    env = made("cube")
    env.set_state(env.sample_state(stream(0, "test", "before")))
    before = env.get_state()
    drawn("cube", 0)
    np.testing.assert_array_equal(env.get_state(), before)


class Idle:
    finished = True

    def act(self, state: np.ndarray) -> np.ndarray:
        return np.zeros(8, np.float32)


def test_a_script_that_gets_nowhere_solves_nothing() -> None:
    env = made("ant")
    start, target = env.sample_state(stream(0, "a")), env.sample_state(stream(0, "b"))
    task = solved(env, Idle, start, target, 10)
    assert len(task.actions) == 10 and steps_along(env, task) > 1000
    np.testing.assert_array_equal(task.goal, target)


def test_another_maze_has_no_list() -> None:
    task = AntMaze("UMaze", 16, body="ogbench").sample_task(stream(0, "test", "list"), 0)
    assert task.actions is None
