"""The factors of the environments of the benchmark: each changes what it says, and by as much."""

from __future__ import annotations

import io
import pickle

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import lewm_bench.envs  # noqa: F401
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.generic_factors import GENERIC
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import LEVELS
from lewm_bench.data.adapt import register_env
from lewm_bench.data.factor_sheet import factor_sheet
from lewm_bench.envs.parts.maze import altered_mazes, clearance, drawing, is_connected, parse_maze, turned_mazes
from lewm_bench.envs.pointmaze import INERTIAL, PointMaze
from lewm_bench.envs.tworoom import TwoRoom
from lewm_bench.envs.wall import Wall

OWN = {
    "PointMaze-UMaze": {"mass", "damping", "force", "step", "maze", "walls"},
    "PointMaze-Medium": {"mass", "damping", "force", "step", "maze", "walls"},
    "PointMaze-Large": {"mass", "damping", "force", "step", "maze", "walls"},
    "TwoRoom": {"speed", "dot", "radius", "door", "second_door", "wall", "door_width"},
    "Wall": {"speed", "dot", "door", "second_door", "wall", "door_width"},
    "Reacher": {"mass", "damping", "force", "links"},
    "PushT": {"friction", "stiffness", "shape", "size"},
    "Cube": {"mass", "friction"},
}
LIGHT = [name for name in OWN if name != "Cube"]


def made(name: str) -> GoalEnv:
    try:
        return gym.make(f"lewm_bench/{name}-v0").unwrapped
    except NotRun as error:
        pytest.skip(str(error))


def starts(env: GoalEnv, count: int) -> np.ndarray:
    rng = stream(0, "test", "factors")
    return np.stack([env.sample_state(rng) for _ in range(count)])


def pushes(env: GoalEnv, count: int, steps: int) -> np.ndarray:
    """Actions (count, steps, A), each held for all of the time, so that walls and blocks are met."""
    size = env.action_space.shape[0]
    held = stream(0, "test", "pushes").uniform(-1, 1, (count, 1, size))
    return np.repeat(held, steps, axis=1)


@pytest.mark.parametrize("name", [*LIGHT, pytest.param("Cube", marks=pytest.mark.slow)])
def test_every_environment_has_its_own_factors(name: str) -> None:
    assert set(made(name).factors()) == {*GENERIC, *OWN[name]}


@pytest.mark.parametrize("name", [name for name in LIGHT if name != "PointMaze-Large"])
def test_physics_changes_motion_more_at_higher_levels(name: str) -> None:
    env = made(name)
    count = 40 if name == "PushT" else 8  # few of them hit its block
    states, actions = starts(env, count), pushes(env, count, 12)
    usual = env.simulate(states, actions)
    for factor in OWN[name]:
        if env.factors()[factor].group == "physics":
            worlds = [env.shifted(factor, level) for level in (1, 2, 3)]
            away = [np.abs(world.simulate(states, actions) - usual).mean() for world in worlds]
            assert 0 < away[0] < away[1] < away[2], (factor, away)
            copied = pickle.loads(pickle.dumps(worlds[2]))
            assert np.array_equal(copied.simulate(states[:3], actions[:3]), worlds[2].simulate(states[:3], actions[:3]))


@pytest.mark.parametrize("name", ["PointMaze-UMaze", "PointMaze-Medium", "TwoRoom", "Wall", "PushT"])
def test_layouts_are_seen_and_have_room_for_starts(name: str) -> None:
    env = made(name)
    states = starts(env, 60)
    assert env.possible(states).all()
    for factor in OWN[name]:
        if env.factors()[factor].group == "layout":
            pictures = [env.shifted(factor, level).render_states(states[:1])[0] for level in LEVELS]
            assert len({picture.tobytes() for picture in pictures}) == len(LEVELS)
            for level in (1, 2, 3):
                world = env.shifted(factor, level)
                fit = states[world.possible(states)]
                assert len(fit) > 20 and world.possible(starts(world, 30)).all()
                assert np.isfinite(world.path_length(fit, fit[:1])).all()


# PointMaze.


@pytest.mark.parametrize(
    "factor, scales", [("mass", (1.5, 3, 8)), ("force", (1.5, 2.5, 4)), ("step", (1.25, 1.6, 2.5))]
)
def test_a_ball_accelerates_as_its_constants_say(factor: str, scales: tuple[float, ...]) -> None:
    env = made("PointMaze-UMazeInertial")
    for level, scale in enumerate(scales, 1):
        mass, force, step = (getattr(INERTIAL, name) for name in ("mass", "force", "timestep"))
        mass, force, step = (
            value * (scale if name == factor else 1)
            for name, value in (("mass", mass), ("force", force), ("step", step))
        )
        after = env.shifted(factor, level).simulate(np.array([[-1.0, 1, 0, 0]]), np.array([[[0.5, 0]]]))[0, 0]
        assert after[2] == pytest.approx(step * 0.5 * force / (mass + step * INERTIAL.damping), rel=1e-12)


def test_constants_of_the_ball_can_be_given() -> None:
    assert PointMaze(dynamics={"mass": 3}).dynamics.mass == 3
    for wrong, said in ({"weight": 1.0}, "named 'weight'"), ({"mass": 0}, "mass must be positive, got 0"):
        with pytest.raises(UserError, match=said):
            PointMaze(dynamics=wrong)


