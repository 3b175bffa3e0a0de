"""Bad input of every kind is answered in one line: no traceback, no hang, and nothing written elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from cases import KINDS
from fuzzer import fuzz, table
from sandbox import Case, Sandbox, one_line

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an alarm ends what hangs")
QUICK = 0.08


def told(outcomes) -> str:
    wrong = [outcome for outcome in outcomes if outcome.faults]
    return "\n".join(
        [table(outcomes), *(f"{o.case.name}: {o.faults}\n{o.err[-500:]}\n{o.detail[-1500:]}" for o in wrong[:9])]
    )


def test_a_share_of_all_inputs(tmp_path):
    outcomes = fuzz(tmp_path.resolve(), seed=0, share=QUICK)
    assert len(outcomes) > 80 and {outcome.case.kind for outcome in outcomes} == set(KINDS)
    assert not any(outcome.faults for outcome in outcomes), told(outcomes)
    assert {outcome.status for outcome in outcomes} >= {0, 2}  # some are valid after all


@pytest.mark.slow
def test_all_inputs(tmp_path):
    outcomes = fuzz(tmp_path.resolve(), seed=1)
    print(table(outcomes))
    assert len(outcomes) >= 1000
    assert not any(outcome.faults for outcome in outcomes), told(outcomes)


def fall(folder):
    raise ValueError("x")


def hang(folder):
    while True:
        pass


def speak_twice(folder):
    print("lewm-bench: a\nb", file=sys.stderr)
    sys.exit(2)


def write_outside(folder):
    (folder.parent / "home" / "x").touch()


BAD = {
    "traceback": fall,
    "hang": hang,
    "lines": speak_twice,
    "status": lambda _: sys.exit(70),
    "outside": write_outside,
}


@pytest.mark.parametrize("fault", BAD)
def test_every_fault_would_be_seen(tmp_path, monkeypatch, fault):
    """The tests above would pass on a sandbox that sees nothing."""
    monkeypatch.setattr("sandbox.SECONDS", 0.5)
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    outcome = Sandbox(tmp_path).run(Case("x", "x", lambda folder: lambda: BAD[fault](folder)), 0)
    assert outcome.faults == (fault,)


def test_one_line_of_an_answer():
    assert one_line("suite x\nlewm-bench: a mistake; mend it\n", 2)
    assert not one_line("suite x\n", 2) and not one_line("lewm-bench: a\nlewm-bench: b\n", 2)
    assert not one_line("lewm-bench: a\nb\n", 2) and one_line("failed: x\nfailed: y\n", 1)
