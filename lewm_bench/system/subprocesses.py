"""A Python program tried in a process of its own: what it does cannot be undone here, or it may hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

SPARE = 5.0  # seconds
SECONDS = 20.0  # importing a large package from a cold disk takes several


@dataclass(frozen=True)
class Fault:
    """Why a program did not succeed: it failed, or it had not ended in time, which says nothing about it."""

    reason: str
    slow: bool = False


def fault_of(program: str, environment: Mapping[str, str], seconds: float = SECONDS) -> Fault | None:
    """None if the program succeeds in time, else the last line it wrote. A variable that is "" is unset."""
    variables = {k: v for k, v in {**os.environ, **environment}.items() if v}
    # Should this process be killed meanwhile, the other ends by itself, also where it hangs outside of Python.
    limited = f"import faulthandler; faulthandler.dump_traceback_later({seconds + SPARE}, exit=True)\n{program}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", limited],
            check=False,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Fault(f"no answer in {seconds:g} s", slow=True)
    if done.returncode == 0:
        return None
    return Fault(last_line(done.stderr.decode(errors="replace")) or f"exit status {done.returncode}")


def last_line(text: str) -> str:
    """The last line that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
