"""Jobs of submitit: with its own executor of local processes everywhere, with Slurm where there is one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch_suite import episodes, launched, tiny_run

from lewm_bench.core.errors import UserError
from lewm_bench.run.launch import on_slurm
from lewm_bench.run.launch.on_slurm import SlurmWorkers, slurm_launcher

pytest.importorskip("submitit", reason="submitit is not installed (pip install 'lewm-bench[slurm]')")


def has_slurm() -> bool:
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20, check=False).returncode == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    run, _ = tiny_run(tmp_path_factory.mktemp("alone"))
    launched(run, None)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "cluster",
    [
        "local",
        pytest.param("slurm", marks=pytest.mark.skipif(not has_slurm(), reason="no Slurm answers on this machine")),
    ],
)
def test_jobs_give_the_same(tmp_path: Path, alone, cluster: str) -> None:
    run, _ = tiny_run(tmp_path)
    cells = launched(run, slurm_launcher(cluster))
    assert [cell.status for cell in cells] == ["done"] * len(cells)
    assert episodes(run) == episodes(alone)
    assert {cell.hardware.get("shared") for cell in cells} == {
        "other jobs on the same machine" if cluster == "local" else None
    }
    assert list((run.out / "slurm").rglob("*.err"))


@pytest.mark.slow
@pytest.mark.skipif(not has_slurm(), reason="no Slurm answers on this machine")
def test_a_preempted_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal that Slurm sends before it takes a node away."""
    settings = ("gcbc.train.steps=600", "gcbc.train.save_every=20")
    run, _ = tiny_run(tmp_path, *settings, agents=("gcbc",))
    expected, _ = tiny_run(tmp_path / "undisturbed", *settings, agents=("gcbc",))
    launched(expected, None)
    told: list[object] = []
    finished = SlurmWorkers.finished

    def disturbed(self: SlurmWorkers, timeout: float):
        state = list((tmp_path / "cache" / "model").glob("*.partial/.state/state.json"))
        training = [job for job, task in self._running.items() if task.kind == "training"]
        if state and training and not told:
            subprocess.run(
                ["scancel", f"--signal={signal.SIGUSR2.name[3:]}", training[0].job_id], check=True, timeout=60
            )
            told.append(training[0])
        return finished(self, timeout)

    monkeypatch.setattr(SlurmWorkers, "finished", disturbed)
    cells = launched(run, slurm_launcher())
    assert told and [cell.status for cell in cells] == ["done", "done"]
    assert episodes(run) == episodes(expected)
    logs = "".join(path.read_text(errors="replace") for path in (run.out / "slurm").rglob("*.err"))
    assert "goes on at step" in logs


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_slurm.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm_launcher()


def test_what_slurm_does_not_know_is_refused(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path, "launch.slurm={nonsense: 3}")
    with pytest.raises(UserError, match=r"launch\.slurm: .*nonsense"):
        launched(run, slurm_launcher("local"))


@pytest.mark.slow
def test_a_job_that_was_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_slurm, "ASK", 0.5)
    run, _ = tiny_run(tmp_path, agents=("noop",))
    finished = SlurmWorkers.finished

    def killing(self: SlurmWorkers, timeout: float):
        for job in self._running:
            job._process.kill()
        time.sleep(0.2)
        return finished(self, timeout)

    monkeypatch.setattr(SlurmWorkers, "finished", killing)
    cells = launched(run, slurm_launcher("local"))
    assert {cell.status for cell in cells} == {"not run"}
    assert all("ended without a result; log: " in cell.reason for cell in cells)
