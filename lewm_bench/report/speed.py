"""The files of a folder of timings: tables, figures and the page, from ``SpeedRow``s alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from lewm_bench.core.errors import UserError
from lewm_bench.evaluation.speed_record import SpeedRow, save_speed
from lewm_bench.report.agents import Agents
from lewm_bench.report.agents import title as agent_title
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.figures.speed import scaling, speedup
from lewm_bench.report.html import Section, assemble, html_table, paragraph
from lewm_bench.report.tables.line import one_group
from lewm_bench.report.tables.markdown import md
from lewm_bench.report.tables.planning_time import PUBLISHED_NOTE as QUOTED
from lewm_bench.report.tables.speed import (
    HEADER,
    PLANS,
    PUBLISHED,
    TOGETHER,
    build_table,
    groups,
    reader_rows,
    together_rows,
)
from lewm_bench.report.text import csv_text, hardware_line
from lewm_bench.system.files import write_bytes, write_text

EXPLAINED = (
    "Every row runs what evaluation runs: encode the context and the goal image, search with the cross-entropy method, "
    "with the same numbers of candidates, iterations and blocks. Every row is warmed up first; the rows then take turns, "
    "so that a machine that becomes slower does so for all of them. Times are per plan of one batch of episodes. "
    "The speed-up is the median plan time of DINO-WM (encoded once) over the row's, in the same arithmetic, image size "
    "and batch. GFLOP are counted by torch while a search runs. The share of the peak is that of the search, against the "
    "fastest large matrix product in the same arithmetic on the same machine. Where a plan takes too long, fewer "
    "iterations or candidates are timed and the search time is multiplied: 'extrapolated' says how many were timed. "
    "8 bits are left out where fewer than 10 iterations can be timed, since a search finds its ranges in float32. "
    "'Plain loop' computes the same without any of the shortcuts (docs/speed.md). 8 bits round the numbers; that the "
    "ranking of candidates survives is measured there too. Success rates never come from untrained weights."
)


TOGETHER_NOTE = (
    f"{PLANS} plans in groups of so many episodes, from the median time of one group; and their share of the time of "
    "plans made one after another."
)


PUBLISHED_NOTE = QUOTED.replace("The last row is quoted", "The last two rows of a table are quoted")


FIGURES = {
    "speedup.png": "How long one plan takes (median and quartiles, log scale), and how DINO-WM's time over LeWM's grows "
    "with the tokens that it has per frame. Hollow: extrapolated.",
    "scaling.png": "How the time of one plan grows with the number of candidates, the blocks planned ahead and the "
    "episodes planned together, all else equal. Dashed: proportional to the first point. Hollow: extrapolated.",
}


DRAWN = {"speedup.png": speedup, "scaling.png": scaling}


def write_speed_report(rows: Sequence[SpeedRow], folder: Path, title: str, records: bool = True) -> pd.DataFrame:
    """Write tables, figures, ``report.html`` and, if asked, ``records`` into ``folder``; return the numbers.

    Raises:
        UserError: there are no rows.
    """
    if not rows:
        raise UserError("there is nothing to report; run `lewm-bench speed` first")
    table = build_table(rows)
    if records:
        save_speed(rows, folder)
    write_text(folder / "table.csv", csv_text(table))
    write_text(folder / "table.md", markdown(table, rows, title))
    swept, agents = table["sweep"] != "", Agents.of(rows)
    there = {"speedup.png": (~swept).any(), "scaling.png": swept.any()}
    figures = {name: png(draw(table, agents)) for name, draw in DRAWN.items() if there[name]}
    for name in DRAWN.keys() - figures.keys():  # a figure of an earlier report that no longer has data would deceive
        (folder / name).unlink(missing_ok=True)
    for name, data in figures.items():
        write_bytes(folder / name, data)
    write_text(folder / "report.html", html(table, rows, figures, title))
    return table


GIVEN = "Options that were given (--methods, --samples, --set and others) are no part of this line; what was timed is in the tables."


def caption(rows: Sequence[SpeedRow]) -> list[str]:
    """What must stand beside the numbers."""
    hardware = sorted({hardware_line(r.hardware) for r in rows})
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in rows})
    commits = sorted({r.commit for r in rows} - {""})
    timed = {agent_title(r.method, r.card): r.card.about for r in rows}
    lines = {
        "Timed": "; ".join(f"{name}: {about}" for name, about in timed.items() if about),
        "Hardware": "; ".join(hardware),
        "Versions": "; ".join(versions),
        "Commit": ", ".join(commits),
    }
    return [f"{name}: {text}." for name, text in lines.items() if text]


def markdown(table: pd.DataFrame, rows: Sequence[SpeedRow], title: str) -> str:
    """``table.md``."""
    parts = [f"# {md(title)}", "\n".join(f"- {md(line)}" for line in caption(rows))]
    for heading, part in groups(table):
        parts += [f"## {md(heading)}", _md_table(HEADER, (*reader_rows(part), *PUBLISHED))]
    if together := together_rows(table):
        parts += ["## Episodes planned together", _md_table(TOGETHER, together), TOGETHER_NOTE]
    return "\n\n".join([*parts, EXPLAINED, PUBLISHED_NOTE]) + "\n"


def excerpt(table: pd.DataFrame, title: str) -> str:
    """What of the page a notebook shows: the title and the tables."""
    parts = [f"<h3>{escape(title)}</h3>"]
    for heading, part in groups(table):
        parts.append(f"<h4>{escape(heading)}</h4>{html_table(HEADER, one_group((*reader_rows(part), *PUBLISHED)))}")
    return "".join([*parts, paragraph(PUBLISHED_NOTE)])


def _md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(header), " | ".join(["---"] + ["---:"] * (len(header) - 1))]
    lines += [" | ".join(map(md, cells)) for cells in rows]
    return "\n".join(f"| {line} |" for line in lines)


def html(table: pd.DataFrame, rows: Sequence[SpeedRow], figures: dict[str, bytes], title: str) -> str:
    """The page, which needs nothing else."""
    sections = []
    for i, (heading, part) in enumerate(groups(table), 1):
        first = part.iloc[0]
        name = f"{i}. {first['profile']}, {first['image_size']} px"
        files = ((f"speed-{i}.csv", csv_text(part)),)
        sections.append(Section(name, heading, rows=(HEADER, *reader_rows(part), *PUBLISHED), files=files))
    if together := together_rows(table):
        sections.append(Section("Episodes planned together", TOGETHER_NOTE, rows=(TOGETHER, *together)))
    sections.append(Section("How it was measured", f"{EXPLAINED} {PUBLISHED_NOTE}", folded=True))
    sections.append(Section("Figures", figures=tuple((data, FIGURES[name]) for name, data in figures.items())))
    commands = "\n".join(f"lewm-bench speed --profile {name}" for name in dict.fromkeys(r.profile for r in rows))
    items = "".join(f"<li>{escape(line)}</li>" for line in caption(rows))
    return assemble(
        title,
        sections,
        {"Reproduce": f"<pre><code>{escape(commands)}</code></pre>{paragraph(GIVEN, 'small')}<ul>{items}</ul>"},
    )
