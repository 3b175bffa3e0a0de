"""Names of files: short, safe, and never one for two cells."""

from __future__ import annotations

from itertools import combinations

import pytest

from lewm_bench.agents import AGENTS
from lewm_bench.data.videos import video_name
from lewm_bench.run.environments import environment_ids
from lewm_bench.run.records import CellRecord
from lewm_bench.system.filenames import agents_stem, env_stem, file_stem
from lewm_bench.understand.records import UnderstandingRecord

MAZE = "lewm_bench/PointMaze-UMaze-v0"
LONG = "lewm:" + ":".join(f"some.setting_{n}=0.1234567" for n in range(40))


def cell(env: str, agent: str) -> CellRecord:
    return CellRecord(
        status="failed", suite="s", profile="quick", protocol="paper", env=env, agent=agent, seed=2**63 - 1
    )


def test_short_and_plain_names_stay_as_they_are() -> None:
    for agent in AGENTS:
        assert file_stem(MAZE, agent) == f"PointMaze-UMaze-v0__{agent}"
        assert agents_stem([agent, "gcbc"], MAZE) == f"{agent}+gcbc-PointMaze-UMaze-v0"
    for env in (each for each in environment_ids() if each.startswith("lewm_bench/")):
        assert file_stem(env, "lewm") == f"{env.removeprefix('lewm_bench/')}__lewm"
    assert env_stem("their_pkg:TheirMaze-v0") == "TheirMaze-v0"


TWINS = [
    (MAZE, "lewm"),
    ("other/PointMaze-UMaze-v0", "lewm"),
    ("other:PointMaze-UMaze-v0", "lewm"),
    ("PointMaze-UMaze-v0", "lewm"),
    ("pointmaze-umaze-v0", "lewm"),
    (MAZE, "LeWM"),
    (MAZE, "lewm:a=1"),
    (MAZE, "lewm:A=1"),
    (MAZE, "lewm:a_1"),
    (MAZE, "lewm_a_1"),
    (MAZE, "lewm:a=1.0"),
    (MAZE, "lewm:ä=1"),
    (MAZE, "lewm:ö=1"),
    (MAZE, "lewm__x"),
    (f"{MAZE}__lewm", "x"),
    (MAZE, LONG),
    (MAZE, LONG + "0"),
    (MAZE, LONG.replace("setting_39", "Setting_39")),
    (MAZE, "a" * 300),
    ("\0" * 400, "lewm"),
    ("深" * 200, "\ud800"),
]


def test_two_cells_never_share_a_file_also_where_case_does_not_count() -> None:
    stems = [file_stem(*each).casefold() for each in TWINS]
    for (one, a), (two, b) in combinations(zip(TWINS, stems, strict=True), 2):
        assert a != b, (one, two)


@pytest.mark.parametrize("env, agent", TWINS)
def test_every_name_fits_into_a_file_system(tmp_path, env: str, agent: str) -> None:
    record = cell(env, agent)
    names = [record.file_name, video_name(env, agent, 2**63 - 1, 10**6, 10**6).removeprefix("videos/")]
    names += [f"{env_stem(env)}.png", agents_stem([agent, agent, agent], env), f"{record.file_name}__open_loop.txt"]
    for name in names:
        assert name.isascii() and len(name) < 240 and "/" not in name and not name.startswith(".")
        (tmp_path / name).write_text("")


def test_a_record_with_a_long_name_is_saved_and_named_alike_by_both_kinds(tmp_path) -> None:
    record = cell("their_pkg:" + "Maze" * 100, LONG)
    path = record.save(tmp_path)
    assert CellRecord.model_validate_json(path.read_text()) == record
    other = UnderstandingRecord(
        status="failed", suite="s", profile="quick", env=record.env, agent=LONG, seed=record.seed
    )
    assert other.save(tmp_path / "other").name == path.name
