"""The verb that says what works on this machine."""

from __future__ import annotations

import typer

from lewm_bench.cli.options import CacheOption


def doctor(cache: CacheOption = None) -> None:
    """Say what works on this machine, and the command that mends the rest.

    Example: lewm-bench doctor
    """
    from lewm_bench.system.doctor import diagnose

    for item in diagnose(cache):
        remedy = f"\n        -> {item.remedy}" if item.remedy and item.status != "ok" else ""
        typer.echo(f"{item.status:<4}  {item.name}: {item.detail}{remedy}")
