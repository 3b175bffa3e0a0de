"""The floors that say what a task needs: the reflex, blind to walls, and the planner that looks one block ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lewm_bench.agent import Setting
from lewm_bench.agents.oracle import GREEDY, ORACLE
from lewm_bench.agents.straight import STRAIGHT
from lewm_bench.core.errors import NotRun
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.envs.fourrooms import FourRooms
from lewm_bench.envs.pointmaze import PointMaze
from lewm_bench.envs.tworoom import TwoRoom
from lewm_bench.envs.wall import Wall
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.environments import make_env
from lewm_bench.system.store import Store

CEM = PlannerConfig(num_samples=100, num_iterations=3, num_elites=10)
# From the end of one arm of the U to that of the other, around the wall, and along one arm.
AROUND, ALONG = ([-1.0, 1.0, 0, 0], [-1.0, -1.0, 0, 0]), ([-1.0, 1.0, 0, 0], [1.0, 1.0, 0, 0])


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("floors"), make_env("lewm_bench/PointMaze-UMaze-v0", 64)
    data = collect(env, CollectConfig(episodes=10, steps=30, policies={"waypoints": 1.0}), 0, folder / "data", False)
    return Setting(env, "U", "", data, "key", ORACLE.configure({}, None), CEM, 0, torch.device("cpu"), Store(folder))


def ends(family, setting: Setting, way, **config) -> tuple[bool, float]:
    """Whether a way is gone, and how far from its goal it ends; its start and goal are made rows of the data."""
    dataset = setting.dataset
    states, frames = dataset.states.copy(), np.array(dataset.frames)
    states[:2] = way
    frames[:2] = setting.env.render_states(states[:2])
    there = replace(dataset, states=states, frames=frames)
    family_setting = replace(setting, dataset=there, config=family.configure(config, None), agent="agent")
    family.requirements(family_setting)
    pairs = Pairs(np.array([0]), np.array([0]), np.array([1]), 1, 0)
    agent = family.load(family_setting, None).agent
    (result,) = evaluate(agent, family_setting, pairs, 120, goal_offset=60, real_history=False)
    return result.hit, result.distance_end


def test_what_is_around_a_wall_needs_a_path(setting: Setting) -> None:
    for family in (STRAIGHT, GREEDY):
        assert ends(family, setting, ALONG)[0] and not ends(family, setting, AROUND)[0]
    assert not ends(ORACLE, setting, AROUND, cost="distance")[0], "it leads into the corner, five blocks ahead too"
    reached, left = ends(ORACLE, setting, AROUND)
    assert reached and left < setting.env.threshold


def test_the_reflex_looks_at_nothing_but_pictures(setting: Setting, monkeypatch) -> None:
    env, (start, goal) = setting.env, np.array(ALONG)
    frames = env.render_states(np.stack([start, goal]))
    env.set_state(goal)
    (push,) = env.reflex(frames[:1], frames[1:])
    assert push[0] == 1 and abs(push[1]) < 0.02 and push.dtype == np.float32
    assert (env.reflex(frames, frames) == 0).all()


@pytest.mark.parametrize(
    "env", [PointMaze("Large"), PointMaze("UMaze", 224), TwoRoom(), TwoRoom(legacy=True), Wall(128), FourRooms()]
)
def test_the_reflex_moves_towards_the_goal_in_the_worlds_directions(env) -> None:
    rng = np.random.default_rng(3)
    starts, goals = (np.stack([env.sample_state(rng) for _ in range(40)]) for _ in range(2))
    pushes = env.reflex(env.render_states(starts), env.render_states(goals))
    away = (goals - starts)[:, :2]
    far = np.linalg.norm(away, axis=1) > env.threshold
    cosine = (pushes * away).sum(1) / np.maximum(np.linalg.norm(pushes, axis=1) * np.linalg.norm(away, axis=1), 1e-9)
    assert far.sum() > 20 and (cosine[far] > 0.95).all() and np.abs(pushes).max() <= 1


def test_a_picture_without_what_moves_asks_for_nothing() -> None:
    env = TwoRoom()
    empty = env._raster.background[None]
    assert (env.reflex(empty, env.render_states(np.array([[50.0, 50.0]]))) == 0).all()


def test_an_environment_without_a_reflex_says_so(setting: Setting) -> None:
    with pytest.raises(NotRun, match=r"PushT.* has no reflex"):
        STRAIGHT.requirements(replace(setting, env=make_env("lewm_bench/PushT-v0", 64), env_id="PushT"))


def test_no_setting_of_a_suite_changes_what_greedy_reaches(setting: Setting) -> None:
    narrow = replace(setting, planner=PlannerConfig(num_samples=2, num_iterations=1, num_elites=2))
    assert ends(GREEDY, narrow, ALONG) == ends(GREEDY, setting, ALONG)
