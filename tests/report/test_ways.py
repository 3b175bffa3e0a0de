"""Figures of ways and of where agents fail, from records whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_report import ENV, OTHER, cell, parse

from lewm_bench.core.statistics import wilson
from lewm_bench.data.scenes import scene_name, scene_png
from lewm_bench.evaluation.trail_record import Trail
from lewm_bench.report import summarise as report
from lewm_bench.report import write
from lewm_bench.report.agents import colour
from lewm_bench.report.figures import files, paths
from lewm_bench.report.figures.captions import CAPTIONS
from lewm_bench.report.figures.distance import DETOURS, by_distance, episodes
from lewm_bench.run.cells import card_of_agent
from lewm_bench.run.records import OffsetRecord

PLANNING = "clean-2/planning"


def trails(hits, detours=None, path: bool = True) -> tuple[Trail, ...]:
    """Pair k from (100 + k, 900) to (900, 100); pair 0 has the shortest way unless told."""
    detours = [1 + k / 10 for k in range(len(hits))] if detours is None else detours
    return tuple(
        Trail(pair=k, goal=(900, 100), spots=((100 + k, 900), (500, 500 + k)), reached=bool(hit), distance=2.0,
              path=2.0 * detour if path else None)
        for k, (hit, detour) in enumerate(zip(hits, detours, strict=True))
    )  # fmt: skip


def went(agent: str, hits, path: bool = True, **change):
    return cell(agent, hits, record={"trails": trails(hits, path=path)}, **change)


def summary(*cells):
    return report.summarise(cells, "t")


HITS = [1, 1, 0, 1, 0, 1]


def test_the_longest_detours_come_first_and_the_first_pairs_where_none_is_known() -> None:
    for path, expected in ((True, [5, 4, 3]), (False, [0, 1, 2])):
        (place,) = paths.places(summary(went("lewm", HITS, path)))
        pairs = place.most_telling(place.trails["lewm"], ["lewm"])
        assert [pair[0] for pair in pairs[:3]] == expected


def test_planning_pairs_at_the_largest_offset_by_the_first_seed_are_shown() -> None:
    cells = [went("lewm", [0] * 4, protocol=PLANNING, seed=s, offset=o) for s in (1, 2) for o in (50,)]
    cells += [went("lewm", [1] * 5, protocol="clean-2/plain", offset=75)]
    near = OffsetRecord(goal_offset=25, trails=trails([1]))
    cells[0] = cells[0].model_copy(update={"offsets": (near, *cells[0].offsets)})
    cells[1] = went("lewm", [1] * 4, protocol=PLANNING, seed=2, offset=50)
    (place,) = paths.places(summary(*cells))
    assert (place.protocol, place.offset) == (PLANNING, 50)
    assert [trail.reached for trail in place.trails["lewm"].values()] == [False] * 4


def test_up_to_five_agents_and_none_that_is_aimless() -> None:
    named = [
        "straight",
        "random",
        "noop",
        "pldm",
        "oracle",
        "dino-wm",
        "greedy",
        "lewm",
        "gcbc",
        "lewm:sigreg_weight=0",
    ]
    (place,) = paths.places(summary(*(went(agent, HITS) for agent in named)))
    assert paths.shown_agents(place) == ["lewm", "gcbc", "dino-wm", "greedy", "oracle"]
    (place,) = paths.places(summary(*(went(a, HITS) for a in ("random", "oracle", "straight", "lewm:sigreg_weight=0"))))
    assert paths.shown_agents(place) == ["oracle", "straight", "lewm:sigreg_weight=0"]


def drawn(axes, agent: str) -> list:
    """The lines of an agent in a panel: its way, then its end."""
    return [line for line in axes.lines if line.get_color() == colour(agent, card_of_agent(agent))]


def test_a_panel_has_a_line_per_agent_and_a_cross_where_it_failed(tmp_path) -> None:
    figure = paths.paths(summary(went("lewm", HITS), went("greedy", [0] * 6)), tmp_path)
    panels = [axes for part in figure.subfigs for axes in part.axes]
    assert len(panels) == 3
    for axes, pair in zip(panels, (5, 4, 3), strict=True):
        (way, end), (other, cross) = drawn(axes, "lewm"), drawn(axes, "greedy")
        np.testing.assert_array_equal(way.get_xydata(), [[100 + pair, 900], [500, 500 + pair]])
        np.testing.assert_array_equal(end.get_xydata(), [[500, 500 + pair]])
        assert end.get_marker() == ("o" if HITS[pair] else "x") and cross.get_marker() == "x"
        assert other.get_linewidth() > way.get_linewidth()
        assert f"{1 + pair / 10:.1f}x" in axes.get_xlabel()
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["start", "goal", "not reached", "lewm", "greedy"]


def test_the_scene_is_behind_it_and_grey_without(tmp_path) -> None:
    cells = summary(went("lewm", HITS), went("lewm", HITS, env=OTHER))
    path = tmp_path / scene_name(ENV)
    path.parent.mkdir()
    path.write_bytes(scene_png(np.full((3, 8, 8, 3), 77, np.uint8)))
    first, second = paths.paths(cells, tmp_path).subfigs
    for axes in first.axes:
        (image,) = axes.images
        assert (np.asarray(image.get_array())[..., :3] == 77).all() and image.get_extent() == [0, 1000, 1000, 0]
    for axes in second.axes:
        assert not axes.images and axes.get_ylim() == (1000, 0)


def test_failures_are_of_the_best_world_model() -> None:
    cells = summary(went("lewm", [0] * 6), went("pldm", HITS), went("gcbc", [1] * 6), went("greedy", [0] * 6))
    assert paths.best_learner(cells, paths.places(cells)) == "pldm"
    figure = paths.failures(cells, Path("nowhere"))
    shown = [axes for axes in figure.axes if axes.lines]
    assert len(shown) == HITS.count(0)
    for axes, pair in zip(shown, (4, 2), strict=True):
        assert drawn(axes, "pldm")[0].get_xydata()[0].tolist() == [100 + pair, 900]
        assert drawn(axes, "greedy")[0].get_alpha() < 1 and not drawn(axes, "lewm") and not drawn(axes, "gcbc")


def test_failures_are_taken_from_environments_in_turn() -> None:
    cells = summary(went("lewm", [0] * 9), went("lewm", [0, 1, 1], env=OTHER))
    titles = [axes.get_title() for axes in paths.failures(cells, Path("nowhere")).axes]
    assert titles[:2] == ["PointMaze-UMaze-v0", "Wall-v0"] and len(titles) == 6
    assert titles.count("Wall-v0") == 1


def test_an_environment_where_the_best_model_was_not_run_has_no_failures() -> None:
    cells = summary(went("lewm", [0] * 3), went("oracle", [1] * 3), went("oracle", [0] * 3, env=OTHER))
    assert len({axes.get_title() for axes in paths.failures(cells, Path("nowhere")).axes}) == 1


def test_nothing_is_drawn_of_records_without_trails(tmp_path) -> None:
    old = summary(cell("lewm", HITS), cell("random", HITS))
    assert paths.paths(old, tmp_path) is None and paths.failures(old, tmp_path) is None and by_distance(old) is None
    assert paths.failures(summary(went("lewm", [1] * 3)), tmp_path) is None
    assert paths.failures(summary(went("oracle", [0] * 3)), tmp_path) is None


def test_success_by_detour_is_the_share_in_each_bin() -> None:
    detours, hits = [1.0, 1.05, 1.2, 1.4, 2.0, 3.0, 9.0], [1, 1, 1, 0, 0, 0, 1]
    cells = [cell("lewm", hits, seed=s, record={"trails": trails(hits, detours)}) for s in (0, 1)]
    left, right = by_distance(summary(*cells)).axes
    assert DETOURS == (1.1, 1.5, 2.5)
    (line,) = [line for line in right.lines if line.get_label() == "lewm"]
    np.testing.assert_allclose(line.get_ydata(), [100, 50, 0, 50])
    ticks = [text.get_text().split("\n")[1] for text in right.get_xticklabels()]
    assert ticks == ["2 pairs", "2 pairs", "1 pair", "2 pairs"]  # of two seeds, which are the same pairs
    (bars,) = [c for c in right.collections if c.get_segments()]
    interval = wilson(2, 4)
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], [100 * interval.low, 100 * interval.high])
    counts = [int(text.get_text().split("\n")[1].split()[0]) for text in left.get_xticklabels()]
    assert sum(counts) == 7 and max(counts) <= 2


def test_a_distance_stands_in_for_a_way_that_is_not_known() -> None:
    table = episodes([went("lewm", HITS), went("lewm", HITS, path=False, env=OTHER)])
    assert (
        table.loc[table["env"] == OTHER, "length"].eq(2.0).all()
        and table.loc[table["env"] == OTHER, "detour"].isna().all()
    )
    np.testing.assert_allclose(table.loc[table["env"] == ENV, "length"], [2, 2.2, 2.4, 2.6, 2.8, 3.0])
    figure = by_distance(summary(went("lewm", HITS, path=False)))
    assert figure.axes[0].get_xlabel() == "distance to the goal" and not figure.axes[1].axison


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    write.write_report([went("lewm", HITS), went("greedy", [0] * 6)], folder, "t")
    return folder


def test_the_page_begins_with_the_task_and_tells_of_failures(written) -> None:
    html = (written / "report.html").read_text(encoding="utf-8")
    short, results, failures = (html.index(f'id="{name}"') for name in ("in-short", "results", "failures"))
    task, failed = (html.index(f'alt="{CAPTIONS[name][:40]}') for name in ("paths.png", "failures.png"))
    assert short < task < html.index("A world model learns") < results < failures < failed
    assert task < html.index("<table")
    parse(html)
    for name in ("paths.png", "failures.png", "by_distance.png"):
        assert (written / name).read_bytes()[:4] == b"\x89PNG"
        assert html.count(f'alt="{CAPTIONS[name][:40]}') == 1


def test_a_report_without_trails_leaves_none_of_an_earlier_one(tmp_path) -> None:
    write.write_report([went("lewm", HITS)], tmp_path, "t")
    write.write_report([cell("lewm", HITS)], tmp_path, "t")
    assert not any((tmp_path / name).exists() for name in (*files.IN_SCENES, "by_distance.png"))
    assert 'id="failures"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_equal_records_give_equal_pictures(written, tmp_path) -> None:
    write.write_report([went("greedy", [0] * 6), went("lewm", HITS)], tmp_path, "t")
    for name in (*files.IN_SCENES, "by_distance.png"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
