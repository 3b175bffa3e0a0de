"""Settings that were asked for by name and that nothing in the run would read: who gives one believes that it counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lewm_bench.agent import OnBaseConfig
from lewm_bench.core.config import Config
from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.core.names import parse_agent
from lewm_bench.run.bases import base_agent
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import PLANNER, Job, Suite, named_settings, parse_overrides, shares_budget
from lewm_bench.run.settings import Settings

Path = tuple[str, ...]

LENGTHS = (("train", "steps"), ("train", "epochs"))


def check_read(suite: Suite, overrides: Sequence[str], planner: str = "") -> None:
    """Raise a UserError for the first setting of the command line, or in an agent's name, that no cell reads.

    So for a named ``planner`` where nobody plans.

    What stands in YAML is a default for many runs and may be about agents that this one leaves out.
    """
    if planner and not any(is_read(suite, job, (PLANNER,)) for job in suite.jobs):
        raise UserError(f"no cell of this run plans; leave the planner {planner!r} out, or choose agents that do")
    for path in leaves(parse_overrides(overrides)):
        if not any(is_read(suite, job, path) for job in suite.jobs):
            raise UserError(f"no cell of this run reads {'.'.join(path)}; leave it out, or choose what it belongs to")
    for job in suite.jobs:
        base = parse_agent(job.agent).base
        for path in leaves(named_settings(job.agent)):
            whole = path if path[0] == PLANNER else (base, *path)
            # A name may set its training steps against the common budget.
            if whole[1:] not in LENGTHS and not is_read(suite, job, whole):
                raise UserError(f"nothing reads {'.'.join(path)} of {job.agent!r}; leave it out of the name")


def leaves(settings: Mapping[str, Any], above: Path = ()) -> Iterator[Path]:
    """The paths of all values that are no settings of their own."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def is_read(suite: Suite, job: Job, path: Path) -> bool:
    """Whether a cell reads the setting at ``path``, as far as its own settings tell."""
    first, rest = path[0], path[1:]
    if first in Settings.model_fields and first != PLANNER:
        return True
    resolved = suite.of(job.env)
    try:
        family = agent_family(job.agent)
        if first == PLANNER:
            return family.plans and not is_unused(resolved.planner(job.agent), rest)
        config = resolved.agent_config(job.agent)
        base = base_agent(config) if isinstance(config, OnBaseConfig) else None
        if base is not None and first == parse_agent(base).base:
            return is_read(suite, job.model_copy(update={"agent": base}), path)
        if first != parse_agent(job.agent).base:
            return False
        if rest[:1] == ("data",) and not family.trainable:
            return False
        if rest[:1] == ("train",):
            budget = resolved.settings.training
            given = budget.steps is not None or budget.seconds is not None
            if not family.trainable or (rest in LENGTHS and given and shares_budget(job.agent)):
                return False
        return not is_unused(config, rest)
    except NotRun:  # a package is missing, so nobody can tell
        return True


def is_unused(config: Any, path: Path) -> bool:
    """Whether a setting, or one that it lies in, plays no part beside the values of the others."""
    for name in path:
        if not isinstance(config, Config):
            return False
        if name in config.unread():
            return True
        config = getattr(config, name, None)
    return False
