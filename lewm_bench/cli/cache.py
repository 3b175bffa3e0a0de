"""The verbs that show what the cache keeps, and free it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lewm_bench.cli.options import CacheOption, names
from lewm_bench.cli.verb import Verb, group_of
from lewm_bench.core.errors import UserError, unknown

if TYPE_CHECKING:
    from lewm_bench.system.cache import Entry

app = group_of(
    "cache",
    "Show what is kept in the cache, or free it.\n\nExample: lewm-bench cache list; lewm-bench cache prune --older-than 30d --dry-run",
)

KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", help="Only dataset, model, evaluation, ...; repeatable or comma-separated."),
]


@app.command(name="list", cls=Verb)
def list_(kind: KindOption = None, cache: CacheOption = None) -> None:
    """Show what is kept: kind, key, size, when it was used last, and what it is about; and the sums of each kind.

    Example: lewm-bench cache list --kind model
    """
    from lewm_bench.system.cache import entries

    root, kinds = _root(cache), _kinds(kind, cache)
    found = [entry for entry in entries(root) if not kinds or entry.kind in kinds]
    _show(found)
    shown = dict.fromkeys(entry.kind for entry in found)
    for name in shown:
        _sum(name, [entry for entry in found if entry.kind == name])
    if len(shown) != 1:
        _sum("everything", found)
    typer.echo(f"cache: {root}")


@app.command(name="prune", cls=Verb)
def prune(
    older_than: Annotated[str, typer.Option("--older-than", help="Not used for so long: 30d, 12h, 2w.")] = "",
    kind: KindOption = None,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="What was set aside: damaged stages, and those that --fresh replaced.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="What interrupted commands have left to go on from.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cache: CacheOption = None,
) -> None:
    """Delete from the cache, after asking, what meets every condition and is not in use; a run makes it again if it needs it.

    With --corrupt, --partial or both only those; without either also finished stages.

    Example: lewm-bench cache prune --older-than 30d --kind model,evaluation --dry-run
    """
    from lewm_bench.system.cache import ASIDE, Wish, chosen_of, duration, entries
    from lewm_bench.system.cache import prune as delete_all

    if not (older_than or kind or corrupt or partial):
        raise UserError(
            "say what to delete: --older-than 30d, --kind model, --corrupt, --partial; several narrow it down"
        )
    unused = duration(older_than) if older_than else 0.0
    states = frozenset((*(ASIDE if corrupt else ()), *(("partial",) if partial else ())))
    root, kinds = _root(cache), _kinds(kind, cache)
    chosen, held = chosen_of(entries(root), Wish(kinds, unused, states))
    _show(chosen)
    for entry in held:
        typer.echo(f"in use, kept: {entry.name}")
    if not chosen:
        typer.echo(f"nothing to delete in {root}")
        return
    if dry_run:
        typer.echo(f"would free {_amount(chosen)} in {root}; nothing was deleted")
        return
    if not yes and not _agreed(f"Delete {_amount(chosen)} in {root}?"):
        typer.echo("nothing was deleted")
        return
    gone, kept = delete_all(chosen)
    for name, reason in kept.items():
        typer.echo(f"kept: {name}: {reason}", err=True)
    typer.echo(f"freed {_amount(gone)} in {root}")
    if kept:
        raise typer.Exit(1)


def _root(cache: Path | None) -> Path:
    from lewm_bench.system.store import Store, default_cache

    return Store(cache or default_cache()).root


def _kinds(given: Sequence[str] | None, cache: Path | None) -> frozenset[str]:
    """The kinds that are named, all of which there are or could be."""
    from lewm_bench.run.keys import KINDS
    from lewm_bench.system.cache import entries

    wanted = names(",".join(given or ()))
    if not wanted:
        return frozenset()
    known = {"imported", *(kind for kinds in KINDS.values() for kind in kinds)}
    known |= {entry.kind for entry in entries(_root(cache))}
    for name in wanted:
        if name not in known:
            raise unknown("kind", name, known)
    return frozenset(wanted)


def _agreed(question: str) -> bool:
    """Whether the user says yes.

    Raises:
        UserError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise UserError("there is nobody to ask here; add --yes, or look first with --dry-run")
    return typer.confirm(question)


def _show(found: Sequence[Entry]) -> None:
    """A line for each entry."""
    now = time.time()
    for entry in found:
        state = "" if entry.state == "finished" else f"  ({entry.state})"
        typer.echo(
            f"{entry.kind:<13}{entry.folder.name:<27}{_bytes(entry.size):>10}  used {_ago(now - entry.used):<12}"
            f"made {time.strftime('%Y-%m-%d', time.localtime(entry.made))}  {entry.about}{state}".rstrip()
        )


def _sum(name: str, found: Sequence[Entry]) -> None:
    typer.echo(f"{name:<13}{_count(found):<27}{_bytes(sum(entry.size for entry in found)):>10}")


def _amount(found: Sequence[Entry]) -> str:
    return f"{_bytes(sum(entry.size for entry in found))} ({_count(found)})"


def _count(found: Sequence[Entry]) -> str:
    return "1 entry" if len(found) == 1 else f"{len(found)} entries"


def _bytes(number: int) -> str:
    """1536 to ``1.5 KiB``."""
    size, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _ago(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
