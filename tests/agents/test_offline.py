"""Offline reinforcement learning from relabelled goals: the formulas in numpy, the goals by brute force, and a ring.

On the ring of ``N`` positions every distance, value and best action is known in closed form.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lewm_bench.agent import Setting
from lewm_bench.agents.gciql import GCIQL, GCIQL_FAMILY, GCIQLConfig
from lewm_bench.agents.gcivl import GCIVL, GCIVL_FAMILY
from lewm_bench.agents.parts import implicit_policy as offline
from lewm_bench.agents.parts.implicit_policy import OfflineConfig, Transitions, relabelled_batches
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Episode, Goals, Past
from lewm_bench.data.format import Dataset
from lewm_bench.data.writer import DatasetWriter
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.registry import agent_family
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainableModule, TrainConfig, train

CPU = torch.device("cpu")
N = 8  # positions of the ring
GAMMA = 0.8
SIZES = {"width": 32, "depth": 1, "heads": 2, "hidden": 64}
FAMILIES = {"gcivl": GCIVL_FAMILY, "gciql": GCIQL_FAMILY}
ON_THE_RING = ["gcivl", pytest.param("gciql", marks=pytest.mark.slow)]


def write(folder: Path, episodes: list[Episode], splits: dict[str, tuple[int, ...]] | None = None) -> Dataset:
    with DatasetWriter(folder) as writer:
        for episode in episodes:
            writer.add(episode, "ring")
        low, high = -np.ones(1), np.ones(1)
        splits = splits or {"train": tuple(range(len(episodes))), "val": (), "test": ()}
        return writer.finish(env="ring", env_kwargs={}, action_low=low, action_high=high, seed=0, splits=splits)


def setting_of(name: str, data: Dataset, config: OfflineConfig) -> Setting:
    spaces = {"observation_space": (16, 16, 3), "action_space": (1,)}
    env = SimpleNamespace(
        identity=lambda: "ring", **{space: gym.spaces.Box(-1, 1, shape) for space, shape in spaces.items()}
    )
    return Setting(env, "ring", name, data, "key", config, PlannerConfig(), 0, CPU, Store(data.folder))


def image(position: np.ndarray) -> np.ndarray:
    """(..., 16, 16, 3): a bright stripe two pixels wide."""
    stripe = np.arange(16) // 2 == np.asarray(position)[..., None] % N
    return np.broadcast_to(
        np.where(stripe, 255, 0).astype(np.uint8)[..., None, :, None], (*stripe.shape[:-1], 16, 16, 3)
    )


def ring(folder: Path, directions: tuple[int, ...], episodes: int = 64) -> Dataset:
    """Episodes of N - 1 steps in one direction, so that none meets a position twice."""

    def episode(i: int) -> Episode:
        step = directions[i // N % len(directions)]
        positions = (i + step * np.arange(N)) % N
        return Episode(image(positions), positions[:, None].astype(float), np.full((N - 1, 1), step, np.float32))

    return write(folder, [episode(i) for i in range(episodes)])


def all_pairs() -> tuple[Tensor, Tensor]:
    """Frames and goals of every pair of positions, (N * N, 3, 16, 16) each, the goal running faster."""
    frames = torch.from_numpy(np.moveaxis(image(np.arange(N)), -1, 1).copy())
    return frames.repeat_interleave(N, 0), frames.repeat(N, 1, 1, 1)


# Formulas.


def test_the_expectile_loss_in_numpy() -> None:
    rng = np.random.default_rng(0)
    error, other = rng.normal(size=(2, 100))
    for expectile in (0.1, 0.5, 0.9):
        found = offline.expectile_loss(torch.tensor(error), torch.tensor(other > 0), expectile).numpy()
        expected = [(expectile if o > 0 else 1 - expectile) * e * e for e, o in zip(error, other, strict=True)]
        np.testing.assert_allclose(found, expected)
    half = offline.expectile_loss(torch.tensor(error), torch.tensor(error > 0), 0.5)
    np.testing.assert_allclose(half.mean().item(), 0.5 * np.mean(error**2))


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9, 0.99])
def test_its_minimiser_is_the_expectile(expectile: float) -> None:
    """Which balances the mean excess on both sides; found here by bisection, and by search over the loss."""
    x = np.random.default_rng(1).gamma(2.0, size=500)
    low, high = x.min(), x.max()
    for _ in range(60):
        middle = (low + high) / 2
        excess = expectile * np.maximum(x - middle, 0).mean() - (1 - expectile) * np.maximum(middle - x, 0).mean()
        low, high = (middle, high) if excess > 0 else (low, middle)
    grid = torch.linspace(float(x.min()), float(x.max()), 4001, dtype=torch.float64)[:, None]
    error = torch.tensor(x) - grid
    best = grid[offline.expectile_loss(error, error > 0, expectile).mean(1).argmin()].item()
    assert best == pytest.approx(low, abs=2 * (x.max() - x.min()) / 4000)
    assert expectile != 0.5 or low == pytest.approx(x.mean())


def test_advantage_weights_in_numpy() -> None:
    advantage = np.linspace(-3, 3, 13)
    found = offline.advantage_weights(torch.tensor(advantage), 2.5).numpy()
    np.testing.assert_allclose(found, np.minimum(np.exp(2.5 * advantage), 100))
    assert found[-1] == 100 and found[0] == pytest.approx(np.exp(-7.5))
    assert (offline.advantage_weights(torch.tensor(advantage), 0.0) == 1).all()
    assert offline.advantage_weights(torch.tensor([1000.0]), 10.0).item() == 100  # exp overflows


def test_the_bellman_target_ends_at_the_goal() -> None:
    target = offline.bellman_target(torch.tensor([True, False]), torch.tensor([[-7.0, -7.0], [-2.0, 0.0]]), 0.9)
    np.testing.assert_allclose(target, [[0, -1 - 0.9 * 7], [0, -1]], rtol=1e-6)


def test_a_moving_average_follows_in_closed_form() -> None:
    with torch_stream(0, "init", "test"):
        online, target = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
    start, goal = target.weight.clone(), online.weight.detach().clone()
    for _ in range(7):
        with torch.no_grad():
            offline.move_average(target, online, 0.1)
    torch.testing.assert_close(target.weight, goal + 0.9**7 * (start - goal))
    assert torch.equal(online.weight, goal)


def test_the_hook_runs_after_each_step_of_the_optimiser(tmp_path: Path) -> None:
    class Follower(TrainableModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))
            self.steps: list[tuple[int, float]] = []

        def loss(self, batch, step: Step):
            assert len(self.steps) == step.index
            return self.w.sum(), {}

        def after_step(self, step: Step) -> None:
            assert not torch.is_grad_enabled()
            self.steps.append((step.index, self.w.item()))

    model = Follower()
    config = TrainConfig(steps=3, learning_rate=0.5, warmup=0)
    train(model, lambda i: (), config, seed=0, device=CPU, folder=tmp_path, progress=False)
    assert [index for index, _ in model.steps] == [0, 1, 2]
    assert model.steps[0][1] == pytest.approx(-0.5) and model.steps[-1][1] == model.w.item()


# The two losses, from the networks' own outputs, in numpy.


def random_batch(size: int = 60) -> Transitions:
    rng = np.random.default_rng(3)
    images = [torch.from_numpy(rng.integers(0, 256, (size, 3, 16, 16), np.uint8)) for _ in range(4)]
    actions = torch.from_numpy(rng.normal(1, 2, (size, 3)).astype(np.float32))
    return Transitions(images[0], images[1], actions, images[2], torch.from_numpy(rng.random(size) < 0.4), images[3])


def shaken(kind: type, config: OfflineConfig):
    """A module whose target network differs from the online one, and whose estimates spread."""
    with torch_stream(0, "init", "test"):
        model = kind(config, 16, 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.split(".")[0] in ("value", "critic", "target"):
                    parameter += 0.1 * torch.randn_like(parameter)
    model.action_scale.fit(np.float32([1]), np.float32([2]))
    return model


def policy_loss(model, batch: Transitions, advantage: np.ndarray) -> float:
    actions = (batch.actions.numpy() - 1) / 2
    error = ((model(batch.frames, batch.policy_goals).numpy() - actions) ** 2).mean(1)
    return float(np.mean(np.minimum(np.exp(model.config.inverse_temperature * advantage), 100) * error))


STEP = Step(0, 10, torch.Generator(), False)


@torch.no_grad()
def test_the_loss_of_gcivl_in_numpy() -> None:
    config = OfflineConfig(**SIZES, frame_skip=3, discount=0.9, expectile=0.8, inverse_temperature=2)
    model, batch = shaken(GCIVL, config), random_batch()
    loss, parts = model.loss(batch, STEP)
    now, after = (model.pair(f, batch.value_goals) for f in (batch.frames, batch.following))
    V, T, T_after = model.value(now).numpy(), model.target(now).numpy(), model.target(after).numpy()
    goal = batch.at_goal.numpy()
    expected, split = 0.0, 0
    for b in range(60):
        y = [0.0 if goal[b] else -1 + 0.9**3 * T_after[k, b] for k in range(2)]
        mean = (T[0, b] + T[1, b]) / 2
        weight = 0.8 if min(y) >= mean else 0.2
        split += min(y) < mean <= max(y)
        expected += weight * ((y[0] - V[0, b]) ** 2 + (y[1] - V[1, b]) ** 2) / 60
    assert parts["critic"].item() == pytest.approx(expected, rel=1e-4)
    assert split, "the estimates disagree somewhere, or the lower one could not be told from the other"
    now, after = (model.pair(f, batch.policy_goals) for f in (batch.frames, batch.following))
    advantage = model.value(after).numpy().mean(0) - model.value(now).numpy().mean(0)
    assert loss.item() == pytest.approx(expected + policy_loss(model, batch, advantage), rel=1e-4)


@torch.no_grad()
def test_the_loss_of_gciql_in_numpy() -> None:
    config = GCIQLConfig(**SIZES, frame_skip=3, discount=0.9, expectile=0.8)
    model, batch = shaken(GCIQL, config), random_batch()
    loss, parts = model.loss(batch, STEP)
    actions = (batch.actions - 1) / 2
    now, after = (model.pair(f, batch.value_goals) for f in (batch.frames, batch.following))
    V, V_after = model.value(now).numpy()[0], model.value(after).numpy()[0]
    Q, T = model.critic(now, actions).numpy(), model.target(now, actions).numpy()
    values = critics = 0.0
    for b in range(60):
        y = 0.0 if batch.at_goal[b] else -1 + 0.9**3 * V_after[b]
        critics += ((y - Q[0, b]) ** 2 + (y - Q[1, b]) ** 2) / 60
        error = min(T[0, b], T[1, b]) - V[b]
        values += (0.8 if error > 0 else 0.2) * error**2 / 60
    assert parts["critic"].item() == pytest.approx(critics, rel=1e-4)
    assert parts["value_loss"].item() == pytest.approx(values, rel=1e-4)
    assert parts["value"].item() == pytest.approx(V.mean(), rel=1e-4)
    now = model.pair(batch.frames, batch.policy_goals)
    advantage = model.critic(now, actions).numpy().min(0) - model.value(now).numpy()[0]
    assert loss.item() == pytest.approx(critics + values + policy_loss(model, batch, advantage), rel=1e-4)


@pytest.mark.parametrize("kind, config", [(GCIVL, OfflineConfig(**SIZES)), (GCIQL, GCIQLConfig(**SIZES))])
def test_gradients_go_where_they_should(kind: type, config: OfflineConfig) -> None:
    """The policy's loss trains the policy, the critics' the critics, and nothing trains the target."""
    config = config.model_copy(update={"frame_skip": 3})
    model, batch = shaken(kind, config), random_batch()
    critics = [p for n, p in model.named_parameters() if n.split(".")[0] in ("value", "critic")]
    policy = [*model.encoder.parameters(), *model.head.parameters()]
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in [*critics, *policy]}
    loss, parts = model.loss(batch, STEP)
    for part, trained, spared in (
        (parts["policy"], policy, critics),
        (loss - parts["policy"], critics, policy),
    ):
        gradients = torch.autograd.grad(part, [*trained, *spared], retain_graph=True, allow_unused=True)
        assert all(g is not None and g.abs().sum() > 0 for g in gradients[: len(trained)])
        # What the total holds twice cancels up to rounding; what it does not hold is None.
        assert all(g is None or g.abs().max() < 1e-4 for g in gradients[len(trained) :])


@pytest.mark.parametrize("kind, config, followed", [(GCIVL, OfflineConfig, "value"), (GCIQL, GCIQLConfig, "critic")])
@torch.no_grad()
def test_the_target_follows_the_critic_that_it_averages(kind: type, config: type, followed: str) -> None:
    model = shaken(kind, config(**SIZES, target_rate=0.3))
    before, online = (
        {k: v.clone() for k, v in m.state_dict().items()} for m in (model.target, getattr(model, followed))
    )
    model.after_step(STEP)
    for name, found in model.target.state_dict().items():
        torch.testing.assert_close(found, 0.7 * before[name] + 0.3 * online[name])
        assert torch.equal(getattr(model, followed).state_dict()[name], online[name])


# Goals.

SKIP, LENGTHS = 3, (17, 29, 8, 23, 40)


@pytest.fixture(scope="module")
def rows_setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Every frame says its row, in its middle pixel; episode 3 is not for training."""
    episodes, row = [], 0
    for steps in LENGTHS:
        frames = np.zeros((steps + 1, 16, 16, 3), np.uint8)
        frames[:, :, :, 0] = np.arange(row, row + steps + 1)[:, None, None]
        row += steps + 1
        episodes.append(Episode(frames, np.zeros((steps + 1, 1)), np.ones((steps, 1), np.float32)))
    splits = {"train": (0, 1, 2, 4), "val": (3,), "test": ()}
    data = write(tmp_path_factory.mktemp("rows"), episodes, splits)
    config = OfflineConfig(frame_skip=SKIP, discount=0.9, crop=0, max_goal_offset=10, train=TrainConfig(batch_size=200))
    return setting_of("gcivl", data, config)


