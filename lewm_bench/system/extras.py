"""Packages that only one family needs, and how to get them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from lewm_bench.core.errors import NotRun

EXTRAS = {
    **dict.fromkeys(("gym_pusht", "pymunk", "cv2", "pygame"), "pusht"),
    "ogbench": "cube",
    "ray": "ray",
    "submitit": "slurm",
    **dict.fromkeys(("h5py", "hdf5plugin", "lance", "minari", "pyarrow", "av", "zstandard"), "data"),
    **{logger: logger for logger in ("tensorboard", "wandb", "mlflow")},
}
"""Importable module to the extra of pyproject.toml that installs it."""

NEED_LABMAZE = ("labmaze", "dm_control", "ogbench")  # which has no wheel for Python 3.13, so nobody has an extra there


def require(module: str, what: str) -> ModuleType:
    """The imported module; ``what`` needs it and is named in the error.

    Raises:
        NotRun: it is not installed; says the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise NotRun(f"{what} needs the package {missing!r}: {remedy(missing)}")
    except ImportError as error:  # a library of the system is missing, opencv's libGL for instance
        raise NotRun(f"{what} needs the package {module.partition('.')[0]!r}, which cannot be imported: {error}")


def remedy(package: str) -> str:
    """The command that installs a package, or why there is none."""
    if package in NEED_LABMAZE and sys.version_info >= (3, 13):
        return "dm-control cannot be installed on Python 3.13 (labmaze has no release for it); use Python 3.10 to 3.12"
    if package in EXTRAS:
        return f"pip install 'lewm-bench[{EXTRAS[package]}]'"
    return f"pip install {package.replace('_', '-')}"
