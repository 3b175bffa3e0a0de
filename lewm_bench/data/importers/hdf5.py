"""HDF5: stable-worldmodel's flat columns, and plain files with ``pixels``, ``actions`` and ``episode_ends``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.data.importers.plain import episode_ends
from lewm_bench.data.importers.table import Column, FlatTable, Names
from lewm_bench.system.extras import require

LENGTHS, OFFSETS = "ep_len", "ep_offset"
INDEX = ("episode_idx", "ep_idx", "episode_index")
WHAT = "importing HDF5"


class HDF5Table(FlatTable):
    """The datasets at the top of an HDF5 file (those of groups below by their path) that have one row per frame."""

    kind = "HDF5"

    def __init__(self, path: Path, names: Names) -> None:
        self._file, source = _open(path), str(path)
        try:
            found = _datasets(self._file)
            columns = {name: Column(tuple(each.shape[1:]), each.dtype) for name, each in found.items() if each.ndim}
            super().__init__(source, columns, _ends(found, columns, names, source))
        except BaseException:
            self._file.close()
            raise
        self.columns = {n: c for n, c in columns.items() if n not in (LENGTHS, OFFSETS)}

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        try:
            return self._file[name][begin:end]
        except (OSError, KeyError, RuntimeError) as error:
            hint = "; it may need a filter that hdf5plugin does not have" if "filter" in str(error).lower() else ""
            raise UserError(f"{self.source}: {name} cannot be read ({error}){hint}")

    def close(self) -> None:
        self._file.close()


def require_whole(path: Path) -> None:
    """Refuse an HDF5 file with parts that lie in other files."""
    with _open(path) as file:
        _datasets(file)


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _open(path: Path) -> Any:
    h5py = require("h5py", WHAT)
    require("hdf5plugin", WHAT)  # registers the filters that some published files are compressed with
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5; it may be cut short ({error})")


def _datasets(file: Any) -> dict[str, Any]:
    """The datasets of a file by their paths; links to other files are not followed.

    Raises:
        UserError: one is a view of another file, which a file from elsewhere must not open.
    """
    h5py = require("h5py", WHAT)
    found: dict[str, Any] = {}
    file.visititems(lambda name, each: found.update({name: each}) if isinstance(each, h5py.Dataset) else None)
    for name, each in found.items():
        viewed = {source.file_name for source in each.virtual_sources()} if each.is_virtual else set()
        if each.external or viewed - {"."}:
            raise UserError(f"{file.filename}: {name} lies in another file; copy it into this one")
    return found


def _ends(found: dict[str, Any], columns: dict[str, Column], names: Names, source: str) -> np.ndarray:
    """Where episodes end: by lengths and offsets if they are there, and not against an index that is there too."""
    counts = {name: len(each) for name, each in found.items() if each.ndim}

    def values(name: str) -> np.ndarray:
        return found[name][:]

    if names.episodes or LENGTHS not in found:
        return episode_ends(columns, counts, values, names, source)
    lengths = np.asarray(found[LENGTHS][:], np.int64)
    ends = lengths.cumsum()
    rows = {name: n for name, n in counts.items() if name not in (LENGTHS, OFFSETS) and columns[name].is_picture}
    if not len(ends) or (lengths < 1).any():
        raise UserError(f"{source}: {LENGTHS} lists no episode, or one without rows")
    for name, count in rows.items():
        if count != ends[-1]:
            raise UserError(
                f"{source}: {LENGTHS} adds up to {ends[-1]} rows, but {name} has {count}; the file is damaged or was not "
                "closed"
            )
    if OFFSETS in found and not np.array_equal(found[OFFSETS][:], ends - lengths):
        raise UserError(f"{source}: {OFFSETS} and {LENGTHS} contradict each other; episodes must follow one another")
    for name in INDEX:
        if name in found and not np.array_equal(_starts(found[name][:]), ends - lengths):
            raise UserError(f"{source}: {name} and {LENGTHS} contradict each other; say which with --episodes {name}")
    return ends


def _starts(index: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(np.asarray(index, np.int64).ravel(), prepend=-1))
