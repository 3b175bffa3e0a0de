"""The understanding suite from end to end, tiny: what it leaves, what it takes from the cache, and what a failure costs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import outcome

from lewm_bench.core.errors import NotRun, UserError
from lewm_bench.report.understanding.report import write_understanding
from lewm_bench.run import runner, stages, understanding
from lewm_bench.run.benchmarks import load
from lewm_bench.run.resolve import is_world_model, resolve
from lewm_bench.run.stages import Run
from lewm_bench.run.understanding import EXAMINATIONS, examine_suite
from lewm_bench.system.device import resolve_device
from lewm_bench.system.store import Store
from lewm_bench.understand.config import UnderstandingConfig
from lewm_bench.understand.records import UnderstandingRecord, load_records

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
COLLAPSING = "lewm:sigreg_weight=0:train.on_collapse=continue"
TINY = f"""
profiles:
  quick: {{}}
suites:
  look: &look
    title: A look inside
    kind: understand
    envs: [{UMAZE}]
    agents: [lewm, "{COLLAPSING}"]
    seeds: [0]
    settings:
      image_size: 32
      collect: {{episodes: 40, steps: 60}}
      evaluate: {{num_pairs: 2, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 8}}
      planner: {{num_samples: 4, num_iterations: 1, num_elites: 2}}
      lewm:
        encoder: cnn
        latent: 8
        projector_hidden: 16
        width: 16
        depth: 1
        heads: 2
        head_size: 8
        mlp_hidden: 16
        num_directions: 8
        train: {{steps: 12, batch_size: 8, log_every: 3}}
      understanding:
        collapse: {{frames: 60, clips: 30, directions: 16}}
        probe: {{train_frames: 200, test_frames: 60, folds: 3, width: 8, depth: 1, steps: 50}}
        surprise: {{triples: 6}}
        open_loop: {{clips: 10, horizon: 2}}
        retrieval: {{clips: 10, horizon: 2}}
        maps: {{frames: 40}}
        decoder:
          {{frames: 64, test_frames: 16, hidden: 16, width: 4, pictures: 2, videos: 1, blocks: 2, train: {{steps: 4}}}}
  act:
    <<: *look
    title: The same models, acting
    kind: evaluate
    agents: [random, lewm]
"""
FIELDS = {"collapse", "straightness", "probes", "surprise", "open_loop", "retrieval", "maps", "decoded"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def make_run(config: Path, folder: Path, cache: Path | None = None, suite: str = "look", **asked) -> Run:
    lines: list[str] = []
    resolved = resolve(load(config), suite, "quick", **asked)
    return Run(resolved, Store(cache or folder / "cache"), folder / "out", resolve_device("cpu"), False, lines.append)


def said(run: Run) -> list[str]:
    return run.say.__self__


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> tuple[Run, list[UnderstandingRecord]]:
    """One complete run that the tests below look at and never change."""
    run = make_run(config, tmp_path_factory.mktemp("finished"))
    cells = examine_suite(run)
    write_understanding(cells, run.out, run.suite.title)
    return run, cells


def refuse(*_, **__):
    raise AssertionError("made although it is in the cache")


def without(cells: list[UnderstandingRecord]) -> list[dict]:
    """Records without what differs between two runs."""
    return [cell.model_dump(exclude={"seconds", "created", "train_seconds", "commit"}) for cell in cells]


# What a run leaves behind.


def test_every_examination_has_settings_and_a_place_in_the_record():
    config = UnderstandingConfig()
    assert config.examinations == tuple(EXAMINATIONS) and {how.field for how in EXAMINATIONS.values()} == FIELDS
    assert set(UnderstandingConfig.model_fields) == {"examinations", *EXAMINATIONS}


def test_a_cell_holds_all_examinations_and_where_it_comes_from(finished):
    run, cells = finished
    assert [cell.agent for cell in cells] == ["lewm", COLLAPSING]
    for cell in cells:
        assert cell.status == "done" and not cell.skipped and not cell.failures, cell.skipped
        assert cell.collapse and cell.surprise and cell.open_loop and cell.retrieval and cell.decoded
        assert {p.features for p in cell.probes} >= {"model", "random encoder", "pixels"}
        assert {s.features for s in cell.straightness} == {"model", "random encoder", "pixels"}
        assert [m.method for m in cell.maps] == ["PCA", "t-SNE"] and len(cell.maps[0].points) == 40
        assert set(cell.seconds) == set(EXAMINATIONS) and min(cell.seconds.values()) > 0
        assert cell.weights == "trained" and cell.parameters and cell.dataset and cell.key
        assert cell.training["step"][-1] == 11 and len(cell.training["straightness"]) == len(cell.training["step"])
        assert cell.config["understanding"]["maps"]["frames"] == 40 and cell.config["agent"]["latent"] == 8
    assert cells[1].config["agent"]["sigreg_weight"] == 0
    assert load_records([run.out]) == sorted(cells, key=lambda c: c.agent)


def test_pictures_of_two_models_lie_apart_and_are_in_the_page(finished):
    run, cells = finished
    names = [name for cell in cells for name in (cell.decoded.pictures, *cell.decoded.videos)]
    assert len(set(names)) == len(names) == 4 and all((run.out / name).is_file() for name in names)
    page = (run.out / "report.html").read_text()
    assert (
        page.count("data:image/gif;base64,") == 2 and page.count("data:image/png;base64,") == 8 + 2 + 2
    )  # a still of each film
    with (run.out / "understanding.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["agent"] for row in rows] == [cell.agent for cell in cells]
    assert float(rows[0]["teleport_auc"]) == pytest.approx(cells[0].surprise.tests[-1].auc.value, rel=1e-5)


def test_floors_that_models_share_are_found_once(finished):
    """Pixels are everyone's, and the two models have the same networks and seed."""
    run, cells = finished
    specs = [json.loads(path.read_text())["spec"] for path in run.store.root.glob("understanding/*/done.json")]
    assert sorted(spec["floor"] for spec in specs if "floor" in spec) == ["pixels", "pixels, reduced", "random encoder"]
    floors = [[row for row in cell.probes if row.features != "model"] for cell in cells]
    assert floors[0] and floors[0] == floors[1]


