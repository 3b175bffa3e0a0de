"""Recorded trajectories: a folder of memory-mapped columns, the episodes in it and the clips a model learns from.

Format 1: ``frames.npy`` (rows, h, w, 3) uint8, ``states.npy`` (rows, X) float64, ``actions.npy`` (rows, action_dim)
float32, ``ends.npy`` (episodes,) int64, and ``meta.json``, written last. Row t of the actions is executed from frame
t, so the last row of each episode is NaN. ``ends`` holds the row after each episode's last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from pydantic import ConfigDict, Field

from lewm_bench.core.config import Record
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.reading import MissingFile, read_json, read_model
from lewm_bench.core.types import Clip, Episode
from lewm_bench.system.arrays import read_array
from lewm_bench.system.files import disk_errors, write_bytes, write_text

FORMAT = 1
COLUMNS = {"frames": (np.uint8, 4), "states": (np.float64, 2), "actions": (np.float32, 2), "ends": (np.int64, 1)}
SPLITS = ("train", "val", "test")
PROGRESS = ".progress.json"
MEND = "delete the folder and collect it again"


class Meta(Record):
    """What ``meta.json`` says about a dataset."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # an unbounded action space is allowed

    format_version: Literal[1] = FORMAT
    env: str
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    policies: tuple[str, ...]  # of each episode
    seed: int
    splits: dict[str, tuple[int, ...]]
    recipe: dict[str, Any] = Field(default_factory=dict)  # the settings it was collected with
    digests: dict[str, str]  # SHA-256 of each column's numbers


