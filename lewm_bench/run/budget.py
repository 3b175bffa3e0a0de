"""How many training steps fit into a number of seconds: an equal wall-clock budget that still repeats.

Training stops after a number of steps and never by the clock, or the same command would train another model. So the
pace of each agent is measured once, in two short trainings of different length, and kept in the cache: whatever is
fixed (pretraining an encoder, encoding the frames) cancels in their difference and is paid for out of the budget.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm_bench.agent import Family, Setting, learning
from lewm_bench.core.errors import UserError
from lewm_bench.system.files import write_text
from lewm_bench.system.provenance import hardware
from lewm_bench.system.store import read_result
from lewm_bench.train.logs import NOWHERE

PROBES = (20, 60)  # steps of the two trainings, at least
PROBED = 8.0  # seconds that the longer one takes at least: a short one is at the mercy of what else runs
FILE = "pace.json"


def within_seconds(setting: Setting, family: Family, seconds: float, spec: dict[str, Any]) -> Setting:
    """``setting`` with as many training steps as take about ``seconds`` on this machine.

    Args:
        spec: what determines the weights. All seeds and every number of steps share one measurement.

    Raises:
        UserError: the seconds are gone before the first step.
    """
    config = {**spec["config"], "train": {k: v for k, v in spec["config"]["train"].items() if k != "steps"}}
    key = {k: v for k, v in spec.items() if k != "seed"} | {"config": config, "hardware": hardware(setting.device)}
    folder = setting.store.stage("pace", key, lambda work: measure(setting, family, work))
    pace = read_result(folder, FILE)
    steps = steps_within(seconds, pace["fixed"], pace["step"])
    if steps < 1:
        raise UserError(
            f"training.seconds is {seconds:g}, but {setting.agent} needs {pace['fixed']:.0f} s before its first step"
        )
    return with_steps(setting, steps)


def measure(setting: Setting, family: Family, work: Path) -> None:
    """Time both trainings and leave the seconds that are fixed and those of a step in ``work``."""

    def timed(steps: int) -> float:
        with tempfile.TemporaryDirectory(prefix=".training-", dir=work) as folder:
            probe = replace(with_steps(setting, steps, on_collapse="continue"), progress=False, log_to=NOWHERE)
            return family.train(learning(probe), Path(folder)).seconds

    few, more = PROBES
    timed(few)  # pays for what a process does once, and is not counted
    short = timed(few)
    many = max(more, math.ceil(few * PROBED / max(short, 1e-3)))
    fixed, step = line_through((few, many), [short, timed(many)])
    write_text(work / FILE, json.dumps({"fixed": fixed, "step": step}))


def line_through(steps: tuple[int, int], seconds: list[float]) -> tuple[float, float]:
    """Seconds that are fixed and seconds of a step, from the times of two trainings."""
    step = (seconds[1] - seconds[0]) / (steps[1] - steps[0])
    if step <= 0:  # noise: something else held up the shorter one
        return 0.0, seconds[1] / steps[1]
    return max(0.0, seconds[0] - step * steps[0]), step


def steps_within(seconds: float, fixed: float, step: float) -> int:
    """Whole steps that fit."""
    return int((seconds - fixed) / step)


def with_steps(setting: Setting, steps: int, on_collapse: str | None = None) -> Setting:
    """The setting with another length of training; a training that is only timed may end as it likes."""
    own = setting.config.train
    train = own.model_copy(update={"steps": steps, "epochs": None, "on_collapse": on_collapse or own.on_collapse})
    return replace(setting, config=setting.config.model_copy(update={"train": train}))
