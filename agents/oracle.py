"""Oracles: the same planner on the true simulator. The ceiling of the planner, and what separates its two parts.

``oracle`` scores plans by the length of the way that is left, or with ``cost=distance`` by the distance through whatever
is in between. ``greedy`` looks no further than its next block, and so says which goals need no plan. ``LatentOracle``
simulates truly but scores by the distance in a model's latent space: if it fails, the latent metric is at fault and not
the learned dynamics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lewm_bench.agent import AgentConfig, Embed, Family, Loaded, Setting, embed_frames, primitive_actions
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Goals, Past, WorldModel
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import Objective, objective_of
from lewm_bench.planning.replan import Replanner


class Simulation:
    """Plans (B, S, H, A) in z-scored action space, executed by the simulator from the true states (B, X)."""

    def __init__(self, env: GoalEnv, frame_skip: int, mean: np.ndarray, std: np.ndarray) -> None:
        self.env, self.frame_skip = env, frame_skip
        self._mean, self._std = torch.as_tensor(mean), torch.as_tensor(std)

    def denormalize(self, plans: Tensor) -> Tensor:
        """(..., A) z-scores to environment units."""
        return (plans.cpu().unflatten(-1, (self.frame_skip, -1)) * self._std + self._mean).flatten(-2)

    def states(self, states: np.ndarray, plans: Tensor) -> np.ndarray:
        """True states (B, S, H, X) after each block."""
        B, S, H, A = plans.shape
        actions = self.denormalize(plans).reshape(B * S, H * self.frame_skip, A // self.frame_skip).numpy()
        after = self.env.simulate(np.repeat(states, S, 0), actions)[:, self.frame_skip - 1 :: self.frame_skip]
        return after.reshape(B, S, H, -1)


Costs = Callable[[np.ndarray], Tensor]
"""True states (B, S, h, X) after the blocks that count to the costs of plans (B, S)."""


class SimulatorSearch(ABC):
    """A search on the true simulator; what plans cost is made from the goals by subclasses."""

    history = 1

    def __init__(self, simulation: Simulation, config: PlannerConfig) -> None:
        if config.differentiates:
            raise UserError(
                f"the solver {config.solver} needs gradients and the true simulator has none; leave the oracle out or "
                "choose another planner.solver"
            )
        self.simulation, self.config = simulation, config
        self.frame_skip = simulation.frame_skip

    @property
    def last(self) -> bool:
        """Whether the state after the last block alone counts."""
        return self.config.objective == "final"

    def start(self, goals: Goals, rngs: Sequence[np.random.Generator]) -> SimulatorController:
        return SimulatorController(self, self.costs(goals), rngs)

    @abstractmethod
    def costs(self, goals: Goals) -> Costs:
        """What comes of plans to what they cost."""


class SimulatorAgent(SimulatorSearch):
    """The cost is the environment's distance to the goal."""

    def costs(self, goals: Goals) -> Costs:
        distance = self.goal_distance(goals)
        return lambda states: distance(states).sum(-1)

    def goal_distance(self, goals: Goals):
        """A function from true states (B, S, H, X) to distances (B, S, H), a tensor."""
        env, targets = self.simulation.env, goals.states[:, None, None]
        return lambda states: torch.from_numpy(env.distance(states, targets.copy()))


class SimulatorController:
    """One batch of episodes of a ``SimulatorSearch``."""

    def __init__(self, agent: SimulatorSearch, costs: Costs, rngs: Sequence[np.random.Generator]) -> None:
        self._agent, self._costs = agent, costs
        self._plan = Replanner(agent.config, agent.frame_skip, rngs)

    def encode(self, past: Past) -> np.ndarray:
        return past.states

    def search(self, states: np.ndarray) -> np.ndarray:
        agent = self._agent

        def cost(plans: Tensor) -> Tensor:
            after = agent.simulation.states(states, plans)
            return self._costs(after[:, :, -1:] if agent.last else after).to(plans)

        block = agent.frame_skip * agent.simulation.env.action_space.shape[0]
        blocks = self._plan(cost, block, torch.device("cpu"))
        return primitive_actions(agent.simulation.denormalize(blocks), agent.frame_skip)


