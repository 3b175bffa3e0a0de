"""Planning times, measured and reported; and where the time of a verb went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from lewm_bench.cli.ending import show
from lewm_bench.cli.options import Choices, say


@contextmanager
def where_time_went(asked: bool) -> Iterator[None]:
    """Print what took the time inside this context, if that is asked and it comes to its end."""
    if not asked:
        yield
        return
    from lewm_bench.system.phases import timing

    with timing() as phases:
        try:
            yield
        except typer.Exit:  # some cells failed
            typer.echo(phases.table())
            raise
        typer.echo(phases.table())


def time_planning(choices: Choices, checkpoint: Path | None = None) -> None:
    """Time planning and write the speed report."""
    from lewm_bench.api.timing import timed, weights_of
    from lewm_bench.evaluation.speed_record import SPEED_FILE
    from lewm_bench.report.speed import write_speed_report
    from lewm_bench.report.tables.speed import terminal
    from lewm_bench.run.results_folder import claimed, line_about, set_aside
    from lewm_bench.system.device import resolve_device

    asked = choices.request
    weights, (suite, path) = weights_of(asked, checkpoint), asked.resolve()
    with claimed(asked.out):
        say(f"suite {asked.suite}, profile {asked.profile}, on {resolve_device(asked.device)}, settings from {path}")
        found = timed(asked, suite, weights)
        set_aside(asked.out, [SPEED_FILE], SPEED_FILE)
        shown = terminal(write_speed_report(found.rows, asked.out, found.title))
    if line := line_about(asked.out):
        say(line)
    show(shown, asked.out)