def test_every_finished_cell_is_told_in_a_line(finished):
    lines = [line for line in said(finished[0]) if line.startswith("[")]
    assert len(lines) == 2 and lines[0].startswith("[1/2] PointMaze-UMaze-v0 lewm seed 0: examined in ")


def test_the_bar_counts_what_is_done(config, tmp_path, monkeypatch):
    bars = []

    def made(**options):
        bars.append(real(**options, file=io.StringIO()))
        return bars[0]

    real = understanding.tqdm
    monkeypatch.setattr(understanding, "tqdm", made)
    run = dataclasses.replace(make_run(config, tmp_path, agents=["lewm"]), progress=True)
    counts = []
    with understanding.progress(run) as step:
        for name in ("train", *EXAMINATIONS):
            step(name)
            counts.append(bars[0].n)
    assert counts == list(range(bars[0].total)) and bars[0].n == bars[0].total


# The cache.


def test_the_second_run_examines_nothing_and_finds_the_same(finished, config, tmp_path, monkeypatch):
    run, cells = finished
    for name in (
        "probe",
        "straightness",
        "examine_collapse",
        "examine_surprise",
        "open_loop",
        "retrieval",
        "maps",
        "decode",
    ):
        monkeypatch.setattr(understanding, name, refuse)
    monkeypatch.setattr("lewm_bench.agent.train_module", refuse)
    monkeypatch.setattr(stages, "collect", refuse)
    monkeypatch.setattr("lewm_bench.agents.lewm.LeWMFamily.load", refuse)
    again = make_run(config, tmp_path, run.store.root)
    found = examine_suite(again)
    assert found == cells
    assert all((again.out / name).is_file() for cell in found for name in (cell.decoded.pictures, *cell.decoded.videos))


def test_models_are_those_of_the_suites_that_act(finished, config, tmp_path, monkeypatch):
    run, cells = finished
    monkeypatch.setattr("lewm_bench.agent.train_module", refuse)
    acting = make_run(config, tmp_path, run.store.root, "act", agents=["lewm"])
    (cell,) = runner.run_suite(acting)
    assert cell.status == "done" and cell.key == cells[0].key