def sampled(setting: Setting, batches: int = 150) -> dict[str, np.ndarray]:
    found = [relabelled_batches(setting)(i) for i in range(batches)]
    columns = {f: np.concatenate([getattr(b, f).numpy() for b in found]) for f in Transitions._fields}
    return {name: c if c.ndim < 4 else c[:, 0, 8, 8].astype(int) for name, c in columns.items()}


def test_goals_are_those_of_the_recipe(rows_setting: Setting) -> None:
    data, found = rows_setting.dataset, sampled(rows_setting)
    now, goal, wanted = found["frames"], found["value_goals"], found["policy_goals"]
    episode = np.searchsorted(data.ends, now, side="right")
    left = (data.ends[episode] - 1 - now) // SKIP
    assert set(episode) == {0, 1, 2, 4} and left.min() == 1
    assert (found["following"] == now + SKIP).all()
    assert (found["at_goal"] == (goal == now)).all()

    # The policy's: uniform from 1 to max_goal_offset steps ahead, or to the end of the episode.
    most, ahead, steps = rows_setting.config.max_goal_offset, wanted - now, data.ends[episode] - 1 - now
    assert ahead.min() == 1 and (ahead <= np.minimum(steps, most)).all() and steps.max() > most
    for end in (4, 9, steps.max()):
        reach, chosen = min(end, most), steps == end
        expected = np.full(reach, 1 / reach)
        share = np.bincount(ahead[chosen], minlength=reach + 1)[1:] / chosen.sum()
        np.testing.assert_allclose(share, expected, atol=4 * np.sqrt(expected.max() / chosen.sum()))

    # The values': 0.2 now, 0.5 geometric, 0.3 anywhere; the last two meet by chance, which the counts know.
    rows, gamma = data.rows("train"), 0.9**SKIP
    assert set(goal) == set(rows)
    n, anywhere = len(now), 0.3 / len(rows)
    assert found["at_goal"].mean() == pytest.approx(0.2 + anywhere, abs=0.01)
    for blocks in (2, 5, 9):
        chosen = left == blocks
        for k in range(1, blocks + 1):
            geometric = (1 - gamma) * gamma ** (k - 1) if k < blocks else gamma ** (k - 1)  # the end takes the tail
            share = (goal[chosen] == now[chosen] + k * SKIP).mean()
            assert share == pytest.approx(0.5 * geometric + anywhere, abs=4 * np.sqrt(0.25 / chosen.sum()))
    elsewhere = ~np.isin(goal - now, SKIP * np.arange(20)) | (goal >= data.ends[episode])
    assert elsewhere.mean() == pytest.approx(0.3 * (1 - (1 + left.mean()) / len(rows)), abs=4 * np.sqrt(0.21 / n))


