"""Colours, rows and the figures about training, by the numbers that are drawn."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_rgb
from test_report import DINO, ENV, LEWM, OTHER, RANDOM, absent, cell, parse

from lewm_bench.agents import AGENTS
from lewm_bench.report import stability, write
from lewm_bench.report import summarise as report
from lewm_bench.report.agents import SHADES, Agents
from lewm_bench.report.caption import caption
from lewm_bench.report.figures import files, training
from lewm_bench.report.figures.captions import captions
from lewm_bench.report.figures.drawing import rows_of
from lewm_bench.report.figures.success import success
from lewm_bench.report.page import _in_short
from lewm_bench.report.tables.markdown import markdown
from lewm_bench.run.registry import agent_family

# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]

CARDS = {name: agent_family(name).card for name in AGENTS}
KNOWN = Agents(CARDS)


def lab(colour: str, eye) -> np.ndarray:
    """CIE L*a*b* of a colour as an eye sees it; a distance of 2 is just noticed side by side."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(eye) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
def test_colours_differ_for_every_eye(eye):
    seen = {agent: lab(colour, EYES[eye]) for agent, colour in ((name, card.colour) for name, card in CARDS.items())}
    closest = min((np.linalg.norm(seen[a] - seen[b]), a, b) for a, b in combinations(seen, 2))
    assert closest[0] > 15.5, closest


def test_every_agent_has_a_name_and_a_colour_of_its_own():
    for looks in ("name", "colour", "about"):
        found = [getattr(card, looks) for card in CARDS.values()]
        assert all(found) and len(set(found)) == len(found), looks


@pytest.mark.parametrize("eye", EYES)
def test_agents_that_share_a_marker_are_of_far_colours(eye):
    """There are more agents than markers that can be told apart."""
    seen = {agent: (card.marker, lab(card.colour, EYES[eye])) for agent, card in CARDS.items()}
    alike = [(a, b) for a, b in combinations(seen, 2) if seen[a][0] == seen[b][0]]
    assert all(marker for marker, _ in seen.values()) and len(alike) < len(CARDS) / 2
    assert min(np.linalg.norm(seen[a][1] - seen[b][1]) for a, b in alike) > 40


def test_variants_and_arms_are_shades_of_their_agent():
    names = ["lewm:dropout=0", "lewm:dropout=0.2", "dino-wm:mae", "dino-wm:mae:planner.solver=icem"]
    for name in names:
        base = name.split(":")[0]
        own, parent = (np.array(to_rgb(KNOWN.colour(a))) for a in (name, base))
        assert KNOWN.marker(name) == KNOWN.marker(base) and (own != parent).any()
        mixes = [(1 - abs(s)) * parent + abs(s) * (s > 0) for s in SHADES]
        assert min(np.abs(own - mix).max() for mix in mixes) < 1 / 255
    assert KNOWN.colour(names[0]) == KNOWN.colour(names[0]) != KNOWN.colour(names[1])


def test_blocks_have_gaps_and_the_same_rows_in_all_panels():
    kinds = {"lewm": "world model", "pldm": "world model", "gcbc": "policy", "oracle": "privileged", "noop": "floor"}
    rows = rows_of([*kinds, "lewm:dropout=0"], kinds, KNOWN)
    heights = list(rows.heights.values())
    assert np.diff(heights) == pytest.approx([1, 1.75, 1.75, 1.75, 1.75])
    assert [name for _, name in rows.blocks] == ["world models", "policies", "privileged", "floor", "ablations"]
    assert rows_of(["lewm"], kinds, KNOWN).blocks == ()
    cells = [cell("lewm", LEWM), cell("gcbc", DINO), cell("lewm", LEWM, env=OTHER)]
    figure = success(report.summarise(cells, "t"))
    ticks = [[t.get_text() for t in axes.get_yticklabels()] for axes in figure.axes]
    assert ticks == [["lewm", "gcbc"]] * 2
    assert [t.get_text() for axes in figure.axes for t in axes.texts].count("not run") == 1


