"""Fast-LeWM: what a prefix knows, its loss, and the agent and its variant."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_fast_lewm import BLOCK, SMALL, close, small
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Loaded, Setting
from lewm_bench.agents.fast_lewm import FAST_LEWM, FastLeWM, FastLeWMConfig
from lewm_bench.agents.parts.sigreg import directions
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Clip, Goals, Past
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.fast.fast_lewm import reference
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.keys import evaluation_spec, model_spec
from lewm_bench.run.resolve import resolve
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainConfig, make_optimizer


def clip(batch: int = 6, frames: int = 6) -> Clip:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, frames, 3, 32, 32), dtype=torch.uint8, generator=g)
    return Clip(images, torch.randn(batch, frames - 1, BLOCK, generator=g))


def step(log: bool = False, index: int = 0) -> Step:
    return Step(index, 10, torch.Generator().manual_seed(1), log)


# The network.


@pytest.mark.parametrize(("action_dim", "parameters"), [(2, 17_913_184), (5, 17_913_184 + 15 * 32)])
def test_the_default_has_the_size_of_the_released_weights(action_dim: int, parameters: int) -> None:
    with torch.device("meta"):
        model = FastLeWM(FastLeWMConfig(), 224, action_dim)
    assert sum(p.numel() for p in model.parameters()) == parameters
    parts = {"encoder": 5_501_376, "projector": 792_768, "predictor": 9_023_424, "pred_proj": 792_768}
    assert {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in parts} == parts


@torch.no_grad()
@pytest.mark.parametrize("block", range(5))
def test_a_prefix_knows_its_own_blocks_only(block: int) -> None:
    model = small()
    z, actions = torch.randn(4, 12), torch.randn(4, 5, BLOCK)
    before = model.predict_prefixes(z, actions)
    actions[:, block] += 1
    change = (model.predict_prefixes(z, actions) - before).abs().amax((0, 2))
    assert (change[:block] == 0).all() and (change[block:] > 1e-3).all()


@torch.no_grad()
def test_every_prefix_depends_on_the_latent_and_the_order_of_blocks() -> None:
    model = small()
    z, actions = torch.randn(4, 12), torch.randn(4, 5, BLOCK)
    before = model.predict_prefixes(z, actions)
    assert ((model.predict_prefixes(z + 1, actions) - before).abs().amax((0, 2)) > 1e-2).all()
    turned = model.predict_prefixes(z, actions.flip(1))[:, -1]
    assert (turned - before[:, -1]).abs().max() > 1e-2


@torch.no_grad()
def test_all_prefixes_at_once_are_those_one_by_one() -> None:
    model = small()
    z, actions = torch.randn(4, 12), torch.randn(4, 5, BLOCK)
    together = model.predict_prefixes(z, actions)
    for k in range(1, 6):
        close(model.predict_prefixes(z, actions[:, :k])[:, -1], together[:, k - 1])


@torch.no_grad()
def test_one_block_ahead_is_the_shortest_prefix() -> None:
    model = small()
    latents, actions = torch.randn(4, 3, 12), torch.randn(4, 3, BLOCK)
    newest = model.predict_prefixes(latents[:, -1], actions[:, -1:])[:, 0]
    assert torch.equal(model.predict_next(latents, actions), newest)
    close(model.predict(latents, actions)[:, -1], newest)
    assert model.predict(latents, actions).shape == (4, 3, 12)


@torch.no_grad()
@pytest.mark.parametrize("latent", [12, 16])
def test_the_network_against_loops(latent: int) -> None:
    """In float64: state token, positions, causal attention, fusion, modulated blocks, projector."""
    model = small(latent=latent)
    z, actions = torch.randn(latent), torch.randn(5, BLOCK)
    actual = model.predict_prefixes(z[None], actions[None])[0].numpy()
    p = {k: v.double().numpy() for k, v in model.state_dict().items()}
    erf = np.vectorize(math.erf)

    def norm(x, eps=1e-5):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)

    def affine(x, name):
        return norm(x) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def silu(x):
        return x / (1 + np.exp(-x))

    z, actions = z.double().numpy(), actions.double().numpy()
    e = "prefix_encoder"
    blocks = (
        actions @ p[f"{e}.action_encoder.patch_embed.weight"][:, :, 0].T + p[f"{e}.action_encoder.patch_embed.bias"]
    )
    blocks = linear(silu(linear(blocks, f"{e}.action_encoder.embed.0")), f"{e}.action_encoder.embed.2")
    state = linear(gelu(linear(z, f"{e}.state.0")), f"{e}.state.2")
    x = np.concatenate([state[None], blocks])
    for t in range(6):
        for i in range(16):
            angle = t / 10_000 ** ((i - i % 2) / 16)
            x[t, i] += math.cos(angle) if i % 2 else math.sin(angle)
    for layer in (f"{e}.blocks.0", f"{e}.blocks.1"):
        q, k, v = np.split(linear(affine(x, f"{layer}.norm"), f"{layer}.qkv"), 3, -1)
        out = np.zeros_like(q)
        for head in (slice(0, 8), slice(8, 16)):
            for t in range(6):
                score = np.exp(k[: t + 1, head] @ q[t, head] / np.sqrt(8))
                out[t, head] = score / score.sum() @ v[: t + 1, head]
        x = x + linear(out, f"{layer}.out")
        x = x + linear(gelu(linear(affine(x, f"{layer}.mlp.0"), f"{layer}.mlp.1")), f"{layer}.mlp.4")
    prefixes = affine(affine(x[1:], f"{e}.norm"), f"{e}.out_norm")
    start = linear(z, "predictor.input_proj") if latent == 12 else z
    for prefix, found in zip(prefixes, actual, strict=True):
        y = affine(np.concatenate([start, prefix, start * prefix]), "predictor.fusion.0")
        y = start + linear(gelu(linear(y, "predictor.fusion.1")), "predictor.fusion.3")
        for i in range(3):
            layer = f"predictor.blocks.{i}"
            shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(silu(prefix), f"{layer}.modulation"), 6)
            value = affine(norm(y, 1e-6) * (1 + scale1) + shift1, f"{layer}.value.0")
            y = y + gate1 * linear(linear(value, f"{layer}.value.1"), f"{layer}.value.2")
            inner = affine(norm(y, 1e-6) * (1 + scale2) + shift2, f"{layer}.mlp.0")
            y = y + gate2 * linear(gelu(linear(inner, f"{layer}.mlp.1")), f"{layer}.mlp.4")
        y = linear(affine(y, "predictor.norm"), "pred_proj.net.0")
        y = (y - p["pred_proj.net.1.running_mean"]) / np.sqrt(p["pred_proj.net.1.running_var"] + 1e-5)
        y = linear(gelu(y * p["pred_proj.net.1.weight"] + p["pred_proj.net.1.bias"]), "pred_proj.net.3")
        np.testing.assert_allclose(found, y, atol=5e-5)


# Training.


def numpy_sigreg(z: np.ndarray, u: np.ndarray) -> float:
    """Of (T, B, D) latents along (D, M) directions, knot by knot."""
    total = []
    knots = np.linspace(0, 3, 17)
    for sample in z:
        for direction in u.T:
            h = sample @ direction
            gap = [abs(np.exp(1j * t * h).mean() - np.exp(-t * t / 2)) ** 2 * np.exp(-t * t / 2) for t in knots]
            total.append(2 * len(h) * np.trapezoid(gap, knots))
    return float(np.mean(total))


@torch.no_grad()
def test_the_loss_against_numpy() -> None:
    model = small(sigreg_weight=0.3)
    model.action_scale.fit(np.float32([1, 2, 3]), np.float32([0.5, 2, 4]))
    data = clip()
    total, parts = model.loss(data, step(log=True))
    model.action_scale.fit(np.zeros(3), np.ones(3))
    z = model.encode(data.frames)
    actions = (data.actions.view(6, 5, 2, 3) - torch.tensor([1.0, 2, 3])) / torch.tensor([0.5, 2, 4])
    actions, z = actions.flatten(2), z.double()
    errors = [
        np.mean((model.predict_prefixes(z[:, 0].float(), actions[:, :k])[:, -1].numpy() - z[:, k].numpy()) ** 2)
        for k in range(1, 6)
    ]
    regulariser = numpy_sigreg(z.transpose(0, 1).numpy(), directions(16, 12, step().generator).numpy())
    assert float(parts["prediction"]) == pytest.approx(np.mean(errors), rel=1e-4)
    assert float(parts["prediction_last"]) == pytest.approx(errors[-1], rel=1e-4)
    assert float(parts["sigreg"]) == pytest.approx(regulariser, rel=1e-4)
    assert float(total) == pytest.approx(np.mean(errors) + 0.3 * regulariser, rel=1e-4)
    assert {"latent_std", "effective_rank", "straightness"} < set(parts)
    assert set(model.loss(data, step())[1]) == {"prediction", "sigreg"}


def test_gradients_reach_every_parameter_after_two_steps_and_every_target() -> None:
    torch.manual_seed(0)
    model = FastLeWM(SMALL, 32, 3).train()
    optimizer = make_optimizer(model, TrainConfig(learning_rate=1e-2))
    for index in range(3):
        optimizer.zero_grad()
        model.loss(clip(), step(index=index))[0].backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []
    latents = torch.randn(6, 6, 12, requires_grad=True)
    model.encode = lambda _: latents
    model.config = model.config.model_copy(update={"sigreg_weight": 0.0})
    model.loss(clip(), step())[0].backward()
    assert (latents.grad.abs().amax((0, 2)) > 0).all()


def test_a_clip_is_the_horizon_and_the_frame_before() -> None:
    assert FAST_LEWM.clip_frames(FastLeWMConfig()) == 6 and FAST_LEWM.clip_frames(FastLeWMConfig(horizon=3)) == 4


# The agent.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("toy")
    env = make_toy(size=32)
    data = collect(env, CollectConfig(episodes=8, steps=16, policies={"drift": 1}), 0, folder, progress=False)
    planner = PlannerConfig(num_samples=12, num_iterations=2, num_elites=4, horizon=7, receding=2)
    return Setting(env, TOY_ID, "", data, data.fingerprint, SMALL, planner, 0, torch.device("cpu"), Store(folder))


def setting_of(base: Setting, name: str, **changes) -> Setting:
    train = {"steps": 6, "batch_size": 4, "save_every": 3, "learning_rate": 3e-2}
    config = FAST_LEWM.configure(SMALL.model_dump() | {"train": train} | changes, name.partition(":")[2] or None)
    return replace(base, agent=name, config=config)


def act(loaded: Loaded, setting: Setting, *episodes: int) -> np.ndarray:
    """Two decisions for some of the episodes together, (2, B, k, action_dim)."""
    data = setting.dataset
    images = torch.from_numpy(np.moveaxis(data.frames, -1, 1).copy())
    starts = data.starts[list(episodes)]
    past = Past(images[starts][:, None], torch.zeros(len(starts), 0, 4), data.states[starts])
    controller = loaded.agent.start(
        Goals(images[starts + 14], data.states[starts + 14]), [stream(0, "plan", e) for e in episodes]
    )
    return np.stack([controller.search(controller.encode(past)) for _ in range(2)])


def test_the_variant_plans_otherwise_with_the_same_weights(base: Setting, tmp_path: Path) -> None:
    settings = [setting_of(base, name) for name in ("fast-lewm", "fast-lewm:consistent")]
    assert [s.config.self_consistency for s in settings] == [0.0, 1.0]
    for number, setting in enumerate(settings):
        FAST_LEWM.train(setting, tmp_path / str(number))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "01"]
    assert weights[0] == weights[1]
    agents = [FAST_LEWM.load(s, tmp_path / "1") for s in settings]
    assert [a.label for a in agents] == ["Fast-LeWM (CNN encoder)", "Fast-LeWM (CNN encoder), self-consistent"]
    # A weight so large that it changes the order of the candidates on every machine.
    heavy = replace(settings[1], config=settings[1].config.model_copy(update={"self_consistency": 1000.0}))
    plans = [act(FAST_LEWM.load(s, tmp_path / "1"), settings[0], 0, 1, 2) for s in (settings[0], heavy)]
    assert plans[0].shape == plans[1].shape == (2, 3, 4, 2)
    assert (plans[0] != plans[1]).any()


def test_settings_of_planning_alone_share_a_training_and_no_evaluation(base: Setting) -> None:
    suite = resolve(load(find_file(None)), "smoke", "quick", agents=["fast-lewm"])
    settings = [setting_of(base, "fast-lewm", self_consistency=beta) for beta in (0.0, 0.5)]
    other = setting_of(base, "fast-lewm", dropout=0.2)
    trainings = [model_spec(s, FAST_LEWM) for s in (*settings, other)]
    assert trainings[0] == trainings[1] != trainings[2]
    evaluations = [evaluation_spec(suite, suite.jobs[0], s, FAST_LEWM, 25) for s in settings]
    assert evaluations[0] != evaluations[1]


def test_how_many_are_planned_together_stands_in_the_key_and_how_they_are_where_it_rounds(base: Setting) -> None:
    def specs(device: str) -> list[dict]:
        setting = replace(setting_of(base, "fast-lewm"), device=torch.device(device))
        suites = (
            resolve(load(find_file(None)), "smoke", "quick", agents=["fast-lewm"], overrides=[f"evaluate.batch={n}"])
            for n in (1, 2, 4)
        )
        return [evaluation_spec(suite, suite.jobs[0], setting, FAST_LEWM, 25) for suite in suites]

    for device, filled in (("cpu", [False] * 3), ("cuda", [False, True, True])):
        found = specs(device)
        assert ["filled" in spec for spec in found] == filled
        assert [spec["evaluate"]["batch"] for spec in found] == [1, 2, 4]


def test_an_episode_is_planned_the_same_in_any_company(base: Setting) -> None:
    setting = setting_of(base, "fast-lewm", self_consistency=0.5)
    loaded = FAST_LEWM.load(setting, None)
    together = act(loaded, setting, 0, 1, 2, 3, 4)
    np.testing.assert_allclose(act(loaded, setting, 3), together[:, 3:4], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(act(loaded, setting, 0, 1, 2, 3, 4), together)


def test_the_gradient_solver_goes_through_all_prefixes(base: Setting) -> None:
    """Not through the plain loop of one block at a time."""
    setting = setting_of(base, "fast-lewm")
    setting = replace(setting, planner=PlannerConfig(solver="adam", horizon=7, receding=2))
    agent = FAST_LEWM.load(setting, None).agent
    z, plans = torch.randn(2, 1, 12), torch.randn(2, 3, 7, 4)
    found = []
    for begin in (agent.rollout, reference(agent.model)):
        found.append(begin(z, torch.zeros(2, 0, 4))(plans, lambda x, e: x.square().sum((2, 3))))
    close(*found)
    assert np.isfinite(act(FAST_LEWM.load(setting, None), setting, 0, 1)).all()


def test_names_and_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'consistent'"):
        FAST_LEWM.configure({}, "consistant")
    with pytest.raises(ValueError, match="history"):
        FAST_LEWM.configure({"history": 3}, None)  # it would not look at them
    with pytest.raises(ValueError, match="self_consistency"):
        FAST_LEWM.configure({"self_consistency": -1}, None)
