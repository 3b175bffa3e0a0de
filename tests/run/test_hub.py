"""``hf:OWNER/NAME`` and ``push`` with a hub that is a folder; and what is said where the real one is out of reach."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from commands import outcome
from released_layout import random_tensors, sizes, write_release

from lewm_bench.core.errors import UserError
from lewm_bench.run import released
from lewm_bench.run.checkpoints import FILES, checkpoint_folder, located
from lewm_bench.run.publishing import page_of, push_checkpoint
from lewm_bench.system import hub
from lewm_bench.system.checkpoint import load_card, save_checkpoint
from lewm_bench.system.store import Store

CARD = {
    "agent": "lewm", "config": {"history": 3}, "env": "lewm_bench/TwoRoom-v0", "image_size": 28, "action_dim": 2,
    "seed": 4, "dataset": "abc", "torch": "2",
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "mine", torch.nn.Linear(2, 3), CARD)
    (tmp_path / "mine" / "training.json").write_text(
        '{"columns": {"loss": [0.9, 0.5], "step": [0, 20]}, "seconds": 12.5, "hardware": {}}', encoding="utf-8"
    )
    return tmp_path / "mine"


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """Repositories of a hub, which are laid out as the hub's cache does: every file a link into a folder beside."""
    there: dict[str, Path] = {}

    def snapshot_download(repository: str, allow_patterns: list[str], etag_timeout: float) -> str:
        cached = tmp_path / "hub" / repository.replace("/", "--")
        snapshot, blobs = cached / "snapshots" / "0123", cached / "blobs"
        for folder in (snapshot, blobs):
            folder.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (there[repository] / name).is_file() and not (snapshot / name).exists():
                shutil.copy(there[repository] / name, blobs / f"blob-of-{name}")
                (snapshot / name).symlink_to(blobs / f"blob-of-{name}")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return there


@pytest.mark.parametrize("text", ["", "me", "me/", "/x", "a/b/c", "../x", "me/..", "me/ x", "-x/y"])
def test_what_is_no_repository_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a repository of the hub, OWNER/NAME"):
        hub.require_repository(text)


def test_a_folder_of_this_machine_is_no_repository() -> None:
    assert hub.repository_of(Path("hf")) is None and hub.repository_of(Path("a/b")) is None
    assert hub.repository_of(Path("hf:me/x.y-z_1")) == "me/x.y-z_1"


def test_our_own_checkpoints_are_fetched(fetched, checkpoint, tmp_path) -> None:
    fetched["me/mine"] = checkpoint
    (checkpoint / "else.bin").touch()
    folder = checkpoint_folder(Path("hf:me/mine"), "", Store(tmp_path / "cache"))
    assert load_card(folder) == CARD and sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_a_release_of_the_authors_is_fetched_and_imported(fetched, tmp_path, monkeypatch) -> None:
    """Its environment is known, and links inside of the hub's cache are allowed."""
    room = "lewm_bench/TwoRoom-v0"
    fetched["quentinll/lewm-tworooms"] = write_release(tmp_path / "r", random_tensors(10, 28), sizes(10, 28))
    statistics = released.ActionStatistics((0.0, 0.0), (1.0, 1.0), "a test")
    monkeypatch.setitem(released.PUBLISHED, room, statistics)
    folder = checkpoint_folder(Path("hf:quentinll/lewm-tworooms"), "", Store(tmp_path / "cache"))
    card = load_card(folder)
    assert card["env"] == room and card["released"]["source"] == "hf:quentinll/lewm-tworooms"


def test_a_link_out_of_the_hubs_folder_is_refused(fetched, tmp_path) -> None:
    fetched["me/x"] = write_release(tmp_path / "r", {}, {})
    origin = located(Path("hf:me/x"))
    (origin.folder / "config.json").unlink()
    (origin.folder / "config.json").symlink_to(tmp_path / "r" / "config.json")
    with pytest.raises(UserError, match="is a link that leaves"):
        released.read_released(origin.folder, origin.root)


def test_a_repository_without_a_checkpoint_is_said_so(fetched, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "empty").mkdir()
    fetched["me/empty"] = tmp_path / "empty"
    status, _, err = outcome(monkeypatch, capsys, "evaluate", "lewm", "--checkpoint", "hf:me/empty")
    assert status == 2 and "is not a checkpoint: it has no card.json" in err


