"""Data sets that LeRobot writes are imported as what they are.

Slow, and only where the environment variable names a Python that has LeRobot (tests/benchmarks/peer_lerobot.py).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import recordings

from lewm_bench.data.importers import Names, Wish, import_data
from lewm_bench.run.environments import make_env

VARIABLE = "LEWM_BENCH_LEROBOT_PYTHON"
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "peer_lerobot.py"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_lerobot_writes(kind: str, tmp_path: Path) -> None:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(f"{SCRIPT} says how its environment is made; then {VARIABLE}=FOLDER/bin/python")
    for package in ("pyarrow", "av"):
        pytest.importorskip(package)
    walk = recordings.write_npz(tmp_path / "walk.npz")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(SCRIPT), str(walk), str(tmp_path / "theirs"), kind]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, env=own)
    assert done.returncode == 0, done.stderr[-2000:]
    wish = Wish(tmp_path / "theirs", tmp_path / "ours", Names())
    found = import_data(wish, lambda size, kwargs: make_env(recordings.ENV, size, kwargs), progress=False)
    assert len(found.dataset) == len(recordings.episodes())
    for got, wanted in zip(found.dataset, recordings.episodes(), strict=True):
        np.testing.assert_array_equal(got.actions, wanted.actions)
        np.testing.assert_allclose(got.states, wanted.states, rtol=1e-6)
        off = np.abs(got.frames.astype(int) - wanted.frames)
        assert off.max() == 0 if kind == "image" else off.mean() < 6
