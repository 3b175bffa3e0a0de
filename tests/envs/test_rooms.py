"""TwoRoom and Wall: no agent passes a wall, sliding is exact, legacy is the originals' rule, frames are their formula."""

from __future__ import annotations

import dataclasses
import pickle

import gymnasium as gym
import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.check import check_goal_env
from lewm_bench.envs import tworoom, wall
from lewm_bench.envs.parts.rooms import GAP, Rooms, RoomsEnv, Slide, through_door
from lewm_bench.envs.tworoom import TwoRoom
from lewm_bench.envs.wall import Wall

KINDS = (TwoRoom, Wall)
NARROW = dataclasses.replace(tworoom.ROOMS, door_half=6.9)  # narrower than the disk
TWO_DOORS = dataclasses.replace(tworoom.ROOMS, second_door=90.0)
ALL_ROOMS = (tworoom.ROOMS, wall.ROOMS, NARROW, TWO_DOORS)


def obstacles(rooms: Rooms, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points to (N,) distance to the nearest wall or border, and (N, 2) unit vectors away from it."""
    left, right = rooms.wall - rooms.wall_half, rooms.wall + rooms.wall_half
    across = points[:, 0] - np.clip(points[:, 0], left, right)
    y, first, last = points[:, 1], rooms.door, rooms.second_door or rooms.door  # in this order
    upper = np.stack([across, np.maximum(y - first + rooms.door_half, 0)], 1)
    lower = np.stack([across, np.minimum(y - last - rooms.door_half, 0)], 1)
    between = np.stack([across, y - np.clip(y, first + rooms.door_half, last - rooms.door_half)], 1)
    none = np.zeros(len(points))
    ways = np.stack(
        [
            upper,
            lower,
            between if last > first else lower,
            np.stack([points[:, 0] - rooms.low, none], 1),
            np.stack([points[:, 0] - rooms.high, none], 1),
            np.stack([none, points[:, 1] - rooms.low], 1),
            np.stack([none, points[:, 1] - rooms.high], 1),
        ]
    )
    distances = np.linalg.norm(ways, axis=-1)
    which = distances.argmin(0)
    rows = np.arange(len(points))
    outside = ((points < rooms.low) | (points > rooms.high)).any(-1)
    nearest = distances[which, rows]
    return np.where(outside, -1.0, nearest), ways[which, rows] / np.maximum(nearest, 1e-9)[:, None]


def crowd(rooms: Rooms, count: int, purpose: str) -> np.ndarray:
    """(count, 2) valid positions, most of them within a step of the door's edges or of the wall beside them."""
    rng = stream(0, "test", purpose)
    reach = 2 * rooms.speed + rooms.wall_half + rooms.radius
    near = rng.uniform(-reach, reach, (20 * count, 2)) + np.array([rooms.wall, rooms.door])
    distance, _ = obstacles(rooms, near)
    near = near[(distance > rooms.radius + 1.1 * GAP) & (distance < rooms.radius + rooms.speed)]
    sampled = [rooms.sample(rng) for _ in range(count)]
    return np.concatenate([near[: 2 * count // 3], sampled])[:count]


# The contract; tests/envs/test_envs.py holds what is registered to it with default arguments.


@pytest.mark.parametrize("kind", KINDS)
def test_legacy_keeps_every_promise(kind: type[RoomsEnv]) -> None:
    env = gym.make(f"lewm_bench/{kind.__name__}-v0", legacy=True, image_size=32)
    assert not [finding for finding in check_goal_env(env) if not finding.ok]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_simulate_is_advance_and_rows_are_independent(kind: type[RoomsEnv], legacy: bool) -> None:
    env = kind(16, legacy)
    states = crowd(env.rooms, 60, "rows")
    actions = np.repeat(stream(0, "test", "rows").uniform(-1.5, 1.5, (60, 8, 2)), 4, axis=1)
    batched = env.simulate(states, actions)
    assert np.array_equal(batched, GoalEnv.simulate(env, states, actions))
    assert np.array_equal(batched[7:9], env.simulate(states[7:9], actions[7:9]))
    assert env.simulate(states[:0], actions[:0]).shape == (0, 32, 2)
    assert np.array_equal(pickle.loads(pickle.dumps(env)).simulate(states, actions), batched)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_arguments_are_explained(kind: type[RoomsEnv]) -> None:
    with pytest.raises(UserError, match="at least 16, got 4"):
        kind(image_size=4)
    with pytest.raises(UserError, match="rgb_array"):
        kind(render_mode="human")
    env = kind()
    with pytest.raises(ValueError, match="two finite numbers"):
        env.set_state(np.array([np.nan, 1.0]))
    with pytest.raises(ValueError, match="two finite numbers"):
        env.set_state(np.zeros(3))
    with pytest.raises(ValueError, match="not a finite number"):
        env.advance(np.array([np.inf, 0.0]))


# Collision.


@pytest.mark.parametrize("rooms", ALL_ROOMS)
def test_no_walk_enters_a_wall_or_passes_beside_the_door(rooms: Rooms) -> None:
    slide, rng = Slide(rooms), stream(0, "test", "walk")
    at = crowd(rooms, 3000, "walk")
    moves = np.zeros_like(at)
    crossed = touched = 0
    for t in range(60):
        turning = rng.random(len(at)) < 0.2 if t else np.full(len(at), True)  # else it presses on
        moves[turning] = rooms.speed * rng.uniform(-1.5, 1.5, (turning.sum(), 2)).clip(-1, 1)
        after = slide(at, moves)
        distance, _ = obstacles(rooms, after)
        assert distance.min() > rooms.radius  # never closer, not even by rounding
        assert (np.linalg.norm(after - at, axis=-1) <= np.linalg.norm(moves, axis=-1) + 1e-9).all()
        through = (at[:, 0] < rooms.wall) != (after[:, 0] < rooms.wall)
        beside = np.min([np.abs(after[through, 1] - door) for door in rooms.doors], axis=0)
        assert (beside < rooms.door_half - rooms.radius).all()
        crossed, touched, at = crossed + through.sum(), touched + (distance < rooms.radius + 2 * GAP).sum(), after
    assert touched > 10_000
    assert crossed == 0 if rooms is NARROW else crossed > 500


@pytest.mark.parametrize("rooms", ALL_ROOMS)
def test_a_step_is_the_limit_of_many_small_ones(rooms: Rooms) -> None:
    """Marching: small straight pieces, each turned along what it would run into."""
    begin = crowd(rooms, 400, "march")
    moves = rooms.speed * stream(0, "test", "moves").uniform(-1, 1, begin.shape)
    pieces, at, left = 3000, begin.copy(), moves.copy()
    for _ in range(pieces):
        distance, away = obstacles(rooms, at + left / pieces)
        into = (left * away).sum(-1)
        left = left - np.where((distance < rooms.radius + GAP) & (into < 0), into, 0)[:, None] * away
        at = at + left / pieces
    stopped = np.abs(at - begin - moves).max(-1) > 0.01
    assert stopped.sum() > 50
    # Where a door is too narrow marching rattles in the notch between its two edges.
    tolerance = 0.02 if rooms is NARROW else 3 * rooms.speed / pieces
    assert np.abs(Slide(rooms)(begin, moves) - at).max() < tolerance


def test_closed_forms_of_touching_sliding_and_stopping() -> None:
    env = TwoRoom()
    reach = 7 + GAP
    for start, action, expected in (
        ((60, 60), (0.5, -1), (62.5, 55)),  # free
        ((98, 120), (1, 0.4), (107 - reach, 122)),  # along the wall
        ((126, 120), (-1, -1), (117 + reach, 115)),
        ((22, 22), (-1, -1), (14 + reach, 14 + reach)),  # into a corner
        ((112, 54), (0.2, 1), (113, 63 - reach)),  # inside the door
        ((112, 44), (-0.2, -1), (111, 35 + reach)),
        ((97, 49), (1, 0), (102, 49)),  # through the door, without touching it
        ((97, 63), (1, 0), (107 - reach, 63)),  # the flat face reaches as far as the edge
    ):
        env.set_state(np.array(start, float))
        env.advance(np.array(action))
        np.testing.assert_allclose(env.get_state(), expected, rtol=0, atol=1e-6)
        env.advance(np.zeros(2))
        np.testing.assert_allclose(env.get_state(), expected, rtol=0, atol=1e-6)
    # The edge at (107, 63) is met head-on: contact where the distance is the reach, and nothing is left to slide.
    env.set_state(np.array([107 - 6.0, 63 - 6.0]))
    env.advance(np.array([1.0, 1.0]))
    np.testing.assert_allclose(env.get_state(), np.array([107.0, 63.0]) - reach / np.sqrt(2), atol=1e-9)


def test_the_world_is_symmetric_about_the_wall() -> None:
    slide, mirror = Slide(tworoom.ROOMS), np.array([224.0, 0.0])
    at = crowd(tworoom.ROOMS, 2000, "mirror")
    moves = 5 * stream(0, "test", "mirror").uniform(-1, 1, at.shape)
    flipped = slide(mirror + at * (-1, 1), moves * (-1, 1))
    np.testing.assert_allclose(flipped, mirror + slide(at, moves) * (-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_set_inside_a_wall_is_put_beside_it(kind: type[RoomsEnv]) -> None:
    env = kind()
    rooms = env.rooms
    inside = stream(0, "test", "inside").uniform(0, rooms.size, (4000, 2))
    inside[:2000, 0] = rooms.wall + (inside[:2000, 0] / rooms.size - 0.5) * 2 * (rooms.wall_half + rooms.radius)
    after = env.simulate(inside, np.zeros((4000, 1, 2)))[:, 0]
    assert obstacles(rooms, after)[0].min() > rooms.radius
    distance, _ = obstacles(rooms, inside)
    unmoved = (after == inside).all(-1)
    assert np.array_equal(unmoved, distance >= rooms.radius)
    # The wall's middle to its nearer side, and no further than that.
    deep = env.simulate(np.array([[rooms.wall - 1, rooms.high - 20]]), np.zeros((1, 1, 2)))[0, 0]
    expected = [rooms.wall - rooms.wall_half - rooms.radius - GAP, rooms.high - 20]
    np.testing.assert_allclose(deep, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_world_with_two_doors_has_what_worlds_with_one_have(kind: type[RoomsEnv]) -> None:
    size, usual = kind.rooms.size, kind(kind.rooms.size)
    at = stream(0, "test", "doors").uniform(0, size, (3000, 2))
    states, goals = (np.stack([kind.rooms.sample(stream(0, "test", end, n)) for n in range(80)]) for end in "ab")
    for level, place in enumerate(kind.second_doors, 1):
        other = kind(size, rooms={"door": place})
        both = usual.shifted("second_door", level)
        assert np.array_equal(both.possible(at), usual.possible(at) | other.possible(at))
        shortest = np.minimum(*(env.path_length(states, goals) for env in (usual, other)))
        np.testing.assert_allclose(both.path_length(states, goals), shortest, rtol=1e-9)
        walls = [env.render_states(states[:3]) for env in (both, usual, other)]
        assert np.array_equal(walls[0], np.maximum(*walls[1:]))  # white where either has a door
        assert "second_door" not in both.factors() and both.shifted("door_width", 3).rooms.second_door == place


def test_a_walk_takes_the_nearer_of_two_doors() -> None:
    env = TwoRoom(rooms={"second_door": 190})
    for number in range(40):
        targets = stream(0, "test", "target", number)
        act = through_door(env.rooms, 0.0, tworoom.NEAR_DOOR, 0.0)([stream(0, "test", "target", number)])
        target, start = env.rooms.sample(targets), np.array([40.0, 190.0])
        if target[0] > env.rooms.wall:
            down = np.linalg.norm(target - (112, 190)) + 72 < np.linalg.norm(target - (112, 49)) + np.hypot(72, 141)
            assert (act(start[None])[0, 1] > -0.1) == down


# Legacy.


def test_legacy_tworoom_tests_the_end_of_a_step_only() -> None:
    old, new = TwoRoom(legacy=True), TwoRoom()
    for start, action, expected in (
        ((98, 120), (1, 0.4), (99.5, 122)),  # put half a pixel beside the wall
        ((126, 120), (-1, 0), (124.5, 120)),
        ((99.9, 64.7), (1, 0), (104.9, 64.7)),  # over the door's edge, within the tolerance of 1.75 px
        ((99.9, 64.7), (1, 0.02), (99.5, 64.8)),  # beyond it
        ((112.5, 64), (-1, 1), (124.5, 69)),  # leaves the door's height inside the wall: put back where it came from
        ((110, 34), (1, -1), (99.5, 29)),
        ((22, 22), (-1, -1), (21, 21)),  # no gap at the border
        ((15, 60), (0, 0), (21, 60)),
    ):
        old.set_state(np.array(start, float))
        old.advance(np.array(action))
        np.testing.assert_allclose(old.get_state(), expected, rtol=0, atol=1e-6)
    states = crowd(tworoom.ROOMS, 3000, "legacy")
    actions = stream(0, "test", "legacy").uniform(-1, 1, (3000, 20, 2))
    distances = [obstacles(tworoom.ROOMS, env.simulate(states, actions).reshape(-1, 2))[0] for env in (old, new)]
    assert (distances[0] < 6).mean() > 0.005  # it does overlap walls
    assert distances[1].min() > 7


# Start, displacement and result of the environment in DINO-WM's repository, stepped once, to six digits.
DINO_WM_STEPS = (
    ((27.5, 30), (2, 1), (28.5, 31.25)),
    ((36.5, 30), (-2, 1), (35.5, 31.25)),
    ((5.5, 30), (-2, 0.5), (4.5, 30.875)),
    ((30, 12.5), (0.4, 2), (30.8, 13.5)),
    ((30, 7.5), (0.4, -2), (30.8, 6.5)),
    ((20, 58.5), (1, 2), (21.25, 59.5)),
    ((20, 5), (1, -2), (21.0, 4.5)),
    ((58.5, 59), (2, 1.8), (59.7, 59.5)),
    ((28, 13), (2, 0.2), (30.0, 13.2)),
    ((28, 13.9), (2, 0.4), (28.5, 14.6)),
    ((33, 10), (-2, 0), (31.0, 10.0)),
    ((58.8, 59.9), (2, 0.2), (59.7, 59.5)),
    ((28.8, 59.5), (2, 1.0), (28.5, 59.7)),
    ((12, 12), (1, 2), (13.0, 14.0)),
)


def test_legacy_wall_steps_as_the_original() -> None:
    start, move, expected = (np.array(column, float) for column in zip(*DINO_WM_STEPS, strict=True))
    env = Wall(legacy=True)
    np.testing.assert_allclose(env.simulate(start, move[:, None] / 2)[:, 0], expected, rtol=0, atol=1e-6)


# Frames.


def originals_walls(kind: type[RoomsEnv]) -> np.ndarray:
    """(size, size, 3) float: the walls at native size, by the pixels that the originals paint."""
    size = 224 if kind is TwoRoom else 65
    wall_columns, door_rows = (range(107, 118), range(35, 64)) if kind is TwoRoom else (range(29, 36), range(6, 15))
    lines = [*range(10, 14), *range(210, 214)] if kind is TwoRoom else [4, 60]
    image = np.full((size, size, 3), 255.0)
    for x in wall_columns:
        image[[y for y in range(size) if y not in door_rows], x] = 0
    image[lines] = 0
    image[:, lines] = 0
    return image


def originals_frame(kind: type[RoomsEnv], position: np.ndarray) -> np.ndarray:
    """The frame at native size by the formulas of the originals: the whole image, fractions cut off."""
    image, std = originals_walls(kind), 7.0 if kind is TwoRoom else 1.7
    y, x = np.indices(image.shape[:2])
    dot = np.exp(-((x - position[0]) ** 2 + (y - position[1]) ** 2) / (2 * std**2))
    dot = (dot / dot.max())[..., None]
    if kind is TwoRoom:
        return (image * (1 - dot) + np.array([255, 0, 0]) * dot).astype(np.uint8)
    faded = 255 - (dot * 255).astype(np.uint8)
    return np.where(image == 0, 0, np.concatenate([np.full_like(faded, 255), faded, faded], -1)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_native_frames_follow_the_originals_formula(kind: type[RoomsEnv]) -> None:
    env = kind(image_size=kind.rooms.size)
    states = crowd(env.rooms, 12, "native")
    states[-2:] = [[env.rooms.low, env.rooms.high], [env.rooms.wall, env.rooms.door + 2 * env.rooms.door_half]]
    for state, frame in zip(states, env.render_states(states), strict=True):
        difference = np.abs(frame.astype(int) - originals_frame(kind, state))
        assert difference.max() <= 1  # it cuts off, we round
        assert (difference > 0).mean() < (0.5 if kind is TwoRoom else 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_frames_show_every_pixel_of_the_walls_by_its_share(kind: type[RoomsEnv]) -> None:
    full, size = originals_walls(kind)[..., 0], 32 if kind is TwoRoom else 26
    # 224 = 32 * 7; and 65 * 2 = 26 * 5.
    fine, block = (full, 7) if kind is TwoRoom else (np.kron(full, np.ones((2, 2))), 5)
    expected = fine.reshape(size, block, size, block).mean((1, 3))
    shown = kind(image_size=size).render_states(np.array([[-1000.0, -1000.0]]))[0, ..., 1]
    edge = size // 4  # a dot far outside is drawn in the corner
    assert np.abs(shown - expected)[edge:, edge:].max() <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [16, 64, 96, 224])
@pytest.mark.parametrize("kind", KINDS)
def test_the_dot_is_where_the_state_says(kind: type[RoomsEnv], size: int) -> None:
    env = kind(image_size=size)
    scale = size / env.rooms.size
    x = env.rooms.wall / 2 + np.linspace(0, 2 / scale, 13)
    states = np.stack([x, np.full_like(x, env.rooms.size * 0.6)], axis=1)
    redness = 255.0 - env.render_states(states)[..., 1]
    redness[:, :, int((env.rooms.wall - env.rooms.wall_half) * scale) :] = 0
    redness[:, :, : int(0.15 * size)] = redness[:, int(0.85 * size) :] = redness[:, : int(0.15 * size)] = 0
    columns = (redness * np.arange(size)).sum((1, 2)) / redness.sum((1, 2))
    rows = (redness * np.arange(size)[:, None]).sum((1, 2)) / redness.sum((1, 2))
    tolerance = 0.05 if size > 16 else 0.35  # with half a pixel of std the nearest pixel's full colour pulls
    np.testing.assert_allclose(columns, (states[:, 0] + 0.5) * scale - 0.5, atol=tolerance)
    np.testing.assert_allclose(rows, (states[:, 1] + 0.5) * scale - 0.5, atol=tolerance)
    assert all((a != b).any() for a, b in zip(redness[1:], redness[:-1], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_do_not_depend_on_the_batch(kind: type[RoomsEnv]) -> None:
    env = kind()
    states = crowd(env.rooms, 300, "batch")
    frames = env.render_states(states)
    for n in (0, 127, 128, 299):
        env.set_state(states[n])
        assert np.array_equal(env.render(), frames[n])
    assert env.render_states(states[:0]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_recolored_is_a_blue_dot_and_nothing_else(kind: type[RoomsEnv]) -> None:
    env = kind()
    states = crowd(env.rooms, 20, "colour")
    red, blue = env.render_states(states), env.recolored(states)
    assert np.array_equal(blue[..., 2], red[..., 0]) and np.array_equal(blue[..., 1], red[..., 1])
    clear = (red[..., 0] == red[..., 2]) & (red[..., 0] == red[..., 1])
    assert np.array_equal(red[clear], blue[clear]) and (red != blue).any((1, 2, 3)).all()


def test_the_dot_is_above_the_walls_of_tworoom_and_behind_those_of_wall() -> None:
    above = TwoRoom(224).render_states(np.array([[112.0, 150.0]]))[0]
    assert above[150, 112].tolist() == [255, 0, 0]
    behind = Wall(65).render_states(np.array([[28.5, 40.0]]))[0]
    assert behind[40, 29].tolist() == [0, 0, 0] and behind[40, 28, 1] < 20


# Sampling and exploration.


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_states_cover_both_rooms_and_touch_nothing(kind: type[RoomsEnv]) -> None:
    env, rng = kind(), stream(0, "test", "samples")
    rooms = env.rooms
    states = np.stack([env.sample_state(rng) for _ in range(4000)])
    assert obstacles(rooms, states)[0].min() > rooms.radius + GAP
    assert (np.abs(states[:, 0] - rooms.wall) > rooms.wall_half + rooms.radius).all()  # nor in the door
    left = states[states[:, 0] < rooms.wall]
    assert abs(len(left) / 4000 - 0.5) < 0.03
    for values, low, high in (
        (left[:, 0], rooms.low + rooms.margin, rooms.wall - rooms.wall_half - rooms.margin),
        (states[:, 1], rooms.low + rooms.margin, rooms.high - rooms.margin),
    ):
        shares = np.histogram(values, 5, (low, high))[0] / len(values)
        np.testing.assert_allclose(shares, 0.2, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teleported_agent_is_elsewhere(kind: type[RoomsEnv]) -> None:
    env = kind()
    states = crowd(env.rooms, 300, "teleport")
    rngs = [stream(0, "test", "teleport", n) for n in range(300)]
    away = env.teleported(states, rngs)
    assert env.distance(away, states).min() >= 2 * env.threshold
    assert obstacles(env.rooms, away)[0].min() > env.rooms.radius
    alone = env.teleported(states[5:6], [stream(0, "test", "teleport", 5)])
    assert np.array_equal(alone[0], away[5])


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_a_walk_goes_by_the_door_the_shortest_way(kind: type[RoomsEnv]) -> None:
    env, near = kind(), tworoom.NEAR_DOOR if kind is TwoRoom else wall.NEAR_DOOR
    rooms, door = env.rooms, np.array([env.rooms.wall, env.rooms.door])
    for number in range(40):
        target = rooms.sample(stream(0, "test", "target", number))  # the first that the walk will draw
        state = rooms.sample(stream(0, "test", "start", number))
        act = through_door(rooms, 0.0, near, env.threshold)([stream(0, "test", "target", number)])
        other = (state[0] < rooms.wall) != (target[0] < rooms.wall)
        aim = door if other else target
        if np.linalg.norm(target - state) < env.threshold:
            continue
        np.testing.assert_allclose(act(state[None])[0], (aim - state) / np.linalg.norm(aim - state), atol=1e-6)
        length = np.linalg.norm(state - aim) + (np.linalg.norm(target - door) if other else 0)
        for _ in range(int(1.25 * length / rooms.speed) + 8):  # sliding on the door's edges takes longer
            if np.linalg.norm(target - state) < env.threshold:
                break
            state = env.simulate(state[None], act(state[None])[:, None])[0, 0]
        assert np.linalg.norm(target - state) < env.threshold
        assert np.abs(act(state[None])).max() > 0.7  # on to the next target


def test_door_expert_data_behaves_as_lewms() -> None:
    """Goal 25 steps later in the same episode: 8.8 % of pairs solved at the start, 26 % by random actions in 50 steps.

    Both published; here episodes do not end at the target, which lets the expert linger a little more.
    """
    env = TwoRoom(16)
    states = np.stack([env.sample_state(stream(0, "test", "start", n)) for n in range(500)])
    act = env.policies()["door_expert"]([stream(0, "test", "expert", n) for n in range(500)])
    walk = [states]
    for _ in range(100):
        walk.append(env.simulate(walk[-1], act(walk[-1])[:, None])[:, 0])
    walk = np.stack(walk, 1)
    rows = stream(0, "test", "rows").integers(0, 75, 500)
    starts, goals = walk[np.arange(500), rows], walk[np.arange(500), rows + 25]
    assert 0.05 < env.reached(starts, goals).mean() < 0.15
    random = env.simulate(starts, stream(0, "test", "random").uniform(-1, 1, (500, 50, 2)))
    assert 0.20 < env.reached(random, goals[:, None]).any(1).mean() < 0.36
    rooms = walk[..., 0] < 112
    assert 0.5 < (rooms[:, 1:] != rooms[:, :-1]).sum(1).mean() < 4  # crossings per episode


def test_gaussian_actions_have_the_statistics_of_dino_wms_data() -> None:
    act = Wall().policies()["gaussian"]([stream(0, "test", n) for n in range(50)])
    actions = np.concatenate([act(np.zeros((50, 2))) for _ in range(200)])
    assert np.abs(actions.mean(0)).max() < 0.02
    np.testing.assert_allclose(actions.std(0), 0.44, atol=0.01)  # 0.45 before clipping; theirs 0.44 and 0.47
