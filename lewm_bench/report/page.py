"""The report as one HTML file that needs nothing else: no network, images, videos and the data of its tables inside.

A short script sorts tables and plays films together; without it the page still shows everything. It is written for someone who has never heard of LeWM. Every text that comes from a record is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.reading import is_file, read_bytes
from lewm_bench.core.words import short
from lewm_bench.data.videos import episode_ending, still
from lewm_bench.report import tables
from lewm_bench.report.agents import Agents, is_ablation, order, parts_of, settings_text
from lewm_bench.report.commands import join_command
from lewm_bench.report.figures.captions import captions
from lewm_bench.report.rankings import LEARNS, compared, ranking
from lewm_bench.report.tables import Line, View, plain_lines
from lewm_bench.run.records import CellRecord, EpisodeRow

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary
    from lewm_bench.understand.records import UnderstandingRecord

VIDEO_BYTES = 7_500_000  # all embedded videos together, before base64 adds a third
IMAGE_TYPES = {".gif": "image/gif", ".webp": "image/webp", ".png": "image/png"}

INTRODUCTION = (
    "A world model learns from recorded images how a world reacts to actions. It can then plan: it is shown a picture "
    "of how things should look, imagines many action sequences, and executes the one whose imagined end comes nearest "
    "to that picture. No reward is ever given. This page compares such models, and agents that learn or do other "
    "things, on the same tasks: from the same starts, to the same goal images, with the same time to act."
)


@dataclass(frozen=True)
class Section:
    """A part that a suite adds to the page: plain text, tables of plain cells, figures and films with captions."""

    title: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()  # the first is the header
    figures: tuple[tuple[bytes, str], ...] = ()  # PNG of a plot, and caption
    pictures: tuple[tuple[bytes, str], ...] = ()  # PNG of frames, and caption; keep their colours in the dark
    tables: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = ()  # further ones, each with a heading
    items: tuple[str, ...] = ()  # sentences
    films: tuple[tuple[bytes, str], ...] = ()  # GIF and caption, side by side
    files: tuple[tuple[str, str], ...] = ()  # name and text of the data behind the tables, to save
    folded: bool = False  # what is behind the numbers, shown on a click


def render(summary: Summary, figures: Mapping[str, bytes], folder: Path, extra: Sequence[Section] = ()) -> str:
    """The page; ``figures`` maps file names to PNG bytes, videos are looked up in ``folder``."""
    under = captions(summary)
    shown = {name: _figure(png, under.get(name, name)) for name, png in figures.items()}
    main = next((name for name in MAIN_FIGURES if name in shown), "")
    task, failed = (
        _figure(figures[name], under[name], "picture task") if shown.pop(name, "") else ""
        for name in ("paths.png", "failures.png")
    )
    sections = {
        "In short": task + _in_short(summary),
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
        "Videos": _videos(summary, folder),
        "What was not run": _not_run(summary),
        "Reproduce": _reproduce(summary),
    }
    added = {section.title: _section(section) for section in extra}
    hidden = {*folded, *end, *(section.title for section in extra if section.folded)}
    return _page(summary.title, {**sections, **folded, **added, **end}, hidden)


def assemble(title: str, sections: Sequence[Section], end: Mapping[str, str]) -> str:
    """A page of plain sections; ``end`` holds further ones as HTML, shown on a click."""
    folded = {*end, *(section.title for section in sections if section.folded)}
    return _page(title, {**{section.title: _section(section) for section in sections}, **end}, folded)


def _page(title: str, sections: Mapping[str, str], folded: Collection[str]) -> str:
    sections = {name: html for name, html in sections.items() if html}
    template, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    return Template(template).substitute(
        title=escape(title),
        navigation=" ".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections),
        body="".join(_part(name, html, name in folded) for name, html in sections.items()),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}",
    )


def _part(name: str, html: str, folded: bool) -> str:
    """A section under its heading; a link to a folded one opens it, since it leads to what is inside."""
    if not folded:
        return f'<h2 id="{_anchor(name)}">{escape(name)}</h2>{html}'
    summary = f"<summary><h2>{escape(name)}</h2></summary>"
    return f'<details class="part section">{summary}<div id="{_anchor(name)}">{html}</div></details>'


def _section(section: Section) -> str:
    parts = [_paragraph(section.text) if section.text else ""]
    for heading, rows in (("", section.rows), *section.tables):
        parts.append(f"<h3>{escape(heading)}</h3>" if heading else "")
        parts.append(_table(rows[0], plain_lines(rows[1:]), "text") if rows else "")
    parts.append(_files(section.files))
    parts += [_figure(png, text) for png, text in section.figures]
    parts += [_figure(png, text, "picture") for png, text in section.pictures]
    parts.append(_films(_film(gif, "image/gif", text) for gif, text in section.films))
    return "".join([*parts, _items(map(escape, section.items))])


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _paragraph(text: str, css: str = "") -> str:
    return f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>"


def _items(html: Iterable[str], css: str = "") -> str:
    items = "".join(f"<li>{item}</li>" for item in html)
    return f'<ul class="{css}">{items}</ul>' if items else ""


def _in_short(summary: Summary) -> str:
    """What most readers come for: what was found, and every agent's success, a row per environment and offset."""
    place = ["protocol", "profile", "env", "goal_offset"]
    verdict = "".join(_paragraph(text, "verdict") for text in summary.verdict)
    if not summary.table["hit"].notna().any():
        return verdict + _paragraph("What was not run and why stands below.") + _paragraph(INTRODUCTION)
    told_of = _told_of(summary)
    agents = _columns(told_of, summary)
    ratios = {tuple(r[place]): r for _, r in summary.ratios.iterrows() if r["agent"] == "dino-wm"}
    rows = []
    for values, part in told_of.groupby(place, sort=False, dropna=False):
        row = dict(zip(place, values, strict=True))
        shares = {r["agent"]: tables.reached(r) for _, r in part.iterrows()}
        task = f"{short(values[2])}, {tables.offset_name(values[3], values[0])} ({values[1]})"
        cells = [shares.get(a, "not run") for a in agents]
        lacking = {
            i: tables.command(summary, {**row, "agent": agents[i]}) for i, c in enumerate(cells) if c == "not run"
        }
        ratio = (_ratio_cell(ratios.get(values)),) if ratios else ()
        rows.append(Line(task, (*cells, *ratio), commands=lacking))
    header = ["Task", *(f"{summary.agents.name(a).removeprefix('the ')}, %" for a in agents)]
    header += ["Plan time, DINO-WM over LeWM"] if ratios else []
    told = "How many of the goals each agent reached, in percent, with 95 % intervals in brackets:"
    return verdict + _paragraph(told) + _table(header, (("", rows),)) + _paragraph(INTRODUCTION)


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


