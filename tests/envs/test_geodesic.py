"""Lengths of shortest ways among walls, against closed forms and a search on a fine grid."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.envs.fourrooms import FourRooms
from lewm_bench.envs.parts.geodesic import Geodesics
from lewm_bench.envs.parts.maze import BALL_RADIUS, clearance
from lewm_bench.envs.parts.rooms import GAP
from lewm_bench.envs.pointmaze import PointMaze
from lewm_bench.envs.pusht import PushT
from lewm_bench.envs.tworoom import ROOMS, TwoRoom
from lewm_bench.envs.wall import Wall


def states_of(env, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([env.sample_state(rng) for _ in range(count)])


def by_grid(walls: np.ndarray, start: np.ndarray, goals: np.ndarray, pitch: float) -> np.ndarray:
    """The lengths of the shortest ways over the points of a grid that the ball fits on, with sixteen directions."""
    rows, columns = walls.shape
    xs, ys = (np.arange(0.5 * pitch, n, pitch) - n / 2 for n in (columns, rows))
    free = np.array([[clearance(walls, np.array([x, y])) >= BALL_RADIUS for y in ys] for x in xs])
    moves = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if math.gcd(i, j) == 1]
    i, j = (int(np.abs(axis - at).argmin()) for axis, at in zip((xs, ys), start, strict=True))
    length, queue = np.full(free.shape, np.inf), [(0.0, i, j)]
    while queue:
        so_far, i, j = heapq.heappop(queue)
        if so_far >= length[i, j]:
            continue
        length[i, j] = so_far
        for di, dj in moves:
            if free[i + di, j + dj] and free[i + di // 2 if abs(di) == 2 else i, j + dj // 2 if abs(dj) == 2 else j]:
                heapq.heappush(queue, (so_far + pitch * math.hypot(di, dj), i + di, j + dj))
    near = [tuple(int(np.abs(axis - at).argmin()) for axis, at in zip((xs, ys), g, strict=True)) for g in goals]
    return np.array([length[cell] for cell in near])


@pytest.mark.parametrize("maze", ["UMaze", "Medium"])
def test_a_maze_has_the_lengths_of_a_search_on_a_fine_grid(maze: str) -> None:
    env, pitch = PointMaze(maze), 0.05
    start, goals = states_of(env, 1, 5)[0], states_of(env, 60, 6)
    expected = by_grid(env.walls, start[:2], goals[:, :2], pitch)
    found = env.path_length(start, goals)
    assert np.isfinite(expected).all() and expected.max() > 3
    # Sixteen directions are at most 2.8 % longer than a straight way; the points are up to half a diagonal away.
    assert (found <= expected + 2 * pitch).all() and (found >= expected / 1.028 - 2 * pitch).all()


def test_in_another_room_the_way_leads_along_the_doors_edges() -> None:
    env, reach = TwoRoom(), ROOMS.radius + GAP
    start, goal = np.array([40.0, 190.0]), np.array([180.0, 190.0])
    low = ROOMS.door + ROOMS.door_half - reach  # the lowest y at which the disk passes the door
    left, right = ROOMS.wall - ROOMS.wall_half - reach, ROOMS.wall + ROOMS.wall_half + reach
    expected = math.hypot(left - 40, 190 - low) + (right - left) + math.hypot(180 - right, 190 - low)
    assert env.path_length(start, goal) == pytest.approx(expected, rel=1e-12)
    level = np.array([180.0, ROOMS.door])
    assert env.path_length(np.array([40.0, ROOMS.door]), level) == pytest.approx(140.0)


@pytest.mark.parametrize(
    "env", [PointMaze("UMaze"), PointMaze("Large"), TwoRoom(), Wall(), FourRooms()], ids=lambda e: repr(type(e))
)
def test_it_is_a_metric_no_shorter_than_the_distance(env) -> None:
    a, b, c = (states_of(env, 150, seed) for seed in range(3))
    there, back, on = env.path_length(a, b), env.path_length(b, a), env.path_length(b, c)
    np.testing.assert_allclose(there, back)
    assert (there >= env.distance(a, b) - 1e-9).all() and np.isfinite(there).all()
    assert (env.path_length(a, c) <= there + on + 1e-9).all()
    np.testing.assert_allclose(env.path_length(a, a), 0, atol=1e-12)
    np.testing.assert_array_equal(env.path_length(a[:, None], b[None, :3])[:, 2], env.path_length(a, b[2]))


@given(st.floats(0, 2 * math.pi), st.floats(0, 0.19))
def test_who_leans_on_a_wall_sees_as_far_as_who_stands_beside_it(angle: float, overlap: float) -> None:
    box = np.array([[-1.0, -1.0, 1.0, 1.0]])
    lengths = Geodesics(box, radius=0.5, slack=0.2)
    at = np.array([1.5 - overlap, 0.0])
    goal = 9 * np.array([math.cos(angle), math.sin(angle)])
    # Rounded corners are ways along chords: 0.021 at most in 60,000 random cases, however small the overlap.
    assert lengths(at, goal) == pytest.approx(lengths(np.array([1.5, 0.0]), goal), abs=2 * overlap + 0.025)


def test_a_start_deep_in_a_wall_has_a_length() -> None:
    lengths = Geodesics(np.array([[-1.0, -1.0, 1.0, 1.0]]), radius=0.0, slack=0.0)
    assert math.hypot(4, 1) < lengths(np.array([0.0, 0.0]), np.array([5.0, 0.0])) < 8
    assert lengths(np.zeros(2), np.zeros(2)) == 0


def test_where_nothing_is_in_between_the_way_is_the_distance() -> None:
    env = PushT()
    a, b = states_of(env, 5, 0), states_of(env, 5, 1)
    np.testing.assert_array_equal(env.path_length(a, b), env.distance(a, b))


def sees(start: list[float], end: list[float], low: list[float], high: list[float]) -> bool:
    """Whether a box leaves the straight way free, by one axis after the other."""
    enter, leave = -math.inf, math.inf
    for a, b, near, far in zip(start, end, low, high, strict=True):
        if b == a:
            if not near < a < far:
                return True
            continue
        times = sorted(((near - a) / (b - a), (far - a) / (b - a)))
        enter, leave = max(enter, times[0]), min(leave, times[1])
    return not (enter < leave and leave > 0 and enter < 1)


def test_ways_are_those_of_a_loop_over_pairs_and_boxes_also_along_an_axis_and_on_faces() -> None:
    boxes = np.array([[0.0, 0, 1, 1], [2, -1, 3, 2], [-2, 1.5, 0.5, 2.5]])
    geodesics, rng = Geodesics(boxes, 0.1, slack=0.1), np.random.default_rng(0)
    starts, ends = (np.round(rng.uniform(-3, 4, (n, 2)) * k) / k for n, k in ((300, 4), (40, 2)))
    found = np.isfinite(geodesics._ways(starts, ends))
    lows, highs = boxes[:, :2].tolist(), boxes[:, 2:].tolist()
    expected = [
        [a == b or all(sees(a, b, low, high) for low, high in zip(lows, highs, strict=True)) for b in ends.tolist()]
        for a in starts.tolist()
    ]
    assert np.array_equal(found, expected) and 0.2 < found.mean() < 0.9
