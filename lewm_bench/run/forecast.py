"""What the data of a suite will take before any are collected, told from a few episodes that are thrown away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lewm_bench.core.env import require_spaces
from lewm_bench.core.errors import Problem, UserError
from lewm_bench.data.collect import LEARNED, TIMED, CollectConfig, collect, share
from lewm_bench.data.estimate import SPARE, Estimate, duration, folder_bytes, size
from lewm_bench.data.format import Dataset
from lewm_bench.run.benchmarks import EnvSpec
from lewm_bench.run.environments import make_env
from lewm_bench.run.keys import DATA_SEED, dataset_spec
from lewm_bench.run.stages import Run
from lewm_bench.system.doctor import Check
from lewm_bench.system.faults import error_line, machine_line, result_or_error
from lewm_bench.system.scratch import scratch_folder

LARGE = 1e10  # bytes of pixels; fewer are compressed in minutes, and a collection looks ahead by itself
TOGETHER = "data: together"


def forecast(run: Run, spec: EnvSpec) -> Estimate | None:
    """What is left to collect of an environment's data; None if the cache has them.

    Raises:
        UserError: they cannot be collected.
    """
    settings = run.suite.of(spec).settings
    env = make_env(spec.id, settings.image_size, spec.kwargs, spec.adapt)
    require_spaces(env, spec.label)
    config = settings.collect.of(env)
    key = dataset_spec(spec, env, config)
    if run.store.find("dataset", key) is not None:
        return None
    with scratch_folder() as folder:
        begin = time.perf_counter()
        tried = collect(env, _few(config), DATA_SEED, folder / "tried", progress=False)
        seconds, count = time.perf_counter() - begin, len(tried)
        bytes_each = folder_bytes(tried.folder) / count
    done = min(config.episodes, int(folder_bytes(run.store.unfinished("dataset", key)) / bytes_each))
    return Estimate(done, config.episodes - done, bytes_each, seconds / count / share(env, run.workers))


def _few(config: CollectConfig) -> CollectConfig:
    """Its first few episodes, without a policy that takes minutes of training before it collects."""
    others = {name: part for name, part in config.policies.items() if name != LEARNED}
    policies = {name: part / sum(others.values()) for name, part in others.items()}
    return config.model_copy(update={"episodes": min(TIMED, config.episodes), "policies": policies})


def require_room(run: Run) -> None:
    """Tell what the data of a suite will take, if they are large and of several environments; raise if they do not fit.

    Those of a single one are looked ahead to when its first episodes are there.

    Raises:
        UserError: the disk has no room for all of them.
    """
    if run.data is not None or len(run.suite.envs) < 2 or _pixels(run) < LARGE:
        return
    estimates = []
    for spec in run.suite.envs:
        found = result_or_error(lambda spec=spec: forecast(run, spec))
        if isinstance(found, Estimate):  # what cannot be collected says so when its turn comes
            estimates.append(found)
            if found.worth_a_line:
                run.say(f"{spec.label}: {found}")
    if problem := _no_room(run.store.root, estimates):
        raise UserError(f"{problem}; {_mend(run.store.root, estimates)}")


def _pixels(run: Run) -> int:
    """Bytes of all frames that a suite's data have as arrays."""
    every = [run.suite.of(spec).settings for spec in run.suite.envs]
    return sum(s.collect.episodes * (s.collect.steps + 1) * 3 * s.image_size**2 for s in every)


def check_data(run: Run) -> Iterator[Check]:
    """What the data of each environment of a suite will take, and whether the disk has room for all of them."""
    estimates = []
    for spec in run.suite.envs:
        name, found = f"data: {spec.label}", result_or_error(lambda spec=spec: forecast(run, spec))
        if found is None:
            yield Check(name, "ok", "in the cache")
        elif isinstance(found, Exception):
            yield Check(name, "warn", f"cannot be collected here: {_reason(found)}")
        else:
            estimates.append(found)
            yield Check(name, "ok", str(found))
    if estimates:
        yield _check_room(run.store.root, estimates)


def _check_room(cache: Path, estimates: list[Estimate]) -> Check:
    if problem := _no_room(cache, estimates):
        return Check(TOGETHER, "fail", problem, _mend(cache, estimates))
    return Check(TOGETHER, "ok", f"{_takes(estimates)}; {size(_free(cache))} free in {cache}")


def check_given(folder: Path, verify: bool) -> Check:
    """Whether a dataset that is given with ``--data`` is one, and with ``verify`` whether every byte is as it was written.

    Raises:
        UserError: it is not.
    """
    dataset = Dataset.open(folder)
    rows, height, width, _ = dataset.frames.shape
    seen = "; every byte is as it was written" if verify else ""
    if verify:
        dataset.verify()
    detail = f"{len(dataset)} episodes, {rows} frames of {height} x {width}, {size(folder_bytes(folder))}{seen}"
    return Check(f"data: {folder}", "ok", detail)


def _no_room(cache: Path, estimates: Iterable[Estimate]) -> str:
    """That the disk has no room for the data, in words; empty if it has."""
    if sum(e.bytes_left for e in estimates) <= _free(cache) - SPARE:
        return ""
    return f"the data take {_takes(estimates)}, but {cache} has {size(_free(cache))} free"


def _mend(cache: Path, estimates: Iterable[Estimate]) -> str:
    fit = max(0.0, (_free(cache) - SPARE) / sum(e.bytes_left for e in estimates))
    return (
        f"{int(100 * fit)} % of the episodes would fit: lower collect.episodes with --set, name fewer --envs, "
        "or choose another --cache"
    )


def _takes(estimates: Iterable[Estimate]) -> str:
    together = [sum(each) for each in zip(*((e.bytes_left, e.seconds_left) for e in estimates), strict=True)]
    return f"about {size(together[0])} and {duration(together[1])}"


def _free(folder: Path) -> int:
    """Free bytes of the disk where ``folder`` is or will be."""
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Problem) else machine_line(error) or error_line(error)
