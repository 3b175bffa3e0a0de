"""Somebody's recordings to a dataset of ours: recognise, prove, then write, and nothing where a step fails."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import Problem, UserError
from lewm_bench.core.rng import stream
from lewm_bench.data.collect import CollectConfig
from lewm_bench.data.format import SPLITS, Dataset
from lewm_bench.data.importers.archive import is_archive, unpacked
from lewm_bench.data.importers.columns import Reader, actions_of, pixels_of
from lewm_bench.data.importers.formats import file_in, open_table
from lewm_bench.data.importers.frames import Layout, wanted_size
from lewm_bench.data.importers.proof import Proof, Sample, prove, sampled, unexplained
from lewm_bench.data.importers.states import recorded_rule, rule_of
from lewm_bench.data.importers.table import Names, Table
from lewm_bench.data.recorded import RECORDED_ID, recorded_kwargs
from lewm_bench.data.splits import split_episodes
from lewm_bench.data.writer import DatasetWriter
from lewm_bench.system.files import disk_errors, make_folder

IMPORTED = "import"  # in a dataset's recipe: it was not collected here
_CHECKPOINT_BYTES = 2**28  # of frames between two checkpoints
_COMPARED = 64  # episodes that tell which arguments of an environment explain the data

MakeEnv = Callable[[int, Mapping[str, Any]], GoalEnv]
"""The environment of an image size and further arguments."""


@dataclass(frozen=True)
class Wish:
    """What is to be imported."""

    source: Path
    out: Path
    names: Names
    image_size: int | None = None  # None: as stored
    kind: str = ""  # the format; empty: it is recognised
    split: tuple[float, ...] = ()  # per cent of the episodes for train, val and test; empty: as collected data


@dataclass(frozen=True)
class Imported:
    """What came of it."""

    dataset: Dataset
    lines: tuple[str, ...]  # what was read and what the simulator says to it


def import_data(wish: Wish, make_env: MakeEnv | None, progress: bool = True) -> Imported:
    """Import ``wish.source`` into ``wish.out``; an import that was killed goes on when it is asked for again.

    Args:
        make_env: makes the environment that the data are of; None if there is no simulator.

    Raises:
        UserError: something is missing, contradictory, or not what the simulator does. Then nothing is written.
        NotRun: a package is missing.
    """
    if wish.out.exists() and (not wish.out.is_dir() or any(wish.out.iterdir())):
        raise UserError(f"{wish.out} is there already; name another folder with --out, or delete it")
    shares_of(wish.split)  # a mistake in it shows before anything is read
    with _opened(wish) as table:
        found = _recognised(table, wish, make_env)
        return _write(found, wish, progress)


@dataclass(frozen=True)
class _Recognised:
    reader: Reader
    env: GoalEnv | None
    kwargs: Mapping[str, Any]  # of the environment
    proof: Proof | None


@contextmanager
def _opened(wish: Wish) -> Iterator[Table]:
    """The table, and an archive unpacked beside the result for as long."""
    if not wish.source.exists():
        raise UserError(f"{wish.source} does not exist")
    scratch = _beside(wish.out, "unpacked")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        if is_archive(wish.source):
            make_folder(scratch.parent)
            path = unpacked(wish.source, scratch)
        else:
            path = wish.source
        table = open_table(file_in(path), wish.names, wish.kind)
        table.source = str(wish.source)
        try:
            yield table
        finally:
            table.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    out = out.absolute()
    return out.parent / f".{out.name}.{what}"


def _recognised(table: Table, wish: Wish, make_env: MakeEnv | None) -> _Recognised:
    """What the columns are, and whether the simulator agrees."""
    if not (table.lengths > 1).any():
        raise UserError(f"{table.source} has no episode of two frames or more")
    pixels, actions = pixels_of(table, wish.names), actions_of(table, wish.names)
    place = f"{table.source}: {pixels}"
    column = table.column(pixels)
    layout = Layout.of(place, column, table.read(pixels, int(np.argmax(table.lengths > 1))))
    height, width = column.shape[1:] if layout.channels_first else column.shape[:2]
    size = wanted_size(place, height, width, wish.image_size)
    reader = Reader(table, pixels, layout, size, actions, 0, recorded_rule(table, wish.names))
    if make_env is None:
        if column_is_discrete(table, actions):
            raise UserError(f"{table.source}: {actions} are discrete; without an environment their number is not known")
        reader.episode(int(np.argmax(table.lengths > 1)))  # a mistake shows before anything is written
        return _Recognised(reader, None, {}, None)
    return _proved(reader, make_env, wish.names)


def _proved(reader: Reader, make_env: MakeEnv, names: Names) -> _Recognised:
    """What the columns are to an environment, which does what they say.

    Raises:
        UserError: it does not, or its actions and states are others.
    """
    table, env = reader.table, make_env(reader.size, {})
    env_id = env.spec.id if env.spec else type(env).__name__
    rule = rule_of(env_id, env.get_state().size, table, names)
    width = env.action_space.shape[0]
    discrete = width > 1 and column_is_discrete(table, reader.actions)
    numbers = width if discrete else int(np.prod(table.column(reader.actions).shape))
    if numbers != width:
        raise UserError(
            f"{table.source}: {reader.actions} has {numbers} numbers, but an action of {env_id} has {width}"
        )
    reader = replace(reader, rule=rule, choices=width if discrete else 0)
    tried = [(kwargs, make_env(reader.size, kwargs) if kwargs else env) for kwargs in rule.variants]
    kwargs, env = tried[0] if len(tried) == 1 else _best(reader, tried)
    proof = prove(env, _sample(reader), rule.known)
    if problem := proof.contradiction():
        raise UserError(
            f"{table.source} is not of {env_id}: {problem}; name another --env or "
            "--states, or import without a simulator: --env none"
        )
    return _Recognised(reader, env, kwargs, proof)


def _best(reader: Reader, tried: Sequence[tuple[Mapping[str, Any], GoalEnv]]) -> tuple[Mapping[str, Any], GoalEnv]:
    """The arguments with which an environment explains most of the movement; they differ at walls, so many steps count."""
    lengths = reader.table.lengths
    usable = np.flatnonzero(lengths > 1)
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, _COMPARED).astype(int))].tolist()
    actions = np.concatenate([reader.executed(number) for number in chosen])
    states = [reader.rule.read(reader.table, number) for number in chosen]
    before, after = (np.concatenate([each[part] for each in states]) for part in (slice(-1), slice(1, None)))
    return min(tried, key=lambda each: unexplained(each[1], before, actions, after, reader.rule.known))


def column_is_discrete(table: Table, name: str) -> bool:
    """Whether actions are numbers of choices."""
    column = table.column(name)
    return column.dtype.kind in "iu" and int(np.prod(column.shape)) == 1


def _sample(reader: Reader) -> Sample:
    parts = []
    for number, steps in sampled(reader.table.lengths):
        episode = reader.episode(number)
        parts.append((episode.frames[steps], episode.states[steps], episode.actions[steps], episode.states[steps + 1]))
    return Sample(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def sample_of(dataset: Dataset) -> Sample:
    """The same transitions of a finished dataset."""
    rows = np.concatenate([dataset.starts[episode] + steps for episode, steps in sampled(dataset.lengths)])
    return Sample(dataset.frames[rows], dataset.states[rows], dataset.actions[rows], dataset.states[rows + 1])


def _write(found: _Recognised, wish: Wish, progress: bool) -> Imported:
    reader, work, shares = found.reader, _beside(wish.out, "importing"), shares_of(wish.split)
    recipe = {IMPORTED: _recipe(found, wish)}
    numbers = np.flatnonzero(reader.table.lengths > 1)
    make_folder(work)
    try:
        with DatasetWriter(work, recipe) as writer:
            _copy(reader, numbers, writer, progress)
            dataset = _finished(found, writer, shares)
        folder = _moved(dataset.folder, wish.out)
    except Problem:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Imported(Dataset.open(folder), (*_lines(found, len(numbers)), *(found.proof.lines() if found.proof else ())))


def _copy(reader: Reader, numbers: np.ndarray, writer: DatasetWriter, progress: bool) -> None:
    pending = 0
    done = len(writer.ends)
    for number in tqdm(numbers[done:], "import", len(numbers), initial=done, unit="episode", disable=not progress):
        episode = reader.episode(int(number))
        writer.add(episode, "imported")
        pending += episode.frames.nbytes
        if pending > _CHECKPOINT_BYTES:
            writer.checkpoint()
            pending = 0
    writer.checkpoint()


def _finished(found: _Recognised, writer: DatasetWriter, shares: Mapping[str, float]) -> Dataset:
    splits = split_episodes(len(writer.ends), shares, stream(0, "import", "splits"))
    if found.env is not None and found.env.spec is not None:
        space = found.env.action_space
        kwargs = {**found.env.spec.kwargs, **found.kwargs}
        return writer.finish(
            env=found.env.spec.id,
            env_kwargs=kwargs,
            action_low=space.low,
            action_high=space.high,
            seed=0,
            splits=splits,
        )
    low, high = action_range(found.reader)
    kwargs = recorded_kwargs(low, high, _state_size(found.reader), found.reader.size)
    return writer.finish(env=RECORDED_ID, env_kwargs=kwargs, action_low=low, action_high=high, seed=0, splits=splits)


def shares_of(split: Sequence[float]) -> dict[str, float]:
    """The shares of train, val and test, of their per cent.

    Raises:
        UserError: they are not three, do not add up to 100, or leave nothing to train on.
    """
    if not split:
        config = CollectConfig()
        return {name: getattr(config, name) for name in SPLITS}
    if len(split) != len(SPLITS) or min(split) < 0 or not split[0] or not math.isclose(sum(split), 100):
        raise UserError(
            f"--split takes per cent of the episodes for {', '.join(SPLITS)}, together 100, for example 75,10,15; got "
            f"{','.join(f'{part:g}' for part in split)}"
        )
    return {name: part / 100 for name, part in zip(SPLITS, split, strict=True)}


def action_range(reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest value of each number of an action."""
    low, high = np.inf, -np.inf
    for number in np.flatnonzero(reader.table.lengths > 1).tolist():
        actions = reader.executed(number)
        low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
    return np.asarray(low, float), np.asarray(high, float)


