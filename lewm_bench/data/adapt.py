"""Other people's Gymnasium environments as goal environments, without a subclass.

Two ways to put an environment that has no setter into a state:

- ``state: qpos`` for environments on Gymnasium's ``MujocoEnv``: the state is (qpos, qvel), set in MuJoCo itself;
- ``state: replay`` for any deterministic one: the state is (reset seed, actions since), restored by doing it again.

Both states also say whether the environment has terminated: there an episode ends, and stays as it is.
``register_env`` makes an id of either; in YAML the block ``adapt`` of an environment does the same.
"""

from __future__ import annotations

import atexit
import importlib
import sys
import traceback
import weakref
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from pydantic import ValidationError

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, UserError, short_repr, unknown
from lewm_bench.core.exploration import finite_bounds
from lewm_bench.core.resize import area_mean
from lewm_bench.core.shift import Factor
from lewm_bench.core.source import made_of
from lewm_bench.data.adapt_config import Adapt, WrapperConfig
from lewm_bench.system.faults import error_line, result_or_error

if TYPE_CHECKING:
    from gymnasium.envs.mujoco import MujocoEnv

START_TRIES = 100  # resets that may terminate while they warm up before there is said to be no start
LIVE = 64  # environments that a replayed one keeps at hand: those of one chunk of collected episodes
HEAD = 3  # numbers of a replayed state before its observation
MOST_NUMBERS = 1000  # of an observation; more are pixels, which do not belong into a state

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Frame = Callable[[gym.Env], np.ndarray]


def register_env(env_id: str, source: str, *, make: Mapping[str, Any] | None = None, **fields: Any) -> None:
    """Register ``source``, any Gymnasium id, as the goal environment ``env_id``.

    ``fields`` are those of ``Adapt``; ``threshold`` is needed. ``make`` are arguments for ``gymnasium.make(source)``.
    A function given as ``distance`` or ``frame`` is stored by name, so it must stand at the top of a module.

    Raises:
        UserError: a field is misspelt or has no sensible value.
    """
    try:
        adapt = Adapt(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "register_env"
        raise UserError(f"{env_id}: {place}: {first['msg'].removeprefix('Value error, ')}")
    kwargs = {"source": source, "make": dict(make or {}), "adapt": adapt.model_dump(mode="json"), "image_size": 64}
    gym.registry.pop(env_id, None)  # registered again, perhaps with another threshold
    gym.register(env_id, "lewm_bench.data.adapt:make_adapted", kwargs=kwargs)


def is_adapted(spec: gym.envs.registration.EnvSpec) -> bool:
    """Whether an id was made by ``register_env``."""
    return spec.entry_point == "lewm_bench.data.adapt:make_adapted"


def make_adapted(source: str, make: Mapping[str, Any], adapt: Mapping[str, Any], image_size: int) -> AdaptedEnv:
    """The entry point of adapted ids."""
    from gymnasium.envs.mujoco import MujocoEnv

    settings = Adapt.model_validate(adapt)
    arguments = {"render_mode": "rgb_array", **make}
    inner = _make(source, arguments, settings.wrappers)
    on_mujoco = isinstance(inner.unwrapped, MujocoEnv)
    if settings.state == "qpos" and not on_mujoco:
        raise UserError(f"{source} is not on Gymnasium's MujocoEnv, so it has no qpos to set; use state: replay")
    if on_mujoco and not settings.frame and not {"width", "height"} & set(arguments):
        arguments |= {"width": image_size, "height": image_size}  # drawn at once as large as it is wanted
        inner.close()
        inner = _make(source, arguments, settings.wrappers)
    replayed = settings.state == "replay" or settings.wrappers or settings.frame_key or not on_mujoco
    kind = ReplayEnv if replayed else MujocoStateEnv
    return kind(source, arguments, settings, image_size, inner)


def _make(source: str, arguments: Mapping[str, Any], wrappers: Sequence[WrapperConfig] = ()) -> gym.Env:
    # Without Gymnasium's wrappers: a time limit or a checker of calls would be a part of the state.
    try:
        env = gym.make(source, disable_env_checker=True, **arguments).unwrapped
    except AssertionError as error:  # arguments, or versions of packages that do not fit each other
        file, line, *_ = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{source} cannot be made with these arguments and packages: {error_line(error)} in {file}:{line}"
        )
    for wrapper in wrappers:
        env = _wrapped(env, wrapper, source)
    return env


