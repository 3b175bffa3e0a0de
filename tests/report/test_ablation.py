"""Ablations: which ablations belong together, what their settings were, where they are drawn, and what the words say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from test_report import ENV, LEWM, OTHER, RANDOM, absent, cell, parse, row

from lewm_bench.planning.config import PlannerConfig
from lewm_bench.report import summarise as report
from lewm_bench.report import write
from lewm_bench.report.ablation import axis_of, planner_of
from lewm_bench.report.agents import main_rows
from lewm_bench.report.figures import files
from lewm_bench.report.figures.ablation import verdict
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.tables.results import views
from lewm_bench.report.tables.solvers import solver_tables
from lewm_bench.report.tables.terminal import terminal

HALF = [1, 0] * 5
DEFAULTS = {"sigreg_weight": 0.002, "dropout": 0.1, "latent": 32, "train": {"steps": 2000}}


def ablation(settings: dict, hits=LEWM, *, base="lewm", curve=None, more=None, **change):
    """A cell whose name carries ``settings`` and whose config holds them; ``more`` only changes the config."""
    config = {
        "agent": {**DEFAULTS, "train": dict(DEFAULTS["train"])},
        "planner": PlannerConfig().model_dump(mode="json"),
    }
    for path, value in {**settings, **(more or {})}.items():
        place = config if path.startswith("planner.") else config["agent"]
        *way, last = path.split(".")
        for key in way:
            place = place.setdefault(key, {})  # a planner's record has the block of its solver only
        place[last] = value
    name = base + "".join(f":{path}={value}" for path, value in settings.items())
    log = {"step": [0.0, 1.0], **(curve or {})}
    return cell(name, hits, **{"config": config, "training": log, "weights": "trained", "label": "LeWM", **change})


def panels(cells):
    return report.summarise(cells, "t").ablations


def told(panel):
    return [(p.value, p.hit.value, p.default) for p in panel.points]


def test_arms_that_differ_in_one_setting_share_a_panel_with_the_agent_itself():
    cells = [
        ablation({}),
        ablation({"dropout": 0}, HALF),
        ablation({"latent": 8}, HALF),
        ablation({"latent": 192}),
        cell("random", RANDOM),
    ]
    dropout, latent = panels(cells)
    assert (dropout.agent, dropout.path, dropout.fixed, dropout.goal_offset) == ("lewm", "dropout", (), 25)
    assert told(dropout) == [(0.0, 0.5, False), (0.1, 0.9, True)]  # 0.1 stands in the record only
    assert told(latent) == [(8.0, 0.5, False), (32.0, 0.9, True), (192.0, 0.9, False)]
    assert dropout.floor == pytest.approx(0.2)
    wilson = scipy.stats.binomtest(5, 10).proportion_ci(0.95, "wilson")
    assert (dropout.points[0].hit.low, dropout.points[0].hit.high) == pytest.approx((wilson.low, wilson.high))


def test_a_lone_arm_has_nothing_to_be_held_against():
    assert panels([ablation({"dropout": 0}), cell("random", RANDOM)]) == ()
    assert panels([cell("lewm", LEWM), cell("pldm", LEWM), cell("dino-wm:mae", LEWM)]) == ()


def test_arms_with_two_settings_are_compared_where_the_other_is_the_same():
    cells = [
        ablation({}),
        ablation({"dropout": 0}),
        ablation({"train.steps": 500}),
        ablation({"train.steps": 500, "dropout": 0}, HALF),
    ]
    found = {(p.path, p.fixed): [q.agent for q in p.points] for p in panels(cells)}
    assert found == {
        ("dropout", ()): ["lewm:dropout=0", "lewm"],
        ("train.steps", ()): ["lewm:train.steps=500", "lewm"],
        ("dropout", (("train.steps", "500"),)): ["lewm:dropout=0:train.steps=500", "lewm:train.steps=500"],
        ("train.steps", (("dropout", "0"),)): ["lewm:dropout=0:train.steps=500", "lewm:dropout=0"],
    }
    defaults = {(p.path, p.fixed): [q.default for q in p.points] for p in panels(cells)}
    assert all(marks == [False, True] for marks in defaults.values())


def test_variants_are_agents_of_their_own():
    cells = [
        ablation({}, base="dino-wm:mae"),
        ablation({"planner.solver": "icem"}, base="dino-wm:mae"),
        ablation({"dropout": 0}, base="pldm"),
    ]
    (panel,) = panels(cells)
    assert (panel.agent, panel.heading) == ("dino-wm:mae", "DINO-WM (mae): planner.solver")
    assert [p.value for p in panel.points] == ["cem", "icem"]


def test_an_agent_that_differs_in_more_is_no_arm():
    """The same agent of another suite: its decay of lambda is on, and nothing in its name says so."""
    other = ablation({}, more={"sigreg_initial_weight": 0.1})
    cells = [ablation({"sigreg_weight": w}, more={"sigreg_initial_weight": None}) for w in (0, 0.01)]
    (panel,) = panels([*cells, other])
    assert told(panel) == [(0.0, 0.9, False), (0.01, 0.9, False)]
    paced = {"config": {**ablation({}).config, "training": {"seconds": 60.0}}}
    steps = [ablation({}, more={"train.steps": 900}), ablation({"dropout": 0}, more={"train.steps": 1000})]
    steps = [c.model_copy(update={"config": {**c.config, "training": paced["config"]["training"]}}) for c in steps]
    assert len(panels(steps)[0].points) == 2  # equal time: steps may differ
    silent = [
        ablation({}),
        ablation({"dropout": 0, "train.on_collapse": "continue"}, more={"train.on_collapse": "continue"}),
    ]
    assert [p.agent for p in panels(silent)[0].points] == ["lewm:dropout=0:train.on_collapse=continue", "lewm"]


def test_places_and_seeds_stay_apart():
    cells = [
        ablation({}),
        ablation({"dropout": 0}),
        ablation({}, HALF, seed=1),
        ablation({"dropout": 0}, env=OTHER),
        ablation({}, env=OTHER),
    ]
    here, there = sorted(panels(cells), key=lambda p: p.env)
    assert (here.env, [p.n_seeds for p in here.points]) == (ENV, [1, 2])
    assert (there.env, [p.n_seeds for p in there.points]) == (OTHER, [1, 1])
    assert here.points[1].hit.value == pytest.approx(0.7)


def test_collapse_is_read_from_the_end_of_the_curve_and_from_failed_cells():
    flat = {"latent_std": [1.0, 0.019], "effective_rank": [9.0, 1.2]}
    fine = {"latent_std": [0.001, 0.8], "effective_rank": [1.0, None]}
    cells = [
        ablation({}, curve=fine), ablation({}, seed=1, curve=fine),
        ablation({"sigreg_weight": 0}, curve=flat), ablation({"sigreg_weight": 0}, seed=1, curve=fine),
        ablation({"sigreg_weight": 0.001}, curve=flat),
        absent("lewm:sigreg_weight=0.01", "failed", "the latents collapsed (standard deviation 0.001)"),
        absent("lewm:sigreg_weight=0.1", "failed", "out of memory"),
        ablation({"sigreg_weight": 0.3}, curve=fine),
        absent("lewm:sigreg_weight=0.3", "failed", "the latents collapsed", seed=1),
        absent("lewm:sigreg_weight=0.3", seed=2),
    ]  # fmt: skip
    summary = report.summarise(cells, "t")
    points = {p.value: p for p in summary.ablations[0].points}
    words = {value: verdict(point) for value, point in points.items()}
    assert words == {
        0.0: "1 of 2 collapsed", 0.001: "collapsed", 0.002: "", 0.01: "collapsed", 0.1: "failed", 0.3: "1 of 2 collapsed"
    }  # fmt: skip
    assert points[0.0].endings == {"latent_std": (0.019, 0.8), "effective_rank": (1.2, 1.0)}
    assert summary.ablations[0].diagnostic == "latent_std"
    assert "the latents collapsed in the training of seed 0" in row(summary.table, "lewm:sigreg_weight=0")["note"]
    assert "collapsed" not in row(summary.table, "lewm")["note"]


def test_deviation_first_then_effective_rank_and_nothing_for_planners():
    """The rank of a collapsed model, isotropic noise, is high: it cannot show what the panel is for."""
    only_rank, only_std = {"effective_rank": [9.0, 4.0]}, {"latent_std": [1.0, 0.5]}
    (panel,) = panels([ablation({}, curve=only_rank), ablation({"dropout": 0}, curve=only_rank)])
    assert panel.diagnostic == "effective_rank"
    (panel,) = panels([ablation({}, curve=only_std), ablation({"planner.solver": "mppi"}, curve=only_std)])
    assert panel.diagnostic is None


# Axes


def test_log_axis_beyond_a_decade_with_zero_apart():
    axis = axis_of([0.0, 0.001, 0.01, 0.3])
    assert axis.kind == "log" and axis.zero
    assert axis.places[1:] == pytest.approx((-3, -2, math.log10(0.3)))
    assert axis.places[0] < -3.4  # left of the smallest by half a decade at least
    assert axis_of([0.001, 0.3]).zero is False


@pytest.mark.parametrize("values", [[0.0, 0.1, 0.2], [1.0, 10.0], [0.0, 5.0], [-1.0, 1.0, 100.0]])
def test_linear_axis_within_a_decade_or_with_negative_numbers(values):
    assert axis_of(values) == replace(axis_of(values), kind="linear", places=tuple(values), zero=False)


def test_names_are_categories():
    axis = axis_of(["cem", "icem", "cem", "none"])
    assert (axis.kind, axis.places) == ("category", (0.0, 1.0, 0.0, 2.0))
    (panel,) = panels([ablation({"sigreg_initial_weight": 0.1}), ablation({"sigreg_initial_weight": None})])
    assert [p.value for p in panel.points] == [0.1, "none"] and not panel.numeric


# The figure, the tables and the page


def lines(figure):
    """The drawn points of the first panel: kind of line to (x, y)."""
    axes = figure.subfigs[0].axes[0] if figure.subfigs else figure.axes[0]
    return {line.get_linestyle(): np.array(line.get_data()) for line in axes.lines if len(line.get_xdata()) > 2}


def test_the_figure_draws_the_numbers():
    cells = [ablation({"latent": v}, HALF if v == 8 else LEWM) for v in (8, 64, 192)] + [
        ablation({}),
        cell("random", RANDOM),
    ]
    drawn = lines(files.FIGURES["ablation.png"](report.summarise(cells, "t")))
    assert drawn["-"][1] == pytest.approx([50, 90, 90, 90]) and drawn[":"][1] == pytest.approx([50, 90, 90, 90])
    middle = (drawn["-"][0] + drawn[":"][0]) / 2  # the two are drawn side by side
    assert middle == pytest.approx(np.log10([8, 32, 64, 192]))
    assert png(files.FIGURES["ablation.png"](report.summarise(cells, "t")))[:4] == b"\x89PNG"
    assert files.FIGURES["ablation.png"](report.summarise(cells[3:], "t")) is None


def solvers():
    names = ("icem", "mppi", "adam")
    return [
        ablation({}, seconds=[0.2]),
        *(ablation({"planner.solver": n}, HALF, seconds=[0.4]) for n in names),
        cell("random", RANDOM),
    ]


def test_solver_table_has_success_time_and_plans():
    (heading, (header, *rows)), = solver_tables(report.summarise(solvers(), "t"))  # fmt: skip
    assert heading == "Solvers of LeWM: PointMaze-UMaze-v0, goal 25 steps ahead (quick)"
    assert header[0] == "Solver" and [r[0] for r in rows] == ["adam", "cem (default)", "icem", "mppi"]
    cem = dict(zip(header, rows[1], strict=True))
    assert cem["Reached at any step, %"].startswith("90.0 [") and cem["Plan time, median [quartiles]"].startswith(
        "200 ms"
    )
    assert cem["Plans imagined per search"] == "9,000"  # 300 samples in 30 iterations
    assert rows[0][4].endswith(", with gradients")
    assert sum(planner_of({"planner": {"num_samples": 64, "num_iterations": 3}}).plans_per_iteration) == 192
    assert planner_of({"planner": {"unknown": 1}}) is None and planner_of({}) is None


def test_a_solver_is_compared_with_its_own_settings_too():
    """The ablations of the suite solvers that tune an optimiser; a setting that is not the solver's own is another question."""
    steepest = {"planner.solver": "adam", "planner.adam.optimizer": "rmsprop", "planner.adam.learning_rate": 0.03}
    spread = {"planner.solver": "mppi", "planner.mppi.temperature": 1, "planner.std": 2}
    cells = [
        *solvers(),
        ablation(steepest, seconds=[0.1]),
        ablation(spread),
        ablation({"planner.solver": "icem", "planner.adam.num_starts": 2}),
    ]
    ((_, (_, *rows)),) = solver_tables(report.summarise(cells, "t"))
    names = ["adam", "adam (learning_rate=0.03, optimizer=rmsprop)", "cem (default)", "icem", "mppi"]
    assert [r[0] for r in rows] == names


