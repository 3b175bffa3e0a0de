"""SAC with hindsight experience replay (stable-baselines3): the privileged reference line.

Trained online on true states and on the success signal, with the simulator at hand; everything that the other agents
do without. It shows what the task allows a learned policy, not what can be learned from reward-free pixels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from lewm_bench.agent import AgentConfig, Family, Loaded, Setting, card_of
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.reading import is_file, read_model
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import confined, torch_seed
from lewm_bench.core.types import Goals, Past
from lewm_bench.system import status
from lewm_bench.system.checkpoint import load_card, load_weights, save_checkpoint, save_tensors
from lewm_bench.system.files import write_text
from lewm_bench.train.loop import TrainConfig, TrainingLog
from lewm_bench.train.record import TrainingRecord

logger = logging.getLogger(__name__)

UNFINISHED, FINISHED, ROOM = ".unfinished", ".finished.json", ".room"


class SACHERConfig(AgentConfig):
    """``train.steps`` counts environment steps; of the rest of ``train`` SAC reads the batch size and learning rate."""

    frame_skip: int = Field(1, description="environment steps per action: it decides at every one")
    history: int = Field(1, description="states of context: it sees one")
    hidden: tuple[int, ...] = Field((256, 256), min_length=1, description="widths of the layers of actor and critics")
    episode_steps: int = Field(50, ge=1, description="environment steps of a training episode")
    discount: float = Field(0.98, ge=0, lt=1, description="of later rewards, per environment step")
    goals_per_step: int = Field(4, ge=0, description="hindsight goals for each real one")
    train: TrainConfig = Field(
        TrainConfig(steps=20_000, batch_size=256, learning_rate=3e-4, log_every=1000),
        description="optimisation; steps are environment steps, and of the rest batch_size and learning_rate count",
    )

    @field_validator("frame_skip", "history")
    @classmethod
    def _every_step(cls, value: int) -> int:
        if value != 1:
            raise ValueError(f"sac-her acts at every step on the state of that step, so this is 1, got {value}")
        return value

    def unread(self) -> Collection[str]:
        return ("data",)

    @property
    def warmup(self) -> int:
        """Environment steps of random actions before the first gradient step: ten episodes."""
        return 10 * self.episode_steps

    @model_validator(mode="after")
    def _learns(self) -> SACHERConfig:
        if self.train.steps <= self.warmup:
            raise ValueError(
                f"nothing would be learned: the first {self.warmup} steps (10 * episode_steps) are random actions, so "
                f"train.steps must be more, got {self.train.steps}"
            )
        return self


class Scale(NamedTuple):
    """What makes states of any unit alike to a network: (X,) mean and deviation of the training data."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray) -> Scale:
        """From (N, X) states; a number that never changes gets deviation 1."""
        std = states.std(0)
        return cls(states.mean(0), np.where(std > 0, std, 1.0))

    def standardize(self, states: np.ndarray) -> np.ndarray:
        """(..., X) states to z-scores."""
        return (states - self.mean) / self.std

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """(..., X) z-scores to states."""
        return scores * self.std + self.mean


class StateGoalEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A ``GoalEnv`` as stable-baselines3's HER wants it: z-scored states, reward 0 at the goal and -1 elsewhere.

    What it shows is rounded to float32, and so is what hindsight rewards are computed from; its own are exact.
    """

    def __init__(self, env: GoalEnv, scale: Scale, episode_steps: int, rng: np.random.Generator) -> None:
        self.inner, self.scale, self.episode_steps, self._rng = env, scale, episode_steps, rng
        size = env.get_state().shape
        box = gym.spaces.Box(-np.inf, np.inf, size, np.float32)  # not every device has float64
        self.observation_space = gym.spaces.Dict(
            {name: box for name in ("observation", "achieved_goal", "desired_goal")}
        )
        self.action_space = env.action_space
        self._goal = np.zeros(size)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._goal, self._step = self.scale.standardize(self.inner.sample_state(self._rng)), 0
        self.inner.set_state(self.inner.sample_state(self._rng))
        return self._observation(), {}

    def step(self, action: np.ndarray):
        self.inner.advance(action)
        self._step += 1
        state = self.scale.standardize(self.inner.get_state())
        reward = float(self.compute_reward(state, self._goal, {}))
        return self._observation(), reward, False, self._step >= self.episode_steps, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: object) -> np.ndarray:
        """(..., X) z-scored states and goals to (...)."""
        reached = self.inner.reached(self.scale.restore(achieved), self.scale.restore(desired))
        return reached.astype(np.float32) - 1.0

    def _observation(self) -> dict[str, np.ndarray]:
        state = self.scale.standardize(self.inner.get_state()).astype(np.float32)
        return {"observation": state, "achieved_goal": state, "desired_goal": self._goal.astype(np.float32)}


class StatePolicy:
    """Acts on the true state, one environment step at a time."""

    history, frame_skip = 1, 1

    def __init__(self, policy) -> None:
        self.policy = policy

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> StateController:
        scale = Scale(self.policy.state_mean.cpu().numpy(), self.policy.state_std.cpu().numpy())
        return StateController(self.policy, scale, goals.states)


class StateController:
    """One batch of episodes."""

    def __init__(self, policy, scale: Scale, goals: np.ndarray) -> None:
        self._policy, self._scale = policy, scale
        self._goals = scale.standardize(goals).astype(np.float32)

    def encode(self, past: Past) -> np.ndarray:
        return past.states

    def search(self, states: np.ndarray) -> np.ndarray:
        scores = self._scale.standardize(states).astype(np.float32)
        observation = {"observation": scores, "achieved_goal": scores, "desired_goal": self._goals}
        actions, _ = self._policy.predict(observation, deterministic=True)
        return actions[:, None]


class SACHERFamily(Family):
    """``sac-her``."""

    Config = SACHERConfig
    card = Card(
        name="SAC+HER",
        about="reinforcement learning with goals relabelled in hindsight; it does not plan",
        colour="#F5A800",
        marker="*",
        papers={"SAC": "1801.01290", "HER": "1707.01495"},
        learns_from="uses state, reward and interaction",
        rank=0,
    )
    kind = "privileged"
    trainable = True
    keeps = False
    schema = 3
    rehearsal: ClassVar = {"episode_steps": 4, "train": {"steps": 60, "batch_size": 8}}

    def build(self, setting: Setting[SACHERConfig]):
        """The untrained learner."""
        from stable_baselines3 import SAC, HerReplayBuffer

        config, dataset = setting.config, setting.dataset
        scale = Scale.of(dataset.states[dataset.rows("train")])
        rng = stream(setting.seed, "sac-her", setting.env_id)
        learner = SAC(
            "MultiInputPolicy",
            StateGoalEnv(setting.env, scale, config.episode_steps, rng),
            learning_rate=config.train.learning_rate,
            batch_size=config.train.batch_size,
            gamma=config.discount,
            learning_starts=config.warmup,
            buffer_size=min(config.train.steps, 1_000_000),  # all of it; larger ones take seconds to make
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": config.goals_per_step},
            policy_kwargs={"net_arch": list(config.hidden)},
            seed=torch_seed(setting.seed, "sac-her", setting.env_id) % 2**31,
            device=setting.device,
        )
        learner.policy.register_buffer("state_mean", torch.from_numpy(scale.mean))
        learner.policy.register_buffer("state_std", torch.from_numpy(scale.std))
        return learner

    def train(self, setting: Setting[SACHERConfig], folder: Path) -> TrainingLog:
        """Train, always from the beginning: of an interrupted training nothing is kept, and a warning says so.

        Of a finished one everything is: the disk is asked for the room of the weights before it begins.
        """
        from stable_baselines3.common.callbacks import BaseCallback

        class Log(BaseCallback):
            """Copies SAC's own figures into the training log and moves the bar."""

            def _on_step(self) -> bool:
                bar.update()
                status.at(self.n_calls, steps)
                if self.n_calls % setting.config.train.log_every == 0:
                    figures = self.model.logger.name_to_value
                    wanted = ("train/actor_loss", "train/critic_loss", "train/ent_coef")
                    log.add(self.n_calls, {k.split("/")[1]: float(figures[k]) for k in wanted if k in figures})
                return True

        unfinished, log = folder / UNFINISHED, TrainingLog()
        if is_file(folder / FINISHED) and load_card(folder) == card_of(setting):
            told = read_model(folder / FINISHED, TrainingRecord, f"delete {folder} and train again")
            return TrainingLog(told.columns, told.seconds)
        if unfinished.is_file():
            # The replay buffer is most of the state, and stable-baselines3 can only pickle it, which we never load.
            logger.warning("nothing of an interrupted training of %s is kept; it starts again", setting.agent)
        write_text(unfinished, "")
        started = time.perf_counter()
        steps, name = setting.config.train.steps, f"train {setting.agent}"
        bar = tqdm(total=steps, desc=name, unit="step", disable=not setting.progress, leave=False)
        with bar, confined(setting.seed, "sac-her", setting.env_id):
            learner = self.build(setting)
            save_tensors(folder / ROOM, learner.policy.state_dict())
            learner.learn(steps, callback=Log(), progress_bar=False, log_interval=10**9)
        log.seconds = time.perf_counter() - started
        (folder / ROOM).unlink()
        save_checkpoint(folder, learner.policy, card_of(setting))
        write_text(folder / FINISHED, json.dumps({"columns": log.columns, "seconds": log.seconds}))
        unfinished.unlink()
        return log

    def load(self, setting: Setting[SACHERConfig], checkpoint: Path | None) -> Loaded:
        with confined(setting.seed, "sac-her", setting.env_id):
            policy = self.build(setting).policy
        if checkpoint is not None:
            load_weights(policy, checkpoint)
        policy.set_training_mode(False)
        return Loaded(
            StatePolicy(policy),
            "SAC + HER (uses state, reward and interaction)",
            "random" if checkpoint is None else "trained",
            sum(p.numel() for p in policy.parameters() if p.requires_grad),
            note=f"uses state, reward and {setting.config.train.steps} steps of interaction",
        )


SAC_HER = SACHERFamily()
