"""The collection policy learned by SAC: it learns, it is saved as data, and it acts alike in any company."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from toy_env import ToyEnv

from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.core.exploration import uniform
from lewm_bench.core.rng import stream
from lewm_bench.data import sac_exploration as sac_policy
from lewm_bench.data.check import CHECKS
from lewm_bench.data.sac_exploration import SACPolicyConfig, load_sac_policy, train_sac_policy
from lewm_bench.system.checkpoint import load_tensors, save_tensors

TINY = SACPolicyConfig(steps=200, warmup=60, hidden=(16, 24), batch_size=32, goal_steps=20)


class TwoQuantities(ToyEnv):
    """The toy with a quantity on another scale, and actions on a space that is not symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(np.array([-1.0, -0.5]), np.array([1.0, 1.5]), dtype=np.float64)

    def quantities(self, states: np.ndarray) -> dict[str, np.ndarray]:
        return {"position": states, "pixels": 64 + 64 * states[:, :1]}


class WithSAC(TwoQuantities):
    """The toy that offers the trained policy, for the contract's own test of policies."""

    folder: Path
    exploration: ClassVar[dict[str, float]] = {"sac": 1.0}

    def policies(self):
        return {"sac": load_sac_policy(self, self.folder)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sac")
    train_sac_policy(TwoQuantities(), TINY, 0, folder, progress=False)
    return folder


def roll(env: ToyEnv, factory, episodes: range, steps: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """States (N, steps+1, 2) and actions (N, steps, 2)."""
    states = np.stack([env.sample_state(stream(0, "test", "start", n)) for n in episodes])[:, None]
    act, actions = factory([stream(0, "test", "policy", n) for n in episodes]), []
    for _ in range(steps):
        actions.append(act(states[:, -1]))
        states = np.concatenate([states, env.simulate(states[:, -1], actions[-1][:, None])], axis=1)
    return states, np.stack(actions, axis=1)


# What is written.


def test_the_same_seed_writes_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    np.random.seed(77)  # what is global must not matter
    torch.manual_seed(78)
    train_sac_policy(TwoQuantities(), TINY, 0, tmp_path / "same", progress=False)
    train_sac_policy(TwoQuantities(), TINY, 1, tmp_path / "other", progress=False)
    names = sorted(path.name for path in trained.iterdir())
    assert names == ["policy.json", "policy.safetensors"]
    for name in names:
        assert (tmp_path / "same" / name).read_bytes() == (trained / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (trained / name).read_bytes()
    assert SACPolicyConfig(**json.loads((trained / "policy.json").read_text())["config"]) == TINY


def test_training_leaves_the_environment_and_the_global_generators_alone(tmp_path: Path) -> None:
    env = TwoQuantities()
    env.set_state(np.array([0.25, -0.5]))
    env.action_space.seed(5)
    expected = TwoQuantities().action_space
    expected.seed(5)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    train_sac_policy(env, TINY, 0, tmp_path, progress=False)
    assert env.get_state().tolist() == [0.25, -0.5]
    assert np.array_equal(env.action_space.sample(), expected.sample())
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1] and torch.equal(torch.get_rng_state(), before[2])


def test_progress_counts_environment_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bar:
        count = 0

        def update(self, n: int) -> None:
            self.count += n

    bar = Bar()
    train_sac_policy(ToyEnv(), TINY, 0, tmp_path, bar)
    assert bar.count == TINY.steps
    assert capsys.readouterr() == ("", "")
    train_sac_policy(ToyEnv(), TINY, 0, tmp_path, True)
    captured = capsys.readouterr()
    assert captured.out == "" and "sac policy" in captured.err and "200" in captured.err


def test_a_training_that_is_killed_while_it_writes_leaves_no_policy(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_sac_policy(TwoQuantities(), TINY, 0, tmp_path, progress=False)

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lewm_bench.system.files.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        train_sac_policy(TwoQuantities(), TINY, 1, tmp_path, progress=False)
    with pytest.raises(UserError, match="no SAC policy"):
        load_sac_policy(TwoQuantities(), tmp_path)


# What is read.


def test_acts_as_stable_baselines3_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, save = [], sac_policy._save
    monkeypatch.setattr(
        sac_policy, "_save", lambda folder, actor, *rest: (kept.append(actor), save(folder, actor, *rest))
    )
    env = TwoQuantities()
    train_sac_policy(env, TINY, 0, tmp_path, progress=False)
    config, tensors = sac_policy._load(env, tmp_path)
    own = sac_policy._Actor(env, config, tensors)
    rng = stream(0, "test", "pairs")
    for n in range(20):
        state, goal = rng.uniform(-1, 1, (2, 2))
        both = np.stack([state, goal])
        raw = np.concatenate([both, both, 64 + 64 * both[:, :1]], axis=1)  # state, position, pixels
        observation = ((raw - tensors["scale.mean"]) / tensors["scale.std"]).reshape(1, 10)
        mean, log_std, _ = kept[0].get_action_dist_params(torch.tensor(observation, dtype=torch.float32))
        noise = stream(0, "test", "noise", n).standard_normal(2)
        squashed = np.tanh(mean.detach().numpy()[0] + np.exp(log_std.detach().numpy()[0]) * noise)
        expected = np.array([0, 0.5]) + squashed
        found = own.sample(state, goal, stream(0, "test", "noise", n))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_features_are_standardised(trained: Path) -> None:
    env = TwoQuantities()
    _, tensors = sac_policy._load(env, trained)
    unit = np.array([1, 1, 1, 1, 64])  # state, position, pixels
    np.testing.assert_allclose(tensors["scale.mean"] / unit, [0, 0.5, 0, 0.5, 1], atol=0.4)  # actions push y up
    np.testing.assert_allclose(tensors["scale.std"] / unit, 0.6, rtol=0.3)
    assert tensors["scale.distance"] == pytest.approx(1.0, rel=0.3)  # 1.04 for uniform points of the square


def test_keeps_the_contract_for_policies(trained: Path) -> None:
    env = WithSAC()
    env.folder = trained
    assert CHECKS["policies"](env).startswith("sac")


def test_an_episode_does_not_depend_on_its_company(trained: Path) -> None:
    env = TwoQuantities()
    factory = load_sac_policy(env, trained)
    states, actions = roll(env, factory, range(33))
    for n in (0, 5, 32):
        alone = roll(env, factory, range(n, n + 1))
        assert np.array_equal(alone[0][0], states[n]) and np.array_equal(alone[1][0], actions[n])
    assert len(np.unique(actions[:, 0, 0])) == 33
    assert actions.dtype == env.action_space.dtype


def test_a_goal_is_drawn_again_when_reached_or_given_up() -> None:
    class Recorder:
        goals: list[tuple[float, ...]] = []  # noqa: RUF012

        def sample(self, state: np.ndarray, goal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            self.goals.append(tuple(goal))
            return np.zeros(2)

    env, recorder = ToyEnv(), Recorder()
    episode = sac_policy._Episode(env, recorder, 4, stream(0, "test", "goals"))
    rng = stream(0, "test", "goals")
    expected = [tuple(env.sample_state(rng)) for _ in range(4)]
    far = np.array([9.0, 9.0])
    for _ in range(5):  # four steps for the first goal, then the second
        episode.act(far)
    episode.act(np.array(expected[1]))  # is at the second: the third
    episode.act(np.array(expected[2]) + 0.09)  # not quite within 0.1 of it on the diagonal
    assert recorder.goals == [expected[0]] * 4 + [expected[1]] + [expected[2]] * 2


def test_weights_that_are_not_finite_are_neither_written_nor_read(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    path = tmp_path / "copy" / sac_policy.WEIGHTS
    tensors = load_tensors(path)
    tensors["mean.weight"][0, 0] = float("nan")
    save_tensors(path, tensors)
    with pytest.raises(UserError, match=r"not finite \(tensor mean.weight\)"):
        load_sac_policy(TwoQuantities(), tmp_path / "copy")
    actor = SimpleNamespace(latent_pi=[], mu=nn.Linear(2, 2), log_std=nn.Linear(2, 2))
    actor.mu.bias.data[0] = float("inf")
    with pytest.raises(TrainingFailed, match=r"mean\.bias is not finite"):
        sac_policy._save(tmp_path / "new", actor, {}, {})
    assert not (tmp_path / "new").exists()


def test_a_folder_that_does_not_fit_is_explained(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no SAC policy"):
        load_sac_policy(TwoQuantities(), tmp_path)
    with pytest.raises(UserError, match="was trained for"):
        load_sac_policy(ToyEnv(), trained)
    card = json.loads((trained / "policy.json").read_text())
    for text, message in (
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({**card, "config": {"stepz": 3}}), "damaged"),
        (json.dumps({**card, "format": "sac-policy-0"}), "has the format 'sac-policy-0'"),
        (json.dumps(card), "no weights"),
    ):
        (tmp_path / "policy.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_sac_policy(TwoQuantities(), tmp_path)


def test_an_unbounded_action_space_is_refused(tmp_path: Path) -> None:
    env = ToyEnv()
    env.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(UserError, match="bounds"):
        train_sac_policy(env, TINY, 0, tmp_path, progress=False)


def test_import_is_light() -> None:
    code = "import sys, lewm_bench.data.sac_exploration; print({'torch', 'stable_baselines3', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# What is learned.


def success_rate(env: ToyEnv, factory, steps: int) -> float:
    """Of 200 episodes, the share that reaches the first goal that their generators draw, as the trained policy does."""
    goals = np.stack([env.sample_state(stream(0, "test", "policy", n)) for n in range(200)])
    states, _ = roll(env, factory, range(200), steps)
    return env.reached(states, goals[:, None]).any(1).mean()


@pytest.mark.slow
def test_training_improves_the_success_rate(tmp_path: Path) -> None:
    env = ToyEnv()
    config = SACPolicyConfig(steps=2500, steps_per_update=2, warmup=300, hidden=(64, 64), batch_size=128, goal_steps=25)
    untrained = config.model_copy(update={"steps": 150, "warmup": 149})
    rates = {"uniform": success_rate(env, uniform(env.action_space), 25)}
    for name, settings in (("untrained", untrained), ("trained", config)):
        train_sac_policy(env, settings, 0, tmp_path / name, progress=False)
        rates[name] = success_rate(env, load_sac_policy(env, tmp_path / name), 25)
    assert rates["trained"] > 0.8 and max(rates["uniform"], rates["untrained"]) < 0.4, rates


def test_a_training_that_would_end_before_learning_starts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing would be learned: the first 300 steps .* got 300"):
        SACPolicyConfig(steps=300, warmup=300)
    assert SACPolicyConfig(steps=301, warmup=300).steps == 301