# Stability


def runs(agent, *rates, env=ENV, **change):
    """One trained cell per rate, out of 10 pairs."""
    hits = [[1] * round(10 * r) + [0] * round(10 - 10 * r) for r in rates]
    return [cell(agent, h, seed=i, env=env, weights="trained", **change) for i, h in enumerate(hits)]


def test_a_dot_per_training_seed_and_the_binomial_band():
    seeds = report.summarise([*runs("lewm", 0.9, 0.5), *runs("gcbc", 0.4), cell("random", RANDOM)], "t").seeds
    assert list(seeds["agent"]) == ["gcbc", "lewm", "lewm"]  # random actions are not trained
    lewm = seeds[seeds["agent"] == "lewm"]
    assert list(lewm["hit"]) == [0.9, 0.5] and set(lewm["n_pairs"]) == {10}
    band = scipy.stats.binom.ppf([0.025, 0.975], 10, 0.7) / 10
    for _, seed in lewm.iterrows():
        assert (seed["chance_low"], seed["chance_high"]) == pytest.approx(tuple(band))


def test_no_stability_without_a_second_seed():
    summary = report.summarise([*runs("lewm", 0.9), *runs("gcbc", 0.4), *runs("lewm", 0.5, env=OTHER)], "t")
    assert summary.seeds.empty and training.stability(summary) is None


def test_places_without_a_second_seed_are_left_out():
    cells = [*runs("lewm", 0.9, 0.5), *runs("gcbc", 0.4), *runs("lewm", 0.5, env=OTHER), *runs("gcbc", 0.4, env=OTHER)]
    assert set(stability.seed_scores(cells)["env"]) == {ENV}


def test_arms_are_no_methods_unless_there_is_nothing_else():
    arm = runs("lewm:dropout=0", 0.3, 0.4)
    assert set(stability.seed_scores([*arm, *runs("lewm", 0.5, 0.6)])["agent"]) == {"lewm"}
    assert set(stability.seed_scores(arm)["agent"]) == {"lewm:dropout=0"}


def words(figure):
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def failures():
    """LeWM with two of three seeds, PLDM with none; one of two places has nothing of LeWM."""
    lost = [absent("lewm", "failed", "NaN", seed=2), *(absent("pldm", "failed", "NaN", seed=i) for i in range(3))]
    there = [absent("lewm", "failed", "NaN", env=OTHER), *runs("gcbc", 0.4, env=OTHER), absent("oracle", "failed", "?")]
    return [*runs("lewm", 0.9, 0.5), *lost, *there, cell("random", RANDOM)]


def test_seeds_that_failed_are_counted_beside_the_others():
    summary = report.summarise(failures(), "t")
    seeds = summary.seeds[summary.seeds["env"] == ENV]
    assert list(zip(seeds["agent"], seeds["seed"], strict=True)) == [
        *(("lewm", i) for i in range(3)), *(("pldm", i) for i in range(3))
    ]  # fmt: skip
    assert list(seeds["hit"].isna()) == [False, False, True, True, True, True]
    band = scipy.stats.binom.ppf([0.025, 0.975], 10, 0.7) / 10
    assert (seeds["chance_low"].iloc[2], seeds["chance_high"].iloc[2]) == pytest.approx(tuple(band))
    told = words(training.stability(summary))
    for said, times in (("2 seeds, 1 failed", 1), ("3 failed", 1), ("1 failed", 1), ("1 seed", 1)):
        assert told.count(said) == times, (said, told)
    assert "10 pairs stand behind" in captions(summary)["stability.png"]


