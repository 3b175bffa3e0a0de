"""Files: the old content or the new one, and one line when neither can be had."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading

import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.system import files
from lewm_bench.system.files import (
    StorageError,
    checksum,
    copy_folder,
    disk_errors,
    make_folder,
    write_bytes,
    write_text,
)


def test_bytes_and_text_arrive_with_their_folders(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\xff")
    write_text(tmp_path / "a" / "t.txt", "maß\n")
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a/t.txt").read_bytes() == "maß\n".encode()
    assert (tmp_path / "a/t.txt").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["c.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, step, number):
    path = tmp_path / "kept.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(StorageError) as raised:
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert ("free some space" in str(raised.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert isinstance(raised.value, UserError)


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, sizes, stop = tmp_path / "shared", set(), threading.Event()
    write_bytes(path, b"0" * 100_000)

    def read():
        while not stop.is_set():
            data = path.read_bytes()
            sizes.add((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 30):
        write_bytes(path, bytes([48 + number]) * 100_000)
    stop.set()
    reader.join()
    assert sizes == {(100_000, 1)}


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="a file is in its way"):
            make_folder(folder)
    with pytest.raises(StorageError, match="a file is in its way"):
        write_text(tmp_path / "file" / "below.txt", "x")
    with pytest.raises(StorageError, match="a folder is in its way"):
        write_text(tmp_path / "folder", "x")
    make_folder(tmp_path / "new" / "one")
    make_folder(tmp_path / "new" / "one")
    assert not list((tmp_path / "new" / "one").iterdir())


def test_a_folder_that_takes_no_files_is_found_out(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fail)
    with pytest.raises(StorageError, match="choose another folder"):
        make_folder(tmp_path)


def test_other_errors_pass():
    with pytest.raises(FileNotFoundError), disk_errors("x"):
        open("a file that is not there")  # noqa: SIM115
    with pytest.raises(ZeroDivisionError), disk_errors("x"):
        1 / 0  # noqa: B018


LINES = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "choose another folder with --out or --cache",
    errno.ENOLCK: "has no locks",
    errno.ENOSYS: "has no locks",
    errno.ENAMETOOLONG: "is too long for its file system; choose a shorter",
    errno.EIO: "failed (Input/output error)",
    errno.ESTALE: "failed",
    errno.EMFILE: "ulimit -n",
}


@pytest.mark.parametrize("number", LINES)
def test_what_a_disk_or_file_system_refuses_has_its_own_line(tmp_path, number):
    with pytest.raises(StorageError) as raised, disk_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert LINES[number] in str(raised.value) and str(tmp_path / "x") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_too_long_for_the_disk_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="too long"):
        make_folder(tmp_path / ("x" * 256))


def test_somebody_elses_file_is_not_taken_for_ours(tmp_path):
    """Else an agent that may not read its own file would stop the whole suite, and be told to choose another cache."""
    elsewhere = str(tmp_path / "theirs" / "weights")
    with pytest.raises(PermissionError), disk_errors(tmp_path / "cache" / "kind" / "key"):
        raise PermissionError(errno.EACCES, "Permission denied", elsewhere)
    for ours in ("cache/kind/key.partial/x", "cache/kind", "cache"):
        with pytest.raises(StorageError), disk_errors(tmp_path / "cache" / "kind" / "key"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ours))


def test_a_folder_is_copied_onto_others_and_onto_itself(tmp_path, monkeypatch):
    write_text(tmp_path / "a" / "b" / "x", "new")
    write_text(tmp_path / "to" / "b" / "x", "old")
    write_text(tmp_path / "to" / "y", "kept")
    for source in ("a", "to"):
        copy_folder(tmp_path / source, tmp_path / "to")
    assert [(tmp_path / "to" / name).read_text() for name in ("b/x", "y")] == ["new", "kept"]

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="free some space"):
        copy_folder(tmp_path / "a", tmp_path / "other")


@pytest.mark.parametrize("link", ["file", "folder", "absolute"])
def test_a_link_that_leaves_the_results_is_not_copied(tmp_path, link):
    write_text(tmp_path / "secret" / "x.gif", "secret")
    write_text(tmp_path / "a" / "kept" / "y.gif", "mine")
    (tmp_path / "a" / "videos").mkdir()
    (tmp_path / "a" / "videos" / "y.gif").symlink_to("../kept/y.gif")
    copy_folder(tmp_path / "a" / "videos", tmp_path / "b")
    assert [(p.name, p.read_text()) for p in (tmp_path / "b").iterdir()] == [("y.gif", "mine")]
    if link == "folder":
        shutil.rmtree(tmp_path / "a" / "videos")
        (tmp_path / "a" / "videos").symlink_to(tmp_path / "secret")
    else:
        target = tmp_path / "secret" / "x.gif" if link == "absolute" else "../../secret/x.gif"
        (tmp_path / "a" / "videos" / "x.gif").symlink_to(target)
    with pytest.raises(UserError, match="is a link that leaves") as raised:
        copy_folder(tmp_path / "a" / "videos", tmp_path / "b")
    assert "x.gif" in str(raised.value) and not (tmp_path / "b" / "x.gif").exists()


def test_checksum(tmp_path):
    data = bytes(range(256)) * 5000  # more than one block
    write_bytes(tmp_path / "x", data)
    assert checksum(tmp_path / "x") == hashlib.sha256(data).hexdigest()
