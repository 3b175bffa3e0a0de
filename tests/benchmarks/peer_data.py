"""stable-worldmodel's side of the proof that its data sets are imported as what they are (tests/data/test_peer_data.py).

    python tests/benchmarks/peer_weights.py environment FOLDER   # makes a virtual environment, some gigabytes
    FOLDER/bin/python tests/benchmarks/peer_data.py write DATA [EPISODES [STEPS]]
    FOLDER/bin/python tests/benchmarks/peer_data.py rows DATA/tworoom.lance ROWS.npz
    python tests/benchmarks/peer_data.py compare DATA OUT        # needs lewm-bench[data,pusht]
    python tests/benchmarks/peer_data.py plan OUT                # a tiny LeWM on each, and plans with it

``write`` lets the peer's own world collect its own environments with its own policies, as HDF5 and as Lance. ``rows``
reads a data set with the peer's own reader and draws the rows that its evaluation script draws. Neither imports anything
of lewm-bench. ``compare`` imports the four data sets, prints the lines of the imports, and then how far whole episodes and
all pictures are from ours.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from lewm_bench.data.format import Dataset

SIZE = 224
FORMATS = {"hdf5": "h5", "lance": "lance"}
OURS = {"tworoom": "lewm_bench/TwoRoom-v0", "pusht": "lewm_bench/PushT-v0"}
SAME = 0.01  # px: a larger difference is another motion, not rounding


def write(folder: str, episodes: str = "40", steps: str = "60") -> None:
    import stable_worldmodel as swm
    from stable_worldmodel.envs.pusht import WeakPolicy
    from stable_worldmodel.envs.two_room import ExpertPolicy

    # The policies of the peer's collection scripts.
    tasks = {
        "tworoom": ("swm/TwoRoom-v1", lambda: ExpertPolicy(action_noise=2.0, action_repeat_prob=0.05, seed=0)),
        "pusht": ("swm/PushT-v1", lambda: WeakPolicy(dist_constraint=100, seed=0)),
    }
    for name, (env, policy) in tasks.items():
        for kind, suffix in FORMATS.items():
            world = swm.World(env, num_envs=4, image_shape=(SIZE, SIZE), max_episode_steps=int(steps))
            world.set_policy(policy())
            path = Path(folder) / f"{name}.{suffix}"
            world.collect(path, episodes=int(episodes), seed=0, format=kind, progress=False)
            world.close()


def rows(source: str, out: str, goal_offset: str = "25", wanted: str = "50", seed: str = "42") -> None:
    """The rows of scripts/plan/eval_wm.py, of the columns that the peer's reader gives."""
    import numpy as np
    import stable_worldmodel as swm

    data = swm.data.load_dataset(source)
    episode, step = (np.asarray(data.get_col_data(name)).ravel() for name in ("episode_idx", "step_idx"))
    last = {number: step[episode == number].max() - int(goal_offset) for number in np.unique(episode)}
    valid = np.flatnonzero(step <= [last[number] for number in episode])
    chosen = np.random.default_rng(int(seed)).choice(len(valid), size=int(wanted), replace=False)
    found = np.sort(valid[chosen])
    np.savez(out, row=found, episode=episode[found], step=step[found])


def compare(folder: str, out: str) -> None:
    for name, env in OURS.items():
        for suffix in FORMATS.values():
            source, to = Path(folder) / f"{name}.{suffix}", Path(out) / f"{name}-{suffix}"
            subprocess.run(["lewm-bench", "import", "data", source, "--env", env, "--out", to], check=True)
        for line in differences(Path(out) / f"{name}-h5"):
            print(line)


TINY = (
    "image_size=224", "lewm.encoder=cnn", "lewm.latent=16", "lewm.projector_hidden=32", "lewm.width=32", "lewm.depth=1",
    "lewm.heads=2", "lewm.head_size=16", "lewm.mlp_hidden=64", "lewm.num_directions=16", "lewm.train.steps=60",
    "lewm.train.batch_size=16", "planner.num_samples=32", "planner.num_elites=4", "planner.num_iterations=2",
    "evaluate.num_pairs=5", "evaluate.goal_offset=[25]", "evaluate.protocol=paper-v3-all", "evaluate.latent_oracle_pairs=0",
)  # fmt: skip


