"""An equal wall-clock budget in steps."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lewm_bench.agent import AgentConfig
from lewm_bench.core.errors import UserError
from lewm_bench.run import budget as pace
from lewm_bench.run.budget import line_through, steps_within, within_seconds
from lewm_bench.system.store import Store
from lewm_bench.train.logs import NOWHERE, LogTo


@dataclass(frozen=True)
class FakeSetting:
    """What ``within_seconds`` uses of a setting."""

    store: Store
    seed: int = 0
    agent: str = "fake"
    config: AgentConfig = field(default_factory=AgentConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: bool = True
    log_to: LogTo = NOWHERE


@dataclass
class Clockwork:
    """A family whose training takes an exactly known time."""

    fixed: float
    step: float
    trained: list[int] = field(default_factory=list)

    def train(self, setting, folder: Path):
        steps = setting.config.train.steps
        assert folder.is_dir() and not any(folder.iterdir()) and not setting.progress
        (folder / "left-behind").touch()
        assert setting.config.train.on_collapse == "continue"  # sixty steps are not to be judged
        self.trained.append(steps)
        return SimpleNamespace(seconds=self.fixed + self.step * steps)


def spec(seed: int = 0, **config) -> dict:
    return {"agent": "fake", "seed": seed, "config": {"train": {"steps": 5, "learning_rate": 1.0}, **config}}


def test_steps_are_what_fits_and_fixed_costs_are_paid_out_of_the_budget(tmp_path):
    setting = FakeSetting(Store(tmp_path))
    found = within_seconds(setting, Clockwork(10, 0.25), 60, spec()).config.train
    assert (found.steps, found.on_collapse) == (200, "fail")
    assert within_seconds(setting, Clockwork(0, 0.25), 60, spec(size=1)).config.train.steps == 240


def test_the_pace_is_measured_once_for_all_seeds_and_budgets(tmp_path):
    setting, family = FakeSetting(Store(tmp_path)), Clockwork(1, 0.5)
    assert within_seconds(setting, family, 11, spec(seed=0)).config.train.steps == 20
    assert family.trained == [pace.PROBES[0], *pace.PROBES]
    family.step = 100.0  # would show
    assert within_seconds(setting, family, 21, spec(seed=1)).config.train.steps == 40
    other = spec(seed=1)
    other["config"]["train"]["steps"] = 77
    assert within_seconds(setting, family, 11, other).config.train.steps == 20
    assert family.trained == [pace.PROBES[0], *pace.PROBES]
    within_seconds(setting, family, 9999, spec(size=2))  # another network has another pace
    assert len(family.trained) == 2 * (1 + len(pace.PROBES))
    (folder,) = {path.parent for path in tmp_path.rglob(pace.FILE) if json.loads(path.read_text())["step"] == 0.5}
    assert {path.name for path in folder.iterdir()} == {pace.FILE, "done.json"}  # no models of the probes are kept


def test_a_budget_that_is_gone_before_the_first_step_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"training.seconds is 9, but fake needs 10 s before its first step"):
        within_seconds(FakeSetting(Store(tmp_path)), Clockwork(10, 0.25), 9, spec())


@given(st.floats(0, 1e3), st.floats(1e-3, 10), st.floats(0, 1e4))
def test_the_line_goes_through_both_times(fixed, step, seconds):
    found = line_through((20, 60), [fixed + 20 * step, fixed + 60 * step])
    assert found == pytest.approx((fixed, step), rel=1e-6, abs=1e-6)
    n = steps_within(seconds, fixed, step)
    assert fixed + n * step <= seconds * (1 + 1e-9) + 1e-9 or n <= 0
    assert fixed + (n + 1) * step > seconds * (1 - 1e-9) - 1e-9


def test_noise_never_gives_a_negative_pace():
    assert line_through((20, 60), [5.0, 3.0]) == (0.0, 0.05)


def test_a_fast_training_is_timed_for_longer(tmp_path):
    """Of some milliseconds per step sixty are over before anything could be told from them."""
    family = Clockwork(0, 0.002)
    assert within_seconds(FakeSetting(Store(tmp_path)), family, 60, spec()).config.train.steps == 30_000
    assert family.trained[-1] * family.step >= pace.PROBED
