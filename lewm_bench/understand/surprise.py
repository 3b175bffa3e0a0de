"""Violation of expectation: does a world model expect what can happen, and does it look past mere looks?

LeWM paper, appendix F.3: the same held-out clip untouched, with another colour from one frame on, and with the thing
that moves put elsewhere at that frame; here also with camera noise, which like the colour changes no state. Surprise is
the error of the predicted next latent. After a teleport the same actions are executed by the simulator from the new
place, so that the jump is all that no dynamics explains.

Shapes: N clips, T frames of a clip (one action block apart), E frames before the event, X state size, L latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.core.config import Config
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import WorldModel
from lewm_bench.understand.model import ExaminedModel
from lewm_bench.understand.records import Condition, Surprise
from lewm_bench.understand.surprise_statistics import summarise

PIECE = 16  # clips whose frames are in memory together
TRIES = 1000  # draws of a teleport before it is called impossible
USUAL = 0.99  # quantile of the ways of blocks; the farthest of many may be farther than anything can be teleported


class SurpriseConfig(Config):
    """Settings of the violation-of-expectation test."""

    triples: int = Field(
        120, ge=2, description="triples at most; episodes give as many as fit without overlap, one each first"
    )
    before: int = Field(3, ge=0, description="blocks shown before the event, behind the model's first context")
    after: int = Field(4, ge=1, description="blocks shown after the event's own")
    noise: float = Field(
        0.05, gt=0, le=1, description="standard deviation of the camera noise; 1 is from black to white"
    )
    min_distance: float = Field(3.0, ge=0, description="shortest teleport, in the environment's success thresholds")
    min_blocks: float = Field(1.0, ge=0, description="shortest teleport, in what 99 % of held-out blocks stay below")

    def event(self, history: int) -> int:
        """The first frame of a clip that differs."""
        return history + self.before

    def frames(self, history: int) -> int:
        """Frames of a clip."""
        return self.event(history) + 1 + self.after


class Scene(NamedTuple):
    """States (N, T, X) and what the camera saw, (N, T, h, w, 3) uint8."""

    states: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class MatchedClips:
    """Clips of which every condition shares rows' actions and ``past``; ``futures`` begin with the event's frame."""

    rows: np.ndarray  # (N, T) of the dataset
    past: Scene  # E frames
    futures: Mapping[Condition, Scene]  # T - E frames


def examine_surprise(examined: ExaminedModel, config: SurpriseConfig) -> Surprise:
    """Surprise around the event in every condition, and the tests against the untouched member.

    Raises:
        UserError: the held-out episodes are too few or too short, or nothing can be teleported far enough.
    """
    rows, episodes = clips(examined, config)
    found = surprises(examined, rows, config)
    return summarise(found, episodes, config.before, examined.model.history)


def clips(examined: ExaminedModel, config: SurpriseConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, T) of clips of test episodes that share no block, and their episodes (N,); the same for every seed.

    Raises:
        UserError: fewer than two test episodes are long enough.
    """
    dataset, skip, count = examined.dataset, examined.model.frame_skip, config.frames(examined.model.history)
    span = (count - 1) * skip
    rng = stream(0, "understanding", "surprise", examined.env_id, count, skip)
    starts: list[np.ndarray] = []
    for episode in rng.permutation(dataset.episodes("test")):
        fit, spare = divmod(int(dataset.lengths[episode]) - 1, span)
        first = dataset.starts[episode] + rng.integers(spare + 1)
        starts.append(first + span * rng.permutation(fit))
    if sum(len(own) > 0 for own in starts) < 2:
        raise UserError(
            f"violation of expectation needs two test episodes of {span} steps in {examined.env_id}; raise "
            f"collect.episodes or collect.steps, or lower understanding.surprise.before and .after"
        )
    rounds = range(max(map(len, starts)))
    chosen = np.array([own[k] for k in rounds for own in starts if k < len(own)][: config.triples])
    return chosen[:, None] + np.arange(count) * skip, examined.episodes_of(chosen)


