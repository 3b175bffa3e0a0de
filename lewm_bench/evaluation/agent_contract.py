"""What agents and environments answer, refused in one line where it is no answer.

Shapes: B episodes side by side, k actions of one decision, X state size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Agent


@dataclass(frozen=True)
class Place:
    """Where an answer was given: by whom, and in which pairs."""

    agent: str
    env: str
    pairs: Sequence[int]

    def at(self, step: int, episode: int | None = None) -> str:
        """The words for an environment step of one of the batch's episodes, or of them all."""
        chosen = self.pairs if episode is None else [self.pairs[episode]]
        return f"at step {step} of pair{'s'[: len(chosen) > 1]} {', '.join(map(str, chosen))}"


def checked_agent(agent: Agent, name: str) -> None:
    """Raise a UserError unless the agent's context is one: at least one frame, at least one step apart."""
    for what in ("history", "frame_skip"):
        value = getattr(agent, what, None)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise UserError(f"{name}: {what} of an agent must be a whole number of at least 1, got {value!r}")


def checked_actions(chosen: object, action_dim: int, place: Place, step: int) -> np.ndarray:
    """What an agent chose at an environment step, (B, k, action_dim) with k >= 1.

    Raises:
        UserError: it is no array, has another shape, no actions or numbers that are not finite.
    """
    wanted = (len(place.pairs), "k", action_dim)
    if not isinstance(chosen, np.ndarray) or chosen.dtype.kind not in "fiu":
        what = f"an array of {chosen.dtype}" if isinstance(chosen, np.ndarray) else f"a {type(chosen).__name__}"
        raise UserError(f"{place.agent} returned {what} {place.at(step)}; search must return an array of numbers")
    if chosen.ndim != 3 or chosen.shape[::2] != wanted[::2] or not chosen.shape[1]:
        raise UserError(
            f"{place.agent} returned actions of shape {chosen.shape} {place.at(step)}; search must return "
            f"({wanted[0]}, k, {action_dim}): k >= 1 actions for each of {wanted[0]} episodes"
        )
    episodes, steps, _ = np.nonzero(~np.isfinite(chosen))
    if len(episodes):
        where = place.at(step + int(steps[0]), int(episodes[0]))
        raise UserError(
            f"{place.agent} chose an action that is not a finite number {where}: {chosen[episodes[0], steps[0]]}"
        )
    return chosen


def checked_states(after: object, shape: tuple[int, int, int], place: Place, step: int) -> np.ndarray:
    """What an environment simulated from a step on, (B, k, X).

    Raises:
        UserError: it has another shape, or numbers that are not finite.
    """
    after = np.asarray(after)
    if after.shape != shape:
        raise UserError(f"{place.env}: simulate returned the shape {after.shape} {place.at(step)}, wanted {shape}")
    episodes, steps, _ = np.nonzero(~np.isfinite(after))
    if len(episodes):
        where = place.at(step + int(steps[0]) + 1, int(episodes[0]))
        raise UserError(f"{place.env}: simulate gave a state that is not finite {where}, where {place.agent} led it")
    return after


def checked_distances(distances: object, length: int, place: Place, episode: int) -> np.ndarray:
    """An environment's distances to the goal at each of ``length`` steps of an episode, (length,).

    Raises:
        UserError: another shape, or a distance that is not finite.
    """
    distances = np.asarray(distances)
    if distances.shape != (length,):
        raise UserError(f"{place.env}: distance returned the shape {distances.shape} for {length} states and one goal")
    wrong = np.flatnonzero(~np.isfinite(distances))
    if len(wrong):
        where = place.at(int(wrong[0]), episode)
        raise UserError(f"{place.env}: the distance to the goal is {distances[wrong[0]]} {where} ({place.agent})")
    return distances
