"""Trained agents in changed worlds: which worlds and pairs, and that nothing changes where nothing is changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_agents import setting_of, toy_setting
from toy_env import ToyEnv

from lewm_bench.agent import Setting, load_agent
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.shift import Factor
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.evaluation.shift import (
    PAIRS,
    SHIFT_1,
    ShiftConfig,
    act_in,
    changed_world,
    chosen_factors,
    conditions,
    trained_world,
)
from lewm_bench.evaluation.shift_record import TRAINED, Condition, Outcomes
from lewm_bench.run.registry import agent_family

OFFSET, BUDGET = 8, 12
FACTORS = {
    "colour": Factor("looks", "colour", ("0", "1", "2", "3"), lambda env, level: env),
    "delay": Factor("control", "delay", ("0", "1", "2", "3"), lambda env, level: env),
    "walls": Factor("layout", "walls", ("0", "1", "2", "3"), lambda env, level: env),
}


class Halved(ToyEnv):
    """The right half of the box is a wall, and no way leads over y = 0."""

    def possible(self, states: np.ndarray) -> np.ndarray:
        return states[..., 0] <= 0

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        apart = np.sign(states[..., 1]) != np.sign(goals[..., 1])
        return np.where(apart, np.inf, self.distance(states, goals))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Setting:
    return toy_setting(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def pairs(base) -> Pairs:
    """A pair from each of the first episodes."""
    starts = base.dataset.starts[:10] + np.arange(10) % 3
    return Pairs(np.arange(10), starts, starts + OFFSET, 10, 0)


def loaded(base: Setting, name: str, env) -> tuple:
    setting = setting_of(base, name)
    return load_agent(agent_family(name), replace(setting, env=env), None), setting


def test_the_protocol_is_clean_2_with_planning_pairs_and_a_single_frame_at_the_start():
    assert SHIFT_1.id == "shift-1" and PAIRS.id == "clean-2/planning"
    assert not SHIFT_1.real_history and PAIRS.real_history
    assert SHIFT_1.budget(50) == PAIRS.budget(50) == 100


def test_only_what_changes_pictures_has_goals_in_two_looks():
    found = conditions(FACTORS, ShiftConfig(levels=(3, 1)))
    assert found[0] == TRAINED and len(set(found)) == len(found) == 1 + 2 * (2 + 1 + 2)
    assert {c.goal for c in found if c.factor == "delay"} == {"same"}
    assert {c.goal for c in found if c.factor == "walls"} == {"changed", "trained"}
    assert [c.level for c in found if c.factor == "delay"] == [1, 3]
    assert {c.goal for c in conditions(FACTORS, ShiftConfig(goals=("trained",)))} == {"same", "trained"}


def test_levels_and_factors_that_there_are_not_are_refused(base):
    with pytest.raises(ValidationError, match="levels are 1, 2, 3, got 4"):
        ShiftConfig(levels=(1, 4))
    with pytest.raises(UserError, match=r"no factor of Toy named 'dely'.*did you mean 'delay'"):
        chosen_factors(base.env, "Toy", ["dely"])
    assert list(chosen_factors(base.env, "Toy", ["delay"])) == ["delay"]
    assert set(chosen_factors(base.env, "Toy", [])) == set(base.env.factors())


def test_an_environment_without_factors_says_so(base, monkeypatch):
    monkeypatch.setattr(ToyEnv, "factors", lambda self: {})
    with pytest.raises(NotRun, match="nothing of Toy can be changed"):
        chosen_factors(base.env, "Toy", [])


@pytest.mark.parametrize("name", ["oracle", "random"])
def test_where_nothing_is_changed_an_agent_does_what_it_did(base, pairs, name):
    """To the last bit: the same streams, starts, goals and frames."""
    agent, setting = loaded(base, name, base.env)
    rows = list(evaluate(agent.agent, setting, pairs, BUDGET, goal_offset=OFFSET, real_history=False))
    before = act_in(trained_world(base.env, base.dataset, pairs), agent, setting, BUDGET, OFFSET, 1)
    assert before.hit == tuple(row.hit for row in rows) and before.distance_end == tuple(r.distance_end for r in rows)
    unchanged = changed_world(ToyEnv(size=32), base.dataset, pairs, "changed")
    there = act_in(unchanged, agent, setting, BUDGET, OFFSET, 1)
    asked = set(there.pairs)
    assert asked == {i for i, row in enumerate(rows) if row.distance_start >= ToyEnv.threshold} and len(asked) > 5
    kept = [rows[i] for i in there.pairs]
    assert there.distance_end == tuple(row.distance_end for row in kept)
    assert there.steps_to_hit == tuple(row.steps_to_hit for row in kept)


def test_pairs_that_cannot_be_asked_are_left_out_and_keep_their_numbers(base, pairs):
    world = changed_world(Halved(size=32), base.dataset, pairs, "changed")
    starts, goals = (base.dataset.states[rows] for rows in (pairs.start_row, pairs.goal_row))
    expected = [
        bool(s[0] <= 0 and g[0] <= 0 and np.sign(s[1]) == np.sign(g[1]) and np.linalg.norm(s - g) >= ToyEnv.threshold)
        for s, g in zip(starts, goals, strict=True)
    ]
    assert world.kept.tolist() == expected and 0 < sum(expected) < len(expected)
    agent, setting = loaded(base, "random", world.env)
    found = act_in(world, agent, setting, BUDGET, OFFSET, 2)
    assert found.pairs == tuple(np.flatnonzero(expected))
    everywhere = act_in(trained_world(base.env, base.dataset, pairs), agent, setting, BUDGET, OFFSET, 2)
    assert found.distance_end == tuple(everywhere.distance_end[i] for i in found.pairs)  # the wall stops nobody


def test_a_world_without_any_pair_has_no_outcomes(base, pairs, monkeypatch):
    monkeypatch.setattr(Halved, "possible", lambda self, states: np.zeros(states.shape[:-1], bool))
    world = changed_world(Halved(size=32), base.dataset, pairs, "changed")
    agent, setting = loaded(base, "random", world.env)
    assert act_in(world, agent, setting, BUDGET, OFFSET, 1) == Outcomes()


def test_goals_are_drawn_as_asked_and_starts_as_the_changed_world_looks(base, pairs):
    dark = base.env.shifted("brightness", 3)
    looks = {goal: changed_world(dark, base.dataset, pairs, goal) for goal in ("changed", "trained")}
    first = int(np.flatnonzero(looks["changed"].kept)[0])
    usual = base.dataset.frames[pairs.goal_row[first]]
    for goal, world in looks.items():
        seen = world.dataset.frames[world.pairs.goal_row[first]]
        assert (seen == usual).all() == (goal == "trained")
        start = world.dataset.frames[world.pairs.start_row[first]]
        assert start.mean() < 0.5 * base.dataset.frames[pairs.start_row[first]].mean()
    assert looks["changed"].dataset.frames[looks["changed"].pairs.goal_row[first]].mean() < 0.5 * usual.mean()


def test_states_of_a_changed_world_may_be_longer(base, pairs):
    """Actions that are under way belong to the state; who acts late is late by as much."""
    late = changed_world(base.env.shifted("delay", 3), base.dataset, pairs, "same")
    size = base.dataset.states.shape[1]
    assert late.dataset.states.shape[1] > size == 2
    agent, setting = loaded(base, "oracle", late.env)
    slow = act_in(late, agent, setting, 2 * BUDGET, OFFSET, 1)
    assert len(slow.pairs) > 5 and any(slow.hit)
    assert all(steps > 4 for steps in slow.steps_to_hit if steps is not None)  # nothing moves before the fifth step


def test_outcomes_are_columns_of_one_length():
    with pytest.raises(ValidationError, match="columns of different lengths"):
        Outcomes(pairs=(0, 1), hit=(True,))
    assert Condition(factor="colour", level=2, goal="trained").name == "colour level 2, goal drawn as trained"
    assert TRAINED.name == "the trained world"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
