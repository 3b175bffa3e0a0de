"""Where time goes: what is nested is counted once, and everything adds up."""

from __future__ import annotations

import threading
import timeit

import pytest

from lewm_bench.system import phases as module
from lewm_bench.system.phases import Phases, phase, timed, timing


class Clock:
    """A clock that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module.time, "perf_counter", found)
    return found


def test_inner_phases_are_taken_from_outer_ones_and_all_adds_up(clock):
    with timing() as phases:
        phases.started = 0.0
        with phase("train"):
            clock.now += 1
            for _ in range(2):
                with phase("forward"):
                    clock.now += 2
                with phase("backward"), phase("forward"):
                    clock.now += 4
            phases.add("waiting", 0.5)
        clock.now += 3
        assert phases.seconds == {"train": 0.5, "forward": 12, "backward": 0, "waiting": 0.5}
        lines = phases.table().splitlines()
    assert lines[1].split() == ["forward", "12.0", "s", "75.0", "%"]
    assert lines[-2].split() == ["other", "3.00", "s", "18.8", "%"]
    assert lines[-1].split()[:2] == ["together", "16.0"]


def test_processes_count_with_their_share(clock):
    phases = Phases()
    with phases.phase("side by side", None):
        clock.now += 10
        phases.spread({"forward": 12, "backward": 4}, 2)
    assert phases.seconds == {"forward": 6, "backward": 2, "side by side": 2}


def test_what_is_raised_ends_the_phase(clock):
    with timing() as phases, pytest.raises(KeyError), phase("a"), phase("b"):
        clock.now += 1
        raise KeyError
    assert phases.seconds == {"a": 0, "b": 1}
    assert timed() is None


def test_other_threads_are_not_counted(clock):
    with timing() as phases:
        thread = threading.Thread(target=lambda: phase("theirs").__enter__())
        thread.start()
        thread.join()
        assert not phases.seconds and not phases._inside


def test_it_costs_nothing_while_it_is_off():
    def off() -> None:
        with phase("x"):
            pass

    assert min(timeit.repeat(off, number=1000, repeat=20)) / 1000 < 5e-6  # some 0.2 us
