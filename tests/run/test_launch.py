"""Stages that workers make: the same results whoever makes them, in whatever order, and failures told once."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launch_suite import episodes, launched, tiny_run

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.run.launch import launch, worker
from lewm_bench.run.launch.launch import Finished, make_stages
from lewm_bench.run.launch.on_devices import devices_launcher
from lewm_bench.run.launch.tasks import Due, Graph, Task
from lewm_bench.run.launch.worker import Done, Order, Place, code_version, differing, look, order_for, work
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import dataset_of
from lewm_bench.system.faults import sent
from lewm_bench.system.mirror import Mirror
from lewm_bench.system.store import Store


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """A run without workers."""
    run, _ = tiny_run(tmp_path_factory.mktemp("alone"))
    launched(run, None)
    return run


class Here:
    """``Workers`` that do their tasks in this process, in a random order, with a cache of their own where one is given."""

    def __init__(
        self, order: Order, seed: int = 0, cache: Path | None = None, fails: Mapping[Task, Exception] = {}
    ) -> None:
        self.order = replace(order, run=replace(order.run, store=Store(cache))) if cache else order
        self.random, self.fails = random.Random(seed), fails
        self.waiting: list[Due] = []
        self.done: list[Task] = []
        self.parcels: dict[Task, dict] = {}

    def places(self) -> Mapping[str, Place]:
        return {"here": look(self.order)}

    def submit(self, due: Sequence[Due]) -> None:
        for each in due:
            assert set(each.needs) <= set(self.done)
        self.waiting += due

    def finished(self, timeout: float) -> list[Finished]:
        due = self.waiting.pop(self.random.randrange(len(self.waiting)))
        self.done.append(due.task)
        if due.task in self.fails:
            return [Finished(due.task, Done((), "here", error=sent(self.fails[due.task])), {})]
        done, parcel = work(self.order, due, 1, "", [self.parcels.get(task, {}) for task in due.needs])
        self.parcels[due.task] = parcel
        return [Finished(due.task, done, parcel)]


def here(made: list[Here] | None = None, **given):
    @contextmanager
    def start(order: Order):
        workers = Here(order, **given)
        if made is not None:
            made.append(workers)
        yield workers

    return start


@pytest.mark.parametrize("seed", range(3))
def test_order_changes_nothing(tmp_path: Path, alone, seed: int) -> None:
    made: list[Here] = []
    run, _ = tiny_run(tmp_path)
    launched(run, here(made, seed=seed))
    assert episodes(run) == episodes(alone)
    kinds = [task.kind for task in made[0].done]
    # floors and the oracle once, what trains with each seed
    assert (kinds.count("data"), kinds.count("training"), kinds.count("episodes")) == (1, 4, len(run.suite.jobs))
    assert len(set(made[0].done)) == len(made[0].done)


def test_afterwards_nothing_is_left_to_make(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path)
    run, failures = make_stages(run, here(), "cpu")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*/done.json")}
    run_suite(run, failures)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/*/done.json")}


def test_without_a_shared_cache_stages_come_back(tmp_path: Path, alone) -> None:
    run, _ = tiny_run(tmp_path)
    launched(run, here(cache=tmp_path / "theirs"))
    assert episodes(run) == episodes(alone)
    names = [{p.relative_to(root) for p in root.glob("*/*")} for root in (tmp_path / "cache", tmp_path / "theirs")]
    assert names[0] == names[1] and names[0]


def test_a_worker_that_has_nothing_gets_what_it_reads(tmp_path: Path, alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task in a cache of its own."""
    caches = iter(range(1000))
    monkeypatch.setattr(worker, "cache_root", lambda order: tmp_path / f"cache-{next(caches)}")
    monkeypatch.setattr(worker, "_opened", {})
    run, _ = tiny_run(tmp_path)
    launched(run, here())
    assert episodes(run) == episodes(alone)


def test_stages_go_by_way_of_a_storage(tmp_path: Path, alone) -> None:
    run, _ = tiny_run(tmp_path)
    launched(run, here(cache=tmp_path / "theirs"), f"file://{tmp_path}/storage")
    assert episodes(run) == episodes(alone)
    # another machine, another cache: everything is there already
    made: list[Here] = []
    again, lines = tiny_run(tmp_path / "again")
    launched(again, here(made, cache=tmp_path / "third"), f"file://{tmp_path}/storage")
    assert episodes(again) == episodes(alone)
    assert not any("trained in" in line or "frames collected" in line for line in lines)


def test_a_damaged_archive_is_built_again(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path, agents=("noop",))
    storage = f"file://{tmp_path}/storage"
    launched(run, here(), storage)
    (archive,) = (tmp_path / "storage" / "dataset").glob("*.tar")
    archive.write_bytes(b"not an archive")
    again, _ = tiny_run(tmp_path / "again", agents=("noop",))
    launched(again, here(cache=tmp_path / "theirs"), storage)
    assert episodes(again) == episodes(run)


