"""Rows kept as columns are the same rows, to the bit and the type, in a fraction of the memory."""

from __future__ import annotations

import math
import tracemalloc

import pytest

from lewm_bench.core.config import Record
from lewm_bench.run.columns import Columns
from lewm_bench.run.records import CellRecord, EpisodeRow, Episodes


class Row(Record):
    name: str
    number: int
    flag: bool
    maybe: int | None
    value: float


ROWS = (
    Row(name="a", number=3, flag=True, maybe=None, value=-0.0),
    Row(name="b", number=-1, flag=False, maybe=1, value=math.inf),
    Row(name="a", number=2**70, flag=True, maybe=0, value=0.1),
)


@pytest.mark.parametrize("rows", [(), ROWS[:1], ROWS[:2], ROWS, ROWS[:1] * 3], ids=len)
def test_the_rows_come_back_as_they_were(rows: tuple[Row, ...]) -> None:
    columns = Columns(Row, rows)
    assert len(columns) == len(rows) and tuple(columns) == rows and columns == rows and columns == list(rows)
    for row, other in zip(columns, rows, strict=True):
        assert repr(row) == repr(other) and row.model_dump_json() == other.model_dump_json()
        assert [type(v) for v in dict(row).values()] == [type(v) for v in dict(other).values()]
    assert columns[1:] == rows[1:] and columns[::-1] == rows[::-1] and columns + rows == rows + rows
    for name in Row.model_fields:
        assert list(columns.column(name)) == [getattr(row, name) for row in rows]
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            columns[index]
    if rows:
        assert columns[-1] == rows[-1] and columns != rows[:-1] and columns != "rows"


def test_what_is_equal_but_not_the_same_stays_apart() -> None:
    rows = tuple(
        Row.model_construct(name="a", number=n, flag=f, maybe=m, value=0.0) for n, f, m in [(1, True, 1), (1, 1, True)]
    )
    assert [type(row.flag) for row in Columns(Row, rows)] == [bool, int]
    assert [type(row.maybe) for row in Columns(Row, rows)] == [int, bool]
    nan = Columns(Row, [ROWS[0].model_copy(update={"value": math.nan})])
    assert math.isnan(nan[0].value)


def episodes(count: int) -> list[EpisodeRow]:
    fixed = {"suite": "s", "profile": "quick", "protocol": "clean-1", "env": "E-v0", "agent": "lewm", "seed": 0}
    fixed |= {"goal_offset": 25, "plans": 2, "device": "cpu", "weights": "trained", "version": "1", "key": "0123"}
    return [
        EpisodeRow(
            **fixed, pair=i, hit=i % 3 > 0, held=i % 5 == 1, steps_to_hit=i % 40 if i % 3 else None,
            distance_start=i / 7, distance_end=i / 9, encode_seconds=0.1 * i, search_seconds=0.2 * i, env_seconds=0.01,
        )
        for i in range(count)
    ]  # fmt: skip


BASE = {
    "status": "done",
    "suite": "s",
    "profile": "quick",
    "protocol": "clean-1",
    "env": "E-v0",
    "agent": "lewm",
    "seed": 0,
}


def test_a_record_takes_and_gives_what_it_did_with_a_tuple() -> None:
    class Plain(CellRecord):
        episodes: tuple[EpisodeRow, ...] = ()

    rows = episodes(5)
    for given in (rows, tuple(rows), [row.model_dump() for row in rows], Episodes(rows)):
        record = CellRecord(**BASE, episodes=given)
        plain = Plain(**BASE, episodes=tuple(rows))
        assert isinstance(record.episodes, Episodes) and record.episodes == plain.episodes
        assert record.model_dump_json(indent=1) == plain.model_dump_json(indent=1)
        assert record.model_dump() == plain.model_dump() and record.model_dump(mode="json") == plain.model_dump(
            mode="json"
        )
    assert CellRecord.model_validate_json(record.model_dump_json()) == record
    assert CellRecord(**BASE).episodes == Episodes() == ()


def test_the_episodes_at_an_offset() -> None:
    rows = [row.model_copy(update={"goal_offset": 25 * (1 + row.pair % 2)}) for row in episodes(5)]
    found = Episodes(rows)
    assert found.at(50, "pair", "hit") == [(1, True), (3, False)]
    assert (
        found.at(25, "pair") == [(0,), (2,), (4,)] and found.at(None, "pair") == [] and Episodes().at(25, "hit") == []
    )
    assert Episodes.of(found) is found and Episodes.of(rows) == found


def test_an_episode_takes_a_hundred_bytes() -> None:
    """As objects it takes thousands, so that a million of them do not fit into a laptop."""
    tracemalloc.start()
    kept = Episodes(episodes(2000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 2000 and size / 2000 < 150
