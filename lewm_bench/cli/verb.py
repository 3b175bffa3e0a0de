"""What every verb and every group of verbs does alike: how a misspelt name and an error end."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lewm_bench.core.errors import NotRun, TrainingFailed, UserError

# Typer stands on click, or on a copy of it inside itself, depending on its version; both have this base.
UsageProblem = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class Commands(TyperGroup):
    """Suggests the nearest command on a miss."""

    def parse_args(self, ctx, args: list[str]):
        if not args:
            raise UserError(
                f"{ctx.command_path} needs one of {', '.join(self.commands)}; see `{ctx.command_path} --help`"
            )
        return super().parse_args(ctx, args)

    def resolve_command(self, context, args: list[str]):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"no command {args[0]!r}; known: {', '.join(self.commands)}{hint}")
        return super().resolve_command(context, args)


class Verb(TyperCommand):
    """A command that ends with one line, whatever is raised in it and by whose code."""

    def invoke(self, ctx):
        from lewm_bench.system.faults import explained, result_or_error

        found = result_or_error(lambda: super(Verb, self).invoke(ctx))
        if not isinstance(found, Exception):
            return found
        if isinstance(
            found, (UserError, NotRun, TrainingFailed, UsageProblem, typer.Exit, typer.Abort, BrokenPipeError)
        ):
            raise found
        raise explained(found, error_folder(ctx.params), ctx.info_name)


def error_folder(options: Mapping[str, Any]) -> Path:
    """Where a traceback is kept: in the results if the user has named a folder for them, else in the cache."""
    from lewm_bench.system.store import default_cache

    # An old typer (0.13) gives text here.
    return Path(options.get("out") or options.get("cache") or default_cache()) / "errors"


def group_of(name: str, about: str) -> typer.Typer:
    """A group of verbs, ``lewm-bench NAME VERB``."""
    return typer.Typer(name=name, cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, help=about)
