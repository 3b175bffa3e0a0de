"""Exploratory policies stay in bounds, have the statistics they claim, and never depend on their company."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from toy_env import make_toy

from lewm_bench.agent import AgentConfig
from lewm_bench.agents.scripted import NOOP, RANDOM
from lewm_bench.core.errors import NotRun
from lewm_bench.core.exploration import OU_DECAY, OU_STD, PolicyFactory, finite_bounds, generic_policies
from lewm_bench.core.rng import stream
from lewm_bench.data import check
from lewm_bench.data.adapt import Adapt, warmup
from lewm_bench.envs.parts.maze import cell_distances, cell_of, parse_maze
from lewm_bench.envs.parts.waypoints import next_cells
from lewm_bench.envs.pointmaze import PointMaze
from lewm_bench.run.environments import make_env

NAMES = ("uniform", "ornstein_uhlenbeck")
ODD_SPACE = gym.spaces.Box(np.array([-2, 0, -np.inf], np.float32), np.array([1, 0.1, np.inf], np.float32))


def actions_of(factory: PolicyFactory, episodes: int, steps: int) -> np.ndarray:
    """(N, T, A) actions of a policy that does not look at states."""
    act = factory([stream(0, "test", "policy", n) for n in range(episodes)])
    return np.stack([act(np.zeros((episodes, 4))) for _ in range(steps)], axis=1)


def walk(env: PointMaze, name: str, episodes: list[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States (N, T, 4) and actions (N, T, 2) of the given episodes, each with its own start and generator."""
    states = np.stack([env.sample_state(stream(0, "test", "start", n)) for n in episodes])
    act = env.policies()[name]([stream(0, "test", "walk", n) for n in episodes])
    visited, taken = [], []
    for _ in range(steps):
        actions = act(states)
        states = env.simulate(states, actions[:, None])[:, -1]
        visited.append(states)
        taken.append(actions)
    return np.stack(visited, 1), np.stack(taken, 1)


@pytest.mark.parametrize("name", NAMES)
def test_generic_actions_fit_any_box(name: str) -> None:
    actions = actions_of(generic_policies(ODD_SPACE)[name], 3, 200)
    assert actions.shape == (3, 200, 3) and actions.dtype == np.float32
    assert all(ODD_SPACE.contains(action) for action in actions.reshape(-1, 3))
    bounded = actions.reshape(-1, 3)[:, :2]
    assert (np.ptp(bounded, axis=0) > 0.9 * np.array([3, 0.1])).all()  # and fill it


def test_random_numbers_have_one_pair_of_bounds_for_any_box() -> None:
    inf = np.inf
    space = gym.spaces.Box(np.float32([-2, -inf, 5, -inf]), np.float32([1, inf, inf, -5]))
    low, high = finite_bounds(space)
    np.testing.assert_array_equal(low, [-2, -1, 5, -7])
    np.testing.assert_array_equal(high, [1, 1, 7, -5])
    explored = actions_of(generic_policies(space)["uniform"], 3, 300).reshape(-1, 4)
    floor = RANDOM.load(SimpleNamespace(env=SimpleNamespace(action_space=space), config=AgentConfig()), None).agent
    drawn = np.concatenate([floor._draw(stream(n, "test")) for n in range(180)])
    tried = check._actions(SimpleNamespace(action_space=space), "test").reshape(-1, 4)
    held = np.concatenate([warmup(stream(n, "test"), 9, space)[:1] for n in range(300)])
    for actions in (explored, drawn, tried, held):
        assert (actions >= low).all() and (actions <= high).all()
        assert (np.ptp(actions, axis=0) > 0.9 * (high - low)).all()


