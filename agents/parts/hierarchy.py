"""World models on several time scales: a LeWM, and above it levels that predict the latents below at a slower pace.

The latents of level k+1 are those of level k at every ``stride``-th step, sent through an encoder; its actions are macro
actions, each pooled from the ``stride`` action embeddings of level k that it spans. All levels train together. How they
plan is in ``hierarchical_planning``.

Shapes: B clips, T states, D latent size, W predictor width, A numbers of an action block, M of a macro action. Levels
count from 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.agents.parts.jepa import JEPA, Predictor, latent_diagnostics
from lewm_bench.agents.parts.nets import ActionEncoder, Block, Projector
from lewm_bench.agents.parts.sigreg import SIGRegConfig
from lewm_bench.core.types import Clip
from lewm_bench.planning.fast.lewm import LeWMParts
from lewm_bench.train.loop import Step
from lewm_bench.train.ranks import gathered


class HierarchyConfig(SIGRegConfig):
    """LeWM's sizes, which the predictors of all levels have; the levels; and how they plan."""

    levels: int = Field(2, ge=2, le=4, description="levels, of which the first is a LeWM")
    stride: int = Field(2, ge=2, description="steps of a level in one step of the level above")
    macro_size: int = Field(4, ge=2, description="numbers of a macro action")
    pooler_width: int = Field(
        64, ge=2, multiple_of=2, description="width of the transformers that pool actions to macro actions; even"
    )
    pooler_depth: int = Field(1, ge=1, description="blocks of these transformers, with two heads")
    macro_memory: int = Field(
        4000, ge=2, description="latest macro actions of training, whose spread plans are held to"
    )
    reach: int = Field(24, ge=1, description="blocks that the highest level plans ahead")
    approach: bool = Field(
        True, description="plan so much less far as has been executed, at last level 1 alone; or as far every time"
    )
    macro_quantile: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="plans stay between this quantile of the macro actions of training and its mirror",
    )

    @property
    def steps(self) -> int:
        """Blocks of a clip: the highest level sees ``history`` steps of its own."""
        return self.history * self.stride ** (self.levels - 1)


