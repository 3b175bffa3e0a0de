"""Suites that change the world, from the command line to the page, tiny: what is cached, what is refused, what fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import outcome

import lewm_bench as lb
from lewm_bench.core.errors import UserError
from lewm_bench.evaluation.shift_record import TRAINED, Condition, load_shifts
from lewm_bench.run import shift
from lewm_bench.run.benchmarks import load
from lewm_bench.run.keys import for_pairs, pairs_spec, shift_spec
from lewm_bench.run.resolve import resolve
from lewm_bench.run.stages import Run, dataset_of, prepare_agent
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store, canonical_json

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
TINY = f"""
profiles: {{quick: {{image_size: 32}}}}
suites:
  changed: &changed
    title: Changed
    kind: shift
    envs: [{UMAZE}]
    agents: [random, oracle]
    seeds: [0]
    settings:
      collect: {{episodes: 40, steps: 60}}
      planner: {{num_samples: 8, num_iterations: 1, num_elites: 4}}
      evaluate: {{num_pairs: 2, candidates: 40, goal_offset: [40]}}
      shift: {{factors: [colour, delay], levels: [3]}}
  usual: {{<<: *changed, kind: evaluate, agents: [random]}}
"""
DELAY = Condition(factor="delay", level=3)
CHANGED, AS_TRAINED = (Condition(factor="colour", level=3, goal=goal) for goal in ("changed", "trained"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(monkeypatch, capsys, config: Path, cache: Path, out: Path, *more: str) -> tuple[int, str, str]:
    given = ("--suite", "changed", "--config", str(config), "--cache", str(cache), "--out", str(out), "-q")
    return outcome(monkeypatch, capsys, "run", *given, *more)


def test_a_suite_from_end_to_end(monkeypatch, capsys, config, cache, tmp_path):
    out = tmp_path / "out"
    status, shown, err = command(monkeypatch, capsys, config, cache, out)
    assert status == 0, err
    assert "the oracle" in shown and "in 3 changed worlds" in err
    cells = load_shifts([out])
    assert [cell.agent for cell in cells] == ["oracle", "random"]
    for cell in cells:
        assert [each.condition for each in cell.found] == [TRAINED, CHANGED, AS_TRAINED, DELAY] and not cell.skipped
        assert (cell.protocol, cell.goal_offset, cell.budget, cell.num_pairs) == ("shift-1", 40, 80, 2)
        assert all(len(each.outcomes.pairs) == 2 for each in cell.found)
        assert [(f.name, f.group) for f in cell.factors] == [("colour", "looks"), ("delay", "control")]
        assert cell.hardware and cell.versions and (out / cell.sheet).is_file()
    # The oracle sees states, so that another colour is nothing to it.
    looks = {each.condition: each.outcomes for each in cells[0].found}
    assert looks[CHANGED] == looks[AS_TRAINED] == looks[TRAINED] != looks[DELAY]
    page = (out / "report.html").read_bytes()

    def refuse(*_, **__):
        raise AssertionError("made although it is in the cache")

    monkeypatch.setattr(shift, "act_in", refuse)
    assert command(monkeypatch, capsys, config, cache, out)[0] == 0 and load_shifts([out]) == cells
    status, _, err = outcome(
        monkeypatch, capsys, "report", str(out), "--out", str(tmp_path / "both"), "--title", "Changed"
    )
    assert status == 0 and (tmp_path / "both" / "report.html").read_bytes() == page, err


def test_a_world_that_fails_is_recorded_and_stops_nobody(monkeypatch, capsys, config, cache, tmp_path):
    real = shift.act_in

    def broken(world, *rest):
        if world.dataset.states.shape[1] > 4:  # actions that are under way are in the state
            raise RuntimeError("broke")
        return real(world, *rest)

    monkeypatch.setattr(shift, "act_in", broken)
    given = ("--agents", "random", "--seeds", "1")
    status, _, err = command(monkeypatch, capsys, config, cache, tmp_path / "out", *given)
    (cell,) = load_shifts([tmp_path / "out"])
    assert status == 1 and "failed: " in err and "delay level 3: failed: " in err
    assert list(cell.skipped) == [DELAY.name] and len(cell.found) == 3
    details = cell.skipped[DELAY.name].split("details: ")[1].rstrip(")")
    assert "RuntimeError: broke" in (tmp_path / "out" / details).read_text()
    assert "failed: " in (tmp_path / "out" / "table.md").read_text()


def test_what_determines_a_world_is_in_its_key(config, cache, tmp_path):
    def spec(*settings: str, condition: Condition = DELAY, values=("0", "1", "2", "4"), suite: str = "changed"):
        found = resolve(load(config), suite, "quick", agents=["random"], overrides=settings)
        run = Run(found, Store(cache), tmp_path, resolve_device("cpu"), False, str)
        (job, *_) = found.jobs
        agent = prepare_agent(run, job, dataset_of(run, job.env))
        if suite == "usual":
            return pairs_spec(found, job, agent.setting, 40)
        from lewm_bench.core.shift import Factor

        factor = Factor("control", "told otherwise", values, lambda env, level: env)
        return shift_spec(found, for_pairs(job), agent.setting, agent.family, condition, factor)

    same = canonical_json(spec())
    assert canonical_json(spec()) == same == canonical_json(spec("shift.factors=[colour]", "shift.goals=[trained]"))
    others = [
        spec(condition=Condition(factor="delay", level=2)),
        spec(condition=Condition(factor="noise", level=3)),
        spec(condition=Condition(factor="delay", level=3, goal="trained")),
        spec(values=("0", "1", "2", "5")),
        spec("evaluate.num_pairs=1"),
        spec("evaluate.goal_offset=30"),
    ]
    assert len({canonical_json(each) for each in others} | {same}) == 1 + len(others)
    # The sorting of pairs is that of clean-2, for whoever has made it already.
    assert spec()["pairs"] == spec("evaluate.protocol=clean-2/planning", suite="usual")


@pytest.mark.parametrize(
    "more, told",
    [
        (("--set", "evaluate.goal_offset=[30,40]"), "at one goal offset"),
        (("--set", "evaluate.protocol=clean-2"), "the protocol of changed is shift-1"),
        (("--set", "shift.levels=[4]"), "levels are 1, 2, 3, got 4"),
        (("--set", "shift.factors=[colur]"), "did you mean 'colour'"),
        (("--devices", "cpu,cpu"), "changes the world, which is done in this process"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(monkeypatch, capsys, config, tmp_path, more, told):
    status, _, err = command(monkeypatch, capsys, config, tmp_path / "cache", tmp_path / "out", *more)
    assert status == 2 and told in err.strip().splitlines()[-1] and "collected" not in err, err


def test_the_function_says_where_it_is_done(config, tmp_path):
    with pytest.raises(UserError, match="lewm-bench run --suite changed"):
        lb.run("changed", config=config, cache=tmp_path / "cache", out=tmp_path / "out")
