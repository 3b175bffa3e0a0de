"""The formats that can be imported, and which one a file or folder has."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.data.importers.dino_wm import DinoWMTable, is_dino_wm
from lewm_bench.data.importers.hdf5 import HDF5Table, is_hdf5
from lewm_bench.data.importers.lance import LanceTable
from lewm_bench.data.importers.lerobot import LeRobotTable, is_lerobot
from lewm_bench.data.importers.minari_ import MinariTable, is_minari
from lewm_bench.data.importers.ogbench import COLUMNS, OGBenchTable
from lewm_bench.data.importers.plain import NpzTable
from lewm_bench.data.importers.table import Names, Table

FORMATS: dict[str, Callable[[Path, Names], Table]] = {
    "npz": NpzTable,
    "hdf5": HDF5Table,
    "lance": LanceTable,
    "minari": MinariTable,
    "ogbench": OGBenchTable,
    "lerobot": LeRobotTable,
    "dino-wm": DinoWMTable,
}


def open_table(path: Path, names: Names, kind: str = "") -> Table:
    """A recorded data set, of the format ``kind`` or of the one that is recognised.

    Raises:
        UserError: it is not there, or of no known format.
    """
    if kind and kind not in FORMATS:
        raise unknown("format", kind, FORMATS)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    return FORMATS[kind or recognised(path)](path, names)


def recognised(path: Path) -> str:
    """The format of a file or folder.

    Raises:
        UserError: it has none that is known.
    """
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if not found:
        raise UserError(
            f"{path} is of no known format; known: {', '.join(FORMATS)} (and .zst, .tar and .tar.zst of them)"
        )
    return found


def _of_file(path: Path) -> str:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    if is_hdf5(path):
        return "hdf5"
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        return "ogbench" if _names(path) >= COLUMNS else "npz"
    if path.suffix in (".h5", ".hdf5"):
        raise UserError(f"{path} is no HDF5 file; it may be cut short")
    return ""


def _names(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} cannot be read as .npz: {error}; it may be cut short")


def _of_folder(path: Path) -> str:
    if path.suffix == ".lance" or any(path.glob("*.lance")):
        return "lance"
    if is_lerobot(path):
        return "lerobot"
    if is_minari(path):
        return "minari"
    if is_dino_wm(path):
        return "dino-wm"
    if is_dino_wm(path / "train"):
        raise UserError(
            f"{path} has a train and a val folder of DINO-WM; name one of them, for example {path / 'train'}"
        )
    return ""


def file_in(path: Path) -> Path:
    """The only HDF5 or npz file of a folder that has one; everything else as it is.

    Raises:
        UserError: there are several.
    """
    if not path.is_dir() or _of_folder(path):
        return path
    found = sorted(p for suffix in ("h5", "hdf5", "npz") for p in path.rglob(f"*.{suffix}"))
    if len(found) > 1:
        raise UserError(
            f"{path} holds {len(found)} data files; name one of them: {', '.join(p.name for p in found[:5])}"
        )
    return found[0] if found else path
