"""A task whose solution a script has shown on the simulator."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lewm_bench.core.env import GoalEnv, Task


class Script(Protocol):
    """A policy for one episode towards one target, with what evolves between its steps."""

    finished: bool  # at its last action: nothing is held, nothing half done

    def act(self, state: np.ndarray) -> np.ndarray:
        """(X,) state to (action_dim,) action."""


def solved(env: GoalEnv, script: Script, start: np.ndarray, target: np.ndarray, most: int) -> Task:
    """From ``start`` to where a script ends once it has reached ``target``, with its actions, at most ``most``.

    That is a goal which the physics can hold, seen with the body where it may be. A script that does not get there
    leaves a task to ``target`` without a solution.
    """
    before, state, actions = env.get_state(), start, []
    env.set_state(start)
    done = False
    while not done and len(actions) < most:
        actions.append(script.act(state))
        env.advance(actions[-1])
        state = env.get_state()
        done = script.finished and bool(env.reached(state, target))
    env.set_state(before)
    return Task(start, state, np.stack(actions)) if done else Task(start, target)