@dataclass(frozen=True, eq=False)
class Dataset:
    """A folder of episodes, open for reading. Length and indices count episodes."""

    folder: Path
    meta: Meta = field(repr=False)
    frames: np.ndarray = field(repr=False)  # (rows, h, w, 3) uint8
    states: np.ndarray = field(repr=False)  # (rows, X) float64
    actions: np.ndarray = field(repr=False)  # (rows, action_dim) float32, NaN in the last row of each episode
    ends: np.ndarray = field(repr=False)  # (episodes,) int64

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """The dataset in ``folder``, memory-mapped and checked.

        Raises:
            UserError: a file is missing, cut short or contradicts another.
        """
        folder = Path(folder)
        dataset = cls(folder, _read_meta(folder), *(_column(folder, name) for name in COLUMNS))
        _check(dataset)
        return dataset

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset.open, (self.folder,)  # worker processes map the files; the numbers are not copied to them

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Episode:
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        start, end = self.starts[index], self.ends[index]
        return Episode(self.frames[start:end], self.states[start:end], self.actions[start : end - 1])

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    @property
    def starts(self) -> np.ndarray:
        """(episodes,) first row of each episode."""
        return np.concatenate([[0], self.ends[:-1]])

    @property
    def lengths(self) -> np.ndarray:
        """(episodes,) rows of each episode, one more than its actions."""
        return np.diff(self.ends, prepend=0)

    @property
    def splits(self) -> Mapping[str, tuple[int, ...]]:
        """Episodes of ``train``, ``val`` and ``test``."""
        return self.meta.splits

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any number of the dataset and with its description."""
        text = json.dumps(self.meta.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def verify(self) -> None:
        """Read every number again.

        Raises:
            UserError: one has changed since the dataset was written.
        """
        for name in COLUMNS:
            if _digest(getattr(self, name)) != self.meta.digests.get(name):
                raise UserError(f"{self.folder / name}.npy has changed since it was written; {MEND}")

    def episodes(self, split: str) -> np.ndarray:
        """The sorted episodes of a split; ``all`` is every episode, whether it is in a split or not."""
        if split == "all":
            return np.arange(len(self))
        if split not in self.splits:
            raise unknown("split", split, [*self.splits, "all"])
        return np.sort(np.asarray(self.splits[split], np.int64))

    def rows(self, split: str, spare: int = 0) -> np.ndarray:
        """The rows of a split, sorted, that have at least ``spare`` later rows in their episode."""
        episodes = self.episodes(split)
        starts, counts = self.starts[episodes], np.maximum(self.lengths[episodes] - spare, 0)
        first = np.repeat(starts - np.cumsum(counts) + counts, counts)
        return first + np.arange(counts.sum())

    def clips(self, split: str, frames: int, frame_skip: int) -> Clips:
        """Every clip of ``frames`` frames, ``frame_skip`` steps apart, that lies inside one episode of the split.

        Raises:
            UserError: there is none.
        """
        if frames < 1 or frame_skip < 1:
            raise ValueError(f"need frames >= 1 and frame_skip >= 1, got {frames} and {frame_skip}")
        span = (frames - 1) * frame_skip
        starts = self.rows(split, spare=span)
        if not len(starts):
            longest = max(self.lengths[self.episodes(split)], default=0)
            raise UserError(
                f"no clip of {frames} frames, {frame_skip} steps apart ({span + 1} rows), fits in split {split!r} of "
                f"{self.folder}, whose longest episode has {longest} rows; collect longer episodes, or lower frame_skip "
                f"or the number of frames"
            )
        return Clips(self, starts, frames, frame_skip)

    def action_statistics(self, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (action_dim,) float32 each, of the actions of a split.

        A dimension that never changes gets standard deviation 1, so that dividing by it is harmless.
        """
        actions = self.actions[self.rows(split, spare=1)].astype(np.float64)
        if not len(actions):
            raise UserError(f"split {split!r} of {self.folder} has no actions; collect more episodes")
        std = actions.std(axis=0)
        return actions.mean(axis=0).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of one split; clip i begins at row ``starts[i]``."""

    dataset: Dataset
    starts: np.ndarray = field(repr=False)  # (clips,) int64
    frames: int
    frame_skip: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def last_rows(self) -> np.ndarray:
        """(clips,) the last row of each clip's episode."""
        ends = self.dataset.ends
        return ends[np.searchsorted(ends, self.starts, side="right")] - 1

    def batch(self, indices: np.ndarray) -> Clip:
        """The clips of (B,) indices: frames (B, T, 3, h, w) uint8, actions (B, T-1, frame_skip x action_dim) float32."""
        starts = self.starts[np.asarray(indices)][:, None]
        frames = self.dataset.frames[starts + np.arange(self.frames) * self.frame_skip]  # (B, T, h, w, 3)
        return Clip(torch.from_numpy(frames).permute(0, 1, 4, 2, 3).contiguous(), self.action_blocks(indices))

    def action_blocks(self, indices: np.ndarray) -> torch.Tensor:
        """The actions alone, (B, T-1, frame_skip x action_dim) float32."""
        starts = self.starts[np.asarray(indices)][:, None]
        actions = self.dataset.actions[starts + np.arange((self.frames - 1) * self.frame_skip)]
        blocks = actions.reshape(len(starts), self.frames - 1, self.frame_skip * actions.shape[-1])
        return torch.from_numpy(blocks)

    def sample(self, rng: np.random.Generator, batch_size: int) -> Clip:
        """``batch_size`` clips drawn uniformly, with replacement."""
        return self.batch(rng.integers(len(self), size=batch_size))


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``total`` in proportion to ``shares`` (largest remainders)."""
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(np.floor(value + 1e-9)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])  # stable: ties go to the first named
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def split_episodes(n: int, fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    """Episodes 0 to n-1 dealt at random to the named splits, each sorted; the sizes follow the fractions."""
    order = rng.permutation(n)
    splits, begin = {}, 0
    for name, count in apportion(n, fractions).items():
        splits[name] = tuple(sorted(order[begin : begin + count].tolist()))
        begin += count
    return splits


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
        self._columns: dict[str, _Column] = {}

    def __enter__(self) -> DatasetWriter:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / "meta.json").exists():
                raise UserError(f"{self.folder} already holds a dataset; choose another folder or delete it")
            self._resume()
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns.values():
            column.file.close()

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
                    self._columns[name] = _Column(self.folder, name, values.shape[1:])
                self._columns[name].write(values)
        self.ends.append(steps + 1 + (self.ends[-1] if self.ends else 0))
        self.policies.append(policy)

    def checkpoint(self) -> None:
        """Make what has been added outlive this process."""
        with disk_errors(self.folder):
            for column in self._columns.values():
                column.file.flush()
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
            digests = {name: column.finish(self.ends[-1]) for name, column in self._columns.items()}
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
            digests={**digests, "ends": _digest(ends)},
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
            columns = {name: _Column(self.folder, name, tuple(s), rows) for name, s in progress["shapes"].items()}
            self.ends, self.policies, self._columns = progress["ends"], progress["policies"], columns
        except (UserError, OSError, ValueError, KeyError, IndexError, TypeError):
            return


class _Column:
    """One growing .npy file. The header is written again at the end, in place, when the number of rows is known."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], rows: int = 0) -> None:
        """Begin a new file, or go on after the first ``rows`` rows of the one that is there."""
        self.dtype, self.shape = np.dtype(COLUMNS[name][0]), shape
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

    def finish(self, rows: int) -> str:
        """Close the file and return the digest of its numbers."""
        header = self._header(rows)
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