MAIN_FIGURES = ("success.png", "ablation.png")


def _ratio_cell(row: pd.Series | None) -> str:
    if row is None:
        return ""
    tokens = (
        f"{tables.number(row['other_tokens'], 'd')} tokens per frame against {tables.number(row['lewm_tokens'], 'd')}"
    )
    return f"{tables.ratio(row['ratio'])} ({tokens})"


def _compared(summary: Summary) -> str:
    parts = []
    for kind, heading in tables.GROUPS.items():
        agents = [a for a in dict.fromkeys(summary.table["agent"]) if summary.kinds[a] == kind and not is_ablation(a)]
        if agents:
            parts.append(f"<h3>{escape(heading)}</h3>" + _items((_about(a, summary) for a in agents), "dots"))
    varied = [a for a in dict.fromkeys(summary.table["agent"]) if is_ablation(a)]
    if varied:
        told = "Arms of an agent: a setting in the name differs from the agent itself, everything else is the same."
        parts += ["<h3>Ablations</h3>", _paragraph(told), _items(_varied(varied, summary.agents), "dots")]
    return "".join(parts)


def _varied(names: Sequence[str], agents: Agents) -> Iterator[str]:
    """A line per agent with the settings of all its ablations."""
    for agent in dict.fromkeys(parts_of(name).trained for name in names):
        shown = (f"<code>{escape(settings_text(name))}</code>" for name in names if parts_of(name).trained == agent)
        yield f"{_dot(agents.colour(agent))}<b>{escape(agents.title(agent))}</b>: {', '.join(shown)}"


