"""An agent on its way to a picture of the user's: the same episode as toward that state, and what is no picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from commands import outcome
from PIL import Image

import lewm_bench as lb
from lewm_bench.core.resize import LARGEST
from lewm_bench.data.pictures import read_picture
from lewm_bench.planning.cost import Objective

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
FAST = ("--set", "planner.num_samples=16", "--set", "planner.num_iterations=2", "--set", "planner.num_elites=4")
START, GOAL = [-0.9, 0.9, 0.0, 0.0], [0.9, -0.9, 0.0, 0.0]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Trained for a moment, which is all the same here."""
    folder, tiny = tmp_path_factory.mktemp("trained"), {"image_size": 32, "collect.episodes": 12, "collect.steps": 30}
    found = {}
    for agent in ("lewm", "gcbc"):
        settings = {
            **tiny,
            f"{agent}.train.steps": 2,
            f"{agent}.train.batch_size": 4,
            f"{agent}.train.on_collapse": "continue",
        }
        found[agent] = lb.train(agent, suite="smoke", set=settings, cache=folder / "cache", device="cpu")
    return found


@pytest.fixture(scope="module")
def goal(tmp_path_factory) -> Path:
    env = gym.make(UMAZE, image_size=32).unwrapped
    path = tmp_path_factory.mktemp("goal") / "goal.png"
    Image.fromarray(env.render_states(np.array([GOAL]))[0]).save(path)
    return path


def test_a_picture_of_a_state_is_that_state_as_a_goal(checkpoints, goal: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ("--goal", str(goal), "--start", ",".join(map(str, START)), "--steps", "30", "--seed", "3", *FAST)
    status, out, err = outcome(monkeypatch, capsys, "act", str(checkpoints["lewm"]), *options, "--out", "out")
    assert status == 0, err
    assert "30 steps: latent distance" in out and "out/video.gif, out/distance.png, out/distance.csv" in out
    agent = lb.load(checkpoints["lewm"], set={"planner": {"num_samples": 16, "num_iterations": 2, "num_elites": 4}})
    env = gym.make(UMAZE, image_size=32)
    frame, info = env.reset(options={"start": START, "goal": GOAL})
    agent.start(info["goal"], seed=3)
    frames, states = [frame], [info["state"]]
    for _ in range(30):
        frame, _, _, _, info = env.step(agent.act(frame))
        frames.append(frame)
        states.append(info["state"])
    found = agent.toward(goal, start=START, seed=3, steps=30)
    np.testing.assert_array_equal(found.states, states)
    np.testing.assert_array_equal(found.frames, frames)

    def latents(pictures: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return agent._loaded.model.encode(torch.from_numpy(pictures).movedim(-1, -3)[:, None])[:, 0]

    true = (latents(np.stack(frames)) - latents(found.goal[None])).square().flatten(1).mean(1)
    table = pd.read_csv("out/distance.csv")
    assert list(table["step"]) == list(range(31))
    np.testing.assert_allclose(table["latent_distance"], true, rtol=1e-3, atol=1e-6)
    film = Image.open("out/video.gif")
    assert film.is_animated and Image.open("out/distance.png").width > 500


def test_an_agents_own_cost_is_what_is_drawn(checkpoints, goal: Path):
    """The latent distance there is of the goal to the frame, and of nothing else here."""
    agent = lb.load(checkpoints["lewm"], set={"planner": {"num_samples": 4, "num_iterations": 1, "num_elites": 2}})
    objective = Objective(lambda z, target: 3 * z[:, :, 0].sum(-1) - target.sum(-1)[:, None], last=True)
    agent._loaded = replace(agent._loaded, objective=objective)
    found = agent.toward(goal, start=START, seed=3, steps=5)
    pictures = torch.from_numpy(np.stack([*found.frames, found.goal])).movedim(-1, -3)[:, None]
    with torch.inference_mode():
        z = agent._loaded.model.encode(pictures)[:, 0].sum(-1).numpy()
    np.testing.assert_allclose(found.distances, 3 * z[:-1] - z[-1], rtol=1e-3, atol=1e-4)


def test_an_agent_without_latents_is_filmed_and_says_so(checkpoints, goal: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = outcome(
        monkeypatch, capsys, "act", str(checkpoints["gcbc"]), "--goal", str(goal), "--steps", "3"
    )
    assert status == 0, err
    assert "it has no latents, so there is no distance to the picture" in out
    (folder,) = Path("results/act").iterdir()
    assert [path.name for path in folder.iterdir() if path.suffix] == ["video.gif"]


def test_a_start_is_sampled_from_the_seed(checkpoints, goal: Path):
    agent = lb.load(checkpoints["gcbc"], device="cpu")
    first, again, other = (agent.toward(goal, seed=seed, steps=2).states for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], gym.make(UMAZE).reset(seed=1)[1]["state"])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_a_picture_may_be_of_any_kind_and_size(tmp_path: Path, mode: str):
    frame = np.zeros((30, 60, 3), np.uint8)
    frame[:, 30:] = 255
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(frame).convert(mode).save(path)
    found = read_picture(path, 16, 16)
    assert found.shape == (16, 16, 3) and found.dtype == np.uint8
    assert found[:, :7].max() < 30 and found[:, 9:].min() > 225


MISTAKES = {
    "no file": (["--goal", "none.png"], "there is no picture none.png"),
    "a folder": (["--goal", "."], "there is no picture ."),
    "no picture": (["--goal", "text.png"], "text.png cannot be read as a picture"),
    "cut short": (["--goal", "cut.png"], "cut.png cannot be read as a picture"),
    "too large": (["--goal", "large.png"], "large.png has 8500 x 1000 pixels"),
    "a start of another size": (["--start", "0,0"], f"a start in {UMAZE} is 4 finite numbers"),
    "a start that is no number": (["--start", "0,0,nan,0"], "4 finite numbers"),
    "a start in a wall": (["--start", "9,9,0,0"], "choose a free place"),
    "a start that is text": (["--start", "a,b"], "--start takes comma-separated numbers"),
    "no steps": (["--steps", "0"], "--steps"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, checkpoints, goal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(goal.read_bytes()[:60])
    if name == "too large":
        assert LARGEST < 8500 * 1000
        Image.new("1", (8500, 1000)).save("large.png")
    options, said = MISTAKES[name]
    given = [*options] if "--goal" in options else ["--goal", str(goal), *options]
    status, _, err = outcome(monkeypatch, capsys, "act", str(checkpoints["gcbc"]), *given, "--out", "out")
    assert status == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not Path("out", "video.gif").exists()


class Reading:
    """An agent that looks at the true state of its goal."""

    history, frame_skip = 1, 5

    def start(self, goals, rngs):
        return np.asarray(goals.states)


def test_who_reads_the_state_of_a_goal_cannot_have_a_picture(checkpoints, goal: Path):
    agent = lb.load(checkpoints["gcbc"], device="cpu")
    loaded = type(agent._loaded)(Reading(), "Reading")
    reads = lb.ActingAgent(loaded, agent._setting, checkpoints["gcbc"])
    with pytest.raises(lb.UserError, match="Reading reads the true state at its goal, which a picture does not tell"):
        reads.toward(goal, steps=2)
