"""Options of the tests, and what no test may leave behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import gymnasium as gym
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several processes would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-stages", action="store_true", help="write tests/run/stages.json anew")


@pytest.fixture(autouse=True, scope="module")
def _registry_as_it_was() -> Iterator[None]:
    """``gym.spec`` gives the registry's own object: what a test writes into it would be every later test's environment."""
    before = {name: (spec, copy.deepcopy(spec.kwargs)) for name, spec in gym.registry.items()}
    yield
    changed = [n for n, (spec, kwargs) in before.items() if gym.registry.get(n) is spec and spec.kwargs != kwargs]
    assert not changed, f"a test of this module changed how {changed} are made"
    # Every module registers its environments as it is collected, so one that goes here is missed by another module.
    gone = before.keys() - gym.registry.keys()
    assert not gone, f"a test of this module removed {sorted(gone)}, which were registered before it: take another id"
