"""What an agent is shown, what is measured of it, and that neither depends on how episodes are batched."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from toy_env import ToyEnv

from lewm_bench.agent import Loaded, PlanningAgent, Setting
from lewm_bench.agents import oracle
from lewm_bench.agents.lewm import LEWM, LeWMConfig, LeWMFamily
from lewm_bench.agents.oracle import ORACLE, LatentOracle, OracleConfig, simulation_of
from lewm_bench.agents.scripted import NOOP, RANDOM
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals, Past, Plan
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.evaluation import episodes as module
from lewm_bench.evaluation.episodes import EvalConfig, PairResult, distance_rank_correlation, evaluate, latent_oracle
from lewm_bench.evaluation.protocol import CLEAN_1, PAPER_V3, Pairs, sample_pairs
from lewm_bench.planning import replan
from lewm_bench.planning.company import Company
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import Objective
from lewm_bench.system.store import Store

SKIP, OFFSET, BUDGET = 2, 8, 11
EXACT = "tests/Exact-v0"
CEM = PlannerConfig(num_samples=24, num_iterations=4, num_elites=6, horizon=3, receding=2)


class ExactEnv(ToyEnv):
    """The toy environment whose frames hold the state to the last bit."""

    def render_states(self, states: np.ndarray) -> np.ndarray:
        frames = np.zeros((len(states), self.size, self.size, 3), np.uint8)
        data = np.ascontiguousarray(states, np.float64).view(np.uint8).reshape(len(states), 16)
        frames.reshape(len(states), -1)[:, :16] = data
        return frames


def positions(frames: Tensor) -> Tensor:
    """(..., 3, h, w) frames of ``ExactEnv`` to (..., 2) float64."""
    data = np.ascontiguousarray(np.moveaxis(frames.numpy(), -3, -1)).reshape(*frames.shape[:-3], -1)[..., :16]
    return torch.from_numpy(np.ascontiguousarray(data).view(np.float64))


class TrueModel:
    """Its latent is the true position, and its prediction is the true dynamics."""

    history, frame_skip, tokens_per_frame = 3, SKIP, 1

    def __init__(self, transform=lambda z: z) -> None:
        self._transform = transform

    def encode(self, frames: Tensor) -> Tensor:
        return self._transform(positions(frames))

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        return actions

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        z = latents[:, -1]
        for action in actions[:, -1].unflatten(-1, (SKIP, 2)).unbind(1):
            z = (z + 0.1 * action.double().clamp(-1, 1)).clamp(-1, 1)
        return z


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    if EXACT not in gym.registry:
        gym.register(EXACT, entry_point=ExactEnv)
    env = gym.make(EXACT).unwrapped
    folder = tmp_path_factory.mktemp("evaluate")
    config = CollectConfig(episodes=40, steps=20, policies={"jitter": 0.2, "drift": 0.8})
    dataset = collect(env, config, 0, folder / "data", progress=False)
    return Setting(
        env, EXACT, "agent", dataset, "key", OracleConfig(frame_skip=SKIP), CEM, 0, torch.device("cpu"), Store(folder)
    )


@pytest.fixture(scope="module")
def pairs(setting: Setting) -> Pairs:
    found = sample_pairs(setting.dataset, setting.env, CLEAN_1, 14, OFFSET)
    depth = found.start_row - setting.dataset.starts[found.episode]
    assert (depth < SKIP).any() and (depth >= 2 * SKIP).any()  # pairs without and with a full history
    return found


def run(agent, setting: Setting, pairs: Pairs, **changes) -> dict[int, PairResult]:
    options = {"budget": BUDGET, "goal_offset": OFFSET, "real_history": True, **changes}
    results = list(evaluate(agent, setting, pairs, **options))
    assert len({r.pair for r in results}) == len(results)
    return {r.pair: r for r in results}


def outcome(result: PairResult) -> tuple:
    return result.hit, result.held, result.steps_to_hit, result.distance_start, result.distance_end, result.states


@dataclass
class Recorder:
    """Executes what ``actions(number of the decision, B)`` says and keeps everything that it is shown."""

    actions: object
    history: int = 3
    frame_skip: int = SKIP
    shown: list[tuple[Goals, list[Past]]] = field(default_factory=list)

    def start(self, goals: Goals, rngs) -> _Recording:
        self.shown.append((goals, []))
        return _Recording(self, rngs)


class _Recording:
    def __init__(self, agent: Recorder, rngs) -> None:
        self._agent, self._rngs, self._pasts = agent, rngs, agent.shown[-1][1]

    def encode(self, past: Past) -> int:
        self._pasts.append(past)
        return len(self._pasts) - 1

    def search(self, number: int) -> np.ndarray:
        return self._agent.actions(number, self._rngs)


def wild(number: int, rngs) -> np.ndarray:
    """Two blocks of actions, some of them out of bounds."""
    return np.random.default_rng(number).normal(0, 1.5, (len(rngs), 2 * SKIP, 2)).astype(np.float32)


def replayed(setting: Setting, pairs: Pairs, index: int, actions: np.ndarray) -> np.ndarray:
    """The states of a pair's episode, one environment step at a time."""
    start = setting.dataset.states[pairs.start_row[index]]
    _, info = setting.env.reset(options={"start": start})
    states = [info["state"]]
    for action in actions:
        states.append(setting.env.step(action)[4]["state"])
    return np.array(states)


