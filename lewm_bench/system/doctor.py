"""What works on this machine, and the command that mends the rest.

Nothing here fails or hangs: whatever could is done in a process of its own with a time limit, or guarded.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lewm_bench.system.extras import remedy
from lewm_bench.system.resources import cores, memory
from lewm_bench.system.store import default_cache, fault, stages
from lewm_bench.system.subprocesses import Fault, fault_of, last_line

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
HUB_SECONDS = 4.0
FAMILIES = {  # what a family needs
    "point maze": ("mujoco", "gymnasium_robotics"),
    "sac-her": ("stable_baselines3",),
    "reacher": ("dm_control",),
    "pusht": ("gym_pusht",),
    "cube": ("ogbench",),
}
AGAIN = "lewm-bench doctor  # again, when this machine is less busy"
DINOV2 = "facebook/dinov2-small"
DINOV2_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    status: Status
    detail: str
    remedy: str = ""  # a command or a short sentence; empty when there is nothing to mend


def verify_cache(cache: Path | None = None) -> Check:
    """Whether every byte of the cache is as it was written; reads them all."""
    cache = cache or default_cache()
    faults = {folder: reason for folder in stages(cache) if (reason := fault(folder, again=True)) is not None}
    if not faults:
        return Check("cache", "ok", f"every byte of {len(stages(cache))} stages in {cache} is as it was written")
    told = "; ".join(f"{folder.relative_to(cache)}: {reason}" for folder, reason in faults.items())
    return Check("cache", "fail", told, "nothing to do: it is built again by the next command that needs it")


def diagnose(cache: Path | None = None, results: Path | None = None) -> list[Check]:
    """Every check, in the order to show them; takes a few seconds."""
    cache, results = cache or default_cache(), results or Path("results")
    jobs: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("torch", check_torch),
        ("memory", check_memory),
        ("disk: cache", lambda: check_disk("disk: cache", cache)),
        ("disk: results", lambda: check_disk("disk: results", results)),
        ("cache", lambda: check_cache(cache)),
        ("rendering", check_rendering),
        *((f"packages: {family}", _family_job(family)) for family in FAMILIES),
        ("dinov2", check_dinov2),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(lambda job: _guarded(*job), jobs))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (OSError, ImportError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        return Check(name, "warn", f"could not be checked ({type(error).__name__}: {last_line(str(error))})")


def check_python() -> Check:
    """The interpreter; an older one than we support could not have imported this."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", detail)


def check_torch() -> Check:
    """Torch and the devices it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", "fail", f"cannot be imported: {last_line(str(error))}", "pip install --upgrade torch")
    detail = f"{torch.__version__}, {torch.get_num_threads()} CPU threads of {cores()} cores"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("torch", "ok", f"{detail}, CUDA: {', '.join(names)}")
    if torch.backends.mps.is_available():
        return Check("torch", "ok", f"{detail}, MPS")
    if torch.version.cuda and shutil.which("nvidia-smi"):
        return Check(
            "torch", "warn", f"{detail}, a CUDA build that sees no GPU", "nvidia-smi  # is the driver running?"
        )
    return Check("torch", "ok", f"{detail}, no GPU: use --profile quick")


def check_memory() -> Check:
    """What this process may use: the machine's memory or the container's limit, whichever is smaller."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return Check("memory", "ok", "not measured on this system")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory()
    usable, where = (limit, "container limit") if limit < total else (total, "installed")
    detail = f"{usable / GIB:.1f} GiB {where}"
    if usable < 3 * GIB:
        return Check("memory", "warn", detail, "close other programs; use --profile quick")
    return Check("memory", "ok", detail)


def check_disk(name: str, folder: Path) -> Check:
    """Free space where ``folder`` is or will be, and whether it can be written."""
    option = "--cache" if "cache" in name else "--out"
    folder = folder.expanduser().absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, "fail", f"{folder} cannot be written", f"choose another folder with {option} FOLDER")
    free = shutil.disk_usage(existing).free
    detail = f"{free / GIB:.1f} GiB free at {folder}"
    if free < 5 * GIB:
        status: Status = "fail" if free < GIB else "warn"
        return Check(name, status, detail, f"free some space, or choose another disk with {option} FOLDER")
    return Check(name, "ok", detail)


