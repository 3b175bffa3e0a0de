from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from pydantic import ValidationError
from toy_env import TOY_ID, ToyEnv, make_toy

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data import collect as collecting
from lewm_bench.data import estimate
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.data.sac_exploration import SACPolicyConfig, train_sac_policy
from lewm_bench.run.environments import make_env
from lewm_bench.run.reproduction import disagreement
from lewm_bench.system import pool
from lewm_bench.system.store import Store


def config(**changes) -> CollectConfig:
    return CollectConfig(**{"episodes": 20, "steps": 9, "policies": {"jitter": 0.25, "drift": 0.75}, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


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


def test_code_that_writes_into_its_arguments_changes_no_byte(tmp_path: Path) -> None:
    """The functions of an environment and its policies; states and actions are stored as they were."""

    class Scribbler(ToyEnv):
        def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
            found = super().simulate(states, actions)
            states[...] = actions[...] = 0.5
            return found

        def render_states(self, states: np.ndarray) -> np.ndarray:
            found = super().render_states(states)
            states[...] = 0.5
            return found

        def policies(self):
            def scribbling(factory):
                def start(rngs):
                    inner = factory(rngs)

                    def act(states):
                        found = inner(states)
                        states[...] = 0.5
                        return found

                    return act

                return start

            return {name: scribbling(factory) for name, factory in super().policies().items()}

    env = Scribbler()
    env.spec = make_toy().spec
    collect(make_toy(), config(), 0, tmp_path / "decent", progress=False)
    collect(env, config(), 0, tmp_path / "scribbler", progress=False)
    assert digests(tmp_path / "decent") == digests(tmp_path / "scribbler")


def test_the_chunk_size_changes_no_byte(tmp_path: Path) -> None:
    for chunk in (7, 64):
        collect(make_toy(), config(chunk=chunk), 0, tmp_path / str(chunk), progress=False)
    assert digests(tmp_path / "7") == digests(tmp_path / "64")


class Ending(ToyEnv):
    """Over right of the middle, where nothing moves any more; a step there would be an error."""

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        return np.minimum(super().sample_state(rng), 0.3)

    def over(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states)[..., 0] > 0.3

    def simulate(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        assert not self.over(states).any()
        return super().simulate(states, actions)


def ending(**kwargs) -> Ending:
    if "tests/Ending-v0" not in gym.registry:
        gym.register("tests/Ending-v0", entry_point=f"{__name__}:Ending")
    return gym.make("tests/Ending-v0", **kwargs).unwrapped


def test_an_episode_ends_where_it_is_over(tmp_path: Path) -> None:
    env = ending(speed=0.4)
    dataset = collect(env, config(), 0, tmp_path, progress=False)
    assert len(set(dataset.lengths)) > 1 and dataset.lengths.min() >= 2
    for episode in dataset:
        ended = env.over(episode.states)
        assert len(episode.frames) == len(episode.actions) + 1 == len(ended)
        assert not ended[:-1].any() and (ended[-1] or len(ended) == 10)
        for state, action, after in zip(episode.states, episode.actions, episode.states[1:], strict=False):
            np.testing.assert_array_equal(ToyEnv.simulate(env, state[None], action[None, None])[0, 0], after)
    whole = collect(make_toy(speed=0.4), config(), 0, tmp_path / "whole", progress=False)
    assert len(dataset) == len(whole) and len(dataset.frames) < len(whole.frames)


def test_episodes_of_different_lengths_do_not_depend_on_the_chunk_or_the_processes(tmp_path: Path, pools) -> None:
    for chunk, workers in ((64, 1), (3, 1), (5, 2)):
        folder = tmp_path / f"{chunk}-{workers}"
        collect(ending(speed=0.4), config(chunk=chunk), 0, folder, progress=False, workers=workers)
        assert digests(folder) == digests(tmp_path / "64-1")
    assert len(pools) == 1


def test_an_episode_that_is_over_before_it_begins_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Ending, "sample_state", ToyEnv.sample_state)
    with pytest.raises(UserError, match=r"tests/Ending-v0 begins an episode in a state that is over"):
        collect(ending(), config(), 0, tmp_path, progress=False)


def test_an_environment_must_name_policies_that_there_are(tmp_path: Path, monkeypatch) -> None:
    for exploration, message in (
        ({}, r"ToyEnv.exploration: .*add up to 1.*known: jitter, drift, still, sac"),
        ({"jiter": 1.0}, r"no policy of ToyEnv.exploration named 'jiter'.*did you mean 'jitter'"),
        ({"jitter": 0.4}, r"ToyEnv.exploration: .*add up to 1, got"),
    ):
        monkeypatch.setattr(ToyEnv, "exploration", exploration)
        with pytest.raises(UserError, match=message):
            collect(make_toy(), config(policies={}), 0, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


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


# Several processes.

MAZE = "lewm_bench/PointMaze-UMaze-v0"
FRAGILE_ID = "tests/Fragile-v0"


class Fragile(ToyEnv):
    """Breaks in a process that another one has started, while it is made or while it acts."""

    def __init__(self, fault: str = "", when: str = "act", image_size: int = 16) -> None:
        super().__init__(image_size)
        self.fault, self.when = fault, when
        self._break("make")

    def sample_state(self, rng: np.random.Generator) -> np.ndarray:
        self._break("act")
        return super().sample_state(rng)

    def _break(self, moment: str) -> None:
        if multiprocessing.parent_process() is None or moment != self.when:
            return
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"user": UserError, "not run": NotRun, "bug": ZeroDivisionError}[self.fault](f"because of {self.fault}")


def fragile(**kwargs: str) -> Fragile:
    if FRAGILE_ID not in gym.registry:
        gym.register(FRAGILE_ID, entry_point=f"{__name__}:Fragile")  # by name, so that a process can import it
    return gym.make(FRAGILE_ID, **kwargs).unwrapped


def small(**changes) -> CollectConfig:
    return CollectConfig(**{"episodes": 13, "steps": 6, "chunk": 2, **changes})


@pytest.fixture()
def pools(monkeypatch: pytest.MonkeyPatch) -> list[list]:
    """Processes are worth it whatever they cost; for each pool that is started, the parts that it was given."""
    started: list[list] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, *arguments, **kwargs) -> None:
            super().__init__(*arguments, **kwargs)
            self.given: list = []
            started.append(self.given)

        def submit(self, function, part):
            self.given.append(part.numbers)
            return super().submit(function, part)

    monkeypatch.setattr(collecting, "_WORTH_PROCESSES", 0.0)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", Pool)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset of ``small()`` in the maze, by one process in one piece."""
    return collect(make_env(MAZE, 16), small(chunk=64), 5, tmp_path_factory.mktemp("whole"), progress=False)


def test_two_processes_change_no_byte(tmp_path: Path, pools, whole: Dataset) -> None:
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "2.npy").write_bytes(b"left by a killed process")
    done: list[int] = []
    dataset = collect(make_env(MAZE, 16), small(), 5, tmp_path, lambda n, _: done.append(n), workers=2)
    # The first part is rolled here; more parts than are ever waiting, so that the window moves.
    assert pools == [[(2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12,)]]
    assert digests(tmp_path) == digests(whole.folder)
    assert dataset.fingerprint == whole.fingerprint and dataset.meta == whole.meta
    assert done == list(range(1, 14))
    dataset.verify()


