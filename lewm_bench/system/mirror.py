"""Stages of a cache in a place that every machine reaches: a folder or an object store, by its URL (fsspec)."""

from __future__ import annotations

import logging
import tarfile
import uuid
from pathlib import Path
from typing import Any

import fsspec

from lewm_bench.core.errors import UserError
from lewm_bench.system.faults import result_or_error
from lewm_bench.system.files import StorageError
from lewm_bench.system.parcels import extract

logger = logging.getLogger(__name__)


class Mirror:
    """A ``lewm_bench.system.store.Mirror`` at a URL such as ``s3://bucket/lewm`` or ``file:///shared/lewm``."""

    def __init__(self, url: str) -> None:
        """Find out how to reach it.

        Raises:
            UserError: there is no such kind of place, or its package is not installed.
        """
        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(f"--storage {url}: {error}")

    def require_writable(self) -> None:
        """Write, read and delete a small file.

        Raises:
            UserError: that cannot be done.
        """
        found = result_or_error(self._written_back)  # every kind of storage raises its own
        if isinstance(found, Exception):
            raise UserError(f"--storage {self.url} cannot be written: {_told(found)}")
        if not found:
            raise UserError(f"--storage {self.url} does not give back what is written there; choose another")

    def _written_back(self) -> bool:
        path = f"{self._root}/.lewm-bench-{uuid.uuid4().hex}"
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(path, b"1")
        right = self._files.cat_file(path) == b"1"
        self._files.rm_file(path)
        return right

    def fetch(self, folder: Path) -> bool:
        """Make the stage ``folder`` from its archive; False where there is none."""
        path = self._archive(folder)
        try:
            if not self._files.exists(path):
                return False
            with self._files.open(path, "rb") as archive:
                extract(archive, folder)
        except tarfile.TarError as error:
            logger.warning("%s is damaged (%s); the stage is built again", path, _told(error))
            return False
        except OSError as error:
            raise StorageError(f"--storage {self.url} cannot be read: {_told(error)}")
        return True

    def publish(self, folder: Path) -> None:
        """Write the archive of a stage, under its name only once it is whole.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._archive(folder)
        beside = f"{path}.{uuid.uuid4().hex}"
        try:
            if self._files.exists(path):
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.open(beside, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                tar.add(folder, arcname=".")
            self._files.mv(beside, path)
        except OSError as error:
            raise StorageError(f"--storage {self.url} cannot be written: {_told(error)}")

    def _archive(self, folder: Path) -> str:
        return f"{self._root}/{folder.parent.name}/{folder.name}.tar"

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, (self.url,)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
