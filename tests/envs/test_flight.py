"""Balls that fly by numpy in place of MuJoCo: to the last bit, only where no wall is near, and only where it is exact."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_bench.core.rng import stream
from lewm_bench.envs.parts.flight import FASTEST, FreeFlight
from lewm_bench.envs.parts.maze import clearance
from lewm_bench.envs.pointmaze import PointMaze

REACH = 0.104
LONG = "##########\n#........#\n##########"


def flight_of(env: PointMaze) -> FreeFlight:
    return FreeFlight(env._model, env.walls, REACH)


def starts_and_actions(env: PointMaze, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = stream(0, "test", "flight")
    states = np.stack([env.sample_state(rng) for _ in range(count)])
    return states, np.repeat(rng.uniform(-1, 1, (count, steps // 5, 2)), 5, axis=1)


@pytest.mark.parametrize("damped", [True, False])
@pytest.mark.parametrize("maze", ["UMaze", "Medium", LONG])
def test_all_balls_end_where_mujoco_alone_takes_them(maze: str, damped: bool) -> None:
    env = PointMaze(maze, damped=damped)
    states, actions = starts_and_actions(env, 300, 30)
    states[:, 2:] *= 20  # some into walls at once, and faster than the inertial ball may be
    states[:100, :2] = np.round(states[:100, :2] * 20) / 20
    assert np.array_equal(env.simulate(states, actions), env._by_mujoco(states, actions))


def test_most_steps_are_flown() -> None:
    env = PointMaze("Medium")
    states, actions = starts_and_actions(env, 300, 5)
    if not flight_of(env).is_exact():
        pytest.skip("this processor or this MuJoCo rounds in another way")
    assert flight_of(env)(states, actions[:, 0], 5)[1].mean() > 0.7


@pytest.mark.parametrize("part", ["_damping", "_force", "_inverse", "_step"])
def test_arithmetic_that_differs_in_the_last_bit_is_noticed(part: str) -> None:
    flight = flight_of(PointMaze("UMaze"))
    setattr(flight, part, np.nextafter(getattr(flight, part), np.inf))
    assert not flight.is_exact()


def test_where_it_is_not_exact_mujoco_moves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    env = PointMaze("UMaze")
    states, actions = starts_and_actions(env, 40, 10)
    expected = env.simulate(states, actions)
    monkeypatch.setattr(FreeFlight, "is_exact", lambda self: False)
    monkeypatch.setattr(FreeFlight, "__call__", lambda *_: pytest.fail("flew"))
    assert np.array_equal(PointMaze("UMaze").simulate(states, actions), expected)


def test_what_mujoco_holds_for_diverged_is_left_to_it() -> None:
    env = PointMaze("UMaze")
    states, actions = starts_and_actions(env, 40, 5)
    states[0, 2] = 10 * FASTEST
    assert np.array_equal(env.simulate(states, actions), env._by_mujoco(states, actions))


@pytest.mark.parametrize("maze", ["UMaze", LONG])
def test_clear_is_what_no_wall_reaches(maze: str) -> None:
    env = PointMaze(maze)
    rows, columns = env.walls.shape
    positions = stream(0, "test", "clear").uniform(-0.5, 0.5, (4000, 2)) * (columns, rows)
    gaps = np.array([clearance(env.walls, position) for position in positions])
    clear = flight_of(env).clear(positions)
    assert (gaps[clear] > REACH).all() and clear[gaps > REACH + 0.03].all() and clear.any()
    outside = np.array([[columns, 0.0], [0, -rows], [-1e5, 1e5]])
    assert not flight_of(env).clear(outside).any()
