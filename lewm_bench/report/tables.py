"""The reader's tables: one small table per environment and goal offset, as Markdown, LaTeX or plain cells for HTML.

Formats numbers and never computes a statistic; ``table.csv`` is for programs, these are for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from lewm_bench.core.names import names_steps, stratum_of
from lewm_bench.core.statistics import LEVEL, METHOD_RUNS
from lewm_bench.core.words import seconds, short, three_digits
from lewm_bench.report.ablation import SOLVER
from lewm_bench.report.agents import Agents, is_ablation, settings_text
from lewm_bench.report.commands import run_command
from lewm_bench.run.records import CellRecord

if TYPE_CHECKING:
    from lewm_bench.report.ablation import Panel
    from lewm_bench.report.summary import Summary

PUBLISHED = ("published (Maes et al. 2026)", "< 1 s", "~47 s", "48x", "about 200 / 1", "not named in the paper")
PUBLISHED_NOTE = (
    "The last row is quoted, not measured here: the factor is the paper's text, the seconds are press reports of its "
    "Figure 3. The ratio grows with the tokens per frame and depends on the hardware, so compare it with ours only "
    "beside those columns."
)

PROTOCOLS = {
    "clean-1": (
        "Protocol clean-1. Start and goal are two frames of one recorded episode that no agent was trained on, the "
        "goal a fixed number of environment steps (the offset) after the start; pairs are balanced over episodes, and "
        "pairs that are already solved at the start are removed, and counted. Every agent gets the same pairs and "
        "twice the offset in environment steps to act. 'Reached at any step' counts an episode if the agent is within "
        "the goal radius at some step, 'still there at the last step' if it is when the time is up."
    ),
    "clean-2/planning": (
        "Protocol clean-2, planning pairs. Pairs, budget and success are those of clean-1, but of the first pairs only "
        "those are kept that need a plan: always taking the next block that brings it nearest, by the true simulator and "
        "distance, does not reach the goal, and the same search along shortest ways does. No agent under test had a part in "
        "the choice."
    ),
    "clean-2/plain": (
        "Protocol clean-2, plain pairs: those of the first pairs that always taking the next block that brings it nearest "
        "solves. They need no plan."
    ),
    "paper-v3": (
        "Protocol paper-v3, as published: 50 start-goal pairs drawn uniformly from the rows of the training data "
        "(generator seed 42), the goal 25 environment steps after the start, pairs already solved at the start are "
        "kept, 50 environment steps to act, one training seed. An episode counts if the goal is reached at any step."
    ),
}

INTERVALS = (
    "Brackets hold 95 % intervals. With one seed it is Wilson's and speaks about that one training run. With more it is a "
    "bootstrap over seeds and pairs, never narrower than Wilson's for as many pairs, and speaks about the method: where trainings "
    "differ by 0.3 to 0.6 logits it contains the true rate in 90 % of simulations or more (in 92 % with three seeds), Wilson's of "
    "one seed in 67 to 95 %. 'Minus LeWM' compares on identical pairs, so it can tell two agents apart whose own intervals overlap. "
    "Where a side that trains has fewer than three training seeds it compares training runs, not methods (two runs of equal "
    "methods are called different in 4 to 30 % of cases), and says so: (one run), (2 runs). Elsewhere an asterisk marks the "
    "differences that survive Holm's correction for their number, which stands under each table: 5 % chance of even one false "
    "asterisk by pairs alone, up to 8 % for one comparison where trainings differ by 0.6 logits. What does not train (floors, the "
    "oracle) needs no training seeds. "
    "The verdict names the agent that turned out best, so its differences to agents other than LeWM are corrected for all pairs "
    "of agents that learn, and to those that learn nothing for all pairs of one that does and one that does not. "
    "'Above random' is 100 (s - random) / (100 - random): 0 is what random actions reach, 100 is every pair."
)

GROUPS = {
    "world model": "World models",
    "policy": "Goal-conditioned policies",
    "privileged": "Privileged (sees the simulator's state)",
    "floor": "Floor",
}


def _missing(value: object) -> bool:
    return value is None or bool(pd.isna(value))


def percent(value: float, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    """0.97, 0.915, 0.99 to ``97.0 [91.5, 99.0]``; an empty string for a missing value."""
    if _missing(value):
        return ""
    # Rounding first and adding zero: -0.04 is shown as 0.0, not as -0.0.
    text, *ends = (f"{round(100 * v, 1) + 0.0:{sign}.1f}" for v in (value, low, high) if not _missing(v))
    return f"{text} [{', '.join(ends)}]" if len(ends) == 2 else text


def count(value: float) -> str:
    """18030000 to ``18.0M``."""
    if _missing(value):
        return ""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{three_digits(value / limit)}{suffix}"
    return f"{int(value)}"


def number(value: float, form: str = ".2f") -> str:
    """A formatted number, or an empty string for a missing one."""
    return "" if _missing(value) else f"{value:{form}}"


def ratio(value: float) -> str:
    """``7.21x``."""
    return "" if _missing(value) else f"{three_digits(value)}x"


def offset_name(offset: object, protocol: str = "") -> str:
    """What a goal offset is called in headings, with the kind of pairs where the protocol has kinds."""
    ahead = "nothing measured" if _missing(offset) else f"goal {offset} steps ahead"
    return f"{ahead}, {stratum} pairs" if (stratum := stratum_of(protocol)) else ahead


def reached(row: pd.Series) -> str:
    """The share that reached the goal with its interval, or why there is none."""
    if row["status"] in ("not run", "failed"):
        return row["status"]
    star = " (partial)" if row["status"] == "partial" else ""
    return percent(row["hit"], row["hit_low"], row["hit_high"]) + star


def _difference(row: pd.Series) -> str:
    if row["agent"] == "lewm" and not _missing(row["hit"]):
        return "reference"
    text = percent(row["diff_to_lewm"], row["diff_low"], row["diff_high"], sign="+")
    runs = row["diff_runs"]
    if text and not _missing(runs) and runs < METHOD_RUNS:
        return f"{text} ({'one run' if runs == 1 else f'{runs} runs'})"
    return f"{text} *" if row["diff_p_holm"] < LEVEL else text


ASTERISK = "An asterisk marks what differs from LeWM at 5 % after Holm's correction for that many."
FEW_RUNS = (
    "marked (one run) or (2 runs), after the side that has fewer, speak of those training runs and not of the methods, and "
    "have no asterisk"
)


def comparisons(part: pd.DataFrame, agents: Agents) -> str:
    """How many differences to LeWM a table holds, and what its asterisks mean; empty if it holds none."""
    shown, counted = part.loc[part["diff_p"].notna(), "agent"], part.loc[part["diff_p_holm"].notna(), "agent"]
    if shown.empty:
        return ""
    families = [f" among the ablations of {agents.title(a)}" if is_ablation(a) else "" for a in counted]
    numbers = {family: families.count(family) for family in dict.fromkeys(families)}
    told = " and ".join(f"{_compared(n)}{family}" for family, n in numbers.items())
    few = len(shown) - len(counted)
    sentences = [f"{told}. {ASTERISK}"] if told else []
    sentences += [f"{_compared(few)} {FEW_RUNS}."] if few else []
    return f"Minus LeWM: {' '.join(sentences)}"


def _compared(count: int) -> str:
    return f"{count} comparison{'' if count == 1 else 's'}"


Cell = Callable[[pd.Series], str]

RESULT_COLUMNS: Mapping[str, Cell] = {
    "Reached at any step, %": reached,
    "Still there at the last step, %": lambda r: percent(r["held"], r["held_low"], r["held_high"]),
    "Above random, %": lambda r: percent(r["normalised_hit"]),
    "Minus LeWM, points": _difference,
    "Plan time, median [quartiles]": lambda r: seconds(
        r["plan_seconds_median"], r["plan_seconds_q25"], r["plan_seconds_q75"]
    ),
    "Speed-up over DINO-WM": lambda r: ratio(r["speedup_vs_dino_wm"]),
    "Tokens per frame": lambda r: number(r["tokens_per_frame"], "d"),
    "Pairs / seeds": lambda r: "" if _missing(r["n_pairs"]) else f"{r['n_pairs']} / {r['n_seeds']}",
}

DETAIL_COLUMNS: Mapping[str, Cell] = {
    "Distance left, median": lambda r: number(r["distance_end_median"], "#.3g"),
    "Steps to reach, median": lambda r: number(r["steps_to_hit_median"], "g"),
    "True simulator + latent cost, %": lambda r: percent(r["latent_oracle_hit"]),
    "Rank correlation of latent and true distance": lambda r: number(r["distance_rank_correlation"]),
    "Parameters": lambda r: count(r["parameters"]),
    "Training time": lambda r: seconds(r["train_seconds"]),
    "Training steps": lambda r: "" if _missing(r["train_steps"]) else f"{r['train_steps']:,}",
    "Solved at start, %": lambda r: percent(r["solved_at_start"]),
    "Share of all goals, %": lambda r: percent(r["stratum_share"]),
}


@dataclass(frozen=True)
class Line:
    """One row of a reader's table."""

    agent: str  # as it is shown
    cells: tuple[str, ...]
    colour: str = ""  # of the dot before it
    commands: Mapping[int, str] = field(default_factory=dict)  # number of a cell that was not run -> what runs it


