"""How long a plan takes: world models with the same planner, the same plans and the same machine.

Nothing is trained: time depends on shapes. Every row runs the controller that evaluation runs, from frames to actions.

Shapes: B episodes planned together, S candidates, T frames of context, H blocks of a plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

import numpy as np
import torch
from pydantic import Field
from torch import nn
from tqdm import tqdm

from lewm_bench.agent import AgentConfig, Family, PlanningAgent, TrainedWorldModel
from lewm_bench.core.config import Config
from lewm_bench.core.errors import UserError
from lewm_bench.core.names import AskedAgent, parse_agent
from lewm_bench.core.rng import stream
from lewm_bench.core.torch_rng import torch_stream
from lewm_bench.core.types import Goals, Past
from lewm_bench.evaluation.flops import counter
from lewm_bench.evaluation.speed_record import SpeedRow
from lewm_bench.planning.config import GRADIENT_COST, Arithmetic, PlannerConfig
from lewm_bench.planning.fast.linears import Linears, Ranges, has_int8
from lewm_bench.system.checkpoint import load_card, load_weights
from lewm_bench.system.device import Stopwatch, synchronize, tf32
from lewm_bench.system.provenance import commit, hardware, versions

Mode = Literal["float32", "tf32", "bfloat16", "int8", "compile", "reference"]
ACTION_DIM = 2
SWEPT = ("num_samples", "horizon", "batch")


class SpeedConfig(Config):
    """What is timed. Networks and image size are the profile's, the planner is ``planner``."""

    methods: tuple[AskedAgent, ...] = Field(
        ("lewm", "pldm", "fast-lewm", "dino-wm", "dino-wm:reencode"),
        description="world models that are timed, the rows of the table",
    )
    modes: tuple[Mode, ...] = Field(
        (),
        description="arithmetic, torch.compile, or the plain loop (reference); empty: what the device has",
    )
    plans: int = Field(50, ge=3, description="timed plans per row, where seconds allow it")
    seconds: float = Field(
        60.0, gt=0, description="time per row; longer plans are timed in part and extrapolated, which the table says"
    )
    context: int = Field(1, ge=1, description="frames of context")
    batch: int = Field(1, ge=1, description="episodes planned together")
    image_sizes: tuple[int, ...] = Field(
        (), description="further image sizes for the curve over tokens per frame, pixels"
    )
    samples: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (75, 150, 300, 600), description="candidates in the figure of scaling"
    )
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 3, 5, 8), description="blocks planned ahead in the figure of scaling"
    )
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 5, 10), description="episodes planned together in the figure of scaling"
    )


def modes_of(device: torch.device) -> tuple[Mode, ...]:
    """What is worth timing on a device."""
    if device.type == "cuda":
        return "float32", "tf32", "bfloat16", "reference"
    return ("float32", "int8", "reference") if device.type == "cpu" and has_int8() else ("float32", "reference")


def arithmetic_of(mode: Mode) -> Arithmetic:
    """The arithmetic of a mode's matrix products."""
    return mode if mode in get_args(Arithmetic) else "float32"


