"""The speed table, its figures and its page from synthetic rows whose truth is known; and the rows' file."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from speed_rows import XEON, row

from lewm_bench.core.errors import UserError
from lewm_bench.evaluation.speed_record import SPEED_FILE, SpeedRow, load_speed, save_speed
from lewm_bench.report.agents import Agents, title
from lewm_bench.report.figures.speed import scaling, speedup
from lewm_bench.report.speed import write_speed_report
from lewm_bench.report.tables.speed import (
    COLUMNS,
    HEADER,
    TOGETHER,
    build_table,
    extrapolation,
    groups,
    reader_rows,
    terminal,
    together_rows,
)
from lewm_bench.run.cells import card_of_agent
from lewm_bench.run.records import SCHEMA

FILES = {"speed.json", "table.csv", "table.md", "speedup.png", "scaling.png", "report.html"}


KNOWN = Agents({name: card_of_agent(name) for name in ("lewm", "dino-wm")})


def small() -> list[SpeedRow]:
    """Two sizes, two modes, sweeps, one extrapolated row: LeWM takes 0.4 s, DINO-WM 2, 0.8 and 8 s."""
    rows = [row(), row("pldm", (0.3, 0.4, 0.5)), row("dino-wm", (1.8, 1.9, 2.0)), row("dino-wm:reencode", (3.9,) * 3)]
    rows += [row(mode="reference", search=(0.9,) * 3), row("dino-wm", (2.9,) * 3, mode="reference")]
    big = {"image_size": 128, "tokens_per_frame": 64}
    rows += [row(image_size=128), row("dino-wm", (7.9,) * 3, timed_iterations=4, **big)]
    for method, factor in (("lewm", 1), ("dino-wm", 10)):
        rows += [row(method, (0.001 * n * factor,) * 3, sweep="num_samples", num_samples=n, timed_samples=n) for n in (75, 300)]  # fmt: skip
        rows += [row(method, (0.1 * n * factor,) * 3, sweep="batch", batch=n) for n in (1, 10)]
    return rows


def cells(rows: list[SpeedRow], name: str) -> list[str]:
    """A column as people read it."""
    return [line[HEADER.index(name)] for line in reader_rows(build_table(rows))]


def test_the_table_holds_medians_and_quartiles_of_whole_plans():
    (r,) = (r for _, r in build_table([row(search=(5.0, 1.0, 2.0, 3.0), encode=0.5)]).iterrows())
    assert (r["plan_seconds_median"], r["plan_seconds_q25"], r["plan_seconds_q75"]) == (3.0, 2.25, 4.0)
    assert (r["search_seconds_median"], r["encode_seconds_median"], r["n"]) == (2.5, 0.5, 4)
    assert r["candidate_step_microseconds"] == pytest.approx(2.5 / (300 * 30 * 5) * 1e6)
    assert r["gflop_per_plan"] == 7.0 and r["peak_share"] == pytest.approx(6e9 / 2.5 / 1e11)
    assert r["machine"] == "device cpu, cpu Xeon, 2 cores, 1 threads" and r["extrapolated"] == ""
    assert list(r.index) == list(COLUMNS)


def test_a_candidates_step_is_one_of_all_episodes():
    one, ten = build_table([row(), row(batch=10)])["candidate_step_microseconds"]
    assert one == pytest.approx(0.3 / 45_000 * 1e6) and ten == pytest.approx(one / 10)


def test_people_read_units_and_shares():
    assert cells([row(parameters=18_034_478)], "parameters") == ["18.0M"]
    assert cells([row()], "one plan, median [quartiles]") == ["400 ms [350, 450]"]
    assert cells([row()], "of GEMM peak") == ["20 %"] and cells([row()], "n") == ["3"]
    assert cells([row()], "per candidate and block") == ["6.67 µs"]
    assert cells([row(mode="int8"), row(mode="reference")], "arithmetic") == ["8 bits", "float32, plain loop"]
    assert cells([row(encode_flops=2 * 10**12)], "GFLOP per plan") == ["2,006"]
    uncounted = row(encode_flops=None, search_flops=None)
    assert cells([uncounted], "of GEMM peak") == [""] and cells([uncounted], "times faster than DINO-WM") == [""]


def speedups(rows) -> list[float]:
    return build_table(rows)["speedup_vs_dino_wm"].tolist()


def test_the_speed_up_is_over_the_median_of_dino_wm_in_the_same_arithmetic_and_size():
    table = build_table(small())
    table = table[table["sweep"] == ""]
    assert table["speedup_vs_dino_wm"].tolist() == pytest.approx([5, 4, 1, 0.5, 3, 1, 20, 1])
    assert cells(small(), "times faster than DINO-WM")[:4] == ["5.00x", "4.00x", "1.00x", "0.50x"]
    assert speedups([row(search=(0.1, 0.1, 9.0), encode=0.0), row("dino-wm", (1.0, 1.0, 0.1), 0.0)])[0] == 10


@pytest.mark.parametrize(
    "other",
    [
        {"mode": "bfloat16"}, {"hardware": XEON | {"cpu": "Epyc"}}, {"hardware": XEON | {"cores": "4"}},
        {"commit": "def"}, {"profile": "paper"}, {"image_size": 128}, {"batch": 2}, {"context": 2},
        {"num_samples": 150, "timed_samples": 150}, {"num_iterations": 10, "timed_iterations": 10}, {"horizon": 3},
        {"sweep": "batch"},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_of_another_place_is_no_base(other):
    assert np.isnan(speedups([row(), row("dino-wm", **other)])[0])
    assert speedups([row(**other), row("dino-wm", (3.9,) * 3, **other), row("dino-wm")])[0] == pytest.approx(10)
    assert np.isnan(speedups([row(), row("dino-wm:reencode")])).all()
    assert cells([row(), row("dino-wm", **other)], "times faster than DINO-WM")[0] == ""


def test_a_hundred_plans_are_compared_with_one_after_another():
    """LeWM in groups of ten: 1.1 s each, so 11 s of a hundred plans; 20 s by themselves."""
    rows = [*small(), row("dino-wm", (9.9,) * 3, sweep="batch", batch=5, mode="tf32")]
    found = together_rows(build_table(rows))
    assert [cells[1:5] for cells in found] == [
        ("float32", "1", "20.0 s", "100 %"),
        ("float32", "10", "11.0 s", "55 %"),
        ("float32", "1", "110 s", "100 %"),
        ("float32", "10", "101 s", "92 %"),
        ("tf32", "5", "3.33 min", ""),  # nothing of its arithmetic was timed alone
    ]
    assert together_rows(build_table([row(), row(batch=2)])) == []
    slower = [row(batch=10), row(search=(0.9,) * 3), row(mode="tf32"), row("pldm")]
    shares = build_table(slower)["share_of_one_by_one"]
    assert shares[0] == pytest.approx(0.04) and shares[1] == 1


def test_memory_and_operating_system_do_not_make_another_machine():
    other = row("dino-wm", (3.9,) * 3, hardware=XEON | {"memory": "64 GiB", "os": "macOS"})
    assert speedups([row(), other])[0] == pytest.approx(10)


@pytest.mark.parametrize(
    "timed, says",
    [
        ((300, 30), ""),
        ((300, 4), "4 of 30 iterations"),
        ((75, 1), "1 of 30 iterations, 75 of 300 candidates"),
    ],
)
def test_what_was_timed_of_an_extrapolated_row(timed, says):
    samples, iterations = timed
    made = row(timed_samples=samples, timed_iterations=iterations)
    assert extrapolation(made) == says == cells([made], "extrapolated")[0] and made.extrapolated == bool(says)


def test_ratios_are_computed_and_published_ones_marked(tmp_path):
    slower = [r.model_copy(update={"encode_seconds": [3 * s for s in r.encode_seconds], "search_seconds": [3 * s for s in r.search_seconds]})
              if r.method == "dino-wm" else r for r in small()]  # fmt: skip
    before, after = build_table(small()), build_table(slower)
    ours = (before["method"] != "dino-wm").to_numpy()
    assert after["speedup_vs_dino_wm"][ours].to_numpy() == pytest.approx(3 * before["speedup_vs_dino_wm"][ours].to_numpy(), nan_ok=True)  # fmt: skip
    for table in (before, after):
        text = terminal(table)
        assert text.count("48x") == text.count("published: LeWM") == len(groups(table)) == 2
        assert [line for line in text.splitlines() if "48x" in line or "~47 s" in line] == [
            line for line in text.splitlines() if line.startswith("published: ")
        ]


def test_two_machines_and_sizes_are_groups_of_their_own():
    gpu = {"device": "cuda", "name": "H100"}
    rows = [*small(), row(hardware=gpu), row("dino-wm", hardware=gpu), row(batch=4), row(num_samples=600, context=3)]
    found = groups(build_table(rows))
    assert [len(part) for _, part in found] == [6, 2, 2, 1, 1]
    headings = [heading for heading, _ in found]
    assert headings[0] == (
        "quick, 64 px, cem, 300 candidates x 30 iterations x 5 blocks, 1 episode at a time, 1 frame of context, "
        "device cpu, cpu Xeon, 2 cores, 1 threads"
    )
    assert "128 px" in headings[1] and "H100" in headings[2] and "4 episodes at a time" in headings[3]
    assert "600 candidates" in headings[4] and "3 frames of context" in headings[4]
    assert terminal(build_table(rows)).count("method ") == 5


class Page(HTMLParser):
    """Tables of a page as rows of texts, its tags, and the sizes of its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables, self.tags, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "img":
            self.images.append(dict(attributes)["src"])

    def handle_data(self, data):
        if self.tables and self.tables[-1] and self.tables[-1][-1] and self.lasttag in ("td", "th", "span"):
            self.tables[-1][-1][-1] += data


