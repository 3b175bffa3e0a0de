"""Does an environment keep the promises of ``GoalEnv``? One finding per promise, with what to mend where it does not."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env
from PIL import Image, ImageDraw

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.exploration import LEARNED, check_shares, finite_bounds
from lewm_bench.core.rng import stream
from lewm_bench.core.shift import GROUPS, LEVELS

STARTS = 6  # sampled states that each check tries
STEPS = 30  # environment steps from each of them
FACTOR_STEPS, TRIED_LEVELS = 4, LEVELS  # of changed worlds
SHEET_PAIRS = 12
FLOOR_PAIRS = 24
FLOOR_OFFSETS = (25, 50)  # environment steps from start to goal, half of those allowed: a run's defaults
# Of the pairs that random actions reach: what is left for an agent to win is then no wider than the 95 % interval of
# a success rate from 100 pairs (10 points to either side), so that even a perfect agent hardly differs from chance.
MOST_GIVEN_AWAY = 0.9
SPEED_SECONDS = 0.2
MOST_STATES = 4096  # in one timed call

# What code that breaks its promises is seen to raise; an interrupt or a failing machine is not the environment's fault.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Finding:
    """One promise: whether it is kept, and a measurement or what to mend."""

    name: str
    ok: bool
    detail: str


class _Broken(Exception):
    """A promise that is not kept; the text says what to mend."""


def check_goal_env(env: gym.Env) -> Iterator[Finding]:
    """All findings about an environment, wrapped or not, in a fixed order; none is skipped because another failed.

    Each comes as soon as it is known, since all together can take minutes.
    """
    env = env.unwrapped
    if not isinstance(env, GoalEnv):
        yield Finding("contract", False, f"{type(env).__name__} must be a subclass of lewm_bench.core.env.GoalEnv")
        return
    for name, check in CHECKS.items():
        yield _finding(name, check, env)


def require_sound(env: GoalEnv, label: str) -> None:
    """Raise a UserError at the first promise that is not kept of those without which no number means anything.

    They are tried on few states, which takes about a second where a frame takes 10 ms.
    """
    for name, check in QUICK.items():
        finding = _finding(name, check, env)
        if not finding.ok:
            raise UserError(
                f"{label} cannot be used: {name}: {finding.detail}; `lewm-bench check` looks at the rest too"
            )


def _finding(name: str, check: Callable[[GoalEnv], str], env: GoalEnv) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"gymnasium\.")  # advice; what matters is raised
            return Finding(name, True, check(env))
    except _Broken as broken:
        return Finding(name, False, str(broken))
    except UserError as mistake:
        return Finding(name, False, str(mistake))
    except (*FAULTS, gym.error.Error) as fault:
        return Finding(name, False, f"{type(fault).__name__}: {fault}")


def _require(kept: bool | np.bool_, mend: str) -> None:
    if not kept:
        raise _Broken(mend)


def _states(env: GoalEnv, purpose: str, count: int = STARTS) -> np.ndarray:
    rng = stream(0, "check", purpose, "states")
    return np.stack([env.sample_state(rng) for _ in range(count)])


def _explored(env: GoalEnv, purpose: str, count: int = STARTS, steps: int = STEPS) -> np.ndarray:
    """States that the environment's own data is full of: contacts, walls, speed."""
    return _walks(env, purpose, count, steps)[:, -1]


def _walks(env: GoalEnv, purpose: str, count: int, steps: int) -> np.ndarray:
    """(count, steps + 1, X) states of the environment's own exploration."""
    states, factories = _states(env, purpose, count), env.policies()
    visited = np.repeat(states[:, None], steps + 1, 1)
    names = [name for name in env.exploration if name in factories]  # not one that is trained first
    for turn, name in enumerate(names):
        mine = np.arange(count) % len(names) == turn
        act = factories[name]([stream(0, "check", purpose, "explore", n) for n in np.flatnonzero(mine)])
        for t in range(steps if mine.any() else 0):
            now = visited[mine, t]
            visited[mine, t + 1] = env.simulate(now, np.asarray(act(now))[:, None])[:, -1]
    return visited


