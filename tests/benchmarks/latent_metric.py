"""Is it the metric? Distances of one latent space, and of others, on the true simulator of PushT.

    lewm-bench collect --suite pusht                                   # prints the dataset's folder
    lewm-bench train lewm --suite pusht --out lewm-pusht
    python tests/benchmarks/latent_metric.py DATASET lewm-pusht        # seconds to a minute per checkpoint and distance
    python tests/benchmarks/latent_metric.py DATASET lewm-pusht --closed-loop "pose,latents,read" --planner receding=1

Nothing is planned with a model's dynamics, but by ``model`` in ``--closed-loop``. For each pair of validation episodes
the true simulator searches by the true distance, and the states at the ends of all its plans are the pool: most far
from the goal, some at it. Every distance then orders the same pools. A line of the table says how well: Spearman's
correlation with the true distance; how far in truth, and in what, the tenth is that the distance takes for the nearest
(medians over pairs of the mean); and in how many pairs the one nearest of all is a success.

With ``--closed-loop`` the same distances plan on the true simulator, and a line says what is reached and what is wrong
where it is not. The distances:

    pose      true positions and angle, in tolerances, squared and added up
    pixels    of frames of 32 x 32 pixels
    latents   as planning takes it
    white     of latents turned and scaled so that on the training frames they have deviation 1 in every direction
    read      of the pose that ridge regression reads from latents
    true      true positions and angle as success has them: the larger of the two errors, closed loops alone
    model     latents, and the model's own dynamics: the agent as it is, closed loops alone

At last what both probes of `lewm-bench understand` read from latents and from small pixels: R2 and the median error on
validation frames, px and degrees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lewm_bench.agent import AgentConfig, Embed, Loaded, Setting
from lewm_bench.agents.oracle import LatentOracle, Simulation, SimulatorAgent
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman, wilson
from lewm_bench.core.types import Agent
from lewm_bench.data.format import Dataset
from lewm_bench.evaluation.episodes import PairResult, evaluate
from lewm_bench.evaluation.protocol import CLEAN_1, Pairs, sample_pairs
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.environments import make_env
from lewm_bench.run.registry import agent_family
from lewm_bench.system.checkpoint import load_card
from lewm_bench.system.store import Store
from lewm_bench.understand.model import downsampled
from lewm_bench.understand.probes import ProbeConfig, Split, mlp, ridge

PLANNER = {"num_samples": 100, "num_iterations": 6, "num_elites": 10}  # a fifth of the profile's plans
SKIP, OFFSET = 5, 25
FRAMES = {"train": 8000, "val": 2000}
SIDE, PROBED_SIDE, PIECE = 32, 16, 256
CPU = torch.device("cpu")
PIXELS, ANGLE = 20.0, np.pi / 9  # PushT's tolerances
PLACES = {"agent": slice(0, 2), "block": slice(2, 4), "angle": slice(4, 6)}


def pose(states: np.ndarray) -> np.ndarray:
    """(N, X) states to agent xy, block xy, cos and sin of the angle, in tolerances (N, 6)."""
    angle = np.asarray(states[:, 4], np.float64)
    return np.column_stack([states[:, :4] / PIXELS, np.cos(angle) / ANGLE, np.sin(angle) / ANGLE])


def misses(read: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of poses (N, 6) against (N, 6) or (6,): agent and block in px, the angle in degrees."""
    px = {name: PIXELS * np.linalg.norm((read - truth)[..., PLACES[name]], axis=-1) for name in ("agent", "block")}
    turn = np.arctan2(read[..., 5], read[..., 4]) - np.arctan2(truth[..., 5], truth[..., 4])
    return {**px, "angle": np.degrees(np.abs((turn + np.pi) % (2 * np.pi) - np.pi))}


