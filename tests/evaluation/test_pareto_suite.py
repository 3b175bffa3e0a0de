"""The suite of planners: what it runs, and that its smoke tells which planner to use."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lewm_bench.cli import app as cli
from lewm_bench.core.names import canonical
from lewm_bench.run import benchmarks as suites
from lewm_bench.run.resolve import resolve


def test_the_suite_has_every_solver_and_the_papers_planner_on_the_data_of_horizon() -> None:
    bench = suites.load(suites.find_file(None))
    found, horizon = (resolve(bench, name, "quick") for name in ("pareto", "horizon"))
    assert {job.protocol for job in found.jobs} == {"clean-2/planning"} and len(found.envs) == 2
    for env in found.envs:
        own, theirs = found.of(env).settings, horizon.by_env[env.label].settings
        assert own.collect == theirs.collect and own.evaluate.batch == 1
        assert found.of(env).agent_config("lewm") == horizon.by_env[env.label].agent_config("lewm")
        planners = [
            found.of(env).planner(job.agent) for job in found.jobs if job.env == env and job.agent[:4] == "lewm"
        ]
        grid = {(p.num_samples, p.num_iterations) for p in planners if p.solver == "cem" and p.receding == 5}
        assert grid == {(s, i) for s in (30, 100, 300) for i in (1, 3, 10, 30)}
        assert {p.solver for p in planners} == {"cem", "icem", "mppi", "shooting", "adam"}
        assert {p.receding for p in planners} == {1, 3, 5} and any(p.warm_start for p in planners)
        assert len({p.model_dump_json() for p in planners}) == len(planners)  # none is there twice
        assert all(p.num_elites == p.num_samples // 10 for p in planners)


@pytest.mark.slow
def test_the_smoke_suite_tells_which_planner_to_use(tmp_path: Path) -> None:
    args = ["run", "--suite", "pareto-smoke", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "-q"]
    shown = CliRunner().invoke(cli.app, args)
    assert shown.exit_code == 0, shown.output
    assert "Within 10" in (tmp_path / "out/table.md").read_text() and (tmp_path / "out/pareto.png").is_file()
    points = pd.read_csv(tmp_path / "out/pareto.csv").set_index("agent")
    often = canonical("lewm:planner.num_samples=16:planner.num_iterations=2:planner.num_elites=2:planner.receding=1")
    few = canonical("lewm:planner.num_samples=8:planner.num_iterations=1:planner.num_elites=2")
    assert set(points.index) == {"lewm", few, often, "lewm:planner.solver=adam"}
    # 100 steps are 4 decisions of 8 plans or 20 of 32, and encode one frame each: more than 5, less than 20 times as much.
    assert 5 < points.loc[often, "flops_per_step"] / points.loc[few, "flops_per_step"] < 20
    table = pd.read_csv(tmp_path / "out/table.csv").set_index("agent")
    assert table.loc[["random", "oracle"], "flops_per_step"].isna().all()
