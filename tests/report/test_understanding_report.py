"""The report of examinations from synthetic records whose truth is known: tables, sentences, figures, page."""

from __future__ import annotations

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from lewm_bench.core.errors import UserError
from lewm_bench.report.agents import colour
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.understanding import event_figures, figures, findings, map_figures
from lewm_bench.report.understanding.report import CAPTIONS, reproduce, terminal, write_understanding
from lewm_bench.report.understanding.tables import ordered, reader_table, spread
from lewm_bench.run.cells import card_of_agent
from lewm_bench.understand.records import (
    Collapse,
    Decoded,
    FrameRetrieval,
    Interval,
    LatentMap,
    OpenLoop,
    ProbeRow,
    Retrieval,
    Straightness,
    Surprise,
    SurpriseCurve,
    SurpriseTest,
    UnderstandingRecord,
    load_record,
    load_records,
    strict,
)

UMAZE, TWOROOM = "lewm_bench/PointMaze-UMaze-v0", "lewm_bench/TwoRoom-v0"
ARM = "lewm:sigreg_weight=0:train.on_collapse=continue"
# Written out once more: a column that moves is a new file format.
PROBES = (
    "env,agent,seed,profile,quantity,kind,features,r,r_low,r_high,mse,mse_low,mse_high,components,n_train,n_test,"
    "n_test_episodes"
)
SURPRISE = (
    "env,agent,seed,profile,condition,n,n_episodes,context,unit,difference,difference_low,difference_high,effect_size,"
    "p,p_sign_flip,p_holm,auc,auc_low,auc_high"
)
UNDERSTANDING = (
    "env,agent,seed,profile,status,label,quantity,ridge_r,ridge_r_low,ridge_r_high,ridge_mse,mlp_r,mlp_mse,"
    "random_encoder_ridge_r,pixels_ridge_r,pixels_reduced_ridge_r,triples,episodes,teleport_difference,"
    "teleport_effect_size,teleport_p_holm,"
    "teleport_auc,teleport_auc_low,teleport_auc_high,recolour_difference,recolour_effect_size,recolour_p_holm,"
    "recolour_to_teleport,recolour_to_teleport_low,recolour_to_teleport_high,straightness,straightness_low,"
    "straightness_high,straightness_random_encoder,straightness_pixels,straightness_first_logged,"
    "straightness_last_logged,collapsed,latent_size,latent_std,effective_rank,sigreg,sigreg_gaussian,horizon_first,"
    "open_loop_first,copy_last_first,horizon_last,open_loop_last,copy_last_last,retrieval_frames,"
    "retrieval_frames_random_encoder,retrieval_frames_pixels,retrieval_first,retrieval_last,retrieval_exact_first,"
    "retrieval_exact_last,retrieval_chance,decoder_mse,mean_frame_mse,weights,"
    "parameters,train_seconds,examined_seconds,note"
)


def around(value: float, half: float = 0.01) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def probe(kind: str, features: str, r: float, mse: float, quantity: str = "position") -> ProbeRow:
    sizes = {"components": 2, "n_train": 600, "n_test": 200, "n_test_episodes": 31}
    return ProbeRow(
        quantity=quantity, kind=kind, features=features, r=around(r, 0.003), mse=around(mse, mse / 9), **sizes
    )


def surprise(**changes) -> Surprise:
    steps = (-1, 0, 1)
    levels = {"untouched": (0.1, 0.1, 0.1), "recoloured": (0.1, 0.2, 0.1), "teleported": (0.1, 4.0, 0.3)}
    curves = [
        SurpriseCurve(condition=c, steps=steps, mean=m, low=[x / 2 for x in m], high=[2 * x for x in m])
        for c, m in levels.items()
    ]
    tests = [
        SurpriseTest(condition="recoloured", n=123, difference=around(0.1), effect_size=0.25, p=0.2, p_sign_flip=0.21,
                     p_holm=0.2, auc=around(0.61)),
        SurpriseTest(condition="teleported", n=123, difference=around(3.9), effect_size=2.75, p=1e-9, p_sign_flip=1e-4,
                     p_holm=2e-9, auc=around(0.97)),
    ]  # fmt: skip
    fields = {"n": 123, "n_episodes": 45, "context": 3, "curves": curves, "tests": tests}
    fields |= {"recolour_to_teleport": around(0.026, 0.002), "teleport_against_recolour": around(0.96)}
    fields["detection"] = {
        "teleported": ((0, 0), (0, 0.8), (0.25, 1), (1, 1)),
        "recoloured": ((0, 0), (0.5, 0.6), (1, 1)),
    }
    return Surprise(**fields | changes)


