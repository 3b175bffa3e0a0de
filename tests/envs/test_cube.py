"""Cube is OGBench's cube-single: the same bits, the same scene, the same oracles."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.envs.cube import SUBSTEPS, Cube
from lewm_bench.envs.parts.cube_state import CUBE_POSITION, CUBE_QUATERNION, QPOS, QVEL

pytest.importorskip("ogbench", reason="ogbench, the extra 'cube', is not installed")

OPTIONS = {"ob_type": "states", "mode": "data_collection", "visualize_info": False, "terminate_at_goal": False}
CAMERA = np.array([1.053, -0.014, 0.639])  # OGBench's front_pixels
RIGHT, UP = np.array([0, 1, 0]), np.array([-0.628, 0.001, 0.778])
CENTIMETRE = 0.01


@pytest.fixture(scope="module")
def env() -> Cube:
    return Cube()


@pytest.fixture(scope="module")
def theirs() -> Any:
    from ogbench.manipspace.envs.cube_env import CubeEnv

    return CubeEnv("single", **OPTIONS)


def samples(env: Cube, count: int, seed: int = 0) -> np.ndarray:
    return np.stack([env.sample_state(np.random.default_rng([seed, n])) for n in range(count)])


def played(env: Cube, policy: str, episodes: int, steps: int, seed: int = 0) -> np.ndarray:
    """(episodes, steps + 1, 74) states of a policy."""
    states = [samples(env, episodes, seed)]
    act = env.policies()[policy]([np.random.default_rng([seed, 9, n]) for n in range(episodes)])
    for _ in range(steps):
        states.append(env.simulate(states[-1], act(states[-1])[:, None])[:, -1])
    return np.stack(states, axis=1)


def picture(env: Cube, states: np.ndarray) -> np.ndarray:
    try:
        return env.render_states(states)
    except NotRun as reason:
        pytest.skip(str(reason))


def redness(frames: np.ndarray) -> np.ndarray:
    frames = frames.astype(float)
    return np.clip(frames[..., 0] - frames[..., 1:].max(-1) - 30, 0, None)


def yaw_of(quaternion: np.ndarray) -> float:
    x_axis = np.empty(3)
    mujoco.mju_rotVecQuat(x_axis, np.array([1.0, 0, 0]), quaternion)
    return np.arctan2(x_axis[1], x_axis[0])


# Against OGBench.


def test_a_sampled_state_is_their_reset_and_steps_to_the_same_bits(env: Cube, theirs: Any) -> None:
    rng = np.random.default_rng(1)
    touched = 0.0
    for seed in range(2):
        _, info = theirs.reset(seed=seed)
        state = env.sample_state(np.random.default_rng(seed))
        env.set_state(state)
        act = env.policies()["markov_oracle"]([rng])
        for _ in range(70):
            assert np.array_equal(state[QPOS], info["qpos"]) and np.array_equal(state[QVEL], info["qvel"])
            seen = env.quantities(state[None])
            assert np.array_equal(seen["effector_position"][0], info["proprio/effector_pos"])
            assert np.array_equal(seen["gripper_opening"][0], info["proprio/gripper_opening"])
            assert state[-1] == info["proprio/gripper_contact"][0]
            for name, theirs_name in (("effector_yaw", "proprio/effector_yaw"), ("cube_yaw", "privileged/block_0_yaw")):
                angle = info[theirs_name][0]
                np.testing.assert_allclose(seen[name][0], [np.cos(angle), np.sin(angle)], atol=1e-9)
            action = act(state[None])[0]
            info = theirs.step(action.astype(float))[4]  # in single precision it would round what it adds
            env.set_state(state)  # every step from a state that was set
            env.advance(action)
            state = env.get_state()
            touched = max(touched, state[-1])
    assert touched > 0.5  # the cube was gripped


class Quiet(np.random.Generator):
    """Draws no noise."""

    def standard_normal(self, size: Any = None, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.zeros(size)


def test_the_markov_oracle_does_what_theirs_does_in_their_environment(env: Cube, theirs: Any) -> None:
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

    act = env.policies()["markov_oracle"]([Quiet(np.random.PCG64(3))])
    draws = np.random.default_rng(3)
    draws.uniform()  # the noise level
    _, info = theirs.reset(seed=4)
    env.set_state(env.sample_state(np.random.default_rng(4)))
    oracle = CubeMarkovOracle(env=theirs, min_norm=0.4)

    def aim() -> None:
        place, yaw = draws.uniform([0.3, -0.3], [0.55, 0.3]), draws.uniform(0, 2 * np.pi)
        theirs.data.mocap_pos[0], theirs.data.mocap_quat[0] = [*place, 0.02], [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        oracle.reset(None, None)
        oracle._final_pos = draws.uniform([0.25, -0.35, 0.20], [0.6, 0.35, 0.35])
        oracle._final_yaw = draws.uniform(-np.pi, np.pi)

    aim()
    targets = 1
    for _ in range(160):
        info = theirs.compute_ob_info()
        expected = oracle.select_action(None, info)
        action = act(env.get_state()[None])[0]
        np.testing.assert_allclose(action, expected, atol=1e-6)
        if oracle.done:
            assert np.linalg.norm(info["privileged/block_0_pos"] - info["privileged/target_block_pos"]) < 0.04
            aim()
            targets += 1
        theirs.step(action.astype(float))  # in single precision it would round what it adds
        env.advance(action)
    assert targets > 1


@pytest.mark.parametrize("policy", ["markov_oracle", "plan_oracle"])
def test_oracles_carry_the_cube_through_the_air_and_draw_from_their_generator_only(env: Cube, policy: str) -> None:
    before = np.random.get_state()[1].copy()
    states = played(env, policy, 3, 120)
    assert np.array_equal(np.random.get_state()[1], before)
    cube = states[:, :, CUBE_POSITION]
    assert (cube[..., 2].max(1) > 0.08).any()
    assert (np.linalg.norm(cube[:, -1] - cube[:, 0], axis=-1) > 0.08).any()
    assert np.array_equal(states[1:2, 0], samples(env, 2)[1:])  # drawing did not depend on what was simulated between


def test_noise_has_the_scales_of_the_paper(env: Cube) -> None:
    """Far from everything the oracle's first action is saturated nowhere in yaw and gripper, so noise is seen there."""
    state = np.repeat(samples(env, 1), 400, axis=0)
    noisy, quiet = (
        env.policies()["markov_oracle"]([kind(np.random.PCG64([5, n])) for n in range(400)])(state)
        for kind in (np.random.Generator, Quiet)
    )
    free = np.abs(quiet) < 0.5
    assert free[:, :3].sum() > 200
    # A level uniform on [0, 0.1] has the mean square 0.1 ** 2 / 3.
    spread = np.sqrt(((noisy - quiet)[:, :3][free[:, :3]] ** 2).mean())
    assert spread == pytest.approx(0.1 / np.sqrt(3), rel=0.15)
    opens = (noisy - quiet)[:, 4][quiet[:, 4] == -1]  # half of it is clipped away
    assert np.sqrt(2 * (opens**2).mean()) == pytest.approx(1 / np.sqrt(3), rel=0.15)


