"""Data of changed worlds: which factor and level each episode has, and the policies that act in it.

Only training episodes are varied. Those of the other splits stay in the trained world, so that what is evaluated is the
same whatever was trained on. Stored states are those of the trained world.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory
from lewm_bench.core.rng import stream

WORLDS = "worlds"
"""Where the recipe of a dataset has the factor and the level of each episode, if it was collected in several worlds."""

Shift = tuple[str, int]
"""A factor and a level; level 0 is the trained world whatever the factor is called."""

TRAINED: Shift = ("", 0)


def episode_worlds(
    factors: Mapping[str, Sequence[int]], episodes: int, varied: Collection[int], seed: int, env_id: str
) -> list[Shift]:
    """The world of each episode: of the ``varied`` ones a factor and one of its levels, each drawn from its own stream."""
    names, out = sorted(factors), [TRAINED] * episodes
    for number in varied if names else ():
        rng = stream(seed, "collect", env_id, "world", number)
        name = names[rng.integers(len(names))]
        level = int(factors[name][rng.integers(len(factors[name]))])
        out[number] = (name, level) if level else TRAINED
    return out


def in_world(env: GoalEnv, world: Shift) -> GoalEnv:
    """The environment as an episode saw it.

    Raises:
        UserError: it has no such factor or level.
    """
    return env if world == TRAINED else env.shifted(*world)


def policies_in(world: GoalEnv, factories: Mapping[str, PolicyFactory]) -> Mapping[str, PolicyFactory]:
    """A changed world's own policies, and of the trained one those that it does not have, as a learned one."""
    others = {name: _lowered(world, factory) for name, factory in factories.items()}
    return {**others, **world.policies()}


def _lowered(world: GoalEnv, factory: PolicyFactory) -> PolicyFactory:
    def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
        act = factory(rngs)
        return lambda states: act(world.lower(states))

    return start
