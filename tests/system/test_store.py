from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.system import store as store_module
from lewm_bench.system.store import Store, default_cache, stage_key

SPEC = {"env": "toy", "seed": 0, "config": {"steps": 10, "lr": 1e-3}}


def build(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "numbers.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "card.json").write_text("{}")


def never(folder: Path) -> None:
    raise AssertionError("built again")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(store_module, "_verified", {})
    return Store(tmp_path / "cache")


def new_process() -> None:
    """Forget which checksums have been seen, as a new process would."""
    store_module._verified.clear()


def test_the_key_is_of_the_content() -> None:
    assert stage_key("data", SPEC) == stage_key("data", dict(reversed(SPEC.items())))
    assert len(stage_key("data", SPEC)) == 16
    others = [("train", SPEC), ("data", {**SPEC, "seed": 1}), ("data", {**SPEC, "seed": "0"}), ("data", {})]
    assert len({stage_key("data", SPEC), *(stage_key(*other) for other in others)}) == 5
    assert stage_key("data", {"a": 1}) == "7fddb2d6e0194eb4"  # a change here orphans every cache there is


def test_what_json_cannot_say_has_no_key() -> None:
    with pytest.raises(UserError, match="plain text and finite numbers"):
        stage_key("data", {"path": Path("x")})
    with pytest.raises(UserError, match="plain text and finite numbers"):
        stage_key("data", {"x": float("nan")})


def test_a_stage_is_built_once(store: Store) -> None:
    assert store.find("data", SPEC) is None
    folder = store.stage("data", SPEC, build)
    assert folder == store.root / "data" / stage_key("data", SPEC) == store.find("data", SPEC)
    assert store.stage("data", SPEC, never) == folder
    new_process()
    assert Store(store.root).stage("data", SPEC, never) == folder
    done = json.loads((folder / "done.json").read_text())
    assert done["spec"] == SPEC and set(done["files"]) == {"sub/numbers.bin", "card.json"}


def test_a_killed_build_goes_on_where_it_was(store: Store) -> None:
    def killed(folder: Path) -> None:
        (folder / "first").write_text("1")
        (folder / ".scratch").write_text("optimiser state")
        raise KeyboardInterrupt

    def resumed(folder: Path) -> None:
        assert (folder / "first").read_text() == "1" and (folder / ".scratch").is_file()
        (folder / "second").write_text("2")

    with pytest.raises(KeyboardInterrupt):
        store.stage("data", SPEC, killed)
    assert store.find("data", SPEC) is None
    folder = store.stage("data", SPEC, resumed)
    assert sorted(p.name for p in folder.iterdir()) == ["done.json", "first", "second"]


def test_a_kill_just_before_the_rename_costs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == store.folder("data", SPEC):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.stage("data", SPEC, build)
    monkeypatch.setattr(os, "replace", real)
    assert store.stage("data", SPEC, never).is_dir()


def test_a_full_disk_at_the_end_leaves_the_scratch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(folder: Path) -> None:
        (folder / ".state").mkdir()
        (folder / ".state" / "step").write_text("13")
        build(folder)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module, "write_text", full)
    with pytest.raises(UserError, match="disk is full"):
        store.stage("data", SPEC, trained)
    monkeypatch.undo()
    work = store.folder("data", SPEC).with_name(f"{stage_key('data', SPEC)}.partial")
    assert (work / ".state" / "step").read_text() == "13"
    folder = store.stage("data", SPEC, build)
    assert not list(folder.rglob(".*"))
    assert set(json.loads((folder / "done.json").read_text())["files"]) == {"sub/numbers.bin", "card.json"}
    new_process()
    assert store.stage("data", SPEC, never) == folder