@pytest.mark.parametrize(
    "verb",
    [
        ("evaluate", "lewm", "--checkpoint", "hf:me/x"),
        ("understand", "hf:me/x"),
        ("speed", "--checkpoint", "hf:me/x"),
        ("export", "lewm-weights", "hf:me/x", "--out", "out"),
        ("import", "lewm-weights", "hf:me/x", "--out", "out", "--env", "lewm_bench/PushT-v0"),
    ],
)
def test_offline_every_verb_tells_the_way_without_the_hub(verb, tmp_path) -> None:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    environment |= {"LEWM_BENCH_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "lewm_bench", *verb],
        check=False, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert "cannot fetch hf:me/x" in line and "`hf download me/x --local-dir FOLDER`" in line
    assert not (tmp_path / "out").exists()


class FakeHub:
    """What ``push`` asks of ``huggingface_hub.HfApi``, remembered."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[SimpleNamespace] = []
        self.error = error

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        if self.error:
            raise self.error
        self.calls.append(SimpleNamespace(made=repository, private=private, exist_ok=exist_ok))

    def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> None:
        files = {o.path_in_repo: o.path_or_fileobj for o in operations}
        self.calls.append(SimpleNamespace(repository=repository, files=files, message=commit_message))


@pytest.mark.parametrize("name", ["create_repo", "create_commit"])
def test_the_stand_in_is_asked_as_the_hub_can_be(name: str) -> None:
    """Every argument that ``push`` gives is one of the real interface."""
    theirs = inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters
    ours = inspect.signature(getattr(FakeHub, name)).parameters
    assert {n for n, p in ours.items() if p.kind is p.KEYWORD_ONLY} <= set(theirs)
    assert [p.kind for p in ours.values() if p.kind is not p.KEYWORD_ONLY] == [
        p.kind for p in list(theirs.values())[: len(ours)] if p.kind is not p.KEYWORD_ONLY
    ]


def test_a_checkpoint_is_pushed_in_one_commit_with_a_page(checkpoint) -> None:
    (checkpoint / "secret.txt").touch()
    fake = FakeHub()
    push_checkpoint(checkpoint, "me/mine", True, fake)
    made, commit = fake.calls
    assert (made.made, made.private, made.exist_ok) == ("me/mine", True, True)
    assert commit.repository == "me/mine" and set(commit.files) == {*FILES, "README.md"}
    assert Path(commit.files["card.json"]).read_bytes() == (checkpoint / "card.json").read_bytes()
    page = commit.files["README.md"].decode()
    assert page.startswith("---\nlibrary_name: lewm-bench\n") and "# lewm in lewm_bench/TwoRoom-v0" in page
    for part in (
        "lewm-bench evaluate lewm --env lewm_bench/TwoRoom-v0 --seed 4 --checkpoint hf:me/mine",
        "| image_size | 28 |", "| seconds of training | 12.5 |", "| loss at the end | 0.5 |", '"history": 3',
    ):  # fmt: skip
        assert part in page, part


def test_a_page_says_where_released_weights_are_from() -> None:
    source = {"source": "hf:a|b", "action_statistics": "x"}
    page = page_of(CARD | {"released": source, "seed": None}, {}, "me/x")
    assert '"source": "hf:a\\|b"' in page and "--seed 0" in page and "| seed |" not in page


def test_nothing_is_pushed_that_is_no_checkpoint(checkpoint, tmp_path) -> None:
    fake = FakeHub()
    with pytest.raises(UserError, match="OWNER/NAME"):
        push_checkpoint(checkpoint, "mine", False, fake)
    with pytest.raises(UserError, match="is not a checkpoint"):
        push_checkpoint(tmp_path, "me/mine", False, fake)
    (tmp_path / "elsewhere.json").write_bytes((checkpoint / "training.json").read_bytes())
    (checkpoint / "training.json").unlink()
    (checkpoint / "training.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match="is a link that leaves"):
        push_checkpoint(checkpoint, "me/mine", False, fake)
    (checkpoint / "training.json").unlink()
    (checkpoint / "card.json").write_text("{}")
    with pytest.raises(UserError, match="does not name agent and environment"):
        push_checkpoint(checkpoint, "me/mine", False, fake)
    (checkpoint / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="is damaged"):
        push_checkpoint(checkpoint, "me/mine", False, fake)
    assert not fake.calls


def test_a_hub_that_refuses_is_one_line(checkpoint) -> None:
    with pytest.raises(
        UserError, match=r"cannot push to hf:me/mine \(OSError: Token is required\); log in with `hf auth"
    ):
        push_checkpoint(checkpoint, "me/mine", False, FakeHub(OSError("Token is required\nsee there")))
