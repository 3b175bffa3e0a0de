"""Folders of the Hugging Face hub, named ``hf:OWNER/NAME``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lewm_bench.core.errors import UserError, short_repr, shortened

PREFIX = "hf:"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

T = TypeVar("T")


def repository_of(named: Path) -> str | None:
    """OWNER/NAME of ``hf:OWNER/NAME``, None for a folder of this machine.

    Raises:
        UserError: what follows ``hf:`` is no repository.
    """
    text = named.as_posix()
    return require_repository(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None


def require_repository(text: str) -> str:
    """``text`` if it is OWNER/NAME; raises a UserError otherwise."""
    if not REPOSITORY.fullmatch(text):
        raise UserError(f"expected a repository of the hub, OWNER/NAME, got {short_repr(text)}")
    return text


def download(repository: str, files: Sequence[str]) -> Path:
    """The folder, in the hub's own cache, with those of ``files`` that a repository has.

    Raises:
        UserError: it cannot be fetched; says how to go without the hub.
    """
    from huggingface_hub import snapshot_download

    offline = (
        f"where there is internet, `hf download {repository} --local-dir FOLDER`, copy FOLDER here and name it in place "
        f"of {PREFIX}{repository}"
    )
    found = _call(
        lambda: snapshot_download(repository, allow_patterns=list(files), etag_timeout=5),
        f"cannot fetch {PREFIX}{repository}",
        offline,
    )
    return Path(found)


def upload(repository: str, files: Mapping[str, Path | bytes], message: str, private: bool, api: Any = None) -> None:
    """Make a repository unless it is there, and put files into it in one commit.

    Args:
        files: name in the repository to file, or to what it holds.
        api: stands in for ``huggingface_hub.HfApi()``.

    Raises:
        UserError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = api or HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]

    def send() -> None:
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.create_commit(repository, operations, commit_message=message)

    _call(send, f"cannot push to {PREFIX}{repository}", "log in with `hf auth login`, and see that you may write there")


def _call(what: Callable[[], T], failure: str, mend: str) -> T:
    """What a call of the hub returns; its errors, and those of the network below it, in one line."""
    from huggingface_hub.errors import HTTPError  # of the client library of this version of the hub

    try:
        return what()
    except (HTTPError, OSError, ValueError) as error:
        reason = shortened(next(iter(str(error).strip().splitlines()), ""), 200)
        raise UserError(f"{failure} ({type(error).__name__}: {reason}); {mend}")