def collapse(**changes) -> Collapse:
    fields = {
        "collapsed": False, "reason": "the next latent is 97 % predictable", "n": 777, "size": 4, "latent_std": 0.625,
        "effective_rank": 2.5, "spectrum": (0.5, 0.3, 0.15, 0.05), "sigreg": 30.0,
        "sigreg_quantiles": (10, 20, 30, 40, 50), "sigreg_gaussian": 1.25,
    }  # fmt: skip
    return Collapse(**fields | changes)


def maps() -> tuple[LatentMap, ...]:
    values = tuple((x / 4, y / 4) for x in range(5) for y in range(5))
    points = tuple((10 * x, -y) for x, y in values)
    own = {"points": points, "quantity": "position", "values": values}
    return LatentMap(method="PCA", explained=(0.61, 0.3), **own), LatentMap(method="t-SNE", **own)


def record(agent: str = "lewm", seed: int = 0, env: str = UMAZE, **changes) -> UnderstandingRecord:
    fields = {
        "status": "done", "suite": "understanding", "profile": "quick", "env": env, "agent": agent, "seed": seed,
        "label": "LeWM (tiny)", "weights": "trained", "parameters": 1234, "train_seconds": 60.0, "dataset": "sha256:ab",
        "training": {"step": [0, 10, 20, 30, 40], "straightness": [-0.4, 0.0, None, 0.3, 0.5], "loss": [1, 1, 1, 1, 1]},
        "probes": [
            probe("ridge", "model", 0.991, 0.02), probe("mlp", "model", 0.995, 0.01),
            probe("ridge", "random encoder", 0.7, 0.5), probe("ridge", "pixels", 0.8, 0.4),
            probe("ridge", "pixels, reduced", 0.6, 0.6),
            probe("ridge", "model", 0.05, 1.1, "velocity"), probe("ridge", "pixels", 0.2, 0.9, "velocity"),
        ],
        "surprise": surprise(),
        "straightness": [
            Straightness(features=f, value=around(v), n_paths=60, n_episodes=58)
            for f, v in (("model", 0.45), ("random encoder", -0.35), ("pixels", -0.25))
        ],
        "collapse": collapse(),
        "open_loop": OpenLoop(horizons=(1, 2, 3), model=[around(0.05), around(0.2), around(1.4)],
                              copy_last=[around(0.3), around(0.8), around(1.3)], n=99, n_episodes=33),
        "retrieval": found_goals(), "maps": maps(), "seconds": {"probe": 30.0, "maps": 12.0}, "config": {"agent": {"latent": 4}},
        "versions": {"torch": "2.5"}, "hardware": {"device": "cpu", "cpu": "Xeon"}, "commit": "abc1234",
        "created": "2026-11-23T00:00:00+00:00",
    }  # fmt: skip
    fields |= changes
    return UnderstandingRecord(**{"card": card_of_agent(fields["agent"]), **fields})


def found_goals() -> Retrieval:
    return Retrieval(
        frames=[
            FrameRetrieval(features=name, near=around(value))
            for name, value in (("model", 0.9), ("random encoder", 0.6), ("pixels", 0.7))
        ],
        frames_chance=0.002, horizons=(1, 2, 3), exact=[around(0.5), around(0.3), around(0.125)],
        near=[around(0.8), around(0.6), around(0.25)], exact_chance=0.001, near_chance=0.003, within=5, candidates=800,
        n=64, n_episodes=33,
    )  # fmt: skip


