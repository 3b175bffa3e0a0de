"""What tasks ask of a cluster; none of it changes a result."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lewm_bench.core.config import Config


class LaunchConfig(Config):
    """Resources of the tasks of a run that workers do. Episodes always have a machine or a GPU for themselves."""

    collect_cpus: int | None = Field(None, ge=1, description="cores for collecting data; null: those of a machine")
    train_cpus: int | None = Field(None, ge=1, description="cores of a training; null: its threads")
    train_gpus: float | None = Field(
        None, ge=0, description="GPUs of a training, parts of one allowed; null: one where --device is CUDA, else none"
    )
    retries: int = Field(20, ge=0, description="how often a task whose worker died is begun again, from its last state")
    slurm: dict[str, Any] = Field(
        {},
        description="what submitit hands to Slurm: {partition: gpu, timeout_min: 240, slurm_additional_parameters: {}}",
    )
