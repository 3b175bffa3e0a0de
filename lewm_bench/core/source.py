"""What objects are made of: a digest of the source that defines them, and the versions of the packages it imports.

Read, never executed. Comments, docstrings and layout do not count. Followed are the imports (also those inside of
functions) that lead to modules of the same package or to files that no installed package brought. What is read at run
time, such as a picture, cannot be seen here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from lewm_bench.core.errors import UserError

OURS = "lewm_bench"
CHANGES_NOTHING = {
    "farama-notifications", "filelock", "glfw", "huggingface-hub", "hypothesis", "imageio", "lewm-bench",
    "matplotlib", "packaging", "platformdirs", "pydantic", "pytest", "pyyaml", "safetensors", "tqdm", "yaml", "zstandard"
}  # fmt: skip
"""Distributions whose versions no result depends on."""
BY_NAME = ("import_module", "require")  # functions that import the module they are given the name of


@dataclass(frozen=True)
class Made:
    """What determines the behaviour of some objects, as far as it is code."""

    digest: str = ""  # of the source; empty where all of it is of this package
    packages: Mapping[str, str] = field(default_factory=dict)  # distributions and their versions


def made_of(objects: Iterable[object]) -> Made:
    """The source and the packages of classes, functions, instances (their classes), modules and names of modules.

    This package's own source does not count, only what it imports: schema numbers stand for it.

    Raises:
        UserError: an object's source is nowhere to be read.
    """
    parts: dict[str, str] = {}
    roots: list[str] = []
    for one in objects:
        for name, loose in _homes(one):
            if loose is None:
                roots.append(name)
            else:
                parts[f"{name}:{getattr(one, '__qualname__', '')}"] = loose
    found = closure(roots)
    parts |= {name: module.digest for name, module in found.items() if not is_ours(name)}
    tops = {top for module in found.values() for top in module.outside}
    return Made(_hash(sorted(parts.items())) if parts else "", versions_of(tops))


def is_ours(name: str) -> bool:
    """Whether a module is of this package."""
    return name == OURS or name.startswith(f"{OURS}.")


def _homes(one: object) -> Iterator[tuple[str, str | None]]:
    """The modules that define an object, and its own digest where it stands in no file (a notebook)."""
    if isinstance(one, str):
        yield one, None
        return
    if inspect.ismodule(one):
        yield one.__name__, None
        return
    known = one if isinstance(one, type) or inspect.isroutine(one) else type(one)
    for part in known.__mro__ if isinstance(known, type) else (known,):
        name = part.__module__
        if name.split(".")[0] in {*sys.stdlib_module_names, *CHANGES_NOTHING} - {"__main__"} or _is_base(name):
            continue
        yield name, None if _file(_spec_of(name)) else _loose(part)


def _is_base(name: str) -> bool:
    """Whether a module is of what Gymnasium is below its environments; its version says enough of that."""
    return name.startswith("gymnasium.") and not name.startswith("gymnasium.envs.")


def _loose(part: Any) -> str:
    """The digest of a class or function that stands in no file.

    Raises:
        UserError: nobody remembers its source.
    """
    try:
        return digest_of(inspect.cleandoc("\n" + _source_of(part)))
    except (OSError, TypeError, SyntaxError):
        raise UserError(
            f"the source of {part.__qualname__} cannot be read, so a change of it could not be told from what the "
            "cache holds; put it into a module"
        )


def _source_of(part: Any) -> str:
    """The text of a class or function; raises what ``inspect.getsource`` does."""
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
        if not isinstance(part, type):
            raise
    return _class_of_notebook(part)


def _class_of_notebook(kind: type) -> str:
    """The text of a class that stands in a cell. Before Python 3.13 a class forgets where; its functions know.

    Raises:
        OSError: it has none that stands inside of it.
    """
    for function in filter(inspect.isfunction, vars(kind).values()):
        lines, at = linecache.getlines(function.__code__.co_filename), function.__code__.co_firstlineno
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.ClassDef) and node.name == kind.__name__ and node.lineno < at <= node.end_lineno:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "".join(lines[first - 1 : node.end_lineno])
    raise OSError(f"no function of {kind.__qualname__} has a source")


@dataclass(frozen=True)
class Source:
    """One module, read."""

    data: bytes = b""  # of its file
    python: bool = False  # or compiled
    inside: frozenset[str] = frozenset()  # modules it imports whose source counts
    outside: frozenset[str] = frozenset()  # top-level packages it imports that are installed

    @cached_property
    def digest(self) -> str:
        """16 hex digits."""
        return digest_of(self.data) if self.python else _hash(self.data)


def closure(roots: Iterable[str], leave: Callable[[str], bool] = lambda name: False) -> dict[str, Source]:
    """The modules that ``roots`` reach, themselves included, by name, without those that ``leave`` is true of."""
    found: dict[str, Source] = {}
    waiting = [name for name in roots if not leave(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = read(name)
            waiting += [other for other in found[name].inside if not leave(other)]
    return dict(sorted(found.items()))


_read: dict[str, tuple[object, ModuleSpec, Source]] = {}
"""Modules as they were when they were first read, with what tells that they have been imported or written anew."""


def read(name: str) -> Source:
    """The module's source, as it was when this process first asked: an edit changes nothing of what is imported."""
    spec = _spec_of(name)
    file = _file(spec)
    if spec is None or file is None:
        return Source()
    stamp = id(spec) if name in sys.modules else (file, file.stat().st_mtime_ns, file.stat().st_size)
    if name not in _read or _read[name][0] != stamp:
        _read[name] = stamp, spec, _parsed(name, spec, file)  # the specification too, so that its id stays its own
    return _read[name][2]