class PathOracle(SimulatorAgent):
    """The cost is the length of the way that is left, around what is in between."""

    def goal_distance(self, goals: Goals):
        env, targets = self.simulation.env, goals.states[:, None, None]
        return lambda states: torch.from_numpy(env.path_length(states, targets.copy()))


class LatentOracle(SimulatorSearch):
    """True dynamics, but the rendered outcomes cost what ``model``'s planner would have them cost if it imagined them."""

    def __init__(
        self,
        simulation: Simulation,
        config: PlannerConfig,
        model: WorldModel,
        device: torch.device,
        chunk: int = 512,
        embed: Embed | None = None,
        objective: Objective | None = None,
    ) -> None:
        # Its question is about the latent metric: where the model's own planner needs gradients, CEM asks it.
        super().__init__(simulation, config.model_copy(update={"solver": "cem"}) if config.differentiates else config)
        self._embed, self._chunk = embed or embed_frames(model, device), chunk
        self._objective = objective or objective_of(config)

    @property
    def last(self) -> bool:
        return self._objective.last

    @torch.inference_mode()
    def _encode(self, states: np.ndarray) -> Tensor:
        """(N, X) states to (N, *L), a chunk at a time."""
        images = torch.from_numpy(self.simulation.env.render_states(states)).permute(0, 3, 1, 2)
        chunks = range(0, len(states), self._chunk)
        return torch.cat([self._embed(images[i : i + self._chunk], states[i : i + self._chunk]) for i in chunks])

    def costs(self, goals: Goals) -> Costs:
        with torch.inference_mode():
            goal = self._embed(goals.frames, goals.states)  # (B, *L)

        @torch.inference_mode()
        def costs(states: np.ndarray) -> Tensor:
            latents = self._encode(states.reshape(-1, states.shape[-1]))
            return self._objective.score(latents.unflatten(0, states.shape[:3]), goal)

        return costs


class OracleConfig(AgentConfig):
    """What ``oracle`` minimises. Where something is in the way the distance leads it into a corner; a path does not."""

    cost: Literal["path", "distance"] = Field(
        "path",
        description="way that is left, or distance through what is between; the same where there are no ways",
    )


class OracleFamily(Family):
    """``oracle``."""

    Config = OracleConfig
    planning_only = ("cost",)

    card = Card(
        name="the oracle",
        about="the same planner on the true simulator, along shortest ways where they are known: the planner's ceiling",
        colour="#222222",
        marker="d",
        rank=10,
    )
    kind = "privileged"
    plans = True

    def load(self, setting: Setting[OracleConfig], checkpoint: Path | None) -> Loaded:
        path = setting.config.cost == "path"
        agent = PathOracle if path else SimulatorAgent
        measure = "shortest ways" if path and setting.env.knows_ways else "distance"
        return Loaded(
            agent(simulation_of(setting), setting.planner),
            f"Oracle (same planner, true simulator and {measure})",
            note="sees the true state",
        )


def simulation_of(setting: Setting, frame_skip: int | None = None) -> Simulation:
    """The setting's environment behind the action scale of its training data; blocks as long as its agent's."""
    mean, std = setting.dataset.action_statistics("train")
    return Simulation(setting.env, frame_skip or setting.config.frame_skip, mean, std)


class GreedyFamily(Family):
    """``greedy``: its planner is its own, so that the goals that it reaches are those of no setting of a suite."""

    card = Card(
        name="greedy",
        about="takes the best next block by the true simulator and distance: goals that it reaches need no planning",
        colour="#8800FF",
        marker="H",
        rank=0,
    )
    kind = "floor"

    def load(self, setting: Setting[AgentConfig], checkpoint: Path | None) -> Loaded:
        return Loaded(
            SimulatorAgent(simulation_of(setting), GREEDY_PLANNER),
            "Greedy (true simulator and distance, one block ahead)",
            note="sees the true state",
        )


GREEDY_PLANNER = PlannerConfig(horizon=1, receding=1, num_samples=64, num_iterations=5, num_elites=8)

ORACLE, GREEDY = OracleFamily(), GreedyFamily()
