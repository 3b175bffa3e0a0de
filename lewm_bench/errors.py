"""The errors a user sees: one line that says what is wrong and what to do, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it and exits with status 2."""


class NotRun(Exception):
    """A cell that cannot run here for a reason that is nobody's mistake (weights absent, an extra not installed).

    The runner records the reason in the cell, shows it in the table as ``not run: reason``, and goes on.
    """


class PluginError(Exception):
    """Somebody's environment or agent cannot be imported; its cells are failed with this reason, others go on."""


class TrainingFailed(Exception):
    """Training that produced NaN or a collapsed representation; the cell is recorded as failed with this reason."""


class Explained(Exception):
    """A line for the user about an error whose traceback is in a file, and the exit status that goes with it."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not registered: what is known, and the nearest match."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UserError(f"no {kind} named {name!r}; known: {', '.join(known) or 'none'}{hint}")