@dataclass(frozen=True)
class Data:
    """Where distances come from: frames of two splits, and pairs of the validation episodes."""

    dataset: Dataset
    env: GoalEnv
    pairs: Pairs

    @cached_property
    def rows(self) -> Mapping[str, np.ndarray]:
        """Dataset rows (N,) by split."""
        draw = {split: stream(0, "latent metric", split) for split in FRAMES}
        return {s: np.sort(draw[s].choice(self.dataset.rows(s), FRAMES[s], replace=False)) for s in FRAMES}

    @cached_property
    def poses(self) -> Mapping[str, np.ndarray]:
        return {split: pose(self.dataset.states[rows]) for split, rows in self.rows.items()}

    @cached_property
    def goals(self) -> np.ndarray:
        """States (P, X)."""
        return np.asarray(self.dataset.states[self.pairs.goal_row], np.float64)

    @cached_property
    def pools(self) -> np.ndarray:
        """The ends (P, N, X) of all plans that searches by the true distance try."""
        simulation = Simulation(self.env, SKIP, *self.dataset.action_statistics("train"))
        config, ends = PlannerConfig(**PLANNER), []
        for pair, (row, goal) in enumerate(zip(self.pairs.start_row, self.goals, strict=True)):
            tried: list[np.ndarray] = []

            def cost(plans: Tensor, row: int = row, goal: np.ndarray = goal, tried: list = tried) -> Tensor:
                tried.append(simulation.states(self.dataset.states[row][None], plans)[0, :, -1])
                return torch.from_numpy(self.env.distance(tried[-1], goal))[None].to(plans)

            mean = torch.zeros(1, config.horizon, SKIP * self.env.action_space.shape[0])
            cem(cost, mean, config, [stream(0, "latent metric", self.dataset.meta.env, pair)])
            ends.append(np.concatenate(tried))
        return np.stack(ends)

    @cached_property
    def pictures(self) -> np.ndarray:
        """Frames (P * N, h, w, 3) of the pools."""
        return self.env.render_states(self.pools.reshape(-1, self.pools.shape[-1]))

    def setting(self, name: str, config: AgentConfig, planner: PlannerConfig) -> Setting:
        """Of an agent that is not trained any more."""
        return Setting(self.env, self.dataset.meta.env, name, self.dataset, "", config, planner, 0, CPU, Store(Path()))


class Features:
    """What an ``Embed`` gives for the frames of both splits, and what probes read from it."""

    def __init__(self, data: Data, embed: Embed) -> None:
        self.data, self.embed = data, embed

    @cached_property
    def known(self) -> Mapping[str, np.ndarray]:
        """Features (N, D) by split."""
        dataset = self.data.dataset
        return {
            split: self.embed(images(dataset.frames[rows]), dataset.states[rows]).double().numpy()
            for split, rows in self.data.rows.items()
        }

    @cached_property
    def scales(self) -> tuple[np.ndarray, ...]:
        """Mean and deviation of features, then of poses."""
        return tuple(f(a, 0) for a in (self.known["train"], self.data.poses["train"]) for f in (np.mean, np.std))

    @cached_property
    def split(self) -> Split:
        """What probes learn from; features and poses standardised by ``scales``."""
        mean, std, centre, spread = self.scales
        features, poses = (self.known["train"] - mean) / std, (self.data.poses["train"] - centre) / spread
        return Split(features, poses, np.searchsorted(self.data.dataset.ends, self.data.rows["train"], side="right"))

    def probed(self, kind: str) -> np.ndarray:
        """Poses (N, 6) of the validation frames as a probe reads them."""
        mean, std, centre, spread = self.scales
        asked = (self.known["val"] - mean) / std
        found = ridge(self.split, asked, 5) if kind == "ridge" else mlp(self.split, asked, ProbeConfig(), ("metric",))
        return found * spread + centre

    @cached_property
    def reading(self) -> tuple[Tensor, Tensor]:
        """Ridge regression from features to poses: a matrix (D, 6) and what is added (6,)."""
        mean, std, centre, spread = self.scales
        size = len(mean)
        of_axes = ridge(self.split, np.vstack([np.eye(size), np.zeros(size)]), 5) * spread
        matrix = (of_axes[:-1] - of_axes[-1]) / std[:, None]
        return torch.from_numpy(matrix).float(), torch.from_numpy(of_axes[-1] + centre - mean @ matrix).float()

    @cached_property
    def whitening(self) -> Tensor:
        """(D, K), of the directions in which features differ at all."""
        values, vectors = np.linalg.eigh(np.cov(self.known["train"].T))
        kept = values > 1e-4 * values.max()
        return torch.from_numpy(vectors[:, kept] / np.sqrt(values[kept])).float()


