"""Writing a dataset episode by episode: resumable, complete from the moment that ``finish`` returns."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import read_json
from lewm_bench.core.types import Episode
from lewm_bench.data.format import COLUMNS, FORMAT, FRAMES, MEND, Dataset, Meta, digest_of
from lewm_bench.data.frames import FramesWriter
from lewm_bench.system.files import disk_errors, write_bytes, write_text

PROGRESS = ".progress.json"


@final
class DatasetWriter:
    """Writes a dataset episode by episode; the folder is a dataset from the moment that ``finish`` returns.

    Episodes may differ in length and none is kept in memory. Plain writes, not a memory map: a full disk then raises
    an error instead of killing the process. What was written before the last ``checkpoint`` is found again by a later
    writer with the same ``recipe``, whose ``ends`` then begin with those episodes.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.recipe = dict(recipe or {})
        self.ends: list[int] = []
        self.policies: list[str] = []
        self._columns: dict[str, FramesWriter | _Column] = {}

    def __enter__(self) -> DatasetWriter:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / "meta.json").exists():
                raise UserError(f"{self.folder} already holds a dataset; choose another folder or delete it")
            self._resume()
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns.values():
            column.close()

    def add(self, episode: Episode, policy: str) -> None:
        """Append one episode."""
        steps = len(episode.actions)
        if steps < 1 or len(episode.frames) != steps + 1 or len(episode.states) != steps + 1:
            raise ValueError(
                f"an episode has one more frame and state than actions and at least one action, got "
                f"{len(episode.frames)} frames, {len(episode.states)} states, {steps} actions"
            )
        if not (np.isfinite(episode.states).all() and np.isfinite(episode.actions).all()):
            number = len(self.ends)
            raise UserError(
                f"episode {number} ({policy}) has a state or an action that is not finite; mend the environment"
            )
        last = np.full((1, *episode.actions.shape[1:]), np.nan, np.float32)
        rows = {"frames": episode.frames, "states": episode.states, "actions": np.concatenate([episode.actions, last])}
        with disk_errors(self.folder):
            for name, values in rows.items():
                if name not in self._columns:
                    self._columns[name] = _writer(self.folder, name, values.shape[1:])
                self._columns[name].write(values)
        self.ends.append(steps + 1 + (self.ends[-1] if self.ends else 0))
        self.policies.append(policy)

    def checkpoint(self) -> None:
        """Make what has been added outlive this process."""
        with disk_errors(self.folder):
            for column in self._columns.values():
                column.flush()
        shapes = {name: column.shape for name, column in self._columns.items()}
        progress = {"recipe": self.recipe, "ends": self.ends, "policies": self.policies, "shapes": shapes}
        write_text(self.folder / PROGRESS, json.dumps(progress))

    def finish(
        self,
        *,
        env: str,
        env_kwargs: Mapping[str, Any],
        action_low: np.ndarray,
        action_high: np.ndarray,
        seed: int,
        splits: Mapping[str, tuple[int, ...]],
    ) -> Dataset:
        """Complete the files, describe them in ``meta.json`` and open the dataset."""
        if not self.ends:
            raise ValueError("a dataset needs at least one episode")
        ends = np.asarray(self.ends, np.int64)
        with disk_errors(self.folder):
            digests = {name: column.finish() for name, column in self._columns.items()}
            buffer = io.BytesIO()
            np.save(buffer, ends)
            write_bytes(self.folder / "ends.npy", buffer.getvalue())
        meta = Meta(
            env=env,
            env_kwargs=dict(env_kwargs),
            action_low=tuple(np.asarray(action_low, float).tolist()),
            action_high=tuple(np.asarray(action_high, float).tolist()),
            policies=tuple(self.policies),
            seed=seed,
            splits=dict(splits),
            recipe=self.recipe,
            digests={**digests, "ends": digest_of(ends)},
        )
        write_text(self.folder / "meta.json", meta.model_dump_json(indent=1))
        (self.folder / PROGRESS).unlink(missing_ok=True)
        return Dataset.open(self.folder)

    def _resume(self) -> None:
        """Take up the episodes of an earlier writer of the same recipe; anything unexpected means to begin anew."""
        try:
            progress = read_json(self.folder / PROGRESS, MEND)
            if progress["recipe"] != json.loads(json.dumps(self.recipe)):
                return
            rows = progress["ends"][-1]
            columns = {name: _writer(self.folder, name, tuple(s), rows) for name, s in progress["shapes"].items()}
            self.ends, self.policies, self._columns = progress["ends"], progress["policies"], columns
        except (UserError, OSError, ValueError, KeyError, IndexError, TypeError):
            return


def _writer(folder: Path, name: str, shape: tuple[int, ...], rows: int = 0) -> FramesWriter | _Column:
    """What writes a column of rows of ``shape``, after the first ``rows`` rows that are there.

    Raises:
        ValueError: those are not there.
    """
    if name == "frames":
        return FramesWriter(folder / FRAMES[FORMAT], shape, rows)
    return _Column(folder, name, shape, rows)


class _Column:
    """One growing .npy file. The header is written again at the end, in place, when the number of rows is known."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], rows: int = 0) -> None:
        """Begin a new file, or go on after the first ``rows`` rows of the one that is there."""
        self.dtype, self.shape, self.rows = np.dtype(COLUMNS[name][0]), shape, rows
        path = folder / f"{name}.npy"
        header = self._header(rows=0)
        size = len(header) + rows * int(np.prod(shape)) * self.dtype.itemsize
        self.digest = hashlib.sha256()
        if not rows:
            self.file = path.open("wb")
            self.file.write(header)
            return
        if path.stat().st_size < size:
            raise ValueError(f"{path} is shorter than its last checkpoint")
        self.file = path.open("r+b")
        self.file.truncate(size)
        self.file.seek(len(header))
        while block := self.file.read(1 << 20):
            self.digest.update(block)

    def write(self, rows: np.ndarray) -> None:
        if rows.shape[1:] != self.shape or not np.can_cast(rows.dtype, self.dtype, "same_kind"):
            raise ValueError(f"the column holds {self.dtype} rows {self.shape}, got {rows.dtype} {rows.shape[1:]}")
        data = np.ascontiguousarray(rows, self.dtype).tobytes()
        self.digest.update(data)
        self.file.write(data)
        self.rows += len(rows)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def finish(self) -> str:
        """Complete the file and return the digest of its numbers."""
        header = self._header(self.rows)
        assert len(header) == len(self._header(rows=0))
        self.file.seek(0)
        self.file.write(header)
        self.file.close()
        return self.digest.hexdigest()

    def _header(self, rows: int) -> bytes:
        """numpy leaves room for the first dimension to grow, so the length is the same for any number of rows."""
        buffer = io.BytesIO()
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()
