"""What a batch of episodes has been through, and what of it an agent is shown.

Shapes: B episodes side by side, T frames of context, X state size, k actions of one decision, A numbers of a block.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.types import Past
from lewm_bench.data.format import Dataset


class History:
    """Every state and action of B episodes, from the recorded ones before the start to now.

    Frames are drawn when they are shown for the first time and dropped when they cannot be shown again.
    """

    def __init__(
        self, env: GoalEnv, dataset: Dataset, start: np.ndarray, blocks: int, context: tuple[int, int]
    ) -> None:
        """Episodes that begin at rows ``start`` (B,) of the data, after ``blocks`` recorded action blocks.

        Args:
            context: frames that an agent wants, and the environment steps between them.
        """
        self._env, self._dataset = env, dataset
        self._most, self._skip = context
        self._rows = start[:, None] + np.arange(-blocks * self._skip, 1)
        self._states = dataset.states[self._rows]  # (B, recorded + 1 + steps, X)
        self._actions = dataset.actions[self._rows[:, :-1]]  # (B, recorded + steps, action_dim)
        self._frames: dict[int, np.ndarray] = {}  # (B, h, w, 3) by position in the states

    @property
    def states(self) -> np.ndarray:
        """(B, 1 + steps, X) from the start on, a copy."""
        return self._states[:, self._recorded :].copy()

    @property
    def now(self) -> np.ndarray:
        """(B, X), a copy."""
        return self._states[:, -1].copy()

    @property
    def steps(self) -> int:
        """Environment steps since the start."""
        return self._states.shape[1] - 1 - self._recorded

    @property
    def _recorded(self) -> int:
        return self._rows.shape[1] - 1

    def append(self, actions: np.ndarray, states: np.ndarray) -> None:
        """Go on by the actions (B, k, action_dim) and the states after each, (B, k, X)."""
        self._states = np.concatenate([self._states, states], 1)
        self._actions = np.concatenate([self._actions, actions.astype(np.float32)], 1)

    def draw(self) -> None:
        """Have the frames that ``past`` shows ready."""
        shown = self._shown()
        self._frames = {p: frame for p, frame in self._frames.items() if p >= shown[0]}
        missing = [p for p in shown if p not in self._frames]
        simulated = [p for p in missing if p > self._recorded]
        for p in missing:
            if p <= self._recorded:
                self._frames[p] = self._dataset.frames[self._rows[:, p]]
        if simulated:
            frames = render(self._env, self._states[:, simulated])
            self._frames |= {p: frames[:, i] for i, p in enumerate(simulated)}

    def past(self) -> Past:
        """What an agent may look at now: copies, so that it can change nothing but its own."""
        self.draw()
        shown = self._shown()
        frames = np.stack([self._frames[p] for p in shown], 1)
        steps = np.arange(shown[0], shown[-1])
        size = self._skip * self._actions.shape[2]
        blocks = self._actions[:, steps].reshape(len(frames), len(shown) - 1, size)
        return Past(images(frames), torch.from_numpy(blocks), self.now, self._states[:, shown])

    def _shown(self) -> list[int]:
        """Positions in the states of the frames in context: now, and ``skip`` steps apart back from it."""
        return shown_steps(self._states.shape[1] - 1, self._most, self._skip)


def shown_steps(now: int, history: int, frame_skip: int) -> list[int]:
    """The steps whose frames an agent sees at step ``now``: ``frame_skip`` apart back from it, as far as there are any."""
    frames = min(history, now // frame_skip + 1)
    return [now - frame_skip * i for i in reversed(range(frames))]


def images(frames: np.ndarray) -> Tensor:
    """(..., h, w, 3) to (..., 3, h, w), a copy."""
    return torch.from_numpy(np.moveaxis(frames, -1, -3).copy())


def render(env: GoalEnv, states: np.ndarray) -> np.ndarray:
    """(B, k, X) states, which the environment may overwrite, to (B, k, h, w, 3) frames."""
    flat = env.render_states(states.reshape(-1, states.shape[-1]))
    return flat.reshape(*states.shape[:2], *env.observation_space.shape)
