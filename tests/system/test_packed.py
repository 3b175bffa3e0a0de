"""Cells in one compressed file: the same records, the same tables, and a line for what is damaged."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lewm_bench.cli import app as cli
from lewm_bench.core.errors import UserError
from lewm_bench.run.records import CellRecord, EpisodeRow, OffsetRecord, load_cells
from lewm_bench.system.packed import PACKED, write_packed
from lewm_bench.system.record_files import json_in_lines

NAMES = {"suite": "s", "profile": "quick", "protocol": "clean-1", "env": "lewm_bench/Maze-v0", "agent": "lewm"}


def cell(seed: int, hits: str = "1101", **fields) -> CellRecord:
    rows = tuple(
        EpisodeRow(
            **NAMES, seed=seed, goal_offset=25, pair=pair, hit=hit == "1", held=False, steps_to_hit=None, plans=1,
            distance_start=1.0, distance_end=0.5, encode_seconds=0.1, search_seconds=0.1, env_seconds=0.1, device="cpu",
            weights="trained", version="0", key="k",
        )
        for pair, hit in enumerate(hits)
    )  # fmt: skip
    given = {"status": "done", "label": "LeWM", "offsets": (OffsetRecord(goal_offset=25, plan_seconds=(0.2,)),)}
    return CellRecord(**{**NAMES, **given, "seed": seed, "episodes": rows, **fields})


def folder_of(path: Path, *cells: CellRecord) -> Path:
    for each in cells:
        each.save(path / "cells")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "run", cell(0), cell(1, training={"step": [1], "loss": [None]}))


def test_packed_cells_are_the_cells(folder: Path, tmp_path: Path) -> None:
    write_packed([folder], tmp_path / "packed")
    assert load_cells([tmp_path / "packed"]) == load_cells([folder])
    assert (tmp_path / "packed" / PACKED).read_bytes() == write_packed([folder], tmp_path / "again").read_bytes()


def test_only_times_are_rounded_and_to_the_microsecond(tmp_path: Path) -> None:
    third = 1 / 3
    offsets = (OffsetRecord(goal_offset=25, plan_seconds=(third,), distance_rank_correlation=third),)
    write_packed(
        [folder_of(tmp_path, cell(0, offsets=offsets, training={"step": [1], "loss": [third]}))], tmp_path / "p"
    )
    (found,) = load_cells([tmp_path / "p"])
    assert found.offsets[0].plan_seconds == (0.333333,) and found.offsets[0].distance_rank_correlation == third
    assert found.training["loss"] == [third]


def test_files_beside_packed_cells_are_newer(folder: Path, tmp_path: Path) -> None:
    write_packed([folder], folder)
    folder_of(folder, cell(1, "0000"))
    assert [sum(r.hit for r in c.episodes) for c in load_cells([folder])] == [3, 0]
    write_packed([folder], folder)  # each cell once
    lines = lzma.decompress((folder / PACKED).read_bytes()).splitlines()
    assert len(lines) == 2
    for path in (folder / "cells").glob("*.json"):
        path.unlink()
    assert [sum(r.hit for r in c.episodes) for c in load_cells([folder])] == [3, 0]


def test_a_report_of_packed_cells_is_that_of_the_cells(folder: Path, tmp_path: Path) -> None:
    for place, out, more in ((folder, tmp_path / "one", ["--pack"]), (tmp_path / "one", tmp_path / "two", [])):
        if place == tmp_path / "one":
            assert not (place / "cells").exists()
        done = CliRunner().invoke(cli.app, ["report", str(place), "--out", str(out), *more])
        assert done.exit_code == 0, done.output
    for name in ("table.csv", "table.md", "episodes.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda data: data[:-20], "cut off"),
        (lambda data: b"no archive" + data, "damaged"),
        (lambda data: lzma.compress(b"{\n"), "damaged"),
        (lambda data: lzma.compress(b"[1]\n"), "schema"),
        (lambda data: lzma.compress(b"\xff\n"), "damaged"),
    ],
)
def test_a_damaged_file_is_told_in_a_line(folder: Path, tmp_path: Path, damage, told: str) -> None:
    path = write_packed([folder], tmp_path / "packed")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=told) as error:
        load_cells([path.parent])
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_no_more_is_unpacked_than_a_text_may_have(folder: Path, tmp_path: Path, monkeypatch) -> None:
    path = write_packed([folder], tmp_path / "packed")
    monkeypatch.setattr("lewm_bench.system.packed.LARGEST_TEXT", 1000)
    with pytest.raises(UserError, match="more than 1000 bytes"):
        load_cells([path.parent])


def test_json_in_lines_is_the_same_json() -> None:
    data = {"schema": 1, "rows": [{"a": [1, 2.5, None]}, {"b": {"c": "x\ny"}}], "empty": [], "mixed": [1, {"d": 2}]}
    text = json_in_lines(data)
    assert json.loads(text) == data
    assert len(text.splitlines()) == 2 + len(data) + len(data["rows"]) + 1