def check_cache(cache: Path, seconds: float = 2.0) -> Check:
    """How much the cache holds, and what in it can be deleted."""
    size, complete, deadline = 0, True, time.monotonic() + seconds
    for folder, _, names in os.walk(cache):
        size += sum(Path(folder, name).lstat().st_size for name in names)
        if time.monotonic() > deadline:
            complete = False
            break
    detail = f"{'' if complete else 'more than '}{size / GIB:.2f} GiB in {cache}"
    damaged = sorted(cache.glob("*/*.corrupt-*")) if cache.is_dir() else []
    if damaged:
        return Check(
            "cache",
            "warn",
            f"{detail}, {len(damaged)} damaged stages set aside",
            f"lewm-bench cache prune --corrupt --cache {shlex.quote(str(cache))}",
        )
    return Check("cache", "ok", detail)


def check_rendering() -> Check:
    """Which GL backends MuJoCo's own renderer works with; most environments need none."""
    from lewm_bench.system.gl import BACKENDS, INSTALL

    chosen = os.environ.get("MUJOCO_GL", "").lower()
    backends = (chosen,) if chosen else BACKENDS
    with ThreadPoolExecutor(max_workers=len(backends)) as pool:
        faults = dict(zip(backends, pool.map(_gl_fault, backends), strict=True))
    working = [name for name, fault in faults.items() if fault is None]
    slow = [f"{name} gave {fault.reason}" for name, fault in faults.items() if fault is not None and fault.slow]
    needed = "needed for Reacher and Cube"
    if slow and not working:
        return Check("rendering", "warn", f"slow: {', '.join(slow)} ({needed})", AGAIN)
    if chosen:
        if working:
            return Check("rendering", "ok", f"MUJOCO_GL={chosen} works ({needed})")
        return Check("rendering", "warn", f"MUJOCO_GL={chosen} does not work ({needed})", "unset MUJOCO_GL")
    if working:
        return Check("rendering", "ok", f"MuJoCo draws with {working[0]}, chosen by itself ({needed})")
    return Check(
        "rendering", "warn", f"MuJoCo finds no GL library ({needed})", INSTALL if sys.platform == "linux" else ""
    )


def _gl_fault(backend: str) -> Fault | None:
    from lewm_bench.system.gl import probe

    return probe(backend)


def _family_job(family: str) -> Callable[[], Check]:
    return lambda: check_family(family)


def check_family(family: str) -> Check:
    """Whether the packages of one family of environments or agents can be imported."""
    name = f"packages: {family}"
    modules = FAMILIES[family]
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        return Check(name, "warn", f"not installed: {', '.join(missing)}", remedy(missing[0]))
    fault = fault_of(f"import {', '.join(modules)}", {})
    if fault is not None and fault.slow:
        return Check(name, "warn", f"slow: importing {', '.join(modules)} gave {fault.reason}", AGAIN)
    if fault is not None:
        return Check(
            name,
            "warn",
            f"installed, but importing it fails: {fault.reason}",
            f"{remedy(modules[0])} --force-reinstall",
        )
    return Check(name, "ok", f"{', '.join(modules)} can be imported")


def check_dinov2() -> Check:
    """Whether DINO-WM's pretrained encoder is here or can be downloaded."""
    from huggingface_hub import constants, try_to_load_from_cache

    if all(isinstance(try_to_load_from_cache(DINOV2, file), str) for file in DINOV2_FILES):
        return Check("dinov2", "ok", f"{DINOV2} is in the Hugging Face cache")
    remedy = f"hf download {DINOV2} {' '.join(DINOV2_FILES)}"
    elsewhere = f"{remedy} --local-dir dinov2-small  # where there is a network; copy it here, run with --set dino-wm.weights=dinov2-small"
    if constants.HF_HUB_OFFLINE:
        return Check("dinov2", "warn", f"{DINOV2} is not in the cache and HF_HUB_OFFLINE is set", elsewhere)
    if reachable(f"{constants.ENDPOINT}/{DINOV2}/resolve/main/{DINOV2_FILES[0]}"):
        return Check("dinov2", "ok", f"{DINOV2} is not in the cache; the Hub answers and it will be downloaded", remedy)
    silent = f"{constants.ENDPOINT} does not answer within {HUB_SECONDS:g} s"
    return Check("dinov2", "warn", f"{DINOV2} is not in the cache and {silent}", elsewhere)


def reachable(url: str, seconds: float = HUB_SECONDS) -> bool:
    """Whether ``url`` answers in time. A thread, because looking up a name has no time limit of its own."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answers.append(True)
        except (TimeoutError, urllib.error.URLError, OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]
