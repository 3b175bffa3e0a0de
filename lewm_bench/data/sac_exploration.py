"""A policy for collecting data that was trained by SAC (stable-baselines3) on the true state of any ``GoalEnv``.

LeWM's Reacher data came from such a policy. Each episode walks from goal to goal and draws from its own generator
only. A trained policy is a folder of tensors and JSON that is read without stable-baselines3 and evaluated without
torch: in float64 numpy, one episode at a time, by sums whose order is fixed, so that an action depends neither on the
company of an episode nor on a linear algebra library. Letters: F numbers of a state and all its quantities, A of one
action.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
from pydantic import Field, model_validator
from tqdm import tqdm

from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.core.reading import MissingFile, read_json
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import confined, torch_seed
from lewm_bench.system import status

FORMAT = "sac-policy-1"
WEIGHTS = "policy.safetensors"
CARD = "policy.json"
ROOM = ".room"  # scratch: a finished training must find room for its weights
SURVEY_EPISODES = 64  # of random actions, from which the scales of features and distances are measured
LOG_STD_RANGE = (-20.0, 2.0)  # that of stable-baselines3's actor


class SACPolicyConfig(Config):
    """How the policy is trained, and how it then behaves."""

    steps: int = Field(40_000, ge=100, description="environment steps of training")
    steps_per_update: int = Field(
        4, ge=1, description="environment steps per gradient step"
    )  # environment steps are cheap, gradient steps are not
    warmup: int = Field(1000, ge=1, description="environment steps of uniform actions at the start")
    hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="widths of its networks")
    batch_size: int = Field(256, ge=1, description="transitions per gradient step")
    learning_rate: float = Field(3e-3, gt=0, description="of all its networks")
    target_rate: float = Field(
        0.02, gt=0, le=1, description="share of the way that the averaged critic follows per gradient step"
    )  # episodes are short, so it may follow soon
    discount: float = Field(0.95, gt=0, lt=1, description="of rewards, per environment step")
    reward: Literal["distance", "success"] = Field(
        "distance",
        description="1 at the goal (success), or that minus the distance to it in units of its mean (distance)",
    )
    goal_steps: int = Field(
        50, ge=1, description="environment steps of a training episode; in collection, until a goal is given up"
    )
    noise: float = Field(1.0, ge=0, description="of collected actions, in learned standard deviations")

    @model_validator(mode="after")
    def _learns(self) -> SACPolicyConfig:
        if self.steps <= self.warmup:
            raise ValueError(
                f"nothing would be learned: the first {self.warmup} steps (warmup) are random actions, so steps must be "
                f"more, got {self.steps}"
            )
        return self


class ProgressBar(Protocol):
    """What is needed of tqdm."""

    def update(self, n: int) -> object: ...


# Training.


def train_sac_policy(
    env: GoalEnv, config: SACPolicyConfig, seed: int, folder: Path, progress: bool | ProgressBar = True
) -> None:
    """Train on random starts and goals and write the policy to ``folder``; ``env`` keeps its state.

    ``progress`` is a bar that counts environment steps, or whether to show one.
    """
    if not env.action_space.is_bounded():
        raise UserError("SAC needs an action space with bounds on both sides")
    before = env.get_state()
    scales = _survey(env, config.goal_steps, stream(seed, "sac policy", "survey"))
    task = _Task(env, config, scales, stream(seed, "sac policy", "episodes"))
    with confined(seed, "sac policy"):
        actor = _learn(task, config, torch_seed(seed, "sac policy", "learner") % 2**31, progress, Path(folder) / ROOM)
    env.set_state(before)
    card = {"format": FORMAT, "seed": seed, "config": config.model_dump(mode="json"), "env": _description(env)}
    _save(folder, actor, scales, card)


def _learn(task: _Task, config: SACPolicyConfig, seed: int, progress: bool | ProgressBar, room: Path):
    """The trained actor. What it will need on the disk is held in the file ``room`` meanwhile."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    from lewm_bench.system.checkpoint import save_tensors

    class Count(BaseCallback):
        """Moves the bar."""

        def _on_step(self) -> bool:
            bar.update(1)
            status.at(self.n_calls, config.steps)
            return True

    learner = SAC(
        "MlpPolicy",
        task,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        gamma=config.discount,
        tau=config.target_rate,
        train_freq=config.steps_per_update,
        learning_starts=config.warmup,
        buffer_size=config.steps,
        policy_kwargs={"net_arch": list(config.hidden)},
        seed=seed,
        device="cpu",
    )
    save_tensors(room, learner.actor.state_dict())
    with _bar(progress, config.steps) as bar:
        learner.learn(config.steps, callback=Count(), progress_bar=False, log_interval=10**9)
    room.unlink()
    return learner.actor


