"""What a run leaves behind: one CellRecord per (environment, agent, seed), stored as JSON.

Tables, figures and the report page are made from these records alone, so they can come from several machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from lewm_bench.core.card import Card
from lewm_bench.core.config import Record
from lewm_bench.core.names import AgentText, stratum_of
from lewm_bench.core.renamed import renamed
from lewm_bench.evaluation.trail_record import Trail
from lewm_bench.run.columns import Columns
from lewm_bench.system.filenames import file_stem
from lewm_bench.system.files import write_text
from lewm_bench.system.packed import cell_texts
from lewm_bench.system.record_files import read_record, record_of
from lewm_bench.train.record import even

SCHEMA = 1


class EpisodeRow(Record):
    """One evaluated episode; the columns of ``episodes.csv`` in this order."""

    suite: str
    profile: str
    protocol: str
    env: str
    agent: AgentText
    seed: int
    goal_offset: int
    pair: int
    hit: bool  # the goal was reached at some step
    held: bool  # the goal is reached at the last step
    steps_to_hit: int | None  # environment steps, None without a hit
    distance_start: float
    distance_end: float
    plans: int
    encode_seconds: float  # sums over the episode's plans
    search_seconds: float
    env_seconds: float
    device: str
    weights: str  # trained, random, pretrained, none
    version: str
    key: str


class Episodes(Columns[EpisodeRow]):
    """The episodes of a cell; a field that takes and gives a tuple of rows, and holds columns."""

    def __init__(self, rows: Iterable[EpisodeRow] = ()) -> None:
        super().__init__(EpisodeRow, rows)

    @classmethod
    def of(cls, rows: Sequence[EpisodeRow]) -> Episodes:
        """The rows as columns, unless they are already."""
        return rows if isinstance(rows, cls) else cls(rows)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        rows = handler(tuple[EpisodeRow, ...])
        checked = core_schema.no_info_before_validator_function(lambda v: tuple(v) if isinstance(v, cls) else v, rows)
        given = core_schema.plain_serializer_function_ser_schema(tuple, return_schema=rows)
        either = core_schema.json_or_python_schema(rows, checked)  # strict JSON has lists, which Python's tuples refuse
        return core_schema.no_info_after_validator_function(cls, either, serialization=given)

    def at(self, offset: int | None, *names: str) -> list[tuple[Any, ...]]:
        """The values of some fields, of each episode at a goal offset."""
        offsets = self.column("goal_offset")
        columns = zip(*map(self.column, names), strict=True)
        return [values for where, values in zip(offsets, columns, strict=True) if where == offset]


class OffsetRecord(Record):
    """What one cell measured at one goal offset, beside its episodes."""

    goal_offset: int
    plan_seconds: tuple[float, ...] = ()  # every plan, encode + search, episode by episode
    encode_seconds: tuple[float, ...] = ()
    pairs_candidates: int = 0  # pairs among which those solved at the start were counted (protocol.Pairs)
    pairs_solved_at_start: int = 0
    pairs_sorted: int = 0  # pairs that were tried to sort them, and how many are like these (protocol.Pairs)
    pairs_of_stratum: int = 0
    latent_oracle_hit: float | None = None  # true simulator with the model's own latent cost, fraction
    latent_oracle_pairs: int = 0
    distance_rank_correlation: float | None = None  # Spearman of latent and true distance
    flops_per_step: float | None = None  # of planning, per executed environment step; None where they were not counted
    videos: tuple[str, ...] = ()  # files relative to the suite's results folder
    trails: tuple[Trail, ...] = ()  # of every pair, where the environment says where what moves is


class DuringRecord(Record):
    """Success of an agent after some of its training steps, on validation pairs."""

    steps: int
    goal_offset: int
    hit: tuple[bool, ...]  # of each pair, as in an EpisodeRow
    held: tuple[bool, ...]


class CellRecord(Record):
    """Everything that is known about one (environment, agent, seed)."""

    schema_version: int = SCHEMA
    status: Literal["done", "not run", "failed"]
    reason: str = ""  # why not, and what to do
    suite: str
    profile: str
    protocol: str
    env: str
    agent: AgentText
    label: str = ""  # for people, names every substitute: "DINO-WM (frozen low-pass ViT, 16 tokens)"
    kind: Literal["world model", "policy", "privileged", "floor"] = "world model"
    card: Card = Card()  # of the agent
    note: str = ""  # shown in the table's note column
    seed: int
    key: str = ""
    config: Annotated[dict[str, Any], AfterValidator(partial(renamed, tell=False))] = Field(default_factory=dict)
    dataset: str = ""  # fingerprint
    weights: str = "none"
    parameters: int | None = None  # None for agents without a network
    tokens_per_frame: int | None = None
    base: str = ""  # the agent whose frozen weights it is built on: "LeWM, seed 0"
    base_seconds: float | None = None  # of that one's training, which train_seconds contain
    train_seconds: float | None = None
    training: Annotated[dict[str, list[float | None]], AfterValidator(even)] = Field(default_factory=dict)
    train_clips: int | None = None  # that the training drew from; None where passes over the data mean nothing
    train_episodes: int | None = None  # None where they are not recorded, or the agent makes its own
    train_hardware: dict[str, str] = Field(default_factory=dict)  # with the device and the number of threads
    evaluation_complete: bool = True
    during: tuple[DuringRecord, ...] = ()  # in the order of steps, offset by offset
    offsets: tuple[OffsetRecord, ...] = ()
    episodes: Episodes = Field(default_factory=Episodes)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)  # device, cpu, cores, threads, memory, os
    commit: str = ""
    created: str = ""  # ISO 8601, UTC

    @property
    def file_name(self) -> str:
        """The name of this cell's JSON file."""
        return f"{file_stem(self.env, self.agent)}__seed{self.seed}{self._suffix}.json"

    @property
    def _suffix(self) -> str:
        return f"__{stratum}" if (stratum := stratum_of(self.protocol)).isalpha() else ""

    def save(self, folder: Path) -> Path:
        """Write the record into ``folder``, atomically."""
        path = folder / self.file_name
        write_text(path, self.model_dump_json(indent=1))
        return path


def load_cell(path: Path) -> CellRecord:
    """The record in a file; raises what ``read_record`` does."""
    return read_record(path, CellRecord, *_CELL)


_CELL = SCHEMA, "a cell record"


def load_cells(folders: Iterable[Path]) -> list[CellRecord]:
    """All cell records of result folders, sorted; a later folder wins over an earlier one for the same cell.

    But what was not done there hides nothing that was done elsewhere.

    Raises:
        UserError: a folder has no cells, or a file is not a cell record of this schema.
    """
    cells: dict[tuple[str, str, int, str, str], CellRecord] = {}
    for folder in folders:
        for path, text in cell_texts(folder):
            cell = record_of(text, path, CellRecord, *_CELL)
            key = (cell.env, cell.agent, cell.seed, cell.profile, cell.protocol)
            if cell.status == "done" or key not in cells or cells[key].status != "done":
                cells[key] = cell
    return [cells[k] for k in sorted(cells)]
