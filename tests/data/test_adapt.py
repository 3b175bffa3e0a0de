"""Environments that we did not write keep the contract, by qpos and by replay, and say what to do where they cannot."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from lewm_bench.cli.app import main
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.data import adapt
from lewm_bench.data.adapt import Adapt, MujocoStateEnv, ReplayEnv, register_env
from lewm_bench.data.check import check_goal_env, require_sound
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.run.benchmarks import load
from lewm_bench.run.environments import environment_ids, make_env, origin
from lewm_bench.run.resolve import resolve

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def adapted(source: str, **fields) -> ReplayEnv | MujocoStateEnv:
    return make_env(source, 32, adapt=Adapt(**{"threshold": 0.2, **fields}))


def blue(env: gym.Env) -> np.ndarray:
    """A picture that needs no graphics library and shows the observation of InvertedPendulum or CartPole."""
    frame = np.zeros((40, 60, 3), np.uint8)
    position = env.unwrapped.data.qpos if "Inverted" in type(env.unwrapped).__name__ else env.unwrapped.state
    frame[:, :, 2] = np.uint8(np.clip(128 + 40 * np.sin(np.arange(60) / 9 + 5 * position[0] + 3 * position[1]), 0, 255))
    frame[:, :, 1] = np.uint8(np.clip(128 + 99 * np.asarray(position).sum(), 0, 255))
    return frame


PICTURE = f"{__name__}:blue"


@pytest.mark.parametrize(
    ("source", "fields", "kind"),
    [
        pytest.param("Pendulum-v1", {"compare": [0, 1]}, ReplayEnv, marks=pytest.mark.slow),
        ("InvertedPendulum-v5", {"compare": [0, 1], "frame": PICTURE, "threshold": 0.05}, MujocoStateEnv),
        ("InvertedPendulum-v5", {"threshold": 0.05, "compare": [0, 1], "frame": PICTURE, "state": "replay"}, ReplayEnv),
        ("CartPole-v1", {"compare": [0, 2], "frame": PICTURE}, ReplayEnv),
    ],
)
def test_a_foreign_environment_keeps_every_promise(source: str, fields: dict, kind: type, monkeypatch) -> None:
    monkeypatch.setattr("lewm_bench.data.check.SPEED_SECONDS", 0.0)  # the speed is no promise
    if source == "Pendulum-v1":
        pytest.importorskip("pygame", reason="Pendulum is drawn by pygame")
    env = adapted(source, **fields)
    assert type(env) is kind
    assert [finding for finding in check_goal_env(env) if not finding.ok] == []


def test_mujoco_draws_without_being_told_how() -> None:
    """In a process of its own: the choice of OpenGL is made once, and nothing is said at exit."""
    code = (
        "import os\n"
        "from lewm_bench.data.adapt import Adapt\n"
        "from lewm_bench.core.errors import NotRun\n"
        "from lewm_bench.run.environments import make_env\n"
        "env = make_env('InvertedPendulum-v5', 48, adapt=Adapt(threshold=0.1))\n"
        "try:\n"
        "    env.set_state([-0.7, 0.2, 0, 0, 0])\n"
        "    frame = env.render()\n"
        "except NotRun:\n"
        "    raise SystemExit('no OpenGL')\n"
        "env.set_state([0.5, 0.3, 0, 0, 0])\n"
        "import gymnasium\n"
        "other = gymnasium.make(env.spec, disable_env_checker=True).unwrapped\n"
        "other.set_state([0.1, 0.05, 0, 0, 0])\n"
        "seen = other.render()  # Gymnasium aims its camera where the bodies are at the first picture\n"
        "other.close()\n"
        "env.set_state([0.1, 0.05, 0, 0, 0])\n"
        "assert seen.any() and (env.render() == seen).all()  # and is black once another one is closed\n"
        "env.set_state([0.5, 0.3, 0, 0, 0])\n"
        "assert frame.shape == (48, 48, 3) and (env.render() != frame).any() and 'MUJOCO_GL' not in os.environ\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True, check=False)
    if "no OpenGL" in done.stderr:
        pytest.skip("no OpenGL here")
    assert done.returncode == 0 and "Exception ignored" not in done.stderr, done.stderr


HELD = """
import gymnasium as gym
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
class Held(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, render_mode):
        self.held = InvertedPendulumEnv(render_mode=render_mode)
        self.action_space, self.observation_space = self.held.action_space, self.held.observation_space
    def reset(self, *, seed=None, options=None):
        return self.held.reset(seed=seed)
    def step(self, action):
        return self.held.step(action)
    def render(self):
        return self.held.render()
    def close(self):
        self.held.close()