@pytest.mark.parametrize("current, future", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_each_kind_of_value_goal_alone(rows_setting: Setting, current: float, future: float) -> None:
    config = rows_setting.config.model_copy(update={"current_goals": current, "future_goals": future})
    found = sampled(setting_of("gcivl", rows_setting.dataset, config), 5)
    ends, now, goal = rows_setting.dataset.ends, found["frames"], found["value_goals"]
    same = np.searchsorted(ends, now, side="right") == np.searchsorted(ends, goal, side="right")
    if current:
        assert found["at_goal"].all()
    elif future:
        assert same.all() and (goal > now).all()
    else:
        assert not same.all() and (goal < now).any()


def test_goal_shares_are_of_one_whole() -> None:
    with pytest.raises(ValidationError, match=r"are shares of one whole, got 0\.6 and 0\.5"):
        OfflineConfig(current_goals=0.6)
    OfflineConfig(current_goals=0.7, future_goals=0.3)


def test_batches_depend_on_seed_and_step_alone(rows_setting: Setting) -> None:
    batch = relabelled_batches(rows_setting)
    first = batch(3)
    batch(4)
    for a, b in zip(first, relabelled_batches(rows_setting)(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.frames, batch(4).frames)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    """The same window for all images of one transition, any of 7 x 7."""
    images = [np.random.default_rng(i).integers(0, 256, (300, 16, 16, 3), np.uint8) for i in range(2)]
    cropped = offline.shifted(images, offline.random_shifts(stream(0, "test"), len(images[0])))
    padded = [np.pad(i, ((0, 0), (3, 3), (3, 3), (0, 0)), "edge") for i in images]
    windows = set()
    for b in range(300):
        fits = {
            (y, x)
            for y in range(7)
            for x in range(7)
            if all((p[b, y : y + 16, x : x + 16] == c[b]).all() for p, c in zip(padded, cropped, strict=True))
        }
        assert len(fits) == 1
        windows |= fits
    assert len(windows) > 40


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_batches_is_cropped(rows_setting: Setting, share: float, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(offline, "shifted", lambda images, shifts: calls.append(1) or images)
    config = rows_setting.config.model_copy(update={"crop": share, "train": TrainConfig(batch_size=2)})
    batch = relabelled_batches(setting_of("gcivl", rows_setting.dataset, config))
    for i in range(200):
        batch(i)
    assert len(calls) / 200 == pytest.approx(share, abs=0.1)


# The ring.


def learner(name: str, folder: Path, directions: tuple[int, ...], **changes) -> Setting:
    """A short training on the ring; Q takes longer, since each of its targets goes through two networks."""
    steps = {"gcivl": 350, "gciql": 600}[name]
    numbers = {
        "discount": GAMMA,
        "frame_skip": 1,
        "crop": 0.0,
        "target_rate": 0.1,
        "current_goals": 0.3,  # no goals from other episodes: a goal is a row, not a position
        "future_goals": 0.7,
        "train": {"steps": steps, "batch_size": 64, "learning_rate": 3e-3, "warmup": 0.1, "save_every": 1000},
    }
    config = FAMILIES[name].configure({**SIZES, **numbers, **changes}, None)
    return setting_of(name, ring(folder / "data", directions), config)


def trained(setting: Setting, folder: Path):
    family = FAMILIES[setting.agent]
    family.train(setting, folder)
    return family.load(setting, folder)


@pytest.mark.parametrize("name", ON_THE_RING)
def test_values_become_discounted_distances(tmp_path: Path, name: str) -> None:
    """One direction only, so every distance is known: V(s, g) = -(1 - discount^d) / (1 - discount)."""
    model = trained(learner(name, tmp_path, (1,)), tmp_path / name).agent.model
    frames, goals = all_pairs()
    distance = ((np.arange(N) - np.arange(N)[:, None]) % N).flatten()
    expected = -(1 - GAMMA**distance) / (1 - GAMMA)
    with torch.no_grad():
        values = model.value(model.pair(frames, goals)).numpy()
    assert values.shape == (1 if name == "gciql" else 2, N * N)
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=0.6)
    assert np.abs(values - expected).mean() < 0.15


def actions_on_the_ring(agent) -> np.ndarray:
    """(N, N) action from each position to each goal."""
    frames, goals = all_pairs()
    states = np.zeros((N * N, 1))
    controller = agent.start(Goals(goals, states), [])
    actions = controller.search(controller.encode(Past(frames[:, None], torch.zeros(N * N, 0, 1), states)))
    assert actions.shape == (N * N, 1, 1)
    return actions.reshape(N, N)


def by_distance(actions: np.ndarray) -> np.ndarray:
    """(N,) mean action to the goal d positions to the right."""
    return np.array([np.mean([actions[s, (s + d) % N] for s in range(N)]) for d in range(N)])


@pytest.mark.slow
def test_without_advantages_the_policy_clones(tmp_path: Path) -> None:
    """Half of the episodes go left: a goal d to the right lies on the way of both, which meet it with known chances."""
    agent = trained(learner("gcivl", tmp_path, (1, -1), inverse_temperature=0), tmp_path / "model").agent
    chance = np.array([0] + [sum(1 / left for left in range(k, N)) for k in range(1, N)])
    expected = [(chance[d] - chance[N - d]) / (chance[d] + chance[N - d]) for d in range(1, N)]
    np.testing.assert_allclose(by_distance(actions_on_the_ring(agent))[1:], expected, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_policy_takes_the_shorter_way(tmp_path: Path, name: str) -> None:
    """Three to the right cloning goes right by 0.36 only (the test above); the way back is five."""
    actions = actions_on_the_ring(trained(learner(name, tmp_path, (1, -1)), tmp_path / "model").agent)
    for d in (1, 2, 3):
        assert np.mean([actions[s, (s + d) % N] for s in range(N)]) > 0.7, d
        assert np.mean([actions[s, (s - d) % N] for s in range(N)]) < -0.7, d


# Training.


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_training_ends_the_same_and_so_does_its_target(tmp_path: Path, name: str) -> None:
    schedule = {"steps": 9, "batch_size": 8, "learning_rate": 1e-3, "save_every": 4}
    setting, family = learner(name, tmp_path, (1,), train=schedule), FAMILIES[name]
    whole = trained(setting, tmp_path / "whole").agent.model
    assert not torch.equal(next(whole.target.parameters()), next(whole.value.parameters()))

    def dying(setting: Setting):
        def batch(index: int):
            if index == 6:
                raise Killed
            return batches(index)

        batches = relabelled_batches(setting)
        return batch

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(offline, "relabelled_batches", dying)
        family.train(setting, tmp_path / "killed")
    assert (tmp_path / "killed" / ".state").is_dir()
    resumed = trained(setting, tmp_path / "killed").agent.model
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_that_act(tmp_path: Path, name: str) -> None:
    setting = learner(name, tmp_path, (1,))
    loaded = FAMILIES[name].load(setting, None)
    model = loaded.agent.model
    frames, goals = all_pairs()
    for parameter in model.requires_grad_(True).parameters():
        parameter.grad = None
    model(frames, goals).sum().backward()
    assert loaded.parameters == sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert loaded.parameters < sum(p.numel() for p in model.parameters()) / 2


@pytest.mark.parametrize("name", ["gcbc", "gcivl", "gciql"])
def test_all_policies_learn_to_go_to_the_same_goals(rows_setting: Setting, name: str) -> None:
    """How far ahead goals lie, by how far the episode goes on: the same shares for each policy."""
    family = agent_family(name)
    setting = replace(
        rows_setting,
        agent=name,
        config=family.Config(**rows_setting.config.model_dump(include={"frame_skip", "max_goal_offset", "train"})),
    )
    found = [family.batches(setting)(i) for i in range(60)]
    frames, goals = ([b[0] for b in found], [b[1 if name == "gcbc" else 5] for b in found])
    now, goal = (torch.cat(each)[:, 0, 8, 8].numpy().astype(int) for each in (frames, goals))
    far = rows_setting.dataset.ends[np.searchsorted(rows_setting.dataset.ends, now, side="right")] - 1 - now > 10
    ahead = np.bincount((goal - now)[far], minlength=12) / far.sum()
    assert ahead[0] == ahead[11] == 0 and len(ahead) == 12
    np.testing.assert_allclose(ahead[1:11], 0.1, atol=4 * np.sqrt(0.09 / far.sum()))


@pytest.mark.parametrize(("kind", "config"), [(GCIVL, OfflineConfig), (GCIQL, GCIQLConfig)])
def test_the_mean_action_is_weighed_as_the_policy_is(kind: type, config: type) -> None:
    """A policy that answers the mean action everywhere has its error, whatever the weights are."""
    model, batch = shaken(kind, config(**SIZES, frame_skip=3, inverse_temperature=2)), random_batch()
    with torch.no_grad():
        model.head[-1].weight.zero_()
        model.head[-1].bias.zero_()
    _, parts = model.loss(batch, STEP)
    assert parts["mean_action"].item() == pytest.approx(parts["policy"].item())
    assert parts["mean_action"].item() != pytest.approx(parts["action_error"].item(), rel=0.01)
