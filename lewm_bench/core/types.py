"""The records that the parts exchange.

Letters, used here and in shape comments everywhere: B episodes side by side, S sampled plans, T frames of a clip,
H plan length in blocks, A numbers of one action block (frame_skip x action_dim), h w pixels, X state size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """One recorded trajectory; one more frame than actions. Rewards are neither read nor stored."""

    frames: np.ndarray  # (T+1, h, w, 3) uint8
    states: np.ndarray  # (T+1, X) float64, exact enough to restore the simulator to the bit
    actions: np.ndarray  # (T, action_dim) float32, in the environment's units


@dataclass(frozen=True)
class Clip:
    """What a model learns from. Entry t of ``actions`` is the block executed between frames t and t+1."""

    frames: Tensor  # (B, T, 3, h, w) uint8
    actions: Tensor  # (B, T-1, A) float32, in the environment's units


@dataclass(frozen=True)
class Past:
    """What an agent may look at when it is asked to act; the last frame is now. Its own copy, made for this decision.

    The frames go back from now in equal steps, however many actions a decision has, as far as the episode does.

    The simulator's true states are there for privileged agents (the oracle) and for those whose label says that they
    read a part of it (proprioception).
    """

    frames: Tensor  # (B, T, 3, h, w) uint8, frame_skip environment steps apart, 1 <= T <= agent.history
    actions: Tensor  # (B, T-1, A) float32
    states: np.ndarray  # (B, X) float64, of now
    frame_states: np.ndarray | None = None  # (B, T, X) float64, of every frame


@dataclass(frozen=True)
class Goals:
    """Where a batch of episodes should go; ``states`` again is not for everyone."""

    frames: Tensor  # (B, 3, h, w) uint8
    states: np.ndarray  # (B, X) float64


Cost = Callable[["Tensor"], "Tensor"]  # plans (B, S, H, A) in normalised action space -> (B, S)


@dataclass(frozen=True)
class Plan:
    """The result of one search."""

    actions: Tensor  # (B, H, A) normalised
    cost: Tensor  # (B,) mean cost of the last elites


class WorldModel(Protocol):
    """Frames to latents, and latents with actions to the next latents. A latent has any shape ``*L``."""

    history: int  # frames of context it was trained with
    frame_skip: int  # environment steps per action block

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, 3, h, w) uint8 to (B, T, *L)."""

    def normalize_actions(self, actions: Tensor) -> Tensor:
        """(..., A) environment units to z-scores."""

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        """(..., A) z-scores to environment units."""

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, *L) latents and (N, T, A) z-scored blocks to the latent after the last block, (N, *L)."""


@runtime_checkable
class Controller(Protocol):
    """Steers one batch of episodes to their goals; lives as long as they do and holds what evolves.

    One decision is ``search(encode(past))``; the two halves are timed apart.
    """

    def encode(self, past: Past) -> Any:
        """Whatever ``search`` needs from the pixels."""

    def search(self, encoded: Any) -> np.ndarray:
        """(B, k, action_dim) finite actions in the environment's units to execute before the next decision, k >= 1."""


@runtime_checkable
class Agent(Protocol):
    """Something that can be sent to goal images."""

    history: int  # frames of context it wants
    frame_skip: int  # environment steps between them

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> Controller:
        """A controller for B episodes; ``rngs`` holds one generator per episode."""
