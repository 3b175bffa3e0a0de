"""Every solver on costs that are known, its update against an independent one, its budget, and acting with it."""

from __future__ import annotations

from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lewm_bench.agent import PlanningAgent
from lewm_bench.agents.dino_wm import DinoWM, DinoWMConfig
from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.agents.oracle import LatentOracle, Simulation, SimulatorAgent
from lewm_bench.agents.parts.encoders import LocalConfig, LocalEncoder
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals, Past, Plan
from lewm_bench.planning import solvers
from lewm_bench.planning.adam import OPTIMIZERS, adam
from lewm_bench.planning.config import GRADIENT_COST, PlannerConfig, SolverName
from lewm_bench.planning.cost import in_pieces, latent_cost, plain_rollout, rollout
from lewm_bench.planning.fast.dino_wm import PackedDinoWM
from lewm_bench.planning.fast.lewm import PackedLeWM
from lewm_bench.planning.icem import ElitePlan, coloured, icem
from lewm_bench.planning.mppi import mppi, path_weights
from lewm_bench.planning.replan import Replanner, shifted
from lewm_bench.planning.sampling import ranked, standard_normal
from lewm_bench.planning.shooting import shooting
from lewm_bench.planning.solvers import SOLVERS, solve

CPU = torch.device("cpu")
FAST = PlannerConfig(num_samples=120, num_iterations=12, num_elites=12, horizon=2, receding=1)
SMALL = PlannerConfig(num_samples=33, num_iterations=3, num_elites=6)
NAMES = list(SOLVERS)


def but(config: PlannerConfig, solver: str = "", **changes) -> PlannerConfig:
    return PlannerConfig(**config.model_dump() | changes | ({"solver": solver} if solver else {}))


def rngs(*episodes: int) -> list[np.random.Generator]:
    return [stream(0, "plan", e) for e in episodes]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parabola(targets: Tensor):
    """(B, H, A) minima."""
    return lambda plans: (plans - targets[:, None]).square().sum((-1, -2))


def listening(cost):
    """``cost``, and a list of the plans that it is asked for."""
    asked: list[Tensor] = []

    def heard(plans: Tensor) -> Tensor:
        asked.append(plans.detach().clone())
        return cost(plans)

    return heard, asked


def test_every_solver_has_a_name() -> None:
    assert set(SOLVERS) == set(get_args(SolverName)) and set(OPTIMIZERS) == {"adam", "rmsprop", "sgd"}
    assert PlannerConfig().solver == "cem" and (PlannerConfig().icem.beta, PlannerConfig().icem.decay) == (2.0, 1.0)


# What is left of a standard normal plan's distance to the target; random search finds no more than the neighbourhood.
NEAR = {"cem": 0.02, "icem": 0.05, "mppi": 0.3, "shooting": 1.2, "adam": 0.05}


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_of_a_parabola(name: str) -> None:
    targets, start = normal(3, 2, 3), torch.zeros(3, 2, 3)
    config = but(FAST, name, num_iterations=60, icem={"beta": 0.5})
    plan = solve(parabola(targets), start, config, rngs(0, 1, 2))
    assert plan.actions.shape == (3, 2, 3) and plan.cost.shape == (3,) and not plan.actions.requires_grad
    error = (plan.actions - targets).abs().amax((1, 2))
    assert (error < NEAR[name]).all() and (
        parabola(targets)(plan.actions[:, None])[:, 0] < targets.square().sum((1, 2)) / 2
    ).all()


@pytest.mark.parametrize("name", ["icem", "shooting", "adam"])
def test_the_cost_is_that_of_the_plan(name: str) -> None:
    targets = normal(3, 2, 3)
    plan = solve(parabola(targets), torch.zeros(3, 2, 3), but(FAST, name), rngs(0, 1, 2))
    torch.testing.assert_close(plan.cost, parabola(targets)(plan.actions[:, None])[:, 0])


def rastrigin(plans: Tensor) -> Tensor:
    """Minima near all whole numbers; the global one is at 1.0 everywhere."""
    x = plans - 1
    return (x.square() + 2 * (1 - torch.cos(2 * torch.pi * x))).sum((-1, -2))


