"""Published files are evaluated from the rows that the released script draws from them, whatever our split is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import recordings
from recordings import ENV, SIZE

from lewm_bench.core.errors import UserError
from lewm_bench.data.format import Dataset
from lewm_bench.data.importers import Names, Wish, import_data
from lewm_bench.evaluation.protocol import PAPER_V3, PAPER_V3_ALL, sample_pairs
from lewm_bench.run.environments import make_env

OFFSET, PAIRS = 5, 20


def official(path: Path) -> dict[str, np.ndarray]:
    """A file in the published layout, an episode of one frame in the middle of it, and its columns."""
    pytest.importorskip("hdf5plugin")
    columns = recordings.flat()
    at = int(np.flatnonzero(np.diff(columns["episode_idx"]))[2]) + 1  # where the fourth episode begins
    order = np.insert(np.arange(len(columns["pixels"])), at, at)
    columns = {name: values[order] for name, values in columns.items()}
    columns["episode_idx"] = columns["episode_idx"] + (np.arange(len(order)) > at)
    lengths = np.bincount(columns["episode_idx"])
    assert lengths[3] == 1
    ends = lengths.cumsum()
    columns["step_idx"] = np.concatenate([np.arange(n) for n in lengths])
    sizes = {"ep_len": lengths.astype(np.int32), "ep_offset": ends - lengths}
    recordings.write_hdf5(path, **{n: v for n, v in columns.items() if n != "episode_idx"}, **sizes)
    import h5py

    with h5py.File(path, "a") as file:
        del file["episode_idx"]
        file["episode_idx"] = columns["episode_idx"]
    return columns


def drawn_by_the_script(columns: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """(episode, step) of the start rows, by the arithmetic of the released script, over the columns of the file."""
    episodes, steps = columns["episode_idx"], columns["step_idx"]
    longest = {number: steps[episodes == number].max() + 1 for number in np.unique(episodes)}
    last_start = np.array([longest[number] - OFFSET - 1 for number in episodes])
    valid = np.nonzero(steps <= last_start)[0]
    rows = np.sort(valid[np.random.default_rng(42).choice(len(valid), size=PAIRS, replace=False)])
    return list(zip(episodes[rows].tolist(), steps[rows].tolist(), strict=True))


def imported(source: Path, out: Path, split: tuple[float, ...] = ()) -> Dataset:
    wish = Wish(source, out, Names(), split=split)
    return import_data(wish, lambda size, kwargs: make_env(ENV, size, kwargs), progress=False).dataset


def starts(data: Dataset, protocol) -> list[tuple[int, int]]:
    """(episode of the file, step) of a protocol's pairs; episode 3 of the file has one frame and is left out of ours."""
    env = make_env(ENV, SIZE, {"legacy": True})
    pairs = sample_pairs(data, env, protocol, PAIRS, OFFSET)
    assert (pairs.goal_row - pairs.start_row == OFFSET).all()
    episode = pairs.episode + (pairs.episode >= 3)
    return list(zip(episode.tolist(), (pairs.start_row - data.starts[pairs.episode]).tolist(), strict=True))


def test_the_rows_of_the_released_script(tmp_path: Path) -> None:
    columns = official(tmp_path / "walk.h5")
    wanted = drawn_by_the_script(columns)
    assert len(set(wanted)) == PAIRS
    usual = imported(tmp_path / "walk.h5", tmp_path / "usual")
    whole = imported(tmp_path / "walk.h5", tmp_path / "whole", (100, 0, 0))
    assert starts(usual, PAPER_V3_ALL) == wanted
    assert starts(whole, PAPER_V3_ALL) == starts(whole, PAPER_V3) == wanted
    assert starts(usual, PAPER_V3) != wanted  # of the training episodes alone


@pytest.mark.parametrize(
    "split, sizes", [((), (6, 1, 1)), ((50, 25, 25), (4, 2, 2)), ((100, 0, 0), (8, 0, 0)), ((75, 0, 25), (6, 0, 2))]
)
def test_splits_that_are_asked_for(split: tuple[float, ...], sizes: tuple[int, ...], tmp_path: Path) -> None:
    data = imported(recordings.write_npz(tmp_path / "a.npz"), tmp_path / "out", split)
    assert tuple(len(data.episodes(name)) for name in ("train", "val", "test")) == sizes
    assert sorted(sum(data.splits.values(), ())) == list(range(8))


@pytest.mark.parametrize("split", [(75, 25), (0, 50, 50), (75, 10, 10), (110, -5, -5), (0.75, 0.1, 0.15)])
def test_splits_that_make_no_sense(split: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--split takes per cent .* for example 75,10,15; got "):
        imported(recordings.write_npz(tmp_path / "a.npz"), tmp_path / "out", split)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