def plan(out: str) -> None:
    """Train and plan on the imported data; a network of this size and training says nothing about LeWM."""
    settings = [part for each in TINY for part in ("--set", each)]
    for name in OURS:
        for suffix in FORMATS.values():
            data = Path(out) / f"{name}-{suffix}"
            given = (
                "--suite",
                name,
                "--data",
                data,
                "--agents",
                "lewm,random",
                "--seeds",
                "0",
                "--out",
                f"{data}-results",
            )
            subprocess.run(["lewm-bench", "run", *given, *settings, "-q"], check=True)


def differences(folder: Path) -> list[str]:
    """How far episodes that are simulated from their first state alone, and pictures, are from what is recorded."""
    import numpy as np

    from lewm_bench.data.format import Dataset
    from lewm_bench.run.environments import make_env

    data = Dataset.open(folder)
    size = data.frames.shape[1]
    env = make_env(data.meta.env, size, {k: v for k, v in data.meta.env_kwargs.items() if k != "image_size"})
    known = data.meta.recipe["import"]["known"]
    largest, reasons, levels, others, most = [], Counter(), [], [], 0
    for episode in data:
        states = episode.states.astype(float)
        found = env.simulate(states[:1], episode.actions[None].astype(float))[0]
        off = np.abs(found - states[1:])[:, :known].max(1)
        first = int(np.argmax(off >= SAME)) if off.max() >= SAME else None
        reasons["same" if first is None else why(states, first) if data.meta.env == OURS["pusht"] else "other"] += 1
        largest += [off.max()] if first is None else []
        drawn = np.abs(env.render_states(states[::10]).astype(int) - episode.frames[::10])
        levels.append(drawn.mean())
        others.append((drawn.max(-1) > 16).mean())
        most = max(most, drawn.max())
    same = reasons.pop("same", 0)
    rest = "".join(f"; {count} differ first {reason}" for reason, count in sorted(reasons.items()))
    lines = [
        f"episodes simulated from their first state: {same} of {len(data)} the same (off by {max(largest, default=0):.2g}){rest}",
        f"pictures: {np.mean(levels):.2g} levels off, at most {most}; {100 * np.mean(others):.2g} % of the pixels by more than 16 levels",
    ]
    return [*lines, bilinear(data)] if data.meta.env == OURS["pusht"] else lines


def bilinear(data: Dataset) -> str:
    """The pictures of PushT as the peer shrinks them; ours are means over areas."""
    import cv2
    import numpy as np

    from lewm_bench.run.environments import make_env

    size, rows = data.frames.shape[1], np.arange(0, len(data.frames), 25)
    large = make_env(data.meta.env, 512, {}).render_states(data.states[rows].astype(float))
    drawn = np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in large])
    other = (drawn != data.frames[rows]).any(-1).mean()
    return f"drawn at 512 pixels and shrunk bilinearly: {100 * other:.2g} % of the pixels differ at all"


def why(states: np.ndarray, step: int) -> str:
    """Where agent and block of PushT are when ``step`` leads elsewhere."""
    import numpy as np

    from lewm_bench.envs.parts.pusht_block import AGENT_RADIUS, TEE

    around = states[step : step + 2]
    block = np.concatenate([TEE.corners(state[2:5]).ravel() for state in around])
    agent = around[:, :2]
    if min(block.min(), agent.min() - AGENT_RADIUS) < 9 or max(block.max(), agent.max() + AGENT_RADIUS) > 502:
        return "with block or agent at a wall"
    if step < 4 and TEE.gap(states[0, :2], states[0, 2:5]) < AGENT_RADIUS + 4:
        return "because they begin in contact, with the block in motion"
    return "elsewhere"


if __name__ == "__main__":
    {"write": write, "rows": rows, "compare": compare, "plan": plan}[sys.argv[1]](*sys.argv[2:])
