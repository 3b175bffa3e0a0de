"""GoalEnv: pixels in, a goal image at reset. What the benchmark requires of an environment."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.exploration import BatchPolicy, PolicyFactory, generic_policies
from lewm_bench.core.generic_factors import Generic, generic_factors
from lewm_bench.core.looks import Backdrop
from lewm_bench.core.shift import LEVELS, Change, Factor
from lewm_bench.core.source import Made, made_of


@dataclass(frozen=True)
class Task:
    """Where an episode begins and where it should end, both in no recording."""

    start: np.ndarray  # (X,)
    goal: np.ndarray  # (X,)
    actions: np.ndarray | None = None  # (T, action_dim) that lead there, where an environment knows some, or has failed


class GoalEnv(gym.Env[np.ndarray, np.ndarray], ABC):
    """A deterministic environment that can be put into any of its states and drawn there.

    A state is a flat float64 vector that determines the future exactly: after ``set_state(get_state())`` the same
    actions give the same frames to the last bit. Observations are frames, (h, w, 3) uint8. ``step`` returns reward 0:
    the benchmark is reward-free, and success is in ``info["success"]``.

    ``reset(seed=, options={"start": state, "goal": state})``: both options are optional and sampled from the seed when
    absent. The reset info has ``state``, ``success``, ``goal`` (the goal image) and ``goal_state``; the step info has
    ``state`` and ``success``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    threshold: float
    """A state closer to the goal than this is a success, in the unit of ``distance``."""
    distance_unit: str
    """What one unit of ``distance`` is, for axis labels."""
    exploration: ClassVar[Mapping[str, float]] = {"ornstein_uhlenbeck": 1.0}
    """The policies that collect its data unless a suite says otherwise, and the fraction of episodes of each."""
    proprioception: ClassVar[tuple[str, ...]] = ()
    """The ``quantities`` that the agent's body would sense of itself, for agents that may read them beside the frames."""
    schema: ClassVar[int] = 1
    """Raise it when something changes the data that is not seen in the source: a file that it reads, for instance."""
    tasks_schema: ClassVar[int] = 0
    """Raise it when ``sample_task`` gives other tasks, and the data stay as they are."""
    action_space: gym.spaces.Box
    observation_space: gym.spaces.Box

    @property
    def can_rest(self) -> bool:
        """Whether an action of zeros is one, and does nothing of itself."""
        return bool(self.action_space.contains(np.zeros(self.action_space.shape, self.action_space.dtype)))

    @property
    def knows_ways(self) -> bool:
        """Whether ``path_length`` is more than the distance."""
        return type(self).path_length is not GoalEnv.path_length

    # What an environment must provide.

    @abstractmethod
    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        """A valid state (X,) float64 drawn from ``rng``."""

    @abstractmethod
    def get_state(self) -> np.ndarray:
        """A fresh copy of the current state, (X,) float64."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> None:
        """Put the environment exactly into ``state``."""

    @abstractmethod
    def advance(self, action: np.ndarray) -> None:
        """Apply one action, clipped to the action space."""

    @abstractmethod
    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., X) states and goals to (...) distances; a success is a distance below ``threshold``."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """The current frame, (h, w, 3) uint8."""

    # What follows from it; override the batch methods where the environment can do better than a loop.

    def reached(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., X) states and goals to (...) bool."""
        return self.distance(states, goals) < self.threshold

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """(..., X) states and goals to (...) lengths of the way that must be gone, in the unit of ``distance``.

        The distance itself, unless an environment knows better, as one with walls does. An oracle plans by it.
        """
        return self.distance(states, goals)

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray | None:
        """(N, h, w, 3) frames and goal images to (N, action_dim) actions from what is here straight to where it should be.

        What pictures give away without a model of the world: blind to walls and to everything else that is in between.
        None where an environment has no such thing.
        """
        del frames, goals
        return None

    def sample_task(self, rng: np.random.Generator, number: int) -> Task:
        """The task of a ``number`` from 0, drawn from ``rng``: a start and a goal, sampled both.

        Override it where the environment has tasks of its own, of which ``number`` may choose one.
        """
        del number
        return Task(self.sample_state(rng), self.sample_state(rng))

    def spots(self, states: np.ndarray) -> np.ndarray | None:
        """(N, X) states to (N, 2): where what moves is in its frame, as shares of its width and height, in [0, 1].

        From the upper left corner; reports draw paths by it. None where an environment has no such thing.
        """
        del states
        return None

    def over(self, states: np.ndarray) -> np.ndarray:
        """(..., X) states to (...) bool: whether an episode has ended there, so that no action changes anything.

        Never, unless an environment says otherwise. Recorded episodes end at such a state and none begins in one;
        where one is reached in an evaluation it stays until the budget is spent.
        """
        return np.zeros(np.shape(states)[:-1], bool)

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The true dynamics for N independent starts: (N, X) and (N, T, action_dim) to (N, T, X).

        Entry t is the state after action t. The environment's own current state is left as it was.
        """
        before = np.array(self.get_state())
        out = np.empty((*actions.shape[:2], states.shape[-1]))
        for n, state in enumerate(states):
            self.set_state(state.copy())  # which an environment may keep and change
            for t, action in enumerate(actions[n]):
                self.advance(action.copy())
                out[n, t] = self.get_state()
        self.set_state(before)
        return out

    def render_states(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states to (N, h, w, 3) uint8 frames; the environment's own current state is left as it was."""
        before = np.array(self.get_state())
        out = np.empty((len(states), *self.observation_space.shape), np.uint8)
        for n, state in enumerate(states):
            self.set_state(state.copy())
            out[n] = self.render()
        self.set_state(before)
        return out

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        """Named physical quantities of (N, X) states, each (N, k): what a probe should find in a latent."""
        return {"state": states}

    def proprio(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states to their proprioception, the quantities that ``proprioception`` names side by side, (N, k)."""
        found = self.quantities(states)
        for name in self.proprioception:
            if name not in found:
                raise unknown(f"quantity of {type(self).__name__}", name, found)
        return np.concatenate([found[name] for name in self.proprioception], axis=1)

    def recolored(self, states: np.ndarray) -> np.ndarray:
        """(N, X) states to frames in which what moves has another colour.

        A change of looks without a change of the world, for tests of violated expectations (LeWM, appendix F.3).
        The default rotates the colour channels of the whole frame.
        """
        return np.roll(self.render_states(states), 1, axis=-1)

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """(N, X) states to as many valid ones in which what moves has been put elsewhere, by a generator per state.

        What no dynamics does, for the same tests. The default draws a state; override it to keep what should be kept.
        """
        del states
        return np.stack([self.sample_state(rng) for rng in rngs])

    def sources(self) -> tuple[object, ...]:
        """Classes, functions and names of modules that determine it beside its own class and what that imports."""
        return ()

    def policies(self) -> Mapping[str, PolicyFactory]:
        """Exploratory policies by name, for collecting data; every environment has the generic ones."""
        return generic_policies(self.action_space)

    # Changed worlds.

    def factors(self) -> Mapping[str, Factor]:
        """What can be changed, by name; an environment of one's own adds to ``super().factors()``."""
        return {name: _factor(generic) for name, generic in generic_factors(self).items()}

    def lift(self, states: np.ndarray) -> np.ndarray:
        """(..., X) states of the trained world, in which episodes begin, to states (..., Y) of this one."""
        return np.array(states, np.float64)

    def lower(self, states: np.ndarray) -> np.ndarray:
        """(..., Y) states of this world to those (..., X) of the trained one: what ``lift`` added is left out."""
        return np.array(states, np.float64)

    def possible(self, states: np.ndarray) -> np.ndarray:
        """(..., Y) states to (...) bool: whether one can be here, where walls may stand elsewhere."""
        return np.ones(np.shape(states)[:-1], bool)

    @cached_property
    def backdrop(self) -> Backdrop:
        """What does not move in its frames, and what does; found once, by drawing a few states."""
        return Backdrop(self)

    # Final: the same for every environment.

    def shifted(self, factor: str, level: int) -> GoalEnv:
        """The environment in a changed world: ``factor`` at a level from 0, which is this world, to 3.

        It draws with what this environment has opened, so close this one last.

        Raises:
            UserError: there is no such factor or level.
        """
        factors = self.factors()
        if factor not in factors:
            raise unknown(f"factor of {type(self).__name__}", factor, factors)
        if level not in LEVELS:
            raise UserError(f"{factor}: a level is one of {', '.join(map(str, LEVELS))}, got {short_repr(level)}")
        if level == 0:
            return self
        made = factors[factor].make(self, level)
        made.spec = _shifted_spec(self.spec, factor, level)
        return made

    def made_of(self) -> Made:
        """Its source, as far as it is not of this package, and the versions of the packages that it uses."""
        entry = self.spec.entry_point if self.spec else None
        module = [entry.partition(":")[0]] if isinstance(entry, str) else [entry] if entry else []
        return made_of((self, *module, *self.sources()))

    def identity(self) -> str:
        """16 hex digits that two environments share if they are the same but for the size of their pictures."""
        kwargs = {
            name: value for name, value in (self.spec.kwargs if self.spec else {}).items() if name != "image_size"
        }
        text = json.dumps(
            [self.spec.id if self.spec else "", kwargs, self.schema, self.made_of().digest],
            sort_keys=True,
            default=repr,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        start = options.pop("start", None)
        goal = options.pop("goal", None)
        if options:
            raise ValueError(f"reset takes the options 'start' and 'goal', got also {sorted(options)}")
        start = self.sample_state(self.np_random) if start is None else np.array(start, np.float64)
        goal = self.sample_state(self.np_random) if goal is None else np.array(goal, np.float64)
        self.set_state(goal)
        self._goal_state = np.array(self.get_state())
        goal_frame = self.render()
        self.set_state(start)
        return self.render(), {**self._info(), "goal": goal_frame, "goal_state": self._goal_state.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        return self.render(), 0.0, bool(self.over(self.get_state())), False, self._info()

    def _info(self) -> dict[str, Any]:
        state = self.get_state()
        return {"state": state, "success": bool(self.reached(state.copy(), self._goal_state.copy()))}


def _factor(generic: Generic) -> Factor:
    return Factor(generic.group, generic.about, generic.values, partial(_changed, generic))


def _changed(generic: Generic, env: GoalEnv, level: int) -> ShiftedEnv:
    return ShiftedEnv(env, generic.changes[level - 1](env))


_CHUNK = 64  # frames that are changed together: they are numbers of four bytes then


class ShiftedEnv(GoalEnv):
    """``world`` with a change of what is done and seen; its states are those of ``world`` and the change's memory.

    Letters as in ``core.shift``.
    """

    def __init__(self, world: GoalEnv, change: Change) -> None:
        self.world, self.change = world, change
        self.metadata, self.schema = world.metadata, world.schema
        self.threshold, self.distance_unit = world.threshold, world.distance_unit
        self.exploration, self.proprioception = world.exploration, world.proprioception
        self.action_space, self.observation_space = world.action_space, world.observation_space
        before = world.get_state()
        self._size, self._state = len(before), self._begun(before[None])[0]

    def sources(self) -> tuple[object, ...]:
        return (type(self.world), *self.world.sources())

    # States.

    def _begun(self, states: np.ndarray) -> np.ndarray:
        """(N, X) to (N, X + M)."""
        return np.concatenate([states, self.change.begin(states)], axis=1)

    def _apart(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., X + M) states to those of ``world`` (..., X) and the memory (..., M)."""
        states = np.array(states, np.float64)
        return states[..., : self._size], states[..., self._size :]

    def _base(self, states: np.ndarray) -> np.ndarray:
        return self._apart(states)[0]

    def lift(self, states: np.ndarray) -> np.ndarray:
        states = self.world.lift(states)
        return self._begun(states.reshape(-1, self._size)).reshape(*states.shape[:-1], -1)

    def lower(self, states: np.ndarray) -> np.ndarray:
        return self.world.lower(self._base(states))

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        return self._begun(self.world.sample_state(rng)[None])[0]

    def get_state(self) -> np.ndarray:
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        state = np.array(state, np.float64)
        if state.shape != self._state.shape or not np.isfinite(state).all():
            raise ValueError(f"a state is {self._state.size} finite numbers, got {state}")
        self._state = state

    # Dynamics.

    @property
    def can_rest(self) -> bool:
        return self.world.can_rest

    def advance(self, action: np.ndarray) -> None:
        self._state = self.simulate(self._state[None], np.asarray(action)[None, None])[0, 0]

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        base, memory = self._apart(states)
        actions = np.asarray(actions, np.float64)
        if not np.isfinite(actions).all():
            raise ValueError("an action is not a finite number")
        actions = np.clip(actions, self.action_space.low, self.action_space.high)
        after = self.world.simulate(base, self.change.executed(actions, memory))
        remembered = self.change.remembered(after, actions, memory)
        return np.concatenate([after, self._ended(base, after, memory, remembered)], axis=-1)

    def _ended(self, base: np.ndarray, after: np.ndarray, memory: np.ndarray, remembered: np.ndarray) -> np.ndarray:
        """The memory (N, T, M), but that of the end where an episode is over: nothing changes there any more."""
        over = self.world.over(np.concatenate([base[:, None], after], axis=1))  # (N, T + 1)
        if over.any():
            every = np.concatenate([memory[:, None], remembered], axis=1)
            last = np.where(over.any(1), over.argmax(1), over.shape[1] - 1)
            which = np.minimum(np.arange(1, over.shape[1]), last[:, None])
            return np.take_along_axis(every, which[..., None], axis=1)
        return remembered

    # What is asked of states.

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self.world.distance(self._base(states), self._base(goals))

    def reached(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self.world.reached(self._base(states), self._base(goals))

    def path_length(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self.world.path_length(self._base(states), self._base(goals))

    @property
    def knows_ways(self) -> bool:
        return self.world.knows_ways

    def possible(self, states: np.ndarray) -> np.ndarray:
        return self.world.possible(self._base(states))

    def over(self, states: np.ndarray) -> np.ndarray:
        return self.world.over(self._base(states))

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return self.world.quantities(self._base(states))

    def spots(self, states: np.ndarray) -> np.ndarray | None:
        found = self.world.spots(self.change.seen(*self._apart(states)))
        return None if found is None else self.change.moved(found)

    def teleported(self, states: np.ndarray, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """(N, X + M) states to those in which an episode begins elsewhere."""
        return self._begun(self.world.teleported(self._base(states), rngs))

    # Frames.

    def render(self) -> np.ndarray:
        return self.render_states(self._state[None])[0]

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._drawn(states, self.change.draw)

    def recolored(self, states: np.ndarray) -> np.ndarray:
        return self._drawn(states, self.change.recolored)

    def _drawn(self, states: np.ndarray, draw: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """(N, h, w, 3) uint8 frames of (N, X + M) states, a chunk at a time."""
        (base, memory), frames = self._apart(states), np.empty((len(states), *self.observation_space.shape), np.uint8)
        for begin in range(0, len(states), _CHUNK):
            chunk = slice(begin, begin + _CHUNK)
            frames[chunk] = draw(base[chunk], memory[chunk])
        return frames

    def reflex(self, frames: np.ndarray, goals: np.ndarray) -> np.ndarray | None:
        """That of ``world``, which knows of no change."""
        return self.world.reflex(frames, goals)

    # Exploration.

    def policies(self) -> Mapping[str, PolicyFactory]:
        return {name: self._of_base(factory) for name, factory in self.world.policies().items()}

    def _of_base(self, factory: PolicyFactory) -> PolicyFactory:
        """A policy that is given states of ``world``."""

        def start(rngs: Sequence[np.random.Generator]) -> BatchPolicy:
            act = factory(rngs)
            return lambda states: act(self._base(states))

        return start


def make_shifted(shift: Mapping[str, Any], **kwargs: Any) -> GoalEnv:
    """The entry point of changed worlds: ``shift`` has the ``entry_point`` of the trained one and ``factors``."""
    env = gym.make(EnvSpec(**shift["of"], kwargs=kwargs), disable_env_checker=True).unwrapped
    for factor, level in shift["factors"]:
        env = env.shifted(factor, level)
    return env


def _shifted_spec(spec: EnvSpec | None, factor: str, level: int) -> EnvSpec | None:
    """How Gymnasium makes a changed world, given how it makes the one before."""
    if spec is None:
        return None
    kwargs = dict(spec.kwargs)
    before = kwargs.pop("shift", {"of": {"id": spec.id, "entry_point": spec.entry_point}, "factors": []})
    shift = {**before, "factors": [*before["factors"], [factor, level]]}
    return EnvSpec(spec.id, "lewm_bench.core.env:make_shifted", kwargs={**kwargs, "shift": shift})


SMALLEST_IMAGE = 16  # pixels


def frame_space(image_size: int, render_mode: str = "rgb_array") -> gym.spaces.Box:
    """The observations of an environment that draws (image_size, image_size, 3) uint8 frames.

    Raises:
        UserError: fewer than 16 pixels, or another way to draw.
    """
    if image_size < SMALLEST_IMAGE:
        raise UserError(f"image_size must be at least {SMALLEST_IMAGE}, got {image_size}")
    if render_mode != "rgb_array":
        raise unknown("render_mode", str(render_mode), ("rgb_array",))
    return gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)


def require_spaces(env: GoalEnv, label: str) -> None:
    """Raise a UserError unless an environment has spaces that can be collected in."""
    actions, frames = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise UserError(f"{label}: action_space must be a Box of one dimension, got {short_repr(actions)}; mend it")
    if not isinstance(frames, gym.spaces.Box) or len(frames.shape) != 3 or frames.shape[2] != 3:
        raise UserError(f"{label}: observation_space must be a Box (h, w, 3), got {short_repr(frames)}; mend it")