def surprises(
    examined: ExaminedModel, rows: np.ndarray, config: SurpriseConfig, piece: int = PIECE
) -> dict[Condition, np.ndarray]:
    """The surprise (N, S) of clips (N, T) by condition, at the S = T - history steps that have a full context."""
    least = least_distance(examined, config)
    parts = [surprise_of(examined, matched_clips(examined, own, config, least)) for own in _split(rows, piece)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split(rows: np.ndarray, piece: int) -> list[np.ndarray]:
    return [rows[k : k + piece] for k in range(0, len(rows), piece)]


def least_distance(examined: ExaminedModel, config: SurpriseConfig) -> float:
    """How far a teleport must lead at least, in the unit of ``env.distance``.

    What a block may do is no violation, so this is no less than what 99 % of those in held-out episodes stay below.
    """
    skip, dataset = examined.model.frame_skip, examined.dataset
    rows = dataset.rows("test", spare=skip)
    ways = examined.env.distance(dataset.states[rows], dataset.states[rows + skip])
    return float(max(config.min_distance * examined.env.threshold, config.min_blocks * np.quantile(ways, USUAL)))


def matched_clips(examined: ExaminedModel, rows: np.ndarray, config: SurpriseConfig, least: float) -> MatchedClips:
    """The clips (N, T) in every condition; all frames are drawn anew, so that no renderer tells conditions apart."""
    env, event = examined.env, config.event(examined.model.history)
    states = examined.dataset.states[rows]
    after = states[:, event:]
    untouched = draw(env.render_states, after)
    jumped = teleport(examined, rows[:, event:], least)
    noise = [stream(0, "understanding", "camera noise", examined.env_id, int(row)) for row in rows[:, event]]
    return MatchedClips(
        rows,
        Scene(states[:, :event], draw(env.render_states, states[:, :event])),
        {
            "untouched": Scene(after, untouched),
            "camera noise": Scene(after, noisy(untouched, config.noise, noise)),
            "recoloured": Scene(after, draw(env.recolored, after)),
            "teleported": Scene(jumped, draw(env.render_states, jumped)),
        },
    )


def draw(render, states: np.ndarray) -> np.ndarray:
    """States (N, T, X) to frames (N, T, h, w, 3) by a function of many states."""
    flat = render(states.reshape(-1, states.shape[-1]))
    return flat.reshape(*states.shape[:2], *flat.shape[1:])


def noisy(frames: np.ndarray, std: float, rngs: list[np.random.Generator]) -> np.ndarray:
    """Frames (N, ...) with independent normal noise on every pixel and channel, clipped to what a camera records."""
    noise = np.stack([rng.standard_normal(frames.shape[1:], np.float32) for rng in rngs])
    return np.rint(frames + 255 * std * noise).clip(0, 255).astype(np.uint8)


def teleport(examined: ExaminedModel, rows: np.ndarray, least: float) -> np.ndarray:
    """Rows (N, T) from the event on to states (N, T, X): elsewhere at the event, and what the actions do from there."""
    env, skip = examined.env, examined.model.frame_skip
    rngs = [stream(0, "understanding", "teleport", examined.env_id, int(row)) for row in rows[:, 0]]
    start = teleported(env, examined.dataset.states[rows[:, 0]], rngs, least)
    actions = examined.dataset.actions[rows[:, :1] + np.arange(skip * (rows.shape[1] - 1))]
    return np.concatenate([start[:, None], env.simulate(start, actions)[:, skip - 1 :: skip]], axis=1)


def teleported(env: GoalEnv, states: np.ndarray, rngs: list[np.random.Generator], least: float) -> np.ndarray:
    """(N, X) states to teleported ones farther than ``least`` away; one that is nearer is drawn again.

    Raises:
        UserError: none is found.
    """
    found = np.array(env.teleported(states, rngs), np.float64)
    for _ in range(TRIES):
        near = np.flatnonzero(env.distance(found, states) <= least)
        if not len(near):
            return found
        found[near] = env.teleported(states[near], [rngs[n] for n in near])
    raise UserError(
        f"no teleport leads farther than {least:.3g} {env.distance_unit} in {TRIES} draws; lower "
        f"understanding.surprise.min_distance or .min_blocks"
    )


@torch.inference_mode()
def surprise_of(examined: ExaminedModel, clips: MatchedClips) -> dict[Condition, np.ndarray]:
    """The surprise (N, S) in every condition; the past is encoded once and is the same tensor in all of them."""
    blocks, past = examined.blocks(clips.rows), encode(examined, clips.past)
    return {
        name: prediction_errors(examined.model, torch.cat([past, encode(examined, scene)], 1), blocks)
        for name, scene in clips.futures.items()
    }


def encode(examined: ExaminedModel, scene: Scene) -> Tensor:
    """Latents (N, T, *L) of a scene as the model predicts them; its states are read by agents that sense themselves."""
    frames = torch.from_numpy(np.ascontiguousarray(np.moveaxis(scene.frames, -1, 2)))
    return examined.planning_agent.encode(frames, scene.states)


def prediction_errors(model: WorldModel, latents: Tensor, blocks: Tensor) -> np.ndarray:
    """Latents (N, T, *L) and z-scored blocks (N, T-1, A) to (N, T - history) mean squared errors over all of L.

    Entry k is of frame history + k, predicted from the encoded frames before it and the blocks executed from them.
    """
    clips, history = len(latents), model.history
    starts = range(latents.shape[1] - history)
    windows = torch.stack([latents[:, k : k + history] for k in starts], 1).flatten(0, 1)
    actions = torch.stack([blocks[:, k : k + history] for k in starts], 1).flatten(0, 1)
    predicted = model.predict_next(windows, actions).unflatten(0, (clips, -1))
    errors = (predicted.cpu().double() - latents[:, history:].cpu().double()).square()  # MPS has no float64
    return errors.flatten(2).mean(-1).numpy()
