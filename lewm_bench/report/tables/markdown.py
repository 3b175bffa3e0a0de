"""``table.md``: all tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from lewm_bench.report.caption import INTERVALS, caption, protocols
from lewm_bench.report.diagnosis import told_of
from lewm_bench.report.tables.across import across_rows
from lewm_bench.report.tables.horizon import HORIZON, horizon_tables
from lewm_bench.report.tables.line import Line, one_group
from lewm_bench.report.tables.pareto import PARETO, pareto_tables
from lewm_bench.report.tables.planning_time import PUBLISHED_NOTE, planning_time_rows
from lewm_bench.report.tables.results import views
from lewm_bench.report.tables.solvers import SOLVERS, solver_tables

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


def markdown(summary: Summary) -> str:
    """``table.md``."""
    parts = [f"# {md(summary.title)}", "\n".join(f"- {md(line)}" for line in caption(summary))]
    parts += ["What was found:", "\n".join(_found(summary))]
    for heading, rows in (far := horizon_tables(summary)):
        parts += [f"## How far ahead: {md(heading)}", _md_table(rows[0], one_group(rows[1:]))]
    parts += [HORIZON] if far else []
    for heading, told, rows in (planners := pareto_tables(summary)):
        parts += [f"## Which planner: {md(heading)}", "\n".join(f"- {md(line)}" for line in told)]
        parts.append(_md_table(rows[0], one_group(rows[1:])))
    parts += [md(PARETO)] if planners else []
    for view in views(summary):
        parts += [f"## {md(view.heading)}", md(view.setting.capitalize()) + "."]
        parts.append(_md_table(("Agent", *view.header), view.groups))
        if view.comparisons:
            parts.append(md(view.comparisons))
        if view.detail_header and view.detail_groups:
            parts.append(_md_table(("Agent", *view.detail_header), view.detail_groups))
        if view.notes:
            parts.append("\n".join(f"- **{md(agent)}**: {md(note)}" for agent, note in view.notes))
    for heading, rows in (solvers := solver_tables(summary)):
        parts += [f"## {md(heading)}", _md_table(rows[0], one_group(rows[1:]))]
    parts += [SOLVERS] if solvers else []
    if rows := across_rows(summary):
        parts += ["## Across environments", "Interquartile mean with stratified bootstrap."]
        parts.append(_md_table(rows[0], one_group(rows[1:])))
    if rows := planning_time_rows(summary):
        parts += ["## Planning time against DINO-WM", _md_table(rows[0], one_group(rows[1:])), PUBLISHED_NOTE]
    parts += ["## How to read it", *map(md, protocols(summary)), INTERVALS]
    return "\n\n".join(parts) + "\n"


def _found(summary: Summary) -> Iterator[str]:
    """The verdict, below each paragraph what holds the agents back."""
    for text, contest in zip_longest(summary.verdict, summary.contests):
        yield f"- {md(text)}"
        if contest is not None:
            yield from (f"  - {md(line)}" for line in told_of(contest, summary.diagnoses))


# What Markdown would act on. A bracket matters only before a link's target, an underscore only at a word's edge.
_MARKDOWN = re.compile(r"[\\`*|~$]|\](?=\()|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def md(text: str) -> str:
    """Text that Markdown shows as it is, inside a table too."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda found: "\\" + found[0], text)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first of which is the header, as Markdown."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(map(md, row)) + " |" for row in lines)


def _md_table(header: Sequence[str], groups: Sequence[tuple[str, Sequence[Line]]]) -> str:
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(md(c) if i == 0 else c for c in row) + " |" for i, row in enumerate(rows)]
    for name, members in groups:
        if name:
            lines.append(f"| **{md(name)}** |" + " |" * (len(header) - 1))
        lines += ["| " + " | ".join(md(c) for c in (line.agent, *line.cells)) + " |" for line in members]
    return "\n".join(lines)
