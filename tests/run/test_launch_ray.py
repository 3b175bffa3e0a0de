"""The same results from a Ray cluster: one that starts by itself, one of two nodes without a shared cache, one whose workers die."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from launch_suite import episodes, launched, tiny_run

from lewm_bench.core.errors import UserError
from lewm_bench.run.launch.on_ray import _settle, ray_launcher

pytest.importorskip("ray", reason="Ray is not installed (pip install 'lewm-bench[ray]')")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    run, _ = tiny_run(tmp_path_factory.mktemp("alone"))
    launched(run, None)
    return run


@pytest.fixture(autouse=True)
def no_cache_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher names the cache, to the workers that it starts, by the environment."""
    monkeypatch.delenv("LEWM_BENCH_CACHE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as Ray was imported: a token of this user is for other clusters


def test_a_cluster_that_starts_by_itself(tmp_path: Path, alone) -> None:
    run, lines = tiny_run(tmp_path)
    cells = launched(run, ray_launcher())
    assert episodes(run) == episodes(alone)
    assert all("shared" not in cell.hardware for cell in cells)
    assert any(line.startswith("1 worker on ") for line in lines)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster of two nodes as two processes, with a core and a cache each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", "--num-cpus=1"]
    places = (
        ["--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"],
        [f"--address={address}"],
    )
    with ExitStack() as nodes:
        for number, where in enumerate(places):
            own = {
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
                "LEWM_BENCH_CACHE": str(tmp_path / f"node-{number}"),
            }
            nodes.enter_context(running([*command, *where], os.environ | own, tmp_path / f"{number}.log"))
        yield address


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A node, which takes its processes with it; other clusters of this machine are left alone."""
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as node:
        try:
            until = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text():
                assert node.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            node.terminate()
            node.wait(60)


def test_two_nodes_without_a_shared_cache(tmp_path: Path, alone, two_nodes: str) -> None:
    run, _ = tiny_run(tmp_path)
    cells = launched(run, ray_launcher(two_nodes))
    assert episodes(run) == episodes(alone)
    assert {cell.hardware["shared"] for cell in cells} == {"other Ray nodes on the same machine"}
    made = [{p.name for p in (tmp_path / f"node-{n}" / "model").glob("*")} for n in range(2)]
    ours = {p.name for p in (tmp_path / "cache" / "model").glob("*")}
    assert made[0] | made[1] == ours and len(ours) == 4


def workers_at_work(cache: Path) -> Iterator[int]:
    """Processes that do a task in a cache; Ray names them by it."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            named = (folder / "cmdline").read_bytes().startswith(b"ray::PointMaze")
            if named and f"LEWM_BENCH_CACHE={cache}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:  # it is gone, or somebody else's
            continue


def test_workers_that_die_again_and_again(tmp_path: Path, alone) -> None:
    """Ten times, at random moments, whichever worker does something at that time."""
    run, _ = tiny_run(tmp_path, "lewm.train.steps=400", "gcbc.train.steps=400", "lewm.train.save_every=20")
    expected, _ = tiny_run(tmp_path / "undisturbed", "lewm.train.steps=400", "gcbc.train.steps=400")
    launched(expected, None)
    killed, over = [], threading.Event()

    def kill() -> None:
        moments = random.Random(0)
        while len(killed) < 10 and not over.is_set():
            time.sleep(moments.uniform(0.2, 1.5))
            if (busy := next(workers_at_work(tmp_path / "cache"), None)) is not None:
                os.kill(busy, signal.SIGKILL)
                killed.append(busy)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        cells = launched(run, ray_launcher())
    finally:
        over.set()
        thread.join()
    assert [cell.status for cell in cells] == ["done"] * len(cells)
    assert episodes(run) == episodes(expected)
    assert len(killed) >= 3, "too few to tell anything"


def test_an_address_where_nobody_is(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path)
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        launched(run, ray_launcher("127.0.0.1:1"))


def test_a_token_is_shown_where_there_is_one(tmp_path: Path) -> None:
    kept = tmp_path / "token"
    for environment, address, mode in (
        ({"RAY_AUTH_TOKEN_PATH": str(kept)}, "a:1", None),
        ({"RAY_AUTH_TOKEN": "x"}, "a:1", "token"),
        ({"RAY_AUTH_TOKEN": "x"}, "", None),
        ({"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"}, "a:1", "disabled"),
    ):
        _settle(address, environment)
        assert environment.get("RAY_AUTH_MODE") == mode
    kept.write_text("x")
    environment = {"RAY_AUTH_TOKEN_PATH": str(kept)}
    _settle("a:1", environment)
    assert environment["RAY_AUTH_MODE"] == "token"
    for start, token in (({}, 64), ({"RAY_AUTH_MODE": "disabled"}, None)):  # one that starts by itself
        environment = start | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
        _settle("", environment)
        assert len(environment.get("RAY_AUTH_TOKEN", "")) == (token or 0)
