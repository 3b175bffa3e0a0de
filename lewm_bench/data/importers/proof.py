"""Whether a simulator does what recorded data say: a sample is drawn again and compared, and moved on and compared.

Recorded numbers are rounded and may leave out a part of the state, and pictures may have been compressed: unlike data
of our own they are not expected to agree to the bit, but the typical picture must be the same and most of the movement
must be explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun

# Looked at. So many steps, because those with collisions or contacts, where unpublished numbers matter, move most and
# come in runs: with 32 steps one in twenty data sets of PushT that are what they say would be refused.
EPISODES, STEPS = 8, 32  # and of each of them
PICTURES = 32  # of all of these
LEVELS = 16  # of 255: a pixel that differs by more is another one
MOST_PIXELS = 0.01  # share of other pixels of the typical picture, unless it is closer to its own state than to others:
MOST_DIFFERENCE = 0.25  # squared error to its own state's picture, of that to other states' pictures
MOST_MOVEMENT = 0.25  # share of the movement that may be left unexplained


@dataclass(frozen=True)
class Sample:
    """Transitions of a data set."""

    frames: np.ndarray  # (N, h, w, 3) uint8
    before: np.ndarray  # (N, X) float64
    actions: np.ndarray  # (N, action_dim) float32
    after: np.ndarray  # (N, X) float64


@dataclass(frozen=True)
class Proof:
    """Errors of a simulator on a sample."""

    pixels: np.ndarray | None  # (N,) share of pixels that differ; None where nothing can be drawn
    difference: float  # squared error to the picture of its own state, of that to those of the other states
    channels_swapped: bool  # the pictures agree with red and blue exchanged
    steps: np.ndarray  # (N,) largest difference of a recorded number of the state after one step
    movement: float  # what is left unexplained of the movement, as a share of it

    def lines(self) -> list[str]:
        """Both errors, in words."""
        drawn = "nothing can be drawn here, so they are not compared"
        if self.pixels is not None:
            typical, worst = 100 * np.median(self.pixels), 100 * self.pixels.max()
            drawn = (
                f"{typical:.2g} % of the pixels differ by more than {LEVELS} levels, at worst {worst:.2g} %, "
                f"in {len(self.pixels)} frames drawn again"
            )
        moved = (
            f"off by {np.median(self.steps):.2g}, at worst {self.steps.max():.2g}, in {len(self.steps)} steps simulated "
            f"again; {100 * self.movement:.2g} % of the movement is not explained"
        )
        return [f"pictures: {drawn}", f"states: {moved}"]

    def contradiction(self) -> str:
        """Why the data cannot be the simulator's, in words; empty if they can."""
        if self.pixels is not None and np.median(self.pixels) > MOST_PIXELS and self.difference > MOST_DIFFERENCE:
            swapped = "; red and blue are exchanged in them" if self.channels_swapped else ""
            return f"{100 * np.median(self.pixels):.2g} % of the pixels of its typical picture differ{swapped}"
        if not self.movement <= MOST_MOVEMENT:
            return f"{100 * self.movement:.2g} % of the movement in one step is not explained"
        return ""


def sampled(lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Episodes and their steps (n,) to look at, evenly over those that have any, of (episodes,) numbers of frames."""
    usable = np.flatnonzero(lengths > 1)
    for episode in usable[np.unique(np.linspace(0, len(usable) - 1, EPISODES).astype(int))].tolist():
        yield episode, np.unique(np.linspace(0, lengths[episode] - 2, STEPS).astype(int))


def prove(env: GoalEnv, sample: Sample, known: int | None = None) -> Proof:
    """The errors of a simulator; ``known`` numbers of a state are recorded, from its first."""
    found = env.simulate(sample.before, sample.actions[:, None].astype(np.float64))[:, 0]
    off, moved = (np.abs(x - sample.after)[:, :known] for x in (found, sample.before))
    return Proof(*_drawn(env, sample), off.max(1), _unexplained(off, moved))


def unexplained(env: GoalEnv, before: np.ndarray, actions: np.ndarray, after: np.ndarray, known: int | None) -> float:
    """What a simulator leaves unexplained of the movement in steps (N, X), as a share of it."""
    found = env.simulate(before, actions[:, None].astype(np.float64))[:, 0]
    return _unexplained(*(np.abs(x - after)[:, :known] for x in (found, before)))


def _unexplained(off: np.ndarray, moved: np.ndarray) -> float:
    """The mean over the numbers of a state that move, so that their units do not matter."""
    total = moved.sum(0)
    moves = total > 1e-6 * max(total.max(initial=0.0), 1e-12)
    if not moves.any():
        return 0.0 if off.max(initial=0.0) < 1e-6 else np.inf
    return float((off[:, moves].sum(0) / total[moves]).mean())


def _drawn(env: GoalEnv, sample: Sample) -> tuple[np.ndarray | None, float, bool]:
    some = np.unique(np.linspace(0, len(sample.frames) - 1, PICTURES).astype(int))
    frames = sample.frames[some]
    try:
        pictures = env.render_states(sample.before[some])
    except NotRun:
        return None, 0.0, False
    other = (np.abs(pictures.astype(np.int16) - frames) > LEVELS).any(-1).mean((1, 2))
    difference = _difference(pictures, frames)
    swapped = difference > MOST_DIFFERENCE and _difference(pictures[..., ::-1], frames) <= MOST_DIFFERENCE
    return other, difference, swapped


def _difference(pictures: np.ndarray, stored: np.ndarray) -> float:
    """How much closer stored pictures are to those of their own states than to those of others; lossy ones are."""
    drawn, found = (values.reshape(len(values), -1).astype(np.float32) for values in (pictures, stored))
    own = np.square(drawn - found).sum(1)
    others = [np.square(np.roll(drawn, shift, 0) - found).sum(1) for shift in range(1, len(drawn))]
    return float(own.sum() / max(np.mean(others, 0).sum(), 1.0)) if others else 1.0
