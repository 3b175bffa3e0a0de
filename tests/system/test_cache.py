"""What is kept in a cache and what is deleted from it, with real stores, other processes and other people's files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lewm_bench
from lewm_bench.core.errors import UserError
from lewm_bench.system import cache as cache_module
from lewm_bench.system import store as store_module
from lewm_bench.system.cache import IN_USE, Wish, about, chosen_of, delete, duration, entries, is_held, prune, size_of
from lewm_bench.system.scratch import PREFIX, host_id
from lewm_bench.system.store import Store, stage_key

DAY = 86_400
DATA = {"env": "lewm_bench/TwoRoom-v0", "image_size": 64}
MODEL = {"agent": "lewm", "seed": 3, "dataset": [stage_key("dataset", DATA), "f"]}


def build(work: Path) -> None:
    (work / "below").mkdir(exist_ok=True)
    (work / "below" / "numbers").write_bytes(bytes(1000))


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    """A cache that nobody uses: what this process was given is forgotten, as it is when a process ends."""
    found = Store(tmp_path / "cache")
    found.stage("dataset", DATA, build)
    found.stage("model", MODEL, build)
    store_module._end_use()
    return found


def names(found) -> list[str]:
    return [entry.name for entry in found]


def everything(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.name != store_module.IN_USE)


def interrupted(store: Store, spec: dict, kind: str = "model") -> Path:
    def killed(work: Path) -> None:
        (work / ".state").write_bytes(bytes(500))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage(kind, spec, killed)
    store_module._end_use()
    return store.unfinished(kind, spec)


def set_aside(store: Store) -> tuple[Path, Path]:
    """A damaged stage and one that was built again."""
    folder = store.find("model", MODEL)
    (folder / "below" / "numbers").write_bytes(b"other")
    store_module._verified.clear()
    Store(store.root).stage("model", MODEL, build)
    Store(store.root, fresh=["model"]).stage("model", MODEL, build)
    store_module._end_use()
    return folder.with_name(f"{folder.name}.corrupt-1"), folder.with_name(f"{folder.name}.old-1")


# What there is.


def test_every_entry_with_its_size_state_and_subject(store: Store) -> None:
    partial, (corrupt, old) = interrupted(store, {"agent": "gcbc"}), set_aside(store)
    found = {entry.name: entry for entry in entries(store.root)}
    dataset, model = store.folder("dataset", DATA), store.folder("model", MODEL)
    assert {path: found[path.relative_to(store.root).as_posix()].state for path in (dataset, model, partial, corrupt, old)} == {
        dataset: "finished", model: "finished", partial: "partial", corrupt: "corrupt", old: "old",
    }  # fmt: skip
    assert len(found) == 5
    assert found[f"model/{model.name}"].about == "TwoRoom-v0, lewm, seed 3"
    assert found[f"dataset/{dataset.name}"].about == "TwoRoom-v0, 64 px"
    assert found[f"model/{partial.name}"].size == 500
    whole = sum(p.stat().st_size for p in model.rglob("*") if p.is_file())
    assert found[f"model/{model.name}"].size == whole == size_of(model) > 1000
    assert [e.kind for e in entries(store.root)] == sorted(e.kind for e in entries(store.root))


def test_what_a_specification_tells_of() -> None:
    data = stage_key("dataset", DATA)
    told = {
        "TwoRoom-v0, lewm:dropout=0, seed 3, offset 25": {"name": "lewm:dropout=0", "env": "lewm_bench/TwoRoom-v0", "model": MODEL, "goal_offset": 25},
        "my-maze, gcbc, seed 0": {"agent": "gcbc", "seed": 0, "dataset": ["unknown", "f"], "env": "my-maze"},
        "lewm, seed 1": {"agent": "lewm", "seed": 1, "dataset": "gone"},
        "TwoRoom-v0": {"dataset": data, "seed": 0},
        "": {"something": "else"},
    }  # fmt: skip
    for text, spec in told.items():
        assert about(spec, {data: DATA["env"]}) == text


def test_a_hit_renews_the_time_of_last_use(store: Store) -> None:
    folder = store.folder("model", MODEL)
    for path in (folder, folder / "done.json"):
        os.utime(path, (0, 0))
    (entry,) = (e for e in entries(store.root) if e.kind == "model")
    assert entry.used == 0
    store.find("model", MODEL)
    (entry,) = (e for e in entries(store.root) if e.kind == "model")
    assert time.time() - entry.used < 60 and entry.made == 0


def test_an_empty_place_has_nothing(tmp_path: Path) -> None:
    assert entries(tmp_path / "nowhere") == []


# Whose it is.


def strangers(root: Path) -> list[Path]:
    """What other people might keep there."""
    files = [
        "notes.txt", "model/readme.md", "photos/0123456789abcdef.jpg", "model/my-own/weights.pt", "model/0123456789abcdef/weights.pt",
        "model/0123456789abcdef.backup/weights.pt", "model/0123456789abcdef.corrupt/weights.pt", "Backup/0123456789abcdef.partial/x",
        "model/0123456789ABCDEF.partial/x", "model/0123456789abcdef.partial-1/x", ".hidden/0123456789abcdef.old-1/x",
    ]  # fmt: skip
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    (root / "model" / "fedcba9876543210.partial").write_text("a file")
    elsewhere = root.parent / "elsewhere" / "0123456789abcdef.old-1"
    elsewhere.mkdir(parents=True)
    (elsewhere / "x").write_text("mine")
    (root / "linked").symlink_to(elsewhere.parent)
    (root / "model" / "0000000000000000.old-1").symlink_to(elsewhere)
    return [root / name for name in files] + [root / "model" / "fedcba9876543210.partial", elsewhere / "x"]


def test_other_peoples_files_are_neither_shown_nor_touched(store: Store) -> None:
    theirs = strangers(store.root)
    assert {entry.state for entry in entries(store.root)} == {"finished"} and len(entries(store.root)) == 2
    gone, kept = prune(entries(store.root))
    assert len(gone) == 2 and not kept
    assert all(path.read_text() in ("mine", "a file") for path in theirs)
    assert (store.root / "linked").is_symlink() and (store.root / "model" / "0000000000000000.old-1").is_symlink()


# Which are meant.


def test_every_condition_must_hold(store: Store) -> None:
    partial, (corrupt, old) = interrupted(store, {"agent": "gcbc"}), set_aside(store)
    for path in (partial, corrupt, store.folder("dataset", DATA), store.folder("dataset", DATA) / "done.json"):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    for path in corrupt.iterdir():
        os.utime(path, (time.time() - 40 * DAY,) * 2)

    def taken(**wish) -> set[str]:
        return set(names(chosen_of(entries(store.root), Wish(**wish))[0]))

    everything = set(names(entries(store.root)))
    assert taken() == everything
    dataset = f"dataset/{stage_key('dataset', DATA)}"
    assert taken(kinds=frozenset(["dataset"])) == {dataset}
    assert taken(unused_seconds=30 * DAY) == {dataset, f"model/{partial.name}", f"model/{corrupt.name}"}
    assert taken(states=frozenset(["partial"])) == {f"model/{partial.name}"}
    assert taken(states=frozenset(cache_module.ASIDE)) == {f"model/{corrupt.name}", f"model/{old.name}"}
    assert taken(states=frozenset(["corrupt", "old"]), unused_seconds=30 * DAY) == {f"model/{corrupt.name}"}
    assert taken(kinds=frozenset(["dataset"]), unused_seconds=50 * DAY) == set()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY), ("1.5h", 5400), ("2w", 14 * DAY), ("10m", 600), ("0d", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "-1d", "3 days", "1y", "nan d", ""])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="as in 30d, got"):
        duration(text)


# Deletion.


def test_what_is_deleted_is_gone_with_what_lies_beside_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE", 1)
    store_module._verified.clear()
    folder = store.find("model", MODEL)  # notes what it has read
    store_module._end_use()
    assert (folder.parent / f".{folder.name}.verified").is_file()
    interrupted(store, {"agent": "gcbc"})  # leaves a lock file
    set_aside(store)
    gone, kept = prune(entries(store.root))
    assert len(gone) == 5 and not kept
    assert everything(store.root) == ["dataset", "model"]
    assert store.stage("model", MODEL, build).is_dir()


PROGRAM = """
import sys
from pathlib import Path
from lewm_bench.system.store import Store