def test_a_state_in_a_wall_is_not_possible() -> None:
    env = made("PointMaze-Medium")
    world = env.shifted("walls", 3)
    grid = np.stack(np.meshgrid(*[np.linspace(-4, 4, 33)] * 2), -1).reshape(-1, 2)
    states = np.concatenate([grid, np.zeros_like(grid)], axis=1)
    expected = [clearance(world.walls, place) > 0.05 for place in grid]
    assert world.possible(states).tolist() == expected and world.possible(states[None]).shape == (1, len(states))
    changed = (world.walls != env.walls).sum()
    assert changed == 10 and is_connected(world.walls)


def test_mazes_turned_and_altered() -> None:
    walls = parse_maze("UMaze")
    turned = turned_mazes(walls)
    assert {drawing(maze) for maze in turned.values()} == {
        "#####\n#...#\n#.###\n#...#\n#####",
        "#####\n#.#.#\n#.#.#\n#...#\n#####",
        "#####\n#...#\n#.#.#\n#.#.#\n#####",
    }
    mazes = altered_mazes(walls, (1, 2, 3), np.random.default_rng(0))
    assert [int((maze != walls).sum()) for maze in mazes] == [1, 2, 3] and all(map(is_connected, mazes))
    assert all(np.array_equal(parse_maze(drawing(maze)), maze) for maze in mazes)
    open_room = parse_maze("#####\n#...#\n#...#\n#...#\n#####")
    assert not turned_mazes(open_room) and "maze" not in PointMaze(drawing(open_room)).factors()


# Rooms.


def test_the_disk_passes_where_the_door_has_moved_to() -> None:
    env = made("TwoRoom")
    right = np.tile([1.0, 0.0], (2, 15, 1))
    for world, passes in ((env, [True, False]), (env.shifted("door", 3), [False, True])):
        ends = world.simulate(np.array([[80.0, 49.0], [80.0, 175.0]]), right)[:, -1]
        assert (ends[:, 0] > 120).tolist() == passes
        assert ends[~np.array(passes), 0] == pytest.approx(112 - 5 - 7, abs=0.01)


def test_a_slower_disk_goes_a_part_of_the_way() -> None:
    ends = [
        made("TwoRoom").shifted("speed", level).simulate(np.array([[50.0, 120.0]]), np.ones((1, 4, 2)))
        for level in LEVELS
    ]
    assert [float(end[0, -1, 0] - 50) for end in ends] == pytest.approx([20, 15, 10, 5])


def test_rooms_that_cannot_be_are_refused() -> None:
    for kind, rooms, said in (
        (TwoRoom, {"dor": 3}, "no measure of the rooms named 'dor'"),
        (TwoRoom, {"door": 20}, "choose other measures"),
        (TwoRoom, {"second_door": 75}, "choose other measures"),  # they would be one
        (Wall, {"wall": 5}, "choose other measures"),
    ):
        with pytest.raises(UserError, match=said):
            kind(rooms=rooms)
    with pytest.raises(UserError, match="leave out legacy or rooms"):
        TwoRoom(legacy=True, rooms={"door": 90})
    assert not {"door", "second_door", "speed"} & set(TwoRoom(legacy=True).factors())


@pytest.mark.parametrize("factor", ["camera", "zoom"])
def test_spots_follow_the_camera(factor: str) -> None:
    env = made("TwoRoom")
    states = starts(env, 20)
    for level in LEVELS:
        world = env.shifted(factor, level)
        frames = world.render_states(states).astype(float)
        red = np.maximum(frames[..., 0] - frames[..., 1], 0) ** 2
        middles = np.arange(64) + 0.5
        seen = np.stack([(red.sum(axis) @ middles) / red.sum((1, 2)) for axis in (1, 2)], axis=1) / 64
        whole = (np.abs(world.spots(states) - 0.5) < 0.4).all(1)
        assert whole.sum() > 10 and np.abs(seen - world.spots(states))[whole].max() < 1 / 64


# MuJoCo.


def test_an_adapted_environment_has_the_physics_of_its_model() -> None:
    pytest.importorskip("mujoco")
    register_env("tests/HeavyPendulum-v0", "InvertedPendulum-v5", threshold=0.1, state="qpos")
    env = gym.make("tests/HeavyPendulum-v0").unwrapped
    assert {"mass", "damping", "force"} <= set(env.factors())
    heavy = env.shifted("mass", 3)
    states, actions = starts(env, 3), pushes(env, 3, 4)
    assert np.allclose(heavy._inner.model.body_mass, 8 * env._inner.model.body_mass)
    away = np.abs(heavy.simulate(states, actions) - env.simulate(states, actions)).max()
    assert away > 0.01
    assert np.array_equal(pickle.loads(pickle.dumps(heavy)).simulate(states, actions), heavy.simulate(states, actions))


# The sheet.


def test_the_sheet_has_a_row_for_each_factor_that_is_seen() -> None:
    env = made("TwoRoom")
    states = starts(env, 4)
    sheet = np.asarray(Image.open(io.BytesIO(factor_sheet(env, states, pixels=64))))
    seen = [name for name, factor in env.factors().items() if factor.group in ("looks", "layout")]
    assert sheet.shape == (6 + len(seen) * 84, 190 + 4 * 70, 3)
    usual = env.render_states(states[:1])[0]
    assert np.array_equal(sheet[20:84, 190:254], usual)
    colour = env.shifted("colour", 3).render_states(states[:1])[0]
    assert np.array_equal(sheet[20:84, 190 + 210 : 254 + 210], colour)
