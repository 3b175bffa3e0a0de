"""Checkpoints on the way of a training: what is kept is what was there, and nobody notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_agents import TINY_TRAIN, setting_of, toy_setting

from lewm_bench.core.errors import TrainingFailed
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import WEIGHTS, load_card, load_tensors
from lewm_bench.train import loop
from lewm_bench.train.keeping import Keeping, shares_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_setting(tmp_path_factory.mktemp("keeping"))


@pytest.mark.parametrize(
    ("steps", "number", "expected"),
    [(100, 5, (20, 40, 60, 80, 100)), (7, 2, (4, 7)), (3, 5, (1, 2, 3)), (1, 3, (1,)), (9, 1, (9,))],
)
def test_shares_are_even_each_once_and_end_with_the_training(steps, number, expected) -> None:
    assert shares_of(steps, number) == expected


def trained(setting, folder: Path, keeping: Keeping):
    folder.mkdir(parents=True)
    log = agent_family(setting.agent).train(replace(setting, keeping=keeping), folder)
    return log, (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("agent", ["lewm", "gcbc", "jepa-ema", "pldm", "dino-wm", "gciql"])
def test_keeping_changes_no_weight_and_no_curve(base, tmp_path, agent) -> None:
    setting = setting_of(base, agent)
    plain = trained(setting, tmp_path / "plain", Keeping())
    kept = trained(setting, tmp_path / "kept", Keeping((2, 4), tmp_path / "on the way"))
    assert plain[1] == kept[1] and plain[0].columns == kept[0].columns
    assert sorted(p.name for p in (tmp_path / "on the way").iterdir()) == ["step-2", "step-4"]


def test_what_is_kept_is_what_a_training_that_ended_there_had_saved(base, tmp_path, monkeypatch) -> None:
    """The loop's own saved state, which it goes on from after a kill, is another way to the same weights."""
    setting = setting_of(base, "gcbc")
    every = setting.config.model_copy(update={"train": setting.config.train.model_copy(update={"save_every": 1})})
    save = loop._save

    def killed(state, index, *rest):
        save(state, index, *rest)
        if index == 4:
            raise KeyboardInterrupt

    trained(setting, tmp_path / "whole", Keeping((4,), tmp_path / "kept"))
    monkeypatch.setattr(loop, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(replace(setting, config=every), tmp_path / "killed", Keeping())
    ours = load_tensors(tmp_path / "kept" / "step-4" / WEIGHTS)
    theirs = load_tensors(tmp_path / "killed" / ".state" / "step-4" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    last = load_tensors(tmp_path / "whole" / WEIGHTS)
    assert not all(torch.equal(ours[name], last[name]) for name in ours)


def test_what_is_kept_can_act(base, tmp_path) -> None:
    """Also of a module that its training had changed: a target network is no part of what acts."""
    setting = setting_of(base, "jepa-ema")
    trained(setting, tmp_path / "whole", Keeping((3,), tmp_path / "kept"))
    loaded = agent_family("jepa-ema").load(setting, tmp_path / "kept" / "step-3")
    assert loaded.weights == "trained"
    assert load_card(tmp_path / "kept" / "step-3") == load_card(tmp_path / "whole")


def test_keeping_is_no_training_time(base, tmp_path, monkeypatch) -> None:
    setting = setting_of(base, "gcbc")
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def slow(model, setting, folder, finish=None):
        now[0] += 1000.0

    monkeypatch.setattr("lewm_bench.agent.family.save_trained", slow)
    log = agent_family("gcbc").train(replace(setting, keeping=Keeping((2, 4), tmp_path)), tmp_path)
    assert log.seconds == 0.0 and now[0] == 3000.0  # two on the way, one at the end


def test_a_training_that_fails_has_kept_what_came_before(base, tmp_path) -> None:
    setting = setting_of(base, "gcbc")
    wild = {**TINY_TRAIN, "learning_rate": 1e30, "warmup": 0.0}
    config = setting.config.model_copy(update={"train": setting.config.train.model_validate(wild)})
    with pytest.raises(TrainingFailed):
        trained(replace(setting, config=config), tmp_path / "whole", Keeping((1, 2, 3, 4), tmp_path / "kept"))