def bare(**changes) -> UnderstandingRecord:
    """A cell in which nothing was found."""
    nothing = {"probes": [], "surprise": None, "straightness": [], "training": {}, "collapse": None, "open_loop": None}
    nothing["retrieval"] = None
    return record(**nothing | {"maps": []} | changes)


def several() -> list[UnderstandingRecord]:
    """LeWM with two seeds, a collapsed arm, PLDM, another environment, and a cell that failed."""
    gone = collapse(collapsed=True, reason="noise that nothing predicts", effective_rank=1.0, latent_std=0.001)
    failed = UnderstandingRecord(
        status="failed",
        reason="out of memory",
        suite="understanding",
        profile="quick",
        env=UMAZE,
        agent="pldm",
        seed=1,
        card=card_of_agent("pldm"),
    )
    return [
        record(), record(seed=1), record("pldm", label="PLDM (tiny)"), record(ARM, collapse=gone), record(env=TWOROOM),
        failed,
    ]  # fmt: skip


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_understanding(several(), folder, "Insight <b>")
    return folder


# Records.


def test_a_record_comes_back_from_its_file_with_what_is_no_number(tmp_path):
    rows = [probe("ridge", "model", math.nan, 1.0)]
    saved = record(
        probes=rows, surprise=surprise(tests=[surprise().tests[1].model_copy(update={"effect_size": math.inf})])
    )
    path = saved.save(tmp_path / "cells")
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    back = load_record(path)
    assert math.isnan(back.probes[0].r.value) and back.surprise.tests[0].effect_size == math.inf
    assert back.collapse == saved.collapse and back.maps == saved.maps
    assert record().save(tmp_path / "b" / "cells").name == path.name and load_records([tmp_path / "b"]) == [record()]
    assert strict({"a": (math.nan, 1.5, "x")}) == {"a": ["nan", 1.5, "x"]}


