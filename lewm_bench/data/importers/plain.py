"""Plain .npz: ``pixels``, ``actions`` and where episodes end; its members are read row by row, never as a whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.data.importers.table import (
    Column,
    FlatTable,
    Names,
    checked_ends,
    ends_of_flags,
    ends_of_index,
)

ENDS = ("episode_ends", "ends")
INDEX = ("episode_idx", "ep_idx", "episode_index", "episodes", "episode")
FLAGS = ("terminals", "dones", "timeouts", "terminated", "truncated")
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, KeyError)


class NpzTable(FlatTable):
    """The arrays of an .npz that have one row per frame."""

    kind = "npz"

    def __init__(self, path: Path, names: Names) -> None:
        source = self.source = str(path)
        self._members = _members(path)
        columns = {name: Column(each.shape[1:], each.dtype) for name, each in self._members.items() if each.shape}
        counts = {name: self._members[name].shape[0] for name in columns}
        super().__init__(source, columns, episode_ends(columns, counts, self._whole, names, source))

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        try:
            return self._members[name].rows(begin, end)
        except DAMAGED as error:
            raise UserError(f"{self.source}: {name} cannot be read; the file is cut short or damaged ({error})")

    def close(self) -> None:
        for member in self._members.values():
            member.close()

    def _whole(self, name: str) -> np.ndarray:
        return self.rows(name, 0, self._members[name].shape[0])


class _Member:
    """One array of an .npz, read forward; a step back begins anew."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._archive = zipfile.ZipFile(path)
        self._rewind()

    def _rewind(self) -> None:
        self._file: IO[bytes] = self._archive.open(self._name)
        version = np.lib.format.read_magic(self._file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = header(self._file)
        if fortran and len(self.shape) > 1:
            raise ValueError("it is stored by columns; save numpy.ascontiguousarray of it")
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded; save numbers")
        self._at = 0

    def rows(self, begin: int, end: int) -> np.ndarray:
        if begin < self._at:
            self._rewind()
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._take((begin - self._at) * row, keep=False)
        data = self._take((end - begin) * row, keep=True)
        self._at = end
        return np.frombuffer(data, self.dtype).reshape(end - begin, *self.shape[1:])

    def _take(self, count: int, keep: bool) -> bytes:
        kept = []
        while count:
            block = self._file.read(min(count, 1 << 22))
            if not block:
                raise EOFError("it ends too early")
            count -= len(block)
            if keep:
                kept.append(block)
        return b"".join(kept)

    def close(self) -> None:
        self._file.close()
        self._archive.close()


def _members(path: Path) -> dict[str, _Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): _Member(path, name) for name in names}
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read as .npz: {error}; it may be cut short")


def episode_ends(
    columns: Mapping[str, Column],
    counts: Mapping[str, int],
    values: Callable[[str], np.ndarray],
    names: Names,
    source: str,
) -> np.ndarray:
    """(episodes,) the row after each episode's last, by the column that the user names or the one that is recognised.

    Args:
        counts: rows of each column.
        values: reads a whole column.

    Raises:
        UserError: there is none, or it makes no sense.
    """
    known = [n for n in (*ENDS, *INDEX, *FLAGS) if n in columns] if not names.episodes else [names.episodes]
    if not known:
        raise UserError(
            f"{source} does not say where episodes end: it has none of {', '.join((*ENDS, *INDEX, *FLAGS))}; name the "
            f"column with --episodes (columns: {', '.join(columns)})"
        )
    name = known[0]
    if name not in columns:
        raise UserError(f"{source} has no column {name!r} for --episodes; columns: {', '.join(columns)}")
    found, pictures = values(name), [counts[n] for n, c in columns.items() if c.is_picture]
    rows = max(pictures, default=max(counts.values()))
    if len(found) != rows:  # one number per episode
        return checked_ends(found, rows, source, name)
    if name in FLAGS or found.dtype.kind == "b":
        flags = [values(n) for n in known if n in FLAGS and counts[n] == rows] or [found]
        return ends_of_flags(flags, source, name)
    return ends_of_index(found, source, name)
