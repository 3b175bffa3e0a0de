"""Signals that end the program: the first stops it so that it can go on later, another one ends it at once.

Slurm and ``timeout`` send SIGTERM, a closed terminal SIGHUP, Control-C SIGINT. What must not be lost is on disk at any
moment, so stopping means: unwind, end the processes that were started, say how to go on.
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
from multiprocessing.connection import Connection
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
ENDING = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)
TOGETHER = 1.0
"""Seconds in which several signals are one: ``timeout`` sends its signal to the program and again to its group."""
GRACE = 20.0
"""Seconds in which the program must have stopped; Slurm kills it after 30. Someone's code may swallow what is raised in
it, or may never return to Python."""


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
        """What a shell expects of a program that this signal ended: 130, 143, 129."""
        return 128 + self.number


@contextmanager
def stopping() -> Iterator[None]:
    """Inside this context the first signal raises ``Stopped``; a later one, or ``GRACE`` seconds, end the process.

    Once it has stopped this holds until the process ends. What was ignored before stays ignored (``nohup``). Other
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
    """In a started process: leave signals, which often go to a whole group, to the parent; end when ``line`` does."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()


def _end_with(line: Connection) -> None:
    line.poll(None)  # nothing is ever sent: true once the other end is closed
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
