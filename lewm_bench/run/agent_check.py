"""Does an agent keep the promises of docs/extending.md? One finding per promise, with what to mend where it does not.

In seconds: a small U-maze, a handful of episodes in a temporary folder, and a training of a few steps.
Shapes: B episodes side by side, k actions of one decision, A numbers of an action.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lewm_bench.agent import Family, Loaded, Setting
from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import confined
from lewm_bench.core.types import Agent, Goals, Past
from lewm_bench.data.check import FAULTS, Finding
from lewm_bench.data.collect import collect
from lewm_bench.evaluation.agent_contract import Place, checked_actions, checked_agent
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.history import History, images
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.run.bases import base_agent, with_base, with_trained_base
from lewm_bench.run.benchmarks import Benchmarks, SuiteSpec
from lewm_bench.run.environments import make_env
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve
from lewm_bench.system.store import Store

ENV = "lewm_bench/PointMaze-UMaze-v0"
EPISODES, STEPS = 12, 60
TOGETHER = 3  # episodes in a batch
TOLERANCE = 1e-4  # of an action, in the environment's units: what rounding makes of another batch size
SETTINGS = {
    "collect": {"episodes": EPISODES, "steps": STEPS},
    "evaluate": {"num_pairs": 2, "goal_offset": 20},
    "planner": {"num_samples": 16, "num_iterations": 2, "num_elites": 4},
}

Answers = list[np.ndarray]
"""The actions (B, k, A) of each decision."""


@dataclass
class Trial:
    """An agent that is being checked."""

    setting: Setting
    family: Family
    folder: Path

    @cached_property
    def checkpoint(self) -> Path | None:
        """The folder of a training of a few steps, None for an agent that does not train."""
        return self.trained("checkpoint")

    @cached_property
    def loaded(self) -> Loaded:
        """The agent."""
        return self.family.load(self.setting, self.checkpoint)

    def trained(self, name: str) -> Path | None:
        """A folder of that name with a new checkpoint."""
        if not self.family.trainable:
            return None
        folder = self.folder / name
        folder.mkdir()
        own = replace(self.setting, store=Store(self.folder / f"{name} cache"))
        self.family.train(with_trained_base(own, self._trained_base), folder)
        return folder

    def _trained_base(self, setting: Setting, family: Family) -> Path:
        """A checkpoint of what the agent is built on."""
        folder = self.folder / "base"
        if not folder.is_dir():
            folder.mkdir()
            family.train(setting, folder)
        return folder


def check_agent(name: str, benchmarks: Benchmarks, overrides: Sequence[str] = ()) -> list[Finding]:
    """All findings about the agent of a name, in a fixed order; none is skipped because another failed.

    But of an agent that cannot be trained and loaded there is only that finding.

    Args:
        benchmarks: where the networks of our own agents are made small, in its profile ``quick`` if it has one.
        overrides: settings as of ``--set``.

    Raises:
        UserError: no such agent or setting.
        NotRun: it needs what is not here.
    """
    with tempfile.TemporaryDirectory(prefix="lewm-bench-check-") as folder:
        trial = trial_of(name, benchmarks, overrides, Path(folder))
        trial.family.requirements(trial.setting)
        return findings_of(trial)


def findings_of(trial: Trial) -> list[Finding]:
    """What ``check_agent`` finds, of an agent with its settings and data."""
    findings = [_finding("training", _training, trial)]
    if findings[0].ok:
        findings += [_finding(what, check, trial) for what, check in CHECKS.items()]
    return findings


def trial_of(name: str, benchmarks: Benchmarks, overrides: Sequence[str], folder: Path) -> Trial:
    """The agent with its settings and its data, before it is trained."""
    family = agent_family(name)
    own = {parse_agent(name).base: dict(family.rehearsal)} if family.trainable else {}
    if family.on_base:
        base = parse_agent(base_agent(family.Config())).base
        own[base] = dict(agent_family(base).rehearsal)
    suite = SuiteSpec(title="check", envs=({"id": ENV},), agents=(name,), seeds=(0,), settings=SETTINGS | own)
    profile = "quick" if "quick" in benchmarks.profiles else next(iter(benchmarks.profiles))
    found = resolve(
        Benchmarks(profiles=benchmarks.profiles, suites={"check": suite}), "check", profile, overrides=overrides
    )
    env = make_env(ENV, found.settings.image_size)
    dataset = collect(env, found.settings.collect.of(env), 0, folder / "data", progress=False)
    setting = Setting(
        env=env,
        env_id=ENV,
        agent=name,
        dataset=dataset,
        dataset_key=dataset.fingerprint,
        config=found.agent_config(name),
        planner=found.planner(name),
        seed=0,
        device=torch.device("cpu"),
        store=Store(folder / "cache"),
    )

    def other(agent: str) -> Setting:
        return replace(setting, agent=agent, config=found.agent_config(agent))

    return Trial(with_base(setting, family, other), family, folder)


def _finding(name: str, check: Callable[[Trial], str], trial: Trial) -> Finding:
    try:
        return Finding(name, True, check(trial))
    except (UserError, TrainingFailed) as broken:
        return Finding(name, False, str(broken))
    except FAULTS as fault:
        return Finding(name, False, f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}")


def _require(kept: bool | np.bool_, mend: str) -> None:
    if not kept:
        raise UserError(mend)


# What an agent is asked.


def _situation(trial: Trial, agent: Agent, episodes: Sequence[int], moment: int) -> tuple[Goals, Past]:
    """The ends of recorded episodes as goals, and what was to be seen a few steps after their middle."""
    env, dataset = trial.setting.env, trial.setting.dataset
    members = np.asarray(episodes)
    middle = dataset.starts[members] + STEPS // 2 + 3 * moment
    blocks = min(agent.history - 1, STEPS // 2 // agent.frame_skip)
    ends = dataset.ends[members] - 1
    goals = Goals(images(dataset.frames[ends]), dataset.states[ends])
    return goals, History(env, dataset, middle, blocks, (agent.history, agent.frame_skip)).past()


def _answers(trial: Trial, episodes: Sequence[int], moments: Sequence[int] = (0, 1)) -> Answers:
    """What a new controller decides for recorded episodes, one decision after the other, checked."""
    agent, goals = trial.loaded.agent, _situation(trial, trial.loaded.agent, episodes, 0)[0]
    place = Place(trial.setting.agent, ENV, episodes)
    controller = agent.start(goals, [stream(0, "check", "plan", e) for e in episodes])
    answers = []
    for moment in moments:
        _, past = _situation(trial, agent, episodes, moment)
        chosen = controller.search(controller.encode(past))
        answers.append(checked_actions(chosen, trial.setting.action_dim, place, 0).copy())
    return answers


def _equal(first: Answers, second: Answers) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _apart(first: Answers, second: Answers) -> float:
    """The largest difference of two actions; infinite if there are more of them on one side."""
    pairs = list(zip(first, second, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@contextmanager
def _untouched(mend: str) -> Iterator[None]:
    """Raise a UserError where torch's, numpy's or Python's global generator has been used inside the block."""

    def states() -> tuple[bytes, ...]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            repr(np.random.get_state()).encode(),
            repr(random.getstate()).encode(),
        )

    before = states()
    yield
    used = [n for n, a, b in zip(("torch", "numpy", "random"), before, states(), strict=True) if a != b]
    _require(not used, f"{mend} (drawn from: {', '.join(used)})")