@pytest.mark.parametrize(
    "text, says",
    [
        ("{half", "Expecting"),
        ("[]", "schema_version is None"),
        ('{"kind": "understanding", "schema_version": 1}', "status"),
        (None, "schema_version is 99"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, text, says):
    path = record().save(tmp_path / "cells")
    data = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(text if text is not None else json.dumps(data))
    with pytest.raises(UserError, match=says) as raised:
        load_records([tmp_path])
    assert "\n" not in str(raised.value) and "delete it and run again" in str(raised.value)


def test_a_folder_without_cells_says_so(tmp_path):
    with pytest.raises(UserError, match="run `lewm-bench run --suite NAME` first"):
        load_records([tmp_path])
    with pytest.raises(UserError, match="nothing to report"):
        write_understanding([], tmp_path, "Nothing")


def test_of_two_records_of_a_cell_the_newer_counts_whatever_the_order():
    old, new = record(note="old"), record(note="new", created="2026-11-24T00:00:00+00:00")
    assert [c.note for c in ordered([new, old])] == [c.note for c in ordered([old, new])] == ["new"]
    assert [c.agent for c in ordered([record(ARM), record("pldm"), record()])] == ["lewm", "pldm", ARM]


# Tables.


def test_the_files_and_their_columns(written):
    names = {path.name for path in written.iterdir()}
    assert names == {"understanding.csv", "probes.csv", "surprise.csv", "table.md", "report.html", *figures.FIGURES}
    for name, columns in (("understanding", UNDERSTANDING), ("probes", PROBES), ("surprise", SURPRISE)):
        assert (written / f"{name}.csv").read_text().splitlines()[0] == columns


def test_the_rows_hold_the_numbers_of_the_records(written):
    table = written / "understanding.csv"
    assert column(table, "agent") == ["lewm", "lewm", "pldm", "pldm", ARM, "lewm"]
    assert column(table, "status") == ["done", "done", "done", "failed", "done", "done"]
    expected = {
        "quantity": "position", "ridge_r": "0.991", "ridge_r_low": "0.988", "ridge_mse": "0.02", "mlp_r": "0.995",
        "random_encoder_ridge_r": "0.7", "pixels_ridge_r": "0.8", "pixels_reduced_ridge_r": "0.6",
        "triples": "123", "episodes": "45",
        "teleport_difference": "3.9", "teleport_effect_size": "2.75", "teleport_p_holm": "2e-09",
        "teleport_auc": "0.97", "recolour_effect_size": "0.25", "recolour_p_holm": "0.2",
        "recolour_to_teleport": "0.026", "straightness": "0.45", "straightness_pixels": "-0.25",
        "straightness_random_encoder": "-0.35", "straightness_first_logged": "-0.4", "straightness_last_logged": "0.5",
        "collapsed": "False", "latent_size": "4", "latent_std": "0.625", "effective_rank": "2.5", "sigreg": "30",
        "sigreg_gaussian": "1.25", "horizon_first": "1", "open_loop_first": "0.05", "copy_last_first": "0.3",
        "retrieval_frames": "0.9", "retrieval_frames_random_encoder": "0.6", "retrieval_frames_pixels": "0.7",
        "retrieval_first": "0.8", "retrieval_last": "0.25", "retrieval_exact_first": "0.5",
        "retrieval_exact_last": "0.125", "retrieval_chance": "0.003", "horizon_last": "3", "open_loop_last": "1.4", "copy_last_last": "1.3", "examined_seconds": "42",
    }  # fmt: skip
    for name, value in expected.items():
        found = column(table, name)[0]
        assert found == value or float(found) == float(value), (name, found)
    assert column(table, "collapsed")[4] == "True" and column(table, "note")[3] == "out of memory"
    assert len(column(written / "probes.csv", "r")) == 5 * 7 and len(column(written / "surprise.csv", "p")) == 5 * 2
    assert column(written / "surprise.csv", "auc_low")[1] == "0.96"
    assert spread("x", None) == {}


def test_a_record_with_nothing_in_it_is_a_row_and_a_page(tmp_path):
    empty = UnderstandingRecord(
        status="done",
        suite="s",
        profile="quick",
        env=UMAZE,
        agent="lewm",
        seed=0,
        skipped={"probe": "failed: why not"},
        card=card_of_agent("lewm"),
    )
    (tmp_path / "voe.png").write_bytes(b"of an earlier report")
    write_understanding([empty], tmp_path, "Empty")
    assert not list(tmp_path.glob("*.png"))  # a figure without data would deceive
    page = (tmp_path / "report.html").read_text()
    assert "LeWM, seed 0, PointMaze-UMaze-v0, probe: failed: why not" in page
    assert column(tmp_path / "understanding.csv", "note") == ["probe failed: why not"]
    assert "probe failed: why not" in terminal([empty])


def test_people_read_intervals_asterisks_and_verdicts():
    header, row = reader_table([record()])
    read = dict(zip(header, row, strict=True))
    assert read == {
        "model": "LeWM, seed 0", "position: ridge r": "0.991 [0.988, 0.994]",
        "random encoder, pixels, reduced pixels": "0.700, 0.800, 0.600",
        "teleport AUC": "0.970 [0.960, 0.980]", "d_z: teleport, recolour": "2.75*, 0.25",
        "recolour / teleport": "0.03 [0.02, 0.03]", "straightness": "0.45 [0.44, 0.46]",
        "collapsed": "no (rank 2.5 of 4)", "1 block ahead: error, copying": "0.050, 0.300",
        "goal found 1 block ahead, chance": "0.800, 0.003",
    }  # fmt: skip


def test_the_terminal_has_100_columns():
    text = terminal(ordered(several()))
    assert max(map(len, text.splitlines())) <= 100 and "out of memory" in text and "TwoRoom-v0" in text
    assert text.count("yes") == 1  # the collapsed arm


# Sentences.


def test_statistics_in_words():
    cell = record()
    said = findings.surprise(cell)
    assert "LeWM, seed 0, PointMaze-UMaze-v0 (123 triples from 45 held-out episodes)" in said
    assert (
        "teleported surprises more than untouched (3.9 [3.89, 3.91], d_z 2.75, p < 0.001 corrected, "
        "AUC 0.970 [0.960, 0.980])"
    ) in said
    assert "recoloured no difference shown" in said and "p = 0.200 corrected" in said
    assert "0.026 [0.024, 0.028] times the effect of a teleport" in said
    assert "surprises less" in findings.surprise(record(surprise=surprise(tests=[less()])))
    assert "position by ridge r 0.991 [0.988, 0.994] and an MLP r 0.995" in findings.probes(cell)
    assert "ridge is above all floors: a random encoder 0.700, raw pixels 0.800" in findings.probes(cell)
    assert "velocity by ridge r 0.050 [0.047, 0.053] (ridge is above no floor" in findings.probes(cell)
    assert "0.45 [0.44, 0.46] on 60 paths of 58 held-out episodes" in findings.straightness(cell)
    assert "it rose (first logged -0.40, mean of the last fifth 0.50)" in findings.straightness(cell)
    assert "COLLAPSED" not in findings.collapse(cell) and "97 % predictable (n 777" in findings.collapse(cell)
    assert "better than both copying and the mean latent at 1, 2 blocks ahead" in findings.open_loop(cell)
    told = findings.retrieval(cell)
    assert "(within 5 steps) in 0.900 [0.890, 0.910] (random encoder 0.600, pixels 0.700, chance 0.002)" in told
    assert "in 0.800 [0.790, 0.810] at 1 (exactly it: 0.500), 0.250 [0.240, 0.260] at 3 (exactly it: 0.125)" in told
    assert "by chance 0.003 (0.001; 800 frames, n 64 clips, 33 episodes)" in told


def less() -> SurpriseTest:
    return surprise().tests[1].model_copy(update={"difference": around(-2.0)})


def test_between_two_floors_is_said_as_it_is():
    rows = [
        probe("ridge", "model", 0.75, 0.4),
        probe("ridge", "random encoder", 0.7, 0.5),
        probe("ridge", "pixels", 0.8, 0.3),
    ]
    assert "ridge is above a random encoder, not above raw pixels" in findings.probes(record(probes=rows))
    touching = [probe("ridge", "model", 0.705, 0.4), probe("ridge", "random encoder", 0.7, 0.5)]
    assert "ridge is above no floor" in findings.probes(record(probes=touching))


def test_training_that_changes_nothing_is_not_called_a_rise():
    flat = {"step": [0, 1, 2, 3, 4], "straightness": [-0.46, -0.5, -0.42, -0.47, -0.45]}
    assert "it stayed" in findings.straightness(record(training=flat))
    falling = {"step": [0, 1], "straightness": [0.5, -0.1]}
    assert "it fell" in findings.straightness(record(training=falling))


def test_what_a_reader_must_keep_in_mind():
    text = " ".join(findings.notes(ordered(several())))
    assert "One training run only" in text and "pldm on PointMaze-UMaze-v0" in text
    assert "lewm on PointMaze-UMaze-v0" not in text  # that one has two
    assert "for the 2 conditions of one model, not for the 5 models" in text
    assert "Numbers of a collapsed model mean little" in text and "Profile quick" in text
    assert "LeWM = LeWM (tiny)" in text
    assert findings.published([record()]) == "" and "not measured here" in findings.published([record(env=TWOROOM)])


# Figures.


def drawn(axes) -> list[tuple[list[float], list[float]]]:
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in axes.get_lines()]


def xs(axes, tone: str) -> list[float]:
    """Where single markers of a colour stand."""
    return [float(line.get_xdata()[0]) for line in axes.get_lines() if len(line.get_xdata()) == 1 and to_hex(line.get_color()) == to_hex(tone)]  # fmt: skip


def test_the_probe_figure_draws_the_records_numbers():
    panels = figures.probe([record()]).axes
    assert [a.get_title(loc="left") for a in panels] == [
        "PointMaze-UMaze-v0: position",
        "",
        "PointMaze-UMaze-v0: velocity",
        "",
    ]
    assert xs(panels[0], colour("lewm", card_of_agent("lewm"))) == [0.991, 0.995] and xs(
        panels[1], colour("lewm", card_of_agent("lewm"))
    ) == [0.02, 0.01]
    assert xs(panels[0], figures.FLOORS["random encoder"]) == [0.7]
    lines = [line for line in panels[0].get_lines() if to_hex(line.get_color()) == figures.PIXELS.lower()]
    assert [float(line.get_xdata()[0]) for line in lines] == [0.8]
    assert ([0.988, 0.994]) in [x for x, _ in drawn(panels[0])]


def test_published_probes_stand_where_their_environment_is_and_nowhere_else():
    def diamonds(env):
        return [
            line
            for axes in figures.probe([record(env=env)]).axes
            for line in axes.get_lines()
            if line.get_marker() == "D"
        ]

    assert not diamonds(UMAZE)
    assert [float(line.get_xdata()[0]) for line in diamonds(TWOROOM)] == [0.996, 0.008]


def test_the_curves_of_surprise_are_the_records():
    figure = event_figures.voe([record(), record(seed=1), record("pldm")])
    assert len(figure.axes) == 2
    lines = [pair for pair in drawn(figure.axes[0]) if len(pair[0]) == 3]
    assert lines.count(([-1, 0, 1], [0.1, 4.0, 0.3])) == 2 and len(lines) == 6  # two seeds of three conditions
    assert figure.axes[0].get_yscale() == "log"  # 40 times
    assert len(figure.axes[0].collections) == 3  # intervals of the first seed


def test_detection_draws_points_and_names_the_areas():
    (axes,) = event_figures.detection([record()]).axes
    assert ([0, 0, 0.25, 1], [0, 0.8, 1, 1]) in drawn(axes)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["teleported, AUC 0.97", "recoloured, AUC 0.61"]


def test_straightness_has_a_line_per_run_and_the_ends_beside_two_floors():
    left, right = figures.straightness([record(), record(seed=1)]).axes
    curve = ([0, 10, 30, 40], [-0.4, 0.0, 0.3, 0.5])  # without the gap
    assert drawn(left).count(curve) == 2
    assert xs(right, colour("lewm", card_of_agent("lewm"))) == [0.45, 0.45] and xs(right, "#888888") == [-0.35, -0.35]
    assert any(x == [-0.25, -0.25] for x, _ in drawn(right))


def test_the_collapse_figure_marks_the_collapsed_alone():
    spectrum, std, rank, sigreg = figures.collapse(several()[:4]).axes
    assert ([1, 2, 3, 4], [0.5, 0.3, 0.15, 0.05]) in drawn(spectrum)
    for axes, value in ((std, 0.001), (rank, 1.0)):
        crosses = [float(line.get_xdata()[0]) for line in axes.get_lines() if line.get_marker() == "X"]
        assert crosses == [value]
    assert [x for x, _ in drawn(sigreg)].count([1.25]) == 4 and [10, 50] in [x for x, _ in drawn(sigreg)]
    dashed = [line for line in spectrum.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_color() for line in dashed] == [colour(ARM, card_of_agent(ARM))]


def test_the_open_loop_figure_has_copying_dashed():
    (axes,) = figures.open_loop([record()]).axes
    assert ([1, 2, 3], [0.05, 0.2, 1.4]) in drawn(axes)
    (dashed,) = (line for line in axes.get_lines() if line.get_linestyle() == "--")
    assert list(dashed.get_ydata()) == [0.3, 0.8, 1.3]


def test_the_retrieval_figure_has_the_very_frame_dotted_and_chance_dashed():
    (axes,) = figures.retrieval([record()]).axes
    assert ([1, 2, 3], [0.8, 0.6, 0.25]) in drawn(axes)
    styles = {line.get_linestyle(): list(line.get_ydata()) for line in axes.get_lines()}
    assert styles[":"] == [0.5, 0.3, 0.125] and styles["--"] == [0.003, 0.003]


def test_maps_begin_with_a_key_and_show_each_model_once():
    figure = map_figures.maps([record(), record(seed=1), record("pldm"), record(env=TWOROOM)])
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == [
        "PointMaze-UMaze-v0\nkey: the true position", "LeWM\nPCA (61 % + 30 %)", "LeWM\nt-SNE",
        "PLDM\nPCA (61 % + 30 %)", "PLDM\nt-SNE", "TwoRoom-v0\nkey: the true position", "LeWM\nPCA (61 % + 30 %)",
        "LeWM\nt-SNE",
    ]  # fmt: skip
    (dots,) = figure.axes[1].collections
    assert np.allclose(dots.get_offsets(), maps()[0].points)


def test_colours_of_places_angles_and_single_numbers():
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])
    found = map_figures.colours(corners)
    assert found.shape == (5, 3) and len(np.unique(found.round(6), axis=0)) == 5
    assert np.allclose(found[4], found[:4].mean(0))  # between them
    angles = np.array([0, 0.1, np.pi, 2 * np.pi - 0.1])
    ring = map_figures.colours(np.stack([np.cos(angles), np.sin(angles)], 1))
    near, far = (np.abs(ring[0] - ring[i]).max() for i in (3, 2))
    assert near < far / 3  # the circle is closed
    line = map_figures.colours(np.array([[0.0], [1.0], [1.0]]))
    assert (line[1] == line[2]).all() and (line[0] != line[1]).any()
    assert np.isfinite(map_figures.colours(np.zeros((3, 2)))).all()  # where nothing varies


