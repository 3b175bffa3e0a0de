"""The record of a cell: its numbers, its videos and the scene behind its trails, or why it has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lewm_bench
from lewm_bench.agent import Family, Setting, learning
from lewm_bench.core.card import Card
from lewm_bench.core.env import GoalEnv
from lewm_bench.core.errors import NotRun, PluginError, TrainingFailed, UserError
from lewm_bench.core.names import stratum_of
from lewm_bench.data.scenes import scene_name, scene_png
from lewm_bench.data.videos import video_name, write_video
from lewm_bench.evaluation.episodes import PairResult
from lewm_bench.evaluation.trails import trails
from lewm_bench.run.checkpoints import trained_seconds
from lewm_bench.run.environments import make_env
from lewm_bench.run.keys import (
    model_spec,
)
from lewm_bench.run.records import CellRecord, DuringRecord, EpisodeRow, OffsetRecord
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Job
from lewm_bench.run.stages import Measured, Run
from lewm_bench.system.faults import error_line, keep_traceback, machine_line, result_or_error
from lewm_bench.system.files import write_bytes
from lewm_bench.system.store import stage_key

logger = logging.getLogger(__name__)

SCENE_STATES, SCENE_PIXELS = 31, 256  # an odd number, so that a median is one of the values
ERRORS = "errors"  # folder of tracebacks in the results


def record(
    run: Run,
    job: Job,
    setting: Setting,
    family: Family,
    measured: dict[int, Measured],
    training: dict[str, Any],
    during: Sequence[DuringRecord] = (),
) -> CellRecord:
    """The cell's record, with one video of a success and one of a failure per offset."""
    first = next(iter(measured.values())).measures
    rows, offsets = [], []
    for offset, m in measured.items():
        rows += [episode_row(run, job, offset, r, m) for r in m.results]
        offsets.append(
            OffsetRecord(
                goal_offset=offset,
                plan_seconds=[
                    e + s for r in m.results for e, s in zip(r.encode_seconds, r.search_seconds, strict=True)
                ],
                encode_seconds=[e for r in m.results for e in r.encode_seconds],
                pairs_candidates=m.pairs.candidates,
                pairs_solved_at_start=m.pairs.solved_at_start,
                pairs_sorted=m.pairs.sorted,
                pairs_of_stratum=m.pairs.of_stratum,
                latent_oracle_hit=m.measures["latent_oracle_hit"],
                latent_oracle_pairs=m.measures["latent_oracle_pairs"],
                distance_rank_correlation=m.measures["rank_correlation"],
                flops_per_step=m.measures.get("flops_per_step"),  # which older evaluations in a cache have not
                videos=videos(run, job, setting, offset, m),
                trails=trails(setting.env, m.results, m.dataset.states[m.pairs.goal_row]),
            )
        )
    draw_scene(run, job, setting)
    return CellRecord(
        **record_fields(run, job, "done"),
        label=first["label"],
        kind=family.kind,
        note=first["note"],
        key=stage_key("model", model_spec(setting, family)),
        config=config_of(run, job, setting, family),
        dataset=setting.dataset.fingerprint,
        weights=first["weights"],
        parameters=first["parameters"],
        tokens_per_frame=first["tokens_per_frame"],
        **base_of(training),
        train_seconds=trained_seconds(training),
        training=training.get("columns", {}),
        train_clips=training_clips(setting, family),
        train_episodes=training_episodes(setting, family),
        train_hardware=training.get("hardware", {}),
        during=during,
        offsets=offsets,
        episodes=rows,
        versions=first["versions"],
        hardware=first["hardware"],
        commit=first["commit"],
        created=first["created"],
    )


def base_of(training: dict[str, Any]) -> dict[str, Any]:
    """What a training was built on, as fields of the record."""
    base = training.get("base")
    return {} if base is None else {"base": base["told"], "base_seconds": base["seconds"]}


def training_clips(setting: Setting, family: Family) -> int | None:
    """How many clips a training drew from; None for what does not train, or does not count passes over the data."""
    try:
        return family.training_clips(learning(setting)) if family.trainable else None
    except UserError:
        return None


def training_episodes(setting: Setting, family: Family) -> int | None:
    """How many episodes a training had; None for what does not train, or makes its own."""
    if not family.trainable or family.kind == "privileged":
        return None
    return len(learning(setting).dataset.episodes("train"))


def config_of(run: Run, job: Job, setting: Setting, family: Family) -> dict[str, Any]:
    """Everything that a reader needs to repeat the cell, defaults included."""
    settings = run.suite.of(job.env).settings.model_dump(mode="json")
    settings["evaluate"]["num_pairs"] = job.num_pairs
    settings["planner"] = setting.planner.model_dump(mode="json")
    settings["env"] = job.env.model_dump(mode="json")
    settings["agent"] = setting.config.model_dump(mode="json") if family.trainable else {}
    return settings


def record_fields(run: Run, job: Job, status: str) -> dict[str, Any]:
    """The fields that every record of a job has."""
    return {
        "status": status,
        "suite": run.suite.name,
        "profile": run.suite.profile,
        "protocol": job.protocol,
        "env": job.env.label,
        "agent": job.agent,
        "card": card_of_agent(job.agent),
        "seed": job.seed,
    }