@pytest.mark.slow
@pytest.mark.parametrize("workers_after", [1, 2])
def test_processes_that_are_interrupted_go_on_and_end_the_same(tmp_path, pools, whole, workers_after: int) -> None:
    def kill(done: int, total: int) -> None:
        if done == 6:
            raise Killed

    with pytest.raises(Killed):
        collect(make_env(MAZE, 16), small(), 5, tmp_path, kill, workers=2)
    with pytest.raises(UserError, match="not a complete dataset"):
        Dataset.open(tmp_path)
    collected: list[int] = []
    collect(make_env(MAZE, 16), small(), 5, tmp_path, lambda n, _: collected.append(n), workers=workers_after)
    assert collected == list(range(5, 14))  # two parts of 2 were complete
    assert len(pools) == workers_after
    assert digests(tmp_path) == digests(whole.folder)


@pytest.mark.parametrize(
    "fault, when, error",
    [
        ("user", "make", UserError),
        ("bug", "act", ZeroDivisionError),
        pytest.param("user", "act", UserError, marks=pytest.mark.slow),
        pytest.param("not run", "make", NotRun, marks=pytest.mark.slow),
    ],
)
def test_an_error_inside_a_process_arrives_as_itself(tmp_path: Path, pools, fault, when, error) -> None:
    env = fragile(fault=fault, when=when)
    with pytest.raises(error, match=f"^because of {fault}$") as raised:
        collect(env, config(chunk=4), 0, tmp_path, progress=False, workers=2)
    assert type(raised.value) is error and len(pools) == 1
    assert not (tmp_path / "meta.json").exists()


