"""What went wrong, in one line: the machine's limits in their own words, anybody else's code by its place.

Environments, agents and their helpers may be anyone's. What they raise cannot be named in advance, so it is caught in one
place, here, told in one line that says whose code it was, and kept as a traceback in a file.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import logging
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

import lewm_bench
from lewm_bench.core.errors import Explained, PluginError, short_repr
from lewm_bench.system.files import StorageError, storage_line, write_text

logger = logging.getLogger(__name__)

T = TypeVar("T")

THEIRS, OURS = 1, 70  # exit status of a fault in somebody's code, and in this package (EX_SOFTWARE of sysexits.h)
LESS_MEMORY = "lower train.batch_size, evaluate.batch, planner.num_samples or collect.chunk with --set"
MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|std::bad_alloc", re.IGNORECASE)
GRAPHICS = ("OpenGL", "mujoco", "glfw", "pyglet", "glcontext", "pygame")  # packages that open a window or a context
GRAPHICS_WORDS = re.compile(r"\b(open)?gl|egl|osmesa|glfw|context|display|framebuffer", re.IGNORECASE)


class ProgramExit(Exception):
    """Somebody's code tried to end the program, with ``sys.exit`` for instance."""


def result_or_error(work: Callable[[], T]) -> T | Exception:
    """What ``work`` returns, or what it raised, short of a full disk or an interrupt."""
    try:
        return work()
    except StorageError:
        raise
    # The one broad catch. Agents and environments may be anyone's, so what they raise cannot be named, and hours of
    # other cells must not be lost to it. Nothing is hidden: the cell is failed, its traceback is kept, the exit code is 1.
    except Exception as error:
        logger.debug("not done", exc_info=error)
        return error
    except SystemExit as stopped:
        exit_of_theirs = ProgramExit(f"it ended the program with sys.exit({stopped.code!r})")
        exit_of_theirs.__cause__ = stopped
        return exit_of_theirs.with_traceback(stopped.__traceback__)


def machine_line(error: Exception) -> str | None:
    """What to do where the machine, and not the code, gave out: memory, disk, files, OpenGL; None for all else."""
    text = _one_line(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(text)):
        return f"out of memory ({text}); {LESS_MEMORY}" if text else f"out of memory; {LESS_MEMORY}"
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return f"out of memory ({text}); {LESS_MEMORY}"
        return storage_line(error, error.filename or "a file")
    if type(error).__module__.split(".")[0] in GRAPHICS and GRAPHICS_WORDS.search(f"{type(error).__name__} {text}"):
        return f"OpenGL cannot draw here ({type(error).__name__}: {text}); `lewm-bench doctor` says what does"
    return None


