"""``table.tex``: all tables as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lewm_bench.report.caption import caption
from lewm_bench.report.tables.across import across_rows
from lewm_bench.report.tables.line import Line, one_group
from lewm_bench.report.tables.planning_time import PUBLISHED_NOTE, planning_time_rows
from lewm_bench.report.tables.results import views
from lewm_bench.report.tables.solvers import SOLVERS, solver_tables

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


def latex(summary: Summary) -> str:
    """``table.tex``: one booktabs table per environment and offset; needs the packages booktabs and graphicx."""
    head = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"
    about = " ".join(caption(summary))
    parts = [_tex_table(("Agent", *v.header), v.groups, f"{v.heading} ({v.setting}). {v.comparisons} {about}", v.notes) for v in views(summary)]  # fmt: skip
    for rows, title in (
        *((rows, f"{heading}. {SOLVERS}") for heading, rows in solver_tables(summary)),
        (across_rows(summary), "Across environments: interquartile mean with stratified bootstrap."),
        (planning_time_rows(summary), f"Planning time against DINO-WM. {PUBLISHED_NOTE}"),
    ):
        if rows:
            parts.append(_tex_table(rows[0], one_group(rows[1:]), title, ()))
    return "\n\n".join([head, *parts]) + "\n"


def _tex_table(
    header: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Line]]],
    title: str,
    notes: Sequence[tuple[str, str]],
) -> str:
    lines = [r"\begin{table}[t]", r"\centering", r"\caption{" + _tex(title) + "}", r"\resizebox{\linewidth}{!}{%"]
    lines += [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", " & ".join(map(_tex, header)) + r" \\"]
    for name, members in groups:
        lines.append(r"\midrule")
        if name:
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\textit{{{_tex(name)}}}}} \\")
        # The empty group: a row that starts with [ would be read as the optional argument of the \\ before it.
        lines += ["{}" + " & ".join(_tex(c) for c in (line.agent, *line.cells)) + r" \\" for line in members]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if notes:
        lines.append(r"\par\smallskip\footnotesize " + " ".join(_tex(f"{a}: {n}.") for a, n in notes))
    return "\n".join([*lines, r"\end{table}"])


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "µ": r"$\mu$",
}  # fmt: skip


def _tex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    escaped = "".join(_TEX.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)
