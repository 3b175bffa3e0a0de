"""A dataset that the user names takes the place of the one that a suite would collect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError
from lewm_bench.data.format import Dataset
from lewm_bench.data.recorded import RECORDED_ID, register_recorded
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.keys import DATA_SCHEMA
from lewm_bench.run.resolve import Suite

OURS_TO_CHOOSE = ("image_size", "render_mode")


def with_data(suite: Suite, folder: Path) -> Suite:
    """The suite with the environment that made the dataset in ``folder``.

    Data without a simulator give their folder's name to the rows.

    Raises:
        UserError: the suite has several environments, another one, or frames of another size.
    """
    dataset = Dataset.open(folder)
    if len(suite.envs) != 1:
        known = ", ".join(env.label for env in suite.envs)
        raise UserError(
            f"--data is the data of one environment and the suite {suite.name} has {len(suite.envs)}: {known}; name one"
        )
    (old,) = suite.envs
    _require_size(dataset, suite.of(old).settings.image_size, old)
    new = _described(dataset, old)
    jobs = tuple(job.model_copy(update={"env": new}) for job in suite.jobs)
    return suite.model_copy(update={"jobs": jobs, "by_env": {new.label: suite.of(old)}})


def given_spec(spec: EnvSpec, env: GoalEnv, dataset: Dataset) -> dict[str, Any]:
    """What determines data that were given: all of their numbers, and the simulator that goes with them."""
    made = env.made_of()
    return {
        "schema": [DATA_SCHEMA, env.schema],
        "env": spec.model_dump(mode="json", include={"id", "kwargs", "adapt"}),
        "source": made.digest,
        "packages": dict(made.packages),
        "given": dataset.fingerprint,
    }


def require_made_by(env: GoalEnv, dataset: Dataset) -> None:
    """Raise a UserError unless a dataset is of an environment, arguments included."""
    if env.spec is None or (env.spec.id, _arguments(env.spec.kwargs)) != (
        dataset.meta.env,
        _arguments(dataset.meta.env_kwargs),
    ):
        made = env.spec.id if env.spec else type(env).__name__
        raise UserError(
            f"the data in {dataset.folder} are of {dataset.meta.env} with {_arguments(dataset.meta.env_kwargs)}, not of {made} "
            f"with {_arguments(env.spec.kwargs) if env.spec else {}}"
        )


def _arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in OURS_TO_CHOOSE}


def _require_size(dataset: Dataset, wanted: int, env: EnvSpec) -> None:
    height, width = dataset.frames.shape[1:3]
    if height != width:
        raise UserError(
            f"the frames in {dataset.folder} are {height} x {width}; agents see square ones: import them again"
        )
    if height != wanted:
        raise UserError(
            f"the frames in {dataset.folder} have {height} pixels a side, the suite's {wanted}; add --set image_size={height}, "
            f"or import them again with --image-size {wanted}"
        )


def _described(dataset: Dataset, env: EnvSpec) -> EnvSpec:
    """The suite's environment with the arguments that the data were made with."""
    meta = dataset.meta
    if meta.env == RECORDED_ID:
        register_recorded()
        name = dataset.folder.resolve().name
        return EnvSpec(id=RECORDED_ID, name=name, kwargs=_arguments(meta.env_kwargs), settings=env.settings)
    if env.adapt is not None:
        return env  # what it becomes is compared when it is made
    if meta.env != env.id.rpartition(":")[2]:
        raise UserError(
            f"the data in {dataset.folder} are of {meta.env}, not of {env.label}; name its suite and --envs {meta.env}"
        )
    return env.model_copy(update={"kwargs": {**env.kwargs, **_arguments(meta.env_kwargs)}})
