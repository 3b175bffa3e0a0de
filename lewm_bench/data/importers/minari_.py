"""Minari: episodes of N actions and N+1 observations, of which one part is a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lewm_bench.core.errors import UserError, one_line
from lewm_bench.data.importers.hdf5 import require_whole
from lewm_bench.data.importers.table import Column, Names, Table
from lewm_bench.system.extras import require
from lewm_bench.system.faults import result_or_error

MAIN = "main_data.hdf5"


class MinariTable(Table):
    """A data set of Minari's local storage, by its folder."""

    kind: ClassVar[str] = "Minari"

    def __init__(self, path: Path, names: Names) -> None:
        self.source = str(path)
        if names.episodes:
            raise UserError(f"{path} is of Minari, which knows its episodes; leave --episodes out")
        minari = require("minari", "importing Minari data sets")
        folder = path if path.name == "data" else path / "data"
        if (folder / MAIN).is_file():
            require_whole(folder / MAIN)
        opened = result_or_error(lambda: minari.MinariDataset(folder))
        if isinstance(opened, Exception):
            raise UserError(f"{path} cannot be opened as a Minari data set: {one_line(str(opened))}")
        self._data, self._at = opened, (-1, {})
        indices = opened.episode_indices
        counts = [each["total_steps"] for each in opened.storage.get_episode_metadata(indices)]
        if not counts:
            raise UserError(f"{path} has no episodes")
        self.lengths = np.asarray(counts, np.int64) + 1
        self.columns = {name: Column(values.shape[1:], values.dtype) for name, values in self._episode(0).items()}

    def read(self, name: str, episode: int) -> np.ndarray:
        return self._episode(episode)[name]

    def _episode(self, episode: int) -> dict[str, np.ndarray]:
        """The columns of an episode; the last one is kept, because its columns are asked for one by one."""
        if self._at[0] != episode:
            index = int(self._data.episode_indices[episode])
            found = result_or_error(lambda: next(iter(self._data.iterate_episodes([index]))))
            if isinstance(found, Exception):
                raise UserError(f"{self.source}: episode {index} cannot be read: {one_line(str(found))}")
            values = {**dict(_parts("observations", found.observations)), **dict(_parts("actions", found.actions))}
            self._at = episode, values
        return self._at[1]


def _parts(name: str, values: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in nested observations, by their keys with dots."""
    if isinstance(values, Mapping):
        for key, inner in values.items():
            yield from _parts(f"{name}.{key}", inner)
    elif isinstance(values, tuple):
        for number, inner in enumerate(values):
            yield from _parts(f"{name}.{number}", inner)
    elif isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        yield name, values


def is_minari(path: Path) -> bool:
    """Whether a folder is one data set of Minari."""
    folder = path if path.name == "data" else path / "data"
    return (folder / MAIN).is_file() or (folder / "metadata.json").is_file()
