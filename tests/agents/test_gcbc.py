"""Behavioural cloning: hindsight batches by brute force, and that it imitates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Setting
from lewm_bench.agents.gcbc import GCBC, GCBC_FAMILY, hindsight_batches
from lewm_bench.agents.parts.goal_policy import GoalPolicyAgent, GoalPolicyConfig
from lewm_bench.core.types import Goals, Past
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.system.store import Store
from lewm_bench.train.loop import Step, TrainConfig

CONFIG = GoalPolicyConfig(
    width=32,
    depth=1,
    hidden=64,
    frame_skip=3,
    max_goal_offset=7,
    train=TrainConfig(steps=250, batch_size=64, learning_rate=1e-3, warmup=0.1),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("gcbc")
    env = make_toy(size=32, speed=0.3)
    data = collect(env, CollectConfig(episodes=400, steps=15, policies={"drift": 1.0}), 0, folder / "data", False)
    return Setting(env, TOY_ID, "gcbc", data, "key", CONFIG, PlannerConfig(), 0, CPU, Store(folder))


def rows_of(frames: np.ndarray, dataset) -> list[list[int]]:
    """For each (3, h, w) frame, the rows of the dataset that look like it."""
    table: dict[bytes, list[int]] = {}
    for row, frame in enumerate(dataset.frames):
        table.setdefault(frame.tobytes(), []).append(row)
    return [table[np.ascontiguousarray(np.moveaxis(f, 0, -1)).tobytes()] for f in frames]


def test_goals_are_later_frames_of_the_same_episode(setting: Setting) -> None:
    dataset, batch = setting.dataset, hindsight_batches(setting)
    train = set(dataset.episodes("train").tolist())
    offsets, clamped = [], 0
    for index in range(20):
        frames, goals, actions = (t.numpy() for t in batch(index))
        assert frames.shape == goals.shape == (64, 3, 32, 32) and actions.shape == (64, 6)
        for now, goal, action in zip(rows_of(frames, dataset), rows_of(goals, dataset), actions, strict=True):
            start = [r for r in now if (dataset.actions[r : r + 3].reshape(-1) == action).all()]
            assert len(start) == 1, "the block is the one that the data took from there"
            episode = int(np.searchsorted(dataset.ends, start[0], side="right"))
            assert episode in train
            inside = [g - start[0] for g in goal if dataset.starts[episode] <= g < dataset.ends[episode]]
            good = [d for d in inside if 1 <= d <= 7]
            assert good
            if len(inside) == 1:
                last = start[0] + good[0] == dataset.ends[episode] - 1
                clamped += last
                offsets += [] if last else good
    assert clamped > 20  # goals beyond the end are its last frame
    share = np.bincount(offsets, minlength=8)[1:] / len(offsets)
    assert share.min() > 0.08 and share.max() < 0.22  # near uniform; the end of an episode cuts the long ones


def test_batches_depend_on_seed_and_step_alone(setting: Setting) -> None:
    batch = hindsight_batches(setting)
    first = batch(3)
    batch(4)
    for a, b in zip(first, hindsight_batches(setting)(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[2], batch(4)[2])


def test_the_loss_is_the_error_of_z_scored_actions(setting: Setting) -> None:
    torch.manual_seed(0)
    model = GCBC(CONFIG, 32, 2)
    model.action_scale.fit(np.float32([0.5, -1]), np.float32([2, 0.5]))
    frames, goals, actions = hindsight_batches(setting)(0)
    step = Step(0, 10, torch.Generator(), False)
    with torch.no_grad():
        loss, parts = model.loss((frames, goals, actions), step)
        predicted = model(frames, goals).numpy()
    wanted = (actions.numpy().reshape(64, 3, 2) - [0.5, -1]) / [2, 0.5]
    expected = ((predicted.reshape(64, 3, 2) - wanted) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and parts["action_error"] is loss


def test_the_agent_executes_one_denormalised_block(setting: Setting) -> None:
    torch.manual_seed(0)
    model = GCBC(CONFIG, 32, 2).eval()
    model.action_scale.fit(np.float32([0.5, -1]), np.float32([2, 0.5]))
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (5, 2, 3, 32, 32), dtype=torch.uint8, generator=g)
    goals = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=g)
    controller = GoalPolicyAgent(model, CONFIG, CPU).start(Goals(goals, np.zeros((5, 2))), [])
    actions = controller.search(controller.encode(Past(frames, torch.zeros(5, 1, 6), np.zeros((5, 2)))))
    with torch.no_grad():
        block = model(frames[:, -1], goals).numpy()
    np.testing.assert_allclose(actions, block.reshape(5, 3, 2) * [2, 0.5] + [0.5, -1], rtol=1e-5, atol=1e-5)


def test_it_imitates(setting: Setting, tmp_path: Path) -> None:
    """Drifting data goes to its later frames in straight lines; so must the policy, on goals it has not seen."""
    log = GCBC_FAMILY.train(setting, tmp_path)
    assert np.mean(log.columns["action_error"][-2:]) < 0.6 * log.columns["action_error"][0]
    agent = GCBC_FAMILY.load(setting, tmp_path).agent
    rng = np.random.default_rng(0)
    states = rng.uniform(-0.6, 0.6, (50, 2))
    angle = rng.uniform(0, 2 * np.pi, 50)
    directions = np.stack([np.cos(angle), np.sin(angle)], 1)

    def images(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.moveaxis(setting.env.render_states(x), -1, 1).copy())

    goals = states + 0.5 * directions
    controller = agent.start(Goals(images(goals), goals), [])
    actions = controller.search(controller.encode(Past(images(states)[:, None], torch.zeros(50, 0, 6), states)))
    along = (actions.mean(1) * directions).sum(1) / np.linalg.norm(actions.mean(1), axis=1)
    assert np.mean(along) > 0.6
