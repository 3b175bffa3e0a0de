"""The errors a user sees: one line that says what is wrong and what to do, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_LINE, LONGEST_VALUE = 2000, 200  # characters


def one_line(text: str) -> str:
    """``text`` on one line: what breaks lines or steers a terminal is escaped, the middle of a very long one left out."""
    return shortened("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip()), LONGEST_LINE)


def short_repr(value: object) -> str:
    """A value for a message, the middle of a long one left out."""
    return shortened(repr(value), LONGEST_VALUE)


def shortened(text: str, longest: int) -> str:
    """``text`` with at most ``longest`` characters: a longer one loses its middle."""
    half = (longest - 5) // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


class Problem(Exception):
    """A message for people, always one line whatever was read into it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UserError(Problem):
    """A mistake that the user can mend; the command line prints it and exits with status 2."""


class NotRun(Problem):
    """A cell that cannot run here for a reason that is nobody's mistake (weights absent, an extra not installed).

    The runner records the reason in the cell, shows it in the table as ``not run: reason``, and goes on.
    """


class PluginError(Problem):
    """Somebody's environment or agent cannot be imported; its cells are failed with this reason, others go on."""


class TrainingFailed(Problem):
    """Training that produced NaN or a collapsed representation; the cell is recorded as failed with this reason."""


class Explained(Problem):
    """A line for the user about an error whose traceback is in a file, and the exit status that goes with it."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not registered: what is known, and the nearest match."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UserError(f"no {kind} named {short_repr(name)}; known: {', '.join(known) or 'none'}{hint}")
