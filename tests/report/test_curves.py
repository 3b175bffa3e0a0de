"""Learning curves: their numbers against closed forms, what is drawn, and what is left out."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from test_report import ENV, LEWM, OTHER, RANDOM, cell

from lewm_bench.report import summarise as report
from lewm_bench.report import write
from lewm_bench.report.figures import files
from lewm_bench.run.records import DuringRecord

HALF = [1, 0] * 5


def during(steps: int, hits, offset: int = 25, held=None) -> DuringRecord:
    outcomes = (tuple(map(bool, hits)), tuple(map(bool, hits if held is None else held)))
    return DuringRecord(steps=steps, goal_offset=offset, hit=outcomes[0], held=outcomes[1])


def agent(name: str = "lewm", *found: DuringRecord, data: float | None = None, episodes=None, hits=LEWM, **change):
    """A cell with checkpoints on its way, or an arm with a share of the data."""
    own = {"dropout": 0.1, "train": {"steps": 100}, **({} if data is None else {"data": data})}
    fields = {"weights": "trained", "during": found, "train_episodes": episodes, "config": {"agent": own}}
    return cell(name, hits, **{**fields, **change})


def rows(table: pd.DataFrame, **where) -> pd.DataFrame:
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def test_one_seed_has_wilson_intervals_at_each_checkpoint() -> None:
    table = report.summarise([agent("lewm", during(20, HALF), during(40, LEWM, held=HALF))], "t").over_steps
    first, second = (rows(table, steps=steps).iloc[0] for steps in (20, 40))
    wilson = scipy.stats.binomtest(5, 10).proportion_ci(0.95, "wilson")
    assert (first["hit"], first["hit_low"], first["hit_high"]) == pytest.approx((0.5, wilson.low, wilson.high))
    assert (second["seed_hit"], second["seed_held"], second["n_pairs"]) == (0.9, 0.5, 10)
    assert (second["held"], second["held_low"]) == pytest.approx((0.5, wilson.low))


def test_seeds_have_their_own_success_and_a_mean_with_an_interval() -> None:
    cells = [agent("lewm", during(20, hits), seed=seed) for seed, hits in enumerate((HALF, LEWM, RANDOM))]
    table = report.summarise(cells, "t").over_steps
    assert table["seed_hit"].tolist() == [0.5, 0.9, 0.2] and set(table["hit"].round(6)) == {round(1.6 / 3, 6)}
    assert len(set(table["hit_low"])) == 1 and table["hit_low"][0] < 1.6 / 3 < table["hit_high"][0]


def test_one_pair_has_no_interval() -> None:
    found = report.summarise([agent("lewm", during(20, [1]))], "t").over_steps.iloc[0]
    assert found["hit"] == 1 and math.isnan(found["hit_low"]) and math.isnan(found["held_high"])


def test_the_same_pairs_under_two_strata_are_counted_once() -> None:
    cells = [agent("lewm", during(20, HALF), protocol=f"clean-2/{kind}") for kind in ("planning", "plain")]
    table = report.summarise(cells, "t").over_steps
    assert len(table) == 1 and table["protocol"][0] == "clean-2"


def drawn(axes) -> list[tuple[list[float], list[float], float]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), line.get_linewidth())
        for line in axes.get_lines()
    ]


def test_a_panel_per_environment_and_offset_with_seeds_and_their_mean() -> None:
    both = (during(20, HALF), during(40, LEWM), during(20, RANDOM, 50), during(40, LEWM, 50))
    cells = [agent("lewm", *both, seed=seed, env=env) for env in (ENV, OTHER) for seed in (0, 1)]
    cells += [agent("gcbc", during(20, LEWM), during(40, LEWM)), cell("random", RANDOM)]
    figure = files.FIGURES["over_steps.png"](report.summarise(cells, "t"))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{e}\ngoal {o} steps ahead" for e in ("PointMaze-UMaze-v0", "Wall-v0") for o in (25, 50)]
    gcbc, (*seeds, mean) = drawn(figure.axes[0])[0], drawn(figure.axes[0])[1:]
    assert gcbc[:2] == ([20, 40], [90, 90])
    assert len(seeds) == 2 and all(line[:2] == ([20, 40], [50, 90]) and line[2] < mean[2] for line in seeds)
    assert mean[:2] == ([20, 40], [50, 90])
    assert len(figure.axes[0].collections) == 2  # the intervals of each agent


def test_without_checkpoints_there_is_neither_figure_nor_file(tmp_path) -> None:
    for name in ("over_steps.csv", "over_data.csv", "over_steps.png", "over_data.png"):
        (tmp_path / name).write_text("of an earlier report")
    write.write_report([agent("lewm"), cell("random", RANDOM)], tmp_path, "t")
    assert not list(tmp_path.glob("over_*"))


def test_files_and_page_have_both_curves(tmp_path) -> None:
    share = agent("lewm:data=0.5", data=0.5, episodes=15, hits=HALF)
    write.write_report([agent("lewm", during(20, HALF), data=1.0, episodes=30), share], tmp_path, "t")
    steps, data = (pd.read_csv(io.StringIO((tmp_path / f"over_{n}.csv").read_text())) for n in ("steps", "data"))
    assert steps["steps"].tolist() == [20] and data["train_episodes"].tolist() == [15, 30]
    page = (tmp_path / "report.html").read_text()
    assert "Success while agents train" in page and "how many episodes an agent has learned from" in page


# The share of the data.


def arms(*names: str, base: dict | None = None, **change):
    shares = {"lewm:data=0.25": (0.25, 8, RANDOM), "lewm:data=0.5": (0.5, 15, HALF)}
    found = [agent("lewm", **{"data": 1.0, "episodes": 30, **change, **(base or {})})]
    return found + [agent(n, data=shares[n][0], episodes=shares[n][1], hits=shares[n][2], **change) for n in names]


def test_success_over_episodes_with_the_agent_itself_at_the_end() -> None:
    summary = report.summarise([*arms("lewm:data=0.25", "lewm:data=0.5"), cell("random", RANDOM)], "t")
    table = summary.over_data
    assert table["of"].tolist() == ["lewm"] * 3 and table["train_episodes"].tolist() == [8, 15, 30]
    assert table["hit"].tolist() == pytest.approx([0.2, 0.5, 0.9])
    wilson = scipy.stats.binomtest(2, 10).proportion_ci(0.95, "wilson")
    assert (table["hit_low"][0], table["hit_high"][0]) == pytest.approx((wilson.low, wilson.high))
    axes = files.FIGURES["over_data.png"](summary).axes[0]
    assert [line[:2] for line in drawn(axes)] == [([8, 15, 30], pytest.approx([20, 50, 90]))]
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["8", "15", "30"]
    assert files.FIGURES["ablation.png"](summary) is None  # it would show the same


def test_an_agent_with_other_settings_is_no_point_of_the_curve() -> None:
    other = {"config": {"agent": {"dropout": 0.5, "train": {"steps": 100}, "data": 1.0}}}
    table = report.summarise(arms("lewm:data=0.25", "lewm:data=0.5", base=other), "t").over_data
    assert table["train_episodes"].tolist() == [8, 15]


def test_steps_that_follow_from_passes_over_the_data_may_differ() -> None:
    few = {"config": {"agent": {"dropout": 0.1, "train": {"steps": 25}, "data": 0.25}}}
    cells = [*arms(), agent("lewm:data=0.25", episodes=8, hits=HALF, **few)]
    assert report.summarise(cells, "t").over_data["train_episodes"].tolist() == [8, 30]


def test_one_size_is_no_curve_and_records_without_sizes_have_none() -> None:
    assert report.summarise(arms(), "t").over_data.empty
    assert report.summarise([cell("lewm", LEWM), cell("lewm:data=0.5", HALF)], "t").over_data.empty
    assert np.all(report.summarise(arms(), "t").table["agent"] == "lewm")
