"""Recorded trajectories: a folder of columns on disk, the episodes in it and the clips a model learns from.

Format 2: ``frames.zarr`` (rows, h, w, 3) uint8, compressed (``data.frames``), ``states.npy`` (rows, X) float64,
``actions.npy`` (rows, action_dim) float32, ``ends.npy`` (episodes,) int64, and ``meta.json``, written last. Row t of the
actions is executed from frame t, so the last row of each episode is NaN. ``ends`` holds the row after each episode's
last. Format 1, which is still read, has ``frames.npy`` instead of ``frames.zarr``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from lewm_bench.core.config import Record
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.reading import MissingFile, read_json, read_model
from lewm_bench.core.types import Clip, Episode
from lewm_bench.data.frames import Frames
from lewm_bench.system.arrays import read_array
from lewm_bench.system.files import write_text

if TYPE_CHECKING:
    import torch

FORMAT = 2
FRAMES = {1: "frames.npy", 2: "frames.zarr"}  # by format
COLUMNS = {"frames": (np.uint8, 4), "states": (np.float64, 2), "actions": (np.float32, 2), "ends": (np.int64, 1)}
SPLITS = ("train", "val", "test")
NOTE = ".checked.json"  # which files have had every number read
LARGE = 2**26  # bytes of states and actions; reading fewer takes less than a tenth of a second
PIECE = 2**16  # rows read at once
MEND = "delete the folder and collect it again"


class Meta(Record):
    """What ``meta.json`` says about a dataset."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # an unbounded action space is allowed

    format_version: Literal[1, 2] = FORMAT
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
    frames: Frames | np.ndarray = field(repr=False)  # (rows, h, w, 3) uint8
    states: np.ndarray = field(repr=False)  # (rows, X) float64
    actions: np.ndarray = field(repr=False)  # (rows, action_dim) float32, NaN in the last row of each episode
    ends: np.ndarray = field(repr=False)  # (episodes,) int64
    share: float = 1.0  # of the folder's training episodes, that its split train has

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """The dataset in ``folder``, checked; its columns stay on disk.

        Raises:
            UserError: a file is missing, cut short or contradicts another.
        """
        folder = Path(folder)
        meta = _read_meta(folder)
        dataset = cls(folder, meta, *(_column(folder, name, meta.format_version) for name in COLUMNS))
        _check(dataset)
        _check_numbers(dataset)
        return dataset

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self.share)  # worker processes open the files; the numbers are not copied to them

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
        """16 hex digits that change with any number of the dataset and with its description, however they are stored."""
        text = json.dumps(self.meta.model_dump(mode="json") | {"format_version": 1}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def verify(self) -> None:
        """Read every number again.

        Raises:
            UserError: one has changed since the dataset was written.
        """
        for name in COLUMNS:
            if digest_of(getattr(self, name)) != self.meta.digests.get(name):
                path = self.folder / _file_name(name, self.meta.format_version)
                raise UserError(f"{path} has changed since it was written; {MEND}")

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

    def with_share(self, share: float) -> Dataset:
        """The same with the first ``share`` of the training episodes only, one at least; other splits stay as they are."""
        train = self.episodes("train")
        kept = tuple(train[: max(1, round(share * len(train)))].tolist())
        return replace(self, meta=self.meta.model_copy(update={"splits": {**self.splits, "train": kept}}), share=share)

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
        clip = self._stored(indices)
        return Clip(clip.frames.contiguous(), clip.actions)

    def _stored(self, indices: np.ndarray) -> Clip:
        """The same, with the frames in memory as they are stored: (B, T, h, w, 3), seen in another order."""
        starts = self.starts[np.asarray(indices)][:, None]
        frames = self.dataset.frames[starts + np.arange(self.frames) * self.frame_skip]
        return Clip(_tensor(frames).permute(0, 1, 4, 2, 3), self.action_blocks(indices))

    def action_blocks(self, indices: np.ndarray) -> torch.Tensor:
        """The actions alone, (B, T-1, frame_skip x action_dim) float32."""
        starts = self.starts[np.asarray(indices)][:, None]
        actions = self.dataset.actions[starts + np.arange((self.frames - 1) * self.frame_skip)]
        blocks = actions.reshape(len(starts), self.frames - 1, self.frame_skip * actions.shape[-1])
        return _tensor(blocks)

    def sample(self, rng: np.random.Generator, batch_size: int, own: slice = slice(None)) -> Clip:
        """``batch_size`` clips drawn uniformly, with replacement; frames not contiguous, for the loader to permute.

        Args:
            own: which of them are read.
        """
        return self._stored(rng.integers(len(self), size=batch_size)[own])


def _opened(folder: Path, share: float) -> Dataset:
    """What another process makes of a dataset."""
    dataset = Dataset.open(folder)
    return dataset if share == 1 else dataset.with_share(share)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor. Processes that collect import this module and make none: torch is most of a process."""
    import torch

    return torch.from_numpy(array)


def digest_of(column: Frames | np.ndarray) -> str:
    """SHA-256 of the numbers of a column, read in pieces."""
    digest = hashlib.sha256()
    piece = max((1 << 24) // max(column.nbytes // max(len(column), 1), 1), 1)
    for begin in range(0, len(column), piece):
        digest.update(np.ascontiguousarray(column[begin : begin + piece]))
    return digest.hexdigest()


def _read_meta(folder: Path) -> Meta:
    try:
        return read_model(folder / "meta.json", Meta, MEND, finite=False)
    except MissingFile:
        raise UserError(f"{folder} is not a complete dataset: it has no meta.json; {MEND}")


def _file_name(name: str, version: int) -> str:
    return FRAMES[version] if name == "frames" else f"{name}.npy"


def _column(folder: Path, name: str, version: int) -> Frames | np.ndarray:
    """A column, left on disk; what its header promises is there to the last byte."""
    path = folder / _file_name(name, version)
    return Frames.open(path, MEND) if path.suffix == ".zarr" else read_array(path, *COLUMNS[name], MEND)


def _check(dataset: Dataset) -> None:
    """Raise a UserError if the columns and the description contradict each other."""

    def require(true: Any, name: str, problem: str) -> None:
        if not true:
            raise UserError(f"{dataset.folder / name} {problem}; {MEND}")

    meta, ends, rows = dataset.meta, dataset.ends, len(dataset.frames)
    frames = FRAMES[meta.format_version]
    require(len(ends), "ends.npy", "lists no episode")
    require((dataset.lengths >= 2).all(), "ends.npy", "does not increase by at least 2 rows per episode")
    require(ends[-1] == rows, "ends.npy", f"ends at row {ends[-1]}, but {frames} has {rows} rows")
    require(dataset.frames.shape[3] == 3, frames, f"has shape {dataset.frames.shape}, not (rows, h, w, 3)")
    require(len(dataset.states) == rows, "states.npy", f"has {len(dataset.states)} rows, but {frames} has {rows}")
    require(len(dataset.actions) == rows, "actions.npy", f"has {len(dataset.actions)} rows, but {frames} has {rows}")
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


def _check_numbers(dataset: Dataset) -> None:
    """Raise a UserError for numbers that are not finite, or are where there are none.

    Of a large dataset every number is read once, as long as its files stay what they are: ``.checked.json`` says so.
    """
    large = dataset.states.nbytes + dataset.actions.nbytes >= LARGE
    files, note = (
        [_identity(dataset.folder / f"{name}.npy") for name in ("states", "actions", "ends")],
        dataset.folder / NOTE,
    )
    if large and _noted(note) == files:
        return
    if (problem := _wrong_number(dataset)) is not None:
        raise UserError(f"{dataset.folder / problem}; {MEND}")
    if large:
        with suppress(OSError, UserError):  # a folder that is only read is read again by the next process
            write_text(note, json.dumps(files))


def _wrong_number(dataset: Dataset) -> str | None:
    """The file and what is wrong in it, read in pieces."""
    last = np.zeros(len(dataset.states), bool)
    last[dataset.ends - 1] = True
    for begin in range(0, len(last), PIECE):
        piece = slice(begin, begin + PIECE)
        if not np.isfinite(dataset.states[piece]).all():
            return "states.npy has a state that is not finite"
        actions = dataset.actions[piece]
        if not (np.isfinite(actions).all(1) | last[piece]).all():
            return "actions.npy has an action that is not finite inside an episode"
        if not np.isnan(actions[last[piece]]).all():
            return "actions.npy has an action after the last frame of an episode"
    return None


def _identity(path: Path) -> list[int]:
    """What changes when a file is written again."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _noted(note: Path) -> Any:
    """What an earlier process has noted, or None."""
    try:
        return read_json(note, "delete it")
    except UserError:
        return None
