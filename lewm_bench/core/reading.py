"""Reading what others have written: one function per format, and one kind of error whatever is found there.

A file may be missing, a folder, a loop of links, a FIFO, huge, not text, damaged or of another kind. All of that is a
``UserError``: one line that names the file, what is wrong with it and what to do.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lewm_bench.core.errors import UserError, short_repr

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_TEXT, LARGEST_YAML = 2**30, 2**20  # bytes
DEEPEST = 64  # levels of nesting
MOST_VALUES = 10**6  # of a YAML text, with every alias written out
INTEGERS = range(-(2**63), 2**63)  # what every reader of our files can hold

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class MissingFile(UserError):
    """There is no such file."""


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; a name that no file can have, a loop of links or a forbidden folder is none."""
    return os.path.isfile(path)


def require_file(path: Path, mend: str, largest: int | None = None) -> None:
    """Raise unless ``path`` is a regular file of at most ``largest`` bytes, without opening it: a pipe would block.

    Args:
        mend: what to do, the end of the line.

    Raises:
        MissingFile: there is none.
        UserError: it is something else, too large, or not to be had.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"{path} is missing; {mend}")
    except (OSError, ValueError) as error:  # ValueError: a character that no path can have
        raise UserError(f"cannot read {path}: {reason_of(error)}; {mend}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"cannot read {path}: it is {KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}; {mend}")
    if largest is not None and status.st_size > largest:
        raise UserError(f"cannot read {path}: it has {status.st_size} bytes, more than {largest}; {mend}")


def read_bytes(path: Path, mend: str, largest: int = LARGEST_TEXT) -> bytes:
    """The content of a regular file; raises what ``require_file`` does."""
    require_file(path, mend, largest)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason_of(error)}; {mend}")


def read_text(path: Path, mend: str, largest: int = LARGEST_TEXT) -> str:
    """The text of a UTF-8 file, without a byte order mark; raises what ``require_file`` does, and for other bytes."""
    try:
        return read_bytes(path, mend, largest).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged (it is not UTF-8 text); {mend}")


def read_json(path: Path, mend: str, finite: bool = True) -> Any:
    """The value in a JSON file.

    Args:
        finite: refuse infinity and NaN, which standard JSON does not have.

    Raises:
        UserError: what ``require_file`` does, and for what is not JSON or what ``unfit`` refuses.
    """
    return json_of(read_text(path, mend), path, mend, finite)


def json_of(text: str, path: Path, mend: str, finite: bool = True) -> Any:
    """The value in a JSON text that was read from ``path``; raises what ``read_json`` does."""
    try:
        return parse_json(text, finite)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {mend}")


def read_yaml(path: Path, mend: str) -> Any:
    """The value in a YAML file.

    Raises:
        UserError: what ``require_file`` does, and for what is not YAML or what ``unfit`` refuses.
    """
    try:
        return parse_yaml(read_text(path, mend, LARGEST_YAML))
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML{error}; {mend}")


M = TypeVar("M", bound=BaseModel)


def read_model(path: Path, kind: type[M], mend: str, finite: bool = True) -> M:
    """The record of a kind in a JSON file; raises what ``read_json`` does, and for what is no such record."""
    text = read_text(path, mend)
    json_of(text, path, mend, finite)
    return model_of(text, kind, path, mend)


def model_of(text: str, kind: type[M], path: Path, mend: str, strict: bool = True) -> M:
    """The JSON text that was read from ``path`` as a record of a kind; ``strict`` takes no text for a number.

    Raises:
        UserError: it is none.
    """
    try:
        return kind.model_validate_json(text, strict=strict)
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({first_fault(error)}); {mend}")


def first_fault(error: ValidationError) -> str:
    """The place and the reason of the first thing that is wrong with a record."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def parse_json(text: str, finite: bool = True) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or ``unfit`` refuses the value.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if reason := unfit(value, finite):
        raise ValueError(reason)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: mappings with text as keys, lists, text, finite numbers, booleans and null.

    Raises:
        ValueError: it is not YAML, or ``unfit`` refuses the value; begins with the place, for a sentence to go on with.
    """
    try:
        value = yaml.load(text, UniqueKeys)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{place}: {problem or ' '.join(str(error).split())}")
    except RecursionError:
        raise ValueError(f": it is nested deeper than {DEEPEST} levels")
    if reason := unfit(value, most=MOST_VALUES):
        raise ValueError(f": {reason}")
    return value


def unfit(root: Any, finite: bool = True, most: int | None = None) -> str | None:
    """Why a value cannot be used as data, or None.

    It must be a tree of dictionaries with text as keys, lists, text, booleans, null, numbers of 64 bits and, with
    ``finite``, nothing infinite, at most ``DEEPEST`` levels deep and ``most`` values large.
    """
    level, count = [root], 0
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for value in level:
            if (reason := _unfit(value, finite)) is not None:
                return reason
            if isinstance(value, dict):
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            if most is not None and count + len(deeper) > most:
                return f"it has more than {most} values"
        count += len(deeper)
        level = deeper
        if not level:
            return None
    return f"it is nested deeper than {DEEPEST} levels"


def _unfit(value: Any, finite: bool) -> str | None:
    """Why a value itself, whatever it holds, is no data."""
    if isinstance(value, str):
        return _unfit_text(value)
    if isinstance(value, float):
        return f"{value} is not a finite number" if finite and not math.isfinite(value) else None
    if isinstance(value, int):
        return None if value in INTEGERS else "a whole number in it has more than 64 bits"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"the keys of a mapping must be text, got {short_repr(key)}"
            if reason := _unfit_text(key):
                return reason
        return None
    return None if value is None or isinstance(value, list) else f"it holds a {type(value).__name__}"


def _unfit_text(text: str) -> str | None:
    if "\0" in text or not (text.isascii() or text.encode("utf-8", "replace").decode("utf-8") == text):
        return f"the text {short_repr(text)} has a character that no file can hold"
    return None


def read_tensors(path: Path, mend: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises what ``require_file`` does, and for a damaged one."""
    from safetensors.torch import load_file

    with _tensors(path, mend):
        return load_file(path)


