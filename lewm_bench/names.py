"""What an agent is called: ``BASE``, ``BASE:VARIANT`` or either with settings, ``BASE[:VARIANT][:PATH=VALUE]...``.

Settings in a name are how one table holds several arms of one agent: ``lewm``, ``lewm:sigreg_weight=0``,
``lewm:cem.solver=mppi``. Paths under ``cem.`` are the planner's, all others the agent's own.
"""

from __future__ import annotations

from typing import NamedTuple


class AgentName(NamedTuple):
    """The parts of a name."""

    base: str  # as registered, or ``module:attribute`` of another package
    variant: str | None
    settings: tuple[tuple[str, str], ...]  # (path, value as YAML)

    @property
    def trained(self) -> str:
        """The name without its settings; what random streams are addressed by, so that arms draw the same numbers."""
        return self.base if self.variant is None else f"{self.base}:{self.variant}"


def names_steps(agent: str) -> bool:
    """Whether an agent's name sets its training steps, so that no common budget does."""
    return any(path == "train.steps" for path, _ in parse_agent(agent).settings)


def parse_agent(name: str) -> AgentName:
    """``dino-wm:mae:cem.solver=icem`` to ("dino-wm", "mae", (("cem.solver", "icem"),))."""
    parts = name.split(":")
    whole = 2 if "." in parts[0] else 1  # a path of another package has a colon of its own
    base, rest = ":".join(parts[:whole]), parts[whole:]
    variants = [part for part in rest if "=" not in part]
    settings = [part.partition("=") for part in rest if "=" in part]
    return AgentName(
        base, ":".join(variants) if variants else None, tuple((path, value) for path, _, value in settings)
    )
