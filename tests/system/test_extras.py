"""Packages that only one environment needs: without them it says the command, and everything else goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lewm_bench.core.errors import NotRun
from lewm_bench.system import extras
from lewm_bench.system.extras import remedy, require

REPOSITORY = Path(__file__).parents[2]


def hidden(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # what Python then raises is that of a package that is absent


def test_what_is_there_is_returned() -> None:
    assert require("json.decoder", "this test") is sys.modules["json.decoder"]


@pytest.mark.parametrize(
    "module, extra",
    [
        ("gym_pusht.envs.pusht", "pusht"),
        ("pymunk", "pusht"),
        ("cv2", "pusht"),
        ("pygame", "pusht"),
        ("ogbench", "cube"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, module, extra) -> None:
    package = module.partition(".")[0]
    hidden(monkeypatch, package, module)
    with pytest.raises(NotRun) as raised:
        require(module, "PushT")
    assert str(raised.value) == f"PushT needs the package '{package}': pip install 'lewm-bench[{extra}]'"


def test_a_package_that_another_one_misses_is_the_one_that_is_named(monkeypatch, tmp_path) -> None:
    (tmp_path / "their_scene.py").write_text("import ogbench.manipspace\n")
    monkeypatch.syspath_prepend(tmp_path)
    hidden(monkeypatch, "ogbench")
    with pytest.raises(NotRun, match=r"Scene needs the package 'ogbench': pip install 'lewm-bench\[cube\]'"):
        require("their_scene", "Scene")


def test_every_extra_is_one_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.EXTRAS.values()) <= set(project["optional-dependencies"])


def test_what_no_extra_brings_is_installed_by_its_name(monkeypatch) -> None:
    monkeypatch.setattr(extras.sys, "version_info", (3, 12, 1))
    assert remedy("some_package") == "pip install some-package"
    assert remedy("dm_control") == "pip install dm-control"
    monkeypatch.setattr(extras.sys, "version_info", (3, 13, 0))
    for package in ("dm_control", "labmaze", "ogbench"):  # an extra would install nothing there
        assert "3.13" in remedy(package) and "use Python 3.10 to 3.12" in remedy(package)
    assert remedy("gym_pusht") == "pip install 'lewm-bench[pusht]'"
    assert remedy("some_package") == "pip install some-package"


def test_a_package_that_is_installed_but_cannot_be_loaded_is_one_line(monkeypatch, tmp_path) -> None:
    (tmp_path / "needs_gl.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory', name='needs_gl')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotRun, match=r"PushT.*needs_gl.*libGL\.so\.1"):
        require("needs_gl", "PushT")


def test_an_error_inside_a_package_is_not_hidden(monkeypatch, tmp_path) -> None:
    (tmp_path / "their_bug.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("their_bug", "PushT")
    assert isinstance(require("types", "PushT"), types.ModuleType)


# The environments themselves, in a process that never sees the package.

WITHOUT = "import sys; sys.modules[{package!r}] = None; sys.argv = ['lewm-bench', *{arguments!r}]; "
WITHOUT += "from lewm_bench.cli.app import main; main()"


def without(package: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own, without a package."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LEWM_BENCH_CACHE": str(folder / "cache")}
    code = WITHOUT.format(package=package, arguments=arguments)
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder, env=env
    )


@pytest.mark.parametrize(
    "suite, package, what, command",
    [
        ("pusht", "gym_pusht", "PushT", "pip install 'lewm-bench[pusht]'"),
        pytest.param("pusht", "pymunk", "PushT", "pip install 'lewm-bench[pusht]'", marks=pytest.mark.slow),
        ("cube", "ogbench", "Cube", "pip install 'lewm-bench[cube]'"),
    ],
)
def test_a_suite_that_cannot_run_here_is_one_line_with_the_command(tmp_path, suite, package, what, command) -> None:
    done = without(package, tmp_path, "run", "--suite", suite, "--device", "cpu", "--quiet")
    first, *lines = done.stderr.splitlines()
    assert done.returncode == 2 and not done.stdout and first.startswith(f"suite {suite}, profile quick"), done.stderr
    assert lines == [f"lewm-bench: {what} needs the package '{package}': {command}"]
    assert not list((tmp_path / "cache").glob("dataset/*/done.json"))
    assert not list((tmp_path / "results" / suite / "cells").glob("*"))


@pytest.mark.slow
def test_a_list_says_why_an_environment_is_not_there_and_goes_on(tmp_path) -> None:
    done = without("ogbench", tmp_path, "list", "envs")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line}
    assert done.returncode == 0 and not done.stderr
    assert lines["lewm_bench/Cube-v0"].endswith(
        "unavailable: Cube needs the package 'ogbench': pip install 'lewm-bench[cube]'"
    )
    assert "actions 2 in [-1, 1]" in lines["lewm_bench/PointMaze-UMaze-v0"]