@pytest.mark.parametrize("when", [pytest.param("make", marks=pytest.mark.slow), "act"])
def test_a_process_that_is_killed_is_said_to_lack_memory_and_costs_nothing_that_was_done(tmp_path, pools, when) -> None:
    env = fragile(fault="kill", when=when)
    with pytest.raises(UserError, match=r"memory.*the same command goes on.*--set collect\.chunk=1") as raised:
        collect(env, config(chunk=4), 0, tmp_path / "killed", progress=False, workers=2)
    assert "\n" not in str(raised.value)
    collected: list[int] = []
    collect(env, config(chunk=1), 0, tmp_path / "killed", lambda n, _: collected.append(n), workers=1)
    assert collected == list(range(5, 21))  # the first part was rolled in this process
    collect(env, config(), 0, tmp_path / "whole", progress=False)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_an_environment_that_only_this_process_knows_is_collected_here(tmp_path: Path, pools) -> None:
    for workers in (1, 2):
        collect(make_toy(), config(chunk=4), 0, tmp_path / str(workers), progress=False, workers=workers)
    assert make_toy().spec.entry_point is ToyEnv and pools == []
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_what_takes_a_moment_is_not_worth_processes(tmp_path: Path, pools, monkeypatch, whole: Dataset) -> None:
    monkeypatch.setattr(collecting, "_WORTH_PROCESSES", 1e6)
    collect(make_env(MAZE, 16), small(), 5, tmp_path, progress=False, workers=2)
    assert pools == [] and digests(tmp_path) == digests(whole.folder)


@pytest.mark.slow
def test_processes_find_the_learned_policy(tmp_path: Path, pools) -> None:
    env = make_env(MAZE, 16)
    sac = SACPolicyConfig(steps=100, warmup=50, hidden=(8,), batch_size=8)
    train_sac_policy(env, sac, 0, tmp_path / "policy", progress=False)
    mixed = small(episodes=6, sac=sac, policies={"sac": 0.5, "uniform": 0.5})
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        dataset = collect(env, mixed, 5, folder, progress=False, workers=workers, learned=tmp_path / "policy")
    assert sorted(dataset.meta.policies) == ["sac"] * 3 + ["uniform"] * 3 and len(pools) == 1
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


# Memory.


@pytest.mark.parametrize(
    "room, sizes", [(3.5, [3, 3, 3, 3, 1]), (0.1, [1] * 13), (2.0, [2] * 6 + [1]), (99, [5, 5, 3])]
)
def test_frames_beyond_the_memory_wait_for_the_next_part(tmp_path, monkeypatch, whole, room, sizes) -> None:
    """``room`` is in episodes: 7 frames of 16 x 16 x 3 bytes each."""
    rolled: list[int] = []
    real = collecting._roll

    def roll(env, steps, factories, part):
        rolled.append(len(part.numbers))
        return real(env, steps, factories, part)

    monkeypatch.setattr(collecting, "_roll", roll)
    monkeypatch.setattr(collecting, "_CHUNK_BYTES", int(room * 7 * 16 * 16 * 3))
    collect(make_env(MAZE, 16), small(chunk=5), 5, tmp_path, progress=False)
    assert rolled == sizes
    assert digests(tmp_path) == digests(whole.folder)


def test_frames_are_drawn_one_episode_at_a_time(monkeypatch) -> None:
    """They are what takes memory; the states of a part are there at once."""
    env, drawn = make_toy(), []
    real = env.render_states
    monkeypatch.setattr(env, "render_states", lambda states: drawn.append(len(states)) or real(states))
    part = collecting.Part((0, 1, 2), ("jitter", "drift", "jitter"), 0)
    episodes = collecting._roll(env, 9, env.policies(), part)
    for number in range(3):
        assert len(drawn) == number
        assert next(episodes).frames.shape == (10, 16, 16, 3)


def test_episodes_pass_from_process_to_process_through_files_one_by_one(tmp_path: Path) -> None:
    env = make_toy()
    part = collecting.Part((0, 1, 2), ("jitter", "drift", "jitter"), 0)
    collecting._save(tmp_path / "0.npy", collecting._roll(env, 9, env.policies(), part))
    loaded = collecting._load(tmp_path / "0.npy")
    for number, episode in enumerate(collecting._roll(env, 9, env.policies(), part)):
        other = next(loaded)
        for name in ("frames", "states", "actions"):
            mine, theirs = getattr(episode, name), getattr(other, name)
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs), (number, name)
    assert list(loaded) == [] and list(tmp_path.iterdir()) == []


# The learned policy's settings.


