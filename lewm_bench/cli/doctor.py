"""The verb that says what works on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from lewm_bench.cli.options import CacheOption

VerifyOption = Annotated[bool, typer.Option("--verify", help="Also read every byte of the cache and compare it.")]


def doctor(cache: CacheOption = None, verify: VerifyOption = False) -> None:
    """Say what works on this machine, and the command that mends the rest.

    Example: lewm-bench doctor
    """
    from lewm_bench.system.doctor import diagnose, verify_cache

    for item in [*diagnose(cache), *([verify_cache(cache)] if verify else [])]:
        remedy = f"\n        -> {item.remedy}" if item.remedy and item.status != "ok" else ""
        typer.echo(f"{item.status:<4}  {item.name}: {item.detail}{remedy}")
