"""Where things run, and stopwatches that wait for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lewm_bench.core.errors import UserError
from lewm_bench.system.resources import local_ranks, quota


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` to a device that works here.

    Raises:
        UserError: the name is unknown or the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device {name!r}; use auto, cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not available: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available on this machine; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:0 or mps")
    return device


def sized(device: torch.device) -> bool:
    """Whether its libraries choose kernels by size, so that the last digits of a row depend on how many rows there are."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Wait until everything queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Matrix products of float32 on CUDA's tensor cores, with 10 bits of mantissa, inside this context only."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def share_cores() -> None:
    """Use this process's share of the cores: what affinity and the container grant, divided among local ranks.

    torch sees the affinity but not a container's quota; with more threads than cores they wait for each other.
    ``OMP_NUM_THREADS`` wins.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        share = min(torch.get_num_threads(), quota()) / local_ranks(os.environ)
        torch.set_num_threads(max(1, int(share)))


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many threads of torch inside this context; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stopwatch:
    """``with Stopwatch(device) as watch: ...`` then ``watch.seconds``; the device is synchronised at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:  # noqa: PYI034, Self needs Python 3.11
        synchronize(self._device)
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        synchronize(self._device)
        self.seconds = time.perf_counter() - self._start
