"""Every registered environment keeps the contract; PointMaze has the physics and the pictures that it claims."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest

import lewm_bench.envs
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import Factor
from lewm_bench.data.check import CHECKS, check_goal_env
from lewm_bench.envs.parts.maze import cell_of, center_of, clearance, parse_maze, wall_boxes, wall_faces
from lewm_bench.envs.parts.raster import BALL, FLOOR, RECOLORED_BALL, WALL, Raster
from lewm_bench.envs.pointmaze import DAMPED, INERTIAL, PointMaze, physics_xml

ENV_IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("lewm_bench/"))
MAZES = ("UMaze", "Medium", "Large")
WIDE = "########\n#......#\n#.##.#.#\n#......#\n########"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process in the checkout, with no display and no choice of OpenGL but the given one."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MUJOCO_GL", "PYTHONWARNINGS")}
    root = Path(__file__).parents[2]
    command, environment = [sys.executable, "-c", code], {**inherited, **environment}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def starts_and_actions(env: GoalEnv, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sampled states and actions that are held for a while, so that walls are hit."""
    rng = stream(0, "test", "starts")
    states = np.stack([env.sample_state(rng) for _ in range(count)])
    return states, np.repeat(rng.uniform(-1.5, 1.5, (count, steps // 5, 2)), 5, axis=1)


# The contract.


def made(env_id: str) -> gym.Env:
    """The environment, if what it needs is installed and can draw."""
    try:
        env = gym.make(env_id)
        env.unwrapped.render()
    except NotRun as error:
        pytest.skip(str(error))
    return env


SLOW = {
    f"lewm_bench/{name}-v0": pytest.mark.slow
    for name in ("Cube", "Scene", "AntMaze-UMaze", "AntMaze-Medium", "AntMaze-MediumOGBench")
}


@pytest.mark.parametrize("env_id", [pytest.param(i, marks=SLOW.get(i, ())) for i in ENV_IDS])
def test_every_promise_is_kept(env_id: str) -> None:
    broken = [finding for finding in check_goal_env(made(env_id)) if not finding.ok]
    assert not broken


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_made_by_gymnasium_without_a_time_limit(env_id: str) -> None:
    env = made(env_id)
    assert isinstance(env.unwrapped, GoalEnv)
    assert env.spec.max_episode_steps is None


def test_import_is_light_and_repeatable() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(lewm_bench.envs)
    done = run_python("import sys, json, lewm_bench.envs; print(json.dumps(sorted(sys.modules)))")
    assert not {"mujoco", "torch", "dm_control", "gymnasium_robotics"} & set(json.loads(done.stdout))


def test_nothing_is_said_or_set_on_a_machine_without_a_display() -> None:
    done = run_python(
        "import os, gymnasium, lewm_bench.envs as envs\n"
        "env = gymnasium.make('lewm_bench/PointMaze-UMaze-v0'); env.reset(seed=0); print(os.environ.get('MUJOCO_GL'))"
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_pickles_with_its_state() -> None:
    env = PointMaze("Medium")
    env.reset(seed=3)
    copy = pickle.loads(pickle.dumps(env))
    for one in (env, copy):
        one.step(np.ones(2))
    assert np.array_equal(copy.get_state(), env.get_state())


# Environments that break one promise each.


class UnseededStart(PointMaze):
    def sample_state(self, rng):
        return super().sample_state(np.random.default_rng())


class IgnoresRandomness(PointMaze):
    def sample_state(self, rng):
        return super().sample_state(np.random.default_rng(0))


class RoundedState(PointMaze):
    def get_state(self):
        return super().get_state().astype(np.float32).astype(np.float64)


class SharedState(PointMaze):
    def get_state(self):
        self._shared[:] = super().get_state()
        return self._shared

    def set_state(self, state):
        self._shared = np.zeros(4)
        super().set_state(state)


class HiddenLag(PointMaze):
    """Pushes with the mean of this action and the last one, which the state does not hold."""

    _last = np.zeros(2)

    def advance(self, action):
        super().advance(0.5 * (np.clip(action, -1, 1) + self._last))
        self._last = np.clip(action, -1, 1)


class FlickeringFrame(PointMaze):
    _count = 0

    def render(self):
        self._count += 1
        frame = super().render()
        frame[0, 0] = self._count % 251
        return frame


class ShownGoal(PointMaze):
    """Draws a goal of its own, which a reset of the original moves and which is not in the state."""

    _shown = 0

    def sample_state(self, rng):
        self._shown = int(rng.integers(256))
        return super().sample_state(rng)

    def render(self):
        frame = super().render()
        frame[0, 0] = self._shown
        return frame


class OtherInstance(PointMaze):
    """What ``gymnasium.make`` gives again differs: it draws, or rolls, as it happens to."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.spec = copy.deepcopy(gym.spec("lewm_bench/PointMaze-UMaze-v0"))  # gym.spec gives the registry's own
        self.spec.kwargs.update(damped=self.again == "looks", threshold=0.45)


class LooksOtherwise(OtherInstance):
    again = "looks"

    def render(self):
        return super().render() // 2


class GoesOtherwise(OtherInstance):
    again = "goes"


class NumberAsText(PointMaze):
    def __init__(self):
        super().__init__()
        self.spec = copy.deepcopy(gym.spec("lewm_bench/PointMaze-UMaze-v0"))  # gym.spec gives the registry's own
        self.spec.kwargs["threshold"] = "4.5e-1"


class ComesToRest(PointMaze):
    """Compares speeds in a corridor where exploration ends at rest, so that doing nothing reaches every goal."""

    exploration: ClassVar = {"coast": 1.0}

    def policies(self):
        def coast(rngs):
            left = np.array([rng.integers(20, 60) for rng in rngs])

            def act(states):
                left[:] -= 1
                return np.where(left[:, None] > 0, 1.0, np.zeros((len(left), 2)))

            return act

        return {"coast": coast}

    def distance(self, states, goals):
        return np.abs(np.asarray(states)[..., 2] - np.asarray(goals)[..., 2])

    def __init__(self):
        super().__init__("#" * 42 + "\n#" + "." * 40 + "#\n" + "#" * 42, threshold=0.3)


class SolvedBefore(PointMaze):
    """Its exploration does not leave the goal's radius."""

    def policies(self):
        return {"still": lambda rngs: lambda states: np.zeros((len(rngs), 2))}

    exploration: ClassVar = {"still": 1.0}


class NoExploration(PointMaze):
    exploration: ClassVar = {}


class UnknownExploration(PointMaze):
    exploration: ClassVar = {"waypoint": 1.0}


class StaleGoal(PointMaze):
    def reset(self, *, seed=None, options=None):
        frame, info = super().reset(seed=seed, options=options)
        return frame, {**info, "goal": frame.copy()}


class InvisibleBall(PointMaze):
    def render_states(self, states):
        return super().render_states(np.zeros_like(states))


class Unclipped(PointMaze):
    def _clipped(self, actions):
        return np.asarray(actions, np.float64)

    def __init__(self):
        super().__init__()
        self._model.actuator_ctrllimited[:] = False


class ApproximateSimulate(PointMaze):
    def simulate(self, states, actions):
        return super().simulate(states, actions).astype(np.float32).astype(np.float64)


class MovingSimulate(PointMaze):
    def simulate(self, states, actions):
        out = super().simulate(states, actions)
        self.set_state(out[-1, -1])
        return out


class OtherBatchFrames(PointMaze):
    def render_states(self, states):
        return super().render_states(states[:, ::-1])

    def render(self):
        return super().render_states(self.get_state()[None])[0]


class EverythingIsSuccess(PointMaze):
    def __init__(self):
        super().__init__(threshold=100.0)


class NeverReached(PointMaze):
    def reached(self, states, goals):
        return super().reached(states, goals) & False


class WildPolicy(PointMaze):
    def policies(self):
        return {"wild": lambda rngs: lambda states: np.stack([3 * rng.standard_normal(2) for rng in rngs])}


class SharedPolicyNoise(PointMaze):
    def policies(self):
        return {"shared": lambda rngs: lambda states: rngs[0].uniform(-1, 1, (len(rngs), 2))}


class SameColor(PointMaze):
    def recolored(self, states):
        return self.render_states(states)


class StaysPut(PointMaze):
    def teleported(self, states, rngs):
        return states.copy()


class UnseededTeleport(PointMaze):
    def teleported(self, states, rngs):
        return super().teleported(states, [np.random.default_rng() for _ in rngs])


class RememberedContact(PointMaze):
    """Simulates differently the second time it is asked, as a solver does that remembers its last solution."""

    _asked = 0

    def simulate(self, states, actions):
        self._asked += 1
        out = super().simulate(states, actions)
        return out + 1e-12 * (self._asked % 2)


class NoGoalState(PointMaze):
    def reset(self, *, seed=None, options=None):
        frame, info = super().reset(seed=seed, options=options)
        del info["goal_state"]
        return frame, info


class Scribbler(PointMaze):
    def distance(self, states, goals):
        states[..., 2:] = 0  # "only the position counts"
        return super().distance(states, goals)


class NoWay(PointMaze):
    def path_length(self, states, goals):
        return np.full(np.shape(states)[:-1], np.inf)


class OneReflex(PointMaze):
    def reflex(self, frames, goals):
        return super().reflex(frames[:1], goals[:1])[0]


class PixelSpots(PointMaze):
    def spots(self, states):
        return self.image_size * super().spots(states)


class FloatFrames(PointMaze):
    def render(self):
        return super().render() / 255


class ForgetfulShift(PointMaze):
    """A changed world whose states cannot be brought back."""

    def factors(self):
        return {"tailwind": Factor("physics", "wind from behind", ("0", "1", "2", "3"), lambda env, level: Forgetful())}


class Forgetful(PointMaze):
    def lower(self, states):
        return np.zeros_like(states)


# The finding that has to catch each, and what it has to say.
BROKEN = {
    UnseededStart: ("equal seeds", "same seed and actions differ"),
    IgnoresRandomness: ("equal seeds", "two seeds give the same start"),
    RoundedState: ("state round trip", "get_state after set_state returns"),
    SharedState: ("state round trip", "fresh copy"),
    HiddenLag: ("continuing", "other states, first 1 steps later"),
    FlickeringFrame: ("continuing", "equal states give different frames"),
    ShownGoal: ("history", "something that is not in the state, such as the environment's own goal"),
    LooksOtherwise: ("history", "another instance of the environment draws"),
    GoesOtherwise: ("history", "another instance of the environment goes on differently"),
    NumberAsText: ("numbers", "threshold is the text '4.5e-1'"),
    ComesToRest: ("floors", "given away: random actions"),
    SolvedBefore: ("floors", "before anything is done"),
    NoExploration: ("policies", "must add up to 1"),
    UnknownExploration: ("policies", "exploration names 'waypoint'"),
    StaleGoal: ("goal image", "not the frame at the goal"),
    NoGoalState: ("goal image", "KeyError: 'goal_state'"),
    InvisibleBall: ("visible", "look exactly alike"),
    Unclipped: ("clipping", "must clip"),
    ApproximateSimulate: ("simulate", "differs from advance"),
    MovingSimulate: ("simulate", "leave the environment's own state"),
    OtherBatchFrames: ("render_states", "draw different frames"),
    Scribbler: ("arguments", "distance writes into what it is given"),
    EverythingIsSuccess: ("success", "most distant pair"),
    RememberedContact: ("simulate", "another order"),
    SameColor: ("perturbations", "recolored must look different"),
    StaysPut: ("perturbations", "teleported must change"),
    UnseededTeleport: ("perturbations", "must draw from the generators"),
    NoWay: ("success", "path_length must take and return what distance does"),
    OneReflex: ("success", "reflex must return None or"),
    PixelSpots: ("success", "spots must return None or"),
    NeverReached: ("success", "true at the goal itself"),
    WildPolicy: ("policies", "outside the action space"),
    SharedPolicyNoise: ("policies", "in other company"),
    FloatFrames: ("gymnasium", "observation space"),
    ForgetfulShift: ("factors", "tailwind at level 3: lower must give back"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_promise_is_found(broken: type[PointMaze], monkeypatch) -> None:
    monkeypatch.setattr("lewm_bench.data.check.SPEED_SECONDS", 0.0)  # the speed is no promise
    tried = (3,) if BROKEN[broken][0] == "factors" else ()  # changed worlds take longer than all the rest
    monkeypatch.setattr("lewm_bench.data.check.TRIED_LEVELS", tried)
    findings = {finding.name: finding for finding in check_goal_env(broken())}
    assert list(findings) == list(CHECKS)  # one failure hides no other
    name, said = BROKEN[broken]
    assert not findings[name].ok and said in findings[name].detail


def test_every_check_can_fail() -> None:
    assert {name for name, _ in BROKEN.values()} == set(CHECKS) - {"speed"}


def test_another_kind_of_environment_is_refused() -> None:
    (finding,) = check_goal_env(gym.make("CartPole-v1"))
    assert not finding.ok and "GoalEnv" in finding.detail


# Physics.


def test_damped_ball_follows_the_closed_form() -> None:
    env = PointMaze("#" * 9 + "\n#" + "." * 7 + "#\n" + "#" * 9)
    env.set_state(np.array([-3.0, 0, 0, 0]))
    speeds = []
    for _ in range(20):
        env.advance(np.array([1.0, 0]))
        speeds.append(env.get_state()[2])
    # m v' = F - d v with damping taken implicitly: each substep divides the missing speed by 1 + d h / m.
    expected = 5 / 4 * (1 - (1 + 4 * 0.02) ** (-5.0 * np.arange(1, 21)))
    np.testing.assert_allclose(speeds, expected, rtol=1e-12)
    before = env.get_state()[0]
    env.advance(np.array([1.0, 0]))
    assert env.get_state()[0] - before == pytest.approx(0.125, rel=1e-3)  # terminal, cells per step
    missing = 1.25 - np.array(speeds)
    assert -1 / np.log(missing[1] / missing[0]) == pytest.approx(2.5, rel=0.05)  # time constant, steps


def test_inertial_ball_is_the_one_of_gymnasium_robotics() -> None:
    env = PointMaze("UMaze", damped=False)  # before theirs, whose import prints
    theirs = gym.make("gymnasium_robotics:PointMaze_UMaze-v3").unwrapped
    theirs.reset(seed=0)
    for state, action in (
        ([-1.0, 1, 0, 0], [1.0, 0.05]),  # free
        ([-1.0, 1.2, 0.5, 2], [0.0, 1]),  # into a wall, away from the seams between their boxes
        ([0.0, 1, 7, -6], [0.3, 0.2]),  # faster than allowed
    ):
        env.set_state(np.array(state))
        theirs.point_env.set_state(np.array(state[:2]), np.array(state[2:]))
        for _ in range(25):
            env.advance(np.array(action))
            theirs.point_env.step(np.array(action))
            expected = np.concatenate([theirs.data.qpos, theirs.data.qvel])
            np.testing.assert_allclose(env.get_state(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("damped", [True, False])
@pytest.mark.parametrize("maze", MAZES)
def test_simulate_is_advance_to_the_last_bit_with_walls_and_threads(maze: str, damped: bool) -> None:
    env = PointMaze(maze, damped=damped)
    states, actions = starts_and_actions(env, 60, 40)
    if not damped:
        states[:, 2:] *= 40  # some faster than the limit
    before = env.get_state()
    batched = env.simulate(states, actions)
    assert np.array_equal(env.get_state(), before)
    assert np.array_equal(batched, GoalEnv.simulate(env, states, actions))
    assert np.array_equal(batched[7:8], env.simulate(states[7:8], actions[7:8]))  # alone, without threads
    gaps = np.array([clearance(env.walls, position) for position in batched[:, ::4, :2].reshape(-1, 2)])
    assert (gaps < 0.1).any() and (gaps > 0.04).all()  # walls are touched, and hold


def test_simulate_of_nothing_is_empty() -> None:
    env = PointMaze()
    assert env.simulate(np.zeros((0, 4)), np.zeros((0, 5, 2))).shape == (0, 5, 4)
    assert env.simulate(np.zeros((3, 4)), np.zeros((3, 0, 2))).shape == (3, 0, 4)


def test_inertial_speed_is_limited_before_each_step() -> None:
    env = PointMaze(damped=False)
    env.set_state(np.array([-1.0, 1, 9, 0]))
    env.advance(np.zeros(2))
    assert env.get_state()[2] < INERTIAL.max_speed
    assert np.array_equal(env.get_state(), env.simulate(np.array([[-1.0, 1, 9, 0]]), np.zeros((1, 1, 2)))[0, 0])


@pytest.mark.parametrize("maze", ["UMaze", WIDE])
def test_sliding_along_a_wall_is_not_braked_by_seams(maze: str) -> None:
    env = PointMaze(maze)
    corner = center_of(env.walls, np.array([1, 1]))
    start = np.array([[*corner, 0, 0]])
    pressed = env.simulate(start, np.full((1, 12, 2), 1.0))[0]
    free = env.simulate(start, np.tile([1.0, 0.0], (1, 12, 1)))[0]
    assert pressed[-1, 1] > corner[1] + 0.39  # it did touch
    np.testing.assert_allclose(pressed[:, 0], free[:, 0], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    env = PointMaze()
    with pytest.raises(ValueError, match="finite"):
        env.advance(np.array([bad, 0]))
    with pytest.raises(ValueError, match="finite"):
        env.simulate(np.zeros((1, 4)), np.full((1, 2, 2), bad))
    with pytest.raises(ValueError, match="finite"):
        env.set_state(np.array([0, 0, bad, 0]))


def test_sampled_states_cover_the_free_area_and_touch_nothing() -> None:
    env = PointMaze("UMaze")
    rng = stream(0, "test", "samples")
    states = np.stack([env.sample_state(rng) for _ in range(700)])
    assert min(clearance(env.walls, state[:2]) for state in states) > 0.1
    counts = np.zeros(env.walls.shape, int)
    np.add.at(counts, tuple(cell_of(env.walls, states[:, :2]).T), 1)
    assert (counts[env.walls] == 0).all() and counts[~env.walls].min() > 60  # 100 expected in each of 7 cells


# Mazes.


@pytest.mark.parametrize(
    ("maze", "message"),
    [
        ("Mediun", "did you mean 'Medium'"),
        ("", "no maze named ''"),
        ("####\n#..#\n###", "line 3 has 3 cells"),
        ("####\n#x.#\n####", "line 2: use '#' for a wall .* got 'x'"),
        ("####\n#..\n####", "line 2 has 3 cells"),
        ("#.##\n#..#\n####", "not closed"),
        ("###\n###\n###", "no free cell"),
        ("#####\n#.#.#\n#####", "not connected: line 2, cell 4"),
    ],
)
def test_a_bad_maze_is_explained_in_one_line(maze: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        PointMaze(maze)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("option", "message"), [({"renderer": "mujocco"}, "mean 'mujoco'"), ({"image_size": 4}, "16")])
def test_a_bad_option_is_explained(option: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PointMaze(**option)


def test_a_drawing_may_be_indented_and_use_spaces() -> None:
    drawn = parse_maze(
        """
        #####
        #   #
        ### #
        #...#
        #####
        """
    )
    assert np.array_equal(drawn, parse_maze("UMaze"))


def test_boxes_lie_in_walls_and_leave_no_seam() -> None:
    rng = stream(0, "test", "mazes")
    mazes = [parse_maze(maze) for maze in (*MAZES, WIDE)]
    mazes += [np.pad(rng.random((5, 7)) < 0.5, 1, constant_values=True) for _ in range(20)]
    for walls in mazes:
        boxes = wall_boxes(walls)
        assert all(walls[top:bottom, left:right].all() for top, left, bottom, right in boxes)
        for face in wall_faces(walls):
            assert any((np.array(face[:2]) >= b[:2]).all() and (np.array(face[2:]) <= b[2:]).all() for b in boxes)
    assert len(wall_boxes(mazes[0])) == 5  # four sides and the tongue


# Frames.


def ball_cover(frame: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(h, w) share of each pixel that the ball covers, from the blue channel over the floor."""
    return (background[..., 2].astype(float) - frame[..., 2]) / (FLOOR[2] - BALL[2])


def test_the_ball_has_its_size_and_moves_by_fractions_of_a_pixel() -> None:
    raster = Raster(parse_maze("UMaze"), 64)
    x = np.linspace(0, 0.1, 17) + 0.3
    frames = raster.draw(np.stack([x, np.full_like(x, 1.0)], axis=1))
    covers = np.stack([ball_cover(frame, raster.background) for frame in frames])
    np.testing.assert_allclose(covers.sum((1, 2)), np.pi * (0.2 * 16) ** 2, rtol=0.03)
    columns = (covers * (np.arange(64) + 0.5)).sum((1, 2)) / covers.sum((1, 2))
    rows = (covers * (np.arange(64)[:, None] + 0.5)).sum((1, 2)) / covers.sum((1, 2))
    np.testing.assert_allclose(columns, 32 + 16 * x, atol=0.03)
    np.testing.assert_allclose(rows, 32 - 16 * 1.0, atol=0.03)  # up is up
    assert all((a != b).any() for a, b in zip(frames[1:], frames[:-1], strict=True))


@pytest.mark.parametrize("size", [16, 64, 96, 224])
@pytest.mark.parametrize("maze", [*MAZES, WIDE])
def test_the_background_shows_each_cell_in_its_place(maze: str, size: int) -> None:
    walls = parse_maze(maze)
    background = Raster(walls, size).background
    scale = size / (max(walls.shape) - 1)
    cells = np.argwhere(~walls)
    row = size / 2 + (cells[:, 0] + 0.5 - walls.shape[0] / 2) * scale
    column = size / 2 + (cells[:, 1] + 0.5 - walls.shape[1] / 2) * scale
    if scale > 3:
        assert (background[row.astype(int), column.astype(int)] == FLOOR).all()
    share = (background[..., 0].astype(float) - WALL[0]).sum() / (FLOOR[0] - WALL[0])
    assert share == pytest.approx((~walls).sum() * scale**2, rel=0.01)


def test_a_wide_maze_is_centred_between_bars_of_wall() -> None:
    background = Raster(parse_maze(WIDE), 70).background
    assert (background[:20] == WALL).all() and (background[-20:] == WALL).all()
    assert (background[25] == FLOOR).all(-1).any()


@pytest.mark.parametrize("maze", MAZES)
def test_the_ball_stays_visible_in_64_pixels(maze: str) -> None:
    raster = Raster(parse_maze(maze), 64)
    center = center_of(parse_maze(maze), np.argwhere(~parse_maze(maze))[:1])
    frame = raster.draw(center)[0]
    assert (np.abs(frame.astype(int) - BALL).max(-1) < 30).sum() >= 4
    assert (frame != raster.background).any(-1).sum() >= 12


def test_a_ball_at_or_beyond_the_edge_is_cut_off_there() -> None:
    raster = Raster(parse_maze("UMaze"), 64)
    edge, outside = raster.draw(np.array([[2.0, 0.0], [2.5, 0.0]]))
    assert 0 < (edge != raster.background).any(-1).sum() < 40
    assert np.array_equal(outside, raster.background)
    assert raster.draw(np.zeros((0, 2))).shape == (0, 64, 64, 3)


def test_frames_do_not_depend_on_the_batch() -> None:
    env = PointMaze("Medium")
    rng = stream(0, "test", "batch")
    states = np.stack([env.sample_state(rng) for _ in range(300)])
    frames = env.render_states(states)
    for n in (0, 127, 128, 299):
        env.set_state(states[n])
        assert np.array_equal(env.render(), frames[n])


def test_a_recolored_ball_is_green_and_nothing_else_changes() -> None:
    env = PointMaze()
    rng = stream(0, "test", "recolored")
    states = np.stack([env.sample_state(rng) for _ in range(20)])
    red, green = env.render_states(states), env.recolored(states)
    background = Raster(env.walls, 64).background
    ball = (red != background).any(-1)
    assert np.array_equal((green != red).any(-1), ball), "neither walls nor floor change"
    assert (green == RECOLORED_BALL).all(-1).sum() == (red == BALL).all(-1).sum() > 0
    assert np.array_equal(env.render_states(states), red)


def test_a_teleported_ball_keeps_its_velocity_and_draws_by_each_generator() -> None:
    env = PointMaze()
    rng = stream(0, "test", "teleported")
    states = np.stack([[*env.sample_state(rng)[:2], *rng.normal(0, 2, 2)] for _ in range(6)])
    moved = env.teleported(states, [stream(0, "t", n) for n in range(6)])
    assert np.array_equal(moved[:, 2:], states[:, 2:]) and (env.distance(moved, states) > 1e-3).all()
    assert all(clearance(env.walls, place) > 0.1 for place in moved[:, :2])
    assert np.array_equal(env.teleported(states[4:5], [stream(0, "t", 4)])[0], moved[4])


def test_mujoco_draws_the_same_view() -> None:
    done = run_python(
        "import numpy as np\n"
        "from lewm_bench.core.errors import NotRun\n"
        "from lewm_bench.envs.pointmaze import PointMaze\n"
        "mazes = ('UMaze', 'Medium', 'Large')\n"
        "try:\n"
        "    gone, *cameras = [PointMaze(maze, renderer='mujoco') for maze in ('UMaze', *mazes)]\n"
        "    gone.render()\n"
        "except NotRun:\n"
        "    raise SystemExit('no OpenGL')\n"
        "del gone  # must not take the buffers of the others with it\n"
        "for maze, camera in zip(mazes, cameras):\n"
        "    frames = [env.reset(seed=1)[0].astype(int) for env in (PointMaze(maze), camera)]\n"
        "    assert np.abs(frames[0] - frames[1]).mean() < 2.5, (maze, np.abs(frames[0] - frames[1]).mean())\n"
        "    red = [(frame[..., 0] - frame[..., 2]).clip(60) - 60 for frame in frames]\n"
        "    where = [np.array([(r * axis).sum() / r.sum() for axis in np.indices(r.shape)]) for r in red]\n"
        "    assert np.abs(where[0] - where[1]).max() < 0.3, (maze, where)\n"
        "    state = camera.get_state()[None]\n"
        "    red, green = camera.render_states(state)[0].astype(int), camera.recolored(state)[0].astype(int)\n"
        "    assert np.array_equal(camera.render_states(state)[0], red)\n"
        "    changed = (green != red).any(-1)\n"
        "    assert 0 < changed.mean() < 0.03 and (green - red)[changed].mean(0).argmax() == 1, maze\n"
        "cameras[0].close(); cameras[0].close()\n",
        MUJOCO_GL="egl",
    )
    if done.stderr == "no OpenGL\n":
        pytest.skip("no OpenGL here")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_opengl_the_error_says_what_to_do() -> None:
    done = run_python(
        "from lewm_bench.core.errors import NotRun\n"
        "from lewm_bench.envs.pointmaze import PointMaze\n"
        "try:\n"
        "    PointMaze(renderer='mujoco').render()\n"
        "except NotRun as error:\n"
        "    print(error)\n",
        MUJOCO_GL="disabled",
    )
    assert "MUJOCO_GL=disabled" in done.stdout and "egl" in done.stdout and done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore:.*DISPLAY environment variable is missing")
@pytest.mark.parametrize("maze", ["UMaze", "Medium"])
def test_the_physics_is_that_of_dm_control(maze: str) -> None:
    """dm_control reads our model (its own parser is strict about the schema) and steps it with its own loop."""
    mjcf = pytest.importorskip("dm_control.mjcf", reason="dm-control is not available for this Python")
    env = PointMaze(maze=maze)
    physics = mjcf.Physics.from_mjcf_model(mjcf.from_xml_string(physics_xml(env.walls, DAMPED)))
    rng = np.random.default_rng(0)
    state, actions = env.sample_state(rng), rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = state[:2], state[2:]
    theirs = []
    for action in actions:
        physics.data.ctrl[:] = action
        physics.step(DAMPED.substeps)
        theirs.append(np.concatenate([physics.data.qpos, physics.data.qvel]))
    np.testing.assert_allclose(env.simulate(state[None], actions[None])[0], theirs, rtol=0, atol=1e-10)
