"""Reacher moves and looks like dm_control's, which is run beside it; what it adds has closed forms."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.check import check_goal_env
from lewm_bench.system import gl

pytest.importorskip("dm_control", reason="dm-control is not available for this Python")

from lewm_bench.envs.reacher import Reacher, physics_model

STEPS = 60
# Steps and draws the suite's own environment, in its own process: importing it chooses an OpenGL.
THEIRS = """
import sys
import numpy as np
from dm_control import suite
path, size = sys.argv[1], int(sys.argv[2])
given = dict(np.load(path))
env = suite.load("reacher", "hard")
physics = env.physics
physics.named.model.mat_rgba["target", "a"] = 0

def put(state):
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = state[:2], state[2:]

def play(state, actions):
    env.reset()
    put(state)
    out = []
    for action in actions:
        env.step(action)
        env.step(action)
        out.append(np.concatenate([physics.data.qpos, physics.data.qvel]))
    return out

def draw(state):
    put(state)
    return physics.render(size, size, camera_id=0)

states = np.array([play(*pair) for pair in zip(given["starts"], given["actions"])])
frames = np.array([draw(state) for state in given["starts"]]) if size else np.zeros(0)
np.savez(path, states=states, frames=frames)
"""


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process in the checkout."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYTHONWARNINGS")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def starts_and_actions(env: Reacher, count: int, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Moving starts and actions beyond the bounds that are held for a while, so that the wrist meets its limits."""
    rng = stream(0, "test", "reacher")
    states = np.stack([env.sample_state(rng) for _ in range(count)])
    states[:, 2:] = rng.uniform(-5, 5, (count, 2))
    return states, np.repeat(rng.uniform(-1.3, 1.3, (count, steps // 10, 2)), 10, axis=1)


def gl_backend() -> str:
    try:
        return gl.backend()
    except NotRun:
        return "disable"


needs_gl = pytest.mark.skipif(gl_backend() == "disable", reason="no OpenGL here")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """dm_control's states, (8, STEPS, 4), and frames of the starts, (8, 64, 64, 3), where there is OpenGL."""
    path, backend = tmp_path_factory.mktemp("suite") / "given.npz", gl_backend()
    starts, actions = starts_and_actions(Reacher(), 8)
    np.savez(path, starts=starts, actions=actions.clip(-1, 1))
    done = run_python(THEIRS, str(path), "0" if backend == "disable" else "64", MUJOCO_GL=backend)
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


# The contract.


@needs_gl
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_promise_is_kept(wrapped: bool) -> None:
    assert not [finding for finding in check_goal_env(Reacher(wrapped=wrapped)) if not finding.ok]


def test_is_registered() -> None:
    import lewm_bench.envs  # noqa: F401

    env = gym.make("lewm_bench/Reacher-v0", wrapped=True)
    assert isinstance(env.unwrapped, Reacher) and env.unwrapped.wrapped
    assert env.spec.max_episode_steps is None


@pytest.mark.parametrize(
    ("option", "message"),
    [({"image_size": 8}, "16"), ({"render_mode": "human"}, "rgb_array"), ({"threshold": 0.0}, "positive")],
)
def test_a_bad_option_is_explained(option: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reacher(**option)


def test_without_dm_control_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(NotRun, match="Reacher needs the package 'dm_control'"):
        Reacher()


def test_needs_no_opengl_until_a_frame_is_drawn() -> None:
    done = run_python(
        "import os, sys, numpy as np\n"
        "from lewm_bench.envs.reacher import Reacher\n"
        "before = dict(os.environ)\n"
        "env = Reacher()\n"
        "env.advance(np.ones(2))\n"
        "assert os.environ == before and not {'OpenGL', 'glfw', 'dm_control.suite'} & set(sys.modules)\n"
        "try:\n"
        "    env.render()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__)\n",
        MUJOCO_GL="disable",
    )
    assert (done.stdout, done.stderr) == ("NotRun\n", "")


# Dynamics.


def test_moves_like_dm_control(theirs: dict[str, np.ndarray]) -> None:
    env = Reacher()
    starts, actions = starts_and_actions(env, 8)
    states = env.simulate(starts, actions)
    limit = env.wrist_range[1]
    assert (np.abs(theirs["states"][..., 1]) > limit - 0.01).any()  # a limit is met
    # Their solver starts from its last solution, which is seen in the last digits where the wrist meets its limit.
    np.testing.assert_allclose(states, theirs["states"], rtol=0, atol=1e-8)
    free = (np.abs(theirs["states"][..., 1]) < limit - 0.05).all(1)
    assert free.any()
    np.testing.assert_allclose(states[free], theirs["states"][free], rtol=0, atol=1e-12)


def test_simulate_is_advance_to_the_last_bit_with_threads() -> None:
    env = Reacher()
    states, actions = starts_and_actions(env, 60)
    before = env.get_state()
    batched = env.simulate(states, actions)
    assert np.array_equal(env.get_state(), before)
    assert np.array_equal(batched, GoalEnv.simulate(env, states, actions))
    assert np.array_equal(batched[7:8], env.simulate(states[7:8], actions[7:8]))  # alone, without threads
    assert (np.abs(batched[..., 1]) > env.wrist_range[1] - 0.01).any()
    assert env.simulate(states[:0], actions[:0]).shape == (0, STEPS, 4)
    assert env.simulate(states, actions[:, :0]).shape == (60, 0, 4)


def test_the_state_determines_the_future_at_a_limit() -> None:
    """Where MuJoCo's solver would start from its last solution, and does not because warm start is disabled."""
    env, other = Reacher(), Reacher()
    limit, action = env.wrist_range[1], np.array([0.3, 1.0])
    env.set_state(np.array([0.3, limit - 0.02, 1.0, 4.0]))
    for _ in range(30):
        env.advance(action)
        other.set_state(np.array([0.0, -limit - 0.01, -3.0, -9.0]))  # another past, at the other limit
        other.advance(-action)
        other.set_state(env.get_state())
        other.advance(action)
        copy = env.simulate(env.get_state()[None], action[None, None])[0, 0]
        assert np.array_equal(other.get_state(), copy)
        continued = pickle.loads(pickle.dumps(env))
        continued.advance(action)
        assert np.array_equal(other.get_state(), continued.get_state())
    assert env.get_state()[1] > limit - 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    env = Reacher()
    with pytest.raises(ValueError, match="finite"):
        env.advance(np.array([bad, 0]))
    with pytest.raises(ValueError, match="finite"):
        env.simulate(np.zeros((1, 4)), np.full((1, 2, 2), bad))
    with pytest.raises(ValueError, match="finite"):
        env.set_state(np.array([0, 0, bad, 0]))


# States and goals.


def test_sampled_states_cover_the_joints_at_rest() -> None:
    env = Reacher()
    rng = stream(0, "test", "samples")
    states = np.stack([env.sample_state(rng) for _ in range(2000)])
    for angles, (low, high) in ((states[:, 0], (-np.pi, np.pi)), (states[:, 1], np.deg2rad((-160, 160)))):
        assert low <= angles.min() < low + 0.02 and high - 0.02 < angles.max() <= high
        counts, _ = np.histogram(angles, 10, (low, high))
        assert counts.min() > 150  # of 200 expected
    assert not states[:, 2:].any()


def test_distance_is_the_larger_joint_error() -> None:
    state = np.array([3.0, 1.0, 7.0, 7.0])
    goals = np.array([[3.04, 0.98, 0, 0], [3.02, 1.06, 0, 0], [3.0 - 2 * np.pi, 1.0, 0, 0], [-3.2, 1.02, 0, 0]])
    turn = 2 * np.pi
    np.testing.assert_allclose(Reacher().distance(state, goals), [0.04, 0.06, turn, 6.2], atol=1e-12)
    assert Reacher().reached(state, goals).tolist() == [True, False, False, False]
    wrapped = Reacher(wrapped=True)
    np.testing.assert_allclose(wrapped.distance(state, goals), [0.04, 0.06, 0, turn - 6.2], atol=1e-12)
    np.testing.assert_allclose(wrapped.distance(goals, state), wrapped.distance(state, goals), atol=1e-12)
    limits = np.array([[0, 2.79, 0, 0], [9 * turn, -2.79, 0, 0]])  # the wrist has ends, its error is not wrapped
    assert wrapped.distance(limits[0], limits[1]) == pytest.approx(5.58)
    assert wrapped.distance(np.zeros((3, 5, 4)), state).shape == (3, 5)


@pytest.mark.parametrize("links", [1.0, 0.6])
def test_quantities_are_mujocos(links: float) -> None:
    env = Reacher(links=links)
    states, actions = starts_and_actions(env, 20)
    states = np.concatenate([states, env.simulate(states, actions)[:, -1]])
    found = env.quantities(states)
    model = physics_model(links)
    data = mujoco.MjData(model)
    for n, state in enumerate(states):
        data.qpos[:], data.qvel[:] = state[:2], state[2:]
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(found["finger_position"][n], data.geom("finger").xpos[:2], atol=1e-12)
    angles = found["joint_angles"]
    np.testing.assert_allclose(np.exp(1j * states[:, :2]), angles[:, ::2] + 1j * angles[:, 1::2], atol=1e-12)
    assert np.array_equal(found["joint_velocities"], states[:, 2:])


def test_teleported_keeps_velocities_and_draws_by_each_generator() -> None:
    env = Reacher()
    states, _ = starts_and_actions(env, 5)
    rngs = [stream(0, "test", n) for n in range(5)]
    moved = env.teleported(states, rngs)
    assert np.array_equal(moved[:, 2:], states[:, 2:])
    assert (np.abs(moved[:, :2] - states[:, :2]).max(-1) > 1e-3).all()
    assert np.array_equal(moved[3:4], env.teleported(states[3:4], [stream(0, "test", 3)]))


def test_a_teleported_shoulder_takes_the_short_way_round() -> None:
    """A full turn away is far by the distance, and looks the same."""
    env, turns = Reacher(), np.array([-7.0, 0.0, 3.5, 9.0])
    moved = env.teleported(np.stack([[t, 0.3, 1.0, -1.0] for t in turns]), [stream(0, "turns", n) for n in range(4)])
    drawn = np.array([env.sample_state(stream(0, "turns", n)) for n in range(4)])
    assert (np.abs(moved[:, 0] - turns) <= np.pi).all()
    np.testing.assert_allclose(np.exp(1j * moved[:, :2]), np.exp(1j * drawn[:, :2]), atol=1e-12)


def test_pickles_with_its_state() -> None:
    env = Reacher()
    env.set_state(np.array([1.0, -0.5, 2.0, 3.0]))
    copy = pickle.loads(pickle.dumps(env))
    for one in (env, copy):
        one.advance(np.ones(2))
    assert np.array_equal(copy.get_state(), env.get_state())


# Frames.


@needs_gl
def test_looks_like_dm_control(theirs: dict[str, np.ndarray]) -> None:
    env = Reacher()
    starts, _ = starts_and_actions(env, 8)
    frames = env.render_states(starts)
    difference = np.abs(frames.astype(float) - theirs["frames"])
    assert difference.mean((1, 2, 3)).max() < 1.0
    assert np.abs(frames.astype(float) - theirs["frames"][::-1]).mean() > 1.5  # another state is seen
    room = np.median(theirs["frames"], axis=0)
    ours, other = (np.abs(f - room).sum(-1) for f in (frames, theirs["frames"].astype(float)))
    for axis in (1, 2):  # the arm's centre, in pixels
        index = np.arange(64)
        centers = [(arm.sum(3 - axis) * index).sum(1) / arm.sum((1, 2)) for arm in (ours, other)]
        np.testing.assert_allclose(*centers, atol=0.5)


def test_shorter_links_are_as_dense_and_turn_further() -> None:
    usual, short = physics_model(), physics_model(0.5)
    for name, length in (("arm", 0.12), ("hand", 0.10)):  # capsules of radius 1 cm: cylinders and two half balls
        volumes = [np.pi * 1e-4 * (scale * length + 4 / 3 * 0.01) for scale in (1, 0.5)]
        masses = [model.body(name).mass[0] for model in (usual, short)]
        assert masses[1] / masses[0] == pytest.approx(volumes[1] / volumes[0])
    assert short.body("finger").mass == usual.body("finger").mass
    turned = [
        Reacher().shifted("links", level).simulate(np.zeros((1, 4)), np.ones((1, 4, 2)))[0, -1] for level in range(4)
    ]
    assert (np.diff(np.array(turned)[:, 1]) > 0).all()
    assert "links" not in Reacher(links=0.7).factors()
    heavy = Reacher(physics={"mass": 2.0}).shifted("links", 2)
    assert heavy.shifted("mass", 1).physics == {"mass": 3.0} and heavy.shifted("mass", 1).links == 0.7
    with pytest.raises(UserError, match=r"links <= 1\.25, got 2"):
        Reacher(links=2)


@needs_gl
@pytest.mark.parametrize("links", [1.0, 0.6])
def test_the_finger_is_drawn_where_it_is(links: float) -> None:
    """A pinhole camera 0.75 above the floor that sees 45 degrees."""
    env = Reacher(image_size=96, links=links)
    states, _ = starts_and_actions(env, 12)
    bent = np.abs(states[:, 1]) < 2  # elsewhere the finger may lie over the upper link
    states = states[bent]
    fingers = env.quantities(states)["finger_position"]
    pixels = 48 + 48 / np.tan(np.deg2rad(22.5)) * fingers * (1, -1) / 0.735
    changed = (env.render_states(states) != env.recolored(states)).any(-1)
    for (column, row), mask in zip(pixels, changed, strict=True):
        rows, columns = np.nonzero(mask)
        assert np.hypot(rows + 0.5 - row, columns + 0.5 - column).min() < 1.0
        far = np.hypot(rows + 0.5 - 48, columns + 0.5 - 48).max()
        assert far < 48 / np.tan(np.deg2rad(22.5)) * (0.24 * links + 0.02) / 0.73 + 1


@needs_gl
def test_recoloured_is_the_arm_alone_in_another_colour() -> None:
    env = Reacher()
    states, _ = starts_and_actions(env, 8)
    plain, green = env.render_states(states).astype(int), env.recolored(states).astype(int)
    changed = (plain != green).any(-1)
    assert (changed.sum((1, 2)) > 20).all() and changed.mean() < 0.05
    arm = changed & (plain[..., 0] > plain[..., 2] + 60)
    assert arm.any((1, 2)).all()
    assert (green[arm][:, 1] > green[arm][:, 0]).all() and (plain[arm][:, 0] > plain[arm][:, 1]).all()
    assert np.array_equal(plain, env.render_states(states))  # the paint comes off


@needs_gl
@pytest.mark.parametrize("size", [16, 33])
def test_frames_depend_on_the_angles_alone(size: int) -> None:
    env = Reacher(image_size=size)
    states, _ = starts_and_actions(env, 9)
    frames = env.render_states(states)
    assert frames.shape == (9, size, size, 3) and frames.dtype == np.uint8
    assert np.array_equal(env.render_states(states[::-1])[::-1], frames)
    env.close()
    env.close()
    assert np.array_equal(env.render_states(states * (1, 1, 0, 0)), frames)
    assert np.array_equal(pickle.loads(pickle.dumps(env)).render_states(states[4:5])[0], frames[4])
    assert env.render_states(states[:0]).shape == (0, size, size, 3)