def test_what_failed_is_not_called_not_run():
    summary = report.summarise(failures(), "t")
    figure = success(summary)
    rows = {t.get_text(): y for y, t in zip(figure.axes[0].get_yticks(), figure.axes[0].get_yticklabels(), strict=True)}
    assert list(rows) == ["lewm", "pldm", "gcbc", "oracle", "random"]
    drawn = [
        {(t.get_text(), t.get_position()[1]) for t in axes.texts if t.get_text() in ("failed", "not run")}
        for axes in figure.axes
    ]
    gaps = {"pldm": "failed", "oracle": "failed", "gcbc": "not run"}, {"lewm": "failed"}
    gaps = gaps[0], gaps[1] | dict.fromkeys(("pldm", "oracle", "random"), "not run")
    assert drawn == [{(word, rows[agent]) for agent, word in places.items()} for places in gaps]
    short = parse(_in_short(summary)).text
    assert "(partial)" in short and "(quick)failednot run" in short.split("Wall-v0")[2]
    assert "Nothing was measured yet" in _in_short(report.summarise([absent("lewm", "failed", "NaN")], "t"))


def test_a_failed_agent_does_not_hide_the_arms_that_were_measured():
    cells = [absent("lewm", "failed", "NaN"), *runs("lewm:dropout=0", 0.3, 0.4)]
    summary = report.summarise(cells, "t")
    assert len(success(summary).axes[0].get_yticks()) == 2
    assert set(summary.seeds["agent"]) == {"lewm", "lewm:dropout=0"}


def test_equal_seeds_do_not_hide_each_other():
    shifts = training._aside(np.array([80.0, 90.0, 80.0, 80.0]))
    assert len(set(shifts[[0, 2, 3]])) == 3 and shifts[1] == 0 and shifts.sum() == pytest.approx(0)


def test_the_page_says_what_spread_means(tmp_path):
    write.write_report([*runs("lewm", 0.9, 0.5), *runs("pldm", 0.4, 0.8)], tmp_path, "t")
    text = parse((tmp_path / "report.html").read_text()).text
    assert "10 pairs stand behind each dot" in text and "the grey band holds 95 %" in text
    assert (tmp_path / "stability.png").stat().st_size > 5000 and not (tmp_path / "losses.png").exists()


# Loss terms


def logged(terms, **more):
    return {"training": {"step": [0.0, 20.0], "loss": [9.0, 1.0], **{t: [2.0, 1.0] for t in terms}, **more}}


def pair():
    agent = {"sigreg_weight": 0.05}, {"variance_weight": 18.0, "time_covariance_weight": 0.0}
    lewm = logged(CARDS["lewm"].loss_terms, latent_std=[1.0, 1.0]) | {"config": {"agent": agent[0]}}
    pldm = logged(CARDS["pldm"].loss_terms) | {"config": {"agent": agent[1]}}
    return runs("lewm", 0.9, 0.8, **lewm) + runs("pldm", 0.5, 0.8, **pldm)


def test_two_terms_beside_seven_with_their_weights():
    summary = report.summarise(pair(), "t")
    assert {agent: len(terms) for agent, terms in summary.loss_terms.items()} == {"lewm": 2, "pldm": 7}
    assert summary.loss_terms["lewm"] == {"prediction": "prediction", "sigreg": "SIGReg, weight 0.05"}
    assert summary.loss_terms["pldm"]["time_covariance"] == "time covariance, weight 0"
    figure = files.FIGURES["losses.png"](summary)
    drawn = {axes.get_title("left"): len(axes.lines) for axes in figure.axes if axes.lines}
    assert len(drawn) == 2 + 7 - 1 and set(drawn.values()) == {2}  # both have a prediction; a line per seed
    assert files.FIGURES["losses.png"](report.summarise(pair()[:2], "t")) is None


def test_training_has_a_row_per_agent_and_its_own_quantities():
    figure = files.FIGURES["training.png"](report.summarise(pair(), "t"))
    titles = [axes.get_title("left") for axes in figure.axes if axes.lines]
    assert titles[:4] == ["loss", "prediction", "latent std", "sigreg"]
    assert titles[4:6] == ["loss", "prediction"] and len(titles) == 4 + 8


