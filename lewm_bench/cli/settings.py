"""The settings as text: paths, what values they take, defaults and descriptions, read from the classes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError, unknown
from lewm_bench.core.names import parse_agent, written
from lewm_bench.core.renamed import RENAMED, renamed
from lewm_bench.data.adapt_config import Adapt
from lewm_bench.run.benchmarks import Benchmarks
from lewm_bench.run.names import agent_names
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import configure, split_path, split_settings
from lewm_bench.run.settings import Settings
from lewm_bench.run.validation import is_model

ADAPT = "adapt"  # a key of an environment of a suite, not a common setting
REQUIRED = "required"
CAPS = (60, 24, 24)  # widest columns of path, values and default on a terminal; what is longer is wrapped
NARROWEST = 24  # columns for a description beside the rest; with fewer it stands below
PLAIN = {bool: "true or false", str: "text", int: "integer", float: "number", Any: "anything"}


class Described(NamedTuple):
    """A line about one setting."""

    path: str
    values: str
    default: str
    description: str


class Part(NamedTuple):
    """Settings that stand together."""

    path: str
    description: str
    settings: tuple[Described, ...]


def common_settings(bench: Benchmarks, profile: str = "") -> list[Part]:
    """All settings that agents share, with the values of a profile."""
    settings, _ = _layers(bench, profile)
    return list(parts("", "common settings", Settings, Settings(), settings))


def settings_at(path: str, bench: Benchmarks, profile: str = "") -> list[Part]:
    """The setting or the part at a path, for example ``planner``, ``lewm.train`` or ``evaluate.goal_offset``.

    Raises:
        UserError: there is none, with the nearest match.
        NotRun: the agent wants a package that is not installed.
    """
    head, *keys = split_path(path)
    head = RENAMED.get(head, head)
    settings, agents = _layers(bench, profile)
    if head in Settings.model_fields:
        return _within("", [head, *keys], "", Settings, Settings(), settings)
    if head == ADAPT:
        about = "makes any Gymnasium environment a goal environment; a key of an environment of a suite"
        return _within(ADAPT, keys, about, Adapt, None, None)
    if parse_agent(head).base not in (known := agent_names()) and "." not in head:
        raise unknown("setting or agent", head, [*Settings.model_fields, ADAPT, *known])
    family = agent_family(head)
    if any(field.is_required() for field in family.Config.model_fields.values()):  # as somebody's agent may have it
        return _within(head, keys, family.card.about, family.Config, None, None)
    return _within(head, keys, family.card.about, family.Config, family.Config(), configure(head, agents))


def _within(
    path: str, keys: Sequence[str], description: str, model: type[Config], default: Config | None, value: Config | None
) -> list[Part]:
    """What the keys lead to from the class at ``path``."""
    if not keys:
        return list(parts(path, description, model, default, value))
    key, *rest = keys
    if key not in model.model_fields:
        raise unknown("setting", _joined(path, key), [_joined(path, name) for name in model.model_fields])
    field, here = model.model_fields[key], _joined(path, key)
    own = default_of(field, default, key)
    if isinstance(own, Config):
        return _within(here, rest, field.description or "", type(own), own, _get(value, key))
    if rest:
        raise UserError(f"{here} has no settings of its own, so there is no {'.'.join([here, *rest])}")
    return [Part("", "", (described(here, field, own, _get(value, key)),))]


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _layers(bench: Benchmarks, profile: str) -> tuple[Settings, Mapping[str, dict[str, Any]]]:
    """The settings of a profile, common and by agent; those of the classes without one."""
    if profile and profile not in bench.profiles:
        raise unknown("profile", profile, bench.profiles)
    return split_settings(renamed(bench.profiles[profile])) if profile else (Settings(), {})


def parts(
    path: str, description: str, model: type[Config], default: Config | None, value: Config | None
) -> Iterator[Part]:
    """A class of settings and, behind it, those inside of it."""
    rows, inside = [], []
    for name, field in model.model_fields.items():
        own, here = default_of(field, default, name), _joined(path, name)
        if isinstance(own, Config):
            inside.append(parts(here, field.description or "", type(own), own, _get(value, name)))
        else:
            rows.append(described(here, field, own, _get(value, name)))
    yield Part(path, description, tuple(rows))
    for part in inside:
        yield from part


def default_of(field: FieldInfo, parent: Config | None, name: str) -> Any:
    """What a setting is if nobody sets it: in its parent's defaults, which may differ from its class's."""
    if parent is not None:
        return getattr(parent, name)
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _get(parent: Any, name: str) -> Any:
    """The value in force in a class of settings; ``...`` where none is known."""
    return getattr(parent, name) if isinstance(parent, Config) else ...


def described(path: str, field: FieldInfo, default: Any, value: Any = ...) -> Described:
    """The line of a setting; a ``value`` that differs stands before the default."""
    text = REQUIRED if default is ... else _text(default)
    if value is not ... and value != default:
        text = f"{_text(value)} (default {text})"
    return Described(path, values_of(field.annotation, field.metadata), text, field.description or "")


def _text(value: Any) -> str:
    """A value as it is written behind ``--set PATH=``."""
    return written(to_jsonable_python(value))


def values_of(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a setting can be, in words: ``integer from 1``, ``cem, icem or mppi``, ``list of numbers, at least one``."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *more = inner
        found = [one for extra in more for one in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return values_of(base, [*metadata, *found])
    if origin is Literal:
        return _either(map(str, inner))
    if origin in (tuple, list) and inner[1:] in ((), (...,)):
        least = next((one.min_length for one in metadata if isinstance(one, MinLen)), 0)
        return f"list of {_many(values_of(inner[0]))}{', at least one' if least else ''}"
    if origin is dict:
        return f"names with {_many(values_of(inner[1]))}"
    if NoneType in inner and len(inner) == 2:
        (base,) = (one for one in inner if one is not NoneType)
        return f"{values_of(base, metadata)} or null"
    if is_model(annotation):
        return "settings"
    known = annotation.__name__ if isinstance(annotation, type) else str(annotation)  # of somebody's agent
    return f"{PLAIN.get(annotation, known)}{_range(metadata)}"


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _many(words: str) -> str:
    """``integer from 2`` to ``integers from 2``."""
    first, *rest = words.split(" ")
    return " ".join([f"{first}s" if first in ("integer", "number") else first, *rest])


def _range(metadata: Sequence[Any]) -> str:
    """The bounds of a number behind its kind."""
    bounds = {type(one): one for one in metadata}
    if Ge in bounds and Le in bounds and bounds[Ge].ge == bounds[Le].le:
        return f", only {bounds[Ge].ge}"
    words = [
        f" from {bounds[Ge].ge}" if Ge in bounds else "",
        f" above {bounds[Gt].gt}" if Gt in bounds else "",
        f" to {bounds[Le].le}" if Le in bounds else "",
        f", below {bounds[Lt].lt}" if Lt in bounds else "",
        f", a multiple of {bounds[MultipleOf].multiple_of}" if MultipleOf in bounds else "",
    ]
    return "".join(words)


def laid_out(found: Iterable[Part], width: int | None = None) -> str:
    """Parts as text, aligned; wrapped to ``width`` columns, or with None each setting on one line."""
    return "\n\n".join("\n".join([*_heading(part, width), *_table(part.settings, width)]) for part in found)


def _heading(part: Part, width: int | None) -> list[str]:
    text = f"{part.path}: {part.description}" if part.path else f"{part.description}:"
    return textwrap.wrap(text, width or len(text) + 1) if part.description else []


def _table(rows: Sequence[Described], width: int | None) -> Iterator[str]:
    """Lines of one part; where a terminal is narrow, descriptions stand below the rest."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(CAPS))]
    if width is not None:
        widths = [*map(min, widths, CAPS)]
    left = None if width is None else width - sum(widths) - 2 * (1 + len(widths))
    beside = left is None or left >= NARROWEST
    for row in rows:
        columns = zip(row, [*widths, left] if beside else widths, strict=beside)
        yield from _lines([(cell, None if width is None else room, room or 0) for cell, room in columns])
        if not beside:
            yield from (f"      {line}" for line in textwrap.wrap(row.description, max(width, NARROWEST) - 6))


def _lines(cells: Sequence[tuple[str, int | None, int]]) -> Iterator[str]:
    """Cells side by side: their text, the columns it is wrapped to (None: it is not) and those it is filled up to."""
    wrapped = [[text] if room is None else textwrap.wrap(text, room) for text, room, _ in cells]
    for line in zip_longest(*wrapped, fillvalue=""):
        yield f"  {'  '.join(text.ljust(fill) for text, (_, _, fill) in zip(line, cells, strict=True))}".rstrip()
