"""Planners by name: what they say, what they win over and lose to, and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lewm_bench.core.errors import UserError
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run import benchmarks as suites
from lewm_bench.run.resolve import resolve

UMAZE, MEDIUM = "lewm_bench/PointMaze-UMaze-v0", "lewm_bench/PointMaze-Medium-v0"
NAMED = "lewm:planner.num_iterations=7"


def load(folder: Path, **more: object) -> suites.Benchmarks:
    """A file whose every layer says how many iterations and samples there are."""
    say = {"planner": {"num_samples": 50, "num_iterations": 5, "std": 0.5}}
    data = {
        "profiles": {"small": say},
        "environments": {UMAZE: {"settings": say, "profiles": {"small": say}}},
        "suites": {
            "s": {
                "title": "S",
                "envs": [{"id": UMAZE, "settings": say}, MEDIUM],
                "agents": ["lewm", NAMED],
                "settings": say,
                "profiles": {"small": {"settings": say}},
            }
        },
        **more,
    }
    path = folder / "benchmarks.yaml"
    path.write_text(yaml.safe_dump(data))
    return suites.load(path)


def planner(bench: suites.Benchmarks, name: str, *overrides: str, agent: str = "lewm") -> PlannerConfig:
    found = resolve(bench, "s", "small", planner=name, overrides=overrides)
    first, second = (found.of(env).planner(agent) for env in found.envs)
    assert first == second
    return first


def test_a_named_planner_wins_over_the_file_and_loses_to_the_command_line_and_to_names(tmp_path: Path) -> None:
    bench = load(tmp_path)
    assert planner(bench, "").num_samples == 50
    found = planner(bench, "quick")
    assert (found.num_samples, found.num_iterations, found.num_elites) == (100, 3, 10)
    assert found.std == 0.5  # which it does not speak of
    assert planner(bench, "quick", "planner.num_iterations=9").num_iterations == 9
    assert planner(bench, "quick", agent=NAMED).num_iterations == 7


def test_the_papers_planner_is_that_of_the_class_and_of_no_protocol(tmp_path: Path) -> None:
    found, papers = planner(load(tmp_path), "papers"), PlannerConfig()
    assert (found.num_samples, found.num_iterations, found.num_elites) == (300, 30, 30)
    assert (papers.num_samples, papers.num_iterations, papers.num_elites) == (300, 30, 30)


def test_planners_of_a_file_stand_beside_ours_and_win(tmp_path: Path) -> None:
    own = {"mine": {"solver": "icem", "icem": {"beta": 1.0}}, "quick": {"num_samples": 31}}
    bench = load(tmp_path, planners=own)
    assert planner(bench, "mine").icem.beta == 1.0 and planner(bench, "mine").solver == "icem"
    assert planner(bench, "quick").num_samples == 31 and planner(bench, "quick").num_iterations == 5
    assert list(suites.planners(bench)) == ["papers", "quick", "mine"]


@pytest.mark.parametrize(
    ("name", "block", "expected"),
    [
        ("quik", {}, ["no planner named 'quik'; known: mine, papers, quick", "did you mean 'quick'?"]),
        ("mine", {"num_smaples": 3}, ["num_smaples", "did you mean 'planner.num_samples'?"]),
        ("mine", {"num_elites": 400}, ["planner", "need 1 < num_elites <= num_samples"]),
    ],
)
def test_what_is_wrong_is_one_line_with_the_nearest_match(
    tmp_path: Path, name: str, block: dict[str, int], expected: list[str]
) -> None:
    bench = load(tmp_path, planners={"mine": block})
    with pytest.raises(UserError) as caught:
        planner(bench, name)
    assert all(part in str(caught.value) for part in expected) and "\n" not in str(caught.value)