def _state_size(reader: Reader) -> int:
    first = int(np.argmax(reader.table.lengths > 1))
    return reader.rule.read(reader.table, first).shape[1]


def _recipe(found: _Recognised, wish: Wish) -> dict[str, Any]:
    """Where the data are from, as JSON."""
    reader = found.reader
    return {
        "format": reader.table.kind,
        "source": wish.source.name,
        "rows": int(reader.table.lengths.sum()),
        "episodes": len(reader.table.lengths),
        "pixels": reader.pixels,
        "actions": reader.actions,
        "states": list(reader.rule.columns),
        "image_size": reader.size,
        "known": reader.rule.known,
    }


def _moved(work: Path, out: Path) -> Path:
    with disk_errors(out):
        if out.is_dir():
            out.rmdir()  # an empty one
        os.replace(work, out)
    return out


def _lines(found: _Recognised, episodes: int) -> list[str]:
    reader = found.reader
    lengths = reader.table.lengths[reader.table.lengths > 1]
    states = " and ".join(reader.rule.columns) or "none recorded, one zero"
    size = f"{int(lengths.sum())} frames of {reader.size} x {reader.size}"
    columns = f"frames from {reader.pixels}, actions from {reader.actions}, states from {states}"
    lines = [f"{reader.table.kind}: {episodes} episodes, {size}; {columns}"]
    if dropped := len(reader.table.lengths) - episodes:
        lines.append(f"{dropped} episodes of a single frame are left out")
    if found.kwargs:
        lines.append(f"the steps are explained best with {', '.join(f'{k}={v}' for k, v in found.kwargs.items())}")
    if found.env is None:
        lines.append("no simulator: models can be trained and examined, but planning cannot be scored")
    return lines
