"""The cells of a results folder: a JSON file each, or all of them in one compressed file, a line each.

A run writes files, which are read while it goes on; a repository and an archive hold the packed ones, a tenth in size.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import LARGEST_TEXT, json_of, read_bytes, read_text
from lewm_bench.system.files import write_bytes

CELLS, PACKED = "cells", "cells.jsonl.xz"
MEND = "delete it and run again"
NAMES = ("env", "agent", "seed", "profile", "protocol")  # what tells cells apart


def cell_texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """The JSON of each cell in a results folder and the file it is in; packed ones first, so that newer files win.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    packed, paths = folder / PACKED, sorted((folder / CELLS).glob("*.json"))
    if not paths and not packed.is_file():
        raise UserError(f"no cells in {folder / CELLS}; run `lewm-bench run --suite NAME` first")
    if packed.is_file():
        yield from ((packed, line) for line in _unpacked(packed).splitlines() if line)
    yield from ((path, read_text(path, MEND)) for path in paths)


def cell_kinds(folder: Path) -> set[str | None]:
    """The kinds that the cells of a results folder say they are of; unreadable ones do not tell."""
    kinds: set[str | None] = set()
    with suppress(UserError):
        for path, text in cell_texts(folder):
            with suppress(UserError):
                data = json_of(text, path, MEND)
                kinds.add(data.get("kind") if isinstance(data, dict) else None)
    return kinds


def write_packed(folders: Iterable[Path], target: Path) -> Path:
    """All cells of results folders in one file in ``target``; of two of one name the later.

    Everything is kept but for what no clock tells: times are rounded to the microsecond, which halves the file.

    Raises:
        UserError: what ``cell_texts`` raises, and for what is no cell.
    """
    cells = {}
    for path, text in (each for folder in folders for each in cell_texts(folder)):
        cell = json_of(text, path, MEND)
        if not isinstance(cell, dict):
            raise UserError(f"{path} is not a cell; {MEND}")
        cells[tuple(str(cell.get(name)) for name in NAMES)] = _rounded(cell)
    lines = "".join(json.dumps(cells[key], separators=(",", ":")) + "\n" for key in sorted(cells))
    write_bytes(target / PACKED, lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))
    return target / PACKED


def _rounded(value: Any, name: str = "") -> Any:
    """``value`` with the numbers below keys that end with ``seconds`` rounded to six decimals."""
    if isinstance(value, dict):
        return {key: _rounded(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each, name) for each in value]
    return round(value, 6) if isinstance(value, float) and name.endswith("seconds") else value


def _unpacked(path: Path) -> str:
    """The text in a compressed file, of which no more is unpacked than any text may have."""
    mend = "get it again"
    data, reader = read_bytes(path, mend), lzma.LZMADecompressor()
    try:
        text = reader.decompress(data, max_length=LARGEST_TEXT)
        if not reader.eof:
            raise UserError(f"{path} is damaged (it is cut off, or has more than {LARGEST_TEXT} bytes); {mend}")
        return text.decode()
    except (lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); {mend}")
