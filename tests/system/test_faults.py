"""Whose fault it was, in one line, and where the traceback is: everything that is raised by code which is not ours."""

from __future__ import annotations

import errno
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from commands import outcome

from lewm_bench.cli import app as cli
from lewm_bench.core.errors import Explained
from lewm_bench.evaluation.history import images
from lewm_bench.run import environments
from lewm_bench.system.faults import (
    OURS,
    THEIRS,
    ProgramExit,
    error_line,
    explained,
    machine_line,
    place,
    result_or_error,
)
from lewm_bench.system.files import StorageError
from lewm_bench.train.diagnostics import effective_rank

THEIRS_PY = """
import sys

import gymnasium as gym
from toy_env import ToyEnv

from lewm_bench.agent import AgentConfig, Family, Loaded


class Odd(Exception):
    pass


def break_down(how):
    if how == "exit":
        sys.exit(0)
    raise Odd("boom\\nin two lines")


class Env(ToyEnv):
    def __init__(self, image_size=16, fails="", how="raise"):
        self.fails, self.how = fails, how
        if fails == "make":
            break_down(how)
        super().__init__(image_size)

    def simulate(self, states, actions):
        if self.fails == "simulate":
            break_down(self.how)
        return super().simulate(states, actions)


gym.register("theirs/Env-v0", Env)


class Config(AgentConfig):
    fails: str = ""
    how: str = "raise"


class Agent(Family):
    Config = Config
    kind = "policy"
    trainable = True
    history, frame_skip = 1, 5

    def train(self, setting, folder):
        break_down(setting.config.how)

    def load(self, setting, checkpoint):
        if setting.config.fails == "load":
            break_down(setting.config.how)
        self.setting = setting
        return Loaded(self, "theirs")

    def start(self, goals, rngs):
        break_down(self.setting.config.how)


class Untrained(Agent):
    trainable = False


TRAINED, UNTRAINED = Agent(), Untrained()
"""
SUITE = """
profiles: {quick: {}}
suites:
  theirs:
    title: Theirs
    envs:
      - {id: "theirs_pkg.code:theirs/Env-v0", name: Good}
      - {id: "theirs_pkg.code:theirs/Env-v0", name: Bad, kwargs: {fails: simulate, how: HOW}}
      - {id: "theirs_pkg.code:theirs/Env-v0", name: Unmade, kwargs: {fails: make, how: HOW}}
    agents: [noop]
    seeds: [0]
    settings:
      image_size: 16
      collect: {episodes: 20, steps: 12, policies: {drift: 1}}
      evaluate: {num_pairs: 1, goal_offset: [5]}
"""


@pytest.fixture()
def lewm_bench(tmp_path: Path, monkeypatch, capsys):
    """Run a command line beside a package of somebody's: (exit status, stdout, stderr)."""
    package = tmp_path / "theirs_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "code.py").write_text(THEIRS_PY)
    for name, text in {"raises": "1 / 0", "exits": "import sys; sys.exit(0)", "unreadable": "def f(:\n"}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("lewm_bench.system.device.share_cores", lambda: None)

    def call(*arguments: str, how: str = "raise") -> tuple[int, str, str]:
        (tmp_path / "s.yaml").write_text(SUITE.replace("HOW", how))
        return outcome(monkeypatch, capsys, *arguments)

    yield call
    for name in [name for name in sys.modules if name.startswith("theirs_pkg")]:
        del sys.modules[name]
    gym.registry.pop("theirs/Env-v0", None)


COMMON = ("--suite", "theirs", "--config", "s.yaml", "--cache", "cache", "--quiet")
AGENT, UNTRAINED = "theirs_pkg.code:TRAINED", "theirs_pkg.code:UNTRAINED"
CALLS = {
    "collect": (("collect", "Bad", *COMMON), "Env.simulate|break_down"),
    "collect unmade": (("collect", "Unmade", *COMMON), "break_down"),
    "train": (("train", AGENT, "--env", "Good", *COMMON), "break_down"),
    "load": (("evaluate", UNTRAINED, "--env", "Good", "--set", f"{UNTRAINED}.fails=load", *COMMON), "break_down"),
    "act": (("evaluate", UNTRAINED, "--env", "Good", "--out", "out", *COMMON), "break_down"),
    "check": (("check", "Unmade", "--config", "s.yaml"), "break_down"),
}