@contextmanager
def _other_globals(number: int) -> Iterator[None]:
    """Other global generators inside the block."""
    with confined(number, "check", "globals"):
        np.random.set_state(np.random.RandomState(number).get_state())
        random.seed(number)
        yield


# What is promised.


def _training(trial: Trial) -> str:
    loaded = trial.loaded
    _require(isinstance(loaded, Loaded), f"load must return a lewm_bench.agent.Loaded, got a {type(loaded).__name__}")
    checked_agent(loaded.agent, trial.setting.agent)
    _require(bool(loaded.label), "Loaded needs a label, the agent's name for people")
    if not trial.family.trainable:
        return f"{loaded.label} does not train"
    _require(loaded.weights != "none", "what trains has weights: say in Loaded which")
    return f"{loaded.label}, trained for a few steps"


def _shapes(trial: Trial) -> str:
    found = []
    for episodes in ([0], list(range(TOGETHER))):
        found += [answer.shape[1] for answer in _answers(trial, episodes)]
    return f"{min(found)} to {max(found)} finite actions per decision, for one episode and for {TOGETHER}"


@dataclass
class _Watched:
    """An agent, and what it was shown and answered."""

    inner: Agent
    seen: list[tuple[Past, int]] = field(default_factory=list)

    @property
    def history(self) -> int:
        return self.inner.history

    @property
    def frame_skip(self) -> int:
        return self.inner.frame_skip

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> _WatchedController:
        self.seen.clear()
        return _WatchedController(self, self.inner.start(goals, rngs))


class _WatchedController:
    def __init__(self, agent: _Watched, inner) -> None:
        self._agent, self._inner = agent, inner

    def encode(self, past: Past):
        kept = Past(past.frames.clone(), past.actions.clone(), past.states.copy(), past.frame_states.copy())
        self._agent.seen.append((kept, 0))
        return self._inner.encode(past)

    def search(self, encoded) -> np.ndarray:
        chosen = self._inner.search(encoded)
        self._agent.seen[-1] = (self._agent.seen[-1][0], chosen.shape[1])
        return chosen


