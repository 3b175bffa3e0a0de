"""OGBench's .npz: flat columns in which ``terminals`` is 1 in the last row of an episode; visual ones observe pictures.

Its last action of an episode leads nowhere that is recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from lewm_bench.data.importers.plain import NpzTable
from lewm_bench.data.importers.table import Names

COLUMNS = {"observations", "actions", "terminals"}


class OGBenchTable(NpzTable):
    """An .npz of OGBench."""

    kind: ClassVar[str] = "OGBench npz"

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(
            path, names if names.episodes else Names(names.pixels, names.actions, names.states, "terminals")
        )