def test_sampling_needs_nothing_but_its_generator_and_leaves_the_state(env: Cube) -> None:
    env.set_state(samples(env, 1, seed=7)[0])
    env.advance(np.ones(5))
    before, numpy_before = env.get_state(), np.random.get_state()[1].copy()
    first = env.sample_state(np.random.default_rng(8))
    assert np.array_equal(env.get_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    env.advance(-np.ones(5))
    assert np.array_equal(env.sample_state(np.random.default_rng(8)), first)
    states = samples(env, 200)
    places = states[:, CUBE_POSITION]
    assert np.ptp(places[:, 0]) > 0.23 and np.ptp(places[:, 1]) > 0.56 and (places[:, 2] == 0.02).all()
    assert (places[:, :2] >= [0.3, -0.3]).all() and (places[:, :2] <= [0.55, 0.3]).all()


# Control and measures.


def test_an_action_moves_the_effector_along_its_axis_and_the_cube_not_at_all(env: Cube) -> None:
    for state in samples(env, 3):
        actions = np.zeros((4, 1, 5))
        actions[range(3), 0, range(3)] = 0.5
        after = env.simulate(np.repeat(state[None], 4, 0), actions)[:, 0]
        places = env.quantities(after)["effector_position"]
        moved = places[:3] - places[3]  # against no action, in which the arm sinks under its weight
        assert (np.diag(moved) > 0.007).all() and (np.diag(moved) < 0.025).all()  # joints lag behind their targets
        assert np.abs(moved[~np.eye(3, dtype=bool)]).max() < 0.005
        np.testing.assert_allclose(after[:, CUBE_POSITION], np.repeat(state[None, CUBE_POSITION], 4, 0), atol=1e-4)


def test_the_effector_stays_in_its_workspace_and_the_gripper_closes(env: Cube) -> None:
    state = samples(env, 1)
    actions = np.zeros((2, 60, 5))
    actions[0] = [1, 1, 0, 0, 1]
    actions[1] = [-1, -1, 1, 0, -1]
    corners = env.quantities(env.simulate(np.repeat(state, 2, 0), actions)[:, -1])
    np.testing.assert_allclose(corners["effector_position"][:, :2], [[0.6, 0.35], [0.25, -0.35]], atol=CENTIMETRE)
    assert corners["effector_position"][1, 2] == pytest.approx(0.35, abs=CENTIMETRE)
    assert corners["gripper_opening"][0] > 0.9 and corners["gripper_opening"][1] < 0.05


def test_success_is_the_place_of_the_cube_alone(env: Cube) -> None:
    state, other = samples(env, 2)
    near = other.copy()
    near[CUBE_POSITION] = state[CUBE_POSITION] + [0.03, 0.02, 0.0]
    assert env.distance(state, near) == pytest.approx(np.hypot(0.03, 0.02)) and env.reached(state, near)
    near[CUBE_POSITION] += [0, 0, 0.02]
    assert not env.reached(state, near)


def test_quantities_are_the_geometry_of_the_scene(env: Cube) -> None:
    states = played(env, "markov_oracle", 2, 40)[:, ::8].reshape(-1, 74)
    named = env.quantities(states)
    assert {k: v.shape[1] for k, v in named.items()} == {
        "effector_position": 3,
        "effector_yaw": 2,
        "gripper_opening": 1,
        "joint_angles": 12,
        "cube_position": 3,
        "cube_yaw": 2,
        "cube_yaw_quarter": 2,
    }
    for n, state in enumerate(states):
        angle = yaw_of(state[CUBE_QUATERNION])
        np.testing.assert_allclose(named["cube_yaw"][n], [np.cos(angle), np.sin(angle)], atol=1e-9)
        turned = state.copy()
        turned[CUBE_QUATERNION] = np.cos(angle / 2 + np.pi / 4), 0, 0, np.sin(angle / 2 + np.pi / 4)
        before, after = named["cube_yaw_quarter"][n], env.quantities(turned[None])["cube_yaw_quarter"][0]
        np.testing.assert_allclose(after, before, atol=1e-9)


# Frames.


def test_the_cube_is_seen_where_a_pinhole_camera_sees_it(env: Cube) -> None:
    states = samples(env, 8)
    frames = picture(env, states)
    focal = 32 / np.tan(np.radians(22.5))
    seen = 0
    for frame, place in zip(redness(frames), states[:, CUBE_POSITION], strict=True):
        if (frame > 0).sum() < 8:
            continue  # behind the gripper
        seen += 1
        away = place - CAMERA
        depth = away @ np.cross(UP, RIGHT)  # in front of the camera
        expected = [31.5 - focal * (away @ UP) / depth, 31.5 + focal * (away @ RIGHT) / depth]
        found = [(frame * axis).sum() / frame.sum() for axis in np.indices(frame.shape)]
        np.testing.assert_allclose(found, expected, atol=0.8)
        assert (frame > 0).sum() < 40  # and no second cube for the target
    assert seen >= 5


def test_frames_are_close_to_those_without_concessions(env: Cube) -> None:
    from lewm_bench.system.gl import Camera

    states = played(env, "markov_oracle", 1, 20)[:, ::20].reshape(-1, 74)
    frames, data = picture(env, states), mujoco.MjData(env._model)
    camera = Camera(env._model, 64, "front_pixels")
    for frame, state in zip(frames, states, strict=True):
        data.qpos[:] = state[QPOS]
        mujoco.mj_forward(env._model, data)
        apart = np.abs(camera.frame(data).astype(float) - frame)
        assert apart.mean() < 2.5 and (apart.max(-1) > 60).mean() < 0.01
    camera.close()


@pytest.mark.slow
def test_frames_are_close_to_those_of_their_renderer() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import numpy as np, json\n"
        "from lewm_bench.envs.cube import Cube\n"
        "from ogbench.manipspace.envs.cube_env import CubeEnv\n"
        f"theirs = CubeEnv('single', width=64, height=64, **{OPTIONS})\n"
        "ours, out = Cube(), []\n"
        "for seed in range(3):\n"
        "    theirs.reset(seed=seed)\n"
        "    ours.set_state(ours.sample_state(np.random.default_rng(seed)))\n"
        "    apart = np.abs(theirs.render(camera='front_pixels').astype(float) - ours.render())\n"
        "    out.append([apart.mean(), (apart.max(-1) > 60).mean()])\n"
        "print(json.dumps(out))\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    command, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no OpenGL here: {done.stderr[-200:]}")
    for mean, differing in json.loads(done.stdout):
        assert mean < 2.5 and differing < 0.01


