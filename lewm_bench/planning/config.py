"""The settings of the planner, common to all solvers, and those of each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lewm_bench.core.config import Config

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


class PlannerConfig(Config):
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
    def _consistent(self) -> PlannerConfig:
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
