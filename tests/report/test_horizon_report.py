"""Plannable ranges against hand-made shares, and what of them is written and drawn."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_report import cell

from lewm_bench.report import summarise as report
from lewm_bench.report.figures.horizon import horizon
from lewm_bench.report.horizon import bounds, curves, plannable_ranges
from lewm_bench.report.tables.horizon import horizon_tables
from lewm_bench.report.write import write_report

KINDS = {"lewm": "world model", "gcbc": "policy", "oracle": "privileged", "random": "floor", "greedy": "floor"}


def table(protocol: str = "horizon-1/planning", **shares: dict[int, tuple[float, float, float]]) -> pd.DataFrame:
    rows = [
        {"protocol": protocol, "profile": "quick", "env": "e", "agent": agent, "goal_offset": offset,
         "hit": hit, "hit_low": low, "hit_high": high}
        for agent, curve in shares.items()
        for offset, (hit, low, high) in curve.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def ranges(**shares) -> dict[str, object]:
    found = plannable_ranges(table(**shares), KINDS)
    return dict(zip(found["agent"], zip(found["plannable_range"], found["beyond"], strict=True), strict=True))


FLOOR = {10: (0.4, 0.3, 0.55), 50: (0.1, 0.05, 0.2), 100: (0.0, 0.0, 0.07)}


def test_the_range_is_the_largest_offset_above_the_floor_and_above_half() -> None:
    lewm = {10: (0.7, 0.54, 0.8), 50: (0.7, 0.51, 0.8), 100: (0.5, 0.3, 0.7)}
    gcbc = {10: (0.9, 0.8, 1.0), 50: (0.7, 0.50, 0.8), 100: (0.9, 0.6, 1.0)}
    found = ranges(random=FLOOR, lewm=lewm, gcbc=gcbc)
    # At 10 LeWM's lower end is above a half and not above the floor's upper end; at 50 GCBC's is not above a half.
    assert found == {"lewm": (50, False), "gcbc": (100, True)}
    assert ranges(random=FLOOR, lewm={10: lewm[10]})["lewm"] == (0, False)


def test_without_a_floor_there_is_no_range_and_greedy_is_none() -> None:
    always = dict.fromkeys(FLOOR, (1.0, 1.0, 1.0))
    found = plannable_ranges(table(lewm=always, greedy=always), KINDS)
    assert found["agent"].tolist() == ["lewm"] and found["plannable_range"].isna().all()
    part = table(random=FLOOR, greedy=always, oracle=always)
    limits = bounds(part, KINDS)
    assert [b.floor for b in limits.values()] == [0.55, 0.2, 0.07] and {b.ceiling for b in limits.values()} == {1.0}


def test_only_protocols_whose_offsets_share_their_starts_make_curves() -> None:
    assert not list(curves(table("clean-2/planning", random=FLOOR)))
    assert not list(curves(table(random={10: FLOOR[10]})))
    assert len(list(curves(table(random=FLOOR)))) == 1


@pytest.fixture(scope="module")
def summary():
    def at(agent: str, hits: int, offset: int, **fields):
        return cell(agent, [1] * hits + [0] * (10 - hits), offset=offset, protocol="horizon-1/planning", **fields)

    def both(agent: str, near: int, far: int, **fields):
        first, second = at(agent, near, 25, **fields), at(agent, far, 75, **fields)
        return first.model_copy(
            update={"offsets": (*first.offsets, *second.offsets), "episodes": (*first.episodes, *second.episodes)}
        )

    return report.summarise([both("lewm", 10, 3), both("random", 1, 0), both("oracle", 10, 10)], "t")


def test_tables_figure_and_files(summary, tmp_path: Path) -> None:
    ((heading, (header, pairs, *lines)),) = horizon_tables(summary)
    assert "planning pairs" in heading and header[1:4] == ("Plannable range", "25 steps ahead, %", "75 steps ahead, %")
    assert pairs[2:4] == ("n 10", "n 10")
    shown = {line[0]: line[1] for line in lines}
    assert [shown[summary.labels[a]] for a in ("lewm", "oracle")] == ["25 steps", ">= 75 steps"]
    assert len(horizon(summary).axes) == 1
    write_report(summary.cells, tmp_path, "t")
    assert {"horizon.csv", "horizon.png"} <= {p.name for p in tmp_path.iterdir()}
    assert "How far ahead" in (tmp_path / "report.html").read_text()