def test_drawing_changes_neither_the_physics_nor_the_shape_of_the_meshes(env: Cube) -> None:
    picture(env, samples(env, 1))
    fine, coarse = env._model, env._view.model
    assert coarse.mesh_facenum.sum() < fine.mesh_facenum.sum() / 4
    for mesh in range(fine.nmesh):
        vertices = fine.mesh_vert[fine.mesh_vertadr[mesh] :][: fine.mesh_vertnum[mesh]]
        faces = coarse.mesh_face[coarse.mesh_faceadr[mesh] :][: coarse.mesh_facenum[mesh]]
        assert (np.sort(faces, axis=1)[:, :-1] != np.sort(faces, axis=1)[:, 1:]).all()
        far = [np.linalg.norm(vertices[np.unique(faces)] - vertex, axis=1).min() for vertex in vertices[::97]]
        assert max(far) < 3 * np.sqrt(3) * 0.25 / 64


def test_a_new_color_is_seen_on_the_cube_alone_and_goes_away(env: Cube) -> None:
    states = samples(env, 4)
    frames = picture(env, states)
    changed = np.abs(env.recolored(states).astype(int) - frames).max(-1) > 8
    assert (changed == (redness(frames) > 0)).mean() > 0.998
    assert changed.any((1, 2)).sum() >= 3
    assert np.array_equal(env.render_states(states), frames)