def _about(agent: str, summary: Summary) -> str:
    name = f"{_dot(summary.agents.colour(agent))}<b>{escape(summary.labels[agent])}</b> <code>{escape(agent)}</code>"
    card = summary.agents.card(agent)
    about = "; ".join(filter(None, (card.about, card.learns_from)))
    papers = ", ".join(_paper(title, number) for title, number in card.papers.items())
    told = f"{name}: {escape(about)}." if about else name
    return f"{told} {papers}" if papers else told


def _paper(title: str, number: str) -> str:
    return f'<a href="https://arxiv.org/abs/{number}">{escape(title)}</a>'


def _dot(colour: str) -> str:
    return f'<span class="dot" style="background:{colour}"></span>'


def _measured(summary: Summary) -> str:
    protocols = sorted({c.protocol for c in summary.cells})
    known = [tables.PROTOCOLS.get(p, f"Protocol {p}.") for p in protocols]
    return "".join(map(_paragraph, known)) + _paragraph(tables.INTERVALS) + _items(map(escape, tables.caption(summary)))


def _results(summary: Summary) -> str:
    return "".join(_view(view) for view in tables.views(summary))


def _across(summary: Summary) -> str:
    rows = tables.across_rows(summary)
    if not rows:
        return ""
    explained = (
        "The interquartile mean leaves out the lowest and the highest quarter of the scores (one score per "
        "environment and seed), so that no single environment decides; with fewer than four scores it is the mean. "
        "Compare agents only where they share the environments."
    )
    colours = map(summary.agents.colour, summary.across["agent"])
    lines = tuple(Line(r[0], r[1:], colour) for r, colour in zip(rows[1:], colours, strict=True))
    files = (("across.csv", tables.csv_text(summary.across)),)
    return _paragraph(explained) + _table(rows[0], (("", lines),)) + _files(files)


def _view(view: View) -> str:
    parts = [f"<h3>{escape(view.heading)}</h3>", _paragraph(view.setting.capitalize() + ".", "small")]
    parts.append(_table(("Agent", *view.header), view.groups))
    parts.append(_paragraph(view.comparisons, "small") if view.comparisons else "")
    inner = _files(((f"{view.heading}.csv".replace(", ", "-").replace(" ", "-"), tables.csv_text(view.rows)),))
    if view.detail_header and view.detail_groups:
        inner = _table(("Agent", *view.detail_header), view.detail_groups) + inner
    parts.append(f'<details class="part"><summary>Behind the numbers</summary>{inner}</details>')
    notes = _items(f"<b>{escape(agent)}</b>: {escape(note)}" for agent, note in view.notes)
    return "".join(parts) + (f'<div class="small">{notes}</div>' if notes else "")


def _files(files: Iterable[tuple[str, str]]) -> str:
    """Links that save the data; it is in the page, so they work wherever the page is."""
    links = [
        f'<a download="{escape(name)}" href="data:text/csv;base64,{base64.b64encode(text.encode()).decode("ascii")}">'
        f"{escape(name)}</a>"
        for name, text in files
    ]
    return f'<p class="small">The numbers as CSV: {", ".join(links)}</p>' if links else ""


