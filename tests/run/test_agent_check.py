"""An agent that breaks one promise gets the finding that is about it, and one that keeps all gets none."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from lewm_bench.agent import AgentConfig, Family, Loaded
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.run.agent_check import CHECKS, ENV, Trial, check_agent, findings_of, trial_of
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.registry import is_agent
from lewm_bench.system.files import write_text

EVERYTHING = ["training", *CHECKS]


def feature(frames: torch.Tensor) -> np.ndarray:
    """(B, 3, h, w) to (B,): whatever a ball's place changes."""
    return (frames.float() * torch.linspace(-1, 1, frames.shape[-1])).mean((1, 2, 3)).numpy()


class Decent:
    """Acts by the last frame, the goal, and a number of its own."""

    history, frame_skip = 3, 5

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def start(self, goals, rngs):
        controller = type(self)(self.weight)
        controller.goals, controller.rngs = feature(goals.frames), rngs
        return controller

    def encode(self, past):
        return feature(past.frames[:, -1])

    def numbers(self) -> np.ndarray:
        return np.stack([rng.uniform(-1, 1, (1, 2)) for rng in self.rngs])

    def search(self, encoded) -> np.ndarray:
        way = self.weight * (self.goals - encoded)[:, None, None]
        return (np.tanh(way) + self.numbers()).astype(np.float32)


class Silent(Decent):
    def search(self, encoded):
        return super().search(encoded)[:, :0]


class TooWide(Decent):
    def search(self, encoded):
        return super().search(encoded).repeat(2, axis=2)


class NotANumber(Decent):
    def search(self, encoded):
        return super().search(encoded) * np.nan


class OneAtATime(Decent):
    """Cannot act for several episodes."""

    def search(self, encoded):
        return super().search(encoded)[:1]


class Frozen(Decent):
    """Remembers the first picture."""

    first = None

    def encode(self, past):
        self.first = super().encode(past) if self.first is None else self.first
        return self.first


class SharedNoise(Decent):
    def numbers(self):
        return self.rngs[0].uniform(-1, 1, (len(self.rngs), 1, 2))


class Standardised(Decent):
    """By the mean of its batch."""

    def encode(self, past):
        own = super().encode(past)
        return own + 10 * (own - own.mean())


class GlobalNoise(Decent):
    def numbers(self):
        return np.random.uniform(-1, 1, (len(self.rngs), 1, 2))


class TorchNoise(Decent):
    def numbers(self):
        return torch.rand(len(self.rngs), 1, 2).numpy()


class ReadsGlobals(Decent):
    """And puts them back."""

    def numbers(self):
        before = random.getstate()
        drawn = random.random()
        random.setstate(before)
        return np.full((len(self.rngs), 1, 2), drawn)


class Writer(Decent):
    def encode(self, past):
        past.frames.fill_(0)
        return super().encode(past)


class GoalWriter(Decent):
    def start(self, goals, rngs):
        goals.states[...] = 0
        return super().start(goals, rngs)


class Raises(Decent):
    def search(self, encoded):
        raise KeyError("nobody")


class NoContext(Decent):
    history = 0


class Untrained(Family):
    """Whatever agent it is given."""

    kind = "policy"

    def __init__(self, agent: type[Decent] = Decent) -> None:
        self.agent = agent

    def load(self, setting, checkpoint):
        return Loaded(self.agent(), "Mine")


class Floor(Untrained):
    kind = "floor"


class RandomlyLoaded(Untrained):
    def load(self, setting, checkpoint):
        return Loaded(self.agent(1 + np.random.uniform()), "Mine")


class Nameless(Untrained):
    def load(self, setting, checkpoint):
        return Loaded(self.agent(), "")


class Learner(Untrained):
    """Its only weight is in a file."""

    trainable = True

    def weight(self, setting) -> float:
        return 1 + stream(setting.seed, "mine").uniform()

    def train(self, setting, folder: Path):
        write_text(folder / "weight", repr(self.weight(setting)))

    def load(self, setting, checkpoint):
        return Loaded(self.agent(float((checkpoint / "weight").read_text())), "Mine", "trained")


class Unseeded(Learner):
    def weight(self, setting):
        return np.random.default_rng().uniform()


class SpendsGlobals(Learner):
    def weight(self, setting):
        torch.rand(1)
        return super().weight(setting)


class Diverges(Learner):
    def train(self, setting, folder):
        raise ZeroDivisionError("in the loss")


class Weightless(Learner):
    def load(self, setting, checkpoint):
        return replace(super().load(setting, checkpoint), weights="none")


@pytest.fixture(scope="module")
def benchmarks():
    return load(find_file(None))


@pytest.fixture(scope="module")
def trial(benchmarks, tmp_path_factory) -> Trial:
    return trial_of("noop", benchmarks, (), tmp_path_factory.mktemp("check"))


def found(trial: Trial, family: Family, folder: Path) -> dict:
    setting = replace(trial.setting, agent="their.agents:MINE", config=AgentConfig())
    return {finding.name: finding for finding in findings_of(Trial(setting, family, folder))}