def require_tensors(path: Path, mend: str) -> None:
    """Raise unless a file's header and size are those of a safetensors file; reads none of its numbers."""
    from safetensors import safe_open

    with _tensors(path, mend), safe_open(path, "pt"):
        pass


@contextmanager
def _tensors(path: Path, mend: str) -> Iterator[None]:
    """Whatever goes wrong with a safetensors file, in one line."""
    from safetensors import SafetensorError

    require_file(path, mend)
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}); {mend}")


def reason_of(error: Exception) -> str:
    """What an error says, on one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split()) or type(error).__name__


MERGE, VALUE = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"
INT, FLOAT, BOOL, TEXT, NULL, LIST, MAPPING, DATE = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "str", "null", "seq", "map", "timestamp")
)

Pair = tuple[yaml.Node, yaml.Node]


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error: the first would be dropped without a word.

    It merges (``<<``) by itself, by the rule of https://yaml.org/type/merge.html: a mapping's own keys win over merged
    ones, and of several merged mappings the first that has a key. PyYAML 6.0.4 compares keys by the identity of their
    strings, which loses an override where a key has one character and the merged mapping has merged another.

    A number is what people mean by it, with YAML 1.2: ``1e-3``, ``.5`` and ``5.`` are numbers and ``010`` is ten, unlike
    in YAML 1.1; ``1:30`` and ``2020-02-30`` are text. Tags name nothing but the types of JSON.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: dict[int, bool] = {}  # mappings by id, true once done; all of them live as long as the document

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # Once: a mapping with an anchor is flattened again wherever it is merged.
        if self._flat.setdefault(id(node), False):
            return
        own, merged = self._divided(node)
        seen = {_name(key) for key, _ in own}
        kept = []
        for pair in merged:
            if (name := _name(pair[0])) not in seen:
                seen.add(name)
                kept.append(pair)
        node.value = kept + own
        self._flat[id(node)] = True

    def _divided(self, node: yaml.MappingNode) -> tuple[list[Pair], list[Pair]]:
        """A mapping's own pairs, none given twice, and all pairs that it merges, in the order in which they win."""
        own: list[Pair] = []
        merged: list[Pair] = []
        seen = set()
        for key, value in node.value:
            if (name := _name(key)) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name[1]!r} is given twice", problem_mark=key.start_mark)
            seen.add(name)
            if key.tag == MERGE:
                merged += self._merged(value)
            else:
                own.append((key, value))
        return own, merged

    def _merged(self, value: yaml.Node) -> Iterator[Pair]:
        """The pairs of the mapping, or of the list of mappings, behind a ``<<``."""
        for mapping in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(mapping, yaml.MappingNode):
                problem = f"<< takes a mapping or a list of mappings, got a {mapping.id}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=mapping.start_mark)
            if self._flat.get(id(mapping)) is False:
                raise yaml.MarkedYAMLError(problem="a mapping merges itself", problem_mark=mapping.start_mark)
            self.flatten_mapping(mapping)
            yield from mapping.value


