"""The page of a run: which sections it has, in which order, for someone who has never heard of LeWM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.formatting import short
from lewm_bench.report.agents import Agents, is_ablation, parts_of, settings_text
from lewm_bench.report.caption import INTERVALS, caption, protocols
from lewm_bench.report.commands import OPTIONS, join_command
from lewm_bench.report.diagnosis import below, in_codes, told_of
from lewm_bench.report.figures.captions import captions
from lewm_bench.report.html import (
    Section,
    bullets,
    colour_dot,
    command_line,
    configs,
    download_links,
    html_figure,
    html_page,
    html_section,
    html_table,
    paragraph,
)
from lewm_bench.report.rankings import LEARNS, Contest, compared, ranking
from lewm_bench.report.tables.across import across_rows
from lewm_bench.report.tables.horizon import HORIZON, horizon_tables
from lewm_bench.report.tables.line import Line, one_group
from lewm_bench.report.tables.pareto import PARETO, pareto_tables
from lewm_bench.report.tables.planning_time import PUBLISHED_NOTE, planning_time_rows
from lewm_bench.report.tables.results import GROUPS, View, command, reached, views
from lewm_bench.report.tables.solvers import SOLVERS, solver_tables
from lewm_bench.report.text import csv_text, number, offset_name, ratio
from lewm_bench.report.video import videos

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


INTRODUCTION = (
    "A world model learns from recorded images how a world reacts to actions. It can then plan: it is shown a picture "
    "of how things should look, imagines many action sequences, and executes the one whose imagined end comes nearest "
    "to that picture. No reward is ever given. This page compares such models, and agents that learn or do other "
    "things, on the same tasks: from the same starts, to the same goal images, with the same time to act."
)


FEW = 4  # sentences below a paragraph that may stand open: with more of them the tables are out of sight


MAIN_FIGURES = ("success.png", "ablation.png")


def render(summary: Summary, figures: Mapping[str, bytes], folder: Path, extra: Sequence[Section] = ()) -> str:
    """The page; ``figures`` maps file names to PNG bytes, videos are looked up in ``folder``."""
    under = captions(summary)
    shown = {name: html_figure(png, under.get(name, name)) for name, png in figures.items()}
    main = next((name for name in MAIN_FIGURES if name in shown), "")
    task, failed = (
        html_figure(figures[name], under[name], "picture task") if shown.pop(name, "") else ""
        for name in ("paths.png", "failures.png")
    )
    sections = {
        "In short": task + _in_short(summary),
        **({"How far ahead": shown.pop("horizon.png", "") + ranges} if (ranges := _ranges(summary)) else {}),
        **({"Which planner": shown.pop("pareto.png", "") + planners} if (planners := _planners(summary)) else {}),
        "Results": shown.pop(main, "") + _results(summary),
    }
    folded = {
        "What is compared": _compared(summary),
        "How it was measured": _measured(summary),
        "Across environments": _across(summary),
        "Solvers": _solvers(summary),
        "Planning time": _planning_time(summary),
        "Figures": "".join(shown.values()),
        "Failures": failed,
    }
    end = {
        "Videos": videos(summary, folder),
        "What was not run": _not_run(summary),
        "Reproduce": _reproduce(summary),
    }
    added = {section.title: html_section(section) for section in extra}
    hidden = {*folded, *end, *(section.title for section in extra if section.folded)}
    return html_page(summary.title, {**sections, **folded, **added, **end}, hidden)


def excerpt(summary: Summary, figure: bytes | None) -> str:
    """What of a page a notebook shows: title, verdict, a table for each environment and offset, and a figure as PNG."""
    parts = [f"<h3>{escape(summary.title)}</h3>", _found(summary)]
    for view in views(summary):
        parts.append(f"<h4>{escape(view.heading)}</h4>{html_table(('Agent', *view.header), view.groups)}")
    if figure is not None:
        parts.append(html_figure(figure, captions(summary)["success.png"]))
    return "".join(parts)


def _in_short(summary: Summary) -> str:
    """What most readers come for: what was found, and every agent's success, a row per environment and offset."""
    place = ["protocol", "profile", "env", "goal_offset"]
    verdict = _found(summary)
    if not summary.table["hit"].notna().any():
        return verdict + paragraph("What was not run and why stands below.") + paragraph(INTRODUCTION)
    told_of = _told_of(summary)
    agents = _columns(told_of, summary)
    ratios = {tuple(r[place]): r for _, r in summary.ratios.iterrows() if r["agent"] == "dino-wm"}
    rows = []
    for values, part in told_of.groupby(place, sort=False, dropna=False):
        row = dict(zip(place, values, strict=True))
        shares = {r["agent"]: reached(r) for _, r in part.iterrows()}
        task = f"{short(values[2])}, {offset_name(values[3], values[0])} ({values[1]})"
        cells = [shares.get(a, "not run") for a in agents]
        lacking = {i: command(summary, {**row, "agent": agents[i]}) for i, c in enumerate(cells) if c == "not run"}
        ratio = (_ratio_cell(ratios.get(values)),) if ratios else ()
        rows.append(Line(task, (*cells, *ratio), commands=lacking))
    header = ["Task", *(f"{summary.agents.name(a).removeprefix('the ')}, %" for a in agents)]
    header += ["Plan time, DINO-WM over LeWM"] if ratios else []
    told = "How many of the goals each agent reached, in percent, with 95 % intervals in brackets:"
    return verdict + paragraph(told) + html_table(header, (("", rows),)) + paragraph(INTRODUCTION)


