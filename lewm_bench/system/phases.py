"""Where the time of a run goes: phases that may nest, each counted without those inside it.

Off unless ``timing`` is on; then a phase costs a microsecond, else a tenth of one.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lewm_bench.core.formatting import seconds as in_words

if TYPE_CHECKING:
    import torch

OTHER = "other"


@dataclass
class Phases:
    """Seconds by phase, in the order in which they first ended, of the thread that made this."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: float = field(default_factory=time.perf_counter)
    _inside: list[float] = field(default_factory=list)  # of each open phase, seconds of the phases inside it
    _thread: int = field(default_factory=threading.get_ident)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def here(self) -> bool:
        """Whether this thread is the one that is timed."""
        return threading.get_ident() == self._thread

    @contextmanager
    def phase(self, name: str, device: torch.device | None) -> Iterator[None]:
        """Count what happens in this context as ``name``."""
        _wait_for(device)
        begin = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            _wait_for(device)
            self._count(name, time.perf_counter() - begin, self._inside.pop())

    def add(self, name: str, seconds: float) -> None:
        """Count seconds of the open phase as those of another one inside it."""
        self._count(name, seconds, 0.0)

    def spread(self, of_processes: Mapping[str, float], number: int) -> None:
        """Count what ``number`` processes did during the open phase, each with its share of the time that went by."""
        for name, seconds in of_processes.items():
            self.add(name, seconds / number)

    def taken(self) -> dict[str, float]:
        """The seconds so far, which start anew."""
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found

    def _count(self, name: str, seconds: float, inside: float) -> None:
        self.seconds[name] += seconds - inside
        if self._inside:
            self._inside[-1] += seconds

    def table(self) -> str:
        """The phases, longest first, and what is left, in lines of text."""
        total = self.total
        rows = sorted(self.seconds.items(), key=lambda row: -row[1])
        rows += [(OTHER, total - sum(self.seconds.values())), ("together", total)]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}{in_words(taken):>12}{100 * taken / total:>7.1f} %" for name, taken in rows]
        return "\n".join(["where the time went", *lines])


def _wait_for(device: torch.device | None) -> None:
    if device is not None:
        from lewm_bench.system.device import synchronize  # torch takes seconds to import, which are counted

        synchronize(device)


_timer: Phases | None = None
_OFF = nullcontext()


def phase(name: str, device: torch.device | None = None) -> AbstractContextManager[None]:
    """Count what happens in this context as ``name``, if anybody wants to know; ``device`` is waited for at both ends."""
    return _OFF if _timer is None or not _timer.here else _timer.phase(name, device)


def timed() -> Phases | None:
    """What is being counted, if anything."""
    return _timer


@contextmanager
def timing() -> Iterator[Phases]:
    """Inside this context phases are counted."""
    global _timer
    before, _timer = _timer, Phases()
    try:
        yield _timer
    finally:
        _timer = before


def begin() -> None:
    """Count phases from now on, in a process that does nothing else."""
    global _timer
    _timer = Phases()
