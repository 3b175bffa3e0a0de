from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lewm_bench.data import frames as module
from lewm_bench.data.frames import Frames, FramesWriter

ROWS, SHAPE = 37, (6, 5, 3)


@pytest.fixture(params=[1, 7, 16, 37, 100], ids="{} per file".format)
def shard(request, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "SHARD", request.param)
    return request.param


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), dtype=np.uint8)


def written(folder: Path, pictures: np.ndarray, pieces: int = 3) -> Frames:
    writer = FramesWriter(folder, SHAPE)
    for piece in np.array_split(pictures, pieces):
        writer.write(piece)
    assert writer.finish() == hashlib.sha256(pictures.tobytes()).hexdigest()
    return Frames.open(folder, "mend it")


INDICES = [
    0,
    -1,
    np.int64(36),
    slice(None),
    slice(5, 30, 4),
    slice(-3, None),
    slice(9, 9),
    slice(None, None, -1),
    [3, 1, 1],
    [],
    np.arange(24).reshape(2, 3, 4),
    np.array([[-1], [-37]]),
    np.arange(ROWS) % 3 == 0,
    np.array(7),
    np.zeros((0, 4), np.int64),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_reads_are_those_of_an_array(tmp_path: Path, pictures: np.ndarray, shard: int, index) -> None:
    frames = written(tmp_path / "f", pictures)
    got, expected = frames[index], pictures[index]
    assert got.dtype == np.uint8 and got.shape == expected.shape and got.flags.c_contiguous and got.flags.writeable
    np.testing.assert_array_equal(got, expected)


def test_it_says_what_an_array_says(tmp_path: Path, pictures: np.ndarray) -> None:
    frames = written(tmp_path / "f", pictures)
    assert (len(frames), frames.shape, frames.nbytes) == (ROWS, pictures.shape, pictures.nbytes)
    assert (frames.dtype, frames.ndim) == (pictures.dtype, pictures.ndim)
    np.testing.assert_array_equal(np.array(frames), pictures)
    np.testing.assert_array_equal(np.stack(list(frames)), pictures)


@pytest.mark.parametrize(
    "index", [ROWS, -ROWS - 1, [0, ROWS], (0, 1), 1.5, [0.5], np.ones(3, bool), np.ones((37, 6), bool)]
)
def test_anything_else_is_refused(tmp_path: Path, pictures: np.ndarray, index) -> None:
    with pytest.raises(IndexError):
        written(tmp_path / "f", pictures)[index]


@pytest.mark.parametrize("done", [1, 7, 14, 20, 36])
def test_a_writer_goes_on_after_its_flush(tmp_path: Path, pictures: np.ndarray, shard: int, done: int) -> None:
    folder = tmp_path / "f"
    killed = FramesWriter(folder, SHAPE)
    killed.write(pictures[:done])
    killed.flush()
    killed.write(255 - pictures[done:])
    killed.close()
    writer = FramesWriter(folder, SHAPE, done)
    writer.write(pictures[done:])
    assert writer.finish() == hashlib.sha256(pictures.tobytes()).hexdigest()
    np.testing.assert_array_equal(Frames.open(folder, "")[:], pictures)
    assert len(list(folder.iterdir())) == 1 + -(-ROWS // shard)


def test_the_same_frames_are_the_same_bytes(tmp_path: Path, pictures: np.ndarray) -> None:
    for name, pieces in (("a", 1), ("b", 5)):
        written(tmp_path / name, pictures, pieces)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_threads_may_read_at_once(tmp_path: Path, pictures: np.ndarray, shard: int) -> None:
    frames, wrong = written(tmp_path / "f", pictures), []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            rows = rng.integers(ROWS, size=25)
            wrong.extend([rows] if not np.array_equal(frames[rows], pictures[rows]) else [])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(os.name == "nt", reason="no fork")
def test_a_forked_process_reads_with_threads_of_its_own(tmp_path: Path, pictures: np.ndarray) -> None:
    frames = written(tmp_path / "f", pictures)
    assert len(frames[:]) == ROWS  # the threads are there
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(frames[:], pictures) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_folder_is_a_zarr_array(tmp_path: Path, pictures: np.ndarray) -> None:
    """Byte by byte as the specification of Zarr 3 and its sharding codec say; with the package, read by it as well."""
    written(tmp_path / "f", pictures)
    description = json.loads((tmp_path / "f" / "zarr.json").read_text())
    assert description["shape"] == [ROWS, *SHAPE] and description["zarr_format"] == 3
    zarr = pytest.importorskip("zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "f", mode="r")[:], pictures)
