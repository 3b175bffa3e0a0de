"""DINO-WM's folders: tensors of all episodes (``states.pth``, ``actions.pth``), and one video or tensor of frames for each.

PushT's actions are pixels there (``rel_actions.pth``) and hundreds of pixels here; its velocities are in a file of their
own. Lengths that are pickled are not read but counted from the videos.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from lewm_bench.core.errors import UserError, one_line
from lewm_bench.data.importers.table import Column, Names, Table
from lewm_bench.data.importers.video import Video, frame_count
from lewm_bench.system.faults import result_or_error

ACTION_SCALE = 100.0  # of rel_actions.pth


class DinoWMTable(Table):
    """A folder with ``states.pth``, actions and ``obses``."""

    kind: ClassVar[str] = "DINO-WM"

    def __init__(self, path: Path, names: Names) -> None:
        self.source, self._obses = str(path), path / "obses"
        if names.episodes:
            raise UserError(f"{path} is of DINO-WM, which has an episode per file; leave --episodes out")
        states, self._actions = _tensor(path / "states.pth"), _actions(path)
        if (path / "velocities.pth").is_file():
            states = np.concatenate([states, _tensor(path / "velocities.pth")], axis=-1)
        self._states = states
        if states.ndim != 3 or self._actions.ndim != 3 or len(states) != len(self._actions):
            raise UserError(
                f"{path}: states.pth and the actions must be (episodes, steps, numbers) of as many episodes, got "
                f"{states.shape} and {self._actions.shape}"
            )
        self.lengths = self._lengths(path)
        if self.lengths.max() > min(states.shape[1], self._actions.shape[1] + 1):
            raise UserError(
                f"{path}: an episode has {self.lengths.max()} frames, but states.pth has {states.shape[1]} steps"
            )
        first = self.read("pixels", 0)
        self.columns = {
            "pixels": Column(first.shape[1:], first.dtype),
            "states": Column(states.shape[2:], states.dtype),
            "actions": Column(self._actions.shape[2:], self._actions.dtype),
        }

    def read(self, name: str, episode: int) -> np.ndarray:
        length = int(self.lengths[episode])
        if name != "pixels":
            return (self._states if name == "states" else self._actions)[episode, :length]
        file = self._file(episode)
        return Video(file).frames(0, length) if file.suffix == ".mp4" else _tensor(file)[:length]

    def _file(self, episode: int) -> Path:
        found = [path for kind in ("mp4", "pth") if (path := self._obses / f"episode_{episode:03d}.{kind}").is_file()]
        if not found:
            raise UserError(
                f"{self.source} has no frames of episode {episode} (obses/episode_{episode:03d}.mp4 or .pth)"
            )
        return found[0]

    def _lengths(self, path: Path) -> np.ndarray:
        """(episodes,) frames of each."""
        count, steps = self._states.shape[:2]
        if (path / "seq_lengths.pth").is_file():
            lengths = _tensor(path / "seq_lengths.pth").astype(np.int64).ravel()
        elif self._file(0).suffix == ".mp4":
            lengths = np.array([frame_count(self._file(episode)) for episode in range(count)], np.int64)
        else:
            lengths = np.full(count, steps, np.int64)
        if len(lengths) != count:
            raise UserError(f"{path}: seq_lengths.pth has {len(lengths)} episodes, but states.pth has {count}")
        return lengths


def is_dino_wm(path: Path) -> bool:
    """Whether a folder is a data set, or a split of one, of DINO-WM."""
    return (path / "states.pth").is_file() and (path / "obses").is_dir()


def _actions(path: Path) -> np.ndarray:
    if (path / "rel_actions.pth").is_file():
        return _tensor(path / "rel_actions.pth") / np.float32(ACTION_SCALE)
    return _tensor(path / "actions.pth")


def _tensor(path: Path) -> np.ndarray:
    """The tensor in a .pth file; anything else in one is never loaded.

    Raises:
        UserError: it is missing, damaged, or holds no tensor.
    """
    found = result_or_error(lambda: torch.load(path, map_location="cpu", weights_only=True))
    if isinstance(found, Exception):
        raise UserError(f"{path} cannot be read as a tensor: {one_line(str(found))[:200]}")
    if not isinstance(found, torch.Tensor):
        raise UserError(f"{path} holds a {type(found).__name__}, not one tensor")
    return found.numpy()
