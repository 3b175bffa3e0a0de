"""The settings of a run that are common to all agents, with their defaults."""

from __future__ import annotations

from pydantic import Field, model_validator

from lewm_bench.core.config import Config
from lewm_bench.core.errors import unknown
from lewm_bench.data.collect import CollectConfig
from lewm_bench.evaluation.episodes import EvalConfig
from lewm_bench.evaluation.shift import ShiftConfig
from lewm_bench.evaluation.speed import SpeedConfig
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.run.launch.config import LaunchConfig
from lewm_bench.understand.config import UnderstandingConfig


class TrainingBudget(Config):
    """One training budget for every agent that learns from the dataset; without one each has its own ``train.steps``."""

    seconds: float | None = Field(
        None,
        gt=0,
        description="equal wall-clock time for all: each trains as many steps as fit at its measured pace",
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="equal number of training steps for all, in place of their own train.steps",
    )

    @model_validator(mode="after")
    def _one(self) -> TrainingBudget:
        if self.seconds is not None and self.steps is not None:
            raise ValueError("seconds or steps, not both")
        return self


class Settings(Config):
    """What is common to all agents of a run. The keys beside these are agents' names."""

    image_size: int = Field(224, ge=16, le=512, description="side of the square frames, pixels")
    collect: CollectConfig = Field(
        CollectConfig(), description="how much data, from which policies, and how it is split"
    )
    evaluate: EvalConfig = Field(EvalConfig(), description="start and goal pairs, and the rules of the evaluation")
    planner: PlannerConfig = Field(
        PlannerConfig(),
        description="the planner of world models and of the oracle; a block is frame_skip environment steps",
    )
    training: TrainingBudget = Field(
        TrainingBudget(),
        description="one training budget for every agent that learns from the dataset; seconds or steps, not both",
    )
    launch: LaunchConfig = Field(LaunchConfig(), description="what the tasks of `run --launcher` ask of a cluster")
    speed: SpeedConfig = Field(
        SpeedConfig(), description="what `lewm-bench speed` and suites that time planning measure"
    )
    understanding: UnderstandingConfig = Field(
        UnderstandingConfig(), description="what `lewm-bench understand` and suites that look into world models examine"
    )

    shift: ShiftConfig = Field(ShiftConfig(), description="what suites change in the world after training")

    @model_validator(mode="after")
    def _pairs_exist(self) -> Settings:
        """Found out before anything is collected or trained."""
        offsets, fractions = self.evaluate.goal_offset, self.collect.model_dump(include={"train", "val", "test"})
        recorded = not any(rules.from_tasks for rules in self.evaluate.rules)
        if not recorded and not (offsets and min(offsets) >= 1):
            raise ValueError(f"evaluate.goal_offset needs at least one number from 1, got {list(offsets)}")
        if recorded and (not offsets or not all(1 <= o <= self.collect.steps for o in offsets)):
            raise ValueError(
                f"evaluate.goal_offset needs at least one number from 1 to collect.steps ({self.collect.steps}), "
                f"got {list(offsets)}"
            )
        split = self.evaluate.split
        if split != "all" and split not in fractions:
            raise ValueError(f"evaluate.split: {unknown('split', split, [*fractions, 'all'])}")
        if split != "all" and fractions[split] == 0:
            raise ValueError(f"evaluate.split is {split!r}, but collect.{split} is 0")
        if self.evaluate.during_training and fractions["val"] == 0:
            raise ValueError("evaluate.during_training takes validation pairs, but collect.val is 0")
        return self
