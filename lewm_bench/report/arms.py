"""How agents are called and ordered in reports: the main comparison in blocks, arms of an ablation apart from it.

An agent with settings in its name (``lewm:sigreg_weight=0.01``) is an arm of the agent without them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lewm_bench.core.names import AgentName, parse_agent

BLOCKS = ("world model", "policy", "privileged", "floor")  # kinds in the order of tables and figures

NAMES = {
    "lewm": "LeWM",
    "fast-lewm": "Fast-LeWM",
    "delta-jepa": "Delta-JEPA",
    "pldm": "PLDM",
    "jepa-ema": "JEPA-EMA",
    "dino-wm": "DINO-WM",
    "gcbc": "GCBC",
    "gcivl": "GCIVL",
    "gciql": "GCIQL",
    "sac-her": "SAC+HER",
    "oracle": "the oracle",
    "greedy": "greedy",
    "straight": "straight",
    "random": "random actions",
    "noop": "no action",
}
"""Names for people, in the order of tables and figures within a block."""

HARMLESS = ("train.on_collapse", "train.log_every", "train.save_every")
"""Settings that change no result, so arms that differ in them are no different arms."""


def parts(agent: str) -> AgentName:
    """The parts of a name, without settings that change no result."""
    name = parse_agent(agent)
    return name._replace(settings=tuple(s for s in name.settings if s[0] not in HARMLESS))


def is_arm(agent: str) -> bool:
    """Whether the agent stands among the ablations."""
    return bool(parts(agent).settings)


def settings_text(agent: str) -> str:
    """The settings of an arm, for a table: ``sigreg_weight=0.01, dropout=0``."""
    return ", ".join(f"{path}={value}" for path, value in parts(agent).settings)


def title(agent: str) -> str:
    """What an agent without its settings is called in headings: ``LeWM``, ``DINO-WM (mae)``."""
    name = parts(agent)
    known = NAMES.get(name.base, name.base)
    return known if name.variant is None else f"{known} ({name.variant})"


def label(agent: str, recorded: str) -> str:
    """An agent's name for people: as recorded, and by its settings if it is an arm."""
    return f"{title(agent)} with {settings_text(agent)}" if is_arm(agent) else recorded or agent


def order(agent: str, kind: str) -> tuple:
    """Sorts agents by block, family and variant, and arms behind all of them by path and value."""
    name, known = parts(agent), list(NAMES)
    place = known.index(name.base) if name.base in known else len(known)
    values = tuple((path, size(value), value) for path, value in name.settings)
    return bool(values), BLOCKS.index(kind), place, name.trained, values, agent


def size(value: object) -> float:
    """A number to sort by; infinity for what is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("inf")


def main_rows(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the main comparison; all of them where no agent that learns is among those."""
    main = np.array([not is_arm(a) for a in table["agent"]], bool)
    learners = np.array([kinds[a] in ("world model", "policy") for a in table["agent"]], bool)
    return table[main] if (main & learners).any() or main.all() else table
