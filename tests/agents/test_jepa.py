"""What all objectives on LeWM's networks share: what planning does not need is neither saved nor counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shaken import shaken
from test_lewm import SMALL
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents.lewm import LeWM
from lewm_bench.agents.parts.jepa import JEPAConfig, JEPAFamily, PredictorBlock
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import goal_distance
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import load_tensors
from lewm_bench.system.store import Store
from lewm_bench.train.loop import TrainConfig

SIZES = SMALL.model_dump(include=set(JEPAConfig.model_fields) - {"train"})
SETTINGS = {
    "lewm": {"num_directions": 16},
    "pldm": {"inverse_dynamics_weight": 0.5, "inverse_dynamics_hidden": 16},
    "jepa-ema": {},
    "delta-jepa": {"decoder_depth": 2, "decoder_heads": 2, "decoder_head_size": 8, "decoder_hidden": 16},
}
AUXILIARY = {"lewm": [], "pldm": ["inverse_dynamics"], "jepa-ema": ["target"], "delta-jepa": ["decoder"]}
everyone = pytest.mark.parametrize("name", SETTINGS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("jepa"), make_toy(size=32)
    data = collect(env, CollectConfig(episodes=12, steps=16, policies={"drift": 1.0}), 0, folder / "data", False)
    return Setting(env, TOY_ID, "", data, "key", SMALL, PlannerConfig(), 0, torch.device("cpu"), Store(folder))


def prepared(base: Setting, name: str) -> tuple[JEPAFamily, Setting]:
    family = agent_family(name)
    train = TrainConfig(steps=5, batch_size=4, learning_rate=1e-3)
    return family, replace(base, agent=name, config=family.Config(**SIZES, **SETTINGS[name], train=train))


@everyone
def test_the_networks_are_lewms(name: str) -> None:
    family = agent_family(name)
    with torch.device("meta"):
        model = family.model(family.Config(), 224, 2)
    assert sum(p.numel() for p in model.parameters()) == 18_034_478


@everyone
def test_what_training_alone_needs_comes_and_goes(base: Setting, name: str) -> None:
    family, setting = prepared(base, name)
    model, lewm = family.build(setting.config, 32, 2), LeWM(SMALL, 32, 2)
    shapes = {key: t.shape for key, t in lewm.state_dict().items()}
    for _ in range(2):
        assert {key: t.shape for key, t in model.state_dict().items()} == shapes
        model.begin_training()
        assert list(model.auxiliary) == AUXILIARY[name]
        extra = model.state_dict().keys() - shapes.keys()
        assert {key.split(".")[1] for key in extra} == set(AUXILIARY[name])
        model.end_training()


@everyone
def test_a_checkpoint_is_that_of_a_lewm(base: Setting, tmp_path: Path, name: str) -> None:
    """Its names and shapes; the numbers are those that were trained, and differ from the initial ones."""
    family, setting = prepared(base, name)
    family.train(setting, tmp_path)
    tensors, loaded = load_tensors(tmp_path / "model.safetensors"), family.load(setting, tmp_path)
    lewm = LeWM(SMALL, 32, 2)
    assert {key: t.shape for key, t in tensors.items()} == {key: t.shape for key, t in lewm.state_dict().items()}
    assert loaded.parameters == sum(p.numel() for p in lewm.parameters())
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, tensors[key]), key
    untrained = family.load(setting, None).model.state_dict()
    assert not torch.equal(untrained["projector.net.3.weight"], tensors["projector.net.3.weight"])
    assert loaded.label.startswith(family.card.name) and loaded.weights == "trained"


@torch.no_grad()
@everyone
def test_the_fast_planner_plans_with_them(base: Setting, name: str) -> None:
    family, setting = prepared(base, name)
    model = shaken(family.build(setting.config, 32, 2))
    latents, past, plans, goal = (
        torch.randn(2, 3, 12),
        torch.randn(2, 2, 4),
        torch.randn(2, 20, 4, 4),
        torch.randn(2, 12),
    )
    costs = []
    for rollout in ("fast", "reference"):
        search = family.rollout(model, PlannerConfig(rollout=rollout))(latents, past)
        costs.append(search(plans, lambda z, episodes: goal_distance(z[:, :, -1], goal[episodes])))
    torch.testing.assert_close(*costs, rtol=1e-4, atol=1e-5)
    assert costs[0].std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_looks_ahead_only_if_it_may(causal: bool) -> None:
    block = shaken(PredictorBlock(SMALL, causal=causal))
    x, condition = torch.randn(2, 4, SMALL.width), torch.randn(2, 1, SMALL.width)
    changed = x.clone()
    changed[:, 2] += torch.randn(2, SMALL.width)
    difference = (block(changed, condition) - block(x, condition)).abs().amax((0, 2))
    assert (difference[2:] > 1e-3).all()
    assert (difference[:2] == 0).all() if causal else (difference[:2] > 1e-3).all()
