"""The one training loop, for anything with a loss. Resumes after a kill and then ends where it would have ended."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from lewm_bench.core.config import Config
from lewm_bench.core.errors import TrainingFailed, UserError
from lewm_bench.core.reading import read_model
from lewm_bench.core.torch_rng import torch_seed, torch_stream
from lewm_bench.data.loader import Batch, Prefetch
from lewm_bench.system import status
from lewm_bench.system.checkpoint import load_strict, load_tensors, require_trained, save_tensors
from lewm_bench.system.files import write_text
from lewm_bench.system.phases import phase, timed
from lewm_bench.system.signals import finishing
from lewm_bench.train.follower import Follower
from lewm_bench.train.logs import UNLOGGED, LogOf
from lewm_bench.train.ranks import ALONE, Ranks, agreed, averaged, make_fabric
from lewm_bench.train.record import TrainingRecord

logger = logging.getLogger(__name__)

COLLAPSED_STD = 0.02
PATIENCE = 5  # logged steps in a row that must look collapsed
LEARNED = 0.02  # of the mean action's error, that a policy must be below it at the end
FREE = (
    "log_every",
    "save_every",
    "save_seconds",
    "on_collapse",
    "epochs",
)  # do not change the weights, beside the steps
STATE = ".state"  # scratch of the cache, gone when the stage is complete

Recipe = Mapping[str, Any]
"""What determines a training, as JSON gives it back."""


class TrainConfig(Config):
    """Optimisation of the LeWM paper (appendix D). The budget is in steps, so that a run repeats."""

    steps: int = Field(100_000, ge=1, description="updates of the weights")
    epochs: float | None = Field(
        None, gt=0, description="passes over the training clips, in place of steps; steps follow when the data is known"
    )
    batch_size: int = Field(128, ge=2, description="clips or frames per update")
    learning_rate: float = Field(
        5e-5, gt=0, description="highest learning rate, after the warm-up; a cosine to zero follows"
    )
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW, on matrices only")
    warmup: float = Field(0.01, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of all gradients together")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="float32, or bfloat16 where it is safe")
    log_every: int = Field(
        20, ge=1, description="steps between points of the training curve; does not change the result"
    )
    save_seconds: float = Field(
        60.0, ge=0, description="seconds of training that a kill may cost; does not change the result"
    )
    save_every: int | None = Field(
        None, ge=1, description="steps that a kill may cost, in place of save_seconds; does not change the result"
    )
    on_collapse: Literal["fail", "continue"] = Field(
        "fail",
        description="what a collapse of latents or policy does: fail the cell, or continue, for ablations that show it",
    )

    def unread(self) -> Collection[str]:
        steps = () if self.epochs is None else ("steps",)
        return steps if self.save_every is None else (*steps, "save_seconds")

    def saves(self, step: int, seconds: float) -> bool:
        """Whether to save after so many steps, so many seconds of training after the last save."""
        due = seconds >= self.save_seconds if self.save_every is None else step % self.save_every == 0
        return due or step == self.steps

    def on(self, clips: int) -> TrainConfig:
        """The same with the steps that ``epochs`` passes over so many clips take; nothing changes without epochs."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": max(1, round(self.epochs * clips / self.batch_size)), "epochs": None})


@dataclass(frozen=True)
class Step:
    """Where training is; a loss may schedule by it and draws its random numbers from its generator."""

    index: int
    total: int
    generator: torch.Generator  # CPU, of this step alone
    log: bool  # diagnostics are wanted

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.index / self.total


