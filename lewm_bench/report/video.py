"""The films of a page: all agents side by side for each pair of start and goal, as long as there is room."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lewm_bench.core.formatting import short
from lewm_bench.core.reading import is_file, read_bytes
from lewm_bench.data.videos import episode_ending
from lewm_bench.report.agents import order
from lewm_bench.report.html import (
    bullets,
    film_row,
    html_film,
    paragraph,
)
from lewm_bench.report.text import offset_name
from lewm_bench.run.records import CellRecord, EpisodeRow

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary


VIDEO_BYTES = 7_500_000  # all embedded videos together, before base64 adds a third


IMAGE_TYPES = {".gif": "image/gif", ".webp": "image/webp", ".png": "image/png"}


@dataclass(frozen=True)
class Filmed:
    """A film of an agent, and what happens in it."""

    pair: str  # the heading of all films with the same start and goal
    order: tuple[object, ...]  # of the pair among the pairs, then of the agent
    name: str  # of the file
    caption: str


def videos(summary: Summary, folder: Path) -> str:
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
        embedded.setdefault(clip.pair, []).append(html_film(data, IMAGE_TYPES[path.suffix.lower()], clip.caption))
    explained = (
        "Each film shows the goal image, the start, and what the agent saw; the frame turns green at the goal. A click "
        "plays and stops it. Agents in one row had the same start and goal."
    )
    shown = "".join(f"<h3>{escape(pair)}</h3>{film_row(films)}" for pair, films in embedded.items())
    shown = paragraph(explained) + shown if shown else ""
    return shown + (f'<div class="small">{bullets(left_out)}</div>' if left_out else "")


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
        pair=f"{short(cell.env)}, {offset_name(offset, cell.protocol)}{which}",
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
