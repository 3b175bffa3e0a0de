"""GoalEnv: pixels in, a goal image at reset. What the benchmark requires of an environment."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.exploration import PolicyFactory, generic_policies
from lewm_bench.core.source import Made, made_of


@dataclass(frozen=True)
class Task:
    """Where an episode begins and where it should end, both in no recording."""

    start: np.ndarray  # (X,)
    goal: np.ndarray  # (X,)
    actions: np.ndarray | None = None  # (T, action_dim) that lead there, where an environment knows some


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
    action_space: gym.spaces.Box
    observation_space: gym.spaces.Box

    @property
    def can_rest(self) -> bool:
        """Whether an action of zeros is one, and does nothing of itself."""
        return bool(self.action_space.contains(np.zeros(self.action_space.shape, self.action_space.dtype)))

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

    # Final: the same for every environment.

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
