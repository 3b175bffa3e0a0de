"""The settings of a run that are common to all agents, with their defaults."""

from __future__ import annotations

from pydantic import Field, model_validator

from lewm_bench.core.config import Config
from lewm_bench.core.errors import unknown
from lewm_bench.data.collect import CollectConfig
from lewm_bench.evaluation.episodes import EvalConfig
from lewm_bench.evaluation.speed import SpeedConfig
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.understand.config import UnderstandingConfig


class TrainingBudget(Config):
    """One training budget for every agent that learns from the dataset; without one each has its own ``train.steps``."""

    seconds: float | None = Field(None, gt=0)  # steps are chosen by each agent's pace, measured once per machine
    steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> TrainingBudget:
        if self.seconds is not None and self.steps is not None:
            raise ValueError("seconds or steps, not both")
        return self


class Settings(Config):
    """What is common to all agents of a run. The keys beside these are agents' names."""

    image_size: int = Field(224, ge=16, le=512)
    collect: CollectConfig = CollectConfig()
    evaluate: EvalConfig = EvalConfig()
    planner: PlannerConfig = PlannerConfig()
    training: TrainingBudget = TrainingBudget()
    speed: SpeedConfig = SpeedConfig()
    understanding: UnderstandingConfig = UnderstandingConfig()

    @model_validator(mode="after")
    def _pairs_exist(self) -> Settings:
        """Found out before anything is collected or trained."""
        offsets, fractions = self.evaluate.goal_offset, self.collect.model_dump(include={"train", "val", "test"})
        if not offsets or not all(1 <= o <= self.collect.steps for o in offsets):
            raise ValueError(
                f"evaluate.goal_offset needs at least one number from 1 to collect.steps ({self.collect.steps}), "
                f"got {list(offsets)}"
            )
        split = self.evaluate.split
        if split != "all" and split not in fractions:
            raise ValueError(f"evaluate.split: {unknown('split', split, [*fractions, 'all'])}")
        if split != "all" and fractions[split] == 0:
            raise ValueError(f"evaluate.split is {split!r}, but collect.{split} is 0")
        return self