# Budget and blocks of the tables


def budgeted(agent, steps, training, **change):
    config = {"agent": {"train": {"steps": steps}}, "training": training}
    return cell(agent, LEWM, **{"config": config, "weights": "trained", **change})


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            {"seconds": 120.0, "steps": None},
            "Training budget: 120 s of training for every agent that learns from the data",
        ),
        ({"seconds": None, "steps": 2000}, "Training budget: 2,000 steps of training for every agent that learns"),
        ({"seconds": None, "steps": None}, ""),
    ],
)
def test_the_caption_names_a_common_budget(training, said):
    summary = report.summarise([budgeted("lewm", 1500, training), budgeted("gcbc", 900, training)], "t")
    text = " ".join(caption(summary))
    assert said in text if said else "budget" not in text


def test_two_budgets_are_not_told_as_one():
    minute, none = {"seconds": 60.0, "steps": None}, {"seconds": None, "steps": None}
    cells = [budgeted("lewm", 1500, minute), budgeted("gcbc", 900, none)]
    told = " ".join(caption(report.summarise(cells, "t")))
    assert "Training budget: NOT EQUAL: 60 s of training" in told and "; each agent its own steps." in told
    apart = [budgeted("sac-her", 9, none, kind="privileged"), budgeted("lewm:train.steps=5", 5, none)]
    told = " ".join(caption(report.summarise([cells[0], *apart, cell("random", RANDOM)], "t")))
    assert "Training budget: 60 s" in told and "NOT EQUAL" not in told


@pytest.mark.parametrize(
    ("agent", "change", "differ"),
    [
        ("lewm", {"agent": {"dropout": 0.1}}, True),
        ("lewm", {"image_size": 64}, True),
        ("lewm", {"planner": {"solver": "icem"}}, True),
        ("lewm", {"training": {"seconds": None}}, True),
        ("lewm", {"agent": {"dropout": 0, "train": {"steps": 8}}}, False),  # as many as fit into the seconds
        ("lewm", {"agent": {"dropout": 0, "train": {"steps": 9, "on_collapse": "fail"}}}, False),
        ("lewm", {"collect": {}}, False),  # a version that did not have the setting
        ("gcbc", {"planner": {"solver": "icem"}}, False),  # it does not plan
    ],
)
def test_seeds_with_other_settings_are_not_one_method(agent, change, differ):
    config = {
        "agent": {"dropout": 0, "train": {"steps": 9, "on_collapse": "continue"}}, "planner": {"solver": "cem"},
        "collect": {"episodes": 5}, "training": {"seconds": 60.0}, "image_size": 32,
    }  # fmt: skip
    seeds = [cell(agent, LEWM, seed=i, weights="trained", config=c) for i, c in enumerate((config, config | change))]
    (note,) = report.build_tables(seeds)["note"]
    assert ("settings differ between seeds: not one method" in note) == differ


def test_training_steps_stand_beside_training_time():
    cells = [budgeted("lewm", 1500, {}, train_seconds=60.0), budgeted("lewm", 1400, {}, seed=1), cell("random", RANDOM)]
    cells.append(budgeted("sac-her", 20_000, {}, kind="privileged"))
    summary = report.summarise(cells, "t")
    table = summary.table.set_index("agent")
    assert table.loc["lewm", "train_steps"] == 1500 and "differ between seeds: 1400, 1500" in table.loc["lewm", "note"]
    text = markdown(summary)
    assert "| 60.0 s | 1,500 |" in text and "20,000 |" in text


def test_privileged_agents_say_what_they_use():
    cells = [cell("lewm", LEWM), cell("oracle", LEWM), cell("sac-her", LEWM, kind="privileged", label="SAC + HER")]
    text = markdown(report.summarise(cells, "t"))
    assert "Privileged (sees the simulator's state)" in text
    assert "SAC + HER: uses state, reward and interaction" in text
