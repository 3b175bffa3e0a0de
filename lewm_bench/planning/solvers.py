"""Search for the cheapest plan. Knows a cost function and nothing else.

Every solver has the same budget: ``num_samples`` x ``num_iterations`` plans whose costs it asks for, or gradients of so
many fewer plans that they are as much work. Episode b draws only from ``rngs[b]``, on the CPU: its plan depends neither
on its batch nor on the device. A cost that is not a finite number never wins; where an episode has no other, a solver
raises a ``FloatingPointError``.

Shapes: B episodes planned together, S sampled plans, E elites, H steps of a plan, A numbers of a step. A step is an
action block to whoever has no finer one; only ``icem`` looks at it, since its noise has a colour along time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from lewm_bench.core.config import Config
from lewm_bench.core.types import Cost, Plan

Arithmetic = Literal["float32", "tf32", "bfloat16", "int8"]
SolverName = Literal["cem", "icem", "mppi", "shooting", "adam"]

# Plans that one gradient is counted as. Weights are frozen, so a backward pass is as much arithmetic as a forward one;
# but both are of the plain loop. By torch's count, at quick size, that is 3.2 plans of the fast rollout of LeWM and 2.6
# of DINO-WM's.
GRADIENT_COST = 3


class ICEMConfig(Config):
    """What iCEM adds to CEM (Pinneri et al., 2020, algorithm 1)."""

    beta: float = Field(2.0, ge=0)  # colour of the noise: power ~ 1 / frequency^beta; 0 is white
    momentum: float = Field(0.1, ge=0, lt=1)  # of the mean and the deviation
    keep: float = Field(0.3, ge=0, le=1)  # share of the elites that is tried again
    decay: float = Field(1.0, ge=1)  # samples shrink by this per iteration, at most to two per elite; the paper's 1.25


class MPPIConfig(Config):
    """Model predictive path integral control (Williams et al., 2017)."""

    temperature: float = Field(0.05, gt=0)  # in standard deviations of an iteration's costs, so it fits every cost
    noise_std: float = Field(0.3, gt=0)  # of every iteration, in z-scored action units


class AdamConfig(Config):
    """Gradient descent on plans, from several starts."""

    optimizer: Literal["adam", "rmsprop", "sgd"] = "adam"
    learning_rate: float = Field(0.1, gt=0)
    num_starts: int | None = Field(None, ge=1)  # None: as many as cost num_samples plans, a third of them


class CEMConfig(Config):
    """The planner of the LeWM paper (appendix D): 300 samples, 30 elites, 5 blocks, all of them executed.

    The budget, the horizon and the objective are common to all solvers.
    """

    solver: SolverName = "cem"
    num_samples: int = 300
    num_iterations: int = 30
    num_elites: int = 30
    std: float = 1.0  # of the first iteration, in z-scored action units
    horizon: int = 5  # blocks
    receding: int = 5  # blocks executed before planning again
    warm_start: bool = False  # start the next search from what is left of the last plan
    objective: Literal["final", "sum"] = "final"  # distance of the last latent, or of all of them
    rollout: Literal["fast", "reference"] = "fast"  # same costs up to rounding; ``reference`` is the plain loop
    arithmetic: Arithmetic = "float32"  # of the fast rollout; int8 on CPU, tf32 on CUDA, bfloat16 on both
    compile: bool = False  # the fast rollout by torch.compile: a minute at first, for many plans; wants a C++ compiler
    icem: ICEMConfig = ICEMConfig()
    mppi: MPPIConfig = MPPIConfig()
    adam: AdamConfig = AdamConfig()

    @model_validator(mode="after")
    def _consistent(self) -> CEMConfig:
        if not 1 < self.num_elites <= self.num_samples:
            raise ValueError(
                f"need 1 < num_elites <= num_samples, got {self.num_elites} elites of {self.num_samples} samples"
            )
        if not 1 <= self.receding <= self.horizon:
            raise ValueError(f"need 1 <= receding <= horizon, got receding {self.receding}, horizon {self.horizon}")
        if self.num_iterations < 1 or self.std <= 0:
            raise ValueError("need num_iterations >= 1 and std > 0")
        other = self.arithmetic != "float32" or self.compile
        if self.rollout == "reference" and other:
            raise ValueError("arithmetic and compile belong to rollout fast; the reference is plain float32")
        if self.differentiates and other:
            raise ValueError(
                "the solver adam differentiates a plain float32 rollout; leave arithmetic and compile alone"
            )
        return self

    def unread(self) -> Collection[str]:
        return {*get_args(SolverName)} - {"cem", "shooting", self.solver}

    @property
    def differentiates(self) -> bool:
        """Whether the solver wants gradients of the cost."""
        return self.solver == "adam"

    @property
    def plans_per_iteration(self) -> tuple[int, ...]:
        """How many plans the solver asks the cost of, call by call."""
        if self.solver == "adam":
            starts = self.adam.num_starts or max(1, self.num_samples // GRADIENT_COST)
            return (starts,) * (self.num_iterations + 1)
        if self.solver == "icem":
            least = min(self.num_samples, 2 * self.num_elites)
            sizes = (int(self.num_samples / self.icem.decay**i) for i in range(self.num_iterations))
            return tuple(max(size, least) for size in sizes)
        return (self.num_samples,) * self.num_iterations

    @property
    def work(self) -> int:
        """Plans imagined per episode and search, where a gradient counts as ``GRADIENT_COST`` of them."""
        plans = self.plans_per_iteration
        return GRADIENT_COST * sum(plans[:-1]) + plans[-1] if self.differentiates else sum(plans)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what plays no part and is as it is by itself: what was measured before there were other solvers keeps
        its key in the cache, and reading it back gives the same."""
        written = handler(self)
        for name in {"solver", *get_args(SolverName)} - {self.solver}:
            if name in written and getattr(self, name) == type(self).model_fields[name].default:
                del written[name]
        return written