def flip_a_byte(folder: Path) -> None:
    path = folder / "sub" / "numbers.bin"
    data = bytearray(path.read_bytes())
    data[12345] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped byte": ("numbers.bin has changed since it was written", flip_a_byte),
    "a file cut short": ("card.json has 1 bytes instead of 2", lambda f: (f / "card.json").write_text("{")),
    "a file missing": ("card.json is missing", lambda f: (f / "card.json").unlink()),
    "done.json cut short": ("done.json cannot be read", lambda f: (f / "done.json").write_text('{"files": {"card')),
    "done.json of another": ("done.json cannot be read", lambda f: (f / "done.json").write_text("[]")),
    "done.json missing": ("done.json is missing", lambda f: (f / "done.json").unlink()),
}


@pytest.mark.parametrize("in_new_process", [True, False])
@pytest.mark.parametrize("reason, damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_moved_aside_and_built_again(store: Store, reason, damage, in_new_process: bool, caplog) -> None:
    folder = store.stage("data", SPEC, build)
    damage(folder)
    if in_new_process:
        new_process()
    assert store.find("data", SPEC) is None
    with caplog.at_level(logging.WARNING):
        assert store.stage("data", SPEC, build) == folder
    assert "is damaged" in caplog.text and reason in caplog.text and "building it again" in caplog.text
    assert folder.with_name(f"{folder.name}.corrupt-1").is_dir()
    assert store.stage("data", SPEC, never) == folder


def numbers(folder: Path) -> list[float]:
    """What a stage of numbers is read with; as strict as JSON."""

    def refused(name: str) -> float:
        raise ValueError(f"{name} is no number")

    return json.loads((folder / "numbers.json").read_text(), parse_constant=refused)


def test_what_cannot_be_read_back_is_not_sealed(store: Store) -> None:
    def broken(folder: Path) -> None:
        (folder / "numbers.json").write_text("[NaN]")

    def mended(folder: Path) -> None:
        assert (folder / "numbers.json").is_file()  # goes on from what is there
        (folder / "numbers.json").write_text("[1]")

    with pytest.raises(ValueError, match="NaN is no number"):
        store.stage("data", SPEC, broken, numbers)
    assert store.find("data", SPEC) is None and not list(store.root.rglob("done.json"))
    assert numbers(store.stage("data", SPEC, mended, numbers)) == [1]
    assert store.stage("data", SPEC, never, numbers).is_dir()


def test_what_was_sealed_and_cannot_be_read_is_built_again(store: Store, monkeypatch, caplog) -> None:
    folder = store.stage("data", SPEC, lambda work: (work / "numbers.json").write_text("[NaN]"))
    assert store.stage("data", SPEC, lambda work: (work / "numbers.json").write_text("[1]"), numbers) == folder
    assert numbers(folder) == [1] and "cannot be read: NaN is no number" in caplog.text
    (aside,) = store.root.glob("data/*.corrupt-1")
    assert (aside / "numbers.json").read_text() == "[NaN]"
    # killed between the seal and the rename
    os.replace(folder, folder.with_name(f"{folder.name}.partial"))
    assert numbers(store.stage("data", SPEC, never, numbers)) == [1]


def test_checksums_are_read_once_per_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = store_module.checksum
    monkeypatch.setattr(store_module, "checksum", lambda path: read.append(path.name) or real(path))
    store.stage("data", SPEC, build)
    read.clear()
    store.stage("data", SPEC, never)
    assert read == []  # this process has just written them
    new_process()
    store.stage("data", SPEC, never)
    store.stage("data", SPEC, never)
    assert sorted(read) == ["card.json", "numbers.bin"]


def test_checksums_of_a_large_stage_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    read = []
    real = store_module.checksum
    monkeypatch.setattr(store_module, "checksum", lambda path: read.append(path.name) or real(path))
    monkeypatch.setattr(store_module, "LARGE", 1000)
    folder = store.stage("data", SPEC, build)
    read.clear()
    for _ in range(2):
        new_process()
        assert store.stage("data", SPEC, never) == folder and read == []
    assert store_module.stages(store.root) == [folder]
    assert store_module.fault(folder, again=True) is None and len(read) == 2
    (folder.with_name(f".{folder.name}.verified")).write_text("[")
    new_process()
    assert store.stage("data", SPEC, never) == folder and len(read) == 4
    shutil.copy2(folder / "card.json", folder / "other")
    os.replace(folder / "other", folder / "card.json")  # the same bytes and times, another file
    new_process()
    assert store.stage("data", SPEC, never) == folder and len(read) == 6
    before = (folder / "sub" / "numbers.bin").stat()
    flip_a_byte(folder)
    os.utime(folder / "sub" / "numbers.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    new_process()
    assert store_module.fault(folder) is None  # nothing shows it but the bytes
    assert "numbers.bin has changed" in store_module.fault(folder, again=True)
    flip_a_byte(folder)
    flip_a_byte(folder)
    assert store.stage("data", SPEC, build) == folder and "is damaged" in caplog.text


def slow_build(folder: Path) -> None:
    import time

    time.sleep(0.5)
    with (folder / "built").open("a") as file:
        file.write("x")


def one_process(root: Path, ready, logged) -> None:
    handler = logging.Handler()
    handler.emit = lambda record: logged.put(record.getMessage())
    logging.getLogger("lewm_bench").addHandler(handler)
    ready.wait()
    Store(root).stage("data", SPEC, slow_build)


def test_two_processes_do_not_build_the_same_stage(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    ready, logged = context.Barrier(2), context.Queue()
    processes = [context.Process(target=one_process, args=(store.root, ready, logged)) for _ in range(2)]
    for process in processes:
        process.start()
    message = logged.get(timeout=20)
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert (store.find("data", SPEC) / "built").read_text() == "x"
    assert "another process is building" in message and logged.empty()


def test_a_full_disk_is_one_line_and_the_work_is_kept(store: Store) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match="disk is full"):
        store.stage("data", SPEC, full)
    assert (store.root / "data" / f"{stage_key('data', SPEC)}.partial" / "half").is_file()


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="choose another --cache"):
        Store(tmp_path / "cache").stage("data", SPEC, build)


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("LEWM_BENCH_CACHE")
    assert default_cache().name == "lewm-bench"


def test_a_fresh_stage_is_built_again_once_and_the_old_one_is_kept(tmp_path: Path, caplog) -> None:
    old = Store(tmp_path).stage("data", SPEC, lambda work: (work / "value").write_text("old"))
    Store(tmp_path).stage("other", SPEC, build)
    fresh = Store(tmp_path, fresh={"data"})
    assert fresh.find("data", SPEC) is None and fresh.find("other", SPEC) is not None
    with caplog.at_level(logging.WARNING):
        folder = fresh.stage("data", SPEC, lambda work: (work / "value").write_text("new"))
    assert folder == old and (folder / "value").read_text() == "new" and fresh.find("data", SPEC) == folder
    assert (folder.with_name(f"{folder.name}.old-1") / "value").read_text() == "old"
    (record,) = caplog.records
    assert f"{folder.name}.old-1, which you can delete" in record.getMessage()
    assert fresh.stage("data", SPEC, never) == Store(tmp_path).stage("data", SPEC, never) == folder
    again = Store(tmp_path, fresh={"data"}).stage("data", SPEC, lambda work: (work / "value").write_text("newest"))
    assert {p.name.removeprefix(again.name) for p in again.parent.glob(f"{again.name}*")} == {"", ".old-1", ".old-2"}


def test_a_fresh_stage_does_not_go_on_from_an_unfinished_one(tmp_path: Path) -> None:
    def killed(work: Path) -> None:
        (work / "half").write_text("old")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).stage("data", SPEC, killed)
    folder = Store(tmp_path, fresh={"data"}).stage("data", SPEC, build)
    assert not (folder / "half").exists()
    assert (folder.with_name(f"{folder.name}.partial.old-1") / "half").read_text() == "old"