gym.register("Held-v0", "held:Held")
"""
HELD_RENDERER = "import mujoco\n" + HELD.replace("self.held", "self.parts[0]").replace(
    "self.parts[0] = InvertedPendulumEnv(render_mode=render_mode)",
    "self.parts = [InvertedPendulumEnv(render_mode=render_mode)]; self.drawer = self.parts[0].mujoco_renderer",
)


@pytest.mark.parametrize("source", [HELD, HELD_RENDERER], ids=["environment", "renderer"])
def test_mujoco_inside_of_an_environment_draws_too(source: str, tmp_path: Path) -> None:
    """As gymnasium_robotics' mazes and arms do; several draw in turn, one is closed, and nothing is said at exit."""
    (tmp_path / "held.py").write_text(source, encoding="utf-8")
    code = (
        "import os\n"
        "from lewm_bench.data.adapt import Adapt\n"
        "from lewm_bench.core.errors import NotRun\n"
        "from lewm_bench.run.environments import make_env\n"
        "from lewm_bench.core.rng import stream\n"
        "env = make_env('held:Held-v0', 48, adapt=Adapt(threshold=0.1))\n"
        "states = [env.sample_state(stream(n, 'test')) for n in range(3)]\n"
        "def look(state):\n"
        "    env.set_state(state)\n"
        "    return env.render()\n"
        "try:\n"
        "    seen = [look(state) for state in states]\n"
        "except NotRun:\n"
        "    raise SystemExit('no OpenGL')\n"
        "assert all(frame.any() for frame in seen) and (seen[0] != seen[1]).any() and 'MUJOCO_GL' not in os.environ\n"
        "assert all((look(state) == frame).all() for state, frame in zip(states, seen))\n"
        "other = make_env('held:Held-v0', 48, adapt=Adapt(threshold=0.1))\n"
        "other.set_state(states[0]), other.render(), other.close()\n"
        "del other  # and with it the OpenGL that was current\n"
        "assert all((look(state) == frame).all() for state, frame in zip(states, seen))\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "no OpenGL" in done.stderr:
        pytest.skip("no OpenGL here")
    assert done.returncode == 0 and "Exception ignored" not in done.stderr, done.stderr


class Scaled(gym.ObservationWrapper):
    """The observation times a number."""

    def __init__(self, env: gym.Env, by: float = 2.0) -> None:
        super().__init__(env)
        self.by = by

    def observation(self, observation):
        return self.by * observation


class Shifted(gym.ObservationWrapper):
    """The observation plus 1."""

    def observation(self, observation):
        return observation + 1


class Slow(gym.ActionWrapper):
    """A tenth of the action, and a picture of its own."""

    def action(self, action):
        return action / 10

    def render(self):
        return np.full((32, 32, 3), 7, np.uint8)


def test_wrappers_are_put_around_it_in_order() -> None:
    gym.register("tests/Faulty-v0", lambda render_mode: Counter(), disable_env_checker=True)
    plain = adapted("tests/Faulty-v0", warmup=0)
    state = plain.sample_state(stream(0, "test"))
    scaled = {"name": f"{__name__}:Scaled", "kwargs": {"by": 3.0}}
    for wrappers, expected in [
        ([scaled, Shifted], lambda x: 3 * x + 1),
        ([Shifted, scaled], lambda x: 3 * (x + 1)),
        ([f"{__name__}:Scaled", f"{__name__}:Slow"], lambda x: 2 * x),
    ]:
        env = adapted("tests/Faulty-v0", warmup=0, wrappers=wrappers)
        begun = env.sample_state(stream(0, "test"))
        np.testing.assert_allclose(env.vector(begun), expected(plain.vector(state)))
        kept = pickle.loads(pickle.dumps(env))
        env.set_state(begun)
        kept.set_state(begun)
    env.advance(np.ones(1))  # the last one is slow
    assert (
        env.vector(env.get_state())[0] == pytest.approx(2 * (plain.vector(state)[0] + 0.1))
        and env.render()[0, 0, 0] == 7
    )
    kept.advance(np.ones(1))
    np.testing.assert_array_equal(kept.get_state(), env.get_state())
    gym.registry.pop("tests/Faulty-v0")


def test_mujoco_in_a_wrapper_is_replayed_and_keeps_every_promise() -> None:
    env = adapted("InvertedPendulum-v5", compare=[0, 1], frame=PICTURE, threshold=0.05, wrappers=[Scaled])
    assert type(env) is ReplayEnv and [finding for finding in check_goal_env(env) if not finding.ok] == []


def test_the_vector_says_what_its_numbers_are() -> None:
    """The index that is named for a key holds what the environment observes under it."""
    gym.register("tests/Faulty-v0", lambda render_mode: Arm(), disable_env_checker=True)
    env = adapted("tests/Faulty-v0", warmup=0)
    begun = env.vector(env.sample_state(stream(0, "test")))
    assert env.described() == "0 rest.angle, 1 to 2 rest.on, 3 to 5 tip"
    np.testing.assert_array_equal(begun[:5], [0, 0, 1, 1, 2])
    assert adapted("Pendulum-v1").described() == "0 to 2 observation"
    pole = adapted("InvertedPendulum-v5", frame=PICTURE)
    assert pole.described() == "0 slider, 1 hinge, 2 velocity of slider, 3 velocity of hinge"
    chosen = [{"name": "gymnasium.wrappers:FilterObservation", "kwargs": {"filter_keys": ["tip"]}}]
    assert adapted("tests/Faulty-v0", wrappers=chosen).described() == "0 to 2 tip"
    gym.registry.pop("tests/Faulty-v0")


class Seen(gym.ObservationWrapper):
    """As MiniGrid's RGBImgPartialObsWrapper: puts a picture besides what is observed."""

    def __init__(self, env: gym.Env, side: int) -> None:
        super().__init__(env)
        self.side = side
        picture = gym.spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": picture, "place": env.observation_space})

    def observation(self, observation):
        shade = np.uint8(128 + 60 * np.sin(3 * observation[0]))
        return {"image": np.full((self.side, self.side, 3), [9, shade, 99], np.uint8), "place": observation}


def test_a_picture_in_the_observation_is_the_frame_and_not_the_state() -> None:
    gym.register("tests/Faulty-v0", lambda render_mode: Counter(), disable_env_checker=True)
    wrappers = [{"name": f"{__name__}:Seen", "kwargs": {"side": 56}}]
    env = adapted("tests/Faulty-v0", warmup=3, wrappers=wrappers, frame_key="image", compare=[0])
    assert env.described() == "0 to 1 place"
    states = np.stack([env.sample_state(stream(n, "test")) for n in range(3)])
    shades = 128 + 60 * np.sin(3 * env.vector(states)[:, 0])
    np.testing.assert_array_equal(env.render_states(states)[:, 5, 5, 1], shades.astype(np.uint8))
    assert [f for f in check_goal_env(env) if not f.ok and f.name != "visible"] == []  # a shade can come twice
    gym.registry.pop("tests/Faulty-v0")


def test_free_joints_have_seven_positions_and_six_velocities() -> None:
    ant = adapted("Ant-v5", frame=PICTURE)
    assert ant.described().startswith("0 to 6 root, 7 hip_1, ") and ", 15 to 20 velocity of root, " in ant.described()


def test_qpos_steps_are_gymnasiums_own() -> None:
    env = adapted("InvertedPendulum-v5", compare=[0, 1], frame=PICTURE)
    theirs = gym.make("InvertedPendulum-v5").unwrapped
    theirs.reset(seed=3)
    start, actions = np.concatenate([theirs.data.qpos, theirs.data.qvel, [0]]), np.linspace(-3, 3, 20)[:, None]
    ours = env.simulate(start[None], actions[None])[0]
    over = False
    for action, state, before in zip(actions, ours, [start, *ours], strict=False):
        if over:
            np.testing.assert_array_equal(state, before)
            continue
        over = theirs.step(action)[2]
        # They start the solver from its last solution, we do not.
        np.testing.assert_allclose(state, [*theirs.data.qpos, *theirs.data.qvel, over], atol=1e-6)
    assert over


def test_termination_can_be_ignored() -> None:
    """The inverted pendulum falls, swings below its cart and goes on."""
    for state in ("qpos", "replay"):
        env = adapted("InvertedPendulum-v5", state=state, compare=[0, 1], frame=PICTURE, terminates=False, warmup=0)
        after = env.simulate(env.sample_state(stream(0, "test"))[None], np.full((1, 40, 1), 1.0))[0]
        assert not env.over(after).any() and np.diff(env.vector(after), axis=0).any(1).all()
        assert np.abs(env.vector(after)[:, 1]).max() > 1


def test_replay_is_the_pendulum_equation() -> None:
    """Against Gymnasium's class stepped by hand, from a state deep in an episode and after going elsewhere."""
    env = adapted("Pendulum-v1", compare=[0, 1])
    rng = stream(0, "test")
    state = env.sample_state(rng)
    seed, warm = int(state[0]), state[6:][: int(state[1])]
    theirs = PendulumEnv()
    theirs.reset(seed=seed)
    for action in warm:
        theirs.step(np.float32([action]))
    actions = rng.uniform(-2, 2, (10, 1)).astype(np.float32)
    expected = [theirs.step(action)[0] for action in actions]
    env.set_state(env.sample_state(rng))
    after = env.simulate(state[None], actions[None])[0]
    np.testing.assert_array_equal(env.vector(after), expected)
    assert after[-1, 1] == len(warm) + 10


def test_a_terminated_episode_stays() -> None:
    env = adapted("CartPole-v1", compare=[0, 2], frame=PICTURE, warmup=0)
    state = env.sample_state(stream(0, "test"))
    states = env.simulate(state[None], np.tile(np.float32([1, -1]), (1, 60, 1)))[0]  # always to the left
    after = env.vector(states)
    fallen = np.flatnonzero(np.abs(after[:, 2]) > 0.2095)[0]
    assert 5 < fallen < 20
    np.testing.assert_array_equal(after[fallen:], np.tile(after[fallen], (60 - fallen, 1)))
    np.testing.assert_array_equal(env.over(states), np.arange(60) >= fallen)
    np.testing.assert_array_equal(states[fallen:], np.tile(states[fallen], (60 - fallen, 1)))  # the rest of it too
    env.set_state(states[fallen - 1])
    env.reset(options={"start": states[fallen - 1], "goal": states[0]})
    assert env.step(np.float32([1, -1]))[2] is True


@pytest.mark.parametrize("source", ["CartPole-v1", "InvertedPendulum-v5"])
def test_recorded_episodes_end_where_the_environment_terminates(source: str, tmp_path: Path) -> None:
    """Against the environment itself: it terminates at the last recorded step of an episode and at no other."""
    for chunk in (3, 64):
        env = adapted(source, compare=[0], frame=PICTURE, state="replay")
        config = CollectConfig(episodes=8, steps=40, policies={"uniform": 1.0}, chunk=chunk)
        dataset = collect(env, config, 0, tmp_path / str(chunk), progress=False)
    assert dataset.fingerprint == Dataset.open(tmp_path / "3").fingerprint
    assert len(set(dataset.lengths)) > 2 and (dataset.lengths >= 2).all()
    theirs = gym.make(source).unwrapped
    for episode in dataset:
        theirs.reset(seed=int(episode.states[0, 0]))
        for action in episode.states[0, 3 + env._observed :].reshape(-1, env._size)[: int(episode.states[0, 1])]:
            assert not theirs.step(env._actions(action))[2]
        ends = [theirs.step(env._actions(action))[2] for action in episode.actions]
        assert not any(ends[:-1]) and (ends[-1] or len(ends) == 40)
        assert np.diff(env.vector(episode.states), axis=0).any(1).all()  # nothing stands still


def test_a_start_that_never_lasts_is_said_so() -> None:
    env = adapted("CartPole-v1", compare=[0], frame=PICTURE)
    starts = np.stack([env.sample_state(stream(n, "test")) for n in range(40)])
    assert not env.over(starts).any() and starts[:, 1].max() > 5  # some have nearly fallen
    gym.register("tests/Doomed-v0", lambda render_mode: Doomed(), disable_env_checker=True)
    with pytest.raises(UserError, match=r"Doomed-v0 terminates while it warms up.*lower adapt.warmup"):
        adapted("tests/Doomed-v0", warmup=1).sample_state(AlwaysLongest())
    gym.registry.pop("tests/Doomed-v0")


def test_the_largest_score_is_the_discrete_action() -> None:
    env = adapted("CartPole-v1", compare=[0, 2], frame=PICTURE, warmup=0)
    theirs = gym.make("CartPole-v1").unwrapped
    state = env.sample_state(stream(1, "test"))
    theirs.reset(seed=int(state[0]))
    scores = stream(2, "test").uniform(-1, 1, (8, 2))
    after = env.vector(env.simulate(state[None], scores[None])[0])
    np.testing.assert_array_equal(after, [theirs.step(int(s[1] > s[0]))[0] for s in scores])


def test_episodes_side_by_side_cost_a_step_and_not_a_replay(monkeypatch) -> None:
    env = adapted("Pendulum-v1", compare=[0, 1])
    states = np.stack([env.sample_state(stream(n, "test")) for n in range(20)])
    steps = []
    step = ReplayEnv._step
    monkeypatch.setattr(ReplayEnv, "_step", lambda self, live, action: (steps.append(1), step(self, live, action))[1])
    for _ in range(5):
        steps.clear()
        states = env.simulate(states, np.zeros((20, 1, 1), np.float32))[:, -1]
    assert len(steps) <= 21  # and the state that is current


def test_compare_counts_angles_around_the_circle() -> None:
    env = adapted("InvertedPendulum-v5", compare=[0, 1], angles=[1], frame=PICTURE)
    state, goal = np.array([0.0, np.pi - 0.1, 5, 5]), np.array([0.3, -np.pi + 0.3, 0, 0])
    assert env.distance(state, goal) == pytest.approx(0.5)  # 0.3 and 0.4, and the velocities do not count
    assert adapted("InvertedPendulum-v5", frame=PICTURE).distance(state, goal) == pytest.approx(
        np.hypot(0.3, 2 * np.pi - 0.4)
    )


def test_pickles_with_its_state_and_its_spec() -> None:
    for source in ("Pendulum-v1", "InvertedPendulum-v5"):
        env = adapted(source, frame=PICTURE if source.startswith("Inverted") else "")
        env.set_state(env.sample_state(stream(0, "test")))
        copy = pickle.loads(pickle.dumps(env))
        for one in (env, copy):
            one.advance(np.ones(1))
        assert np.array_equal(copy.get_state(), env.get_state()) and copy.spec.id == env.spec.id


@pytest.mark.slow
@pytest.mark.parametrize("state", ["qpos", "replay"])
def test_ogbenchs_mazes_are_refused(state: str) -> None:
    """Version 1.2.2 draws the starts of its mazes from numpy's global generator."""
    pytest.importorskip("ogbench")
    env = make_env("pointmaze-medium-v0", 32, adapt=Adapt(threshold=0.5, frame=f"{__name__}:position", state=state))
    with pytest.raises(UserError, match=r"^mine cannot be used: equal seeds: two episodes with the same seed"):
        require_sound(env, "mine")


def position(env: gym.Env) -> np.ndarray:
    """A picture of OGBench's point without its goal and without OpenGL."""
    return np.full((32, 32, 3), np.uint8(128 + 60 * np.sin(env.unwrapped.data.qpos[:2].sum())))


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ("Pendulum-v1", {"threshold": -1}, "greater than 0"),
        ("Pendulum-v1", {"treshold": 1}, "treshold"),
        ("Pendulum-v1", {"compare": [0], "distance": "a:b"}, "either"),
        ("Pendulum-v1", {"compare": [0], "angles": [1]}, "among compare"),
        ("Pendulum-v1", {"compare": [3]}, r"compare names entry 3, but the observation has 0 to 2"),
        ("Pendulum-v1", {"state": "qpos"}, "state: replay"),
        ("Pendulum-v1", {"frame": "nowhere:frame"}, "nowhere:frame"),
        ("Pendulum-v1", {"wrappers": ["nowhere:Wrapper"]}, "'nowhere:Wrapper' is not a wrapper at the top of a module"),
        ("Pendulum-v1", {"wrappers": ["gymnasium.wrappers:TimeLimit"]}, "TimeLimit cannot be put around it: TypeError"),
        ("Pendulum-v1", {"frame_key": "image"}, "adapt.frame_key: no key of the observation named 'image'"),
        ("Pendulum-v1", {"frame_key": "image", "frame": PICTURE}, "either a frame or a frame_key"),
        ("Pendulum-v1", {"wrappers": [{"kwargs": {}}]}, "name"),
        ("Pendulum-v1", {"wrappers": ["builtins:id"]}, "adapt.wrappers: builtins:id makes .*, not a gymnasium.Env"),
        (
            "InvertedPendulum-v5",
            {"wrappers": [f"{__name__}:Scaled"], "state": "qpos"},
            "leaves out wrappers.*use state: replay",
        ),
        ("Pendulum-v1", {"threshold": "nan"}, "finite number"),
        ("Pendulum-v1", {"exploration": {}}, "must add up to 1"),
        ("Pendulum-v1", {"exploration": {"uniform": 0.5}}, "must add up to 1"),
        ("Pendulum-v1", {"exploration": {"unform": 1}}, "ornstein_uhlenbeck, sac, uniform; did you mean 'uniform'"),
        ("Pendulum-v1", {"max_steps": 10}, "max_steps must be larger than warmup"),
        ("Pendulun-v1", {}, "did you mean 'Pendulum-v1'"),
    ],
)
def test_a_mistake_is_one_line(source: str, fields: dict, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        register_env("tests/Wrong-v0", source, **{"threshold": 0.2, **fields})
        make_env(source, 32, adapt=Adapt(**{"threshold": 0.2, **fields}))


class Switches(gym.Env):
    """Actions that cannot be planned here."""

    action_space = gym.spaces.MultiDiscrete([2, 3])
    observation_space = gym.spaces.Box(-1, 1, (2,))


class Counter(gym.Env):
    """Counts its steps and shows the count; what is wrong with it is left to subclasses."""

    action_space = gym.spaces.Box(-1, 1, (1,))
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0.0, self.np_random.uniform()
        return np.array([self.place, self.steps]), {}

    def step(self, action):
        self.steps += 1
        self.place += float(action[0])
        return np.array([self.place, self.steps]), 0.0, False, False, {}

    def render(self):
        return np.full((32, 32, 3), int(128 + 60 * np.sin(self.place)), np.uint8)


class Doomed(Counter):
    """Terminates at once."""

    def step(self, action):
        return *super().step(action)[:2], True, False, {}


class AlwaysLongest(np.random.Generator):
    """Warms up as long as it may."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, high, *rest):
        return high - 1


class Leaky(Counter):
    """Its reset keeps a part of where the last episode ended."""

    place = 0.0

    def reset(self, *, seed=None, options=None):
        left = 0.1 * self.place
        (place, steps), info = super().reset(seed=seed)
        self.place = place + left
        return np.array([self.place, steps]), info


class Unseeded(Counter):
    """Draws its start from numpy's global generator."""

    def reset(self, *, seed=None, options=None):
        (_, steps), info = super().reset(seed=seed)
        self.place = np.random.uniform()
        return np.array([self.place, steps]), info


@pytest.mark.parametrize("kind", [Leaky, Unseeded])
def test_a_replay_that_differs_is_refused(kind: type, monkeypatch) -> None:
    monkeypatch.setattr(adapt, "LIVE", 2)  # so that environments are used again
    gym.register("tests/Faulty-v0", lambda render_mode: kind(), disable_env_checker=True)
    env = adapted("tests/Faulty-v0", warmup=3)
    with pytest.raises(UserError, match=r"^tests/Faulty-v0 does not do the same again.*entry 0 of the observation was"):
        states = [env.sample_state(stream(n, "test")) for n in range(6)]
        for state in states:
            env.set_state(state)
    gym.registry.pop("tests/Faulty-v0")


class ShownGoal(Counter):
    """Draws a goal of its own that its observation leaves out, another one after each reset."""

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.goal = type(self).goals = getattr(type(self), "goals", 0) + 1
        return found

    def render(self):
        return super().render() + np.uint8(self.goal)


FAULTY = """
profiles: {quick: {image_size: 32, collect: {episodes: 12, steps: 30}, evaluate: {goal_offset: 9}}}
suites:
  one:
    title: One
    agents: [random]
    seeds: [0]
    envs: [{id: tests/Faulty-v0, adapt: {threshold: 1e-1, compare: [0], warmup: 3}}]
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unseeded, "equal seeds: two episodes with the same seed and actions differ"),
        (Leaky, "equal seeds: two episodes with the same seed and actions differ"),
        (ShownGoal, "equal seeds: two episodes with the same seed and actions differ"),
        (Counter, ""),
    ],
)
def test_a_run_refuses_before_it_collects(kind: type, message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    gym.register("tests/Faulty-v0", lambda render_mode: kind(), disable_env_checker=True)
    monkeypatch.setattr(adapt, "LIVE", 2)
    Path(tmp_path / "one.yaml").write_text(FAULTY, encoding="utf-8")
    arguments = ("--suite", "one", "--config", str(tmp_path / "one.yaml"), "--cache", str(tmp_path / "cache"))
    status, err = command("collect", *arguments, monkeypatch=monkeypatch), capsys.readouterr().err
    collected = list((tmp_path / "cache" / "dataset").glob("*/meta.json"))
    if message:
        assert status == 2 and not collected
        assert len(err.splitlines()) == 2 and "tests/Faulty-v0 cannot be used" in err and message in err, err
    else:
        assert not status and len(collected) == 1, err
        monkeypatch.setattr("lewm_bench.run.stages.require_sound", None)  # it is not asked again
        assert not command("collect", *arguments, monkeypatch=monkeypatch)
    gym.registry.pop("tests/Faulty-v0")


class Arm(Counter):
    """Observes under keys, out of alphabetical order, one of which is text."""

    observation_space = gym.spaces.Dict(
        {
            "tip": gym.spaces.Box(-9, 9, (3,), np.float64),
            "rest": gym.spaces.Dict({"on": gym.spaces.Discrete(2), "angle": gym.spaces.Box(-4, 4, (1,), np.float64)}),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observed(), {}

    def observed(self):
        return {"tip": np.array([1.0, 2.0, self.place]), "rest": {"on": 1, "angle": np.array([self.steps])}}

    def step(self, action):
        return self.observed(), *super().step(action)[1:]


class Spoken(Arm):
    """With a mission besides, which is no number."""

    observation_space = gym.spaces.Dict(
        {**Arm.observation_space.spaces, "mission": gym.spaces.Sequence(gym.spaces.Discrete(2))}
    )


class Screen(gym.Env):
    """An observation that is a picture."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 255, (84, 84), np.uint8)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Switches, "MultiDiscrete.*subclass GoalEnv"),
        (Screen, "7056 numbers"),
        (Spoken, "no vector of numbers.*FilterObservation"),
    ],
)
def test_what_cannot_be_adapted_is_refused(env: type, message: str) -> None:
    gym.register("tests/Strange-v0", lambda render_mode: env(), disable_env_checker=True)
    with pytest.raises(UserError, match=message):
        adapted("tests/Strange-v0")
    gym.registry.pop("tests/Strange-v0")


