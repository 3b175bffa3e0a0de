"""The verb that makes a report again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lewm_bench.cli.ending import show


def report(
    folders: Annotated[list[Path], typer.Argument(help="Result folders, for example of several machines.")],
    out: Annotated[Path | None, typer.Option("--out", help="Default: the first folder.")] = None,
    title: Annotated[str, typer.Option("--title")] = "",
    pack: Annotated[
        bool, typer.Option("--pack", help="Also write all cells into one compressed file, cells.jsonl.xz, of --out.")
    ] = False,
) -> None:
    """Make tables, figures and the report page again from the cells of one or several result folders.

    Example: lewm-bench report results/pointmaze other-machine/pointmaze --out results/both
    """
    from lewm_bench.evaluation.shift_record import holds_shifts
    from lewm_bench.evaluation.speed_record import SPEED_FILE, load_speed
    from lewm_bench.report.speed import write_speed_report
    from lewm_bench.report.tables.speed import terminal as terminal_speed
    from lewm_bench.report.tables.terminal import terminal
    from lewm_bench.report.write import write_report
    from lewm_bench.run.records import load_cells
    from lewm_bench.run.results_folder import claimed, set_aside
    from lewm_bench.system.files import copy_folder
    from lewm_bench.system.packed import write_packed
    from lewm_bench.understand.records import holds_understanding

    if any(map(holds_understanding, folders)):
        return _report_understanding(folders, out, title, pack)
    if any(map(holds_shifts, folders)):
        return _report_shifts(folders, out, title, pack)
    if all((folder / SPEED_FILE).is_file() for folder in folders):
        rows = [row for folder in folders for row in load_speed(folder)]
        target = out or folders[0]
        elsewhere = target not in folders
        with claimed(target):
            set_aside(target, [SPEED_FILE] if elsewhere else [], SPEED_FILE)
            shown = terminal_speed(write_speed_report(rows, target, title or "Planning time", records=elsewhere))
        show(shown, target)
        return
    cells = load_cells(folders)
    target = out or folders[0]
    with claimed(target):
        for part in (folder / name for folder in folders for name in ("videos", "scenes")):
            if out is not None and part.is_dir():
                copy_folder(part, target / part.name)
        if pack:
            write_packed(folders, target)
        summary = write_report(cells, target, title or title_of(cells[0].suite))
    show(terminal(summary), target)


def title_of(suite: str) -> str:
    """The title of a suite that is still in the file, else its name."""
    from lewm_bench.run.benchmarks import find_file, load

    known = load(find_file(None)).suites.get(suite)
    return f"Suite {suite}" if known is None else known.title


def _report_understanding(folders: list[Path], out: Path | None, title: str, pack: bool) -> None:
    """Tables, figures and page of examinations again."""
    from lewm_bench.report.understanding.report import terminal, write_understanding
    from lewm_bench.understand.records import PICTURES, load_records

    cells = load_records(folders)
    shown_title = title or title_of(cells[0].suite)
    _report_kept(folders, out, pack, PICTURES, lambda target: terminal(write_understanding(cells, target, shown_title)))


def _report_shifts(folders: list[Path], out: Path | None, title: str, pack: bool) -> None:
    """Tables, figures and page of changed worlds again."""
    from lewm_bench.evaluation.shift_record import SHEETS, load_shifts
    from lewm_bench.report.shift.report import terminal, write_shift

    cells = load_shifts(folders)
    shown_title = title or title_of(cells[0].suite)
    _report_kept(folders, out, pack, SHEETS, lambda target: terminal(write_shift(cells, target, shown_title)))


def _report_kept(
    folders: list[Path], out: Path | None, pack: bool, pictures: str, write: Callable[[Path], str]
) -> None:
    """Write a report beside the ``pictures`` that no record holds, a folder of them in each of the results."""
    from lewm_bench.run.results_folder import claimed
    from lewm_bench.system.files import copy_folder
    from lewm_bench.system.packed import write_packed

    target = out or folders[0]
    with claimed(target):
        for folder in folders:
            if folder != target and (folder / pictures).is_dir():
                copy_folder(folder / pictures, target / pictures)
        if pack:
            write_packed(folders, target)
        shown = write(target)
    show(shown, target)
