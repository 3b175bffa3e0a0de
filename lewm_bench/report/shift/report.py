"""The files of a results folder of changed worlds, from their records alone; those may come from several machines."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lewm_bench.core.errors import UserError
from lewm_bench.core.formatting import seconds, short
from lewm_bench.core.reading import is_file, read_bytes
from lewm_bench.evaluation.shift_record import ChangedFactor, ShiftRecord
from lewm_bench.report.agents import Agents
from lewm_bench.report.commands import OPTIONS
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.html import Section, assemble, configs, paragraph
from lewm_bench.report.shift.figures import success_map
from lewm_bench.report.shift.findings import drops, overview, sentences
from lewm_bench.report.shift.tables import Tested, build_table, group_order, groups, ordered, places
from lewm_bench.report.tables.markdown import md, plain_table
from lewm_bench.report.text import csv_text, hardware_line
from lewm_bench.report.video import inside
from lewm_bench.system.filenames import env_stem
from lewm_bench.system.files import write_bytes, write_text

Cells = Sequence[ShiftRecord]

INTRODUCTION = (
    "Each agent was trained once, in the world of its data, and is tested here in worlds that differ from it by one factor: "
    "by how it looks, by how it is controlled, by its physics, or by where things stand. Nobody is trained again. A level is the "
    "size of the change, 1 to 3; the values are in the tables. The random agent and the one that does nothing are the floor, "
    "the oracle plans with the same planner in the true changed world: where it loses too, the task has become harder, and not "
    "only stranger."
)
READ = (
    "Success is the share of start and goal pairs whose goal is reached at some step, in percent. Averages over factors take "
    "the goal as the changed world looks. A drop is success in the trained world minus success in the changed one, on the "
    "same pairs and of the same trainings, in points: positive is worse. Brackets hold 95 % intervals: of one training Wilson's, "
    "of several a bootstrap over trainings and pairs. An asterisk marks a drop that survives Holm's correction at 5 % for all "
    "changed worlds of that agent in that environment; an agent that trains has none with fewer than three training seeds, "
    "whose drops are of those trainings alone: (one run). A drop without an asterisk is not equality: read its bracket."
)
PROTOCOL = (
    "Protocol shift-1. Start and goal are the planning pairs of clean-2 (two frames of a recorded episode that nobody was trained "
    "on, which a search solves and always taking the next best block does not), put into the changed world. Unlike there, an "
    "agent sees one frame at the start, and its history grows from what it sees happen, in the trained world too. It has twice "
    "the offset in environment steps. Pairs are left out of both sides of a comparison whose start or goal cannot be in the "
    "changed world, between which no way leads there, or that would be solved at the start; the number that is left stands beside."
)
MAP = (
    "How to read it: a row is a factor, a block of columns an agent with the levels 1 to 3, the first row the trained world. Light is "
    "success. Bold: told apart from the trained world (with three trainings, or none needed; corrected). Where an agent's cell is dark "
    "and the oracle's is light, something is lost that could still be done. The lower map has goals drawn as the trained world looked, "
    "for factors that change pictures. A dash: no pair can be asked."
)
SHEET = "What can be seen in a single frame, a row per factor: the trained world, and levels 1, 2 and 3. Changes of control and physics look as usual."


@dataclass(frozen=True)
class Shifts:
    """The records of a report in order, and by agent."""

    title: str
    cells: Cells
    tested: Sequence[Tested]
    agents: Agents

    @property
    def places(self) -> list[tuple[str, str, str, list[Tested]]]:
        """Heading, profile, environment and agents of each environment."""
        many = len({cell.profile for cell in self.cells}) > 1
        return [
            (short(env) + (f", {profile}" if many else ""), profile, env, own)
            for profile, env, own in places(self.tested)
        ]


def write_shift(cells: Iterable[ShiftRecord], folder: Path, title: str) -> Shifts:
    """Write ``table.csv``, ``table.md``, figures and ``report.html`` into ``folder``; return what they show.

    Raises:
        UserError: there are none.
    """
    found = ordered(cells)
    if not found:
        raise UserError("there is nothing to report; run `lewm-bench run --suite shift` first")
    shifts = Shifts(title, found, groups(found), Agents.of(found))
    table, figures = csv_text(build_table(found, shifts.tested)), draw_all(shifts)
    write_text(folder / "table.csv", table)
    write_text(folder / "table.md", markdown(shifts))
    for path in folder.glob("success_*.png"):  # of an earlier report
        if path.name not in figures:
            path.unlink()
    for name, picture in figures.items():
        write_bytes(folder / name, picture)
    write_text(folder / "report.html", html(shifts, figures, table, folder))
    return shifts


def draw_all(shifts: Shifts) -> dict[str, bytes]:
    """File name to PNG of each environment's map."""
    drawn = {figure_name(profile, env): success_map(own, shifts.agents) for _, profile, env, own in shifts.places}
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}


def figure_name(profile: str, env: str) -> str:
    """The file of an environment's map."""
    return f"success_{env_stem(env)}_{env_stem(profile)}.png"


def html(shifts: Shifts, figures: dict[str, bytes], table: str, folder: Path) -> str:
    """The page, which needs nothing else."""
    sections = [Section("In short", INTRODUCTION, files=(("table.csv", table),))]
    for heading, profile, env, own in shifts.places:
        name = figure_name(profile, env)
        sections += [
            Section(
                heading,
                tables=(("Success by level, over all factors", overview(own, shifts.agents)),),
                figures=((figures[name], MAP),) if name in figures else (),
                items=sentences(own, shifts.agents),
            ),
            Section(f"{heading}: what is changed", rows=factor_rows(own), pictures=pictures(own, folder)),
            Section(f"{heading}: all drops", rows=drops(own, shifts.agents), folded=True),
        ]
    sections.append(Section("How to read it", READ, items=(PROTOCOL, *caption(shifts.cells))))
    sections += [Section("What was not measured", items=found)] if (found := missing(shifts.cells)) else []
    return assemble(shifts.title, sections, {"Reproduce": reproduce(shifts.cells)})


