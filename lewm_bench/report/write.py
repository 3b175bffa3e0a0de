"""The files of a results folder, from records; the same records give the same bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from lewm_bench.core.errors import UserError
from lewm_bench.report.figures import files
from lewm_bench.report.html import Section
from lewm_bench.report.page import render
from lewm_bench.report.pareto import pareto_table
from lewm_bench.report.summarise import summarise
from lewm_bench.report.summary import Summary
from lewm_bench.report.tables.latex import latex
from lewm_bench.report.tables.markdown import markdown
from lewm_bench.report.text import csv_text
from lewm_bench.run.records import CellRecord, EpisodeRow, Episodes
from lewm_bench.system.files import write_bytes, write_pieces, write_text
from lewm_bench.system.phases import phase


def write_report(cells: Iterable[CellRecord], folder: Path, title: str, extra: Sequence[Section] = ()) -> Summary:
    """Write tables, episodes, figures and ``report.html`` into ``folder`` and return their numbers.

    ``extra`` are further parts of the page.

    Raises:
        UserError: there are no cells.
    """
    summary = summarise(cells, title)
    if not summary.cells:
        raise UserError("there is nothing to report; run `lewm-bench run --suite NAME` first")
    write_text(folder / "table.csv", csv_text(summary.table))
    for name, rows in (
        ("over_steps.csv", summary.over_steps),
        ("over_data.csv", summary.over_data),
        ("horizon.csv", summary.ranges),
        ("pareto.csv", pareto_table(summary.fronts)),
    ):
        if rows.empty:  # as of figures
            (folder / name).unlink(missing_ok=True)
        else:
            write_text(folder / name, csv_text(rows))
    write_text(folder / "table.md", markdown(summary))
    write_text(folder / "table.tex", latex(summary))
    write_pieces(folder / "episodes.csv", (text.encode() for text in _episodes(summary.cells)))
    with phase("report: figures"):
        figures = files.draw_all(summary, folder)
    for name in (
        *files.FIGURES,
        *files.IN_SCENES,
    ):  # a figure of an earlier report that no longer has data would deceive
        if name not in figures:
            (folder / name).unlink(missing_ok=True)
    for name, png in figures.items():
        write_bytes(folder / name, png)
    write_text(folder / "report.html", render(summary, figures, folder, extra))
    return summary


_ORDER = ("protocol", "profile", "env", "agent", "seed", "goal_offset", "pair")


_PIECE = 10_000  # rows


def _episodes(cells: Sequence[CellRecord]) -> Iterator[str]:
    """``episodes.csv`` in pieces."""
    for number, frame in enumerate(_pieces(cells)):
        yield frame.to_csv(index=False, lineterminator="\n", header=not number)


def episodes_table(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """Every evaluated episode, the rows of ``episodes.csv``."""
    pieces = list(_pieces(cells))
    return pieces[0] if len(pieces) == 1 else pd.concat(pieces, ignore_index=True)


def _pieces(cells: Sequence[CellRecord]) -> Iterator[pd.DataFrame]:
    """All episodes of all cells in one order, so many at a time; at least one piece."""
    rows = merge(*map(_ordered, cells), key=itemgetter(0))
    piece, first = list(islice(rows, _PIECE)), True
    while piece or first:
        columns = {name: [e.column(name)[i] for _, e, i in piece] for name in EpisodeRow.model_fields}
        yield pd.DataFrame(columns).astype({"steps_to_hit": "Int64"})
        piece, first = list(islice(rows, _PIECE)), False


def _ordered(cell: CellRecord) -> Iterator[tuple[tuple[Any, ...], Episodes, int]]:
    """The order, the cell's episodes and the number of each of them, by that order."""
    episodes = Episodes.of(cell.episodes)
    columns = [episodes.column(name) for name in _ORDER]
    keys = list(zip(*columns, strict=True))
    numbers = array("q", sorted(range(len(keys)), key=keys.__getitem__))
    del keys
    return ((tuple(column[i] for column in columns), episodes, i) for i in numbers)
