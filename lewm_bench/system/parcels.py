"""Stages on their way between caches: a folder as the bytes of an archive."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lewm_bench.system.scratch import mark
from lewm_bench.system.store import Mirror, Store

Parcel = dict[str, np.ndarray]
"""Archives as bytes, by KIND/KEY of their stages."""


class Recording(Store):
    """A store that remembers which stages were asked for."""

    def __init__(self, root: Path, mirror: Mirror | None = None) -> None:
        super().__init__(root, mirror=mirror)
        self.touched: dict[Path, None] = {}

    def find(self, kind: str, spec: dict[str, Any]) -> Path | None:
        found = super().find(kind, spec)
        if found is not None:
            self.touched[found] = None
        return found

    def stage(
        self,
        kind: str,
        spec: dict[str, Any],
        build: Callable[[Path], object],
        read: Callable[[Path], object] = lambda folder: None,
    ) -> Path:
        folder = super().stage(kind, spec, build, read)
        self.touched[folder] = None
        return folder


def pack(folders: Iterable[Path], root: Path) -> Parcel:
    """Finished stages of the cache ``root``."""
    parcel: Parcel = {}
    for folder in folders:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(folder, arcname=".")
        parcel[folder.relative_to(root).as_posix()] = np.frombuffer(archive.getbuffer(), np.uint8)
    return parcel


def unpack(parcel: Parcel, root: Path) -> None:
    """Put stages that the cache ``root`` lacks into it."""
    for name, archive in parcel.items():
        if not (root / name).is_dir():
            extract(io.BytesIO(archive.data), root / name)


def extract(archive: io.BufferedIOBase, folder: Path) -> None:
    """The stage in an archive, complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=mark(), dir=folder.parent) as scratch, tarfile.open(fileobj=archive) as tar:
        work = Path(scratch) / "stage"
        tar.extractall(work, filter="data")
        if not folder.is_dir():  # somebody else may have been faster, with the same
            os.replace(work, folder)