def error_line(error: Exception) -> str:
    """What was raised and where in somebody's code, in one line."""
    if isinstance(error, PluginError):  # which tells of its cause
        return _one_line(error)
    name, text, found = type(error).__name__, _one_line(error), place(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join([error.title, *map(str, first["loc"])])
        text = f"{where}: {first['msg']}, got {short_repr(first['input'])}"
    what = text if isinstance(error, ProgramExit) else f"{name}: {text}" if text else name
    return what if found is None else f"{what}, in {found}"


def keep_traceback(error: Exception, path: Path) -> None:
    """Write the traceback, with those of the causes, to a text file."""
    write_text(path, "".join(traceback.format_exception(error)))


class Sent(NamedTuple):
    """An error on its way from another process, which leaves its traceback behind."""

    error: Exception
    traceback: str

    @property
    def received(self) -> Exception:
        """The error, with the traceback as its cause."""
        self.error.__cause__ = _RemoteTraceback(self.traceback)
        return self.error


class _RemoteTraceback(Exception):
    """Named like that of a process pool, whose errors come with their traceback as text too."""


class Elsewhere(Exception):
    """What another process raised and could not send: an error with parts that belong to it."""


def sent(error: Exception) -> Sent:
    """An error for another process."""
    text = "".join(traceback.format_exception(error))
    arrives = result_or_error(lambda: [copy.deepcopy(error)])  # which takes it apart as sending it does
    return Sent(error if isinstance(arrives, list) else Elsewhere(error_line(error)), text)


def explained(error: Exception, folder: Path, what: str) -> Explained:
    """The line that ends a command: whose fault it was, and the file below ``folder`` that has the traceback."""
    if (line := machine_line(error)) is not None:
        return Explained(line, THEIRS)
    digest = hashlib.sha256("".join(traceback.format_exception(error)).encode(errors="replace")).hexdigest()[:10]
    path = folder / f"{what}-{digest}.txt"  # the same error again is the same file
    try:
        keep_traceback(error, path)
        kept = f"traceback: {path}"
    except StorageError as full:
        kept = f"no traceback: {full}"
    if place(error) is None:
        where = _innermost(error)
        return Explained(f"this is a fault of lewm-bench, please report it: {error_line(error)}{where}; {kept}", OURS)
    return Explained(f"{error_line(error)}; {kept}", THEIRS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# Whose code it was.


class Place(NamedTuple):
    """A line of code."""

    module: str
    function: str
    file: str
    line: int

    def __str__(self) -> str:
        name = self.module if self.function.startswith("<") else f"{self.module}.{self.function}"
        return f"{name} ({self.file}:{self.line})"


def place(error: BaseException) -> Place | None:
    """The innermost line outside of this package, the standard library and what both stand on; None if there is none."""
    told_of = error.__cause__ or error if isinstance(error, PluginError) else error
    seen: list[BaseException] = []
    while told_of is not None and told_of not in seen:  # a generator turns StopIteration into another error of its own
        theirs = [frame for frame in _frames(told_of) if not _is_known(frame.file)]
        if theirs:
            return theirs[-1]
        seen.append(told_of)
        told_of = told_of.__cause__
    return None


def _innermost(error: Exception) -> str:
    frames = [frame for frame in _frames(error) if _is_below(frame.file, _own_folders())]
    return f", in {frames[-1]}" if frames else ""


REMOTE = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<name>\S+)$', re.MULTILINE)


def _frames(error: BaseException) -> list[Place]:
    """The lines that led to an error, outermost first; also those of another process, and a line that cannot be parsed."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        function = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
        found.append(Place(frame.f_globals.get("__name__", "?"), function, code.co_filename, line))
    if error.__cause__ is not None and type(error.__cause__).__name__ == "_RemoteTraceback":  # of a process pool
        for match in REMOTE.finditer(str(error.__cause__)):
            found.append(Place(_module(match["file"]), match["name"], match["file"], int(match["line"])))
    if isinstance(error, SyntaxError) and error.filename:
        found.append(Place(_module(error.filename), "<module>", error.filename, error.lineno or 0))
    return found


def _module(file: str) -> str:
    """The name of the module that a file holds."""
    named = {getattr(module, "__file__", None): name for name, module in list(sys.modules.items())}
    return named.get(file) or Path(file).stem


def _is_known(file: str) -> bool:
    return file.startswith("<") or _is_below(file, _own_folders()) or _is_library(Path(file))


def _is_below(file: str, folders: tuple[Path, ...]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


@cache
def _own_folders() -> tuple[Path, ...]:
    """Where this package lies; in a checkout two of its folders lie beside it."""
    here = Path(lewm_bench.__file__).parent
    return (here, *(Path(p) / name for p in lewm_bench.__path__ for name in ("agents", "envs")))


INSTALLED = ("site-packages", "dist-packages")


def _is_library(path: Path) -> bool:
    """Whether a file belongs to the standard library, or to a package that this one depends on."""
    parts = path.parts
    for name in INSTALLED:
        if name in parts and parts.index(name) + 1 < len(parts):
            return Path(parts[parts.index(name) + 1]).stem in _dependencies()
    standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return any(path.is_relative_to(folder) for folder in standard) or path.stem == "lewm-bench"


@cache
def _dependencies() -> frozenset[str]:
    """The top-level modules of every package that this one needs, extras and what they need included."""
    modules: dict[str, set[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(_canonical(name), set()).add(module)
    seen, waiting = set(), ["lewm-bench"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _required(name)
    return frozenset(module for name in seen for module in modules.get(name, ()))


def _required(distribution: str) -> Iterator[str]:
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:  # an extra that is not installed
        return
    yield from (_canonical(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in lines)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