def _wrapped(env: gym.Env, wrapper: WrapperConfig, source: str) -> gym.Env:
    """``env`` inside of a wrapper.

    Raises:
        UserError: there is no such wrapper, or it does not fit.
    """
    kind = load_object(wrapper.name, "a wrapper")
    found = result_or_error(lambda: kind(env, **wrapper.kwargs))
    if isinstance(found, Exception):
        raise UserError(f"{source}: adapt.wrappers: {wrapper.name} cannot be put around it: {error_line(found)}")
    if not isinstance(found, gym.Env):
        raise UserError(f"{source}: adapt.wrappers: {wrapper.name} makes {short_repr(found)}, not a gymnasium.Env")
    return found


def load_object(path: str, what: str = "a function") -> Any:
    """The object at ``module:attribute``; ``what`` it should be is for the message.

    Raises:
        UserError: there is none.
    """
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path!r} is not {what} at the top of a module ({error}); write module:{what.split()[-1]}")
    return found


class AdaptedEnv(GoalEnv):
    """What both ways share: actions, pictures and success."""

    schema = 2

    def __init__(
        self, source: str, arguments: Mapping[str, Any], settings: Adapt, image_size: int, inner: gym.Env
    ) -> None:
        self.source, self.settings, self.image_size = source, settings, image_size
        self.threshold, self.distance_unit = settings.threshold, settings.unit
        self.exploration = settings.exploration
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self._arguments, self._kind = dict(arguments), type(inner.unwrapped)
        self._opened: weakref.WeakSet[gym.Env] = weakref.WeakSet()  # those that MuJoCo has drawn
        self._closing: Callable[[], object] | None = None
        self._discrete = isinstance(inner.action_space, gym.spaces.Discrete)
        self._actions = Actions(inner.action_space, source)
        self.action_space = self._actions.space
        self._frame: Frame = load_object(settings.frame) if settings.frame else methodcaller("render")
        self._distance: Distance = load_object(settings.distance) if settings.distance else self._compare

    def sources(self) -> tuple[object, ...]:
        entry = gym.spec(self.source.rpartition(":")[2]).entry_point
        module = entry.partition(":")[0] if isinstance(entry, str) else entry
        chosen = [load_object(path) for path in (self.settings.distance, self.settings.frame) if path]
        return (self._kind, module, *chosen, *(load_object(each.name, "a wrapper") for each in self.settings.wrappers))

    @cached_property
    def _imports_mujoco(self) -> bool:
        """Whether MuJoCo may draw it, by the packages that its own source imports."""
        made = result_or_error(lambda: made_of((self._kind,)))
        return not isinstance(made, Exception) and "mujoco" in made.packages

    @abstractmethod
    def vector(self, states: np.ndarray) -> np.ndarray:
        """(..., X) states to the (..., K) numbers that ``distance`` is about."""

    @abstractmethod
    def entries(self) -> list[tuple[str, int]]:
        """What the numbers of ``vector`` are, in order: names, and how many of them each has."""

    def described(self) -> str:
        """The entries of the vector that ``compare`` names, by index: ``0 to 2 achieved_goal, 3 angle``."""
        parts, first = [], 0
        for name, size in self.entries():
            if size:
                parts.append(f"{first} {name}" if size == 1 else f"{first} to {first + size - 1} {name}")
            first += size
        return ", ".join(parts)

    @abstractmethod
    def _start(self, seed: int, actions: np.ndarray) -> None:
        """Reset with ``seed``, then take ``actions`` (n, A)."""

    @property
    def can_rest(self) -> bool:
        return not self._discrete and super().can_rest

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        before = self.get_state()
        for _ in range(START_TRIES):
            self._start(int(rng.integers(2**31)), warmup(rng, self.settings.warmup, self.action_space))
            state = self.get_state()
            if not self.over(state):
                self.set_state(before)
                return state
        raise UserError(
            f"{self.source} terminates while it warms up, {START_TRIES} times of as many; lower adapt.warmup"
        )

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self._distance(self.vector(np.asarray(states)), self.vector(np.asarray(goals)))

    def _compare(self, vectors: np.ndarray, goals: np.ndarray) -> np.ndarray:
        difference = vectors - goals
        angles = list(self.settings.angles)
        difference[..., angles] = (difference[..., angles] + np.pi) % (2 * np.pi) - np.pi
        chosen = difference[..., list(self.settings.compare)] if self.settings.compare else difference
        return np.linalg.norm(chosen, axis=-1)

    def _check_indices(self, size: int, what: str) -> None:
        wrong = [i for i in (*self.settings.compare, *self.settings.angles) if not 0 <= i < size]
        if wrong:
            raise UserError(f"{self.source}: compare names entry {wrong[0]}, but the {what} has 0 to {size - 1}")

    def _drawn(self, inner: gym.Env) -> np.ndarray:
        """The frame of an environment; where MuJoCo draws it, with the OpenGL that works here.

        Raises:
            NotRun: the environment opens OpenGL by itself, and in vain.
        """
        from gymnasium.envs.mujoco import MujocoEnv

        from lewm_bench.system.gl import backend, chosen_backend

        bare = inner.unwrapped
        on_mujoco = self._imports_mujoco or any(isinstance(part, MujocoEnv) for part in (bare, *vars(bare).values()))
        if self.settings.frame or not on_mujoco:
            return self._picture(inner)
        if not isinstance(bare, MujocoEnv):
            with chosen_backend():
                self._opened.add(bare)
                for viewer in _viewers(bare):
                    viewer.make_context_current()  # as below
                return self._picture(inner)
        import mujoco

        with chosen_backend():
            try:
                if bare not in self._opened:
                    self._open(bare)
                if (viewer := bare.mujoco_renderer.viewer) is not None:
                    viewer.make_context_current()  # it draws into whichever is current: black if that one was closed
                return self._picture(inner)
            except mujoco.FatalError as error:
                reason = " ".join(str(error).split())
                raise NotRun(f"{self.source} opens OpenGL by itself and cannot ({reason}); set MUJOCO_GL={backend()}")

    def _open(self, inner: MujocoEnv) -> None:
        """Draw in the model's own first position: Gymnasium aims its free camera where the bodies then are."""
        import mujoco

        kept = copy(inner.data)
        mujoco.mj_resetData(inner.model, inner.data)
        mujoco.mj_forward(inner.model, inner.data)
        self._picture(inner)
        mujoco.mj_copyData(inner.data, inner.model, kept)
        self._opened.add(inner)

    def _picture(self, inner: gym.Env) -> np.ndarray:
        """The frame of an environment at our size, (s, s, 3) uint8."""
        return self._sized(np.asarray(self._frame(inner)))

    def _sized(self, frame: np.ndarray) -> np.ndarray:
        """A frame at our size, (s, s, 3) uint8."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise UserError(
                f"{self.source} draws {frame.dtype} {frame.shape}, wanted uint8 (h, w, 3); name a frame function"
            )
        if frame.shape[:2] == (self.image_size, self.image_size):
            return frame.copy()
        return area_mean(frame, self.image_size, self.image_size)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "make": self._arguments, "adapt": self.settings.model_dump(mode="json")} | {
            "image_size": self.image_size,
            "state": self.get_state(),
            "spec": self.spec,
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        settings = Adapt.model_validate(kept["adapt"])
        inner = _make(kept["source"], kept["make"], settings.wrappers)
        self.__init__(kept["source"], kept["make"], settings, kept["image_size"], inner)
        self.spec = kept["spec"]
        self.set_state(kept["state"])


def _viewers(env: gym.Env) -> list[Any]:
    """What Gymnasium's renderer draws with, of an environment that has one, or a ``MujocoEnv``, without being one."""
    from gymnasium.envs.mujoco import MujocoEnv

    module = sys.modules.get("gymnasium.envs.mujoco.mujoco_rendering")  # who has one has imported it
    parts = [part.mujoco_renderer if isinstance(part, MujocoEnv) else part for part in vars(env).values()]
    renderers = [part for part in parts if module and isinstance(part, module.MujocoRenderer)]
    return [renderer.viewer for renderer in renderers if renderer.viewer is not None]


