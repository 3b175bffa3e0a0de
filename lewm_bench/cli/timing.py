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
    from lewm_bench.evaluation.speed import SpeedConfig, measure, method_of
    from lewm_bench.evaluation.speed_record import SPEED_FILE
    from lewm_bench.report.speed import write_speed_report
    from lewm_bench.report.tables.speed import terminal
    from lewm_bench.run.checkpoints import checkpoint_folder
    from lewm_bench.run.registry import agent_family
    from lewm_bench.run.results_folder import claimed, line_about, set_aside
    from lewm_bench.system.device import resolve_device, share_cores
    from lewm_bench.system.store import Store, default_cache

    share_cores()
    if checkpoint is not None:
        checkpoint = checkpoint_folder(checkpoint, "", Store(default_cache()))
    suite, path = choices.resolve()
    methods = [method_of(name, agent_family(name), suite.agent_config(name)) for name in suite.settings.speed.methods]
    where, folder, profile = resolve_device(choices.device), choices.folder, choices.profile
    with claimed(folder):
        say(f"suite {choices.suite}, profile {profile}, on {where}, settings from {path}")
        rows = measure(suite.settings, methods, profile, where, checkpoint, progress=choices.progress)
        set_aside(folder, [SPEED_FILE], SPEED_FILE)
        known = suite.settings.speed.methods == SpeedConfig().methods
        title = (
            suite.title
            if known
            else f"Planning time: {', '.join(dict.fromkeys(row.card.name or row.method for row in rows))}"
        )
        shown = terminal(write_speed_report(rows, folder, title))
    if line := line_about(folder):
        say(line)
    show(shown, folder)
