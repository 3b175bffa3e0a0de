"""The cross-entropy method on costs that are known, and rollouts against a plain loop (other solvers: test_solvers)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lewm_bench.agent import PlanningAgent, default_rollout
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import Objective, frame_costs, goal_distance, latent_cost, plain_rollout, rollout
from lewm_bench.planning.replan import Replanner

FAST = PlannerConfig(num_samples=100, num_iterations=15, num_elites=10, horizon=2, receding=1)


def rngs(*episodes: int) -> list[np.random.Generator]:
    return [stream(0, "plan", e) for e in episodes]


def zeros(batch: int, horizon: int = 2, block: int = 3) -> Tensor:
    return torch.zeros(batch, horizon, block)


def parabola(targets: Tensor):
    """(B, H, A) minima."""
    return lambda plans: (plans - targets[:, None]).square().sum((-1, -2))


def rastrigin(plans: Tensor) -> Tensor:
    """Minima near all whole numbers; the global one is at 1.0 everywhere."""
    x = plans - 1
    return (x.square() + 2 * (1 - torch.cos(2 * torch.pi * x))).sum((-1, -2))


def reference(cost, mean: np.ndarray, config: PlannerConfig, rng: np.random.Generator) -> np.ndarray:
    """The algorithm for one episode, plan by plan, in float64."""
    std = np.full(mean.shape, config.std)
    for _ in range(config.num_iterations):
        noise = rng.standard_normal((config.num_samples, *mean.shape), np.float32).astype(np.float64)
        plans = [mean + std * n for n in noise]
        plans[0] = mean
        order = sorted(range(len(plans)), key=lambda i: cost(plans[i]))
        elites = np.stack([plans[i] for i in order[: config.num_elites]])
        mean, std = elites.mean(0), elites.std(0, ddof=1)
    return mean


def test_it_finds_the_minimum_of_a_parabola() -> None:
    targets = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    plan = cem(parabola(targets), zeros(3), FAST.model_copy(update={"num_iterations": 40}), rngs(0, 1, 2))
    torch.testing.assert_close(plan.actions, targets, rtol=0, atol=0.02)
    assert plan.cost.shape == (3,) and (plan.cost < 1e-2).all()


def test_it_finds_the_deepest_of_many_minima() -> None:
    start = zeros(5, 1, 2)
    assert rastrigin(start[:, None])[0, 0] == pytest.approx(2)  # it begins in the basin of another minimum
    config = PlannerConfig(num_samples=300, num_iterations=30, num_elites=30)
    plan = cem(rastrigin, start, config, rngs(*range(5)))
    torch.testing.assert_close(plan.actions, torch.ones(5, 1, 2), rtol=0, atol=0.02)


def test_against_a_plain_loop() -> None:
    config = PlannerConfig(num_samples=40, num_iterations=4, num_elites=7, std=0.7)
    target = np.random.default_rng(0).normal(size=(2, 3))
    mean = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    expected = reference(lambda p: ((p - target) ** 2).sum(), mean.astype(np.float64), config, stream(0, "plan", 4))
    cost = parabola(torch.from_numpy(target).float()[None])
    plan = cem(cost, torch.from_numpy(mean)[None], config, rngs(4))
    np.testing.assert_allclose(plan.actions[0].numpy(), expected, atol=1e-5)


def test_the_cost_of_a_plan_is_that_of_its_last_elites() -> None:
    seen = []

    def cost(plans: Tensor) -> Tensor:
        seen.append(parabola(zeros(2))(plans))
        return seen[-1]

    plan = cem(cost, zeros(2), FAST, rngs(0, 1))
    assert len(seen) == FAST.num_iterations and seen[0].shape == (2, 100)
    torch.testing.assert_close(plan.cost, seen[-1].sort(1).values[:, :10].mean(1))


def test_a_plan_does_not_depend_on_its_batch() -> None:
    """Episode 3 alone and among seven others: the same plan to the bit."""
    g = torch.Generator().manual_seed(0)
    targets, means = torch.randn(7, 2, 3, generator=g), torch.randn(7, 2, 3, generator=g)
    together = cem(parabola(targets), means, FAST, rngs(*range(7)))
    for e in range(7):
        alone = cem(parabola(targets[e : e + 1]), means[e : e + 1], FAST, rngs(e))
        assert torch.equal(alone.actions[0], together.actions[e])
        assert torch.equal(alone.cost[0], together.cost[e])


def test_equal_generators_give_equal_plans_and_others_do_not() -> None:
    a, b, c = (cem(rastrigin, zeros(1), FAST, rngs(e)).actions for e in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_global_generators_play_no_part() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = cem(rastrigin, zeros(1), FAST, rngs(0)).actions
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(99)
    assert torch.equal(cem(rastrigin, zeros(1), FAST, rngs(0)).actions, a)


def test_the_first_sample_of_every_iteration_is_the_mean() -> None:
    first, elites = [], []

    def cost(plans: Tensor) -> Tensor:
        values = parabola(torch.ones(2, 2, 3))(plans)
        first.append(plans[:, 0])
        index = values.argsort(1)[:, :10, None, None].expand(-1, -1, 2, 3)
        elites.append(plans.gather(1, index).mean(1))
        return values

    start = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    plan = cem(cost, start, FAST, rngs(0, 1))
    assert torch.equal(first[0], start)
    for mean, found in zip([*first[1:], plan.actions], elites, strict=True):
        torch.testing.assert_close(mean, found)


def test_samples_have_the_configured_deviation_and_are_not_clipped() -> None:
    seen = []
    config = PlannerConfig(num_samples=5000, num_iterations=1, num_elites=2, std=3.0)
    cem(lambda plans: seen.append(plans) or plans.sum((-1, -2)), zeros(1) + 1, config, rngs(0))
    assert seen[0][0, 1:].std().item() == pytest.approx(3, rel=0.02)
    assert seen[0][0, 1:].mean().item() == pytest.approx(1, abs=0.05)
    assert seen[0].max() > 9


@pytest.mark.parametrize("receding", [1, 2, 5])
@pytest.mark.parametrize("warm", [True, False])
def test_a_warm_start_shifts_the_last_plan(receding: int, warm: bool) -> None:
    """The first sample of a search is where it starts; plans are blocks of two steps."""
    config = PlannerConfig(num_samples=20, num_elites=5, num_iterations=2, receding=receding, warm_start=warm)
    first = []

    def cost(plans: Tensor) -> Tensor:
        first.append(plans[:, 0].clone())
        return parabola(torch.ones(2, 5, 6))(plans)

    replan = Replanner(config, 2, rngs(0, 1))
    executed = replan(cost, 6, torch.device("cpu"))
    assert executed.shape == (2, receding, 6) and not first[0].any()
    whole = cem(parabola(torch.ones(2, 5, 6)), zeros(2, 5, 6), config, rngs(0, 1)).actions
    assert torch.equal(executed, whole[:, :receding])  # that solvers see steps changes nothing
    replan(cost, 6, torch.device("cpu"))
    expected = zeros(2, 5, 6)
    if warm:
        expected[:, : 5 - receding] = whole[:, receding:]
    assert torch.equal(first[2], expected)


def test_the_defaults_are_the_papers() -> None:
    config = PlannerConfig()
    assert (config.num_samples, config.num_iterations, config.num_elites) == (300, 30, 30)
    assert (config.horizon, config.receding, config.std, config.warm_start) == (5, 5, 1.0, False)
    assert (config.rollout, config.arithmetic, config.compile) == ("fast", "float32", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_elites": 301}, "1 < num_elites <= num_samples, got 301 elites of 300 samples"),
        ({"num_elites": 1}, "got 1 elites of 300 samples"),  # one elite has no deviation
        ({"receding": 6}, "1 <= receding <= horizon, got receding 6, horizon 5"),
        ({"receding": 0}, "got receding 0, horizon 5"),
        ({"num_iterations": 0}, "num_iterations >= 1"),
        ({"std": 0.0}, "std > 0"),
        ({"elites": 3}, "elites"),
        ({"objective": "mean"}, "objective"),
        ({"rollout": "slow"}, "rollout"),
        ({"arithmetic": "float16"}, "arithmetic"),
        ({"rollout": "reference", "arithmetic": "int8"}, "belong to rollout fast"),
        ({"rollout": "reference", "compile": True}, "belong to rollout fast"),
    ],
)
def test_impossible_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlannerConfig(**change)
    assert PlannerConfig(num_elites=300, receding=1).horizon == 5


class Linear:
    """z' = sum over the window of w[age] * z + c[age] * (mean of the block); a block moves every number of a latent."""

    frame_skip = 1

    def __init__(self, history: int, w: list[float], c: list[float]) -> None:
        self.history, self.w, self.c = history, w, c
        self.windows: list[int] = []

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        T = latents.shape[1]
        assert actions.shape[1] == T, "one block per frame"
        self.windows.append(T)
        z = sum(self.w[T - 1 - t] * latents[:, t] for t in range(T))
        a = sum(self.c[T - 1 - t] * actions[:, t].mean(-1) for t in range(T))
        return z + a.view(-1, *[1] * (z.dim() - 1))


