"""What two million frames cost: opening, training on and collecting them, and whether drawing them anew would be faster.

Not part of the test suite. It needs 6 GB of disk for its data and Linux for its memory:

    python tests/benchmarks/data_at_size.py FOLDER

The large data set is a small one, of 60 episodes of TwoRoom, whose compressed frames are repeated. LeWM is trained on
both by ``lewm-bench train`` in processes of their own. What it prints is in docs/data.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lewm_bench.data import frames as ours
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.run.environments import make_env

ENV, SUITE = "lewm_bench/TwoRoom-v0", "tworoom"
DRAWN = tuple(f"lewm_bench/{name}-v0" for name in ("TwoRoom", "Wall", "PointMaze-UMaze", "PushT", "Reacher", "Cube"))
CLIPS, FRAMES, SKIP, STEPS = 64, 4, 5, 100
EPISODES = 60
GIB, MIB = 2**30, 2**20
SPAWN = multiprocessing.get_context("spawn")


def small(options: argparse.Namespace) -> Dataset:
    config = CollectConfig(episodes=EPISODES, steps=STEPS)
    return collect(make_env(ENV, options.image_size), config, 0, options.folder / "small", progress=False)


def enlarge(source: Dataset, folder: Path, rows: int) -> None:
    """A data set of about ``rows`` rows: that of ``source`` again and again."""
    times = -(-rows // len(source.frames))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "states.npy", np.tile(source.states, (times, 1)))
    np.save(folder / "actions.npy", np.tile(source.actions, (times, 1)))
    np.save(folder / "ends.npy", (source.ends + np.arange(times)[:, None] * len(source.frames)).ravel())
    meta = json.loads((source.folder / "meta.json").read_text())
    meta["policies"] = meta["policies"] * times
    meta["splits"] = {
        split: [e + t * len(source) for t in range(times) for e in episodes]
        for split, episodes in meta["splits"].items()
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    writer = ours.FramesWriter(folder / "frames.zarr", source.frames.shape[1:])
    frames = source.frames
    encoded = [frames._read(row // ours.SHARD, *frames._places[row].tolist()) for row in range(len(frames))]
    for _ in range(times):
        for data in encoded:
            writer._append(data)
    writer.finish()


def read(folder: Path) -> None:
    """Open and read a data set; print seconds and the most memory that this process had."""
    begin = time.perf_counter()
    dataset = Dataset.open(folder)
    opening = time.perf_counter() - begin
    clips, rng = dataset.clips("train", FRAMES, SKIP), np.random.default_rng(0)
    for _ in range(50):
        clips.sample(rng, CLIPS)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    print(f"{len(dataset.frames):,} rows: opened in {opening:.2f} s; at most {most:.2f} GiB after 3,200 clips")


def in_process(work: Callable[..., None], *arguments: object) -> None:
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    process.join()


def train(data: Path, options: argparse.Namespace) -> float:
    """GiB that ``lewm-bench train lewm`` on a data set had at most; print that and what it says."""
    settings = {
        "image_size": options.image_size,
        "lewm.train.epochs": "null",
        "lewm.train.steps": options.steps,
        "lewm.train.batch_size": options.batch,
        "lewm.train.precision": "32-true",  # bfloat16 is slower on most CPUs
    }
    command = [sys.executable, "-m", "lewm_bench", "train", "lewm", "--suite", SUITE, "--profile", options.profile]
    command += ["--env", ENV, "--data", str(data), "--device", "cpu", "--cache", str(options.folder / "cache")]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    shutil.rmtree(options.folder / "cache", ignore_errors=True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said)
    most = usage.ru_maxrss / MIB
    print(f"{data.name}: at most {most:.2f} GiB; {said.splitlines()[-1]}", flush=True)
    return most


def training(options: argparse.Namespace) -> None:
    source, large = small(options), options.folder / "large"
    enlarge(source, large, options.rows)
    for folder in (source.folder, large, large):  # for the first time, and with its numbers read before
        in_process(read, folder)
    print(f"LeWM, profile {options.profile}, {options.image_size} px, {options.steps} steps of {options.batch} clips:")
    first, second = train(source.folder, options), train(large, options)
    print(f"the large data set takes {second - first:+.2f} GiB", flush=True)
    shutil.rmtree(large)


def collect_here(folder: Path, size: int, episodes: int, workers: int) -> None:
    collect(make_env(ENV, size), CollectConfig(episodes=episodes, steps=STEPS), 0, folder, False, workers)


def memory(pid: int) -> int:
    """Bytes of a process, shared ones divided among those that have them; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def collecting(options: argparse.Namespace) -> None:
    print("| episodes | frames as arrays, GiB | processes | parent, MiB | largest of them, MiB | together, MiB |")
    print("|---|---|---|---|---|---|")
    for episodes in (options.episodes, 4 * options.episodes):
        for workers in (1, 2, 4):
            folder = options.folder / "collected"
            shutil.rmtree(folder, ignore_errors=True)
            process = SPAWN.Process(target=collect_here, args=(folder, options.image_size, episodes, workers))
            process.start()
            parent = single = total = 0
            while process.is_alive():
                each = [memory(child) for child in children(process.pid or 0)]
                own = memory(process.pid or 0)
                parent, single = max(parent, own), max(single, *each, 0)
                total = max(total, own + sum(each))
                time.sleep(0.1)
            arrays = episodes * (STEPS + 1) * 3 * options.image_size**2 / GIB
            numbers = [f"{value / MIB:.0f}" for value in (parent, single if workers > 1 else 0, total)]
            print(f"| {episodes} | {arrays:.1f} | {workers} | {' | '.join(numbers)} |", flush=True)
            shutil.rmtree(folder)


def drawing(options: argparse.Namespace) -> None:
    """Clips per second that are read, and drawn from their states, in turns, in the fastest round."""
    print("| environment | read, per second | drawn | read, per second of one core | drawn |\n|---|---|---|---|---|")
    for env_id in DRAWN:
        env, folder = make_env(env_id, options.image_size), options.folder / "drawn"
        shutil.rmtree(folder, ignore_errors=True)
        dataset = collect(env, CollectConfig(episodes=8, steps=STEPS), 0, folder, progress=False)
        starts, rng = dataset.rows("all", spare=SKIP * (FRAMES - 1)), np.random.default_rng(0)
        ways = (dataset.frames.__getitem__, lambda rows, e=env, d=dataset: e.render_states(d.states[rows]))
        taken: tuple[list[tuple[float, float]], ...] = ([], [])
        for _ in range(options.rounds):
            rows = (rng.choice(starts, CLIPS)[:, None] + np.arange(FRAMES) * SKIP).ravel()
            for way, seconds in zip(ways, taken, strict=True):
                begin, busy = time.perf_counter(), time.process_time()
                way(rows)
                seconds.append((time.perf_counter() - begin, time.process_time() - busy))
        speeds = [CLIPS / min(pair[k] for pair in seconds) for k in (0, 1) for seconds in taken]
        print(f"| {env_id.split('/')[1][:-3]} | {' | '.join(f'{speed:,.0f}' for speed in speeds)} |", flush=True)


PARTS = {"training": training, "collecting": collecting, "drawing": drawing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(options)


if __name__ == "__main__":
    main()
