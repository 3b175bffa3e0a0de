"""What a run or a timing has found: tables, records, figures and films, in memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.evaluation.speed_record import SpeedRow
from lewm_bench.report.agents import Agents
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.figures.files import FIGURES, IN_SCENES
from lewm_bench.report.page import excerpt
from lewm_bench.report.speed import DRAWN, write_speed_report
from lewm_bench.report.speed import excerpt as speed_excerpt
from lewm_bench.report.summary import Summary
from lewm_bench.report.tables.speed import build_table
from lewm_bench.report.tables.speed import terminal as speed_terminal
from lewm_bench.report.tables.terminal import terminal
from lewm_bench.report.write import episodes_table, write_report
from lewm_bench.run.records import CellRecord
from lewm_bench.run.results_folder import claimed
from lewm_bench.system.files import copy_folder

PNG = ".png"


class Result:
    """What ``lewm_bench.run`` returns.

    Attributes:
        folder: the results folder; without ``out`` a temporary one, which is deleted with this object.
        summary: all numbers of the report.
    """

    def __init__(self, summary: Summary, folder: Path, held: tempfile.TemporaryDirectory | None) -> None:
        self.summary, self.folder = summary, folder
        if held is not None:
            weakref.finalize(self, held.cleanup)

    def __repr__(self) -> str:
        return terminal(self.summary)

    def _repr_html_(self) -> str:
        drawn = FIGURES["success.png"](self.summary)
        return excerpt(self.summary, None if drawn is None else png(drawn))

    @property
    def cells(self) -> tuple[CellRecord, ...]:
        """A record of each environment, agent and seed: settings, versions, hardware, every plan's time."""
        return self.summary.cells

    @property
    def table(self) -> pd.DataFrame:
        """A row per environment, agent and goal offset: success with 95 % intervals, differences, times; ``table.csv``."""
        return self.summary.table

    @cached_property
    def episodes(self) -> pd.DataFrame:
        """A row per evaluated episode; ``episodes.csv``."""
        return episodes_table(self.summary.cells)

    @property
    def failures(self) -> dict[tuple[str, str, int], str]:
        """Why a cell was not measured, by its environment, agent and seed."""
        return {(c.env, c.agent, c.seed): c.reason for c in self.cells if c.status != "done"}

    @property
    def figures(self) -> tuple[str, ...]:
        """The names that ``figure`` takes; a run has data for some of them."""
        return tuple(name.removesuffix(PNG) for name in (*FIGURES, *IN_SCENES))

    def figure(self, name: str = "success") -> Figure:
        """A figure of the report; a notebook shows it where it is the last line of a cell.

        Raises:
            UserError: there is no such figure, or nothing to draw in it.
        """
        if name not in self.figures:
            raise unknown("figure", name, self.figures)
        file = name + PNG
        drawn = FIGURES[file](self.summary) if file in FIGURES else IN_SCENES[file](self.summary, self.folder)
        if drawn is None:
            raise UserError(f"this run has no data for the figure {name!r}; others: {', '.join(self.figures)}")
        return drawn

    @property
    def videos(self) -> tuple[Path, ...]:
        """The files of the films: a success and a failure of each agent, as far as there are such."""
        named = [name for cell in self.cells for offset in cell.offsets for name in offset.videos]
        return tuple(path for path in (self.folder / name for name in named) if path.is_file())

    def save(self, folder: str | Path) -> Path:
        """Write everything that the command line leaves behind into a new folder; the path of its ``report.html``.

        Raises:
            UserError: there is something in the folder already, or nothing can be written there.
        """
        target = _new_folder(folder)
        with claimed(target):
            copy_folder(self.folder, target)
            write_report(self.cells, target, self.summary.title)
        return target / "report.html"


class SpeedResult:
    """What ``lewm_bench.speed`` returns.

    Attributes:
        rows: a record of each method, arithmetic and size, with every plan's time.
        title: of the report.
    """

    def __init__(self, rows: Sequence[SpeedRow], title: str) -> None:
        self.rows, self.title = tuple(rows), title

    def __repr__(self) -> str:
        return speed_terminal(self.table)

    def _repr_html_(self) -> str:
        return speed_excerpt(self.table, self.title)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per method, arithmetic and size: median and quartiles of plan times, speed-ups, operations."""
        return build_table(self.rows)

    @property
    def figures(self) -> tuple[str, ...]:
        """The names that ``figure`` takes."""
        return tuple(name.removesuffix(PNG) for name in DRAWN)

    def figure(self, name: str = "speedup") -> Figure:
        """A figure of the report; ``scaling`` has data where candidates, blocks or batches were swept.

        Raises:
            UserError: there is no such figure, or nothing to draw in it.
        """
        if name not in self.figures:
            raise unknown("figure", name, self.figures)
        swept = self.table["sweep"] != ""
        if not (swept if name == "scaling" else ~swept).any():
            raise UserError(f"these times have no data for the figure {name!r}; others: {', '.join(self.figures)}")
        draw: Callable[..., Figure] = DRAWN[name + PNG]
        return draw(self.table, Agents.of(self.rows))

    def save(self, folder: str | Path) -> Path:
        """Write what `lewm-bench speed` leaves behind into a new folder; the path of its ``report.html``.

        Raises:
            UserError: there is something in the folder already, or nothing can be written there.
        """
        target = _new_folder(folder)
        with claimed(target):
            write_speed_report(self.rows, target, self.title)
        return target / "report.html"


def _new_folder(folder: str | Path) -> Path:
    """A folder that has nothing in it, so that nothing is replaced or mixed."""
    target = Path(folder)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already; name a new folder, or delete it")
    return target