@dataclass(frozen=True)
class Case:
    """One row to be."""

    method: Method
    mode: Mode
    model: nn.Module
    agent: PlanningAgent
    planner: PlannerConfig
    image_size: int
    batch: int
    context: int
    weights: str
    sweep: str = ""  # what is varied, empty for the table's rows

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the matrix products."""
        return arithmetic_of(self.mode)


FEWEST = 6  # candidates of a partly timed plan
LEAST_INT8 = 10  # iterations: a search finds its ranges in float32, so fewer would not tell what 8 bits take


@contextmanager
def _as_user_error(setting: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(f"{setting}: {error}")


@dataclass(frozen=True)
class Method:
    """An agent that is timed: how its models are built and plan."""

    name: str  # of the agent, with its variant and settings
    family: TrainedWorldModel
    config: AgentConfig

    def model(self, image_size: int, device: torch.device) -> nn.Module:
        """An untrained model, from the stream (0, "init", the agent's name)."""
        with torch_stream(0, "init", self.name), _as_user_error(f"image_size={image_size}"):
            model = self.family.build(self.config, image_size, ACTION_DIM)
        return self.ready(model, device)

    def ready(self, model: nn.Module, device: torch.device) -> nn.Module:
        """``model`` on the device, for planning alone."""
        for module in (model, *self.family.beside(model)):
            module.to(device).eval().requires_grad_(False)
        return model

    def agent(self, model: nn.Module, mode: Mode, planner: PlannerConfig, device: torch.device) -> PlanningAgent:
        """What plans with ``model`` in a mode.

        Raises:
            UserError: it has no such mode.
        """
        changed = {
            "rollout": "reference" if mode == "reference" else "fast",
            "arithmetic": arithmetic_of(mode),
            "compile": mode == "compile",
        }
        agent = self.family.agent(model, self.config, planner.model_copy(update=changed), device)
        agent.config = planner  # the budget
        return agent


def method_of(name: str, family: Family, config: AgentConfig) -> Method:
    """How an agent is timed.

    Raises:
        UserError: it is no world model that plans with our planner.
    """
    if not isinstance(family, TrainedWorldModel):
        raise UserError(
            f"{name} cannot be timed: speed is about world models that plan (lewm_bench.agent.TrainedWorldModel)"
        )
    return Method(name, family, config)


def trained(checkpoint: Path, methods: Sequence[Method], device: torch.device) -> tuple[Method, nn.Module, int]:
    """The model of a checkpoint folder, whose it is of the methods that are timed, and its image size.

    Raises:
        UserError: it is nobody's.
    """
    card = load_card(checkpoint)
    try:
        method = next((m for m in methods if m.name == parse_agent(card["agent"]).trained), None)
        if method is None:
            raise UserError(f"{checkpoint} holds {card['agent']}, which is not timed; name it in --methods")
        method = replace(method, config=type(method.config)(**card["config"]))
        model = method.family.build(method.config, card["image_size"], card["action_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint} is not a checkpoint of this version ({error!r}); train it again")
    load_weights(model, checkpoint)
    return method, method.ready(model, device), card["image_size"]


def situation(model: nn.Module, case: Case) -> tuple[Goals, Past]:
    """Random frames and actions: time does not depend on what they show."""
    rng = stream(0, "speed", case.image_size)
    side, block = case.image_size, len(model.action_scale.mean) * model.frame_skip
    frames = rng.integers(0, 256, (case.batch, case.context + 1, 3, side, side), np.uint8)
    actions = rng.standard_normal((case.batch, case.context - 1, block), np.float32)
    nothing = np.zeros((case.batch, 0))
    pictures = torch.from_numpy(frames)
    return Goals(pictures[:, -1], nothing), Past(pictures[:, :-1], torch.from_numpy(actions), nothing)


def planning_alike(agent: PlanningAgent, planner: PlannerConfig) -> PlanningAgent:
    """``agent`` with another budget."""
    alike = copy(agent)
    alike.config = planner
    return alike


def plan_once(case: Case, number: int, planner: PlannerConfig | None = None) -> tuple[float, float]:
    """Seconds of encoding and of searching of one plan of a batch of episodes."""
    agent = case.agent
    if planner is not None:
        agent = planning_alike(agent, planner)
    goals, past = situation(agent.model, case)
    rngs = [stream(0, "speed plan", number, episode) for episode in range(case.batch)]
    with Stopwatch(agent.device) as encode:
        controller = agent.start(goals, rngs)
        encoded = controller.encode(past)
    with Stopwatch(agent.device) as search:
        controller.search(encoded)
    return encode.seconds, search.seconds


def settle(case: Case, planner: PlannerConfig) -> None:
    """Have what is tried once for a shape behind us (``planning.company``), where anything is."""
    if case.agent.company is not None and case.batch > 1:
        plan_once(case, 0, planner)


def count_flops(case: Case) -> tuple[int, int]:
    """Floating-point operations of encoding and of one search, counted by torch while they run.

    A search is counted on few candidates and iterations, in each of which it is linear.
    """
    if case.mode == "int8":  # the same operations, without those that find the ranges once per search
        case = replace(case, agent=case.method.agent(case.model, "float32", case.planner, case.agent.device))
    few = 2 * GRADIENT_COST if case.planner.differentiates else 2
    counted = []
    for samples, iterations in ((few, 1), (2 * few, 1), (few, 2), (2 * few, 2)):
        small = {"num_elites": 2, "receding": 1, "num_samples": samples, "num_iterations": iterations}
        agent = planning_alike(case.agent, case.planner.model_copy(update=small))
        goals, past = situation(agent.model, case)
        settle(replace(case, agent=agent), agent.config)
        with counter() as encode:
            controller = agent.start(goals, [stream(0, "flops")] * case.batch)
            encoded = controller.encode(past)
        with counter() as search:
            controller.search(encoded)
        counted.append(search.get_total_flops())
    one, two = counted[:2], counted[2:]  # iterations; each of few candidates and of twice as many
    all_few, all_many = (a + (case.planner.num_iterations - 1) * (b - a) for a, b in zip(one, two, strict=True))
    return encode.get_total_flops(), all_few + (all_many - all_few) * (case.planner.num_samples - few) // few


def gemm_peak(arithmetic: Arithmetic, device: torch.device) -> float:
    """Operations per second of the fastest of several large matrix products in an arithmetic."""
    size = 8192 if device.type == "cuda" else 2048
    x = torch.ones(size, size, device=device)
    products: list[Callable[[], Any]] = [lambda: x @ x]
    if arithmetic != "float32":
        layer, ranges = Linears(arithmetic, device).linear(x, None), Ranges()
        layer(x[:2], ranges)
        ranges.watching = False
        products = [lambda: layer(x, ranges)]
    if device.type == "cpu" and arithmetic == "float32":
        layer = Linears("float32", device).linear(x, None)
        products.append(lambda: layer(x, Ranges()))
    best = float("inf")
    with torch.inference_mode(), tf32(arithmetic == "tf32"):
        for _ in range(8):
            for product in products:
                synchronize(device)
                begin = time.perf_counter()
                product()
                synchronize(device)
                best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


@dataclass(frozen=True)
class Share:
    """How much of a plan is timed, and how often."""

    planner: PlannerConfig
    plans: int

    def factor(self, whole: PlannerConfig) -> float:
        """What the search time is multiplied by."""
        return whole.work / self.planner.work


def share(case: Case, config: SpeedConfig) -> Share:
    """All of it where ``config.seconds`` allow at least three plans; else fewer iterations, then fewer candidates."""
    whole = case.planner
    one = whole.model_copy(update={"num_iterations": 1})
    samples = max(FEWEST, whole.num_samples // 50)
    if case.mode == "compile":  # every number of candidates is compiled anew
        samples = whole.num_samples
    probe = one.model_copy(update={"num_samples": samples, "num_elites": 2})
    plan_once(case, 0, probe)
    encode, search = plan_once(case, 0, probe)
    guess = search * whole.num_samples / samples  # of one iteration, from above where calls cost more than arithmetic
    if guess < config.seconds / 10:
        settle(case, one)
        encode, guess = plan_once(case, 0, one)
    least = 4 * encode
    if (whole.num_iterations * guess + encode) * 4 <= config.seconds:
        plans = int(config.seconds / (whole.num_iterations * guess + encode))
        return Share(whole, min(config.plans, plans))
    iterations = int((config.seconds - least) / (4 * guess))
    if iterations >= 1:
        return Share(whole.model_copy(update={"num_iterations": min(iterations, whole.num_iterations)}), 3)
    samples = max(FEWEST, int(whole.num_samples * max(config.seconds - least, 0.0) / (4 * guess)))
    return Share(one.model_copy(update={"num_samples": min(samples, whole.num_samples), "num_elites": 2}), 3)


class Settings(Protocol):
    """What of a suite's settings says what is timed."""

    @property
    def image_size(self) -> int: ...
    @property
    def speed(self) -> SpeedConfig: ...
    @property
    def planner(self) -> PlannerConfig: ...


COMPARED = ("lewm", "dino-wm")  # whose times are also taken at other image sizes and budgets


def cases(
    settings: Settings, methods: Sequence[Method], device: torch.device, checkpoint: Path | None
) -> Iterator[Case]:
    """Every row: the table's, then those of the sweeps."""
    config, planner = settings.speed, settings.planner
    modes = config.modes or modes_of(device)
    if planner.differentiates:
        if set(config.modes) - {"reference"}:
            raise UserError(
                f"the solver {planner.solver} differentiates the plain loop; time it with --dtype reference"
            )
        modes = ("reference",)
    sizes = tuple(dict.fromkeys([settings.image_size, *config.image_sizes]))
    ready = None if checkpoint is None else trained(checkpoint, methods, device)
    if ready is not None and ready[2] not in sizes:
        raise UserError(f"no row can use the checkpoint: time it at its image size, --set image_size={ready[2]}")
    for size in sizes:
        for method in methods:
            extra = size != settings.image_size  # for the curve over tokens: the fast path of the two that it compares
            if extra and method.name not in COMPARED:
                continue
            given = ready is not None and method.name == ready[0].name and size == ready[2]
            own, model = ready[:2] if given else (method, method.model(size, device))
            common = {"image_size": size, "context": config.context, "weights": "trained" if given else "random"}
            for mode in modes[:1] if extra else modes:
                if has_mode(own, model, mode, planner, device, asked=mode in config.modes):
                    agent = own.agent(model, mode, planner, device)
                    yield Case(own, mode, model, agent, planner, batch=config.batch, **common)
            if extra or not is_swept(method, config):
                continue
            for name, values in zip(SWEPT, (config.samples, config.horizons, config.batches), strict=True):
                for value in values:
                    changed, batch = swept(planner, config.batch, name, value)
                    agent = own.agent(model, modes[0], changed, device)
                    yield Case(own, modes[0], model, agent, changed, batch=batch, sweep=name, **common)


def is_swept(method: Method, config: SpeedConfig) -> bool:
    """Whether a method is in the figure of scaling: the two that are compared, and whoever was asked for by name."""
    return method.name in COMPARED or method.name not in type(config).model_fields["methods"].default


def has_mode(
    method: Method, model: nn.Module, mode: Mode, planner: PlannerConfig, device: torch.device, asked: bool
) -> bool:
    """Whether a method plans in a mode; a refusal is raised where the mode was asked for by name."""
    try:
        method.agent(model, mode, planner, device)
    except UserError:
        if asked:
            raise
        return False
    return True


def swept(planner: PlannerConfig, batch: int, name: str, value: int) -> tuple[PlannerConfig, int]:
    """Planner and batch with one of the quantities that are varied; what depends on it follows."""
    if name == "batch":
        return planner, value
    follows = ("receding", planner.receding) if name == "horizon" else ("num_elites", planner.num_elites)
    return planner.model_copy(update={name: value, follows[0]: min(follows[1], value)}), batch


def measure(
    settings: Settings,
    methods: Sequence[Method],
    profile: str,
    device: torch.device,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> list[SpeedRow]:
    """Time everything, in turns: a machine that becomes slower becomes slower for every row."""
    config: SpeedConfig = settings.speed
    short = config.model_copy(update={"seconds": config.seconds / 4, "plans": min(config.plans, 10)})
    todo, shares, flops = [], [], []
    for case in tqdm(list(cases(settings, methods, device, checkpoint)), "prepare", disable=not progress, leave=False):
        part = share(case, short if case.sweep else config)
        if case.mode == "int8" and part.planner.num_iterations < LEAST_INT8 <= case.planner.num_iterations:
            continue
        settle(case, part.planner)
        todo.append(case)
        shares.append(part)
        flops.append(count_flops(case) if case.mode != "compile" else (None, None))
    arithmetics = dict.fromkeys(case.arithmetic for case in todo)
    peaks = {arithmetic: gemm_peak(arithmetic, device) for arithmetic in arithmetics}
    turns = sorted(((k + 0.5) / s.plans, i, k) for i, s in enumerate(shares) for k in range(s.plans))
    times: list[list[tuple[float, float]]] = [[] for _ in todo]
    for _, i, k in tqdm(turns, "plans", disable=not progress, leave=False):
        times[i].append(plan_once(todo[i], k, shares[i].planner))
    peaks = {arithmetic: max(peaks[arithmetic], gemm_peak(arithmetic, device)) for arithmetic in arithmetics}
    about = {"versions": versions(), "hardware": hardware(device), "commit": commit(), "profile": profile}
    return [
        row(case, s, seconds, counted, peaks[case.arithmetic], about)
        for case, s, seconds, counted in zip(todo, shares, times, flops, strict=True)
    ]


def row(
    case: Case,
    measured: Share,
    seconds: Sequence[tuple[float, float]],
    flops: tuple[int | None, int | None],
    peak: float,
    about: Mapping[str, Any],
) -> SpeedRow:
    """The record of one case."""
    model, factor = case.model, measured.factor(case.planner)
    modules = {model, *case.method.family.beside(model)}
    counted = sum(p.numel() for p in {p for module in modules for p in module.parameters()})
    return SpeedRow(
        method=case.method.name,
        label=case.method.family.label(model, case.method.config),
        card=case.method.family.card,
        mode=case.mode,
        solver=case.planner.solver,
        image_size=case.image_size,
        tokens_per_frame=model.tokens_per_frame,
        parameters=counted,
        batch=case.batch,
        context=case.context,
        num_samples=case.planner.num_samples,
        num_iterations=case.planner.num_iterations,
        horizon=case.planner.horizon,
        timed_samples=measured.planner.num_samples,
        timed_iterations=measured.planner.num_iterations,
        encode_seconds=tuple(e for e, _ in seconds),
        search_seconds=tuple(s * factor for _, s in seconds),
        encode_flops=flops[0],
        search_flops=flops[1],
        peak_flops=peak,
        weights=case.weights,
        sweep=case.sweep,
        **about,
    )
