"""How agents are called, ordered and drawn in reports: by the cards in their records, since a report imports no agent.

The main comparison stands in blocks by kind, ablations apart from it: an agent with settings in its name
(``lewm:sigreg_weight=0.01``) is an ablation of the agent without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb

from lewm_bench.core.card import Card
from lewm_bench.core.names import AgentName, parse_agent

BLOCKS = ("world model", "policy", "privileged", "floor")  # kinds in the order of tables and figures

HARMLESS = ("train.on_collapse", "train.log_every", "train.save_every", "train.save_seconds")
"""Settings that change no result, so agents that differ in them alone are the same."""

# For agents that bring no colour or marker. With many agents no palette tells all apart for every colour vision by hue
# alone: ours differ in lightness from their neighbours too, and each has a marker of its own.
SPARE_COLOURS = ("#999933", "#AA4499", "#661100", "#6699CC", "#AA6633", "#4B0092")
SPARE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SHADES = (0.3, -0.25, 0.5, -0.45, 0.15)  # towards white, or towards black where negative


def parts_of(agent: str) -> AgentName:
    """The parts of a name, without settings that change no result."""
    name = parse_agent(agent)
    return name._replace(settings=tuple(s for s in name.settings if s[0] not in HARMLESS))


def is_ablation(agent: str) -> bool:
    """Whether the agent stands among the ablations."""
    return bool(parts_of(agent).settings)


def settings_text(agent: str) -> str:
    """The settings of an ablation, for a table: ``sigreg_weight=0.01, dropout=0``."""
    return ", ".join(f"{path}={value}" for path, value in parts_of(agent).settings)


def title(agent: str, card: Card) -> str:
    """What an agent without its settings is called in headings: ``LeWM``, ``DINO-WM (mae)``."""
    name = parts_of(agent)
    known = card.name or name.base
    return known if name.variant is None else card.variants.get(name.variant, f"{known} ({name.variant})")


def order(agent: str, kind: str, card: Card) -> tuple:
    """Sorts agents by block, family and variant, and ablations behind all of them by path and value."""
    name = parts_of(agent)
    values = tuple((path, size(value), value) for path, value in name.settings)
    return bool(values), BLOCKS.index(kind), card.rank, name.trained, values, agent


def size(value: object) -> float:
    """A number to sort by; infinity for what is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("inf")


def colour(agent: str, card: Card) -> str:
    """The colour of an agent; a variant and an ablation get a shade of it that depends on the name alone."""
    base = parts_of(agent).base
    plain = card.colour or SPARE_COLOURS[_number(base, 0) % len(SPARE_COLOURS)]
    return plain if agent == base else shade(plain, SHADES[_number(agent, 0) % len(SHADES)])


def shade(plain: str, amount: float) -> str:
    """A colour mixed with white (``amount`` above 0) or black (below)."""
    end = 1.0 if amount > 0 else 0.0
    return to_hex([(1 - abs(amount)) * part + abs(amount) * end for part in to_rgb(plain)])


def marker(agent: str, card: Card) -> str:
    """The marker of an agent, a second cue beside the colour; variants and ablations share it."""
    return card.marker or SPARE_MARKERS[_number(parts_of(agent).base, 1) % len(SPARE_MARKERS)]


def _number(name: str, byte: int) -> int:
    return hashlib.sha256(name.encode()).digest()[byte]


class Introduced(Protocol):
    """A record of an agent."""

    @property
    def agent(self) -> str: ...
    @property
    def card(self) -> Card: ...


@dataclass(frozen=True)
class Agents:
    """The agents of a report."""

    cards: Mapping[str, Card]  # by registered name

    @classmethod
    def of(cls, records: Iterable[Introduced]) -> Agents:
        """Those of some records; where their cards differ the last one counts, an empty one never."""
        return cls({parts_of(r.agent).base: r.card for r in records if r.card != Card()})

    def card(self, agent: str) -> Card:
        """The card of an agent, empty where none was recorded."""
        return self.cards.get(parts_of(agent).base, Card())

    def title(self, agent: str) -> str:
        """What it is called without its settings."""
        return title(agent, self.card(agent))

    def name(self, agent: str) -> str:
        """What it is called: ``LeWM``, ``LeWM with dropout=0``."""
        return self.title(agent) + (f" with {settings_text(agent)}" if is_ablation(agent) else "")

    def short(self, agent: str) -> str:
        """What stands at an axis: its name on the command line; of one of another package the card's, which is shorter."""
        base, card = parts_of(agent).base, self.card(agent)
        return card.name + agent[len(base) :] if ":" in base and card.name else agent

    def label(self, agent: str, recorded: str) -> str:
        """As recorded, with every substitute named, or by its settings if it is an ablation."""
        return self.name(agent) if is_ablation(agent) else recorded or agent

    def order(self, agent: str, kind: str) -> tuple:
        """What to sort it by."""
        return order(agent, kind, self.card(agent))

    def colour(self, agent: str) -> str:
        """Its colour in figures."""
        return colour(agent, self.card(agent))

    def marker(self, agent: str) -> str:
        """Its marker in figures."""
        return marker(agent, self.card(agent))


def main_rows(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the main comparison; all of them where no agent that learns is among those."""
    main = np.array([not is_ablation(a) for a in table["agent"]], bool)
    learners = np.array([kinds[a] in ("world model", "policy") for a in table["agent"]], bool)
    return table[main] if (main & learners).any() or main.all() else table
