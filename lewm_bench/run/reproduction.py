"""Whether stored data are still what the simulator does: a few transitions are done again, a few pictures drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun
from lewm_bench.data.format import Dataset
from lewm_bench.data.importers import IMPORTED, prove, sample_of
from lewm_bench.data.recorded import RecordedEnv
from lewm_bench.data.worlds import WORLDS, in_world

MOST_WORLDS = 4  # of data from several
STATES = 1e-6  # of a number after one step, relative to 1 or to its own size; other processors round otherwise
LEVELS, SHARE = (
    16,
    0.01,
)  # a pixel that differs by more is another one, a picture with more of them too: OpenGL drivers differ


def disagreement(env: GoalEnv, dataset: Dataset) -> str:
    """What of the data the simulator does not do again, in words; empty if all that is looked at agrees.

    Looked at are the first transition of the first episode, the middle one of the middle episode and the last one of the
    last. Pictures are left out where nothing can be drawn. Imported data, whose numbers were rounded or are not all
    published, are held to what was proved when they were imported. Data without a simulator agree with everything.
    """
    if isinstance(env, RecordedEnv):
        return ""
    if IMPORTED in dataset.meta.recipe:
        return prove(env, sample_of(dataset), dataset.meta.recipe[IMPORTED]["known"]).contradiction()
    if WORLDS in dataset.meta.recipe:
        return _disagreement_of_worlds(env, dataset, dataset.meta.recipe[WORLDS])
    return _differences(env, dataset, transitions(dataset))


def _disagreement_of_worlds(env: GoalEnv, dataset: Dataset, worlds: Sequence[Sequence[str | int]]) -> str:
    """The same for data of several worlds: the first transitions of an episode of each of some worlds.

    What a changed world remembers is known where an episode begins, and nowhere else.
    """
    first = {tuple(world): n for n, world in reversed(list(enumerate(worlds)))}  # an episode of each world
    for (factor, level), episode in list(first.items())[:MOST_WORLDS]:
        world = in_world(env, (str(factor), int(level)))
        try:
            if said := _differences(world, dataset, dataset.starts[[episode]]):
                return f"{said} ({factor} at level {level})" if level else said
        finally:
            if world is not env:
                world.close()
    return ""


def _differences(env: GoalEnv, dataset: Dataset, rows: np.ndarray) -> str:
    """What an environment does not do again of the transitions that begin in ``rows`` (N,)."""
    before, wanted = env.lift(dataset.states[rows]), dataset.states[rows + 1]
    try:
        found = env.lower(env.simulate(before, dataset.actions[rows][:, None])[:, 0])
    except ValueError as error:
        return f"its states are refused ({' '.join(str(error).split())})"
    off = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    if not (off <= STATES).all():
        return f"a state after one step is off by {off.max():.2g}"
    with suppress(NotRun):
        pictures, stored = env.render_states(before), dataset.frames[rows]
        other = (np.abs(pictures.astype(np.int16) - stored) > LEVELS).any(-1).mean((1, 2))
        if (other > SHARE).any():
            return f"{100 * other.max():.2g} % of the pixels of a picture differ"
    return ""


def transitions(dataset: Dataset) -> np.ndarray:
    """Up to three rows (N,) that are not the last of their episode."""
    last, starts = len(dataset) - 1, dataset.starts
    steps = dataset.lengths - 1  # of each episode
    middle = starts[last // 2] + steps[last // 2] // 2
    return np.unique([starts[0], middle, starts[last] + steps[last] - 1])