@pytest.mark.parametrize(
    "override, again",
    [
        ("understanding.maps.frames=41", {"maps"}),
        ("understanding.surprise.noise=0.1", {"examine_surprise"}),
        ("understanding.examinations=[collapse]", set()),
        ("planner.num_samples=5", set()),
        ("planner.rollout=reference", {"open_loop", "retrieval", "decode"}),
        ("lewm.train.log_every=2", set()),
    ],
)
def test_a_setting_repeats_what_depends_on_it_and_nothing_else(
    finished, config, tmp_path, monkeypatch, override, again
):
    made = set()

    def spied(name, real):
        return lambda *args: made.add(name) or real(*args)

    for name in (
        "probe",
        "straightness",
        "examine_collapse",
        "examine_surprise",
        "open_loop",
        "retrieval",
        "maps",
        "decode",
    ):
        monkeypatch.setattr(understanding, name, spied(name, getattr(understanding, name)))
    monkeypatch.setattr(stages, "commit", lambda: "c0ffee")
    cache = tmp_path / "cache"
    shutil.copytree(finished[0].store.root, cache)
    run = make_run(config, tmp_path, cache, agents=["lewm"], overrides=[override])
    (cell,) = examine_suite(run)
    assert cell.status == "done" and not cell.skipped and made == again
    assert (cell.commit == "c0ffee") == bool(again)  # of the newest part
    asked = run.suite.settings.understanding.examinations
    assert set(cell.seconds) == set(asked)


