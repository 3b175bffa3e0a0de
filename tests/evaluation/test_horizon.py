"""Protocol horizon-1: one set of starts for every goal offset, each goal sorted by whether it needs a plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_bench.agent import AgentConfig, Setting
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.evaluation import strata
from lewm_bench.evaluation.protocol import CHOICES, HORIZON_1_PLANNING, first_pairs
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.environments import make_env
from lewm_bench.run.keys import pairs_spec
from lewm_bench.run.resolve import resolve
from lewm_bench.system.store import Store

OFFSETS, LONGEST, STARTS = (5, 30, 60), 60, 20


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder, env = tmp_path_factory.mktemp("horizon"), make_env("lewm_bench/TwoRoom-v0", 32)
    config = CollectConfig(episodes=20, steps=80, policies={"door_expert": 1.0}, train=0.4, val=0.1, test=0.5)
    data = collect(env, config, 0, folder / "data", progress=False)
    return Setting(
        env, "TwoRoom", "greedy", data, "key", AgentConfig(), PlannerConfig(), 0, torch.device("cpu"), Store(folder)
    )


def starts(setting: Setting, offset: int, most: int = STARTS) -> list[int]:
    return first_pairs(setting.dataset, setting.env, HORIZON_1_PLANNING, most, offset, "test", LONGEST)[1].tolist()


def test_all_offsets_share_the_starts_that_are_not_solved_there(setting: Setting) -> None:
    every = starts(setting, LONGEST, 10**6)
    states, ends = setting.dataset.states, setting.dataset.ends
    assert len(set(every)) == len(every)
    for offset in OFFSETS:
        found = starts(setting, offset)
        # Exactly those of one list that are open at this distance, in its order, in episodes long enough for the largest.
        dealt = first_pairs(
            setting.dataset, setting.env, HORIZON_1_PLANNING.model_copy(update={"keep_solved": True}), STARTS, LONGEST
        )[1]
        far = np.linalg.norm(states[dealt] - states[dealt + offset], axis=1) >= setting.env.threshold
        assert found == dealt[far].tolist()
        episode = np.searchsorted(ends, found, side="right")
        assert (np.array(found) + LONGEST < ends[episode]).all()
    assert len(starts(setting, 5)) < len(starts(setting, 60)) <= STARTS


def test_more_starts_begin_with_the_same(setting: Setting) -> None:
    assert starts(setting, 30) == starts(setting, 30, 2 * STARTS)[: len(starts(setting, 30))]


def test_every_start_is_sorted_at_every_offset(setting: Setting) -> None:
    for offset in (30, 60):
        found = strata.sort_pairs(
            setting, HORIZON_1_PLANNING, 1, STARTS, offset, "test", 2 * offset, longest=LONGEST
        )  # with one pair wanted clean-2 would stop at once
        assert list(found.start) == starts(setting, offset)
        planning, plain = (strata.choose(found, kind, STARTS, offset) for kind in ("planning", "plain"))
        assert not {*planning.start_row} & {*plain.start_row}
        assert {*planning.start_row, *plain.start_row} <= {*found.start}


def test_the_key_of_pairs_knows_the_largest_offset_only_where_it_decides(setting: Setting) -> None:
    def spec(protocol: str, offsets: str) -> dict:
        overrides = [f"evaluate.protocol={protocol}", f"evaluate.goal_offset=[{offsets}]"]
        suite = resolve(load(find_file(None)), "tworoom", "quick", agents=["random"], overrides=overrides)
        return pairs_spec(suite, suite.jobs[0], setting, 25)

    assert spec("clean-2", "25") == spec("clean-2", "25, 60")
    assert spec("horizon-1", "25") != spec("horizon-1", "25, 60")
    assert [rules.id for rules in CHOICES["horizon-1"]] == ["horizon-1/planning", "horizon-1/plain"]


def test_the_smoke_suite_draws_the_curve(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lewm_bench.cli import app as cli

    args = ["run", "--suite", "horizon-smoke", "--agents", "random,oracle", "--cache", str(tmp_path / "cache"), "-q"]
    shown = CliRunner().invoke(cli.app, [*args, "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "out/horizon.csv").is_file() and "plannable range" in (
        tmp_path / "out/table.md"
    ).read_text().lower()
