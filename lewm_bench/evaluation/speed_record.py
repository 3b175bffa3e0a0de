"""What timing leaves behind: a row per method, arithmetic and size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from lewm_bench.core.card import Card
from lewm_bench.core.config import Record
from lewm_bench.core.reading import json_of, model_of, read_text
from lewm_bench.system.files import write_text
from lewm_bench.system.record_files import check_schema, json_in_lines

SCHEMA = 1


class SpeedRow(Record):
    """One row of the speed table: a method in a mode, and how long its plans took."""

    method: str  # the agent
    label: str
    card: Card = Card()
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
    def agent(self) -> str:
        """Its name."""
        return self.method

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
    """Write the rows into ``folder``, atomically; a line each, so that a difference of two files can be read."""
    data = {"schema_version": SCHEMA, "rows": [row.model_dump(mode="json") for row in rows]}
    write_text(folder / SPEED_FILE, json_in_lines(data))


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