@pytest.mark.parametrize("family", [Untrained(), Learner(), Floor(Frozen)], ids=["untrained", "learner", "floor"])
def test_what_keeps_its_promises_has_nothing_to_mend(trial: Trial, tmp_path: Path, family: Family) -> None:
    findings = found(trial, family, tmp_path)
    assert list(findings) == EVERYTHING and all(finding.ok for finding in findings.values()), findings
    assert findings["shapes"].detail == "1 to 1 finite actions per decision, for one episode and for 3"
    said = "the same" if isinstance(family, Floor) else "other"
    assert (
        findings["frames"].detail
        == f"8 decisions in 8 steps, each shown the frame of now; for other frames {said} actions"
    )


BROKEN = {
    Silent: ("shapes", r"their.agents:MINE returned actions of shape \(1, 0, 2\)"),
    TooWide: ("shapes", r"returned actions of shape \(1, 1, 4\)"),
    NotANumber: ("shapes", "not a finite number"),
    OneAtATime: ("shapes", r"shape \(1, 1, 2\).*3 episodes"),
    Raises: ("shapes", "KeyError: 'nobody'"),
    Frozen: ("frames", "the same whatever it is shown"),
    SharedNoise: ("company", "beside other episodes"),
    Standardised: ("company", "beside other episodes"),
    GlobalNoise: ("randomness", "drawn from: numpy"),
    TorchNoise: ("randomness", "drawn from: torch"),
    ReadsGlobals: ("randomness", "other actions the second time"),
    Writer: ("arguments", "past.frames is written into"),
    GoalWriter: ("arguments", "goals.states is written into"),
}


@pytest.mark.parametrize("agent", BROKEN, ids=lambda agent: agent.__name__)
def test_a_broken_promise_is_found(trial: Trial, tmp_path: Path, agent: type[Decent]) -> None:
    findings = found(trial, Untrained(agent), tmp_path)
    assert list(findings) == EVERYTHING  # one failure hides no other
    name, message = BROKEN[agent]
    assert not findings[name].ok
    with pytest.raises(UserError, match=message):
        raise UserError(findings[name].detail)


UNFIT = {
    Unseeded: ("save and load", "trained twice with the same seed it acts differently"),
    SpendsGlobals: ("save and load", r"leave the global generators alone.*drawn from: torch"),
    RandomlyLoaded: ("save and load", "loaded twice it acts differently"),
}


@pytest.mark.parametrize("family", UNFIT, ids=lambda family: family.__name__)
def test_what_is_not_learned_the_same_way_twice_is_found(trial: Trial, tmp_path: Path, family: type[Family]) -> None:
    name, message = UNFIT[family]
    finding = found(trial, family(), tmp_path)[name]
    with pytest.raises(UserError, match=message):
        raise UserError(finding.detail)
    assert not finding.ok


def test_every_check_can_fail() -> None:
    assert {name for name, _ in [*BROKEN.values(), *UNFIT.values()]} == set(CHECKS)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Diverges(), "ZeroDivisionError: in the loss"),
        (Weightless(), "what trains has weights"),
        (Nameless(), "needs a label"),
        (Untrained(NoContext), "history of an agent must be a whole number of at least 1, got 0"),
    ],
    ids=["diverges", "weightless", "nameless", "no context"],
)
def test_what_cannot_be_loaded_has_that_finding_only(trial: Trial, tmp_path: Path, family, message: str) -> None:
    (finding,) = found(trial, family, tmp_path).values()
    assert not finding.ok and finding.name == "training" and message in finding.detail


def test_the_check_trains_a_few_steps_with_the_settings_that_it_is_given(benchmarks, tmp_path: Path) -> None:
    trial = trial_of("gcbc", benchmarks, ["gcbc.depth=1", "image_size=32"], tmp_path / "a")
    assert trial.setting.config.depth == 1 and trial.setting.config.train.steps == 4 and trial.setting.image_size == 32
    assert trial.setting.config.hidden == 256  # the profile's
    assert trial_of("gcbc:train.steps=5", benchmarks, [], tmp_path / "b").setting.config.train.steps == 5
    with pytest.raises(UserError, match=r"did you mean 'gcbc\.depth'"):
        check_agent("gcbc", benchmarks, ["gcbc.dept=1"])
    with pytest.raises(UserError, match="did you mean 'lewm'"):
        check_agent("lewn", benchmarks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "oracle", "gcbc", "lewm", "dino-wm", "sac-her"])
def test_our_agents_keep_their_promises(benchmarks, name: str) -> None:
    broken = [finding for finding in check_agent(name, benchmarks) if not finding.ok]
    assert not broken


def test_agents_and_environments_are_told_apart_by_name(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").touch()
    source = "from lewm_bench.agents.scripted import NOOP as MINE\nNUMBER = 1\n"
    (tmp_path / "their_package" / "agents.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lewm", "dino-wm:mae", "lewm:planner.solver=icem", "their_package.agents:MINE"):
        assert is_agent(name)
    for name in (ENV, "their_package:Maze-v0", "their_package.agents:Maze-v0", "no.such.package:Maze-v0", "lewn"):
        assert not is_agent(name)
    assert is_agent("their_package.agents:NUMBER")  # and is told what it should be
    monkeypatch.setitem(gym.registry, "NUMBER", gym.spec(ENV))
    assert not is_agent("their_package.agents:NUMBER")
