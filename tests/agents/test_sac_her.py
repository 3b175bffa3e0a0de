"""SAC + HER: the goal environment that it learns in, what it refuses, what it says, and that it learns."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents.sac_her import SAC_HER, SACHERConfig, Scale, StateGoalEnv
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals, Past
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import CLEAN_1, sample_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig

TINY = SACHERConfig(hidden=(8,), episode_steps=4, train=TrainConfig(steps=60, batch_size=8, log_every=10))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("sac"), make_toy()
    config = CollectConfig(episodes=40, steps=30, policies={"drift": 1.0})
    data = collect(env, config, 0, folder / "data", progress=False)
    return Setting(env, TOY_ID, "sac-her", data, "key", TINY, PlannerConfig(), 0, torch.device("cpu"), Store(folder))


@pytest.fixture(scope="module")
def checkpoint(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    SAC_HER.train(setting, folder)
    return folder


def test_scale_is_that_of_the_states_and_can_be_undone() -> None:
    states = np.random.default_rng(0).normal([100, -2, 5], [30, 0.1, 0], (400, 3))
    scale = Scale.of(states)
    scores = scale.standardize(states)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(scores.std(0), [1, 1, 0], atol=1e-9)  # the last never changes
    np.testing.assert_allclose(scale.restore(scores), states, rtol=1e-12)


def test_it_learns_in_the_same_world_with_the_benchmarks_success(setting: Setting) -> None:
    scale, env = Scale(np.array([0.5, -1.0]), np.array([2.0, 0.1])), setting.env
    task = StateGoalEnv(env, scale, 7, stream(0, "test"))
    goals, rng = [], np.random.default_rng(1)
    for _ in range(3):
        seen, _ = task.reset()
        goal, state = seen["desired_goal"] * scale.std + scale.mean, env.get_state()
        goals.append(goal)
        for step in range(1, 8):
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            state = env.simulate(state[None], action[None, None])[0, 0]
            seen, reward, terminated, truncated, _ = task.step(action)
            for name in ("observation", "achieved_goal"):
                assert seen[name].dtype == np.float32  # not every device has more
                np.testing.assert_array_equal(seen[name], ((state - scale.mean) / scale.std).astype(np.float32))
            assert reward == (0.0 if np.linalg.norm(state - goal) < env.threshold else -1.0)
            assert not terminated and truncated == (step == 7)
    assert len({tuple(g) for g in goals}) == 3 and np.abs(goals).max() <= 1
    states, targets = rng.uniform(-1, 1, (2, 5, 50, 2))
    targets[:, :20] = states[:, :20] + 0.05
    expected = np.where(np.linalg.norm(states - targets, axis=-1) < env.threshold, 0, -1)
    rewards = task.compute_reward(scale.standardize(states), scale.standardize(targets), {})
    np.testing.assert_array_equal(rewards, expected)
    assert {0, -1} == set(rewards.ravel())


def test_stable_baselines3_accepts_it(setting: Setting) -> None:
    from stable_baselines3.common.env_checker import check_env

    check_env(StateGoalEnv(setting.env, Scale(np.zeros(2), np.ones(2)), 5, stream(0, "test")))


@pytest.mark.parametrize("name", ["frame_skip", "history"])
def test_what_it_cannot_do_is_refused_in_one_line(name: str) -> None:
    assert getattr(SACHERConfig(**{name: 1}), name) == 1
    with pytest.raises(ValidationError, match=r"at every step .*, got 5"):
        SACHERConfig(**{name: 5})


def test_a_checkpoint_acts_without_its_dataset(setting: Setting, checkpoint: Path) -> None:
    data, states = setting.dataset, np.random.default_rng(0).uniform(-1, 1, (6, 2))
    blank = torch.zeros(6, 1, 3, 16, 16, dtype=torch.uint8)
    actions = []
    for dataset in (data, replace(data, states=data.states * 9 + 4)):
        controller = SAC_HER.load(replace(setting, dataset=dataset), checkpoint).agent.start(
            Goals(blank[:, 0], states[::-1]), [None] * 6
        )
        past = Past(blank, torch.zeros(6, 0, 2), states)
        actions.append(controller.search(controller.encode(past)))
    policy, mean = SAC_HER.load(setting, checkpoint).agent.policy, data.states[data.rows("train")].mean(0)
    std = data.states[data.rows("train")].std(0)
    seen = {"observation": states, "achieved_goal": states, "desired_goal": states[::-1]}
    expected, _ = policy.predict({name: (values - mean) / std for name, values in seen.items()}, deterministic=True)
    np.testing.assert_allclose(actions[0][:, 0], expected, atol=1e-6)
    assert actions[0].shape == (6, 1, 2) and np.ptp(actions[0], 0).max() > 0
    np.testing.assert_array_equal(*actions)


def test_it_reads_the_state_in_units_of_the_training_data(setting: Setting, checkpoint: Path) -> None:
    policy = SAC_HER.load(setting, checkpoint).agent.policy
    data = setting.dataset
    rows = np.concatenate([np.arange(data.starts[e], data.ends[e]) for e in data.splits["train"]])
    np.testing.assert_allclose(policy.state_mean, data.states[rows].mean(0), rtol=1e-6)
    np.testing.assert_allclose(policy.state_std, data.states[rows].std(0), rtol=1e-6)


def test_the_table_says_what_it_uses(setting: Setting, checkpoint: Path) -> None:
    loaded = SAC_HER.load(setting, checkpoint)
    assert SAC_HER.kind == "privileged" and loaded.label == "SAC + HER (uses state, reward and interaction)"
    assert loaded.note == "uses state, reward and 60 steps of interaction" and loaded.model is None


def test_an_interrupted_training_says_that_it_starts_again(
    setting: Setting, checkpoint: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    steps = []

    class Killed(Exception):
        pass

    def advance(action: np.ndarray) -> None:
        steps.append(action)
        if len(steps) == 50:
            raise Killed
        type(setting.env).advance(setting.env, action)

    monkeypatch.setattr(setting.env, "advance", advance)
    with caplog.at_level(logging.WARNING), pytest.raises(Killed):
        SAC_HER.train(setting, tmp_path)
    assert caplog.records == []
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        SAC_HER.train(setting, tmp_path)
    assert "starts again" in caplog.text and "sac-her" in caplog.text
    name = "model.safetensors"  # and ends where it would have ended
    assert (tmp_path / name).read_bytes() == (checkpoint / name).read_bytes()
    caplog.clear()
    SAC_HER.train(setting, tmp_path)
    assert caplog.records == []


@pytest.mark.slow
def test_it_learns_to_reach_goals(setting: Setting, tmp_path: Path) -> None:
    train = TrainConfig(steps=2500, batch_size=64, learning_rate=2e-3)
    chosen = replace(setting, config=SACHERConfig(hidden=(32, 32), episode_steps=20, discount=0.9, train=train))
    SAC_HER.train(chosen, tmp_path)
    pairs = sample_pairs(setting.dataset, setting.env, CLEAN_1, 20, 15, "all")
    hits = []
    for checkpoint in (None, tmp_path):
        agent = SAC_HER.load(chosen, checkpoint).agent
        results = evaluate(agent, chosen, pairs, 30, goal_offset=15, real_history=True, batch=20)
        hits.append(np.mean([r.held for r in results]))
    assert hits[0] < 0.4 and hits[1] > 0.8


def test_a_training_that_would_end_before_learning_starts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing would be learned: the first 500 steps .* got 500"):
        SACHERConfig(train=TrainConfig(steps=500))
    assert SACHERConfig(train=TrainConfig(steps=501)).warmup == 500
