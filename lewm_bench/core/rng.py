"""Every random number of the project comes from a stream named here, never from global state.

A stream is addressed by what it is for: ``stream(seed, "collect", env_id, episode)``. Two streams with different
addresses are independent, and a stream does not depend on batch sizes, worker order or what else was drawn.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def _entropy(part: int | str) -> int:
    if isinstance(part, (bool, float)) or not isinstance(part, (int, str, np.integer)):
        raise TypeError(f"a stream is addressed by integers and strings, got {part!r}")
    # Type-tagged, so that 1 and "1" name different streams and negative integers are allowed.
    return int.from_bytes(hashlib.sha256(f"{isinstance(part, str)}:{part}".encode()).digest()[:8], "little")


def stream(seed: int, purpose: str, *address: int | str) -> np.random.Generator:
    """The generator of one purpose, for example ``stream(0, "plan", env_id, agent, pair)``."""
    return np.random.default_rng(np.random.SeedSequence([_entropy(p) for p in (seed, purpose, *address)]))


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
