"""stable-worldmodel's Lance tables: rows of flat lists, pictures as encoded blobs, episodes by ``episode_idx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lewm_bench.core.errors import UserError, one_line, short_repr
from lewm_bench.data.importers.table import Column, FlatTable, Names, decoded, ends_of_index
from lewm_bench.system.extras import require
from lewm_bench.system.faults import result_or_error

INDEX = ("episode_idx", "ep_idx", "episode_index")
WHAT = "importing Lance tables"


class LanceTable(FlatTable):
    """A ``.lance`` folder, or a folder with one."""

    kind: ClassVar[str] = "Lance"

    def __init__(self, path: Path, names: Names) -> None:
        self.source = str(path)
        lance = require("lance", WHAT)
        opened = result_or_error(lambda: lance.dataset(str(_table_in(path))))
        if isinstance(opened, UserError):
            raise opened
        if isinstance(opened, Exception):
            raise UserError(f"{path} cannot be opened as a Lance table: {one_line(str(opened))}")
        self._table = opened
        index = _index_name(opened.schema.names, names, self.source)
        ends = ends_of_index(self._column(index, 0, opened.count_rows()), self.source, index)
        columns = {name: self._described(name) for name in opened.schema.names}
        super().__init__(self.source, {n: c for n, c in columns.items() if c is not None}, ends)

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        return self._column(name, begin, end)

    def _described(self, name: str) -> Column | None:
        """What a row of a column is; None for text and the like."""
        kind = self._table.schema.field(name).type
        if "string" in str(kind):
            return None
        first = self._column(name, 0, 1)
        return Column(first.shape[1:], first.dtype) if first.dtype != object else None

    def _column(self, name: str, begin: int, end: int) -> np.ndarray:
        found = result_or_error(
            lambda: self._table.to_table(columns=[name], offset=begin, limit=end - begin).column(name).combine_chunks()
        )
        if isinstance(found, Exception):
            raise UserError(f"{self.source}: {name} cannot be read, the table is damaged: {one_line(str(found))}")
        return arrow_rows(found, f"{self.source}: {name}")


def arrow_rows(column: Any, place: str) -> np.ndarray:
    """The rows of an Arrow column (R, ...): numbers, lists of one length, or encoded pictures.

    Raises:
        UserError: a row is missing, or lists differ in length.
    """
    arrow = require("pyarrow", "importing tables")
    kind = column.type
    if isinstance(column, arrow.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        raise UserError(f"{place} has rows without a value; every frame needs one")
    if arrow.types.is_struct(kind):  # how LeRobot stores a picture
        column, kind = column.field("bytes"), column.type.field("bytes").type
    if arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind):
        pictures = [decoded(blob, place) for blob in column.to_pylist()]
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError(f"{place} has pictures of several sizes; resize them before")
        return np.stack(pictures) if pictures else np.empty((0, 0, 0, 3), np.uint8)
    if arrow.types.is_fixed_size_list(kind):
        return _stacked(column.flatten(), len(column), place)
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
        rows = [np.asarray(row) for row in column.to_pylist()]
        if len({row.shape for row in rows}) > 1:
            raise UserError(f"{place} has lists of several lengths, which are no column of numbers")
        return np.stack(rows) if rows else np.empty((0, 0))
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _stacked(values: Any, rows: int, place: str) -> np.ndarray:
    flat = np.asarray(values.to_numpy(zero_copy_only=False))
    if flat.dtype == object:
        raise UserError(f"{place} holds {short_repr(values.type)}, not numbers")
    return flat.reshape(rows, -1)


def _table_in(path: Path) -> Path:
    if path.suffix == ".lance":
        return path
    tables = sorted(path.glob("*.lance"))
    if len(tables) != 1:
        raise UserError(f"{path} holds {len(tables)} Lance tables; name one: {path}/NAME.lance")
    return tables[0]


def _index_name(known: list[str], names: Names, source: str) -> str:
    wanted = (names.episodes,) if names.episodes else INDEX
    for name in wanted:
        if name in known:
            return name
    raise UserError(
        f"{source} has none of {', '.join(wanted)}; name the episodes' column with --episodes: {', '.join(known)}"
    )
