"""Agent families: how an agent of one name is configured, trained, stored and loaded; and planning with world models.

A family is the unit of registration. The runner asks it to ``train`` (if it trains) and to ``load``; what it gets
back acts through the small ``Agent`` and ``Controller`` protocols of ``lewm_bench.core.types``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from lewm_bench.core.card import Card
from lewm_bench.core.config import Config, deep_merge
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.names import parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.search_space import Dimension
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Agent, WorldModel
from lewm_bench.data.format import Dataset
from lewm_bench.planning.agent import Embed, PlanningAgent, default_rollout
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import BeginRollout, Objective, plain_rollout
from lewm_bench.system.checkpoint import load_weights, save_checkpoint
from lewm_bench.system.filenames import file_stem
from lewm_bench.system.store import Store, stage_key
from lewm_bench.train.keeping import NOTHING_KEPT, Keeping
from lewm_bench.train.logs import NOWHERE, UNLOGGED, LogOf, LogTo
from lewm_bench.train.loop import FREE, TrainableModule, TrainConfig, TrainingLog, train
from lewm_bench.train.ranks import ALONE, Ranks, require_divided, require_global_statistics, together


class AgentConfig(Config):
    """What every agent has; the defaults are the LeWM paper's."""

    frame_skip: int = Field(5, ge=1, description="environment steps per action block")
    history: int = Field(3, ge=1, description="frames of context, frame_skip environment steps apart")
    data: float = Field(
        1.0, gt=0, le=1, description="share of the training episodes that it learns from: the first ones"
    )
    train: TrainConfig = Field(TrainConfig(), description="optimisation")


C = TypeVar("C", bound=AgentConfig)


@dataclass(frozen=True)
class Setting(Generic[C]):
    """Everything that determines one agent in one cell."""

    env: GoalEnv
    env_id: str
    agent: str  # the registered name, with its variant
    dataset: Dataset
    dataset_key: str
    config: C
    planner: PlannerConfig
    seed: int
    device: torch.device
    store: Store
    progress: bool = False
    outside: str = ""  # checksum of weights that come from outside the cache
    keeping: Keeping = NOTHING_KEPT  # of its training, on the way
    log_to: LogTo = NOWHERE  # the loggers that follow its training
    ranks: Ranks = ALONE  # the processes that train the agent together

    @property
    def image_size(self) -> int:
        return int(self.env.observation_space.shape[0])

    @property
    def action_dim(self) -> int:
        return int(self.env.action_space.shape[0])

    @property
    def own(self) -> slice:
        """This process's share of a training batch."""
        return self.ranks.share(self.config.train.batch_size)


@dataclass(frozen=True)
class Loaded:
    """An agent ready to act, and what a table says of it."""

    agent: Agent
    label: str
    weights: Literal["trained", "random", "pretrained", "none"] = "none"
    parameters: int | None = None
    tokens_per_frame: int | None = None
    model: WorldModel | None = None
    note: str = ""
    embed: Embed | None = None  # where distances are about more than ``model.encode``
    objective: Objective | None = None  # where plans cost something else than the latent distance to the goal


class Family(ABC):
    """One registered name."""

    Config: ClassVar[type[AgentConfig]] = AgentConfig
    card: Card = Card()  # what people are told of it, and how figures draw it
    kind: ClassVar[Literal["world model", "policy", "privileged", "floor"]]
    trainable: ClassVar[bool] = False
    shares_batches: ClassVar[bool] = False
    """Whether several processes can train it, each with its share of every batch: its batches take ``setting.own``, and
    its loss is a mean over samples, or exchanges what it needs of the others' (``lewm_bench.train.ranks``)."""
    plans: ClassVar[bool] = False  # searches with the CEM, whose settings then belong to its results
    keeps: ClassVar[bool] = True  # trains by ``train_module``, which can keep checkpoints on the way
    schema: ClassVar[int] = 1  # raise it when the code changes what a config trains to
    planning_only: ClassVar[tuple[str, ...]] = ()  # settings that change plans and not weights
    seeds_share: ClassVar[bool] = False  # a training makes stages that those of other seeds read, such as an encoder
    rehearsal: ClassVar[Mapping[str, Any]] = {"train": {"steps": 4, "batch_size": 8, "on_collapse": "continue"}}
    """Settings with which a training takes a moment, for `lewm-bench check`."""
    search_space: ClassVar[tuple[Dimension, ...]] = ()  # what `lewm-bench tune` looks for

    def configure(self, overrides: dict, variant: str | None) -> AgentConfig:
        """The config of ``name`` or ``name:variant``.

        Raises:
            UserError: the family has no variants.
        """
        if variant is not None:
            raise UserError(f"this agent has no variants, got {variant!r} behind the colon")
        return self.Config(**deep_merge(self.Config().model_dump(), overrides))

    def requirements(self, setting: Setting) -> None:  # noqa: B027, most families need nothing
        """Raise ``NotRun`` if this agent cannot run here, saying what to do; called before anything expensive."""

    def training_clips(self, setting: Setting) -> int:
        """How many different clips a training draws from, of which ``train.epochs`` counts passes.

        Raises:
            UserError: passes over the data mean nothing for this agent.
        """
        raise UserError(f"{setting.agent} counts training steps, not passes over the data; set train.steps")

    def outside(self, setting: Setting) -> str:
        """Checksum of weights from elsewhere that training builds upon, "" without any: others make another agent."""
        return ""

    def prepare(self, setting: Setting) -> None:  # noqa: B027, most families need nothing
        """Make, in the store, what training builds upon beside the data; called before several processes train."""

    def train(self, setting: Setting, folder: Path) -> TrainingLog:
        """Train and leave a checkpoint in ``folder``, going on from what an interrupted call left there.

        Where several processes train (``setting.ranks``) each calls this with the same folder, and the first one writes.
        """
        raise UserError("this agent does not train")

    @abstractmethod
    def load(self, setting: Setting, checkpoint: Path | None) -> Loaded:
        """The agent, from its checkpoint folder if it trains."""