@pytest.mark.parametrize("latent", [(4,), (3, 2)])
@pytest.mark.parametrize(("history", "frames"), [(1, 1), (3, 1), (3, 2), (3, 3), (2, 3)])
def test_rollout_against_a_plain_loop(history: int, frames: int, latent: tuple[int, ...]) -> None:
    B, S, H, A = 2, 3, 5, 4
    g = torch.Generator().manual_seed(0)
    model = Linear(history, [0.5, 0.3, -0.4], [1.0, -2.0, 0.7])
    z = torch.randn(B, frames, *latent, generator=g)
    past, plans = torch.randn(B, frames - 1, A, generator=g), torch.randn(B, S, H, A, generator=g)
    actual = rollout(model, z, past, plans)
    assert actual.shape == (B, S, H, *latent)
    for b in range(B):
        for s in range(S):
            latents, blocks = list(z[b].double()), list(past[b].double())
            for h in range(H):
                blocks.append(plans[b, s, h].double())
                recent = list(zip(latents[-history:], blocks[-history:], strict=True))
                after = sum(
                    model.w[age] * frame + model.c[age] * block.mean()
                    for age, (frame, block) in enumerate(reversed(recent))
                )
                latents.append(after)
                torch.testing.assert_close(actual[b, s, h].double(), after, rtol=1e-5, atol=1e-5)
    assert model.windows[:H] == [min(history, frames + h) for h in range(H)]


