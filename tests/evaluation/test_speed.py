"""Timing of plans: what is counted by hand, what is timed of a long plan, and that every row has its turn."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_bench import agent
from lewm_bench.agents.dino_wm import ENCODED_TOGETHER, ReencodingAgent
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.evaluation import speed
from lewm_bench.evaluation.flops import counter
from lewm_bench.evaluation.speed import Case, Method, SpeedConfig, count_flops, method_of, plan_once, settle, share
from lewm_bench.planning import replan
from lewm_bench.planning.agent import PlanningAgent
from lewm_bench.planning.company import Company
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.fast import linears
from lewm_bench.planning.fast.dino_wm import PackedDinoWM
from lewm_bench.planning.fast.lewm import PackedLeWM
from lewm_bench.run import benchmarks as suite
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Suite, resolve
from lewm_bench.system.checkpoint import save_checkpoint

CPU = torch.device("cpu")
SMALL = {"width": 16, "depth": 2, "heads": 2, "head_size": 4, "mlp_hidden": 20}
LEWM = SMALL | {"encoder": "cnn", "latent": 12, "projector_hidden": 24}
DINO = SMALL | {"encoder": "lowpass", "conditioning": "adaln", "local": {"width": 16, "depth": 1, "channels": 8}}
PREFIX = {"prefix_depth": 2, "prefix_heads": 2, "prefix_head_size": 3, "prefix_mlp_hidden": 18, "fusion_hidden": 14}
NETWORKS = {"lewm": LEWM, "pldm": LEWM, "fast-lewm": LEWM | PREFIX, "dino-wm": DINO}
METHODS = SpeedConfig().methods
BLOCK = 10  # numbers of an action block: 5 steps of 2
MODES = ["float32", "bfloat16", "reference", pytest.param("int8", marks=pytest.mark.skipif(not linears.has_int8(), reason="no int8"))]  # fmt: skip


SHORT = {"horizon": 3, "receding": 3}  # as long as the history: every layer works, and windows move


def cem(**changes) -> PlannerConfig:
    return PlannerConfig(**{"num_samples": 8, "num_elites": 3, "num_iterations": 2} | changes)


@cache
def network(method: str, size: int = 32):
    return named(method).model(size, CPU)


def named(name: str, networks=NETWORKS) -> Method:
    family, agent = agent_family(name), parse_agent(name)
    return method_of(name, family, family.configure(networks.get(agent.base, {}), agent.variant))


def case(method: str = "lewm", mode: str = "float32", *, size=32, batch=1, context=1, model=None, **changes) -> Case:
    config, model = cem(**changes), network(method, size) if model is None else model
    own = named(method)
    return Case(own, mode, model, own.agent(model, mode, config, CPU), config, size, batch, context, "random")


def linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


def lewm_flops(
    depth_inner: dict[str, int], last: dict[str, int], conditions: int, predictions: int, entered: int
) -> int:
    """Of one candidate, from how often each layer of an inner and of the last block sees a token."""
    W, inner, D, hidden = 16, 2 * 4, 12, 24
    each = {
        "modulation": linear(W, 6 * W), "query": linear(W, inner), "key_value": linear(W, 2 * inner),
        "out": linear(inner, W), "alone": linear(W, W), "mlp": 2 * linear(W, 20),
        "attention": 2 * (4 + 4) * 2,  # a query and a key of both heads
    }  # fmt: skip
    blocks = sum(each[name] * (depth_inner[name] + last[name]) for name in each)
    condition = linear(BLOCK, 10) + linear(10, 4 * W) + linear(4 * W, W)
    ends = entered * linear(D, W) + predictions * (linear(W, hidden) + linear(hidden, D))
    return blocks + conditions * condition + ends


# Windows of 1, 2, 3, 3, 3 frames: 12 tokens in five predictions, and in the last block only the last one's query.
REFERENCE = (
    {"modulation": 12, "query": 12, "key_value": 12, "out": 12, "alone": 0, "mlp": 12, "attention": 1 + 4 + 3 * 9},
    {"modulation": 12, "query": 12, "key_value": 12, "out": 5, "alone": 0, "mlp": 5, "attention": 12},
)
# Frames 0 to 4 stand at the positions 0; 1, 0; 2, 1, 0; 2, 1; 2. One at position 0 sees only itself: one matrix, also in
# the last block, where later frames attend relative to it. The products of attention are elementwise and not counted.
FAST = (
    {"modulation": 5, "query": 6, "key_value": 6, "out": 6, "alone": 3, "mlp": 9, "attention": 0},
    {"modulation": 5, "query": 4, "key_value": 6, "out": 4, "alone": 3, "mlp": 5, "attention": 0},
)


def test_the_operations_of_the_plain_loop_are_those_of_its_windows():
    expected = lewm_flops(*REFERENCE, conditions=12, predictions=5, entered=12)
    assert count_flops(case(mode="reference"))[1] == expected * 8 * 2


def test_the_operations_of_the_fast_path_are_those_of_its_entries():
    expected = lewm_flops(*FAST, conditions=5, predictions=5, entered=5)
    assert count_flops(case())[1] == expected * 8 * 2


def test_the_operations_of_encoding_are_those_of_context_and_goal():
    convolutions = 8 * 8 * linear(3 * 16, 16) + 4 * 4 * linear(16 * 9, 32) + 2 * 2 * linear(32 * 9, 32)
    frame = convolutions + linear(128, 128) + linear(128, 24) + linear(24, 12)
    assert count_flops(case())[0] == 2 * frame
    assert count_flops(case(mode="reference", context=3, batch=2))[0] == 2 * 4 * frame


def fast_lewm_flops(first: int, last: int, predicted: int) -> tuple[int, int]:
    """Of an episode and of one candidate of the fast path, by how many tokens have queries and by predictions.

    The products of attention are elementwise and not counted.
    """
    W, inner, D, mlp = 16, 2 * 3, 12, 2 * linear(16, 18)
    action = linear(BLOCK, 32) + linear(32, 4 * W) + linear(4 * W, W)
    queried = linear(W, inner) + linear(inner, W) + mlp
    prefix = 5 * action + 2 * 5 * linear(W, 2 * inner) + (first + last) * queried
    block = linear(W, W) + 2 * linear(W, 20) + linear(W, 6 * W)
    prediction = linear(3 * W, 14) + linear(14, W) + 2 * block + linear(W, 24) + linear(24, D)
    episode = linear(D, 4 * W) + linear(4 * W, W) + 2 * linear(W, W) + mlp + linear(D, W)
    return episode, prefix + predicted * prediction


@pytest.mark.parametrize(("objective", "last", "predicted"), [("final", 1, 1), ("sum", 5, 5)])
def test_the_operations_of_fast_lewm_are_those_of_its_prefixes(objective, last, predicted):
    episode, candidate = fast_lewm_flops(5, last, predicted)
    counted = count_flops(case("fast-lewm", objective=objective, batch=3))[1]
    assert counted == 3 * (episode + candidate * 8 * 2)


def dino_flops(tokens: int, fast: bool) -> int:
    """Of one candidate of DINO-WM, from how many frames each layer sees; the attention is over frames x tokens."""
    W, inner, C, P = 16, 2 * 4, 8, tokens
    entered, kept, queried, modulated = (5, 9 + 9, 9 + 5, 5 + 5) if fast else (12, 12 + 12, 12 + 12, 12 + 12)
    seen = 18 + 12 if fast else 32 + 12
    out = 9 + 5 if fast else 12 + 5
    each = queried * linear(W, inner) + kept * linear(W, 2 * inner) + out * (linear(inner, W) + 2 * linear(W, 20))
    attention = seen * P * P * 2 * (4 + 4) * 2
    ends = entered * (P * linear(C, W) + linear(BLOCK, W)) + 5 * P * linear(W, C)
    return P * each + attention + modulated * linear(W, 6 * W) + ends


@pytest.mark.parametrize("mode", ["float32", "reference"])
def test_the_operations_of_dino_wm_grow_with_its_tokens(mode):
    counted = {}
    for size in (32, 64):
        c = case("dino-wm", mode, size=size)
        tokens = c.model.tokens_per_frame
        counted[tokens] = count_flops(c)[1]
        assert counted[tokens] == dino_flops(tokens, mode == "float32") * 8 * 2
    assert list(counted) == [4, 16] and counted[16] / counted[4] > 4  # attention grows with the square


@pytest.mark.parametrize("method", ["lewm", "fast-lewm", "dino-wm", "dino-wm:reencode"])
@pytest.mark.parametrize("context", [1, 3])
def test_the_fast_path_takes_fewer_operations(method, context):
    fast, plainly = (count_flops(case(method, mode, context=context, **SHORT)) for mode in ("float32", "reference"))
    assert fast[1] < plainly[1] and fast[0] == plainly[0]


@pytest.mark.parametrize(
    "method, mode", [("lewm", "float32"), ("dino-wm", "float32"), ("dino-wm:reencode", "reference")]
)
def test_operations_are_proportional_to_samples_iterations_and_batch(method, mode):
    one = count_flops(case(method, mode, num_samples=4, num_iterations=1))[1]
    assert count_flops(case(method, mode, num_samples=28, num_iterations=1))[1] == 7 * one
    assert count_flops(case(method, mode, num_samples=4, num_iterations=5))[1] == 5 * one
    assert count_flops(case(method, mode, num_samples=4, num_iterations=1, batch=3))[1] == 3 * one


@pytest.mark.parametrize("method", ["lewm", "dino-wm:reencode"])
def test_what_is_tried_once_is_neither_counted_nor_timed(method, monkeypatch):
    c = case(method, batch=3, num_samples=37, num_elites=5, num_iterations=3)
    expected = count_flops(c)
    company = Company()
    agent = PlanningAgent if method == "lewm" else ReencodingAgent
    asked = replace(c, agent=agent(c.model, c.planner, CPU, c.agent.rollout, company=company))
    assert count_flops(asked) == expected

    part = share(asked, SpeedConfig(seconds=60, plans=3))
    settle(asked, part.planner)
    monkeypatch.setattr(company, "alike", lambda what, shape, of: Company.alike(company, what, shape, fail))
    for number in range(3):
        plan_once(asked, number, part.planner)


def fail(_: slice) -> torch.Tensor:
    raise AssertionError("tried while a plan is timed")


@pytest.mark.parametrize("method", ["lewm", "fast-lewm", "dino-wm", "dino-wm:reencode"])
@pytest.mark.parametrize(
    "mode, context",
    [("reference", 1), ("reference", 3), ("float32", 1), ("float32", 3)],
)
def test_the_count_is_that_of_a_whole_search(method, mode, context):
    c = case(method, mode, context=context, batch=2, num_samples=37, num_elites=5, num_iterations=3, **SHORT)
    goals, past = speed.situation(c.model, c)
    with counter() as encoding:
        controller = c.agent.start(goals, [stream(0, "a"), stream(0, "b")])
        encoded = controller.encode(past)
    with counter() as searching:
        controller.search(encoded)
    assert count_flops(c) == (encoding.get_total_flops(), searching.get_total_flops())


@pytest.mark.parametrize("method", ["lewm", "fast-lewm", "dino-wm"])
def test_packed_layers_are_counted_like_plain_ones(monkeypatch, method):
    packed = count_flops(case(method))
    monkeypatch.setattr(linears, "has_onednn", lambda: False)
    assert count_flops(case(method)) == packed
    assert count_flops(case(method, "bfloat16")) == packed
    if linears.has_int8():
        assert count_flops(case(method, "int8")) == packed


def timing(encode: float, call: float, each: float, first: float = 0.0):
    """A ``plan_once`` that takes ``call + each * samples * iterations`` and ``first`` more at a new number of samples."""
    seen = set()

    def once(case, number, planner=None):
        planner = planner or case.planner
        extra = 0.0 if planner.num_samples in seen else first
        seen.add(planner.num_samples)
        return encode, extra + call + each * planner.num_samples * planner.num_iterations

    return once


WHOLE = PlannerConfig()  # 300 samples, 30 iterations, 30 elites


ALONE = SimpleNamespace(company=None)  # a CPU's agent


def chosen(monkeypatch, whole: float, seconds: float, *, encode=0.0, plans=50, first=0.0, mode="float32"):
    """The share of a plan that takes ``whole`` seconds within a budget."""
    monkeypatch.setattr(speed, "plan_once", timing(encode, 0.0, whole / 9000, first))
    found = share(SimpleNamespace(planner=WHOLE, mode=mode, agent=ALONE), SpeedConfig(seconds=seconds, plans=plans))
    return found.planner.num_samples, found.planner.num_iterations, found.plans


@pytest.mark.parametrize(
    "whole, encode, expected",
    [
        (0.01, 0.0, (300, 30, 50)),  # as many as asked for
        (0.4, 0.1, (300, 30, 20)),  # as many as fit
        (2.4, 0.0, (300, 30, 4)),
        (5.1, 0.0, (300, 14, 3)),  # 4 times 14 of 30 iterations fit into 10 seconds, 15 do not
        (5.1, 1.25, (300, 7, 3)),
        (30.0, 0.0, (300, 2, 3)),
        (74.0, 0.0, (300, 1, 3)),
        (300.0, 0.0, (75, 1, 3)),
        (300.0, 1.25, (37, 1, 3)),
    ],
)
def test_what_is_timed_of_a_plan(monkeypatch, whole, encode, expected):
    assert chosen(monkeypatch, whole, 10.0, encode=encode) == expected


@pytest.mark.parametrize("whole, encode", [(1e4, 0.0), (1e6, 0.0), (5.0, 100.0)])
def test_never_fewer_candidates_than_elites(monkeypatch, whole, encode):
    monkeypatch.setattr(speed, "plan_once", timing(encode, 0.0, whole / 9000))
    found = share(SimpleNamespace(planner=WHOLE, mode="float32", agent=ALONE), SpeedConfig(seconds=10.0))
    assert 2 <= found.planner.num_elites <= found.planner.num_samples <= 30 and found.planner.num_iterations == 1
    assert found.plans == 3 and found.factor(WHOLE) == 30 * 300 / found.planner.num_samples


@pytest.mark.parametrize("plans", [3, 7])
def test_at_least_three_plans_and_at_most_those_asked_for(monkeypatch, plans):
    assert chosen(monkeypatch, 0.01, 10.0, plans=plans) == (300, 30, plans)
    assert chosen(monkeypatch, 2.4, 10.0, plans=3) == (300, 30, 3)


def test_what_only_the_first_call_takes_is_not_taken_for_a_plans_time(monkeypatch):
    assert chosen(monkeypatch, 1.0, 60.0, first=20.0, mode="compile") == (300, 30, 50)


@given(
    encode=st.floats(0, 5), call=st.floats(0, 1), each=st.floats(1e-9, 1.0), seconds=st.floats(0.01, 100),
    plans=st.integers(3, 60), samples=st.integers(2, 400), iterations=st.integers(1, 40), elites=st.integers(2, 40),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_is_timed_gives_the_whole(encode, call, each, seconds, plans, samples, iterations, elites):
    whole = PlannerConfig(num_samples=max(samples, elites), num_elites=elites, num_iterations=iterations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "plan_once", timing(encode, call, each))
        found = share(
            SimpleNamespace(planner=whole, mode="float32", agent=ALONE), SpeedConfig(seconds=seconds, plans=plans)
        )
    part = found.planner
    assert part == whole.model_copy(update=part.model_dump(include={"num_samples", "num_iterations", "num_elites"}))
    assert 1 < part.num_elites <= part.num_samples <= whole.num_samples and 1 <= part.num_iterations <= iterations
    assert 3 <= found.plans <= plans and (found.plans == 3 or part == whole)
    assert part.num_samples == whole.num_samples or part.num_iterations == 1
    if part != whole:  # what a call costs beside its arithmetic is then counted too often, never too seldom
        truth = call + each * whole.num_samples * iterations
        estimate = found.factor(whole) * (call + each * part.num_samples * part.num_iterations)
        assert estimate >= truth * (1 - 1e-9)
    exact = found.factor(whole) * each * part.num_samples * part.num_iterations
    assert exact == pytest.approx(each * whole.num_samples * iterations)
    if found.plans > 3:
        assert (
            found.plans * (encode + call + each * whole.num_samples * iterations) <= seconds + iterations * call + 1e-6
        )


OVERRIDES = [
    "image_size=32", "planner={num_samples: 6, num_iterations: 2, num_elites: 3, horizon: 3, receding: 2}",
    "speed={plans: 3, seconds: 4, samples: [4, 2], horizons: [1, 5], batches: [2], image_sizes: [48, 32]}",
    *(f"{name}.{key}={value}" for name in ("lewm", "dino-wm") for key, value in SMALL.items()),
    *(f"fast-lewm.{key}={value}" for key, value in PREFIX.items()),
    *(f"{name}.{key}={value}" for name in ("pldm", "fast-lewm") for key, value in SMALL.items()),
    *(f"{name}.latent=12" for name in ("lewm", "pldm", "fast-lewm")), "lewm.encoder=stem-vit", "dino-wm.local={width: 16, depth: 1, channels: 8}",
]  # fmt: skip


def resolved(*more: str) -> Suite:
    return resolve(suite.load(suite.find_file(None)), "speedup", "quick", overrides=[*OVERRIDES, *more])


def measured(*more: str, checkpoint=None):
    it = resolved(*more)
    return speed.measure(it.settings, timed(it), "quick", CPU, checkpoint)


def timed(it: suite.Suite) -> list[Method]:
    return [method_of(name, agent_family(name), it.agent_config(name)) for name in it.settings.speed.methods]


@pytest.fixture()
def small_peak(monkeypatch):
    monkeypatch.setattr(
        speed, "gemm_peak", lambda arithmetic, device: {"float32": 1e9, "int8": 4e9}.get(arithmetic, 2e9)
    )


def test_every_row_is_measured(small_peak):
    rows = measured("speed.modes=[float32, reference]", "speed.seconds=0.3")
    table = [r for r in rows if not r.sweep]
    assert [(r.method, r.mode, r.image_size) for r in table] == [
        *((method, mode, 32) for method in METHODS for mode in ("float32", "reference")),
        ("lewm", "float32", 48), ("dino-wm", "float32", 48),
    ]  # fmt: skip
    swept = [(r.method, r.sweep, r.num_samples, r.horizon, r.batch) for r in rows if r.sweep]
    assert swept == [
        (method, *place)
        for method in ("lewm", "dino-wm")
        for place in (("num_samples", 4, 3, 1), ("num_samples", 2, 3, 1), ("horizon", 6, 1, 1), ("horizon", 6, 5, 1),
                      ("batch", 6, 3, 2))
    ]  # fmt: skip
    assert {r.tokens_per_frame for r in table if "dino-wm" in r.method and r.image_size == 32} == {4}
    assert {r.tokens_per_frame for r in table if r.method == "dino-wm" and r.image_size == 48} == {9}
    for r in rows:
        assert (
            r.weights == "random" and r.profile == "quick" and r.label.startswith(r.card.name) and r.peak_flops == 1e9
        )
        assert len(r.encode_seconds) == len(r.search_seconds) >= 3 and (r.sweep or len(r.search_seconds) == 3)
        assert min(r.encode_seconds) > 0 and min(r.search_seconds) > 0
        assert r.hardware["device"] == "cpu" and r.versions["torch"] == torch.__version__
        assert r.encode_flops > 0 and r.search_flops > 0 and r.context == 1 and r.num_iterations == 2
    lewm, dino = (next(r for r in rows if r.method == name) for name in ("lewm", "dino-wm"))
    built = {m.name: m.model(32, CPU) for m in timed(resolved())}
    assert lewm.parameters == sum(p.numel() for p in built["lewm"].parameters())
    assert dino.parameters == sum(p.numel() for p in built["dino-wm"].parameters())


def test_every_rows_planner_is_valid():
    it = resolved("speed.modes=[float32, reference]", "speed.horizons=[1, 5]", "speed.samples=[2, 9]")
    for c in speed.cases(it.settings, timed(it), CPU, None):
        assert PlannerConfig(**c.planner.model_dump()) == c.planner and c.agent.config == c.planner


def test_rows_take_turns(monkeypatch, small_peak):
    order: list[tuple] = []
    fake = timing(0.001, 0.0, 0.01)  # 0.12 seconds for a plan of the table

    def once(case, number, planner=None):
        place = case.method.name, case.mode, case.sweep, case.planner.num_samples, case.planner.horizon, case.image_size
        order.append((place, number))
        return fake(case, number, planner)

    def counted(case):
        order.clear()  # what follows the last preparation is measured
        return 1, 1

    monkeypatch.setattr(speed, "plan_once", once)
    monkeypatch.setattr(speed, "count_flops", counted)
    rows = measured("speed.modes=[float32, reference]", "speed.plans=5")
    places = list(dict.fromkeys(place for place, _ in order))
    assert len(places) == len(rows) and len(order) == sum(len(r.search_seconds) for r in rows)
    first = {p: min(i for i, (q, _) in enumerate(order) if q == p) for p in places}
    last = {p: max(i for i, (q, _) in enumerate(order) if q == p) for p in places}
    assert max(first.values()) < min(last.values())  # nobody is done before everybody has begun
    assert all(a[0] != b[0] for a, b in pairwise(order))
    table = {p: [number for q, number in order if q == p] for p in places if not p[2]}
    assert len(table) == 12 and all(numbers == [0, 1, 2, 3, 4] for numbers in table.values())


def test_what_takes_too_long_is_extrapolated(monkeypatch, small_peak):
    monkeypatch.setattr(speed, "plan_once", timing(0.5, 0.0, 1.0))  # 40.5 seconds for a plan
    monkeypatch.setattr(speed, "count_flops", lambda case: (1, 1))

    def one(seconds):
        one = f"speed={{methods: [pldm], modes: [float32], seconds: {seconds}, plans: 9}}"
        (row,) = measured(one, "planner.num_samples=20")
        assert row.num_samples == 20 and row.num_iterations == 2 and set(row.encode_seconds) == {0.5}
        assert row.search_seconds == pytest.approx([40.0] * len(row.encode_seconds))
        return row.timed_samples, row.timed_iterations, len(row.plan_seconds), row.extrapolated

    assert one(62) == (15, 1, 3, True)
    assert one(90) == (20, 1, 3, True)
    assert one(200) == (20, 2, 4, False)


def test_operations_of_a_compiled_search_are_not_counted(monkeypatch, small_peak):
    monkeypatch.setattr(speed, "plan_once", timing(0.001, 0.0, 0.001))
    (row,) = measured("speed={methods: [pldm], modes: [compile]}")
    assert row.mode == "compile" and row.encode_flops is None and row.search_flops is None and row.peak_flops == 1e9


def checkpoint(folder, name: str = "lewm", size: int = 32):
    it = resolved("lewm.depth=3")  # other than the profile's
    model = next(m for m in timed(it) if m.name == "lewm").model(size, CPU)
    model.action_scale.std.fill_(7.0)
    card = {"agent": name, "config": model.config.model_dump(mode="json"), "image_size": size, "action_dim": 2}
    save_checkpoint(folder, model, card)
    return model


def test_a_checkpoint_takes_lewms_place(tmp_path, small_peak):
    model = checkpoint(tmp_path)
    method, found, size = speed.trained(tmp_path, timed(resolved()), CPU)
    assert method.name == "lewm" and method.config == found.config and size == 32 and not found.training
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), model.state_dict().values(), strict=True))
    quick = "speed={methods: [lewm, pldm], modes: [float32], samples: [], horizons: [], batches: [2]}"
    rows = measured(quick, checkpoint=tmp_path)
    assert [(r.method, r.image_size, r.sweep, r.weights) for r in rows] == [
        ("lewm", 32, "", "trained"), ("lewm", 32, "batch", "trained"), ("pldm", 32, "", "random"),
        ("lewm", 48, "", "random"),
    ]  # fmt: skip
    parameters = sum(p.numel() for p in model.parameters())
    assert rows[0].parameters == rows[1].parameters == parameters > rows[2].parameters


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    checkpoint(tmp_path, "gcbc")
    with pytest.raises(UserError, match=r"holds gcbc, which is not timed; name it in --methods"):
        measured(checkpoint=tmp_path)
    with pytest.raises(UserError, match="not a checkpoint"):
        measured(checkpoint=tmp_path / "absent")


def test_a_checkpoint_that_no_row_can_use_is_refused(tmp_path, small_peak):
    checkpoint(tmp_path, size=64)
    with pytest.raises(UserError):
        measured("speed={methods: [lewm], modes: [float32], image_sizes: []}", checkpoint=tmp_path)


@pytest.fixture()
def noises(monkeypatch) -> list[list[np.ndarray]]:
    """What every search draws first, per episode."""
    drawn, search = [], replan.solve

    def listening(cost, mean, config, rngs, kept):
        drawn.append([copy.deepcopy(rng).standard_normal(8) for rng in rngs])
        return search(cost, mean, config, rngs, kept)

    monkeypatch.setattr(replan, "solve", listening)
    return drawn


def test_a_plans_noise_is_that_of_its_number(noises):
    small = case(batch=2, num_iterations=1)
    for c, number in ((small, 4), (small, 4), (small, 5), (case("dino-wm", "reference", batch=2), 4)):
        plan_once(c, number)
    same, again, other, elsewhere = noises
    assert np.array_equal(same, again) and np.array_equal(same, elsewhere)
    assert len(same) == 2 and not np.array_equal(same[0], same[1]) and not np.array_equal(same, other)


def test_a_situation_is_random_and_the_same_for_every_method():
    goals, past = speed.situation(network("lewm"), case(batch=2, context=3))
    assert past.frames.shape == (2, 3, 3, 32, 32) and past.actions.shape == (2, 2, BLOCK)
    assert goals.frames.shape == (2, 3, 32, 32) and goals.frames.dtype == past.frames.dtype == torch.uint8
    everything = torch.cat([past.frames.flatten(0, 1), goals.frames]).flatten(1)
    assert len(everything.unique(dim=0)) == 8
    others, past_of_others = speed.situation(network("dino-wm"), case("dino-wm", batch=2, context=3))
    assert torch.equal(goals.frames, others.frames) and torch.equal(past.frames, past_of_others.frames)
    assert torch.equal(past.actions, past_of_others.actions)


def test_a_plan_may_be_a_part(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        replan, "solve", lambda cost, mean, config, *_: shapes.append(config) or SimpleNamespace(actions=mean)
    )
    c = case()
    plan_once(c, 0)
    plan_once(c, 0, cem(num_samples=5, num_iterations=1))
    assert [(s.num_samples, s.num_iterations) for s in shapes] == [(8, 2), (5, 1)]


@pytest.mark.parametrize("mode", ["float32", "reference"])
@pytest.mark.parametrize("batch, context", [(1, 1), (2, 2)])
def test_encoding_again_costs_frames_and_changes_nothing(monkeypatch, mode, batch, context):
    model = network("dino-wm")
    c = case("dino-wm:reencode", mode, batch=batch, context=context, num_samples=40, num_iterations=3, model=model)
    assert isinstance(c.agent, ReencodingAgent)
    goals, past = speed.situation(model, c)
    seen, encode = [], model.encode

    def counting(frames):
        seen.append(frames)
        return encode(frames)

    monkeypatch.setattr(model, "encode", counting)

    def act(kind):
        seen.clear()
        it = kind(model, c.planner, CPU, c.agent.rollout)
        controller = it.start(goals, [stream(0, "test", i) for i in range(batch)])
        actions = controller.search(controller.encode(past))
        return actions, sum(f.shape[0] * f.shape[1] for f in seen)

    once = batch * (context + 1)
    plainly, few = act(agent.PlanningAgent)
    again, many = act(ReencodingAgent)
    assert few == once and many == once + 3 * 40 * batch * context
    assert np.array_equal(plainly, again)
    assert max(len(f) for f in seen) == ENCODED_TOGETHER
    for episode in range(batch):
        own = sum(len(f) for f in seen[2:] if torch.equal(f, past.frames[episode][None].expand(len(f), -1, -1, -1, -1)))
        assert own == 3 * 40


@pytest.mark.parametrize("mode", [*MODES, "compile"])
def test_the_mode_says_what_computes(mode):
    c = case("dino-wm" if mode == "compile" else "lewm", mode)
    assert isinstance(c.agent.rollout, PackedLeWM | PackedDinoWM) == (mode != "reference")
    assert c.arithmetic == (mode if mode in ("bfloat16", "int8") else "float32")
    if mode != "reference":
        assert c.agent.rollout.arithmetic == c.arithmetic and (c.agent.rollout.compiled is None) == (mode != "compile")


@pytest.mark.parametrize("method, kind", [("lewm", "LeWM"), ("pldm", "PLDM"), ("fast-lewm", "FastLeWM"), ("dino-wm", "DinoWM"), ("dino-wm:reencode", "DinoWM")])  # fmt: skip
def test_models_are_untrained_and_always_the_same(method, kind):
    torch.manual_seed(1)
    one = named(method).model(32, CPU)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = named(method).model(32, CPU)
    assert type(one).__name__ == kind and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not one.training and not any(p.requires_grad for p in one.parameters())


def test_modes_of_devices(monkeypatch):
    monkeypatch.setattr(speed, "has_int8", lambda: True)
    assert speed.modes_of(CPU) == ("float32", "int8", "reference")
    monkeypatch.setattr(speed, "has_int8", lambda: False)
    assert speed.modes_of(CPU) == speed.modes_of(torch.device("mps")) == ("float32", "reference")
    assert speed.modes_of(torch.device("cuda")) == ("float32", "tf32", "bfloat16", "reference")


@pytest.mark.parametrize("arithmetic", ["float32", *MODES[:2], MODES[3]])
def test_the_peak_is_the_fastest_product(monkeypatch, arithmetic):
    ones, clock = torch.ones, iter(np.cumsum([n % 11 + 2.0 for n in range(100)]))
    monkeypatch.setattr(torch, "ones", lambda *shape, **options: ones(64, 64, **options))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    peak = speed.gemm_peak(arithmetic, CPU)
    monkeypatch.undo()
    assert np.isfinite(peak) and 2 * 2048**3 / peak == 2.0  # the shortest step of that clock


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("speed.methods=[lewm, dino]", "no agent named 'dino'"),
        ("speed.methods=[gcbc]", "gcbc cannot be timed: speed is about world models"),
        ("speed.modes=[float64]", "speed.modes"),
        ("speed.plans=2", "speed.plans"),
        ("speed.seconds=0", "speed.seconds"),
        ("speed.batch=0", "speed.batch"),
        ("speed.context=0", "speed.context"),
        ("speed.sample=[1]", "did you mean 'speed.samples'"),
    ],
)
def test_wrong_settings_are_named(wrong, says):
    with pytest.raises(UserError, match=says.replace("[", r"\[")):
        timed(resolved(wrong))


@pytest.mark.parametrize("method", ["lewm", "dino-wm"])
@pytest.mark.parametrize("solver", ["icem", "mppi", "shooting", "adam"])
def test_the_operations_of_every_solver_are_those_of_a_whole_search(method, solver):
    """Counted on few candidates, against a count of all of them; a gradient is a forward and a backward pass."""
    mode = "reference" if solver == "adam" else "float32"
    c = case(method, mode, solver=solver, num_samples=24, num_iterations=4, num_elites=4, **SHORT)
    goals, past = speed.situation(c.model, c)
    controller = c.agent.start(goals, [stream(0, "test")])
    encoded = controller.encode(past)
    with counter() as counted:
        controller.search(encoded)
    assert count_flops(c)[1] == counted.get_total_flops()
    if solver == "adam":
        plans = count_flops(case(method, mode, num_samples=24, num_iterations=4, num_elites=4, **SHORT))[1] / (24 * 4)
        assert counted.get_total_flops() == pytest.approx((2 * 8 * 4 + 8) * plans, rel=0.05)
