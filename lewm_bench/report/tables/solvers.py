"""The table of solvers: the same trained model, searched by another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lewm_bench.core.formatting import seconds, short
from lewm_bench.report.ablation import SOLVER
from lewm_bench.report.text import offset_name, percent

if TYPE_CHECKING:
    from lewm_bench.report.ablation import Panel
    from lewm_bench.report.summary import Summary


SOLVERS = (
    "All solvers minimise the same cost with the same trained model. 'Plans imagined' counts the plans whose cost a search "
    "asks for; a gradient solver asks for gradients too, and gets fewer plans for that."
)


def solver_tables(summary: Summary) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Heading and rows for every agent, environment and offset where more than one solver was run."""
    return [
        (
            f"Solvers of {p.name}: {short(p.env)}, {offset_name(p.goal_offset, p.protocol)} ({p.profile})",
            solver_rows(p),
        )
        for p in summary.ablations
        if p.path == SOLVER
    ]


def solver_rows(panel: Panel) -> list[tuple[str, ...]]:
    """Header and rows of a comparison of planners."""
    header = (
        "Solver", "Reached at any step, %", "Still there at the last step, %", "Plan time, median [quartiles]",
        "Plans imagined per search", "Pairs / seeds",
    )  # fmt: skip
    rows = [
        (
            f"{p.value}{' (default)' if p.default else ''}",
            percent(*p.hit) or p.status,
            percent(*p.held),
            seconds(*p.plan_seconds),
            "" if p.plans is None else f"{p.plans:,}{', with gradients' if p.differentiates else ''}",
            f"{p.n_pairs} / {p.n_seeds}",
        )
        for p in panel.points
    ]
    return [header, *rows]
