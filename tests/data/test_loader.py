from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data import random_episode, write
from torch import nn

from lewm_bench.core.types import Clip
from lewm_bench.data.loader import AHEAD, Prefetch
from lewm_bench.train.loop import TrainConfig, train

CPU = torch.device("cpu")


def test_batches_come_in_order_and_each_is_made_once_by_one_thread() -> None:
    made: list[int] = []
    threads = set()

    def batch(index: int) -> tuple[torch.Tensor, ...]:
        made.append(index)
        threads.add(threading.get_ident())
        return (torch.tensor(index),)

    with Prefetch(batch, range(3, 10), CPU) as batches:
        seen = [int(data[0]) for data in batches]
    assert seen == made == list(range(3, 10))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_more_than_a_few_are_made_ahead() -> None:
    made = []
    with Prefetch(lambda index: (made.append(index), (torch.tensor(index),))[1], range(100), CPU) as batches:
        next(iter(batches))
        time.sleep(0.1)
        assert len(made) <= 1 + AHEAD


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_where_its_turn_comes(error: type[BaseException]) -> None:
    def batch(index: int) -> tuple[torch.Tensor, ...]:
        if index == 2:
            raise error
        return (torch.tensor(index),)

    seen = []
    with pytest.raises(error), Prefetch(batch, range(5), CPU) as batches:
        seen.extend(int(data[0]) for data in batches)
    assert seen == [0, 1]


def test_waiting_is_measured() -> None:
    with Prefetch(lambda index: (time.sleep(0.02), (torch.tensor(index),))[1], range(5), CPU) as slow:
        list(slow)
    assert slow.waited > 0.08
    with Prefetch(lambda index: (torch.tensor(index),), range(5), CPU) as fast:
        for _ in fast:
            time.sleep(0.01)
    assert fast.waited < 0.04


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)

    def loss(self, clip: Clip, step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert clip.frames.movedim(-3, -1).is_contiguous()
        noise = torch.rand(())
        return self.net(clip.frames.flatten(0, 1) / 255).square().mean() * noise, {}


def test_losses_are_those_of_batches_made_in_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = write(
        tmp_path / "data", [random_episode(rng, 9) for _ in range(4)], {"train": (0, 1, 2), "val": (), "test": (3,)}
    )
    clips = data.clips("train", 3, 2)

    def losses(folder: str, make) -> list[float | None]:
        torch.manual_seed(0)
        config = TrainConfig(steps=12, log_every=1, warmup=0)
        return train(Sum(), make, config, seed=0, device=CPU, folder=tmp_path / folder, progress=False).columns["loss"]

    sampled = losses("a", lambda index: clips.sample(np.random.default_rng(index), 5))
    prepared = [clips.batch(np.random.default_rng(index).integers(len(clips), size=5)) for index in range(12)]
    assert losses("b", prepared.__getitem__) == sampled and len(set(sampled)) == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_numbers_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = write(tmp_path, [random_episode(rng, 30) for _ in range(4)], {"train": (0, 1, 2), "val": (), "test": (3,)})
    clips, device = data.clips("train", 3, 2), torch.device("cuda")
    with Prefetch(lambda i: clips.sample(np.random.default_rng(i), 16), range(50), device) as batches:
        for index, clip in enumerate(batches):
            expected = clips.batch(np.random.default_rng(index).integers(len(clips), size=16))
            assert clip.frames.is_contiguous() and torch.equal(clip.frames.cpu(), expected.frames)
            assert torch.equal(clip.actions.cpu(), expected.actions)
