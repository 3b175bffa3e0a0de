"""Packed predictors against the plain loop: the same costs, the same plans, whoever else is planned beside them."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shaken import shaken
from torch import Tensor, nn

from lewm_bench.agent import PlanningAgent
from lewm_bench.agents.dino_wm import DinoWM, DinoWMConfig
from lewm_bench.agents.lewm import LEWM, LeWM, LeWMConfig
from lewm_bench.agents.parts.encoders import LocalConfig, LocalEncoder
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman
from lewm_bench.core.types import Goals, Past, Plan
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import latent_cost, plain_rollout
from lewm_bench.planning.fast import engine, linears
from lewm_bench.planning.fast.dino_wm import PackedDinoWM
from lewm_bench.planning.fast.engine import PackedModel, entries
from lewm_bench.planning.fast.lewm import PackedLeWM, _weights
from lewm_bench.planning.fast.linears import has_int8, has_onednn

CPU = torch.device("cpu")
BLOCK = 6  # numbers of an action block
LEWM_SMALL = LeWMConfig(
    encoder="cnn", latent=12, projector_hidden=24, width=16, depth=3, heads=2, head_size=4, mlp_hidden=32, frame_skip=2
)
LEWM_QUICK = LEWM_SMALL.model_copy(
    update={
        "latent": 32,
        "projector_hidden": 512,
        "width": 64,
        "depth": 2,
        "heads": 4,
        "head_size": 16,
        "mlp_hidden": 256,
    }
)
DINO_SMALL = DinoWMConfig(
    encoder="lowpass",
    local=LocalConfig(width=16, depth=1, heads=2, channels=8),
    width=16,
    depth=3,
    heads=2,
    head_size=4,
    mlp_hidden=24,
    frame_skip=2,
)
STYLES = {
    "lewm": {"latent": 16},
    "lewm projected": {"latent": 12},
    "dino concat": {"conditioning": "concat", "width": None},
    "dino concat projected": {"conditioning": "concat", "width": 16},
    "dino adaln": {"conditioning": "adaln", "width": None},
    "dino adaln projected": {"conditioning": "adaln", "width": 20},
}
QUICK = PlannerConfig(num_samples=300, num_iterations=3, num_elites=30)
needs_int8 = pytest.mark.skipif(not has_int8(), reason="this torch has no 8-bit linear layers")


@cache
def lewm(config: LeWMConfig) -> LeWM:
    torch.manual_seed(0)
    return shaken(LeWM(config, 32, BLOCK // config.frame_skip))


@cache
def dino(config: DinoWMConfig) -> DinoWM:
    torch.manual_seed(0)
    encoder = LocalEncoder(config.local, "lowpass", 32)  # four tokens
    return shaken(DinoWM(config, encoder, BLOCK // config.frame_skip))


def pair(style: str, **changes) -> tuple[nn.Module, PackedModel]:
    """A small model and its packed predictor."""
    update = {**STYLES[style], **changes}
    if style.startswith("lewm"):
        model = lewm(LEWM_SMALL.model_copy(update=update))
        return model, PackedLeWM(model.parts())
    model = dino(DINO_SMALL.model_copy(update=update))
    return model, PackedDinoWM(model.parts())


class Problem:
    """Random contexts, goals and plans of ``B`` episodes."""

    def __init__(self, model: nn.Module, B: int, T: int, S: int = 5, H: int = 5, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        dino = isinstance(model, DinoWM)
        shape = (model.predictor.num_tokens, model.predictor.size) if dino else (model.config.latent,)
        self.z, self.goal = torch.randn(B, T, *shape, generator=g), torch.randn(B, *shape, generator=g)
        self.past, self.plans = torch.randn(B, T - 1, BLOCK, generator=g), torch.randn(B, S, H, BLOCK, generator=g)

    def costs(self, begin, objective: str = "final") -> Tensor:
        config = PlannerConfig(objective=objective)
        return latent_cost(begin(self.z, self.past), self.goal, config)(self.plans)

    def plan(self, begin, config: PlannerConfig, *episodes: int) -> Plan:
        """The plans of some of the episodes, planned together."""
        at = list(episodes)
        cost = latent_cost(begin(self.z[at], self.past[at]), self.goal[at], config)
        start = torch.zeros(len(at), config.horizon, BLOCK)
        return cem(cost, start, config, [stream(0, "plan", e) for e in at])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def onednn_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "has_onednn", lambda: False)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_entries_are_the_frames_of_the_windows(real: int, horizon: int, history: int) -> None:
    """Step s predicts from frames first..real-1+s; each of these pairs is computed once and no other."""
    first = [max(0, real + s - history) for s in range(horizon)]
    needed = {(f, first[s]) for s in range(horizon) for f in range(first[s], real + s)}
    found = entries(real, horizon, history)
    assert [e.frame for e in found] == sorted({f for f, _ in needed})
    assert Counter((e.frame, w) for e in found for w in e.firsts) == Counter(needed)
    for e in found:
        assert list(e.firsts) == sorted(e.firsts)
        assert e.positions == [e.frame - w for w in e.firsts] and 0 <= min(e.positions) <= max(e.positions) < history
        assert e.over == (max(f for f, w in needed if w == e.firsts[0]) == e.frame)
    for s, e in enumerate(found[-horizon:]):
        assert (e.frame, e.firsts[0]) == (real - 1 + s, first[s])


@pytest.mark.parametrize("history", [1, 2, 3, 4])
@pytest.mark.parametrize("T", [1, 2, 3])
@pytest.mark.parametrize("style", STYLES)
def test_costs_are_those_of_the_plain_loop(style: str, T: int, history: int) -> None:
    model, packed = pair(style, history=history)
    for H in (1, 2, 7):
        for B, objective in ((3, "final"), (3, "sum"), (1, "sum"))[: 3 if H == 2 else 2]:
            problem = Problem(model, B, T, H=H)
            expected = problem.costs(plain_rollout(model), objective)
            assert (expected.std(1) > 1e-3 * expected.mean(1)).all()
            close(problem.costs(packed, objective), expected)


@pytest.mark.parametrize("style", STYLES)
def test_costs_without_onednn(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    onednn_absent(monkeypatch)
    model, packed = pair(style)
    assert packed.sharing == "no"
    problem = Problem(model, 2, 3)
    close(problem.costs(packed), problem.costs(plain_rollout(model)))


@pytest.mark.parametrize(("T", "history"), [(3, 3), (3, 2), (2, 3), (3, 4), (1, 1)])
@pytest.mark.parametrize("style", ["lewm projected", "dino concat", "dino adaln projected"])
def test_costs_depend_on_what_a_window_holds(style: str, T: int, history: int) -> None:
    """Each real frame and each past action of the first window, every block of a plan; nothing older."""
    model, packed = pair(style, history=history)
    problem = Problem(model, 2, T, H=2)
    before = problem.costs(packed)

    def change(what: Tensor) -> Tensor:
        """The relative change of costs when a view into the problem changes."""
        kept = what.clone()
        what += torch.randn(what.shape, generator=torch.Generator().manual_seed(2))
        after = problem.costs(packed)
        what.copy_(kept)
        return ((after - before) / before).abs()

    for t in range(T):
        assert (change(problem.z[:, t]).mean() > 1e-3) == (t >= T - history)
        if t < T - 1:
            assert (change(problem.past[:, t]).mean() > 1e-3) == (t >= T - history)
    for h in range(2):
        assert (change(problem.plans[:, 1, h])[:, 1] > 1e-4).all()
        assert (change(problem.plans[:, 1, h])[:, 0] == 0).all()
    assert (change(problem.goal[1])[1] > 1e-4).all() and (change(problem.goal[1])[0] == 0).all()


@pytest.mark.parametrize("style", ["lewm projected", "dino concat", "dino adaln"])
@pytest.mark.parametrize("onednn", [True, False])
def test_pieces_change_nothing(style: str, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not onednn:
        onednn_absent(monkeypatch)
    model, packed = pair(style)
    sizes = []
    roll_out = packed.roll_out
    monkeypatch.setattr(packed, "roll_out", lambda *a: sizes.append(a[2].shape[:2]) or roll_out(*a))
    for S, T, limits in ((96, 1, (32, 100)), (23, 3, (1, 7, 50))):
        problem = Problem(model, 3, T, S=S, H=3)
        monkeypatch.setattr(packed, "candidates", 1000)
        expected = problem.costs(packed)
        for candidates in limits:
            sizes.clear()
            monkeypatch.setattr(packed, "candidates", candidates)
            actual = problem.costs(packed)
            assert max(b * s for b, s in sizes) <= candidates
            assert sum(b * s for b, s in sizes) == 3 * S
            if packed.sharing == "any size" and S == 96:  # whole vectors
                assert torch.equal(actual, expected)
            close(actual, expected)


def test_the_widest_layer_of_a_piece_stays_within_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for packed, numbers in (
        (PackedLeWM(lewm(LEWM_QUICK).parts()), 3 * 256),
        (PackedLeWM(lewm(LEWM_SMALL.model_copy(update={"heads": 8})).parts()), 3 * 3 * 8 * 4),
        (PackedDinoWM(dino(DINO_SMALL).parts()), 3 * 4 * 24),
    ):
        assert packed.candidates == 2**22 // numbers
    monkeypatch.setitem(engine.CHUNK_NUMBERS, "cpu", 100)
    assert PackedDinoWM(dino(DINO_SMALL).parts()).candidates == 1


def searches(style: str) -> tuple[nn.Module, PackedModel, PlannerConfig]:
    if style == "lewm quick":
        model = lewm(LEWM_QUICK)
        return model, PackedLeWM(model.parts()), QUICK
    wide = {"width": 32} if style == "dino adaln projected" else {}
    return *pair(style, **wide), QUICK.model_copy(
        update={"num_samples": 100, "num_elites": 10, "horizon": 3, "receding": 3}
    )


@pytest.mark.parametrize("style", ["lewm quick", "dino concat", "dino adaln projected"])
@pytest.mark.parametrize("T", [1, 3])
def test_equal_noise_gives_equal_plans(style: str, T: int) -> None:
    model, packed, config = searches(style)
    problem = Problem(model, 3, T)
    fast, slow = (problem.plan(begin, config, 0, 1, 2) for begin in (packed, plain_rollout(model)))
    torch.testing.assert_close(fast.actions, slow.actions, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fast.cost, slow.cost, rtol=1e-3, atol=1e-5)
    assert (slow.actions[0] - slow.actions[1]).abs().max() > 0.1


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("style", ["lewm quick", "dino concat", "dino adaln projected"])
def test_a_plan_does_not_depend_on_the_episodes_beside_it(
    style: str, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: with oneDNN's layers, and one episode at a time without them."""
    if not onednn:
        onednn_absent(monkeypatch)
    model, packed, config = searches(style)
    assert packed.sharing == ("any size" if onednn and has_onednn() else "no")
    problem = Problem(model, 5, 2)
    together = problem.plan(packed, config, *range(5))
    for e in (0, 3, 4) if onednn else (3,):
        alone = problem.plan(packed, config, e)
        assert torch.equal(alone.actions[0], together.actions[e]) and torch.equal(alone.cost[0], together.cost[e])
    some = problem.plan(packed, config, 4, 1)
    assert torch.equal(some.actions, together.actions[[4, 1]])