def _table(
    header: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Line]]],
    css: str = "",
) -> str:
    """A table with a body for each group, so that groups stay together when it is sorted."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    bodies = []
    for name, lines in groups:
        rows = [f'<tr><th colspan="{len(header)}" scope="rowgroup">{escape(name)}</th></tr>'] if name else []
        for line in lines:
            dot = _dot(line.colour) if line.colour else ""
            cells = "".join(_cell(text, line.commands.get(i, "")) for i, text in enumerate(line.cells))
            rows.append(f"<tr><td>{dot}{escape(line.agent)}</td>{cells}</tr>")
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    table = f"<table><thead><tr>{head}</tr></thead>{''.join(bodies)}</table>"
    return f'<div class="scroll {css}" tabindex="0">{table}</div>'


def _cell(text: str, command: str) -> str:
    if command:
        how = f'<details><summary class="state">{escape(text)}</summary>{_paste(command)}</details>'
        return f'<td class="absent">{how}</td>'
    absent = text in ("not run", "failed") or text.endswith("(partial)")
    return f'<td class="absent">{escape(text)}</td>' if absent else f"<td>{escape(text)}</td>"


def _paste(command: str) -> str:
    return f'<code class="paste">{escape(command)}</code>'


def _solvers(summary: Summary) -> str:
    found = tables.solver_tables(summary)
    shown = (f"<h3>{escape(heading)}</h3>{_table(rows[0], plain_lines(rows[1:]))}" for heading, rows in found)
    return _paragraph(tables.SOLVERS) + "".join(shown) if found else ""


def _planning_time(summary: Summary) -> str:
    rows = tables.ratio_rows(summary)
    if not rows:
        return ""
    intro = (
        "LeWM describes a frame with one vector, DINO-WM with one per image patch (tokens), so LeWM has less to compute "
        "for every imagined step. The clock covers one whole decision: encoding what is seen and searching the actions."
    )
    return (
        _paragraph(intro) + _table(rows[0], plain_lines(rows[1:]), "text") + _paragraph(tables.PUBLISHED_NOTE, "small")
    )


def _figure(png: bytes, text: str, css: str = "plot") -> str:
    """A picture that scrolls sideways where the page is narrow; a plot follows the dark scheme."""
    image = f'<img src="{_data(png, "image/png")}" alt="{escape(text)}" loading="lazy">'
    return f'<figure><div class="{css}" tabindex="0">{image}</div><figcaption>{escape(text)}</figcaption></figure>'


def _film(data: bytes, kind: str, text: str) -> str:
    """A still that is replaced by the moving picture on a click, also without a script."""
    caption = f"<figcaption>{escape(text)}</figcaption>"
    moving = f'<img src="{_data(data, kind)}" alt="{escape(text)}" loading="lazy">'
    first = still(data)
    if first is None:
        return f'<figure class="picture">{moving}{caption}</figure>'
    shown = f'<img src="{_data(first, "image/png")}" alt="Still: {escape(text)}" loading="lazy">'
    return f'<figure><details class="film"><summary>{shown}</summary>{moving}</details>{caption}</figure>'


def _films(films: Iterable[str]) -> str:
    return f'<div class="films">{side}</div>' if (side := "".join(films)) else ""


def _data(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Filmed:
    """A film of an agent, and what happens in it."""

    pair: str  # the heading of all films with the same start and goal
    order: tuple[object, ...]  # of the pair among the pairs, then of the agent
    name: str  # of the file
    caption: str


def _videos(summary: Summary, folder: Path) -> str:
    """All agents side by side for each pair, as long as there is room: the pairs that most agents were filmed in first."""
    embedded: dict[str, list[str]] = {}
    left_out, room = [], VIDEO_BYTES
    for clip in _clips(summary):
        path = inside(folder, clip.name)
        if path is None or not is_file(path):
            left_out.append(f"{escape(clip.name)}: the file is not in this results folder")
            continue
        if path.stat().st_size > room:
            left_out.append(f"<code>{escape(clip.name)}</code>: left out of this page to keep it small")
            continue
        data = read_bytes(path, "delete it")
        room -= len(data)
        embedded.setdefault(clip.pair, []).append(_film(data, IMAGE_TYPES[path.suffix.lower()], clip.caption))
    explained = (
        "Each film shows the goal image, the start, and what the agent saw; the frame turns green at the goal. A click "
        "plays and stops it. Agents in one row had the same start and goal."
    )
    shown = "".join(f"<h3>{escape(pair)}</h3>{_films(films)}" for pair, films in embedded.items())
    shown = _paragraph(explained) + shown if shown else ""
    return shown + (f'<div class="small">{_items(left_out)}</div>' if left_out else "")


def inside(folder: Path, name: str) -> Path | None:
    """The path of an image inside the folder; a record from elsewhere must not pull other files into the page."""
    path = (folder / name).resolve()
    known = path.suffix.lower() in IMAGE_TYPES and path.is_relative_to(folder.resolve())
    return path if known else None


def _clips(summary: Summary) -> list[Filmed]:
    """All films, pair by pair, agents in the order of the tables."""
    found = []
    several = len({(c.protocol, c.profile) for c in summary.cells}) > 1
    for cell in summary.cells:
        filmed = any(offset.videos for offset in cell.offsets)
        endings = {episode_ending(e.goal_offset, e.pair): e for e in cell.episodes} if filmed else {}
        for offset in cell.offsets:
            for name in offset.videos:
                episode = next((e for ending, e in endings.items() if name.endswith(ending)), None)
                clip = _filmed(summary.labels[cell.agent], cell, offset.goal_offset, name, episode)
                found.append(replace(clip, pair=f"{clip.pair} ({cell.protocol}, {cell.profile})") if several else clip)
    agents = Counter(clip.pair for clip in found)
    return sorted(found, key=lambda clip: (clip.order[0], -agents[clip.pair], *clip.order[1:]))


def _filmed(label: str, cell: CellRecord, offset: int, name: str, episode: EpisodeRow | None) -> Filmed:
    place = (cell.protocol, cell.profile, cell.env, offset)
    number = -1 if episode is None else episode.pair
    which = "" if episode is None else f", pair {number}"
    return Filmed(
        pair=f"{short(cell.env)}, {tables.offset_name(offset, cell.protocol)}{which}",
        order=(place, number, order(cell.agent, cell.kind, cell.card), cell.seed),
        name=name,
        caption=f"{label}: {name if episode is None else _outcome(episode)}",
    )


def _outcome(episode: EpisodeRow) -> str:
    which = f"pair {episode.pair}, seed {episode.seed}"
    if not episode.hit:
        return f"failure, {episode.distance_end:.2g} away at the end ({which})"
    held = "and stays" if episode.held else "but is not there at the end"
    return f"success, reaches the goal at step {episode.steps_to_hit} {held} ({which})"


def _not_run(summary: Summary) -> str:
    rows = summary.table[summary.table["status"] != "done"]
    reasons: dict[tuple[str, str], list[str]] = {}
    commands: dict[tuple[str, str], dict[str, None]] = {}
    for _, r in rows.iterrows():
        place = f"{short(r['env'])}, {tables.offset_name(r['goal_offset'], r['protocol'])}"
        reasons.setdefault((r["agent"], r["note"]), []).append(place)
        if r["status"] == "not run":
            commands.setdefault((r["agent"], r["note"]), {})[tables.command(summary, r)] = None
    listed = [
        f"{_dot(summary.agents.colour(agent))}<b>{escape(summary.labels[agent])}</b> ({escape('; '.join(places))}): {escape(note)}"
        + "".join(f"<br>{_paste(command)}" for command in commands.get((agent, note), ()))
        for (agent, note), places in reasons.items()
    ]
    if not listed:
        return _paragraph("Everything that was asked for was run to the end.")
    joins = sorted({join_command(cell.suite) for cell in summary.cells}) if commands else []
    together = "".join(f"<br>{_paste(command)}" for command in joins)
    told = f"<p>A report of everything, once a command above has run:{together}</p>" if joins else ""
    return _items(listed, "dots") + told


def _reproduce(summary: Summary) -> str:
    runs = sorted({(c.suite, c.profile) for c in summary.cells})
    commands = "\n".join(f"lewm-bench run --suite {suite} --profile {profile}" for suite, profile in runs)
    parts = [f"<pre><code>{escape(commands)}</code></pre>", "<h3>Machines and versions</h3>"]
    parts.append(_items(escape(line) for line in tables.caption(summary) if line.startswith(("Hard", "Vers", "Comm"))))
    return "".join([*parts, "<h3>Resolved configurations</h3>", *configs(summary.cells)])


def configs(cells: Iterable[CellRecord | UnderstandingRecord]) -> Iterator[str]:
    """The resolved configuration of each cell, folded away."""
    for cell in cells:
        if cell.status == "done":
            name = f"{short(cell.env)}, {cell.agent}, seed {cell.seed}, {cell.profile}"
            facts = {"key": cell.key, "dataset": cell.dataset, "created": cell.created, "config": cell.config}
            text = json.dumps(facts, indent=1, sort_keys=True)
            yield f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
