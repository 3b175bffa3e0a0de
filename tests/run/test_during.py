"""Success while agents train, and by the share of the data: who is asked, on which pairs, and what is trained for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import outcome

from lewm_bench.agents.parts.goal_policy import GoalPolicyFamily
from lewm_bench.core.errors import UserError
from lewm_bench.data.format import Dataset
from lewm_bench.run import during, stages
from lewm_bench.run.benchmarks import load
from lewm_bench.run.keys import model_spec
from lewm_bench.run.records import CellRecord, load_cells
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run, dataset_of, setting_of
from lewm_bench.run.unused_settings import check_read
from lewm_bench.system.store import Store
from lewm_bench.train import loop

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
TINY = f"""
profiles:
  quick: {{}}
suites:
  tiny:
    title: Tiny
    envs: [{UMAZE}]
    agents: [noop, gcbc]
    seeds: [0]
    settings:
      image_size: 32
      collect: {{episodes: 20, steps: 20}}
      evaluate: {{num_pairs: 3, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 16, during_pairs: 4}}
      gcbc: {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 10, batch_size: 4, on_collapse: continue}}}}
"""
FIVE = "evaluate.during_training=5"


def tiny(
    folder: Path, *overrides: str, agents: tuple[str, ...] = (), cache: Path | None = None
) -> tuple[Run, list[str]]:
    path = folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    suite, lines = resolve(load(path), "tiny", "quick", overrides=overrides, agents=agents), []
    check_read(suite, overrides)
    return Run(suite, Store(cache or folder / "cache"), folder / "out", torch.device("cpu"), False, lines.append), lines


def files(cache: Path, kind: str) -> dict[str, bytes]:
    return {
        p.relative_to(cache / kind).as_posix(): p.read_bytes()
        for p in sorted((cache / kind).rglob("*"))
        if p.name in ("model.safetensors", "episodes.jsonl")
    }


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """A run that asks for the checkpoints from the beginning."""
    folder = tmp_path_factory.mktemp("at once")
    run, lines = tiny(folder, FIVE)
    return folder, run_suite(run), lines


def of(cells: list[CellRecord], agent: str) -> CellRecord:
    return next(c for c in cells if c.agent == agent)


def test_every_share_of_the_steps_is_evaluated_and_floors_are_not(at_once) -> None:
    folder, cells, lines = at_once
    found = of(cells, "gcbc").during
    assert [(d.steps, d.goal_offset, len(d.hit), len(d.held)) for d in found] == [
        (s, 5, 4, 4) for s in (2, 4, 6, 8, 10)
    ]
    assert of(cells, "noop").during == () and of(cells, "noop").status == "done"
    assert len([line for line in lines if "trained in" in line]) == 1
    assert load_cells([folder / "out"]) == sorted(cells, key=lambda c: c.agent)


def test_the_last_is_the_agent_itself(at_once) -> None:
    """Evaluated as ``evaluate.split=val`` would, with as many pairs: another way to the same episodes."""
    folder, cells, _ = at_once
    (folder / "other").mkdir()
    run, _ = tiny(
        folder / "other", "evaluate.split=val", "evaluate.num_pairs=4", agents=("gcbc",), cache=folder / "cache"
    )
    (cell,) = run_suite(run)
    last = of(cells, "gcbc").during[-1]
    assert (last.hit, last.held) == (tuple(r.hit for r in cell.episodes), tuple(r.held for r in cell.episodes))


def test_pairs_are_validation_pairs_whatever_is_reported(tmp_path, monkeypatch) -> None:
    seen = []
    sample = during.sample_pairs

    def watched(*arguments):
        seen.append((arguments[0], sample(*arguments)))
        return seen[-1][1]

    monkeypatch.setattr(during, "sample_pairs", watched)
    for number, protocol in enumerate(("paper-v3", "clean-2")):
        (tmp_path / protocol).mkdir()
        run, _ = tiny(
            tmp_path / protocol, "evaluate.during_training=1", f"evaluate.protocol={protocol}", "evaluate.candidates=6",
            agents=("gcbc",), cache=tmp_path / "cache",
        )  # fmt: skip
        cells = run_suite(run)
        done = [c.during for c in cells if c.status == "done"]  # of strata those that have pairs
        assert done and all(len(found) == 1 for found in done) and len(set(done)) == 1
        assert len(seen) >= number + 1
    for dataset, pairs in seen:
        assert set(pairs.episode.tolist()) <= set(dataset.episodes("val").tolist())


def test_weights_that_are_there_are_used_and_only_the_checkpoints_made(at_once, tmp_path, monkeypatch) -> None:
    folder, _, _ = at_once
    run, _ = tiny(tmp_path)
    (plain,) = (c for c in run_suite(run) if c.agent == "gcbc")
    assert plain.during == () and not (tmp_path / "cache" / "checkpoints").exists()
    before = files(tmp_path / "cache", "model")
    assert before == files(folder / "cache", "model")  # the same key and the same bytes with and without

    run, lines = tiny(tmp_path, FIVE)
    (cell,) = (c for c in run_suite(run) if c.agent == "gcbc")
    assert files(tmp_path / "cache", "model") == before
    assert [line for line in lines if "trained" in line] == [
        f"{UMAZE}: gcbc, seed 0, was trained before checkpoints on its way were asked for; trained again for them"
    ]
    assert files(tmp_path / "cache", "checkpoints") == files(folder / "cache", "checkpoints")
    assert len(files(tmp_path / "cache", "checkpoints")) == 4  # the last is the model
    assert not list((tmp_path / "cache").glob("checkpoints/*/.again"))

    def refuse(*_):
        raise AssertionError("trained although it is in the cache")

    monkeypatch.setattr(GoalPolicyFamily, "train", refuse)
    run, lines = tiny(tmp_path, FIVE)
    assert of(run_suite(run), "gcbc").during == cell.during and not [line for line in lines if "trained" in line]


def test_the_verb_that_trains_keeps_them_too(tmp_path, monkeypatch, capsys) -> None:
    tiny(tmp_path)
    given = ("--suite", "tiny", "--config", str(tmp_path / "tiny.yaml"), "--cache", str(tmp_path / "cache"))
    assert outcome(monkeypatch, capsys, "train", "gcbc", *given, "--set", FIVE, "--device", "cpu")[0] == 0
    assert len(files(tmp_path / "cache", "checkpoints")) == 4


@pytest.mark.parametrize("asked", [FIVE, "evaluate.during_training=0"], ids=["for them", "for the weights alone"])
def test_a_killed_run_goes_on_and_ends_where_it_would_have_ended(at_once, tmp_path, monkeypatch, asked) -> None:
    folder, _, _ = at_once
    save = loop._save

    def killed(state, index, *rest):
        save(state, index, *rest)
        if index == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_suite(tiny(tmp_path, asked, "gcbc.train.save_every=1")[0])
    monkeypatch.setattr(loop, "_save", save)
    run, lines = tiny(tmp_path, FIVE)
    run_suite(run)
    for kind in ("model", "checkpoints"):
        assert files(tmp_path / "cache", kind) == files(folder / "cache", kind)
    again = any("trained again for them" in line for line in lines)
    assert again == (asked != FIVE)  # what was passed before anyone asked is not there


def test_a_training_that_does_not_repeat_is_told(tmp_path, monkeypatch) -> None:
    run_suite(tiny(tmp_path)[0])
    train = GoalPolicyFamily.train

    def other(self, setting, folder):
        log = train(self, setting, folder)
        (folder / "model.safetensors").write_bytes((setting.keeping.of(2) / "model.safetensors").read_bytes())
        return log

    monkeypatch.setattr(GoalPolicyFamily, "train", other)
    run, lines = tiny(tmp_path, FIVE)
    assert of(run_suite(run), "gcbc").status == "done"
    assert any("did not train to the same weights again" in line for line in lines)


def test_without_validation_episodes_it_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"evaluate.during_training takes validation pairs, but collect.val is 0"):
        tiny(tmp_path, FIVE, "collect.val=0", "collect.train=0.85")


def test_records_of_earlier_versions_are_read(at_once) -> None:
    _, cells, _ = at_once
    old = json.loads(of(cells, "gcbc").model_dump_json())
    for name in ("during", "train_episodes"):
        del old[name]
    found = CellRecord.model_validate_json(json.dumps(old), strict=True)
    assert (found.during, found.train_episodes) == ((), None)


# The share of the data.


def test_a_share_learns_from_the_first_episodes_and_has_the_same_pairs(at_once, tmp_path) -> None:
    folder, cells, _ = at_once
    run, _ = tiny(tmp_path, agents=("gcbc", "gcbc:data=0.2", "gcbc:data=0.5"), cache=folder / "cache")
    found = {c.agent: c for c in run_suite(run)}
    assert {a: c.train_episodes for a, c in found.items()} == {"gcbc": 15, "gcbc:data=0.2": 3, "gcbc:data=0.5": 8}
    assert found["gcbc"].key == of(cells, "gcbc").key  # all of the data is what it was before there were shares
    starts = {tuple(r.distance_start for r in c.episodes) for c in found.values()}
    assert len(starts) == 1 and len({c.dataset for c in found.values()}) == 1
    assert found["gcbc:data=0.2"].train_clips < found["gcbc:data=0.5"].train_clips < found["gcbc"].train_clips


def test_a_share_trains_what_a_dataset_without_the_rest_trains(at_once, tmp_path) -> None:
    folder, _, _ = at_once
    run, _ = tiny(tmp_path, agents=("gcbc:data=0.2",), cache=folder / "cache")
    job = run.suite.jobs[0]
    env, dataset, key = dataset_of(run, job.env)
    with_share = stages.checkpoint_of(setting_of(run, job, env, dataset, key), agent_family("gcbc"))

    smaller = tmp_path / "smaller"
    shutil.copytree(dataset.folder, smaller)
    meta = json.loads((smaller / "meta.json").read_text())
    meta["splits"]["train"] = sorted(meta["splits"]["train"])[:3]
    (smaller / "meta.json").write_text(json.dumps(meta))
    whole, _ = tiny(tmp_path, agents=("gcbc",), cache=tmp_path / "other")
    setting = setting_of(whole, whole.suite.jobs[0], env, Dataset.open(smaller), "smaller")
    without = stages.checkpoint_of(setting, agent_family("gcbc"))
    assert (with_share / "model.safetensors").read_bytes() == (without / "model.safetensors").read_bytes()


def test_a_share_of_the_data_stays_one_in_another_process(at_once) -> None:
    import pickle

    folder, _, _ = at_once
    (path,) = (p.parent for p in (folder / "cache" / "dataset").glob("*/meta.json"))
    dataset = Dataset.open(path)
    part = pickle.loads(pickle.dumps(dataset.with_share(0.2)))
    assert part.episodes("train").tolist() == dataset.episodes("train").tolist()[:3]
    assert part.episodes("test").tolist() == dataset.episodes("test").tolist()
    assert np.array_equal(part.states, dataset.states)
    assert len(dataset.with_share(0.001).episodes("train")) == 1


def test_passes_over_a_share_are_fewer_steps(at_once, tmp_path) -> None:
    folder, _, _ = at_once
    names = ("gcbc:train.epochs=2", "gcbc:data=0.2:train.epochs=2")
    run, _ = tiny(tmp_path, agents=names, cache=folder / "cache")
    data = dataset_of(run, run.suite.envs[0])
    steps = [setting_of(run, job, *data).config.train.steps for job in run.suite.jobs]
    assert steps[1] == pytest.approx(steps[0] / 5, abs=1)


def test_the_share_of_all_data_is_no_part_of_a_key(at_once, tmp_path) -> None:
    folder, _, _ = at_once
    run, _ = tiny(tmp_path, agents=("gcbc", "gcbc:data=1", "gcbc:data=0.5"), cache=folder / "cache")
    data = dataset_of(run, run.suite.envs[0])
    found = [model_spec(setting_of(run, job, *data), agent_family("gcbc")) for job in run.suite.jobs]
    assert found[0] == found[1] and "data" not in found[0]["config"] and found[2]["config"]["data"] == 0.5


@pytest.mark.parametrize("agent", ["noop:data=0.5", "sac-her:data=0.5"])
def test_who_does_not_learn_from_the_data_refuses_a_share(tmp_path, agent) -> None:
    with pytest.raises(UserError, match="nothing reads data of"):
        tiny(tmp_path, agents=(agent,))
