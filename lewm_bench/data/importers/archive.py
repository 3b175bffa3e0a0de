"""Archives: ``.zst`` of one file and ``.tar.zst`` of a folder, unpacked into a scratch folder."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lewm_bench.core.errors import UserError
from lewm_bench.system.extras import require
from lewm_bench.system.files import disk_errors

PIECE = 1 << 20
SUFFIXES = (".zst", ".tar")


def is_archive(path: Path) -> bool:
    """Whether a file must be unpacked first, by its name."""
    return path.suffix in SUFFIXES


def unpacked(path: Path, folder: Path) -> Path:
    """What is in an archive, put into an empty folder: the file or folder itself if it is the only one there.

    Raises:
        UserError: it is cut short or damaged, or would write outside of ``folder``.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True)
        inner = path
        if path.suffix == ".zst":
            inner = folder / path.stem
            with path.open("rb") as file, inner.open("wb") as out:
                for piece in _decompressed(file, path):
                    out.write(piece)
        if inner.suffix == ".tar":
            _extract(inner, path, folder)
            if inner is not path:
                inner.unlink()
    while folder.is_dir() and len(found := sorted(folder.iterdir())) == 1 and folder.suffix != ".lance":
        folder = found[0]
    return folder


def _decompressed(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The content of a .zst file. The library takes a file that ends too early for a short one, hence by frames."""
    zstandard = require("zstandard", "importing .zst archives")
    frame, data = zstandard.ZstdDecompressor().decompressobj(), b""
    try:
        while data := data or file.read(PIECE):
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise UserError(f"{path} is damaged ({error}); download it again")
    if not frame.eof:
        raise UserError(f"{path} is cut short; download it again")


def _extract(tar: Path, path: Path, folder: Path) -> None:
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                target = (folder / member.name).resolve()
                if not target.is_relative_to(folder.resolve()) or not (member.isfile() or member.isdir()):
                    raise UserError(
                        f"{path} holds {member.name!r}, which is a link or leads out of the folder; not unpacked"
                    )
                if member.isfile():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _copy(archive.extractfile(member), target)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); download it again")


def _copy(source: IO[bytes] | None, target: Path) -> None:
    assert source is not None
    with target.open("wb") as out:
        while piece := source.read(PIECE):
            out.write(piece)
