"""Trainings given in passes over the data."""

from __future__ import annotations

import pytest

from lewm_bench.core.config import deep_merge
from lewm_bench.core.errors import UserError
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.resolve import resolve
from lewm_bench.train.loop import TrainConfig


def resolved(*overrides: str, profile: str = "paper", agents: tuple[str, ...] = ("lewm", "gcbc")):
    return resolve(load(find_file(None)), "tworoom", profile, agents=agents, overrides=overrides)


@pytest.mark.parametrize(("epochs", "clips", "batch", "steps"), [(10, 1000, 50, 200), (0.5, 3, 2, 1), (1, 130, 64, 2)])
def test_steps_are_passes_times_clips_over_the_batch(epochs, clips, batch, steps) -> None:
    found = TrainConfig(epochs=epochs, batch_size=batch).on(clips)
    assert (found.steps, found.epochs) == (steps, None)
    assert found == TrainConfig(steps=steps, batch_size=batch)  # and so it has the same key


def test_of_steps_and_passes_the_later_is_meant() -> None:
    profile = {"train": {"epochs": 10, "precision": "bf16-mixed"}}
    assert deep_merge(profile, {"train": {"steps": 5}})["train"] == {"steps": 5, "precision": "bf16-mixed"}
    assert deep_merge({"train": {"steps": 5}}, profile)["train"] == profile["train"]
    assert deep_merge(profile, {"train": {"batch_size": 8}})["train"]["epochs"] == 10
    assert resolved().agent_config("lewm").train.epochs == 10
    assert resolved("lewm.train.steps=7").agent_config("lewm").train.epochs is None
    assert resolved("training.steps=9").agent_config("lewm").train.steps == 9
    assert resolved("training.steps=9").agent_config("lewm").train.epochs is None
    own = resolved("training.steps=9", agents=("lewm:train.epochs=2",)).agent_config("lewm:train.epochs=2").train
    assert own.epochs == 2  # a name's settings win over the common budget


def test_the_profile_gpu_has_the_papers_sizes_and_another_training() -> None:
    paper, gpu = (resolved(profile=name).agent_config("lewm") for name in ("paper", "gpu"))
    assert gpu.train.steps == 10_000 and gpu.train.epochs is None
    assert gpu.model_copy(update={"train": paper.train}) == paper


PUBLISHED = {  # episodes and steps of the papers' data, iterations of their planner
    "TwoRoom-v0": (10_000, 100, 10),
    "PushT-v0": (18_685, 125, 30),
    "Cube-v0": (10_000, 200, 10),
    "Reacher-v0": (10_000, 200, 10),
    "Wall-v0": (1920, 50, 10),
    "PointMaze-UMaze-v0": (2000, 100, 10),
}
PASSES = {"lewm": (10, 128), "dino-wm": (100, 32), "gcbc": (100, 128), "gcivl": (100, 128), "gciql": (100, 32)}


def test_the_profile_paper_collects_and_trains_as_published() -> None:
    run = resolve(load(find_file(None)), "paper", "paper", agents=tuple(PASSES))
    found = {env.id.removeprefix("lewm_bench/"): run.of(env).settings for env in run.envs}
    sizes = {name: (one.collect.episodes, one.collect.steps, one.planner.num_iterations) for name, one in found.items()}
    assert sizes == PUBLISHED
    trained = {agent: run.agent_config(agent).train for agent in PASSES}
    assert {agent: (train.epochs, train.batch_size) for agent, train in trained.items()} == PASSES


def test_who_counts_no_passes_says_so() -> None:
    from types import SimpleNamespace

    from lewm_bench.run.registry import agent_family

    with pytest.raises(UserError, match=r"sac-her counts training steps, not passes over the data; set train\.steps"):
        agent_family("sac-her").training_clips(SimpleNamespace(agent="sac-her"))
