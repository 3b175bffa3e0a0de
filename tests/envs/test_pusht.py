"""PushT against gym-pusht, stepped and drawn side by side, and against geometry by shapely."""

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pytest

with contextlib.redirect_stdout(io.StringIO()):  # pygame greets
    theirs = pytest.importorskip("gym_pusht.envs.pusht", reason="PushT is the extra 'pusht'")

import cv2
import pygame
from shapely.geometry import Point, Polygon
from shapely.ops import unary_union

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.check import check_goal_env
from lewm_bench.envs import pusht
from lewm_bench.envs.parts.pusht_block import OUTLINES, TEE, Block, rotated
from lewm_bench.envs.parts.pusht_policies import AGENT_HIGH, AGENT_LOW, pushing_expert
from lewm_bench.envs.pusht import PushT

corners, gap, MIDDLE, INERTIA = TEE.corners, TEE.gap, TEE.middle, TEE.inertia
CHANGED = [{"size": 0.85}, {"size": 1.3}, {"shape": "L"}, {"shape": "cross"}, {"shape": "square", "size": 1.2}]


@pytest.fixture(scope="module")
def env() -> PushT:
    return PushT()


def sampled(env: PushT, count: int) -> np.ndarray:
    rng = stream(0, "test", "pusht")
    return np.stack([env.sample_state(rng) for _ in range(count)])


def at_rest(*numbers: float) -> np.ndarray:
    return np.array([*numbers, 0, 0, 0, 0, 0], np.float64)


def rolled(env: PushT, policy: str, episodes: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, T + 1, X) states and (N, T, 2) actions of a policy."""
    act = env.policies()[policy]([stream(0, "test", policy, n) for n in range(episodes)])
    states, actions = [sampled(env, episodes)], []
    for _ in range(steps):
        actions.append(act(states[-1]))
        states.append(env.simulate(states[-1], actions[-1][:, None])[:, 0])
    return np.stack(states, 1), np.stack(actions, 1).astype(np.float64)


def theirs_at(state: np.ndarray):
    """gym-pusht's own environment in our state, without the physics step of its own reset."""
    other = theirs.PushTEnv()
    other._setup()
    other.agent.position, other.agent.velocity = tuple(state[:2]), tuple(state[5:7])
    other.block.angle = state[4]
    other.block.position = tuple(state[2:4])
    for body in (other.agent, other.block):
        other.space.reindex_shapes_for_body(body)
    return other


