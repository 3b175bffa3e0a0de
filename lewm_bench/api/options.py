"""What the verbs of the command line are given as text, from Python's values."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.core.names import canonical
from lewm_bench.planning.solvers import SOLVERS
from lewm_bench.run.request import Request
from lewm_bench.system.store import default_cache
from lewm_bench.train.loggers import require_loggers
from lewm_bench.train.logs import LogTo

log = logging.getLogger(__name__)

WORDS = {str: "names", int: "whole numbers"}


def settings_of(set: Mapping[str, Any] | None, solver: str = "") -> list[str]:
    """``{"lewm.train.steps": 500}`` and the name of a solver, of which the former wins, as ``--set`` has them.

    Raises:
        UserError: a value that no setting can have, or a solver that there is not.
    """
    if solver and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    found = [f"planner.solver={solver}"] if solver else []
    if set is not None and not isinstance(set, Mapping):
        raise UserError(f"set takes settings by dotted path, {{'planner.num_samples': 64}}, got {short_repr(set)}")
    return [*found, *(f"{path}={_text(path, value)}" for path, value in (set or {}).items())]


def _text(path: str, value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise UserError(f"{path}: expected a number, text, a list or a dictionary, got {short_repr(value)}")


def several(name: str, given: Sequence[Any] | Any, kind: type) -> tuple[Any, ...]:
    """One value or several, each once, in order; empty text is none.

    Raises:
        UserError: one is of another kind.
    """
    values = (given,) if isinstance(given, kind) and given != "" else tuple(given or ())
    if wrong := [value for value in values if not isinstance(value, kind) or isinstance(value, bool)]:
        raise UserError(f"{name} takes {WORDS[kind]}, one or a list of them, got {short_repr(wrong[0])}")
    return tuple(dict.fromkeys(values))


def shown(progress: bool | None) -> bool:
    """Whether somebody looks at progress bars; unless it is said, where there is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def path_of(given: str | Path | None) -> Path | None:
    """A path, if one is given."""
    return None if given is None else Path(given)


def request(suite: str, out: Path, **options: Any) -> Request:
    """The request of a verb's keywords, each as its own function documents it."""
    bars, seeds = shown(options["progress"]), several("seeds", options.get("seeds"), int)
    if any(seed < 0 for seed in seeds):
        raise UserError(f"seeds are whole numbers from 0, got {list(seeds)}")
    return Request(
        suite=suite,
        profile=options["profile"],
        out=out,
        say=partial(tqdm.write, file=sys.stderr) if bars else log.info,
        agents=tuple(dict.fromkeys(map(canonical, several("agents", options.get("agents"), str)))),
        seeds=seeds,
        envs=several("envs", options.get("envs"), str),
        settings=settings_of(options["set"], options.get("solver", "")),
        planner=options.get("planner", ""),
        device=options["device"],
        cache=path_of(options.get("cache")),
        config=path_of(options["config"]),
        progress=bars,
        fresh=several("fresh", options.get("fresh"), str),
        data=path_of(options.get("data")),
        jobs=options.get("jobs", 1),
        log_to=_log_to(several("log", options.get("log"), str), options),
    )


def _log_to(kinds: tuple[str, ...], options: Mapping[str, Any]) -> LogTo:
    """The loggers that follow trainings, which can be used, in the cache: results may be of a moment."""
    found = LogTo(kinds, (path_of(options.get("cache")) or default_cache()) / "logs")
    if kinds:
        require_loggers(found)
    return found
