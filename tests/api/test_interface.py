"""The Python interface: what importing it costs, what it does beside the command line, and what it says of mistakes."""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from commands import outcome
from matplotlib.figure import Figure
from PIL import Image

import lewm_bench as lb
from lewm_bench.agent import Loaded, Setting
from lewm_bench.api import acting
from lewm_bench.api.acting import ActingAgent
from lewm_bench.api.withheld import Withheld
from lewm_bench.cli import run as run_verb
from lewm_bench.cli import speed as speed_verb
from lewm_bench.cli import train as train_verb
from lewm_bench.core.rng import stream
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.episodes import evaluate
from lewm_bench.evaluation.protocol import Pairs
from lewm_bench.evaluation.speed_record import load_speed
from lewm_bench.report.text import csv_text
from lewm_bench.run.records import load_cells

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
FAST = {"planner.num_samples": 16, "planner.num_iterations": 2, "planner.num_elites": 4}
SMALL = {"lewm": {"lewm.train.steps": 4}, "gcbc": {"gcbc.train.steps": 4}}
"""Numbers that mean nothing, soon."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before, set_before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    os.environ.pop("OMP_NUM_THREADS")
    if set_before is not None:
        os.environ["OMP_NUM_THREADS"] = set_before


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def smoke(cache: Path, **others) -> lb.Result:
    others = {"agents": ["random", "gcbc"], "set": SMALL["gcbc"], "device": "cpu", **others}
    return lb.run("smoke", cache=cache, **others)


@pytest.fixture(scope="module")
def result(cache) -> lb.Result:
    return smoke(cache)


@pytest.fixture(scope="module")
def checkpoint(cache) -> Path:
    return lb.train("lewm", suite="smoke", set=SMALL["lewm"], cache=cache, device="cpu")


# What importing costs, and what there is.


def test_importing_it_imports_nothing_heavy_and_leaves_nothing_behind(tmp_path):
    program = (
        "import os, sys; before = dict(os.environ); import lewm_bench as lb; dir(lb); lb.run; lb.train\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'pandas', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert dict(os.environ) == before and not os.listdir()\n"
        "import lewm_bench.run.records, lewm_bench.train.record\n"
        "assert callable(lb.run) and callable(lb.train) and lb.run.records and not hasattr(lb, 'lode')\n"
    )
    place = os.pathsep.join(map(str, [Path(lb.__file__).parents[1], *sys.path]))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": place}, check=True)


PUBLIC = {"load": lb.load, "run": lb.run, "train": lb.train, "speed": lb.speed, "check": lb.check}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_keyword_is_documented(name):
    function = getattr(__import__("lewm_bench.api", fromlist=[name]), name)
    described = set(
        re.findall(r"^    (?:Args:)?    (\w+): ", inspect.getdoc(function).replace("\n", "\n    "), re.MULTILINE)
    )
    parameters = set(inspect.signature(PUBLIC[name]).parameters)
    assert parameters <= {*described}, parameters - described
    assert "UserError:" in function.__doc__


@pytest.mark.parametrize("kind", [lb.ActingAgent, lb.Attempt, lb.Result, lb.SpeedResult])
def test_everything_public_has_a_docstring(kind):
    assert kind.__doc__
    public = [member for name, member in vars(kind).items() if not name.startswith("_")]
    assert public and all(inspect.getdoc(member) for member in public)


@pytest.mark.parametrize(
    ("function", "verb", "dropped"),
    [
        (lb.run, run_verb.run, {"profile_time"}),
        (lb.train, train_verb.train, set()),
        (lb.speed, speed_verb.speed, {"samples", "iterations", "horizon", "batch", "compiled", "out"}),
    ],
)
def test_keywords_are_called_as_the_options(function, verb, dropped):
    """What is left out has another way: ``set``, or ``save``."""
    renamed = {"overrides": "set", "quiet": "progress"}
    options = inspect.signature(verb).parameters
    defaults = {renamed.get(name, name): option.default for name, option in options.items() if name not in dropped}
    keywords = inspect.signature(function).parameters
    assert set(keywords) == set(defaults)
    for name in ("suite", "profile", "env", "seed", "planner", "solver", "device"):
        if name in keywords:
            assert keywords[name].default == defaults[name]


# Running.


def test_a_run_finds_what_the_command_line_finds(result, cache, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = [part for path, value in SMALL["gcbc"].items() for part in ("--set", f"{path}={value}")]
    status, _, err = outcome(
        monkeypatch, capsys, "run", "--suite", "smoke", "--agents", "random,gcbc", "--cache", str(cache),
        "--device", "cpu", "--out", "theirs", *settings,
    )  # fmt: skip
    assert not status, err
    theirs = load_cells([Path("theirs")])
    assert [c.model_dump() for c in theirs] == [c.model_dump() for c in sorted(result.cells, key=lambda c: c.agent)]
    assert csv_text(result.table) == Path("theirs/table.csv").read_text()
    assert result.episodes.to_csv(index=False, lineterminator="\n") == Path("theirs/episodes.csv").read_text()
    page = result.save("ours")
    names = {p.relative_to("theirs") for p in Path("theirs").rglob("*") if p.is_file()}
    assert {p.relative_to("ours") for p in Path("ours").rglob("*") if p.is_file()} == names
    for name in names:
        assert (page.parent / name).read_bytes() == ("theirs" / name).read_bytes(), name
    with pytest.raises(lb.UserError, match="ours is there already; name a new folder"):
        result.save("ours")


def test_a_result_has_tables_figures_and_films(result):
    assert isinstance(result.table, pd.DataFrame) and list(result.table["agent"]) == ["gcbc", "random"]
    assert len(result.episodes) == 8 and set(result.episodes["env"]) == {UMAZE}
    assert result.episodes.groupby("agent")["hit"].mean().to_dict() == result.table.set_index("agent")["hit"].to_dict()
    figure = result.figure("success")
    assert isinstance(figure, Figure)
    assert Image.open(io.BytesIO(figure._repr_png_())).width > 500
    assert isinstance(result.figure("paths"), Figure)  # over a picture of the maze, which lies in the folder
    assert result.videos and all(Image.open(path).is_animated for path in result.videos)
    assert not result.failures
    html = result._repr_html_()
    assert "Smoke: every part once" in html and "data:image/png;base64," in html and html.count("<table>") == 1
    assert "gcbc" in repr(result)


def test_without_out_nothing_is_kept_outside_of_the_cache(cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = smoke(cache, agents="random", set=None)
    folder = found.folder
    assert folder.is_dir() and not any(tmp_path.iterdir())
    del found
    assert not folder.exists()
    kept = smoke(cache, agents="random", set=None, out="here")
    assert kept.folder == Path("here") and Path("here/report.html").is_file()
    del kept
    assert Path("here/report.html").is_file()


def test_what_cannot_run_does_not_stop_the_rest(cache):
    found = smoke(
        cache,
        agents=["random", "dino-wm"],
        set={"dino-wm.encoder": "dinov2-small", "dino-wm.weights": "nowhere"},
    )
    ((key, reason),) = found.failures.items()
    assert key == (UMAZE, "dino-wm", 0) and "nowhere" in reason
    assert list(found.episodes["agent"].unique()) == ["random"]
    assert "not run" in found._repr_html_() or "failed" in found._repr_html_()


def test_settings_are_values(cache):
    """A float that YAML would take for text, a list, a dictionary, and a solver that ``set`` overrules."""
    found = smoke(
        cache, agents="lewm", seeds=1, solver="icem",
        set={
            "lewm": {"train": {"steps": 3, "learning_rate": 1e-05}}, "evaluate.goal_offset": [10],
            "evaluate.num_pairs": 2, "evaluate.latent_oracle_pairs": 0,
            "planner": {"num_samples": 12, "num_iterations": 1, "num_elites": 3},
        },
    )  # fmt: skip
    (cell,) = found.cells
    assert cell.seed == 1 and cell.config["agent"]["train"]["learning_rate"] == 1e-05
    assert cell.config["evaluate"]["goal_offset"] == [10] and len(found.episodes) == 2
    assert cell.config["planner"]["num_samples"] == 12 and cell.config["planner"]["solver"] == "icem"
    assert lb.load(cell.key, cache=cache, device="cpu").name == "lewm"  # a cell's record names its checkpoint


# Training and loading.


def test_a_training_is_the_caches_and_can_be_copied(checkpoint, cache, tmp_path):
    assert checkpoint.parent == cache / "model"
    copy = lb.train("lewm", suite="smoke", set=SMALL["lewm"], cache=cache, device="cpu", out=tmp_path / "mine")
    assert copy == tmp_path / "mine" and (copy / "model.safetensors").samefile(copy / "model.safetensors")
    assert (copy / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    by_key = lb.load(checkpoint.name, cache=cache, device="cpu")
    assert by_key.checkpoint == checkpoint and by_key.name == "lewm" and by_key.image_size == 64
    assert lb.load(f"model/{checkpoint.name}", cache=cache, device="cpu").checkpoint == checkpoint
    assert lb.load(copy, cache=cache, device="cpu").checkpoint == copy


def test_it_acts_in_five_lines(checkpoint):
    agent = lb.load(checkpoint, set=FAST, device="cpu")
    env = gym.make(UMAZE, max_episode_steps=30)
    obs, info = env.reset(seed=0)
    agent.start(goal=info["goal"])
    over = False
    while not over:
        action = agent.act(obs)
        assert action.shape == (2,) and action.dtype == np.float32 and env.action_space.contains(action)
        obs, _, terminated, over, info = env.step(action)
        assert not terminated


def test_the_suite_decides_how_it_plans(checkpoint):
    assert lb.load(checkpoint, device="cpu").planner.num_samples == 300  # the papers'
    of_suite = lb.load(checkpoint, suite="smoke", set={"planner.num_elites": 4}, device="cpu").planner
    assert (of_suite.num_samples, of_suite.num_iterations, of_suite.num_elites) == (32, 2, 4)


def test_it_acts_as_the_evaluation_lets_it_act(checkpoint, cache, monkeypatch):
    """The same actions, step by step, as in the evaluation of a pair: context, blocks, clipping and noise are the same."""
    agent = lb.load(checkpoint, set={**FAST, "planner.receding": 2}, device="cpu")
    (folder,) = (cache / "dataset").glob("[0-9a-f]*[0-9a-f]")
    dataset, env = Dataset.open(folder), agent._setting.env
    start, goal = int(dataset.starts[3]), int(dataset.starts[3]) + 25
    pairs = Pairs(np.array([3]), np.array([start]), np.array([goal]), 1, 0)
    setting = Setting(**{**vars(agent._setting), "dataset": dataset})
    (theirs,) = evaluate(agent._loaded.agent, setting, pairs, 25, goal_offset=25, real_history=False)
    monkeypatch.setattr(acting, "stream", lambda seed, *_: stream(seed, "plan", UMAZE, "lewm", 25, 0))
    agent.start(dataset.frames[goal], seed=agent._setting.seed)
    env.reset(options={"start": dataset.states[start], "goal": dataset.states[goal]})
    states = [env.get_state()]
    for _ in range(25):
        env.step(agent.act(env.render()))
        states.append(env.get_state())
    np.testing.assert_array_equal(states, theirs.states)
    assert np.ptp(states, axis=0).max() > 0.1


class Counting:
    """Decides ``k`` actions at a time, which count, and notes what it was shown."""

    history, frame_skip = 2, 3

    def __init__(self, reads: bool) -> None:
        self.reads, self.pasts = reads, []

    def start(self, goals, rngs):
        if self.reads:
            self.goal = np.asarray(goals.states)
        self.noise = rngs[0].random()
        return self

    def encode(self, past):
        self.pasts.append(past)
        return np.asarray(past.states) if self.reads else past

    def search(self, encoded):
        first = sum(past.frames.shape[0] for past in self.pasts) * 4 - 4
        return np.stack([[[first + i, -900.0] for i in range(4)]]) / 100


@pytest.fixture()
def counting(checkpoint):
    def make(reads: bool) -> tuple[ActingAgent, Counting]:
        setting, agent = lb.load(checkpoint, device="cpu")._setting, Counting(reads)
        return ActingAgent(Loaded(agent, "Counting"), setting, checkpoint), agent

    return make


def picture(number: int) -> np.ndarray:
    return np.full((64, 64, 3), number, np.uint8)


def test_it_decides_again_when_its_actions_are_used_up(counting):
    agent, inner = counting(reads=False)
    agent.start(picture(200))
    actions = [agent.act(picture(step)) for step in range(9)]
    np.testing.assert_allclose([a[0] for a in actions], np.arange(9) / 100, atol=1e-7)
    assert all(a[1] == -1 for a in actions)  # clipped to what the environment takes
    assert len(inner.pasts) == 3
    shown = [past.frames[0, :, 0, 0, 0].tolist() for past in inner.pasts]
    assert shown == [[0], [1, 4], [5, 8]]  # frame_skip apart, back from now
    assert [past.actions.shape for past in inner.pasts] == [(1, 0, 6), (1, 1, 6), (1, 1, 6)]
    np.testing.assert_allclose(inner.pasts[1].actions[0, 0, ::2], [0.01, 0.02, 0.03], atol=1e-7)
    agent.start(picture(1))
    agent.act(picture(0))
    assert inner.pasts[-1].frames.shape[1] == 1  # nothing of the last episode


def test_noise_is_the_seeds(counting):
    agent, inner = counting(reads=False)
    noise = []
    for seed in (0, 0, 1):
        agent.start(picture(0), seed=seed)
        noise.append(inner.noise)
    assert noise[0] == noise[1] != noise[2]


def test_an_agent_that_reads_the_state_is_given_it_or_says_so(counting):
    agent, inner = counting(reads=True)
    with pytest.raises(
        lb.UserError, match=r"Counting reads the environment's true state; give it: agent.start\(..., goal_state="
    ):
        agent.start(picture(0))
    agent.start(picture(0), goal_state=np.arange(4.0))
    np.testing.assert_array_equal(inner.goal, [[0, 1, 2, 3]])
    with pytest.raises(lb.UserError, match=r"agent.act\(..., state=info"):
        agent.act(picture(7))
    inner.pasts.clear()
    state = np.arange(4.0)
    agent.act(picture(8), state=state)  # the same step again
    assert inner.pasts[0].frames.shape[1] == 1 and inner.pasts[0].frames.unique().tolist() == [8]
    for step in range(4):
        state += 1  # an environment may go on with its own array
        agent.act(picture(step), state=state)
    np.testing.assert_array_equal(inner.pasts[0].states, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(inner.pasts[1].frame_states[0, :, 0], [1, 4])  # 3 steps apart, the last one now
    np.testing.assert_array_equal(inner.pasts[1].states, [[4, 5, 6, 7]])


def test_what_is_withheld_cannot_be_read():
    hidden = Withheld("not here")
    assert hidden[:, 3] is hidden
    for look in (len, list, np.asarray, lambda h: h.shape, lambda h: np.stack([h])):
        with pytest.raises(lb.UserError, match="not here"):
            look(hidden)


def test_an_episode_must_be_started(checkpoint):
    with pytest.raises(lb.UserError, match="start an episode before it acts"):
        lb.load(checkpoint, device="cpu").act(picture(0))


# Timing.


def test_planning_times(tmp_path):
    tiny = {
        "encoder": "cnn",
        "latent": 8,
        "projector_hidden": 16,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "mlp_hidden": 16,
    }
    found = lb.speed(
        "lewm", dtype=["float32", "reference"], device="cpu",
        set={
            "image_size": 32, "lewm": tiny, **FAST,
            "speed": {"plans": 3, "seconds": 1, "image_sizes": [], "samples": [], "horizons": [], "batches": []},
        },
    )  # fmt: skip
    assert list(found.table["mode"]) == ["float32", "reference"] and (found.table["plan_seconds_median"] > 0).all()
    assert isinstance(found.figure(), Figure) and "<table>" in found._repr_html_() and "LeWM" in repr(found)
    with pytest.raises(lb.UserError, match="no data for the figure 'scaling'"):
        found.figure("scaling")
    found.save(tmp_path / "times")
    assert load_speed(tmp_path / "times") == list(found.rows)


def test_an_environment_that_keeps_no_promise():
    """What is kept is in the notebook's test (tests/contracts/test_site.py)."""
    (row,) = lb.check(gym.make("CartPole-v1")).to_dict("records")
    assert row["name"] == "contract" and row["ok"] is False and "must be a subclass of" in row["detail"]


