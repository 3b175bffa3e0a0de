"""Trails and scenes: spots lie where the picture has what moves, and a record keeps the way until the goal."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.rng import stream
from lewm_bench.data.scenes import read_scene, scene_name, scene_png
from lewm_bench.evaluation.episodes import PairResult
from lewm_bench.evaluation.trail_record import Trail
from lewm_bench.evaluation.trails import EVERY, trails
from lewm_bench.run.environments import make_env
from lewm_bench.run.records import OffsetRecord

WORLDS = {
    "UMaze": ("lewm_bench/PointMaze-UMaze-v0", {}),
    "a wide maze": ("lewm_bench/PointMaze-UMaze-v0", {"maze": "######\n#....#\n######"}),
    "TwoRoom": ("lewm_bench/TwoRoom-v0", {}),
    "Wall": ("lewm_bench/Wall-v0", {}),
    "PushT": ("lewm_bench/PushT-v0", {"target": "none"}),
}


def world(name: str, size: int = 64) -> GoalEnv:
    if name == "PushT":
        pytest.importorskip("gym_pusht")
    env_id, kwargs = WORLDS[name]
    return make_env(env_id, size, kwargs)


def sampled(env: GoalEnv, count: int) -> np.ndarray:
    return np.stack([env.sample_state(stream(0, "test spots", n)) for n in range(count)])


def coloured(frames: np.ndarray, name: str) -> np.ndarray:
    """(N, h, w) how much of each pixel has the colour of what moves, from the colours alone."""
    red, green, blue = np.moveaxis(frames.astype(float), -1, 0)
    if name == "PushT":  # royal blue (65, 105, 225); the block's slate grey has less than 40 between red and blue
        return np.maximum(blue - red - 60, 0)
    return np.maximum(red - np.maximum(green, blue) - 20, 0)


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("name", WORLDS)
def test_spots_are_where_the_picture_has_its_colour(name: str, size: int) -> None:
    env = world(name, size)
    states = sampled(env, 24)
    before = states.copy()
    spots = env.spots(states)
    assert spots.shape == (24, 2) and np.array_equal(states, before)
    weights = coloured(env.render_states(states), name)
    middles = np.arange(size) + 0.5  # of pixels, from the frame's edge
    seen = np.stack([weights.sum(1) @ middles, weights.sum(2) @ middles], -1) / weights.sum((1, 2))[:, None]
    # A pixel of the canvas, of which Wall has 65: its dot is not drawn over walls.
    assert np.abs(spots * size - seen).max() < max(1.0, size / 65)
    assert np.ptp(spots, axis=0).max() > 0.3


def test_an_environment_says_nothing_unless_it_knows() -> None:
    env = world("UMaze")
    assert GoalEnv.spots(env, sampled(env, 2)) is None


def result(states: np.ndarray, hit: int | None, pair: int = 0) -> PairResult:
    return PairResult(
        pair=pair, hit=hit is not None, held=False, steps_to_hit=hit, distance_start=1.25, distance_end=1.0,
        encode_seconds=(), search_seconds=(), env_seconds=0.0, states=tuple(map(tuple, states.tolist())),
    )  # fmt: skip


def test_a_trail_ends_where_the_goal_was_first_reached() -> None:
    env = world("TwoRoom")
    states = np.stack([np.linspace(20, 90, 24), np.full(24, 60.0)], -1)
    goal = np.array([[150.0, 49.0]])
    (whole,), (short,) = (trails(env, [result(states, hit)], goal) for hit in (None, 12))
    assert EVERY == 5 and not whole.reached and short.reached
    times = {whole: [0, 5, 10, 15, 20, 23], short: [0, 5, 10, 12]}
    for trail, steps in times.items():
        expected = [(round(1000 * (x + 0.5) / 224), round(1000 * (y + 0.5) / 224)) for x, y in states[steps]]
        assert list(trail.spots) == expected
    assert whole.goal == (round(1000 * 150.5 / 224), round(1000 * 49.5 / 224)) and whole.distance == 1.25
    # From (20, 60) in the left room the line to the goal passes the door, whose edges are at 35 and 63.
    assert whole.path == pytest.approx(np.hypot(130, 11), rel=0.01)


def test_a_start_that_is_the_goal_is_one_spot() -> None:
    env = world("Wall")
    (trail,) = trails(env, [result(np.tile([10.0, 20.0], (11, 1)), 0)], np.array([[10.0, 20.0]]))
    assert len(trail.spots) == 1 and trail.reached and trail.spots[0] == trail.goal


def test_the_way_is_unknown_where_the_environment_does_not_know_it() -> None:
    env = world("PushT")
    states = sampled(env, 2)
    (trail,) = trails(env, [result(np.repeat(states[:1], 6, 0), None)], states[1:])
    assert trail.path is None and trail.detour is None
    assert trails(env, [], states) == ()


def test_a_goal_belongs_to_the_number_of_its_pair() -> None:
    env = world("UMaze")
    states, goals = sampled(env, 3), sampled(env, 5)[2:]
    found = trails(env, [result(np.repeat(states[k : k + 1], 4, 0), None, k) for k in (2, 0)], goals)
    assert [trail.pair for trail in found] == [2, 0]
    np.testing.assert_allclose([t.goal for t in found], 1000 * env.spots(goals[[2, 0]]), atol=0.5)


def trail(**change) -> Trail:
    fields = {
        "pair": 0,
        "goal": (1, 1000),
        "spots": ((0, 0), (12, 500)),
        "reached": False,
        "distance": 2.0,
        "path": 3.0,
    }
    return Trail(**fields | change)


def test_a_record_keeps_trails_and_reads_those_without() -> None:
    record = OffsetRecord(goal_offset=50, trails=(trail(), trail(pair=1, path=None)))
    text = record.model_dump_json(indent=1)
    assert OffsetRecord.model_validate_json(text, strict=True) == record
    assert OffsetRecord.model_validate(record.model_dump()) == record
    old = {name: value for name, value in json.loads(text).items() if name != "trails"}
    assert OffsetRecord.model_validate_json(json.dumps(old), strict=True).trails == ()
    assert trail().detour == 1.5 and trail(distance=0.0).detour is None


def test_fifty_trails_of_a_hundred_steps_are_small() -> None:
    """As many spots as offset 50 allows, with their three digits each."""
    spots = tuple((100 + 3 * k, 900 - 3 * k) for k in range(21))
    record = OffsetRecord(goal_offset=50, trails=tuple(trail(pair=k, spots=spots, distance=2.5347) for k in range(50)))
    without = record.model_copy(update={"trails": ()})
    assert len(record.model_dump_json(indent=1)) - len(without.model_dump_json(indent=1)) < 25_000


@pytest.mark.parametrize("spots", ["", "1,2,3", "1", "x,y", "1001,0", "-1,0", "1.5,0"])
def test_what_are_no_spots_is_refused(spots: str) -> None:
    text = json.dumps(json.loads(trail().model_dump_json()) | {"spots": spots})
    with pytest.raises(ValueError, match="spots"):
        Trail.model_validate_json(text)


def test_a_scene_is_what_is_there_without_the_ball(tmp_path) -> None:
    env = world("UMaze", 128)
    path = tmp_path / scene_name("lewm_bench/PointMaze-UMaze-v0")
    path.parent.mkdir()
    path.write_bytes(scene_png(env.render_states(sampled(env, 31))))
    scene = read_scene(tmp_path, "lewm_bench/PointMaze-UMaze-v0")
    assert scene.shape == (128, 128, 3)
    assert (scene == env._raster.background).all()


def test_a_scene_that_cannot_be_read_is_none(tmp_path) -> None:
    path = tmp_path / scene_name("lewm_bench/Wall-v0")
    assert read_scene(tmp_path, "lewm_bench/Wall-v0") is None
    path.parent.mkdir()
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    assert read_scene(tmp_path, "lewm_bench/Wall-v0") is None
    outside = tmp_path.parent / "outside.png"
    outside.write_bytes(scene_png(np.zeros((1, 4, 4, 3), np.uint8)))
    path.unlink()
    path.symlink_to(outside)
    assert read_scene(tmp_path, "lewm_bench/Wall-v0") is None
