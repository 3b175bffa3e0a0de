"""Checkpoints of a training on its way, so that one can see when an agent has learned what it can do."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn


@dataclass(frozen=True)
class Keeping:
    """After which steps of a training its module is kept, and in which folder."""

    steps: tuple[int, ...] = ()
    folder: Path = Path()

    def of(self, steps: int) -> Path:
        """The checkpoint folder of the module after so many steps."""
        return self.folder / f"step-{steps}"

    def after(self, steps: int, model: nn.Module, save: Callable[[nn.Module, Path], None]) -> float:
        """Save a copy of the module if it is to be kept after so many steps; the seconds that this took.

        Args:
            save: turns a module in training into what acts, which the training itself must not notice.
        """
        if steps not in self.steps:
            return 0.0
        begin = time.perf_counter()
        copied = copy.deepcopy(model).eval()
        save(copied, self.of(steps))
        return time.perf_counter() - begin


NOTHING_KEPT = Keeping()


def shares_of(steps: int, number: int) -> tuple[int, ...]:
    """The steps after which ``number`` equal shares of a training are done, each once; the last is its end."""
    return tuple(sorted({max(1, round(steps * share / number)) for share in range(1, number + 1)}))
