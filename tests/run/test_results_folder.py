"""Results folders: one command at a time, and no record of another run is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from commands import outcome

from lewm_bench.core.errors import UserError
from lewm_bench.run.records import CellRecord, load_cells
from lewm_bench.run.results_folder import Incoming, claimed, incoming, line_about, set_aside
from lewm_bench.system.scratch import mark

PLACE = {"suite": "s", "profile": "quick", "protocol": "paper", "env": "lewm_bench/Maze-v0", "seed": 0}


def cell(agent: str, status: str = "done", note: str = "") -> CellRecord:
    return CellRecord(agent=agent, status=status, note=note, **PLACE)


def make(new: Incoming, record: CellRecord, film: bytes = b"film") -> None:
    """What a run leaves of one cell."""
    (new.folder / "videos").mkdir(exist_ok=True)
    (new.folder / "videos" / f"{record.agent}.gif").write_bytes(film)
    record.save(new.folder / "cells")
    new.publish()


def run(out: Path, *records: CellRecord, film: bytes = b"film") -> str:
    with incoming(out) as new:
        for record in records:
            make(new, record, film)
        return new.finish()


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_run_replaces_nothing_of_another(tmp_path) -> None:
    assert run(tmp_path, cell("lewm", note="first"), cell("gcbc"), film=b"old") == ""
    before = files(tmp_path)
    told = run(tmp_path, cell("lewm", note="second"), film=b"new")
    assert [c.note for c in load_cells([tmp_path])] == ["second"]
    assert [c.agent for c in load_cells([tmp_path / "earlier-1"])] == ["gcbc", "lewm"]
    assert files(tmp_path / "earlier-1") == before
    assert told == f"records of earlier runs are kept in {tmp_path / 'earlier-1'}"
    told = run(tmp_path, cell("pldm"))
    assert [c.note for c in load_cells([tmp_path / "earlier-2"])] == ["second"]
    assert files(tmp_path / "earlier-1") == before and "earlier-1, " in told and told.endswith("earlier-2")


def test_a_run_without_a_record_changes_nothing(tmp_path) -> None:
    run(tmp_path, cell("lewm"))
    before = files(tmp_path)
    with pytest.raises(ValueError), incoming(tmp_path) as new:
        (new.folder / "videos").mkdir()
        (new.folder / "videos" / "lewm.gif").write_bytes(b"of the new run")
        raise ValueError
    assert files(tmp_path) == before


def test_the_same_run_again_leaves_one_copy(tmp_path) -> None:
    cells = [cell("lewm"), cell("gcbc"), cell("pldm")]
    run(tmp_path, *cells)
    before = files(tmp_path)
    for _ in range(2):
        assert run(tmp_path, *cells) == ""
        assert files(tmp_path) == before


def test_a_killed_run_that_goes_on_ends_as_if_nothing_had_happened(tmp_path) -> None:
    """Killed behind its first cell; another run's records were there before."""
    cells = [cell("lewm"), cell("gcbc"), cell("pldm")]
    for where in ("whole", "killed"):
        run(tmp_path / where, cell("lewm", note="another run"), cell("dino-wm"))
    run(tmp_path / "whole", *cells)
    with incoming(tmp_path / "killed") as new:
        make(new, cells[0])
    run(tmp_path / "killed", *cells)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize("status", ["failed", "not run"])
def test_a_reason_is_not_kept_once_its_cell_was_measured(tmp_path, status) -> None:
    run(tmp_path, cell("lewm", status))
    assert run(tmp_path, cell("lewm")) == "" and not (tmp_path / "earlier-1").exists()
    run(tmp_path, cell("lewm", status))
    assert [c.status for c in load_cells([tmp_path / "earlier-1"])] == ["done"]


def test_what_is_not_ours_is_neither_moved_nor_deleted(tmp_path) -> None:
    run(tmp_path, cell("lewm"))
    for name in ("notes.txt", "earlier-thoughts/x", "earlier-7/mine", "videos.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    run(tmp_path, cell("lewm"))
    run(tmp_path, cell("gcbc"))
    for name in ("notes.txt", "earlier-thoughts/x", "earlier-7/mine", "videos.txt"):
        assert (tmp_path / name).read_text() == "mine"


def test_a_single_record_file_is_set_aside(tmp_path) -> None:
    set_aside(tmp_path, ["speed.json"], "speed.json")
    assert line_about(tmp_path) == "" and not list(tmp_path.iterdir())
    for text in ("one", "two"):
        (tmp_path / "speed.json").write_text(text)
        set_aside(tmp_path, ["speed.json"], "speed.json")
    assert files(tmp_path) == {"earlier-1/speed.json": b"one", "earlier-2/speed.json": b"two"}


# One at a time.


def hold(folder: Path, ready) -> None:
    with claimed(folder):
        ready.set()
        time.sleep(600)


@pytest.fixture()
def holder(tmp_path):
    """A process that has claimed a folder."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out", ready), daemon=True)
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_in_use_says_by_whom_and_since_when(tmp_path, holder) -> None:
    (tmp_path / "out" / "table.csv").write_text("kept")
    before = files(tmp_path / "out")
    with pytest.raises(UserError) as raised, claimed(tmp_path / "out"):
        pass
    text = str(raised.value)
    assert f"{tmp_path / 'out'} is in use by process {holder.pid} on " in text and " since 20" in text
    assert text.endswith("name another folder with --out") and "\n" not in text
    assert files(tmp_path / "out") == before
    with claimed(tmp_path / "other"):
        pass


def test_a_claim_of_a_dead_process_is_none_and_what_it_left_is_deleted(tmp_path, holder) -> None:
    left = tmp_path / "out" / mark().replace(f"-{os.getpid()}-", f"-{holder.pid}-")
    left.with_name(left.name + "abc").mkdir()
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with claimed(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / ".in-use.json").read_text())["pid"] == os.getpid()
        assert len(files(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").iterdir())


def test_a_second_command_in_the_folder_is_refused_and_costs_nothing(tmp_path, holder, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "results", cell("lewm"))
    common = ("--out", "out", "--quiet")
    for arguments in (
        ("run", "--suite", "pointmaze", "--agents", "noop", *common),
        ("evaluate", "noop", *common),
        ("speed", *common),
        ("report", "results", "--out", "out"),
    ):
        status, out, err = outcome(monkeypatch, capsys, *arguments)
        assert status == 2 and not out and "out is in use by process" in err.strip().splitlines()[-1], err
    assert set(files(tmp_path / "out")) == {".in-use.json", ".in-use.lock"}


def test_a_folder_is_free_after_an_error(tmp_path) -> None:
    (tmp_path / "was there").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError), claimed(tmp_path / "was there", tmp_path / "new"):
            raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["was there"]


def take_turns(folder: Path, results) -> None:
    begin = time.time()
    while time.time() - begin < 30:
        try:
            with claimed(folder):
                inside = folder / "inside"
                results.put(inside.exists())
                inside.touch()
                time.sleep(0.01)
                inside.unlink()
                return
        except UserError:
            continue


def test_two_are_never_in_a_folder_at_once(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=take_turns, args=(tmp_path, results)) for _ in range(6)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert found == [False] * 6
