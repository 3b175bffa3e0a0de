"""What a run leaves behind: one CellRecord per (environment, agent, seed), stored as JSON.

Tables, figures and the report page are made from these records alone, so they can come from several machines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, PlainSerializer, model_validator
from pydantic_core import CoreSchema, core_schema

from lewm_bench.config import Record
from lewm_bench.errors import UserError, shown
from lewm_bench.files import write_text
from lewm_bench.names import AgentText, stratum_of
from lewm_bench.run.columns import Columns
from lewm_bench.run.packed import MEND, cell_texts
from lewm_bench.system.filenames import file_stem
from lewm_bench.system.reading import json_of, model_of, read_text

SCHEMA = 1


Curve = dict[str, list[int | float | None]]
"""Of a training's log: one entry per logged step, null where a number was not finite; ``step`` is one of them."""


def even(columns: Mapping[str, Sequence[float | None]]) -> Mapping[str, Sequence[float | None]]:
    """``columns`` as they are.

    Raises:
        ValueError: they do not say the step of every entry.
    """
    steps = columns.get("step", [])
    known = all(step is not None and math.isfinite(step) for step in steps)
    if not known or any(len(values) != len(steps) for values in columns.values()):
        raise ValueError("every entry of every column needs its step")
    return columns


class TrainingRecord(Record):
    """What a training leaves on disk beside its weights."""

    step: int = Field(0, ge=0)  # of a state that is saved on the way
    of: dict[str, Any] = Field(default_factory=dict)  # what that state is a state of
    columns: Annotated[Curve, AfterValidator(even)]
    seconds: float = Field(ge=0)
    hardware: dict[str, str] = Field(default_factory=dict)


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


Spot = tuple[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]]
"""Where something is in a frame: per mille of its width and height, from its upper left corner."""


def _spots(value: object) -> object:
    """``"12,500 13,498"`` to a tuple of numbers each; anything else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(tuple(map(int, spot.split(","))) for spot in value.split())


Spots = Annotated[
    tuple[Spot, ...],
    Field(min_length=1),
    BeforeValidator(_spots),
    # In a file as text: indented JSON takes ten times as much for numbers in lists in lists.
    PlainSerializer(lambda spots: " ".join(f"{x},{y}" for x, y in spots), return_type=str, when_used="json"),
]


class Trail(Record):
    """The way that an agent went in one episode, until it first reached the goal or to the end."""

    pair: int
    goal: Spot
    spots: Spots  # of every fifth environment step, the start and the last one included
    reached: bool
    distance: float  # from start to goal, in the environment's unit
    path: float | None = None  # length of the shortest way there, where the environment knows it

    @property
    def detour(self) -> float | None:
        """How many times as long as the distance the shortest way is."""
        return None if self.path is None or not self.distance > 0 else self.path / self.distance


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
    videos: tuple[str, ...] = ()  # files relative to the suite's results folder
    trails: tuple[Trail, ...] = ()  # of every pair, where the environment says where what moves is


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
    note: str = ""  # shown in the table's note column
    seed: int
    key: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    dataset: str = ""  # fingerprint
    weights: str = "none"
    parameters: int | None = None  # None for agents without a network
    tokens_per_frame: int | None = None
    train_seconds: float | None = None
    training: Annotated[dict[str, list[float | None]], AfterValidator(even)] = Field(default_factory=dict)
    train_hardware: dict[str, str] = Field(default_factory=dict)  # with the device and the number of threads
    evaluation_complete: bool = True
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


METHODS = {
    "lewm": "LeWM",
    "pldm": "PLDM (LeWM's networks)",
    "fast-lewm": "Fast-LeWM",
    "dino-wm": "DINO-WM, encoded once",
    "dino-wm:reencode": "DINO-WM, re-encodes in every iteration",
}
"""What the speed table compares, with names for people."""


class SpeedRow(Record):
    """One row of the speed table: a method in a mode, and how long its plans took."""

    method: str
    label: str
    mode: str  # float32, tf32, bfloat16, int8, compile: of the fast path; reference: the plain loop in float32
    profile: str
    solver: str = "cem"
    image_size: int  # pixels
    tokens_per_frame: int
    parameters: int
    batch: int = Field(ge=1)  # episodes planned together
    context: int  # frames
    num_samples: int = Field(ge=1)
    num_iterations: int = Field(ge=1)
    horizon: int = Field(ge=1)  # blocks
    timed_samples: int  # fewer than num_samples or num_iterations: the search time is extrapolated
    timed_iterations: int
    encode_seconds: tuple[float, ...]  # of each plan of the whole batch
    search_seconds: tuple[float, ...]
    encode_flops: int | None  # None where torch cannot count
    search_flops: int | None
    peak_flops: float = Field(gt=0)  # per second, of large matrix products on the same machine in the same arithmetic
    weights: str  # random or trained
    sweep: str = ""  # what was varied for the figure; empty for the table's rows
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str] = Field(default_factory=dict)
    commit: str = ""

    @model_validator(mode="after")
    def _two_times_per_plan(self) -> SpeedRow:
        if len(self.encode_seconds) != len(self.search_seconds):
            raise ValueError("encode_seconds and search_seconds must have one entry per plan each")
        return self

    @property
    def extrapolated(self) -> bool:
        """Whether less than a whole search was timed."""
        return self.timed_samples < self.num_samples or self.timed_iterations < self.num_iterations

    @property
    def plan_seconds(self) -> list[float]:
        """Encoding and searching, of each plan."""
        return [e + s for e, s in zip(self.encode_seconds, self.search_seconds, strict=True)]


class SpeedRecord(Record):
    """The file of a result folder of ``lewm-bench speed``."""

    schema_version: int = SCHEMA
    rows: tuple[SpeedRow, ...]


SPEED_FILE = "speed.json"


def save_speed(rows: Iterable[SpeedRow], folder: Path) -> None:
    """Write the rows into ``folder``, atomically."""
    data = {"schema_version": SCHEMA, "rows": [row.model_dump(mode="json") for row in rows]}
    write_text(folder / SPEED_FILE, json.dumps(data, indent=1))


def load_speed(folder: Path) -> list[SpeedRow]:
    """The rows of a result folder of ``lewm-bench speed``.

    Raises:
        UserError: the file cannot be read or is of another schema.
    """
    path = folder / SPEED_FILE
    mend = "run `lewm-bench speed` again"
    text = read_text(path, mend)
    check_schema(json_of(text, path, mend), SCHEMA, path, "a speed record", mend)
    return list(model_of(text, SpeedRecord, path, mend).rows)


R = TypeVar("R", bound=Record)


def read_record(path: Path, kind: type[R], schema: int, what: str, strict: bool = True) -> R:
    """The record of a kind in a file; ``what`` names the kind for people, ``strict`` takes no text for a number.

    Raises:
        UserError: it cannot be read, or is not a record of this kind and schema.
    """
    return record_of(read_text(path, MEND), path, kind, schema, what, strict)


def record_of(text: str, path: Path, kind: type[R], schema: int, what: str, strict: bool = True) -> R:
    """The record in a text that was read from ``path``; raises what ``read_record`` does."""
    check_schema(json_of(text, path, MEND), schema, path, what, MEND)
    return model_of(text, kind, path, MEND, strict)


def check_schema(data: Any, schema: int, path: Path, what: str, mend: str) -> None:
    """Raise a UserError unless ``data``, read from ``path``, is an object of this schema."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or version != schema:
        raise UserError(f"{path} is not {what} of schema {schema} (its schema_version is {shown(version)}); {mend}")


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
