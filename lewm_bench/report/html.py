"""An HTML file that needs nothing else: no network, images, films and the data of its tables inside.

A short script sorts tables and plays films together; without it a page still shows everything. Every text that comes from
a record is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from lewm_bench.core.formatting import short
from lewm_bench.data.videos import still
from lewm_bench.report.tables.line import Line, one_group
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.understand.records import UnderstandingRecord


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


def assemble(title: str, sections: Sequence[Section], end: Mapping[str, str]) -> str:
    """A page of plain sections; ``end`` holds further ones as HTML, shown on a click."""
    folded = {*end, *(section.title for section in sections if section.folded)}
    return html_page(title, {**{section.title: html_section(section) for section in sections}, **end}, folded)


def html_page(title: str, sections: Mapping[str, str], folded: Collection[str]) -> str:
    """The whole file: title to HTML of each section that has any; those of ``folded`` open on a click."""
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


def html_section(section: Section) -> str:
    """Its text, tables, data, figures, films and sentences, without the heading."""
    parts = [paragraph(section.text) if section.text else ""]
    for heading, rows in (("", section.rows), *section.tables):
        parts.append(f"<h3>{escape(heading)}</h3>" if heading else "")
        parts.append(html_table(rows[0], one_group(rows[1:]), "text") if rows else "")
    parts.append(download_links(section.files))
    parts += [html_figure(png, text) for png, text in section.figures]
    parts += [html_figure(png, text, "picture") for png, text in section.pictures]
    parts.append(film_row(html_film(gif, "image/gif", text) for gif, text in section.films))
    return "".join([*parts, bullets(map(escape, section.items))])


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def paragraph(text: str, css: str = "") -> str:
    """Text as a paragraph."""
    return f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>"


def bullets(html: Iterable[str], css: str = "") -> str:
    """A list of what is HTML already."""
    items = "".join(f"<li>{item}</li>" for item in html)
    return f'<ul class="{css}">{items}</ul>' if items else ""


def colour_dot(colour: str) -> str:
    """The dot before an agent's name."""
    return f'<span class="dot" style="background:{colour}"></span>'


def download_links(files: Iterable[tuple[str, str]]) -> str:
    """Links that save the data; it is in the page, so they work wherever the page is."""
    links = [
        f'<a download="{escape(name)}" href="data:text/csv;base64,{base64.b64encode(text.encode()).decode("ascii")}">'
        f"{escape(name)}</a>"
        for name, text in files
    ]
    return f'<p class="small">The numbers as CSV: {", ".join(links)}</p>' if links else ""


def html_table(
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
            dot = colour_dot(line.colour) if line.colour else ""
            cells = "".join(_cell(text, line.commands.get(i, "")) for i, text in enumerate(line.cells))
            rows.append(f"<tr><td>{dot}{escape(line.agent)}</td>{cells}</tr>")
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    table = f"<table><thead><tr>{head}</tr></thead>{''.join(bodies)}</table>"
    return f'<div class="scroll {css}" tabindex="0">{table}</div>'


def _cell(text: str, command: str) -> str:
    if command:
        how = f'<details><summary class="state">{escape(text)}</summary>{command_line(command)}</details>'
        return f'<td class="absent">{how}</td>'
    absent = text in ("not run", "failed") or text.endswith("(partial)")
    return f'<td class="absent">{escape(text)}</td>' if absent else f"<td>{escape(text)}</td>"


def command_line(command: str) -> str:
    """A command to copy."""
    return f'<code class="paste">{escape(command)}</code>'


def html_figure(png: bytes, text: str, css: str = "plot") -> str:
    """A picture that scrolls sideways where the page is narrow; a plot follows the dark scheme."""
    image = f'<img src="{_data(png, "image/png")}" alt="{escape(text)}" loading="lazy">'
    return f'<figure><div class="{css}" tabindex="0">{image}</div><figcaption>{escape(text)}</figcaption></figure>'


def html_film(data: bytes, kind: str, text: str) -> str:
    """A still that is replaced by the moving picture on a click, also without a script."""
    caption = f"<figcaption>{escape(text)}</figcaption>"
    moving = f'<img src="{_data(data, kind)}" alt="{escape(text)}" loading="lazy">'
    first = still(data)
    if first is None:
        return f'<figure class="picture">{moving}{caption}</figure>'
    shown = f'<img src="{_data(first, "image/png")}" alt="Still: {escape(text)}" loading="lazy">'
    return f'<figure><details class="film"><summary>{shown}</summary>{moving}</details>{caption}</figure>'


def film_row(films: Iterable[str]) -> str:
    """Films side by side."""
    return f'<div class="films">{side}</div>' if (side := "".join(films)) else ""


def _data(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def configs(cells: Iterable[CellRecord | UnderstandingRecord]) -> Iterator[str]:
    """The resolved configuration of each cell, folded away."""
    for cell in cells:
        if cell.status == "done":
            name = f"{short(cell.env)}, {cell.agent}, seed {cell.seed}, {cell.profile}"
            facts = {"key": cell.key, "dataset": cell.dataset, "created": cell.created, "config": cell.config}
            text = json.dumps(facts, indent=1, sort_keys=True)
            yield f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
