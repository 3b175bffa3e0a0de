"""The command line: its verbs, exit statuses, and what is settled before anything heavy is imported."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Annotated

import typer

import lewm_bench
from lewm_bench.cli import (
    act,
    cache,
    check,
    collect,
    doctor,
    evaluate,
    export,
    import_,
    list,
    push,
    report,
    run,
    speed,
    train,
    tune,
    understand,
    watch,
)
from lewm_bench.cli.verb import Commands, UsageProblem, Verb
from lewm_bench.core.errors import Explained, NotRun, TrainingFailed, UserError, one_line
from lewm_bench.system.resources import keep_memory, limit_threads
from lewm_bench.system.signals import Stopped, stopping

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Trustworthy, one-command benchmarking of latent world models.",
)

for verb in (
    run.run, list.list_, collect.collect, train.train, evaluate.evaluate, act.act, understand.understand, tune.tune, speed.speed,
    report.report, check.check, doctor.doctor, watch.watch, push.push,
):  # fmt: skip
    app.command(name=verb.__name__.rstrip("_"), cls=Verb)(verb)
for group in (import_.app, export.app, cache.app):
    app.add_typer(group)


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


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is imported, which is later
    limit_threads(os.environ)
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # pygame's SDL takes those that nobody has, and swallows
    keep_memory()
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