def _frames(trial: Trial) -> str:
    setting, agent = trial.setting, _Watched(trial.loaded.agent)
    dataset, budget = setting.dataset, max(8, 2 * _answers(trial, [0], [0])[0].shape[1] + 3)
    start = dataset.starts[:1]
    pairs = Pairs(np.array([0]), start, start + STEPS // 2, 1, 0)
    (result,) = evaluate(agent, setting, pairs, budget, goal_offset=STEPS // 2, real_history=False)
    step = 0
    for past, actions in agent.seen:
        state = np.asarray(result.states[step])
        now = images(setting.env.render_states(state[None].copy()))
        _require(
            np.array_equal(past.states[0], state) and torch.equal(past.frames[:, -1], now),
            f"at step {step} the last frame is not that of now",
        )
        step += actions
    follows = not _equal(_answers(trial, [0, 1])[1:], _answers(trial, [0, 1], (0, 8))[1:])
    _require(
        follows or trial.family.kind != "policy",  # a world model may search alike after so little training
        "the second decision is the same whatever it is shown: encode must look at the frames that it is given",
    )
    said = "other" if follows else "the same"
    return (
        f"{len(agent.seen)} decisions in {budget} steps, each shown the frame of now; for other frames {said} actions"
    )


def _company(trial: Trial) -> str:
    beside, others = _answers(trial, [1, 0, 2]), _answers(trial, [3, 0, 4])
    apart = _apart([a[1:2] for a in beside], [a[1:2] for a in others])
    _require(
        apart <= TOLERANCE,
        f"an episode's actions differ by {apart:.2g} beside other episodes: draw from its own generator, mix no rows",
    )
    alone = _apart([a[1:2] for a in beside], _answers(trial, [0]))
    if trial.family.kind != "world model":  # whose costs differ by less than rounding after so little training
        _require(
            alone <= TOLERANCE,
            f"an episode's actions differ by {alone:.2g} when it is alone: they must not depend on the batch",
        )
    return f"up to {apart:.2g} apart beside others, {alone:.2g} alone; {TOLERANCE:g} is allowed"


def _randomness(trial: Trial) -> str:
    mend = "draw from the rngs that start is given and from nothing else"
    episodes = list(range(TOGETHER))
    _answers(trial, episodes)  # whatever is imported draws now
    with _untouched(mend):
        first = _answers(trial, episodes)
    for number in range(2):
        with _other_globals(number):
            again = _answers(trial, episodes)
        _require(_equal(first, again), f"the same rngs give other actions the second time: {mend}")
    return "the same rngs give the same actions, and no global generator is read or used"


def _arguments(trial: Trial) -> str:
    agent, episodes = trial.loaded.agent, list(range(TOGETHER))
    goals, past = _situation(trial, agent, episodes, 0)
    kept, shown = _situation(trial, agent, episodes, 0)
    controller = agent.start(goals, [stream(0, "check", "plan", e) for e in episodes])
    controller.search(controller.encode(past))
    for name, mine, theirs in (
        ("goals.frames", kept.frames, goals.frames),
        ("goals.states", kept.states, goals.states),
        ("past.frames", shown.frames, past.frames),
        ("past.actions", shown.actions, past.actions),
        ("past.states", shown.states, past.states),
        ("past.frame_states", shown.frame_states, past.frame_states),
    ):
        _require(np.array_equal(np.asarray(mine), np.asarray(theirs)), f"{name} is written into; work on a copy")
    return "what it is given is as it was"


def _save_and_load(trial: Trial) -> str:
    episodes = list(range(TOGETHER))
    first = _answers(trial, episodes)
    again = Trial(trial.setting, trial.family, trial.folder)
    again.checkpoint = trial.checkpoint
    with _other_globals(2):
        loading = _equal(first, _answers(again, episodes))
    _require(loading, "loaded twice it acts differently: everything that it learned must be in its checkpoint")
    if not trial.family.trainable:
        return "loaded twice it acts the same"
    anew = Trial(trial.setting, trial.family, trial.folder)
    with _untouched(
        "training must leave the global generators alone: lewm_bench.core.torch_rng.torch_stream confines it"
    ):
        anew.checkpoint = anew.trained("again")
    _require(
        _equal(first, _answers(anew, episodes)),
        "trained twice with the same seed it acts differently: draw from streams of setting.seed (lewm_bench.core.rng)",
    )
    return "saved, loaded and trained again it acts the same"


CHECKS: dict[str, Callable[[Trial], str]] = {
    "shapes": _shapes,
    "frames": _frames,
    "company": _company,
    "randomness": _randomness,
    "arguments": _arguments,
    "save and load": _save_and_load,
}
