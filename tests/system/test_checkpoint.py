"""Checkpoints: strict in both directions, and a clear line for whatever is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.system.checkpoint import (
    CARD,
    WEIGHTS,
    load_card,
    load_strict,
    load_tensors,
    load_weights,
    not_finite,
    save_checkpoint,
    save_tensors,
)


def model(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "a" / "checkpoint", model(), {"agent": "lewm", "config": {"width": 4}, "name": "ü"})
    return tmp_path / "a" / "checkpoint"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [CARD, WEIGHTS]
    other, original = model(seed=1), model()
    assert not torch.equal(other[0].weight, original[0].weight)
    load_weights(other, folder)
    for name, tensor in original.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor) and other.state_dict()[name].dtype == tensor.dtype
    assert load_card(folder) == {"agent": "lewm", "config": {"width": 4}, "name": "ü"}


def test_views_and_transposed_tensors_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4).requires_grad_()
    save_tensors(tmp_path / "x", {"transposed": base.T, "row": base[1]})
    loaded = load_tensors(tmp_path / "x")
    assert torch.equal(loaded["transposed"], base.T) and torch.equal(loaded["row"], base[1])
    assert not loaded["row"].requires_grad


def test_loading_is_strict_in_both_directions(folder: Path) -> None:
    own = model().state_dict()
    fewer = {k: v for k, v in own.items() if k != "0.weight"}
    more = {**own, "3.weight": torch.zeros(1)}
    wider = {**own, "2.bias": torch.zeros(3)}
    renamed = {("9.weight" if k == "0.weight" else k): v for k, v in own.items()}
    for tensors, parts in [
        (fewer, ["1 missing (first: 0.weight)"]),
        (more, ["1 unexpected (first: 3.weight)"]),
        (wider, ["1 of another shape (first: 2.bias)"]),
        (renamed, ["1 missing (first: 0.weight)", "1 unexpected (first: 9.weight)"]),
        ({}, [f"{len(own)} missing"]),
    ]:
        target = model(seed=1)
        before = {k: v.clone() for k, v in target.state_dict().items()}
        with pytest.raises(UserError) as caught:
            load_strict(target, tensors, "somewhere")
        assert all(part in str(caught.value) for part in [*parts, "somewhere does not fit this model"])
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items()), "half loaded"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, bad: float, dtype) -> None:
    broken = model().to(dtype)
    broken[2].bias.data[-1] = bad
    with pytest.raises(TrainingFailed, match=r"not finite numbers \(tensor 2.bias\); try a lower train.learning_rate$"):
        save_checkpoint(tmp_path / "a", broken, {})
    assert not (tmp_path / "a").exists()
    save_tensors(tmp_path / WEIGHTS, broken.state_dict())
    for loading in (lambda: load_weights(model().to(dtype), tmp_path), lambda: load_tensors(tmp_path / WEIGHTS)):
        with pytest.raises(UserError, match=r"holds numbers that are not finite \(tensor 2.bias\)") as caught:
            loading()
        assert str(tmp_path / WEIGHTS) in str(caught.value)
    target = model().to(dtype)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(UserError, match="somewhere holds"):
        load_strict(target, broken.state_dict(), "somewhere")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items()), "half loaded"


def test_whole_numbers_and_small_floats_are_asked_too() -> None:
    small = torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)
    assert not_finite({"a": torch.tensor([2**60]), "b": torch.tensor([True])}) is None
    assert not_finite({"a": torch.ones(2), "b": small, "c": small}) == "b"
    assert not_finite({"b": small[:1], "c": torch.tensor([complex(0, torch.inf)])}) == "c"


def test_a_checkpoint_of_another_size_names_its_file(folder: Path) -> None:
    with pytest.raises(UserError, match=r"of another shape .*check the config") as caught:
        load_weights(model(width=5), folder)
    assert str(folder / WEIGHTS) in str(caught.value)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGE = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:20],
    "cut": cut,
    "last byte missing": lambda data: data[:-1],
    "another header": lambda data: data[:8] + b"x" * 8 + data[16:],
    "not safetensors": lambda data: b"PK\x03\x04 a zip file, as torch writes it",
    "a huge header": lambda data: b"\xff" * 8 + data[8:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_weights_are_one_clear_line(folder: Path, damage) -> None:
    path = folder / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"is damaged \(.*\); delete its folder and train again") as caught:
        load_weights(model(), folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"agent": ', b"\xff\xfe\x00", b"[1, 2]", b"null"])
def test_a_damaged_card_is_one_clear_line(folder: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_card(folder)


def test_an_absent_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights at .*train the agent first"):
        load_weights(model(), tmp_path)
    with pytest.raises(UserError, match=r"is not a checkpoint: it has no card\.json"):
        load_card(tmp_path)
    (tmp_path / WEIGHTS).touch()
    with pytest.raises(UserError, match=r"is a file; name the folder"):
        load_card(tmp_path / WEIGHTS)


def test_saving_again_replaces_the_old_one(folder: Path) -> None:
    save_checkpoint(folder, model(seed=5), {"agent": "other"})
    other = model()
    load_weights(other, folder)
    assert torch.equal(other[0].weight, model(seed=5)[0].weight)
    assert json.loads((folder / CARD).read_text(encoding="utf-8")) == {"agent": "other"}
    assert sorted(p.name for p in folder.iterdir()) == [CARD, WEIGHTS]


def test_nothing_in_a_checkpoint_can_run_code(folder: Path) -> None:
    """Names, shapes and numbers: the header is JSON, the rest is the numbers' bytes."""
    data = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    assert header.keys() == model().state_dict().keys()
    assert len(data) == 8 + size + sum(t.numel() * t.element_size() for t in model().state_dict().values())
