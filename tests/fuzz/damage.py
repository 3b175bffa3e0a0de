"""Ways to damage bytes, JSON values and files, each drawn from a generator."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from random import Random
from typing import Any

NASTY_BYTES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\x1b[2J",
    b"\xed\xa0\x80",
    b"\t",
    b"\xe2\x80\xa8",
    b"9" * 5000,
]

NASTY_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.5, 1e308, 5e-324, float("nan"), float("inf"),
    float("-inf"), "", "x", "nan", "inf", "-1", "1e-3", "2020-02-30", "a\nb", "\x1b[2J", "\u2028", "\ud800", "\x00",
    "../../x", "/etc/passwd", "<b>&", "x" * 3000, "$\\frac", "%s{}", [], [[]], {}, {"a": 1}, [None], ["x"], [1, "x"],
]  # fmt: skip


def bytes_of(data: bytes, rng: Random) -> bytes:
    """``data`` with one to three damages."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        place = rng.randrange(len(data) + 1)
        length = rng.choice([1, 1, 4, 40])
        how = rng.randrange(6)
        if how == 0 and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        elif how == 1:
            data = data[:place] + data[place + length :]
        elif how == 2:
            data = data[:place] + rng.choice(NASTY_BYTES) + data[place:]
        elif how == 3:
            data = data[:place] + rng.randbytes(length) + data[place:]
        elif how == 4:
            data = data[:place]
        else:
            data = data[:place] + data[place : place + 40] + data[place:]
    return data


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def json_of(value: Any, rng: Random) -> Any:
    """``value`` with one to three places replaced, dropped, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        *above, last = rng.choice(places(value)[1:] or [(None,)])
        if last is None:
            return rng.choice(NASTY_VALUES)
        inner = value
        for key in above:
            inner = inner[key]
        how = rng.randrange(8)
        if how == 0:
            del inner[last]
        elif how == 1 and isinstance(inner, dict):
            inner[rng.choice(["", "surprise", "\n", "x" * 500, "é"])] = inner.pop(last)
        elif how == 2 and isinstance(inner, list):
            inner.insert(last, copy.deepcopy(inner[last]))
        elif how == 3 and isinstance(inner[last], (int, float)) and not isinstance(inner[last], bool):
            inner[last] = rng.choice([-inner[last], inner[last] * 1000, inner[last] + 0.5, str(inner[last])])
        else:
            inner[last] = copy.deepcopy(rng.choice(NASTY_VALUES))
    return value


def json_text(value: Any, rng: Random) -> bytes:
    """A damaged value as JSON, or its text damaged."""
    if rng.random() < 0.25:
        return bytes_of(json.dumps(value).encode(), rng)
    return json.dumps(json_of(value, rng)).encode("utf-8", "surrogatepass")


def replaced(path: Path, rng: Random) -> str:
    """Something that is no good file in the place of one; its name."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    kind = rng.choice(KINDS)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.write(content)
            file.truncate(2**40)
    elif kind == "empty":
        path.touch()
    elif kind == "mark":
        path.write_bytes(b"\xef\xbb\xbf" + content)
    elif kind == "wide":
        path.write_bytes(content.decode("latin-1").encode("utf-16"))
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    return kind


KINDS = ["folder", "pipe", "loop", "dangling", "device", "huge", "empty", "mark", "wide", "zeros", "missing"]
