"""Signals that end the program: the first stops it so that it can go on later, another one ends it at once.

Slurm and ``timeout`` send SIGTERM, a closed terminal SIGHUP, Control-C SIGINT, a queue that was asked for a warning SIGUSR2.
What must not be lost is on disk at any moment, so stopping means: unwind, end the processes that were started, say how
to go on. Work that goes on from its last step (``finishing``) finishes the one it is at and saves it first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")  # Windows has neither of the last two
ENDING = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)
TOGETHER = 1.0
"""Seconds in which several signals are one: ``timeout`` sends its signal to the program and again to its group."""
GRACE = 20.0
"""Seconds in which the program must have stopped; Slurm kills it after 30. Someone's code may swallow what is raised in
it, or may never return to Python."""
FINISHES = 0.5
"""Share of ``GRACE`` that a step may take and still be finished; what is left is for saving it."""


class Stopped(BaseException):
    """A signal has arrived. Not an Exception: nothing that deals with errors may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        how = "interrupted" if self.number == signal.SIGINT else f"ended by {signal.Signals(self.number).name}"
        return f"{how}; the same command goes on where it stopped"

    @property
    def status(self) -> int:
        """What a shell expects of a program that this signal ended: 130, 143, 129, 140."""
        return 128 + self.number


class Finishing:
    """What work that proceeds in steps is told of a signal; see ``finishing``."""

    def __init__(self) -> None:
        self._arrived: Stopped | None = None
        self._begun = time.monotonic()
        self._step = 0.0  # seconds that the last one took

    def asked(self) -> bool:
        """Whether to stop as soon as everything is saved; to be called once per step, whose time it takes."""
        now = time.monotonic()
        self._step, self._begun = now - self._begun, now
        return self._arrived is not None

    def stop(self) -> None:
        """Stop if a signal has arrived.

        Raises:
            Stopped: one has.
        """
        if self._arrived is not None:
            raise self._arrived

    def takes(self, stopped: Stopped) -> bool:
        """Whether the work stops by itself in time: after its step, as far as the last one tells how long that takes."""
        if self._step > FINISHES * GRACE:
            return False
        self._arrived = stopped
        return True


_at_work: list[Finishing] = []


@contextmanager
def finishing() -> Iterator[Finishing]:
    """Inside this context a first signal does not raise: the work asks after each step whether to save and stop.

    A later one, or ``GRACE`` seconds, end the process as anywhere else, and a step that takes long is not waited for. Other
    threads than the main one get no signals, and are told of none.

    Raises:
        Stopped: at the end at the latest, whatever was raised in here, if a signal has arrived.
    """
    work = Finishing()
    if threading.current_thread() is not threading.main_thread():
        yield work
        return
    _at_work.append(work)
    try:
        yield work
    finally:
        _at_work.remove(work)
        work.stop()


def _left_to_work(stopped: Stopped) -> bool:
    """Whether somebody stops by himself."""
    return bool(_at_work) and _at_work[-1].takes(stopped)


@contextmanager
def stopping() -> Iterator[None]:
    """Inside this context the first signal raises ``Stopped``; a later one, or ``GRACE`` seconds, end the process.

    Inside of ``finishing`` it raises when a step is done. Once it has stopped this holds until the process ends. What was ignored before stays ignored (``nohup``). Other
    threads than the main one get no signals.

    Raises:
        Stopped: a signal has arrived, whatever was raised after it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[Stopped] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(Stopped(number))
            if not _left_to_work(first[0]):
                raise first[0]

    caught = {n: handler for n in ENDING if (handler := signal.getsignal(n)) is not signal.SIG_IGN}
    waker, writer = _watch(frozenset(caught))
    try:
        for number in caught:
            signal.signal(number, stop)
        yield
    except BaseException as error:
        if first and error is not first[0]:
            raise first[0] from error
        raise
    finally:
        if first:
            writer.detach()
        else:
            for number, handler in caught.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(waker)
            writer.close()


def _watch(numbers: frozenset[int]) -> tuple[int, socket.socket]:
    """Start the thread that ends the process in time; what was told of signals before, and what ends the thread."""
    # A byte arrives with every signal, whatever the main thread does.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    waker = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader, numbers), daemon=True).start()
    return waker, writer


def _end_in_time(reader: socket.socket, numbers: frozenset[int]) -> None:
    """End the process at the second signal or after the time that the first one gives it."""
    first, begin = None, 0.0
    with reader:
        while True:
            reader.settimeout(None if first is None else max(0.001, begin + GRACE - time.monotonic()))
            try:
                arrived = reader.recv(64)
            except TimeoutError:
                arrived = bytes([first or 0])
            if not arrived:
                return
            for number in numbers.intersection(arrived):
                if first is None:
                    first, begin = number, time.monotonic()
                elif time.monotonic() > begin + TOGETHER:
                    _end(first)


def _end(number: int) -> None:
    stopped = Stopped(number)
    with suppress(OSError):  # a terminal that is gone
        os.write(2, f"lewm-bench: {stopped}\n".encode())  # sys.stderr may be locked by the thread that does not end
    os._exit(stopped.status)


def parent_pipe() -> tuple[Connection, Connection]:
    """What started processes ``end_with_parent``, and our end of it: they end when that is closed, at the latest with this process.

    However this process ends: the system closes what it has open.
    """
    return multiprocessing.Pipe(duplex=False)


def end_with_parent(line: Connection) -> None:
    """In a started process: leave signals, which often go to a whole group, to the parent; end when ``line`` does.

    Work that is ``finishing`` saves first, if the parent lives on: then it stops for a signal, and waits.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()


def _end_with(line: Connection) -> None:
    line.poll(None)  # nothing is ever sent: true once the other end is closed
    parent = multiprocessing.parent_process()
    if parent is not None and _left_to_work(Stopped(signal.SIGTERM)):
        end = time.monotonic() + FINISHES * GRACE
        while _at_work and time.monotonic() < end and not wait([parent.sentinel], 0.05):
            pass
    os._exit(1)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """A process that is started in here gets no signals until it says ``end_with_parent``, so it cannot die of one noisily."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