class ActionPooler(nn.Module):
    """The action embeddings of the level below (B, T * stride, W) to macro actions (B, T, M), a chunk to each.

    What it says of a chunk is a LayerNorm's, so of one size: plans are searched around numbers of that size.
    """

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        V = config.pooler_width
        self.stride = config.stride
        self.step = nn.Linear(config.width, V)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + config.stride, V))  # the first is a query's, of no action
        self.blocks = nn.Sequential(*[Block(V, 2) for _ in range(config.pooler_depth)])
        self.head = nn.Sequential(
            nn.Linear(V, V),
            nn.GELU(),
            nn.LayerNorm(V),
            nn.Linear(V, config.macro_size),
            nn.LayerNorm(config.macro_size),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        chunks = self.step(embeddings).unflatten(1, (-1, self.stride))  # (B, T, stride, V)
        tokens = torch.cat([torch.zeros_like(chunks[:, :, :1]), chunks], 2) + self.positions
        return self.head(self.blocks(tokens.flatten(0, 1))[:, 0]).unflatten(0, chunks.shape[:2])


class MacroScale(NamedTuple):
    """The macro actions that training has seen, (M,) each."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def macros(self, plans: Tensor) -> Tensor:
        """Plans (..., M), in deviations from the mean, to macro actions (..., M) inside the bounds.

        The gradient ignores the bounds, so that a plan outside of them still moves.
        """
        wanted = self.mean + self.std * plans
        return wanted + (wanted.detach().clamp(self.low, self.high) - wanted.detach())


class Level(nn.Module):
    """A level above the first; for its planner a ``WorldModel`` of latents, whose actions are macro actions.

    Its encoder turns latents of the level below (..., D) into its own (..., D), one by one.
    """

    def __init__(self, config: HierarchyConfig, encoder: nn.Module) -> None:
        super().__init__()
        self.history = config.history
        self.encoder, self.pooler = encoder, ActionPooler(config)
        self.action_encoder = ActionEncoder(config.macro_size, config.width, config.macro_size)
        self.predictor = Predictor(config)
        self.pred_proj = Projector(config.width, config.projector_hidden, config.latent)
        # Standard normal until training fills it, since planning with random weights must do something.
        self.register_buffer("macro_actions", torch.randn(config.macro_memory, config.macro_size))

    def predict_next(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(N, T, D) and macro actions (N, T, M) to the latent after the last of them, (N, D)."""
        return self.pred_proj(self.predictor(latents, self.action_encoder(actions), last_only=True)[:, -1])

    def remember(self, macro_actions: Tensor) -> None:
        """Keep the newest of (B, T, M), of all ranks together."""
        with torch.no_grad():
            new = gathered(macro_actions.detach().to(self.macro_actions.dtype)).flatten(0, 1)
            self.macro_actions.copy_(torch.cat([self.macro_actions, new])[-len(self.macro_actions) :])

    def scale(self, quantile: float) -> MacroScale:
        """The spread of what is remembered."""
        std, mean = torch.std_mean(self.macro_actions, 0, correction=0)
        bounds = torch.tensor([quantile, 1 - quantile], device=mean.device, dtype=mean.dtype)
        return MacroScale(mean, std.clamp_min(1e-4), *self.macro_actions.quantile(bounds, 0))

    def parts(self) -> LeWMParts:
        """For planning, which knows no model."""
        return self.predictor.parts(self.action_encoder, self.pred_proj)


def windows(levels: int, stride: int, history: int, generator: torch.Generator) -> tuple[int, ...]:
    """The first step of every level's window of ``history + 1`` states, in steps of the level.

    A level has more states in a clip than it learns from, but for the highest; the window is drawn.
    """
    lengths = [history * stride ** (levels - level) + 1 for level in range(1, levels + 1)]
    return tuple(int(torch.randint(n - history, (), generator=generator)) for n in lengths)


def window_frames(firsts: Sequence[int], stride: int, history: int) -> list[list[int]]:
    """The frames of a clip at which the states of every level's window stand."""
    return [[(first + t) * stride**k for t in range(history + 1)] for k, first in enumerate(firsts)]


Terms = dict[str, tuple[float, Tensor]]
"""Name to weight and value."""


class HierarchicalJEPA(JEPA, ABC):
    """A LeWM, whose names its weights have, with the levels above it in ``upper``."""

    config: HierarchyConfig

    def __init__(self, config: HierarchyConfig, image_size: int, action_dim: int) -> None:
        super().__init__(config, image_size, action_dim)
        self.upper = nn.ModuleList(Level(config, self.level_encoder()) for _ in range(config.levels - 1))

    @abstractmethod
    def level_encoder(self) -> nn.Module:
        """What turns latents of a level (..., D) into those of the level above, one by one."""

    @abstractmethod
    def terms(self, level: int, z: Tensor, actions: Tensor, step: Step) -> Terms:
        """What a level's loss has beside the prediction.

        Args:
            level: from 1.
            z: its latents (B, T+1, D).
            actions: z-scored blocks or macro actions between them (B, T, A or M).
            step: of the training.
        """

    def lifted(self, latents: Tensor, level: int) -> Tensor:
        """Latents (..., D) of level 1 to those of a level at the same times, (..., D)."""
        for upper in self.upper[: level - 1]:
            latents = upper.encoder(latents)
        return latents

    def actions_of_levels(self, actions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Actions and their embeddings of every level, from the blocks of a clip (B, T, A).

        Of level k (B, T / stride^(k-1), A or M) and (B, T / stride^(k-1), W).
        """
        blocks = self.normalize_actions(actions)
        found = [(blocks, self.action_encoder(blocks))]
        for upper in self.upper:
            macro = upper.pooler(found[-1][1])
            found.append((macro, upper.action_encoder(macro)))
        return found

    def states_of_levels(self, frames: Tensor, at: Sequence[Sequence[int]]) -> list[Tensor]:
        """Latents (B, history + 1, D) of every level at its frames of a clip (B, T, 3, h, w); no other is encoded."""
        seen = sorted({frame for own in at for frame in own})
        z = self.encode(frames[:, seen])
        return [self.lifted(z[:, [seen.index(f) for f in own]], level) for level, own in enumerate(at, 1)]

    def loss(self, clip: Clip, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the levels of the prediction's mean squared error and of their own weighted terms.

        Teacher forcing in a window of ``history + 1`` states per level. Gradients flow into the targets, and from every
        level into those below.
        """
        config = self.config
        firsts = windows(config.levels, config.stride, config.history, step.generator)
        states = self.states_of_levels(clip.frames, window_frames(firsts, config.stride, config.history))
        total, parts = states[0].new_zeros(()), {}
        for level, (z, (actions, embeddings)) in enumerate(
            zip(states, self.actions_of_levels(clip.actions), strict=True), 1
        ):
            own = slice(firsts[level - 1], firsts[level - 1] + config.history)
            error = (self._predicted(level, z[:, :-1], embeddings[:, own]) - z[:, 1:]).square().mean()
            terms = {"prediction": (1.0, error), **self.terms(level, z, actions[:, own], step)}
            total = total + sum(weight * value for weight, value in terms.values())
            shown = {name: value for name, (_, value) in terms.items()}
            shown |= latent_diagnostics(z.detach()) if step.log else {}
            parts |= {name if level == 1 else f"{name}_{level}": value for name, value in shown.items()}
            if level > 1 and self.training:
                self.upper[level - 2].remember(actions)
        return total, parts

    def _predicted(self, level: int, latents: Tensor, embeddings: Tensor) -> Tensor:
        """(B, T, D) and action embeddings (B, T, W) of a level to (B, T, D)."""
        own = self if level == 1 else self.upper[level - 2]
        return own.pred_proj(own.predictor(latents, embeddings))
