"""A task whose solution a script has shown on the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from lewm_bench.core.env import GoalEnv, Task

ATTEMPTS = 3  # of a script that draws where it has a choice


class Script(Protocol):
    """A policy for one episode towards one target, with what evolves between its steps."""

    finished: bool  # at its last action: nothing is held, nothing half done

    def act(self, state: np.ndarray) -> np.ndarray:
        """(X,) state to (action_dim,) action."""


def solved(env: GoalEnv, script: Callable[[], Script], start: np.ndarray, target: np.ndarray, most: int) -> Task:
    """From ``start`` to where a script ends once it has reached ``target``, with its actions, at most ``most``.

    That is a goal which the physics can hold, with the body where it can be. Scripts that do not get there leave a task
    to ``target`` with actions that do not lead there, so that nobody searches for others.
    """
    for _ in range(ATTEMPTS):
        states, actions, done = _played(env, script(), start, target, most)
        if done:
            return Task(start, states[-1], actions)
    return Task(start, target, actions)


def _played(
    env: GoalEnv, script: Script, start: np.ndarray, target: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(T, X) states after (T, action_dim) actions of a script, and whether it did what was asked in the end."""
    before, states, actions, done = env.get_state(), [start], [], False
    env.set_state(start)
    while not done and len(actions) < most:
        actions.append(script.act(states[-1]))
        env.advance(actions[-1])
        states.append(env.get_state())
        done = script.finished and bool(env.reached(states[-1], target))
    env.set_state(before)
    return np.stack(states[1:]), np.stack(actions), done
