"""What must stand beside any number: protocols, intervals, training budgets, machines, versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lewm_bench.core.names import names_steps
from lewm_bench.report.agents import is_ablation
from lewm_bench.report.text import hardware_line
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


PROTOCOLS = {
    "clean-1": (
        "Protocol clean-1. Start and goal are two frames of one recorded episode that no agent was trained on, the "
        "goal a fixed number of environment steps (the offset) after the start; pairs are balanced over episodes, and "
        "pairs that are already solved at the start are removed, and counted. Every agent gets the same pairs and "
        "twice the offset in environment steps to act. 'Reached at any step' counts an episode if the agent is within "
        "the goal radius at some step, 'still there at the last step' if it is when the time is up."
    ),
    "clean-2/planning": (
        "Protocol clean-2, planning pairs. Pairs, budget and success are those of clean-1, but of the first pairs only "
        "those are kept that need a plan: always taking the next block that brings it nearest, by the true simulator and "
        "distance, does not reach the goal, and the same search along shortest ways does. No agent under test had a part in "
        "the choice."
    ),
    "clean-2/plain": (
        "Protocol clean-2, plain pairs: those of the first pairs that always taking the next block that brings it nearest "
        "solves. They need no plan."
    ),
    "horizon-1/planning": (
        "Protocol horizon-1, planning pairs: as in clean-2, but all goal offsets share one set of starts, in episodes that are "
        "long enough for the largest offset, so that from one distance to the next only the goals move. Every start is sorted at "
        "every offset; pairs that are solved at the start are left out there."
    ),
    "horizon-1/plain": (
        "Protocol horizon-1, plain pairs: of the same starts, those whose goal is reached by always taking the next block that "
        "brings it nearest. They need no plan."
    ),
    "tasks-1/planning": (
        "Protocol tasks-1, planning pairs. Starts and goals are drawn by the environment and lie in no recording; an agent sees "
        "one frame of the start and none before it. How far away a goal is says the search on the true simulator along shortest "
        "ways: by the environment steps that it takes. Every agent gets the same tasks and twice the largest of their steps to "
        "act. Of these tasks only those are kept that need a plan: always taking the next block that brings it nearest, by the "
        "true simulator and distance, does not reach the goal. No agent under test had a part in the choice."
    ),
    "tasks-1/plain": (
        "Protocol tasks-1, plain pairs: the tasks that always taking the next block that brings it nearest solves. They need no "
        "plan."
    ),
    "paper-v3": (
        "Protocol paper-v3, as published: 50 start-goal pairs drawn uniformly from the rows of the training data "
        "(generator seed 42), the goal 25 environment steps after the start, pairs already solved at the start are "
        "kept, 50 environment steps to act, one training seed. An episode counts if the goal is reached at any step."
    ),
    "paper-v3-all": (
        "Protocol paper-v3-all: paper-v3 with pairs from the rows of all episodes, those included that no agent was trained "
        "on: the rows that the released script draws from the same file."
    ),
}


INTERVALS = (
    "Brackets hold 95 % intervals. With one seed it is Wilson's and speaks about that one training run. With more it is a "
    "bootstrap over seeds and pairs, never narrower than Wilson's for as many pairs, and speaks about the method: where trainings "
    "differ by 0.3 to 0.6 logits it contains the true rate in 90 % of simulations or more (in 92 % with three seeds), Wilson's of "
    "one seed in 67 to 95 %. 'Minus LeWM' compares on identical pairs, so it can tell two agents apart whose own intervals overlap. "
    "Where a side that trains has fewer than three training seeds it compares training runs, not methods (two runs of equal "
    "methods are called different in 4 to 30 % of cases), and says so: (one run), (2 runs). Elsewhere an asterisk marks the "
    "differences that survive Holm's correction for their number, which stands under each table: 5 % chance of even one false "
    "asterisk by pairs alone, up to 8 % for one comparison where trainings differ by 0.6 logits. What does not train (floors, the "
    "oracle) needs no training seeds. "
    "The verdict names the agent that turned out best, so its differences to agents other than LeWM are corrected for all pairs "
    "of agents that learn, and to those that learn nothing for all pairs of one that does and one that does not. "
    "'Above random' is 100 (s - random) / (100 - random): 0 is what random actions reach, 100 is every pair."
)


def protocols(summary: Summary) -> list[str]:
    """What the protocols of these cells ask for, in words."""
    names = sorted({c.protocol for c in summary.cells})
    return [PROTOCOLS.get(name, f"Protocol {name}.") for name in names]


def caption(summary: Summary) -> list[str]:
    """What must stand beside any number of this report: protocol, profile, hardware, versions, substitutes."""
    done = [c for c in summary.cells if c.status == "done"]
    substitutes = [f"{a} = {n}" for a, n in sorted(summary.labels.items()) if n != a and not is_ablation(a)]
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(c.versions.items())) for c in done} - {""})
    seeds = sorted({c.seed for c in done})
    lines = {
        "Protocol": ", ".join(sorted({c.protocol for c in summary.cells})),
        "Profile": ", ".join(sorted({c.profile for c in summary.cells})),
        "Training seeds": ", ".join(map(str, seeds)),
        "Training budget": budgets(done),
        "Training times": beside(done),
        "Hardware": "; ".join(sorted({hardware_line(c.hardware) for c in done} - {""})),
        "Versions": "; ".join(versions),
        "Commit": ", ".join(sorted({c.commit for c in done} - {""})),
        "What the names stand for": "; ".join(substitutes),
    }
    return [f"{name}: {text}." for name, text in lines.items() if text]


def beside(done: Iterable[CellRecord]) -> str:
    """That trainings shared the cores, in words, so that nobody takes their times for times alone; else empty."""
    shared = [c.train_hardware for c in done if c.train_hardware.get("beside")]
    found = sorted({(int(h["beside"]) + 1, int(h["threads"])) for h in shared})
    return "; ".join(
        f"{number} trainings side by side, {threads} thread{'' if threads == 1 else 's'} each (`run --jobs 1` trains them alone)"
        for number, threads in found
    )


OWN_STEPS = "each agent its own steps"


def budgets(done: Iterable[CellRecord]) -> str:
    """The training budgets of these cells in words, and whether they are several; empty if none was ever common."""
    found = sorted({budget(c) or OWN_STEPS for c in done if shares_budget(c)})
    if found in ([], [OWN_STEPS]):
        return ""
    return f"{'NOT EQUAL: ' if len(found) > 1 else ''}{'; '.join(found)}"


def shares_budget(cell: CellRecord) -> bool:
    """What the suite says of it, read from the record: its agent may be unknown here."""
    return cell.weights == "trained" and cell.kind != "privileged" and not names_steps(cell.agent)


def budget(cell: CellRecord) -> str:
    """The training budget that all agents of a run shared, in words; empty if each had its own steps."""
    given = cell.config.get("training") or {}
    for unit, kind in (("seconds", "equal wall-clock time"), ("steps", "equal steps")):
        if (amount := given.get(unit)) is not None:
            return f"{amount:,g} {unit[0] if unit == 'seconds' else unit} of training for every agent that learns from the data ({kind})"
    return ""
