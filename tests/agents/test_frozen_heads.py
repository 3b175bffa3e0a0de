"""Heads on a frozen LeWM: their losses, what stays as it is, and what acts with them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_agents import TINY, checkpoint_of, on_trained_base, setting_of, situation, toy_setting

from lewm_bench.agent import Encoded, Setting
from lewm_bench.agents.gc_idm import FREQUENCIES, GCIDM, proposal
from lewm_bench.agents.parts.frozen import latents_of
from lewm_bench.agents.trm import TRM, Pairs
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.run.bases import on_base
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import load_tensors, save_tensors
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step

STEP = Step(0, 10, torch.Generator().manual_seed(0), True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return toy_setting(tmp_path_factory.mktemp("toy"))


def model_of(toy: Setting, name: str, **changes) -> TRM | GCIDM:
    """An untrained head without dropout, in training."""
    family, setting = agent_family(name), setting_of(toy, name)
    config = setting.config.model_copy(update={"dropout": 0.0, **changes})
    torch.manual_seed(3)
    return family.build(config, family.base_model(setting), setting.action_dim).train()


def latent(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, TINY["lewm"]["latent"], generator=torch.Generator().manual_seed(seed))


# TRM.


@pytest.mark.parametrize("expectile", [0.5, 0.1])
def test_the_loss_of_trm_is_the_expectile_loss(toy: Setting, expectile: float) -> None:
    model = model_of(toy, "trm", expectile=expectile, max_separation=20)
    earlier, later, steps = latent(6), latent(6, 1), torch.tensor([1.0, 3, 5, 8, 13, 20])
    loss, parts = model.loss((earlier, later, steps), STEP)
    u = steps.numpy() / 20 - model.separation(earlier, later).detach().numpy()
    expected = np.mean([(expectile if e > 0 else 1 - expectile) * e * e for e in u])
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(parts["separation_error"].detach()) == pytest.approx(np.abs(u).mean(), rel=1e-5)


def test_a_low_expectile_learns_the_shorter_of_the_times_between_two_places(toy: Setting) -> None:
    """The loss is least where 0.1 (a - d) summed over longer times is 0.9 (d - a) over shorter ones."""
    here, there = latent(1).expand(4, -1), latent(1, 1).expand(4, -1)
    steps = torch.tensor([2.0, 10, 10, 10])
    found = {}
    for expectile in (0.5, 0.1):
        model = model_of(toy, "trm", expectile=expectile, max_separation=10)
        optimizer = torch.optim.Adam(model.head.parameters(), 0.02)
        for _ in range(300):
            loss, _ = model.loss((here, there, steps), STEP)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[expectile] = 10 * float(model.separation(here, there)[0].detach())
    d = np.linspace(0, 10, 100_001)
    lowest = [d[np.argmin(sum(abs(e - (s < d)) * (s - d) ** 2 for s in steps.numpy()))] for e in found]
    np.testing.assert_allclose(list(found.values()), lowest, atol=0.15)
    assert lowest[0] == pytest.approx(8, abs=1e-3) and lowest[1] == pytest.approx(4, abs=1e-3)


def test_pairs_are_of_one_episode_and_their_separations_are_drawn_evenly(toy: Setting) -> None:
    setting = setting_of(toy, "trm")
    setting = replace(setting, config=setting.config.model_copy(update={"max_separation": 8}))
    earlier, steps = Pairs(setting)(stream(0, "pairs"), 20_000)
    data = setting.dataset
    episode = np.searchsorted(data.ends, earlier, side="right")
    assert (np.searchsorted(data.ends, earlier + steps, side="right") == episode).all()
    assert set(episode) == set(data.episodes("train"))
    counts = np.bincount(steps)[1:]
    assert len(counts) == 8 and abs(counts / 20_000 - 1 / 8).max() < 0.01  # four deviations
    ends = np.unique(earlier[steps == 8] - data.starts[episode[steps == 8]])
    assert ends[0] == 0 and ends[-1] == data.lengths[0] - 9  # every start of an episode


def test_a_longer_separation_than_an_episode_is_its_longest(toy: Setting) -> None:
    setting = setting_of(toy, "trm")
    setting = replace(setting, config=setting.config.model_copy(update={"max_separation": 500}))
    _, steps = Pairs(setting)(stream(0, "pairs"), 5000)
    assert steps.max() == setting.dataset.lengths.max() - 1


def test_trm_plans_toward_what_is_near_in_time(toy: Setting) -> None:
    """The cost of a plan is the head's time from its last latent, whatever the distance of latents."""
    loaded = agent_family("trm").load(setting_of(toy, "trm"), None)
    model, objective = loaded.model, loaded.agent.objective
    imagined, goal = latent(2 * 5 * 3).view(2, 5, 3, -1), latent(2, 7)
    assert objective.last and loaded.objective is objective
    costs = objective.score(imagined[:, :, -1:], goal)
    one_by_one = [[float(model.separation(imagined[b, s, -1], goal[b])) for s in range(5)] for b in range(2)]
    np.testing.assert_allclose(costs.numpy(), one_by_one, rtol=1e-5)


