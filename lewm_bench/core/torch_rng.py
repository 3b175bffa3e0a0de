"""Streams of ``core.rng`` for torch and for libraries with global generators.

Apart from it, since what an environment imports is what its data depend on, and no data depend on the version of torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lewm_bench.core.rng import stream


def torch_seed(seed: int, purpose: str, *address: int | str) -> int:
    """A 63-bit seed for a ``torch.Generator`` of the same address scheme."""
    return int(stream(seed, purpose, *address).integers(2**63 - 1))


@contextmanager
def torch_stream(seed: int, purpose: str, *address: int | str) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    Weight initialisation and dropout can only draw from the global generators; this confines them to a named stream.
    """
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(torch_seed(seed, purpose, *address))
        yield


@contextmanager
def confined(seed: int, purpose: str, *address: int | str) -> Iterator[None]:
    """``torch_stream``, with numpy's and Python's global generators restored too.

    For libraries that seed all three and draw from them, as stable-baselines3 does.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch_stream(seed, purpose, *address):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
