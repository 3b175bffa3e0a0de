"""LeWM at the paper's size: names, shapes and numbers of the released checkpoints; and how it predicts and learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from released_layout import released

from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.agents.parts.jepa import latent_diagnostics
from lewm_bench.agents.parts.nets import ViT
from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import Step, TrainConfig, make_optimizer

SMALL = LeWMConfig(
    encoder="stem-vit",
    latent=12,
    projector_hidden=24,
    width=16,
    depth=3,
    heads=2,
    head_size=8,
    mlp_hidden=32,
    num_directions=16,
    frame_skip=2,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def paper(action_dim: int) -> LeWM:
    """The default model without memory for its weights."""
    with torch.device("meta"):
        return LeWM(LeWMConfig(), 224, action_dim)


def small(**changes) -> LeWM:
    """A small model whose blocks are not the identity any more."""
    torch.manual_seed(0)
    model = LeWM(SMALL.model_copy(update=changes), 32, 3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "adaLN" in name:
                p.normal_(0, 0.3)
    return model.eval()


def clip(batch: int = 6, frames: int = 4, seed: int = 0) -> Clip:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, frames, 3, 32, 32), dtype=torch.uint8, generator=g)
    return Clip(images, torch.randn(batch, frames - 1, 6, generator=g))


def step(log: bool = False, index: int = 0) -> Step:
    return Step(index, 10, torch.Generator().manual_seed(1), log)


@pytest.mark.parametrize(("action_dim", "parameters"), [(2, 18_034_478), (5, 18_034_628)])
def test_the_default_is_the_released_model(action_dim: int, parameters: int) -> None:
    model, table = paper(action_dim), released(5 * action_dim)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(table) == 303
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    statistics = {name: shapes.pop(name) for name in ("action_scale.mean", "action_scale.std")}
    assert statistics == {"action_scale.mean": (action_dim,), "action_scale.std": (action_dim,)}
    assert shapes == table


def test_every_block_is_the_identity_at_initialisation() -> None:
    model = LeWM(LeWMConfig(), 224, 2).eval()
    blocks = model.predictor.transformer["layers"]
    assert len(blocks) == 6
    x, condition = torch.randn(2, 3, 192), torch.randn(2, 3, 192)
    for block in blocks:
        assert torch.equal(block(x, condition), x)
        torch.nn.init.normal_(block.adaLN_modulation[1].bias)
        assert not torch.allclose(block(x, condition), x, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("what", ["frames", "actions"])
def test_a_prediction_ignores_what_comes_after_it(what: str) -> None:
    model, T = small(history=5), 5
    latents, actions = torch.randn(2, T, 12), torch.randn(2, T, 6)
    before = model.predict(latents, actions)
    for t in range(T):
        changed = {"frames": latents.clone(), "actions": actions.clone()}
        changed[what][:, t] += 1
        difference = (model.predict(changed["frames"], changed["actions"]) - before).abs().amax((0, 2))
        assert (difference[:t] == 0).all(), f"prediction before {t} sees {what} at {t}"
        assert (difference[t:] > 1e-4).all(), f"a prediction from {t} on does not see {what} at {t}"


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_predict_next_is_the_last_prediction(frames: int) -> None:
    model = small()
    latents, actions = torch.randn(7, frames, 12), torch.randn(7, frames, 6)
    expected = model.predict(latents, actions)[:, -1]
    torch.testing.assert_close(model.predict_next(latents, actions), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_predictor_against_loops(T: int) -> None:
    """The published block in float64: modulated normalisation, affine norm, causal attention, gates."""
    model = small()
    z, actions = torch.randn(1, T, 12), torch.randn(1, T, 6)
    condition = model.action_encoder(actions)[0].double().numpy()
    actual = model.predictor(z, model.action_encoder(actions))[0].numpy()
    p = {k: v.double().numpy() for k, v in model.predictor.state_dict().items()}

    def norm(x, eps):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)

    def affine(x, name):
        return norm(x, 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    x = linear(z[0].double().numpy(), "input_proj") + p["pos_embedding"][0, :T]
    for i in range(3):
        layer = f"transformer.layers.{i}"
        silu = condition / (1 + np.exp(-condition))
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(silu, f"{layer}.adaLN_modulation.1"), 6, -1)
        y = affine(norm(x, 1e-6) * (1 + scale1) + shift1, f"{layer}.attn.norm")
        q, k, v = np.split(y @ p[f"{layer}.attn.to_qkv.weight"].T, 3, -1)
        out = np.zeros_like(q)
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            for t in range(T):
                score = np.exp(k[: t + 1, part] @ q[t, part] / np.sqrt(8))
                out[t, part] = score / score.sum() @ v[: t + 1, part]
        x = x + gate1 * linear(out, f"{layer}.attn.to_out.0")
        y = linear(affine(norm(x, 1e-6) * (1 + scale2) + shift2, f"{layer}.mlp.net.0"), f"{layer}.mlp.net.1")
        x = x + gate2 * linear(y * (1 + erf(y / np.sqrt(2))) / 2, f"{layer}.mlp.net.4")
    np.testing.assert_allclose(actual, affine(x, "transformer.norm"), atol=2e-5)


@pytest.mark.parametrize("encoder", ["stem-vit", "cnn"])
def test_gradients_reach_every_parameter_after_one_step(encoder: str) -> None:
    torch.manual_seed(0)
    model = LeWM(SMALL.model_copy(update={"encoder": encoder}), 32, 3).train()
    optimizer = make_optimizer(model, TrainConfig(learning_rate=1e-2))
    for index in range(2):
        optimizer.zero_grad()
        model.loss(clip(), step(index=index))[0].backward()
        if index == 0:  # closed gates: nothing behind them learns in the first step
            assert not model.predictor.transformer["layers"][0].mlp["net"][1].weight.grad.any()
            optimizer.step()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_gradients_reach_the_whole_paper_encoder() -> None:
    """A few patches and layers of the real ViT, whose CLS token alone is read."""
    torch.manual_seed(0)
    model = small()
    model.config = model.config.model_copy(update={"encoder": "vit-tiny"})
    model.encoder, model.projector.net[0] = ViT(28, width=192, depth=2), torch.nn.Linear(192, 24)
    images = torch.nn.functional.interpolate(clip().frames.flatten(0, 1), (28, 28)).unflatten(0, (6, 4))
    model.train().loss(Clip(images, clip().actions), step())[0].backward()
    silent = [name for name, p in model.encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@torch.no_grad()
def test_the_latent_is_the_cls_token_or_the_mean_token() -> None:
    model, frames = small(), clip().frames
    tokens = model.encoder(model.normalize(frames.flatten(0, 1)))
    torch.testing.assert_close(model.encode(frames), model.projector(tokens.mean(1).unflatten(0, (6, 4))))
    model.encoder, model.projector.net[0] = ViT(56, depth=2), torch.nn.Linear(192, 24)
    images = torch.nn.functional.interpolate(frames.flatten(0, 1), (56, 56)).unflatten(0, (6, 4))
    tokens = model.encoder(model.normalize(images.flatten(0, 1)))
    torch.testing.assert_close(model.encode(images), model.projector(tokens[:, 0].unflatten(0, (6, 4))))


@torch.no_grad()
def test_a_latent_does_not_depend_on_its_batch() -> None:
    model, frames = small(), clip().frames
    torch.testing.assert_close(model.encode(frames)[2:3, 1:2], model.encode(frames[2:3, 1:2]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_prediction_plus_sigreg_and_nothing_else() -> None:
    model = small(sigreg_weight=0.3)
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    data = clip()
    total, parts = model.loss(data, step(log=True))
    z = model.encode(data.frames)
    actions = (data.actions.view(6, 3, 2, 3) - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 2, 4])
    prediction = model.predict(z[:, :3], actions.flatten(2))
    error = ((prediction - z[:, 1:]) ** 2).sum() / prediction.numel()  # per dimension
    regulariser = sigreg(z.transpose(0, 1), directions(16, 12, step().generator))  # time first, all four frames
    torch.testing.assert_close(parts["prediction"], error)
    torch.testing.assert_close(parts["sigreg"], regulariser)
    torch.testing.assert_close(total, error + 0.3 * regulariser)
    assert set(parts) == {"prediction", "sigreg", "latent_std", "effective_rank", "straightness"}
    assert set(model.loss(data, step())[1]) == {"prediction", "sigreg"}


def test_gradients_flow_into_the_targets() -> None:
    """The last frame is only ever a target."""
    model = small(sigreg_weight=0.0)
    frames = clip().frames
    latents = model.encode(frames).detach().requires_grad_()
    model.encode = lambda _: latents
    model.loss(Clip(frames, clip().actions), step())[0].backward()
    assert latents.grad[:, -1].abs().max() > 0


def test_the_weight_of_sigreg_decays_geometrically() -> None:
    constant = small(sigreg_weight=0.1)
    assert [constant.config.weight_at(p) for p in (0, 0.5, 1)] == [0.1] * 3
    model = small(sigreg_weight=0.002, sigreg_initial_weight=0.1, sigreg_decay=0.4)
    values = [model.config.weight_at(p) for p in (0, 0.1, 0.2, 0.3, 0.4, 0.9)]
    assert values[0] == pytest.approx(0.1) and values[4] == values[5] == 0.002
    ratios = np.divide(values[1:5], values[:4])
    np.testing.assert_allclose(ratios, (0.002 / 0.1) ** 0.25)


def test_diagnostics_in_cases_that_are_known() -> None:
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(400, 8)))
    q, _ = np.linalg.qr(q - q.mean(0))  # centred and orthonormal: an exact spectrum
    for spectrum in ([1] * 8, [1] + [0] * 7, [4, 2, 1, 1, 0, 0, 0, 0]):
        share = np.array(spectrum) / sum(spectrum)
        expected = np.exp(-sum(s * np.log(s) for s in share if s))
        latents = torch.from_numpy(q * np.sqrt(share)).float().view(100, 4, 8)
        assert latent_diagnostics(latents)["effective_rank"].item() == pytest.approx(expected, rel=1e-3)
    line = torch.linspace(0, 1, 5)[None, :, None] * torch.randn(3, 1, 8) + torch.randn(3, 1, 8)
    assert latent_diagnostics(line)["straightness"].item() == pytest.approx(1, abs=1e-4)
    corner = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    assert latent_diagnostics(corner)["straightness"].item() == pytest.approx(0, abs=1e-6)
    values = torch.randn(5, 4, 8)
    expected = values.flatten(0, 1).numpy().std(0, ddof=1).mean()
    assert latent_diagnostics(values)["latent_std"].item() == pytest.approx(expected, rel=1e-5)