def test_arms_stand_apart_from_the_main_agents(tmp_path):
    cells = [*solvers(), ablation({"dropout": 0}, label=""), cell("gcbc", LEWM, seconds=[0.001])]
    summary = write.write_report(cells, tmp_path, "t")
    view = next(iter(views(summary)))
    groups = {name: [line.agent for line in group] for name, group in view.groups}
    assert list(groups) == ["World models", "Goal-conditioned policies", "Floor", "Ablations of LeWM"]
    assert groups["Ablations of LeWM"] == [
        "dropout=0",
        "planner.solver=adam",
        "planner.solver=icem",
        "planner.solver=mppi",
    ]
    assert groups["World models"] == ["LeWM"]
    html = parse((tmp_path / "report.html").read_text()).text
    markdown = (tmp_path / "table.md").read_text()
    for text in (html, markdown):
        assert (
            "Ablations of LeWM" in text
            and "Solvers of LeWM" in text
            and "Minus LeWM: 6 comparisons marked (one run)" in text
        )
    assert "What the names stand for: lewm = LeWM." in markdown  # and not each ablation
    assert "one setting of an agent changed at a time" in html
    drawn = set(main_rows(summary.table, summary.kinds)["agent"])
    assert drawn == {"lewm", "gcbc", "random"}
    assert "lewm:planner.solver=adam" in terminal(summary)


def test_without_another_agent_the_arms_are_the_figure():
    cells = [ablation({"dropout": 0}), ablation({"dropout": 0.2}), cell("random", RANDOM), cell("oracle", LEWM)]
    summary = report.summarise(cells, "t")
    assert len(main_rows(summary.table, summary.kinds)) == 4


def test_nobody_asked_for_an_arm_in_other_places():
    cells = [
        ablation({}),
        ablation({"dropout": 0}),
        ablation({}, env=OTHER),
        cell("gcbc", LEWM),
        absent("lewm:latent=8", env=OTHER),
    ]
    table = report.build_tables(cells)
    rows = set(zip(table["env"], table["agent"], strict=True))
    assert (OTHER, "lewm:dropout=0") not in rows and (OTHER, "gcbc") in rows and (OTHER, "lewm:latent=8") in rows


def test_arms_of_dino_wm_are_no_reference_for_speed():
    cells = [cell("lewm", LEWM, seconds=[0.5]), cell("dino-wm:planner.solver=adam", LEWM, seconds=[9.0])]
    assert math.isnan(row(report.build_tables(cells), "lewm")["speedup_vs_dino_wm"])
