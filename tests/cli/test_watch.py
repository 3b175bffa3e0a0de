"""``lewm-bench watch``: the table, its endings, and what it says of a run in another process."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import outcome

from lewm_bench.cli.watch import laid_out
from lewm_bench.core.formatting import duration
from lewm_bench.system.status import Status, running

ENV = "lewm_bench/PointMaze-UMaze-v0"
TINY = f"""
profiles:
  quick: {{}}
suites:
  tiny:
    title: Tiny
    envs: [{ENV}]
    agents: [gcbc]
    seeds: [0, 1]
    settings:
      image_size: 32
      collect: {{episodes: 20, steps: 20}}
      evaluate: {{num_pairs: 2, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 16}}
      gcbc: {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 100000, batch_size: 4}}}}
"""
PROGRAM = "from lewm_bench.cli.app import main; main()"


def status(**change) -> Status:
    fields = {
        "host": "node1",
        "machine": "0",
        "pid": 7,
        "task": "train lewm, seed 0",
        "since": 1000.0,
        "updated": 1090.0,
    }
    return Status(**{**fields, **change})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (9660, "2 h 41 min"),
        (90000, "1 d 01 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text) -> None:
    assert duration(seconds) == text


def test_a_line_per_process_says_who_what_since_when_how_far_and_how_long_still() -> None:
    found = [
        status(done=340, total=1000, seconds_left=130.0, within="suite tiny, 1 of 4 done"),
        status(host="a-longer-name", pid=12345, task="collect", since=40.0),
    ]
    lines = laid_out(found, 1100.0).splitlines()
    since = time.strftime("%H:%M:%S", time.localtime(1000.0))
    head, first, second = ([part for part in line.split("  ") if part] for line in lines)
    assert [part.strip() for part in head] == ["machine", "process", "task", "since", "for", "done", "left", "part of"]
    told = ["node1", "7", "train lewm, seed 0", since, "1 min 40 s", "340 of 1000, 34 %", "2 min 00 s"]
    assert [part.strip() for part in first] == [
        *told,
        "suite tiny, 1 of 4 done",
    ]  # 10 s have gone by since it was written
    assert [part.strip() for part in second][:3] == ["a-longer-name", "12345", "collect"]
    assert second[-1].strip() == "17 min 40 s"


def test_columns_that_nobody_fills_are_left_out() -> None:
    assert laid_out([status()], 1100.0).splitlines()[0].split() == ["machine", "process", "task", "since", "for"]
    assert laid_out([], 0.0) == "nothing runs"


def test_it_prints_once_where_nobody_watches(tmp_path, monkeypatch, capsys) -> None:
    assert outcome(monkeypatch, capsys, "watch", "--every", "1", "--cache", str(tmp_path)) == (0, "nothing runs\n", "")


def test_a_cache_that_is_none_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    code, out, err = outcome(monkeypatch, capsys, "watch", "--cache", str(tmp_path / "none"))
    assert (code, out, err.count("\n")) == (2, "", 1) and "cannot read the cache" in err


def test_on_a_terminal_it_renews_until_control_c(tmp_path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, "watch", "--every", "0.2", "--cache", str(tmp_path)]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    shown = b""
    while shown.count(b"nothing runs") < 3:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0 and process.stderr.read() == ""
    assert b"renewed every 0.2 s until Control-C" in shown
    os.close(ours)


@pytest.mark.slow
def test_a_run_in_another_process_and_the_processes_that_it_starts_are_shown(tmp_path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", PROGRAM, "run", "--suite", "tiny", "--config", str(tmp_path / "tiny.yaml")]
    command += ["--cache", str(cache), "--out", str(tmp_path / "out"), "--quiet", "--jobs", "2"]
    run = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, stderr=subprocess.DEVNULL)
    try:
        trainings: list[Status] = []
        end = time.monotonic() + 300
        while len([t for t in trainings if t.seconds_left]) < 2 and time.monotonic() < end:
            assert run.poll() is None
            time.sleep(0.5)
            trainings = [s for s in running(cache) if s.task.startswith("train")] if cache.is_dir() else []
        assert {t.task for t in trainings} == {f"train gcbc, seed {seed}, {ENV}" for seed in (0, 1)}
        assert len({t.pid for t in trainings} - {run.pid}) == 2
        assert all(t.total == 100_000 and 0 < t.done < t.total for t in trainings)
        assert [s.task for s in running(cache) if s.pid == run.pid] == ["suite tiny"]
        watched = subprocess.run(
            [sys.executable, "-c", PROGRAM, "watch", "--cache", str(cache)], capture_output=True, text=True, check=True
        )
        assert len(watched.stdout.splitlines()) == 4 and "train gcbc, seed 1" in watched.stdout
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(60)
    until = time.monotonic() + 30
    while running(cache) and time.monotonic() < until:
        time.sleep(0.2)
    assert running(cache) == [] and not list(Path(cache / "running").glob("*.json"))
