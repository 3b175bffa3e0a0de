"""The wheel: everything that runs, nothing else, and it runs from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lewm_bench

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    offline = []
    try:
        import hatchling  # noqa: F401

        offline = ["--no-build-isolation"]
    except ModuleNotFoundError:
        pass
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(REPOSITORY), "--no-deps", "-q", "-w", str(folder), *offline],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode and not offline:
        pytest.skip(f"hatchling is not installed and cannot be fetched: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_what_the_wheel_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"lewm_bench", f"lewm_bench-{lewm_bench.__version__}.dist-info"}
    assert {"lewm_bench/benchmarks.yaml", "lewm_bench/envs/__init__.py", "lewm_bench/agents/__init__.py"} <= names
    for folder, inside in (("lewm_bench", ""), ("envs", "envs/"), ("agents", "agents/")):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"lewm_bench/{inside}{path.relative_to(REPOSITORY / folder).as_posix()}" in names
    assert not [n for n in names if "test" in n.lower() or "__pycache__" in n]


@pytest.mark.slow
def test_an_installed_wheel_runs_from_an_empty_folder(wheel, tmp_path):
    place, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "LEWM_BENCH_CACHE": str(tmp_path / "cache")}

    def call(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=empty, env=env
        ).stdout

    where = call("-c", "import lewm_bench, lewm_bench.envs as e, lewm_bench.agents as a; print(e.__file__, a.__file__)")
    assert all(path.startswith(str(place)) for path in where.split()), where
    listed = call("-m", "lewm_bench", "list")
    assert "lewm_bench/PointMaze-UMaze-v0" in listed and "dino-wm" in listed
    assert str(place) in call("-m", "lewm_bench", "list", "profiles")
    out = call("-m", "lewm_bench", "run", "--suite", "smoke", "--agents", "noop,gcbc", "--device", "cpu", "--quiet")
    assert "  gcbc  " in out and (empty / "results" / "smoke" / "report.html").is_file()