DECIMAL = re.compile(r"[-+]?[0-9][0-9_]*")
BASED = re.compile(r"[-+]?0(b[01_]+|o[0-7_]+|x[0-9a-fA-F_]+)")
REAL = re.compile(
    r"([-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*\.?[0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
WHOLE = re.compile(f"({DECIMAL.pattern}|{BASED.pattern})$")


def _whole(loader: UniqueKeys, node: yaml.Node) -> int:
    text = _scalar(loader, node).replace("_", "")
    if len(text) > 70:  # binary digits of 64 bits, sign and prefix
        raise yaml.MarkedYAMLError(problem="a whole number has more than 64 bits", problem_mark=node.start_mark)
    return _converted(lambda: int(text, 10 if DECIMAL.fullmatch(text) else 0), "whole number", node)


def _real(loader: UniqueKeys, node: yaml.Node) -> float:
    text = _scalar(loader, node).replace("_", "")
    return _converted(lambda: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")), "number", node)


def _truth(loader: UniqueKeys, node: yaml.Node) -> bool:
    return _converted(lambda: loader.bool_values[_scalar(loader, node).lower()], "yes or no", node)


def _scalar(loader: UniqueKeys, node: yaml.Node) -> str:
    return str(loader.construct_scalar(node))


T = TypeVar("T")


def _converted(convert: Callable[[], T], what: str, node: yaml.Node) -> T:
    try:
        return convert()
    except (ValueError, KeyError):
        problem = f"{short_repr(node.value)} is no {what}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _unknown_tag(loader: UniqueKeys, node: yaml.Node) -> None:
    raise yaml.MarkedYAMLError(problem=f"no type has the tag {short_repr(node.tag)}", problem_mark=node.start_mark)


UniqueKeys.yaml_implicit_resolvers = {
    first: kept
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in known if tag not in (INT, FLOAT, DATE)])
}
UniqueKeys.add_implicit_resolver(INT, WHOLE, list("-+0123456789"))
UniqueKeys.add_implicit_resolver(FLOAT, REAL, list("-+0123456789."))
UniqueKeys.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag in (TEXT, NULL, LIST, MAPPING)
}
UniqueKeys.add_constructor(INT, _whole)
UniqueKeys.add_constructor(FLOAT, _real)
UniqueKeys.add_constructor(BOOL, _truth)
UniqueKeys.add_constructor(VALUE, yaml.SafeLoader.construct_yaml_str)  # a plain "=", which PyYAML cannot construct
UniqueKeys.add_constructor(None, _unknown_tag)


def _name(key: yaml.Node) -> tuple[str, object]:
    """What tells keys apart: text as it is written; anything else, which no mapping takes as a key, by itself."""
    return ("text", key.value) if isinstance(key, yaml.ScalarNode) else ("node", id(key))
