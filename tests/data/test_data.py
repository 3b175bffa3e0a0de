from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Episode
from lewm_bench.data import format as format_module
from lewm_bench.data.format import Dataset
from lewm_bench.data.splits import apportion, split_episodes
from lewm_bench.data.writer import DatasetWriter


def random_episode(rng: np.random.Generator, steps: int, action_dim: int = 2) -> Episode:
    return Episode(
        rng.integers(0, 256, (steps + 1, 5, 4, 3), dtype=np.uint8),
        rng.normal(size=(steps + 1, 3)),
        rng.normal(size=(steps, action_dim)).astype(np.float32),
    )


def write(folder: Path, episodes: list[Episode], splits: dict[str, tuple[int, ...]]) -> Dataset:
    dim = episodes[0].actions.shape[1]
    with DatasetWriter(folder) as writer:
        for n, episode in enumerate(episodes):
            writer.add(episode, f"policy{n % 2}")
        return writer.finish(
            env="tests/None-v0",
            env_kwargs={},
            action_low=-np.ones(dim),
            action_high=np.ones(dim),
            seed=0,
            splits=splits,
        )


@dataclass(frozen=True)
class Case:
    episodes: list[Episode]
    splits: dict[str, tuple[int, ...]]
    frames: int
    frame_skip: int
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = draw(st.lists(st.integers(1, 14), min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    names = [draw(st.sampled_from(["train", "val", "test", "unused"])) for _ in lengths]
    splits = {s: tuple(i for i, name in enumerate(names) if name == s) for s in ("train", "val", "test")}
    dim = draw(st.integers(1, 3))
    episodes = [random_episode(rng, n, dim) for n in lengths]
    return Case(episodes, splits, draw(st.integers(1, 4)), draw(st.integers(1, 4)), seed)


def naive_clips(case: Case, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every clip of a split, built from the episodes one number at a time, in order."""
    clips = []
    for e in case.splits[split]:
        episode = case.episodes[e]
        for start in range(len(episode.frames)):
            wanted = [start + k * case.frame_skip for k in range(case.frames)]
            if wanted[-1] >= len(episode.frames):
                break
            blocks = [
                [value for t in range(a, a + case.frame_skip) for value in episode.actions[t]] for a in wanted[:-1]
            ]
            frames = np.stack([episode.frames[t].transpose(2, 0, 1) for t in wanted])
            clips.append((frames, np.array(blocks, np.float32)))
    return clips


@settings(max_examples=60, deadline=None)
@given(cases())
def test_clips_equal_a_slow_reference_within_episode_and_split(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), case.episodes, case.splits)
        for split in case.splits:
            expected = naive_clips(case, split)
            if not expected:
                with pytest.raises(UserError, match="no clip of"):
                    dataset.clips(split, case.frames, case.frame_skip)
                continue
            clips = dataset.clips(split, case.frames, case.frame_skip)
            assert len(clips) == len(expected)
            order = np.random.default_rng(case.seed).permutation(len(clips))
            batch = clips.batch(order)
            assert batch.frames.dtype == torch.uint8 and batch.actions.dtype == torch.float32
            assert batch.frames.is_contiguous()
            dim = dataset.actions.shape[1]
            assert batch.actions.shape == (len(order), case.frames - 1, case.frame_skip * dim)
            for row, i in enumerate(order):
                np.testing.assert_array_equal(batch.frames[row].numpy(), expected[i][0])
                np.testing.assert_array_equal(batch.actions[row].numpy().ravel(), expected[i][1].ravel())


@settings(max_examples=40, deadline=None)
@given(cases())
def test_round_trip(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = write(Path(folder), case.episodes, case.splits)
        dataset = Dataset.open(Path(folder))
        assert len(dataset) == len(case.episodes) == len(list(dataset))
        for got, expected in zip(dataset, case.episodes, strict=True):
            np.testing.assert_array_equal(got.frames, expected.frames)
            np.testing.assert_array_equal(got.states, expected.states)
            np.testing.assert_array_equal(got.actions, expected.actions)
        assert dataset.splits == case.splits
        assert dataset.fingerprint == written.fingerprint
        assert dataset.meta.policies == tuple(f"policy{n % 2}" for n in range(len(case.episodes)))
        dataset.verify()


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 8))
def test_rows_with_room_equal_a_slow_reference(case: Case, spare: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), case.episodes, case.splits)
        first = np.cumsum([0, *(len(e.frames) for e in case.episodes)])
        for split, episodes in {**case.splits, "all": range(len(case.episodes))}.items():
            lengths = {e: len(case.episodes[e].frames) for e in episodes}
            expected = [first[e] + t for e, length in lengths.items() for t in range(length) if t + spare < length]
            assert dataset.rows(split, spare).tolist() == expected


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, steps) for steps in (7, 12, 9, 5)]
    return write(tmp_path / "data", episodes, {"train": (0, 3), "val": (1,), "test": (2,)})


def test_samples_are_reproducible_and_cover_every_clip(dataset: Dataset) -> None:
    clips = dataset.clips("train", 2, 2)
    again = clips.sample(np.random.default_rng(3), 16)
    first = clips.sample(np.random.default_rng(3), 16)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.actions, again.actions)
    seen = {frames.numpy().tobytes() for frames in clips.sample(np.random.default_rng(0), 400).frames}
    assert len(seen) == len(clips)


def test_action_statistics_are_of_one_split_without_the_nan_rows(dataset: Dataset) -> None:
    actions = np.concatenate([dataset[0].actions, dataset[3].actions]).astype(np.float64)
    mean, std = dataset.action_statistics()
    np.testing.assert_allclose(mean, actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, actions.std(0), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_a_constant_action_can_be_normalised(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 5)
    still = Episode(episode.frames, episode.states, np.full_like(episode.actions, 0.5))
    mean, std = write(tmp_path, [still], {"train": (0,), "val": (), "test": ()}).action_statistics()
    np.testing.assert_array_equal(mean, [0.5, 0.5])
    np.testing.assert_array_equal(std, [1, 1])


def test_unbounded_action_spaces_survive(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path) as writer:
        writer.add(random_episode(np.random.default_rng(0), 3), "any")
        bound = np.full(2, np.inf)
        splits = {"train": (0,), "val": (), "test": ()}
        writer.finish(env="e", env_kwargs={}, action_low=-bound, action_high=bound, seed=0, splits=splits)
    assert Dataset.open(tmp_path).meta.action_low == (-np.inf, -np.inf)


def test_pickling_sends_the_folder_and_not_the_frames(dataset: Dataset) -> None:
    data = pickle.dumps(dataset.clips("train", 2, 1))
    assert len(data) < dataset.frames.nbytes / 2
    copy = pickle.loads(data)
    assert torch.equal(copy.batch([0, 5]).frames, dataset.clips("train", 2, 1).batch([0, 5]).frames)


def test_fingerprint_depends_on_every_number_and_on_the_splits(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 5)
    splits = {"train": (0,), "val": (1,), "test": ()}
    changed = episode.frames.copy()
    changed[3, 2, 1, 0] ^= 1
    variants = [
        ([episode, episode], splits),
        ([episode, Episode(changed, episode.states, episode.actions)], splits),
        ([episode, episode], {"train": (1,), "val": (0,), "test": ()}),
    ]
    prints = [write(tmp_path / str(i), *variant).fingerprint for i, variant in enumerate(variants)]
    assert len(set(prints)) == 3
    assert write(tmp_path / "again", *variants[0]).fingerprint == prints[0]


def test_an_unknown_split_is_answered_with_the_known_ones(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"no split named 'trian'.*did you mean 'train'"):
        dataset.clips("trian", 2, 1)


def test_too_short_episodes_are_answered_with_numbers(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"4 frames, 5 steps apart \(16 rows\).*longest episode has 10 rows"):
        dataset.clips("test", 4, 5)


# Damage. Each entry: which file the message names, what is done to the folder.


def save(name: str, change):
    def damage(folder: Path) -> None:
        column = np.load(folder / name)
        np.save(folder / name, change(column))

    return damage


def describe(change):
    def damage(folder: Path) -> None:
        path = folder / "frames.zarr/zarr.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def as_format_1(folder: Path) -> None:
    """Rewrite a dataset as an earlier version of the program left it."""
    np.save(folder / "frames.npy", Dataset.open(folder).frames[:])
    shutil.rmtree(folder / "frames.zarr")
    edit(lambda meta: meta.update(format_version=1))(folder)


def edit(change):
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))

    return damage


def put(index, value):
    def change(column: np.ndarray) -> np.ndarray:
        column[index] = value
        return column

    return change


def resize(name: str, by: int):
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:by] if by < 0 else data + bytes(by))

    return damage


DAMAGE_OF_FORMAT_1 = {
    "no frames": ("frames.npy.*missing", lambda f: (f / "frames.npy").unlink()),
    "frames cut by one byte": ("frames.npy", resize("frames.npy", -1)),
    "frames as floats": ("frames.npy.*float32", save("frames.npy", lambda c: c.astype(np.float32))),
    "channels first": ("frames.npy.*not", save("frames.npy", lambda c: np.ascontiguousarray(c.transpose(0, 3, 1, 2)))),
}

PIECE = "frames.zarr/c.0.0.0.0"
DAMAGE_OF_FORMAT_2 = {
    "no frames": (f"{PIECE}.*missing", lambda f: (f / PIECE).unlink()),
    "no description": ("zarr.json.*missing", lambda f: (f / "frames.zarr/zarr.json").unlink()),
    "frames cut by one byte": (PIECE, resize(PIECE, -1)),
    "frames cut to almost nothing": (PIECE, resize(PIECE, -(10**6))),
    "a byte too many": (PIECE, resize(PIECE, 1)),
    "a folder in place of a file": (f"{PIECE}.*folder", lambda f: ((f / PIECE).unlink(), (f / PIECE).mkdir())),
    "half a description": ("zarr.json", resize("frames.zarr/zarr.json", -40)),
    "another array": ("zarr.json", lambda f: (f / "frames.zarr/zarr.json").write_text('{"shape": [3, 4]}')),
    "other codecs": ("zarr.json.*not of an array", describe(lambda d: d["codecs"].append({"name": "crc32c"}))),
    "more frames than there are": ("zarr.json", describe(lambda d: d["shape"].__setitem__(0, 38))),
    "no frame": ("zarr.json", describe(lambda d: d["shape"].__setitem__(0, 0))),
}

DAMAGE = {
    "no meta": ("not a complete dataset", lambda f: (f / "meta.json").unlink()),
    "half a meta": ("meta.json", resize("meta.json", -40)),
    "states cut in the header": ("states.npy", resize("states.npy", -(10**6))),
    "bytes too many": ("actions.npy", resize("actions.npy", 3)),
    "empty file": ("ends.npy", lambda f: (f / "ends.npy").write_bytes(b"")),
    "not an array": ("ends.npy", lambda f: (f / "ends.npy").write_bytes(b"episode ends")),
    "one state too few": ("states.npy has 36 rows.*37", save("states.npy", lambda c: c[:-1])),
    "one action too few": ("actions.npy has 36 rows", save("actions.npy", lambda c: c[:-1])),
    "ends fall": ("ends.npy.*increase", save("ends.npy", put(1, 3))),
    "ends beyond the data": ("ends.npy ends at row 99", save("ends.npy", put(-1, 99))),
    "no episode": ("ends.npy", save("ends.npy", lambda c: c[:0])),
    "infinite state": ("states.npy.*not finite", save("states.npy", put((4, 1), np.inf))),
    "NaN action": ("actions.npy.*not finite", save("actions.npy", put((2, 0), np.nan))),
    "action after the end": ("actions.npy.*after the last", save("actions.npy", put((7, 0), 0.0))),
    "actions shifted by one": ("actions.npy", save("actions.npy", lambda c: np.roll(c, 1, axis=0))),
    "episode in two splits": ("meta.json.*two splits", edit(lambda m: m["splits"].update(val=[0]))),
    "episode beyond the data": ("meta.json.*outside 0..3", edit(lambda m: m["splits"].update(val=[4]))),
    "split missing": ("meta.json.*splits", edit(lambda m: m["splits"].pop("val"))),
    "policy missing": ("meta.json.*policies", edit(lambda m: m["policies"].pop())),
    "bounds too short": ("meta.json.*bounds", edit(lambda m: m["action_low"].pop())),
    "future format": ("meta.json.*format_version", edit(lambda m: m.update(format_version=3))),
    "misspelt key": ("meta.json.*polices", edit(lambda m: m.update(polices=[]))),
}


def cases_of_damage():
    for version, own in ((1, DAMAGE_OF_FORMAT_1), (2, DAMAGE_OF_FORMAT_2)):
        for name, (message, damage) in {**DAMAGE, **own}.items():
            yield pytest.param(version, message, damage, id=f"format {version}: {name}")


@pytest.mark.parametrize("version, message, damage", list(cases_of_damage()))
def test_damage_is_found_and_named(dataset: Dataset, version: int, message: str, damage) -> None:
    if version == 1:
        as_format_1(dataset.folder)
    damage(dataset.folder)
    with pytest.raises(UserError, match=message) as caught:
        Dataset.open(dataset.folder)
    assert "\n" not in str(caught.value) and "collect it again" in str(caught.value)


@pytest.mark.parametrize("version, name, place", [(1, "frames.npy", -100), (2, PIECE, 100), (2, PIECE, 50)])
def test_a_flipped_byte_is_found_by_verify(dataset: Dataset, version: int, name: str, place: int) -> None:
    if version == 1:
        as_format_1(dataset.folder)
    path = dataset.folder / name
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} has changed"):
        Dataset.open(dataset.folder).verify()


def test_a_flipped_byte_never_becomes_another_frame(dataset: Dataset) -> None:
    frame, path = dataset.frames[0], dataset.folder / PIECE
    whole, found = path.read_bytes(), 0
    size = int.from_bytes(whole[-37 * 16 + 8 : -37 * 16 + 16], "little")
    for place in range(size):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(Dataset.open(dataset.folder).frames[0], frame)
        except UserError as error:
            assert "has changed since it was written" in str(error)
            found += 1
    assert found > 0.9 * size


def test_format_1_is_still_read_and_has_the_same_fingerprint(dataset: Dataset) -> None:
    clips = dataset.clips("train", 2, 1).batch(np.arange(5))
    episode = dataset[1]
    as_format_1(dataset.folder)
    old = Dataset.open(dataset.folder)
    old.verify()
    assert old.fingerprint == dataset.fingerprint
    assert torch.equal(old.clips("train", 2, 1).batch(np.arange(5)).frames, clips.frames)
    np.testing.assert_array_equal(old[1].frames, episode.frames)


def test_the_numbers_of_a_large_dataset_are_read_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = format_module._wrong_number
    monkeypatch.setattr(format_module, "_wrong_number", lambda d: (read.append(d), real(d))[1])
    Dataset.open(dataset.folder)
    Dataset.open(dataset.folder)
    assert len(read) == 2 and not (dataset.folder / format_module.NOTE).exists()
    monkeypatch.setattr(format_module, "LARGE", 100)
    Dataset.open(dataset.folder)
    Dataset.open(dataset.folder)
    assert len(read) == 3
    (dataset.folder / format_module.NOTE).write_text("{")
    Dataset.open(dataset.folder)
    assert len(read) == 4
    save("states.npy", put((4, 1), np.inf))(dataset.folder)
    with pytest.raises(UserError, match="not finite"):
        Dataset.open(dataset.folder)


# Writing.


def test_the_writer_refuses_what_is_not_an_episode(tmp_path: Path) -> None:
    good = random_episode(np.random.default_rng(0), 4)
    with DatasetWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="one more frame"):
            writer.add(Episode(good.frames[:-1], good.states, good.actions), "any")
        with pytest.raises(ValueError, match="at least one action"):
            writer.add(Episode(good.frames[:1], good.states[:1], good.actions[:0]), "any")
        with pytest.raises(UserError, match="not finite"):
            writer.add(Episode(good.frames, good.states * np.nan, good.actions), "any")
        with pytest.raises(ValueError, match="uint8"):
            writer.add(Episode(good.frames / 255, good.states, good.actions), "any")
        with pytest.raises(ValueError, match="at least one episode"):
            writer.finish(env="e", env_kwargs={}, action_low=[0], action_high=[1], seed=0, splits={})


def test_an_unfinished_dataset_does_not_open(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path) as writer:
        writer.add(random_episode(np.random.default_rng(0), 4), "any")
    with pytest.raises(UserError, match="not a complete dataset"):
        Dataset.open(tmp_path)


def test_the_writer_never_overwrites_a_dataset(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="already holds a dataset"), DatasetWriter(dataset.folder):
        pass


@pytest.mark.parametrize("recipe, kept", [({"a": (1, 2)}, 2), ({"a": 2}, 0)])
def test_the_writer_goes_on_after_its_checkpoint(tmp_path: Path, recipe: dict, kept: int) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, steps) for steps in (3, 6, 2, 4)]
    with DatasetWriter(tmp_path, {"a": (1, 2)}) as writer:
        writer.add(episodes[0], "p")
        writer.add(episodes[1], "p")
        writer.checkpoint()
        writer.add(episodes[2], "lost with the kill")
    with DatasetWriter(tmp_path, recipe) as writer:
        assert len(writer.ends) == kept
        for episode in episodes[kept:]:
            writer.add(episode, "p")
        splits = {"train": (0, 1), "val": (2,), "test": (3,)}
        resumed = writer.finish(env="e", env_kwargs={}, action_low=[-1, -1], action_high=[1, 1], seed=0, splits=splits)
    resumed.verify()
    for got, expected in zip(resumed, episodes, strict=True):
        np.testing.assert_array_equal(got.frames, expected.frames)
        np.testing.assert_array_equal(got.actions, expected.actions)


def test_a_lost_tail_means_to_begin_anew(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path) as writer:
        writer.add(random_episode(np.random.default_rng(0), 40), "p")
        writer.checkpoint()
    resize("states.npy", -50)(tmp_path)
    with DatasetWriter(tmp_path) as writer:
        assert writer.ends == []


# Splitting.


@given(st.integers(0, 500), st.dictionaries(st.text(max_size=2), st.floats(0.01, 1), min_size=1, max_size=5))
def test_apportion_is_whole_and_within_one_of_proportional(total: int, shares: dict[str, float]) -> None:
    counts = apportion(total, shares)
    assert sum(counts.values()) == total and min(counts.values()) >= 0
    for name, count in counts.items():
        assert abs(count - total * shares[name] / sum(shares.values())) < 1 + 1e-6


def test_apportion_gives_what_is_left_to_the_largest_remainder() -> None:
    assert apportion(10, {"a": 0.13, "b": 0.13, "z": 0.74}) == {"a": 1, "b": 1, "z": 8}
    assert apportion(3, {"z": 0.5, "a": 0.5}) == {"z": 2, "a": 1}  # a tie goes to the first named


def test_split_episodes_deals_every_episode_once() -> None:
    fractions = {"train": 0.75, "val": 0.10, "test": 0.15}
    splits = split_episodes(400, fractions, np.random.default_rng(0))
    assert {name: len(split) for name, split in splits.items()} == {"train": 300, "val": 40, "test": 60}
    assert sorted(e for split in splits.values() for e in split) == list(range(400))
    assert splits == split_episodes(400, fractions, np.random.default_rng(0))
    assert splits != split_episodes(400, fractions, np.random.default_rng(1))