def test_a_killed_run_goes_on_where_it_stopped(finished, config, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    run = make_run(config, tmp_path, agents=["lewm"])
    with monkeypatch.context() as patched:
        patched.setattr(understanding, "open_loop", killed)
        with pytest.raises(KeyboardInterrupt):
            examine_suite(run)
    assert not list((run.out / "cells").glob("*"))  # half a cell is none
    for name in ("probe", "straightness", "examine_collapse", "examine_surprise"):
        monkeypatch.setattr(understanding, name, refuse)
    (found,), (expected,) = without(examine_suite(run)), without(finished[1][:1])
    assert {name for name in expected if found[name] != expected[name]} == set()


# Failures.


@pytest.mark.parametrize(
    "error, says, failed",
    [
        (UserError("no test episode is long enough"), "failed: no test episode is long enough", True),
        (NotRun("no OpenGL here"), "not run: no OpenGL here", False),
        (ZeroDivisionError("by\nnothing"), "failed: ZeroDivisionError: by nothing, in test_understanding.", True),
    ],
)
def test_a_failed_examination_is_left_out_with_its_reason(finished, config, tmp_path, monkeypatch, error, says, failed):
    def broken(*_):
        raise error

    monkeypatch.setattr(understanding, "maps", broken)
    overrides = ["understanding.maps.frames=50"]
    run = make_run(config, tmp_path, finished[0].store.root, agents=["lewm"], overrides=overrides)
    (cell,) = examine_suite(run)
    assert cell.status == "done" and cell.maps == () and cell.skipped["maps"].startswith(says)
    assert cell.probes and cell.decoded and set(cell.seconds) == set(EXAMINATIONS) - {"maps"}
    assert bool(cell.failures) == failed and "maps" in said(run)[-1]
    kept = list((run.out / "errors").glob("*.txt"))
    assert len(kept) == isinstance(error, ZeroDivisionError)
    assert all("Traceback" in path.read_text() for path in kept)


def test_a_model_that_cannot_be_trained_is_a_failed_cell_and_the_next_is_examined(
    finished, config, tmp_path, monkeypatch
):
    real = stages.checkpoint_of

    def broken(setting, family, *more, **named):
        if setting.agent == "lewm":
            raise RuntimeError("no training today")
        return real(setting, family, *more, **named)

    monkeypatch.setattr(stages, "checkpoint_of", broken)
    cells = examine_suite(make_run(config, tmp_path, finished[0].store.root))
    assert [cell.status for cell in cells] == ["failed", "done"] and "no training today" in cells[0].reason
    assert cells[0].failures == [cells[0].reason]


def test_an_encoder_that_is_only_known_by_its_weights_has_no_random_floor(finished, config, tmp_path, monkeypatch):
    from lewm_bench.agents.lewm import LeWMFamily

    real = LeWMFamily.load

    def load(self, setting, checkpoint):
        if checkpoint is None:
            raise UserError("other weights")
        return real(self, setting, checkpoint)

    monkeypatch.setattr(LeWMFamily, "load", load)
    overrides = ["understanding.examinations=[paths]", "understanding.paths.episodes=3"]
    run = make_run(config, tmp_path, finished[0].store.root, agents=["lewm"], overrides=overrides)
    (cell,) = examine_suite(run)
    assert [s.features for s in cell.straightness] == ["model", "pixels"]


# Suites.


def test_only_world_models_are_looked_into(config):
    for agent, kind in (("lewm", True), ("dino-wm:mae", True), (COLLAPSING, True), ("gcbc", False), ("noop", False)):
        assert is_world_model(agent) == kind
    for agent in ("gcbc", "random", "oracle"):
        with pytest.raises(UserError, match=f"{agent} is not a world model.*delta-jepa"):
            resolve(load(config), "look", "quick", agents=[agent])
    every = resolve(load(config), "look", "quick", agents=["all"])
    agents = {job.agent for job in every.jobs}
    assert {"pldm", "dino-wm", "fast-lewm"} <= agents and all(map(is_world_model, agents))


@pytest.mark.parametrize("old", ["speed", "understand"])
def test_what_a_suite_does_is_one_kind(tmp_path, old):
    path = tmp_path / "old.yaml"
    path.write_text(TINY.replace("kind: understand", f"kind: understand\n    {old}: true"))
    with pytest.raises(UserError, match=f"suites.look: {old}: .*write kind: {old}"):
        load(path)
    path.write_text(TINY.replace("kind: understand", "kind: understnd"))
    with pytest.raises(UserError, match=r"suites.look.kind: must be .* did you mean 'understand'"):
        load(path)


def test_a_model_without_latents_is_refused_in_a_line(config, tmp_path, finished, monkeypatch):
    from lewm_bench.agents.lewm import LeWMFamily

    real = LeWMFamily.load
    monkeypatch.setattr(LeWMFamily, "load", lambda *args: dataclasses.replace(real(*args), model=None))
    overrides = ["understanding.examinations=[collapse]", "lewm.dropout=0.3"]
    (cell,) = examine_suite(make_run(config, tmp_path, agents=["lewm"], overrides=overrides))
    assert cell.status == "failed" and "lewm is not a world model" in cell.reason


# The command line.


@pytest.fixture()
def lewm_bench(monkeypatch, capsys, tmp_path, finished):
    """Run a command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0].store.root, tmp_path / "cache")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        if arguments[0] != "report":
            arguments = (*arguments, "--config", "tiny.yaml", "--cache", "cache", "--quiet")
        return outcome(monkeypatch, capsys, *arguments)

    return call


def test_run_report_and_a_report_of_two_folders(lewm_bench, tmp_path):
    status, out, err = lewm_bench("run", "--suite", "look", "--device", "cpu")
    assert status == 0, err
    assert out.endswith("report: results/look/report.html\n") and "  LeWM, seed 0 " in out and "[2/2]" in err
    status, again, err = lewm_bench("report", "results/look", "--out", "again", "--title", "Once more")
    assert status == 0 and not err and again == out.replace("results/look", "again")
    assert "<h1>Once more</h1>" in (tmp_path / "again" / "report.html").read_text()
    for name in ("understanding.csv", "probes.csv", "surprise.csv", "voe.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "results" / "look" / name).read_bytes()
    assert (tmp_path / "again" / "report.html").read_text().count("data:image/gif;base64,") == 2  # they came along
    (tmp_path / "results" / "look" / "cells" / "x.json").write_text("{half")
    status, out, err = lewm_bench("report", "results/look")
    assert status == 2 and not out and err.count("\n") == 1 and "x.json is damaged" in err


def test_understand_looks_into_a_checkpoint_folder(lewm_bench, tmp_path, finished, monkeypatch):
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(finished[0].store.root))
    assert lewm_bench("train", "lewm", "--suite", "act", "--device", "cpu", "--out", "mine")[0] == 0
    options = ("--suite", "look", "--device", "cpu", "--set", "understanding.examinations=[collapse, maps]")
    status, out, err = lewm_bench("understand", "mine", *options)
    assert status == 0 and out.endswith("report: results/understand/mine/report.html\n"), err
    (cell,) = load_records([tmp_path / "results" / "understand" / "mine"])
    assert (cell.agent, cell.seed, cell.env, cell.note) == ("lewm", 0, UMAZE, "")
    assert cell.training["step"][-1] == 11 and set(cell.seconds) == {"collapse", "maps"}
    assert cell.checkpoint == "mine"
    other = (*options, "--set", "collect.episodes=41", "--set", "lewm.train.steps=99", "--out", "other")
    assert lewm_bench("understand", "mine", *other)[0] == 0
    (cell,) = load_records([tmp_path / "other"])
    assert "trained on another dataset" in cell.note
    assert cell.config["agent"]["train"]["steps"] == 12  # what it was, not what the suite says


def test_what_is_refused_costs_no_record(lewm_bench, tmp_path, finished, monkeypatch):
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(finished[0].store.root))
    assert lewm_bench("run", "--suite", "look", "--device", "cpu")[0] == 0
    assert lewm_bench("train", "lewm", "--suite", "act", "--device", "cpu", "--out", "mine")[0] == 0
    options = ("--suite", "look", "--device", "cpu", "--set", "understanding.examinations=[collapse]")
    assert lewm_bench("understand", "mine", *options)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("results/**/cells/*.json")}
    assert len(before) == 3
    for more, says in (
        (("--out", "results/look"), "has records of other cells"),
        (("--set", "lewm.latent=9"), "was made with lewm.latent 8"),
    ):
        status, out, err = lewm_bench("understand", "mine", *options, *more)
        assert status == 2 and not out and says in err.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.glob("results/**/cells/*.json")} == before


def test_mistakes_are_one_line(lewm_bench, tmp_path):
    (tmp_path / "other").mkdir()
    for card, says in (({"agent": "lewm"}, "does not name agent, seed and environment"), ([], "not a JSON object")):
        (tmp_path / "other" / "card.json").write_text(json.dumps(card))
        status, out, err = lewm_bench("understand", "other", "--suite", "look")
        assert status == 2 and not out and err.count("\n") == 1 and says in err
    card = {"agent": "lewm", "seed": 0, "env": UMAZE, "image_size": 32, "action_dim": 2, "config": {"latent": 9}}
    (tmp_path / "other" / "card.json").write_text(json.dumps(card))
    for arguments, says in (
        (("understand", "absent", "--suite", "look"), "absent is not a checkpoint"),
        (("understand", "other", "--suite", "look"), "was made with lewm."),
        (("understand", "other", "--suite", "look", "--env", "nope"), "no environment of this suite named 'nope'"),
        (("run", "--suite", "look", "--agents", "gcbc"), "gcbc is not a world model"),
        (("run", "--suite", "look", "--set", "understanding.probes.width=3"), "did you mean 'understanding.probe'?"),
        (("run", "--suite", "look", "--set", "understanding.examinations=[probes]"), "did you mean 'probe'?"),
        (("run", "--suite", "look", "--set", "understanding.maps.frames=1"), "understanding.maps.frames"),
    ):
        status, out, err = lewm_bench(*arguments, "--device", "cpu")
        lines = [line for line in err.splitlines() if not line.startswith("suite look")]
        assert status == 2 and not out and len(lines) == 1 and says in lines[0], err


def test_a_failed_examination_is_status_1(lewm_bench, monkeypatch):
    def broken(*_):
        raise UserError("too short")

    monkeypatch.setattr(understanding, "maps", broken)
    narrow = ("--agents", "lewm", "--set", "understanding.examinations=[maps]", "--set", "understanding.maps.frames=60")
    status, out, err = lewm_bench("run", "--suite", "look", "--device", "cpu", *narrow)
    assert status == 1 and f"failed: {UMAZE} lewm seed 0: maps failed: too short" in err
    assert "maps failed: too short" in out


# A card that names code.


def test_what_only_a_card_names_is_not_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "from_elsewhere").mkdir()
    marker = tmp_path / "imported"
    code = f"open({str(marker)!r}, 'w').close()"
    for name in ("__init__", "agents"):
        (tmp_path / "from_elsewhere" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    card = {"agent": "from_elsewhere.agents:X", "seed": 0, "env": "lewm_bench/PointMaze-UMaze-v0"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    status, out, err = outcome(monkeypatch, capsys, "understand", str(tmp_path), "--out", str(tmp_path / "out"))
    assert status == 2 and not out and len(err.strip().splitlines()) == 1
    assert err.strip().endswith("add --agent from_elsewhere.agents:X") and not marker.exists()
    with pytest.raises(UserError, match="not of 'lewm'"):
        understanding.trained_as(tmp_path, "lewm")
    found = understanding.trained_as(tmp_path, "from_elsewhere.agents:X")
    assert found.agent == card["agent"] and not marker.exists()
    status, _, err = outcome(
        monkeypatch, capsys, "understand", str(tmp_path), "--agent", card["agent"], "--out", str(tmp_path / "out")
    )
    assert status == 2 and "nothing called 'X'" in err and marker.exists()  # what the user named was imported
    (tmp_path / "card.json").write_text(json.dumps(card | {"agent": "lewm:sigreg_weight=0.1"}))
    assert understanding.trained_as(tmp_path).agent == "lewm:sigreg_weight=0.1"
