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


def resolve_devices(text: str) -> tuple[torch.device, ...]:
    """``8``, the first eight CUDA devices, or devices between commas, ``cuda:0,cuda:2`` or ``cpu,cpu``, that work here.

    Raises:
        UserError: one does not, or they cannot train together.
    """
    if text.strip().isdecimal():
        return _first_devices(int(text))
    found = tuple(resolve_device(name.strip()) for name in text.split(","))
    if len(found) == 1:
        return found
    kinds = {device.type for device in found}
    if len(kinds) > 1 or "mps" in kinds:
        raise UserError(f"--devices takes several of cuda or several of cpu, got {text!r}")
    if kinds == {"cuda"} and (None in {device.index for device in found} or len(set(found)) < len(found)):
        raise UserError(f"--devices takes each CUDA device once and by its number, as in cuda:0,cuda:1, got {text!r}")
    return found


def _first_devices(number: int) -> tuple[torch.device, ...]:
    there = torch.cuda.device_count()
    if not 1 <= number <= there:
        raise UserError(
            f"--devices {number}: torch sees {there} CUDA devices; name fewer, or cpu,cpu for two processes on the CPU"
        )
    return tuple(torch.device("cuda", index) for index in range(number))


def device_of_rank(name: str, local_rank: int) -> str:
    """The device of a process that torchrun has started on this machine: the CUDA device of its number, or the CPU.

    Raises:
        UserError: ``name`` is one device, which several processes cannot train on.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise UserError(
            f"torchrun's processes take one CUDA device each, or the CPU; --device {name} is for one process"
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return f"cuda:{local_rank}"


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
