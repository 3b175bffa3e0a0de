"""Small recordings of TwoRoom in other people's formats, written by their own writers where those are small."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from lewm_bench.core.types import Episode
from lewm_bench.run.environments import make_env

ENV = "lewm_bench/TwoRoom-v0"
SIZE = 32
LENGTHS = (9, 12, 7, 10, 11, 8, 9, 12)  # actions of each episode


@cache
def episodes() -> tuple[Episode, ...]:
    """Walks in a direction of their own, with the reference platform's collision."""
    env, rng = make_env(ENV, SIZE, {"legacy": True}), np.random.default_rng(0)
    found = []
    for steps in LENGTHS:
        actions = np.clip(rng.uniform(-1, 1, 2) + rng.normal(0, 0.3, (steps, 2)), -1, 1).astype(np.float32)
        start = env.sample_state(rng)
        states = np.concatenate([start[None], env.simulate(start[None], actions[None])[0]])
        found.append(Episode(env.render_states(states), states, actions))
    return tuple(found)


def flat() -> dict[str, np.ndarray]:
    """stable-worldmodel's columns."""
    last = np.full((1, 2), np.nan, np.float32)
    lengths = [len(each.frames) for each in episodes()]
    return {
        "pixels": np.concatenate([each.frames for each in episodes()]),
        "action": np.concatenate([np.concatenate([each.actions, last]) for each in episodes()]),
        "proprio": np.concatenate([each.states for each in episodes()]).astype(np.float32),
        "episode_idx": np.repeat(np.arange(len(lengths)), lengths),
        "step_idx": np.concatenate([np.arange(n) for n in lengths]),
    }


def ends() -> np.ndarray:
    return np.cumsum([len(each.frames) for each in episodes()])


def write_npz(path: Path, **changes: np.ndarray | None) -> Path:
    columns = flat()
    plain = {
        "pixels": columns["pixels"],
        "actions": columns["action"],
        "proprio": columns["proprio"],
        "episode_ends": ends(),
    }
    np.savez_compressed(path, **{name: values for name, values in (plain | changes).items() if values is not None})
    return path


def write_hdf5(
    path: Path, index: str = "episode_idx", options: Mapping | None = None, **changes: np.ndarray | None
) -> Path:
    """As stable-worldmodel lays it out: one row per chunk, ``ep_len`` int32 and ``ep_offset`` int64."""
    h5py = pytest.importorskip("h5py")
    columns, lengths = flat(), np.diff(ends(), prepend=0)
    columns[index] = columns.pop("episode_idx").astype(np.int32 if index == "ep_idx" else np.int64)
    columns |= {"ep_len": lengths.astype(np.int32), "ep_offset": (ends() - lengths).astype(np.int64)}
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in (columns | changes).items():
            if values is not None:
                chunks = None if name.startswith("ep_") else (1, *values.shape[1:])
                file.create_dataset(name, data=values, chunks=chunks, **(options or {} if name == "pixels" else {}))
    return path


def encoded(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind, quality=95)
    return out.getvalue()


def write_lance(path: Path) -> Path:
    """As stable-worldmodel writes it: JPEG blobs, lists of float32, two index columns."""
    lance, arrow = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    columns = flat()

    def vectors(values: np.ndarray):
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.astype(np.float32).ravel()), values.shape[1])

    table = arrow.table(
        {
            "episode_idx": arrow.array(columns["episode_idx"].astype(np.int32)),
            "step_idx": arrow.array(columns["step_idx"].astype(np.int32)),
            "pixels": arrow.array([encoded(frame) for frame in columns["pixels"]], arrow.binary()),
            "action": vectors(columns["action"]),
            "proprio": vectors(columns["proprio"]),
            "task": arrow.array(["walk"] * len(columns["pixels"])),
        }
    )
    lance.write_dataset(table, str(path))
    return path


def write_ogbench(path: Path) -> Path:
    columns, terminals = flat(), np.zeros(ends()[-1], np.float32)
    terminals[ends() - 1] = 1
    actions = np.nan_to_num(columns["action"])
    np.savez_compressed(
        path, observations=columns["pixels"], actions=actions, terminals=terminals, proprio=columns["proprio"]
    )
    return path


