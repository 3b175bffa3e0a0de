"""Streams: one per address, independent of each other and of global state."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import torch_seed, torch_stream

ADDRESSES = [
    (0, "plan"),
    (1, "plan"),
    (-1, "plan"),
    (0, "collect"),
    (0, "plan", 0),
    (0, "plan", 1),
    (0, "plan", "1"),
    (0, "plan", "0"),
    (0, "plan", 1, 2),
    (0, "plan", 2, 1),
    (0, "plan", 12),
    (0, "plan", "12"),
    (0, "plan", "a", "bc"),
    (0, "plan", "ab", "c"),
    (0, "plan", "abc"),
    (0, "plan", 2**40),
]


def test_every_address_is_a_stream_of_its_own() -> None:
    drawn = np.stack([stream(*address).standard_normal(200) for address in ADDRESSES])
    correlation = np.corrcoef(drawn)
    assert np.abs(correlation - np.eye(len(ADDRESSES))).max() < 0.35  # 5 standard errors; equal streams give 1
    assert len({torch_seed(*address) for address in ADDRESSES}) == len(ADDRESSES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_always_the_same_stream(address: tuple) -> None:
    a, b = stream(*address), stream(*address)
    np.testing.assert_array_equal(a.integers(2**62, size=20), b.integers(2**62, size=20))
    assert torch_seed(*address) == torch_seed(*address)


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from lewm_bench.core.rng import stream; print(stream(3, 'plan', 'env', 7).integers(2**62))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(there) == stream(3, "plan", "env", 7).integers(2**62)


def test_numpy_integers_are_integers() -> None:
    assert torch_seed(np.int64(3), "x", np.uint8(4)) == torch_seed(3, "x", 4)


@pytest.mark.parametrize("part", [1.0, True, None, ("a",), np.float32(1)])
def test_other_types_do_not_address_a_stream(part: object) -> None:
    with pytest.raises(TypeError, match="integers and strings"):
        stream(0, "plan", part)


def test_torch_stream_confines_its_draws() -> None:
    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    first = torch.rand(2)
    with torch_stream(0, "init", "lewm"):
        inside = torch.rand(8)
    rest = torch.rand(4)
    torch.testing.assert_close(torch.cat([first, rest]), expected, rtol=0, atol=0)
    with torch_stream(0, "init", "lewm"):
        assert torch.equal(torch.rand(8), inside)
    with torch_stream(0, "init", "gcbc"):
        assert not torch.equal(torch.rand(8), inside)


def test_torch_stream_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), torch_stream(0, "init"):
        torch.rand(3)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_leave_global_generators_alone() -> None:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    stream(0, "plan").random(5)
    torch_seed(0, "plan")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all() and random.getstate() == python_state