def _close_all(opened: weakref.WeakSet[gym.Env]) -> None:
    """Gymnasium's viewer frees itself at exit, after EGL is gone, unless its environment is closed before."""
    for env in list(opened):
        env.close()


class MujocoStateEnv(AdaptedEnv):
    """An environment on Gymnasium's ``MujocoEnv``; its state is (qpos, qvel, 1 if it has terminated)."""

    def __init__(self, source, arguments, settings: Adapt, image_size: int, inner: gym.Env) -> None:
        import mujoco

        super().__init__(source, arguments, settings, image_size, inner)
        self._inner, self._over = inner, False
        self.physics: dict[str, float] = {}
        if inner.model.na:
            raise UserError(f"{source} has muscles or other actuators with a state of their own; use state: replay")
        # Without warm start (qpos, qvel) determines the future to the last bit.
        inner.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART
        inner.reset(seed=0)
        self._check_indices(inner.model.nq + inner.model.nv, "state (qpos, qvel)")

    def vector(self, states: np.ndarray) -> np.ndarray:
        all_of_them = self.settings.compare or self.settings.distance
        return states[..., :-1] if all_of_them else states[..., : self._inner.model.nq]

    def entries(self) -> list[tuple[str, int]]:
        model = self._inner.model
        names = [model.joint(n).name or f"joint {n}" for n in range(model.njnt)]
        positions = np.diff([*model.jnt_qposadr, model.nq])
        velocities = np.diff([*model.jnt_dofadr, model.nv])
        return [
            *((name, int(size)) for name, size in zip(names, positions, strict=True)),
            *((f"velocity of {name}", int(size)) for name, size in zip(names, velocities, strict=True)),
        ]

    def over(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states)[..., -1] > 0

    def get_state(self) -> np.ndarray:
        return np.concatenate([self._inner.data.qpos, self._inner.data.qvel, [self._over]])

    def set_state(self, state: np.ndarray) -> None:
        state, size = np.asarray(state, np.float64), self._inner.model.nq
        if state.shape != (size + self._inner.model.nv + 1,) or not np.isfinite(state).all():
            raise ValueError(
                f"a state is {size} positions, {self._inner.model.nv} velocities and 1 if it has terminated, got {state}"
            )
        self._inner.set_state(state[:size], state[size:-1])
        self._over = bool(state[-1])

    def advance(self, action: np.ndarray) -> None:
        if not self._over:
            _, _, terminated, _, _ = self._inner.step(self._actions(action))
            self._over = self.settings.terminates and bool(terminated)

    def _start(self, seed: int, actions: np.ndarray) -> None:
        self._inner.reset(seed=seed)
        self._over = False
        for action in actions:
            self.advance(action)

    def render(self) -> np.ndarray:
        import mujoco

        mujoco.mj_forward(self._inner.model, self._inner.data)  # a step leaves the bodies where its last substep began
        picture = self._drawn(self._inner)
        if self._closing is None:
            self._closing = atexit.register(weakref.finalize(self, _close_all, self._opened))
        return picture

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        size = self._inner.model.nq
        return {"qpos": states[:, :size], "qvel": states[:, size:-1]}

    def factors(self) -> Mapping[str, Factor]:
        from lewm_bench.envs.parts.physics import differing, physics_factors

        return {**super().factors(), **physics_factors(differing(self._inner.model), _scaled)}

    def scale(self, physics: Mapping[str, float]) -> None:
        """Multiply constants of the physics by name."""
        from lewm_bench.envs.parts.physics import scale_physics

        scale_physics(self._inner.model, physics)
        self.physics = {
            name: self.physics.get(name, 1.0) * physics.get(name, 1.0) for name in {**self.physics, **physics}
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "physics": self.physics}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        super().__setstate__(kept)
        self.scale(kept["physics"])

    def close(self) -> None:
        self._inner.close()


