"""Frames on disk: a Zarr 3 array in which each frame is compressed by itself, without loss.

A folder with ``zarr.json`` and files ``c.N.0.0.0`` of up to ``SHARD`` frames each: the frames as zstd wrote them, one after
the other, then their places as pairs (begin, bytes) of little-endian 64-bit numbers. Any reader of Zarr 3 reads it. This
one fetches any rows and decodes them in threads, in which Python's lock is free; docs/data.md has the measurements.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import zstandard

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import read_json, reason_of, require_file
from lewm_bench.system.files import write_text
from lewm_bench.system.resources import cores

SHARD = 2**14  # frames per file: few files and few open ones, and a list of places that is read at once
LEVEL = 9  # of zstd: for TwoRoom 64 % of the size of level 3, and as fast to read
DESCRIPTION = "zarr.json"
SIZES = ".sizes"  # of an unfinished array: the bytes of each frame, as 32-bit numbers
INLINE = 8  # rows that are not worth the other threads
MOST_THREADS = 16

_own = threading.local()


@lru_cache(maxsize=1)
def _thread_count() -> int:
    return min(cores(), MOST_THREADS)


@lru_cache(maxsize=1)
def _threads_of(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_thread_count(), "frames")


def _threads() -> ThreadPoolExecutor:
    """The threads of this process; those of the process that it was forked from are not there."""
    return _threads_of(os.getpid())


@final
class Frames:
    """The frames (rows, h, w, 3) uint8 of a dataset. Like an array that is indexed by rows only: each read is a copy."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], places: np.ndarray, mend: str) -> None:
        """``places`` is (rows, 2) int64: where each row begins in its file, and its bytes there."""
        self.shape = shape
        self._folder, self._places, self._mend = folder, places, mend
        self._files: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, mend: str) -> Frames:
        """The finished array in ``folder``; its places are read, its frames are not.

        Raises:
            UserError: it is missing, another kind of array, or cut short.
        """
        shape, shard = _read_shape(folder, mend)
        places = np.empty((shape[0], 2), np.int64)
        for number, begin in enumerate(range(0, shape[0], shard)):
            rows = places[begin : begin + shard]
            rows[:] = _read_places(_file(folder, number), shard, len(rows), mend)
        return cls(folder, shape, places, mend)

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as an array in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("frames on disk cannot be an array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """The frames (*S, h, w, 3) of row numbers (*S), of a slice, or of a mask (rows,).

        Raises:
            IndexError: there is no such row.
            UserError: a frame cannot be read, or has changed since it was written.
        """
        rows = self._rows(index)
        out = np.empty((rows.size, *self.shape[1:]), np.uint8)
        if rows.size <= INLINE:
            self._fill(rows.ravel(), out)
        else:
            pieces = min(_thread_count(), rows.size // (INLINE // 2))
            split = zip(np.array_split(rows.ravel(), pieces), np.array_split(out, pieces), strict=True)
            for done in [_threads().submit(self._fill, *piece) for piece in split]:
                done.result()
        return out.reshape(*rows.shape, *self.shape[1:])

    def _rows(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Row numbers (*S), none negative."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        if isinstance(index, tuple) or rows.dtype.kind not in "iub" or (rows.dtype.kind == "b" and rows.ndim != 1):
            if rows.size or isinstance(index, tuple):
                raise IndexError(f"frames are indexed by row numbers, a slice or a mask of rows, not by {index!r}")
            rows = rows.astype(np.int64)
        if rows.dtype.kind == "b":
            if len(rows) != len(self):
                raise IndexError(f"a mask of {len(rows)} rows for {len(self)} frames")
            return np.flatnonzero(rows)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} frames")
        return np.where(rows < 0, rows + len(self), rows)

    def _fill(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Decode ``rows`` (N,) into ``out`` (N, h, w, 3)."""
        for row, target in zip(rows.tolist(), out, strict=True):
            number = row // SHARD
            try:
                _decode(self._read(number, *self._places[row].tolist()), target)
            except OSError as error:
                raise UserError(f"cannot read {_file(self._folder, number)}: {reason_of(error)}; {self._mend}")
            except ValueError as error:
                path = _file(self._folder, number)
                raise UserError(f"{path} has changed since it was written ({reason_of(error)}); {self._mend}")

    def _read(self, number: int, begin: int, size: int) -> bytes:
        """Some bytes of one file. Not a map of it: those pages would count as memory of this process."""
        file = self._files.get(number)
        if file is None:
            with self._lock:
                file = self._files.setdefault(number, _file(self._folder, number).open("rb", buffering=0))
        if sys.platform != "win32":
            return os.pread(file.fileno(), size, begin)
        with self._lock:  # a file has one position there
            file.seek(begin)
            return file.read(size)


def _decode(data: bytes, target: np.ndarray) -> None:
    """Decode one frame into ``target``.

    Raises:
        ValueError: it is damaged.
    """
    if "decompressor" not in _own.__dict__:
        _own.decompressor = zstandard.ZstdDecompressor()
    reader = _own.decompressor.stream_reader(data)
    try:
        if reader.readinto(memoryview(target).cast("B")) == target.nbytes and not reader.read(1):
            return  # the second read also compares the checksum
    except zstandard.ZstdError as error:
        raise ValueError(reason_of(error))
    raise ValueError("a frame has another size")


def _encode(frame: np.ndarray) -> bytes:
    if "compressor" not in _own.__dict__:
        _own.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    return _own.compressor.compress(frame)


@final
class FramesWriter:
    """Writes frames row by row; what was written before the last ``flush`` can be gone on from."""

    def __init__(self, folder: Path, shape: tuple[int, int, int], rows: int = 0) -> None:
        """Begin a new array, or go on after the first ``rows`` rows of the one that is there.

        Raises:
            ValueError: those are not there.
        """
        self.shape, self.rows = shape, rows
        self.digest = hashlib.sha256()
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._file: BinaryIO | None = None
        self._sizes: list[int] = []  # of the frames in the current file
        self._all_sizes = (folder / SIZES).open("r+b" if rows else "wb")
        if rows:
            self._resume()

    def write(self, frames: np.ndarray) -> None:
        """Append (N, h, w, 3) uint8 frames."""
        if frames.shape[1:] != self.shape or not np.can_cast(frames.dtype, np.uint8, "same_kind"):
            raise ValueError(f"the column holds uint8 rows {self.shape}, got {frames.dtype} {frames.shape[1:]}")
        frames = np.ascontiguousarray(frames, np.uint8)
        encoded = _threads().map(_encode, frames)
        self.digest.update(frames)
        for data in encoded:
            self._append(data)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._file is not None:
            self._file.flush()
        self._all_sizes.flush()

    def close(self) -> None:
        """Close the files as they are."""
        for file in (self._file, self._all_sizes):
            if file is not None:
                file.close()

    def finish(self) -> str:
        """Complete the array and return the digest of its numbers."""
        shard = min(SHARD, self.rows)  # a small one needs no list of many places
        self._end_file(shard)
        self.close()
        write_text(self._folder / DESCRIPTION, json.dumps(_description((self.rows, *self.shape), shard), indent=1))
        (self._folder / SIZES).unlink()
        return self.digest.hexdigest()

    def _append(self, data: bytes) -> None:
        if self.rows % SHARD == 0:
            self._end_file(SHARD)
            self._file = _file(self._folder, self.rows // SHARD).open("wb")
        assert self._file is not None
        self._file.write(data)
        self._sizes.append(len(data))
        self._all_sizes.write(len(data).to_bytes(4, "little"))
        self.rows += 1

    def _end_file(self, shard: int) -> None:
        """Append the places of its frames to the current file."""
        if self._file is None:
            return
        places = np.full((shard, 2), 2**64 - 1, "<u8")  # Zarr's mark of a row that is not there
        sizes = np.asarray(self._sizes, np.uint64)
        places[: len(sizes)] = np.stack([np.cumsum(sizes) - sizes, sizes], 1)
        self._file.write(places.tobytes())
        self._file.close()
        self._file, self._sizes = None, []

    def _resume(self) -> None:
        """Read the first rows again, for the digest, and cut off what came after them.

        Raises:
            ValueError: they are not all there.
        """
        data = self._all_sizes.read(4 * self.rows)
        if len(data) < 4 * self.rows:
            raise ValueError(f"{self._folder / SIZES} is shorter than its last checkpoint")
        self._all_sizes.truncate(4 * self.rows)
        sizes = np.frombuffer(data, "<u4").astype(np.int64)
        frame = np.empty(self.shape, np.uint8)
        for begin in range(0, self.rows, SHARD):
            of_file = sizes[begin : begin + SHARD].tolist()
            path = _file(self._folder, begin // SHARD)
            with path.open("rb") as file:
                for size in of_file:
                    _decode(file.read(size), frame)
                    self.digest.update(frame)
        self._sizes = of_file
        self._file = path.open("r+b")
        self._file.truncate(sum(of_file))
        self._file.seek(sum(of_file))


def _file(folder: Path, number: int) -> Path:
    return folder / f"c.{number}.0.0.0"


def _description(shape: tuple[int, ...], shard: int) -> dict[str, Any]:
    """The ``zarr.json`` of frames (rows, h, w, 3), ``shard`` of them per file."""
    inner = [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": LEVEL, "checksum": True}}]
    sharding = {
        "chunk_shape": [1, *shape[1:]],
        "codecs": inner,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": ["row", "height", "width", "channel"],
    }


def _read_shape(folder: Path, mend: str) -> tuple[tuple[int, int, int, int], int]:
    """The shape of the array and the frames per file.

    Raises:
        UserError: it is not one that ``FramesWriter`` writes.
    """
    content = read_json(folder / DESCRIPTION, mend)
    try:
        shape = tuple(content["shape"])
        content["codecs"][0]["configuration"]["codecs"][1]["configuration"]["level"] = LEVEL  # of no concern to reading
        shard = min(SHARD, shape[0])
        whole = len(shape) == 4 and all(type(n) is int and 0 < n < 2**48 for n in shape)
        if not whole or content != _description(shape, shard):
            raise ValueError
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{folder / DESCRIPTION} is not of an array that this program writes; {mend}")
    return shape, shard


def _read_places(path: Path, shard: int, count: int, mend: str) -> np.ndarray:
    """The places (count, 2) of the frames of a file with room for ``shard``.

    Raises:
        UserError: the file does not have what they promise.
    """
    require_file(path, mend)
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END) - 16 * shard
            file.seek(max(length, 0))
            data = file.read(16 * shard)
        if length < 0:
            raise ValueError("it is cut short")
        places = np.frombuffer(data, "<i8").reshape(shard, 2)[:count]
        begins, sizes = places.T
        ends = np.cumsum(sizes)
        if (sizes <= 0).any() or (begins != ends - sizes).any() or ends[-1] != length:
            raise ValueError("its frames are not where it says")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}); {mend}")
    return places