class Space:
    """Latents of a checkpoint, and what can be made of them; each an ``Embed``."""

    def __init__(self, checkpoint: Path, data: Data, planner: PlannerConfig) -> None:
        card = load_card(checkpoint)
        family = agent_family(card["agent"])
        self.setting = data.setting(card["agent"], family.Config(**card["config"]), planner)
        self.loaded: Loaded = family.load(self.setting, checkpoint)
        self.features = Features(data, self.latents)

    def latents(self, frames: Tensor, states: np.ndarray) -> Tensor:
        del states
        with torch.inference_mode():
            return torch.cat([self.loaded.model.encode(part[:, None])[:, 0] for part in frames.split(PIECE)])

    def white(self, frames: Tensor, states: np.ndarray) -> Tensor:
        return self.latents(frames, states) @ self.features.whitening

    def read(self, frames: Tensor, states: np.ndarray) -> Tensor:
        matrix, offset = self.features.reading
        return self.latents(frames, states) @ matrix + offset


def images(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def true_pose(frames: Tensor, states: np.ndarray) -> Tensor:
    del frames
    return torch.from_numpy(pose(states)).float()


def small_pixels(frames: Tensor, states: np.ndarray, side: int = SIDE) -> Tensor:
    del states
    return torch.from_numpy(downsampled(frames.permute(0, 2, 3, 1).numpy(), side))


def spaces(space: Space | None) -> Mapping[str, Embed]:
    """An ``Embed`` by the name of its distance; without a checkpoint those that need none."""
    free = {"pose": true_pose, "pixels": small_pixels}
    return free if space is None else {"latents": space.latents, "white": space.white, "read": space.read}


def show(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def order_pools(name: str, embed: Embed, data: Data) -> None:
    """The line of one distance."""
    pools, goals = data.pools, data.goals
    frames = images(data.dataset.frames[data.pairs.goal_row])
    aims = embed(frames, goals).flatten(1)
    ends = embed(images(data.pictures), pools.reshape(-1, pools.shape[-1])).flatten(1).unflatten(0, pools.shape[:2])
    found = (ends - aims[:, None]).norm(dim=-1).numpy()
    truth = np.stack([data.env.distance(e, g) for e, g in zip(pools, goals, strict=True)])
    show(name, *_order(found, truth, pools, goals))


def _order(found: np.ndarray, truth: np.ndarray, pools: np.ndarray, goals: np.ndarray) -> Iterator[str]:
    yield f"{np.mean([spearman(f, t) for f, t in zip(found, truth, strict=True)]):.2f}"
    tenth = np.argsort(found, 1)[:, : found.shape[1] // 10]
    yield f"{np.median(np.take_along_axis(truth, tenth, 1).mean(1)):.2f}"
    parts = [misses(pose(p[t]), pose(g[None])) for p, t, g in zip(pools, tenth, goals, strict=True)]
    for name in PLACES:
        yield f"{np.median([part[name].mean() for part in parts]):.1f}"
    hits = truth[np.arange(len(found)), found.argmin(1)] < 1
    yield share(hits)


def share(hits: Sequence[bool] | np.ndarray) -> str:
    _, low, high = wilson(int(np.sum(hits)), len(hits))
    return f"{100 * np.mean(hits):.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def task(data: Data) -> None:
    """A line: what lies between start and goal, medians over the pairs."""
    apart = misses(pose(data.dataset.states[data.pairs.start_row]), pose(data.goals))
    show("start to goal", *(f"{name} {np.median(apart[name]):.0f}" for name in PLACES))


def probes(name: str, features: Features) -> None:
    """A line per probe: R2 and median error of each quantity on validation frames."""
    truth = features.data.poses["val"]
    for kind in ("ridge", "mlp"):
        read = features.probed(kind)
        errors, cells = misses(read, truth), []
        for quantity, place in PLACES.items():
            left = ((read - truth)[:, place] ** 2).sum() / ((truth - truth.mean(0))[:, place] ** 2).sum()
            cells.append(f"{1 - left:.3f}, {np.median(errors[quantity]):.1f}")
        show(kind, name, *cells)


def closed_loop(name: str, agent: Agent, setting: Setting, data: Data) -> None:
    """A line: reached, held, and over the pairs that were not reached the median errors at the end."""
    budget = CLEAN_1.budget(OFFSET)
    results = list(evaluate(agent, setting, data.pairs, budget, goal_offset=OFFSET, real_history=True))
    lost = [r for r in results if not r.hit]
    show(name, share([r.hit for r in results]), share([r.held for r in results]), *_lost(lost, data))


def _lost(lost: Sequence[PairResult], data: Data) -> Iterator[str]:
    ends = pose(np.array([r.states[-1] for r in lost]).reshape(len(lost), -1))
    errors = misses(ends, pose(data.goals[[r.pair for r in lost]]))
    for name in PLACES:
        yield f"{np.median(errors[name]):.0f}" if lost else ""
    position = np.hypot(errors["agent"], errors["block"]) >= PIXELS
    yield f"{int(position.sum())}, {int((errors['angle'] >= 20).sum())} of {len(lost)}"


def loops(
    wanted: Sequence[str], space: Space | None, data: Data, planner: PlannerConfig
) -> Iterator[tuple[str, Agent, Setting]]:
    """Name, agent and setting of what is asked for; without a checkpoint what needs none."""
    simulation = Simulation(data.env, SKIP, *data.dataset.action_statistics("train"))
    setting = data.setting("oracle", AgentConfig(), planner)
    if space is None and "true" in wanted:
        yield "true", SimulatorAgent(simulation, planner), setting
    for name, embed in spaces(space).items():
        if name in wanted:
            yield name, LatentOracle(simulation, planner, None, CPU, embed=embed), setting
    if space is not None and "model" in wanted:
        yield "model", space.loaded.agent, space.setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--closed-loop", default="", help="distances by which to plan, comma-separated; else pools")
    parser.add_argument("--planner", nargs="*", default=[], help="KEY=VALUE of the planner in closed loops")
    arguments = parser.parse_args()
    dataset = Dataset.open(arguments.dataset)
    env = make_env(dataset.meta.env, dataset.meta.env_kwargs["image_size"], {}, None)
    data = Data(dataset, env, sample_pairs(dataset, env, CLEAN_1, arguments.pairs, OFFSET, "val"))
    planner = PlannerConfig.model_validate({**PLANNER, **dict(s.split("=") for s in arguments.planner)})
    named = [(None, ""), *((Space(c, data, planner), f" of {c.name}") for c in arguments.checkpoints)]
    task(data)
    if arguments.closed_loop:
        show("distance", "reached, %", "held, %", "lost: agent px", "block px", "angle", "lost by position, by angle")
        for space, of in named:
            for name, agent, setting in loops(arguments.closed_loop.split(","), space, data, planner):
                closed_loop(name + of, agent, setting, data)
        return
    show("distance", "correlation", "nearest tenth: tolerances", "agent px", "block px", "angle", "nearest is a hit, %")
    for space, of in named:
        for name, embed in spaces(space).items():
            order_pools(name + of, embed, data)
    show("probe", "of", *(f"{quantity}: R2, median error" for quantity in PLACES))
    probes(f"pixels, {PROBED_SIDE} x {PROBED_SIDE}", Features(data, partial(small_pixels, side=PROBED_SIDE)))
    for space, of in named[1:]:
        probes(f"latents{of}", space.features)


if __name__ == "__main__":
    main()
