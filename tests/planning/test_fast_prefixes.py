"""Fast-LeWM's plans in one pass: the costs of the plain way, whoever is planned beside them, and agreement with itself."""

from __future__ import annotations

import pytest
import torch
from small_fast_lewm import BLOCK, close, small
from torch import Tensor

from lewm_bench.agents.fast_lewm import FAST_LEWM, FastLeWM
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman
from lewm_bench.core.types import Plan
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, goal_distance, latent_cost, plain_rollout
from lewm_bench.planning.fast import fast_lewm, linears
from lewm_bench.planning.fast.fast_lewm import PackedFastLeWM, consistent, reference
from lewm_bench.planning.fast.linears import has_int8, has_onednn

CEM = PlannerConfig(num_samples=96, num_iterations=3, num_elites=10)


class Problem:
    """Random contexts, goals and plans of ``B`` episodes."""

    def __init__(self, B: int = 3, S: int = 7, H: int = 5, T: int = 1, D: int = 12) -> None:
        g = torch.Generator().manual_seed(3)
        self.z, self.goal = torch.randn(B, T, D, generator=g), torch.randn(B, D, generator=g)
        self.past, self.plans = torch.randn(B, T - 1, BLOCK, generator=g), torch.randn(B, S, H, BLOCK, generator=g)

    def costs(self, begin: BeginRollout, objective: str = "final") -> Tensor:
        return latent_cost(begin(self.z, self.past), self.goal, PlannerConfig(objective=objective))(self.plans)

    def plan(self, begin: BeginRollout, config: PlannerConfig, *episodes: int) -> Plan:
        at = list(episodes)
        cost = latent_cost(begin(self.z[at], self.past[at]), self.goal[at], config)
        start = torch.zeros(len(at), config.horizon, BLOCK)
        return cem(cost, start, config, [stream(0, "plan", e) for e in at])


def fast(model: FastLeWM, objective: str = "final", **settings) -> BeginRollout:
    return FAST_LEWM.rollout(model, PlannerConfig(objective=objective, **settings))


STYLES = [
    {},
    {"latent": 16},
    {"prefix_depth": 1},
    {"prefix_depth": 3, "depth": 1, "horizon": 3},
    {"horizon": 1},
    {"self_consistency": 0.7},
    {"self_consistency": 0.7, "horizon": 2, "latent": 16},
]


@pytest.mark.parametrize("objective", ["final", "sum"])
@pytest.mark.parametrize("style", STYLES)
def test_fast_costs_are_those_of_the_reference(style: dict, objective: str) -> None:
    model = small(**style)
    for H in (1, 2, 3, 5, 8, 11):
        for T in (1, 2):
            problem = Problem(H=H, T=T, D=model.config.latent)
            expected = problem.costs(fast(model, objective, rollout="reference"), objective)
            assert (expected.std(1) > 1e-3 * expected.mean(1)).all()
            close(problem.costs(fast(model, objective), objective), expected)


@pytest.mark.parametrize("style", [{}, {"self_consistency": 0.7, "horizon": 2}])
def test_fast_costs_without_onednn(style: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "has_onednn", lambda: False)
    model, problem = small(**style), Problem()
    close(problem.costs(fast(model)), problem.costs(reference(model)))


def test_the_reference_by_hand() -> None:
    """Pieces of the horizon, the next from the last latent; only the newest frame counts."""
    model, problem = small(horizon=3), Problem(B=2, S=3, H=7, T=2)
    seen = []
    reference(model)(problem.z, problem.past)(problem.plans, lambda x, e: seen.append(x) or x[..., -1, 0])
    for b in range(2):
        for s in range(3):
            z, expected = problem.z[b, -1:], []
            for piece in (slice(0, 3), slice(3, 6), slice(6, 7)):
                found = model.predict_prefixes(z, problem.plans[b, s, piece][None])[0]
                expected += list(found)
                z = found[-1:]
            close(seen[0][b, s], torch.stack(expected))


