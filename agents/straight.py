"""The visual reflex: from where the picture shows it straight to where the goal image does, whatever is in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from torch import Tensor

from lewm_bench.agent import AgentConfig, Family, Loaded, Setting
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun
from lewm_bench.core.types import Goals, Past


class StraightConfig(AgentConfig):
    """A reflex looks at every frame."""

    frame_skip: int = Field(1, ge=1, description="environment steps per action: a reflex looks at every frame")


class Straight:
    """Follows ``env.reflex``, which it asks again after ``frame_skip`` steps."""

    history = 1

    def __init__(self, env: GoalEnv, frame_skip: int) -> None:
        self._env, self.frame_skip = env, frame_skip

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> StraightController:
        del rngs
        return StraightController(self._env, self.frame_skip, _arrays(goals.frames))


class StraightController:
    """One batch of episodes."""

    def __init__(self, env: GoalEnv, frame_skip: int, goals: np.ndarray) -> None:
        self._env, self._frame_skip, self._goals = env, frame_skip, goals

    def encode(self, past: Past) -> np.ndarray:
        return _arrays(past.frames[:, -1])

    def search(self, encoded: np.ndarray) -> np.ndarray:
        return np.repeat(self._env.reflex(encoded, self._goals)[:, None], self._frame_skip, axis=1)


def _arrays(frames: Tensor) -> np.ndarray:
    """(B, 3, h, w) to (B, h, w, 3)."""
    return frames.permute(0, 2, 3, 1).cpu().numpy()


class StraightFamily(Family):
    """``straight``."""

    Config = StraightConfig
    kind = "floor"
    card = Card(
        name="straight",
        about="sees in both pictures where the agent is and pushes straight there, blind to walls; it learns nothing",
        colour="#9977FF",
        marker="8",
        rank=10,
    )

    def requirements(self, setting: Setting) -> None:
        frame = np.zeros((1, *setting.env.observation_space.shape), np.uint8)
        if setting.env.reflex(frame, frame) is None:
            raise NotRun(
                f"{setting.env_id} has no reflex, which says how pictures alone lead straight to a goal; read the scores "
                "against the agent greedy"
            )

    def load(self, setting: Setting[StraightConfig], checkpoint: Path | None) -> Loaded:
        agent = Straight(setting.env, setting.config.frame_skip)
        return Loaded(agent, "Straight (pushes towards where the goal picture shows it)")


STRAIGHT = StraightFamily()
