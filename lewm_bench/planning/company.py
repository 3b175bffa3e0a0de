"""Episodes in one call on a device whose libraries choose kernels by size, as CUDA's do.

There the last digits of an episode's numbers depend on how many rows a call has; so whoever plans for several episodes
keeps their number the same, as evaluation does. That they depend neither on which of the rows are the episode's nor on what
is in the others is tried, once for every shape: random episodes one place further, one of them replaced, must give the
same numbers to the bit. Where they do not, every episode has a call of its own.

Shapes: B episodes, S candidates, T frames, H blocks of a plan, A numbers of a block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lewm_bench.planning.cost import BeginRollout, Objective, Rollout, Score, imagined_cost

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor, np.ndarray], Tensor]
"""Frames (B, ...) and their states (B, ...) to latents (B, ...)."""


class Company:
    """What was tried on one model, and what came of it."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, tuple[int, ...]], bool] = {}

    def alike(self, what: str, shape: tuple[int, ...], of: Callable[[slice], Tensor]) -> bool:
        """Whether place and company make no difference to ``what`` in calls of a shape, whose first number is B.

        ``of`` gives the numbers (B, ...) of B successive ones of B + 1 random episodes.
        """
        if (what, shape) not in self._alike:
            B = shape[0]
            self._alike[what, shape] = torch.equal(of(slice(0, B))[1:], of(slice(1, B + 1))[:-1])
            if not self._alike[what, shape]:
                logger.warning("%s depend on an episode's place in a call, so each episode has its own", what)
        return self._alike[what, shape]

    def encoded(self, encode: Encode, frames: Tensor, states: np.ndarray) -> Tensor:
        """``encode`` of frames (B, ..., 3, h, w), as uint8, and their states."""

        def of(chosen: slice) -> Tensor:
            shape = len(frames) + 1, *frames.shape[1:]
            drawn = torch.randint(0, 256, shape, dtype=frames.dtype, generator=_generator())
            return encode(drawn[chosen].to(frames.device), np.concatenate([states, states[:1]])[chosen])

        if len(frames) == 1 or self.alike("encodings", tuple(frames.shape), of):
            return encode(frames, states)
        alone = (slice(b, b + 1) for b in range(len(frames)))
        return torch.cat([encode(frames[b], states[b]) for b in alone])

    def rollouts(self, begin: BeginRollout, objective: Objective) -> BeginRollout:
        """``begin`` for several episodes at once, or one after the other."""
        single = apart(begin)

        def begin_together(latents: Tensor, past_actions: Tensor) -> Rollout:
            together, alone = begin(latents, past_actions), single(latents, past_actions)

            def rollout(plans: Tensor, score: Score) -> Tensor:
                def of(chosen: slice) -> Tensor:
                    generator = _generator()
                    z, goal, actions, drawn = (
                        torch.randn(len(plans) + 1, *like.shape[1:], generator=generator)[chosen].to(like)
                        for like in (latents, latents[:, 0], past_actions, plans)
                    )
                    return imagined_cost(begin(z, actions), goal, objective)(drawn)

                if len(plans) == 1 or self.alike("rollouts", (*plans.shape, *latents.shape[1:]), of):
                    return together(plans, score)
                return alone(plans, score)

            return rollout

        return begin_together


def apart(begin: BeginRollout) -> BeginRollout:
    """``begin`` for one episode after the other."""

    def begin_apart(latents: Tensor, past_actions: Tensor) -> Rollout:
        searches = [begin(z[None], a[None]) for z, a in zip(latents, past_actions, strict=True)]

        def rollout(plans: Tensor, score: Score) -> Tensor:
            rows = []
            for b, (search, own) in enumerate(zip(searches, plans.split(1), strict=True)):
                rows.append(search(own, lambda imagined, _, b=b: score(imagined, slice(b, b + 1))))
            return torch.cat(rows)

        return rollout

    return begin_apart


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