def test_rollout_in_closed_form() -> None:
    """z' = z / 2 + mean block: a constant block a gives z_h = 2 a + (z_0 - 2 a) / 2^h."""
    plans = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 6, 2)
    z = torch.full((1, 1, 2), 5.0)
    actual = rollout(Linear(1, [0.5], [1.0]), z, torch.zeros(1, 0, 2), plans)
    for s, a in enumerate([1.0, -3.0]):
        expected = [2 * a + (5 - 2 * a) / 2**h for h in range(1, 7)]
        np.testing.assert_allclose(actual[0, s, :, 0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("latent", [(5,), (3, 4)])
@pytest.mark.parametrize("lead", [(2, 6), (2, 6, 3)])
def test_goal_distance_is_the_mean_over_a_latents_numbers(latent: tuple[int, ...], lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    z, goal = rng.normal(size=(*lead, *latent)).astype(np.float32), rng.normal(size=(2, *latent)).astype(np.float32)
    expected = np.empty(lead)
    for index in np.ndindex(*lead):
        expected[index] = ((z[index] - goal[index[0]]) ** 2).sum() / np.prod(latent)
    np.testing.assert_allclose(goal_distance(torch.from_numpy(z), torch.from_numpy(goal)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("objective", ["final", "sum"])
def test_the_cost_is_the_distance_of_the_last_latent_or_of_all(objective: str) -> None:
    config = PlannerConfig(objective=objective)
    g = torch.Generator().manual_seed(0)
    model, z, goal = (
        Linear(2, [0.5, 0.1], [1.0, 0.2]),
        torch.randn(2, 2, 4, generator=g),
        torch.randn(2, 4, generator=g),
    )
    past, plans = torch.randn(2, 1, 3, generator=g), torch.randn(2, 7, 5, 3, generator=g)
    imagined = rollout(model, z, past, plans).numpy()
    distances = ((imagined - goal.numpy()[:, None, None]) ** 2).mean(-1)
    expected = distances[:, :, -1] if objective == "final" else distances.sum(-1)
    actual = latent_cost(plain_rollout(model)(z, past), goal, config)(plans)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)


def test_a_score_sees_all_latents_and_its_episodes() -> None:
    model, g = Linear(2, [0.5, 0.1], [1.0, 0.2]), torch.Generator().manual_seed(0)
    z, past, plans = (torch.randn(3, *shape, generator=g) for shape in ((2, 4), (1, 2), (6, 5, 2)))

    def score(imagined: Tensor, episodes: slice) -> Tensor:
        assert torch.equal(imagined, rollout(model, z, past, plans)) and episodes == slice(0, 3)
        return imagined.sum((-1, -2))

    assert plain_rollout(model)(z, past)(plans, score).shape == (3, 6)


def test_a_cost_takes_the_goals_of_its_episodes() -> None:
    """An search that computes one episode at a time."""
    model, g = Linear(1, [0.5], [1.0]), torch.Generator().manual_seed(0)
    z, plans, goal = (torch.randn(3, *shape, generator=g) for shape in ((1, 4), (6, 5, 2), (4,)))
    past = torch.zeros(3, 0, 2)

    def one_by_one(plans: Tensor, score) -> Tensor:
        parts = [slice(e, e + 1) for e in range(3)]
        return torch.cat([score(rollout(model, z[at], past[at], plans[at]), at) for at in parts])

    for objective in ("final", "sum"):
        config = PlannerConfig(objective=objective)
        expected = latent_cost(plain_rollout(model)(z, past), goal, config)(plans)
        torch.testing.assert_close(latent_cost(one_by_one, goal, config)(plans), expected)


def test_every_frame_costs_on_the_way_to_every_goal_what_it_would_as_the_end_of_a_plan() -> None:
    rng = np.random.default_rng(0)
    frames, goals = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)

    def score(latents: Tensor, goal: Tensor) -> Tensor:
        assert latents.shape[2] == 1  # one block
        return (2 * latents[:, :, 0] - goal[:, None]).abs().sum(-1)  # not the same there and back

    expected = np.abs(2 * frames[None] - goals[:, None]).sum(-1)
    for last in (True, False):
        found = frame_costs(Objective(score, last), torch.from_numpy(frames), torch.from_numpy(goals))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("change", [{"arithmetic": "int8"}, {"arithmetic": "bfloat16"}, {"compile": True}])
def test_a_model_without_a_faster_way_refuses_other_arithmetic(change: dict) -> None:
    model, cpu = Linear(1, [1.0], [0.5]), torch.device("cpu")
    for make in (default_rollout, lambda model, config: PlanningAgent(model, config, cpu)):
        with pytest.raises(
            UserError, match=r"plain float32 only; leave planner\.arithmetic and planner\.compile alone"
        ):
            make(model, PlannerConfig(**change))
        make(model, PlannerConfig()), make(model, PlannerConfig(rollout="reference"))
    own = plain_rollout(model)
    assert PlanningAgent(model, PlannerConfig(**change), cpu, own).rollout is own


def test_planning_through_a_model_reaches_the_goal() -> None:
    """z' = z + 0.5 * mean block from 0 to 1 in two blocks: the means of the blocks add up to 2."""
    model, config = Linear(1, [1.0], [0.5]), FAST.model_copy(update={"num_iterations": 40})
    search = plain_rollout(model)(torch.zeros(1, 1, 4), torch.zeros(1, 0, 3))
    cost = latent_cost(search, torch.ones(1, 4), config)
    plan = cem(cost, zeros(1), config, rngs(0))
    assert plan.actions.mean(-1).sum().item() == pytest.approx(2, abs=0.02)