QUICK = {("act", "exit"), ("collect", "raise"), ("check", "raise")}


@pytest.mark.parametrize(
    "call, how",
    [
        pytest.param(call, how, marks=() if (call, how) in QUICK else pytest.mark.slow)
        for call in CALLS
        for how in ("raise", "exit")
    ],
)
def test_what_somebodys_code_raises_is_one_line_with_its_place(lewm_bench, tmp_path, monkeypatch, call, how) -> None:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    arguments, function = CALLS[call]
    if how == "exit" and arguments[0] in ("train", "evaluate"):
        agent = arguments[1]
        arguments = (*arguments, "--set", f"{agent}.how=exit")
    status, out, err = lewm_bench(*arguments, how=how)
    last = err.strip().splitlines()[-1]
    assert status == 1 and not out and "Traceback" not in err, err
    what = r"Odd: boom in two lines" if how == "raise" else r"it ended the program with sys.exit\(0\)"
    found = re.fullmatch(
        rf"lewm-bench: {what}, in theirs_pkg\.code\.({function}) \((.+):(\d+)\); traceback: (.+)", last
    )
    assert found, last
    lines = THEIRS_PY.splitlines()
    assert ("sys.exit(0)" if how == "exit" else "raise Odd") in lines[int(found[3]) - 1]
    kept = Path(found[4])
    assert kept.parent == (Path("out") if "--out" in arguments else kept.parent.parent) / "errors"
    assert kept.parent.parent.name == ("out" if "--out" in arguments else "cache")
    assert "Traceback" in kept.read_text() and "break_down" in kept.read_text()


@pytest.mark.parametrize(
    "module, what",
    [
        pytest.param("raises", "ZeroDivisionError", marks=pytest.mark.slow),
        ("exits", r"sys.exit\(0\)"),
        pytest.param("unreadable", "SyntaxError", marks=pytest.mark.slow),
    ],
)
def test_a_module_that_cannot_be_imported_fails_its_cell_and_no_other(lewm_bench, module, what) -> None:
    agent = f"theirs_pkg.{module}:AGENT"
    status, out, err = lewm_bench("run", "--envs", "Good", "--agents", f"noop,{agent}", "--out", "out", *COMMON)
    assert status == 1 and "Traceback" not in err and "noop" in out, err
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and re.search(rf"cannot be imported: .*{what}", failed[0]), err
    assert re.search(rf"{'' if module == 'unreadable' else 'theirs_pkg.'}{module} \(.*{module}\.py:1\)", failed[0])
    (kept,) = Path("out/errors").glob("*.txt")
    assert "Traceback" in kept.read_text() and f"details: errors/{kept.name}" in failed[0]
    status, out, err = lewm_bench("train", agent, *COMMON)
    assert status == 1 and not out and len(err.strip().splitlines()) == 1
    assert "cannot be imported" in err and Path(err.strip().rpartition("traceback: ")[2]).is_file()


def test_an_environment_package_that_exits_does_not_end_a_list(lewm_bench, monkeypatch, caplog) -> None:
    class Entry:
        value, dist = "theirs_pkg.exits", None

        def load(self):
            import theirs_pkg.exits  # noqa: F401

    monkeypatch.setattr(environments, "plugins", lambda group: [Entry()] if group == environments.ENV_GROUP else [])
    assert "lewm_bench/TwoRoom-v0" in environments.environment_ids()
    assert "theirs_pkg.exits" in caplog.text and "sys.exit(0)" in caplog.text


@pytest.mark.slow
def test_an_agent_that_exits_is_a_failed_cell(lewm_bench) -> None:
    status, out, err = lewm_bench(
        "run", "--envs", "Good,Bad", "--agents", f"{UNTRAINED},noop", "--out", "out", "--set", f"{UNTRAINED}.how=exit",
        *COMMON, how="exit",
    )  # fmt: skip
    assert status == 1 and "noop" in out and "Traceback" not in err
    assert len(list(Path("out/cells").glob("*.json"))) == 4
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3 and all("it ended the program with sys.exit(0)" in line for line in failed)


