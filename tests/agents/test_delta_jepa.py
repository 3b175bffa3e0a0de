"""Delta-JEPA's decoder against loops; that it reads displacements alone; and that without its weight latents collapse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shaken import shaken
from test_lewm import SMALL, clip, step
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents.delta_jepa import DELTA_JEPA, ActionDecoder, DeltaJEPA, DeltaJEPAConfig
from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig

CONFIG = DeltaJEPAConfig(
    **SMALL.model_dump(include=set(JEPAConfig.model_fields) - {"dropout"}),
    dropout=0.0,
    decoder_depth=2,
    decoder_heads=3,
    decoder_head_size=4,
    decoder_hidden=20,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes) -> DeltaJEPA:
    """With its decoder, in training mode without dropout, so that a loss repeats."""
    torch.manual_seed(0)
    model = DeltaJEPA(CONFIG.model_copy(update=changes), 32, 3)
    model.begin_training()
    return model


def decoder(frame_skip: int = 4, action_dim: int = 3) -> ActionDecoder:
    """One whose gates are open."""
    return shaken(ActionDecoder(CONFIG.model_copy(update={"frame_skip": frame_skip}), action_dim))


@torch.no_grad()
def test_the_decoder_against_loops() -> None:
    """In float64: queries through blocks that the displacement modulates, attention without a mask, one action each."""
    model = decoder()
    displacement = torch.randn(2, 3, 12)
    actual = model(displacement).numpy()
    assert actual.shape == (2, 3, 12)  # (B, T, 4 actions of 3 numbers)
    p = {k: v.double().numpy() for k, v in model.state_dict().items()}
    for b in range(2):
        for t in range(3):
            expected = np.concatenate(decode(p, displacement[b, t].double().numpy()))
            np.testing.assert_allclose(actual[b, t], expected, atol=2e-5)


def decode(p: dict[str, np.ndarray], displacement: np.ndarray) -> np.ndarray:
    """(frame_skip, action_dim) of one displacement (D,)."""

    def norm(x, eps):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)

    def affine(x, name):
        return norm(x, 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    x = p["queries"][0]
    for i in range(2):
        block = f"blocks.{i}"
        silu = displacement / (1 + np.exp(-displacement))
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(silu, f"{block}.adaLN_modulation.1"), 6)
        y = affine(norm(x, 1e-6) * (1 + scale1) + shift1, f"{block}.attn.norm")
        q, k, v = np.split(y @ p[f"{block}.attn.to_qkv.weight"].T, 3, -1)
        out = np.zeros_like(q)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            for s in range(len(x)):
                score = np.exp(k[:, part] @ q[s, part] / 2)
                out[s, part] = score / score.sum() @ v[:, part]
        x = x + gate1 * linear(out, f"{block}.attn.to_out.0")
        y = linear(affine(norm(x, 1e-6) * (1 + scale2) + shift2, f"{block}.mlp.net.0"), f"{block}.mlp.net.1")
        x = x + gate2 * linear(y * (1 + erf(y / np.sqrt(2))) / 2, f"{block}.mlp.net.4")
    return linear(affine(x, "norm"), "out")


def test_default_sizes() -> None:
    """Three blocks of 8 heads with 64 channels and 512 hidden units, as wide as the latent; one query per action."""
    with torch.device("meta"):
        model = ActionDecoder(DeltaJEPAConfig(), 2)
    D, inner, hidden = 192, 8 * 64, 512
    attention = 3 * D * inner + inner * D + D + 2 * D
    mlp = 2 * D + D * hidden + hidden + hidden * D + D
    block = attention + mlp + 6 * D * D + 6 * D
    assert sum(p.numel() for p in model.parameters()) == 5 * D + 3 * block + 2 * D + 2 * D + 2
    assert DeltaJEPAConfig().action_weight == 10


@torch.no_grad()
def test_at_first_the_decoder_says_the_same_of_everything() -> None:
    model = ActionDecoder(CONFIG, 3)
    out = model(torch.randn(4, 3, 12))
    assert torch.equal(out, out[:1, :1].expand_as(out))


@torch.no_grad()
def test_queries_see_each_other_in_both_directions() -> None:
    model, displacement = decoder(), torch.randn(1, 1, 12)
    before = model(displacement).view(4, 3)
    for changed in (0, 3):
        other = torch.randn(12)
        model.queries[0, changed] += other
        difference = (model(displacement).view(4, 3) - before).abs().amax(1)
        model.queries[0, changed] -= other
        assert (difference > 1e-4).all()


def test_the_loss_is_prediction_plus_the_actions_error() -> None:
    model, data = small(action_weight=3.0), clip()
    shaken(model.auxiliary["decoder"])
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    with torch.no_grad():
        total, parts = model.loss(data, step())
        z = model.encode(data.frames)
        actions = ((data.actions.view(6, 3, 2, 3) - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 2, 4])).flatten(2)
        error = (model.predict(z[:, :3], actions) - z[:, 1:]).square().mean()
    p = {k: v.double().numpy() for k, v in model.auxiliary["decoder"].state_dict().items()}
    moves = z.diff(dim=1).flatten(0, 1).double().numpy()
    decoded = np.stack([decode(p, move).reshape(-1) for move in moves])
    expected = ((decoded - actions.flatten(0, 1).numpy()) ** 2).mean()
    assert list(parts) == ["prediction", "action"]
    torch.testing.assert_close(parts["prediction"], error)
    assert parts["action"].item() == pytest.approx(expected, rel=1e-4)
    assert total.item() == pytest.approx(error.item() + 3 * expected, rel=1e-4)
    assert model.loss(data, step(log=True))[1].keys() - parts.keys() == {"latent_std", "effective_rank", "straightness"}


@torch.no_grad()
def test_only_displacements_enter_the_action_error() -> None:
    model, data = small(), clip()
    shaken(model.auxiliary["decoder"])
    latents = model.encode(data.frames)
    errors = []
    for moved in (latents, latents + torch.randn(6, 1, 12), latents * 2):
        model.encode = lambda _, moved=moved: moved
        errors.append(model.loss(data, step())[1]["action"].item())
    assert errors[1] == pytest.approx(errors[0], rel=1e-4) and errors[2] != pytest.approx(errors[0], rel=1e-2)


@pytest.mark.parametrize("term", ["prediction", "action"])
def test_gradients_of_both_terms_flow_into_the_targets(term: str) -> None:
    model = small()
    shaken(model.auxiliary["decoder"])
    latents = model.encode(clip().frames).detach().requires_grad_()
    model.encode = lambda _: latents
    model.loss(clip(), step())[1][term].backward()
    assert latents.grad[:, -1].abs().max() > 0


def test_gradients_reach_every_parameter() -> None:
    model = small()
    for name, p in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.loss(clip(), step())[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_without_its_weight_the_latents_collapse(tmp_path: Path) -> None:
    """Constant latents are then a solution, and training finds it; with the weight of 10 displacements grow."""
    env = make_toy(size=32, speed=0.3)
    data = collect(env, CollectConfig(episodes=60, steps=12, policies={"drift": 1.0}), 0, tmp_path / "data", False)
    train = TrainConfig(steps=60, batch_size=16, learning_rate=3e-3, log_every=30)
    setting = Setting(
        env, TOY_ID, "delta-jepa", data, "key", CONFIG, PlannerConfig(), 0, torch.device("cpu"), Store(tmp_path)
    )
    std, error = {}, {}
    for weight in (0.0, 10.0):
        config = CONFIG.model_copy(update={"action_weight": weight, "train": train})
        log = DELTA_JEPA.train(replace(setting, config=config), tmp_path / str(weight))
        std[weight], error[weight] = log.columns["latent_std"], log.columns["action"]
    assert std[0.0][0] == std[10.0][0] > 0.1
    assert std[0.0][-1] < 0.2 * std[0.0][0] and std[10.0][-1] > std[10.0][0]
    assert error[10.0][-1] < 0.8 * error[0.0][-1]