def test_no_action_is_not_run_where_there_is_none() -> None:
    """Action 0 of a Discrete space is an action like any other, and an action out of bounds is clipped to one."""
    still = gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 2]))
    moving = gym.spaces.Box(np.float32([-1, 0.5]), np.float32([1, 2]))
    for space, can_rest in ((still, True), (moving, False)):
        env = make_toy()
        env.action_space = space
        assert env.can_rest is can_rest
    frame = f"{__name__}:grey"
    discrete = make_env("CartPole-v1", 32, adapt=Adapt(threshold=1, frame=frame))
    assert not discrete.can_rest and make_env("InvertedPendulum-v5", 32, adapt=Adapt(threshold=1, frame=frame)).can_rest
    NOOP.requirements(SimpleNamespace(env=make_toy(), env_id="toy"))
    with pytest.raises(NotRun, match=r"no action of CartPole-v1 does nothing: they are discrete"):
        NOOP.requirements(SimpleNamespace(env=discrete, env_id="CartPole-v1"))


def grey(env: gym.Env) -> np.ndarray:
    return np.full((8, 8, 3), 128, np.uint8)


def test_actions_that_are_not_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="flat"):
        generic_policies(gym.spaces.Box(-1, 1, (2, 2)))


def test_uniform_has_the_moments_of_a_uniform() -> None:
    actions = actions_of(generic_policies(gym.spaces.Box(-1, 1, (2,)))["uniform"], 20, 500)
    assert abs(actions.mean()) < 0.02
    assert actions.std() == pytest.approx(1 / np.sqrt(3), rel=0.02)
    assert abs(np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1]) < 0.03


def test_ornstein_uhlenbeck_is_stationary_and_correlated() -> None:
    wide = gym.spaces.Box(-np.inf, np.inf, (2,))  # nothing is clipped
    actions = actions_of(generic_policies(wide)["ornstein_uhlenbeck"], 400, 40)
    assert actions[:, 0].std() == pytest.approx(OU_STD, rel=0.06)
    assert actions[:, -1].std() == pytest.approx(OU_STD, rel=0.06)
    assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] == pytest.approx(OU_DECAY, abs=0.01)


@pytest.mark.parametrize("name", [*NAMES, "waypoints"])
def test_a_trajectory_does_not_depend_on_its_company(name: str) -> None:
    env = PointMaze("Medium")
    states, actions = walk(env, name, [0, 1, 2, 3, 4], 80)
    alone, alone_actions = walk(env, name, [3], 80)
    reordered, _ = walk(env, name, [4, 3], 80)
    assert np.array_equal(actions[3], alone_actions[0])
    assert np.array_equal(states[3], alone[0]) and np.array_equal(states[3], reordered[1])
    assert not np.array_equal(states[3], states[4])


@pytest.mark.parametrize("maze", ["UMaze", "Medium", "Large"])
def test_next_cells_lead_to_every_cell_by_a_shortest_way(maze: str) -> None:
    walls = parse_maze(maze)
    free, table = np.argwhere(~walls), next_cells(walls)
    for k, target in enumerate(free):
        steps = cell_distances(walls, *target)
        ahead = table[k][tuple(free.T)]
        expected = np.maximum(steps[tuple(free.T)] - 1, 0)
        assert np.array_equal(steps[tuple(ahead.T)], expected)


@pytest.mark.parametrize(("damped", "steps"), [(True, 300), (False, 1000)])
@pytest.mark.parametrize("maze", ["UMaze", "Medium", "Large"])
def test_waypoints_cross_the_whole_maze(maze: str, damped: bool, steps: int) -> None:
    env = PointMaze(maze, damped=damped)
    states, actions = walk(env, "waypoints", list(range(16)), steps)
    assert all(env.action_space.contains(action) for action in actions[:, ::50].reshape(-1, 2))
    cells = cell_of(env.walls, states[..., :2])
    visited = [len({tuple(cell) for cell in episode}) for episode in cells.tolist()]
    free = (~env.walls).sum()
    assert np.mean(visited) > min(0.5 * free, 12)  # each episode goes far
    assert len({tuple(cell) for episode in cells.tolist() for cell in episode}) >= 0.95 * free  # together, everywhere


def test_policies_of_equal_streams_are_equal() -> None:
    factories: dict[str, Callable] = dict(PointMaze().policies())
    for name in factories:
        first, again = (walk(PointMaze(), name, [0, 1], 20)[1] for _ in range(2))
        assert np.array_equal(first, again)
