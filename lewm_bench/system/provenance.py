"""What numbers were measured on and with: versions, hardware, commit."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import lewm_bench
from lewm_bench.system.resources import cores

PACKAGES = ("numpy", "gymnasium", "gymnasium-robotics", "mujoco", "stable-baselines3", "transformers")
OF_SOME = ("dm-control", "gym-pusht", "pymunk", "ogbench")  # named where they are installed


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what the numbers depend on."""
    # torch says which build it is, its metadata need not.
    found = {"python": platform.python_version(), "lewm-bench": lewm_bench.__version__, "torch": torch.__version__}
    for name in (*PACKAGES, *OF_SOME):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if name in PACKAGES:
                found[name] = "not installed"
    return found


def hardware(device: torch.device) -> dict[str, str]:
    """What the times were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": device.type,
        "name": name,
        "cpu": cpu_name(),
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "os": platform.platform(terse=True),
    }


def cpu_name() -> str:
    """The processor's marketing name where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines: Iterable[str] = path.read_text().splitlines() if path.is_file() else ()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the checkout this runs from, with ``+`` if it has changes; empty for an installed wheel."""
    folder = Path(lewm_bench.__file__).parent.parent
    if not (folder / ".git").exists():
        return ""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        dirty = _git(folder, "diff", "--quiet", "HEAD")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if dirty.returncode else "") if head.returncode == 0 else ""


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
