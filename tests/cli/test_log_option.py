"""``--log``: what is bound to fail is one line before anything begins."""

from __future__ import annotations

import pytest
from commands import outcome


@pytest.mark.parametrize("verb", [("run", "--suite", "pointmaze"), ("train", "lewm")], ids=["run", "train"])
def test_nothing_begins_with_a_logger_that_is_not_there(verb, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = outcome(monkeypatch, capsys, *verb, "--log", "tensorbord", "--cache", str(tmp_path / "cache"))
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "did you mean 'tensorboard'" in err and list(tmp_path.iterdir()) == []


def test_a_suite_that_trains_nothing_has_nothing_to_log(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = outcome(monkeypatch, capsys, "run", "--suite", "speedup", "--log", "tensorboard")
    assert status == 2 and "--log follows trainings" in err
