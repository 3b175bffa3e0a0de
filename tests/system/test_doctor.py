from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lewm_bench.system import doctor
from lewm_bench.system.doctor import Check
from lewm_bench.system.subprocesses import Fault


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No subprocess and no network: every program fails at once and nothing answers."""
    monkeypatch.setattr(doctor, "fault_of", lambda program, environment: Fault("no such library"))
    monkeypatch.setattr(doctor, "reachable", lambda url: False)


def test_the_diagnosis_is_complete_and_well_formed(quick, tmp_path: Path) -> None:
    checks = doctor.diagnose(tmp_path / "cache", tmp_path / "results")
    names = [check.name for check in checks]
    assert names[:6] == ["python", "torch", "memory", "disk: cache", "disk: results", "cache"]
    assert {"rendering", "dinov2", "packages: point maze", "packages: sac-her"} <= set(names)
    for check in checks:
        assert check.status in ("ok", "warn", "fail") and check.detail and "\n" not in check.detail + check.remedy
    assert not (tmp_path / "cache").exists()  # looking changes nothing


def test_a_real_diagnosis_never_fails_and_never_hangs(tmp_path: Path) -> None:
    begin = time.monotonic()
    checks = doctor.diagnose(tmp_path, tmp_path)
    assert time.monotonic() - begin < 60
    by_name = {check.name: check for check in checks}
    assert by_name["python"].status == by_name["torch"].status == "ok"


def test_a_check_that_breaks_becomes_a_warning(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise PermissionError("no")

    monkeypatch.setattr(doctor, "check_memory", broken)
    memory = next(check for check in doctor.diagnose() if check.name == "memory")
    assert memory.status == "warn" and "PermissionError" in memory.detail


@pytest.mark.parametrize("free, status", [(100, "ok"), (3, "warn"), (0.5, "fail")])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, status: str) -> None:
    usage = doctor.shutil._ntuple_diskusage(0, 0, int(free * doctor.GIB))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    check = doctor.check_disk("disk: cache", tmp_path / "not" / "there" / "yet")
    assert check.status == status and f"{free:.1f} GiB free" in check.detail
    assert ("--cache" in check.remedy) == (status != "ok")


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    (tmp_path / "results").chmod(0o755)
    check = doctor.check_disk("disk: results", tmp_path / "results")
    assert check.status == "fail" and "--out" in check.remedy


def test_cache_counts_bytes_and_damaged_stages(tmp_path: Path) -> None:
    assert doctor.check_cache(tmp_path / "none").status == "ok"
    (tmp_path / "data" / "abc").mkdir(parents=True)
    with (tmp_path / "data" / "abc" / "big").open("wb") as file:
        file.truncate(doctor.GIB // 2)
    assert doctor.check_cache(tmp_path).detail.startswith("0.50 GiB")
    (tmp_path / "data" / "abc.corrupt-1").mkdir()
    check = doctor.check_cache(tmp_path)
    assert check.status == "warn" and "1 damaged" in check.detail and "corrupt" in check.remedy


@pytest.mark.parametrize(
    "chosen, works, status, detail, remedy",
    [
        ("", {"osmesa", "glfw"}, "ok", "draws with osmesa", ""),
        ("", set(), "warn", "no GL library", "libegl1" if sys.platform == "linux" else ""),
        ("OSMesa", {"osmesa"}, "ok", "MUJOCO_GL=osmesa works", ""),
        ("osmesa", {"egl"}, "warn", "MUJOCO_GL=osmesa does not work", "unset MUJOCO_GL"),
    ],
)
def test_rendering(monkeypatch, chosen: str, works: set[str], status: str, detail: str, remedy: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", chosen)
    monkeypatch.setattr(doctor, "_gl_fault", lambda backend: None if backend in works else Fault("no library"))
    check = doctor.check_rendering()
    assert check.status == status and detail in check.detail and remedy in check.remedy
    assert "needed for Reacher and Cube" in check.detail


def test_family(monkeypatch: pytest.MonkeyPatch) -> None:
    families = {
        "here": ("json", "csv"),
        "absent": ("json", "no_such_module"),
        "broken": ("antigravity_",),
    }
    monkeypatch.setattr(doctor, "FAMILIES", families)
    assert doctor.check_family("here").status == "ok"
    absent = doctor.check_family("absent")
    assert (absent.status, absent.detail) == ("warn", "not installed: no_such_module")
    assert absent.remedy == "pip install no-such-module"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    broken = doctor.check_family("broken")
    assert broken.status == "warn" and "ModuleNotFoundError" in broken.detail


BUSY = Fault("no answer in 20 s", slow=True)


def test_packages_on_a_busy_machine_are_slow_and_not_to_be_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FAMILIES", {"json": ("json",)})
    monkeypatch.setattr(doctor, "fault_of", lambda program, environment: BUSY)
    check = doctor.check_family("json")
    assert (check.status, check.detail) == ("warn", "slow: importing json gave no answer in 20 s")
    assert check.remedy == doctor.AGAIN and "install" not in check.remedy


@pytest.mark.parametrize(
    "chosen, egl, osmesa, status, detail",
    [
        ("", BUSY, BUSY, "warn", "slow: egl gave no answer in 20 s, osmesa gave no answer"),
        ("", BUSY, Fault("no library"), "warn", "slow: egl gave no answer in 20 s (needed"),
        ("", BUSY, None, "ok", "draws with osmesa"),
        ("egl", BUSY, None, "warn", "slow: egl gave no answer"),
    ],
)
def test_rendering_on_a_busy_machine_is_slow(monkeypatch, chosen, egl, osmesa, status, detail) -> None:
    faults = {"egl": egl, "osmesa": osmesa, "glfw": Fault("there is no display")}
    monkeypatch.setenv("MUJOCO_GL", chosen)
    monkeypatch.setattr(doctor, "_gl_fault", faults.__getitem__)
    check = doctor.check_rendering()
    assert check.status == status and detail in check.detail
    assert check.remedy == ("" if status == "ok" else doctor.AGAIN)


def test_a_program_that_hangs_is_stopped_and_said_to_be_slow() -> None:
    begin = time.monotonic()
    assert doctor.fault_of("import time; time.sleep(60)", {}, seconds=0.3) == Fault("no answer in 0.3 s", slow=True)
    assert time.monotonic() - begin < 10


def test_a_program_that_crashes_is_an_error_and_not_the_end() -> None:
    assert doctor.fault_of("import os; os.abort()", {}) is not None
    assert doctor.fault_of("raise OSError('no EGL')", {}) == Fault("OSError: no EGL")
    assert doctor.fault_of("import os; assert os.environ['A'] == 'b'", {"A": "b"}) is None


def test_a_server_that_never_answers_does_not_hang_us() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        begin = time.monotonic()
        assert not doctor.reachable(f"http://127.0.0.1:{server.getsockname()[1]}/", seconds=0.3)
        assert time.monotonic() - begin < 2
    assert not doctor.reachable("not a url", seconds=0.3)


@pytest.mark.parametrize(
    "cached, offline, answers, status, words",
    [
        (True, True, False, "ok", "is in the Hugging Face cache"),
        (False, False, True, "ok", "will be downloaded"),
        (False, False, False, "warn", "does not answer"),
        (False, True, True, "warn", "HF_HUB_OFFLINE"),
    ],
)
def test_dinov2(monkeypatch, cached: bool, offline: bool, answers: bool, status: str, words: str) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: file if cached else None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(doctor, "reachable", lambda url: answers)
    check = doctor.check_dinov2()
    assert check.status == status and words in check.detail
    assert ("hf download facebook/dinov2-small" in check.remedy) == (not cached)


def test_importing_the_doctor_imports_nothing_heavy() -> None:
    program = "import sys, lewm_bench.system.doctor; print([m for m in ('torch', 'mujoco', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="looks at processes as Unix does")
def test_a_program_that_hangs_outlives_a_killed_doctor_by_seconds_only(tmp_path: Path) -> None:
    hangs = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    asks = f"from lewm_bench.system import subprocesses as child; child.SPARE = 0.0; child.fault_of({hangs!r}, {{}}, seconds=2.0)"
    doctor_process = subprocess.Popen([sys.executable, "-c", asks])
    pid = _until(lambda: int((tmp_path / "pid").read_text()))
    doctor_process.kill()
    doctor_process.wait()
    assert _until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    """Whether a process is there and is no zombie, which nobody may be left to reap."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def _until(ask):
    """The first answer that is true, waited for up to half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if answer := ask():
                return answer
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError("never true")