@pytest.mark.parametrize(("S", "T"), [(300, 1), (300, 2), (300, 3), (33, 2)])
def test_costs_do_not_depend_on_the_episodes_beside_them(S: int, T: int) -> None:
    model, config = lewm(LEWM_QUICK), PlannerConfig()
    packed, problem = PackedLeWM(model.parts()), Problem(model, 5, T, S=S)
    together = problem.costs(packed)
    for e in range(5):
        at = slice(e, e + 1)
        alone = latent_cost(packed(problem.z[at], problem.past[at]), problem.goal[at], config)
        assert torch.equal(alone(problem.plans[at])[0], together[e])


@pytest.mark.parametrize(("first", "second"), [((40, 5), (10, 5)), ((10, 5), (40, 5)), ((10, 1), (10, 5))])
def test_a_search_takes_plans_of_any_number_and_length(first: tuple[int, int], second: tuple[int, int]) -> None:
    model, packed = pair("lewm projected")
    packed.candidates = 50
    problem = Problem(model, 3, 3)
    cost = latent_cost(packed(problem.z, problem.past), problem.goal, PlannerConfig())
    for S, H in (first, second):
        problem.plans = Problem(model, 3, 3, S=S, H=H).plans
        close(cost(problem.plans), problem.costs(plain_rollout(model)))


