"""The benchmark from Python: agents that act, suites, trainings and planning times, with the command line's engine.

Everything here is also an attribute of ``lewm_bench`` itself: ``import lewm_bench as lb; lb.run("smoke")``.
"""

from lewm_bench.api.acting import ActingAgent
from lewm_bench.api.attempt import Attempt
from lewm_bench.api.checking import check
from lewm_bench.api.loading import load
from lewm_bench.api.results import Result, SpeedResult
from lewm_bench.api.running import run
from lewm_bench.api.timing import speed
from lewm_bench.api.training import train
from lewm_bench.core.errors import NotRun, TrainingFailed, UserError

__all__ = [
    "ActingAgent",
    "Attempt",
    "NotRun",
    "Result",
    "SpeedResult",
    "TrainingFailed",
    "UserError",
    "check",
    "load",
    "run",
    "speed",
    "train",
]