def _found(summary: Summary) -> str:
    """The verdict, below each paragraph what holds the agents back."""
    parts = []
    for text, contest in zip_longest(summary.verdict, summary.contests):
        parts += [paragraph(text, "verdict"), _held_back(contest, summary) if contest is not None else ""]
    return "".join(parts)


def _held_back(contest: Contest, summary: Summary) -> str:
    """A line with all codes and, open if they are few, the sentences."""
    told, lines = below(contest, summary.diagnoses), told_of(contest, summary.diagnoses)
    if not lines:
        return ""
    codes = in_codes((summary.agents.name(d.place[-1]), d.finding.code) for d in told)
    is_open = " open" if len(lines) <= FEW else ""
    inner = f"<summary>What holds each back: {escape(codes)}</summary>{bullets(map(_headed, lines))}"
    return f'<details class="part found"{is_open}>{inner}</details>'


def _headed(line: str) -> str:
    subject, text = line.split(": ", 1)
    return f"<b>{escape(subject)}:</b> {escape(text)}"


def _told_of(summary: Summary) -> pd.DataFrame:
    """The rows of the main comparison that were measured or failed."""
    measured = summary.table["hit"].notna()
    main = compared(summary.table["agent"][measured], summary.kinds)
    failed = (summary.table["status"] == "failed") & ~summary.table["agent"].map(is_ablation)
    return summary.table[(measured & summary.table["agent"].isin(main)) | failed]


def _columns(told_of: pd.DataFrame, summary: Summary) -> list[str]:
    """Agents that learn from the data by their success, privileged ones, floors; what failed behind its equals."""
    ranked = list(dict.fromkeys([*ranking(summary.contests), *told_of["agent"]]))
    blocks = {kind: place for place, kind in enumerate((*LEARNS, "privileged", "floor"))}
    learners = [a for a in ranked if summary.kinds[a] in LEARNS]
    others = sorted((a for a in ranked if a not in learners), key=lambda a: blocks[summary.kinds[a]])
    return learners + others


def _ratio_cell(row: pd.Series | None) -> str:
    if row is None:
        return ""
    tokens = f"{number(row['other_tokens'], 'd')} tokens per frame against {number(row['lewm_tokens'], 'd')}"
    return f"{ratio(row['ratio'])} ({tokens})"


def _results(summary: Summary) -> str:
    return "".join(_view(view) for view in views(summary))


def _view(view: View) -> str:
    parts = [f"<h3>{escape(view.heading)}</h3>", paragraph(view.setting.capitalize() + ".", "small")]
    parts.append(html_table(("Agent", *view.header), view.groups))
    parts.append(paragraph(view.comparisons, "small") if view.comparisons else "")
    inner = download_links(((f"{view.heading}.csv".replace(", ", "-").replace(" ", "-"), csv_text(view.rows)),))
    if view.detail_header and view.detail_groups:
        inner = html_table(("Agent", *view.detail_header), view.detail_groups) + inner
    parts.append(f'<details class="part"><summary>Behind the numbers</summary>{inner}</details>')
    notes = bullets(f"<b>{escape(agent)}</b>: {escape(note)}" for agent, note in view.notes)
    return "".join(parts) + (f'<div class="small">{notes}</div>' if notes else "")


def _compared(summary: Summary) -> str:
    parts = []
    for kind, heading in GROUPS.items():
        agents = [a for a in dict.fromkeys(summary.table["agent"]) if summary.kinds[a] == kind and not is_ablation(a)]
        if agents:
            parts.append(f"<h3>{escape(heading)}</h3>" + bullets((_described(a, summary) for a in agents), "dots"))
    varied = [a for a in dict.fromkeys(summary.table["agent"]) if is_ablation(a)]
    if varied:
        told = (
            "Ablations of an agent: a setting in the name differs from the agent itself, everything else is the same."
        )
        parts += ["<h3>Ablations</h3>", paragraph(told), bullets(_varied(varied, summary.agents), "dots")]
    return "".join(parts)


def _varied(names: Sequence[str], agents: Agents) -> Iterator[str]:
    """A line per agent with the settings of all its ablations."""
    for agent in dict.fromkeys(parts_of(name).trained for name in names):
        shown = (f"<code>{escape(settings_text(name))}</code>" for name in names if parts_of(name).trained == agent)
        yield f"{colour_dot(agents.colour(agent))}<b>{escape(agents.title(agent))}</b>: {', '.join(shown)}"