def _scaled(env: MujocoStateEnv, scales: Mapping[str, float]) -> MujocoStateEnv:
    """The same environment with constants of its physics multiplied."""
    inner = _make(env.source, env._arguments, env.settings.wrappers)
    made = MujocoStateEnv(env.source, env._arguments, env.settings, env.image_size, inner)
    made.scale({name: env.physics.get(name, 1.0) * scales.get(name, 1.0) for name in {**env.physics, **scales}})
    return made


@dataclass
class _Live:
    """An environment somewhere in an episode."""

    env: gym.Env
    observation: np.ndarray
    over: bool = False  # it has terminated; no action is taken then
    frame: np.ndarray | None = None  # the picture that is a part of the observation


class ReplayEnv(AdaptedEnv):
    """Any deterministic environment; its state is [seed, n, 1 if it has terminated, observation, n actions, zeros].

    Live environments are kept by the actions that led to them, so that a
    state that follows another one costs one step and not a replay.
    """

    def __init__(self, source, arguments, settings: Adapt, image_size: int, inner: gym.Env) -> None:
        super().__init__(source, arguments, settings, image_size, inner)
        if settings.warmup >= settings.max_steps:
            raise UserError(f"{source}: max_steps must be larger than warmup, got {settings.max_steps}")
        self._space = numbers_of(inner.observation_space, settings.frame_key, source)
        self._observed = int(gym.spaces.flatdim(self._space))
        if self._observed > MOST_NUMBERS:
            raise UserError(
                f"{source} observes {self._observed} numbers, more than {MOST_NUMBERS}; give it a low-dimensional "
                "observation (kwargs: {...}, adapt.wrappers) or subclass GoalEnv"
            )
        self._check_indices(self._observed, "observation")
        self._size = self.action_space.shape[0]
        self._pool: OrderedDict[tuple[int, bytes], _Live] = OrderedDict()
        self._seed, self._done = 0, np.zeros((0, self._size))
        self._live = self._begin(inner, 0)

    def vector(self, states: np.ndarray) -> np.ndarray:
        return states[..., HEAD : HEAD + self._observed]

    def entries(self) -> list[tuple[str, int]]:
        return observed(self._space)

    def over(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states)[..., HEAD - 1] > 0

    def get_state(self) -> np.ndarray:
        state = np.zeros(HEAD + self._observed + self.settings.max_steps * self._size)
        state[:HEAD] = self._seed, len(self._done), self._live.over
        state[HEAD : HEAD + self._observed] = self._live.observation
        state[HEAD + self._observed :][: self._done.size] = self._done.ravel()
        return state

    def set_state(self, state: np.ndarray) -> None:
        state = np.asarray(state, np.float64)
        size = HEAD + self._observed + self.settings.max_steps * self._size
        if state.shape != (size,) or not np.isfinite(state).all():
            raise ValueError(f"not a state of {self.source}: a seed, a number of steps, an observation and the actions")
        steps = int(state[1])
        self._go(int(state[0]), state[HEAD + self._observed :][: steps * self._size].reshape(steps, self._size))
        self._require_same(state)

    def _require_same(self, state: np.ndarray) -> None:
        """Raise a UserError unless the replayed environment observes what it did when ``state`` was taken."""
        now, before = self.get_state()[HEAD - 1 :], state[HEAD - 1 :]
        if not np.array_equal(now, before):
            entry = int(np.flatnonzero(now != before)[0])
            what = "whether it has terminated" if entry == 0 else f"entry {entry - 1} of the observation"
            raise UserError(
                f"{self.source} does not do the same again from the same seed and actions: {what} was "
                f"{before[entry]:.6g} and is {now[entry]:.6g}; its reset leaves something of the last episode, or it "
                "draws from a generator that reset(seed=...) does not seed, so it cannot be adapted with state: replay"
            )

    def advance(self, action: np.ndarray) -> None:
        if self._live.over:
            return
        if len(self._done) == self.settings.max_steps:
            raise UserError(
                f"{self.source}: an episode is longer than max_steps {self.settings.max_steps}; raise it: warm-up, "
                "collect.steps and the budget of an evaluation must fit"
            )
        action = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)
        self._done = np.concatenate([self._done, action[None]])
        self._step(self._live, action)

    def render(self) -> np.ndarray:
        if self._live.frame is not None:
            return self._sized(self._live.frame)
        picture = self._drawn(self._live.env)
        if self._closing is None and self._opened:
            self._closing = atexit.register(weakref.finalize(self, _close_all, self._opened))
        return picture

    def quantities(self, states: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"observation": self.vector(states)}

    def close(self) -> None:
        for live in (self._live, *self._pool.values()):
            live.env.close()
        self._pool.clear()

    def _go(self, seed: int, actions: np.ndarray) -> None:
        """Make the state of ``actions`` after a reset with ``seed`` the current one."""
        self._pool[self._seed, self._done.tobytes()] = self._live
        for known in range(len(actions), -1, -1):
            live = self._pool.pop((seed, actions[:known].tobytes()), None)
            if live is not None:
                break
        else:
            known = 0
            spare = self._pool.popitem(last=False)[1].env if len(self._pool) > LIVE else None
            live = self._begin(spare or _make(self.source, self._arguments, self.settings.wrappers), seed)
        for action in actions[known:]:
            self._step(live, action)
        self._live, self._seed, self._done = live, seed, np.array(actions, np.float64)

    def _start(self, seed: int, actions: np.ndarray) -> None:
        self._go(seed, actions)

    def _begin(self, env: gym.Env, seed: int) -> _Live:
        observation, _ = env.reset(seed=seed)
        return _Live(env, self._flat(observation), frame=self._seen(observation))

    def _step(self, live: _Live, action: np.ndarray) -> None:
        if not live.over:
            observation, _, terminated, _, _ = live.env.step(self._actions(action))
            live.observation, live.frame = self._flat(observation), self._seen(observation)
            live.over = self.settings.terminates and bool(terminated)

    def _flat(self, observation: Any) -> np.ndarray:
        return np.asarray(gym.spaces.flatten(self._space, observation), np.float64)

    def _seen(self, observation: Any) -> np.ndarray | None:
        return np.array(observation[self.settings.frame_key]) if self.settings.frame_key else None


