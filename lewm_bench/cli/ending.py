"""How a verb ends: what it found, where its report is, and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lewm_bench.core.errors import NotRun

if TYPE_CHECKING:
    from lewm_bench.run.stages import Run


def show(found: str, folder: Path) -> None:
    """Print what was found and where its report is."""
    typer.echo(found)
    typer.echo(f"report: {folder / 'report.html'}")


def end_run(shown: str, out: Path, cells: list, failures: list[tuple]) -> None:
    """Print what a run found and where its report is; exit status 1 if some of it failed."""
    show(shown, out)
    if all(cell.status == "not run" for cell in cells):
        raise NotRun(f"nothing could be run here: {cells[0].reason}")
    for cell, reason in failures:
        typer.echo(f"failed: {cell.env} {cell.agent} seed {cell.seed}: {reason}", err=True)
    if failures:
        raise typer.Exit(1)


def end_examination(cells: list, it: Run, title: str = "") -> None:
    """Write and print the report of an examination."""
    from lewm_bench.report.understanding.report import terminal, write_understanding

    shown = terminal(write_understanding(cells, it.out, title or it.suite.title))
    end_run(shown, it.out, cells, [(cell, failure) for cell in cells for failure in cell.failures])


def end_shift(cells: list, it: Run) -> None:
    """Write and print the report of changed worlds."""
    from lewm_bench.report.shift.report import terminal, write_shift

    shown = terminal(write_shift(cells, it.out, it.suite.title))
    end_run(shown, it.out, cells, [(cell, failure) for cell in cells for failure in cell.failures])
