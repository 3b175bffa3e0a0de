"""Changed worlds of a small environment do what their factors say, and nothing else."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest
from toy_env import ToyEnv, make_toy

from lewm_bench.core.env import GoalEnv, ShiftedEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import GROUPS, LEVELS, hashed, key_of, normal, uniform

N, T = 40, 9


def starts_and_actions(env: GoalEnv) -> tuple[np.ndarray, np.ndarray]:
    rng = stream(0, "test", "shift")
    return np.stack([env.sample_state(rng) for _ in range(N)]), rng.uniform(-1, 1, (N, T, 2)).astype(np.float32)


# Numbers by address.


def test_numbers_are_even_and_normal_and_tell_neighbours_apart() -> None:
    address = np.arange(300)[:, None], np.arange(300)
    even, bell = uniform(*address), normal(*address)
    assert even.min() >= 0 and even.max() < 1 and abs(even.mean() - 0.5) < 0.004 and abs(even.var() - 1 / 12) < 0.001
    assert abs(bell.mean()) < 0.01 and abs(bell.var() - 1) < 0.02 and 0.04 < (np.abs(bell) > 2).mean() < 0.05
    for numbers in (even, bell):  # along neither part of the address
        assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01
        assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.01
    assert len(np.unique(hashed(*address))) == 300 * 300
    assert hashed(1, 2) != hashed(2, 1)


def test_a_key_is_a_whole_number_of_the_state() -> None:
    states = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [np.nextafter(0, 1), 1.0]])
    keys = key_of(states)
    assert keys[0] == keys[1] and len(set(keys.tolist())) == 3
    assert (keys == np.floor(keys)).all() and (keys < 2**53).all()


# The interface.


def test_level_0_is_the_trained_world_and_mistakes_are_named() -> None:
    env = make_toy()
    assert all(env.shifted(name, 0) is env for name in env.factors())
    with pytest.raises(UserError, match=r"no factor of ToyEnv named 'dealy'.*did you mean 'delay'"):
        env.shifted("dealy", 1)
    with pytest.raises(UserError, match="delay: a level is one of 0, 1, 2, 3, got 4"):
        env.shifted("delay", 4)


def test_factors_say_what_they_are() -> None:
    for factor in make_toy().factors().values():
        assert factor.group in GROUPS and len(set(factor.values)) == len(LEVELS) and len(factor.about) < 70


FACTORS = [*make_toy().factors()]


@pytest.mark.parametrize("name", FACTORS)
def test_a_changed_world_is_a_world(name: str) -> None:
    env = make_toy()
    states, actions = starts_and_actions(env)
    world = env.shifted(name, 2)
    lifted = world.lift(states)
    assert np.array_equal(world.lower(lifted), states) and np.array_equal(world.lift(states[3]), lifted[3])
    assert world.lift(states.reshape(4, 10, 2)).shape == (4, 10, lifted.shape[1])
    after = world.simulate(lifted, actions)
    assert np.array_equal(world.simulate(lifted[5:6], actions[5:6])[0], after[5])
    assert np.array_equal(GoalEnv.simulate(world, lifted[:3], actions[:3]), after[:3])
    assert np.array_equal(world.simulate(after[:, 3], actions[:, 4:]), after[:, 4:])
    frames = world.render_states(after[:, -1])
    assert np.array_equal(world.render_states(after[7:8, -1])[0], frames[7])
    assert not np.array_equal(world.recolored(lifted), world.render_states(lifted))
    assert np.array_equal(world.distance(lifted, lifted[0]), env.distance(states, states[0]))
    assert world.possible(lifted).all() and not world.over(lifted).any()
    frame, info = world.reset(seed=0, options={"start": lifted[0], "goal": lifted[1]})
    assert np.array_equal(frame, world.render_states(lifted[:1])[0])
    assert np.array_equal(info["goal"], world.render_states(lifted[1:2])[0])
    copied = pickle.loads(pickle.dumps(world))
    assert np.array_equal(copied.render_states(lifted), world.render_states(lifted))
    act = world.policies()["jitter"]([stream(0, "test", "policy")])
    assert np.array_equal(act(lifted[:1]), env.policies()["jitter"]([stream(0, "test", "policy")])(states[:1]))


@pytest.mark.parametrize("name", FACTORS)
def test_looks_change_frames_and_controls_change_motion(name: str) -> None:
    env = make_toy(size=32)
    states, actions = starts_and_actions(env)
    usual, group = env.simulate(states, actions), env.factors()[name].group
    seen = env.render_states(usual[:, -1]).astype(int)
    changes = []
    for level in (1, 2, 3):
        world = env.shifted(name, level)
        after = world.simulate(world.lift(states), actions)
        moved, frames = world.lower(after), world.render_states(after[:, -1]).astype(int)
        same_motion = np.array_equal(moved, usual)
        assert same_motion == (group == "looks" or name == "stale_frames")
        changes.append(np.abs(frames - seen).mean() if same_motion else np.abs(moved - usual).mean())
    assert 0 < changes[0] < changes[1] < changes[2]


def test_gymnasium_makes_a_changed_world_from_its_spec() -> None:
    env = make_toy(size=24)
    world = env.shifted("delay", 2).shifted("noise", 1)
    again = gym.make(world.spec).unwrapped
    states, actions = starts_and_actions(env)
    lifted = world.lift(states)
    assert np.array_equal(world.lower(lifted), states) and np.array_equal(again.lift(states), lifted)
    after = world.simulate(lifted, actions)
    assert np.array_equal(again.render_states(after[:, -1]), world.render_states(after[:, -1]))
    names = [env.identity(), world.identity(), env.shifted("delay", 1).identity(), env.shifted("delay", 2).identity()]
    assert len(set(names)) == 4 and again.identity() == world.identity()


class Ending(ToyEnv):
    """Over where x is positive."""

    def over(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states)[..., 0] > 0

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        out = np.empty((*actions.shape[:2], 2))
        for t in range(actions.shape[1]):
            states = np.where(self.over(states)[:, None], states, super().simulate(states, actions[:, t : t + 1])[:, 0])
            out[:, t] = states
        return out


@pytest.mark.parametrize("name", ["noise", "delay", "stale_frames"])
def test_nothing_changes_where_an_episode_is_over(name: str) -> None:
    env = Ending()
    states, actions = starts_and_actions(env)
    world = env.shifted(name, 3)
    after = world.simulate(world.lift(states), actions)
    over = world.over(after)
    assert over.any() and not over.all()
    first = over.argmax(1)
    for n in np.flatnonzero(over.any(1)):
        assert (after[n, first[n] :] == after[n, first[n]]).all()


# What each does.


def moved_by(world: ShiftedEnv, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return world.lower(world.simulate(world.lift(states), actions))


@pytest.mark.parametrize("level, steps", [(1, 1), (2, 2), (3, 4)])
def test_a_delay_carries_out_the_actions_of_some_steps_before(level: int, steps: int) -> None:
    env = make_toy()
    states, actions = starts_and_actions(env)
    late = np.concatenate([np.zeros((N, steps, 2)), actions[:, : T - steps]], axis=1)
    assert np.array_equal(moved_by(env.shifted("delay", level), states, actions), env.simulate(states, late))


def test_a_scale_is_one() -> None:
    env = make_toy()
    states, actions = starts_and_actions(env)
    assert np.array_equal(
        moved_by(env.shifted("action_scale", 2), states, actions), env.simulate(states, 0.5 * actions)
    )


def test_actions_are_lost_as_often_as_it_says_and_more_at_higher_levels() -> None:
    env = make_toy()
    states = np.stack([env.sample_state(stream(0, "test", "lost", n)) for n in range(500)])
    lost = []
    for level, share in ((1, 0.1), (2, 0.3), (3, 0.6)):
        change = env.shifted("lost_actions", level).change
        lost.append((change.executed(np.ones((500, 40, 2)), change.begin(states)) == 0).all(-1))
        assert abs(lost[-1].mean() - share) < 0.01
    assert not (lost[0] & ~lost[1]).any() and not (lost[1] & ~lost[2]).any()


class Restless(ToyEnv):
    """Nothing can be at rest."""

    can_rest = False


def test_where_nothing_can_rest_the_action_before_goes_on() -> None:
    env = Restless()
    change = env.shifted("lost_actions", 2).change
    actions = np.arange(1, 2 * 5 * 30 + 1.0).reshape(5, 30, 2)
    done = change.executed(actions, change.begin(np.ones((5, 2))))
    lost = (done != actions).any(-1)
    assert lost.any() and (done[:, 1:][lost[:, 1:]] == done[:, :-1][lost[:, 1:]]).all()
    assert "action_scale" not in env.factors()


def test_a_stale_frame_is_the_one_before() -> None:
    env = make_toy()
    states, actions = starts_and_actions(env)
    world = env.shifted("stale_frames", 2)
    lifted = world.lift(states)
    after = np.concatenate([lifted[:, None], world.simulate(lifted, actions)], axis=1)
    shown = np.stack([world.render_states(after[:, t]) for t in range(T + 1)], axis=1)
    true = np.stack([env.render_states(world.lower(after[:, t])) for t in range(T + 1)], axis=1)
    fresh = (shown == true).all((2, 3, 4))
    assert fresh[:, 0].all() and 0.15 < 1 - fresh[:, 1:].mean() < 0.45
    stale = np.argwhere(~fresh)
    assert all(np.array_equal(shown[n, t], shown[n, t - 1]) for n, t in stale)


def test_noise_of_a_frame_is_new_in_every_step_and_of_the_size_that_it_says() -> None:
    env = make_toy(size=32)
    world = env.shifted("noise", 1)
    start = world.lift(np.array([[0.2, -0.3]]))
    next_one = world.simulate(start, np.zeros((1, 2, 2)))[0]
    frames = world.render_states(np.concatenate([start, next_one]))
    usual = env.render_states(np.array([[0.2, -0.3]]))[0].astype(int)
    middle = (usual > 40) & (usual < 215)  # where nothing is cut off
    noise = [(frame - usual)[middle] for frame in frames]
    assert all(abs(each.std() - 8) < 0.7 and abs(each.mean()) < 0.7 for each in noise)
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.15


def test_distractors_wander_and_leave_what_moves_to_be_seen() -> None:
    env = make_toy(size=32)
    world = env.shifted("distractors", 3)
    start = world.lift(np.array([[0.5, 0.5]]))
    later = world.simulate(start, np.zeros((1, 20, 2)))[0]
    frames = world.render_states(np.concatenate([start, later]))
    assert (frames[1:] != frames[:-1]).any((1, 2, 3)).mean() > 0.5
    usual = env.render_states(np.array([[0.5, 0.5]]))[0]
    brightest = np.unravel_index(usual[..., 0].argmax(), usual.shape[:2])
    assert (frames[:, brightest[0], brightest[1]] == usual[brightest]).all()