def numbers_of(space: gym.Space, frame_key: str, source: str) -> gym.Space:
    """The part of an observation that is the vector: all of it but the picture.

    Raises:
        UserError: there is no such key, or nothing or something else than numbers is left.
    """
    kept = space
    if frame_key:
        keys = space.spaces if isinstance(space, gym.spaces.Dict) else {}
        if frame_key not in keys:
            raise UserError(f"{source}: adapt.frame_key: {unknown('key of the observation', frame_key, keys)}")
        kept = gym.spaces.Dict({key: each for key, each in keys.items() if key != frame_key})
    try:
        if gym.spaces.flatdim(kept) > 0:
            return kept
    except (NotImplementedError, ValueError):  # what Gymnasium raises for texts, sequences and graphs of one's own
        pass
    raise UserError(
        f"{source} observes {short_repr(kept)}, which is no vector of numbers; choose what is one with adapt.wrappers, for "
        "example gymnasium.wrappers:FilterObservation"
    )


def observed(space: gym.Space, name: str = "") -> list[tuple[str, int]]:
    """The parts of a flattened observation in order, keys with dots, and how many numbers each has."""
    if isinstance(space, gym.spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, gym.spaces.Tuple):
        inner = [(str(n), each) for n, each in enumerate(space.spaces)]
    else:
        return [(name or "observation", int(gym.spaces.flatdim(space)))]
    return [part for key, each in inner for part in observed(each, f"{name}.{key}" if name else key)]


