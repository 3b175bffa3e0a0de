"""The command line: its verbs, exit statuses, and what is settled before anything heavy is imported."""

from __future__ import annotations

import ctypes
import difflib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import lewm_bench
from lewm_bench.cli import check, collect, doctor, evaluate, import_, list, report, run, speed, train, tune, understand
from lewm_bench.core.errors import Explained, NotRun, TrainingFailed, UserError, one_line
from lewm_bench.system.resources import limit_threads
from lewm_bench.system.signals import Stopped, stopping

# Typer stands on click, or on a copy of it inside itself, depending on its version; both have this base.
UsageProblem = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class Commands(TyperGroup):
    """Suggests the nearest command on a miss."""

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
        raise explained(found, _error_folder(ctx.params), ctx.info_name)


def _error_folder(options: Mapping[str, Any]) -> Path:
    """Where a traceback is kept: in the results if the user has named a folder for them, else in the cache."""
    from lewm_bench.system.store import default_cache

    # An old typer (0.13) gives text here.
    return Path(options.get("out") or options.get("cache") or default_cache()) / "errors"


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Trustworthy, one-command benchmarking of latent world models.",
)

for verb in (
    run.run, list.list_, collect.collect, train.train, evaluate.evaluate, understand.understand, tune.tune, speed.speed,
    report.report, check.check, doctor.doctor,
):  # fmt: skip
    app.command(name=verb.__name__.rstrip("_"), cls=Verb)(verb)

imports = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    help="Take in what others have recorded.\n\nExample: lewm-bench import data FILE --env none --out my-data",
)
imports.command(name="data", cls=Verb)(import_.data)
imports.callback()(lambda: None)  # without one a single command would stand for the group
app.add_typer(imports, name="import")


def _version(value: bool) -> None:
    if value:
        typer.echo(lewm_bench.__version__)
        raise typer.Exit()


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s", stream=sys.stderr)
    # Our own warnings (a damaged cache entry, another process at work) are for users; those of libraries are not.
    logging.getLogger("lewm_bench").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        warnings.filterwarnings("ignore")


INTERRUPTED = 130  # what a shell expects of a program that Control-C ended


SPIN = "10000"
"""How long an idle OpenMP thread spins before it sleeps. By default (some 10^5) one busy program beside us costs a
factor of 20 to 40 on two cores: 2.1 s instead of 0.06 s per training step. With this it is 0.2 s, and 5 % alone."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def _keep_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the kernel.

    Activations of some megabytes come and go with every layer; without this each one is mapped and zeroed anew, 40,000
    page faults per iteration of the planner at paper size. Other C libraries are left alone.
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 2**30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is imported, which is later
    limit_threads(os.environ)
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # pygame's SDL takes those that nobody has, and swallows
    _keep_memory()
    try:
        with stopping():
            status = app(sys.argv[1:] or ["--help"], prog_name="lewm-bench", standalone_mode=False)
        if status == INTERRUPTED:  # some versions of typer return it
            raise KeyboardInterrupt
    except Stopped as stopped:
        with suppress(OSError):  # the terminal may be what is gone
            _fail(str(stopped), stopped.status)
        status = stopped.status
    except (UserError, NotRun) as error:
        status = _fail(str(error), 2)
    except TrainingFailed as error:
        status = _fail(str(error), 1)
    except UsageProblem as error:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "lewm-bench"
        status = _fail(f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`", 2)
    except Explained as error:
        status = _fail(str(error), error.status)
    except BrokenPipeError:  # `lewm-bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (typer.Abort, KeyboardInterrupt):
        status = _fail(str(Stopped(signal.SIGINT)), INTERRUPTED)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    typer.echo(f"lewm-bench: {one_line(message)}", err=True)
    return status
