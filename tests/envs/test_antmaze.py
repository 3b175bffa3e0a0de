"""AntMaze has the physics of gymnasium-robotics' and of OGBench's ant, OGBench's picture, and an ant that can walk."""

from __future__ import annotations

import math
import pickle
from typing import Any
from unittest.mock import MagicMock

import mujoco
import numpy as np
import pytest

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.envs.antmaze import AntMaze
from lewm_bench.envs.parts.raster import FLOOR, WALL
from lewm_bench.system.gl import Camera

WARMSTART = mujoco.mjtDisableBit.mjDSBL_WARMSTART


def samples(env: AntMaze, count: int, seed: int = 0) -> np.ndarray:
    return np.stack([env.sample_state(stream(seed, "test", n)) for n in range(count)])


def walked(env: AntMaze, episodes: int, steps: int) -> np.ndarray:
    """(episodes, steps + 1, 29) states of the walking policy."""
    states = [samples(env, episodes)]
    act = env.policies()["waypoints"]([stream(0, "test", "walk", n) for n in range(episodes)])
    for _ in range(steps):
        states.append(env.simulate(states[-1], act(states[-1])[:, None])[:, -1])
    return np.stack(states, axis=1)


def theirs(name: str, **options: Any) -> Any:
    """The other project's ant in its maze."""
    if name == "ogbench":
        pytest.importorskip("ogbench", reason="ogbench, the extra 'cube', is not installed")
        from ogbench.locomaze.maze import make_maze_env

        return make_maze_env("ant", "maze", maze_type="medium", **options)
    from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv
    from gymnasium_robotics.envs.maze.maps import U_MAZE

    return AntMazeEnv(maze_map=U_MAZE).ant_env


@pytest.mark.parametrize(("body", "maze"), [("gymnasium", "UMaze"), ("ogbench", "Medium")])
def test_it_moves_as_theirs_does_without_warm_start(body: str, maze: str) -> None:
    env, other = AntMaze(maze, 16, body=body), theirs(body)
    other.model.opt.disableflags |= WARMSTART
    rng, touched = stream(0, "test", "theirs"), False
    for state in samples(env, 3):
        for action in np.repeat(rng.uniform(-1, 1, (4, 8)), 5, axis=0):
            env.set_state(state)
            env.advance(action)
            other.set_state(state[:15], state[15:])
            other.do_simulation(action, other.frame_skip)
            state = env.get_state()
            np.testing.assert_allclose(state, np.concatenate([other.data.qpos, other.data.qvel]), atol=1e-9)
            touched |= env._data.ncon > 0
    assert touched


@pytest.mark.parametrize(("body", "maze"), [("gymnasium", "UMaze"), ("ogbench", "Medium")])
def test_walls_are_where_theirs_are(body: str, maze: str) -> None:
    env, other = AntMaze(maze, 16, body=body), theirs(body)
    places = np.stack(np.meshgrid(np.arange(-20, 36, 1.5), np.arange(-20, 36, 1.5)), -1).reshape(-1, 2)
    down, hits = np.array([0.0, 0.0, -1.0]), []
    for model, data in ((env._model, env._data), (other.model, other.data)):
        mujoco.mj_forward(model, data)
        ant = model.body("torso").id
        found = []
        for place in places:
            geom = np.zeros(1, np.int32)
            mujoco.mj_ray(model, data, np.array([*place, 3.0]), down, None, 1, ant, geom)
            found.append(geom[0] >= 0 and model.geom_type[geom[0]] == mujoco.mjtGeom.mjGEOM_BOX)
        hits.append(found)
    assert np.array_equal(*hits) and 50 < np.sum(hits[0]) < len(places) / 2


@pytest.mark.slow  # OGBench colours its floor texel by texel
def test_the_view_from_behind_is_ogbenchs(monkeypatch) -> None:
    env = AntMaze("Medium", 64, body="ogbench", view="back")
    monkeypatch.setattr(mujoco, "Renderer", MagicMock())  # it would choose an OpenGL of its own
    other = theirs("ogbench", ob_type="pixels", width=64, height=64)
    camera = Camera(other.model, 64, "back")
    for state in walked(env, 2, 5)[:, -1]:
        other.set_state(state[:15], state[15:])
        try:
            ours, expected = env.render_states(state[None])[0], camera.frame(other.data)
        except NotRun as reason:
            pytest.skip(str(reason))
        assert np.abs(ours.astype(float) - expected).mean() < 4  # their shadows are finer, and their edges
    camera.close()
    env.close()


def test_from_above_the_ant_is_where_its_state_says() -> None:
    env = AntMaze("UMaze", 64)
    states = samples(env, 20)
    try:
        frames = env.render_states(states).astype(float)
    except NotRun as reason:
        pytest.skip(str(reason))
    red = np.clip(frames[..., 0] - frames[..., 1:].max(-1) - 60, 0, None)
    pixels = np.arange(64) + 0.5
    found = np.stack([(red.sum(axis) * pixels).sum(-1) for axis in (1, 2)], 1) / red.sum((1, 2))[:, None] / 64
    assert np.abs(found - env.spots(states)).max() < 0.03
    wall, floor = frames[0, 2, 2], frames[:, 12, 12].max(0)
    assert np.abs(wall - WALL).max() < 3 and np.abs(floor - FLOOR).max() < 3
    env.close()


@pytest.mark.parametrize("body", ["gymnasium", "ogbench"])
def test_the_ant_walks_and_stays_on_its_feet(body: str) -> None:
    env = AntMaze("Medium", 16, body=body)
    states = walked(env, 6, 100)
    upright = 1 - 2 * (states[..., 4] ** 2 + states[..., 5] ** 2) > 0
    assert upright[:, -1].mean() > 0.6
    assert np.linalg.norm(states[:, 50:, :2] - states[:, :-50, :2], axis=-1).mean() > 1
    assert env.possible(states).all()


def test_it_wants_free_places_and_goes_around_walls() -> None:
    env = AntMaze("UMaze", 16)
    states = samples(env, 200)
    assert env.possible(states).all()
    inside = states[:2].copy()
    inside[:, :2] = (0.0, 0.0), (40.0, 0.0)  # the wall in the middle, and outside
    assert not env.possible(inside).any()
    around = states[:2].copy()
    around[:, :2] = (-4.0, 4.0), (-4.0, -4.0)
    length = env.path_length(around[0], around[1])
    end = 2.25  # of the middle wall, a torso's radius away from it
    assert env.distance(around[0], around[1]) == pytest.approx(8)
    assert length == pytest.approx(2 * math.hypot(4 + end, 4 - end) + 2 * end)
    elsewhere = env.teleported(states, [stream(0, n) for n in range(200)])
    assert (env.distance(elsewhere, states) >= 1).all() and np.array_equal(elsewhere[:, 2:], states[:, 2:])


def test_it_can_be_copied_and_refuses_what_it_does_not_know() -> None:
    env = AntMaze(image_size=16)
    env.advance(np.ones(8))
    again = pickle.loads(pickle.dumps(env))
    for one in (env, again):
        one.advance(-np.ones(8))
    assert np.array_equal(env.get_state(), again.get_state())
    with pytest.raises(UserError, match="did you mean 'ogbench'"):
        AntMaze(body="ogbensh")
    with pytest.raises(UserError, match="view"):
        AntMaze(view="side")
    with pytest.raises(UserError, match="threshold must be positive"):
        AntMaze(threshold=0)
    with pytest.raises(ValueError, match="29 finite numbers"):
        env.set_state(np.zeros(3))
    with pytest.raises(ValueError, match="not a finite number"):
        env.advance(np.full(8, np.nan))