def episode_row(run: Run, job: Job, offset: int, result: PairResult, measured: Measured) -> EpisodeRow:
    """One line of episodes.csv."""
    fields = {k: v for k, v in record_fields(run, job, "").items() if k not in ("status", "card")}
    return EpisodeRow(
        **fields,
        goal_offset=offset,
        pair=result.pair,
        hit=result.hit,
        held=result.held,
        steps_to_hit=result.steps_to_hit,
        distance_start=result.distance_start,
        distance_end=result.distance_end,
        plans=len(result.search_seconds),
        encode_seconds=sum(result.encode_seconds),
        search_seconds=sum(result.search_seconds),
        env_seconds=result.env_seconds,
        device=measured.measures["hardware"]["device"],
        weights=measured.measures["weights"],
        version=lewm_bench.__version__,
        key=measured.key,
    )


def videos(run: Run, job: Job, setting: Setting, offset: int, measured: Measured) -> tuple[str, ...]:
    """Write the first success and the first failure of the suite's first seed; their file names."""
    if job.seed != min(j.seed for j in run.suite.jobs):
        return ()
    names = []
    for wanted in (True, False):
        result = next((r for r in measured.results if r.hit is wanted), None)
        if result is None:
            continue
        name = video_name(job.env.label, job.agent, job.seed, offset, result.pair, stratum_of(job.protocol))
        states = np.asarray(result.states)
        goal_row = measured.pairs.goal_row[result.pair]
        write_video(
            run.out / name,
            setting.env.render_states(states.copy()),
            measured.dataset.frames[goal_row],
            setting.env.distance(states.copy(), measured.dataset.states[goal_row].copy()),
            setting.env.threshold,
            job.agent,
            unit=setting.env.distance_unit,
        )
        names.append(name)
    return tuple(names)


def draw_scene(run: Run, job: Job, setting: Setting) -> None:
    """Write the job's environment without what moves, before which its trails are drawn; they can do without."""
    spec, dataset = job.env, setting.dataset
    if setting.env.spots(dataset.states[:1].copy()) is None:
        return
    rows = np.linspace(0, len(dataset.states) - 1, SCENE_STATES).astype(int)
    large = result_or_error(lambda: make_env(spec.id, SCENE_PIXELS, spec.kwargs, spec.adapt))
    frames = (
        large if isinstance(large, Exception) else result_or_error(lambda: large.render_states(dataset.states[rows]))
    )
    if isinstance(large, GoalEnv):
        large.close()
    if isinstance(frames, Exception):
        logger.warning("%s: no scene for the figures of paths: %s", spec.label, error_line(frames))
        return
    write_bytes(run.out / scene_name(spec.label), scene_png(frames))


def failure(run: Run, job: Job, error: Exception) -> CellRecord:
    """The record of a job that raised ``error``."""
    kind = agent_kind(job.agent)
    if isinstance(error, NotRun):
        return CellRecord(**record_fields(run, job, "not run"), reason=str(error), kind=kind)
    if isinstance(error, (TrainingFailed, UserError)):
        return CellRecord(**record_fields(run, job, "failed"), reason=str(error), kind=kind)
    cell = CellRecord(**record_fields(run, job, "failed"), kind=kind)
    name = cell.file_name.replace(".json", ".txt")
    return cell.model_copy(update={"reason": reason_with_details(error, run.out, name)})


def reason_with_details(error: Exception, out: Path, name: str) -> str:
    """What went wrong, in one line; the traceback of what nobody foresaw is kept as ``errors/NAME`` in the results."""
    if (line := machine_line(error)) is not None:
        return line
    keep_traceback(error, out / ERRORS / name)
    return f"{error_line(error)} (details: {ERRORS}/{name})"


def agent_kind(agent: str) -> str:
    """Where a cell without results stands in the tables."""
    try:
        return agent_family(agent).kind
    except (NotRun, PluginError, UserError):
        return "world model"


def card_of_agent(agent: str) -> Card:
    """What its family says of an agent, nothing where it cannot be imported."""
    try:
        return agent_family(agent).card
    except (NotRun, PluginError, UserError):
        return Card()


def outcome(cell: CellRecord) -> str:
    """One line about a finished cell."""
    name = " ".join(filter(None, (cell.env.split("/")[-1], cell.agent, f"seed {cell.seed}", stratum_of(cell.protocol))))
    if cell.status != "done":
        return f"{name}: {cell.status}: {cell.reason}"
    parts = []
    for offset in cell.offsets:
        rows = [r for r in cell.episodes if r.goal_offset == offset.goal_offset]
        hit, held = (100 * np.mean([getattr(r, k) for r in rows]) for k in ("hit", "held"))
        parts.append(f"offset {offset.goal_offset} hit {hit:.0f} % held {held:.0f} % (n {len(rows)})")
    return f"{name}: {', '.join(parts)}, plan {np.median(cell.offsets[0].plan_seconds):.3g} s"
