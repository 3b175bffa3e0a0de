"""tests/benchmarks/gpu.sh, which is written for a machine that CI does not have, on one that it has."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lewm_bench.core.reading import read_json

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell script")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def steps(folder: Path) -> dict[str, str]:
    with (folder / "steps.tsv").open(encoding="utf-8") as file:
        return {row["step"]: row["exit"] for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize("arguments", [(), ("--device",), ("a", "b"), ("a", "--quick")])
def test_it_says_how_it_is_used(arguments: tuple[str, ...]) -> None:
    found = run(*arguments)
    assert found.returncode == 2 and "gpu.sh FOLDER" in found.stderr


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    assert run(str(tmp_path / "out"), "--minutes", "0").returncode == 0
    found = steps(tmp_path / "out")
    assert {"doctor", "speed", "training", "suite-pointmaze", "suite-pusht"} <= set(found)
    assert all(said.startswith("not run: ") for said in found.values())


@pytest.mark.slow
def test_every_step_of_it_works(tmp_path: Path) -> None:
    found = run(str(tmp_path), "--device", "cpu", "--tiny", "--minutes", "20")
    logs = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.log"))
    assert found.returncode == 0, found.stdout + logs
    assert {said for name, said in steps(tmp_path).items() if name != "peer"} == {"0"}
    rows = read_json(tmp_path / "speed" / "speed.json", "run it again")
    table = (tmp_path / "together-float32" / "table.md").read_text(encoding="utf-8")
    assert re.search(r"\| 2 \| [^|]* \| \d+ % \|", table)
    assert rows and (tmp_path / "suite-smoke" / "table.csv").is_file()
    said = (tmp_path / "training.txt").read_text(encoding="utf-8")
    assert re.match(r"[\d.]+ training steps per second of 64 clips, 32-true, 30 steps", said)
