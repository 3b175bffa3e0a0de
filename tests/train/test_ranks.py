"""Several processes that train one model against one process with the same batches."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny_agents import configured, toy_setting
from torch import multiprocessing, nn

from lewm_bench.agent import Setting
from lewm_bench.agents import AGENTS
from lewm_bench.agents.parts.nets import BatchNorm
from lewm_bench.core.config import deep_merge
from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Clip
from lewm_bench.data.loader import _to_device
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.store import Store
from lewm_bench.train import loop
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import (
    ALONE,
    Ranks,
    environment_of,
    gathered,
    host_meeting,
    make_fabric,
    mean_over_ranks,
    require_divided,
    require_global_statistics,
    together,
)

CPU = torch.device("cpu")
COUNT = 2
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")


def join(rank: int, port: int, work: Callable[[Ranks], None]) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    os.environ.update(environment_of(rank, COUNT, port))
    ranks = Ranks.of(os.environ)
    with together(ranks, CPU):
        work(ranks)


def side_by_side(work: Callable[[Ranks], None]) -> None:
    """``work`` in two processes that exchange numbers."""
    store = host_meeting(COUNT)
    multiprocessing.spawn(join, (store.port, work), COUNT)


# What ranks exchange.


class Exchange:
    """Values and gradients of what is exchanged, on every rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, ranks: Ranks) -> None:
        x = inputs()[ranks.share(12)].requires_grad_()
        norm = BatchNorm(5)
        y = norm(x)
        total = (y * targets()[ranks.share(12)]).sum() / 6  # a mean over samples, of this share
        total = total + curved(gathered(x)) + mean_over_ranks(x.mean(0)).cos().sum()
        total.backward()
        found = {
            "y": y,
            "gradient": x.grad,
            "mean": norm.running_mean,
            "var": norm.running_var,
            "weight": norm.weight.grad,
        }
        np.savez(self.folder / f"{ranks.rank}.npz", **{name: t.detach().numpy() for name, t in found.items()})


def inputs() -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 2 + 100


def targets() -> torch.Tensor:
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


def curved(x: torch.Tensor) -> torch.Tensor:
    """Something that is no mean over samples."""
    return x.var(0).log().sum() + (x[0] * x[-1]).sum()


@pytest.mark.slow
def test_what_is_exchanged_is_that_of_one_process(tmp_path: Path) -> None:
    """torch's own BatchNorm and autograd over the whole batch say what is right."""
    side_by_side(Exchange(tmp_path))
    x, norm = inputs().requires_grad_(), nn.BatchNorm1d(5)
    y = norm(x)
    ((y * targets()).sum() / 12 + curved(x) + x.mean(0).cos().sum()).backward()
    ranks = [np.load(tmp_path / f"{rank}.npz") for rank in range(COUNT)]
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(np.concatenate([r["y"] for r in ranks]), y.detach(), **close)
    np.testing.assert_allclose(np.concatenate([r["gradient"] for r in ranks]) / COUNT, x.grad, **close)
    np.testing.assert_allclose(np.mean([r["weight"] for r in ranks], 0), norm.weight.grad, **close)
    for rank in ranks:
        np.testing.assert_allclose(rank["mean"], norm.running_mean, **close)
        np.testing.assert_allclose(rank["var"], norm.running_var, **close)


# Gradients of every agent.

FAMILIES = (
    "lewm",
    "fast-lewm",
    "rc-aux",
    "vlwm",
    "pldm",
    "jepa-ema",
    "delta-jepa",
    "gcbc",
    "gcivl",
    "gciql",
    "dino-wm",
    "h-jepa",
    "hwm",
)
WEIGHTS = {"pldm": {"time_covariance_weight": 1.0}}  # 0 by default


class Caught(Exception):
    """The first step has been seen."""


