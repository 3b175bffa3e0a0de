"""The training routines of a CPU against the plain modules: the same losses and gradients, up to rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lewm_bench.agents.parts import cpu_training
from lewm_bench.agents.parts.nets import Block, StemViT, ViT
from lewm_bench.planning.fast.linears import has_onednn


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_training, "_trains_here", lambda x: False)


def gradients(run: Callable[[Tensor], Tensor], x: Tensor, slope: Tensor, module: nn.Module) -> list[Tensor]:
    y = run(x)
    return [y, *torch.autograd.grad((y * slope).sum(), [x, *module.parameters()])]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(found, expected, strict=True):  # a key's bias has no gradient but rounding, so no relative error
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1)


@pytest.mark.skipif(not has_onednn(), reason="this torch has no packed linear layers")
@pytest.mark.parametrize("onto", [False, True])
def test_a_packed_linear_layer(onto: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(48, 80), torch.randn(20, 30, 48, requires_grad=True)
    residual = torch.randn(20, 30, 80, requires_grad=True) if onto else None
    slope = torch.randn(20, 30, 80)
    inputs = [x, layer.weight, layer.bias, *([residual] if onto else [])]

    def run() -> list[Tensor]:
        y = cpu_training.linear(x, layer, residual)
        return [y, *torch.autograd.grad((y * slope).sum(), inputs)]

    found = run()
    plain(monkeypatch)
    assert_close(found, run())


@pytest.mark.parametrize("tokens", [16, 40])
def test_a_block(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of the number of tokens from which torch's fused attention is used."""
    block, x = Block(32, 4), torch.randn(24, tokens, 32, requires_grad=True)
    slope = torch.randn_like(x)
    found = gradients(block, x, slope, block)
    plain(monkeypatch)
    assert_close(found, gradients(block, x, slope, block))


@pytest.mark.parametrize(("encoder", "size"), [(ViT, 56), (StemViT, 64)])
def test_an_encoder(encoder: type[nn.Module], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = encoder(size, depth=2), torch.randn(20, 3, size, size, requires_grad=True)
    slope = torch.randn(20, model.width)
    found = gradients(model.features, images, slope, model)
    plain(monkeypatch)
    assert_close(found, gradients(model.features, images, slope, model))


def test_the_first_token_without_keys_and_values_of_all_tokens() -> None:
    model, images = ViT(56, depth=2).double(), torch.randn(3, 3, 56, 56, dtype=torch.double, requires_grad=True)
    slope = torch.randn(3, 192, dtype=torch.double)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = gradients(model.features, images, slope, model)
    assert_close(found, gradients(lambda x: model(x)[:, 0], images, slope, model), 1e-10)