@dataclass(frozen=True)
class ElitePlan(Plan):
    """A plan with others that are worth trying again in the next search."""

    elites: Tensor  # (B, E, H, A)


def _normal(rngs: Sequence[np.random.Generator], count: int, plans: int, mean: Tensor) -> Tensor:
    """Standard normal numbers (count, B, plans, H, A) for a ``mean`` (B, H, A), moved to its device in one copy: a
    device that has to wait for the host in every iteration stands still."""
    shape = (count, plans, *mean.shape[1:])
    return torch.from_numpy(np.stack([rng.standard_normal(shape, np.float32) for rng in rngs], 1)).to(mean)


def _take(plans: Tensor, index: Tensor) -> Tensor:
    """(B, S, H, A) and (B, E) to (B, E, H, A)."""
    return plans.gather(1, index[:, :, None, None].expand(-1, -1, *plans.shape[2:]))


def _ranked(costs: Tensor) -> Tensor:
    """Costs with all that are not finite numbers behind the others, as infinity."""
    return costs.nan_to_num(torch.inf, torch.inf, torch.inf)


def _elites(plans: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` cheapest of plans (B, S, H, A) and their costs (B, E), in order.

    Where fewer have a finite cost, the cheapest takes the places of those that have none.
    """
    cheapest, index = _ranked(costs).topk(count, dim=1, largest=False)
    finite = cheapest < torch.inf
    index = torch.where(finite, index, index[:, :1])
    return _take(plans, index), torch.where(finite, cheapest, cheapest[:, :1])


def _require_finite(lowest: Sequence[Tensor]) -> None:
    """Raise a FloatingPointError unless every episode has had a finite cost in every iteration; (B,) of each.

    Asked once per search: a device that has to wait for the host in every iteration stands still.
    """
    wrong = int((~torch.stack(list(lowest)).isfinite().all(0)).sum())
    if wrong:
        raise FloatingPointError(f"not one plan has a finite cost, in {wrong} of {len(lowest[0])} episodes")


def cem(cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest plans found from the initial ``mean`` (B, H, A), by the cross-entropy method.

    Plans are sampled from a diagonal Gaussian that is refitted to the elites, whose deviation is taken as it is
    (no floor, no smoothing, no clipping); the first sample of every iteration is the mean itself.

    Returns:
        The last mean (B, H, A) and the mean cost of the last elites (B,).
    """
    std = torch.full_like(mean, config.std)
    noise = _normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[:, :, 0] = 0.0
    lowest = []
    for standard in noise:
        plans = standard * std[:, None] + mean[:, None]  # (B, S, H, A)
        elites, elite_costs = _elites(plans, cost(plans), config.num_elites)
        std, mean = torch.std_mean(elites, dim=1)
        lowest.append(elite_costs[:, 0])
    _require_finite(lowest)
    return Plan(mean, elite_costs.mean(1))


def coloured(white: np.ndarray, beta: float) -> np.ndarray:
    """White noise (..., H, A) to noise whose power along H falls as 1 / frequency^beta, of the same variance.

    A filter of the spectrum (Timmer and Koenig, 1995), whose constant part has the power of the lowest frequency;
    0 changes nothing.
    """
    steps = white.shape[-2]
    frequency = np.fft.rfftfreq(steps)
    frequency[0] = 1 / steps
    gain = frequency ** (-beta / 2)
    twice = np.full(len(gain), 2.0)  # a frequency and its negative, which but for the constant and Nyquist's differ
    twice[0] = 1
    if steps % 2 == 0:
        twice[-1] = 1
    gain /= np.sqrt((twice * gain**2).sum() / steps)
    return np.fft.irfft(np.fft.rfft(white, axis=-2) * gain[:, None], steps, axis=-2)


def icem(
    cost: Cost,
    mean: Tensor,
    config: CEMConfig,
    rngs: Sequence[np.random.Generator],
    kept: Tensor | None = None,
) -> ElitePlan:
    """The cheapest plan found from ``mean`` (B, H, A) by the improved cross-entropy method (Pinneri et al., 2020).

    Against ``cem``: noise with a colour, momentum, a share of the elites stays among the samples, the mean is one of the
    last ones only, and the cheapest elite is executed. As in ``cem`` nothing is clipped: plans are z-scores, whose
    bounds no solver knows.

    Args:
        kept: (B, E, H, A) of the last search, shifted.

    Returns:
        The cheapest plan of the last iteration, its cost, and the elites to keep (B, E, H, A).
    """
    own, sizes = config.icem, config.plans_per_iteration
    keep = int(own.keep * config.num_elites)
    elites = mean[:, None][:, :0] if kept is None else kept[:, :keep]
    again = [elites.shape[1], *[keep] * (len(sizes) - 1)]
    last = [0] * (len(sizes) - 1) + [1]  # the mean
    fresh = [max(0, n - k - m) for n, k, m in zip(sizes, again, last, strict=True)]
    shape = (sum(fresh), *mean.shape[1:])
    noise = np.stack([coloured(rng.standard_normal(shape, np.float32), own.beta) for rng in rngs])
    std, lowest = torch.full_like(mean, config.std), []
    for standard, m, size in zip(torch.from_numpy(noise).to(mean).split(fresh, 1), last, sizes, strict=True):
        drawn = standard * std[:, None] + mean[:, None]
        plans = torch.cat([elites[:, :keep], mean[:, None][:, :m], drawn], 1)[:, :size]
        elites, costs = _elites(plans, cost(plans), config.num_elites)
        lowest.append(costs[:, 0])
        fitted = torch.std_mean(elites, dim=1)
        std, mean = (
            own.momentum * old + (1 - own.momentum) * new for old, new in zip((std, mean), fitted, strict=True)
        )
    _require_finite(lowest)
    return ElitePlan(elites[:, 0], costs[:, 0], elites[:, :keep])


def mppi(cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The plan to which ``mean`` (B, H, A) is moved by path integral updates (Williams et al., 2017, algorithm 2).

    The mean becomes the average of its noisy neighbours with weights exp(-cost / temperature); the noise stays as wide
    as it is. Without the paper's cost of control: none of our objectives has one. The first neighbour is the mean.

    Returns:
        The last mean (B, H, A) and the weighted cost of the last neighbours (B,).
    """
    noise = _normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[:, :, 0] = 0.0
    lowest = []
    for standard in noise:
        plans = standard * config.mppi.noise_std + mean[:, None]
        costs = _ranked(cost(plans))
        lowest.append(costs.amin(1))
        weights = path_weights(costs, config.mppi.temperature)
        mean = (plans * weights[:, :, None, None]).sum(1)
    _require_finite(lowest)
    return Plan(mean, (torch.where(costs < torch.inf, costs, 0) * weights).sum(1))


def path_weights(costs: Tensor, temperature: float) -> Tensor:
    """(B, S) costs to weights that add up to 1; the temperature is in standard deviations of an episode's finite costs.

    The weight of an infinite cost is 0.
    """
    above = costs - costs.amin(1, keepdim=True)
    finite = costs < torch.inf
    # All that the others add to the variance is nothing where they lie at the mean of the finite ones.
    middle = torch.where(finite, costs, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True)
    spread = torch.where(finite, costs, middle).std(1, keepdim=True)
    counted = ((costs.shape[1] - 1) / (finite.sum(1, keepdim=True) - 1).clamp_min(1)).sqrt()  # 1 if all are finite
    scale = (spread * counted).clamp_min(torch.finfo(costs.dtype).tiny)
    return (-(above / scale) / temperature).softmax(1)


def shooting(cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest of plans drawn around ``mean`` (B, H, A), the first of which is the mean; and its cost."""
    noise = _normal(rngs, config.num_iterations, config.num_samples, mean)
    noise[0, :, 0] = 0.0
    best = _nothing(mean)
    for standard in noise:
        plans = standard * config.std + mean[:, None]
        best = _cheaper(best, plans, cost(plans))
    _require_finite([best.cost])
    return best


def _nothing(mean: Tensor) -> Plan:
    return Plan(mean, mean.new_full((len(mean),), torch.inf))


def _cheaper(best: Plan, plans: Tensor, costs: Tensor) -> Plan:
    """The cheapest of the best plan and of (B, S, H, A) plans; costs that are not finite numbers lose."""
    lowest, index = _ranked(costs).min(1)
    better = lowest < best.cost
    chosen = _take(plans, index[:, None])[:, 0]
    return Plan(torch.where(better[:, None, None], chosen, best.actions), torch.where(better, lowest, best.cost))


OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}


def adam(cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator]) -> Plan:
    """The cheapest plan on ``num_iterations`` steps of gradient descent, by torch's optimiser of the config's name.

    Several starts are drawn around ``mean`` (B, H, A), the first of which is the mean, and descend side by side.
    The budget: a step needs every start's cost and gradient, counted as ``GRADIENT_COST`` plans, so that a third of
    ``num_samples`` starts is as much work per iteration as the samples of the other solvers (100 starts x 30 steps x 3
    against 300 samples x 30 iterations); one look at where the last step led comes on top.

    Returns:
        The cheapest plan of all starts and steps, and its cost.
    """
    starts = config.plans_per_iteration[0]
    (drawn,) = _normal(rngs, 1, starts, mean)  # (B, S, H, A)
    drawn[:, 0] = 0.0
    with torch.enable_grad():
        # A tensor per episode: what an optimiser computes must not depend on how many episodes there are.
        leaves = [(d * config.std + m).requires_grad_() for d, m in zip(drawn, mean, strict=True)]
        optimizer = OPTIMIZERS[config.adam.optimizer](leaves, lr=config.adam.learning_rate)
        best = _nothing(mean)
        for _ in range(config.num_iterations):
            plans = torch.stack(leaves)
            costs = cost(plans)
            for leaf, gradient in zip(leaves, torch.autograd.grad(costs.sum(), leaves), strict=True):
                leaf.grad = gradient
            best = _cheaper(best, plans.detach(), costs.detach())
            optimizer.step()
    plans = torch.stack([leaf.detach() for leaf in leaves])
    with torch.no_grad():
        best = _cheaper(best, plans, cost(plans))
    _require_finite([best.cost])
    return best


Solver = Callable[[Cost, Tensor, CEMConfig, Sequence[np.random.Generator]], Plan]

SOLVERS: dict[SolverName, Solver] = {"cem": cem, "icem": icem, "mppi": mppi, "shooting": shooting, "adam": adam}


def solve(
    cost: Cost, mean: Tensor, config: CEMConfig, rngs: Sequence[np.random.Generator], kept: Tensor | None = None
) -> Plan:
    """The cheapest plans (B, H, A) that the config's solver finds from ``mean``, and from ``kept`` if it kept any."""
    if kept is not None:
        return icem(cost, mean, config, rngs, kept)
    return SOLVERS[config.solver](cost, mean, config, rngs)


def shifted(plans: Tensor, executed: int) -> Tensor:
    """What is left of plans (..., H, A) after ``executed`` steps, with zeros, the mean of all actions, behind it."""
    return torch.cat([plans[..., executed:, :], torch.zeros_like(plans[..., :executed, :])], -2)


class Replanner:
    """Searches again and again for one batch of episodes, from what is left of the last plan if asked to."""

    def __init__(self, config: CEMConfig, frame_skip: int, rngs: Sequence[np.random.Generator]) -> None:
        self._config, self._skip, self._rngs = config, frame_skip, rngs
        self._last: Plan | None = None

    def __call__(self, cost: Cost, block: int, device: torch.device) -> Tensor:
        """The blocks to execute now (B, receding, A).

        Args:
            cost: of plans (B, S, horizon, A) in blocks; solvers see their environment steps.
            block: A.
        """
        config, k = self._config, self._skip
        mean = torch.zeros(len(self._rngs), config.horizon * k, block // k, device=device)
        kept = None
        if config.warm_start and self._last is not None:
            executed = config.receding * k
            mean = shifted(self._last.actions, executed)
            if isinstance(self._last, ElitePlan) and config.receding < config.horizon:
                kept = shifted(self._last.elites, executed)

        def in_blocks(plans: Tensor) -> Tensor:
            return cost(plans.reshape(*plans.shape[:2], config.horizon, block))

        self._last = solve(in_blocks, mean, config, self._rngs, kept)
        return self._last.actions.reshape(-1, config.horizon, block)[:, : config.receding]
