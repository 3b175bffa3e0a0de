"""SIGReg against loops, closed forms, and one process against two."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lewm_bench.agents.parts.sigreg import _Powers, characteristic, directions, sigreg


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def loops(latents: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(T, M) statistics in float64, from the definition."""
    T, B, _ = latents.shape
    knots = [3 * k / 16 for k in range(17)]
    out = np.zeros((T, u.shape[1]))
    for t in range(T):
        for m in range(u.shape[1]):
            h = [float(np.dot(z, u[:, m])) for z in latents[t]]
            values = []
            for x in knots:
                phi = sum(np.exp(1j * x * b) for b in h) / B
                values.append(math.exp(-(x**2) / 2) * abs(phi - math.exp(-(x**2) / 2)) ** 2)
            area = sum((a + b) / 2 * (3 / 16) for a, b in itertools.pairwise(values))
            out[t, m] = B * 2 * area  # the integrand is even
    return out


def integral(f) -> float:
    """Over [-3, 3] by a fine rule."""
    t = (np.arange(60_000) + 0.5) / 10_000 - 3
    return float(f(t).sum() / 10_000)


def unit(num: int, size: int, seed: int = 0) -> Tensor:
    return directions(num, size, torch.Generator().manual_seed(seed))


def test_directions_are_unit_vectors_uniform_on_the_sphere() -> None:
    u = unit(20_000, 3)
    assert u.shape == (3, 20_000)
    torch.testing.assert_close(u.norm(dim=0), torch.ones(20_000))
    torch.testing.assert_close(u @ u.T / 20_000, torch.eye(3) / 3, rtol=0, atol=0.01)
    assert u.mean(1).abs().max() < 0.02
    assert torch.equal(unit(20_000, 3), u) and not torch.equal(unit(20_000, 3, seed=1), u)