# Mistakes.

MISTAKES = {
    "a suite that there is not": (lambda c: lb.run("smok"), "did you mean 'smoke'"),
    "an agent that there is not": (lambda c: lb.run("smoke", agents="lewn"), "did you mean 'lewm'"),
    "a setting that there is not": (lambda c: lb.run("smoke", set={"planner.samples": 3}), "no setting named"),
    "a setting that is no value": (lambda c: lb.run("smoke", set={"planner.std": {1}}), "planner.std: expected a number"),
    "settings as text": (lambda c: lb.run("smoke", set="planner.std=1"), "set takes settings by dotted path"),
    "a seed as text": (lambda c: lb.run("smoke", seeds=["0"]), "seeds takes whole numbers"),
    "a seed below 0": (lambda c: lb.run("smoke", seeds=-1), "seeds are whole numbers from 0"),
    "a solver that there is not": (lambda c: lb.run("smoke", solver="cme"), "did you mean 'cem'"),
    "a suite of times": (lambda c: lb.run("speedup"), "lewm_bench.speed"),
    "a suite that looks into models": (lambda c: lb.run("understanding"), "lewm-bench run --suite understanding"),
    "an agent that does not train": (lambda c: lb.train("noop"), "noop does not train"),
    "several agents to train": (lambda c: lb.train("all"), "expected one agent"),
    "no checkpoint": (lambda c: lb.load("nowhere"), "nowhere is not a checkpoint"),
    "settings of the weights": (lambda c: lb.load(c, set={"lewm.width": 8}), "lewm.width belongs to the weights"),
    "settings of another agent": (lambda c: lb.load(c, set={"gcbc.width": 8}), "planner.KEY"),
    "frames of another size": (lambda c: lb.load(c, env=gym.make(UMAZE, image_size=32)), "with image_size=64"),
    "an environment of others": (lambda c: lb.load(c, env=gym.make("CartPole-v1")), "is not a lewm_bench.core.env.GoalEnv"),
    "another agent's checkpoint": (lambda c: lb.load(c, agent="gcbc"), "is of the agent 'lewm'"),
    "no environment to check": (lambda c: lb.check("PointMaze-v0"), "PointMaze"),
    "no world model to time": (lambda c: lb.speed("gcbc"), "gcbc cannot be timed"),
    "frames of another shape": (lambda c: lb.load(c, device="cpu").start(np.zeros((3, 64, 64))), r"\(64, 64, 3\) uint8"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, checkpoint, cache, monkeypatch):
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(cache))
    call, said = MISTAKES[name]
    with pytest.raises(lb.UserError, match=said) as raised:
        call(checkpoint)
    assert "\n" not in str(raised.value)


def test_a_figure_that_there_is_not(result):
    with pytest.raises(lb.UserError, match="did you mean 'success'"):
        result.figure("succes")
    with pytest.raises(lb.UserError, match="no data for the figure 'ablation'"):
        result.figure("ablation")
