"""One bad input after another, called inside this process; what came of each, and whether that is allowed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

SECONDS = 120  # for one input, before it counts as a hang; a busy machine takes long over the heaviest commands
STATUSES = (0, 1, 2, 130)
FAULTS = ("traceback", "hang", "lines", "status", "outside")


class Hang(BaseException):
    """An input that takes too long; nothing between here and there may catch it."""


@dataclass(frozen=True)
class Case:
    """One input: what is put into an empty folder, and what is called there."""

    kind: str
    name: str
    prepare: Callable[[Path], Callable[[], object]]  # from the folder to the call


@dataclass(frozen=True)
class Outcome:
    """What came of an input."""

    case: Case
    status: int | None
    err: str
    faults: tuple[str, ...]
    detail: str = ""


@dataclass(frozen=True)
class Sandbox:
    """Folders for inputs, and the folders beside them that no input may touch."""

    root: Path

    def run(self, case: Case, number: int) -> Outcome:
        """The outcome of one input in a folder of its own, with nothing left of it in this process."""
        folder = self.root / f"case-{number}"
        folder.mkdir()
        before = self._seen()
        with self._apart(folder) as err:
            status, crash = self._called(case, folder)
        faults = [crash[0]] if crash[0] else []
        if not crash[0]:
            faults += ["traceback"] if "Traceback (most recent" in err.getvalue() else []
            faults += ["lines"] if status and not one_line(err.getvalue(), status) else []
            faults += ["status"] if status not in STATUSES else []
        faults += ["outside"] if self._seen() != before else []
        return Outcome(case, status, err.getvalue(), tuple(faults), crash[1])

    def _seen(self) -> set[str]:
        """Names beside the inputs' folders; a file that appears or disappears among them was none of an input's."""
        watched = (self.root, self.root / "home", self.root / "temporary")
        return {str(path) for folder in watched for path in folder.iterdir() if not path.name.startswith("case-")}

    @contextlib.contextmanager
    def _apart(self, folder: Path) -> Iterator[io.StringIO]:
        """Everything that a process has one of: folder, streams, environment, logging, warnings, modules, generators."""
        root, err, out = logging.getLogger(), io.StringIO(), io.StringIO()
        handlers, modules, path = root.handlers, set(sys.modules), list(sys.path)
        environment = {"HOME": str(self.root / "home"), "LEWM_BENCH_CACHE": str(folder / "cache")}
        root.handlers, here, state = [], Path.cwd(), random.getstate()
        with (
            mock.patch.dict(os.environ, environment),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            os.chdir(folder)
            try:
                yield err
            finally:
                os.chdir(here)
                root.handlers = handlers
                sys.path[:] = path
                random.setstate(state)
                for name in [name for name in sys.modules if name not in modules and name.startswith("theirs")]:
                    del sys.modules[name]

    def _called(self, case: Case, folder: Path) -> tuple[int | None, tuple[str, str]]:
        """Exit status, and what the call ended with that no user should see."""

        def ring(*_: object) -> None:
            raise Hang

        def tail(error: BaseException) -> str:
            return "".join(traceback.format_exception(error))[-4000:]

        ours = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in ours}
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            try:
                case.prepare(folder)()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # what follows is ours
        except SystemExit as stopped:
            return (stopped.code or 0) if isinstance(stopped.code, int | None) else -1, ("", "")
        except Hang as error:
            return None, ("hang", tail(error))
        except BaseException as error:  # noqa: BLE001, that is what is looked for
            return None, ("traceback", tail(error))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0, ("", "")


def one_line(err: str, status: int) -> bool:
    """Whether an answer is one line: of ``lewm-bench:`` for a mistake, of one line per failed cell for failures."""
    lines = err.strip().split("\n")
    said = [line for line in lines if line.startswith(("lewm-bench: ", "failed: "))]
    if status == 2:
        return len(said) == 1 and lines[-1] == said[0] and len(said[0]) < 4000
    return all(len(line) < 4000 for line in lines)
