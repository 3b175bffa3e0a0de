"""What a collection will take, told from its first episodes, and whether the disk has room for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lewm_bench.core.errors import UserError

SPARE = 2**28  # bytes of the disk that stay free
WORTH_BYTES, WORTH_SECONDS = 1e9, 60.0  # a collection below both is not worth a line


@dataclass(frozen=True)
class Estimate:
    """What the episodes that are left take, if they are like the first ones."""

    done: int  # episodes that are there
    left: int
    bytes_each: float
    seconds_each: float

    @property
    def bytes_left(self) -> float:
        """Bytes that are still to be written."""
        return self.left * self.bytes_each

    @property
    def seconds_left(self) -> float:
        """Seconds that collecting will still take."""
        return self.left * self.seconds_each

    @property
    def worth_a_line(self) -> bool:
        """Whether it is much."""
        return self.bytes_left > WORTH_BYTES or self.seconds_left > WORTH_SECONDS

    def __str__(self) -> str:
        taken = f"{size(self.bytes_left)} and {duration(self.seconds_left)}"
        return f"{self.left} episodes to collect take about {taken}"

    def require_room(self, folder: Path) -> None:
        """Raise unless the disk of ``folder`` has room.

        Raises:
            UserError: how many episodes would fit.
        """
        free = shutil.disk_usage(folder).free
        if not self.left or self.bytes_left <= free - SPARE:
            return
        fit = self.done + max(0, int((free - SPARE) / self.bytes_each))
        raise UserError(
            f"{self.left} episodes to collect take about {size(self.bytes_left)}, but {folder.parent} has "
            f"{size(free)} free; {fit} would fit (--set collect.episodes={fit}), or choose another --cache"
        )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: float) -> str:
    """Bytes, in GB or MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds, in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
