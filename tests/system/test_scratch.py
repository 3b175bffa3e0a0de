"""Temporary files: those of processes that are gone are deleted, those of living ones never."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lewm_bench.system import files, scratch
from lewm_bench.system.files import write_text
from lewm_bench.system.scratch import OLD_SECONDS, delete_stale, mark, scratch_folder
from lewm_bench.system.store import Store


@pytest.fixture(scope="module")
def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def name_of(pid: int) -> str:
    return mark().replace(f"-{os.getpid()}-", f"-{pid}-") + "x1y2"


def test_only_what_dead_processes_of_this_machine_left_is_deleted(tmp_path: Path, gone: int, monkeypatch) -> None:
    stale = [name_of(gone), f"below/{name_of(gone)}", f"{name_of(gone)}folder/within"]
    kept = [name_of(os.getpid()), name_of(os.getppid()), name_of(1), ".lewm-bench-tmp", ".lewm-bench-tmp-x-1-y"]
    kept += ["record.json", ".record.json.x1y2", "key.partial/frames.npy"]
    monkeypatch.setattr(scratch, "host_id", lambda: "0123abcd")
    kept.append(name_of(gone))  # of another machine, whose processes cannot be known
    monkeypatch.undo()
    for name in stale + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    delete_stale(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(set(kept))
    old = time.time() - OLD_SECONDS - 60
    for path in tmp_path.rglob("*"):
        os.utime(path, (old, old))
    delete_stale(tmp_path)
    assert not (tmp_path / kept[-1]).exists() and all((tmp_path / name).exists() for name in kept[:-1])


def test_a_link_is_deleted_and_not_what_it_points_at(tmp_path: Path, gone: int) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    (tmp_path / name_of(gone)).symlink_to(tmp_path / "mine")
    delete_stale(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine" / "file").exists()


def test_a_killed_write_is_cleaned_up_by_the_next_build_of_its_stage(tmp_path: Path, gone: int, monkeypatch) -> None:
    store, spec = Store(tmp_path / "cache"), {"a": 1}

    def killed(work: Path) -> None:
        (work / "below").mkdir()
        (work / "below" / name_of(gone)).write_text("half")
        (work.parent / name_of(gone)).write_text("half")
        (work / "kept").write_text("1")
        raise KeyboardInterrupt

    def resumed(work: Path) -> None:
        assert sorted(p.name for p in work.rglob("*")) == ["below", "kept"]

    with pytest.raises(KeyboardInterrupt):
        store.stage("kind", spec, killed)
    folder = store.stage("kind", spec, resumed)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no lock, no half file


def test_what_is_being_written_says_whose_it_is(tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(files.os, "chmod", lambda name, mode: seen.append(Path(name).name))
    write_text(tmp_path / ("n" * 250), "x")  # the name of a file may take all the room that there is
    assert seen[0].startswith(mark()) and scratch.is_stale(tmp_path / seen[0]) is False


def test_a_scratch_folder_is_gone_afterwards_and_those_of_the_dead_before(
    tmp_path: Path, gone: int, monkeypatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    (tmp_path / name_of(gone)).mkdir()
    (tmp_path / name_of(gone) / "film.gif").write_text("x")
    (tmp_path / "somebody").mkdir()
    with scratch_folder() as folder:
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([folder.name, "somebody"])
    assert [p.name for p in tmp_path.iterdir()] == ["somebody"]
