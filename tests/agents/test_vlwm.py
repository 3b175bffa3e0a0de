"""VLWM: what a prediction may know, its network and loss against loops, its curriculum, and how it plans."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from shaken import shaken
from test_lewm import SMALL, clip
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents import vlwm as module
from lewm_bench.agents.parts.sigreg import directions, sigreg
from lewm_bench.agents.vlwm import VLWM, VLWM_FAMILY, VLWMConfig
from lewm_bench.core.errors import UserError
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import imagined_cost, rollout
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.keys import evaluation_spec, model_spec
from lewm_bench.run.resolve import resolve
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainConfig

CONFIG = VLWMConfig(**{**SMALL.model_dump(), "dropout": 0.0, "depth": 2}, horizon=4)
FRAMES = CONFIG.history + CONFIG.horizon
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes) -> VLWM:
    """With no silent part; gradients flow, running statistics stay."""
    torch.manual_seed(0)
    return shaken(VLWM(CONFIG.model_copy(update=changes), 32, 3)).requires_grad_(True)


def step(index: int = 9, log: bool = False, seed: int = 1) -> Step:
    return Step(index, 10, torch.Generator().manual_seed(seed), log)


def situation(context: int, blocks: int, size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, context, 12), torch.randn(size, context - 1 + blocks, 6)


# The network.


def by_numpy(model: VLWM, latents: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """(H, D): one situation, latents (c, D) and blocks (c - 1 + H, A), in float64 and with explicit loops."""
    p = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    erf = np.vectorize(math.erf)

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def token(block):
        x = p["predictor.action_encoder.patch_embed.weight"][:, :, 0] @ block
        x = linear(x + p["predictor.action_encoder.patch_embed.bias"], "predictor.action_encoder.embed.0")
        return linear(x / (1 + np.exp(-x)), "predictor.action_encoder.embed.2")

    states, blocks = [linear(z, "predictor.state") for z in latents], [token(a) for a in actions]
    tokens = []
    for n, block in enumerate(blocks):  # in turns as long as there are latents
        tokens += ([states[n]] if n < len(states) else []) + [block]
    now = 2 * (len(states) - 1)  # the newest latent's place; that has the same position for every context
    x = np.stack(tokens) + p["predictor.positions"][4 - now :][: len(tokens)]
    for i in range(2):
        name = f"predictor.blocks.{i}"
        q, k, v = np.split(norm(x, f"{name}.norm") @ p[f"{name}.qkv.weight"].T, 3, -1)
        out = np.zeros_like(q)
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            for t in range(len(x)):
                score = np.exp(k[: t + 1, part] @ q[t, part] / np.sqrt(8))
                out[t, part] = score / score.sum() @ v[: t + 1, part]
        x = x + linear(out, f"{name}.out.0")
        x = x + linear(gelu(linear(norm(x, f"{name}.mlp.0"), f"{name}.mlp.1")), f"{name}.mlp.4")
    y = linear(norm(x, "predictor.norm")[now + 1 :], "pred_proj.net.0")
    y = (y - p["pred_proj.net.1.running_mean"]) / np.sqrt(p["pred_proj.net.1.running_var"] + 1e-5)
    return linear(gelu(y * p["pred_proj.net.1.weight"] + p["pred_proj.net.1.bias"]), "pred_proj.net.3")


@torch.no_grad()
@pytest.mark.parametrize(("context", "blocks"), [(1, 1), (1, 4), (2, 3), (3, 4)])
def test_the_network_against_numpy(context: int, blocks: int) -> None:
    model, (z, actions) = small(), situation(context, blocks, 2)
    found = model.predict_ahead(z, actions).numpy()
    assert found.shape == (2, blocks, 12)
    for b in range(2):
        expected = by_numpy(model, z[b].double().numpy(), actions[b].double().numpy())
        np.testing.assert_allclose(found[b], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_prediction_knows_what_is_before_it_and_no_more() -> None:
    model, (z, actions) = small(), situation(3, 4)
    before = model.predict_ahead(z, actions)
    for n in range(6):  # two blocks of the past, four of the plan
        changed = actions.clone()
        changed[:, n] += 1
        difference = (model.predict_ahead(z, changed) - before).abs().amax((0, 2))
        first = max(0, n - 2)
        assert (difference[:first] == 0).all() and (difference[first:] > 1e-4).all()
    for n in range(3):
        changed = z.clone()
        changed[:, n] += 1
        assert ((model.predict_ahead(changed, actions) - before).abs().amax((0, 2)) > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_any_length_is_the_end_of_a_longer_one(length: int) -> None:
    model, (z, actions) = small(), situation(2, 4)
    torch.testing.assert_close(
        model.predict_ahead(z, actions[:, : 1 + length]),
        model.predict_ahead(z, actions)[:, :length],
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_one_block_ahead_of_every_frame() -> None:
    model, (z, actions) = small(), situation(4, 1)
    found = model.predict(z, actions)
    for t in range(4):
        first = max(0, t - 2)  # three frames of context
        expected = model.predict_ahead(z[:, first : t + 1], actions[:, first : t + 1])[:, 0]
        torch.testing.assert_close(found[:, t], expected, rtol=1e-4, atol=1e-5)


# The loss.


@torch.no_grad()
@pytest.mark.parametrize(("context", "k"), [(1, 1), (2, 4), (3, 2)])
def test_the_loss_is_one_prediction_plus_sigreg(monkeypatch, context: int, k: int) -> None:
    model, data, numbers = small(sigreg_weight=0.3), clip(4, FRAMES), [context, k]
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    monkeypatch.setattr(module, "drawn", lambda step, most: numbers.pop(0))
    total, parts = model.loss(data, step())
    z, actions = model.encode(data.frames), model.normalize_actions(data.actions)
    frames, blocks = z.double().numpy(), actions.double().numpy()
    ahead = [by_numpy(model, frames[b, 3 - context : 3], blocks[b, 3 - context : 2 + k])[-1] for b in range(4)]
    error = ((np.stack(ahead) - frames[:, 2 + k]) ** 2).mean()
    regulariser = sigreg(z.transpose(0, 1), directions(16, 12, torch.Generator().manual_seed(1)))
    assert parts["prediction"].item() == pytest.approx(error, rel=1e-3)
    torch.testing.assert_close(parts["sigreg"], regulariser)
    assert total.item() == pytest.approx(error + 0.3 * regulariser.item(), rel=1e-3)
    assert tuple(parts) == VLWM_FAMILY.card.loss_terms


def test_no_gradient_flows_into_the_target(monkeypatch) -> None:
    model, numbers = small(), [3, 2]
    latents = model.encode(clip(4, FRAMES).frames).detach().requires_grad_()
    monkeypatch.setattr(model, "encode", lambda _: latents)
    monkeypatch.setattr(module, "drawn", lambda step, most: numbers.pop(0))
    model.loss(clip(4, FRAMES), step())[1]["prediction"].backward()
    assert (latents.grad[:, :3].abs().amax((0, 2)) > 0).all() and (latents.grad[:, 3:] == 0).all()


def test_gradients_reach_every_parameter(monkeypatch) -> None:
    model, numbers = small(), [3, 4]
    monkeypatch.setattr(module, "drawn", lambda step, most: numbers.pop(0))
    model.loss(clip(4, FRAMES), step())[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize(
    ("progress", "longest"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.4, 2), (0.41, 3), (0.79, 4), (0.81, 5), (1.0, 5)]
)
def test_the_longest_prediction_grows_to_the_end_of_the_training(progress: float, longest: int) -> None:
    assert VLWMConfig().longest(progress) == longest  # ceil(5 progress), from 1


def test_every_length_up_to_the_longest_and_every_context_is_drawn(monkeypatch) -> None:
    model, seen = small(), set()
    forward = model.predictor.forward

    def look(latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        seen.add((latents.shape[1], actions.shape[1] - latents.shape[1] + 1))
        return forward(latents, actions)

    monkeypatch.setattr(model.predictor, "forward", look)
    for index, longest in ((0, 1), (5, 2), (9, 4)):
        seen.clear()
        for seed in range(70):
            with torch.no_grad():
                model.loss(clip(2, FRAMES), step(index, seed=seed))
        assert seen == {(c, n) for c in (1, 2, 3) for n in range(1, longest + 1)}


# Plans.


@torch.no_grad()
@pytest.mark.parametrize("context", [1, 2, 3])
def test_plans_are_imagined_in_as_few_leaps_as_asked(context: int) -> None:
    """Step by step it is the plain loop; a leap of 4 and one of 2 are a prediction each, the second from the first."""
    z, actions = situation(context, 6)
    past, plans = actions[:, : context - 1], actions[:, context - 1 :]
    model = small(planning_blocks=1)
    expected = rollout(model, z, past, plans[:, None])[:, 0]
    torch.testing.assert_close(model.imagine(z, past, plans), expected, rtol=1e-4, atol=1e-5)
    for leap in (None, 9):
        model = small(planning_blocks=leap)
        first = model.predict_ahead(z, torch.cat([past, plans[:, :4]], 1))
        second = model.predict_ahead(first[:, -3:], plans[:, 2:])
        found = model.imagine(z, past, plans)
        torch.testing.assert_close(found, torch.cat([first, second], 1), rtol=1e-4, atol=1e-5)
    assert (found - expected).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("objective", ["final", "sum"])
def test_an_agent_plans_with_what_it_imagines(monkeypatch, objective: str) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 6)  # in pieces
    model, planner = small().requires_grad_(False), PlannerConfig(objective=objective)
    z, past, plans, goal = torch.randn(2, 3, 12), torch.randn(2, 2, 6), torch.randn(2, 20, 5, 6), torch.randn(2, 12)
    agent = VLWM_FAMILY.agent(model, model.config, planner, CPU)
    found = imagined_cost(agent.rollout(z, past), goal, agent.objective)(plans)
    for b in range(2):
        imagined = model.imagine(z[b : b + 1].expand(20, -1, -1), past[b : b + 1].expand(20, -1, -1), plans[b])
        distance = (imagined - goal[b]).square().mean(-1)
        expected = distance[:, -1] if objective == "final" else distance.sum(-1)
        torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_a_plan_and_other_arithmetic_is_refused() -> None:
    model = small().requires_grad_(False)
    plans = torch.randn(1, 3, 5, 6, requires_grad=True)
    search = VLWM_FAMILY.differentiable(model)(torch.randn(1, 1, 12), torch.zeros(1, 0, 6))
    search(plans, lambda imagined, _: imagined[:, :, -1].square().sum(-1)).sum().backward()
    assert (plans.grad.abs().amax(-1) > 0).all()
    with pytest.raises(UserError, match=r"planner\.arithmetic"):
        VLWM_FAMILY.rollout(model, PlannerConfig(arithmetic="int8"))


def test_leaps_share_a_training_and_no_evaluation(tmp_path: Path) -> None:
    env = make_toy(size=32)
    data = collect(env, CollectConfig(episodes=12, steps=16, policies={"drift": 1.0}), 0, tmp_path / "data", False)
    config = CONFIG.model_copy(update={"train": TrainConfig(steps=2, batch_size=4)})
    base = Setting(env, TOY_ID, "vlwm", data, "key", config, PlannerConfig(), 0, CPU, Store(tmp_path))
    changes = ({}, {"planning_blocks": 1}, {"planning_blocks": 2}, {"horizon": 3})
    settings = [replace(base, config=config.model_copy(update=change)) for change in changes]
    trainings = [model_spec(s, VLWM_FAMILY) for s in settings]
    assert trainings[0] == trainings[1] == trainings[2] != trainings[3]
    suite = resolve(load(find_file(None)), "smoke", "quick", agents=["vlwm"])
    evaluations = [evaluation_spec(suite, suite.jobs[0], s, VLWM_FAMILY, 25) for s in settings[:3]]
    assert all(a != b for a, b in combinations(evaluations, 2))
    for number in (0, 1):
        VLWM_FAMILY.train(settings[number], tmp_path / str(number))
    assert len({(tmp_path / str(n) / "card.json").read_bytes() for n in (0, 1)}) == 1
    labels = [VLWM_FAMILY.load(s, tmp_path / "0").label for s in settings[:3]]
    assert [label.partition(",")[2] for label in labels] == ["", " planning 1 at a time", " planning 2 at a time"]
