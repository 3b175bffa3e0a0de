"""Starts and goals that are in no recording, put behind a dataset's rows so that episodes can begin and end there.

Each task becomes an episode of two rows, its start and its goal, that belongs to no split: what is read of the splits
(action statistics, frames for correlations) stays what it was. X state size, n tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.protocol import Pairs


@dataclass(frozen=True)
class Tasks:
    """Where episodes begin, where they should end, and the pictures of both."""

    starts: np.ndarray  # (n, X)
    goals: np.ndarray  # (n, X)
    start_frames: np.ndarray  # (n, h, w, 3) uint8
    goal_frames: np.ndarray  # (n, h, w, 3) uint8

    def __len__(self) -> int:
        return len(self.starts)


class JoinedFrames:
    """Recorded frames with others behind them, read like an array of them all."""

    def __init__(self, recorded: Any, more: np.ndarray) -> None:
        """``recorded`` (rows, h, w, 3) on disk or in memory, ``more`` (k, h, w, 3) uint8."""
        self._recorded, self._more = recorded, more
        self.shape = (len(recorded) + len(more), *more.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.asarray(np.arange(len(self))[index])
        flat, out = rows.ravel(), np.empty((rows.size, *self.shape[1:]), np.uint8)
        late = flat >= len(self._recorded)
        out[late] = self._more[flat[late] - len(self._recorded)]
        if not late.all():
            out[~late] = self._recorded[flat[~late]]
        return out.reshape(*rows.shape, *self.shape[1:])


def with_tasks(dataset: Dataset, tasks: Tasks, states: np.ndarray | None = None) -> tuple[Dataset, Pairs]:
    """A dataset with the tasks as further episodes, and the pairs that they are.

    Args:
        states: (rows, X) what stands for the dataset's own states, where those of the tasks have another size.
    """
    own = dataset.states if states is None else states
    n, rows, actions = len(tasks), len(dataset.frames), np.full((2 * len(tasks), dataset.actions.shape[1]), np.nan)
    frames = np.stack([tasks.start_frames, tasks.goal_frames], 1).reshape(2 * n, *tasks.start_frames.shape[1:])
    more = replace(
        dataset,
        frames=JoinedFrames(dataset.frames, frames),
        states=np.concatenate([own, np.stack([tasks.starts, tasks.goals], 1).reshape(2 * n, -1)]),
        actions=np.concatenate([dataset.actions, actions.astype(np.float32)]),
        ends=np.concatenate([dataset.ends, rows + 2 * np.arange(1, n + 1)]),
    )
    starts = rows + 2 * np.arange(n)
    return more, Pairs(len(dataset) + np.arange(n), starts, starts + 1, n, 0)
