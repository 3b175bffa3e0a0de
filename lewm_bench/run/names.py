"""Names of environments and agents, and where those of other packages come from; nothing is imported for them."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from lewm_bench.agents import AGENTS
from lewm_bench.core.errors import unknown
from lewm_bench.core.names import parse_agent

FOUND_WHERE = "install the package that has it, or put the folder that it lies in on PYTHONPATH"
AGENT_GROUP, ENV_GROUP = "lewm_bench.agents", "lewm_bench.envs"  # of entry points


def plugins(group: str) -> tuple[EntryPoint, ...]:
    """What installed packages announce in a group of entry points."""
    return _plugins(group, tuple(sys.path))


@lru_cache(maxsize=16)
def _plugins(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Asked for with every name of an agent, and read from the metadata of every package on the path."""
    return tuple(entry_points(group=group))


def announced() -> dict[str, str]:
    """Namespaces of ids that are goal environments, and the package that each comes from."""
    names = {entry.value.split(":")[0].split(".")[0]: entry for entry in plugins(ENV_GROUP)}
    return {"lewm_bench": "lewm-bench", **{n: e.dist.name if e.dist else n for n, e in names.items()}}


def agent_names() -> list[str]:
    """The names of all agents that are registered here."""
    return sorted({*AGENTS, *(entry.name for entry in plugins(AGENT_GROUP))})


def agent_path(name: str) -> str:
    """``module:attribute`` of an agent's family.

    Raises:
        UserError: nothing is registered under the name.
    """
    base = parse_agent(name).base
    announced = {entry.name: entry.value for entry in plugins(AGENT_GROUP)}
    path = AGENTS.get(base) or announced.get(base) or (base if "." in base and ":" in base else None)
    if path is None:
        raise unknown("agent", base, agent_names())
    return path