def build(work):
    (work / "half").write_text("")
    print("building", flush=True)
    sys.stdin.readline()

store = Store(Path(sys.argv[1]))
if sys.argv[2] == "builds":
    store.stage("model", {"agent": "other"}, build)
else:
    store.stage("dataset", {"env": "lewm_bench/TwoRoom-v0", "image_size": 64}, build)
    print("reads", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def process(store: Store, what: str) -> Iterator[subprocess.Popen]:
    place = os.pathsep.join(map(str, [Path(lewm_bench.__file__).parents[1], *sys.path]))
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store.root), what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": place},
    )  # fmt: skip
    try:
        assert started.stdout.readline()
        yield started
    finally:
        started.kill()
        started.communicate()


def test_what_another_process_builds_is_kept(store: Store) -> None:
    with process(store, "builds") as other:
        found = {entry.state: entry for entry in entries(store.root) if entry.kind == "model"}
        assert is_held(found["partial"]) and not is_held(found["finished"])
        chosen, held = chosen_of(entries(store.root), Wish())
        assert held == [found["partial"]] and found["partial"] not in chosen
        assert delete(found["partial"]) == IN_USE  # also if it began only after it was chosen
        assert (found["partial"].folder / "half").is_file()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.wait(20) == 0
    done = store.find("model", {"agent": "other"})
    assert done is not None and (done / "half").is_file()
    store_module._end_use()
    (entry,) = (e for e in entries(store.root) if e.folder == done)
    assert delete(entry) == ""


