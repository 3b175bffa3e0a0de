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

    beta: float = Field(
        2.0,
        ge=0,
        description="colour of the noise along environment steps: its power falls as 1 / frequency^beta; 0 is white",
    )
    momentum: float = Field(0.1, ge=0, lt=1, description="share of the old mean and deviation that an iteration keeps")
    keep: float = Field(0.3, ge=0, le=1, description="share of the elites that is tried again")
    decay: float = Field(
        1.0,
        ge=1,
        description="samples shrink by this factor per iteration, to two per elite at least; the paper's is 1.25",
    )


class MPPIConfig(Config):
    """Model predictive path integral control (Williams et al., 2017)."""

    temperature: float = Field(
        0.05,
        gt=0,
        description="of the weights exp(-cost / temperature), in standard deviations of an iteration's costs",
    )
    noise_std: float = Field(
        0.3, gt=0, description="deviation of the noise in every iteration, in units of the data's action deviation"
    )


class AdamConfig(Config):
    """Gradient descent on plans, from several starts."""

    optimizer: Literal["adam", "rmsprop", "sgd"] = Field("adam", description="rule of the descent")
    learning_rate: float = Field(0.1, gt=0, description="step size, in units of the data's action deviation")
    num_starts: int | None = Field(
        None,
        ge=1,
        description="plans that descend side by side; null: a third of num_samples, since a gradient costs three plans",
    )


class PlannerConfig(Config):
    """The planner of the LeWM paper (appendix D): 300 samples, 30 elites, 5 blocks, all of them executed.

    The budget, the horizon and the objective are common to all solvers.
    """

    solver: SolverName = Field(
        "cem",
        description="how plans are searched; shooting takes the cheapest of num_samples x num_iterations random plans",
    )
    num_samples: int = Field(300, description="plans tried per iteration")
    num_iterations: int = Field(30, description="iterations per search")
    num_elites: int = Field(30, description="best plans that the next iteration is fitted to; from 2 to num_samples")
    std: float = Field(
        1.0, description="deviation of the first iteration, in units of the data's action deviation; above 0"
    )
    horizon: int = Field(5, description="blocks planned ahead")
    receding: int = Field(5, description="blocks executed before planning again; from 1 to horizon")
    warm_start: bool = Field(False, description="start the next search from what is left of the last plan")
    objective: Literal["final", "sum"] = Field(
        "final",
        description="distance to the goal of the last imagined latent (final), or summed over all of them (sum)",
    )
    rollout: Literal["fast", "reference"] = Field(
        "fast",
        description="how plans are imagined: optimised (fast) or the plain loop (reference); same costs up to rounding",
    )
    arithmetic: Arithmetic = Field("float32", description="of the fast rollout; tf32 wants CUDA, int8 a CPU")
    compile: bool = Field(
        False,
        description="the fast rollout by torch.compile: about a minute at first; on a CPU it wants a C++ compiler",
    )
    icem: ICEMConfig = Field(
        ICEMConfig(),
        description="CEM with coloured noise, momentum and elites that stay (Pinneri et al., 2020)",
    )
    mppi: MPPIConfig = Field(
        MPPIConfig(), description="path integral control (Williams et al., 2017); num_elites and std play no part"
    )
    adam: AdamConfig = Field(
        AdamConfig(),
        description="gradient descent on plans through the plain float32 rollout, from several starts",
    )

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
