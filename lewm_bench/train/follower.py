"""Training curves in the loggers that people watch, while they are drawn.

A logger waits for disks and networks, so a thread of its own serves it: a training only leaves its numbers there. What
fails once the training has begun is told once and ends nothing; what is bound to fail is told before anything begins
(``train.loggers``).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch

from lewm_bench.system.faults import result_or_error
from lewm_bench.train.logs import LogOf, text_of

if TYPE_CHECKING:
    from lightning_fabric.loggers import Logger

logger = logging.getLogger(__name__)

PATIENCE, HURRY = 30.0, 5.0  # seconds that loggers have at the end of a training, and of one that was stopped
GIB = 2**30

Numbers = Mapping[str, float]


@final
class Follower:
    """Follows one training from step ``first`` on; a context, at whose end the logs are complete."""

    def __init__(
        self, log_of: LogOf, first: int, *, clips: int, seconds: float, waited: float, device: torch.device
    ) -> None:
        """``clips`` are those of a step; ``seconds`` and ``waited`` what the training has taken before."""
        self._clips, self._device = clips, device
        self._before = (first, seconds, waited)
        self._points: queue.SimpleQueue[tuple[int, Numbers] | str] = queue.SimpleQueue()
        self._loggers = _opened(log_of, first)
        self._thread = threading.Thread(target=self._serve, daemon=True)  # one that waits forever ends with the program

    def __enter__(self) -> Follower:
        if self._loggers:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._thread.is_alive():
            return
        self._points.put("success" if kind is None else "failed" if issubclass(kind, Exception) else "aborted")
        self._thread.join(PATIENCE if kind is None else HURRY)
        if self._thread.is_alive():
            names = " and ".join(self._loggers)
            logger.warning("the log of %s is not complete: it does not take what it is given", names)

    def point(
        self, columns: Mapping[str, Sequence[float | None]], seconds: float, waited: float, **others: Any
    ) -> None:
        """Log the last entries of a training's ``columns``, its pace since the point before, and ``others``.

        Args:
            seconds: of training so far, of which it ``waited`` for data.
            others: one number each; None where there is none.
        """
        if not self._loggers:
            return
        last = {f"train/{name}": values[-1] for name, values in columns.items() if values[-1] is not None}
        index = int(last.pop("train/step"))
        pace = self._pace(index + 1, seconds, waited)
        known = {f"optimiser/{name}": float(value) for name, value in others.items() if value is not None}
        self._points.put((index, {**last, **known, **pace, **_memory(self._device)}))

    def _pace(self, steps: int, seconds: float, waited: float) -> Numbers:
        """Clips per second and the share of waiting for data since the point before."""
        before, self._before = self._before, (steps, seconds, waited)
        taken = seconds - before[1]
        if taken <= 0:
            return {}
        rate = (steps - before[0]) * self._clips / taken
        return {"pace/clips_per_second": rate, "pace/waiting_for_data": (waited - before[2]) / taken}

    def _serve(self) -> None:
        while not isinstance(item := self._points.get(), str):
            self._each(lambda one, step=item[0], numbers=item[1]: one.log_metrics(dict(numbers), step))
        self._each(lambda one: one.finalize(item))

    def _each(self, work: Callable[[Logger], None]) -> None:
        """Do something with each logger; one that fails is told of once and left alone."""
        for kind, one in list(self._loggers.items()):
            error = result_or_error(lambda one=one: work(one))
            if isinstance(error, Exception):
                _tell(kind, error)
                del self._loggers[kind]


def _opened(log_of: LogOf, first: int) -> dict[str, Logger]:
    """The loggers of a training, with its settings, as far as they can be opened."""
    if not log_of.to.kinds:
        return {}
    from lewm_bench.train.loggers import open_logger

    found = {kind: result_or_error(lambda kind=kind: open_logger(kind, log_of, first)) for kind in log_of.to.kinds}
    for kind, one in found.items():
        if isinstance(one, Exception):
            _tell(kind, one)
    return {kind: one for kind, one in found.items() if not isinstance(one, Exception)}


def _tell(kind: str, error: Exception) -> None:
    name = type(error).__name__
    logger.warning("%s logs no more of this training, which goes on (%s: %s)", kind, name, text_of(error))


def _memory(device: torch.device) -> Numbers:
    return {"memory/gpu_gib": torch.cuda.max_memory_allocated(device) / GIB} if device.type == "cuda" else {}
