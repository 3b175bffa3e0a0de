"""SAC with hindsight experience replay (stable-baselines3): the privileged reference line.

Trained online on true states and on the success signal, with the simulator at hand; everything that the other agents
do without. It shows what the task allows a learned policy, not what can be learned from reward-free pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from pydantic import Field

from lewm_bench.agent import AgentConfig, Family, Loaded, Setting, card_of
from lewm_bench.checkpoint import load_weights, save_checkpoint
from lewm_bench.env import GoalEnv
from lewm_bench.rng import confined, stream, torch_seed
from lewm_bench.train import TrainConfig, TrainingLog
from lewm_bench.types import Goals, Past


class SACHERConfig(AgentConfig):
    """``train.steps`` counts environment steps; ``train.batch_size`` and ``train.learning_rate`` are SAC's."""

    frame_skip: int = 1
    history: int = 1
    hidden: tuple[int, ...] = (256, 256)
    episode_steps: int = Field(50, ge=1)
    discount: float = 0.98
    goals_per_step: int = 4  # hindsight goals for each real one
    train: TrainConfig = TrainConfig(steps=20_000, batch_size=256, learning_rate=3e-4, log_every=1000)


class StateGoalEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A ``GoalEnv`` as stable-baselines3's HER wants it: true states as observations, reward 0 at the goal, else -1."""

    def __init__(self, env: GoalEnv, episode_steps: int, rng: np.random.Generator) -> None:
        self.inner, self.episode_steps, self._rng = env, episode_steps, rng
        size = env.get_state().shape
        box = gym.spaces.Box(-np.inf, np.inf, size, np.float64)
        self.observation_space = gym.spaces.Dict(
            {name: box for name in ("observation", "achieved_goal", "desired_goal")}
        )
        self.action_space = env.action_space
        self._goal = np.zeros(size)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._goal, self._step = self.inner.sample_state(self._rng), 0
        self.inner.set_state(self.inner.sample_state(self._rng))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.inner.advance(action)
        self._step += 1
        observation = self._observation()
        reward = float(self.compute_reward(observation["achieved_goal"], self._goal, {}))
        return observation, reward, False, self._step >= self.episode_steps, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: object) -> np.ndarray:
        """(..., X) states and goals to (...)."""
        return self.inner.reached(achieved, desired).astype(np.float32) - 1.0

    def _observation(self) -> dict[str, np.ndarray]:
        state = self.inner.get_state()
        return {"observation": state, "achieved_goal": state, "desired_goal": self._goal}


class StatePolicy:
    """Acts on the true state, one environment step at a time."""

    history, frame_skip = 1, 1

    def __init__(self, policy) -> None:
        self.policy = policy

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> StateController:
        return StateController(self.policy, goals.states)


class StateController:
    """One batch of episodes."""

    def __init__(self, policy, goals: np.ndarray) -> None:
        self._policy, self._goals = policy, goals

    def encode(self, past: Past) -> np.ndarray:
        return past.states

    def search(self, states: np.ndarray) -> np.ndarray:
        observation = {"observation": states, "achieved_goal": states, "desired_goal": self._goals}
        actions, _ = self._policy.predict(observation, deterministic=True)
        return actions[:, None]


class SACHERFamily(Family):
    """``sac-her``."""

    Config = SACHERConfig
    summary = "SAC with hindsight replay on true states and the success signal, trained online: a reference line"
    kind = "privileged"
    trainable = True
    step_cost = 0.01
    decision_cost = 0.05

    def build(self, setting: Setting[SACHERConfig]):
        """The untrained learner."""
        from stable_baselines3 import SAC, HerReplayBuffer

        config = setting.config
        rng = stream(setting.seed, "sac-her", setting.env_id)
        return SAC(
            "MultiInputPolicy",
            StateGoalEnv(setting.env, config.episode_steps, rng),
            learning_rate=config.train.learning_rate,
            batch_size=config.train.batch_size,
            gamma=config.discount,
            learning_starts=10 * config.episode_steps,
            buffer_size=min(config.train.steps, 1_000_000),  # all of it; larger ones take seconds to make
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": config.goals_per_step},
            policy_kwargs={"net_arch": list(config.hidden)},
            seed=torch_seed(setting.seed, "sac-her", setting.env_id) % 2**31,
            device=setting.device,
        )

    def train(self, setting: Setting[SACHERConfig], folder: Path) -> TrainingLog:
        from stable_baselines3.common.callbacks import BaseCallback

        class Log(BaseCallback):
            """Copies SAC's own figures into the training log."""

            def _on_step(self) -> bool:
                if self.n_calls % setting.config.train.log_every == 0:
                    figures = self.model.logger.name_to_value
                    wanted = ("train/actor_loss", "train/critic_loss", "train/ent_coef")
                    log.add(self.n_calls, {k.split("/")[1]: float(figures[k]) for k in wanted if k in figures})
                return True

        log = TrainingLog()
        started = time.perf_counter()
        with confined(setting.seed, "sac-her", setting.env_id):
            learner = self.build(setting)
            learner.learn(setting.config.train.steps, callback=Log(), progress_bar=False, log_interval=10**9)
        log.seconds = time.perf_counter() - started
        save_checkpoint(folder, learner.policy, card_of(setting))
        return log

    def load(self, setting: Setting[SACHERConfig], checkpoint: Path | None) -> Loaded:
        with confined(setting.seed, "sac-her", setting.env_id):
            policy = self.build(setting).policy
        if checkpoint is not None:
            load_weights(policy, checkpoint)
        policy.set_training_mode(False)
        return Loaded(
            StatePolicy(policy),
            "SAC + HER (privileged: state, reward and interaction)",
            "random" if checkpoint is None else "trained",
            sum(p.numel() for p in policy.parameters() if p.requires_grad),
            note=f"uses state, reward and {setting.config.train.steps} steps of interaction",
        )


SAC_HER = SACHERFamily()
