"""Worlds that differ from the one that an agent was trained in, by one factor and in four levels.

A factor belongs to an environment: level 0 is the world as it was trained in, 3 the strongest change. Frames of another
look, actions that arrive late, another mass, another maze: what is changed is a ``GoalEnv`` again. Its states may
hold more than the environment's own (an action that is still under way, say): ``lift`` makes them.

Letters: N states, T steps, X numbers of a state of the trained world, M of memory behind it, A of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

LEVELS = (0, 1, 2, 3)
GROUPS = ("looks", "control", "physics", "layout")

Group = Literal["looks", "control", "physics", "layout"]


@dataclass(frozen=True)
class Factor:
    """Something of an environment that can be changed."""

    group: Group
    about: str  # what is changed, for a table: "camera moved, share of the picture's width"
    values: tuple[str, str, str, str]  # what each level is, for a table; the first is the trained world
    make: Callable[[Any, int], Any]  # a GoalEnv and a level from 1 to 3 to the GoalEnv at that level


def scale_texts(scales: Sequence[float]) -> tuple[str, str, str, str]:
    """What the levels of a factor are whose levels 1 to 3 are multiples of what was trained in."""
    first, second, third = (f"x {scale:g}" for scale in scales)
    return "x 1", first, second, third


class World(Protocol):
    """What a change may ask of the environment that it changes."""

    action_space: Any
    observation_space: Any

    @property
    def can_rest(self) -> bool: ...

    @property
    def backdrop(self) -> Any: ...  # of core.looks

    def sample_state(self, rng: np.random.Generator) -> np.ndarray: ...

    def render_states(self, states: np.ndarray) -> np.ndarray: ...

    def recolored(self, states: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Change:
    """A world that is the same but for what a subclass overrides: what is done, what is remembered, what is seen.

    Memory is what the future needs beside the state of ``world``. Everything is a function of what it is given, row by
    row, so that a plan can be simulated from anywhere and as often as a planner likes.
    """

    world: World

    def begin(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states in which an episode begins to their memory (N, M)."""
        return np.empty((len(states), 0))

    def executed(self, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, T, A) actions, inside the action space, from (N, M) memory on to those that are carried out instead."""
        del memory
        return actions

    def remembered(self, states: np.ndarray, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """The memory (N, T, M) after each of the actions (N, T, A), which led to ``states`` (N, T, X)."""
        del actions
        return np.empty((*states.shape[:2], memory.shape[1]))

    def seen(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, X) states to the states (N, X) that are shown."""
        del memory
        return states

    def draw(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, X) states to frames (N, h, w, 3) uint8."""
        return self.paint(self.world.render_states(self.seen(states, memory)), memory)

    def recolored(self, states: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, X) states to frames in which what moves has another colour."""
        return self.paint(self.world.recolored(self.seen(states, memory)), memory)

    def paint(self, frames: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) uint8 frames of the trained world to those of this one."""
        del memory
        return frames

    def moved(self, spots: np.ndarray) -> np.ndarray:
        """(N, 2) where something is in a frame of the trained world to where it is in one of this world."""
        return spots


@dataclass(frozen=True)
class Clocked(Change):
    """A change that is drawn anew at every step; its memory begins with (key of the episode, steps since it began)."""

    def begin(self, states: np.ndarray) -> np.ndarray:
        return np.stack([key_of(states), np.zeros(len(states))], axis=1)

    def remembered(self, states: np.ndarray, actions: np.ndarray, memory: np.ndarray) -> np.ndarray:
        del actions
        key, clock = memory[:, 0, None], self._clock(memory, states.shape[1])
        return np.stack([np.broadcast_to(key, clock.shape), clock + 1], axis=-1)

    def _clock(self, memory: np.ndarray, steps: int) -> np.ndarray:
        """(N, T): when each of the next ``steps`` actions is taken."""
        return memory[:, 1, None] + np.arange(steps)


# Random numbers that are functions of an address, where the generators of ``stream`` would be opened millions of times.

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
_FACTORS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """uint64 to uint64 in which every bit depends on every one before (the finalizer of SplitMix64, Steele 2014)."""
    first, second, third = _SHIFTS
    bits = (bits ^ (bits >> first)) * _FACTORS[0]
    bits = (bits ^ (bits >> second)) * _FACTORS[1]
    return bits ^ (bits >> third)


def hashed(*address: np.ndarray | int) -> np.ndarray:
    """uint64 for whole numbers below 2**53, which are broadcast against each other."""
    bits = np.zeros(1, np.uint64)
    for part in address:
        bits = _mixed(bits + _ODD + np.asarray(part).astype(np.uint64))
    return bits


def uniform(*address: np.ndarray | int) -> np.ndarray:
    """Numbers in [0, 1), as ``hashed`` is addressed."""
    return (hashed(*address) >> np.uint64(11)) * 2.0**-53


def normal(*address: np.ndarray | int) -> np.ndarray:
    """Numbers of mean 0 and variance 1 that are nearly normal: sums of four, in integers, so that no machine rounds."""
    bits, sixteen = hashed(*address), np.uint64(0xFFFF)
    total = sum(((bits >> np.uint64(shift)) & sixteen).astype(np.int64) for shift in (0, 16, 32, 48))
    return (total - 2 * 0xFFFF) * (3**0.5 / 2**16)


def key_of(states: np.ndarray) -> np.ndarray:
    """(N, X) states to (N,) whole numbers below 2**53 that tell them apart."""
    bits = np.ascontiguousarray(np.asarray(states, np.float64) + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    places = hashed(np.arange(bits.shape[1]))
    return (_mixed(_mixed(bits ^ places).sum(1, dtype=np.uint64)) >> np.uint64(11)).astype(np.float64)
