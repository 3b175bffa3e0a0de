"""A Python program tried in a process of its own: what it does cannot be undone here, or it may hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

SECONDS = 20.0  # importing a large package from a cold disk takes several


def error_of(program: str, environment: Mapping[str, str], seconds: float = SECONDS) -> str | None:
    """None if the program succeeds in time, else the last line it wrote. A variable that is "" is unset."""
    variables = {k: v for k, v in {**os.environ, **environment}.items() if v}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {seconds:.0f} s"
    if done.returncode == 0:
        return None
    return last_line(done.stderr.decode(errors="replace")) or f"exit status {done.returncode}"


def last_line(text: str) -> str:
    """The last line that is not empty, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
