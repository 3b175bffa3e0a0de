"""Trails: the ways that an agent went, small enough to be kept in a record.

Letters: N pairs, X state size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.evaluation.episodes import PairResult
from lewm_bench.evaluation.trail_record import Spot, Trail

EVERY = 5  # environment steps from one spot to the next


def trails(env: GoalEnv, results: Sequence[PairResult], goals: np.ndarray) -> tuple[Trail, ...]:
    """The trails of episodes, whose pairs are rows of ``goals`` (N, X); none where what moves has no place in the frame."""
    if not results or env.spots(goals[:1].copy()) is None:
        return ()
    return tuple(_trail(env, result, goals[result.pair]) for result in results)


def _trail(env: GoalEnv, result: PairResult, goal: np.ndarray) -> Trail:
    """The trail of one episode towards its goal (X,)."""
    last = len(result.states) - 1 if result.steps_to_hit is None else result.steps_to_hit
    states = np.array([result.states[t] for t in sorted({*range(0, last, EVERY), last})])
    # An environment that does not know the way takes the distance for it, which says nothing of walls.
    knows = type(env).path_length is not GoalEnv.path_length
    path = _rounded(env.path_length(states[0].copy(), goal.copy())) if knows else None
    return Trail(
        pair=result.pair,
        goal=_per_mille(env, goal[None])[0],
        spots=_per_mille(env, states),
        reached=result.hit,
        distance=_rounded(result.distance_start),
        path=path,
    )


def _per_mille(env: GoalEnv, states: np.ndarray) -> tuple[Spot, ...]:
    """(N, X) states to N spots."""
    shares = np.clip(np.rint(1000 * env.spots(states.copy())), 0, 1000)
    return tuple(map(tuple, shares.astype(int).tolist()))


def _rounded(length: float | np.ndarray) -> float:
    """Five digits: more than a figure shows."""
    return float(f"{float(length):.5g}")
