"""What pydantic refuses, in people's words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lewm_bench.core.errors import UserError, short_repr, unknown

M = TypeVar("M", bound=BaseModel)


def checked(make: Callable[[], M], where: str, model: type[BaseModel]) -> M:
    """``make()``, which fills ``model``; a validation error becomes one line that names the setting.

    ``where`` is the path of the model's own place, empty for the top.
    """
    try:
        return make()
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda e: e["type"] != "extra_forbidden"
        )  # a misspelt key explains a missing one
    parts = [str(p) for p in first["loc"]]
    path = ".".join([where, *parts] if where else parts)
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        prefix = path[: len(path) - len(parts[-1])]
        raise unknown("setting", path, [f"{prefix}{name}" for name in fields_at(model, parts[:-1])])
    if kind == "missing":
        raise UserError(f"{path} is missing")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        raise UserError(f"{path} has settings of its own ({path}.KEY), got {short_repr(value)}")
    reason = first["msg"].removeprefix("Value error, ")
    if kind != "value_error":
        reason = f"{reason.replace('Input should be', 'must be')}, got {short_repr(value)}"
    if kind == "literal_error":
        choices = [part for part in first["ctx"]["expected"].split("'") if part.isprintable()]
        close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
        reason += f"; did you mean {close[0]!r}?" if close else ""
    if kind == "tuple_type":
        reason = f"must be a list, written in brackets, got {short_repr(value)}"
    raise UserError(f"{path}: {reason}" if path else reason)


def fields_at(model: Any, parts: Sequence[str]) -> list[str]:
    """The settings of the model that lies at a path inside ``model``; what stands in brackets of a type is looked into."""
    for part in parts:
        inside = is_model(model) and part in model.model_fields
        model = model.model_fields[part].annotation if inside else model
        while not is_model(model) and (inner := [a for a in get_args(model) if is_model(a) or get_args(a)]):
            model = inner[-1]
    return list(model.model_fields) if is_model(model) else []


def is_model(annotation: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
