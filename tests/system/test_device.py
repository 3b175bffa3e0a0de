"""Shares of the cores, and a switch that goes back."""

from __future__ import annotations

import pytest
import torch

from lewm_bench.system import device
from lewm_bench.system.device import share_cores, tf32


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("ranks", "granted", "threads"),
    [
        (None, float("inf"), 4),
        (None, 3.0, 3),
        (None, 1.5, 1),
        (None, 0.5, 1),
        (None, 9.0, 4),
        ("2", float("inf"), 2),
        ("2", 3.9, 1),
        ("8", float("inf"), 1),
    ],
)
@pytest.mark.usefixtures("four_threads")
def test_a_process_takes_its_share_of_the_cores(
    ranks: str | None, granted: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    monkeypatch.setattr(device, "quota", lambda: granted)
    share_cores()
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("four_threads")
def test_a_chosen_number_of_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(device, "quota", lambda: 1.0)
    share_cores()
    assert torch.get_num_threads() == 4


@pytest.fixture
def switch():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    yield matmul
    matmul.allow_tf32 = before


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_tf32_goes_back_to_what_it_was(before: bool, on: bool, switch) -> None:
    switch.allow_tf32 = before
    with tf32(on):
        assert switch.allow_tf32 is on
    assert switch.allow_tf32 is before
    with pytest.raises(KeyError), tf32(on):
        raise KeyError
    assert switch.allow_tf32 is before
