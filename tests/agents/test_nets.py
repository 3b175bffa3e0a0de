"""Network parts against other implementations of the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lewm_bench.agents.parts.nets import (
    CNN,
    ActionEncoder,
    ActionScale,
    Attention,
    Normalize,
    Projector,
    StemViT,
    ViT,
    sine_cosine_positions,
)
from lewm_bench.core.errors import UserError


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def theirs(name: str) -> str:
    """The name in transformers since 5.9 of one of our (and its earlier versions') ViT parameters."""
    layer = "encoder.layer."
    if not name.startswith(layer):
        return name
    number, _, rest = name.removeprefix(layer).partition(".")
    module, _, kind = rest.rpartition(".")
    module = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "layernorm_before",
        "layernorm_after": "layernorm_after",
    }[module]
    return f"layers.{number}.{module}.{kind}"


@pytest.fixture(scope="module")
def pair() -> tuple[ViT, nn.Module]:
    """Our paper encoder and transformers' with the same weights, none of which is at its initial value."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        patch_size=14,
        image_size=224,
    )
    torch.manual_seed(0)
    ours, model = ViT(224).eval(), ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, p in ours.named_parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.03))
            assert p.std() > 0, name
    state = ours.state_dict()
    known = model.state_dict().keys()
    if any(name.startswith("encoder.layer.") for name in known):  # transformers before 5.9
        mapped = dict(state)
    else:
        mapped = {theirs(name): value for name, value in state.items()}
        if any(name.startswith("encoder.layers.") for name in known):
            mapped = {f"encoder.{n}" if n.startswith("layers.") else n: v for n, v in mapped.items()}
    assert mapped.keys() == known
    model.load_state_dict(mapped, strict=True)
    return ours, model


@torch.no_grad()
def test_the_paper_encoder_is_transformers_vit(pair: tuple[ViT, nn.Module]) -> None:
    ours, model = pair
    images = torch.randn(2, 3, 224, 224)
    expected = model(images).last_hidden_state
    actual = ours(images)
    assert actual.shape == (2, 257, 192) and expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_the_paper_encoder_rejects_other_images() -> None:
    with pytest.raises(UserError, match="multiple of 14"):
        ViT(64)


def test_initial_linear_layers_are_those_of_the_released_training() -> None:
    torch.manual_seed(0)
    model = ViT(28, depth=2)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert len(layers) == 1 + 2 * 6
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layer.bias.any()


@pytest.mark.parametrize(("size", "width", "tokens"), [(16, 64, 1), (32, 32, 4), (64, 64, 16), (96, 64, 36)])
def test_the_small_vit_has_one_token_per_16_pixels(size: int, width: int, tokens: int) -> None:
    model = StemViT(size, width, depth=1, heads=4)
    assert model.num_tokens == tokens and model.width == width
    assert model(torch.randn(3, 3, size, size)).shape == (3, tokens, width)


@torch.no_grad()
def test_tokens_of_the_small_vit_are_laid_out_by_rows() -> None:
    """Without attention, a change at the top right of a 3 x 3 grid changes that token and its neighbours only."""
    model = StemViT(48, 32, depth=0)
    a = torch.randn(1, 3, 48, 48)
    b = a.clone()
    b[:, :, 6:10, 38:44] += 1  # the middle of patch (0, 2)
    changed = (model(a) - model(b)).abs().amax((0, 2)) > 1e-6
    assert changed[2] and not changed[[0, 3, 6, 7, 8]].any()


@pytest.mark.parametrize(("make", "size"), [(StemViT, 60), (CNN, 60)])
def test_small_encoders_reject_other_images(make, size: int) -> None:
    with pytest.raises(UserError, match="multiple of 16, got 60"):
        make(size)


def test_the_cnn_gives_one_token() -> None:
    model = CNN(32, width=24)
    assert model.num_tokens == 1 and model(torch.randn(2, 3, 32, 32)).shape == (2, 1, 24)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    side, width = 5, 16
    expected = np.zeros((side * side, width))
    for row in range(side):
        for column in range(side):
            for k in range(width // 4):
                frequency = 10_000 ** (-k / (width // 4))
                expected[row * side + column, [k, 4 + k, 8 + k, 12 + k]] = [
                    np.sin(row * frequency),
                    np.cos(row * frequency),
                    np.sin(column * frequency),
                    np.cos(column * frequency),
                ]
    np.testing.assert_allclose(sine_cosine_positions(side, width).numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_attention_against_loops() -> None:
    torch.manual_seed(0)
    N, P, W, heads = 2, 5, 12, 3
    layer, x = Attention(W, heads), torch.randn(N, P, W)
    qkv = (x @ layer.qkv.weight.T + layer.qkv.bias).double().numpy()
    out = np.zeros((N, P, W))
    for n in range(N):
        for h in range(heads):
            part = slice(h * 4, (h + 1) * 4)
            q, k, v = (qkv[n, :, i * W : (i + 1) * W][:, part] for i in range(3))
            score = np.exp(q @ k.T / np.sqrt(4))
            out[n, :, part] = score / score.sum(1, keepdims=True) @ v
    expected = out @ layer.out.weight.double().numpy().T + layer.out.bias.double().numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-5)


def test_normalize_is_imagenets_and_not_saved() -> None:
    frames = torch.randint(0, 256, (2, 4, 3, 5, 7), dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.moveaxis(frames.numpy(), -3, -1) / 255 - mean) / std
    actual = Normalize()(frames)
    assert actual.dtype == torch.float32 and not Normalize().state_dict()
    np.testing.assert_allclose(np.moveaxis(actual.numpy(), -3, -1), expected, atol=1e-5)


@torch.no_grad()
def test_the_projector_takes_batch_statistics_over_all_frames() -> None:
    torch.manual_seed(0)
    model, x = Projector(6, 10, 4), torch.randn(5, 3, 6) * 2 + 1
    first, norm, _, second = model.net
    hidden = (x.reshape(15, 6) @ first.weight.T + first.bias).double().numpy()
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + norm.eps)
    gelu = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
    expected = gelu @ second.weight.double().numpy().T + second.bias.double().numpy()
    np.testing.assert_allclose(model.train()(x).numpy(), expected.reshape(5, 3, 4), atol=1e-4)


@torch.no_grad()
def test_the_action_encoder_is_the_released_convolution() -> None:
    torch.manual_seed(0)
    model, actions = ActionEncoder(10, 24), torch.randn(3, 4, 10)
    smoothed = model.patch_embed(actions.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(model(actions), model.embed(smoothed))
    assert model(actions).shape == (3, 4, 24)


def test_action_statistics_belong_to_primitive_actions() -> None:
    scale = ActionScale(2)
    scale.fit(np.float32([1, -2]), np.float32([0.5, 4]))
    block = torch.tensor([[1.5, 2.0, 1.0, -2.0, 0.0, -6.0]])  # three actions
    expected = torch.tensor([[1.0, 1.0, 0.0, 0.0, -2.0, -1.0]])
    torch.testing.assert_close(scale.normalize(block), expected)
    torch.testing.assert_close(scale.denormalize(expected), block)
    assert set(scale.state_dict()) == {"mean", "std"}