def warmup(rng: np.random.Generator, most: int, space: gym.spaces.Box) -> np.ndarray:
    """Up to ``most`` actions (n, A): one random action, held."""
    steps = int(rng.integers(most + 1))
    return np.repeat(rng.uniform(*finite_bounds(space))[None], steps, 0)


class Actions:
    """How our actions, a flat Box, become those of an environment: as they are, or the largest of n scores.

    Raises:
        UserError: the space is neither a Box of vectors nor Discrete.
    """

    def __init__(self, space: gym.Space, source: str) -> None:
        if isinstance(space, gym.spaces.Discrete):
            # A planner over continuous numbers can then search them; a uniform action is a uniform choice.
            self._inner, self.space = space, gym.spaces.Box(-1.0, 1.0, (int(space.n),), np.float32)
        elif isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
            self._inner, self.space = space, gym.spaces.Box(space.low, space.high, dtype=np.float32)
        else:
            raise UserError(
                f"{source} has actions {space}; only a Box of flat vectors and Discrete can be planned here: wrap it "
                "with gymnasium.wrappers.TransformAction, or subclass GoalEnv"
            )

    def __call__(self, action: np.ndarray) -> Any:
        action = np.clip(np.asarray(action, np.float64), self.space.low, self.space.high)
        if isinstance(self._inner, gym.spaces.Discrete):
            return int(self._inner.start + np.argmax(action))
        return action.astype(self._inner.dtype)
