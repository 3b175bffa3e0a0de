"""What cannot be imported is refused in one line, and nothing is written."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recordings
import torch
from recordings import ENV, ends, flat

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.data.importers import Names, Wish, import_data
from lewm_bench.run.environments import make_env


def refused(source: Path, env: str | None = ENV, **fields: object) -> str:
    """The line that an import ends with; nothing is left in the folder of the source."""
    names = Names(**{name: fields.pop(name) for name in ("pixels", "actions", "states", "episodes") if name in fields})
    before = sorted(source.parent.rglob("*"))
    make = None if env is None else (lambda size, kwargs: make_env(env, size, kwargs))
    with pytest.raises((UserError, NotRun)) as error:
        import_data(Wish(source, source.parent / "out", names, **fields), make, progress=False)
    assert sorted(source.parent.rglob("*")) == before
    return str(error.value)


def pictures(change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return change(flat()["pixels"])


def actions_with_gap() -> np.ndarray:
    actions = flat()["action"].copy()
    actions[3] = np.nan
    return actions


PLAIN: dict[str, tuple[dict[str, np.ndarray | None], dict[str, object], str]] = {
    "no pictures": ({"pixels": None}, {}, "no pictures"),
    "two columns of pictures": (
        {"pixels": None, "left": pictures(np.array), "right": pictures(np.array)},
        {},
        "several columns of pictures (left, right)",
    ),
    "no actions": ({"actions": None}, {}, "no actions"),
    "actions of another size": ({"actions": np.zeros((ends()[-1], 3))}, {}, "3 numbers, but an action"),
    "actions that are pictures": ({}, {"actions": "pixels"}, "not flat vectors"),
    "an action is missing": ({"actions": actions_with_gap()}, {}, "of episode 0 is not finite at step 3"),
    "actions that are too few": ({"actions": flat()["action"][:40]}, {}, "cut short"),
    "no ends": ({"episode_ends": None}, {}, "does not say where episodes end"),
    "ends beyond the rows": ({"episode_ends": ends() + 5}, {}, "must increase to the number of rows"),
    "ends that go back": ({"episode_ends": ends()[::-1]}, {}, "must increase"),
    "float ends": ({"episode_ends": ends().astype(float)}, {}, "as integers"),
    "a mixed index": ({"episode_ends": None, "episode_idx": np.arange(ends()[-1]) % 3}, {}, "do not stand together"),
    "an unfinished episode": ({"episode_ends": None, "dones": np.arange(ends()[-1]) == 5}, {}, "has no end"),
    "normalised pictures": ({"pixels": pictures(lambda p: (p / 127.5 - 1).astype(np.float32))}, {}, "undo the norm"),
    "floats that leave their range later": (
        {"pixels": pictures(lambda p: p / 255 * np.where(np.arange(len(p)) < 60, 1, 2)[:, None, None, None])},
        {},
        "outside of 0 to 1",
    ),
    "pictures of objects": ({"pixels": np.array([None] * ends()[-1])}, {}, "Python objects"),
    "wide pictures": ({"pixels": pictures(lambda p: p[:, :20])}, {}, "--image-size"),
    "tiny frames": ({}, {"image_size": 8}, "16 to 4096"),
    "red and blue exchanged": ({"pixels": pictures(lambda p: p[..., ::-1])}, {}, "red and blue are exchanged"),
    "pictures of other states": ({"pixels": pictures(lambda p: np.roll(p, 5, 0))}, {}, "pixels of its typical picture"),
    "actions of other steps": ({"actions": -flat()["action"]}, {}, "of the movement in one step is not explained"),
    "states of another size": ({"proprio": np.zeros((ends()[-1], 5))}, {}, "no column that is the state of"),
    "states that are not finite": ({"proprio": flat()["proprio"] * np.nan}, {}, "not finite"),
    "an unknown column": ({}, {"pixels": "pixel"}, "did you mean 'pixels'?"),
    "an unknown column of ends": ({}, {"episodes": "ends"}, "no column 'ends' for --episodes"),
    "an unknown format": ({}, {"kind": "hdf"}, "did you mean 'hdf5'?"),
    "frames of one episode each": (
        {"episode_ends": None, "episode_idx": np.arange(ends()[-1])},
        {},
        "no episode of two",
    ),
    "another environment": ({}, {"env": "lewm_bench/Wall-v0"}, "is not of lewm_bench/Wall-v0"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_data(case: str, tmp_path: Path) -> None:
    changes, fields, line = PLAIN[case]
    assert line in refused(recordings.write_npz(tmp_path / "a.npz", **changes), **fields)


HDF5 = {
    "lengths that do not add up": ({"ep_len": np.array([3, 4], np.int32)}, "adds up to 7 rows"),
    "other offsets": ({"ep_offset": ends()}, "contradict each other"),
    "another index": ({"episode_idx": np.arange(ends()[-1]) // 4}, "episode_idx and ep_len contradict"),
    "an empty episode": ({"ep_len": np.append(np.diff(ends(), prepend=0), 0)}, "without rows"),
}


@pytest.mark.parametrize("case", HDF5)
def test_hdf5(case: str, tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    changes, line = HDF5[case]
    assert line in refused(recordings.write_hdf5(tmp_path / "a.h5", **changes))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["npz", "h5", "h5.zst"])
def test_files_that_are_cut_short(kind: str, share: float, tmp_path: Path) -> None:
    if kind == "npz":
        data = recordings.write_npz(tmp_path / "whole.npz").read_bytes()
    else:
        pytest.importorskip("hdf5plugin")
        data = recordings.write_hdf5(tmp_path / "whole.h5").read_bytes()
    if kind == "h5.zst":
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    source = tmp_path / f"cut.{kind}"
    source.write_bytes(data[: int(share * len(data))])
    assert any(word in refused(source) for word in ("cut short", "damaged"))


def test_archives_that_lead_out_of_their_folder(tmp_path: Path) -> None:
    link = tarfile.TarInfo("walk.h5")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    up = tarfile.TarInfo("../../walk.h5")
    up.size = 3
    for number, member in enumerate((link, up)):
        source = tmp_path / f"{number}.tar"
        with tarfile.open(source, "w") as archive:
            archive.addfile(member, io.BytesIO(b"abc") if member is up else None)
        assert "leads out of the folder" in refused(source)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_tars_that_are_cut_short(packed: bool, share: float, tmp_path: Path) -> None:
    """Cut before packing, so that the packed file itself is whole."""
    pytest.importorskip("hdf5plugin")
    inner = recordings.write_hdf5(tmp_path / "walk.h5")
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        archive.add(inner, "walk.h5")
    data = (tmp_path / "whole.tar").read_bytes()
    data = data[: int(share * len(data))]
    if packed:
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    source = tmp_path / f"cut.tar{'.zst' if packed else ''}"
    source.write_bytes(data)
    assert any(word in refused(source) for word in ("cut short", "damaged"))


def test_hard_links_and_devices_in_archives(tmp_path: Path) -> None:
    for number, kind in enumerate((tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        member = tarfile.TarInfo("walk.h5")
        member.type, member.linkname = kind, "../../walk.h5"
        source = tmp_path / f"{number}.tar"
        with tarfile.open(source, "w") as archive:
            archive.addfile(member)
        assert "leads out of the folder" in refused(source)


@pytest.mark.parametrize("how", ["raw bytes of another file", "a view of another file", "a link to another file"])
def test_hdf5_that_reads_other_files(how: str, tmp_path: Path) -> None:
    """A downloaded file must not show what else lies on the disk."""
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("hdf5plugin")
    secret = recordings.write_hdf5(tmp_path / "secret.h5")
    source = recordings.write_hdf5(tmp_path / "walk.h5")
    with h5py.File(source, "a") as file:
        shape, dtype = file["proprio"].shape, file["proprio"].dtype
        del file["proprio"]
        if how.startswith("raw"):
            size = dtype.itemsize * int(np.prod(shape))
            file.create_dataset("proprio", shape, dtype, external=[(str(secret), 0, size)])
        elif how.startswith("a view"):
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(secret), "proprio", shape)
            file.create_virtual_dataset("proprio", layout)
        else:
            file["proprio"] = h5py.ExternalLink(str(secret), "proprio")
    assert any(word in refused(source) for word in ("another file", "no column that is the state"))


def test_minari_that_reads_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    source = recordings.write_minari(tmp_path / "minari", monkeypatch)
    with h5py.File(source / "data/main_data.hdf5", "a") as file:
        values = file["episode_0/actions"]
        shape, dtype, size = values.shape, values.dtype, values.nbytes
        del file["episode_0/actions"]
        file["episode_0"].create_dataset("actions", shape, dtype, external=[(__file__, 0, size)])
    assert "lies in another file" in refused(source)


def test_pickles_in_place_of_arrays(tmp_path: Path) -> None:
    """Nothing in them is ever executed."""
    marks = tmp_path / "executed"
    payload = pickle.dumps(Exploit(str(marks)))
    for name in ("a.npz", "a.pkl", "a.h5"):
        source = tmp_path / name
        source.write_bytes(payload)
        refused(source)
    np.savez(tmp_path / "b.npz", pixels=np.array([Exploit(str(marks))], dtype=object), actions=np.zeros((1, 2)))
    assert "Python objects" in refused(tmp_path / "b.npz")
    assert not marks.exists()


class Exploit:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("content", [b"", b"not a known format"])
def test_unknown_files(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "file.bin"
    source.write_bytes(content)
    assert ("is empty" if not content else "of no known format") in refused(source)


def test_nothing_there(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing.npz")
    (tmp_path / "empty").mkdir()
    assert "of no known format" in refused(tmp_path / "empty")


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    assert "is there already" in refused(recordings.write_npz(tmp_path / "a.npz"))


def test_lerobot_of_another_version_and_incomplete_copies(tmp_path: Path) -> None:
    source = recordings.write_lerobot(tmp_path / "walk")
    (source / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    assert "copy the data set again" in refused(source)
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    assert "LeRobot v2.1; convert it" in refused(source)


def test_dino_wm_with_objects_in_place_of_tensors(tmp_path: Path) -> None:
    source = recordings.write_dino_wm(tmp_path / "walk", video=False)
    assert "obses/episode_003" in refused_without(source / "obses/episode_003.pth", source)
    torch.save({"a": 1}, source / "states.pth")
    assert "holds a dict, not one tensor" in refused(source)
    (source / "states.pth").write_bytes(pickle.dumps(print))
    assert "cannot be read as a tensor" in refused(source)


def refused_without(part: Path, source: Path) -> str:
    """The line that an import without a file of the source ends with."""
    kept = part.read_bytes()
    part.unlink()
    try:
        return refused(source)
    finally:
        part.write_bytes(kept)


def test_lance_that_is_damaged(tmp_path: Path) -> None:
    source = recordings.write_lance(tmp_path / "walk.lance")
    for path in (source / "data").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in refused(source) or "cannot be" in refused(source)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    source = tmp_path / "a.h5.zst"
    source.write_bytes(b"(")
    assert "pip install 'lewm-bench[data]'" in refused(source)