def _bar(progress: bool | ProgressBar, steps: int) -> AbstractContextManager[ProgressBar]:
    """The caller's bar, or one on stderr."""
    if not isinstance(progress, bool):
        return nullcontext(progress)
    return tqdm(total=steps, desc="sac policy", unit="step", disable=not progress, leave=False)


class _Task(gym.Env[np.ndarray, np.ndarray]):
    """The environment as SAC wants it: standardised features of the state and of the goal, (2 F,), and a reward."""

    def __init__(
        self, env: GoalEnv, config: SACPolicyConfig, scales: dict[str, np.ndarray], rng: np.random.Generator
    ) -> None:
        self._env, self._config, self._scales, self._rng = env, config, scales, rng
        # A copy, since the learner seeds it.
        self.action_space = gym.spaces.Box(env.action_space.low, env.action_space.high, dtype=env.action_space.dtype)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2 * len(scales["mean"]),), np.float32)
        self._goal = env.get_state()
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._goal, self._step = self._env.sample_state(self._rng), 0
        self._env.set_state(self._env.sample_state(self._rng))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self._env.advance(action)
        self._step += 1
        return self._observation(), self._reward(), False, self._step >= self._config.goal_steps, {}

    def _observation(self) -> np.ndarray:
        return _observation(self._env, self._scales, self._env.get_state(), self._goal).astype(np.float32)

    def _reward(self) -> float:
        state = self._env.get_state()
        reached = float(self._env.reached(state.copy(), self._goal.copy()))
        if self._config.reward == "success":
            return reached
        return reached - float(self._env.distance(state, self._goal.copy()) / self._scales["distance"])


