"""What changed worlds do to each agent, in words and in the cells of tables. From records alone."""

from __future__ import annotations

from collections.abc import Sequence

from lewm_bench.core.statistics import METHOD_RUNS
from lewm_bench.report.agents import Agents
from lewm_bench.report.shift.tables import Loss, Tested, main
from lewm_bench.report.text import percent

Rows = tuple[tuple[str, ...], ...]


def overview(tested: Sequence[Tested], agents: Agents) -> Rows:
    """Success by level over all factors, and the factor that costs most at the strongest level; the header first."""
    levels = sorted({loss.condition.level for each in tested for loss in each.losses})
    header = ("Agent", "Trainings", *(f"level {level}" if level else "trained world" for level in levels), "Costs most")
    return header, *(_overview_row(each, agents, levels) for each in tested)


def _overview_row(tested: Tested, agents: Agents, levels: Sequence[int]) -> tuple[str, ...]:
    shown = (percent(*tested.average(level)) for level in levels)
    return agents.name(tested.first.agent), trainings(tested), *shown, _worst(tested)


def trainings(tested: Tested) -> str:
    """How many there are."""
    return "none" if tested.runs is None else str(tested.runs)


def _worst(tested: Tested) -> str:
    """The factor with the largest drop at the strongest level of each."""
    last = strongest(tested)
    worst = max((loss for loss in last if loss.drop.value > 0), key=lambda loss: loss.drop.value, default=None)
    if worst is None:
        return ""
    return f"{worst.condition.factor} {worst.condition.level}: {percent(worst.hit.value)}"


def strongest(tested: Tested) -> list[Loss]:
    """What was found at the highest level of each factor."""
    kept = {loss.condition: loss for loss in tested.losses}
    last = {condition.factor: kept[condition] for condition in main(kept)}  # levels ascend
    return list(last.values())


def drops(tested: Sequence[Tested], agents: Agents) -> Rows:
    """Success under each condition and the drop of every agent, the header first."""
    header = (
        "World", "value", "goal drawn", "pairs", *(agents.name(each.first.agent) for each in tested),
    )  # fmt: skip
    found = [{loss.condition: loss for loss in each.losses} for each in tested]
    conditions = max((each.conditions for each in tested), key=len)
    rows = []
    for condition in conditions:
        factor = next((f for each in tested if (f := each.factors.get(condition.factor))), None)
        losses = [each.get(condition) for each in found]
        counts = sorted({loss.pairs for loss in losses if loss})
        drawn = {"same": "", "changed": "changed", "trained": "as trained"}[condition.goal]
        name = f"{condition.factor} {condition.level}" if factor else "trained world"
        value = factor.values[condition.level] if factor else ""
        rows.append((name, value, drawn, " or ".join(map(str, counts)), *map(cell, losses)))
    return header, *rows


def cell(loss: Loss | None) -> str:
    """Success, and the drop with its interval: ``40.0, drop 25.0 [11.2, 38.1]*``."""
    if loss is None or not loss.pairs:
        return "not asked" if loss else ""
    if not loss.condition.factor:
        return percent(*loss.hit)
    lost = percent(loss.drop.value, loss.drop.low, loss.drop.high)
    return f"{percent(loss.hit.value)}, drop {lost}{'*' if loss.told_apart else few(loss)}"


def few(loss: Loss) -> str:
    """That a difference is one of trainings and not of methods."""
    if loss.runs is None or loss.runs >= METHOD_RUNS:
        return ""
    return " (one run)" if loss.runs == 1 else f" ({loss.runs} runs)"


def sentences(tested: Sequence[Tested], agents: Agents) -> tuple[str, ...]:
    """One for each agent; what a floor loses means nothing."""
    return tuple(sentence(each, agents) for each in tested if each.first.agent_kind != "floor")


def sentence(tested: Tested, agents: Agents) -> str:
    """What an agent survives and what not."""
    by_factor: dict[str, list[Loss]] = {}
    kept = {loss.condition: loss for loss in tested.losses}
    for condition in main(kept):
        by_factor.setdefault(condition.factor, []).append(kept[condition])
    start, since = tested.losses[0], {name: _since(losses) for name, losses in by_factor.items()}
    count = f"{start.pairs} pairs" + ("" if tested.runs is None else f", {tested.runs} {_plural(tested.runs)}")
    parts = []
    for level in sorted({level for level in since.values() if level}):
        names = [f"{name} ({_way(by_factor[name])})" for name, first in since.items() if first == level]
        parts.append(f"loses from level {level} on by {', '.join(names)}")
    gained = [name for name, first in since.items() if first is None and any(map(is_helped, by_factor[name]))]
    if gained:
        parts.append(f"reaches more by {', '.join(f'{name} ({_way(by_factor[name])})' for name in gained)}")
    spared = [name for name, first in since.items() if first is None and name not in gained]
    if spared:
        open_still = max((loss.drop.high for name in spared for loss in by_factor[name] if loss.pairs), default=None)
        left = "" if open_still is None else f" (brackets end at {percent(open_still)} points or less)"
        parts.append(f"no loss shown by {'any factor' if not parts else ', '.join(spared)}{left}")
    begin = f"{agents.name(tested.first.agent)} reaches {percent(*start.hit)} % where it was trained ({count})"
    return f"{begin}: {'; '.join(parts) or 'no other world was asked'}.".replace("_", " ")


def _since(losses: Sequence[Loss]) -> int | None:
    """The first level at which a loss is shown."""
    return next((loss.condition.level for loss in losses if is_hurt(loss)), None)


def _way(losses: Sequence[Loss]) -> str:
    """Success from level to level: ``53, 22, 7``."""
    return ", ".join("-" if not loss.pairs else f"{100 * loss.hit.value:.0f}" for loss in losses)


def is_hurt(loss: Loss) -> bool:
    """Whether a loss is shown: of what trains often enough or not at all after the correction, else by its interval."""
    return loss.drop.value > 0 and (loss.told_apart or (bool(few(loss)) and loss.drop.low > 0))


def is_helped(loss: Loss) -> bool:
    """Whether the changed world is shown to be easier, by the same rule."""
    return loss.drop.value < 0 and (loss.told_apart or (bool(few(loss)) and loss.drop.high < 0))


def _plural(runs: int) -> str:
    return "training" if runs == 1 else "trainings"
