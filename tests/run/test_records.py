"""Cell records: what is saved comes back, and what is not a record is named."""

from __future__ import annotations

import json

import pytest

from lewm_bench.core.errors import UserError
from lewm_bench.run.records import SCHEMA, CellRecord, EpisodeRow, OffsetRecord, load_cells


def cell(**changes) -> CellRecord:
    fields = {
        "status": "done", "suite": "s", "profile": "quick", "protocol": "clean-1", "env": "lewm_bench/Maze-v0",
        "agent": "lewm", "seed": 0,
    }  # fmt: skip
    return CellRecord(**(fields | changes))


def episode(**changes) -> EpisodeRow:
    fields = {
        "suite": "s", "profile": "quick", "protocol": "clean-1", "env": "e", "agent": "lewm", "seed": 0,
        "goal_offset": 25, "pair": 0, "hit": True, "held": False, "steps_to_hit": 3, "distance_start": 1 / 3,
        "distance_end": 1e-17, "plans": 2, "encode_seconds": 0.1, "search_seconds": 0.2, "env_seconds": 0.3,
        "device": "cpu", "weights": "trained", "version": "0", "key": "k",
    }  # fmt: skip
    return EpisodeRow(**(fields | changes))


def test_a_record_comes_back_as_it_was(tmp_path):
    made = cell(
        episodes=[episode(), episode(pair=1, hit=False, steps_to_hit=None)],
        offsets=[OffsetRecord(goal_offset=25, plan_seconds=[0.1, 1 / 7], videos=["videos/a.gif"])],
        training={"step": [0, 20], "loss": [1.5, None]},
        config={"planner": {"num_samples": 3}, "text": "maß"},
        reason='because: "quotes"\nand lines',
    )
    path = made.save(tmp_path / "cells")
    assert path == tmp_path / "cells" / made.file_name
    assert load_cells([tmp_path]) == [made]


@pytest.mark.parametrize(
    "env, agent, name",
    [
        ("lewm_bench/PointMaze-UMaze-v0", "lewm", "PointMaze-UMaze-v0__lewm__seed2.json"),
        ("lewm_bench/PointMaze-UMaze-v0", "dino-wm:mae", "PointMaze-UMaze-v0__dino-wm_mae-537b7a9e1c__seed2.json"),
        (
            "their_pkg:TheirMaze-v0",
            "their_pkg.agents:MINE",
            "TheirMaze-v0__their_pkg.agents_MINE-214156b760__seed2.json",
        ),
        ("a/../../b c", "x/y", "b_c__x_y-fa340d44f5__seed2.json"),
    ],
)
def test_file_names_are_safe(env, agent, name):
    assert cell(env=env, agent=agent, seed=2).file_name == name


def test_cells_come_sorted_and_the_later_folder_wins(tmp_path):
    for seed in (10, 2):
        cell(seed=seed).save(tmp_path / "one" / "cells")
    cell(agent="gcbc").save(tmp_path / "one" / "cells")
    cell(seed=2, reason="newer").save(tmp_path / "two" / "cells")
    found = load_cells([tmp_path / "one", tmp_path / "two"])
    assert [(c.agent, c.seed, c.reason) for c in found] == [("gcbc", 0, ""), ("lewm", 2, "newer"), ("lewm", 10, "")]
    assert load_cells([tmp_path / "two", tmp_path / "one"])[1].reason == ""


@pytest.mark.parametrize("status", ["failed", "not run"])
def test_what_was_measured_is_not_hidden_by_what_was_not(tmp_path, status):
    cell().save(tmp_path / "one" / "cells")
    cell(status=status, reason="later").save(tmp_path / "two" / "cells")
    cell(status="failed", reason="last").save(tmp_path / "three" / "cells")
    assert load_cells([tmp_path / "one", tmp_path / "two"]) == [cell()]
    assert load_cells([tmp_path / "two", tmp_path / "one"]) == [cell()]
    assert load_cells([tmp_path / "two", tmp_path / "three"])[0].reason == "last"


def test_two_profiles_or_protocols_are_two_cells(tmp_path):
    for name, change in (("a", {}), ("b", {"profile": "paper"}), ("c", {"protocol": "paper-v3"})):
        cell(**change).save(tmp_path / name / "cells")
    assert len(load_cells([tmp_path / n for n in "abc"])) == 3


def broken(**changes) -> str:
    return json.dumps(json.loads(cell().model_dump_json()) | changes)


@pytest.mark.parametrize(
    "content, says",
    [
        ("{half", "Expecting"),
        ("[]", "schema_version is None"),
        ("{}", "schema_version is None"),
        (broken(status="perhaps"), "status"),
        (broken(schema_version=SCHEMA + 1), f"schema_version is {SCHEMA + 1}"),
        (broken(episodes=[{}]), "episodes.0.suite"),
        (broken(surprise=1), "surprise"),
        ("\xff", "UTF-8"),
    ],
)
def test_what_is_not_a_record_is_one_line(tmp_path, content, says):
    (tmp_path / "cells").mkdir()
    path = tmp_path / "cells" / "x.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as raised:
        load_cells([tmp_path])
    message = str(raised.value)
    assert str(path) in message and says in message and "delete it and run again" in message and "\n" not in message


def test_a_record_without_a_schema_is_not_taken_for_one(tmp_path):
    data = json.loads(cell().model_dump_json())
    del data["schema_version"]
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "x.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="schema_version is None"):
        load_cells([tmp_path])


def test_places_without_cells(tmp_path):
    with pytest.raises(UserError, match="lewm-bench run"):
        load_cells([tmp_path])
    (tmp_path / "cells" / "folder.json").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot read"):
        load_cells([tmp_path])
