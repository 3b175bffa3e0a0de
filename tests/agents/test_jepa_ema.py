"""The momentum target: its closed form, that no gradient enters it, and that a kill does not lose it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lewm import SMALL, clip, step
from torch import nn

from lewm_bench.agents.jepa_ema import JEPAEMA, JEPAEMAConfig
from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.core.types import Clip
from lewm_bench.train.loop import TrainConfig, TrainingLog, make_optimizer, train

SIZES = SMALL.model_dump(include=set(JEPAConfig.model_fields))
TRAIN = TrainConfig(steps=9, batch_size=6, learning_rate=1e-2, log_every=3, save_every=4)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(seed: int = 0, **changes) -> JEPAEMA:
    """With its target, in training mode without dropout, so that a loss repeats; the predictor's gates are open."""
    torch.manual_seed(seed)
    model = JEPAEMA(JEPAEMAConfig(**{**SIZES, "dropout": 0.0, **changes}), 32, 3)
    for block in model.predictor.transformer["layers"]:
        nn.init.normal_(block.adaLN_modulation[1].weight, std=0.3)
    model.begin_training()
    return model


def averaged(model: JEPAEMA) -> dict[str, np.ndarray]:
    """The weights of the target."""
    return {n: p.detach().double().numpy().copy() for n, p in model.auxiliary["target"].named_parameters()}


def trained(model: JEPAEMA) -> dict[str, np.ndarray]:
    """The weights that it follows, by the same names."""
    own = dict(model.named_parameters())
    return {name: own[name].detach().double().numpy().copy() for name in averaged(model)}


def shake(*modules: nn.Module) -> None:
    """Other weights, as training would leave them."""
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p += 0.1 * torch.randn_like(p)


def test_the_target_starts_as_a_copy_without_gradient() -> None:
    model = small()
    start, own = averaged(model), trained(model)
    assert len(start) > 20 and all((start[name] == own[name]).all() for name in start)
    assert {name.split(".")[0] for name in start} == {"encoder", "projector"}
    shake(model.encoder)
    assert any((averaged(model)[n] != trained(model)[n]).any() for n in start), "the copy is not the encoder itself"
    assert not any(p.requires_grad for p in model.auxiliary.parameters())
    optimised = sum(len(group["params"]) for group in make_optimizer(model, TRAIN).param_groups)
    model.end_training()
    assert optimised == len(list(model.parameters()))


def test_the_moving_average_in_closed_form() -> None:
    """After k steps towards weights w that rest, the target is m^k t + (1 - m^k) w."""
    model = small(momentum=0.8)
    start = averaged(model)
    shake(model.encoder, model.projector)
    for k in range(1, 6):
        model.after_step(step(index=k))
        for name, value in averaged(model).items():
            expected = 0.8**k * start[name] + (1 - 0.8**k) * trained(model)[name]
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_momentum_is_constant_or_linear() -> None:
    assert [small().momentum(p) for p in (0, 0.5, 1)] == [0.996] * 3
    linear = small(momentum=0.9, final_momentum=1.0)
    assert [linear.momentum(p) for p in (0, 0.25, 1)] == pytest.approx([0.9, 0.925, 1.0])
    for momentum, same in ((0.0, "trained"), (1.0, "start")):
        model = small(momentum=momentum)
        expected = {"start": averaged(model)}
        shake(model.encoder, model.projector)
        expected["trained"] = trained(model)
        model.after_step(step())
        for name, value in averaged(model).items():
            np.testing.assert_allclose(value, expected[same][name], atol=1e-7)


@torch.no_grad()
def test_the_loss_is_the_error_to_the_targets_latents_and_nothing_else() -> None:
    model, data = small(), clip()
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    shake(model.auxiliary["target"])
    loss, parts = model.loss(data, step())
    assert list(parts) == ["prediction"] and parts["prediction"] is loss
    actions = ((data.actions.view(6, 3, 2, 3) - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 2, 4])).flatten(2)
    prediction = model.predict(model.encode(data.frames[:, :3]), actions)
    twin = copy.deepcopy(model)  # whose own encoder is the target
    twin.encoder, twin.projector = twin.auxiliary["target"]["encoder"], twin.auxiliary["target"]["projector"]
    expected = (prediction - twin.encode(data.frames[:, 1:])).square().mean()
    torch.testing.assert_close(loss, expected)
    assert (prediction - model.encode(data.frames[:, 1:])).square().mean().item() != pytest.approx(
        loss.item(), rel=1e-3
    )
    assert model.loss(data, step(log=True))[1].keys() == {"prediction", "latent_std", "effective_rank", "straightness"}


def test_no_gradient_flows_into_the_target() -> None:
    """And all others are those of an error to constants."""
    model, data = small(), clip()
    shake(model.auxiliary["target"])
    loss, _ = model.loss(data, step())
    loss.backward()
    assert all(p.grad is None for p in model.auxiliary.parameters())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, g in gradients.items() if not g.abs().max() > 0] == []
    with torch.no_grad():
        constants = model.embed(data.frames[:, 1:], **model.auxiliary["target"])
    model.zero_grad()
    z = model.encode(data.frames[:, :3])
    (model.predict(z, model.normalize_actions(data.actions)) - constants).square().mean().backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-7)


def test_the_last_frame_is_seen_by_the_target_alone() -> None:
    model, data = small(), clip()
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    model.loss(data, step())
    assert seen == [6 * 3]


@torch.no_grad()
def test_batchnorm_of_the_target_uses_the_batch() -> None:
    model, data = small(), clip()
    before = model.loss(data, step())[0].item()
    for buffer in (norm := model.auxiliary["target"]["projector"].net[1]).running_mean, norm.running_var:
        buffer += 3
    assert model.loss(data, step())[0].item() == pytest.approx(before, rel=1e-6)
    statistics = norm.running_mean.clone()
    model.after_step(step())
    assert torch.equal(norm.running_mean, statistics), "only weights are averaged"


class Killed(Exception):
    pass


def run(model: JEPAEMA, folder: Path, kill: int | None = None) -> TrainingLog:
    def batch(index: int) -> Clip:
        if index == kill:
            raise Killed
        return clip(seed=index)

    return train(model, batch, TRAIN, seed=0, device=torch.device("cpu"), folder=folder, progress=False)


def test_training_averages_once_per_step_right_after_it(tmp_path: Path) -> None:
    """Target K = m^K w_0 + sum_k (1 - m) m^(K - k) w_k over the weights after each step."""
    model, history = small(momentum=0.7), []
    history.append(averaged(model))
    real = model.after_step
    model.after_step = lambda s: (history.append(trained(model)), real(s))
    run(model, tmp_path)
    K = TRAIN.steps
    assert len(history) == K + 1
    for name, value in averaged(model).items():
        expected = 0.7**K * history[0][name] + sum(0.3 * 0.7 ** (K - k) * history[k][name] for k in range(1, K + 1))
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_killed_training_goes_on_with_its_target(tmp_path: Path) -> None:
    whole = small(momentum=0.7, dropout=0.1)
    log = run(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        run(small(momentum=0.7, dropout=0.1), tmp_path / "killed", kill=6)
    resumed = small(seed=5, momentum=0.7, dropout=0.1)  # weights come from the state
    assert run(resumed, tmp_path / "killed").columns == log.columns
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
