"""The frontier of planners against its definition, advice and tables against hand-made records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import cell

from lewm_bench.core.statistics import paired_comparison
from lewm_bench.report import summarise as report
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.figures.pareto import pareto
from lewm_bench.report.pareto import COLUMNS, frontier, papers_cem, pareto_table, planner_name
from lewm_bench.report.tables.pareto import pareto_tables, sentences
from lewm_bench.report.write import write_report
from lewm_bench.run.records import CellRecord

PLANNER = {"num_samples": 300, "num_iterations": 30, "num_elites": 30, "horizon": 5, "receding": 5, "warm_start": False}
numbers = st.sampled_from([1.0, 2.0, 3.0, 5.0, float("nan")])


@given(st.lists(st.tuples(numbers, st.sampled_from([0.0, 0.2, 0.5, 1.0])), max_size=12))
def test_nobody_on_the_frontier_is_beaten_and_everybody_off_it_is(points: list[tuple[float, float]]) -> None:
    costs, gains = [c for c, _ in points], [g for _, g in points]
    for (cost, gain), on in zip(points, frontier(costs, gains), strict=True):
        better = [
            (c, g) for c, g in points if (c < cost and g >= gain) or (c <= cost and g > gain)
        ]  # NaN compares with nothing
        assert on == (not better and not np.isnan(cost))


def test_a_frontier_of_known_points() -> None:
    #       cheap and poor, beaten in both, dear and good, as good and dearer, equals
    costs, gains = [1, 2, 3, 4, 1], [0.5, 0.4, 0.9, 0.9, 0.5]
    assert frontier(costs, gains) == [True, False, True, False, True]


def planned(name: str, hits: list[int], ms: float, flops: float | None, planner: dict, **change) -> CellRecord:
    """A cell whose episodes of 50 steps took so long, and whose planner was that."""
    config = {"planner": PLANNER | planner, "evaluate": {"batch": 1, "budget": 50}, **change.pop("config", {})}
    found = cell(name, hits, config=config, seconds=[ms * 0.05], record={"flops_per_step": flops}, **change)
    rows = [
        row.model_copy(update={"search_seconds": ms * 0.05 * (0.8 + 0.2 * (i % 3))})
        for i, row in enumerate(found.episodes)
    ]
    return found.model_copy(update={"episodes": type(found.episodes)(rows)})


def small(solved: int) -> list[int]:
    return [1] * solved + [0] * (40 - solved)


def few(samples: int, iterations: int, **more) -> tuple[str, dict]:
    planner = {"num_samples": samples, "num_iterations": iterations, "num_elites": max(2, samples // 10), **more}
    text = ":".join(f"planner.{k}={str(v).lower()}" for k, v in sorted(planner.items()))
    return f"lewm:{text}", planner


def records() -> list[CellRecord]:
    return [
        planned("lewm", small(36), 400.0, 9e9, {}),
        planned(few(30, 1)[0], small(12), 2.0, 3e7, few(30, 1)[1]),
        planned(few(100, 3)[0], small(35), 20.0, 3e8, few(100, 3)[1]),
        planned(few(100, 3, receding=1)[0], small(34), 90.0, 1.5e9, few(100, 3, receding=1)[1]),
        planned("gcbc", small(20), 1.0, 1e6, {}),
        cell("random", small(2), config={"evaluate": {"batch": 1}}),
        planned("oracle", small(40), 5.0, None, {}),
    ]


@pytest.fixture(scope="module")
def summary():
    return report.summarise(records(), "t")


def test_points_and_frontier_of_records(summary) -> None:
    (front,) = summary.fronts
    names = [p.name for p in front.points]
    assert names == ["GCBC", "CEM 30 x 1", "CEM 100 x 3", "CEM 100 x 3, every block", "CEM 300 x 30"]
    assert [p.on_frontier for p in front.points] == [True, False, True, False, True]
    assert front.model == "LeWM" and front.reference.agent == "lewm"
    spread = 20.0 * np.array([0.8 + 0.2 * (i % 3) for i in range(40)])
    low, median, high = np.quantile(spread, [0.25, 0.5, 0.75])
    assert front.points[2].ms == pytest.approx((median, low, high))


def test_the_csv_has_all_points_and_their_differences_to_the_papers_planner(summary) -> None:
    table = pareto_table(summary.fronts).set_index("planner")
    assert tuple(table.reset_index()[list(COLUMNS)].columns) == COLUMNS and len(table) == 5
    assert set(table["reference"]) == {"lewm"} and pd.isna(table.loc["CEM 300 x 30", "diff_to_papers"])
    row = table.loc["CEM 100 x 3"]
    assert (row["hit"], row["n_pairs"], row["n_seeds"]) == (35 / 40, 40, 1)
    assert row["flops_per_step"] == 3e8 and row["diff_to_papers"] == pytest.approx(-1 / 40)
    expected = paired_comparison(
        np.array([small(35)], float), np.array([small(36)], float), np.random.default_rng(0), seeds_paired=True
    )
    assert (row["diff_low"], row["diff_high"]) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_advice_is_the_cheapest_that_is_not_told_apart_from_the_best(summary) -> None:
    ten, hundred, thousand = sentences(summary.fronts[0])
    # 30 % against 50 %: the policy is faster and better. 35 of 40 is told apart from 20, and not from 36.
    assert ten.startswith("Within 10 ms per environment step: use GCBC (1.00 ms, 50.0 % [")
    assert ten.endswith("reached); none of the 2 that are that fast reaches more.")
    assert hundred.startswith("Within 100 ms per environment step: use CEM 100 x 3 (20.0 ms, 87.5 % [")
    assert "reaches most of the 4" in hundred and "all that are cheaper are told apart" in hundred
    assert thousand.startswith("Within 1,000 ms per environment step: use CEM 100 x 3 (")
    assert "CEM 300 x 30 reaches most, 90.0 % [" in thousand and "not told apart from it: +2.5 [-" in thousand


def test_where_nobody_is_fast_enough_that_is_said() -> None:
    slow = [
        planned(name, small(20), 50.0 * (i + 1), None, planner)
        for i, (name, planner) in enumerate([("lewm", {}), few(100, 3), few(30, 3)])
    ]
    (front,) = report.summarise(slow, "t").fronts
    ten, hundred = sentences(front)
    assert ten.startswith("Within 10 ms per environment step: none is that fast; the fastest is CEM 300 x 30 (50.0 ms")
    assert hundred.startswith("Within 100 and 1,000 ms per environment step: use CEM 300 x 30 (")


def test_where_nobody_reaches_anything_nothing_is_advised() -> None:
    names = [("lewm", {}), few(100, 3), few(30, 3)]
    lost = [planned(name, small(0), 5.0 * (i + 1), None, planner) for i, (name, planner) in enumerate(names)]
    summary = report.summarise(lost, "t")
    ten, more = sentences(summary.fronts[0])
    assert ten == "Within 10 ms per environment step: none of the 2 that are that fast reaches any goal."
    assert more.startswith("Within 100 and 1,000 ms per environment step: none of the 3")
    (axes,) = pareto(summary).axes  # no operations were counted
    assert axes.texts[1].get_window_extent().y0 > axes.transData.transform((1, 50))[1]


def test_only_places_with_three_planners_of_one_model_have_a_frontier() -> None:
    three = [c for c in records() if c.agent.startswith("lewm")][:3]
    assert len(report.summarise(three, "t").fronts) == 1
    assert not report.summarise([*three[:2], *records()[4:]], "t").fronts
    other = planned("lewm:dropout=0.5", small(9), 3.0, None, {})  # another model, not another planner
    assert not report.summarise([*three[:2], other], "t").fronts
    together = [
        c.model_copy(update={"config": c.config | {"evaluate": {"batch": 10, "budget": 50}}}) for c in records()
    ]
    assert not report.summarise(together, "t").fronts


def test_the_papers_planner_or_the_largest_search_of_a_whole_plan() -> None:
    found = {
        "a": PLANNER | {"num_iterations": 10},
        "b": PLANNER | {"num_iterations": 30, "receding": 1},
        "c": PLANNER | {"num_samples": 900, "solver": "icem"},
        "d": PLANNER | {"num_samples": 100},
    }
    assert papers_cem(found) == "a" and papers_cem({}) is None
    assert papers_cem(found | {"e": PLANNER, "f": PLANNER | {"num_samples": 900}}) == "e"


def test_planners_are_called_by_what_they_do() -> None:
    assert planner_name(PLANNER) == "CEM 300 x 30"
    changed = PLANNER | {"solver": "icem", "horizon": 10, "receding": 3, "warm_start": True}
    assert planner_name(changed) == "iCEM 300 x 30, 10 ahead, every 3 blocks, warm"


def test_tables_figure_and_files(summary, tmp_path: Path) -> None:
    ((heading, told, (header, *lines)),) = pareto_tables(summary)
    assert heading == "PointMaze-UMaze-v0, goal 25 steps ahead (quick), planners of LeWM" and len(told) == 3
    assert [line[0] for line in lines] == ["GCBC", "CEM 100 x 3", "CEM 300 x 30"] and lines[2][4] == "reference"
    assert lines[1][2] == "300 M" and "20.0 ms [" in lines[1][1] and len(header) == len(lines[0])
    figure = pareto(summary)
    assert len(figure.axes) == 2 and png(figure).startswith(b"\x89PNG")
    write_report(summary.cells, tmp_path, "t")
    assert {"pareto.csv", "pareto.png"} <= {p.name for p in tmp_path.iterdir()}
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "table.md").read_text()
    assert "Which planner" in page and "use CEM 100 x 3 (20.0 ms" in page and "use CEM 100 x 3 (20.0 ms" in text


def test_labels_of_the_frontier_cover_neither_each_other_nor_points(summary) -> None:
    figure = pareto(summary)
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) == 6  # a number and a name each
        assert [t.get_text() for t in axes.texts[3:]] == ["1  GCBC", "2  CEM 100 x 3", "3  CEM 300 x 30"]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_figure_needs_no_torch(tmp_path: Path) -> None:
    for record in records():
        record.save(tmp_path / "cells")
    code = (
        "import sys; from pathlib import Path\n"
        "from lewm_bench.run.records import load_cells\n"
        "from lewm_bench.report.summarise import summarise\n"
        "from lewm_bench.report.figures.pareto import pareto\n"
        f"assert pareto(summarise(load_cells([Path({str(tmp_path)!r})]), 't')) is not None\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