def test_figures_without_data_are_left_out():
    assert figures.draw_all([bare()]) == {}


def test_figures_are_pictures_and_the_same_twice(written):
    for name in figures.FIGURES:
        assert Image.open(written / name).size[0] >= 1000, name
    assert png(figures.open_loop([record()])) == png(figures.open_loop([record()]))


# The page.


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.sources, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_holds_figures_sentences_and_how_to_read_them(written):
    text = (written / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    words = " ".join(reader.words)
    assert all(source.startswith(("data:image/png;base64,", "data:text/csv;base64,", "#")) for source in reader.sources)
    assert sum(source.startswith("data:image") for source in reader.sources) == len(figures.FIGURES)
    for name, caption in CAPTIONS.items():
        assert caption in words and caption.startswith("How to read it"), name
    for cell in ordered(several()):
        for tell in (
            findings.probes,
            findings.surprise,
            findings.straightness,
            findings.collapse,
            findings.open_loop,
            findings.retrieval,
        ):
            assert tell(cell) in words
    assert "Insight <b>" in words and "b" not in reader.tags  # titles are text
    assert "PLDM, seed 1, PointMaze-UMaze-v0: failed: out of memory" in words
    assert "lewm-bench run --suite understanding --profile quick" in words
    looked = reproduce([record(checkpoint="my lewm", suite="understanding-all")])
    command = "lewm-bench understand &#x27;my lewm&#x27; --env lewm_bench/PointMaze-UMaze-v0 --suite understanding-all"
    assert f"{command} --profile quick" in looked and "lewm-bench run" not in looked
    assert not {"link", "iframe"} & reader.tags
    assert set(CAPTIONS) == set(figures.FIGURES)


def test_pictures_and_videos_are_embedded_from_the_folder_only(tmp_path):
    folder = tmp_path / "results"
    (folder / "decoded" / "cell").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "decoded" / "cell" / "frames.png")
    Image.new("RGB", (4, 4)).save(folder / "decoded" / "cell" / "one.gif")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.gif")
    videos = ("decoded/cell/one.gif", "decoded/cell/absent.gif", "../secret.gif")
    drawing = Decoded(
        train_steps=500, mse=around(0.002, 0.0001), mean_frame_mse=0.03, pictures="decoded/cell/frames.png", videos=videos,
        n=64, n_episodes=9,
    )  # fmt: skip
    write_understanding([bare(decoded=drawing)], folder, "Dreams")
    text = (folder / "report.html").read_text()
    assert text.count("data:image/gif;base64,") == 1
    for name in ("decoded/cell/absent.gif", "../secret.gif"):
        assert f"{name}: the file is not in this results folder." in text
    assert "squared error per pixel 0.002 [0.0019, 0.0021] on 64 frames of 9 held-out episodes" in text


def test_markdown_has_the_tables(written):
    text = (written / "table.md").read_text()
    assert text.startswith("# Insight &lt;b&gt;\n") and "## PointMaze-UMaze-v0" in text and "## TwoRoom-v0" in text
    assert "| LeWM, seed 0 | 0.991 [0.988, 0.994] |" in text and "PLDM, seed 1" in text
