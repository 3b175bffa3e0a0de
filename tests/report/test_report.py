"""Tables, figures and page from synthetic records whose truth is known."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from lewm_bench.agents import AGENTS
from lewm_bench.core.errors import UserError
from lewm_bench.core.formatting import seconds
from lewm_bench.data.videos import video_name
from lewm_bench.report import summarise as report
from lewm_bench.report import video, write
from lewm_bench.report.agents import SPARE_COLOURS, Agents
from lewm_bench.report.caption import caption
from lewm_bench.report.html import Section
from lewm_bench.report.tables.markdown import markdown
from lewm_bench.report.tables.results import views
from lewm_bench.report.tables.terminal import terminal
from lewm_bench.report.text import count, hardware_line, percent
from lewm_bench.run.cells import card_of_agent
from lewm_bench.run.records import CellRecord, EpisodeRow, OffsetRecord
from lewm_bench.run.registry import agent_family

ENV = "lewm_bench/PointMaze-UMaze-v0"
OTHER = "lewm_bench/Wall-v0"
HARDWARE = {"device": "cpu", "cpu": "Xeon", "cores": "2", "threads": "1"}
KINDS = {"random": "floor", "noop": "floor", "oracle": "privileged", "gcbc": "policy"}


def episode(agent: str, pair: int, hit: bool, held: bool, **change) -> EpisodeRow:
    fields = {
        "suite": "pointmaze", "profile": "quick", "protocol": "clean-1", "env": ENV, "agent": agent, "seed": 0,
        "goal_offset": 25, "pair": pair, "hit": hit, "held": held, "steps_to_hit": 10 + pair if hit else None,
        "distance_start": 1.0 + pair / 7, "distance_end": 0.1 if held else 1.0 + pair, "plans": 2,
        "encode_seconds": 0.0, "search_seconds": 0.1, "env_seconds": 0.1, "device": "cpu", "weights": "trained",
        "version": "0.1.0", "key": "k",
    }  # fmt: skip
    return EpisodeRow(**{**fields, **change})


def cell(agent: str, hits, held=None, *, seed=0, env=ENV, offset=25, seconds=(), **change) -> CellRecord:
    """One cell with one offset; pair numbers are the places in ``hits``."""
    held = hits if held is None else held
    place = {"env": env, "seed": seed, "goal_offset": offset} | {
        k: change[k] for k in ("profile", "protocol") if k in change
    }
    episodes = [episode(agent, i, bool(h), bool(k), **place) for i, (h, k) in enumerate(zip(hits, held, strict=True))]
    record = OffsetRecord(goal_offset=offset, plan_seconds=tuple(seconds), **change.pop("record", {}))
    fields = {
        "status": "done", "suite": "pointmaze", "profile": "quick", "protocol": "clean-1", "env": env, "agent": agent,
        "kind": KINDS.get(agent, "world model"), "card": card_of_agent(agent), "seed": seed, "hardware": HARDWARE, "offsets": (record,),
        "episodes": tuple(episodes), "commit": "abc1234", "created": "2026-11-22T10:00:00Z",
    }  # fmt: skip
    return CellRecord(**{**fields, **change})


def absent(agent: str, status="not run", reason="weights unavailable, do X", **change) -> CellRecord:
    return cell(agent, [], **{"status": status, "reason": reason, "offsets": (), **change})


def row(table: pd.DataFrame, agent: str, env: str = ENV, offset: int = 25) -> pd.Series:
    found = table[(table["agent"] == agent) & (table["env"] == env) & (table["goal_offset"] == offset)]
    assert len(found) == 1
    return found.iloc[0]


LEWM = [1, 1, 1, 1, 1, 1, 1, 1, 0, 1]
DINO = [1, 1, 1, 0, 1, 1, 0, 1, 0, 1]
RANDOM = [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def small() -> list[CellRecord]:
    """Two environments, two offsets, seeds, a partial, a failed and a missing cell."""
    steps = {"step": [0.0, 10.0, 20.0], "loss": [1.0, 0.5, None], "latent_std": [0.1, 0.5, 1.0]}
    cells = []
    for env, offset in ((ENV, 25), (ENV, 50), (OTHER, 25)):
        place = {"env": env, "offset": offset}
        cells += [
            cell("lewm", LEWM, seconds=[0.3, 0.4, 0.5], label="LeWM", parameters=346_000, tokens_per_frame=1,
                 training=steps, train_seconds=120.0, record={"pairs_candidates": 12, "pairs_solved_at_start": 2}, **place),
            cell("lewm", LEWM[::-1], seconds=[0.4], seed=1, label="LeWM", tokens_per_frame=1, **place),
            cell("dino-wm", DINO, seconds=[2.0, 3.0], label="DINO-WM (MAE ViT, 16 tokens)", tokens_per_frame=16, **place),
            cell("random", RANDOM, **place),
            cell("oracle", [1] * 10, seconds=[0.1], **place),
        ]  # fmt: skip
    merged: dict[tuple, CellRecord] = {}
    for c in cells:  # a cell holds all offsets of its environment
        key = (c.env, c.agent, c.seed)
        if key in merged:
            joined = {"offsets": merged[key].offsets + c.offsets, "episodes": merged[key].episodes + c.episodes}
            c = c.model_copy(update=joined)
        merged[key] = c
    return [*merged.values(), absent("dino-wm:dinov2", label="DINO-WM (DINOv2)"), cell("gcbc", DINO)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write.write_report(small(), folder, "A small report")
    return folder


# The numbers


def test_columns_are_those_of_the_design():
    expected = (
        "env agent goal_offset profile protocol status n_pairs n_seeds latent_oracle_hit distance_rank_correlation hit "
        "hit_low hit_high held held_low held_high normalised_hit diff_to_lewm diff_low diff_high diff_p diff_runs diff_p_holm "
        "distance_end_median steps_to_hit_median plan_seconds_median plan_seconds_q25 plan_seconds_q75 plan_ms_per_step flops_per_step speedup_vs_dino_wm parameters "
        "tokens_per_frame base train_seconds base_seconds train_steps train_epochs solved_at_start stratum_share verdict verdict_text note"
    )
    assert " ".join(report.build_tables(small()).columns) == expected


def test_one_seed_has_wilson_intervals_and_known_numbers():
    table = report.build_tables([cell("lewm", LEWM), cell("dino-wm", DINO, [0] * 10), cell("random", RANDOM)])
    found = row(table, "dino-wm")
    wilson = scipy.stats.binomtest(7, 10).proportion_ci(0.95, "wilson")
    assert (found["hit"], found["hit_low"], found["hit_high"]) == pytest.approx((0.7, wilson.low, wilson.high))
    none = scipy.stats.binomtest(0, 10).proportion_ci(0.95, "wilson")
    assert (found["held"], found["held_low"], found["held_high"]) == pytest.approx((0, 0, none.high))
    assert found["normalised_hit"] == pytest.approx((0.7 - 0.2) / (1 - 0.2))
    assert found["diff_to_lewm"] == pytest.approx(-0.2) and found["diff_low"] < -0.2 < found["diff_high"]
    assert found["steps_to_hit_median"] == np.median([10 + i for i, hit in enumerate(DINO) if hit])
    assert found["distance_end_median"] == np.median(1.0 + np.arange(10))
    assert (found["n_pairs"], found["n_seeds"], found["status"]) == (10, 1, "done")
    assert pd.isna(row(table, "lewm")["diff_to_lewm"])
    assert row(table, "random")["normalised_hit"] == 0


def test_more_seeds_are_averaged_and_widen_the_interval():
    seeds = [cell("lewm", LEWM, seed=0), cell("lewm", [0] * 10, seed=1)]
    found = row(report.build_tables(seeds), "lewm")
    assert found["hit"] == pytest.approx(0.45) and found["n_seeds"] == 2 and found["n_pairs"] == 10
    alone = row(report.build_tables(seeds[:1]), "lewm")
    assert found["hit_high"] - found["hit_low"] > alone["hit_high"] - alone["hit_low"]


def test_difference_averages_lewm_over_its_seeds_when_the_counts_differ():
    cells = [cell("lewm", LEWM, seed=0), cell("lewm", [0] * 10, seed=1), cell("dino-wm", DINO)]
    assert row(report.build_tables(cells), "dino-wm")["diff_to_lewm"] == pytest.approx(0.7 - 0.45)


def test_difference_needs_the_same_pairs():
    """The same numbers with another start distance are other pairs, and other numbers are other pairs."""
    moved = cell("dino-wm", DINO)
    moved = moved.model_copy(
        update={"episodes": tuple(e.model_copy(update={"distance_start": 9.0 + e.pair}) for e in moved.episodes)}
    )
    found = row(report.build_tables([cell("lewm", LEWM), moved]), "dino-wm")
    assert pd.isna(found["diff_to_lewm"]) and "not LeWM's" in found["note"]
    fewer = cell("gcbc", DINO[:4])
    found = row(report.build_tables([cell("lewm", LEWM), fewer]), "gcbc")
    assert found["diff_to_lewm"] == pytest.approx(np.mean(DINO[:4]) - np.mean(LEWM[:4]))
    assert "4 shared pairs" in found["note"]


def test_profiles_protocols_and_offsets_do_not_mix():
    cells = [cell("lewm", LEWM), cell("dino-wm", DINO, profile="paper"), cell("random", RANDOM, offset=50)]
    table = report.build_tables(cells)
    assert pd.isna(row(table[table["profile"] == "paper"], "dino-wm")["diff_to_lewm"])
    assert pd.isna(row(table, "lewm")["normalised_hit"])


def test_plan_times_ratio_and_sizes():
    table = report.build_tables(small())
    lewm, dino = row(table, "lewm"), row(table, "dino-wm")
    assert lewm["plan_seconds_median"] == pytest.approx(0.4)  # of 0.3 0.4 0.5 and the second seed's 0.4
    assert (lewm["plan_seconds_q25"], lewm["plan_seconds_q75"]) == pytest.approx((0.375, 0.425))
    assert lewm["speedup_vs_dino_wm"] == pytest.approx(2.5 / 0.4) and dino["speedup_vs_dino_wm"] == 1
    assert (lewm["parameters"], lewm["tokens_per_frame"], dino["tokens_per_frame"]) == (346_000, 1, 16)
    assert lewm["train_seconds"] == 120 and lewm["solved_at_start"] == pytest.approx(2 / 12)
    assert pd.isna(row(table, "oracle")["speedup_vs_dino_wm"])  # a planner, but not a world model
    assert pd.isna(row(table, "gcbc")["speedup_vs_dino_wm"])


def test_plan_time_per_executed_step_compares_agents_whose_plans_are_of_different_lengths():
    """Of every episode: 0.1 s of planning and twice the offset in steps, unless the cell has another budget."""
    table = report.build_tables(small())
    assert row(table, "lewm")["plan_ms_per_step"] == pytest.approx(100 / 50)
    assert row(table, "lewm", offset=50)["plan_ms_per_step"] == pytest.approx(100 / 100)
    config = {"evaluate": {"budget": 20}}
    shorter = row(report.build_tables([cell("lewm", LEWM, config=config)]), "lewm")
    assert shorter["plan_ms_per_step"] == pytest.approx(100 / 20)
    elsewhere = row(report.build_tables([cell("lewm", LEWM, protocol="theirs-1")]), "lewm")
    assert pd.isna(elsewhere["plan_ms_per_step"])
    (view, *_) = views(report.summarise(small(), "t"))
    assert view.header[view.header.index("Plan time, median [quartiles]") + 1] == "Planning per environment step"
    assert any("2.00 ms" in line.cells for _, lines in view.groups for line in lines)


def test_operations_per_executed_step_are_the_mean_of_the_seeds_that_have_them():
    """An older record has none, and a table without any has no column of them."""
    old = cell("lewm", LEWM, seed=2).model_dump(mode="json")
    del old["offsets"][0]["flops_per_step"]
    counted = [cell("lewm", LEWM, seed=s, record={"flops_per_step": f}) for s, f in enumerate((2e6, 4e6))]
    cells = [*counted, CellRecord.model_validate_json(json.dumps(old)), cell("random", RANDOM)]
    table = report.build_tables(cells)
    assert row(table, "lewm")["flops_per_step"] == 3e6 and pd.isna(row(table, "random")["flops_per_step"])
    (view,) = views(report.summarise(cells, "t"))
    place = view.header.index("FLOPs per environment step")
    assert {line.cells[place] for _, lines in view.groups for line in lines} == {"3.00 M", ""}
    (before,) = views(report.summarise(cells[2:], "t"))
    assert set(view.header) - set(before.header) == {"FLOPs per environment step"}


@pytest.mark.parametrize(("trained", "told"), [(98.0, True), (109.0, False), (195.0, True), (131.0, False)])
def test_a_training_far_from_the_time_that_all_were_to_have_says_so(trained, told):
    config = {"training": {"seconds": 120}}
    found = row(
        report.build_tables([cell("lewm", LEWM, config=config, weights="trained", train_seconds=trained)]), "lewm"
    )
    assert (f"seed 0 trained for {trained:.0f} s of the 120 s" in found["note"]) == told
    own = row(report.build_tables([cell("lewm", LEWM, weights="trained", train_seconds=trained)]), "lewm")
    assert "trained for" not in own["note"]


def test_times_of_trainings_side_by_side_say_so():
    beside = HARDWARE | {"beside": "1"}
    cells = [cell("lewm", LEWM, train_hardware=beside, train_seconds=9.0), cell("gcbc", DINO, train_hardware=HARDWARE)]
    (line,) = [line for line in caption(report.summarise(cells, "t")) if line.startswith("Training times")]
    assert "side by side" in line and "1 thread each" in line
    assert not any(line.startswith("Training times") for line in caption(report.summarise(cells[1:], "t")))


def test_no_ratio_between_machines_and_a_named_stand_in_for_dino_wm():
    slow = cell("dino-wm", DINO, seconds=[2.0], hardware=HARDWARE | {"cpu": "Atom"})
    found = row(report.build_tables([cell("lewm", LEWM, seconds=[0.5]), slow]), "lewm")
    assert pd.isna(found["speedup_vs_dino_wm"]) and "another machine" in found["note"]
    gpu = cell("dino-wm", DINO, seconds=[2.0], hardware=HARDWARE | {"name": "another GPU"})
    found = row(report.build_tables([cell("lewm", LEWM, seconds=[0.5]), gpu]), "lewm")
    assert pd.isna(found["speedup_vs_dino_wm"])
    variant = cell("dino-wm:mae", DINO, seconds=[2.0])
    found = row(report.build_tables([cell("lewm", LEWM, seconds=[0.5]), variant]), "lewm")
    assert found["speedup_vs_dino_wm"] == 4 and "dino-wm:mae" in found["note"]


def test_latent_columns_weigh_seeds_by_their_pairs():
    records = [{"latent_oracle_hit": h, "latent_oracle_pairs": n, "distance_rank_correlation": r} for h, n, r in
               ((1.0, 30, 0.9), (0.5, 10, 0.7))]  # fmt: skip
    cells = [cell("lewm", LEWM, seed=i, record=r) for i, r in enumerate(records)]
    found = row(report.build_tables(cells), "lewm")
    assert found["latent_oracle_hit"] == pytest.approx((30 + 5) / 40)
    assert found["distance_rank_correlation"] == pytest.approx(0.8)


def test_the_terminal_names_the_profile_of_each_part():
    cells = [cell("lewm", LEWM), cell("lewm", DINO, profile="paper"), cell("lewm", RANDOM, protocol="paper-v3")]
    parts = [part.splitlines() for part in terminal(report.summarise(cells, "t")).split("\n\n")]
    told = {part[0].split("(")[1].split(";")[0]: [line.split()[1] for line in part[2:]] for part in parts}
    assert told == {"clean-1, quick": ["90.0"], "clean-1, paper": ["70.0"], "paper-v3, quick": ["20.0"]}


# What is not there


def test_absent_cells_keep_a_row_with_the_reason():
    cells = [cell("lewm", LEWM), absent("dino-wm:dinov2"), absent("pldm", "failed", "NaN at step 3")]
    table = report.build_tables(cells)
    missing, failed = row(table, "dino-wm:dinov2"), row(table, "pldm")
    assert (missing["status"], missing["note"]) == ("not run", "not run: weights unavailable, do X")
    assert (failed["status"], failed["note"]) == ("failed", "failed: NaN at step 3")
    numbers = missing.drop(["env", "agent", "goal_offset", "profile", "protocol", "status", "note"])
    assert numbers.isna().all()


def test_combinations_that_nobody_ran_are_rows_too():
    cells = [
        cell("lewm", LEWM),
        cell("pldm", LEWM),
        cell("lewm", LEWM, env=OTHER),
        cell("lewm", LEWM, offset=50, seed=1),
    ]
    table = report.build_tables(cells)
    for env, offset in ((OTHER, 25), (ENV, 50)):
        found = row(table, "pldm", env, offset)
        assert found["status"] == "not run" and "--agents/--seeds/--set run it" in found["note"]
    assert len(table) == 2 * 3


def test_partial_and_failed_seeds_are_marked():
    cells = [
        cell("lewm", LEWM),
        cell("lewm", LEWM[:4], seed=1, evaluation_complete=False),
        absent("lewm", "failed", "NaN", seed=2),
    ]
    found = row(report.build_tables(cells), "lewm")
    assert found["status"] == "partial" and found["n_seeds"] == 2
    assert "partial: evaluation of seed 1" in found["note"] and "seed 2 failed: NaN" in found["note"]
    assert found["hit"] == pytest.approx((9 + 4) / 14)
    assert "(partial)" in markdown(report.summarise(cells, "t"))


def test_nothing_but_absent_cells_still_makes_a_report(tmp_path):
    write.write_report([absent("lewm")], tmp_path, "t")
    assert "weights unavailable" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.png"))
    with pytest.raises(UserError, match="nothing to report"):
        write.write_report([], tmp_path, "t")


def test_groups_and_agents_have_a_fixed_order():
    names = ["oracle", "noop", "zeta", "dino-wm:a", "gcbc", "random", "lewm", "dino-wm", "pldm"]
    arms = ["pldm:latent=8", "lewm:latent=64", "lewm:latent=8"]
    table = report.build_tables([cell(n, LEWM) for n in names + arms])
    main = ["lewm", "pldm", "dino-wm", "dino-wm:a", "zeta", "gcbc", "oracle", "random", "noop"]
    assert list(table["agent"]) == [*main, "lewm:latent=8", "lewm:latent=64", "pldm:latent=8"]


def test_interquartile_mean_across_environments():
    across = report.summarise(small(), "t").across
    lewm = across[(across["agent"] == "lewm") & (across["goal_offset"] == 25)].iloc[0]
    assert lewm["n_envs"] == 2 and lewm["hit"] == pytest.approx(0.9)
    assert lewm["normalised"] == pytest.approx((0.9 - 0.2) / 0.8)
    assert set(across["goal_offset"]) == {25}  # 50 exists in one environment only
    assert "gcbc" not in set(across["agent"])


# The files


def test_the_order_of_the_cells_changes_no_byte(written, tmp_path):
    cells = small()
    np.random.default_rng(1).shuffle(cells)
    write.write_report(cells, tmp_path, "A small report")
    for path in sorted(written.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_when_a_cell_was_run_changes_no_table(written, tmp_path):
    cells = [c.model_copy(update={"created": f"2026-12-{30 - i}"}) for i, c in enumerate(small())]
    order = [(c.env, c.agent, c.seed) for c in report.summarise(cells, "t").cells]
    assert order == sorted(order)  # the bootstrap draws from the rows in this order
    write.write_report(cells, tmp_path, "A small report")
    for name in ("table.csv", "table.md", "table.tex", "episodes.csv"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_the_newest_record_of_a_cell_wins():
    old, new = cell("lewm", [0] * 10, created="2026-01-01"), cell("lewm", [1] * 10, created="2026-02-01")
    for cells in ([old, new], [new, old]):
        assert row(report.build_tables(cells), "lewm")["hit"] == 1


def test_csv_files_read_back(written):
    table = pd.read_csv(written / "table.csv")
    assert list(table.columns) == list(report.COLUMNS)
    assert table["hit"].dropna().between(0, 1).all()
    with (written / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(EpisodeRow.model_fields)
    assert len(rows) == sum(len(c.episodes) for c in small())
    assert {r["steps_to_hit"] for r in rows if r["hit"] == "False"} == {""}
    assert not any("." in r["steps_to_hit"] for r in rows)


def test_published_numbers_are_marked_and_never_in_ours(written):
    csv_text = (written / "table.csv").read_text()
    cells = {c for line in csv.reader(csv_text.splitlines()) for c in line}
    assert not {"47", "48", "47.0", "48.0", "48x"} & cells and "published" not in csv_text
    for name in ("table.md", "table.tex", "report.html"):
        text = re.sub(r"base64,[^\"]*", "", (written / name).read_text())
        (line,) = [part for part in re.split(r"\n|</tr>", text) if "48x" in part]
        assert "published (Maes et al. 2026)" in line and "about 200 / 1" in line
        assert "measured here" not in line


def test_markdown_shows_percent_with_intervals_counts_and_setting(written):
    text = (written / "table.md").read_text()
    wilson = scipy.stats.binomtest(7, 10).proportion_ci(0.95, "wilson")
    assert f"70.0 [{100 * wilson.low:.1f}, {100 * wilson.high:.1f}]" in text
    assert "400 ms [375, 425]" in text and "6.25x" in text and "10 / 2" in text
    assert "Protocol clean-1, profile quick." in text and "cpu Xeon" in text
    assert "dino-wm = DINO-WM (MAE ViT, 16 tokens)" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_latex_is_balanced(written):
    text = (written / "table.tex").read_text()
    assert text.count(r"\begin{") == text.count(r"\end{") > 0
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        cells = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if "&" in line}
        assert len(cells) == 1


def test_figures_are_readable_png_files_and_stale_ones_go(written, tmp_path):
    there = {"success.png", "plan_time.png", "success_vs_time.png", "training.png"}
    assert {path.name for path in written.glob("*.png")} == there  # nothing has arms, trained seeds or PLDM
    for name in there:
        with Image.open(written / name) as image:
            assert image.format == "PNG" and image.width >= 1200
    write.write_report([cell("lewm", LEWM)], tmp_path, "t")
    assert (tmp_path / "success.png").exists()
    (tmp_path / "training.png").write_bytes(b"of an earlier run")
    write.write_report([cell("lewm", LEWM)], tmp_path, "t")
    assert not (tmp_path / "training.png").exists()


def test_plots_touch_no_global_state():
    code = (
        "import sys, matplotlib\n"
        "style = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"  # it resolves
        "before = style()\n"
        "import lewm_bench.report.summarise\n"
        "assert 'matplotlib.pyplot' not in sys.modules and style() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_colours_are_stable_and_fixed_agents_differ():
    agents = Agents({name: agent_family(name).card for name in AGENTS})
    assert len({agents.colour(name) for name in AGENTS}) == len(AGENTS)
    assert agents.colour("someone's agent") == agents.colour("someone's agent") in SPARE_COLOURS
    assert agents.colour("lewm") == "#0072B2"


# The page


class Checker(HTMLParser):
    """Collects tags and attributes and requires every element to be closed where it should."""

    VOID = ("meta", "img", "br", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    return checker


def test_page_needs_nothing_from_outside(written):
    html = (written / "report.html").read_text()
    checker = parse(html)
    assert "http:" not in html and not re.search(r"(?<!https:)//", re.sub(r"base64,[^\"]*", "", html))
    assert html.count("https:") == html.count('<a href="https://arxiv.org/abs/')  # leads on, loads nothing
    assert not {"link", "iframe", "object"} & {tag for tag, _ in checker.tags}
    for _, attributes in checker.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith(("#", "https://arxiv.org/abs/", "data:text/csv;base64,"))
    anchors = {a["id"] for _, a in checker.tags if "id" in a}
    assert {a["href"][1:] for _, a in checker.tags if a.get("href", "").startswith("#")} <= anchors
    assert len(html) < 12_000_000 and "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_page_explains_itself(written):
    text = parse((written / "report.html").read_text()).text
    for phrase in (
        "lewm-bench run --suite pointmaze --profile quick", "weights unavailable, do X", "Protocol clean-1", "abc1234",
        "95 % intervals", "A world model learns", "DINO-WM (MAE ViT, 16 tokens)", "not run (not in the suite's list",
    ):  # fmt: skip
        assert phrase in text, phrase


EVIL = '<script>alert("x")</script></td>&|$\\frac{_[a](javascript:b)`%#~^$'


def test_names_and_reasons_of_strangers_are_shown_and_not_obeyed(tmp_path):
    steps = {"step": [0.0, 1.0], EVIL: [1.0, 0.5]}
    evil = {"label": EVIL, "note": EVIL, "suite": EVIL, "config": {EVIL: EVIL}, "training": steps}
    bad = cell(f"a{EVIL}", LEWM, env=f"x/{EVIL.replace('/', '')}", seconds=[0.1], **evil)
    write.write_report([bad, absent("b", reason=EVIL, env=bad.env)], tmp_path, EVIL)
    checker = parse((tmp_path / "report.html").read_text())
    assert [tag for tag, _ in checker.tags].count("script") == 1 and EVIL in checker.text  # ours
    markdown = (tmp_path / "table.md").read_text()
    assert "<script" not in markdown and not re.search(r"(?<!\\)\]\(", markdown)
    for line in (tmp_path / "table.tex").read_text().splitlines():
        assert r"\frac" not in line
        assert not re.search(r"(?<!\\)[#$](?!-\$|\\mu)(?<!\$-\$)|(?<!\\)\^", line), line
    assert (tmp_path / "success.png").exists() and (tmp_path / "training.png").exists()


def test_videos_are_embedded_with_their_outcome_and_only_from_the_folder(tmp_path):
    folder = tmp_path / "results"
    name = video_name(ENV, "lewm", 0, 25, 8)
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (folder / "videos").mkdir(parents=True)
    (folder / name).write_bytes(buffer.getvalue())
    (tmp_path / "secret.gif").write_bytes(b"secret")
    (folder / "key.txt").write_bytes(b"secret")
    names = (name, "../secret.gif", "key.txt", "videos/gone.gif")
    write.write_report([cell("lewm", LEWM, record={"videos": names})], folder, "t")
    html = (folder / "report.html").read_text()
    assert html.count("data:image/gif") == 1
    assert "failure, 9 away at the end (pair 8, seed 0)" in html
    assert "c2VjcmV0" not in html  # "secret" in base64
    assert "videos/gone.gif" in html


def test_large_videos_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "VIDEO_BYTES", 10)
    (tmp_path / "a.gif").write_bytes(b"x" * 11)
    write.write_report([cell("lewm", LEWM, record={"videos": ("a.gif",)})], tmp_path, "t")
    assert "left out of this page" in (tmp_path / "report.html").read_text()


def test_suites_can_add_sections(tmp_path):
    section = Section("Probes & <more>", "Text <b>", (("Quantity", "r"), ("x < y", "0.9")), ((b"png", "A figure"),))
    write.write_report([cell("lewm", LEWM)], tmp_path, "t", [section])
    checker = parse((tmp_path / "report.html").read_text())
    assert "Probes & <more>" in checker.text and "x < y" in checker.text and "Text <b>" in checker.text


# Formats


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0000452, "45.2 µs"), (0.352, "352 ms"), (2.5, "2.50 s"), (47, "47.0 s"), (121.8, "2.03 min"), (9000, "2.50 h"), (None, "")],
)  # fmt: skip
def test_seconds(value, shown):
    assert seconds(value) == shown


def test_hardware_line_names_the_processor_once():
    known = {"name": "Xeon", "threads": "1", "cpu": "Xeon", "device": "cpu", "cores": "2"}
    assert hardware_line(known) == "device cpu, cpu Xeon, 2 cores, 1 threads"
    assert hardware_line({"name": "H100", "cpu": "Xeon"}) == "name H100, cpu Xeon"


def test_percent_and_count():
    assert percent(0.97, 0.915, 0.99) == "97.0 [91.5, 99.0]"
    assert percent(-0.0001) == "0.0" and percent(0.021, sign="+") == "+2.1"
    assert percent(float("nan"), 0.1, 0.2) == "" and percent(0.5, None, None) == "50.0"
    assert [count(n) for n in (999, 346_112, 18_030_000, 999_600, None)] == ["999", "346k", "18.0M", "1.00M", ""]


@pytest.mark.parametrize("piece", [1, 2, 7, 10_000])
def test_episodes_are_written_in_pieces_that_do_not_show(monkeypatch, piece: int) -> None:
    """Also a piece in which nothing was reached, and rows of several cells that belong between each other."""
    cells = [c.model_copy(update={"episodes": c.episodes[::-1]}) for c in small()]
    whole = sorted((e for c in cells for e in c.episodes), key=lambda e: (
        e.protocol, e.profile, e.env, e.agent, e.seed, e.goal_offset, e.pair))  # fmt: skip
    frame = pd.DataFrame([e.model_dump() for e in whole], columns=list(EpisodeRow.model_fields))
    expected = frame.astype({"steps_to_hit": "Int64"}).to_csv(index=False, lineterminator="\n")
    halves = [c.model_copy(update={"episodes": c.episodes[half::2]}) for c in cells for half in (1, 0)]
    monkeypatch.setattr(write, "_PIECE", piece)
    assert "".join(write._episodes(cells)) == expected == "".join(write._episodes(halves))
    assert "".join(write._episodes([])).count("\n") == 1
