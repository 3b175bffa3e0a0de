"""The verb that shows what runs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import CacheOption
from lewm_bench.core.formatting import duration
from lewm_bench.system.signals import Stopped

if TYPE_CHECKING:
    from lewm_bench.system.status import Status

HEADER = ("machine", "process", "task", "since", "for", "done", "left", "part of")
CLEAR = "\x1b[H\x1b[2J"  # the cursor to the corner, then an empty screen


def watch(
    every: Annotated[
        float | None,
        typer.Option("--every", min=0.1, help="Renew the table after so many seconds, until Control-C; on a terminal."),
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Show what all processes that share the cache collect, train and evaluate now, and how long that will take.

    Example: lewm-bench watch --every 2
    """
    from lewm_bench.system.status import running
    from lewm_bench.system.store import default_cache

    folder = cache or default_cache()
    if every is None or not sys.stdout.isatty():
        typer.echo(laid_out(running(folder), time.time()))
        return
    try:
        while True:
            shown = laid_out(running(folder), time.time())
            typer.echo(f"{CLEAR}{time.strftime('%H:%M:%S')}, renewed every {every:g} s until Control-C\n\n{shown}")
            time.sleep(every)
    except Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise


def laid_out(found: Sequence[Status], now: float) -> str:
    """One line per process, in columns."""
    if not found:
        return "nothing runs"
    rows = [HEADER, *(_row(status, now) for status in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    used = [i for i in range(len(HEADER)) if any(row[i] for row in rows[1:])]
    return "\n".join("  ".join(f"{row[i]:<{widths[i]}}" for i in used).rstrip() for row in rows)


def _row(status: Status, now: float) -> tuple[str, ...]:
    begun = time.localtime(status.since)
    today = begun[:3] == time.localtime(now)[:3]
    left = status.seconds_left
    return (
        status.host,
        str(status.pid),
        status.task,
        time.strftime("%H:%M:%S" if today else "%d %b %H:%M", begun),
        duration(max(0.0, now - status.since)),
        _share(status.done, status.total),
        "" if left is None else duration(max(0.0, left - (now - status.updated))),
        status.within,
    )


def _share(done: int | None, total: int | None) -> str:
    """``340 of 1000, 34 %``."""
    return "" if done is None or not total else f"{done} of {total}, {100 * done // total} %"
