"""Recording trajectories with any loop: ``from lewm_bench.record import RecordTrajectories``."""

from lewm_bench.data.record import RecordTrajectories

__all__ = ["RecordTrajectories"]
