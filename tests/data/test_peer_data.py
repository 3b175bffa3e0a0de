"""Data sets that stable-worldmodel writes are imported as what they are, and evaluated from the rows that it draws.

Slow, and only where the environment variable names a Python that has the peer (tests/benchmarks/peer_weights.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lewm_bench.data.format import Dataset
from lewm_bench.data.importers import Imported, Names, Wish, import_data
from lewm_bench.evaluation.protocol import PAPER_V3_ALL, sample_pairs
from lewm_bench.run.environments import make_env

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peer_data

VARIABLE = "LEWM_BENCH_PEER_PYTHON"
SCRIPT = Path(peer_data.__file__)
ENVIRONMENT = SCRIPT.with_name("peer_weights.py")
EPISODES, STEPS = 12, 40

pytestmark = pytest.mark.slow


def peer(*arguments: Path | str | int) -> None:
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.skip(
            f"`python {ENVIRONMENT} environment peer` makes the peer's environment; then {VARIABLE}=peer/bin/python"
        )
    # Packages of this process are not the peer's.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900, env=own)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("h5py", "hdf5plugin", "lance", "gym_pusht"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("peer")
    peer("write", folder, EPISODES, STEPS)
    return folder


@pytest.fixture(scope="module")
def imported(theirs: Path) -> dict[str, Imported]:
    found = {}
    for name, env in peer_data.OURS.items():
        for suffix in peer_data.FORMATS.values():
            wish = Wish(theirs / f"{name}.{suffix}", theirs / f"{name}-{suffix}", Names())
            found[f"{name}.{suffix}"] = import_data(
                wish, lambda size, kwargs, env=env: make_env(env, size, kwargs), progress=False
            )
    return found


def test_pictures_and_steps_are_ours(imported: dict[str, Imported]) -> None:
    for name, each in imported.items():
        pictures, states = each.lines[-2:]
        assert float(pictures.split()[1]) < (0.1 if name.startswith("tworoom") else 1), pictures
        assert float(states.split()[3].rstrip(",")) < 1e-3, states
    assert imported["tworoom.h5"].dataset.meta.env_kwargs["legacy"] is True


def test_both_formats_hold_the_same_episodes(imported: dict[str, Imported]) -> None:
    for name in peer_data.OURS:
        exact, lossy = (imported[f"{name}.{suffix}"].dataset for suffix in ("h5", "lance"))
        np.testing.assert_array_equal(exact.ends, lossy.ends)
        np.testing.assert_array_equal(exact.actions, lossy.actions)
        np.testing.assert_allclose(exact.states, lossy.states, rtol=1e-6)
        frames = [data.frames[np.arange(0, len(data.frames), 20)].astype(int) for data in (exact, lossy)]
        assert np.abs(frames[0] - frames[1]).mean() < 1


def test_whole_episodes_are_those_of_our_simulators(imported: dict[str, Imported]) -> None:
    """From the first state alone; PushT where neither a wall nor a contact at the start is involved."""
    for name in peer_data.OURS:
        told, *_ = peer_data.differences(imported[f"{name}.h5"].dataset.folder)
        assert "elsewhere" not in told and "other" not in told, told
        assert int(told.split(": ")[1].split()[0]) >= (3 if name == "pusht" else 10), told


def test_the_rows_that_the_peers_script_draws(theirs: Path, imported: dict[str, Imported]) -> None:
    wanted, offset = 40, 10
    for name, env in peer_data.OURS.items():
        peer("rows", theirs / f"{name}.lance", theirs / "rows.npz", offset, wanted)
        rows = np.load(theirs / "rows.npz")
        data: Dataset = imported[f"{name}.lance"].dataset
        pairs = sample_pairs(data, make_env(env, 224, {}), PAPER_V3_ALL, wanted, offset)
        steps = pairs.start_row - data.starts[pairs.episode]
        if len(data) == EPISODES:  # none of a single frame was left out: episodes have their numbers
            np.testing.assert_array_equal(pairs.episode, rows["episode"])
            np.testing.assert_array_equal(pairs.start_row, rows["row"])
        np.testing.assert_array_equal(steps, rows["step"])


@pytest.mark.parametrize("name", ["tworoom-lance", "pusht-h5"])
def test_a_model_trains_and_plans_on_them(name: str, imported: dict[str, Imported], theirs: Path, monkeypatch) -> None:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(theirs / "cache"))
    monkeypatch.setattr(peer_data, "OURS", {name.split("-")[0]: ""})
    monkeypatch.setattr(peer_data, "FORMATS", {"": name.split("-")[1]})
    peer_data.plan(str(theirs))
    assert len(list((theirs / f"{name}-results/cells").glob("*.json"))) == 2
