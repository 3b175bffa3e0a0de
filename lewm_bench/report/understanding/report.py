"""The files of a results folder of examinations, from their records alone; those may come from several machines."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from lewm_bench.core.errors import UserError
from lewm_bench.core.formatting import seconds, short
from lewm_bench.core.reading import is_file, read_bytes
from lewm_bench.report.commands import OPTIONS
from lewm_bench.report.html import Section, assemble, configs, paragraph
from lewm_bench.report.tables.markdown import md, plain_table
from lewm_bench.report.text import csv_text, hardware_line, number
from lewm_bench.report.understanding import findings
from lewm_bench.report.understanding.figures import FIGURES, draw_all
from lewm_bench.report.understanding.tables import (
    main_row,
    main_table,
    name_of,
    ordered,
    places,
    probe_table,
    reader_probes,
    reader_table,
    reader_tests,
    surprise_table,
)
from lewm_bench.report.video import VIDEO_BYTES, inside
from lewm_bench.system.files import write_bytes, write_text
from lewm_bench.understand.records import UnderstandingRecord

Cells = Sequence[UnderstandingRecord]

INTRODUCTION = (
    "A world model turns frames into latents and predicts how actions change them. Planning says whether that is of use; "
    "this page looks inside: what can be read from a latent, what surprises the model, whether its paths are straight, "
    "whether its latents use their space, how far ahead it imagines, whether goals are found by latent distance, and what it imagines. Everything is measured on "
    "episodes that no model was trained on, with the models of the other suites."
)
READ = (
    "Ridge r: Pearson correlation of a linear readout with the truth, beside readouts of an untrained encoder of the same "
    "shape, of raw pixels, and of pixels reduced to as many numbers as the latent has. AUC: how often a teleport surprises more than the untouched clip. d_z: size of the effect; "
    "an asterisk marks p < 0.05 after Holm's correction, for that one trained model and not for its method. Recolour / teleport: how much of a teleport's effect a mere change of "
    "colour has (empty where the teleport itself has none). Straightness: 1 is a straight path. Errors are squared, over "
    "the variance of latents: 1 is what the mean latent would give. Goal found: how often the held-out frame whose latent is nearest "
    "to the one imagined for a goal is of the goal's moment."
)  # fmt: skip

CAPTIONS = {
    "probe.png": "How to read it: the further right (r) or left (MSE) a coloured marker stands of the grey and yellow ones on its "
    "line and of the red lines, the easier is the quantity read from the latent than without any learning (full: ridge, hollow: MLP).",
    "voe.png": "How to read it: the red curve (a teleport) should jump at the event while the others stay together; bands are "
    "95 % intervals of the first seed, thin lines are further seeds, and an axis with powers of ten is logarithmic.",
    "detection.png": "How to read it: a curve in the upper left corner tells the change from untouched clips (and a teleport from a recolouring) by surprise alone; "
    "on the diagonal it cannot be told (first seed of each model).",
    "straightness.png": "How to read it: left, a curve that rises is a latent space whose paths straighten while it is learned "
    "(a line per training run, ablations dashed); right, how straight held-out paths are in the end: 1 is a line, 0 is "
    "no direction, below 0 is to and fro.",
    "collapse.png": "How to read it: a red cross is the monitor's verdict that latents are constant, lie in one direction, or hold "
    "noise that nothing predicts (then the spectrum is flat and the rank high, and only the deviation looks collapsed); the bar of "
    "SIGReg (5, 25, 75 and 95 % of directions) stands at the tick where latents look Gaussian.",
    "open_loop.png": "How to read it: a solid line below the dashed one of its colour predicts better than assuming that nothing "
    "happens; at the grey line (1) the imagined latent is no nearer than the mean of all latents, at 2 no nearer than that of a random frame.",
    "retrieval.png": "How to read it: how often the held-out frame whose latent is nearest to the imagined one is of the moment "
    "that was imagined (solid: at most a block away; dotted: the very frame); the dashed grey line is chance, per environment.",
    "maps.png": "How to read it: each dot is a held-out frame; where neighbouring dots have neighbouring colours (the key shows "
    "which colour is where), the latent space is laid out like the world; in t-SNE distances between far dots mean nothing.",
}  # fmt: skip
PICTURES = (
    "How to read it: real held-out frames above what a decoder draws from their latents; what is missing below, the latent "
    "does not hold, or the decoder could not find. In the films what really happened stands beside what the model imagined "
    "from the first frames and the actions alone, both drawn by the decoder."
)


def write_understanding(cells: Iterable[UnderstandingRecord], folder: Path, title: str) -> list[UnderstandingRecord]:
    """Write CSV files, ``table.md``, figures and ``report.html`` into ``folder``; return the records in order.

    Raises:
        UserError: there are none.
    """
    found = ordered(cells)
    if not found:
        raise UserError("there is nothing to report; run `lewm-bench run --suite understanding` first")
    for name, text in data(CSV, found):
        write_text(folder / name, text)
    write_text(folder / "table.md", markdown(found, title))
    figures = draw_all(found)
    for name in FIGURES.keys() - figures.keys():  # a figure of an earlier report that no longer has data would deceive
        (folder / name).unlink(missing_ok=True)
    for name, png in figures.items():
        write_bytes(folder / name, png)
    write_text(folder / "report.html", html(found, figures, folder, title))
    return found


CSV = {"understanding.csv": main_table, "probes.csv": probe_table, "surprise.csv": surprise_table}


def data(names: Iterable[str], cells: Cells) -> tuple[tuple[str, str], ...]:
    """Name and text of CSV files."""
    return tuple((name, csv_text(CSV[name](cells))) for name in names)


def html(cells: Cells, figures: dict[str, bytes], folder: Path, title: str) -> str:
    """The page, which needs nothing else."""
    sections = [
        Section(
            "In short",
            f"{INTRODUCTION} {READ}",
            tables=tables_per_env(cells, reader_table),
            files=data(("understanding.csv",), cells),
        ),
        figure_section("Probes", cells, figures, ("probe.png",), findings.probes, findings.published(cells)),
        figure_section("Violated expectations", cells, figures, ("voe.png", "detection.png"), findings.surprise),
        figure_section("Straight paths", cells, figures, ("straightness.png",), findings.straightness),
        figure_section("Collapse", cells, figures, ("collapse.png",), findings.collapse),
        figure_section("Imagining without looking", cells, figures, ("open_loop.png",), findings.open_loop),
        figure_section("Finding goals", cells, figures, ("retrieval.png",), findings.retrieval),
        figure_section("Maps of latents", cells, figures, ("maps.png",), lambda _: ""),
        pictures(cells, folder),
        Section("What to keep in mind", items=findings.notes(cells)),
        Section(
            "All probes and tests",
            tables=tables_per_env(cells, reader_tests) + tables_per_env(cells, reader_probes),
            files=data(("probes.csv", "surprise.csv"), cells),
            folded=True,
        ),
        Section("What was not examined", items=not_examined(cells)),
    ]
    return assemble(title, [s for s in sections if has_content(s)], {"Reproduce": reproduce(cells)})


def has_content(section: Section) -> bool:
    """Whether there is anything but words about nothing."""
    return bool(section.rows or section.tables or section.items or section.figures or section.pictures or section.films)


def figure_section(
    title: str,
    cells: Cells,
    figures: dict[str, bytes],
    names: Sequence[str],
    sentence_of: Callable[[UnderstandingRecord], str],
    text: str = "",
) -> Section:
    """Figures with how to read them, and a sentence per model."""
    shown = tuple((figures[name], CAPTIONS[name]) for name in names if name in figures)
    return Section(title, text, figures=shown, items=findings.per_model(cells, sentence_of))


def tables_per_env(cells: Cells, make: Callable[[Cells], tuple[tuple[str, ...], ...]]) -> tuple:
    """A table per environment, with its heading."""
    return tuple((heading, rows) for heading, own in places(cells) if len(rows := make(own)) > 1)


def pictures(cells: Cells, folder: Path) -> Section:
    """What decoders drew, as far as the files are there and the page stays small."""
    drawn, films, left_out, room = [], [], [], VIDEO_BYTES
    for cell in (c for c in cells if c.decoded):
        for name in (cell.decoded.pictures, *cell.decoded.videos):
            path = inside(folder, name)
            if path is None or not is_file(path):
                left_out.append(f"{name}: the file is not in this results folder.")
            elif path.stat().st_size > room:
                left_out.append(f"{name}: left out of this page to keep it small.")
            else:
                room -= path.stat().st_size
                kind = drawn if path.suffix.lower() == ".png" else films
                kind.append((read_bytes(path, "delete it"), f"{findings.model_and_env(cell)}."))
    told = findings.per_model(cells, findings.decoded)
    return Section("Decoded dreams", PICTURES, pictures=tuple(drawn), films=tuple(films), items=(*told, *left_out))


def not_examined(cells: Cells) -> tuple[str, ...]:
    """What was asked for and is not there, with the reason."""
    whole = [f"{findings.model_and_env(c)}: {c.status}: {c.reason}" for c in cells if c.status != "done"]
    return (*whole, *(f"{findings.model_and_env(c)}, {name}: {why}" for c in cells for name, why in c.skipped.items()))


def caption(cells: Cells) -> list[str]:
    """What must stand beside the numbers."""
    done = [c for c in cells if c.status == "done"]
    lines = {
        "Profile": sorted({c.profile for c in cells}),
        "Data": sorted({f"{short(c.env)} {c.dataset}" for c in done}),
        "Hardware": sorted({hardware_line(c.hardware) for c in done} - {""}),
        "Versions": sorted({", ".join(f"{k} {v}" for k, v in sorted(c.versions.items())) for c in done} - {""}),
        "Commit": sorted({c.commit for c in done} - {""}),
    }
    took = [total for c in done if (total := sum(c.seconds.values()))]
    if took:
        lines["Examination of a model"] = [f"{seconds(min(took))} to {seconds(max(took))}"]
    return [f"{name}: {'; '.join(values)}." for name, values in lines.items() if values]


def command(cell: UnderstandingRecord) -> str:
    """The command line that makes a cell again, but for its ``--set``, which is in its configuration."""
    where = f"--suite {shlex.quote(cell.suite)} --profile {shlex.quote(cell.profile)}"
    if not cell.checkpoint:
        return f"lewm-bench run {where}"
    return f"lewm-bench understand {shlex.quote(cell.checkpoint)} --env {shlex.quote(cell.env)} {where}"


def reproduce(cells: Cells) -> str:
    """Commands, machines and configurations, as HTML."""
    commands = "\n".join(dict.fromkeys(map(command, cells)))
    items = "".join(f"<li>{escape(line)}</li>" for line in caption(cells))
    settings = "".join(configs(cells))
    told = paragraph(OPTIONS, "small")
    return f"<pre><code>{escape(commands)}</code></pre>{told}<ul>{items}</ul><h3>Resolved configurations</h3>{settings}"


def markdown(cells: Cells, title: str) -> str:
    """``table.md``."""
    parts = [f"# {md(title)}", "\n".join(f"- {md(line)}" for line in caption(cells))]
    for heading, rows in tables_per_env(cells, reader_table):
        parts += [f"## {md(heading)}", plain_table(rows)]
    for name, make in (("Violated expectations", reader_tests), ("Probes", reader_probes)):
        for heading, rows in tables_per_env(cells, make):
            parts += [f"## {name}: {md(heading)}", plain_table(rows)]
    listed = [*findings.notes(cells), *not_examined(cells)]
    parts += ["## How to read it", md(READ), "\n".join(f"- {md(line)}" for line in listed)]
    return "\n\n".join(parts) + "\n"


def terminal(cells: Cells) -> str:
    """The main numbers in 100 columns of plain text."""
    lines = []
    for heading, own in places(cells):
        quantity = next((c.probes[0].quantity for c in own if c.probes), "position")
        lines += [
            "",
            heading,
            _line("model", f"{quantity} r", "AUC", "d_z", "recolour", "straight", "rank", "collapsed"),
        ]
        for cell in own:
            lines.append(_row(cell))
            lines += [
                f"      {why}"
                for why in ([cell.reason] if cell.reason else [f"{k} {v}" for k, v in cell.skipped.items()])
            ]
    lines += ["", TERMINAL]
    return "\n".join([*lines[1:], ""])


TERMINAL = (
    "AUC, d_z: a teleport against the untouched clip; recolour: its d_z; rank: effective rank of latents.\n"
    "Intervals, n and corrected p values are in the report."
)


def _row(cell: UnderstandingRecord) -> str:
    if cell.status != "done":
        return _line(name_of(cell), cell.status)
    row = main_row(cell)
    shown = (
        "ridge_r",
        "teleport_auc",
        "teleport_effect_size",
        "recolour_effect_size",
        "straightness",
        "effective_rank",
    )
    forms = (".3f", ".3f", ".2f", ".2f", ".2f", ".1f")
    numbers = (number(row.get(name), form) for name, form in zip(shown, forms, strict=True))
    return _line(name_of(cell), *numbers, {True: "yes", False: "no", None: ""}[row.get("collapsed")])


def _line(name: str, *cells: str) -> str:
    shown = name if len(name) <= NAME else f"{name[: NAME - 16]}…{name[-15:]}"
    return f"  {shown:<{NAME}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=False))


NAME = 34
WIDTHS = (12, 7, 7, 10, 10, 7, 11)