@pytest.mark.parametrize(("T", "B", "D"), [(1, 5, 3), (4, 9, 7), (3, 2, 1)])
def test_against_the_definition(T: int, B: int, D: int) -> None:
    latents = torch.randn(T, B, D, generator=torch.Generator().manual_seed(1)) * 1.7 + 0.4
    u = unit(6, D)
    expected = loops(latents.double().numpy(), u.double().numpy())
    np.testing.assert_allclose(sigreg(latents, u, per_direction=True).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert sigreg(latents, u).item() == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize("B", [1, 8, 300])
def test_a_point_at_the_origin(B: int) -> None:
    """phi is 1 everywhere: B times the integral of w (1 - w)^2 with w = exp(-t^2 / 2)."""
    expected = B * integral(lambda t: np.exp(-(t**2) / 2) * (1 - np.exp(-(t**2) / 2)) ** 2)
    assert sigreg(torch.zeros(3, B, 5), unit(7, 5)).item() == pytest.approx(expected, rel=5e-3)


def test_a_point_elsewhere() -> None:
    """phi(t) = exp(i t h): |phi - w|^2 = 1 - 2 w cos(t h) + w^2."""
    u, z = unit(9, 4), torch.randn(4)
    for m, h in enumerate((z @ u).tolist()):
        expected = 10 * integral(
            lambda t, h=h: np.exp(-(t**2) / 2) * (1 - 2 * np.exp(-(t**2) / 2) * np.cos(t * h) + np.exp(-(t**2)))
        )
        actual = sigreg(z.expand(1, 10, 4), u, per_direction=True)[0, m].item()
        assert actual == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("B", [4, 64, 2000])
def test_the_expectation_for_a_standard_normal_does_not_depend_on_the_batch(B: int) -> None:
    """E |phi_hat - phi|^2 = (1 - exp(-t^2)) / B, so the statistic is the integral of w (1 - exp(-t^2)) on average."""
    expected = integral(lambda t: np.exp(-(t**2) / 2) * (1 - np.exp(-(t**2))))
    g = torch.Generator().manual_seed(0)
    samples = max(100, 20_000 // B)
    values = torch.stack([sigreg(torch.randn(1, B, 3, generator=g), unit(4, 3, seed=i)) for i in range(samples)])
    error = values.std().item() / samples**0.5
    assert abs(values.mean().item() - expected) < 4 * error
    assert error < 0.1 * expected


def test_it_grows_with_the_batch_where_the_latents_are_not_normal() -> None:
    g = torch.Generator().manual_seed(0)
    small, large = (sigreg(3 * torch.randn(1, B, 2, generator=g), unit(32, 2)).item() for B in (500, 5000))
    assert large / small == pytest.approx(10, rel=0.15)


def test_each_time_step_is_a_sample_of_its_own() -> None:
    """Two steps with opposite shifts are normal only when they are pooled."""
    z = torch.randn(1, 400, 1)
    shifted = torch.cat([z - 2, z + 2])
    u = torch.ones(1, 1)
    separate = torch.stack([sigreg(shifted[:1], u), sigreg(shifted[1:], u)]).mean()
    torch.testing.assert_close(sigreg(shifted, u), separate)
    assert sigreg(shifted, u) > 20


def test_the_gradient_pushes_a_collapsed_batch_apart() -> None:
    g = torch.Generator().manual_seed(0)
    z = (0.01 * torch.randn(1, 64, 4, generator=g)).requires_grad_()
    sigreg(z, unit(64, 4)).backward()
    assert (-(z.grad * (z - z.mean(1, keepdim=True))).sum()) > 0  # along the descent the spread grows
    z = z.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for index in range(300):
        optimizer.zero_grad()
        sigreg(z, unit(64, 4, seed=index)).backward()
        optimizer.step()
    covariance = torch.cov(z.detach()[0].T)
    torch.testing.assert_close(covariance, torch.eye(4), rtol=0, atol=0.35)


def test_half_precision_latents_are_measured_in_float32() -> None:
    z = torch.randn(2, 16, 4).bfloat16()
    assert torch.equal(sigreg(z, unit(8, 4)), sigreg(z.float(), unit(8, 4)))


def worker(rank: int, folder: str) -> None:
    """Half of the batch through a shared linear map; writes the value and the averaged gradient, as DDP would."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    weight = shared_weight()
    value = sigreg(inputs()[:, rank::2] @ weight, unit(16, 5))
    value.backward()
    gradient = weight.grad.clone()
    dist.all_reduce(gradient)
    np.savez(Path(folder) / f"{rank}.npz", value=value.item(), gradient=(gradient / 2).numpy())
    dist.barrier()  # gloo aborts a rank whose peer has gone while it still listens
    dist.destroy_process_group()


def shared_weight() -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(7)).requires_grad_()


def inputs() -> Tensor:
    return torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(8))


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_have_the_statistic_and_the_gradient_of_the_global_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    weight = shared_weight()
    value = sigreg(inputs() @ weight, unit(16, 5))
    value.backward()
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["value"] == pytest.approx(value.item(), rel=1e-5)
        np.testing.assert_allclose(found["gradient"], weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    local = sigreg(inputs()[:, ::2] @ weight, unit(16, 5)).item()
    assert local != pytest.approx(value.item(), rel=1e-2)  # half of the batch has another statistic


def angles(projections: Tensor, step: float, num_knots: int) -> tuple[Tensor, Tensor]:
    """What ``characteristic`` computes by powers, as it reads in the paper."""
    t = projections.unsqueeze(-1) * (step * torch.arange(num_knots))
    return t.cos().mean(1), t.sin().mean(1)


def test_powers_of_one_number_are_the_sines_and_cosines_of_all_knots() -> None:
    h = (3 * torch.randn(4, 16, 64)).requires_grad_()
    weights = torch.randn(2, 4, 64, 17)
    found, expected = characteristic(h, 3 / 16, 17), angles(h, 3 / 16, 17)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    slopes = [torch.autograd.grad((a * weights[0] + b * weights[1]).sum(), h)[0] for a, b in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5 * slopes[1].abs().max().item())


def test_the_gradient_of_powers() -> None:
    h = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: _Powers.apply(h, 0.3, 5), h)