def test_control_c_in_somebodys_code_still_interrupts() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result_or_error(interrupted)


def test_a_full_disk_is_not_taken_for_somebodys_fault() -> None:
    def full() -> None:
        raise StorageError("full")

    with pytest.raises(StorageError):
        result_or_error(full)


def test_our_own_faults_say_so(lewm_bench, monkeypatch) -> None:
    monkeypatch.setattr("lewm_bench.run.benchmarks.load", None)
    status, out, err = lewm_bench("list", "suites", "--config", "s.yaml")
    assert status == OURS == 70 and not out and len(err.strip().splitlines()) == 1
    assert err.startswith("lewm-bench: this is a fault of lewm-bench, please report it: TypeError: ")
    assert Path(err.strip().rpartition("traceback: ")[2]).read_text().count("Traceback") == 1


def test_the_same_error_is_kept_once(tmp_path) -> None:
    for _ in range(2):
        error = result_or_error(lambda: 1 / 0)
        found = explained(error, tmp_path, "train")
        assert isinstance(found, Explained) and found.status == THEIRS and "test_faults" in str(found)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_traceback_that_cannot_be_kept_does_not_hide_the_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    found = explained(result_or_error(lambda: 1 / 0), tmp_path / "file", "train")
    assert "division by zero" in str(found) and "no traceback: cannot make the folder" in str(found)


def in_a_pool() -> None:
    raise ValueError("of a worker")


def test_the_place_of_an_error_in_another_process_is_known() -> None:
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        error = result_or_error(lambda: pool.submit(in_a_pool).result())
    assert str(place(error)).startswith(f"{__name__}.in_a_pool ({__file__}:")


def test_libraries_are_nobodys_code() -> None:
    """An error that numpy raises for us is ours, not numpy's."""
    error = result_or_error(lambda: images(np.zeros(())))
    assert str(place(error)).startswith(f"{__name__}.")  # this test called it
    error.__traceback__ = error.__traceback__.tb_next.tb_next
    assert place(error) is None and "AxisError" in error_line(error)


MACHINE = [
    (MemoryError(), "out of memory; lower"),
    (np._core._exceptions._ArrayMemoryError((10**12,), np.dtype(float)), "out of memory (Unable to allocate"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory (CUDA"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), "collect.chunk"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    (OSError(errno.EMFILE, "Too many open files", "/a/b"), "too many files are open at /a/b"),
    (OSError(errno.EIO, "Input/output error", "/a/b"), "/a/b failed (Input/output error)"),
    (type("FatalError", (Exception,), {"__module__": "mujoco"})("gladLoadGL error"), "OpenGL cannot draw here"),
    (type("GLError", (Exception,), {"__module__": "OpenGL.error"})("err = 1282"), "lewm-bench doctor"),
]  # fmt: skip


@pytest.mark.parametrize("error, line", MACHINE)
def test_what_the_machine_refuses_has_its_own_line(tmp_path, error, line) -> None:
    found = machine_line(error)
    assert line in found and "\n" not in found
    assert str(explained(error, tmp_path, "run")) == found and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("memory"), OSError(errno.ENOENT, os.strerror(errno.ENOENT))]
)
def test_what_is_not_the_machines_matter_is_not_said_so(error) -> None:
    assert machine_line(error) is None


def test_latents_that_are_not_finite_have_no_rank_and_raise_nothing() -> None:
    for bad in (float("nan"), float("inf"), 1e30):
        assert effective_rank(torch.full((8, 3), bad) * torch.arange(24.0).reshape(8, 3)).isnan()


def test_an_exit_keeps_the_place() -> None:
    error = result_or_error(lambda: sys.exit("no"))
    assert isinstance(error, ProgramExit) and error_line(error).startswith(
        "it ended the program with sys.exit('no'), in "
    )


def test_a_closed_pipe_is_the_readers_choice(monkeypatch, tmp_path) -> None:
    def closed(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with open(tmp_path / "stdout", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(cli, "app", closed)
        monkeypatch.setattr(sys, "argv", ["lewm-bench", "list"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 0
