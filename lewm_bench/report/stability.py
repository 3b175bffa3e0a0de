"""Numbers about training itself: success per training seed, how curves end, loss terms. From cell records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from lewm_bench.core.statistics import binomial_range
from lewm_bench.report.agents import is_ablation, order, parts_of
from lewm_bench.run.records import CellRecord, Episodes

SEED_COLUMNS = (
    "protocol", "profile", "env", "goal_offset", "agent", "seed", "n_pairs", "hit", "chance_low", "chance_high",
)  # fmt: skip


def seed_scores(cells: Sequence[CellRecord]) -> pd.DataFrame:
    """The success of every trained cell, if some agent has it for two seeds or more; else no rows.

    Environments and offsets where no agent has a second seed and no training failed are left out.

    A training that failed has rows too, without pairs and with a success of NaN, at each offset of its environment.
    ``chance_low`` and ``chance_high`` hold 95 % of seeds if all have the agent's mean success and differ by chance only.
    They are binomial and so at least as wide as chance is: pairs of unequal difficulty, which all seeds share, spread
    less than a coin of their mean does.
    """
    rows = [
        (c.protocol, c.profile, c.env, o.goal_offset, c.agent, c.seed, len(own), np.mean([hit for (hit,) in own]))
        for c in cells
        if c.status == "done" and c.weights == "trained"
        for o in c.offsets
        if (own := Episodes.of(c.episodes).at(o.goal_offset, "hit"))
    ]
    table = pd.DataFrame([*rows, *_failed(cells)], columns=SEED_COLUMNS[:-2])
    main = table[[not is_ablation(a) for a in table["agent"]]] if len(table) else table
    table = (main if main["hit"].notna().any() else table).sort_values(list(SEED_COLUMNS[:6]), ignore_index=True)
    cell = ["protocol", "profile", "env", "goal_offset", "agent"]
    known = table.groupby(cell)["hit"].transform("count")
    if table.empty or known.max() < 2:
        return pd.DataFrame(columns=SEED_COLUMNS)
    telling = table.assign(telling=(known > 1) | table["hit"].isna())  # a second seed, or a training that failed
    table = table[telling.groupby(cell[:-1])["telling"].transform("any")].reset_index(drop=True)
    mean, pairs = (table.groupby(cell)[name].transform("mean") for name in ("hit", "n_pairs"))
    both = zip(mean, pairs, strict=True)
    chance = [(math.nan, math.nan) if math.isnan(p) else binomial_range(p, round(n)) for p, n in both]
    return table.assign(chance_low=[low for low, _ in chance], chance_high=[high for _, high in chance])


def _failed(cells: Sequence[CellRecord]) -> Iterator[tuple]:
    """Rows without a success of the cells that were to be trained and failed."""
    trained = {c.agent for c in cells if c.weights == "trained"}
    offsets: dict[tuple[str, str, str], set[int]] = {}
    for c in cells:
        offsets.setdefault((c.protocol, c.profile, c.env), set()).update(o.goal_offset for o in c.offsets)
    for c in cells:
        if c.status == "failed" and (c.agent in trained or c.kind in ("world model", "policy")):
            for offset in sorted(offsets[c.protocol, c.profile, c.env]):
                yield c.protocol, c.profile, c.env, offset, c.agent, c.seed, math.nan, math.nan


def ending(cell: CellRecord, quantity: str) -> float:
    """The last logged value of a quantity; NaN if there is none."""
    known = [v for v in cell.training.get(quantity, []) if v is not None]
    return known[-1] if known else float("nan")


def has_collapsed(cell: CellRecord) -> bool:
    """Whether training ended with latents that hardly vary, or was given up for that reason."""
    if cell.status == "failed":
        return "collapsed" in cell.reason
    std = ending(cell, "latent_std")
    if math.isnan(std):
        return False
    # Inside: most of what reads records does not need what trains.
    from lewm_bench.train.loop import COLLAPSED_STD

    return std < COLLAPSED_STD


def never_left_mean_action(cell: CellRecord) -> bool:
    """Whether a policy that was kept in spite of it ended no better than the mean action."""
    # Inside: most of what reads records does not need what trains.
    from lewm_bench.train.loop import LEARNED, policy_error

    return cell.status == "done" and policy_error(cell.training) > 1 - LEARNED


def untrained(cell: CellRecord) -> str:
    """What shows that a training came to nothing, in words; empty where nothing does."""
    if has_collapsed(cell):
        std = ending(cell, "latent_std")
        return "the latents collapsed" + ("" if math.isnan(std) else f" (standard deviation {std:.2g} at the end)")
    given_up = cell.status == "failed" and "never left the mean action" in cell.reason
    idle = "mean_action" in cell.training and never_left_mean_action(cell)
    return "the policy never left the mean action" if given_up or idle else ""


def training_steps(cell: CellRecord) -> int | None:
    """How many steps an agent was trained for; None for agents that do not train."""
    training = cell.config.get("agent", {}).get("train", {})
    return training.get("steps") if isinstance(training, dict) else None


def training_epochs(cell: CellRecord) -> float | None:
    """How often a training saw each of its clips, on average; None where that was not recorded or means nothing."""
    training = cell.config.get("agent", {}).get("train", {})
    steps, size = (
        (training.get(name) for name in ("steps", "batch_size")) if isinstance(training, dict) else (None, None)
    )
    return steps * size / cell.train_clips if steps and size and cell.train_clips else None


def loss_terms(cells: Iterable[CellRecord]) -> dict[str, dict[str, str]]:
    """Agent to the loss terms of its card and their names for people, with the weight where the configuration has one.

    In the order of tables; agents without settings only.
    """
    found: dict[str, dict[str, str]] = {}
    cells = sorted((c for c in cells if c.status == "done"), key=lambda c: order(c.agent, c.kind, c.card))
    for agent in dict.fromkeys(c.agent for c in cells if c.card.loss_terms and c.agent == parts_of(c.agent).base):
        own = [c for c in cells if c.agent == agent]
        logged = [t for t in own[-1].card.loss_terms if any(t in c.training for c in own)]
        if logged:
            found[agent] = {term: _named(term, own) for term in logged}
    return found


def _named(term: str, cells: Sequence[CellRecord]) -> str:
    weights = {w for c in cells if (w := c.config.get("agent", {}).get(f"{term}_weight")) is not None}
    name = term.replace("_", " ").replace("sigreg", "SIGReg")
    return f"{name}, weight {weights.pop():g}" if len(weights) == 1 else name
