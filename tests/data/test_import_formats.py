"""Every format gives the episodes that were written into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recordings
from recordings import ENV, SIZE, episodes

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.data.format import Dataset
from lewm_bench.data.importers import Imported, Names, Wish, import_data
from lewm_bench.data.importers.formats import recognised
from lewm_bench.data.recorded import RECORDED_ID
from lewm_bench.run.environments import make_env
from lewm_bench.run.reproduction import disagreement


def make(size: int, kwargs: dict) -> GoalEnv:
    return make_env(ENV, size, kwargs)


def imported(source: Path, out: Path, env: Callable | None = make, **fields: object) -> Imported:
    names = Names(**{name: fields.pop(name) for name in ("pixels", "actions", "states", "episodes") if name in fields})
    return import_data(Wish(source, out, names, **fields), env, progress=False)


def require_same(dataset: Dataset, exact: bool = True, rounded: bool = False) -> None:
    """A dataset holds the recordings; states are as exact as float32."""
    assert len(dataset) == len(episodes())
    for found, wanted in zip(dataset, episodes(), strict=True):
        off = np.abs(found.frames.astype(int) - wanted.frames)
        assert off.max() == 0 if exact else off.mean() < 6
        np.testing.assert_allclose(found.actions, wanted.actions, rtol=1e-6 if rounded else 0)
        np.testing.assert_allclose(found.states, wanted.states, rtol=1e-6)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: recordings.write_npz(folder / "walk.npz"),
    "hdf5": lambda folder: recordings.write_hdf5(folder / "walk.h5"),
    "ogbench": lambda folder: recordings.write_ogbench(folder / "walk.npz"),
    "lerobot": lambda folder: recordings.write_lerobot(folder / "walk"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_format_is_recognised_and_gives_what_was_written(kind: str, tmp_path: Path) -> None:
    for needed in {"hdf5": ("h5py", "hdf5plugin"), "lerobot": ("pyarrow",)}.get(kind, ()):
        pytest.importorskip(needed)
    source = WRITERS[kind](tmp_path)
    assert recognised(source) == kind
    found = imported(source, tmp_path / "out")
    require_same(found.dataset)
    assert found.dataset.meta.env == ENV
    assert found.dataset.meta.env_kwargs == {"image_size": SIZE, "legacy": True}
    assert any("pixels differ" in line for line in found.lines) and any(
        "steps simulated" in line for line in found.lines
    )
    assert sorted(sum(found.dataset.splits.values(), ())) == list(range(len(episodes())))
    found.dataset.verify()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_lance_with_lossy_pictures(tmp_path: Path) -> None:
    source = recordings.write_lance(tmp_path / "walk.lance")
    require_same(imported(source, tmp_path / "out").dataset, exact=False)
    assert recognised(tmp_path) == "lance"


def test_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    source = recordings.write_minari(tmp_path / "minari", monkeypatch)
    assert recognised(source) == "minari"
    require_same(imported(source, tmp_path / "out", states="observations.position").dataset, exact=False)


def test_lerobot_video(tmp_path: Path) -> None:
    source = recordings.write_lerobot(tmp_path / "walk", video=True)
    require_same(imported(source, tmp_path / "out").dataset)


@pytest.mark.parametrize("video", [False, True])
def test_dino_wm(video: bool, tmp_path: Path) -> None:
    source = recordings.write_dino_wm(tmp_path / "walk/train", video)
    assert recognised(source) == "dino-wm"
    require_same(imported(source, tmp_path / "out").dataset, rounded=video)


@pytest.mark.parametrize("plugin", ["Blosc", "Zstd"])
def test_hdf5_with_the_filters_of_published_files(plugin: str, tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    source = recordings.write_hdf5(tmp_path / "walk.h5", "ep_idx", dict(getattr(hdf5plugin, plugin)()))
    require_same(imported(source, tmp_path / "out").dataset)


def test_hdf5_without_lengths_goes_by_its_index(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    source = recordings.write_hdf5(tmp_path / "walk.h5", ep_len=None, ep_offset=None)
    require_same(imported(source, tmp_path / "out").dataset)


@pytest.mark.parametrize("tar", [False, True])
def test_archives(tar: bool, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pytest.importorskip("hdf5plugin")
    import tarfile

    (tmp_path / "in").mkdir()
    inner = recordings.write_hdf5(tmp_path / "in/walk.h5")
    if tar:
        with tarfile.open(tmp_path / "walk.tar", "w") as archive:
            archive.add(inner, "folder/walk.h5")
        inner = tmp_path / "walk.tar"
    data = inner.read_bytes()
    frames = [zstandard.ZstdCompressor().compress(part) for part in (data[:5000], data[5000:])]
    source = tmp_path / f"{inner.name}.zst"
    source.write_bytes(b"".join(frames))
    require_same(imported(source, tmp_path / "out").dataset)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


LAYOUTS = {
    "channels first": lambda pixels: pixels.transpose(0, 3, 1, 2),
    "from 0 to 1": lambda pixels: (pixels / 255).astype(np.float32),
    "floats to 255": lambda pixels: pixels.astype(np.float32),
    "int64": lambda pixels: pixels.astype(np.int64),
    "with alpha": lambda pixels: np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_pictures(layout: str, tmp_path: Path) -> None:
    source = recordings.write_npz(tmp_path / "a.npz", pixels=LAYOUTS[layout](recordings.flat()["pixels"]))
    require_same(imported(source, tmp_path / "out").dataset)


def test_actions_beside_the_frame_that_they_lead_to(tmp_path: Path) -> None:
    last = np.full((1, 2), np.nan, np.float32)
    actions = np.concatenate([np.concatenate([last, each.actions]) for each in episodes()])
    require_same(imported(recordings.write_npz(tmp_path / "a.npz", actions=actions), tmp_path / "out").dataset)


def test_frames_are_resized_by_areas(tmp_path: Path) -> None:
    found = imported(recordings.write_npz(tmp_path / "a.npz"), tmp_path / "out", image_size=16)
    assert found.dataset.frames.shape[1:] == (16, 16, 3)


@pytest.mark.parametrize("name", ["ends", "dones"])
def test_where_episodes_end(name: str, tmp_path: Path) -> None:
    flags = np.zeros(recordings.ends()[-1], bool)
    flags[recordings.ends() - 1] = True
    values = {"ends": recordings.ends() - 1, "dones": flags}[name]  # the last rows themselves are understood too
    source = recordings.write_npz(tmp_path / "a.npz", episode_ends=None, **{name: values})
    require_same(imported(source, tmp_path / "out").dataset)


def test_without_a_simulator(tmp_path: Path) -> None:
    found = imported(recordings.write_npz(tmp_path / "a.npz"), tmp_path / "out", env=None)
    require_same(found.dataset)
    meta = found.dataset.meta
    assert meta.env == RECORDED_ID and meta.env_kwargs["state_size"] == 2
    actions = np.concatenate([each.actions for each in episodes()])
    np.testing.assert_allclose(meta.action_low, actions.min(0))
    np.testing.assert_allclose(meta.action_high, actions.max(0))


def test_without_a_simulator_and_states(tmp_path: Path) -> None:
    found = imported(recordings.write_npz(tmp_path / "a.npz", proprio=None), tmp_path / "out", env=None)
    assert found.dataset.states.shape[1] == 1 and not found.dataset.states.any()


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lewm_bench.data.importers import columns, importing

    monkeypatch.setattr(importing, "_CHECKPOINT_BYTES", 1)
    source, read, seen = recordings.write_npz(tmp_path / "a.npz"), columns.Reader.episode, []

    def killed(reader: columns.Reader, number: int):
        seen.append(number)
        if len(seen) == len(episodes()) + 5:  # the first are looked at by the proof
            raise KeyboardInterrupt
        return read(reader, number)

    monkeypatch.setattr(columns.Reader, "episode", killed)
    with pytest.raises(KeyboardInterrupt):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    seen.clear()
    seen += [-1] * 100
    require_same(imported(source, tmp_path / "out").dataset)
    assert seen[100 + len(episodes()) :] == [4, 5, 6, 7]


COLUMNS: dict[str, tuple[dict, Callable[[np.ndarray], dict[str, np.ndarray]]]] = {
    "lewm_bench/PushT-v0": ({}, lambda s: {"state": s[:, :7]}),
    "lewm_bench/Reacher-v0": ({}, lambda s: {"qpos": s[:, :2], "qvel": s[:, 2:]}),
    "lewm_bench/Cube-v0": ({}, lambda s: {"qpos": s[:, :21], "qvel": s[:, 21:41]}),
    "lewm_bench/Scene-v0": ({}, lambda s: {"qpos": s[:, :25], "qvel": s[:, 25:49], "button_states": s[:, 86:]}),
    "lewm_bench/AntMaze-MediumOGBench-v0": ({}, lambda s: {"qpos": s[:, :15], "qvel": s[:, 15:]}),
    "lewm_bench/Wall-v0": ({"legacy": True}, lambda s: {"state": s}),
    "lewm_bench/PointMaze-UMaze-v0": ({}, lambda s: {"state": s}),
}


SLOW = {"lewm_bench/Cube-v0", "lewm_bench/Scene-v0", "lewm_bench/AntMaze-MediumOGBench-v0"}


@pytest.mark.parametrize("env_id", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in COLUMNS])
def test_published_columns_become_states(env_id: str, tmp_path: Path) -> None:
    """Rounded to float32, and for PushT and Cube without what is not published, the simulator still explains the data."""
    kwargs, columns = COLUMNS[env_id]
    try:
        env = make_env(env_id, 32, kwargs)
        data = collect(env, CollectConfig(episodes=8, steps=25), 0, tmp_path / "data", progress=False)
    except NotRun as reason:
        pytest.skip(str(reason))
    found = {name: values.astype(np.float32) for name, values in columns(data.states).items()}
    np.savez(tmp_path / "a.npz", pixels=data.frames, actions=data.actions, episode_ends=data.ends, **found)
    result = import_data(
        Wish(tmp_path / "a.npz", tmp_path / "out", Names()),
        lambda size, more: make_env(env_id, size, more),
        progress=False,
    )
    assert result.dataset.meta.env_kwargs == {"image_size": 32, **kwargs} | env.spec.kwargs
    np.testing.assert_allclose(result.dataset.states[:, :2], data.states[:, :2], rtol=1e-6, atol=1e-6)
    assert disagreement(make_env(env_id, 32, kwargs), result.dataset) == ""