class Trainable(Protocol):
    """What ``train`` needs: a module with ``loss``."""

    def loss(self, batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and named scalars for the log.

        ``latent_std`` among them is watched for collapse; ``mean_action``, the error of the mean action, is what the end
        of ``policy`` (or of ``action_error``, where that is all of a policy's loss) is held against.
        """


class TrainableModule(nn.Module):
    """A ``Trainable`` that changes by more than gradients, or has parts that only its training needs.

    What ``after_step`` changes must be in the state dict (a parameter that does not train, or a buffer): then it is
    restored when a training goes on, and ends where it would have ended. None of these does anything unless overridden.
    """

    def begin_training(self) -> None:
        """Make what the objective needs and acting does not; called where weights are drawn, before the first step."""

    def after_step(self, step: Step) -> None:
        """Called without gradients once per optimiser step, right after it."""

    def end_training(self) -> None:
        """Forget what ``begin_training`` made; called after the last step, before anything is saved or counted."""


@dataclass
class TrainingLog:
    """Columns of the training curve, one entry per logged step, the seconds that training took and waited for data."""

    columns: dict[str, list[float | None]] = field(default_factory=lambda: {"step": []})
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, step: int, parts: dict[str, float]) -> None:
        """Append one logged step."""
        before = len(self.columns["step"])
        self.columns["step"].append(step)
        for name in {**self.columns, **parts}:
            if name != "step":
                value = parts.get(name, math.nan)  # what is not known at a step, as a loss before learning starts
                self.columns.setdefault(name, [None] * before).append(value if math.isfinite(value) else None)


def learning_rate(config: TrainConfig, index: int) -> float:
    """Linear warm-up from 0, then a cosine to 0, as a function of the step alone."""
    warmup = round(config.warmup * config.steps)
    if index < warmup:
        return config.learning_rate * (index + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (index - warmup) / max(1, config.steps - warmup)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW on the parameters that train, with weight decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)  # on a CPU a tenth of the step less


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """bfloat16 where it is safe, if that is asked for.

    Not Fabric's: on one device that reaches ``forward`` alone, and a method that is marked as one runs past it (2.6.6).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def train(
    model: nn.Module,
    batch: Callable[[int], Batch],
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    folder: Path,
    description: str = "train",
    progress: bool = True,
    of: Mapping[str, Any] | None = None,
    log_of: LogOf = UNLOGGED,
    ranks: Ranks = ALONE,
    after: Callable[[int], float] = lambda steps: 0.0,
) -> TrainingLog:
    """Train ``model`` in place and return its log, whose clock stands still while the state is saved.

    A signal that stops the program loses nothing: the step is finished and saved, as far as ``system.signals`` gives it the
    time. A kill loses at most ``save_seconds`` of training, or ``save_every`` steps.

    Args:
        batch: the training batch of a step index; must depend on nothing else. Called by another thread, ahead of time.
        folder: where the state lives, in ``folder/.state``. The last one stays there, so that a model that cannot be
            saved need not be trained again: the cache deletes it with its other scratch when the stage is complete.
        of: what else determines the training, as JSON; the state of another one is not gone on from.
        log_of: what loggers are told of it, and which.
        ranks: the processes that train together, in their process group; ``batch`` gives this one's share.
        after: called with the steps done, after each and before that is saved; the seconds that it takes are no training.

    Raises:
        TrainingFailed: the loss or, at the end, a weight is not finite, the latents have collapsed, or a policy is no better
            than the mean action.
    """
    fabric = make_fabric(device, ranks)
    optimizer = make_optimizer(model, config)
    state = folder / STATE
    log = TrainingLog()
    recipe = {"seed": seed, "steps": config.steps, **(of or {})}
    first = agreed(_resume(state, model, optimizer, log, recipe) if state.exists() else 0, device)
    wrapped, optimizer = fabric.setup(model, optimizer)
    wrapped.mark_forward_method("loss")
    wrapped.train()
    clips = config.batch_size
    follower = Follower(log_of, first, clips=clips, seconds=log.seconds, waited=log.waited, device=device)
    saved = log.seconds
    started = time.perf_counter() - saved
    bar = tqdm(total=config.steps, initial=first, desc=description, unit="step", disable=not progress, leave=False)
    waited = log.waited
    with finishing() as work, follower, Prefetch(batch, range(first, config.steps), device) as batches:
        for index, data in zip(range(first, config.steps), batches, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, index)
            step = Step(
                index,
                config.steps,
                torch.Generator().manual_seed(torch_seed(seed, "loss", index)),
                index % config.log_every == 0 or index == config.steps - 1,
            )
            with torch_stream(seed, "dropout", *ranks.address(index)):
                with phase("training: forward", device), mixed(config.precision, device):
                    loss, parts = wrapped.loss(data, step)
                with phase("training: backward", device):
                    optimizer.zero_grad()
                    fabric.backward(loss)
            with phase("training: optimiser", device):
                norm = fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
                optimizer.step()
            if isinstance(model, TrainableModule):
                with torch.no_grad():
                    model.after_step(step)
            log.waited = waited + batches.waited
            if step.log:
                values = {name: float(value.detach()) for name, value in {"loss": loss, **parts}.items()}
                log.add(index, averaged(values, device))
                log.seconds = time.perf_counter() - started
                rate = optimizer.param_groups[0]["lr"]
                follower.point(log.columns, log.seconds, log.waited, learning_rate=rate, gradient_norm=norm)
                bar.set_postfix(_shown(log))
                _watch(log, index, config)
            bar.update()
            if index + 1 == config.steps:
                require_trained(model)  # no loss has seen what the last step did
            status.at(index + 1, config.steps)
            started += after(index + 1)
            if (work.asked() or config.saves(index + 1, time.perf_counter() - started - saved)) and ranks.leads:
                log.seconds = saved = time.perf_counter() - started
                with phase("training: saving states"):
                    _save(state, index + 1, model, optimizer, log, recipe)
                started = time.perf_counter() - saved
            work.stop()
    bar.close()
    if (phases := timed()) is not None:
        phases.add("training: waiting for data", log.waited - waited)
    if config.on_collapse == "fail":
        raise_if_mean_action(log.columns)
    model.eval()
    return log


def _shown(log: TrainingLog) -> dict[str, str]:
    """The last logged values beside the loss, and the share of the time that went by in waiting for data."""
    shown = {n: v[-1] for n, v in log.columns.items() if n not in ("step", "loss") and v[-1] is not None}
    waiting = {"waiting": f"{100 * log.waited / log.seconds:.0f}%"} if log.seconds else {}
    return {name: f"{value:.3g}" for name, value in shown.items()} | waiting


def _watch(log: TrainingLog, index: int, config: TrainConfig) -> None:
    if log.columns["loss"][-1] is None:
        raise TrainingFailed(f"the loss is not a finite number at step {index}; try a lower train.learning_rate")
    if config.on_collapse == "continue":
        return
    raise_if_collapsed({name: log.columns.get(name, [])[-PATIENCE:] for name in ("step", "latent_std")})


def raise_if_collapsed(columns: Mapping[str, Sequence[float | None]]) -> None:
    """Raise a TrainingFailed where a log's latents first hardly vary for ``PATIENCE`` logged steps in a row."""
    in_a_row = 0
    for step, std in zip(columns["step"], columns.get("latent_std", ()), strict=False):
        in_a_row = in_a_row + 1 if std is not None and std < COLLAPSED_STD else 0
        if in_a_row == PATIENCE:
            raise TrainingFailed(
                f"the latents collapsed (standard deviation {std:.4f} < {COLLAPSED_STD} at step {step}); "
                "raise the weight of what keeps them apart (sigreg_weight of lewm) or lower train.learning_rate"
            )


def raise_if_mean_action(columns: Mapping[str, Sequence[float | None]]) -> None:
    """Raise a TrainingFailed where a log ends with a policy that acts no better than the mean action does."""
    left = policy_error(columns)
    if left > 1 - LEARNED:
        raise TrainingFailed(
            f"the policy never left the mean action (at the end its error is {100 * left:.1f} % of the mean action's, "
            f"learned is below {100 * (1 - LEARNED):.0f} %); train longer (train.steps), change train.learning_rate, "
            "or keep it with train.on_collapse=continue"
        )


def policy_error(columns: Mapping[str, Sequence[float | None]]) -> float:
    """A policy's error in the last fifth of a log over that of the mean action on the same batches.

    Sums of both, so that a batch weighs as its error does. NaN for what is no policy, and for less than ``PATIENCE`` logged
    steps.
    """
    own = columns.get("policy", columns.get("action_error", ()))
    pairs = [
        (a, b) for a, b in zip(own, columns.get("mean_action", ()), strict=False) if a is not None and b is not None
    ]
    if len(pairs) < PATIENCE:
        return math.nan
    last = pairs[-max(PATIENCE, len(pairs) // 5) :]
    total = sum(mean for _, mean in last)
    return sum(error for error, _ in last) / total if total > 0 else math.nan


def _save(
    state: Path, index: int, model: nn.Module, optimizer: torch.optim.Optimizer, log: TrainingLog, recipe: Recipe
) -> None:
    """Write step ``index`` beside the older state, then point to it; a kill in between leaves the older one valid."""
    folder = state / f"step-{index}"
    save_tensors(folder / "model.safetensors", model.state_dict())
    moments = {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    save_tensors(folder / "optimizer.safetensors", moments)
    content = {"step": index, "columns": log.columns, "seconds": log.seconds, "waited": log.waited, "of": recipe}
    write_text(state / "state.json", json.dumps(content))
    for old in state.glob("step-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def _resume(state: Path, model: nn.Module, optimizer: torch.optim.Optimizer, log: TrainingLog, recipe: Recipe) -> int:
    """Restore the last saved step and return it; an unreadable state starts the training again, with a warning."""
    try:
        content = read_model(state / "state.json", TrainingRecord, "delete it")
        if content.of != recipe:
            raise ValueError("it is of another training")
        index, columns, seconds = content.step, content.columns, content.seconds
        folder = state / f"step-{index}"
        tensors = load_tensors(folder / "model.safetensors")
        moments = _moments(load_tensors(folder / "optimizer.safetensors"))
        load_strict(model, tensors, str(folder))
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        logger.warning("the saved training state in %s is unreadable (%s); training starts again", state, error)
        return 0
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    log.columns, log.seconds, log.waited = columns, seconds, content.waited
    logger.info("training goes on at step %d", index)
    return index


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state per parameter from the tensors that ``_save`` wrote."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        entries.setdefault(int(number), {})[key] = value
    return entries
