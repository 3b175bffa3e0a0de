"""Every registered agent in a size that trains in a moment, on the toy environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from toy_env import TOY_ID, make_toy

from lewm_bench.agent import Family, Loaded, Setting
from lewm_bench.agents import AGENTS
from lewm_bench.core.config import deep_merge
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.types import Goals, Past
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.bases import with_base, with_trained_base
from lewm_bench.run.registry import agent_family
from lewm_bench.system.store import Store

SKIP = 2
TINY_TRAIN = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "save_every": 3}
COMMON = {"frame_skip": SKIP, "train": TINY_TRAIN}
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2, "head_size": 8, "mlp_hidden": 32}
JEPA = {"encoder": "stem-vit", "latent": 8, "projector_hidden": 16, **TRANSFORMER}
PREFIX = {"prefix_depth": 1, "prefix_heads": 2, "prefix_head_size": 8, "prefix_mlp_hidden": 16, "fusion_hidden": 16}
LOCAL = {"local": {"width": 16, "depth": 1, "heads": 2, "channels": 8, "scales": [4, 8], "train": TINY_TRAIN}}
HEAD = {"hidden": 16, "depth": 1}
TINY = {
    "lewm": {**JEPA, "num_directions": 8},
    "fast-lewm": {**JEPA, **PREFIX, "num_directions": 8},
    "rc-aux": {**JEPA, "num_directions": 8, "head_hidden": 16, "head_budget": 4, "rollout_blocks": 3, "max_budget": 4},
    "vlwm": {**JEPA, "num_directions": 8, "horizon": 4},
    "h-jepa": {**JEPA, "num_directions": 8, "pooler_width": 8, "latent_hidden": 16, "macro_memory": 32},
    "hwm": {**JEPA, "num_directions": 8, "pooler_width": 8, "macro_memory": 32},
    "pldm": {**JEPA, "inverse_dynamics_weight": 1, "inverse_dynamics_hidden": 16},
    "jepa-ema": JEPA,
    "delta-jepa": {**JEPA, "decoder_depth": 1, "decoder_heads": 2, "decoder_head_size": 8, "decoder_hidden": 16},
    "gcbc": {"width": 16, "depth": 1, "hidden": 16},
    "gcivl": {"width": 16, "depth": 1, "hidden": 16},
    "gciql": {"width": 16, "depth": 1, "hidden": 16},
    "dino-wm": {"encoder": "lowpass", "conditioning": "adaln", **TRANSFORMER, **LOCAL},
    "gc-idm": HEAD,
    "gc-idm-cem": HEAD,
    "trm": {**HEAD, "max_separation": 12},
    "noop": {},
    "random": {},
    "oracle": {},
    "greedy": {},
    "straight": {"frame_skip": 1},
    "sac-her": {"hidden": [16], "episode_steps": 4, "frame_skip": 1, "train": {"steps": 60, "batch_size": 8}},
}
NAMES = [*AGENTS, "dino-wm:mae", "dino-wm:lowpass"]
CEM = PlannerConfig(num_samples=12, num_iterations=2, num_elites=4, horizon=3, receding=2)


def configured(name: str):
    base, variant, _ = parse_agent(name)
    # Agents that do not train have no use for the settings of training.
    common = COMMON if agent_family(name).trainable else {"frame_skip": SKIP}
    return agent_family(name).configure(deep_merge(common, TINY[base]), variant)


def toy_setting(folder: Path) -> Setting:
    """A dataset of the toy environment; no agent yet."""
    env = make_toy(size=32)
    config = CollectConfig(episodes=12, steps=16, policies={"drift": 0.5, "jitter": 0.5})
    data = collect(env, config, 0, folder / "data", progress=False)
    config = agent_family("noop").configure({}, None)
    return Setting(env, TOY_ID, "", data, data.fingerprint, config, CEM, 0, torch.device("cpu"), Store(folder))


def setting_of(base: Setting, name: str, **changes) -> Setting:
    setting = replace(base, agent=name, config=configured(name), **changes)
    return with_base(setting, agent_family(name), lambda other: setting_of(base, other, **changes))


def checkpoint_of(setting: Setting, folder: Path) -> Path | None:
    family = agent_family(setting.agent)
    if not family.trainable:
        return None
    family.train(on_trained_base(setting), folder)
    return folder


def on_trained_base(setting: Setting) -> Setting:
    """The setting with the checkpoint of what its agent is built on, one of its store."""

    def trained(own: Setting, family: Family) -> Path:
        spec = {"agent": own.agent, "seed": own.seed, "dataset": own.dataset_key}
        return own.store.stage("base", spec, lambda work: family.train(own, work))

    return with_trained_base(setting, trained)


def situation(setting: Setting, batch: int, frames: int) -> tuple[Goals, Past]:
    """Real frames and actions of the first test episodes."""
    data = setting.dataset
    rows = data.starts[np.arange(batch)][:, None] + SKIP * np.arange(frames)  # (B, T)
    goals = data.starts[:batch] + 14
    images = torch.from_numpy(np.moveaxis(data.frames[rows], -1, 2).copy())
    steps = data.starts[np.arange(batch)][:, None] + np.arange(SKIP * (frames - 1))
    actions = torch.from_numpy(data.actions[steps].reshape(batch, frames - 1, SKIP * 2))
    goal_images = torch.from_numpy(np.moveaxis(data.frames[goals], -1, 1).copy())
    return Goals(goal_images, data.states[goals]), Past(images, actions, data.states[rows[:, -1]])


def act(loaded: Loaded, setting: Setting, batch: int, frames: int, decisions: int = 2) -> np.ndarray:
    """(decisions, B, k, action_dim)."""
    goals, past = situation(setting, batch, frames)
    controller = loaded.agent.start(goals, [stream(setting.seed, "plan", i) for i in range(batch)])
    return np.stack([controller.search(controller.encode(past)) for _ in range(decisions)])
