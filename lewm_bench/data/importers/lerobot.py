"""LeRobot v3: parquet tables of rows, pictures in them or in videos, and tables that say where episodes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lewm_bench.core.errors import UserError, one_line
from lewm_bench.core.reading import read_json
from lewm_bench.data.importers.lance import arrow_rows
from lewm_bench.data.importers.table import Column, Names, Table
from lewm_bench.data.importers.video import Video
from lewm_bench.system.extras import require
from lewm_bench.system.faults import result_or_error

VERSION = "v3."
SKIPPED = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class LeRobotTable(Table):
    """A folder of LeRobot v3."""

    kind: ClassVar[str] = "LeRobot v3"

    def __init__(self, path: Path, names: Names) -> None:
        self.source, self._folder = str(path), path
        if names.episodes:
            raise UserError(f"{path} is of LeRobot, which knows its episodes; leave --episodes out")
        self._info = read_json(path / "meta/info.json", "copy the data set again")
        version = str(self._info.get("codebase_version"))
        if not version.startswith(VERSION):
            raise UserError(f"{path} is of LeRobot {version}; convert it to v3.0 with lerobot's own script")
        self._require(self._info, ("features", "fps", "data_path"), "meta/info.json")
        self._episodes = self._read_episodes()
        self._shard: tuple[Path, Any] | None = None
        self._open: dict[str, Video] = {}
        features = {name: each for name, each in self._info["features"].items() if name not in SKIPPED}
        self.columns = {name: _column(each) for name, each in features.items() if each["dtype"] != "string"}
        self._videos = {name for name, each in features.items() if each["dtype"] == "video"}
        needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        parts = ("chunk_index", "file_index", "from_timestamp")
        needed += [f"videos/{name}/{part}" for name in self._videos for part in parts]
        self._require(self._episodes[0], needed, "meta/episodes")
        if self._videos:
            self._require(self._info, ("video_path",), "meta/info.json")
        self.lengths = np.asarray([each["length"] for each in self._episodes], np.int64)

    def read(self, name: str, episode: int) -> np.ndarray:
        facts = self._episodes[episode]
        if name in self._videos:
            return self._video(name, facts)
        table = self._rows_of(facts)
        if table.num_rows != facts["length"]:
            raise UserError(
                f"{self.source}: episode {episode} has {table.num_rows} rows, but its length is {facts['length']}; the "
                "copy is not complete"
            )
        if name not in table.column_names:
            raise UserError(f"{self.source}: meta/info.json names {name}, but the tables do not have it")
        return arrow_rows(table.column(name).combine_chunks(), f"{self.source}: {name}")

    def _require(self, found: Mapping[str, Any], names: Iterable[str], place: str) -> None:
        missing = [name for name in names if found.get(name) is None]
        if missing:
            raise UserError(f"{self.source}: {place} lacks {', '.join(missing)}; it is not the layout of v3.0")

    def _video(self, name: str, facts: Mapping[str, Any]) -> np.ndarray:
        place = {
            "video_key": name,
            "chunk_index": facts[f"videos/{name}/chunk_index"],
            "file_index": facts[f"videos/{name}/file_index"],
        }
        begin = round(facts[f"videos/{name}/from_timestamp"] * self._info["fps"])
        path = self._folder / self._info["video_path"].format(**place)
        if name not in self._open or self._open[name].path != path:
            self._open[name] = Video(path)
        return self._open[name].frames(begin, facts["length"])

    def _rows_of(self, facts: Mapping[str, Any]) -> Any:
        """The rows of an episode; the table that was read last is kept."""
        place = {"chunk_index": facts["data/chunk_index"], "file_index": facts["data/file_index"]}
        path = self._folder / self._info["data_path"].format(**place)
        if self._shard is None or self._shard[0] != path:
            self._shard = path, self._parquet(path)
        compute = require("pyarrow.compute", "importing LeRobot data sets")
        table = self._shard[1]
        return table.filter(compute.equal(table.column("episode_index"), facts["episode_index"]))

    def _read_episodes(self) -> list[dict[str, Any]]:
        files = sorted(self._folder.glob("meta/episodes/*/*.parquet"))
        if not files:
            raise UserError(f"{self.source} has no meta/episodes; copy the data set again")
        found = [row for path in files for row in self._parquet(path, stats=False).to_pylist()]
        if not found:
            raise UserError(f"{self.source} has no episodes")
        return sorted(found, key=lambda row: row.get("episode_index", 0))

    def _parquet(self, path: Path, stats: bool = True) -> Any:
        parquet = require("pyarrow.parquet", "importing LeRobot data sets")

        def load() -> Any:
            names = [name for name in parquet.read_schema(path).names if stats or not name.startswith("stats/")]
            return parquet.read_table(path, columns=names)

        found = result_or_error(load)
        if isinstance(found, Exception):
            raise UserError(f"{path} cannot be read as parquet: {one_line(str(found))}; copy the data set again")
        return found


def _column(feature: Mapping[str, Any]) -> Column:
    shape = tuple(feature["shape"])
    if feature["dtype"] in ("image", "video"):
        if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
            shape = (*shape[1:], shape[0])  # what is decoded has channels last, whatever was written
        return Column(shape, np.dtype(np.uint8))
    return Column(() if shape == (1,) and feature["dtype"].startswith("int") else shape, np.dtype(feature["dtype"]))


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a data set of LeRobot."""
    return (path / "meta/info.json").is_file()
