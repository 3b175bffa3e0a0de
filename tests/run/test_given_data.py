"""A dataset of one's own takes the place of a collected one, in every verb."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recordings
from commands import outcome

Command = Callable[..., tuple[int, str, str]]
TINY = {
    "image_size": 32,
    "lewm.train.steps": 8,
    "lewm.train.batch_size": 4,
    "lewm.frame_skip": 1,
    "lewm.history": 2,
    "planner.num_iterations": 1,
    "planner.num_samples": 8,
    "planner.num_elites": 2,
    "planner.horizon": 1,
    "planner.receding": 1,
    "evaluate.num_pairs": 2,
    "evaluate.goal_offset": "[6]",
    "evaluate.protocol": "clean-1",
    "evaluate.latent_oracle_pairs": 0,
}
SETTINGS = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
MODEL = [part for part in SETTINGS if "=" in part and not part.startswith(("planner.", "evaluate."))]
EXAMINED = ("collapse", "paths", "probe", "open_loop", "retrieval", "maps")
LOOK = [part for each in (*MODEL, f"understanding.examinations=[{','.join(EXAMINED)}]") for part in ("--set", each)]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: outcome(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings.write_npz(tmp_path_factory.mktemp("source") / "walk.npz")


def cells(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]


def test_imported_data_train_plan_and_say_what_they_are(command: Command, source: Path, tmp_path: Path) -> None:
    status, out, err = command("import", "data", source, "--env", recordings.ENV, "--out", "data")
    assert status == 0, err
    assert "pictures: 0 % of the pixels" in out and "states: off by" in out and "legacy=True" in out
    options = ("--suite", "tworoom", "--data", "data", *SETTINGS, "-q")
    status, out, err = command("collect", *options)
    assert status == 0 and "8 episodes" in out, err
    status, out, err = command("run", *options, "--agents", "lewm,random", "--seeds", "0", "--out", "results")
    assert status == 0, err
    found = cells(tmp_path / "results")
    assert [cell["status"] for cell in found] == ["done", "done"]
    assert not list((tmp_path / "cache").glob("dataset*"))
    status, out, err = command("train", "lewm", *options, "--out", "checkpoint")
    assert status == 0, err
    status, out, err = command("evaluate", "lewm", *options, "--checkpoint", "checkpoint")
    assert status == 0 and "lewm" in out, err


VERBS = {
    "collect": ("collect", "--suite", "tworoom", *SETTINGS),
    "run": ("run", "--suite", "tworoom", "--agents", "lewm,noop", "--seeds", "0", "--out", "results", *SETTINGS),
    "train": ("train", "lewm", "--suite", "tworoom", *SETTINGS),
    "evaluate": ("evaluate", "lewm", "--suite", "tworoom", *SETTINGS),
    "tune": ("tune", "lewm", "--suite", "tworoom", "--trials", "2", "--search", "random", "--out", "tuned", *SETTINGS),
    "run, understanding": (
        *("run", "--suite", "understanding-all", "--envs", recordings.ENV, "--agents", "lewm", "--seeds", "0"),
        *("--out", "looked", *LOOK),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_them(verb: str, command: Command, source: Path, tmp_path: Path) -> None:
    given = ("import", "data", source, "--env", recordings.ENV, "--split", "50,25,25", "--out", "data")
    assert command(*given)[0] == 0
    status, _, err = command(*VERBS[verb], "--data", "data", "-q")
    assert status == 0, err
    assert not list((tmp_path / "cache").glob("dataset*"))  # nothing was collected


def test_other_data_are_another_key(command: Command, source: Path, tmp_path: Path) -> None:
    for name, image_size in (("a", 32), ("b", 16)):
        size = ("--image-size", image_size)
        assert command("import", "data", source, "--env", recordings.ENV, "--out", name, *size)[0] == 0
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    folders = []
    for name, size in (("a", 32), ("b", 16), ("c", 32)):
        given = ("--suite", "tworoom", "--data", name, *SETTINGS, "--set", f"image_size={size}", "-q")
        status, out, err = command("train", "lewm", *given)
        assert status == 0, err
        folders.append(out)
    assert folders[0] != folders[1] and folders[0] == folders[2]  # a copy is the same data


def test_without_a_simulator_models_train_and_planning_says_why_it_is_not_scored(
    command: Command, source: Path, tmp_path: Path
) -> None:
    assert command("import", "data", source, "--env", "none", "--out", "robot")[0] == 0
    options = ("--suite", "tworoom", "--data", "robot", *SETTINGS, "-q")
    status, _, err = command("train", "lewm", *options, "--out", "checkpoint")
    assert status == 0, err
    command("run", *options, "--agents", "lewm", "--seeds", "0", "--out", "results")
    (cell,) = cells(tmp_path / "results")
    assert cell["env"] == "robot" and cell["status"] == "not run"
    assert "planning cannot be scored: its data were recorded" in cell["reason"]


@pytest.mark.slow
def test_without_a_simulator_models_are_examined(command: Command, source: Path, tmp_path: Path) -> None:
    assert command("import", "data", source, "--env", "none", "--out", "robot")[0] == 0
    status, _, err = command("train", "lewm", "--suite", "tworoom", "--data", "robot", *SETTINGS, "-q", "--out", "ck")
    assert status == 0, err
    given = ("--suite", "understanding-all", "--env", recordings.ENV, "--data", "robot")
    status, _, err = command("understand", "ck", *given, *LOOK, "-q", "--out", "looked")
    assert status == 0, err
    (cell,) = cells(tmp_path / "looked")
    assert cell["env"] == "robot" and not cell["skipped"] and set(cell["seconds"]) == set(EXAMINED)
    assert cell["open_loop"]["n"] == cell["retrieval"]["n"] > 0
    assert "Finding goals" in (tmp_path / "looked/report.html").read_text()


REFUSED = {
    "another size": (("--suite", "tworoom"), "add --set image_size=32"),
    "another environment": (("--suite", "wall", "--set", "image_size=32"), "not of lewm_bench/Wall-v0"),
    "several environments": (("--suite", "planning", "--set", "image_size=32"), "the data of one environment"),
    "timing": (("--suite", "speedup"), "leave --data out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(case: str, command: Command, source: Path) -> None:
    assert command("import", "data", source, "--env", recordings.ENV, "--out", "data")[0] == 0
    options, line = REFUSED[case]
    status, _, err = command("run", *options, "--data", "data", "-q")
    assert status == 2 and line in err and err.count("\n") == 1


def test_data_that_the_simulator_does_not_do_again(command: Command, source: Path, tmp_path: Path) -> None:
    """A folder that says of itself that it is of TwoRoom and is not."""
    assert command("import", "data", source, "--env", "none", "--out", "data")[0] == 0
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    meta |= {"env": recordings.ENV, "env_kwargs": {"image_size": 32}}
    meta["recipe"]["import"]["known"] = None

    states = np.load(tmp_path / "data/states.npy")
    np.save(tmp_path / "data/states.npy", np.clip(states[::-1], 30, 90))
    (tmp_path / "data/meta.json").write_text(json.dumps(meta))
    status, _, err = command("collect", "--suite", "tworoom", "--data", "data", "--set", "image_size=32")
    assert status == 2 and "does not do again what the data" in err


def cut(path: Path) -> Path:
    data = recordings.write_npz(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def written(**changes) -> Callable[[Path], Path]:
    return lambda path: recordings.write_npz(path, **changes)


def pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"pixels": [1, 2]}))
    return path


MISTAKES = {
    "another environment's name": (
        written(),
        ("--env", "lewm_bench/TwoRom-v0"),
        "did you mean 'lewm_bench/TwoRoom-v0'",
    ),
    "a file that is cut short": (cut, (), "cut short"),
    "a column that is missing": (written(actions=None), (), "no actions; name their column with --actions"),
    "an index that is mixed": (
        written(episode_ends=None, episode_idx=np.arange(recordings.ends()[-1]) % 3),
        (),
        "do not stand together",
    ),
    "pictures that were normalised": (
        written(pixels=(recordings.flat()["pixels"] / 127.5 - 1).astype(np.float32)),
        (),
        "undo the normalisation",
    ),
    "colours in another order": (
        written(pixels=recordings.flat()["pixels"][..., ::-1]),
        (),
        "red and blue are exchanged",
    ),
    "a pickle": (pickled, (), "cannot be read as .npz"),
    "a split of two parts": (written(), ("--split", "80,20"), "--split takes per cent"),
    "a split in words": (written(), ("--split", "most"), "--split takes comma-separated numbers"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_of_the_import_command_is_one_line(case: str, command: Command, tmp_path: Path) -> None:
    write, options, line = MISTAKES[case]
    source = write(tmp_path / "walk.npz")
    status, out, err = command("import", "data", source, "--env", recordings.ENV, "--out", "data", *options)
    assert status == 2 and line in err and err.count("\n") == 1 and not out
    assert [path.name for path in tmp_path.iterdir()] == ["walk.npz"]