def factors_of(tested: Sequence[Tested]) -> list[ChangedFactor]:
    """The factors of an environment, group by group."""
    found = {name: factor for each in tested for name, factor in each.factors.items()}
    return sorted(found.values(), key=lambda factor: group_order(factor.group))


def factor_rows(tested: Sequence[Tested]) -> tuple[tuple[str, ...], ...]:
    """What each factor is, the header first."""
    header = ("Factor", "group", "what is changed", "trained world", "level 1", "level 2", "level 3")
    return header, *((f.name, f.group, f.about, *f.values) for f in factors_of(tested))


def pictures(tested: Sequence[Tested], folder: Path) -> tuple[tuple[bytes, str], ...]:
    """The picture of an environment's changed worlds, if it is in the results folder."""
    for name in dict.fromkeys(cell.sheet for each in tested for cell in each.cells if cell.sheet):
        path = inside(folder, name)
        if path is not None and is_file(path):
            return ((read_bytes(path, "delete it"), SHEET),)
    return ()


def caption(cells: Cells) -> tuple[str, ...]:
    """What must stand beside the numbers."""
    done = [c for c in cells if c.status == "done"]
    lines = {
        "Protocol": {f"{c.protocol}, goal {c.goal_offset} steps ahead, {c.budget} steps to act, {short(c.env)}" for c in done},
        "Pairs": {f"{c.num_pairs} in {short(c.env)}" for c in done},
        "Profile": {c.profile for c in cells},
        "Models": models(done),
        "Data": {f"{short(c.env)} {c.dataset}" for c in done},
        "Hardware": {hardware_line(c.hardware) for c in done},
        "Versions": {", ".join(f"{k} {v}" for k, v in sorted(c.versions.items())) for c in done},
        "Commit": {c.commit for c in done},
    }  # fmt: skip
    took = [sum(each.seconds for each in c.found) for c in done]
    if took:
        lines["Test of an agent in all worlds"] = {f"{seconds(min(took))} to {seconds(max(took))}"}
    return tuple(f"{name}: {'; '.join(sorted(found - {''}))}." for name, found in lines.items() if found - {""})


def models(done: Cells) -> set[str]:
    """Where the agents come from: their weights by agent and environment."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for c in done:
        if c.weights != "none":
            found.setdefault((c.agent, short(c.env), c.weights), []).append(f"{c.seed} ({c.key})")
    return {f"{agent} in {env}, {weights}, seed {', '.join(seeds)}" for (agent, env, weights), seeds in found.items()}


def missing(cells: Cells) -> tuple[str, ...]:
    """What was asked for and is not there, with the reason."""
    whole = [f"{short(c.env)}, {c.agent}, seed {c.seed}: {c.status}: {c.reason}" for c in cells if c.status != "done"]
    parts = [
        f"{short(c.env)}, {c.agent}, seed {c.seed}, {name}: {why}" for c in cells for name, why in c.skipped.items()
    ]
    return (*whole, *parts)


def reproduce(cells: Cells) -> str:
    """Commands and configurations, as HTML."""
    commands = dict.fromkeys(
        f"lewm-bench run --suite {shlex.quote(c.suite)} --profile {shlex.quote(c.profile)}" for c in cells
    )
    settings = "".join(configs(cells))
    told = paragraph(OPTIONS, "small")
    shown = escape("\n".join(commands))
    return f"<pre><code>{shown}</code></pre>{told}<h3>Resolved configurations</h3>{settings}"


def markdown(shifts: Shifts) -> str:
    """``table.md``."""
    parts = [f"# {md(shifts.title)}", "\n".join(f"- {md(line)}" for line in caption(shifts.cells))]
    for heading, _, _, own in shifts.places:
        name = md(heading)
        parts += [f"## {name}", plain_table(overview(own, shifts.agents))]
        parts.append("\n".join(f"- {md(line)}" for line in sentences(own, shifts.agents)))
        parts += [f"### {name}: what is changed", plain_table(factor_rows(own))]
        parts += [f"### {name}: all drops", plain_table(drops(own, shifts.agents))]
    parts += ["## How to read it", md(READ), md(PROTOCOL), "\n".join(f"- {md(line)}" for line in missing(shifts.cells))]
    return "\n\n".join(filter(None, parts)) + "\n"


def terminal(shifts: Shifts) -> str:
    """The main numbers as plain text."""
    lines = []
    for heading, _, _, own in shifts.places:
        agents, trainings, *columns = zip(*overview(own, shifts.agents), strict=True)
        del trainings
        lines += ["", f"{heading}, success in %"]
        widths = [2 + max(map(len, column)) for column in columns]
        for name, *row in zip(agents, *columns, strict=True):
            lines.append(f"  {name:<22.22}" + "".join(f"{t:>{w}}" for t, w in zip(row, widths, strict=True)))
    lines += [f"  {line}" for line in missing(shifts.cells)]
    return "\n".join([*lines[1:], "", TERMINAL, ""])


TERMINAL = (
    "Levels: means over all factors, goals drawn as the changed world looks. Drops per factor, n and corrected p values are "
    "in the report."
)
