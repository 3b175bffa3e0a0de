"""A row of planning times."""

from __future__ import annotations

from lewm_bench.evaluation.speed_record import SpeedRow
from lewm_bench.report.agents import title
from lewm_bench.run.cells import card_of_agent

XEON = {"device": "cpu", "cpu": "Xeon", "cores": "2", "threads": "1", "memory": "8 GiB", "os": "Linux"}


def row(method: str = "lewm", search=(0.2, 0.3, 0.4), encode=0.1, **changes) -> SpeedRow:
    fields = {
        "method": method, "label": f"{title(method, card_of_agent(method))} (as built)", "card": card_of_agent(method), "mode": "float32", "profile": "quick",
        "image_size": 64, "tokens_per_frame": 16 if "dino" in method else 1, "parameters": 346_000, "batch": 1,
        "context": 1, "num_samples": 300, "num_iterations": 30, "horizon": 5, "timed_samples": 300,
        "timed_iterations": 30, "encode_seconds": [encode] * len(search), "search_seconds": search,
        "encode_flops": 10**9, "search_flops": 6 * 10**9, "peak_flops": 1e11, "weights": "random",
        "versions": {"torch": "2.5"}, "hardware": XEON, "commit": "abc1234",
    }  # fmt: skip
    return SpeedRow(**fields | changes)
