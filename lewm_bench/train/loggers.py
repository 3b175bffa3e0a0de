"""TensorBoard, Weights & Biases and MLflow as Fabric's loggers: how each is opened, gone on with, and tried beforehand.

TensorBoard's is Fabric's own. Those of W&B and MLflow are a few lines over their clients: Lightning's come with
pytorch-lightning and torchmetrics, of which nothing else here would be used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import Logger, TensorBoardLogger

from lewm_bench.core.errors import UserError, short_repr, unknown
from lewm_bench.system.extras import require
from lewm_bench.system.faults import result_or_error
from lewm_bench.train.logs import LogOf, LogTo, text_of

PROJECT = "lewm-bench"  # of W&B, the experiment of MLflow, unless the user's environment names another one
FLUSH = 10  # seconds after which a point is on disk


def require_loggers(log_to: LogTo) -> None:
    """Raise what is bound to fail.

    Raises:
        UserError: a logger is unknown, or cannot log in.
        NotRun: it is not installed.
    """
    for kind in log_to.kinds:
        if kind not in CHECKS:
            raise unknown("logger", kind, CHECKS)
    for kind in log_to.kinds:
        CHECKS[kind](log_to.folder)


def open_logger(kind: str, of: LogOf, first: int) -> Logger:
    """The logger of a training that begins, or goes on, at step ``first``; it has the training's settings."""
    logger = OPEN[kind](of, first)
    logger.log_hyperparams(dict(of.settings))
    return logger


# TensorBoard.


class TensorBoard(TensorBoardLogger):
    """Fabric's, which says the settings together with the first numbers: so its HPARAMS page has both."""

    _settings: dict[str, Any] | None = None

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._settings = dict(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._settings is None:
            return super().log_metrics(metrics, step)
        settings, self._settings = self._settings, None
        super().log_hyperparams(settings, dict(metrics), step)


def open_tensorboard(of: LogOf, first: int) -> Logger:
    """Events in ``tensorboard/NAME``; what an earlier part of the training logged from ``first`` on no longer counts."""
    folder = of.to.folder / "tensorboard"
    return TensorBoard(folder, name="", version=of.name, purge_step=first, flush_secs=FLUSH)


def check_tensorboard(_: Path) -> None:
    require("tensorboard", "--log tensorboard")


# Weights & Biases.


def wandb_module() -> Any:
    """W&B's module; unless the user's environment says so it reports its errors to nobody, and nothing to the terminal."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    return require("wandb", "--log wandb")


class Wandb(Logger):
    """A run of W&B; its steps are a number of each point, since W&B's own never go back, as after a kill."""

    def __init__(self, of: LogOf) -> None:
        wandb = wandb_module()
        of.to.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=of.key,
            name=of.name,
            dir=of.to.folder,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", save_code=False),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @property
    def name(self) -> str | None:
        return self._run.name

    @property
    def version(self) -> str | None:
        return self._run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log({**metrics, "step": step})

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._run.config.update(dict(params), allow_val_change=True)

    def finalize(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "success" else 1)


def check_wandb(_: Path) -> None:
    """Raise a UserError where W&B is to be online and does not let us in; asks its server then, and nobody otherwise."""
    wandb = wandb_module()
    settings = wandb.setup().settings
    if settings.mode in ("offline", "disabled", "dryrun"):
        return
    found = result_or_error(lambda: wandb.login(prompt=False, verify=True))
    if isinstance(found, Exception):
        raise UserError(f"W&B does not let you in ({text_of(found)}); `wandb login`, or WANDB_MODE=offline")
    if not found:
        raise UserError("W&B needs a key: `wandb login`, WANDB_API_KEY=..., or WANDB_MODE=offline to log to files")


# MLflow.


def mlflow_client(folder: Path) -> Any:
    """A client of $MLFLOW_TRACKING_URI, or of files in ``folder/mlflow``; reports its use to nobody by itself."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    tracking = require("mlflow.tracking", "--log mlflow")
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return tracking.MlflowClient(uri)
    # Several processes write files; a database of one file they could not, and MLflow without its server has none.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return tracking.MlflowClient((folder / "mlflow").absolute().as_uri())


class Mlflow(Logger):
    """A run of MLflow, found again by a tag."""

    TAG = "lewm_bench.training"
    ENDS = {"success": "FINISHED", "failed": "FAILED", "aborted": "KILLED"}  # noqa: RUF012
    AT_ONCE = 100  # parameters that a server takes together
    LONGEST = 500  # characters of one

    def __init__(self, of: LogOf) -> None:
        self._client = mlflow_client(of.to.folder)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = self._client.search_runs([experiment], f"tags.`{self.TAG}` = '{of.key}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {self.TAG: of.key}
            self._id = self._client.create_run(experiment, tags=tags, run_name=of.name).info.run_id
        self._name = of.name

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params  # which may not change, and may when a training goes on
        new = {name: str(value)[: self.LONGEST] for name, value in flat(params).items() if name not in known}
        found = [Param(name, value) for name, value in new.items()]
        for begin in range(0, len(found), self.AT_ONCE):
            self._client.log_batch(self._id, params=found[begin : begin + self.AT_ONCE])

    def finalize(self, status: str) -> None:
        self._client.set_terminated(self._id, self.ENDS[status])

    def _experiment(self, name: str) -> str:
        """The id of an experiment, made if it is not there; another process may make it at the same time."""
        from mlflow.exceptions import MlflowException

        if (found := self._client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return found.experiment_id


def check_mlflow(folder: Path) -> None:
    """Raise a UserError where $MLFLOW_TRACKING_URI cannot be reached, after seconds and not the usual minutes."""
    require("mlflow", "--log mlflow")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return
    with environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
        found = result_or_error(lambda: mlflow_client(folder).search_experiments(max_results=1))
    if isinstance(found, Exception):
        raise UserError(
            f"MLflow cannot be reached at MLFLOW_TRACKING_URI={short_repr(uri)} ({text_of(found)}); mend it, or unset "
            "it to log to files"
        )


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Inside this context the environment says ``values`` of what it does not say anyway."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


OPEN: Mapping[str, Callable[[LogOf, int], Logger]] = {
    "tensorboard": open_tensorboard,
    "wandb": lambda of, _: Wandb(of),
    "mlflow": lambda of, _: Mlflow(of),
}
CHECKS: Mapping[str, Callable[[Path], None]] = {
    "tensorboard": check_tensorboard,
    "wandb": check_wandb,
    "mlflow": check_mlflow,
}
