"""The command line, called inside the test's process."""

from __future__ import annotations

import sys

import pytest

from lewm_bench.cli import app as cli


def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``lewm-bench ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["lewm-bench", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err
