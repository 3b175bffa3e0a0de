# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From nothing to a world model of your own environment
#
# This page is a script and a notebook: run it with `python own_environment.py`, or open it in Jupyter (with
# `pip install jupytext`: right click, "Open with", "Notebook") or in VS Code. It takes about a minute on two cores.
# Everything is much too small for good results; what is too small is said where it stands.

# %%
from pathlib import Path
from tempfile import mkdtemp

import gymnasium as gym
import numpy as np

import lewm_bench as lb
from lewm_bench.data.adapt import register_env

work = Path(mkdtemp())  # data, weights and results; name a folder of yours to keep them
cache = work / "cache"

# %% [markdown]
# ## An environment
#
# Any deterministic Gymnasium environment will do that has a vector of numbers as observation, a `Box` or `Discrete` action
# space, and a picture in `render()`. This one is a ball in a square room with a wall in the middle, which ends below the
# ceiling: whoever wants to the other side has to go around its end.


# %%
class Room(gym.Env):
    """A ball in the unit square, pushed around; a wall stands in the middle."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, render_mode: str = "rgb_array") -> None:
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gym.spaces.Box(0, 1, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ball = self.np_random.uniform([0.05, 0.05], [0.4, 0.95])
        return self.ball.copy(), {}

    def step(self, action):
        there = np.clip(self.ball + 0.08 * np.clip(action, -1, 1), 0.05, 0.95)
        crosses = (self.ball[0] - 0.5) * (there[0] - 0.5) <= 0
        if crosses and there[1] < 0.7:
            there[0] = self.ball[0]  # it slides along the wall
        self.ball = there
        return self.ball.copy(), 0.0, False, False, {}

    def render(self):
        y, x = np.mgrid[1:0:64j, 0:1:64j]
        picture = np.full((64, 64, 3), 235, np.uint8)
        picture[(abs(x - 0.5) < 0.02) & (y < 0.7)] = (90, 90, 90)
        picture[np.hypot(x - self.ball[0], y - self.ball[1]) < 0.06] = (200, 40, 40)
        return picture


gym.register("mine/BareRoom-v0", Room)

# %% [markdown]
# The benchmark needs to know one thing more: when a goal is reached. Here the two numbers that are observed have to be less
# than 0.1 away from those of the goal. With that the room is an environment with goal images, `mine/Room-v0`.

# %%
register_env("mine/Room-v0", "mine/BareRoom-v0", compare=[0, 1], threshold=0.1, unit="room widths", max_steps=120)

# %% [markdown]
# Does it keep the promises that every number depends on? The same seed must give the same episode, a state must decide the
# future, pictures must show the state, and so on. `ok` is what you want to see; `detail` is a measurement, or says what to mend.

# %%
promises = lb.check("mine/Room-v0", image_size=32)
promises

# %%
assert promises["ok"].all(), promises[~promises["ok"]]

# %% [markdown]
# ## A suite
#
# What is compared stands in a file: environments, agents, seeds, and deviations from the defaults. `extends: quick` begins
# with the sizes for a laptop; what stands beside it makes everything smaller still. For numbers that mean something take
# what stands in `quick`: 400 episodes, 2,000 training steps, 50 pairs and three seeds.

# %%
(work / "room.yaml").write_text("""
profiles:
  quick:
    extends: quick
    image_size: 32
    collect: {episodes: 80, steps: 40}
    lewm: {encoder: cnn, train: {steps: 300, batch_size: 32}}
    gcbc: {train: {steps: 200, batch_size: 32}}
    planner: {num_samples: 64, num_iterations: 3, num_elites: 8}
    evaluate: {num_pairs: 10, goal_offset: [15], latent_oracle_pairs: 0, correlation_frames: 64}
suites:
  room:
    title: A ball in a room with a wall
    envs: [mine/Room-v0]
    agents: [random, gcbc, lewm]
    seeds: [0]
""")
options = {"config": work / "room.yaml", "cache": cache, "device": "cpu"}

# %% [markdown]
# ## Collect, train
#
# `lb.train` collects the reward-free episodes that the suite asks for, unless the cache has them, trains, and returns the
# folder of the checkpoint.

# %%
checkpoint = lb.train("lewm", suite="room", **options)
sorted(path.name for path in checkpoint.iterdir())

# %% [markdown]
# ## One agent, step by step
#
# A checkpoint is an agent that acts: give it a picture of how things should look, then every picture that you see.

# %%
agent = lb.load(checkpoint, suite="room", **options)
env = gym.make("mine/Room-v0", image_size=32, max_episode_steps=30)
picture, info = env.reset(seed=1)
agent.start(goal=info["goal"])
over, reached = False, False
while not (over or reached):
    picture, _, _, over, info = env.step(agent.act(picture))
    reached = info["success"]
"reached" if reached else "not reached in 30 steps"

# %% [markdown]
# ## All agents, with intervals
#
# `lb.run` does everything that is left: the training of LeWM is in the cache, GCBC's is not. Every agent is sent from the same
# starts to the same goals, from episodes that nobody was trained on.

# %%
result = lb.run("room", **options)
result.table[["agent", "n_pairs", "hit", "hit_low", "hit_high", "plan_seconds_median"]]

# %% [markdown]
# With ten pairs an interval is as wide as the question. The same as a figure:

# %%
result.figure("success")

# %% [markdown]
# Every episode is a row, so that your own questions are a line of pandas: how far from its goal does an agent end?

# %%
result.episodes.groupby("agent")[["distance_start", "distance_end"]].median()

# %% [markdown]
# ## A film
#
# For each agent one success and one failure are filmed, as far as there are such. A notebook shows the file:

# %%
try:
    from IPython.display import Image, display

    display(Image(filename=str(result.videos[0])))
except ImportError:
    print(result.videos[0])

# %% [markdown]
# ## Further
#
# `result.save("my-report")` writes the whole report, with `report.html`. In a terminal the same run is
# `lewm-bench run --suite room --config room.yaml`, for which the environment stands in a module of its own, `room.py`, and is
# named `room:mine/Room-v0`. What else an environment may need: `docs/tutorial.md`. An agent of your own: `docs/extending.md`.

# %%
page = result.save(work / "report")
print(page)