def _actions(env: GoalEnv, purpose: str, starts: int = STARTS, steps: int = STEPS) -> np.ndarray:
    """(starts, steps, A) actions inside the space, half of each held for several steps so that something is hit."""
    space = env.action_space
    low, high = finite_bounds(space)
    noise = stream(0, "check", purpose, "actions").uniform(low, high, (starts, steps, *space.shape))
    noise[:, steps // 2 :] = noise[:, steps // 2 : steps // 2 + 1]
    return noise.astype(space.dtype)


def _play(env: GoalEnv, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, A) to the frames and states after each action."""
    frames, states = [], []
    for action in actions:
        env.advance(action)
        frames.append(env.render())
        states.append(env.get_state())
    return np.stack(frames), np.stack(states)


def _gymnasium(env: GoalEnv) -> str:
    # render is held to more than this below; and gym.make need not accept a render_mode.
    check_env(env, skip_render_check=True)
    return "gymnasium.utils.env_checker.check_env passes"


def _numbers(env: GoalEnv) -> str:
    given = dict(env.spec.kwargs) if env.spec else {}
    for name, value in {**given, **given.get("make", {})}.items():
        _require(
            not (isinstance(value, str) and _reads_as_number(value)),
            f"the argument {name} is the text {value!r}; write the number, without quotes",
        )
    return "none is a number in quotes"


def _reads_as_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _equal_seeds(env: GoalEnv, steps: int = STEPS) -> str:
    def episode(seed: int) -> list[np.ndarray]:
        frame, info = env.reset(seed=seed)
        return [
            frame,
            info["goal"],
            info["state"],
            info["goal_state"],
            *_play(env, _actions(env, "seeds", 1, steps)[0]),
        ]

    first, again, other = episode(1), episode(1), episode(2)
    _require(
        all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)),
        "two episodes with the same seed and actions differ: draw only from the generator that sample_state is given,"
        " and let set_state reset everything that the future depends on",
    )
    _require(
        not (np.array_equal(first[2], other[2]) and np.array_equal(first[3], other[3])),
        "two seeds give the same start and goal: sample_state must draw from the generator that it is given",
    )
    return f"the same frames and states for the same seed over {steps} steps"


def _round_trip(env: GoalEnv) -> str:
    states = _states(env, "round trip")
    _require(
        states.dtype == np.float64 and states.ndim == 2,
        "sample_state must return a flat float64 vector, always as long",
    )
    for state, actions in zip(states, _actions(env, "round trip"), strict=True):
        env.set_state(state)
        kept = env.get_state()
        _require(kept.dtype == np.float64, f"get_state must return float64, got {kept.dtype}")
        _require(np.array_equal(kept, state), f"get_state after set_state returns {kept}, set was {state}")
        reached = _play(env, actions)[1][-1]
        _require(
            np.array_equal(kept, state), "get_state must return a fresh copy; this one changes with the environment"
        )
        env.set_state(state)
        env.set_state(reached)
        _require(np.array_equal(env.get_state(), reached), "a state that was reached by acting cannot be set exactly")
    return f"exact for {STARTS} sampled states and {STARTS} reached ones"


def _continuing(env: GoalEnv, starts: int = STARTS, steps: int = STEPS) -> str:
    half = steps // 2
    elsewhere = _states(env, "elsewhere", 1)[0]
    explored = _explored(env, "continue", starts, steps)
    for state, actions in zip(explored, _actions(env, "continue", starts, steps), strict=True):
        env.set_state(state)
        middle = _play(env, actions[:half])[1][-1]
        frames, states = _play(env, actions[half:])
        env.set_state(elsewhere)
        _play(env, actions[:3])
        env.set_state(middle)
        frames_again, states_again = _play(env, actions[half:])
        where = np.flatnonzero((states != states_again).any(-1))
        _require(
            not len(where),
            "going on after set_state(get_state()) gives other states"
            + (f", first {where[0] + 1} steps later" if len(where) else "")
            + ": the state leaves out something that the future depends on (a timer, a solver's warm start)",
        )
        _require(
            np.array_equal(frames, frames_again),
            "equal states give different frames: render must depend on nothing but the state",
        )
    return f"bit-exact states and frames over {steps - half} steps from {starts} reached states"


def _history(env: GoalEnv, starts: int = STARTS, steps: int = STEPS) -> str:
    explored, actions = _explored(env, "history", starts, steps), _actions(env, "history", starts, steps)
    frames = [_at(env, state) for state in explored]
    rng = stream(0, "check", "history", "others")
    for state, frame in zip(explored, frames, strict=True):
        env.sample_state(rng)  # whatever it resets must not show
        _require(
            np.array_equal(_at(env, state), frame),
            "a state looks different after another one was sampled: the frame shows something that is not in the state, "
            "such as the environment's own goal; leave it out of the picture",
        )
    if env.spec is None:
        return f"{starts} states look the same after others were sampled"
    other = gym.make(env.spec, disable_env_checker=True).unwrapped
    try:
        for state, frame, plan in zip(explored, frames, actions, strict=True):
            _require(
                np.array_equal(_at(other, state), frame),
                "another instance of the environment draws the same state differently: the frame shows something that "
                "is not in the state",
            )
            env.set_state(state)
            for mine, theirs in zip(_play(env, plan), _play(other, plan), strict=True):
                _require(
                    np.array_equal(mine, theirs),
                    "another instance of the environment goes on differently from the same state: the state leaves out "
                    "something that the future depends on",
                )
    finally:
        other.close()
    return f"{starts} states look and go on the same after others were sampled, and in another instance"


def _goal_image(env: GoalEnv) -> str:
    for seed, (start, goal) in enumerate(zip(_states(env, "start"), _states(env, "goal"), strict=True)):
        frame, info = env.reset(seed=seed, options={"start": start, "goal": goal})
        _require(np.array_equal(info["state"], start), "reset must begin in options['start']")
        _require(np.array_equal(info["goal_state"], goal), "reset must aim at options['goal']")
        _require(np.array_equal(frame, env.render()), "the frame that reset returns is not the one at the start")
        env.set_state(goal)
        _require(np.array_equal(info["goal"], env.render()), "info['goal'] of reset is not the frame at the goal")
    return f"equal to the frame at the goal for {STARTS} goals"


def _visible(env: GoalEnv) -> str:
    states = _states(env, "visible", 4 * STARTS)
    frames = np.stack([_at(env, state) for state in states])
    apart = ~env.reached(states[1:], states[:-1])
    same = (frames[1:] == frames[:-1]).all((1, 2, 3))
    _require(
        not (apart & same).any(),
        "two states further apart than the threshold look exactly alike: the frame must show what distance measures",
    )
    return f"{apart.sum()} pairs further apart than the threshold all look different"


def _at(env: GoalEnv, state: np.ndarray) -> np.ndarray:
    env.set_state(state)
    return env.render()


def _clipping(env: GoalEnv) -> str:
    state, space = _states(env, "clip", 1)[0], env.action_space
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    inside = np.where(bounded, space.high, 0).astype(space.dtype)
    beyond = np.where(bounded, space.high + 0.5 * (space.high - space.low), 0).astype(space.dtype)
    after = []
    for action in (inside, beyond):
        env.set_state(state)
        after.append(_play(env, np.stack([action] * 3))[1])
    _require(np.array_equal(*after), "advance must clip its action to the action space")
    return "an action beyond the bounds acts like the bound"


def _simulate(env: GoalEnv) -> str:
    states, actions = _explored(env, "simulate"), _actions(env, "simulate")
    before = env.get_state()
    batched = env.simulate(states, actions)
    again = env.simulate(states[::-1], actions[::-1])[::-1]
    _require(np.array_equal(batched, again), "simulate gives other states when called again in another order")
    _require(np.array_equal(env.get_state(), before), "simulate must leave the environment's own state as it was")
    singly = GoalEnv.simulate(env, states, actions)
    _require(batched.shape == singly.shape, f"simulate must return the shape {singly.shape}, got {batched.shape}")
    _require(
        np.array_equal(batched, singly),
        f"simulate differs from advance, by up to {np.abs(batched - singly).max():.3g}; it must agree to the last bit",
    )
    return f"bit-identical to advance for {STARTS} x {STEPS} steps"


def _render_states(env: GoalEnv) -> str:
    states = np.concatenate(
        [_states(env, "frames"), env.simulate(_states(env, "frames"), _actions(env, "frames"))[:, -1]]
    )
    before = env.get_state()
    frames = env.render_states(states)
    _require(np.array_equal(env.get_state(), before), "render_states must leave the environment's own state as it was")
    expected = (len(states), *env.observation_space.shape)
    _require(
        frames.shape == expected and frames.dtype == np.uint8,
        f"render_states must return {expected} uint8, got {frames.shape} {frames.dtype}",
    )
    _require(
        np.array_equal(frames, GoalEnv.render_states(env, states)), "render_states and render draw different frames"
    )
    return f"the same pixels as render for {len(states)} states"


def _arguments(env: GoalEnv) -> str:
    states, goals, actions = (
        _states(env, "arguments"),
        _states(env, "argument goals"),
        _actions(env, "arguments", steps=3),
    )
    rngs = [stream(0, "check", "arguments", n) for n in range(len(states))]
    calls: dict[str, tuple[Callable[..., object], tuple[np.ndarray, ...]]] = {
        "simulate": (env.simulate, (states, actions)),
        "render_states": (env.render_states, (states,)),
        "distance": (env.distance, (states, goals)),
        "path_length": (env.path_length, (states, goals)),
        "reached": (env.reached, (states, goals)),
        "reflex": (env.reflex, (env.render_states(states), env.render_states(goals))),
        "spots": (env.spots, (states,)),
        "quantities": (env.quantities, (states,)),
        "recolored": (env.recolored, (states,)),
        "teleported": (lambda given: env.teleported(given, rngs), (states,)),
        "set_state": (lambda given: (env.set_state(given), env.advance(actions[0, 0].copy())), (states[0],)),
        "advance": (env.advance, (actions[0, 0],)),
    }
    calls |= {f"the policy {name!r}": (factory(rngs), (states,)) for name, factory in env.policies().items()}
    for name, (call, given) in calls.items():
        mine = [array.copy() for array in given]
        call(*mine)
        changed = any(not np.array_equal(a, b) for a, b in zip(mine, given, strict=True))
        _require(not changed, f"{name} writes into what it is given; work on a copy")
    return f"{len(calls)} functions leave their arguments as they were"


def _success(env: GoalEnv) -> str:
    states, goals = _states(env, "success", 8 * STARTS), _states(env, "success goals", 8 * STARTS)
    distances = env.distance(states, goals)
    _require(
        distances.shape == (len(states),) and env.distance(states, goals[0]).shape == (len(states),),
        "distance must take (..., X) states and goals, broadcast them, and return (...)",
    )
    _require(
        np.isfinite(distances).all() and (distances >= 0).all(), "distance must be a finite number and not negative"
    )
    lengths = env.path_length(states, goals)
    _require(
        lengths.shape == distances.shape and np.isfinite(lengths).all() and (lengths >= 0).all(),
        "path_length must take and return what distance does: finite numbers that are not negative",
    )
    pushes = env.reflex(env.render_states(states[:STARTS]), env.render_states(goals[:STARTS]))
    _require(
        pushes is None or (pushes.shape == (STARTS, *env.action_space.shape) and np.isfinite(pushes).all()),
        "reflex must return None or (N, action_dim) finite actions for (N, h, w, 3) frames and goal images",
    )
    spots = env.spots(states)
    _require(
        spots is None or (spots.shape == (len(states), 2) and bool(((spots >= 0) & (spots <= 1)).all())),
        "spots must return None or (N, 2) shares of the frame's width and height, from 0 to 1, for (N, X) states",
    )
    _require(env.reached(goals, goals).all(), "reached must be true at the goal itself")
    solved = env.reached(states, goals)
    _require(
        not solved[distances.argmax()],
        "reached is true for the most distant pair of sampled states: the threshold is larger than the world",
    )
    return f"{100 * solved.mean():.0f} % of sampled pairs are solved before they begin"


def _floors(env: GoalEnv) -> str:
    for offset in FLOOR_OFFSETS:
        walks = _walks(env, "floors", FLOOR_PAIRS, 2 * offset)
        pairs, given = _given_away(env, walks, offset)
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in given.items())
        found = f"{shares} of goals {offset} steps ahead within {2 * offset} steps ({pairs} pairs, not solved before)"
        if ended := int(env.over(walks).any(1).sum()):
            found += f"; {ended} of {FLOOR_PAIRS} episodes were over before, and their last goal was taken"
        if max(given.values()) <= MOST_GIVEN_AWAY:
            return found
    raise _Broken(
        f"goals are given away: {found}; choose a smaller threshold, compare what must be controlled, or use a larger "
        "evaluate.goal_offset"
    )


def _given_away(env: GoalEnv, walks: np.ndarray, offset: int) -> tuple[int, dict[str, float]]:
    """Pairs of exploration (N, T, X), as a run would draw them: how many there are, and what share the floors reach."""
    each = np.arange(len(walks))
    last = np.where(env.over(walks), 0, np.arange(walks.shape[1])).max(1)  # before an episode is over
    starts, goals = walks[each, np.maximum(last - offset, 0)], walks[each, last]
    away = ~env.reached(starts, goals)
    _require(away.any(), f"all goals {offset} steps ahead in its own exploration are reached before anything is done")
    starts, goals = starts[away], goals[away]
    shape = (len(starts), 2 * offset, *env.action_space.shape)
    drawn = stream(0, "check", "floors", "random").uniform(*finite_bounds(env.action_space), shape)
    plans = {"random actions": drawn} | ({"no action": np.zeros(shape)} if env.can_rest else {})

    def share(plan: np.ndarray) -> float:
        after = env.simulate(starts.copy(), plan.astype(env.action_space.dtype))
        return float(env.reached(after, goals[:, None]).any(1).mean())

    return len(starts), {name: share(plan) for name, plan in plans.items()}


def _perturbations(env: GoalEnv) -> str:
    states = _states(env, "perturbations")
    before = env.get_state()
    frames, recolored = env.render_states(states), env.recolored(states)
    _require(
        recolored.shape == frames.shape and recolored.dtype == np.uint8,
        f"recolored must return {frames.shape} uint8, got {recolored.shape} {recolored.dtype}",
    )
    _require((recolored != frames).any((1, 2, 3)).all(), "recolored must look different from render_states")
    _require(np.array_equal(env.render_states(states), frames), "recolored must leave no trace in later frames")

    def moved() -> np.ndarray:
        return env.teleported(states, [stream(0, "check", "teleport", n) for n in range(len(states))])

    elsewhere = moved()
    _require(elsewhere.shape == states.shape, f"teleported must return {states.shape}, got {elsewhere.shape}")
    _require(np.array_equal(elsewhere, moved()), "teleported must draw from the generators that it is given")
    _require(not (elsewhere == states).all(-1).any(), "teleported must change the state")
    for state in elsewhere:
        env.set_state(state)
        _require(np.array_equal(env.get_state(), state), "teleported must return states that can be set exactly")
    env.set_state(before)
    return "recoloured frames and teleported states differ, and teleported ones are valid"


def _policies(env: GoalEnv) -> str:
    space, starts = env.action_space, _states(env, "policies", 3)
    for name, factory in env.policies().items():

        def walk(episodes: slice, factory=factory, name=name) -> np.ndarray:
            states, taken = starts[episodes], []
            act = factory([stream(0, "check", "policy", name, n) for n in range(len(starts))][episodes])
            for _ in range(STEPS):
                actions = np.asarray(act(states))
                _require(
                    actions.shape == (len(states), *space.shape),
                    f"policy {name!r} must return {(len(states), *space.shape)} actions, got {actions.shape}",
                )
                taken.append(actions)
                states = env.simulate(states, actions[:, None])[:, -1]
            return np.stack(taken, 1)

        together = walk(slice(None))
        _require(
            ((together >= space.low) & (together <= space.high)).all(),
            f"policy {name!r} returns actions outside the action space; clip them",
        )
        _require(
            np.array_equal(walk(slice(1, 2))[0], together[1]),
            f"policy {name!r} acts differently in other company: each episode must draw from its own generator only",
        )
    for name in env.exploration:
        known = [*env.policies(), LEARNED]
        _require(name in known, f"exploration names {name!r}, which policies does not have; known: {', '.join(known)}")
    check_shares(env.exploration)
    return f"{', '.join(env.policies())}: inside the action space, independent of the number of episodes"


def _factors(env: GoalEnv) -> str:
    factors = env.factors()
    broken = []
    for name, factor in factors.items():
        _require(
            factor.group in GROUPS and len(factor.values) == len(LEVELS),
            f"factor {name!r} must have a group of {', '.join(GROUPS)} and a text for each level, "
            f"got {factor.group!r} and {factor.values}",
        )
        for level in TRIED_LEVELS:
            finding = _finding(name, partial(_changed_world, name=name, level=level), env)
            if not finding.ok:
                broken.append(f"{name} at level {level}: {finding.detail}")
    _require(not broken, "; ".join(broken))
    return f"{len(factors)}, and each keeps the promises at {len(LEVELS)} levels: {', '.join(factors)}"


def _changed_world(env: GoalEnv, name: str, level: int) -> str:
    world = env.shifted(name, level)
    if level == 0:
        return "the trained world"
    try:
        return _sound(env, world)
    finally:
        world.close()


def _sound(env: GoalEnv, world: GoalEnv) -> str:
    """Whether a changed world is a world of the trained one's states, on a few of them."""
    states, actions = _states(env, "factors", 2), _actions(env, "factors", 2, FACTOR_STEPS)
    lifted = world.lift(states)
    _require(np.array_equal(world.lower(lifted), states), "lower must give back what lift was given")
    possible = world.possible(lifted)
    _require(possible.shape == (2,) and possible.dtype == bool, "possible must return (...) bool for (..., Y) states")
    _require(world.action_space == env.action_space, "it has another action space than the trained world")
    _require(world.observation_space == env.observation_space, "its frames have another size than the trained world's")
    after = world.simulate(lifted, actions)
    _require(after.shape == (*actions.shape[:2], lifted.shape[1]), f"simulate returns the shape {after.shape}")
    half = FACTOR_STEPS // 2
    again = world.simulate(after[1:, half - 1], actions[1:, half:])
    _require(np.array_equal(again, after[1:, half:]), "going on alone from a state in between gives other states")
    frames = world.render_states(after[:, -1])
    world.set_state(lifted[1])
    played = _play(world, actions[1])
    _require(np.array_equal(played[1], after[1]), "simulate differs from advance; it must agree to the last bit")
    _require(np.array_equal(played[0][-1], frames[1]), "render and render_states draw different frames")
    _require(world.distance(lifted, lifted).shape == (2,) and world.reached(lifted, lifted).all(), "no goal is reached")
    return "kept"


def _speed(env: GoalEnv) -> str:
    states, actions = _states(env, "speed"), _actions(env, "speed")
    drawn = _per_second(env.render_states, states)
    stepped = STEPS * _per_second(
        lambda some: env.simulate(some, np.resize(actions, (len(some), *actions.shape[1:]))), states
    )
    size = " x ".join(map(str, env.observation_space.shape[:2]))
    return f"{drawn:,.0f} frames per second at {size} px, {stepped:,.0f} simulated steps per second"


def contact_sheet(env: GoalEnv, offset: int, pairs: int = SHEET_PAIRS, pixels: int = 144) -> bytes:
    """A PNG of pairs as a run draws them: starts (upper rows) and, below each, its goal ``offset`` steps later.

    The titles say how far apart they are, and below which distance the goal is reached.
    """
    starts, goals = exploration_pairs(env, offset, pairs)
    apart = env.distance(starts.copy(), goals.copy())
    pictures = {"start": env.render_states(starts), "goal": env.render_states(goals)}
    half = -(-pairs // 2)
    sheet = Image.new("RGB", (half * (pixels + 4) + 4, 4 * (pixels + 18)), "white")
    draw = ImageDraw.Draw(sheet)
    for n, distance in enumerate(apart):
        titles = {"start": f"start, {distance:.3g} away", "goal": f"goal, reached < {env.threshold:.3g}"}
        for line, (name, title) in enumerate(titles.items()):
            left, top = 4 + n % half * (pixels + 4), (2 * (n // half) + line) * (pixels + 18)
            draw.text((left, top + 2), title, fill="black")
            tile = Image.fromarray(pictures[name][n]).resize((pixels, pixels), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top + 16))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def exploration_pairs(env: GoalEnv, offset: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to ``pairs`` starts and the goals ``offset`` steps later in the environment's own exploration, (n, X) each.

    Those that are solved at the start come only where there are too few others, which a run would refuse.
    """
    walks = _walks(env, "sheet", 2 * pairs, 2 * offset)
    last = np.where(env.over(walks), 0, np.arange(walks.shape[1])).max(1)  # before an episode is over
    each, rng = np.arange(len(walks)), stream(0, "check", "sheet", "starts")
    first = rng.integers(np.maximum(last - offset, 0) + 1)
    starts, goals = walks[each, first], walks[each, np.minimum(first + offset, last)]
    chosen = np.argsort(env.reached(starts.copy(), goals.copy()), kind="stable")[:pairs]
    return starts[chosen], goals[chosen]


def _per_second(work: Callable[[np.ndarray], object], states: np.ndarray) -> float:
    """States that ``work`` handles per second, in the larger of the batches that fit into ``SPEED_SECONDS``."""
    while True:
        begin = time.perf_counter()
        work(states)
        seconds = time.perf_counter() - begin
        if seconds > SPEED_SECONDS / 4 or len(states) >= MOST_STATES:
            return len(states) / seconds
        states = np.concatenate([states, states])


CHECKS: dict[str, Callable[[GoalEnv], str]] = {
    "numbers": _numbers,
    "gymnasium": _gymnasium,
    "equal seeds": _equal_seeds,
    "state round trip": _round_trip,
    "continuing": _continuing,
    "history": _history,
    "goal image": _goal_image,
    "visible": _visible,
    "clipping": _clipping,
    "simulate": _simulate,
    "render_states": _render_states,
    "arguments": _arguments,
    "success": _success,
    "floors": _floors,
    "perturbations": _perturbations,
    "policies": _policies,
    "factors": _factors,
    "speed": _speed,
}

QUICK: dict[str, Callable[[GoalEnv], str]] = {
    "numbers": _numbers,
    "equal seeds": partial(_equal_seeds, steps=5),
    "continuing": partial(_continuing, starts=2, steps=10),
    "history": partial(_history, starts=2, steps=5),
}
"""What every environment that is not ours must pass before a run collects its data."""
