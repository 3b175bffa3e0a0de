"""PLDM's terms against loops, closed forms and stable-worldmodel's; and that its head is there only with a weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_lewm import SMALL, clip, step
from torch import Tensor

from lewm_bench.agents.lewm import LeWM
from lewm_bench.agents.parts.jepa import JEPAConfig
from lewm_bench.agents.pldm import PLDM, PLDMConfig, covariance, regularisers, variance
from lewm_bench.core.types import Clip

SIZES = SMALL.model_dump(include=set(JEPAConfig.model_fields))
OFF = dict.fromkeys((f"{name}_weight" for name in PLDMConfig().weights), 0.0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes) -> PLDM:
    """With its head, if it has one; in training mode without dropout, so that a loss repeats."""
    torch.manual_seed(0)
    model = PLDM(PLDMConfig(**{**SIZES, "dropout": 0.0, **changes}), 32, 3)
    model.begin_training()
    return model


def hinge(samples: np.ndarray) -> float:
    """Mean over the columns of (N, D) of max(0, 1 - std), unbiased and with 1e-4 below the root."""
    N, D = samples.shape
    total = 0.0
    for d in range(D):
        mean = sum(samples[:, d]) / N
        total += max(0.0, 1 - (sum((x - mean) ** 2 for x in samples[:, d]) / (N - 1) + 1e-4) ** 0.5)
    return total / D


def off_diagonal(samples: np.ndarray) -> float:
    """Mean over pairs of different columns of their squared unbiased covariance."""
    matrix = np.cov(samples.T)
    D = len(matrix)
    return sum(matrix[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / (D * (D - 1))


def loops(z: np.ndarray) -> dict[str, float]:
    """The terms of (B, T, D) latents in float64, from their definitions."""
    B, T, _ = z.shape
    return {
        "variance": np.mean([hinge(z[:, t]) for t in range(T)]),
        "covariance": np.mean([off_diagonal(z[:, t]) for t in range(T)]),
        "time_similarity": np.mean([(z[:, t + 1] - z[:, t]) ** 2 for t in range(T - 1)]),
        "time_variance": np.mean([hinge(z[b]) for b in range(B)]),
        "time_covariance": np.mean([off_diagonal(z[b]) for b in range(B)]),
    }


@pytest.mark.parametrize(("B", "T", "D"), [(7, 4, 5), (2, 3, 2), (20, 2, 3)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_terms_against_loops(B: int, T: int, D: int, scale: float) -> None:
    z = scale * torch.randn(B, T, D) * torch.linspace(0.3, 2, D) + torch.randn(B, 1, D) + 5
    actual = regularisers(z)
    for name, expected in loops(z.double().numpy()).items():
        assert actual[name].item() == pytest.approx(expected, rel=2e-4, abs=1e-6), name


def test_equal_latents() -> None:
    terms = regularisers(torch.full((6, 4, 3), 2.5))
    for name in ("variance", "time_variance"):
        assert terms[name].item() == pytest.approx(1 - 1e-4**0.5)
    assert terms["covariance"] == terms["time_covariance"] == terms["time_similarity"] == 0


def test_variance_in_cases_that_are_known() -> None:
    samples = torch.tensor([[-0.5, -3.0], [0.5, 3.0]])  # unbiased deviations 1 / sqrt(2) and 3 sqrt(2)
    assert variance(samples).item() == pytest.approx((1 - (0.5 + 1e-4) ** 0.5) / 2, rel=1e-5)
    assert variance(2 * samples).item() == 0  # all deviations above 1


def test_covariance_in_cases_that_are_known() -> None:
    x = torch.tensor([1.0, 1, -1, -1])
    y = torch.tensor([1.0, -1, 1, -1])
    assert covariance(torch.stack([x, y, x * y], 1)).item() == pytest.approx(0, abs=1e-12)  # independent columns
    same = torch.stack([x, x, x], 1) + 7  # every covariance is that column's unbiased variance, 4 / 3
    assert covariance(same).item() == pytest.approx((4 / 3) ** 2)
    assert covariance(torch.randn(5, 1)) == 0  # nothing beside the diagonal


def test_time_terms_are_about_time_alone() -> None:
    resting = torch.randn(50, 1, 3).expand(-1, 4, -1) * 2  # constant paths, spread over the batch
    terms = regularisers(resting)
    assert terms["time_similarity"] == 0 and terms["time_variance"].item() == pytest.approx(0.99)
    assert terms["variance"] < 0.05
    uniform = torch.arange(4.0)[None, :, None] * torch.tensor([2.0, 4]) + torch.zeros(5, 1, 1)
    terms = regularisers(uniform)  # the same straight path in every clip
    assert terms["time_similarity"].item() == pytest.approx((4 + 16) / 2)
    assert terms["time_variance"] == 0 and terms["variance"].item() == pytest.approx(0.99)
    assert terms["time_covariance"].item() == pytest.approx((8 * 5 / 3) ** 2) and terms["covariance"] == 0


def test_the_terms_are_those_of_stable_worldmodel() -> None:
    """It takes the batch's mean away first, also for the terms over time, and the clip's mean nowhere; PLDM's own code
    centres each statistic over the axis that it is about. Where both means are 0 all terms agree."""
    loss = pytest.importorskip("stable_worldmodel.wm.loss", exc_type=ImportError)
    names = {"variance": "std", "covariance": "cov", "time_similarity": "temp_align"}
    z = torch.randn(16, 4, 6) * torch.linspace(0.2, 1.5, 6) + torch.randn(16, 1, 6)
    for _ in range(2):
        theirs = loss.PLDMLoss()(z)
        for name, other in names.items():
            torch.testing.assert_close(regularisers(z)[name], theirs[f"{other}_loss"])
        z = z - z.mean(0)
        z = z - z.mean(1, keepdim=True)
        names |= {"time_variance": "std_t", "time_covariance": "cov_t"}


def test_the_loss_is_the_weighted_sum() -> None:
    weights = {"variance": 3.0, "covariance": 5.0, "time_similarity": 7.0, "time_variance": 11.0}
    weights |= {"time_covariance": 13.0, "inverse_dynamics": 17.0}
    model, data = small(**{f"{name}_weight": w for name, w in weights.items()}), clip()
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    total, parts = model.loss(data, step())
    assert list(parts) == ["prediction", *weights]
    with torch.no_grad():
        z = model.encode(data.frames)
        actions = ((data.actions.view(6, 3, 2, 3) - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 2, 4])).flatten(2)
        error = ((model.predict(z[:, :3], actions) - z[:, 1:]) ** 2).mean()
        expected = loops(z.double().numpy()) | {"inverse_dynamics": decoded_error(model, z, actions)}
    assert parts["prediction"].item() == pytest.approx(error.item(), rel=1e-5)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-3), name
    assert total.item() == pytest.approx(error.item() + sum(weights[n] * v for n, v in expected.items()), rel=1e-3)
    diagnostics = {"latent_std", "effective_rank", "straightness"}
    assert model.loss(data, step(log=True))[1].keys() - parts.keys() == diagnostics


def decoded_error(model: PLDM, z: Tensor, actions: Tensor) -> float:
    """Linear, LayerNorm, GELU, linear on (z_t, z_t+1), block by block."""
    first, norm, _, last = model.auxiliary["inverse_dynamics"].net
    errors = []
    for b in range(len(z)):
        for t in range(z.shape[1] - 1):
            hidden = first.weight @ torch.cat([z[b, t], z[b, t + 1]]) + first.bias
            hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            block = last.weight @ torch.nn.functional.gelu(hidden) + last.bias
            errors.append((block - actions[b, t]).square().mean().item())
    return float(np.mean(errors))


def test_default_weights_are_the_lewm_papers() -> None:
    assert list(PLDMConfig().weights.values()) == [18, 12, 0.2, 0.7, 0, 0]


def test_without_a_weight_there_is_no_head_and_the_term_is_0() -> None:
    model = small(time_covariance_weight=0.0)
    lewm = LeWM(SMALL, 32, 3)
    assert len(model.auxiliary) == 0 and model.state_dict().keys() == lewm.state_dict().keys()
    total, parts = model.loss(clip(), step())
    assert parts["inverse_dynamics"] == 0 and parts["time_covariance"] > 0  # no weight, but in the log
    weights = {"prediction": 1, **PLDMConfig().weights}
    torch.testing.assert_close(total, sum(w * parts[name] for name, w in weights.items()))
    assert len(small(inverse_dynamics_weight=0.1).auxiliary) == 1


@pytest.mark.parametrize("name", [None, *PLDMConfig().weights])
def test_gradients_of_every_term_reach_the_latents(name: str | None) -> None:
    """The last frame is only ever a target of the prediction (``None``), and a part of all other terms."""
    model = small(**OFF | ({f"{name}_weight": 1.0} if name else {}))
    latents = model.encode(clip().frames).detach().requires_grad_()
    model.encode = lambda _: latents
    total, parts = model.loss(clip(), step())
    (total if name is None else parts[name]).backward()
    assert latents.grad[:, -1].abs().max() > 0


def test_gradients_of_equal_latents_are_finite() -> None:
    z = torch.ones(4, 3, 2, requires_grad=True)
    sum(regularisers(z).values()).backward()
    assert z.grad.isfinite().all()


def test_gradients_reach_every_parameter() -> None:
    model = small(inverse_dynamics_weight=1.0).train()
    for block in model.predictor.transformer["layers"]:  # whose gates are closed at first
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.3)
    model.loss(clip(), step())[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_statistics_are_float32_under_autocast() -> None:
    model, data = small(), clip(batch=32)
    expected = model.loss(data, step())[1]
    latents = model.encode(data.frames).detach()
    model.encode = lambda _: latents
    with torch.autocast("cpu", torch.bfloat16):
        parts = model.loss(Clip(data.frames, data.actions), step())[1]
    torch.testing.assert_close(parts["covariance"], expected["covariance"], rtol=1e-5, atol=1e-9)