# GC-IDM.


def test_the_loss_of_gc_idm_is_two_squared_errors(toy: Setting) -> None:
    model = model_of(toy, "gc-idm", max_goal_offset=10)
    with torch.no_grad():
        model.modulation[-1].weight.normal_(std=0.1)  # at first the steps change nothing
        model.action_scale.fit(np.array([0.5, -1.0], np.float32), np.array([2.0, 4.0], np.float32))
    now, goal, steps = latent(5), latent(5, 1), torch.tensor([1.0, 2, 4, 7, 10])
    actions = torch.randn(5, 4, generator=torch.Generator().manual_seed(5))
    loss, parts = model.loss((now, goal, steps, actions), STEP)

    x = torch.cat([now, goal], -1)
    code = [
        [f(t * 10_000 ** (-i / FREQUENCIES)) for f in (np.sin, np.cos) for i in range(FREQUENCIES)]
        for t in steps.numpy()
    ]
    scale, shift = np.split(model.modulation(torch.tensor(np.array(code), dtype=torch.float32)).detach().numpy(), 2, -1)
    hidden = torch.nn.functional.gelu(model.trunk(x)).detach().numpy() * (1 + scale) + shift
    blocks = hidden @ model.out.weight.detach().numpy().T + model.out.bias.detach().numpy()
    wanted = (actions.numpy().reshape(5, 2, 2) - [0.5, -1.0]) / [2.0, 4.0]
    error = np.mean((blocks - wanted.reshape(5, 4)) ** 2)
    time = np.mean((model.time(x)[:, 0].detach().numpy() - steps.numpy() / 10) ** 2)
    assert float(parts["action_error"].detach()) == pytest.approx(error, rel=1e-4)
    assert float(parts["steps_error"].detach()) == pytest.approx(time, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(error + time, rel=1e-4)
    assert float(parts["mean_action"]) == pytest.approx(np.mean(wanted**2), rel=1e-4)


def test_the_steps_that_are_left_are_told_or_estimated_within_what_was_learned(toy: Setting) -> None:
    now, goal = 50 * latent(200), 50 * latent(200, 1)
    estimated = model_of(toy, "gc-idm", max_goal_offset=10).steps(now, goal)
    assert estimated.min() >= 1 and estimated.max() <= 10 and len(estimated.unique()) > 2
    assert model_of(toy, "gc-idm", steps_left=7).steps(now, goal).unique().tolist() == [7]


def test_a_proposal_is_the_head_asked_again_and_again_in_imagination(toy: Setting) -> None:
    model = model_of(toy, "gc-idm").eval()
    z, past, goal = latent(6).view(2, 3, -1), torch.randn(2, 2, 4), latent(2, 9)
    plan = proposal(model, 4, Encoded(z, past), goal)
    assert plan.shape == (2, 4, 4)
    window, actions = z, past
    for h in range(4):
        block = model.act(window[:, -1], goal)
        torch.testing.assert_close(plan[:, h], block)
        actions = torch.cat([actions, block[:, None]], 1)[:, -3:]
        window = torch.cat([window, model.base.predict_next(window[:, -3:], actions)[:, None]], 1)


def test_a_search_begins_at_the_proposal(toy: Setting) -> None:
    setting = setting_of(toy, "gc-idm-cem")
    narrow = replace(setting, planner=setting.planner.model_copy(update={"std": 1e-6, "num_iterations": 1}))
    loaded = agent_family("gc-idm-cem").load(narrow, None)
    goals, past = situation(narrow, 3, 2)
    controller = loaded.agent.start(goals, [stream(0, "plan", i) for i in range(3)])
    encoded = controller.encode(past)
    plan = proposal(loaded.model, 3, encoded, loaded.model.encode(goals.frames[:, None])[:, 0])[:, :2]
    expected = loaded.model.denormalize_actions(plan).detach().numpy().reshape(3, 4, 2)
    np.testing.assert_allclose(controller.search(encoded), expected, atol=1e-4)


# What they share.


@pytest.mark.parametrize("name", ["gc-idm", "gc-idm-cem", "trm"])
def test_what_it_is_built_on_stays_as_it_is_to_the_bit(toy: Setting, tmp_path: Path, name: str) -> None:
    setting = on_trained_base(setting_of(toy, name))
    tensors = load_tensors(checkpoint_of(setting, tmp_path) / "model.safetensors")
    base = load_tensors(setting.base.folder / "model.safetensors")
    assert base and all(torch.equal(tensors[f"base.{key}"], value) for key, value in base.items())  # statistics too
    before = agent_family(name).load(setting, None).agent.model.state_dict()
    heads = [key for key in tensors if not key.startswith(("base.", "action_scale."))]
    assert heads and all(not torch.equal(tensors[key], before[key]) for key in heads if key.endswith("weight"))


def test_actions_are_scaled_as_what_it_is_built_on_scales_them(toy: Setting, tmp_path: Path) -> None:
    """Its predictor reads z-scores of its own training, which may have had other data."""
    setting = on_trained_base(setting_of(toy, "trm"))
    other = tmp_path / "base"
    shutil.copytree(setting.base.folder, other)
    tensors = load_tensors(other / "model.safetensors")
    save_tensors(other / "model.safetensors", tensors | {"action_scale.mean": torch.tensor([3.0, -2.0])})
    setting = replace(setting, base=replace(setting.base, folder=other))
    loaded = agent_family("trm").load(setting, checkpoint_of(setting, tmp_path / "trm"))
    actions = torch.randn(5, 4)
    torch.testing.assert_close(loaded.model.normalize_actions(actions), loaded.model.base.normalize_actions(actions))
    assert loaded.model.action_scale.mean.tolist() == [3, -2]


def test_heads_share_the_latents_of_the_training_frames(toy: Setting, tmp_path: Path) -> None:
    toy = replace(toy, store=Store(tmp_path / "cache"))
    for name in ("gc-idm", "trm"):
        checkpoint_of(setting_of(toy, name), tmp_path / name)
    assert len(list((toy.store.root / "latents").glob("*/done.json"))) == 1
    setting = on_trained_base(setting_of(toy, "trm"))
    model = agent_family("lewm").load(setting.base.setting, setting.base.folder).model
    latents = latents_of(setting, setting.base, model)
    rows = setting.dataset.rows("train")[[0, 5, 17]]
    frames = torch.from_numpy(np.moveaxis(setting.dataset.frames[rows], -1, 1).copy())
    torch.testing.assert_close(latents(rows), model.encode(frames[:, None])[:, 0], rtol=2e-3, atol=1e-3)
    assert latents(rows[:, None]).shape == (3, 1, 8) and latents.seconds > 0


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("gcbc", {}, "is built on a world model that is trained here"),
        ("noop", {}, "is built on a world model that is trained here"),
        ("lewm", {"frame_skip": 3}, "has 2 environment steps per action block and its base lewm has 3"),
    ],
)
def test_what_nothing_can_be_built_on_is_refused(toy: Setting, base: str, changes: dict, message: str) -> None:
    setting, other = setting_of(toy, "trm"), setting_of(toy, base)
    other = replace(other, config=other.config.model_copy(update=changes))
    with pytest.raises(UserError, match=message):
        on_base(setting, other)


def test_latents_must_be_vectors(toy: Setting) -> None:
    setting = on_base(setting_of(toy, "trm"), setting_of(toy, "dino-wm"))
    with pytest.raises(UserError, match="reads one vector per frame, which dino-wm does not have"):
        agent_family("trm").load(setting, None)