def _survey(env: GoalEnv, steps: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """``mean`` and ``std`` (F,) of the features along random actions, and the mean ``distance`` of two states ()."""
    starts = np.stack([env.sample_state(rng) for _ in range(SURVEY_EPISODES)])
    low, high = env.action_space.low, env.action_space.high
    actions = rng.uniform(low, high, (SURVEY_EPISODES, steps, *low.shape)).astype(env.action_space.dtype)
    states = env.simulate(starts, actions)
    features = _features(env, states.reshape(-1, states.shape[-1]))
    std = features.std(0)
    return {
        "mean": features.mean(0),
        "std": np.where(std > 1e-6, std, 1.0),
        "distance": np.maximum(env.distance(states, np.roll(states, 1, axis=0)).mean(), 1e-6),
    }


def _features(env: GoalEnv, states: np.ndarray) -> np.ndarray:
    """(N, X) states beside all their quantities, (N, F).

    Not quantities alone: cosines do not tell full turns apart, which the distance may. Nor states alone, where
    quantities say the same in a form that is easier to learn from.
    """
    return np.concatenate([states, *env.quantities(states).values()], axis=1).astype(np.float64)


def _observation(env: GoalEnv, scales: dict[str, np.ndarray], state: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(X,) state and goal to (2 F,) float64."""
    standard = [(_features(env, row[None])[0] - scales["mean"]) / scales["std"] for row in (state, goal)]
    return np.concatenate(standard)


# On disk.


def _description(env: GoalEnv) -> dict[str, Any]:
    """What a policy has to find again where it is used."""
    states, space = env.get_state()[None], env.action_space
    sizes = {name: values.shape[1] for name, values in env.quantities(states).items()}
    return {
        "state": states.shape[1],
        "quantities": sizes,
        "action_low": space.low.tolist(),
        "action_high": space.high.tolist(),
    }


def _save(folder: Path, actor, scales: dict[str, np.ndarray], card: dict[str, Any]) -> None:
    import torch
    from torch import nn

    from lewm_bench.system.checkpoint import not_finite, save_tensors
    from lewm_bench.system.files import write_text

    layers = [m for m in actor.latent_pi if isinstance(m, nn.Linear)]
    named = {**{f"hidden.{i}": layer for i, layer in enumerate(layers)}, "mean": actor.mu, "log_std": actor.log_std}
    tensors = {f"scale.{name}": torch.from_numpy(np.asarray(value)) for name, value in scales.items()}
    for name, layer in named.items():
        tensors |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    if (name := not_finite(tensors)) is not None:
        raise TrainingFailed(f"the SAC policy's {name} is not finite; try a lower collect.sac.learning_rate")
    (Path(folder) / CARD).unlink(missing_ok=True)  # written last: a folder with a card is complete
    save_tensors(Path(folder) / WEIGHTS, tensors)
    write_text(Path(folder) / CARD, json.dumps(card, indent=1, sort_keys=True))


def _load(env: GoalEnv, folder: Path) -> tuple[SACPolicyConfig, dict[str, np.ndarray]]:
    from lewm_bench.system.checkpoint import load_tensors

    path = Path(folder) / CARD
    mend = "delete its folder and train the policy again"
    try:
        card = read_json(path, mend)
        wanted, config = card["env"], SACPolicyConfig(**card["config"])
        known = card["format"] == FORMAT
    except MissingFile:
        raise UserError(f"no SAC policy in {folder}: it has no {CARD}; train one first or name another folder")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged; {mend}")
    if not known:
        raise UserError(f"{path} has the format {card['format']!r}, not {FORMAT!r}; train the policy again")
    if wanted != _description(env):
        raise UserError(f"the SAC policy in {folder} was trained for {wanted}, this is {_description(env)}")
    tensors = load_tensors(Path(folder) / WEIGHTS)
    return config, {name: tensor.double().numpy() for name, tensor in tensors.items()}


# Acting.


def load_sac_policy(env: GoalEnv, folder: Path) -> PolicyFactory:
    """The policy in ``folder``: from goal to goal, each drawn when the last one is reached or has taken too long.

    Raises:
        UserError: there is none, it is damaged, or it was trained for other quantities or actions.
    """
    config, tensors = _load(env, folder)
    actor = _Actor(env, config, tensors)

    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        episodes = [_Episode(env, actor, config.goal_steps, rng) for rng in rngs]

        def act(states: np.ndarray) -> np.ndarray:
            return np.stack([episode.act(state) for episode, state in zip(episodes, states, strict=True)])

        return act

    return start


class _Episode:
    """One walk from goal to goal."""

    def __init__(self, env: GoalEnv, actor: _Actor, goal_steps: int, rng: np.random.Generator) -> None:
        self._env, self._actor, self._goal_steps, self._rng = env, actor, goal_steps, rng
        self._goal, self._age = env.sample_state(rng), 0

    def act(self, state: np.ndarray) -> np.ndarray:
        """(X,) to (A,)."""
        if self._age >= self._goal_steps or self._env.reached(state.copy(), self._goal.copy()):
            self._goal, self._age = self._env.sample_state(self._rng), 0
        self._age += 1
        return self._actor.sample(state, self._goal, self._rng)


class _Actor:
    """SAC's squashed Gaussian policy."""

    def __init__(self, env: GoalEnv, config: SACPolicyConfig, tensors: dict[str, np.ndarray]) -> None:
        self._env, self._noise = env, config.noise
        self._scales = {name: tensors[f"scale.{name}"] for name in ("mean", "std")}
        names = [*(f"hidden.{i}" for i in range(len(config.hidden))), "mean", "log_std"]
        layers = [(np.ascontiguousarray(tensors[f"{n}.weight"].T), tensors[f"{n}.bias"]) for n in names]
        *self._hidden, self._mean, self._log_std = layers

    def sample(self, state: np.ndarray, goal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(X,) state and goal to an action (A,)."""
        space = self._env.action_space
        hidden = _observation(self._env, self._scales, state, goal)
        for layer in self._hidden:
            hidden = np.maximum(_linear(layer, hidden), 0.0)
        std = np.exp(np.clip(_linear(self._log_std, hidden), *LOG_STD_RANGE))
        raw = _linear(self._mean, hidden) + self._noise * std * rng.standard_normal(space.shape)
        action = space.low + 0.5 * (np.tanh(raw) + 1.0) * (space.high - space.low)
        return np.clip(action.astype(space.dtype), space.low, space.high)


def _linear(layer: tuple[np.ndarray, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """(in,) to (out,), summed in the order of the inputs; a matrix product would choose its own order."""
    weight, bias = layer
    return (inputs[:, None] * weight).sum(0) + bias