def load_agent(family: Family, setting: Setting, checkpoint: Path | None) -> Loaded:
    """What a family loads, held to its contract.

    Raises:
        UserError: it is something else.
    """
    loaded = family.load(setting, checkpoint)
    if not isinstance(loaded, Loaded):
        raise UserError(f"{setting.agent}: load returned {short_repr(loaded)}, not a lewm_bench.agent.Loaded; mend it")
    if not isinstance(loaded.label, str) or not isinstance(loaded.note, str):
        raise UserError(f"{setting.agent}: the label and the note that load returns must be text; mend them")
    agent = loaded.agent
    if not isinstance(agent, Agent):
        raise UserError(f"{setting.agent}: {short_repr(agent)} has no history, frame_skip or start; mend its class")
    for name, value in (("history", agent.history), ("frame_skip", agent.frame_skip)):
        if not isinstance(value, int) or value < 1:
            raise UserError(
                f"{setting.agent}: its {name} must be a whole number from 1, got {short_repr(value)}; mend it"
            )
    return loaded


def train_module(
    setting: Setting, model_of, batch, folder: Path, finish: Callable[[nn.Module], None] | None = None
) -> TrainingLog:
    """Initialise a module from the setting's seed, train it, and save its checkpoint.

    Args:
        model_of: makes the module; called with weights drawn from the stream (seed, "init", the agent's name without variant and settings).
        batch: function of a step index.
        finish: called with the trained module before it is saved.
    """
    with torch_stream(setting.seed, "init", parse_agent(setting.agent).base):
        model = model_of()
        if isinstance(model, TrainableModule):
            model.begin_training()
    model.to(setting.device)
    ranks = setting.ranks
    if ranks.count > 1:
        require_divided(setting.config.train.batch_size, ranks.count)
        require_global_statistics(model)
    with together(ranks, setting.device):
        log = train(
            model,
            batch,
            setting.config.train,
            seed=setting.seed,
            device=setting.device,
            folder=folder,
            description=f"train {setting.agent}",
            progress=setting.progress and ranks.leads,
            of=recipe_of(setting),
            log_of=log_of(setting) if ranks.leads else UNLOGGED,
            ranks=ranks,
            after=lambda steps: setting.keeping.after(
                steps, model, lambda copy, to: save_trained(copy, setting, to, finish)
            ),
        )
    save_trained(model, setting, folder, finish)
    return log


def save_trained(
    model: nn.Module, setting: Setting, folder: Path, finish: Callable[[nn.Module], None] | None = None
) -> None:
    """Turn a module in training into what acts, and save its checkpoint; of several processes the first one saves."""
    if isinstance(model, TrainableModule):
        model.end_training()
    if finish is not None:
        finish(model)
    if setting.ranks.leads:
        save_checkpoint(folder, model, card_of(setting))


def learning(setting: Setting) -> Setting:
    """What a training is given: ``setting`` with the share of the training episodes that its config asks for.

    Everything else, start and goal pairs above all, is of the whole dataset.
    """
    share = setting.config.data
    return setting if share == 1 else replace(setting, dataset=setting.dataset.with_share(share))


def card_of(setting: Setting) -> dict:
    """What must be known to use a checkpoint without the run that made it."""
    return {
        "agent": parse_agent(setting.agent).trained,
        "config": setting.config.model_dump(mode="json"),
        "env": setting.env_id,
        "environment": setting.env.identity(),
        "image_size": setting.image_size,
        "action_dim": setting.action_dim,
        "dataset": setting.dataset_key,
        "seed": setting.seed,
        "torch": torch.__version__,
    }


def recipe_of(setting: Setting) -> dict:
    """What of a card determines the weights; how often a training is logged and saved does not."""
    card = card_of(setting)
    train = {k: v for k, v in card["config"]["train"].items() if k not in FREE}
    return {**{k: v for k, v in card.items() if k != "torch"}, "config": card["config"] | {"train": train}}