def _digest(column: np.ndarray) -> str:
    """SHA-256 of the numbers of a column, read in pieces."""
    digest = hashlib.sha256()
    piece = max((1 << 24) // max(column[:1].nbytes, 1), 1)
    for begin in range(0, len(column), piece):
        digest.update(np.ascontiguousarray(column[begin : begin + piece]))
    return digest.hexdigest()


def _read_meta(folder: Path) -> Meta:
    try:
        return read_model(folder / "meta.json", Meta, MEND, finite=False)
    except MissingFile:
        raise UserError(f"{folder} is not a complete dataset: it has no meta.json; {MEND}")


def _column(folder: Path, name: str) -> np.ndarray:
    """A column as a read-only map; what its header promises is there to the last byte."""
    return read_array(folder / f"{name}.npy", *COLUMNS[name], MEND)


def _check(dataset: Dataset) -> None:
    """Raise a UserError if the columns and the description contradict each other."""

    def require(true: Any, name: str, problem: str) -> None:
        if not true:
            raise UserError(f"{dataset.folder / name} {problem}; {MEND}")

    meta, ends, rows = dataset.meta, dataset.ends, len(dataset.frames)
    require(len(ends), "ends.npy", "lists no episode")
    require((dataset.lengths >= 2).all(), "ends.npy", "does not increase by at least 2 rows per episode")
    require(ends[-1] == rows, "ends.npy", f"ends at row {ends[-1]}, but frames.npy has {rows} rows")
    require(dataset.frames.shape[3] == 3, "frames.npy", f"has shape {dataset.frames.shape}, not (rows, h, w, 3)")
    require(len(dataset.states) == rows, "states.npy", f"has {len(dataset.states)} rows, but frames.npy has {rows}")
    require(len(dataset.actions) == rows, "actions.npy", f"has {len(dataset.actions)} rows, but frames.npy has {rows}")
    require(np.isfinite(dataset.states).all(), "states.npy", "has a state that is not finite")
    last = np.zeros(rows, bool)
    last[ends - 1] = True
    require(
        np.isfinite(dataset.actions[~last]).all(), "actions.npy", "has an action that is not finite inside an episode"
    )
    require(np.isnan(dataset.actions[last]).all(), "actions.npy", "has an action after the last frame of an episode")
    require(
        len(meta.policies) == len(ends), "meta.json", f"names {len(meta.policies)} policies for {len(ends)} episodes"
    )
    dims = {dataset.actions.shape[1], len(meta.action_low), len(meta.action_high)}
    require(len(dims) == 1, "meta.json", "has action bounds of another length than the rows of actions.npy")
    require(set(meta.splits) == set(SPLITS), "meta.json", f"has the splits {sorted(meta.splits)}, not {list(SPLITS)}")
    listed = [episode for split in meta.splits.values() for episode in split]
    require(
        all(0 <= e < len(ends) for e in listed), "meta.json", f"has a split with an episode outside 0..{len(ends) - 1}"
    )
    require(len(set(listed)) == len(listed), "meta.json", "has an episode in two splits or twice in one")
