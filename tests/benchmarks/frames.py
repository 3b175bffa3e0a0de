"""Formats for frames, side by side: the same pictures, the same random clips, one process, in turns.

Not part of the test suite; it needs an environment of its own:

    python -m venv formats && . formats/bin/activate
    pip install -e . blosc2 zarr h5py hdf5plugin pylance "stable-worldmodel==0.1.1" lancedb
    python tests/benchmarks/frames.py FOLDER --env lewm_bench/TwoRoom-v0

Prints megabytes, clips per second (64 clips of 4 frames, 5 steps apart, in the
fastest round, since other programs only ever slow one down) and seconds of writing as a table; a package that is
not installed leaves its rows out. With ``--keep-memory`` freed memory is used again, as under the command line; else the
kernel zeroes the pages of every batch anew. The tables are in docs/data.md.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lewm_bench.data import frames as ours
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.run.environments import make_env
from lewm_bench.system.resources import keep_memory

CLIPS, FRAMES, SKIP, STEPS = 64, 4, 5, 101

Read = Callable[[np.ndarray], np.ndarray]
"""From rows (N,) to frames (N, h, w, 3) uint8."""

THREADS = ThreadPoolExecutor(os.cpu_count())


def raw(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    np.save(folder / "frames.npy", frames)
    return lambda: np.load(folder / "frames.npy", mmap_mode="r").__getitem__


def lewm_bench(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    writer = ours.FramesWriter(folder / "frames.zarr", frames.shape[1:])
    for begin in range(0, len(frames), STEPS):
        writer.write(frames[begin : begin + STEPS])
    writer.finish()
    return lambda: ours.Frames.open(folder / "frames.zarr", "").__getitem__


def read_by_zarr(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    import zarr

    lewm_bench(folder, frames)
    return lambda: row_by_row(zarr.open_array(folder / "frames.zarr", mode="r"))


def zarr_blosc(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    import zarr

    codec = zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
    shape = (1, *frames.shape[1:])
    array = zarr.create_array(
        folder / "z", shape=frames.shape, chunks=shape, shards=(STEPS, *shape[1:]), dtype="uint8", compressors=codec
    )
    array[:] = frames
    return lambda: row_by_row(zarr.open_array(folder / "z", mode="r"))


def blosc2_frames(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    import blosc2

    blosc2.set_releasegil(True)
    parameters = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.NOFILTER], "typesize": 1}
    size = frames[0].nbytes
    store = blosc2.SChunk(chunksize=size, urlpath=str(folder / "f.b2frame"), contiguous=True, cparams=parameters)
    for frame in frames:
        store.append_data(np.ascontiguousarray(frame))

    def opened() -> Read:
        chunks = blosc2.open(str(folder / "f.b2frame"), mode="r", dparams={"nthreads": 2})

        def read(rows: np.ndarray) -> np.ndarray:
            out = np.empty((len(rows), *frames.shape[1:]), np.uint8)
            for row, target in zip(rows.tolist(), out, strict=True):
                chunks.decompress_chunk(row, target)
            return out

        return read

    return opened


def hdf5_file(folder: Path, frames: np.ndarray) -> Path:
    import h5py
    import hdf5plugin

    path, chunks = folder / "f.h5", (1, *frames.shape[1:])
    with h5py.File(path, "w") as file:
        file.create_dataset("pixels", data=frames, chunks=chunks, compression=hdf5plugin.Zstd(clevel=9))
    return path


def hdf5(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    path = hdf5_file(folder, frames)

    def opened() -> Read:
        import h5py

        return row_by_row(h5py.File(path)["pixels"])

    return opened


def hdf5_direct(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    path = hdf5_file(folder, frames)

    def opened() -> Read:
        import h5py

        pixels = h5py.File(path)["pixels"]

        def fill(row: int, target: np.ndarray) -> None:
            ours._decode(pixels.id.read_direct_chunk((row, 0, 0, 0))[1], target)

        return threaded(fill, frames.shape)

    return opened


def hdf5_places(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    path = hdf5_file(folder, frames)

    def opened() -> Read:
        import h5py

        pixels = h5py.File(path)["pixels"]
        chunks = [pixels.id.get_chunk_info_by_coord((row, 0, 0, 0)) for row in range(len(pixels))]
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)

        def fill(row: int, target: np.ndarray) -> None:
            begin, size = places[row]
            ours._decode(data[begin : begin + size], target)

        return threaded(fill, frames.shape)

    return opened


def row_by_row(array: Any) -> Read:
    return lambda rows: np.stack([array[row] for row in rows.tolist()])


def threaded(fill: Callable[[int, np.ndarray], None], shape: tuple[int, ...]) -> Read:
    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *shape[1:]), np.uint8)
        list(THREADS.map(fill, rows.tolist(), out))
        return out

    return read


def picture_blobs(kind: str, **options: object) -> Callable[[Path, np.ndarray], Callable[[], Read]]:
    def write(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
        encoded = list(THREADS.map(lambda frame: as_picture(frame, kind, **options), frames))
        begins = np.cumsum([0, *map(len, encoded)]).tolist()
        (folder / "blobs").write_bytes(b"".join(encoded))

        def opened() -> Read:
            data = np.memmap(folder / "blobs", np.uint8, "r").view(np.ndarray)

            def fill(row: int, target: np.ndarray) -> None:
                target[:] = picture(data[begins[row] : begins[row + 1]].tobytes())

            return threaded(fill, frames.shape)

        return opened

    return write


def as_picture(frame: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def lance_table(folder: Path, frames: np.ndarray) -> Path:
    import lance
    import pyarrow

    encoded = THREADS.map(lambda frame: as_picture(frame, "PNG"), frames)
    table = pyarrow.table({"pixels": pyarrow.array(list(encoded), pyarrow.large_binary())})
    lance.write_dataset(table, folder / "f.lance")
    return folder / "f.lance"


def lance_png(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    path = lance_table(folder, frames)

    def opened() -> Read:
        import lance

        data = lance.dataset(path)
        return lambda rows: np.stack(
            list(THREADS.map(picture, data.take(rows.tolist(), ["pixels"])["pixels"].to_pylist()))
        )

    return opened


def lance_fetched(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    path = lance_table(folder, frames)

    def opened() -> Read:
        import lance

        data = lance.dataset(path)
        return lambda rows: data.take(rows.tolist(), ["pixels"])["pixels"].to_pylist()

    return opened


def peer(folder: Path, frames: np.ndarray) -> Callable[[], Read]:
    from stable_worldmodel.data import LanceDataset, LanceWriter

    with LanceWriter(folder / "f.lance") as writer:
        for begin in range(0, len(frames), STEPS):
            pixels = list(frames[begin : begin + STEPS])
            writer.write_episode({"pixels": pixels, "action": list(np.zeros((len(pixels), 2), np.float32))})

    def opened() -> Read:
        data = LanceDataset(folder / "f.lance", frameskip=SKIP, num_steps=FRAMES, keys_to_load=["pixels"])
        indices = {row: index for index, row in enumerate(starts(len(frames), SKIP * FRAMES - 1))}

        def read(rows: np.ndarray) -> np.ndarray:
            clips = data.__getitems__([indices[row] for row in rows.reshape(-1, FRAMES)[:, 0].tolist()])
            return np.stack([clip["pixels"].numpy() for clip in clips])

        return read

    return opened


FORMATS = {
    "raw, memory-mapped (format 1)": raw,
    "**Zarr 3, zstd, read by lewm-bench (format 2)**": lewm_bench,
    "the same, read by zarr": read_by_zarr,
    "Zarr 3, Blosc zstd with bit shuffle, read by zarr": zarr_blosc,
    "Blosc2 frame, zstd": blosc2_frames,
    "HDF5, zstd filter": hdf5,
    "HDF5, chunks read directly, two threads": hdf5_direct,
    "HDF5, chunks at known places of a map, two threads": hdf5_places,
    "PNG, two threads": picture_blobs("PNG"),
    "WebP lossless, two threads": picture_blobs("WEBP", lossless=True, method=0),
    "Lance with PNG, two threads": lance_png,
    "the same, fetched and not decoded": lance_fetched,
    "stable-worldmodel's Lance (JPEG, with loss)": peer,
}
UNLIKE = ("the same, fetched and not decoded", "stable-worldmodel's Lance (JPEG, with loss)")


def starts(rows: int, span: int) -> np.ndarray:
    """The first rows of all clips that span ``span`` more rows."""
    every = np.arange(rows)
    return every[every % STEPS + span < STEPS]


def compare(folder: Path, frames: np.ndarray, rounds: int, only: str) -> None:
    readers, table = {}, {}
    chosen = {name: write for name, write in FORMATS.items() if re.search(only, name)}
    for number, (name, write) in enumerate(chosen.items()):
        place = folder / str(number)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        begin = time.perf_counter()
        try:
            opened = write(place, frames)
            seconds = time.perf_counter() - begin
            readers[name] = opened()
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        print(f"{name}: written in {seconds:.1f} s", flush=True)
        table[name] = sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) / 1e6, seconds
    clips, rng = starts(len(frames), SKIP * FRAMES - 1), np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        rows = (rng.choice(clips, CLIPS)[:, None] + np.arange(FRAMES) * SKIP).ravel()
        for name, read in readers.items():
            begin = time.perf_counter()
            got = read(rows)
            times[name].append(time.perf_counter() - begin)
            assert name in UNLIKE or np.array_equal(got, frames[rows]), name
    print("| format | MB | clips per second | seconds to write |\n|---|---|---|---|")
    for name, (size, seconds) in table.items():
        print(f"| {name} | {size:.1f} | {CLIPS / min(times[name]):,.0f} | {seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--env", default="lewm_bench/TwoRoom-v0")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep-memory", action="store_true", help="do not give it back to the kernel between rounds")
    parser.add_argument("--only", default="", help="a regular expression of formats")
    options = parser.parse_args()
    if options.keep_memory:
        keep_memory()
    source = options.folder / options.env.split("/")[-1]
    dataset = collect(make_env(options.env, 224), CollectConfig(episodes=60, steps=STEPS - 1), 0, source)
    compare(options.folder / "formats", dataset.frames[:], options.rounds, options.only)


if __name__ == "__main__":
    main()
