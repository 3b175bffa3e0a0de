"""Scene is OGBench's scene: the same bits, the same locks, the same measure of success, and oracles that do every task."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from lewm_bench.core.errors import NotRun
from lewm_bench.core.rng import stream
from lewm_bench.envs.parts.scene_state import BUTTONS, CUBE_POSITION, DRAWER, PRESSED, QPOS, QVEL, WINDOW
from lewm_bench.envs.scene import Scene

pytest.importorskip("ogbench", reason="ogbench, the extra 'cube', is not installed")

OPTIONS = {"ob_type": "states", "mode": "data_collection", "visualize_info": False, "terminate_at_goal": False}


@pytest.fixture(scope="module")
def env() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def theirs() -> Any:
    from ogbench.manipspace.envs.scene_env import SceneEnv

    return SceneEnv("scene", **OPTIONS)


def samples(env: Scene, count: int, seed: int = 0) -> np.ndarray:
    return np.stack([env.sample_state(np.random.default_rng([seed, n])) for n in range(count)])


def played(env: Scene, policy: str, episodes: int, steps: int) -> np.ndarray:
    """(episodes, steps + 1, 88) states of a policy."""
    states = [samples(env, episodes)]
    act = env.policies()[policy]([np.random.default_rng([9, n]) for n in range(episodes)])
    for _ in range(steps):
        states.append(env.simulate(states[-1], act(states[-1])[:, None])[:, -1])
    return np.stack(states, axis=1)


def test_a_sampled_state_is_their_reset_and_steps_to_the_same_bits(env: Scene, theirs: Any) -> None:
    switched, seed = 0, 1
    _, info = theirs.reset(seed=seed)
    state = env.sample_state(np.random.default_rng(seed))
    act = env.policies()["markov_oracle"]([np.random.default_rng(5)])
    for _ in range(100):
        assert np.array_equal(state[QPOS], info["qpos"]) and np.array_equal(state[QVEL], info["qvel"])
        assert np.array_equal(state[BUTTONS], info["button_states"])
        action = act(state[None])[0]
        info = theirs.step(action.astype(float))[4]  # in single precision it would round what it adds
        env.set_state(state)  # every step from a state that was set
        env.advance(action)
        before, state = state, env.get_state()
        switched += (before[BUTTONS] != state[BUTTONS]).sum()
    assert switched  # a button was pressed


def test_a_locked_drawer_does_not_move_and_a_free_one_does(env: Scene) -> None:
    slid = []
    for free in (0, 1):
        state = samples(env, 1)[0]
        state[DRAWER], state[WINDOW], state[BUTTONS] = -0.05, 0.1, free
        state[QVEL.start + 22], state[QVEL.start + 23] = -0.5, 0.5
        after = env.simulate(state[None], np.zeros((1, 3, 5)))[0, -1]
        slid.append(np.abs(after[[DRAWER, WINDOW]] - state[[DRAWER, WINDOW]]))
    assert (slid[0] < 0.001).all() and (slid[1] > 0.01).all()


def test_success_is_theirs(env: Scene, theirs: Any) -> None:
    theirs.reset(seed=0)
    rng, found = stream(0, "test", "success"), []
    for n in range(60):
        goal = samples(env, 1, n)[0]
        state = goal.copy()
        state[CUBE_POSITION] += rng.normal(0, 0.02, 3)
        state[DRAWER], state[WINDOW] = state[[DRAWER, WINDOW]] + rng.normal(0, 0.02, 2)
        if n % 4 == 0:
            state[BUTTONS.start] = 1 - state[BUTTONS.start]
        theirs._data.qpos[:] = state[QPOS]
        theirs._cur_button_states = state[BUTTONS].astype(int)
        theirs._data.mocap_pos[0] = goal[CUBE_POSITION]
        theirs._target_button_states = goal[BUTTONS].astype(int)
        theirs._target_drawer_pos, theirs._target_window_pos = goal[DRAWER], goal[WINDOW]
        cubes, buttons, *slides = theirs._compute_successes()
        expected = all(cubes) and all(buttons) and all(slides)
        assert env.reached(state, goal) == expected
        found.append(expected)
    assert 5 < sum(found) < 40


def test_their_tasks_are_states(env: Scene, theirs: Any) -> None:
    tasks = env.ogbench_tasks()
    assert list(tasks) == [
        f"task{n}_{name}"
        for n, name in enumerate(("open", "unlock_and_lock", "rearrange_medium", "put_in_drawer", "rearrange_hard"), 1)
    ]
    start, goal = tasks["task4_put_in_drawer"]
    assert start[BUTTONS].tolist() == [0, 0] and goal[BUTTONS].tolist() == [1, 0]
    np.testing.assert_allclose(goal[CUBE_POSITION], [0.33, -0.356, 0.065986])
    for start, goal in tasks.values():
        assert not env.reached(start, goal) and np.array_equal(start[:14], goal[:14])
        assert (
            np.abs(
                env.simulate(start[None], np.zeros((1, 1, 5)))[0, 0, [DRAWER, WINDOW]] - start[[DRAWER, WINDOW]]
            ).max()
            < 0.01
        )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["markov_oracle", "plan_oracle"])
def test_oracles_move_everything_and_draw_from_their_generator_only(env: Scene, policy: str) -> None:
    before = np.random.get_state()[1].copy()
    states = played(env, policy, 10, 200)
    assert np.array_equal(np.random.get_state()[1], before)
    assert (np.diff(states[..., BUTTONS], axis=1) != 0).any((0, 1)).all()
    assert (np.ptp(states[..., DRAWER], axis=1) > 0.05).any() and (np.ptp(states[..., WINDOW], axis=1) > 0.05).any()
    moved = np.linalg.norm(states[:, -1, CUBE_POSITION] - states[:, 0, CUBE_POSITION], axis=-1)
    assert (moved > 0.08).any() and (states[..., PRESSED] < -0.02).any()


@pytest.mark.slow
def test_buttons_and_handles_show_what_is_locked(env: Scene) -> None:
    state = samples(env, 1)[0]
    states = np.stack([state] * 4)
    states[:, BUTTONS] = [(0, 0), (1, 0), (0, 1), (1, 1)]
    try:
        frames = env.render_states(states).astype(int)
    except NotRun as reason:
        pytest.skip(str(reason))
    whiter = [(frames[n, ..., 1:] - frames[0, ..., 1:]).sum() for n in range(4)]
    assert min(whiter[1:3]) > 500 and whiter[3] == pytest.approx(whiter[1] + whiter[2], rel=0.1)
    assert np.array_equal(frames[0], env.render_states(states[:1])[0])


@pytest.mark.slow
def test_it_can_be_copied_and_refuses_what_is_no_state(env: Scene) -> None:
    env.set_state(samples(env, 1)[0])
    env.advance(np.ones(5))
    again = pickle.loads(pickle.dumps(env))
    for one in (env, again):
        one.advance(-np.ones(5))
    assert np.array_equal(env.get_state(), again.get_state())
    with pytest.raises(ValueError, match="88 finite numbers"):
        env.set_state(np.zeros(74))
    with pytest.raises(ValueError, match="not a finite number"):
        env.advance(np.full(5, np.inf))