def write_minari(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """By Minari itself."""
    minari = pytest.importorskip("minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path))
    space = gym.spaces.Dict(
        {
            "pixels": gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "position": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    )
    buffers = []
    for number, each in enumerate(episodes()):
        steps = len(each.actions)
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations={"pixels": list(each.frames), "position": list(each.states)},
                actions=list(each.actions),
                rewards=[0.0] * steps,
                terminations=[False] * steps,
                truncations=[False] * (steps - 1) + [True],
                infos={},
            )
        )
    minari.create_dataset_from_buffers(
        "tests/walk-v0",
        buffer=buffers,
        observation_space=space,
        action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
        algorithm_name="random",
        author="tests",
        author_email="tests@example.org",
        code_permalink="https://example.org",
    )
    return path / "tests/walk-v0"


def write_lerobot(path: Path, video: bool = False) -> Path:
    """To the layout of v3.0: rows in parquet, pictures in them or in one lossless video, a table of episodes."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns, lengths = flat(), np.diff(ends(), prepend=0)
    picture = {
        "dtype": "video" if video else "image",
        "shape": [SIZE, SIZE, 3],
        "names": ["height", "width", "channels"],
    }
    features = {
        "observation.images.top": picture,
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index")},
    }
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    for folder in ("meta/episodes/chunk-000", "data/chunk-000", "videos/observation.images.top/chunk-000"):
        (path / folder).mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    rows = {
        "observation.state": list(columns["proprio"]),
        "action": list(np.nan_to_num(columns["action"])),
        "episode_index": columns["episode_idx"],
        "frame_index": columns["step_idx"],
        "index": np.arange(len(columns["pixels"])),
    }
    if not video:
        blobs = [{"bytes": encoded(frame, "PNG"), "path": None} for frame in columns["pixels"]]
        rows["observation.images.top"] = arrow.array(
            blobs, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        )
    parquet.write_table(arrow.table(rows), path / "data/chunk-000/file-000.parquet")
    zeros = [0] * len(lengths)
    facts = {"episode_index": list(range(len(lengths))), "length": lengths.tolist()}
    facts |= {"data/chunk_index": zeros, "data/file_index": zeros, "stats/action/mean": [[0.0]] * len(lengths)}
    if video:
        key = "videos/observation.images.top"
        facts |= {f"{key}/chunk_index": zeros, f"{key}/file_index": zeros}
        facts[f"{key}/from_timestamp"] = ((ends() - lengths) / info["fps"]).tolist()
        write_video(path / key / "chunk-000/file-000.mp4", columns["pixels"], info["fps"])
    parquet.write_table(arrow.table(facts), path / "meta/episodes/chunk-000/file-000.parquet")
    return path


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_dino_wm(path: Path, video: bool) -> Path:
    """To its layout: padded tensors, relative actions in pixels with videos, tensors of frames else."""
    import torch

    (path / "obses").mkdir(parents=True)
    most = max(len(each.frames) for each in episodes())
    states, actions = np.zeros((len(LENGTHS), most, 2), np.float32), np.zeros((len(LENGTHS), most, 2), np.float32)
    for number, each in enumerate(episodes()):
        states[number, : len(each.states)], actions[number, : len(each.actions)] = each.states, each.actions
        if video:
            write_video(path / f"obses/episode_{number:03d}.mp4", each.frames, 10)
        else:
            torch.save(torch.from_numpy(each.frames), path / f"obses/episode_{number:03d}.pth")
    torch.save(torch.from_numpy(states), path / "states.pth")
    torch.save(torch.from_numpy(actions * 100 if video else actions), path / f"{'rel_' if video else ''}actions.pth")
    if video:
        (path / "seq_lengths.pkl").write_bytes(b"never read")
    else:
        torch.save(torch.tensor([len(each.frames) for each in episodes()]), path / "seq_lengths.pth")
    return path
