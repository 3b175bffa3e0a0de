"""FourRooms: no dot passes a wall, distractors reflect as in a hall of mirrors, frames are the original's formula."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.envs.fourrooms import AGENT, DISTRACTORS, RADIUS, SPEED, FourRooms, RoomSlide, next_aim
from lewm_bench.envs.parts.sliding import GAP

WALLS = [(107, 117, a, b) for a, b in ((-99, 40), (72, 152), (184, 323))]  # upright ones: left, right, upper, lower
WALLS += [(a, b, 107, 117) for _, _, a, b in WALLS]
BORDERS = [(-99, 14, -99, 323), (210, 323, -99, 323), (-99, 323, -99, 14), (-99, 323, 210, 323)]


def obstacles(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) points to (N,) distance to the nearest wall, and (N, 2) unit vectors away from it."""
    ways = []
    for left, right, upper, lower in WALLS + BORDERS:
        ways.append(points - np.stack([points[:, 0].clip(left, right), points[:, 1].clip(upper, lower)], 1))
    distances = np.linalg.norm(ways, axis=-1)
    which, rows = distances.argmin(0), np.arange(len(points))
    nearest = distances[which, rows]
    return nearest, np.array(ways)[which, rows] / np.maximum(nearest, 1e-9)[:, None]


def crowd(count: int, purpose: str) -> np.ndarray:
    """(count, 2) valid positions, most of them within a step of a wall or in a door."""
    points = stream(0, "test", purpose).uniform(18, 206, (60 * count, 2))
    distance, _ = obstacles(points)
    near = points[(distance > RADIUS + 1.1 * GAP) & (distance < RADIUS + SPEED)]
    return np.concatenate([near[: 2 * count // 3], points[distance > RADIUS + 1.1 * GAP]])[:count]


def states_of(env: FourRooms, count: int, seed: int = 0) -> np.ndarray:
    return np.stack([env.sample_state(stream(seed, "test", n)) for n in range(count)])


# Collision.


def test_no_walk_enters_a_wall_or_passes_beside_a_door() -> None:
    slide, rng, at = RoomSlide(), stream(0, "test", "walk"), crowd(3000, "walk")
    moves, crossed = np.zeros_like(at), 0
    for t in range(80):
        turning = rng.random(len(at)) < 0.1 if t else np.full(len(at), True)  # else it presses on
        moves[turning] = SPEED * rng.uniform(-1.5, 1.5, (turning.sum(), 2)).clip(-1, 1)
        after = slide(at, moves)
        assert obstacles(after)[0].min() > RADIUS  # never closer, not even by rounding
        assert (np.linalg.norm(after - at, axis=-1) <= np.linalg.norm(moves, axis=-1) + 1e-9).all()
        for axis in (0, 1):
            through = (at[:, axis] < 112) != (after[:, axis] < 112)
            from_door = np.abs(after[through, 1 - axis, None] - [56, 168]).min(1, initial=99)
            assert (from_door < 16 - RADIUS).all()
            crossed += through.sum()
        at = after
    assert crossed > 500


def test_a_step_is_the_limit_of_many_small_ones() -> None:
    begin = crowd(300, "march")
    moves = SPEED * stream(0, "test", "moves").uniform(-1, 1, begin.shape)
    pieces, at, left = 2000, begin.copy(), moves.copy()
    for _ in range(pieces):
        distance, away = obstacles(at + left / pieces)
        into = (left * away).sum(-1)
        left = left - np.where((distance < RADIUS + GAP) & (into < 0), into, 0)[:, None] * away
        at = at + left / pieces
    assert (np.abs(at - begin - moves).max(-1) > 0.01).sum() > 40
    assert np.abs(RoomSlide()(begin, moves) - at).max() < 3 * SPEED / pieces


def test_who_overlaps_a_wall_is_put_beside_it() -> None:
    inside = stream(0, "test", "inside").uniform(0, 224, (4000, 2))
    after = RoomSlide()(inside, np.zeros_like(inside))
    overlapping = obstacles(inside)[0] < RADIUS
    assert overlapping.sum() > 1000 and obstacles(after)[0].min() > RADIUS - GAP
    assert np.array_equal(after[~overlapping], inside[~overlapping])
    assert np.linalg.norm(after - inside, axis=1)[overlapping].max() < 35


def test_possible_is_who_overlaps_nothing() -> None:
    env = FourRooms(16, distractors=1)
    states = states_of(env, 3000)
    assert env.possible(states).all() and env.possible(states[:, None]).shape == (3000, 1)
    states[:, :2] = stream(0, "test", "possible").uniform(0, 224, (3000, 2))
    assert np.array_equal(env.possible(states), obstacles(states[:, :2])[0] >= RADIUS)
    states = states_of(env, 4)
    states[:2, 2:4] = (112, 56), (12, 100)  # a distractor in a door and one outside
    assert env.possible(states).tolist() == [False, False, True, True]


# Distractors.


def test_distractors_go_straight_on_in_a_hall_of_mirrors() -> None:
    env = FourRooms(16, distractors=3)
    states = states_of(env, 20)
    after = env.simulate(states, np.zeros((20, 300, 2)))[..., 2:].reshape(20, 300, 3, 4)
    start = states[:, 2:].reshape(20, 1, 3, 4)
    low = np.where(start[..., :2] < 112, 14 + RADIUS, 117 + RADIUS)
    width = np.where(start[..., :2] < 112, 107 - RADIUS, 210 - RADIUS) - low
    straight = start[..., :2] + np.arange(1, 301)[None, :, None, None] * start[..., 2:] - low
    folded = straight % (2 * width)
    expected = low + np.where(folded > width, 2 * width - folded, folded)
    np.testing.assert_allclose(after[..., :2], expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(after[..., 2:], axis=-1), SPEED)


def test_distractors_neither_touch_the_agent_nor_count() -> None:
    plain, many = FourRooms(16, distractors=0), FourRooms(16, distractors=5)
    states, goals = states_of(many, 30), states_of(many, 30, 1)
    actions = np.repeat(stream(0, "test", "plan").uniform(-1, 1, (30, 10, 2)), 4, axis=1)
    assert np.array_equal(many.simulate(states, actions)[..., :2], plain.simulate(states[:, :2], actions))
    for name in ("distance", "path_length", "reached"):
        assert np.array_equal(getattr(many, name)(states, goals), getattr(plain, name)(states[:, :2], goals[:, :2]))
    elsewhere = many.teleported(states, [stream(0, n) for n in range(30)])
    assert np.array_equal(elsewhere[:, 2:], states[:, 2:]) and (many.distance(elsewhere, states) >= 32).all()


@pytest.mark.parametrize("distractors", [0, 4])
def test_simulate_is_advance_and_rows_are_independent(distractors: int) -> None:
    env = FourRooms(16, distractors)
    states = states_of(env, 30)
    states[:, :2] = crowd(30, "rows")
    actions = np.repeat(stream(0, "test", "rows").uniform(-1.5, 1.5, (30, 8, 2)), 3, axis=1)
    batched = env.simulate(states, actions)
    assert np.array_equal(batched, GoalEnv.simulate(env, states, actions))
    assert np.array_equal(batched[7:9], env.simulate(states[7:9], actions[7:9]))
    assert np.array_equal(pickle.loads(pickle.dumps(env)).simulate(states, actions), batched)


# Frames.


def test_frames_at_full_size_are_the_originals_formula() -> None:
    env = FourRooms(224, distractors=2)
    state = np.array([60.3, 100.2, 66.0, 97.0, 0, 0, 150.5, 20.25, 0, 0])  # a distractor half behind the agent
    y, x = np.mgrid[:224, :224]
    upright, level = (np.abs(axis - 112) <= 5 for axis in (x, y))
    in_door = [(np.abs(axis - 56) <= 16) | (np.abs(axis - 168) <= 16) for axis in (y, x)]
    wall = (upright & ~in_door[0]) | (level & ~in_door[1])
    for line in (10, 210):
        wall |= ((x >= line) & (x < line + 4)) | ((y >= line) & (y < line + 4))
    expected = np.repeat(np.where(wall, 0.0, 255.0)[..., None], 3, axis=-1)
    for color, (a, b) in zip((DISTRACTORS[1], DISTRACTORS[0], AGENT), (state[6:8], state[2:4], state[:2]), strict=True):
        dot = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 3.5**2))
        dot = (dot / dot.max())[..., None]
        expected = expected * (1 - dot) + dot * np.array(color)
    assert np.abs(env.render_states(state[None])[0] - expected).max() <= 1.5


@pytest.mark.parametrize("size", [64, 224])
def test_the_agent_is_found_among_distractors(size: int) -> None:
    env = FourRooms(size, distractors=5)
    states = states_of(env, 60)
    assert np.abs(env._raster.found(env.render_states(states)) - states[:, :2]).max() < 0.4 * 224 / size
    spots = env.spots(states) * size - 0.5
    near = np.rint(spots).astype(int)
    pixels = env.render_states(states)[np.arange(60), near[:, 1], near[:, 0]].astype(int)
    assert (pixels[:, 0] > 150).all() and (pixels[:, 1:].max(1) < 150).all()


# Exploration.


def test_the_next_aim_is_on_the_shorter_way_and_leads_there() -> None:
    env = FourRooms(16, distractors=0)
    starts, goals = states_of(env, 200), states_of(env, 200, 1)
    at, gone = starts.copy(), np.zeros(200)
    for _ in range(200):
        way = next_aim(at, goals) - at
        step = way * np.minimum(1, SPEED / np.maximum(np.linalg.norm(way, axis=1), 1e-9))[:, None]
        after = RoomSlide()(at, step)
        gone, at = gone + np.linalg.norm(after - at, axis=1), after
    assert (env.distance(at, goals) < 1e-6).all()
    # By the middles of doors it is longer than around their edges, and no other way is much shorter.
    assert (gone < env.path_length(starts, goals) + 40).all()


def test_waypoints_visit_all_rooms() -> None:
    env = FourRooms(16, distractors=3)
    states = states_of(env, 8)
    act = env.policies()["waypoints"]([stream(0, "test", "way", n) for n in range(8)])
    rooms = []
    for _ in range(500):
        states = env.simulate(states, act(states)[:, None])[:, -1]
        rooms.append((states[:, :2] > 112) @ [1, 2])
    assert all(set(walk) == {0, 1, 2, 3} for walk in np.transpose(rooms))


def test_bad_arguments_are_explained() -> None:
    with pytest.raises(UserError, match="0 or more, got -1"):
        FourRooms(distractors=-1)
    env = FourRooms(distractors=1)
    with pytest.raises(ValueError, match="6 finite numbers"):
        env.set_state(np.zeros(2))
    with pytest.raises(ValueError, match="not a finite number"):
        env.advance(np.array([np.nan, 0.0]))
