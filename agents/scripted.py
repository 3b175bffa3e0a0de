"""The floors: do nothing, and do anything. Every success rate is read against them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lewm_bench.agent import AgentConfig, Family, Loaded, Setting
from lewm_bench.core.card import Card
from lewm_bench.core.errors import NotRun
from lewm_bench.core.exploration import finite_bounds
from lewm_bench.core.types import Goals, Past


class Scripted:
    """Executes (B, frame_skip, action_dim) actions made by ``draw(rng)`` per episode; looks at nothing."""

    def __init__(self, frame_skip: int, draw) -> None:
        self.history, self.frame_skip = 1, frame_skip
        self._draw = draw
        self._rngs: Sequence[np.random.Generator] = ()

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> Scripted:
        controller = Scripted(self.frame_skip, self._draw)
        controller._rngs = rngs
        return controller

    def encode(self, past: Past) -> None:
        return None

    def search(self, encoded: None) -> np.ndarray:
        return np.stack([self._draw(rng) for rng in self._rngs])


class ScriptedFamily(Family):
    """``noop`` and ``random``."""

    kind = "floor"

    def __init__(self, label: str, card: Card, draw) -> None:
        self._label, self.card, self._draw = label, card, draw

    def load(self, setting: Setting[AgentConfig], checkpoint: Path | None) -> Loaded:
        space, skip = setting.env.action_space, setting.config.frame_skip
        return Loaded(Scripted(skip, lambda rng: self._draw(rng, space, skip)), self._label)


class NoopFamily(ScriptedFamily):
    """``noop``, where there is an action that does nothing."""

    def requirements(self, setting: Setting) -> None:
        if not setting.env.can_rest:
            raise NotRun(
                f"no action of {setting.env_id} does nothing: they are discrete, or 0 is outside their bounds; read the "
                "scores against the agent random"
            )


def _zeros(rng: np.random.Generator, space, steps: int) -> np.ndarray:
    del rng
    return np.zeros((steps, *space.shape), np.float32)


def _uniform(rng: np.random.Generator, space, steps: int) -> np.ndarray:
    return rng.uniform(*finite_bounds(space), (steps, *space.shape)).astype(np.float32)


NOOP = NoopFamily(
    "No action",
    Card(
        name="no action",
        about="does nothing: what the task gives away for free",
        colour="#C8C8C8",
        marker=">",
        rank=30,
    ),
    _zeros,
)
RANDOM = ScriptedFamily(
    "Random actions (uniform, a new one each step)",
    Card(
        name="random actions",
        about="acts at random: the floor that any number must be compared with",
        colour="#5C5C5C",
        marker="<",
        rank=20,
    ),
    _uniform,
)