@pytest.mark.parametrize("style", ["lewm projected", "dino adaln"])
def test_a_search_leaves_its_model_and_its_context_alone(style: str) -> None:
    model, packed = pair(style)
    problem = Problem(model, 2, 3)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    kept = [t.clone() for t in (problem.z, problem.past, problem.goal, problem.plans)]
    cost = latent_cost(packed(problem.z, problem.past), problem.goal, PlannerConfig())
    first = cost(problem.plans)
    close(cost(problem.plans.flip(1)).flip(1), first)  # another iteration of the same search
    assert torch.equal(cost(problem.plans), first)
    for t, before in zip((problem.z, problem.past, problem.goal, problem.plans), kept, strict=True):
        assert torch.equal(t, before)
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


def low_precision(arithmetic: str, model: nn.Module, T: int = 3) -> tuple[Problem, list[Tensor], list[Tensor]]:
    """Costs of three iterations in ``arithmetic`` and in float32."""
    kind = PackedDinoWM if isinstance(model, DinoWM) else PackedLeWM
    problem = Problem(model, 2, T, S=300)
    others = [
        problem.plans,
        *(torch.randn(problem.plans.shape, generator=torch.Generator().manual_seed(i)) for i in (8, 9)),
    ]
    found = []
    for name in (arithmetic, "float32"):
        cost = latent_cost(kind(model.parts(), name)(problem.z, problem.past), problem.goal, PlannerConfig())
        found.append([cost(plans) for plans in others])
    return problem, *found