def test_the_settings_of_the_learned_policy_are_part_of_the_data_that_it_collects_only() -> None:
    changed = SACPolicyConfig(noise=0.5)
    assert config().recipe() == config(sac=changed, chunk=3).recipe()
    with_sac = {"sac": 1.0}
    assert config(policies=with_sac).recipe() != config(policies=with_sac, sac=changed).recipe()
    assert config(policies=with_sac).recipe() == config(policies=with_sac, chunk=3).recipe()


def test_a_dataset_whose_policy_is_not_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no policy named 'sac'"):
        collect(make_env(MAZE, 16), small(policies={"sac": 1.0}), 0, tmp_path, progress=False)


# Room.


def test_what_a_large_collection_takes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    collect(make_toy(), config(), 0, tmp_path / "small", progress=False, say=said.append)
    assert said == []
    monkeypatch.setattr(estimate, "WORTH_BYTES", 0)
    dataset = collect(make_toy(), config(chunk=4), 0, tmp_path / "large", progress=False, say=said.append)
    (line,) = said
    assert line.startswith(f"{len(dataset) - 4} episodes to collect take about ") and "MB and" in line


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil._ntuple_diskusage(0, 0, estimate.SPARE + 1000)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: free)
    done: list[int] = []
    with pytest.raises(
        UserError, match=r"episodes to collect take about .* free; \d+ would fit \(--set collect.episodes="
    ):
        collect(make_toy(), config(chunk=4), 0, tmp_path, lambda number, total: done.append(number))
    assert done == [1, 2, 3, 4]
    monkeypatch.undo()
    collect(make_toy(), config(), 0, tmp_path, lambda number, total: done.append(number))
    assert done == list(range(1, done[-1] + 1))  # what was there is not collected again


def test_what_needs_no_more_room_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 1000))
    assert len(collect(make_toy(), config(chunk=64), 0, tmp_path, progress=False)) == config().episodes


def test_estimates_are_sums() -> None:
    left = estimate.Estimate(done=4, left=20_000, bytes_each=1.5e6, seconds_each=0.5)
    assert str(left) == "20000 episodes to collect take about 30.0 GB and 2.8 hours" and left.worth_a_line
    assert not estimate.Estimate(4, 100, 1e6, 0.5).worth_a_line
    assert estimate.Estimate(4, 100, 1e6, 0.7).worth_a_line and estimate.Estimate(4, 10, 2e8, 0).worth_a_line


def test_a_process_that_collects_does_not_import_torch() -> None:
    """It is 150 MiB of each, and seconds before the first episode."""
    program = "import sys, lewm_bench.data.collect, lewm_bench.envs.tworoom; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


# Several worlds.


def test_training_episodes_are_drawn_from_several_worlds(tmp_path):
    env = make_toy()
    factors = ["delay", "colour", "stale_frames"]
    config = CollectConfig(episodes=40, steps=6, policies={"jitter": 1.0}, factors=factors)
    data = collect(env, config, 0, tmp_path / "a", progress=False)
    worlds = [tuple(world) for world in data.meta.recipe["worlds"]]
    varied = {n for n, world in enumerate(worlds) if world != ("", 0)}
    assert varied < set(data.splits["train"]) and len(varied) > 15
    assert {name for name, _ in worlds} == {"", *factors} and {level for _, level in worlds} == {0, 1, 2, 3}
    for n, world in enumerate(worlds):
        episode, there = data[n], env if world == ("", 0) else env.shifted(*world)
        after = there.simulate(there.lift(episode.states[:1]), episode.actions[None])[0]
        assert np.array_equal(there.lower(after), episode.states[1:])
        assert np.array_equal(there.render_states(after), episode.frames[1:])
    small = config.model_copy(update={"chunk": 3})
    assert collect(env, small, 0, tmp_path / "b", progress=False).fingerprint == data.fingerprint
    assert disagreement(env, data) == ""
    other = make_toy(speed=0.2)
    assert "off by" in disagreement(other, data)


def test_the_worlds_of_a_collection_are_named():
    assert "factors" not in CollectConfig().recipe()
    assert CollectConfig(factors={"delay": [1]}).recipe()["factors"] == {"delay": [1]}
    assert CollectConfig(factors=["delay"]).factors == {"delay": (0, 1, 2, 3)}
    with pytest.raises(ValueError, match="delay has levels of 0, 1, 2, 3"):
        CollectConfig(factors={"delay": [4]})


def test_a_world_that_there_is_not_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match="no factor of ToyEnv named 'gravity'"):
        config = CollectConfig(episodes=4, policies={"jitter": 1.0}, factors=["gravity"])
        collect(make_toy(), config, 0, tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