def test_the_files_of_a_report(tmp_path):
    table = write_speed_report(small(), tmp_path, "Planning time")
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert load_speed(tmp_path) == small()
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS and len(lines) == len(table) == len(small())
    assert (lines[0]["method"], lines[0]["speedup_vs_dino_wm"], lines[0]["plan_seconds_median"]) == ("lewm", "5", "0.4")
    assert not any("published" in line["method"] for line in lines)  # what others measured is not ours

    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert markdown.startswith("# Planning time\n") and "Commit: abc1234." in markdown and "torch 2.5" in markdown
    found = [line for line in markdown.splitlines() if line.startswith("|")]
    found, together = found[:-6], found[-6:]
    assert len(found) == 2 * (2 + 2) + 8 and {line.count(" | ") for line in found} == {len(HEADER) - 1}
    assert {line.count(" | ") for line in together} == {len(TOGETHER) - 1}
    assert sum("published: LeWM (Maes et al. 2026)" in line for line in found) == 2
    assert "4 of 30 iterations" in markdown and "not measured here" in markdown

    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [len(t) for t in page.tables] == [1 + 6 + 2, 1 + 2 + 2, 1 + 4] and tuple(page.tables[0][0]) == HEADER
    assert page.tables[0][1][HEADER.index("times faster than DINO-WM")] == "5.00x"
    assert [line[0] for line in page.tables[1][-2:]] == ["published: LeWM (Maes et al. 2026)", "published: DINO-WM"]
    assert len(page.images) == 2 and all(source.startswith("data:image/png;base64,") for source in page.images)
    for name in ("speedup.png", "scaling.png"):
        picture = np.asarray(Image.open(io.BytesIO((tmp_path / name).read_bytes())).convert("L"))
        assert min(picture.shape) > 200 and picture.std() > 5


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_speed_report(small(), tmp_path / name, "T")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def lines_of(axes) -> dict[str, tuple[list[float], list[float]]]:
    """The solid, named lines of a figure's axes."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_the_figures_show_the_tables_numbers():
    table = build_table(small())
    left, right = speedup(table, KNOWN).axes
    assert [text.get_text().split("\n")[0] for text in left.get_yticklabels()] == [
        title(m, card_of_agent(m)) for m in ("lewm", "pldm", "dino-wm", "dino-wm:reencode", "lewm", "dino-wm")
    ]
    points = [line for line in left.get_lines() if len(np.atleast_1d(line.get_xdata())) == 1]
    assert [p.get_xdata()[0] for p in points] == pytest.approx([0.4, 0.5, 2, 4, 1, 3])
    curves = lines_of(right)
    assert curves["quick, float32"] == (pytest.approx([16, 64]), pytest.approx([5, 20]))
    assert curves["quick, float32, plain loop"] == ([16], pytest.approx([3]))
    samples, horizons, batches = scaling(table, KNOWN).axes
    assert lines_of(samples)["LeWM"] == ([75, 300], pytest.approx([0.175, 0.4]))
    assert lines_of(batches)["DINO-WM"] == ([1, 10], pytest.approx([1.1, 10.1]))
    assert not lines_of(horizons)


def test_what_is_extrapolated_is_drawn_hollow():
    shown = {}
    for timed in (30, 2):
        left, _ = speedup(build_table([row(), row("dino-wm", timed_iterations=timed)]), KNOWN).axes
        points = [line for line in left.get_lines() if len(np.atleast_1d(line.get_xdata())) == 1]
        shown[timed] = [p.get_markerfacecolor() == "white" for p in points]
    assert shown == {30: [False, False], 2: [False, True]}


@pytest.mark.parametrize(
    "rows",
    [[row()], [row("pldm")], [row("dino-wm")], [row("mine")], [row(encode_flops=None, search_flops=None)], [row(search=(0.5,))]],
    ids=lambda rows: rows[0].method,
)  # fmt: skip
def test_a_report_of_one_row(tmp_path, rows):
    (tmp_path / "scaling.png").write_bytes(b"of an earlier report")
    write_speed_report(rows, tmp_path, "T")
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"scaling.png"}  # nothing was swept


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="lewm-bench speed"):
        write_speed_report([], tmp_path, "T")
    assert not list(tmp_path.iterdir())


def test_the_page_escapes_what_records_say(tmp_path):
    evil = "<script>alert(1)</script>&"
    hostile = row(
        evil, profile=evil, commit=evil, weights=evil, hardware={"cpu": evil, "device": "cpu"}, versions={"torch": evil}
    )
    write_speed_report([hostile], tmp_path, evil)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    usual = tmp_path / "usual"
    write_speed_report([row("mine")], usual, "T")
    harmless = Page((usual / "report.html").read_text(encoding="utf-8"))
    page = Page(text)
    assert evil not in text and page.tags == harmless.tags and "alert" not in "".join(page.tags)
    assert page.tables[0][1][0] == f"{evil} (as built)" and page.tables[0][1][HEADER.index("weights")] == evil


def corrupted(**changes) -> str:
    return json.dumps({"schema_version": SCHEMA, "rows": [row().model_dump(mode="json") | changes]})


@pytest.mark.parametrize(
    "content, says",
    [
        ("{half", "Expecting"),
        ("", "Expecting"),
        ("[]", "schema_version is None"),
        ("null", "schema_version is None"),
        ("{}", "schema_version"),
        (json.dumps({"schema_version": SCHEMA}), "rows"),
        (json.dumps({"schema_version": SCHEMA, "rows": None}), "valid array"),
        (json.dumps({"schema_version": SCHEMA, "rows": [[]]}), "rows.0: Input should be an object"),
        (json.dumps({"schema_version": SCHEMA + 1, "rows": []}), f"schema_version is {SCHEMA + 1}"),
        (corrupted(batch="many"), "batch: "),
        (corrupted(encode_seconds=[0.1, "x"]), "encode_seconds.1: "),
        (corrupted(surprise=1), "surprise"),
        ("\xff", "UTF-8"),
    ],
)
def test_what_is_not_a_speed_record_is_one_line(tmp_path, content, says):
    path = tmp_path / SPEED_FILE
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as raised:
        load_speed(tmp_path)
    message = str(raised.value)
    assert str(path) in message and says in message and "`lewm-bench speed` again" in message and "\n" not in message


def test_no_record_at_all(tmp_path):
    with pytest.raises(UserError, match=r"speed.json is missing"):
        load_speed(tmp_path)
    (tmp_path / SPEED_FILE).mkdir()
    with pytest.raises(UserError, match="cannot read"):
        load_speed(tmp_path)


seconds = st.floats(0, 1e6, allow_subnormal=False)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
flops = st.none() | st.integers(0, 10**18)


@st.composite
def speed_rows(draw) -> SpeedRow:
    times = draw(st.lists(st.tuples(seconds, seconds), max_size=4))
    return row(
        draw(texts), [s for _, s in times], profile=draw(texts), mode=draw(texts), commit=draw(texts),
        encode_seconds=[e for e, _ in times], encode_flops=draw(flops), search_flops=draw(flops),
        peak_flops=draw(st.floats(1, 1e18)), hardware=draw(st.dictionaries(texts, texts, max_size=3)),
        batch=draw(st.integers(1, 9)), timed_samples=draw(st.integers(1, 300)), sweep=draw(texts),
    )  # fmt: skip


@given(st.lists(speed_rows(), max_size=3))
@settings(max_examples=60, deadline=None)
def test_rows_come_back_as_they_were(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("speed")
    save_speed(rows, folder)
    assert load_speed(folder) == rows
    before = (folder / SPEED_FILE).read_bytes()
    save_speed(load_speed(folder), folder)
    assert (folder / SPEED_FILE).read_bytes() == before


def test_a_rows_plan_seconds_are_sums():
    made = row(search=(1.0, 2.0), encode=0.5)
    assert made.plan_seconds == [1.5, 2.5] and not made.extrapolated
    assert row(timed_samples=299).extrapolated and row(timed_iterations=29).extrapolated


@pytest.mark.parametrize(
    "change",
    [{"commit": "def"}, {"batch": 10}, {"horizon": 3}, {"hardware": XEON | {"memory": "64 GiB"}}, {}],
    ids=str,
)
def test_folders_of_one_machine_can_be_joined(tmp_path, change):
    rows = [row(), row("dino-wm"), row(image_size=128), row("dino-wm", image_size=128, tokens_per_frame=64)]
    write_speed_report([*rows, *(r.model_copy(update=change) for r in rows)], tmp_path, "T")
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"scaling.png"}


@pytest.mark.parametrize(
    "changes",
    [{"encode_seconds": [0.1]}, {"mode": "float64"}, {"peak_flops": 0.0}, {"horizon": 0}, {"encode_flops": None}],
    ids=str,
)
def test_rows_that_cannot_be_shown_are_refused(tmp_path, changes):
    Path(tmp_path / SPEED_FILE).write_text(corrupted(**changes), encoding="utf-8")
    try:
        rows = load_speed(tmp_path)
    except UserError:
        return
    write_speed_report(rows, tmp_path / "out", "T")


def test_a_bar_in_a_name_makes_no_column(tmp_path):
    write_speed_report([row("a|b")], tmp_path, "T")
    lines = [line for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(HEADER) + 1}