def wilder(k: int):
    """``k`` actions per decision, whole blocks or not."""
    return lambda number, rngs: np.resize(wild(number, rngs), (len(rngs), k, 2))


@pytest.mark.parametrize("real_history", [True, False])
@pytest.mark.parametrize("k", [1, 2 * SKIP, 2 * SKIP + 1, BUDGET + 3])
def test_the_agent_sees_what_the_data_and_the_simulator_hold(setting: Setting, pairs: Pairs, real_history, k) -> None:
    """The last frame is now, the others are SKIP steps apart back from it, however many actions a decision has."""
    agent = Recorder(wilder(k))
    run(agent, setting, pairs, real_history=real_history)
    dataset, env, shown = setting.dataset, setting.env, agent.shown[-len(pairs) :]  # behind the warm-up
    decisions = -(-BUDGET // k)
    executed = np.clip(np.concatenate([wilder(k)(n, [0])[0] for n in range(decisions)]), -1, 1)[:BUDGET]
    assert len(shown) == len(pairs)
    seen_pairs = set()
    for goals, pasts in shown:
        index = next(
            i
            for i in range(len(pairs))
            if i not in seen_pairs
            and (dataset.states[pairs.start_row[i]] == pasts[0].states[0]).all()
            and (dataset.states[pairs.goal_row[i]] == goals.states[0]).all()
        )
        seen_pairs.add(index)
        start = int(pairs.start_row[index])
        goal = np.moveaxis(dataset.frames[pairs.goal_row[index]], -1, 0)
        np.testing.assert_array_equal(goals.frames[0].numpy(), goal)
        before = min(2, (start - int(dataset.starts[pairs.episode[index]])) // SKIP) if real_history else 0
        # the whole episode as single steps: recorded ones, then executed ones
        rows = np.arange(start - before * SKIP, start)
        path = np.concatenate([dataset.states[rows], replayed(setting, pairs, index, executed)])
        actions = np.concatenate([dataset.actions[rows], executed])
        assert len(pasts) == decisions
        for decision, past in enumerate(pasts):
            now = before * SKIP + decision * k
            T = min(3, now // SKIP + 1)
            steps = now - SKIP * np.arange(T)[::-1]
            frames = np.moveaxis(env.render_states(path[steps]), -1, 1)
            assert past.frames.dtype == torch.uint8
            np.testing.assert_array_equal(past.frames[0].numpy(), frames)
            np.testing.assert_array_equal(past.states[0], path[now])
            blocks = [actions[s : s + SKIP].reshape(-1) for s in steps[:-1]]
            np.testing.assert_array_equal(past.actions[0].numpy(), np.reshape(blocks, (T - 1, 2 * SKIP)))
            assert past.actions.shape == (1, T - 1, 2 * SKIP) and past.actions.dtype == torch.float32
    assert seen_pairs == set(range(len(pairs)))


@pytest.mark.parametrize("real_history", [True, False])
@pytest.mark.parametrize("k", [1, SKIP, 2 * SKIP, BUDGET + 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_no_shape_is_timed_that_was_not_seen_before(setting: Setting, pairs: Pairs, real_history, k, batch) -> None:
    """Neither that of a first decision nor that of a later one, which may encode new frames only."""

    def shapes(begin: int, end: int | None) -> set[tuple]:
        seen = set()
        for _, pasts in agent.shown[begin:end]:
            frames = [past.frames.shape[:2] for past in pasts]
            seen |= {("first", *frames[0])} | {("later", *shape) for shape in frames[1:]}
        return seen

    agent = Recorder(wilder(k))
    run(agent, setting, pairs, real_history=real_history, batch=batch)
    depth = (pairs.start_row - setting.dataset.starts[pairs.episode]) // SKIP
    lengths = np.minimum(depth, 2) if real_history else np.zeros(len(pairs), int)
    timed = sum(-(-np.count_nonzero(lengths == n) // batch) for n in range(3))
    assert 0 < len(agent.shown) - timed <= 6
    assert shapes(-timed, None) <= shapes(0, -timed)


def from_the_last_chunk(setting: Setting, rows: np.ndarray, k: int, history: int) -> list[tuple]:
    """What agents of whole blocks were shown before contexts came from the states: each chunk's last frames, appended.

    ``rows`` (B, T) are those of the frames up to the start.
    """
    env, dataset = setting.env, setting.dataset
    frames, seen, states = dataset.frames[rows], dataset.states[rows], dataset.states[rows[:, -1:]]
    actions = dataset.actions[rows[:, :1] + np.arange(rows[0, -1] - rows[0, 0])]
    shown = []
    for number in range(-(-BUDGET // k)):
        T = min(history, frames.shape[1])
        blocks = actions[:, actions.shape[1] - (T - 1) * SKIP :].reshape(len(rows), T - 1, SKIP * 2)
        shown.append((np.moveaxis(frames[:, -T:], -1, 2), blocks, states[:, -1], seen[:, -T:]))
        chosen = np.clip(wilder(k)(number, [None] * len(rows)), -1, 1)
        after = env.simulate(states[:, -1], chosen)
        states, actions = np.concatenate([states, after], 1), np.concatenate([actions, chosen], 1)
        last = after[:, SKIP - 1 :: SKIP]
        drawn = env.render_states(last.reshape(-1, 2)).reshape(*last.shape[:2], *frames.shape[2:])
        frames, seen = np.concatenate([frames, drawn], 1), np.concatenate([seen, last], 1)
    return shown


@pytest.mark.parametrize("k", [SKIP, 2 * SKIP, 5 * SKIP])
def test_agents_of_whole_blocks_see_what_they_saw(setting: Setting, pairs: Pairs, k: int) -> None:
    agent = Recorder(wilder(k))
    run(agent, setting, pairs, batch=3)
    depth = np.minimum((pairs.start_row - setting.dataset.starts[pairs.episode]) // SKIP, 2)
    members = [
        g[b : b + 3] for length in range(3) for g in [np.flatnonzero(depth == length)] for b in range(0, len(g), 3)
    ]
    batches = agent.shown[-len(members) :]  # behind the warm-up
    assert len(members) > 3
    for (_, pasts), of_batch in zip(batches, members, strict=True):
        rows = pairs.start_row[of_batch][:, None] + SKIP * np.arange(-depth[of_batch[0]], 1)
        expected = from_the_last_chunk(setting, rows, k, agent.history)
        assert len(pasts) == len(expected)
        for past, was in zip(pasts, expected, strict=True):
            now = past.frames.numpy(), past.actions.numpy(), past.states, past.frame_states
            for a, b in zip(now, was, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("k", "most"), [(1, BUDGET - 1), (SKIP, 5), (2 * SKIP, 4), (4 * SKIP, 3)])
def test_a_frame_is_drawn_once_and_not_while_the_clock_runs(
    setting: Setting, pairs: Pairs, monkeypatch, k, most
) -> None:
    """``most`` frames per pair: those that are shown; while an agent encodes and searches the simulator rests."""
    drawn, running = [], []

    class Watch(module.Stopwatch):
        def __enter__(self):
            running.append(self)
            return super().__enter__()

        def __exit__(self, *error):
            running.pop()
            return super().__exit__(*error)

    class Sleeper(Recorder):
        def start(self, goals, rngs):
            assert running
            return super().start(goals, rngs)

    def simulate(states, actions):
        running[-1].simulates = True
        return ExactEnv.simulate(setting.env, states, actions)

    def render_states(states):
        assert not running or running[-1].simulates
        drawn.append(states)
        return ExactEnv.render_states(setting.env, states)

    monkeypatch.setattr(module, "_warm_up", lambda *_: None)
    monkeypatch.setattr(module, "Stopwatch", Watch)
    monkeypatch.setattr(setting.env, "simulate", simulate)
    monkeypatch.setattr(setting.env, "render_states", render_states)
    run(Sleeper(wilder(k)), setting, pairs, batch=4, skip=range(4, 14))
    assert 4 * (most - 1) < sum(map(len, drawn)) <= 4 * most


class Vandal(Recorder):
    """Overwrites everything that it is given, and what it gave away."""

    def start(self, goals: Goals, rngs):
        inner, agent = super().start(goals, rngs), self
        targets = goals.states.copy()

        class Controller:
            def encode(self, past: Past) -> Past:
                return past

            def search(self, past: Past) -> np.ndarray:
                towards = np.clip((targets - past.states) / 0.1, -1, 1)
                if agent.actions is not None:
                    for array in (goals.states, past.states, past.frame_states):
                        array[...] = 0.123
                    for tensor in (goals.frames, past.frames, past.actions):
                        tensor.fill_(7)
                inner.encode(past)
                return towards[:, None].astype(np.float32)

        return Controller()


def test_an_agent_can_change_nothing_but_its_copies(setting: Setting, pairs: Pairs) -> None:
    decent, vandal = Vandal(None), Vandal(wild)
    expected, found = (run(agent, setting, pairs, batch=4) for agent in (decent, vandal))
    assert [outcome(found[i]) for i in range(14)] == [outcome(expected[i]) for i in range(14)]
    assert {r.hit for r in expected.values()} == {True}
    pasts = [past for _, pasts in vandal.shown for past in pasts]
    assert all((past.frames == 7).all() and (past.states == 0.123).all() for past in pasts), "nothing was shown twice"


class Scribbler(ExactEnv):
    """Writes into every argument, and hands out its own memory."""

    def _after(self, result, *arrays):
        for array in arrays:
            array[...] = 0.5
        return result

    def set_state(self, state: np.ndarray) -> None:
        self._state = state

    def get_state(self) -> np.ndarray:
        return self._state

    def advance(self, action: np.ndarray) -> None:
        self._state[...] = np.clip(self._state + np.clip(action, -1, 1).astype(np.float64) * self.speed, -1, 1)
        action[...] = 9

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return self._after(GoalEnv.simulate(self, states, actions), states, actions)

    def distance(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return self._after(super().distance(states, goals), states, goals)

    def render_states(self, states: np.ndarray) -> np.ndarray:
        return self._after(super().render_states(states), states)


def test_an_environment_that_writes_into_its_arguments_changes_no_result(setting: Setting, pairs: Pairs) -> None:
    scribbling = replace(setting, env=Scribbler())
    for k in (1, SKIP):
        expected, agents = run(Recorder(wilder(k)), setting, pairs, batch=3), [Recorder(wilder(k)) for _ in range(2)]
        found = run(agents[0], scribbling, pairs, batch=3)
        run(agents[1], setting, pairs, batch=3)
        assert [outcome(found[i]) for i in range(14)] == [outcome(expected[i]) for i in range(14)]
        for theirs, ours in zip(agents[0].shown, agents[1].shown, strict=True):
            for a, b in zip(theirs[1], ours[1], strict=True):
                assert torch.equal(a.frames, b.frames) and torch.equal(a.actions, b.actions)
                assert np.array_equal(a.states, b.states) and np.array_equal(a.frame_states, b.frame_states)


def test_an_embedding_that_writes_into_its_arguments_changes_no_correlation(setting: Setting) -> None:
    def embed(frames: Tensor, states: np.ndarray) -> Tensor:
        found = positions(frames)
        frames.zero_()
        states[...] = 0
        return found

    loaded = replace(Loaded(None, "model"), model=TrueModel(), embed=embed)
    assert distance_rank_correlation(loaded, setting, "test", 100) > 1 - 1e-6


NO_ACTIONS = r"MINE returned actions of shape \(1, 0, 2\) at step 0 of pair 5"
ANSWERS = {
    "none": (lambda n: np.zeros((1, 0, 2)), NO_ACTIONS),
    "too many episodes": (lambda n: np.zeros((2, 4, 2)), r"shape \(2, 4, 2\) .* must return \(1, k, 2\)"),
    "one action without steps": (lambda n: np.zeros((1, 2)), r"shape \(1, 2\)"),
    "another environment's": (lambda n: np.zeros((1, 4, 3)), r"shape \(1, 4, 3\)"),
    "a list": (lambda n: [[[0.0, 0.0]]], "MINE returned a list at step 0 of pair 5"),
    "nothing": (lambda n: None, "MINE returned a NoneType"),
    "text": (lambda n: np.full((1, 4, 2), "left"), "MINE returned an array of <U4"),
    "nan": (
        lambda n: np.where(np.arange(8).reshape(1, 4, 2) == 5, np.nan, 0),
        "finite number at step 2 of pair 5: .*nan",
    ),
    "inf, later": (lambda n: np.full((1, 3, 2), [0, np.inf][n > 1]), "finite number at step 6 of pair 5: .*inf"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_answer_is_refused_in_one_line(setting: Setting, pairs: Pairs, answer: str) -> None:
    returned, message = ANSWERS[answer]
    own = replace(setting, agent="their.agents:MINE")
    with pytest.raises(UserError, match=message) as error:
        run(Recorder(lambda number, rngs: returned(number)), own, pairs, skip=set(range(14)) - {5})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("what", "value"), [("history", 0), ("frame_skip", 0), ("history", 1.5), ("frame_skip", None)])
def test_a_context_that_is_none_is_refused(setting: Setting, pairs: Pairs, what: str, value) -> None:
    with pytest.raises(UserError, match=f"agent: {what} of an agent must be a whole number of at least 1, got {value}"):
        run(replace(Recorder(wild), **{what: value}), setting, pairs)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        (
            "distance",
            lambda s, g: np.where(s[:, 0] == s[3, 0], np.inf, 0),
            "distance to the goal is inf at step 3 of pair 5",
        ),
        ("distance", lambda s, g: np.zeros((len(s), 1)), r"distance returned the shape \(12, 1\) for 12 states"),
        ("simulate", lambda s, a: np.full((*a.shape[:2], 2), np.nan), "not finite at step 1 of pair 5"),
        ("simulate", lambda s, a: np.zeros((len(a), 2)), r"simulate returned the shape \(1, 2\) .* wanted \(1, 1, 2\)"),
    ],
)
def test_what_an_environment_cannot_mean_is_refused(
    setting: Setting, pairs: Pairs, monkeypatch, name: str, answer, message: str
) -> None:
    monkeypatch.setattr(setting.env, name, answer)
    monkeypatch.setattr(module, "_warm_up", lambda *_: None)
    with pytest.raises(UserError, match=f"{EXACT}.*{message}"):
        run(Recorder(wilder(1)), setting, pairs, skip=set(range(14)) - {5})


@pytest.mark.parametrize("field", ["distance_start", "distance_end", "env_seconds", "encode_seconds", "states"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_result_has_finite_numbers_only(setting: Setting, pairs: Pairs, field: str, value: float) -> None:
    result = run(NOOP.load(setting, None).agent, setting, pairs, skip=range(1, 14))[0]
    broken = {"encode_seconds": (0.1, value), "states": ((0.0, 1.0), (0.0, value))}.get(field, value)
    with pytest.raises(ValidationError, match=field):
        PairResult(**result.model_dump() | {field: broken})


def test_outcomes_against_a_replay(setting: Setting, pairs: Pairs) -> None:
    """hit: inside the radius at some step; held: at the last; the first such step; exactly the budget."""
    straight = {}

    def towards_the_goal_and_past_it(number: int, rngs) -> np.ndarray:
        goal, past = agent.shown[-1][0].states, agent.shown[-1][1][-1].states
        if number == 0:
            straight[goal.tobytes()] = np.clip((goal - past) / 0.1 / (BUDGET - 4), -1, 1)
        return np.repeat(straight[goal.tobytes()][:, None], 3 * SKIP, 1).astype(np.float32)

    agent = Recorder(towards_the_goal_and_past_it)
    results = run(agent, setting, pairs)
    seen = set()
    for index, result in results.items():
        goal = setting.dataset.states[pairs.goal_row[index]]
        action = straight[goal[None].tobytes()][0].astype(np.float32)
        states = replayed(setting, pairs, index, np.repeat(action[None], BUDGET, 0))
        assert np.shape(result.states) == (BUDGET + 1, 2)
        np.testing.assert_array_equal(np.array(result.states), states)
        inside = [bool(np.hypot(*(s - goal)) < 0.1) for s in states]
        assert result.hit == any(inside) and result.held == inside[-1]
        assert result.steps_to_hit == (inside.index(True) if any(inside) else None)
        assert result.distance_start == pytest.approx(np.hypot(*(states[0] - goal)))
        assert result.distance_end == pytest.approx(np.hypot(*(states[-1] - goal)))
        assert len(result.encode_seconds) == len(result.search_seconds) == 2  # 6 + 5 steps
        assert min(result.encode_seconds) > 0 and min(result.search_seconds) > 0 and result.env_seconds > 0
        seen.add((result.hit, result.held))
    assert {(True, False), (True, True)} <= seen


def test_the_floor_stays_where_it_is(setting: Setting, pairs: Pairs) -> None:
    agent = NOOP.load(setting, None).agent
    for index, result in run(agent, setting, pairs).items():
        assert set(result.states) == {tuple(setting.dataset.states[pairs.start_row[index]])}
        assert not result.hit and result.steps_to_hit is None and result.distance_end == result.distance_start


def test_a_start_inside_the_goal_is_hit_at_step_0(setting: Setting) -> None:
    pairs = sample_pairs(setting.dataset, setting.env, PAPER_V3, 30, 2)
    solved = setting.env.reached(setting.dataset.states[pairs.start_row], setting.dataset.states[pairs.goal_row])
    assert 0 < solved.sum() < 30
    results = run(NOOP.load(setting, None).agent, setting, pairs, real_history=False)
    for index in range(30):
        assert results[index].hit == results[index].held == solved[index]
        assert results[index].steps_to_hit == (0 if solved[index] else None)


@pytest.mark.parametrize("budget", [1, SKIP, 5, 12])
def test_the_budget_is_spent_exactly(setting: Setting, pairs: Pairs, budget: int) -> None:
    agent = Recorder(wild)
    results = run(agent, setting, pairs, budget=budget, batch=4)
    assert {np.shape(r.states) for r in results.values()} == {(budget + 1, 2)}
    assert {len(r.search_seconds) for r in results.values()} == {-(-budget // 4)}


def test_random_numbers_are_those_of_the_pair(setting: Setting, pairs: Pairs) -> None:
    """Nothing else (a warm-up, a neighbour) draws from an episode's stream."""
    results = run(RANDOM.load(setting, None).agent, setting, pairs)
    for index in (0, 5, 13):
        rng = stream(0, "plan", EXACT, "agent", OFFSET, index)
        drawn = [rng.uniform(-np.ones(2), np.ones(2), (SKIP, 2)) for _ in range(6)]
        actions = np.concatenate(drawn)[:BUDGET].astype(np.float32)
        np.testing.assert_allclose(np.array(results[index].states), replayed(setting, pairs, index, actions), atol=1e-6)


@pytest.mark.parametrize(("family", "budget"), [(RANDOM, 30), (ORACLE, 3)], ids=["random", "oracle"])
def test_an_outcome_does_not_depend_on_the_batch(setting: Setting, pairs: Pairs, family, budget: int) -> None:
    alone, four, together = (
        run(family.load(setting, None).agent, setting, pairs, batch=b, budget=budget) for b in (1, 4, 14)
    )
    for index in range(len(pairs)):
        assert outcome(alone[index]) == outcome(four[index]) == outcome(together[index])
    assert {r.hit for r in alone.values()} == {True, False}


def test_the_oracle_reaches_what_random_actions_do_not(setting: Setting, pairs: Pairs) -> None:
    hits = [
        np.mean([r.held for r in run(f.load(setting, None).agent, setting, pairs, budget=24).values()])
        for f in (ORACLE, RANDOM)
    ]
    assert hits[0] > 0.8 and hits[1] < 0.4


def small_lewm(setting: Setting) -> Setting:
    config = LeWMConfig(
        encoder="cnn", latent=8, projector_hidden=16, width=8, depth=1, heads=1, head_size=8, mlp_hidden=16,
        frame_skip=SKIP,
    )  # fmt: skip
    return replace(setting, config=config, agent="lewm")


@pytest.mark.parametrize("batch", [4, 14])
def test_a_world_models_outcome_does_not_depend_on_the_batch(setting: Setting, pairs: Pairs, batch: int) -> None:
    chosen = small_lewm(setting)
    agents = [PlanningAgent(TrueModel(), CEM, chosen.device), LEWM.load(chosen, None).agent]
    for agent in agents:
        alone, together = run(agent, chosen, pairs), run(agent, chosen, pairs, batch=batch)
        assert len(alone) == len(together) == len(pairs)
        for index in range(len(pairs)):
            a, b = alone[index], together[index]
            assert (a.hit, a.held, a.steps_to_hit) == (b.hit, b.held, b.steps_to_hit)
            np.testing.assert_allclose(np.array(a.states), np.array(b.states), atol=1e-3)


class Sized:
    """Acts by its own context and numbers, and by how many episodes it is asked about."""

    history, frame_skip = 3, SKIP

    def __init__(self) -> None:
        self.shown: list[int] = []

    def start(self, goals: Goals, rngs) -> Sized:
        self._rngs, self._goals = rngs, goals
        return self

    def encode(self, past: Past) -> Past:
        everything = past.frames, past.actions, past.states, past.frame_states, self._goals.frames, self._goals.states
        self.shown += [len(part) for part in (*everything, self._rngs)]
        return past

    def search(self, past: Past) -> np.ndarray:
        drawn = [rng.uniform(-0.5, 0.5, (SKIP, 2)) for rng in self._rngs]
        return np.stack(drawn) + 0.1 * past.states[:, None] + 0.01 * len(past.states)


def test_filled_batches_have_one_size_and_an_episode_any_company(setting: Setting, pairs: Pairs) -> None:
    """Also one that is what a killed evaluation left."""
    agent = Sized()
    everything = run(agent, setting, pairs, batch=4, filled=True)
    assert set(everything) == set(range(14)) and set(agent.shown) == {4}
    for skip in ((0, 3, 4), range(13), (5,)):
        rest = run(agent, setting, pairs, batch=4, filled=True, skip=skip)
        assert set(rest) == set(range(14)) - set(skip)
        assert all(outcome(rest[i]) == outcome(everything[i]) for i in rest)
    assert set(agent.shown) == {4}
    alone, one = run(agent, setting, pairs, skip=range(1, 14), batch=4), run(agent, setting, pairs, filled=True)
    assert outcome(alone[0]) != outcome(everything[0])  # on the CPU nothing is filled
    assert outcome(alone[0]) == outcome(one[0])


@pytest.mark.parametrize("sharing", ["one size", "no"])
def test_a_world_models_filled_batches_are_the_same_in_any_company(setting: Setting, pairs: Pairs, sharing) -> None:
    """To the bit, as on a device that chooses kernels by size; an episode is planned with others after a kill."""
    chosen = small_lewm(setting)
    loaded = LEWM.load(chosen, None)
    packed = loaded.agent.rollout
    packed.sharing = sharing
    agent = PlanningAgent(loaded.model, CEM, chosen.device, packed, company=Company())
    everything = run(agent, chosen, pairs, batch=4, filled=True)
    rest = run(agent, chosen, pairs, batch=4, filled=True, skip=(0, 3, 4, 8))
    assert all(outcome(rest[i]) == outcome(everything[i]) for i in rest)
    assert {len(everything), len(rest)} == {14, 10}


def test_a_filled_batchs_time_is_shared_by_all_that_it_holds(setting: Setting, pairs: Pairs) -> None:
    class Slow(Sized):
        def search(self, past: Past) -> np.ndarray:
            time.sleep(0.1)
            return super().search(past)

    (found,) = run(Slow(), setting, pairs, batch=4, budget=2 * SKIP, filled=True, skip=range(1, 14)).values()
    assert 0.025 <= min(found.search_seconds) < 0.1


def test_pairs_that_are_recorded_already_are_skipped(setting: Setting, pairs: Pairs) -> None:
    agent = ORACLE.load(setting, None).agent
    everything = run(agent, setting, pairs)
    rest = run(agent, setting, pairs, skip=(0, 3, 4), batch=3)
    assert set(rest) == set(range(14)) - {0, 3, 4}
    assert all(outcome(rest[i]) == outcome(everything[i]) for i in rest)
    assert run(agent, setting, pairs, skip=range(14)) == {}


def test_the_seed_the_agent_and_the_offset_have_their_own_streams(setting: Setting, pairs: Pairs) -> None:
    def path(s: Setting, offset: int = OFFSET):
        return run(RANDOM.load(s, None).agent, s, pairs, goal_offset=offset)[0].states

    paths = {path(setting), path(replace(setting, seed=1)), path(replace(setting, agent="b")), path(setting, 9)}
    assert len(paths) == 4 and path(setting) in paths


@pytest.mark.parametrize("objective", ["final", "sum"])
def test_the_oracles_cost_is_the_true_distance_after_each_block(setting: Setting, monkeypatch, objective: str) -> None:
    """Plans are z-scores: with mean m and deviation s, a plan of a means the actions m + s a."""
    mean, std = np.float32([0.3, -0.2]), np.float32([0.5, 2.0])
    config = CEM.model_copy(update={"objective": objective})
    agent = oracle.SimulatorAgent(oracle.Simulation(setting.env, SKIP, mean, std), config)
    plans = torch.randn(2, 4, 3, SKIP * 2, generator=torch.Generator().manual_seed(0))
    seen = []
    monkeypatch.setattr(
        replan, "solve", lambda cost, *_: seen.append(cost(plans)) or Plan(plans[:, 0], plans[:, 0, 0, 0])
    )
    states, goals = np.array([[0.1, 0.2], [-0.5, 0.4]]), np.array([[0.0, 0.0], [0.3, 0.3]])
    controller = agent.start(Goals(torch.zeros(2), goals), [None, None])
    actions = controller.search(states)
    units = plans.numpy().reshape(2, 4, 3 * SKIP, 2) * std + mean
    np.testing.assert_allclose(actions, units[:, 0, : 2 * SKIP], rtol=1e-5)  # the first two of three blocks
    for b in range(2):
        for s in range(4):
            position, distances = states[b], []
            for t, action in enumerate(units[b, s]):
                position = np.clip(position + 0.1 * np.clip(action, -1, 1), -1, 1)
                if t % SKIP == SKIP - 1:
                    distances.append(np.hypot(*(position - goals[b])))
            expected = distances[-1] if objective == "final" else sum(distances)
            assert seen[0][b, s].item() == pytest.approx(expected, rel=1e-5)


def test_a_plan_is_executed_in_the_environments_units(setting: Setting) -> None:
    class Scaled(TrueModel):
        def denormalize_actions(self, actions: Tensor) -> Tensor:
            return 3 * actions + 1

    frames = setting.dataset.frames[:3]
    images = torch.from_numpy(np.moveaxis(frames, -1, 1).copy())
    past = Past(images[:1, None], torch.zeros(1, 0, 4), setting.dataset.states[:1])
    plain, scaled = (
        PlanningAgent(model, CEM, setting.device).start(Goals(images[2:], np.zeros((1, 2))), [stream(0, "plan")])
        for model in (TrueModel(), Scaled())
    )
    np.testing.assert_allclose(scaled.search(scaled.encode(past)), 3 * plain.search(plain.encode(past)) + 1, rtol=1e-6)


def test_the_latent_oracle_of_a_true_latent_is_the_oracle(setting: Setting, pairs: Pairs) -> None:
    loaded = Loaded(PlanningAgent(TrueModel(), CEM, setting.device), "true", model=TrueModel())
    true = run(ORACLE.load(setting, None).agent, setting, pairs, budget=3, real_history=False)
    agent = LatentOracle(simulation_of(setting), CEM, TrueModel(), setting.device, chunk=50)
    latent = run(agent, setting, pairs, budget=3, real_history=False)
    for index in range(len(pairs)):
        np.testing.assert_allclose(np.array(latent[index].states), np.array(true[index].states), atol=1e-6)
    for n in (5, 14):
        expected = np.mean([true[i].hit for i in range(n)])
        assert latent_oracle(loaded, setting, pairs, 3, OFFSET, n) == expected
    assert 0 < expected < 1


def test_the_latent_oracle_tells_a_bad_latent(setting: Setting, pairs: Pairs) -> None:
    blind = replace(Loaded(None, "blind"), model=TrueModel(lambda z: z * torch.tensor([1.0, 0.0])))
    good = replace(Loaded(None, "true"), model=TrueModel())
    assert latent_oracle(blind, setting, pairs, 24, OFFSET, 14) < latent_oracle(good, setting, pairs, 24, OFFSET, 14)


def test_the_latent_oracle_needs_a_world_model(setting: Setting, pairs: Pairs) -> None:
    with pytest.raises(UserError, match="agent is not a world model"):
        latent_oracle(RANDOM.load(setting, None), setting, pairs, BUDGET, OFFSET, 3)


@pytest.mark.parametrize(
    ("transform", "low", "high"),
    [
        (lambda z: z, 1 - 1e-6, 1.0),
        (lambda z: 7 * z.flip(-1), 1 - 1e-6, 1.0),
        (lambda z: z + 100, 1 - 1e-4, 1.0),  # far from the origin the distances must not drown in rounding
        (lambda z: z[..., None].expand(*z.shape, 3), 1 - 1e-6, 1.0),  # latents of any shape
        (lambda z: z[..., :1], 0.4, 0.9),
        (lambda z: (1e6 * z.sum(-1, keepdim=True)).sin(), -0.1, 0.1),
    ],
    ids=["true", "scaled and turned", "shifted", "(2, 3)", "half of it", "noise"],
)
def test_the_rank_correlation_of_latent_and_true_distance(setting: Setting, transform, low, high) -> None:
    loaded = replace(Loaded(None, "model"), model=TrueModel(transform))
    found = distance_rank_correlation(loaded, setting, "test", 100)
    assert low <= found <= high + 1e-9
    assert found == distance_rank_correlation(loaded, setting, "test", 100)


def sideways(latents: Tensor, goal: Tensor) -> Tensor:
    """A cost of imagined (b, S, h, 2) and goals (b, 2) that looks at one coordinate and is cheaper from above."""
    beyond = (latents - goal[:, None, None])[..., 0].sum(-1)
    return torch.where(beyond > 0, beyond, -2 * beyond)


def test_the_latent_oracle_and_the_rank_correlation_use_the_agents_own_cost(setting: Setting, pairs: Pairs) -> None:
    """``sideways`` is blind to one coordinate, as a latent would be that has only the other."""
    own = replace(Loaded(None, "own"), model=TrueModel(), objective=Objective(sideways, last=True))
    blind = replace(Loaded(None, "blind"), model=TrueModel(lambda z: z * torch.tensor([1.0, 0.0])))
    true = replace(own, objective=None)
    found = {loaded.label: distance_rank_correlation(loaded, setting, "test", 100) for loaded in (own, blind)}
    assert found["own"] == pytest.approx(found["blind"], abs=1e-6)  # the mean there and back is 1.5 times the way
    assert found["own"] < distance_rank_correlation(true, setting, "test", 100) - 0.1
    hits = [latent_oracle(loaded, setting, pairs, 24, OFFSET, 14) for loaded in (own, true)]
    assert hits[0] < hits[1]


class Sideways(LeWMFamily):
    """A LeWM that plans for ``sideways``."""

    def objective(self, model, planner: PlannerConfig) -> Objective:
        return Objective(sideways, last=planner.objective == "final")


@pytest.mark.parametrize("counts", ["final", "sum"])
def test_a_familys_objective_is_its_agents_and_is_told(setting: Setting, counts: str) -> None:
    sizes = {"encoder": "stem-vit", "latent": 8, "projector_hidden": 16, "width": 16, "depth": 1, "mlp_hidden": 16}
    planner = CEM.model_copy(update={"objective": counts})
    mine = replace(setting, config=LeWMConfig(frame_skip=SKIP, **sizes), planner=planner)
    own, plain = Sideways().load(mine, None), LEWM.load(mine, None)
    assert own.agent.objective == own.objective == Objective(sideways, last=counts == "final")
    assert plain.objective is None
    latents, goals = torch.randn(2, 3, 4, 8), torch.randn(2, 8)
    distances = (latents - goals[:, None, None]).square().mean(-1)
    given = latents[:, :, -1:] if counts == "final" else latents
    torch.testing.assert_close(
        plain.agent.objective.score(given, goals), distances[..., -1] if counts == "final" else distances.sum(-1)
    )


def test_equal_latents_have_no_rank_correlation(setting: Setting) -> None:
    for constant in (0.0, float("nan")):
        loaded = replace(Loaded(None, "model"), model=TrueModel(lambda z, constant=constant: 0 * z + constant))
        assert distance_rank_correlation(loaded, setting, "test", 50) is None


def test_eval_config() -> None:
    assert EvalConfig(goal_offset=25).goal_offset == (25,) and EvalConfig(goal_offset=[5, 7]).goal_offset == (5, 7)
    assert EvalConfig().rules == (CLEAN_1,) and EvalConfig(protocol="paper-v3").rules == (PAPER_V3,)
    with pytest.raises(ValidationError, match="did you mean 'clean-1'"):
        EvalConfig(protocol="clean1")


def test_an_episode_that_is_over_in_the_goal_has_not_held_it(setting: Setting, monkeypatch) -> None:
    """Nothing can leave there, so that staying is nobody's merit, unless the goal is such a state itself."""
    states = setting.dataset.states
    rows = np.flatnonzero(setting.env.reached(states[:-1], states[1:]) & (states[:-1] != states[1:]).any(-1))[::7][:3]
    near = Pairs(np.searchsorted(setting.dataset.ends, rows, side="right"), rows, rows + 1, 3, 3)
    agent = NOOP.load(setting, None).agent
    for over, held in (
        (lambda at: np.zeros(np.shape(at)[:-1], bool), True),
        (lambda at: (np.asarray(at)[..., None, :] == states[rows]).all(-1).any(-1), False),
        (lambda at: np.ones(np.shape(at)[:-1], bool), True),
    ):
        monkeypatch.setattr(setting.env, "over", over)
        results = run(agent, setting, near, real_history=False).values()
        assert [(r.hit, r.held) for r in results] == [(True, held)] * 3
