"""Records in files: read, checked for their schema, told in a line where they are damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lewm_bench.core.config import Record
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.reading import json_of, model_of, read_text
from lewm_bench.system.packed import MEND

R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R], schema: int, what: str, strict: bool = True) -> R:
    """The record of a kind in a file; ``what`` names the kind for people, ``strict`` takes no text for a number.

    Raises:
        UserError: it cannot be read, or is not a record of this kind and schema.
    """
    return record_of(read_text(path, MEND), path, kind, schema, what, strict)


def record_of(text: str, path: Path, kind: type[R], schema: int, what: str, strict: bool = True) -> R:
    """The record in a text that was read from ``path``; raises what ``read_record`` does."""
    check_schema(json_of(text, path, MEND), schema, path, what, MEND)
    return model_of(text, kind, path, MEND, strict)


def check_schema(data: Any, schema: int, path: Path, what: str, mend: str) -> None:
    """Raise a UserError unless ``data``, read from ``path``, is an object of this schema."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or version != schema:
        raise UserError(
            f"{path} is not {what} of schema {schema} (its schema_version is {short_repr(version)}); {mend}"
        )


def json_in_lines(data: Mapping[str, Any]) -> str:
    """A mapping as JSON with a line per key, and per element of what is a list of mappings.

    Differences of two files can then be read, and a file of a thousand numbers is not a thousand lines.
    """
    return "{" + ",".join(f"\n{json.dumps(key)}: {_value(value)}" for key, value in data.items()) + "\n}\n"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        return "[" + ",".join(f"\n {json.dumps(each)}" for each in value) + "\n]"
    return json.dumps(value)