MODELS = {
    "lewm": lambda: lewm(LEWM_QUICK),
    "dino concat": lambda: dino(DINO_SMALL.model_copy(update={"conditioning": "concat", "width": 64})),
    "dino adaln": lambda: dino(DINO_SMALL.model_copy(update={"conditioning": "adaln", "width": 64})),
}


@needs_int8
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_8_bits_rank_candidates_as_float32_does(model: str, T: int) -> None:
    _, actual, expected = low_precision("int8", MODELS[model](), T)
    for a, e in zip(actual, expected, strict=True):
        assert not torch.allclose(a, e, rtol=1e-4)
        for episode in range(2):
            assert spearman(a[episode].numpy(), e[episode].numpy()) >= 0.99


@needs_int8
def test_ranges_of_8_bits_are_watched_on_some_candidates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PackedLeWM(lewm(LEWM_QUICK).parts(), "int8")
    calls: list[tuple[Tensor, bool]] = []
    roll_out = packed.roll_out
    monkeypatch.setattr(packed, "roll_out", lambda *a: calls.append((a[2], a[3].watching)) or roll_out(*a))
    Problem(lewm(LEWM_QUICK), 1, 1).plan(packed, QUICK, 0)
    assert [(plans.shape[1], watching) for plans, watching in calls] == [(43, True), *[(300, False)] * 3]
    assert torch.equal(calls[0][0], calls[1][0][:, ::7])


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_weights_are_those_of_softmax(frames: int) -> None:
    """Also where a power of e alone would be infinite."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(frames, 2, 50, 3, generator=g) * torch.tensor([1.0, 30.0, 400.0])
    expected = torch.cat([torch.zeros(1, 2, 50, 3), scores]).double().softmax(0)[1:]
    actual = _weights(list(scores.clone()))
    torch.testing.assert_close(torch.stack(actual)[..., 0].double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_ranks_candidates_as_float32_does(model: str) -> None:
    _, actual, expected = low_precision("bfloat16", MODELS[model]())
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and not torch.allclose(a, e, rtol=1e-4)
        for episode in range(2):
            assert spearman(a[episode].numpy(), e[episode].numpy()) >= 0.95


@pytest.mark.parametrize("arithmetic", [pytest.param("int8", marks=needs_int8), "bfloat16"])
@pytest.mark.parametrize("candidates", [128, 5000])
def test_low_precision_plans_do_not_depend_on_the_episodes_beside_them(arithmetic: str, candidates: int) -> None:
    model = lewm(LEWM_QUICK)
    packed = PackedLeWM(model.parts(), arithmetic)
    packed.candidates = candidates  # several pieces, each with ranges of its own, or room for all episodes
    problem = Problem(model, 3, 2)
    problem.z[0] *= 5  # an episode with other ranges
    together = problem.plan(packed, QUICK, 0, 1, 2)
    for e in (1, 2):
        assert torch.equal(problem.plan(packed, QUICK, e).actions[0], together.actions[e])


def test_what_cannot_be_computed_is_refused() -> None:
    model = lewm(LEWM_SMALL)
    with pytest.raises(UserError, match="tf32 is for CUDA, this is cpu"):
        PackedLeWM(model.parts(), "tf32")
    if has_int8():
        with pytest.raises(UserError, match="compile does not go with"):
            PackedLeWM(model.parts(), "int8", True)


def test_lewm_plans_on_the_fast_path_unless_told_otherwise() -> None:
    model = lewm(LEWM_SMALL)
    packed = LEWM.rollout(model, PlannerConfig())
    assert isinstance(packed, PackedLeWM) and packed.arithmetic == "float32" and packed.compiled is None
    assert LEWM.rollout(model, PlannerConfig(arithmetic="bfloat16")).arithmetic == "bfloat16"
    assert not isinstance(LEWM.rollout(model, PlannerConfig(rollout="reference")), PackedModel)


@pytest.mark.parametrize("style", ["lewm projected", "dino adaln"])
def test_an_agent_plans_by_what_it_is_given(style: str) -> None:
    """The same actions from frames, whichever way its model is rolled out."""
    model, packed = pair(style)
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=g)
    nothing = np.empty((2, 0))
    past, goals = Past(frames, torch.randn(2, 2, BLOCK, generator=g), nothing), Goals(frames[:, 0].flip(-1), nothing)
    config = PlannerConfig(num_samples=40, num_iterations=2, num_elites=5, horizon=2, receding=2)
    calls = []

    def counted(*context):
        calls.append(context)
        return packed(*context)

    found = []
    for begin in (None, counted):
        agent = PlanningAgent(model, config, CPU, begin)
        controller = agent.start(goals, [stream(0, "plan", e) for e in range(2)])
        found.append(controller.search(controller.encode(past)))
    assert len(calls) == 1 and calls[0][1].shape == (2, 2, BLOCK)
    assert np.ptp(found[0], 0).max() > 0.1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("style", ["lewm projected", "dino adaln"])
def test_compiled_costs_are_those_of_the_plain_loop(style: str) -> None:
    model, _ = pair(style, depth=2)
    packed = (PackedLeWM if style.startswith("lewm") else PackedDinoWM)(model.parts(), "float32", True)
    problem = Problem(model, 2, 2, H=2)
    with torch.inference_mode():
        close(problem.costs(packed), problem.costs(plain_rollout(model)))