def test_what_fails_fails_the_jobs_that_need_it_and_no_other(tmp_path: Path, alone) -> None:
    run, _ = tiny_run(tmp_path)
    number = next(n for n, job in enumerate(run.suite.jobs) if job.agent == "lewm" and job.seed == 1)
    made: list[Here] = []
    cells = launched(run, here(made, fails={Task("training", number): NotRun("its node burned down")}))
    wrong = [(cell.agent, cell.seed, cell.status, cell.reason) for cell in cells if cell.status != "done"]
    assert wrong == [("lewm", 1, "not run", "its node burned down")]
    assert Task("episodes", number) not in made[0].done
    assert episodes(run) == [row for row in episodes(alone) if (row["agent"], row["seed"]) != ("lewm", "1")]


def test_what_nobody_foresaw_keeps_the_traceback_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("deep inside")

    run, _ = tiny_run(tmp_path, agents=("noop",))
    monkeypatch.setattr(
        worker,
        "do",
        lambda run, task, data: explode() if task.kind == "episodes" else dataset_of(run, run.suite.jobs[0].env),
    )
    for cell in launched(run, here()):
        assert cell.status == "failed" and "ZeroDivisionError: deep inside" in cell.reason
    for kept in (run.out / "errors").iterdir():
        assert "in explode" in kept.read_text(encoding="utf-8")


def test_an_environment_without_data_fails_its_jobs(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path)
    cells = launched(run, here(fails={Task("data", 0): UserError("no such maze")}))
    assert {(cell.status, cell.reason) for cell in cells} == {("failed", "no such maze")}
    assert not (tmp_path / "cache" / "dataset").exists()


def test_seeds_that_share_an_encoder_wait_for_the_first(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path, agents=("dino-wm", "lewm"))
    dataset_of(run, run.suite.jobs[0].env)
    graph = Graph(run)
    (data,) = graph.first()
    due = graph.after(data.task, None)
    first = {(run.suite.jobs[d.task.job].agent, run.suite.jobs[d.task.job].seed) for d in due}
    assert first == {("dino-wm", 0), ("lewm", 0), ("lewm", 1)}
    (dino,) = (d.task for d in due if run.suite.jobs[d.task.job].agent == "dino-wm")
    after = {(d.task.kind, run.suite.jobs[d.task.job].seed) for d in graph.after(dino, None)}
    assert after == {("training", 1), ("episodes", 0)}


def test_pairs_are_sorted_once_for_all(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path, "evaluate.protocol=clean-2", "evaluate.candidates=4", "evaluate.num_pairs=1")
    made: list[Here] = []
    launched(run, here(made))
    assert [task.kind for task in made[0].done].count("pairs") == 1


def test_workers_that_differ_are_refused() -> None:
    same = Place("a", code_version(), "cpu", 2, True, "")
    assert differing({"1": same, "2": same._replace(host="b")}) == ""
    assert "b has lewm-bench 0.0" in differing({"1": same, "2": same._replace(host="b", version="0.0 (abc)")})
    assert "different devices (cpu, cuda)" in differing({"1": same, "2": same._replace(device="cuda")})
    assert differing({"1": same._replace(problem="no room")}) == "the worker a: no room"


def test_nothing_is_made_if_no_worker_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = tiny_run(tmp_path)
    monkeypatch.setattr(Here, "places", lambda self: {})
    with pytest.raises(UserError, match="no worker is there"):
        make_stages(run, here(), "cpu")
    assert list((tmp_path / "cache").iterdir()) == []  # not even the token


def test_the_order_of_a_run_travels(tmp_path: Path) -> None:
    import pickle

    run, _ = tiny_run(tmp_path)
    order = order_for(run, "cpu", "token", "")
    back = pickle.loads(pickle.dumps(order))
    assert back.run.suite == run.suite and back.threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("url", "problem"),
    [("nonsense://x", "nonsense"), ("file:///proc/nowhere", "cannot be written")],
)
def test_a_storage_that_cannot_be_used_is_refused_first(tmp_path: Path, url: str, problem: str) -> None:
    run, _ = tiny_run(tmp_path)
    with pytest.raises(UserError, match=problem):
        make_stages(run, here(), "cpu", url)
    assert not (tmp_path / "cache").exists()


def test_a_mirror_gives_back_what_it_got(tmp_path: Path) -> None:
    mirror = Mirror("memory://lewm-bench-test")
    folder = tmp_path / "a" / "kind" / "key"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "x.bin").write_bytes(b"123")
    mirror.publish(folder)
    mirror.publish(folder)  # is there already
    assert not mirror.fetch(tmp_path / "b" / "kind" / "other")
    assert mirror.fetch(tmp_path / "b" / "kind" / "key")
    assert (tmp_path / "b" / "kind" / "key" / "below" / "x.bin").read_bytes() == b"123"


@pytest.mark.slow
def test_processes_of_several_devices_give_the_same(tmp_path: Path, alone) -> None:
    run, _ = tiny_run(tmp_path)
    cells = launched(run, devices_launcher("cpu,cpu"))
    assert episodes(run) == episodes(alone)
    shared = {cell.hardware.get("shared") for cell in cells}
    assert shared == {"other processes on the same cores"}
    assert "shared device" in (run.out / "table.md").read_text(encoding="utf-8")


def test_the_bar_names_what_runs_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = tiny_run(tmp_path)
    monkeypatch.setattr(launch.time, "monotonic", lambda: 100.0)
    since = {Task("episodes", n): 90.0 - n for n in range(5)}
    assert launch._running(run, since).startswith("PointMaze-UMaze-v0: episodes of")
    assert launch._running(run, since).endswith("and 2 more")