def test_what_another_process_reads_is_kept_until_it_ends(store: Store) -> None:
    with process(store, "reads") as other:
        chosen, held = chosen_of(entries(store.root), Wish())
        assert names(held) == [f"dataset/{stage_key('dataset', DATA)}"] and len(chosen) == 1
        assert delete(held[0]) == IN_USE and held[0].folder.is_dir()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.wait(20) == 0
    assert not is_held(held[0]) and delete(held[0]) == ""


def test_what_a_killed_process_has_used_can_be_deleted(store: Store) -> None:
    with process(store, "builds") as other:
        other.kill()
        other.wait(20)
        (partial,) = (e for e in entries(store.root) if e.state == "partial")
        assert not is_held(partial) and delete(partial) == ""
    with process(store, "reads") as other:
        other.kill()
        other.wait(20)
        assert not chosen_of(entries(store.root), Wish())[1]


def test_what_is_asked_for_at_the_last_moment_is_put_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the renaming another process may be given the stage."""
    (entry,) = (e for e in entries(store.root) if e.kind == "model")
    real: Callable = os.replace

    def replaced(source, target):
        store_module._use(entry.folder)
        monkeypatch.setattr(os, "replace", real)
        real(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    assert delete(entry) == IN_USE
    assert store.find("model", MODEL) == entry.folder


def test_an_interrupted_deletion_leaves_nothing_that_is_taken_for_a_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.folder("model", MODEL)

    def interrupt(path):
        (Path(path) / "done.json").unlink()  # some of it is gone
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prune(e for e in entries(store.root) if e.kind == "model")
    monkeypatch.undo()
    (left,) = (p for p in folder.parent.iterdir() if p.name.startswith(PREFIX))
    gone = subprocess.Popen([sys.executable, "-c", ""])  # as if that process had been another, which has ended
    gone.wait()
    dead = left.with_name(f"{PREFIX}-{host_id()}-{gone.pid}-{folder.name}")
    left.rename(dead)
    assert not folder.exists() and store.find("model", MODEL) is None
    (entry,) = (e for e in entries(store.root) if e.kind == "model")
    assert (entry.state, entry.key, entry.folder) == ("deleted", folder.name, dead)
    assert delete(entry) == "" and not dead.exists()
    dead.mkdir()
    store.stage("model", MODEL, build)  # or the next build of the kind takes it away
    assert not dead.exists()


def test_what_cannot_be_deleted_does_not_stop_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def refused(source, target):
        if "dataset" in str(source):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", refused)
    gone, kept = prune(entries(store.root))
    assert names(gone) == [f"model/{stage_key('model', MODEL)}"]
    assert kept == {f"dataset/{stage_key('dataset', DATA)}": "cannot be moved (Permission denied)"}
    assert store.find("dataset", DATA) is not None
