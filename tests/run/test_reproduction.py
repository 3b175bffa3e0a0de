"""Data of another simulator are refused, whatever the reason that their key did not see."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.run import stages
from lewm_bench.run.benchmarks import load
from lewm_bench.run.environments import load_plugins
from lewm_bench.run.keys import fresh_kinds
from lewm_bench.run.reproduction import disagreement, transitions
from lewm_bench.run.resolve import resolve
from lewm_bench.run.stages import Run
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store

WORLD = "lewm_bench/TwoRoom-v0"
SUITE = f"""
profiles: {{quick: {{image_size: 32}}}}
suites: {{s: {{title: S, envs: [{WORLD}], agents: [noop], settings: {{
  collect: {{episodes: 8, steps: 12}}, evaluate: {{num_pairs: 2, goal_offset: [5]}}}}}}}}
"""


@pytest.fixture()
def env():
    load_plugins()
    return gym.make(WORLD, image_size=32).unwrapped


@pytest.fixture()
def dataset(env, tmp_path):
    return collect(env, CollectConfig(episodes=5, steps=8), 0, tmp_path / "data", False)


def test_the_simulator_agrees_with_what_it_did(env, dataset):
    begin = time.perf_counter()
    assert disagreement(env, dataset) == "" and time.perf_counter() - begin < 5
    rows = transitions(dataset)
    assert rows.tolist() == [0, 2 * 9 + 4, 4 * 9 + 7]
    assert np.isfinite(dataset.actions[rows]).all()


def test_other_steps_and_other_pictures_are_seen(env, dataset, monkeypatch):
    simulate, draw = type(env).simulate, type(env).render_states
    with monkeypatch.context() as patch:
        patch.setattr(type(env), "simulate", lambda self, states, actions: simulate(self, states, 0.9 * actions))
        assert disagreement(env, dataset).startswith("a state after one step is off by ")
        patch.setattr(type(env), "simulate", lambda self, states, actions: simulate(self, states, actions) * (1 + 1e-9))
        assert disagreement(env, dataset) == ""  # another processor
    with monkeypatch.context() as patch:
        patch.setattr(type(env), "render_states", lambda self, states: 255 - draw(self, states))
        assert disagreement(env, dataset).endswith("of the pixels of a picture differ")

        def cannot(self, states):
            raise NotRun("no OpenGL here")

        patch.setattr(type(env), "render_states", cannot)
        assert disagreement(env, dataset) == ""  # it can still train


def test_a_run_refuses_the_data_of_another_simulator_until_they_are_collected_again(env, tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(SUITE)
    suite = resolve(load(tmp_path / "s.yaml"), "s", "quick")

    def opened(*fresh: str):
        store = Store(tmp_path / "cache", fresh_kinds(fresh))
        return stages.dataset_of(Run(suite, store, tmp_path, resolve_device("cpu"), progress=False), suite.envs[0])[1]

    before = opened()
    simulate = type(env).simulate
    monkeypatch.setattr(type(env), "simulate", lambda self, states, actions: simulate(self, states, 0.5 * actions))
    with pytest.raises(UserError, match=r"a state after one step is off by .*; collect again with --fresh collect$"):
        opened()
    with pytest.raises(UserError):
        opened("train")
    after = opened("collect")
    assert after.fingerprint != before.fingerprint and after.folder == before.folder
    assert opened().fingerprint == after.fingerprint


def test_later_stages_follow_and_others_are_refused():
    every = fresh_kinds(["collect"])
    assert {"dataset", "policy", "model", "tokens", "evaluation"} < every
    assert every - fresh_kinds(["train"]) == {"dataset", "policy"}
    assert fresh_kinds(["evaluate", "train"]) == fresh_kinds(["train"]) and fresh_kinds([]) == set()
    with pytest.raises(UserError, match="did you mean 'train'"):
        fresh_kinds(["trian"])
