"""What a container grants, in trees that look like /proc and /sys of version 1, 2 and both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lewm_bench.system import doctor, provenance, resources
from lewm_bench.system.resources import cores, limit_threads, memory, quota

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"
V1_CPU = "31 25 0:27 {} /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "33 25 0:29 {} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
UNIFIED = "34 25 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw"
GIB = 2**30
INF = float("inf")


def tree(root: Path, own: str, mounts: str, files: Mapping[str, str]) -> Path:
    """A machine: its /proc/self/cgroup, its /proc/self/mountinfo, and limits by their path below /sys/fs/cgroup."""
    texts = {"proc/self/cgroup": own, "proc/self/mountinfo": mounts}
    for name, text in {**texts, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("max 100000\n", INF),
        ("150000 100000\n", 1.5),
        ("400000 100000", 4.0),
        ("50000 100000\n", 0.5),
        ("100 0\n", INF),
        ("nonsense\n", INF),
        ("many 100000\n", INF),
        ("1 2 3\n", INF),
        ("\xe4 100000\n", INF),
        ("", INF),
    ],
)
def test_the_quota_of_a_container(text: str, granted: float, tmp_path: Path) -> None:
    assert quota(tree(tmp_path, "0::/\n", V2, {"cpu.max": text})) == granted


def test_no_limit_where_there_are_no_files(tmp_path: Path) -> None:
    assert quota(tmp_path) == memory(tmp_path) == INF
    assert cores(tmp_path) == resources._affinity() >= 1


def test_the_usual_place_is_read_where_proc_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(f"{GIB}\n")
    assert (quota(tmp_path), memory(tmp_path)) == (2.0, GIB)


JOB = "system.slice/slurm.scope/job_7/step_0"


@pytest.mark.parametrize("level", [JOB, "system.slice/slurm.scope/job_7", "system.slice"])
def test_the_tightest_limit_of_all_levels_holds(level: str, tmp_path: Path) -> None:
    """Slurm limits the job, not the step in it; systemd a slice. The root of a machine has no such files."""
    limits = {f"{JOB}/cpu.max": "max 100000\n", f"{JOB}/memory.max": "max\n", f"{level}/cpu.max": "300000 100000\n"}
    beside = {"system.slice/other/cpu.max": "100000 100000\n"}
    root = tree(tmp_path, f"0::/{JOB}\n", V2, {**limits, f"{level}/memory.max": f"{4 * GIB}\n", **beside})
    assert (quota(root), memory(root)) == (3.0, 4 * GIB)


def version_1(quota: str, limit: str, folder: str = "") -> dict[str, str]:
    return {
        f"cpu,cpuacct/{folder}cpu.cfs_quota_us": f"{quota}\n",
        f"cpu,cpuacct/{folder}cpu.cfs_period_us": "100000\n",
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
    }


@pytest.mark.parametrize(
    ("top", "folder"),
    [
        ("/", "docker/4f/"),  # the groups of the machine are seen
        ("/docker/4f", ""),  # only the container's own, under the name that it has outside
        ("/docker/other", ""),  # a name that does not fit: what is mounted is ours
    ],
)
def test_version_1(top: str, folder: str, tmp_path: Path) -> None:
    own = "12:memory:/docker/4f\n4:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f\n"
    mounts = "\n".join((V1_CPU.format(top), V1_MEMORY.format(top)))
    root = tree(tmp_path, own, mounts, version_1("250000", str(8 * GIB), folder))
    assert (quota(root), memory(root)) == (2.5, 8 * GIB)


def test_version_1_without_limits_says_so_with_huge_numbers(tmp_path: Path) -> None:
    own = "12:memory:/\n4:cpu,cpuacct:/\n0::/\n"
    mounts = "\n".join((V1_CPU.format("/"), V1_MEMORY.format("/"), UNIFIED))
    root = tree(tmp_path, own, mounts, version_1("-1", "9223372036854771712"))
    assert quota(root) == memory(root) == INF


def test_controllers_of_version_1_beside_version_2(tmp_path: Path) -> None:
    """systemd's hybrid: the limit stands in one of the two."""
    own = "4:cpu,cpuacct:/job\n0::/job\n"
    mounts = "\n".join((V1_CPU.format("/"), UNIFIED))
    limits = {**version_1("100000", "-1", "job/"), "unified/job/memory.max": f"{GIB}\n"}
    root = tree(tmp_path, own, mounts, limits)
    assert (quota(root), memory(root)) == (1.0, GIB)


def test_a_path_with_a_space_and_a_group_outside_of_what_is_mounted(tmp_path: Path) -> None:
    mount = r"30 23 0:26 /a\040b /sys/fs/cgroup/my\040groups rw - cgroup2 cgroup rw"
    root = tree(tmp_path, "0::/a b/in\n", mount, {"my groups/in/cpu.max": "200000 100000\n"})
    assert quota(root) == 2.0
    root = tree(tmp_path / "out", "0::/../job\n", V2, {"cpu.max": "500000 100000\n"})
    assert quota(root) == 5.0


@pytest.mark.parametrize(
    ("text", "affinity", "expected"), [("350000 100000", 8, 3), ("30000 100000", 8, 1), ("max 100000", 5, 5), ("900000 100000", 5, 5)]
)  # fmt: skip
def test_whole_cores_of_affinity_and_quota(text: str, affinity: int, expected: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resources, "_affinity", lambda: affinity)
    assert cores(tree(tmp_path, "0::/\n", V2, {"cpu.max": text})) == expected


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("300000 100000", {}, "3"),
        ("50000 100000", {}, "1"),
        ("300000 100000", {"LOCAL_WORLD_SIZE": "2"}, "1"),
        ("max 100000", {"LOCAL_WORLD_SIZE": "2"}, "4"),
        ("max 100000", {"LOCAL_WORLD_SIZE": "two"}, None),
        ("max 100000", {}, None),  # libraries see the affinity by themselves
        ("300000 100000", {"OMP_NUM_THREADS": "6"}, "6"),
    ],
)
def test_libraries_are_told_what_they_do_not_see(text, variables, expected, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resources, "_affinity", lambda: 8)
    environment = dict(variables)
    limit_threads(environment, tree(tmp_path, "0::/\n", V2, {"cpu.max": text}))
    assert environment.get("OMP_NUM_THREADS") == expected


def test_the_command_line_tells_them_before_they_are_imported() -> None:
    program = """
import os, sys
from lewm_bench.cli import app as cli
from lewm_bench.system import resources
heavy = [m for m in ("torch", "numpy") if m in sys.modules]
resources._affinity, resources.quota = lambda: 8, lambda root: 3.0
cli.app = lambda *_, **__: print(os.environ["OMP_NUM_THREADS"], heavy)
cli.main()
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "3 []"


def test_records_and_the_doctor_say_what_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(provenance, "cores", lambda: 3)
    monkeypatch.setattr(doctor, "cores", lambda: 3)
    monkeypatch.setattr(doctor, "memory", lambda: float(2 * GIB))
    assert provenance.hardware(torch.device("cpu"))["cores"] == "3"
    assert "of 3 cores" in doctor.check_torch().detail
    assert doctor.check_memory().detail == "2.0 GiB container limit"
    monkeypatch.setattr(doctor, "memory", lambda: INF)
    assert "installed" in doctor.check_memory().detail


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_is_what_this_process_may_use() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from lewm_bench.system.resources import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1"
