from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from toy_env import TOY_ID, ToyEnv, make_toy

from lewm_bench.collect import CollectConfig, collect
from lewm_bench.data import Dataset
from lewm_bench.errors import UserError
from lewm_bench.store import Store


def config(**changes) -> CollectConfig:
    return CollectConfig(**{"episodes": 20, "steps": 9, "policies": {"jitter": 0.25, "drift": 0.75}, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_what_is_stored_is_what_happened(tmp_path: Path) -> None:
    """Replay every episode one step at a time through the environment's own step."""
    env = make_toy()
    dataset = collect(env, config(), 3, tmp_path, progress=False)
    replay = make_toy()
    for episode in dataset:
        assert len(episode.actions) == 9 and np.abs(episode.actions).max() <= 1
        frame, info = replay.reset(options={"start": episode.states[0], "goal": episode.states[0]})
        np.testing.assert_array_equal(frame, episode.frames[0])
        for t, action in enumerate(episode.actions):
            frame, _, _, _, info = replay.step(action)
            np.testing.assert_array_equal(frame, episode.frames[t + 1])
            np.testing.assert_array_equal(info["state"], episode.states[t + 1])
    meta = dataset.meta
    assert (meta.env, meta.seed, meta.action_low, meta.action_high) == (TOY_ID, 3, (-1, -1), (1, 1))
    assert sorted(meta.policies) == ["drift"] * 15 + ["jitter"] * 5
    assert {name: len(split) for name, split in meta.splits.items()} == {"train": 15, "val": 2, "test": 3}


def test_the_chunk_size_changes_no_byte(tmp_path: Path) -> None:
    for chunk in (7, 64):
        collect(make_toy(), config(chunk=chunk), 0, tmp_path / str(chunk), progress=False)
    assert digests(tmp_path / "7") == digests(tmp_path / "64")


def test_the_seed_changes_everything(tmp_path: Path) -> None:
    a, b = (collect(make_toy(), config(), seed, tmp_path / str(seed), progress=False) for seed in (0, 1))
    assert not np.intersect1d(a.states[a.starts, 0], b.states[b.starts, 0]).size
    assert a.splits != b.splits and a.meta.policies != b.meta.policies and a.fingerprint != b.fingerprint


def test_episodes_differ_from_each_other(tmp_path: Path) -> None:
    dataset = collect(make_toy(), config(), 0, tmp_path, progress=False)
    assert len(np.unique(dataset.states[dataset.starts, 0])) == len(dataset)
    assert len(np.unique(dataset.actions[dataset.starts, 0].round(5))) > len(dataset) / 2  # some are clipped


class Killed(Exception):
    pass


@pytest.mark.parametrize("chunk_after", [4, 64])
def test_a_killed_collection_goes_on_and_ends_the_same(tmp_path: Path, chunk_after: int) -> None:
    def kill(done: int, total: int) -> None:
        if done == 10:
            raise Killed

    with pytest.raises(Killed):
        collect(make_toy(), config(chunk=4), 0, tmp_path / "killed", progress=kill)
    with pytest.raises(UserError, match="not a complete dataset"):
        Dataset.open(tmp_path / "killed")
    collected = []
    collect(make_toy(), config(chunk=chunk_after), 0, tmp_path / "killed", lambda done, total: collected.append(done))
    assert collected == list(range(9, 21))  # two chunks of 4 were complete
    collect(make_toy(), config(), 0, tmp_path / "whole", progress=False)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_a_process_killed_inside_a_stage_is_taken_up_by_the_next(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    def stage(progress) -> Path:
        return Store(tmp_path).stage("data", {}, lambda work: collect(make_toy(), config(chunk=4), 0, work, progress))

    process = multiprocessing.get_context("fork").Process(target=stage, args=(kill,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    collected = []
    folder = stage(lambda done, total: collected.append(done))
    assert collected == list(range(9, 21))
    collect(make_toy(), config(), 0, tmp_path / "whole", progress=False)
    assert {k: v for k, v in digests(folder).items() if k != "done.json"} == digests(tmp_path / "whole")


def test_a_killed_collection_of_another_seed_is_not_taken_up(tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == 10:
            raise Killed

    with pytest.raises(Killed):
        collect(make_toy(), config(chunk=4), 1, tmp_path / "killed", progress=kill)
    collect(make_toy(), config(), 0, tmp_path / "killed", progress=False)
    collect(make_toy(), config(), 0, tmp_path / "whole", progress=False)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_a_complete_dataset_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError("collected again")

    first = collect(make_toy(speed=0.2), config(), 0, tmp_path, progress=False)
    again = collect(make_toy(speed=0.2), config(chunk=3), 0, tmp_path, progress=never)
    assert again.fingerprint == first.fingerprint
    for env, changed, seed in [(make_toy(), config(), 0), (make_toy(speed=0.2), config(steps=8), 0)]:
        with pytest.raises(UserError, match="already holds a dataset"):
            collect(env, changed, seed, tmp_path, progress=False)


def test_progress_is_on_stderr_and_can_be_switched_off(tmp_path: Path, capsys) -> None:
    collect(make_toy(), config(), 0, tmp_path / "quiet", progress=False)
    assert capsys.readouterr() == ("", "")
    collect(make_toy(), config(), 0, tmp_path / "bar", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "20/20" in err and "frames/s" in err


def test_an_unknown_policy_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no policy named 'jiter'.*did you mean 'jitter'"):
        collect(make_toy(), config(policies={"jiter": 1.0}), 0, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": 0.9}, "add up to 1.15"),
        ({"policies": {"jitter": 0.5}}, "must add up to 1"),
        ({"policies": {"jitter": 1.5, "drift": -0.5}}, "must add up to 1"),
        ({"episodes": 0}, "greater than or equal to 1"),
        ({"epsiodes": 3}, "epsiodes"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_an_environment_without_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gymnasium\.make"):
        collect(ToyEnv(), config(), 0, tmp_path, progress=False)


def test_arguments_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stored as JSON"):
        collect(make_toy(speed=1j), config(), 0, tmp_path, progress=False)