def test_an_episode_longer_than_its_state_says_so() -> None:
    env = adapted("Pendulum-v1", max_steps=3, warmup=0)
    env.set_state(env.sample_state(stream(0, "test")))
    with pytest.raises(UserError, match="longer than max_steps 3"):
        for _ in range(4):
            env.advance(np.zeros(1))


def test_registered_ids_are_listed_with_their_origin() -> None:
    register_env("tests/Listed-v0", "Pendulum-v1", threshold=0.1)
    assert "tests/Listed-v0" in environment_ids() and origin("tests/Listed-v0") == "adapted from Pendulum-v1"
    register_env("tests/Listed-v0", "Pendulum-v1", threshold=0.4)
    assert make_env("tests/Listed-v0", 32).threshold == 0.4  # the later registration counts
    gym.registry.pop("tests/Listed-v0")


def test_a_missing_package_of_an_environment_is_not_a_mistake(monkeypatch) -> None:
    def absent(**_):
        raise gym.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`')

    gym.register("tests/Absent-v0", absent)
    with pytest.raises(NotRun, match="gymnasium\\[box2d\\]"):
        make_env("tests/Absent-v0", 32)
    gym.registry.pop("tests/Absent-v0")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the tutorial."""
    return [part.split("```")[0] for part in TUTORIAL.read_text(encoding="utf-8").split(f"```{language}\n")[1:]]


@pytest.mark.parametrize("text", blocks("yaml")[1:], ids=lambda text: text.split("suites:")[1].split(":")[0].strip())
def test_what_was_tried_can_be_made_and_drawn(text: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "third_envs.py").write_text(blocks("python")[1], encoding="utf-8")
    (tmp_path / "tried.yaml").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    bench = load(tmp_path / "tried.yaml")
    (name,) = bench.suites
    (spec,) = resolve(bench, name, "quick").envs
    package = spec.id.rpartition(":")[0] or "Box2D"
    pytest.importorskip(package, reason=f"{package} is not installed")
    if package == "gymnasium_robotics" and tuple(map(int, version("mujoco").split(".")[:2])) > (3, 11):
        pytest.skip("Fetch of Gymnasium-Robotics 1.4.2 asserts from MuJoCo 3.12 on")
    env = make_env(spec.id, 64, spec.kwargs, spec.adapt)
    state = env.sample_state(stream(0, "test"))
    try:
        (frame,) = env.render_states(state[None])
    except NotRun as reason:
        pytest.skip(str(reason))
    after = env.simulate(state[None], np.tile(env.action_space.high, (1, 4, 1)))[0, -1]
    np.testing.assert_array_equal(env.render_states(np.stack([after, state]))[1], frame)
    assert frame.std() > 0 and env.distance(state, state) == 0


def command(*arguments: str, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["lewm-bench", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("pygame", reason="Pendulum is drawn by pygame")
    (yaml, *_), (code, _) = blocks("yaml"), blocks("python")
    assert len(yaml.strip().splitlines()) <= 15
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    Path("pendulum.yaml").write_text(yaml, encoding="utf-8")
    Path("my_envs.py").write_text(code, encoding="utf-8")
    assert command("check", "Pendulum-v1", "--config", "pendulum.yaml", monkeypatch=monkeypatch) in (0, None)
    assert Path("Pendulum-v1.png").is_file()
    assert command("check", "my_envs:mine/Pendulum-v0", monkeypatch=monkeypatch) in (0, None)
    small = ["--set", "collect.episodes=30", "--set", "evaluate.num_pairs=4", "--agents", "noop,random"]
    run = ["run", "--suite", "pendulum", "--config", "pendulum.yaml", *small]
    assert command(*run, monkeypatch=monkeypatch) in (0, None), capsys.readouterr().err
    assert "Pendulum-v1" in Path("results/pendulum/table.md").read_text(encoding="utf-8")
