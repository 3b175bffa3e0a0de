"""Packed linear layers against plain ones, and what 8 bits may do to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lewm_bench.core.errors import UserError
from lewm_bench.planning.fast import linears
from lewm_bench.planning.fast.linears import Linears, Norm, Ranges, has_int8, has_onednn, require, to_bytes

CPU = torch.device("cpu")
needs_int8 = pytest.mark.skipif(not has_int8(), reason="this torch has no 8-bit linear layers")
needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this torch has no packed linear layers")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["packed", "plain", "compiled"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Linears:
    """Float32 layers of oneDNN, of a torch without it, and for the compiler."""
    if request.param == "plain":
        monkeypatch.setattr(linears, "has_onednn", lambda: False)
    found = Linears("float32", CPU, request.param == "compiled")
    assert found.onednn == (request.param == "packed" and has_onednn())
    return found


def weights(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


def watched(layer: Callable, x: Tensor) -> Ranges:
    """Ranges for 8 bits, from one call."""
    ranges = Ranges()
    layer(x, ranges)
    ranges.watching = False
    return ranges


@pytest.mark.parametrize("shape", [(1,), (17,), (300,), (2, 3), (3, 2, 5, 4)])
@pytest.mark.parametrize("biased", [True, False])
def test_float32_is_linear_and_gelu(made: Linears, shape: tuple[int, ...], biased: bool) -> None:
    (weight, bias), (weight2, bias2) = weights(24, 40), weights(40, 7)
    x, bias = 2 * torch.randn(*shape, 24), bias if biased else None
    expected = F.linear(x, weight, bias)
    for layer in (made.linear(weight, bias), made.exact(weight, bias)):
        torch.testing.assert_close(layer(x, Ranges()), expected, rtol=1e-5, atol=1e-5)
    expected = F.linear(F.gelu(expected), weight2, bias2)
    torch.testing.assert_close(made.mlp(weight, bias, weight2, bias2)(x, Ranges()), expected, rtol=1e-5, atol=1e-5)


def test_views_are_read_as_what_they_show(made: Linears) -> None:
    """Candidates share a latent by a stride of zero; windows are slices."""
    weight, bias = weights(24, 40)
    layer, mlp = made.linear(weight, bias), made.mlp(weight, bias, weight.T, bias[:24])
    for x in (torch.randn(2, 1, 24).expand(-1, 9, -1), torch.randn(3, 5, 48)[:, ::2, 24:], torch.randn(24, 6).T):
        torch.testing.assert_close(layer(x, Ranges()), F.linear(x.clone(), weight, bias), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mlp(x, Ranges()), mlp(x.clone(), Ranges()), rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("inputs", [7, 64, 256])
def test_a_row_does_not_depend_on_how_many_there_are(inputs: int) -> None:
    """To the bit; episodes are planned together because of it."""
    made, (weight, bias), x = Linears("float32", CPU), weights(inputs, 33), torch.randn(1500, inputs)
    for layer in (made.linear(weight, bias), made.mlp(weight, bias, *weights(33, 16))):
        everything = layer(x, Ranges())
        for rows in (1, 2, 5, 17, 300):
            assert torch.equal(layer(x[:rows], Ranges()), everything[:rows])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_bfloat16_has_eight_bits_of_mantissa(kind: str) -> None:
    made, (weight, bias), second, x = Linears("bfloat16", CPU), weights(64, 40), weights(40, 7), torch.randn(50, 64)
    layer, expected = made.linear(weight, bias), F.linear(x, weight, bias)
    if kind == "mlp":
        layer, expected = made.mlp(weight, bias, *second), F.linear(F.gelu(expected), *second)
    actual = layer(x, Ranges())
    assert actual.dtype == torch.float32
    error = (actual - expected).abs().max() / expected.std()
    assert 1e-4 < error < 3e-2
    torch.testing.assert_close(made.exact(weight, bias)(x, Ranges()), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("seen", "scale", "zero"),
    [
        ([-1.0, 3.0], 4 / 255, 64),  # 63.75
        ([2.0, 3.0], 3 / 255, 0),
        ([-3.0, -2.0], 3 / 255, 255),
        ([-51.0, 0.0, 204.0], 1.0, 51),
    ],
)
def test_ranges_in_closed_form(seen: list[float], scale: float, zero: int) -> None:
    together, one_by_one = Ranges(), Ranges()
    together.watch("a", torch.tensor(seen))
    for value in seen:
        one_by_one.watch("a", torch.tensor([value]))
        one_by_one.watch("b", torch.tensor([-1000.0, 1000.0]))
    for ranges in (together, one_by_one):
        assert ranges.of("a") == (pytest.approx(scale), zero)
        found, at = ranges.of("a")
        for value in (0.0, *seen):  # the bytes cover what was seen to half a step, and zero exactly
            byte = min(max(round(value / found) + at, 0), 255)
            assert abs((byte - at) * found - value) <= (found / 2 * 1.001 if value else 0)


def test_ranges_of_nothing_but_zeros() -> None:
    ranges = Ranges()
    ranges.watch("a", torch.zeros(3))
    scale, zero = ranges.of("a")
    assert scale > 0 and zero == 0


@needs_int8
def test_a_watched_call_is_float32() -> None:
    made, (weight, bias), second, x = Linears("int8", CPU), weights(64, 40), weights(40, 7), torch.randn(50, 64)
    first = F.linear(x, weight, bias)
    torch.testing.assert_close(made.linear(weight, bias)(x, Ranges()), first, rtol=1e-5, atol=1e-5)
    actual = made.mlp(weight, bias, *second)(x, Ranges())
    torch.testing.assert_close(actual, F.linear(F.gelu(first), *second), rtol=1e-5, atol=1e-5)


def rounding(x: Tensor, weight: Tensor, step: Tensor | float) -> Tensor:
    """How far a layer may be off whose activations are off by half a ``step`` and its weights by half of theirs."""
    weight_step = weight.abs().amax(1) / 127
    return step / 2 * weight.abs().sum(1) + (x.abs() + step / 2).sum(-1, keepdim=True) * weight_step / 2


@needs_int8
@pytest.mark.parametrize("shape", [(1,), (300,), (2, 3, 5)])
@pytest.mark.parametrize("shift", [0.0, 3.0, -9.0])
def test_an_8_bit_layer_is_within_the_error_of_rounding(shape: tuple[int, ...], shift: float) -> None:
    weight, bias = weights(64, 40)
    weight *= torch.logspace(-2, 2, 40)[:, None]  # each output has a scale of its own
    layer, x = Linears("int8", CPU).linear(weight, bias), torch.randn(*shape, 64) + shift
    step = (x.max().clamp_min(0) - x.min().clamp_max(0)) / 255
    actual, expected = layer(x, watched(layer, x)), F.linear(x, weight, bias)
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    error = (actual - expected).abs()
    assert (error <= 1.001 * rounding(x, weight, step) + 1e-5).all()
    assert error.max() > 1e-5  # these are 8 bits


@needs_int8
def test_an_8_bit_mlp_is_within_the_error_of_rounding() -> None:
    (weight, bias), (weight2, bias2), x = weights(64, 40), weights(40, 7), torch.randn(300, 64)
    mlp = Linears("int8", CPU).mlp(weight, bias, weight2, bias2)
    hidden = F.gelu(F.linear(x, weight, bias))
    actual, expected = mlp(x, watched(mlp, x)), F.linear(hidden, weight2, bias2)
    step, after = (x.max() - x.min()) / 255, (hidden.max() - hidden.min()) / 255
    off = 1.13 * rounding(x, weight, step) + after / 2  # of the hidden numbers; GELU is at most that steep
    bound = off @ weight2.abs().T + rounding(hidden.abs() + off, weight2, 0.0)
    error = (actual - expected).abs()
    assert (error <= bound).all()
    assert 1e-5 < error.square().mean().sqrt() < 0.02 * expected.std()


@needs_int8
def test_inputs_outside_the_watched_range_saturate() -> None:
    weight, bias = weights(16, 8)
    layer = Linears("int8", CPU).linear(weight, bias)
    ranges = watched(layer, torch.tensor([-1.0, 2.0]).repeat(8)[None])
    x = torch.linspace(-40, 40, 321)[:, None] * torch.rand(16)
    assert torch.equal(layer(x, ranges), layer(x.clamp(-1, 2), ranges))
    ones = Linears("int8", CPU).linear(torch.ones(1, 16), None)
    rising = ones(torch.linspace(-9, 9, 200)[:, None].expand(-1, 16), watched(ones, torch.tensor([[-1.0, 2.0] * 8])))
    assert (rising.diff(dim=0) >= 0).all()
    torch.testing.assert_close(rising[[0, -1], 0], torch.tensor([-16.0, 32.0]), rtol=0.01, atol=0)


@needs_int8
def test_hidden_numbers_outside_the_watched_range_saturate() -> None:
    """Two inputs that were only seen one at a time."""
    first, second = torch.zeros(4, 16), torch.ones(1, 4) / 4
    first[:, :2] = 1
    mlp = Linears("int8", CPU).mlp(first, torch.zeros(4), second, torch.zeros(1))
    x = torch.zeros(6, 16)
    x[:2, :2] = torch.tensor([[6.0, 0.0], [0.0, 6.0]])
    ranges = watched(mlp, x[:2])
    x[2:, 0], x[2:, 1] = 6.0, torch.tensor([1.0, 2.5, 4.0, 6.0])
    torch.testing.assert_close(mlp(x, ranges), torch.full((6, 1), 6.0), rtol=0.01, atol=0)


@needs_int8
def test_ranges_belong_to_their_layer() -> None:
    made, ranges, x = Linears("int8", CPU), Ranges(), torch.rand(20, 16)
    one, other = (made.linear(*weights(16, 4)) for _ in range(2))
    one(x, ranges), other(1000 * x, ranges)
    ranges.watching = False
    assert torch.equal(one(x, ranges), one(x, watched(one, x)))


@pytest.mark.parametrize("scale, zero", [(0.037, 0), (0.0021, 131), (1.7, 255)])
def test_bytes_are_the_nearest_ones(scale: float, zero: int) -> None:
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (50, 33)).astype(np.float32) * 255 * scale
    actual = to_bytes(torch.from_numpy(x), scale, zero)
    assert actual.dtype == torch.uint8 and actual.shape == (50, 33)
    exact = x.astype(np.float64) / scale + zero
    assert np.abs(actual.numpy() - exact.clip(0, 255)).max() <= 0.5 + 1e-4
    assert {0, 255} <= set(actual.flatten().tolist())
    assert to_bytes(torch.zeros(3), scale, zero).tolist() == [zero] * 3


def test_a_norm_is_a_layer_norm_without_weights() -> None:
    norm, x = Norm(48, 1e-6, CPU), 3 * torch.randn(2, 7, 48) + 1
    assert torch.equal(norm(x), F.layer_norm(x, (48,), eps=1e-6))


@pytest.mark.parametrize("scale, zero", [(0.02, 128), (0.011, 0)])
def test_normalised_bytes_are_the_nearest_ones(scale: float, zero: int) -> None:
    norm, x = Norm(48, 1e-6, CPU), 3 * torch.randn(50, 48) + 1
    actual = norm.to_bytes(x, scale, zero)
    exact = F.layer_norm(x.double(), (48,), eps=1e-6) / scale + zero
    assert actual.dtype == torch.uint8
    assert (actual - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3


@needs_int8
def test_a_norm_before_an_8_bit_mlp_changes_nothing() -> None:
    made, mlp, norm = Linears("int8", CPU), (*weights(64, 40), *weights(40, 7)), Norm(64, 1e-6, CPU)
    plain, normed, x = made.mlp(*mlp), made.mlp(*mlp, norm), 3 * torch.randn(300, 64) + 1
    expected, actual = plain(norm(x), watched(plain, norm(x))), normed(x, watched(normed, x))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.02)  # a byte may fall to the other side


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Warnings are errors, also those of torch, which otherwise come once per process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_8_bits_stand_on_nothing_that_torch_deprecates(every_warning: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where large numbers overflow, and 8 bits are refused."""
    assert has_int8.__wrapped__() in (True, False)
    monkeypatch.setattr(linears, "has_int8", lambda: True)
    made, x = Linears("int8", CPU), torch.randn(5, 64)
    for layer in (made.linear(*weights(64, 40)), made.mlp(*weights(64, 40), *weights(40, 7))):
        assert layer(x, watched(layer, x)).isfinite().all()