def _parsed(name: str, spec: ModuleSpec, file: Path) -> Source:
    data = file.read_bytes()
    if file.suffix != ".py":
        return Source(data)
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    inside, outside = set(), set()
    for wanted in set(_imported(ast.parse(data), package)) - {name}:
        top = wanted.split(".")[0]
        if top in sys.stdlib_module_names or (is_ours(wanted) and not is_ours(name)):
            continue
        near = top == name.split(".")[0] or not _installed(top)
        if near and not _is_base(f"{wanted}."):
            inside.add(wanted)
        else:
            outside.add(top)
    return Source(data, True, frozenset(inside), frozenset(outside))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The full names of the modules that a module of ``package`` imports, but for a type checker."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _exists(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield from filter(_exists, [inner if _exists(inner) else base])
        elif isinstance(node, ast.Call) and _name(node.func) in BY_NAME and node.args:
            first = node.args[0]
            yield from filter(_exists, [first.value] if isinstance(first, ast.Constant) else [])
        waiting += ast.iter_child_nodes(node)


def _name(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _exists(name: object) -> bool:
    return (
        isinstance(name, str)
        and bool(name)
        and all(map(str.isidentifier, name.split(".")))
        and _spec_of(name) is not None
    )


def _spec_of(name: str) -> ModuleSpec | None:
    """How a module would be found; nothing is imported for it."""
    if name in sys.modules:
        module = sys.modules[name]
        if module.__spec__ is not None or name != "__main__":
            return module.__spec__
        script = getattr(module, "__file__", None)
        return importlib.util.spec_from_file_location(name, script) if script else None
    parent, _, _ = name.rpartition(".")
    if not parent:
        return importlib.util.find_spec(name)
    above = _spec_of(parent)
    places = above.submodule_search_locations if above else None
    return PathFinder.find_spec(name, list(places)) if places else None


def _file(spec: ModuleSpec | None) -> Path | None:
    """The file of a module, if it has one."""
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _installed(top: str) -> bool:
    """Whether a top-level module came with an installed package, and is not a file of the user's."""
    spec = _spec_of(top)
    places = [*((spec.submodule_search_locations or ()) if spec else ()), str(_file(spec) or "")]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


@cache
def _versions(top: str) -> dict[str, str]:
    """The distributions that a top-level package comes from, nearly always one of its own name, and their versions."""
    try:
        return {top: version(top)}
    except PackageNotFoundError:
        return {name: version(name) for name in packages_distributions().get(top, ())}


def versions_of(tops: Iterable[str]) -> dict[str, str]:
    """Distributions of top-level packages and their versions, sorted, without those no result depends on."""
    wanted = set(tops) - CHANGES_NOTHING
    found = {name.lower().replace("_", "-"): text for top in wanted for name, text in _versions(top).items()}
    # What stands behind a plus is the build, which is the machine's affair.
    return {name: found[name].partition("+")[0] for name in sorted(found) if name not in CHANGES_NOTHING}


def digest_of(text: str | bytes) -> str:
    """The digest of Python source; comments, docstrings and layout do not change it."""
    return _hash(normal(ast.parse(text)))


def normal(node: Any) -> Any:
    """A syntax tree as JSON, the same under every Python: without docstrings, places and empty fields."""
    if isinstance(node, list):
        return [normal(one) for one in node]
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = body[1:]
    kept = {name: normal(value) for name, value in fields.items() if value not in (None, []) and name != "kind"}
    return [type(node).__name__, kept]


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
