"""The table, the text and the files of tuning, from its trials alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from lewm_bench.core.config import deep_merge
from lewm_bench.core.formatting import seconds, short
from lewm_bench.core.names import parse_agent, value_of
from lewm_bench.report.ablation import PLANNER
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.figures.tuning import comparison, draw
from lewm_bench.report.text import number, percent
from lewm_bench.run.results_folder import set_aside
from lewm_bench.run.tuning.trials import Trial, Tuning
from lewm_bench.system.filenames import agents_stem
from lewm_bench.system.files import write_bytes, write_text
from lewm_bench.system.record_files import json_in_lines

TRIALS, RECORD, BEST, FIGURE, COMPARISON = "trials.csv", "tune.json", "best.yaml", "tune.png", "comparison.csv"


def folder_name(agents: Sequence[str], env: str) -> str:
    """Where the results of these agents go: ``lewm-PointMaze-UMaze-v0``."""
    return agents_stem(agents, env)


def report(tunings: Iterable[Tuning], out: Path) -> tuple[list[Tuning], list[Path]]:
    """Write a folder per agent into ``out`` as soon as it is tuned, and one that compares them if there are several.

    Returns:
        What was tuned, and the folders.
    """
    done, folders = [], []
    for tuning in tunings:
        done.append(tuning)
        folders.append(out / folder_name([tuning.agent], tuning.env))
        write_tuning(tuning, folders[-1])
    if len(done) > 1:
        folders.append(out / folder_name([tuning.agent for tuning in done], done[0].env))
        write_comparison(done, folders[-1])
    return done, folders


def write_tuning(tuning: Tuning, folder: Path) -> None:
    """Write ``trials.csv``, ``tune.json``, ``tune.png`` and, if any training succeeded, ``best.yaml``.

    Those of another tuning go to ``earlier-N`` in the folder.
    """
    text = json_in_lines(record(tuning))
    if not (folder / RECORD).is_file() or (folder / RECORD).read_text(encoding="utf-8") != text:
        set_aside(folder, (TRIALS, RECORD, BEST, FIGURE), RECORD)
    write_text(folder / TRIALS, trials_csv(tuning))
    write_text(folder / RECORD, text)
    write_bytes(folder / FIGURE, png(draw(tuning)))
    if tuning.best is None:  # that of an earlier tuning would deceive
        (folder / BEST).unlink(missing_ok=True)
    else:
        write_text(folder / BEST, best_yaml(tuning, tuning.best))


def write_comparison(tunings: Sequence[Tuning], folder: Path) -> None:
    """Write ``comparison.csv`` and ``tune.png`` of several agents that had the same number of trials."""
    write_text(folder / COMPARISON, comparison_csv(tunings))
    write_bytes(folder / FIGURE, png(comparison(tunings)))


def record(tuning: Tuning) -> dict[str, Any]:
    """What ``tune.json`` holds: the trials, and what follows from them."""
    best, difference = tuning.best, tuning.difference
    summary = {
        "best": None if best is None else {"trial": best.trial, "agent": best.agent, "objective": best.objective},
        "minus_default": None if difference is None else difference._asdict(),
    }
    return tuning.model_dump(mode="json") | summary


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        ["" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def trials_csv(tuning: Tuning) -> str:
    """One row per trial, in order; shares from 0 to 1."""
    paths = [dimension.path for dimension in tuning.dimensions]
    header = ["trial", "agent", *paths, "objective", "hit", "held", "held_low", "held_high", "distance"]
    rows: list[list[object]] = [[*header, "train_seconds", "status", "reason"]]
    for t in tuning.trials:
        held = t.interval if t.held else (None, None, None)
        texts = [d.text(v) for d, v in zip(tuning.dimensions, t.values, strict=True)]
        measured = [t.objective, t.hit_rate, *held, t.distance, t.train_seconds]
        rows.append([t.trial, t.agent, *texts, *measured, t.status, t.reason])
    return _csv(rows)


def comparison_csv(tunings: Sequence[Tuning]) -> str:
    """One row per agent and trial, with what had been reached and spent by then."""
    rows: list[list[object]] = [["agent", "trial", "objective", "best_so_far", "train_seconds", "spent_seconds"]]
    for tuning in tunings:
        columns = zip(tuning.trials, tuning.best_so_far, tuning.spent_seconds, strict=True)
        rows += [[tuning.agent, t.trial, t.objective, best, t.train_seconds, spent] for t, best, spent in columns]
    return _csv(rows)


def settings_of(tuning: Tuning, trial: Trial) -> dict[str, float]:
    """Path to value of a trial."""
    return {d.path: v for d, v in zip(tuning.dimensions, trial.values, strict=True)}


def best_yaml(tuning: Tuning, best: Trial) -> str:
    """A block for a profile of benchmarks.yaml."""
    block: dict[str, Any] = {}
    kept = {path: value_of(text) for path, text in kept_settings(tuning)}
    for path, value in {**kept, **settings_of(tuning, best)}.items():
        nested: Any = value
        for key in reversed(_owner(tuning, path)):
            nested = {key: nested}
        block = deep_merge(block, nested)
    about = f"{tuning.agent} in {tuning.env}, profile {tuning.profile}: {_many(tuning)}, {_shares(best)} on validation"
    return f"# {about}\n{yaml.safe_dump(block, default_flow_style=None, sort_keys=False, width=1000)}"


def kept_settings(tuning: Tuning) -> list[tuple[str, str]]:
    """The settings in the agent's name that were not searched: what was found holds with them."""
    searched = {d.path for d in tuning.dimensions}
    return [(path, text) for path, text in parse_agent(tuning.agent).settings if path not in searched]