def test_with_a_horizon_of_one_block_it_is_the_plain_loop() -> None:
    model, problem = small(horizon=1), Problem(H=4)
    for objective in ("final", "sum"):
        close(problem.costs(fast(model, objective), objective), problem.costs(plain_rollout(model), objective))
    whole = small()
    assert not torch.allclose(problem.costs(fast(whole)), problem.costs(plain_rollout(whole)), rtol=1e-2)


def test_a_plan_of_one_block_is_the_plain_loop() -> None:
    model, problem = small(self_consistency=1.0), Problem(H=1)
    close(problem.costs(fast(model)), problem.costs(plain_rollout(model)))


@pytest.mark.parametrize("style", [{}, {"self_consistency": 1.0}])
def test_costs_depend_on_the_newest_frame_every_block_and_the_goal(style: dict) -> None:
    model, problem = small(**style), Problem(B=2, T=3, H=7)
    begin = fast(model)
    before = problem.costs(begin)

    def change(what: Tensor) -> Tensor:
        kept = what.clone()
        what += 1
        after = problem.costs(begin)
        what.copy_(kept)
        return ((after - before) / before).abs()

    for t in range(3):
        assert (change(problem.z[:, t]).mean() > 1e-3) == (t == 2)
    assert (change(problem.past) == 0).all()
    for h in range(7):
        changed = change(problem.plans[:, 1, h])
        assert (changed[:, 1] > 1e-4).all() and (changed[:, 0] == 0).all()
    assert (change(problem.goal[1])[1] > 1e-4).all() and (change(problem.goal[1])[0] == 0).all()


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("style", [{}, {"self_consistency": 1.0, "horizon": 3}])
def test_a_plan_does_not_depend_on_the_episodes_beside_it(
    style: dict, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: with oneDNN's layers, and one episode at a time without them."""
    if not onednn:
        monkeypatch.setattr(linears, "has_onednn", lambda: False)
    model, problem = small(**style), Problem(B=5)
    begin = fast(model)
    together = problem.plan(begin, CEM, *range(5))
    for e in (0, 3) if onednn and has_onednn() else (3,):
        alone = problem.plan(begin, CEM, e)
        assert torch.equal(alone.actions[0], together.actions[e]) and torch.equal(alone.cost[0], together.cost[e])
    assert torch.equal(problem.plan(begin, CEM, 4, 1).actions, together.actions[[4, 1]])
    assert torch.equal(problem.plan(begin, CEM, *range(5)).actions, together.actions)
    assert (together.actions[0] - together.actions[1]).abs().max() > 0.1


def test_equal_noise_gives_the_plans_of_the_reference() -> None:
    model, problem = small(), Problem()
    found, expected = (problem.plan(begin, CEM, 0, 1, 2) for begin in (fast(model), reference(model)))
    torch.testing.assert_close(found.actions, expected.actions, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("onednn", [True, False])
def test_pieces_of_candidates_change_nothing(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        monkeypatch.setattr(linears, "has_onednn", lambda: False)
    model, problem = small(), Problem(S=96)
    packed = PackedFastLeWM(model.parts(), PlannerConfig())
    assert packed.candidates == 2**22 // (5 * 48)
    expected = problem.costs(packed)
    for candidates in (32, 50, 100, 1):
        packed.candidates = candidates
        actual = problem.costs(packed)
        close(actual, expected)
        if packed.sharing == "any size" and candidates in (32, 100):  # whole vectors
            assert torch.equal(actual, expected)


def test_a_search_leaves_its_model_and_its_context_alone() -> None:
    model, problem = small(self_consistency=1.0), Problem(H=8)
    kept = [t.clone() for t in (problem.z, problem.past, problem.goal, problem.plans)]
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    cost = latent_cost(fast(model)(problem.z, problem.past), problem.goal, PlannerConfig())
    first = cost(problem.plans)
    assert torch.equal(cost(problem.plans), first)
    expected = latent_cost(reference(model)(problem.z, problem.past), problem.goal, PlannerConfig())
    close(cost(problem.plans[:, :, :3]), expected(problem.plans[:, :, :3]))  # plans of another length
    for t, before in zip((problem.z, problem.past, problem.goal, problem.plans), kept, strict=True):
        assert torch.equal(t, before)
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "arithmetic", ["bfloat16", pytest.param("int8", marks=pytest.mark.skipif(not has_int8(), reason="no 8-bit layers"))]
)
def test_low_precision_ranks_candidates_as_float32_does(arithmetic: str) -> None:
    model, problem = small(width=64, latent=32), Problem(S=300, D=32)
    exact = problem.costs(fast(model))
    cost = latent_cost(fast(model, arithmetic=arithmetic)(problem.z, problem.past), problem.goal, PlannerConfig())
    cost(problem.plans.flip(1))
    rough = cost(problem.plans)
    assert not torch.equal(rough, exact)
    assert min(spearman(a.numpy(), b.numpy()) for a, b in zip(rough, exact, strict=True)) > 0.99


def test_gradients_flow_through_the_reference() -> None:
    model, problem = small(self_consistency=1.0), Problem(H=7)
    problem.plans.requires_grad_()
    problem.costs(reference(model)).sum().backward()
    assert (problem.plans.grad.abs().amax((0, 1, 3)) > 1e-6).all()
    k, size = (0, 1, 2, 3), 1e-2
    up, down = (problem.plans.detach().clone().double() for _ in range(2))
    up[k] += size
    down[k] -= size
    exact = problem.plans.grad[k]
    costs = []
    for plans in (up, down):
        problem.plans = plans.float()
        costs.append(problem.costs(reference(model)).sum())
    assert float((costs[0] - costs[1]) / (2 * size)) == pytest.approx(float(exact), rel=0.05, abs=1e-3)


# Self-consistency.


class Linear:
    """A world that moves by the sum of the blocks: predicted in one step or several, the same."""

    horizon = 5
    self_consistency = 1.0

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def predict_prefixes(self, latent: Tensor, actions: Tensor) -> Tensor:
        moved = latent[:, None] + actions.repeat(1, 1, 2).cumsum(1)
        moved[:, 0] += self.error  # of the first prefix
        return moved


@pytest.mark.parametrize("H", [1, 2, 3, 5, 7, 10])
def test_a_consistent_model_costs_its_distance_to_the_goal_and_no_more(H: int) -> None:
    problem = Problem(H=H)
    end = problem.z[:, :1] + problem.plans.sum(2).repeat(1, 1, 2)
    close(problem.costs(reference(Linear())), goal_distance(end, problem.goal))


@pytest.mark.parametrize(("H", "wrong"), [(1, 0), (2, 1), (3, 0.5), (4, 0), (5, 0), (6, 0.5), (7, 0), (8, 0.5)])
def test_the_disagreement_by_hand(H: int, wrong: float) -> None:
    """The first prefix errs by 0.5, the others do not. 2 = 1 + 1; 3 = 2 + 1; 5 + 1 = 2 + 4; 5 + 3 = 2 + 5 + 1."""
    problem, world = Problem(H=H), Linear(0.5)
    end = []
    reference(world)(problem.z, problem.past)(problem.plans, lambda x, e: end.append(x[:, :, -1]) or end[0][..., 0])
    penalty = problem.costs(reference(world)) - goal_distance(end[0], problem.goal)
    close(penalty, torch.full((3, 7), float(wrong**2)))


def test_disagreement_is_weighted_and_positive() -> None:
    problem = Problem()
    costs = {beta: problem.costs(fast(small(self_consistency=beta))) for beta in (0.0, 1.0, 3.0)}
    penalty = costs[1.0] - costs[0.0]
    assert (penalty > 1e-4).all()
    close(costs[3.0] - costs[0.0], 3 * penalty)
    again = problem.costs(fast(small(self_consistency=1.0), "sum"), "sum") - problem.costs(fast(small(), "sum"), "sum")
    close(again, penalty)  # of the last latent, whatever the objective


def test_without_weight_nothing_is_added() -> None:
    begin = reference(small())
    assert consistent(begin, 0.0) is begin
    assert fast_lewm.INTERMEDIATE == 2  # ten environment steps of the paper's five
