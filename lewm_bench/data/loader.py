"""Batches made ahead of time: the batch of a step is a function of the step, so a thread makes the next ones meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

import torch
from torch import Tensor

from lewm_bench.core.types import Clip

AHEAD = 2  # batches that are ready or being made; one of the paper's has 77 MB

Batch = Clip | tuple[Tensor, ...]


@final
class Prefetch:
    """The batches of ``steps`` on a device, in order; a context, in which one thread of its own makes the next ones.

    ``batch`` is called by that thread alone, once for each step. What it raises is raised where its step's turn comes.
    """

    def __init__(self, batch: Callable[[int], Batch], steps: range, device: torch.device) -> None:
        self.waited = 0.0  # seconds in which nothing could be done for want of a batch
        self._batch, self._steps, self._device = batch, iter(steps), device
        self._waiting: deque[Future[Batch]] = deque()

    def __enter__(self) -> Prefetch:
        self._thread = ThreadPoolExecutor(1, "batches")
        for _ in range(AHEAD):
            self._order()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        while self._waiting:
            begin = time.perf_counter()
            data = self._waiting.popleft().result()
            self.waited += time.perf_counter() - begin
            self._order()
            yield _to_device(data, self._device)

    def _order(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._waiting.append(self._thread.submit(self._made, step))

    def _made(self, step: int) -> Batch:
        """The batch of a step, as far as it can be prepared without the device."""
        data = self._batch(step)
        if self._device.type == "cpu":
            return _to_device(data, self._device)
        if self._device.type != "cuda":
            return data
        if isinstance(data, Clip):
            return Clip(_pinned(data.frames), _pinned(data.actions))
        return tuple(map(_pinned, data))


def _pinned(tensor: Tensor) -> Tensor:
    """In memory that the device copies from by itself; what is there already stays there."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def _to_device(data: Batch, device: torch.device) -> Batch:
    """Frames lie channels last on a CPU, which convolutions like, wherever a batch comes from, and permuted elsewhere."""
    if isinstance(data, Clip):
        if device.type == "cpu":
            frames = data.frames.movedim(-3, -1).contiguous().movedim(-1, -3)  # copies nothing of what is stored so
        else:
            frames = data.frames.to(device, non_blocking=True).contiguous()
        return Clip(frames, data.actions.to(device, non_blocking=True))
    return tuple(t.to(device, non_blocking=True) for t in data)
