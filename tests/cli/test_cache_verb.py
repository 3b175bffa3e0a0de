"""``lewm-bench cache``: what it shows, what it asks, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import outcome

from lewm_bench.cli import cache as verb
from lewm_bench.system import store as store_module
from lewm_bench.system.store import Store, stage_key

DATA = {"env": "lewm_bench/TwoRoom-v0", "image_size": 64}
KEY = stage_key("dataset", DATA)


@pytest.fixture()
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "cache")
    store.stage("dataset", DATA, lambda work: (work / "numbers").write_bytes(bytes(3000)))
    store.stage("model", {"agent": "lewm", "seed": 1, "dataset": [KEY, "f"]}, lambda work: (work / "w").write_text(""))
    (store.root / "model" / "0123456789abcdef.corrupt-1").mkdir()
    store_module._end_use()
    return store.root


@pytest.fixture()
def cache(root, monkeypatch, capsys):
    return lambda *arguments: outcome(monkeypatch, capsys, "cache", *arguments)


def kept(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*/*"))


def test_it_shows_entries_and_sums(cache, root):
    status, out, err = cache("list")
    assert status == 0 and not err
    lines = out.splitlines()
    assert len(lines) == 3 + 2 + 2
    assert (
        lines[0].startswith(f"dataset      {KEY}")
        and lines[0].endswith("TwoRoom-v0, 64 px")
        and "used just now" in lines[0]
    )
    assert any(line.endswith("TwoRoom-v0, lewm, seed 1") for line in lines)
    assert any("0123456789abcdef.corrupt-1" in line and line.endswith("(corrupt)") for line in lines)
    assert lines[3].split()[:3] == ["dataset", "1", "entry"] and lines[4].split()[:3] == ["model", "2", "entries"]
    total = sum(p.stat().st_size for p in root.glob("*/*/**/*") if p.is_file())
    assert lines[5].split()[:3] == ["everything", "3", "entries"] and f"{total / 1024:.1f} KiB" in lines[5]
    assert lines[6] == f"cache: {root}"
    assert len(cache("list", "--kind", "dataset")[1].splitlines()) == 3


def test_a_dry_run_deletes_nothing(cache, root):
    before = kept(root)
    status, out, _ = cache("prune", "--older-than", "0d", "--dry-run")
    assert status == 0 and "would free" in out and "(3 entries)" in out and KEY in out
    assert kept(root) == before


def test_it_deletes_what_is_meant(cache, root):
    status, out, _ = cache("prune", "--corrupt", "--yes")
    assert status == 0 and "freed 0 B (1 entry)" in out
    assert len(kept(root)) == 2
    status, out, _ = cache("prune", "--kind", "model,pairs", "--yes")
    assert status == 0 and kept(root) == [KEY]
    assert cache("prune", "--older-than", "1d", "--yes")[1] == f"nothing to delete in {root}\n"
    assert kept(root) == [KEY]


@pytest.mark.parametrize(("answer", "left"), [(True, 1), (False, 3)])
def test_it_asks_first(cache, root, monkeypatch, answer, left):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(verb.typer, "confirm", lambda question: asked.append(question) or answer)
    status, out, _ = cache("prune", "--kind", "model")
    assert status == 0 and len(kept(root)) == left and len(asked) == 1
    assert asked[0].startswith("Delete ") and "(2 entries)" in asked[0]
    assert ("nothing was deleted" in out) is not answer


def test_what_is_in_use_is_said_and_kept(cache, root):
    Store(root).find("dataset", DATA)  # by this process
    status, out, _ = cache("prune", "--older-than", "0d", "--yes")
    store_module._end_use()
    assert status == 0 and f"in use, kept: dataset/{KEY}" in out and kept(root) == [KEY]


MISTAKES = {
    "nothing said": ((), "say what to delete"),
    "no duration": (("--older-than", "3x"), "as in 30d, got '3x'"),
    "no kind": (("--kind", "modl"), "did you mean 'model'"),
    "nobody to ask": (("--kind", "model"), "there is nobody to ask here; add --yes"),
    "an option that there is not": (("--everything",), "No such option"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(cache, root, monkeypatch, name):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    before, (arguments, said) = kept(root), MISTAKES[name]
    status, _, err = cache("prune", *arguments)
    assert status == 2 and said in err and err.count("\n") == 1
    assert kept(root) == before


def test_a_cache_that_is_not_there(cache, tmp_path):
    status, out, _ = cache("list", "--cache", str(tmp_path / "none"))
    assert status == 0 and out.splitlines()[-1] == f"cache: {tmp_path / 'none'}"
    assert cache("prune", "--older-than", "1d", "--cache", str(tmp_path / "none"))[0] == 0
    assert not (tmp_path / "none").exists()