def _described(agent: str, summary: Summary) -> str:
    name = (
        f"{colour_dot(summary.agents.colour(agent))}<b>{escape(summary.labels[agent])}</b> <code>{escape(agent)}</code>"
    )
    card = summary.agents.card(agent)
    about = "; ".join(filter(None, (card.about, card.learns_from)))
    papers = ", ".join(_paper(title, number) for title, number in card.papers.items())
    told = f"{name}: {escape(about)}." if about else name
    return f"{told} {papers}" if papers else told


def _paper(title: str, number: str) -> str:
    return f'<a href="https://arxiv.org/abs/{number}">{escape(title)}</a>'


def _measured(summary: Summary) -> str:
    rules = "".join(map(paragraph, protocols(summary)))
    return rules + paragraph(INTERVALS) + bullets(map(escape, caption(summary)))


def _across(summary: Summary) -> str:
    rows = across_rows(summary)
    if not rows:
        return ""
    explained = (
        "The interquartile mean leaves out the lowest and the highest quarter of the scores (one score per "
        "environment and seed), so that no single environment decides; with fewer than four scores it is the mean. "
        "Compare agents only where they share the environments."
    )
    colours = map(summary.agents.colour, summary.across["agent"])
    lines = tuple(Line(r[0], r[1:], colour) for r, colour in zip(rows[1:], colours, strict=True))
    files = (("across.csv", csv_text(summary.across)),)
    return paragraph(explained) + html_table(rows[0], (("", lines),)) + download_links(files)


def _ranges(summary: Summary) -> str:
    found = horizon_tables(summary)
    shown = (f"<h3>{escape(heading)}</h3>{html_table(rows[0], one_group(rows[1:]))}" for heading, rows in found)
    return "".join(shown) + paragraph(HORIZON, "small") if found else ""


def _planners(summary: Summary) -> str:
    found = pareto_tables(summary)
    shown = (
        f"<h3>{escape(heading)}</h3>{bullets(map(escape, told))}{html_table(rows[0], one_group(rows[1:]))}"
        for heading, told, rows in found
    )
    return "".join(shown) + paragraph(PARETO, "small") if found else ""


def _solvers(summary: Summary) -> str:
    found = solver_tables(summary)
    shown = (f"<h3>{escape(heading)}</h3>{html_table(rows[0], one_group(rows[1:]))}" for heading, rows in found)
    return paragraph(SOLVERS) + "".join(shown) if found else ""


def _planning_time(summary: Summary) -> str:
    rows = planning_time_rows(summary)
    if not rows:
        return ""
    intro = (
        "LeWM describes a frame with one vector, DINO-WM with one per image patch (tokens), so LeWM has less to compute "
        "for every imagined step. The clock covers one whole decision: encoding what is seen and searching the actions."
    )
    return paragraph(intro) + html_table(rows[0], one_group(rows[1:]), "text") + paragraph(PUBLISHED_NOTE, "small")


def _not_run(summary: Summary) -> str:
    rows = summary.table[summary.table["status"] != "done"]
    reasons: dict[tuple[str, str], list[str]] = {}
    commands: dict[tuple[str, str], dict[str, None]] = {}
    for _, r in rows.iterrows():
        place = f"{short(r['env'])}, {offset_name(r['goal_offset'], r['protocol'])}"
        reasons.setdefault((r["agent"], r["note"]), []).append(place)
        if r["status"] == "not run":
            commands.setdefault((r["agent"], r["note"]), {})[command(summary, r)] = None
    listed = [
        f"{colour_dot(summary.agents.colour(agent))}<b>{escape(summary.labels[agent])}</b> ({escape('; '.join(places))}): {escape(note)}"
        + "".join(f"<br>{command_line(command)}" for command in commands.get((agent, note), ()))
        for (agent, note), places in reasons.items()
    ]
    if not listed:
        return paragraph("Everything that was asked for was run to the end.")
    joins = sorted({join_command(cell.suite) for cell in summary.cells}) if commands else []
    together = "".join(f"<br>{command_line(command)}" for command in joins)
    told = f"<p>A report of everything, once a command above has run:{together}</p>" if joins else ""
    return bullets(listed, "dots") + told


def _reproduce(summary: Summary) -> str:
    runs = sorted({(c.suite, c.profile) for c in summary.cells})
    commands = "\n".join(f"lewm-bench run --suite {suite} --profile {profile}" for suite, profile in runs)
    parts = [
        f"<pre><code>{escape(commands)}</code></pre>",
        paragraph(OPTIONS, "small"),
        "<h3>Machines and versions</h3>",
    ]
    parts.append(bullets(escape(line) for line in caption(summary) if line.startswith(("Hard", "Vers", "Comm"))))
    return "".join([*parts, "<h3>Resolved configurations</h3>", *configs(summary.cells)])