@dataclass(frozen=True)
class View:
    """One environment at one goal offset, ready to be written in any format; plain text, nothing escaped."""

    env: str
    offset: str
    protocol: str
    profile: str
    header: tuple[str, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    detail_header: tuple[str, ...]
    detail_groups: tuple[tuple[str, tuple[Line, ...]], ...]
    comparisons: str  # how many differences are shown, and what an asterisk means
    notes: tuple[tuple[str, str], ...]  # agent, note
    rows: pd.DataFrame  # of table.csv

    @property
    def heading(self) -> str:
        """What tells this table from the others."""
        return f"{short(self.env)}, {self.offset}"

    @property
    def setting(self) -> str:
        """Under which rules it was measured."""
        return f"protocol {self.protocol}, profile {self.profile}"


def csv_text(table: pd.DataFrame) -> str:
    """Rows as ``table.csv`` has them."""
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def views(summary: Summary) -> Iterator[View]:
    """The reader's tables in reading order."""
    table = summary.table
    for (protocol, profile, env, offset), part in table.groupby(
        ["protocol", "profile", "env", "goal_offset"], dropna=False, sort=False
    ):
        run = part[~part["status"].isin(["not run", "failed"])]
        detail = [name for name, cell in DETAIL_COLUMNS.items() if any(cell(row) for _, row in run.iterrows())]
        yield View(
            env=env,
            offset=offset_name(offset, protocol),
            protocol=protocol,
            profile=profile,
            header=tuple(RESULT_COLUMNS),
            groups=_lines(part, summary, RESULT_COLUMNS),
            detail_header=tuple(detail),
            detail_groups=_lines(run, summary, {name: DETAIL_COLUMNS[name] for name in detail}),
            comparisons=comparisons(part, summary.agents),
            notes=tuple((summary.labels[r["agent"]], r["note"]) for _, r in part.iterrows() if r["note"]),
            rows=part,
        )


def _lines(
    part: pd.DataFrame, summary: Summary, columns: Mapping[str, Cell]
) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    groups: dict[str, list[Line]] = {}
    for _, row in part.iterrows():
        heading, shown = _heading(row["agent"], summary)
        commands = {0: command(summary, row)} if row["status"] == "not run" else {}
        line = Line(shown, tuple(cell(row) for cell in columns.values()), summary.agents.colour(row["agent"]), commands)
        groups.setdefault(heading, []).append(line)
    return tuple((name, tuple(lines)) for name, lines in groups.items())


def command(summary: Summary, row: Mapping[str, str] | pd.Series) -> str:
    """The command that runs what a row lacks."""
    return run_command(summary.cells, row["protocol"], row["profile"], row["env"], row["agent"])


def _heading(agent: str, summary: Summary) -> tuple[str, str]:
    """The block that an agent stands in, and how it is called there."""
    if is_ablation(agent):
        return f"Ablations of {summary.agents.title(agent)}", settings_text(agent)
    more, label = summary.agents.card(agent).learns_from, summary.labels[agent]
    return GROUPS[summary.kinds[agent]], label if more in label else f"{label}: {more}"


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


SOLVERS = (
    "All solvers minimise the same cost with the same trained model. 'Plans imagined' counts the plans whose cost a search "
    "asks for; a gradient solver asks for gradients too, and gets fewer plans for that."
)


def across_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Header and rows of the interquartile means over environments; empty with a single environment."""
    if summary.across.empty:
        return []
    header = ("Agent", "Goal offset", "Reached, IQM %", "Above random, IQM %", "Environments", "Seeds", "Profile")
    rows = [
        (
            summary.labels[r["agent"]],
            str(r["goal_offset"]),
            percent(r["hit"], r["hit_low"], r["hit_high"]),
            percent(r["normalised"], r["normalised_low"], r["normalised_high"]),
            str(r["n_envs"]),
            str(r["n_seeds"]),
            f"{r['profile']}, {r['protocol']}",
        )
        for _, r in summary.across.iterrows()
    ]
    return [header, *rows]


def ratio_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Header and rows of the planning-time comparison: ours first, the published row last and named as such."""
    if "world model" not in summary.kinds.values():
        return []
    # Planning costs nearly the same at every offset; the tables of the offsets have them all.
    ratios = summary.ratios.drop_duplicates(["protocol", "profile", "env", "agent"])
    header = ("Source", "LeWM", "DINO-WM", "Ratio", "Tokens per frame, DINO-WM / LeWM", "Hardware")
    rows = [
        (
            f"measured here: {short(r['env'])}, {offset_name(r['goal_offset'], r['protocol'])}, {r['profile']}, {summary.labels[r['agent']]}",
            seconds(r["lewm_seconds"]),
            seconds(r["other_seconds"]),
            ratio(r["ratio"]),
            f"{number(r['other_tokens'], 'd') or '?'} / {number(r['lewm_tokens'], 'd') or '?'}",
            timed_on(summary, r) or "not recorded",
        )
        for _, r in ratios.iterrows()
    ]
    return [header, *rows, PUBLISHED]


def timed_on(summary: Summary, row: pd.Series) -> str:
    """The machines that the agent of a row was timed on."""
    place = ("protocol", "profile", "env", "agent")
    cells = [c for c in summary.cells if c.status == "done" and all(getattr(c, k) == row[k] for k in place)]
    machines = {hardware_line({k: v for k, v in c.hardware.items() if k not in ("memory", "os")}) for c in cells}
    return " and ".join(sorted(machines - {""}))


_HARDWARE = ("device", "name", "cpu", "cores", "threads", "memory", "os")


def hardware_line(hardware: Mapping[str, str]) -> str:
    """One machine in one line: ``device cpu, cpu Xeon, 2 cores, 1 threads, memory 8 GiB, os Linux``."""
    shown = [k for k in hardware if k != "name" or hardware[k] != hardware.get("cpu")]
    names = sorted(shown, key=lambda k: (_HARDWARE.index(k) if k in _HARDWARE else len(_HARDWARE), k))
    return ", ".join(f"{hardware[k]} {k}" if k in ("cores", "threads") else f"{k} {hardware[k]}" for k in names)


def caption(summary: Summary) -> list[str]:
    """What must stand beside any number of this report: protocol, profile, hardware, versions, substitutes."""
    done = [c for c in summary.cells if c.status == "done"]
    substitutes = [f"{a} = {n}" for a, n in sorted(summary.labels.items()) if n != a and not is_ablation(a)]
    versions = sorted({", ".join(f"{k} {v}" for k, v in sorted(c.versions.items())) for c in done} - {""})
    seeds = sorted({c.seed for c in done})
    lines = {
        "Protocol": ", ".join(sorted({c.protocol for c in summary.cells})),
        "Profile": ", ".join(sorted({c.profile for c in summary.cells})),
        "Training seeds": ", ".join(map(str, seeds)),
        "Training budget": budgets(done),
        "Hardware": "; ".join(sorted({hardware_line(c.hardware) for c in done} - {""})),
        "Versions": "; ".join(versions),
        "Commit": ", ".join(sorted({c.commit for c in done} - {""})),
        "What the names stand for": "; ".join(substitutes),
    }
    return [f"{name}: {text}." for name, text in lines.items() if text]


OWN_STEPS = "each agent its own steps"


def budgets(done: Iterable[CellRecord]) -> str:
    """The training budgets of these cells in words, and whether they are several; empty if none was ever common."""
    found = sorted({budget(c) or OWN_STEPS for c in done if shares_budget(c)})
    if found in ([], [OWN_STEPS]):
        return ""
    return f"{'NOT EQUAL: ' if len(found) > 1 else ''}{'; '.join(found)}"


def shares_budget(cell: CellRecord) -> bool:
    """What ``suite.shares_budget`` says, told from the record: its agent may be unknown here."""
    return cell.weights == "trained" and cell.kind != "privileged" and not names_steps(cell.agent)


def budget(cell: CellRecord) -> str:
    """The training budget that all agents of a run shared, in words; empty if each had its own steps."""
    given = cell.config.get("training") or {}
    for unit, kind in (("seconds", "equal wall-clock time"), ("steps", "equal steps")):
        if (amount := given.get(unit)) is not None:
            return f"{amount:,g} {unit[0] if unit == 'seconds' else unit} of training for every agent that learns from the data ({kind})"
    return ""


def markdown(summary: Summary) -> str:
    """``table.md``."""
    parts = [f"# {md(summary.title)}", "\n".join(f"- {md(line)}" for line in caption(summary))]
    parts += ["What was found:", "\n".join(f"- {md(line)}" for line in summary.verdict)]
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
        parts += [f"## {md(heading)}", _md_table(rows[0], plain_lines(rows[1:]))]
    parts += [SOLVERS] if solvers else []
    if rows := across_rows(summary):
        parts += ["## Across environments", "Interquartile mean with stratified bootstrap."]
        parts.append(_md_table(rows[0], plain_lines(rows[1:])))
    if rows := ratio_rows(summary):
        parts += ["## Planning time against DINO-WM", _md_table(rows[0], plain_lines(rows[1:])), PUBLISHED_NOTE]
    parts += ["## How to read it", *_protocols(summary), INTERVALS]
    return "\n\n".join(parts) + "\n"


def plain_lines(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """Rows of text as one group without a heading."""
    return (("", tuple(Line(row[0], tuple(row[1:])) for row in rows)),)


def terminal(summary: Summary) -> str:
    """The results in 100 columns of plain text."""
    lines = []
    place = ["protocol", "profile", "env", "goal_offset"]
    for (protocol, profile, env, offset), part in summary.table.groupby(place, sort=False, dropna=False):
        lines += ["", f"{short(env)}, {offset_name(offset)} ({protocol}, {profile}; % with 95 % intervals)"]
        width = max(22, *(min(len(agent), 46) for agent in part["agent"]))
        lines.append(f"  {'agent':<{width}}{'reached':>20}{'still there':>20}{'plan time':>12}{'pairs':>7}{'seeds':>7}")
        for _, row in part.iterrows():
            plan = seconds(row["plan_seconds_median"])
            held = percent(row["held"], row["held_low"], row["held_high"])
            pairs, seeds = (number(row[name], "d") for name in ("n_pairs", "n_seeds"))
            lines.append(f"  {row['agent']:<{width}}{reached(row):>20}{held:>20}{plan:>12}{pairs:>7}{seeds:>7}")
            if row["status"] in ("not run", "failed"):
                lines.append(f"      {row['note']}")
    return "\n".join([*lines[1:], ""])


def _protocols(summary: Summary) -> list[str]:
    names = sorted({c.protocol for c in summary.cells})
    return [PROTOCOLS.get(name, f"Protocol {md(name)}.") for name in names]


# What Markdown would act on. A bracket matters only before a link's target, an underscore only at a word's edge.
_MARKDOWN = re.compile(r"[\\`*|~$]|\](?=\()|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def md(text: str) -> str:
    """Text that Markdown shows as it is, inside a table too."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda found: "\\" + found[0], text)


def _md_table(header: Sequence[str], groups: Sequence[tuple[str, Sequence[Line]]]) -> str:
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(md(c) if i == 0 else c for c in row) + " |" for i, row in enumerate(rows)]
    for name, members in groups:
        if name:
            lines.append(f"| **{md(name)}** |" + " |" * (len(header) - 1))
        lines += ["| " + " | ".join(md(c) for c in (line.agent, *line.cells)) + " |" for line in members]
    return "\n".join(lines)


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "µ": r"$\mu$",
}  # fmt: skip


def _tex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    escaped = "".join(_TEX.get(c, c) for c in " ".join(text.split()))
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


def latex(summary: Summary) -> str:
    """``table.tex``: one booktabs table per environment and offset; needs the packages booktabs and graphicx."""
    head = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"
    about = " ".join(caption(summary))
    parts = [_tex_table(("Agent", *v.header), v.groups, f"{v.heading} ({v.setting}). {v.comparisons} {about}", v.notes) for v in views(summary)]  # fmt: skip
    for rows, title in (
        *((rows, f"{heading}. {SOLVERS}") for heading, rows in solver_tables(summary)),
        (across_rows(summary), "Across environments: interquartile mean with stratified bootstrap."),
        (ratio_rows(summary), f"Planning time against DINO-WM. {PUBLISHED_NOTE}"),
    ):
        if rows:
            parts.append(_tex_table(rows[0], plain_lines(rows[1:]), title, ()))
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