def _owner(tuning: Tuning, path: str) -> list[str]:
    """The keys of a setting in a profile: below the agent, unless it is the planner's."""
    return [*([] if path.startswith(PLANNER) else [parse_agent(tuning.agent).base]), *path.split(".")]


def set_options(tuning: Tuning, trial: Trial) -> str:
    """The options that use a trial's values in a command; of a variant, which ``--set`` cannot name, its whole name."""
    if parse_agent(tuning.agent).variant is not None:
        return f"--agents {quote(trial.agent)}"
    found = [(d.path, d.text(v)) for d, v in zip(tuning.dimensions, trial.values, strict=True)]
    texts = (f"{'.'.join(_owner(tuning, path))}={text}" for path, text in [*kept_settings(tuning), *found])
    return " ".join(f"--set {quote(text)}" for text in texts)


def _many(tuning: Tuning) -> str:
    count = len(tuning.trials)
    return f"{count} trial{'s' if count != 1 else ''} by {tuning.method}"


def _shares(trial: Trial) -> str:
    return f"{percent(*trial.interval)} %"


def terminal(tunings: Sequence[Tuning]) -> str:
    """What a terminal shows."""
    texts = [path_text(tuning) for tuning in tunings]
    return "\n\n".join([*texts, comparison_text(tunings)] if len(tunings) > 1 else texts) + "\n"


def path_text(tuning: Tuning) -> str:
    """The path of the search, the best trial and how sure it is, as plain text."""
    paths = [d.path for d in tuning.dimensions]
    ranges = ", ".join(f"{d.path} from {d.text(d.low)} to {d.text(d.high)}" for d in tuning.dimensions)
    offsets = " and ".join(map(str, tuning.goal_offset))
    lines = [
        f"{tuning.agent} in {short(tuning.env)} ({tuning.profile}, seed {tuning.seed}): {_many(tuning)}",
        f"searched {ranges}",
        f"validation episodes, {tuning.num_pairs} pairs per goal offset ({offsets} steps); % with 95 % intervals",
        "",
    ]
    rows = [("trial", *paths, "still there", "reached", "distance left", "training", "")]
    rows += [_terminal_row(tuning, trial) for trial in tuning.trials]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  " + "  ".join(c.rjust(w) for c, w in zip(r[:-1], widths, strict=False)) + f"  {r[-1]}" for r in rows]
    return "\n".join(line.rstrip() for line in [*lines, "", *verdict(tuning)])


def _terminal_row(tuning: Tuning, t: Trial) -> tuple[str, ...]:
    texts = [d.text(v) for d, v in zip(tuning.dimensions, t.values, strict=True)]
    best = tuning.best
    marks = ["default"] * (t is tuning.default) + ["best"] * (best is not None and t.trial == best.trial)
    measured = ("failed", "", "") if t.status == "failed" else (
        percent(*t.interval), percent(t.hit_rate), number(t.distance, ".3g")
    )  # fmt: skip
    return (
        str(t.trial),
        *texts,
        *measured,
        seconds(t.train_seconds),
        ", ".join([*marks, *filter(None, [t.reason])]),
    )


def verdict(tuning: Tuning) -> list[str]:
    """What was found, whether it is more than noise, and how to use it."""
    best = tuning.best
    if best is None:
        return ["No trial could be trained: " + tuning.default.reason]
    pairs = sum(map(len, best.held))
    lines = [f"best: trial {best.trial}, {best.agent}, {_shares(best)}"]
    if best.trial == tuning.default.trial:
        lines.append("The values it is configured with are the best of those tried.")
    else:
        lines.append(_against_default(tuning))
    lines += [
        f"One training seed, {pairs} pairs: by chance alone a share moves by about {_noise(best):.0f} points.",
        f"The best of {len(tuning.trials)} trials is optimistic on the pairs that chose it; the test episodes decide.",
        f"use it: {set_options(tuning, best)}",
    ]
    return lines


def _noise(trial: Trial) -> float:
    """Half the width of the 95 % interval, in percent points."""
    return 50 * (trial.interval.high - trial.interval.low)


def _against_default(tuning: Tuning) -> str:
    difference, fresh = tuning.difference, tuning.fresh
    if difference is None or fresh is None:
        return f"The values it is configured with failed: {tuning.default.reason}"
    pairs = sum(map(len, fresh.best))
    text = f"minus the default on {pairs} fresh pairs, which chose neither: {percent(*difference, sign='+')} points (one run)"
    if difference.low <= 0 <= difference.high:
        return f"{text}. Warning: the interval contains 0, these pairs cannot tell it from the default."
    return text


def comparison_text(tunings: Sequence[Tuning]) -> str:
    """One line per agent."""
    rows = [("agent", "dimensions", "trials", "failed", "default", "best, still there", "training in all")]
    for t in tunings:
        failed = sum(trial.status == "failed" for trial in t.trials)
        default = "failed" if t.default.status == "failed" else percent(*t.default.interval)
        best = "failed" if t.best is None else percent(*t.best.interval)
        counts = (str(n) for n in (len(t.dimensions), len(t.trials), failed))
        rows.append((t.agent, *counts, default, best, seconds(t.spent_seconds[-1])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
