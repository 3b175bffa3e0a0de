"""The monitor of collapse: its numbers against closed forms, its verdict on latents whose fate is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import planted, planted_data

from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.train.diagnostics import effective_rank
from lewm_bench.understand.collapse import (
    CollapseConfig,
    Predictability,
    eigenvalues,
    examine_collapse,
    predictability,
    shares,
    sigreg_by_direction,
    verdict,
)

SMALL = CollapseConfig(frames=120, clips=60, directions=100)
KNOWN = Predictability(0.9, 0.7)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    return planted_data(tmp_path_factory.mktemp("collapse"))


def noise(size: int, scale: float = 1.0):
    """Latents that say nothing: other numbers for other states, without any order."""

    def latent(states: np.ndarray) -> np.ndarray:
        seeds = np.abs(states * 1e6).astype(np.int64) @ [1, 1_000_003]
        return scale * np.stack([np.random.default_rng(seed).normal(size=size) for seed in seeds])

    return latent


def autoregressive(rho: float, n: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of latents with correlation rho in every dimension, of unequal scales and off centre."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(n, 4))
    after = rho * before + np.sqrt(1 - rho**2) * rng.normal(size=(n, 4))
    return tuple(torch.from_numpy(z * [1, 2, 3, 4] + 10) for z in (before, after))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_shares_of_an_autoregressive_process(rho: float) -> None:
    before, after = autoregressive(rho)
    best = 10 + rho * (before - 10)
    found = shares(before, best, after)
    assert found.model == pytest.approx(rho**2, abs=0.02) and found.last == pytest.approx(rho**2, abs=0.02)
    copied = shares(before, before, after)  # E (a - b)^2 = 2 (1 - rho)
    assert copied.model == pytest.approx(1 - 2 * (1 - rho), abs=0.03) and copied.last == found.last
    assert shares(before, after, after).model == 1
    assert shares(before, after.mean(0).expand_as(after), after).model == pytest.approx(0, abs=1e-12)


def test_shares_do_not_depend_on_scale_offset_and_rotation() -> None:
    before, after = autoregressive(0.6, 500)
    predicted = 0.3 * before + 7
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    moved = shares(*(1e-5 * z @ rotation - 2 for z in (before, predicted, after)))
    assert moved == pytest.approx(shares(before, predicted, after), rel=1e-5)


def test_latents_that_turn_around_are_not_explained_by_the_one_before() -> None:
    before, _ = autoregressive(0.0, 100)
    assert shares(before, before, 20 - before).last == 0
    assert shares(torch.ones(5, 2), torch.ones(5, 2), torch.ones(5, 2)) == (0, 0)


@pytest.mark.parametrize("shape", [(200, 6), (20, 50)])
def test_the_spectrum_is_that_of_the_covariance(shape: tuple[int, int]) -> None:
    latents = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[1])
    expected = np.sort(np.linalg.eigvalsh(np.cov(latents.T)))[::-1][: min(shape)]
    found = eigenvalues(torch.from_numpy(latents))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-12)
    rank = torch.exp(-torch.special.xlogy(found, found).sum())
    assert rank.item() == pytest.approx(effective_rank(torch.from_numpy(latents)).item())


def test_sigreg_per_direction() -> None:
    """The mean is the loss's value; a standard normal's is what the reference says, whichever samples."""
    latents = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    config = SMALL.model_copy(update={"directions": 2000})
    found = sigreg_by_direction(latents, config)
    assert found.shape == (2000,)
    u = directions(4000, 8, torch.Generator().manual_seed(1))
    assert found.mean().item() == pytest.approx(sigreg(latents[None], u).item(), rel=0.1)
    assert torch.equal(found, sigreg_by_direction(latents, config))


@pytest.mark.parametrize(
    ("arguments", "collapsed", "words"),
    [
        ((1.0, 1.0, 5.0, KNOWN), False, "90 % by the world model, 70 % by the latent before"),
        ((1e-9, 1e-9, 5.0, KNOWN), False, "effective rank is 5.0"),  # scale is no matter
        ((1e-9, 1.0, 5.0, KNOWN), True, "the same latent"),
        ((0.0, 0.0, 1.0, KNOWN), True, "the same latent"),
        ((1.0, 1.0, 1.05, KNOWN), True, "one direction: the effective rank is 1.05"),
        ((1.0, 1.0, 20.0, Predictability(-0.1, 0.02)), True, "nothing by the world model, 2 %"),
        ((1.0, 1.0, 20.0, Predictability(-9, 0.8)), False, "nothing by the world model, 80 %"),
        ((1.0, 1.0, 20.0, Predictability(0.8, 0.0)), False, "80 % by the world model, 0 %"),
    ],
)
def test_the_verdict(arguments, collapsed: bool, words: str) -> None:
    found, reason = verdict(*arguments)
    assert found is collapsed and words in reason


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
def test_informative_latents_of_any_scale_have_not_collapsed(dataset, scale: float) -> None:
    found = examine_collapse(planted(dataset, lambda s: scale * s @ np.array([[1.0, 2, 0], [0, 1, 1]])), SMALL)
    assert not found.collapsed and found.size == 3 and found.n == 120
    assert 1.3 < found.effective_rank <= 2 and sum(found.spectrum) == pytest.approx(1)
    again = examine_collapse(planted(dataset, lambda s: scale * s @ np.array([[1.0, 2, 0], [0, 1, 1]])), SMALL)
    assert again == found


def test_tokens_are_laid_flat(dataset) -> None:
    tokens = examine_collapse(planted(dataset, lambda s: np.stack([s, -s, 2 * s], 1)), SMALL)
    flat = examine_collapse(planted(dataset, lambda s: np.concatenate([s, -s, 2 * s], 1)), SMALL)
    assert tokens == flat and tokens.size == 6 and not tokens.collapsed


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_noise_has_full_rank_and_has_collapsed(dataset, scale: float) -> None:
    """As a LeWM without SIGReg leaves it. A predictor that knows the mean does not save it."""
    examined = planted(dataset, noise(16, scale), predict=lambda latent, _: torch.zeros_like(latent))
    found = examine_collapse(examined, SMALL)
    assert found.collapsed and "noise" in found.reason and found.effective_rank > 10
    assert found.latent_std == pytest.approx(scale, rel=0.1)
    if scale == 1:  # nor is it SIGReg that sees it
        assert found.sigreg == pytest.approx(found.sigreg_gaussian, rel=0.5)


def test_one_latent_for_all_and_one_direction(dataset) -> None:
    constant = examine_collapse(planted(dataset, lambda s: np.full((len(s), 4), 0.3)), SMALL)
    assert constant.collapsed and "same latent" in constant.reason and constant.latent_std < 1e-7
    line = examine_collapse(planted(dataset, lambda s: s[:, :1] * [1.0, 2.0, 3.0]), SMALL)
    assert line.collapsed and "one direction" in line.reason and line.effective_rank == pytest.approx(1, abs=0.01)


def test_the_worlds_own_dynamics_are_asked(dataset) -> None:
    """A fast world: the latent before says little, the model with its action everything."""

    def latent(states: np.ndarray) -> np.ndarray:
        return np.column_stack([np.cos(40 * states), np.sin(40 * states)])

    def predict(z: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        """Walls apart, a block moves the angle by 40 * 0.1 * its clipped actions."""
        angle = torch.atan2(z[:, 2:], z[:, :2]) + 4 * block.unflatten(1, (-1, 2)).clamp(-1, 1).sum(1)
        return torch.cat([angle.cos(), angle.sin()], 1)

    blind = examine_collapse(planted(dataset, latent, lambda z, _: torch.zeros_like(z)), SMALL)
    knowing = examine_collapse(planted(dataset, latent, predict), SMALL)
    assert blind.collapsed and not knowing.collapsed


def test_predictability_of_an_examined_model(dataset) -> None:
    """From the definition: of true positions, one block apart; what is copied is the last frame's."""
    examined = planted(dataset, lambda s: s)
    clips = examined.clips("test", 4, 60)
    before, after = dataset.states[clips[:, 2]], dataset.states[clips[:, 3]]
    a, b = before - before.mean(0), after - after.mean(0)
    found = predictability(examined, 60)
    assert found.last == pytest.approx((a * b).sum() ** 2 / (a**2).sum() / (b**2).sum(), rel=1e-5)
    assert found.model == pytest.approx(1 - ((before - after) ** 2).sum() / (b**2).sum(), rel=1e-5)


def test_what_is_predicted_is_compared_in_its_own_space(dataset) -> None:
    """Latents whose distance is planned with may be scaled, as proprioception is: the shares are still the model's."""
    examined = planted(dataset, lambda s: s)
    scaled = replace(examined, embed=lambda frames, states: 3 * examined.embed(frames, states))
    assert predictability(scaled, 60) == predictability(examined, 60)


def test_sigreg_tells_the_normal_from_others(dataset) -> None:
    found = examine_collapse(planted(dataset, lambda s: 0.01 * s @ np.eye(2, 5)), SMALL)
    assert found.sigreg > 10 * found.sigreg_gaussian
    assert list(found.sigreg_quantiles) == sorted(found.sigreg_quantiles) and len(found.sigreg_quantiles) == 5