def setting_of(base: Setting, name: str) -> Setting:
    config = configured(name).model_dump()
    changes = {**({"dropout": 0.0} if "dropout" in config else {}), "train": {"batch_size": 8}, **WEIGHTS.get(name, {})}
    return replace(base, agent=name, config=agent_family(name).Config(**deep_merge(config, changes)))


def first_gradients(setting: Setting, folder: Path, patch: Callable[[str, object], None]) -> dict[str, np.ndarray]:
    """Of the family's own training at its first step, before they are clipped, and what is logged there."""
    found: dict[str, np.ndarray] = {}

    def look(model, batch, config, *, seed, device, ranks=ALONE, **_):
        fabric = make_fabric(device, ranks)
        if any(isinstance(module, BatchNorm) for module in model.modules()):
            model.double()  # the toy's frames are so alike that rounding grows in it
        wrapped, _ = fabric.setup(model, loop.make_optimizer(model, config))
        wrapped.mark_forward_method("loss")
        wrapped.train()
        step = Step(0, 10, torch.Generator().manual_seed(3), log=True)
        loss, parts = wrapped.loss(_to_device(batch(0), device), step)
        fabric.backward(loss)
        values = {name: float(value.detach()) for name, value in {"loss": loss, **parts}.items()}
        found.update({f"log {name}": value for name, value in loop.averaged(values, device).items()})
        found.update({name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None})
        raise Caught

    patch("train", look)
    with pytest.raises(Caught):
        agent_family(setting.agent).train(setting, folder)
    return found


def trained_weights(setting: Setting, folder: Path) -> dict[str, np.ndarray]:
    """All that a training of some steps leaves, what only training needs included."""
    found: dict[str, np.ndarray] = {}

    def keep(model, *given, **named):
        log = loop.train(model, *given, **named)
        found.update({name: tensor.numpy().copy() for name, tensor in model.state_dict().items()})
        return log

    _patch("train", keep)
    agent_family(setting.agent).train(setting, folder)
    return found


def _patch(name: str, value: object) -> None:
    from lewm_bench.agent import family

    setattr(family, name, value)


class Gradients:
    """Those of every family, each rank with its share of the batch."""

    def __init__(self, base: Setting, folder: Path) -> None:
        # An environment that only the test has cannot go to another process.
        self.data, self.folder = base.dataset.folder, folder

    def __call__(self, ranks: Ranks) -> None:
        base = replace(setting_at(self.data, self.folder), ranks=ranks)
        for name in FAMILIES:
            found = first_gradients(setting_of(base, name), self.folder / "work", _patch)
            np.savez(self.folder / f"{name}-{ranks.rank}.npz", **found)
            work = self.folder / f"trained {name}"
            np.savez(self.folder / f"{name} ends {ranks.rank}.npz", **trained_weights(setting_of(base, name), work))


def setting_at(data: Path, folder: Path) -> Setting:
    """On the toy's data that are there already."""
    from tiny_agents import CEM
    from toy_env import TOY_ID, make_toy

    from lewm_bench.data.format import Dataset

    dataset = Dataset.open(data)
    config = agent_family("noop").configure({}, None)
    env = make_toy(size=32)
    return Setting(env, TOY_ID, "", dataset, dataset.fingerprint, config, CEM, 0, CPU, Store(folder))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    base = toy_setting(tmp_path_factory.mktemp("toy"))
    agent_family("dino-wm").prepare(setting_of(base, "dino-wm"))
    return base


@pytest.fixture(scope="module")
def both(toy: Setting) -> tuple[Setting, Path]:
    """A setting, and the folder where two ranks have left the gradients of every family."""
    folder = toy.store.root
    side_by_side(Gradients(toy, folder))
    return toy, folder