def log_of(setting: Setting) -> LogOf:
    """What loggers are told of a training; the same training has the same name and key, any other another."""
    card, key = card_of(setting), stage_key("training", recipe_of(setting))
    name = f"{file_stem(setting.env_id, card['agent'])}__seed{setting.seed}__{key[:6]}"
    told = ("agent", "env", "seed", "dataset", "image_size", "config")
    settings = {**{k: card[k] for k in told}, "device": str(setting.device)}
    return LogOf(setting.log_to, name, key, settings)


def clip_batches(setting: Setting, frames: int, frame_skip: int):
    """A function from a step index to the training clips of that step, drawn from (seed, "batch", step).

    Of several processes each reads its share.
    """
    clips = setting.dataset.clips("train", frames, frame_skip)

    def batch(index: int):
        return clips.sample(stream(setting.seed, "batch", index), setting.config.train.batch_size, setting.own)

    return batch


def ready_to_act(model: nn.Module, setting: Setting, checkpoint: Path | None) -> None:
    """Fill ``model`` from its checkpoint if it has one, put it on the device and switch training off."""
    if checkpoint is not None:
        load_weights(model, checkpoint)
    model.to(setting.device).eval().requires_grad_(False)


class TrainedWorldModel(Family):
    """A family whose agent is a module that plans in its own latent space."""

    kind = "world model"
    trainable = True
    plans = True

    @abstractmethod
    def build(self, config: Any, image_size: int, action_dim: int) -> nn.Module:
        """The untrained ``WorldModel``, from sizes alone: so it can be timed without data and environments.

        Beside what planning asks of it the module has ``loss(clip, step)``, ``tokens_per_frame``, and in ``action_scale``
        the statistics of actions (``lewm_bench.agents.parts.nets.ActionScale``).

        Args:
            config: of this family.
            image_size: pixels.
            action_dim: numbers of one environment step.
        """

    def clip_frames(self, config: AgentConfig) -> int:
        """Frames of a training clip."""
        return config.history + 1

    def label(self, model: nn.Module, config: Any) -> str:
        """Its name for people, with every substitute named; that of its card unless overridden."""
        return self.card.name

    def training_clips(self, setting: Setting) -> int:
        return len(setting.dataset.clips("train", self.clip_frames(setting.config), setting.config.frame_skip))

    def rollout(self, model: nn.Module, config: PlannerConfig) -> BeginRollout:
        """How ``model`` is rolled out while planning; families with a faster way than the plain loop override this.

        Raises:
            UserError: ``config`` asks for what only a faster way has.
        """
        return default_rollout(model, config)

    def differentiable(self, model: nn.Module) -> BeginRollout:
        """How ``model`` is rolled out for planners that want gradients."""
        return plain_rollout(model)

    def objective(self, model: nn.Module, planner: PlannerConfig) -> Objective | None:
        """What a plan costs, if something else than the latent distance to the goal that ``planner`` asks for."""
        return None

    def trained_as(self, setting: Setting) -> Setting:
        """The setting that weights are trained under; another one where variants plan differently with equal weights."""
        return setting

    def beside(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Networks that ``model`` uses and does not hold, such as a frozen encoder; they are neither trained nor saved."""
        return ()

    def agent(self, model: nn.Module, config: Any, planner: PlannerConfig, device: torch.device) -> PlanningAgent:
        """What plans with ``model``."""
        how = self.rollout(model, planner), self.differentiable(model)
        return PlanningAgent(model, planner, device, *how, objective=self.objective(model, planner))

    def train(self, setting: Setting, folder: Path) -> TrainingLog:
        setting = self.trained_as(setting)

        def build() -> nn.Module:
            model = self.build(setting.config, setting.image_size, setting.action_dim)
            model.action_scale.fit(*setting.dataset.action_statistics("train"))
            return model

        batch = clip_batches(setting, self.clip_frames(setting.config), setting.config.frame_skip)
        return train_module(setting, build, batch, folder)

    def load(self, setting: Setting, checkpoint: Path | None) -> Loaded:
        with torch_stream(setting.seed, "init", "load"):
            model = self.build(setting.config, setting.image_size, setting.action_dim)
        ready_to_act(model, setting, checkpoint)
        return Loaded(
            self.agent(model, setting.config, setting.planner, setting.device),
            self.label(model, setting.config),
            "random" if checkpoint is None else "trained",
            sum(p.numel() for p in model.parameters()),
            model.tokens_per_frame,
            model,
            arithmetic_note(setting.planner),
            objective=self.objective(model, setting.planner),
        )


def arithmetic_note(config: PlannerConfig) -> str:
    """What a table says beside a model that does not plan in float32."""
    return "" if config.arithmetic == "float32" else f"plans in {config.arithmetic}"
