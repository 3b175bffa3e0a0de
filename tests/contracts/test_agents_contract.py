"""Every registered agent on the toy environment: it trains, is saved, loaded and acts, the same way twice."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_agents import (
    CEM,
    NAMES,
    SKIP,
    TINY,
    act,
    checkpoint_of,
    on_trained_base,
    setting_of,
    situation,
    toy_setting,
)
from toy_env import TOY_ID

from lewm_bench.agent import Setting
from lewm_bench.agents import AGENTS
from lewm_bench.agents.dino_wm import ENCODERS
from lewm_bench.core.errors import UserError
from lewm_bench.run.names import agent_names
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import load_card, load_tensors
from lewm_bench.system.store import Store


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return toy_setting(tmp_path_factory.mktemp("toy"))


def test_every_registered_agent_is_tested() -> None:
    assert set(AGENTS) <= set(TINY) and {f"dino-wm:{e}" for e in ENCODERS if e != "dinov2-small"} <= set(NAMES)
    assert set(AGENTS) <= set(agent_names())


@pytest.mark.parametrize("name", AGENTS)
def test_the_registry_has_what_a_list_shows(name: str) -> None:
    family = agent_family(name)
    assert family.kind in ("world model", "policy", "privileged", "floor") and family.card.about
    assert family.configure({}, None) == family.Config()
    with pytest.raises(UserError):
        family.configure({}, "no-such-variant")
    with pytest.raises(ValueError, match="frame_skipp"):
        family.configure({"frame_skipp": 3}, None)


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_trains_saves_loads_and_acts(base: Setting, tmp_path: Path, name: str) -> None:
    setting, family = setting_of(base, name), agent_family(name)
    family.requirements(setting)
    family.load(setting, None)  # whatever it imports draws now, not below
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    checkpoint = checkpoint_of(setting, tmp_path / "a")
    loaded = family.load(setting, checkpoint)
    assert torch.equal(torch.get_rng_state(), before[0]), "torch's global generator was used"
    assert (np.random.get_state()[1] == before[1][1]).all() and np.random.get_state()[2] == before[1][2]
    assert random.getstate() == before[2]

    skip = 1 if name in ("sac-her", "straight") else SKIP
    assert loaded.agent.frame_skip == skip and loaded.agent.history >= 1 and loaded.label
    assert loaded.weights == ("trained" if family.trainable else "none")
    assert (loaded.model is not None) == (family.kind == "world model")
    if family.trainable:
        assert loaded.parameters > 0 and (loaded.tokens_per_frame is None) == (family.kind == "privileged")
        card = load_card(checkpoint)
        assert card["agent"] == name and card["env"] == TOY_ID and card["image_size"] == 32
        assert family.Config(**card["config"]) == setting.config, "the card is enough to build the agent again"
    actions = {}
    for batch in (1, 5):
        for frames in range(1, loaded.agent.history + 1):
            actions[batch, frames] = act(loaded, setting, batch, frames)
            decisions, B, k, action_dim = actions[batch, frames].shape
            assert (decisions, B, action_dim) == (2, batch, 2) and k == (CEM.receding * skip if family.plans else skip)
            assert np.isfinite(actions[batch, frames]).all()
            if family.kind != "world model":  # whose costs differ by less than rounding after so little training
                np.testing.assert_allclose(actions[batch, frames][:, :1], actions[1, frames], atol=1e-5)

    again = family.load(setting, checkpoint)
    for (batch, frames), expected in actions.items():
        np.testing.assert_array_equal(act(again, setting, batch, frames), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_actions(base: Setting, tmp_path: Path, name: str) -> None:
    setting, family = setting_of(base, name), agent_family(name)
    results = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # global state must not matter
        chosen = replace(setting, seed=seed, store=Store(tmp_path / f"cache {number}"))
        results.append(act(family.load(chosen, checkpoint_of(chosen, tmp_path / str(number))), chosen, 4, 1))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] == results[2]).all() == (name in ("noop", "straight"))


@pytest.mark.parametrize("name", [n for n in NAMES if agent_family(n).trainable and n != "sac-her"])
def test_training_goes_on_after_a_kill(base: Setting, tmp_path: Path, name: str, monkeypatch) -> None:
    setting, family = on_trained_base(setting_of(base, name)), agent_family(name)
    whole = checkpoint_of(setting, tmp_path / "whole")
    from lewm_bench.train import loop as module

    class Killed(Exception):
        pass

    def dying(config, index: int) -> float:
        if index == 4:
            raise Killed
        return real(config, index)

    real = module.learning_rate
    monkeypatch.setattr(module, "learning_rate", dying)
    with pytest.raises(Killed):
        family.train(setting, tmp_path / "killed")
    monkeypatch.setattr(module, "learning_rate", real)
    assert (tmp_path / "killed" / ".state").is_dir()
    family.train(setting, tmp_path / "killed")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "killed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", [n for n in NAMES if agent_family(n).trainable])
def test_untrained_weights_come_from_the_seed(base: Setting, name: str) -> None:
    setting, family = setting_of(base, name), agent_family(name)
    results = []
    for number in range(2):
        torch.manual_seed(number)
        loaded = family.load(setting, None)
        assert loaded.weights == "random"
        results.append(act(loaded, setting, 2, 1))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", [n for n in NAMES if agent_family(n).kind == "world model"])
def test_a_world_model_has_what_planning_asks_for(base: Setting, name: str) -> None:
    setting = setting_of(base, name)
    model = agent_family(name).load(setting, None).model
    frames = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    latents, actions = model.encode(frames), torch.randn(3, 2, 4)
    assert latents.shape[:2] == (3, 2) and latents.is_floating_point()
    assert model.predict_next(latents, actions).shape == (3, *latents.shape[2:])
    alone = model.predict_next(model.encode(frames[1:2]), actions[1:2])
    torch.testing.assert_close(model.predict_next(latents, actions)[1:2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.denormalize_actions(model.normalize_actions(actions)), actions)
    assert (model.history, model.frame_skip) == (setting.config.history, SKIP)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


@pytest.mark.parametrize("name", [n for n in NAMES if agent_family(n).trainable and n != "sac-her"])
def test_actions_are_scaled_by_the_statistics_of_the_training_split(base: Setting, tmp_path: Path, name: str) -> None:
    """And these are in the checkpoint, so that it acts without its dataset."""
    setting = setting_of(base, name)
    loaded = agent_family(name).load(setting, checkpoint_of(setting, tmp_path))
    data = setting.dataset
    rows = np.concatenate([np.arange(data.starts[e], data.ends[e] - 1) for e in data.splits["train"]])
    mean, std = data.actions[rows].mean(0), data.actions[rows].std(0)
    tensors = load_tensors(tmp_path / "model.safetensors")
    np.testing.assert_allclose(tensors["action_scale.mean"].numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(tensors["action_scale.std"].numpy(), std, rtol=1e-4)
    if agent_family(name).kind != "world model":
        return
    goals, past = situation(setting, 3, loaded.agent.history)
    encoded = loaded.agent.start(goals, []).encode(past)
    expected = (past.actions.numpy().reshape(3, -1, SKIP, 2) - mean) / std
    np.testing.assert_allclose(encoded.actions.numpy().reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoded.latents, loaded.model.encode(past.frames))