def batches_of(setting: Setting, folder: Path, monkeypatch) -> Callable[[int], tuple[torch.Tensor, ...]]:
    """What a family's training reads."""
    from lewm_bench.agent import family

    found = []

    def look(model, batch, config, **_):
        found.append(batch)
        raise Caught

    monkeypatch.setattr(family, "train", look)
    monkeypatch.setattr(family, "together", lambda ranks, device: nullcontext())
    with pytest.raises(Caught):
        agent_family(setting.agent).train(setting, folder)

    def tensors(index: int) -> tuple[torch.Tensor, ...]:
        made = found[0](index)
        return (made.frames, made.actions) if isinstance(made, Clip) else tuple(made)

    return tensors


@pytest.mark.parametrize("name", FAMILIES)
def test_the_shares_make_up_the_batch(toy: Setting, tmp_path: Path, monkeypatch, name: str) -> None:
    setting = setting_of(toy, name)
    whole = batches_of(setting, tmp_path, monkeypatch)
    shares = [batches_of(replace(setting, ranks=Ranks(4, rank)), tmp_path, monkeypatch) for rank in range(4)]
    for index in range(6):  # some of which are cropped
        for expected, *parts in zip(whole(index), *(share(index) for share in shares), strict=True):
            assert [len(part) for part in parts] == [2] * 4
            assert torch.equal(torch.cat(parts), expected)


def test_a_family_says_whether_its_batches_can_be_shared() -> None:
    able = {name for name in AGENTS if agent_family(name).shares_batches}
    assert able == set(FAMILIES), "all of those, and no other, are tested above"


def test_a_batch_that_is_not_divided_is_refused() -> None:
    require_divided(8, 4)
    with pytest.raises(UserError, match="130 is not a multiple of 4; set it to 128 or 132"):
        require_divided(130, 4)
    with pytest.raises(UserError, match="set it to 4"):
        require_divided(3, 4)


def test_statistics_of_a_share_are_refused() -> None:
    require_global_statistics(nn.Sequential(nn.Linear(2, 2), BatchNorm(2), nn.LayerNorm(2)))
    with pytest.raises(UserError, match="1 is a BatchNorm1d"):
        require_global_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_each_rank_draws_its_own_dropout_and_the_first_that_of_one_process() -> None:
    assert Ranks(2, 0).address(5) == ALONE.address(5) == (5,)
    assert len({Ranks(3, rank).address(5) for rank in range(3)}) == 3


def test_a_process_alone_exchanges_nothing() -> None:
    x = torch.randn(3)
    assert gathered(x) is x and mean_over_ranks(x) is x
    with together(ALONE, CPU):
        assert not dist.is_initialized()
    assert Ranks.of({}) == Ranks.of({"RANK": "1", "WORLD_SIZE": "2"}) == ALONE  # left behind by something else
    assert Ranks.of(environment_of(1, 2, 9)) == Ranks(2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_one_process(both: tuple[Setting, Path], tmp_path: Path, monkeypatch, name: str) -> None:
    base, folder = both
    from lewm_bench.agent import family

    alone = first_gradients(setting_of(base, name), tmp_path, lambda n, v: monkeypatch.setattr(family, n, v))
    scale = max(np.abs(g).max() for n, g in alone.items() if not n.startswith("log "))
    for rank in range(COUNT):
        found = np.load(folder / f"{name}-{rank}.npz")
        assert set(found.files) == set(alone)
        for part, expected in alone.items():
            atol = 1e-5 if part.startswith("log ") else 1e-5 * scale
            np.testing.assert_allclose(found[part], expected, rtol=1e-4, atol=atol, err_msg=part)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_end_with_the_same_weights_and_one_of_them_writes(both: tuple[Setting, Path], name: str) -> None:
    _, folder = both
    first, second = (np.load(folder / f"{name} ends {rank}.npz") for rank in range(COUNT))
    assert set(first.files) == set(second.files)
    for part in first.files:
        np.testing.assert_array_equal(first[part], second[part], err_msg=part)
    kept = load_tensors(folder / f"trained {name}" / "model.safetensors")
    assert kept and all(np.array_equal(tensor, first[part]) for part, tensor in kept.items())
