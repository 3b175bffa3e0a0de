"""Every random number of the project comes from a stream named here, never from global state.

A stream is addressed by what it is for: ``stream(seed, "collect", env_id, episode)``. Two streams with different
addresses are independent, and a stream does not depend on batch sizes, worker order or what else was drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _entropy(part: int | str) -> int:
    if isinstance(part, (bool, float)) or not isinstance(part, (int, str, np.integer)):
        raise TypeError(f"a stream is addressed by integers and strings, got {part!r}")
    # Type-tagged, so that 1 and "1" name different streams and negative integers are allowed.
    return int.from_bytes(hashlib.sha256(f"{isinstance(part, str)}:{part}".encode()).digest()[:8], "little")


def stream(seed: int, purpose: str, *address: int | str) -> np.random.Generator:
    """The generator of one purpose, for example ``stream(0, "plan", env_id, agent, pair)``."""
    return np.random.default_rng(np.random.SeedSequence([_entropy(p) for p in (seed, purpose, *address)]))