def test_what_a_device_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    with pytest.raises(UserError, match="tf32 is for CUDA, this is cpu; use float32"):
        Linears("tf32", CPU)
    with pytest.raises(UserError, match="int8 needs a CPU"):
        require("int8", cuda)
    require("tf32", cuda)
    for device in (CPU, cuda):
        require("float32", device)
        require("bfloat16", device)
    monkeypatch.setattr(linears, "has_int8", lambda: True)
    require("int8", CPU)
    with pytest.raises(UserError, match="compile does not go with"):
        Linears("int8", CPU, compiled=True)
    monkeypatch.setattr(linears, "has_int8", lambda: False)
    with pytest.raises(UserError, match="use float32"):
        Linears("int8", CPU)


@pytest.mark.parametrize("probe", [has_onednn, has_int8])
@pytest.mark.parametrize("broken", ["missing", "wrong"])
def test_layers_that_do_not_work_count_as_absent(probe: Callable, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def op(*_) -> Tensor:
        if broken == "missing":
            raise AttributeError("no such operator")
        return torch.zeros(2, 16) if probe is has_onednn else torch.zeros(4, 16)

    if not probe():
        pytest.skip("absent already")
    name = ("mkldnn", "_linear_pointwise") if probe is has_onednn else ("onednn", "qlinear_pointwise")
    monkeypatch.setattr(getattr(torch.ops, name[0]), name[1], op)
    assert probe.__wrapped__() is False