def test_sampling_leaves_the_basin_that_one_gradient_stays_in() -> None:
    start = torch.zeros(4, 1, 2)
    found = {}
    for name in NAMES:
        config = PlannerConfig(
            solver=name, num_samples=300, adam={"num_starts": 1, "learning_rate": 0.02}, icem={"beta": 0.0},
            mppi={"noise_std": 0.4, "temperature": 0.05},
        )  # fmt: skip
        found[name] = solve(rastrigin, start, config, rngs(*range(4))).actions
    for name in ("cem", "icem"):
        torch.testing.assert_close(found[name], torch.ones_like(start), rtol=0, atol=0.1)
    assert (found["mppi"] - 1).abs().max() < 0.3 and (found["shooting"] - 1).abs().max() < 0.3
    assert found["adam"].abs().max() < 0.1  # the minimum beside the only start
    many = solve(rastrigin, start, PlannerConfig(solver="adam", num_samples=300), rngs(*range(4))).actions
    torch.testing.assert_close(many, torch.ones_like(start), rtol=0, atol=0.1)  # more starts, one in the right basin


def test_a_gradient_finds_what_random_plans_miss() -> None:
    """A narrow valley in 50 dimensions: 30 random plans per iteration see nothing of it."""
    targets = 0.8 * normal(2, 5, 10).sign()
    cost, start = parabola(targets), torch.zeros(2, 5, 10)
    left = {n: solve(cost, start, but(PlannerConfig(num_samples=30, num_elites=5), n), rngs(0, 1)).cost for n in NAMES}
    assert (left["adam"] < 0.1).all() and (left["shooting"] > 10 * left["adam"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_does_not_depend_on_its_batch(name: str) -> None:
    targets, means = normal(7, 3, 5), normal(7, 3, 5, seed=1)
    config = but(SMALL, name, horizon=3, receding=3)
    together = solve(parabola(targets), means, config, rngs(*range(7)))
    for e in range(7):
        alone = solve(parabola(targets[e : e + 1]), means[e : e + 1], config, rngs(e))
        assert torch.equal(alone.actions[0], together.actions[e]) and torch.equal(alone.cost[0], together.cost[e])


@pytest.mark.parametrize("name", NAMES)
def test_equal_generators_give_equal_plans_and_nothing_else_draws(name: str) -> None:
    config, start = but(SMALL, name), torch.zeros(1, 2, 3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (solve(parabola(torch.ones(1, 2, 3)), start, config, rngs(e)).actions for e in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [{}, {"icem": {"decay": 1.25}}, {"num_samples": 7}, {"num_iterations": 1}])
def test_budgets_are_kept(name: str, change: dict) -> None:
    config = but(FAST, name, **{"num_elites": 5} | change)
    cost, asked = listening(parabola(torch.ones(2, 2, 3)))
    solve(cost, torch.zeros(2, 2, 3), config, rngs(0, 1))
    sizes = tuple(plans.shape[1] for plans in asked)
    assert sizes == config.plans_per_iteration
    budget = config.num_samples * config.num_iterations
    if name == "adam":
        starts = config.num_samples // 3
        assert sizes == (starts,) * (config.num_iterations + 1)
        assert config.work == 3 * starts * config.num_iterations + starts <= budget + starts
    elif name == "icem" and "icem" in change:
        assert sizes == tuple(max(10, int(120 * 0.8**i)) for i in range(12)) and config.work == sum(sizes) < budget
    else:
        assert sizes == (config.num_samples,) * config.num_iterations and config.work == budget


@pytest.mark.parametrize("name", ["cem", "mppi", "shooting", "adam"])
def test_the_first_plan_is_where_the_search_begins(name: str) -> None:
    start = normal(2, 2, 3)
    cost, asked = listening(parabola(torch.ones(2, 2, 3)))
    solve(cost, start, but(SMALL, name, std=0.5, mppi={"noise_std": 0.5}), rngs(0, 1))
    assert torch.equal(asked[0][:, 0], start)
    rest = (asked[0][:, 1:] - start[:, None]).std().item()
    assert rest == pytest.approx(0.5, rel=0.15)


def test_random_shooting_is_the_cheapest_draw() -> None:
    config = but(SMALL, "shooting", std=0.7)
    cost, start = parabola(normal(2, 2, 3)), normal(2, 2, 3, seed=1)
    plan = shooting(cost, start, config, rngs(3, 4))
    for b, e in enumerate((3, 4)):
        (rng,) = rngs(e)
        noise = torch.from_numpy(rng.standard_normal((3 * 33, 2, 3), np.float32))
        noise[0] = 0
        plans = 0.7 * noise + start[b]
        costs = parabola(normal(2, 2, 3)[b : b + 1])(plans[None])[0]
        torch.testing.assert_close(plan.actions[b], plans[costs.argmin()])
        assert plan.cost[b].item() == pytest.approx(costs.min().item())


BAD = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_costs_that_are_not_finite_never_win(name: str, bad: float) -> None:
    """Beyond a wall at 0.3, behind which the minimum lies: no plan, elite or average may come from there."""

    def cost(plans: Tensor) -> Tensor:
        inside = plans[:, :, 0, 0] <= 0.3
        return torch.where(inside, (plans - 1).square().sum((-1, -2)), bad)

    config = but(SMALL, name, num_elites=20, num_samples=40)  # sometimes more elites than finite costs
    for b in range(4):
        plan = solve(cost, torch.full((1, 2, 3), 0.2), config, rngs(b))
        assert plan.cost.isfinite().all() and plan.actions.isfinite().all() and plan.actions[0, 0, 0] <= 0.3
        assert solve(cost, torch.full((1, 2, 3), 0.2), config, rngs(b)).cost.equal(plan.cost)


@pytest.mark.parametrize("bad", BAD)
def test_missing_elites_are_the_cheapest_plan(bad: float) -> None:
    """Three of twenty plans have a cost: the fit is to those three, of which the cheapest counts for the rest."""
    config = but(SMALL, num_samples=20, num_elites=6, num_iterations=1)
    asked = []

    def cost(plans: Tensor) -> Tensor:
        asked.append(plans)
        costs = plans.new_full(plans.shape[:2], bad)
        costs[:, [4, 9, 17]] = torch.tensor([3.0, 1.0, 2.0])
        return costs

    plan = solve(cost, torch.zeros(1, 2, 3), config, rngs(0))
    torch.testing.assert_close(plan.actions[0], asked[0][0, [9, 17, 4, 9, 9, 9]].mean(0))
    assert plan.cost.item() == pytest.approx((1 + 2 + 3 + 1 + 1 + 1) / 6)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_an_episode_without_any_finite_cost_is_an_error(name: str, bad: float) -> None:
    def cost(plans: Tensor) -> Tensor:
        costs = plans.square().sum((-1, -2))
        return torch.cat([costs[:2], costs[2:] + bad])

    with pytest.raises(FloatingPointError, match=r"^not one plan has a finite cost, in 1 of 3 episodes$"):
        solve(cost, torch.zeros(3, 2, 3), but(SMALL, name), rngs(0, 1, 2))


@pytest.mark.parametrize("bad", BAD)
def test_costs_that_are_not_finite_play_no_part_in_the_weights(bad: float) -> None:
    costs = normal(3, 30)
    mixed = torch.full((3, 50), bad)
    places = torch.arange(30) + torch.arange(30) // 3
    mixed[:, places] = costs
    found = path_weights(ranked(mixed), 0.3)
    torch.testing.assert_close(found[:, places], path_weights(costs, 0.3))
    assert found.sum(1).allclose(torch.ones(3)) and found.count_nonzero() == 90


def as_before(name: str, cost, mean: Tensor, config: PlannerConfig, generators) -> Tensor:
    """The actions of the updates as they were before costs that are not finite were thought of."""
    std = torch.full_like(mean, config.std)
    noise = standard_normal(generators, config.num_iterations, config.num_samples, mean)
    noise[:, :, 0] = 0.0
    for standard in noise:
        if name == "cem":
            plans = standard * std[:, None] + mean[:, None]
            index = cost(plans).topk(config.num_elites, dim=1, largest=False).indices
            std, mean = torch.std_mean(plans.gather(1, index[:, :, None, None].expand(-1, -1, *mean.shape[1:])), dim=1)
        else:
            plans = standard * config.mppi.noise_std + mean[:, None]
            costs = cost(plans)
            above, tiny = costs - costs.amin(1, keepdim=True), torch.finfo(costs.dtype).tiny
            weights = (-(above / costs.std(1, keepdim=True).clamp_min(tiny)) / config.mppi.temperature).softmax(1)
            mean = (plans * weights[:, :, None, None]).sum(1)
    return mean


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_finite_costs_give_the_plans_that_they_gave(name: str) -> None:
    """To the last bit, with ties among the costs too."""
    for cost in (rastrigin, lambda plans: rastrigin(plans).round()):
        config = but(SMALL, name)
        plan = solve(cost, torch.zeros(2, 2, 3), config, rngs(0, 1))
        assert plan.actions.equal(as_before(name, cost, torch.zeros(2, 2, 3), config, rngs(0, 1)))


# MPPI


def test_path_weights_are_a_softmax() -> None:
    costs = normal(4, 50) * torch.tensor([[1.0], [100.0], [1e-4], [3.0]]) + 7
    for temperature in (0.05, 0.3, 2.0):
        x = costs.double().numpy()
        x = -x / x.std(1, ddof=1, keepdims=True) / temperature
        expected = np.exp(x - x.max(1, keepdims=True))
        expected /= expected.sum(1, keepdims=True)
        tolerance = {"rtol": 2e-2, "atol": 1e-4}  # the third row's costs differ in the last digits of float32
        np.testing.assert_allclose(path_weights(costs, temperature).numpy(), expected, **tolerance)
    same = path_weights(torch.ones(2, 8), 0.1)
    torch.testing.assert_close(same, torch.full((2, 8), 1 / 8))


def test_a_cold_path_integral_takes_the_best_and_a_hot_one_the_average() -> None:
    config = but(SMALL, "mppi", num_iterations=1)
    cost, asked = listening(parabola(torch.ones(2, 2, 3)))
    cold = mppi(cost, torch.zeros(2, 2, 3), but(config, mppi={"temperature": 1e-6, "noise_std": 0.5}), rngs(0, 1))
    costs = parabola(torch.ones(2, 2, 3))(asked[0])
    best = asked[0][torch.arange(2), costs.argmin(1)]
    torch.testing.assert_close(cold.actions, best)
    torch.testing.assert_close(cold.cost, costs.amin(1))
    hot = mppi(cost, torch.zeros(2, 2, 3), but(config, mppi={"temperature": 1e6, "noise_std": 0.5}), rngs(0, 1))
    torch.testing.assert_close(hot.actions, asked[0].mean(1), rtol=1e-4, atol=1e-5)


def test_path_integrals_against_a_plain_loop() -> None:
    config = but(SMALL, "mppi", mppi={"temperature": 0.4, "noise_std": 0.6})
    target, mean = normal(2, 3).double().numpy(), normal(2, 3, seed=1)
    actual = mppi(parabola(torch.from_numpy(target).float()[None]), mean[None], config, rngs(5)).actions[0]
    (rng,), mean = rngs(5), mean.double().numpy()
    for _ in range(config.num_iterations):
        noise = rng.standard_normal((config.num_samples, 2, 3), np.float32).astype(float)
        noise[0] = 0
        costs = np.array([((mean + 0.6 * n - target) ** 2).sum() for n in noise])
        weights = np.exp(-(costs - costs.min()) / (0.4 * costs.std(ddof=1)))
        mean = mean + 0.6 * sum(w * n for w, n in zip(weights / weights.sum(), noise, strict=True))
    np.testing.assert_allclose(actual.numpy(), mean, atol=1e-5)


# iCEM


def slope(noise: np.ndarray) -> float:
    """Of the logarithm of the power over that of the frequency, from (n, T, 1)."""
    power = (np.abs(np.fft.rfft(noise[..., 0], axis=1)) ** 2).mean(0)[1:]
    return np.polyfit(np.log(np.arange(1, len(power) + 1)), np.log(power), 1)[0]


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [25, 64])
def test_the_noise_has_its_colour(beta: float, steps: int) -> None:
    white = stream(0, "white").standard_normal((4000, steps, 1))
    noise = coloured(white, beta)
    assert slope(noise) == pytest.approx(-beta, abs=0.05) and abs(slope(white)) < 0.05
    np.testing.assert_allclose(noise.std(0), 1, atol=0.05)  # at every step
    assert (noise[:, 1:] * noise[:, :-1]).mean() > 0.2  # neighbours are alike


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_without_colour_noise_is_as_it_was(steps: int) -> None:
    white = stream(0, "white").standard_normal((7, steps, 3))
    np.testing.assert_allclose(coloured(white, 0.0), white, atol=1e-12)
    assert coloured(white, 2.0).shape == white.shape and np.isfinite(coloured(white, 2.0)).all()


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_the_variance_is_one_in_closed_form(steps: int, beta: float) -> None:
    """The filter as a matrix: every row's squares add up to the variance of a step."""
    matrix = coloured(np.eye(steps)[:, :, None], beta)[..., 0]
    np.testing.assert_allclose((matrix**2).sum(0), 1, rtol=1e-12)


def icem_reference(
    cost, mean: np.ndarray, config: PlannerConfig, rng, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper for one episode, in float64 and plan by plan, with all samples drawn at once."""
    own, N, K = config.icem, config.num_samples, config.num_elites
    keep = int(own.keep * K)
    std, last = np.full(mean.shape, config.std), config.num_iterations - 1
    counts = [N - len(kept), *[N - keep] * last]
    counts[last] -= 1
    white = rng.standard_normal((sum(counts), *mean.shape), np.float32)
    noise, elites, at = coloured(white, own.beta).astype(np.float32).astype(float), list(kept), 0
    for i, count in enumerate(counts):
        plans = list(elites[:keep]) if i else elites
        plans = plans + ([mean] if i == last else []) + [mean + std * n for n in noise[at : at + count]]
        at += count
        assert len(plans) == N
        elites = sorted(plans, key=cost)[:K]
        mean = own.momentum * mean + (1 - own.momentum) * np.mean(elites, 0)
        std = own.momentum * std + (1 - own.momentum) * np.std(elites, 0, ddof=1)
    return elites[0], np.stack(elites[:keep])


@pytest.mark.parametrize("own", [{}, {"beta": 0.0, "momentum": 0.5, "keep": 0.7}])
@pytest.mark.parametrize("kept", [0, 1])
def test_improved_cem_against_a_plain_loop(own: dict, kept: int) -> None:
    config = PlannerConfig(solver="icem", num_samples=30, num_iterations=4, num_elites=8, std=0.8, icem=own)
    target, mean = normal(5, 2).double().numpy(), normal(5, 2, seed=1)
    before = normal(1, kept, 5, 2, seed=2)
    cost = parabola(torch.from_numpy(target).float()[None])
    plan = icem(cost, mean[None], config, rngs(2), before if kept else None)
    expected, elites = icem_reference(
        lambda p: ((p - target) ** 2).sum(), mean.double().numpy(), config, rngs(2)[0], before[0].double().numpy()
    )
    np.testing.assert_allclose(plan.actions[0].numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(plan.elites[0].numpy(), elites, atol=1e-5)


def test_without_its_additions_it_is_cem() -> None:
    """White noise, no momentum and nothing kept; the mean is a sample of the last iteration only."""
    config = but(SMALL, "icem", num_iterations=1, icem={"beta": 0.0, "momentum": 0.0, "keep": 0.0})
    cost, asked = listening(parabola(normal(2, 2, 3)))
    start = torch.zeros(2, 2, 3)
    solve(cost, start, config, rngs(0, 1))
    solve(cost, start, but(SMALL, num_iterations=1), rngs(0, 1))
    improved, plain_cem = asked
    assert torch.equal(improved[:, 0], start)
    torch.testing.assert_close(improved[:, 1:], torch.from_numpy(np.stack([r.standard_normal((32, 2, 3), np.float32) for r in rngs(0, 1)])), rtol=0, atol=1e-6)  # fmt: skip
    assert improved.shape == plain_cem.shape


def test_good_plans_are_never_lost() -> None:
    """The best cost of an iteration cannot rise while elites stay."""
    cost, asked = listening(rastrigin)
    plan = icem(cost, torch.zeros(3, 2, 3), but(FAST, "icem"), rngs(0, 1, 2))
    best = torch.stack([rastrigin(plans).amin(1) for plans in asked])
    assert (best.diff(dim=0) <= 0).all() and torch.equal(plan.cost, best[-1])


@pytest.mark.parametrize("receding", [1, 2, 3])
def test_elites_go_on_shifted_into_the_next_search(receding: int) -> None:
    config = PlannerConfig(
        solver="icem", num_samples=20, num_elites=10, num_iterations=2, horizon=3, receding=receding, warm_start=True
    )
    cost, asked = listening(parabola(normal(2, 3, 4)))
    replan = Replanner(config, 2, rngs(0, 1))
    replan(cost, 4, CPU)
    first = replan._last
    assert isinstance(first, ElitePlan) and first.elites.shape == (2, 3, 6, 2)
    replan(cost, 4, CPU)
    again = asked[2][:, :3]
    expected = shifted(first.elites, receding * 2).reshape(2, 3, 3, 4)
    assert not expected[:, :, 3 - receding :].any() and torch.equal(expected[:, :, : 3 - receding], first.elites.reshape(2, 3, 3, 4)[:, :, receding:])  # fmt: skip
    assert torch.equal(again, expected) == (receding < 3)  # nothing is left of plans that were executed whole


def test_the_colour_is_along_environment_steps() -> None:
    """Two blocks of five steps: neighbours inside a block are as alike as those across its border."""
    config = PlannerConfig(solver="icem", num_samples=4000, num_elites=2, num_iterations=1, horizon=2, receding=2)
    cost, asked = listening(parabola(torch.zeros(1, 2, 15)))
    Replanner(config, 5, rngs(0))(cost, 15, CPU)
    steps = asked[0][0, 1:].reshape(-1, 10, 3)
    alike = (steps[:, 1:] * steps[:, :-1]).mean((0, 2))
    assert alike.min() > 0.6 and alike.max() - alike.min() < 0.1
    assert (steps[..., 0] * steps[..., 1]).mean().abs() < 0.03  # dimensions are independent


# Gradients


def adam_in_closed_form(gradient, x: np.ndarray, steps: int, rate: float) -> np.ndarray:
    """Kingma and Ba, 2015, algorithm 1."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


def test_gradient_steps_on_a_quadratic() -> None:
    """cost = x' W x / 2 with a known gradient: against the published update and against torch's optimisers."""
    root = normal(6, 6).double().numpy()
    matrix = root @ root.T / 6 + np.eye(6)
    W, start = torch.from_numpy(matrix).float(), normal(1, 2, 3, seed=1)

    def quadratic(plans: Tensor) -> Tensor:
        x = plans.flatten(2)
        return ((x @ W) * x).sum(-1) / 2

    for optimizer, rate in (("adam", 0.1), ("rmsprop", 0.02), ("sgd", 0.1)):
        own = {"optimizer": optimizer, "learning_rate": rate, "num_starts": 3}
        config = PlannerConfig(solver="adam", num_iterations=5, adam=own)
        cost, asked = listening(quadratic)
        adam(cost, start, config, rngs(0))
        assert len(asked) == 6 and asked[0].shape == (1, 3, 2, 3)
        theirs = asked[0].clone().requires_grad_()
        torch_optimizer = OPTIMIZERS[optimizer]([theirs], lr=rate)
        for k in range(5):
            torch.testing.assert_close(asked[k], theirs.detach())
            torch_optimizer.zero_grad()
            quadratic(theirs).sum().backward()
            torch_optimizer.step()
        torch.testing.assert_close(asked[5], theirs.detach())
        for s in range(3):
            x = asked[0][0, s].double().numpy().ravel()
            if optimizer == "adam":
                x = adam_in_closed_form(lambda x: matrix @ x, x, 5, rate)
            elif optimizer == "sgd":
                x = np.linalg.matrix_power(np.eye(6) - rate * matrix, 5) @ x
            else:
                continue
            np.testing.assert_allclose(asked[5][0, s].numpy().ravel(), x, atol=1e-5)


def test_the_cheapest_plan_on_the_way_is_kept() -> None:
    """Steps that are far too long lead away from the minimum; the best start stays the answer."""
    config = but(SMALL, "adam", adam={"optimizer": "sgd", "learning_rate": 3.0})
    cost, asked = listening(parabola(torch.ones(2, 2, 3)))
    plan = adam(cost, torch.ones(2, 2, 3) + 0.1, config, rngs(0, 1))
    costs = torch.stack([parabola(torch.ones(2, 2, 3))(plans) for plans in asked])  # (iterations, B, S)
    assert (costs[-1] > costs[0]).all() and torch.equal(plan.cost, costs.amin((0, 2)))


def test_settings_of_gradients() -> None:
    for wrong in ({"arithmetic": "int8"}, {"compile": True}):
        with pytest.raises(ValidationError, match="adam differentiates a plain float32 rollout"):
            PlannerConfig(solver="adam", **wrong)
        PlannerConfig(solver="icem", **wrong)
    assert PlannerConfig(solver="adam").differentiates and not any(
        PlannerConfig(solver=n).differentiates for n in NAMES[:-1]
    )
    assert PlannerConfig(solver="adam", num_samples=2, num_elites=2).plans_per_iteration[0] == 1
    assert PlannerConfig(solver="adam", adam={"num_starts": 7}).plans_per_iteration == (7,) * 31 and GRADIENT_COST == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "gradient"}, "solver"), ({"icem": {"beta": -1}}, "beta"), ({"icem": {"momentum": 1}}, "momentum"),
        ({"icem": {"keep": 1.1}}, "keep"), ({"icem": {"decay": 0.9}}, "decay"), ({"mppi": {"temperature": 0}}, "temperature"),
        ({"mppi": {"noise_std": 0}}, "noise_std"), ({"adam": {"learning_rate": 0}}, "learning_rate"),
        ({"adam": {"num_starts": 0}}, "num_starts"), ({"adam": {"optimizer": "adamw"}}, "optimizer"),
        ({"icem": {"betta": 1}}, "betta"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlannerConfig(**change)


def test_what_plays_no_part_is_not_in_a_key() -> None:
    """Results that were measured when CEM was the only solver keep their keys."""
    before = {
        "num_samples", "num_iterations", "num_elites", "std", "horizon", "receding", "warm_start", "objective",
        "rollout", "arithmetic", "compile",
    }  # fmt: skip
    assert set(PlannerConfig().model_dump(mode="json")) == before == set(PlannerConfig(solver="cem").model_dump())
    for name in ("icem", "mppi", "adam"):
        assert set(PlannerConfig(solver=name).model_dump()) == before | {"solver", name}
    for config in (
        PlannerConfig(solver="shooting"), PlannerConfig(icem={"beta": 1}), PlannerConfig(solver="mppi", adam={"num_starts": 3}),
        PlannerConfig(solver="icem", icem={"beta": 1}),
    ):  # fmt: skip
        assert (
            PlannerConfig(**config.model_dump())
            == config
            == PlannerConfig.model_validate_json(config.model_dump_json())
        )
        assert config.model_dump() != PlannerConfig().model_dump()


# World models


LEWM_TINY = LeWMConfig(
    encoder="stem-vit", latent=8, projector_hidden=16, width=16, depth=2, heads=2, head_size=8, mlp_hidden=32, frame_skip=2
)  # fmt: skip
DINO_TINY = DinoWMConfig(
    encoder="lowpass", conditioning="adaln", width=16, depth=2, heads=2, head_size=8, mlp_hidden=32, frame_skip=2,
    local=LocalConfig(width=16, depth=1, heads=2, channels=8, scales=(4, 8)),
)  # fmt: skip


@cache
def tiny(kind: str):
    """An untrained model with every part awake, and its fast rollout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (
            LeWM(LEWM_TINY, 32, 2)
            if kind == "lewm"
            else DinoWM(DINO_TINY, LocalEncoder(DINO_TINY.local, "lowpass", 32), 2)
        )
        for p in model.parameters():
            p.data += 0.1 * torch.randn_like(p)
    model.eval().requires_grad_(False)
    return model, (PackedLeWM if kind == "lewm" else PackedDinoWM)(model.parts())


def situation(kind: str, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (3, T, *L), past actions and goals, as tensors that may be differentiated through."""
    model, _ = tiny(kind)
    pictures = torch.from_numpy(stream(0, kind).integers(0, 256, (3, frames + 1, 3, 32, 32), np.uint8))
    with torch.no_grad():
        z = model.encode(pictures)
    return z[:, :-1], normal(3, frames - 1, 4), z[:, -1]


@pytest.mark.parametrize("kind", ["lewm", "dino-wm"])
@pytest.mark.parametrize("objective", ["final", "sum"])
def test_gradients_in_pieces_are_gradients(kind: str, objective: str) -> None:
    """Against the graph of all episodes at once, and against differences of the cost in float64."""
    (model, _), (z, past, goal) = tiny(kind), situation(kind, 2)
    config = but(SMALL, "adam", objective=objective)
    plans = normal(3, 5, 5, 4)
    whole, parts = plans.clone().requires_grad_(), plans.clone().requires_grad_()
    costs = latent_cost(plain_rollout(model)(z, past), goal, config)(whole)
    pieces = latent_cost(in_pieces(plain_rollout(model), 2 * goal[0].numel())(z, past), goal, config)(parts)
    torch.testing.assert_close(pieces, costs, rtol=1e-4, atol=1e-6)
    (expected,), (actual,) = torch.autograd.grad(costs.sum(), whole), torch.autograd.grad((2 * pieces).sum(), parts)
    torch.testing.assert_close(actual, 2 * expected, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        step = 1e-2 * torch.nn.functional.one_hot(torch.tensor(7), 20).view(5, 4)
        cost = latent_cost(plain_rollout(model)(z, past), goal, config)
        difference = (cost(plans + step) - cost(plans - step)) / 2e-2
    torch.testing.assert_close(difference, expected[:, :, 1, 3], rtol=0.05, atol=2e-3)


def test_pieces_are_small_and_alone() -> None:
    """However many episodes and plans, a model sees a few plans of one episode at a time."""
    (model, _), (z, past, goal) = tiny("lewm"), situation("lewm", 2)
    seen = []

    def begin(latents: Tensor, past_actions: Tensor):
        def rolled(plans: Tensor, score):
            seen.append(plans.shape[:2])
            return score(rollout(model, latents, past_actions, plans), slice(0, 1))

        return rolled

    plans = normal(3, 7, 5, 4).requires_grad_()
    costs = latent_cost(in_pieces(begin, 3 * 8)(z, past), goal, SMALL)(plans)
    assert seen == [(1, 3), (1, 3), (1, 1)] * 3 and costs.grad_fn is not None
    with torch.no_grad():
        again = latent_cost(in_pieces(begin)(z, past), goal, SMALL)(plans)
    assert seen[9:] == [(1, 7)] * 3
    torch.testing.assert_close(again, costs.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["lewm", "dino-wm"])
@pytest.mark.parametrize("name", NAMES)
def test_acting_with_every_solver(kind: str, name: str) -> None:
    """Through frames and a controller: finite, repeatable, better than nothing; and the same alone as among others."""
    (model, packed), config = tiny(kind), but(SMALL, name, warm_start=True, receding=2)
    frames = torch.from_numpy(stream(1, kind).integers(0, 256, (2, 3, 3, 32, 32), np.uint8))
    nothing = np.zeros((2, 2))

    def act() -> list[np.ndarray]:
        agent = PlanningAgent(model, config, CPU, packed)
        controller = agent.start(Goals(frames[:, 2], nothing), rngs(0, 1))
        past = Past(frames[:, :2], torch.zeros(2, 1, 4), nothing)
        return [controller.search(controller.encode(past)) for _ in range(2)]

    first, second = act()
    assert first.shape == second.shape == (2, 4, 2) and np.isfinite([first, second]).all()
    assert not np.array_equal(first, second)
    for a, b in zip(act(), (first, second), strict=True):
        np.testing.assert_array_equal(a, b)
    z, past, goal = situation(kind, 2)

    def plan(*at: int):
        chosen = list(at)
        begin = in_pieces(plain_rollout(model)) if name == "adam" else packed
        with torch.inference_mode(name != "adam"):
            cost = latent_cost(begin(z[chosen], past[chosen]), goal[chosen], config)
            found = solve(cost, torch.zeros(len(at), 5, 4), config, rngs(*at))
            return found.actions, cost(torch.zeros(len(at), 1, 5, 4))[:, 0], cost(found.actions[:, None])[:, 0]

    actions, still, moving = plan(0, 1, 2)
    assert (moving < still).all()
    assert torch.equal(plan(1)[0][0], actions[1])


def test_a_model_may_bring_its_own_gradients() -> None:
    """For models that do not predict step by step: z' = z + the sum of all actions, in one go."""
    model, packed = tiny("lewm")
    called = []

    def at_once(latents: Tensor, past_actions: Tensor):
        called.append(latents.shape)
        return lambda plans, score: score(latents[:, -1, None, None] + plans.sum((2, 3))[:, :, None, None], slice(0, 1))

    agent = PlanningAgent(model, but(SMALL, "adam"), CPU, packed, at_once)
    frames = torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8)
    controller = agent.start(Goals(frames[:, 0], np.zeros((2, 1))), rngs(0, 1))
    past = Past(frames[:, :1], torch.zeros(2, 0, 4), np.zeros((2, 1)))
    assert np.isfinite(controller.search(controller.encode(past))).all()
    assert called == [(1, 1, 8)] * 2
    assert PlanningAgent(model, SMALL, CPU, packed, at_once).rollout is packed


def test_the_true_simulator_has_no_gradients() -> None:
    simulation = Simulation(None, 2, np.zeros(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(UserError, match=r"adam needs gradients and the true simulator has none; leave the oracle out"):
        SimulatorAgent(simulation, but(SMALL, "adam"))
    assert SimulatorAgent(simulation, but(SMALL, "icem")).config.solver == "icem"
    model, _ = tiny("lewm")
    assert LatentOracle(simulation, but(SMALL, "adam"), model, CPU).config.solver == "cem"
    assert LatentOracle(simulation, but(SMALL, "mppi"), model, CPU).config.solver == "mppi"


def test_the_replanner_asks_the_solver_of_its_config(monkeypatch) -> None:
    asked = []
    table = {name: lambda *_, name=name: asked.append(name) or Plan(torch.zeros(1, 5, 4), torch.zeros(1)) for name in NAMES}  # fmt: skip
    monkeypatch.setattr(solvers, "SOLVERS", table)
    for name in NAMES:
        Replanner(but(SMALL, name), 1, rngs(0))(parabola(torch.zeros(1, 5, 4)), 4, CPU)
    assert asked == NAMES
