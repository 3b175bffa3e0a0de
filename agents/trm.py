"""TRM (trajectory reachability metric, arXiv 2605.22164): LeWM's planner with a learned temporal distance as its cost.

Far from the goal the squared distance of latents says little about how long the way is. A head on the frozen latents
learns from pairs of frames of the same episode how many environment steps lie between them, for separations from one
step to hundreds in equal numbers, and takes the place of that distance. World model and planner stay as they are.

Shapes: B pairs, D latent size; b episodes, S plans, h blocks that count.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lewm_bench.agent import PlanningAgent, Setting
from lewm_bench.agents.parts.frozen import Batches, HeadConfig, HeadFamily, Latents, OnFrozen, mlp
from lewm_bench.agents.parts.jepa import JointEmbedding
from lewm_bench.core.card import Card
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension
from lewm_bench.planning.cost import objective_of, plain_rollout
from lewm_bench.train.loop import Step


class TRMConfig(HeadConfig):
    """How far apart the pairs are, and which of the times between two places counts."""

    max_separation: int = Field(
        150, ge=1, description="environment steps between the frames of a pair, at most; drawn evenly from 1 to this"
    )
    expectile: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="of the times between two places that is learned: 0.5 their mean, lower nearer to the shortest",
    )


class TRM(OnFrozen):
    """A world model whose distance is a time."""

    def __init__(self, config: TRMConfig, base: JointEmbedding, action_dim: int) -> None:
        super().__init__(base, action_dim)
        self.config = config
        self.head = mlp(3 * self.latent, config, 1)

    def separation(self, latents: Tensor, goals: Tensor) -> Tensor:
        """(..., D) latents and goals to the time from one to the other (...), in units of ``max_separation``, above 0."""
        pair = torch.cat([latents, goals, goals - latents], -1)
        return F.softplus(self.head(pair)[..., 0])

    def distance(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Imagined latents (b, S, h, D) and goals (b, D) to separations (b, S, h)."""
        return self.separation(latents, goal[:, None, None].expand_as(latents))

    def loss(self, batch: tuple[Tensor, ...], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The expectile loss of separations, mean over pairs.

        Args:
            batch: latents (B, D) of the earlier and of the later frames, environment steps between them (B,).
        """
        earlier, later, steps = batch
        error = steps / self.config.max_separation - self.separation(earlier, later)
        below = self.config.expectile
        loss = (torch.where(error > 0, below, 1 - below) * error.square()).mean()
        return loss, {"separation": loss, "separation_error": error.abs().mean()}


class TRMFamily(HeadFamily):
    """``trm``."""

    Config = TRMConfig
    kind = "world model"
    plans = True
    card = Card(
        name="TRM",
        about="a frozen LeWM whose plans are judged by a learned time to the goal in place of the latent distance",
        colour="#DFBF9F",
        marker="d",
        loss_terms=("separation",),
        papers={"TRM": "2605.22164"},
        rank=25,
    )
    search_space = (Dimension("expectile", 0.02, 0.5),)

    def build(self, config: TRMConfig, base: JointEmbedding, action_dim: int) -> TRM:
        return TRM(config, base, action_dim)

    def batches(self, setting: Setting[TRMConfig], latents: Latents) -> Batches:
        pairs = Pairs(setting)

        def batch(index: int) -> tuple[Tensor, ...]:
            earlier, steps = pairs(stream(setting.seed, "batch", index), setting.config.train.batch_size)
            return latents(earlier), latents(earlier + steps), torch.from_numpy(steps.astype(np.float32))

        return batch

    def agent(self, model: TRM, setting: Setting[TRMConfig]) -> PlanningAgent:
        planner = setting.planner
        objective = objective_of(planner, model.distance)
        fast = None if planner.differentiates else self.rollout(model, setting)
        return PlanningAgent(model, planner, setting.device, fast, plain_rollout(model), objective=objective)


class Pairs:
    """Pairs of rows of the same training episode, whose separations are drawn evenly."""

    def __init__(self, setting: Setting[TRMConfig]) -> None:
        dataset = setting.dataset
        episodes = np.asarray(dataset.episodes("train"))
        self._starts, self._lengths = dataset.starts[episodes], dataset.lengths[episodes]
        self._longest = min(setting.config.max_separation, int(self._lengths.max()) - 1)

    def __call__(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count,) earlier rows, and the steps to the later ones."""
        episode = rng.integers(len(self._starts), size=count)
        steps = np.minimum(rng.integers(1, self._longest + 1, size=count), self._lengths[episode] - 1)
        return self._starts[episode] + rng.integers(self._lengths[episode] - steps), steps


TRM_FAMILY = TRMFamily()