def test_a_teleported_cube_lies_free_and_everything_else_is_kept(env: Cube) -> None:
    states = played(env, "plan_oracle", 6, 40)[:, ::4].reshape(-1, 74)
    states = np.repeat(states[states[:, 63] < 0.1], 20, axis=0)  # the gripper is low, where a cube could be in its way
    assert len(states) > 100
    states = env.teleported(states, [np.random.default_rng([1, n]) for n in range(len(states))])  # and holds nothing
    there = env.teleported(states, [np.random.default_rng([2, n]) for n in range(len(states))])
    moved = np.zeros(74, bool)
    moved[CUBE_POSITION] = moved[CUBE_QUATERNION] = moved[35:41] = True
    assert np.array_equal(there[:, ~moved], states[:, ~moved]) and not there[:, 35:41].any()
    assert np.linalg.norm(there - states, axis=1).min() > 0.1 and (there[:, 16] == 0.02).all()
    assert np.linalg.norm(there[:, 14:16] - states[:, 14:16], axis=1).min() > 0.1
    data, cube = mujoco.MjData(env._model), env._model.geom("object_0").id
    floor = env._model.geom("floor").id
    for state in there:
        data.qpos[:] = state[QPOS]
        mujoco.mj_forward(env._model, data)
        touching = {int(geom) for pair in data.contact.geom if cube in pair for geom in pair}
        assert touching <= {cube, floor}


# Care.


def test_simulate_is_advance_and_pickles_carry_the_state(env: Cube) -> None:
    states, actions = samples(env, 2), np.random.default_rng(0).uniform(-1.5, 1.5, (2, 8, 5))
    env.set_state(states[1])
    copy = pickle.loads(pickle.dumps(env))
    assert np.array_equal(env.simulate(states, actions), GoalEnv.simulate(copy, states, actions))
    assert np.array_equal(copy.get_state(), env.get_state())


def test_numbers_that_are_not_finite_and_states_of_another_length_are_refused(env: Cube) -> None:
    with pytest.raises(ValueError, match="finite"):
        env.advance(np.array([np.nan, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="74 finite"):
        env.set_state(np.full(74, np.inf))
    with pytest.raises(ValueError, match="74 finite"):
        env.set_state(np.zeros(41))


@pytest.mark.parametrize(("option", "message"), [({"image_size": 8}, "16"), ({"render_mode": "human"}, "rgb_array")])
def test_a_bad_option_is_explained(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cube(**option)


def test_one_step_is_a_twentieth_of_a_second(env: Cube) -> None:
    assert env._model.opt.timestep * SUBSTEPS == pytest.approx(0.05)
    assert env.metadata["render_fps"] == 20


# The published task.


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "share"), [("markov_oracle", 0.25), ("plan_oracle", 0.384)])
def test_as_many_goals_are_solved_at_the_start(env: Cube, policy: str, share: float) -> None:
    """The share for the plan oracle is that of LeWM's data (38.4 %); the other is that of OGBench's own loop."""
    states = played(env, policy, 60, 200)
    assert env.reached(states[:, :-25], states[:, 25:]).mean() == pytest.approx(share, abs=0.045)
