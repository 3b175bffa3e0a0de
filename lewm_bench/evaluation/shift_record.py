"""What a trained agent did in changed worlds: one record per environment, agent and seed, stored as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lewm_bench.core.card import Card
from lewm_bench.core.config import Config, Record
from lewm_bench.core.names import AgentText
from lewm_bench.core.renamed import renamed
from lewm_bench.system.filenames import file_stem
from lewm_bench.system.files import write_text
from lewm_bench.system.packed import cell_kinds, cell_texts
from lewm_bench.system.record_files import record_of

SCHEMA = 1
KIND = "shift"
SHEETS = "shifts"  # folder of pictures of changed worlds below the results
FAILED = "failed"

GoalLook = Literal["changed", "trained", "same"]
"""How the picture of the goal is drawn: as the changed world looks, as the trained one did, or they do not differ."""


class Condition(Config):
    """A changed world, or with no factor the one that agents were trained in."""

    factor: str = ""
    level: int = Field(0, ge=0, le=3)
    goal: GoalLook = "same"

    @property
    def name(self) -> str:
        """What it is called in messages and figures."""
        drawn = "" if self.goal == "same" else f", goal drawn {'changed' if self.goal == 'changed' else 'as trained'}"
        return f"{self.factor} level {self.level}{drawn}" if self.factor else "the trained world"


TRAINED = Condition()


class Outcomes(Record):
    """The episodes of an agent in one world, pair by pair."""

    pairs: tuple[int, ...] = ()  # their numbers among all pairs; what cannot be asked there is left out
    hit: tuple[bool, ...] = ()  # the goal was reached at some step
    held: tuple[bool, ...] = ()  # the goal is reached at the last step
    steps_to_hit: tuple[int | None, ...] = ()
    distance_start: tuple[float, ...] = ()
    distance_end: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Outcomes:
        if len({len(getattr(self, name)) for name in type(self).model_fields}) != 1:
            raise ValueError("columns of different lengths")
        return self


class ShiftedOutcomes(Record):
    """What an agent did under a condition."""

    condition: Condition
    outcomes: Outcomes
    seconds: float  # that its episodes took


class ChangedFactor(Record):
    """A factor as its environment described it."""

    name: str
    group: str  # looks, control, physics or layout
    about: str
    values: tuple[str, str, str, str]  # of each level; the first is the trained world


class ShiftRecord(Record):
    """One agent, trained once, in all worlds of an environment."""

    kind: Literal["shift"] = KIND
    schema_version: int = SCHEMA
    status: Literal["done", "not run", "failed"]
    reason: str = ""
    suite: str
    profile: str
    protocol: str
    env: str
    agent: AgentText
    label: str = ""
    agent_kind: Literal["world model", "policy", "privileged", "floor"] = "world model"
    card: Card = Card()  # of the agent
    note: str = ""
    seed: int
    key: str = ""  # of the weights
    config: Annotated[dict[str, Any], AfterValidator(partial(renamed, tell=False))] = Field(default_factory=dict)
    dataset: str = ""
    weights: str = "none"
    parameters: int | None = None
    train_seconds: float | None = None
    train_hardware: dict[str, str] = Field(default_factory=dict)
    goal_offset: int | None = None  # environment steps
    budget: int | None = None  # environment steps
    num_pairs: int = 0
    factors: tuple[ChangedFactor, ...] = ()
    sheet: str = ""  # PNG of states at all levels of what can be seen, relative to the results folder
    found: tuple[ShiftedOutcomes, ...] = ()  # of the trained world first
    skipped: dict[str, str] = Field(default_factory=dict)  # condition to why it was not measured
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    commit: str = ""
    created: str = ""

    @property
    def failures(self) -> list[str]:
        """What went wrong; what cannot run here did not."""
        if self.status == FAILED:
            return [self.reason]
        return [f"{name}: {why}" for name, why in self.skipped.items() if why.startswith(FAILED)]

    @property
    def file_name(self) -> str:
        """The name of this cell's JSON file."""
        return f"{file_stem(self.env, self.agent)}__seed{self.seed}.json"

    def save(self, folder: Path) -> Path:
        """Write the record into ``folder``, atomically."""
        path = folder / self.file_name
        write_text(path, self.model_dump_json(indent=1))
        return path


def holds_shifts(folder: Path) -> bool:
    """Whether the cells of a results folder are of this kind; unreadable ones do not tell."""
    return KIND in cell_kinds(folder)


def load_shifts(folders: Iterable[Path]) -> list[ShiftRecord]:
    """All records of result folders, sorted; a later folder wins, but what was not done there hides nothing.

    Raises:
        UserError: a folder has no cells, or a file is not a record of this kind and schema.
    """
    found: dict[tuple[str, str, int, str], ShiftRecord] = {}
    for folder in folders:
        for path, text in cell_texts(folder):
            each = record_of(text, path, ShiftRecord, SCHEMA, "a record of changed worlds")
            key = (each.env, each.agent, each.seed, each.profile)
            if each.status == "done" or key not in found or found[key].status != "done":
                found[key] = each
    return [found[key] for key in sorted(found)]