def theirs_stepped(state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 7) published states of gym-pusht, whose action is the absolute target, and (T,) contact points."""
    other, states, touches = theirs_at(state), [], []
    for action in actions:
        other.step(np.array(other.agent.position) + 100 * action)
        agent, block = other.agent, other.block
        states.append([*agent.position, *block.position, block.angle % (2 * np.pi), *agent.velocity])
        touches.append(other.n_contact_points)
    return np.array(states), np.array(touches)


def beyond_walls(poses: np.ndarray) -> np.ndarray:
    """(..., 3) poses to (...) px of the block beyond the faces of the walls, which are at 7 and 504."""
    points = corners(poses)
    return np.maximum(7 - points.min((-1, -2)), points.max((-1, -2)) - 504)


# The physics is gym-pusht's.


def test_contact_free_motion_is_theirs_to_the_last_bit(env: PushT) -> None:
    rng = stream(0, "test", "free")
    for _ in range(20):
        state = at_rest(*rng.uniform(100, 140, 2), 380, 330, rng.uniform(0, 2 * np.pi))
        actions = rng.uniform(-0.3, 0.3, (12, 2))
        expected, touches = theirs_stepped(state, actions)
        assert not touches.any() and expected[:, :2].min() > AGENT_LOW
        assert np.array_equal(env.simulate(state[None], actions[None])[0, :, :7], expected)


def test_pushing_is_theirs(env: PushT) -> None:
    """Without friction and with one contact the solver is exact, warm start or not: only rounding differs.

    Bounds: 1e-9 px is a thousand roundings of 512 px, over 35 steps. Two contacts at once, in the corner between bar
    and stem, are solved by iteration from another start; there agent and block agree to half a pixel.
    """
    worst = {}
    for policy in ("pushing_expert", "block_biased"):
        states, actions = rolled(env, policy, 40, 35)
        worst[policy] = []
        for ours, acted in zip(states, actions, strict=True):
            in_the_open = (beyond_walls(ours[:, 2:5]) < -5) & (np.abs(ours[:, :2] - 255.5) < 230).all(-1)
            last = len(in_the_open) if in_the_open.all() else in_the_open.argmin()
            if last < 2:
                continue
            expected, touches = theirs_stepped(ours[0], acted[: last - 1])
            if touches.any() and np.abs(ours[last - 1, 2:4] - ours[0, 2:4]).max() > 5:
                error = np.abs(ours[1:last, :7] - expected)
                error[:, 4] = np.minimum(error[:, 4], 2 * np.pi - error[:, 4])
                worst[policy].append(error.max())
    assert min(len(errors) for errors in worst.values()) >= 15
    assert max(worst["pushing_expert"]) < 1e-9
    assert max(worst["block_biased"]) < 0.5 and np.median(worst["block_biased"]) < 1e-9


def test_block_constants_are_theirs() -> None:
    other = theirs_at(at_rest(100, 100, 250, 260, 0.7))
    block = other.block  # whose shapes live as long as their environment
    np.testing.assert_allclose(tuple(block.center_of_gravity), MIDDLE)
    assert block.moment == pytest.approx(INERTIA) and block.mass == 1
    ours = {tuple(point.round(6)) for point in corners(np.array([250, 260, 0.7]))}
    parts = [[block.local_to_world(v) for v in shape.get_vertices()] for shape in block.shapes]
    assert ours == {(round(x, 6), round(y, 6)) for part in parts for x, y in part}


# The state is everything.


def test_the_future_depends_on_the_state_alone(env: PushT) -> None:
    states, actions = rolled(env, "block_biased", 40, 60)
    pressed = (beyond_walls(states[:, 30, 2:5]) > -1).sum()
    touched = (gap(states[:, 30, :2], states[:, 30, 2:5]) < 15).sum()
    assert pressed >= 5 and touched >= 5  # else this tests little
    fresh = PushT()
    assert np.array_equal(fresh.simulate(states[:, 30], actions[:, 30:]), states[:, 31:])
    order = np.arange(40)[::-1]
    assert np.array_equal(env.simulate(states[order, 45], actions[order, 45:]), states[order, 46:])
    assert np.array_equal(GoalEnv.simulate(env, states[:8, 50], actions[:8, 50:]), states[:8, 51:])


def test_a_shortcut_changes_nothing(env: PushT, monkeypatch: pytest.MonkeyPatch) -> None:
    states, actions = rolled(env, "ornstein_uhlenbeck", 60, 30)
    skipped = []
    real = pusht._out_of_reach
    monkeypatch.setattr(pusht, "_out_of_reach", lambda *args: skipped.append(real(*args)) or False)
    assert np.array_equal(env.simulate(states[:, 0], actions), states[:, 1:])
    assert 0.2 < np.mean(skipped) < 0.9


def test_a_block_that_nothing_touches_keeps_its_pose(env: PushT) -> None:
    # Out of the agent's way, but so near that the physics is run.
    state = at_rest(200, 340, 256, 256, 1.234)
    after = env.simulate(state[None], np.zeros((1, 50, 2)))[0]
    assert not pusht._out_of_reach(TEE, state.tolist(), [0, 0])
    assert np.array_equal(after[:, 2:5], np.tile(state[2:5], (50, 1))) and not after[:, 7:].any()


def test_pickles_with_its_state() -> None:
    env = PushT(target="none")
    env.reset(seed=3)
    copy = pickle.loads(pickle.dumps(env))
    frames = [one.step(np.ones(2))[0] for one in (env, copy)]
    assert np.array_equal(copy.get_state(), env.get_state()) and np.array_equal(*frames)


def test_simulate_of_nothing_is_empty(env: PushT) -> None:
    assert env.simulate(np.zeros((0, 10)), np.zeros((0, 5, 2))).shape == (0, 5, 10)
    assert env.simulate(np.zeros((3, 10)), np.zeros((3, 0, 2))).shape == (3, 0, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(env: PushT, bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        env.advance(np.array([bad, 0]))
    with pytest.raises(ValueError, match="finite"):
        env.set_state(np.full(10, bad))


# Walls.


def test_the_agent_stays_inside_and_returns_at_once(env: PushT) -> None:
    directions = np.array([(1, 0.3), (-1, 1), (0.2, -1), (-1, -1)], np.float64)
    starts = np.tile(at_rest(60, 400, 300, 200, 0), (4, 1))
    starts[:, 5:7] = 900 * directions
    out = env.simulate(starts, np.repeat(directions[:, None], 30, 1))
    assert out[..., :2].min() > AGENT_LOW - 1e-9 and out[..., :2].max() < AGENT_HIGH + 1e-9
    assert out[2, -1, 1] == pytest.approx(AGENT_LOW) and abs(out[2, -1, 6]) < 1e-9
    away = env.simulate(out[2:3, -1], np.array([[[0.0, 1]]]))[0, 0]
    assert away[1] - AGENT_LOW == pytest.approx(
        theirs_stepped(at_rest(60, 100, 300, 200, 0), np.array([[0.0, 1]]))[0][0, 1] - 100
    )


def test_an_agent_set_beyond_a_wall_goes_no_further(env: PushT) -> None:
    states = at_rest(10, 256, 400, 100, 0)
    out = env.simulate(np.stack([states] * 2), np.array([[[-1.0, 0]] * 10, [[1.0, 0]] * 10]))
    assert (out[0, :, 0] == 10).all() and out[1, -1, 0] > 100


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, np.pi, 4.0])
def test_a_block_pressed_at_a_wall_stays_in_the_scene(env: PushT, angle: float) -> None:
    for offset in (-40, -10, 0, 30):
        state = at_rest(250, 256 + offset, 380, 256, angle)
        if gap(state[:2], state[2:5]) < 20:
            state[0] -= 80
        out = env.simulate(state[None], np.tile([1.0, 0.0], (1, 60, 1)))[0]
        assert beyond_walls(out[:, 2:5]).max() < 15


def test_data_keeps_the_block_between_the_walls(env: PushT) -> None:
    states, _ = rolled(env, "block_biased", 60, 100)
    depth = beyond_walls(states[..., 2:5])
    assert (depth > -1).mean() > 0.1  # it is at a wall often
    assert depth.max() < 30 and (depth > 10).mean() < 0.01
    assert (gap(states[..., :2], states[..., 2:5]) < 0).mean() < 0.005  # the agent's centre inside the block


# Frames.


def test_the_scene_is_theirs_to_the_last_pixel(env: PushT) -> None:
    states = sampled(env, 30)
    states[20:, 2:4] = np.linspace(8, 500, 10)[:, None]  # walls are drawn over the block
    states[25:, :2] = states[25:, 2:4] + (10, 40)  # the agent over the block
    scene, sizes = PushT(image_size=512), (16, 64, 96, 100, 224, 600)
    small = {size: PushT(image_size=size).render_states(states) for size in sizes}
    for n, frame in enumerate(scene.render_states(states)):
        surface = theirs_at(states[n])._draw()
        assert np.array_equal(frame, pygame.surfarray.array3d(surface).swapaxes(0, 1))
        for size in sizes:
            way = cv2.INTER_AREA if size < 512 else cv2.INTER_LINEAR
            expected = cv2.resize(frame, (size, size), interpolation=way)
            # Parts shrunk apart may be rounded differently, but are not seen to be.
            assert np.abs(small[size][n].astype(int) - expected).max() <= 1


def test_no_target_and_another_colour_change_nothing_else(env: PushT) -> None:
    states = sampled(env, 20)
    fixed, bare, recolored = (
        env.render_states(states),
        PushT(target="none").render_states(states),
        env.recolored(states),
    )
    target = unary_union([Polygon(part) for part in corners(np.array([256, 256, np.pi / 4])).reshape(2, 4, 2)])
    x, y = np.meshgrid(np.arange(64) * 8 + 4, np.arange(64) * 8 + 4)
    centers = np.stack([x, y], -1).reshape(-1, 2)
    near_target = np.array([target.distance(Point(p)) < 7 for p in centers]).reshape(64, 64)
    for n, state in enumerate(states):
        assert not (fixed[n] != bare[n]).any(-1)[~near_target].any()
        gaps = gap(centers.astype(float), state[2:5]).reshape(64, 64)
        changed = (fixed[n] != recolored[n]).any(-1)
        assert changed[gaps < -6].all() and not changed[gaps > 9].any()
    assert (fixed != bare).any()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_size": 4}, "16"),
        ({"target": "fix"}, "mean 'fixed'"),
        ({"render_mode": "x"}, "mode"),
        ({"shape": "Cross"}, "mean 'cross'"),
        ({"size": 2.0}, "<= 1.5, got 2.0"),
    ],
)
def test_a_bad_option_is_explained(option: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PushT(**option)


# Success, samples, quantities.


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ([0, 0, 0, 0, 0], True),
        ([12, 0, 0, 15.9, 0], True),
        ([12, 0, 0, 16.1, 0], False),  # 20.1 px in four numbers
        ([0, 0, 0, 0, np.pi / 9 - 1e-3], True),
        ([0, 0, 0, 0, -np.pi / 9 - 1e-3], False),
        ([0, 0, 0, 0, 2 * np.pi - 0.3], True),
    ],
)
def test_success_asks_both_positions_and_the_angle(env: PushT, change: list[float], reached: bool) -> None:
    goal = np.array([100, 100, 300, 300, 0.1, 0, 0, 0, 0, 0], np.float64)
    assert env.reached(goal + np.array([*change, 99, 9, 9, 9, 9]), goal) == reached


def test_samples_touch_nothing_and_leave_room_all_round(env: PushT) -> None:
    states = sampled(env, 300)
    for agent, pose in zip(states[:, :2], states[:, 2:5], strict=True):
        tee = unary_union([Polygon(part) for part in corners(pose).reshape(2, 4, 2)])
        assert tee.distance(Point(agent)) == pytest.approx(max(gap(agent, pose), 0), abs=1e-9)
        assert tee.distance(Point(agent)) > 15 and tee.bounds[0] > 37 and tee.bounds[3] < 474
    assert not states[:, 5:].any()
    assert np.histogram(states[:, 4], 6, (0, 2 * np.pi))[0].min() > 30  # 50 expected
    assert np.histogram2d(*states[:, :2].T, 3, [[22, 489]] * 2)[0].min() > 15  # 33 expected


def test_teleported_states_are_elsewhere_and_each_by_its_own_generator(env: PushT) -> None:
    states = sampled(env, 30)
    moved = env.teleported(states, [stream(0, "t", n) for n in range(30)])
    assert np.linalg.norm((moved - states)[:, :4].reshape(-1, 2, 2), axis=-1).min() > 60
    assert (gap(moved[:, :2], moved[:, 2:5]) > 15).all() and not moved[:, 5:].any()
    assert np.array_equal(env.teleported(states[7:8], [stream(0, "t", 7)])[0], moved[7])


def test_quantities_are_read_off_the_state(env: PushT) -> None:
    named = env.quantities(np.arange(20, dtype=np.float64).reshape(2, 10))
    assert {name: values.shape for name, values in named.items()} == dict.fromkeys(
        ("agent_position", "agent_velocity", "block_position", "block_angle"), (2, 2)
    )
    assert named["agent_velocity"][1].tolist() == [15, 16]
    np.testing.assert_allclose(named["block_angle"][1], [np.cos(14), np.sin(14)])


# Other blocks.


def shape_of(block: Block, pose: np.ndarray) -> Polygon:
    """One polygon: its parts are grown by more than rounding, so that they touch."""
    return unary_union(
        [Polygon(part).buffer(1e-7, join_style="mitre") for part in block.corners(pose).reshape(-1, 4, 2)]
    )


@pytest.mark.parametrize("size", [0.85, 1.3])
def test_another_size_is_what_gym_pusht_makes_of_it(size: float) -> None:
    body, parts = theirs.PushTEnv.add_tee(theirs.pymunk.Space(), (250, 260), 0, scale=30 * size)
    block = Block("T", size)
    np.testing.assert_allclose(tuple(body.center_of_gravity), block.middle)
    assert body.moment == pytest.approx(block.inertia) and block.inertia == pytest.approx(INERTIA * size**2)
    points = {(round(x, 6), round(y, 6)) for part in parts for x, y in map(body.local_to_world, part.get_vertices())}
    assert {tuple(point.round(6)) for point in block.corners(np.array([250, 260, 0]))} == points


@pytest.mark.parametrize("shape", OUTLINES)
def test_a_shape_lies_in_its_circle_and_is_pushed_from_outside(shape: str) -> None:
    block, pose = Block(shape, 1.2), np.array([200.0, 220, 0.7])
    outline = shape_of(block, pose)
    center = pose[:2] + rotated(block.center, pose[2])
    far = max(np.hypot(*(np.array(point) - center)) for point in outline.exterior.coords)
    assert block.reach - 0.3 < far < block.reach
    grid = stream(0, "test", "grid").uniform(60, 360, (300, 2))
    outside = np.array([outline.distance(Point(point)) for point in grid])
    np.testing.assert_allclose(np.maximum(block.gap(grid, pose), 0), outside, atol=1e-6)
    world = pose[:2] + rotated(block.points, pose[2]), rotated(block.pushes, pose[2])
    assert len(block.points) >= 9
    for point, push in zip(*world, strict=True):
        assert outline.exterior.distance(Point(point)) < 1e-6 and outline.contains(Point(point + push))
        assert outline.distance(Point(point - 25 * push)) > 15
    assert (block.levers > 1).any() and (block.levers < -1).any()  # it can be turned either way


@pytest.mark.parametrize("changes", CHANGED, ids=str)
def test_another_block_is_pushed_and_seen_where_it_is(changes: dict) -> None:
    env = PushT(target="none", **changes)
    states, actions = rolled(env, "pushing_expert", 12, 40)
    assert np.array_equal(PushT(**changes).simulate(states[:3, 20], actions[:3, 20:]), states[:3, 21:])
    assert (env.block.gap(states[..., :2], states[..., 2:5]) > 12).mean() > 0.99
    assert (np.abs(states[:, -1, 2:4] - states[:, 0, 2:4]).max(1) > 10).mean() > 0.3
    x, y = np.meshgrid(np.arange(64) * 8.0 + 4, np.arange(64) * 8.0 + 4)
    last = states[:, -1]
    for state, frame, other in zip(last, env.render_states(last), env.recolored(last), strict=True):
        gaps = env.block.gap(np.stack([x, y], -1), state[2:5])
        changed = (frame != other).any(-1)
        free = np.hypot(x - state[0], y - state[1]) > 22  # of the agent, which is drawn above
        assert changed[(gaps < -6) & free].all() and not changed[gaps > 9].any()


@pytest.mark.parametrize("changes", CHANGED, ids=str)
def test_starts_of_another_block_are_possible_and_overlaps_are_not(changes: dict) -> None:
    env, states = PushT(**changes), sampled(PushT(), 100)
    own = sampled(env, 30)
    assert env.possible(own).all() and env.possible(own[None]).shape == (1, 30)
    overlaps = [shape_of(env.block, state[2:5]).distance(Point(state[:2])) <= 7.5 for state in states]
    bounds = np.array([shape_of(env.block, state[2:5]).bounds for state in states])
    assert np.array_equal(env.possible(states), ~np.array(overlaps) & (bounds.min(1) >= 5) & (bounds.max(1) <= 506))
    assert not env.possible(np.array([at_rest(100, 100, 300, 300 - 20, 0), at_rest(300, 300, 300, 300, 0)])).all()
    assert PushT().possible(at_rest(300, 310, 300, 300, 0))  # nothing is left out where it was trained


# Policies.


def test_the_expert_brings_the_block_to_its_goal() -> None:
    env = PushT()
    pose = np.array([200, 210, 4.0])
    target = at_rest(0, 0, *pose)
    middle = pose[:2] + rotated(MIDDLE, pose[2])

    act = pushing_expert(TEE, lambda rng: target)([stream(0, "expert", n) for n in range(40)])
    states, best = sampled(env, 40), np.full(40, np.inf)
    for _ in range(200):
        states = env.simulate(states, act(states)[:, None])[:, 0]
        off = np.linalg.norm(states[:, 2:4] + rotated(MIDDLE, states[:, 4]) - middle, axis=-1)
        turn = np.abs((states[:, 4] - pose[2] + np.pi) % (2 * np.pi) - np.pi)
        best = np.minimum(best, np.maximum(off / 20, turn / (np.pi / 9)))
    assert (best < 1).mean() > 0.8


def test_policies_move_the_block_and_do_not_get_stuck(env: PushT) -> None:
    expert, biased = (rolled(env, policy, 40, 100)[0] for policy in ("pushing_expert", "block_biased"))
    shift = {}
    for name, states in (("expert", expert), ("biased", biased)):
        middle = states[..., 2:4] + rotated(MIDDLE, states[..., 4])
        shift[name] = np.median(np.linalg.norm(middle[:, 25:] - middle[:, :-25], axis=-1))
        still = (np.abs(states[:, 25:, :2] - states[:, :-25, :2]).max(-1) < 5).mean()
        assert still < 0.03
    assert shift["expert"] > 40 and shift["biased"] > 30
    assert (beyond_walls(expert[..., 2:5]) > 0).mean() < 0.1
    away = np.abs(biased[:, 20:, :2] - biased[:, 20:, 2:4] - rotated(MIDDLE, biased[:, 20:, 4]))
    assert (away < 120).all(-1).mean() > 0.97


def test_every_promise_is_kept_without_a_target_at_another_size() -> None:
    assert not [finding for finding in check_goal_env(PushT(image_size=96, target="none")) if not finding.ok]
