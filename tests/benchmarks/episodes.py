"""Episodes planned together beside one alone: LeWM's search at a profile's size, in turns in one process.

    python tests/benchmarks/episodes.py --profile quick --episodes 10

Prints medians, the ratio, and what the matrix products alone would cost at the machine's peak: the ratio cannot fall
below episodes x that floor / one plan, since episodes share weights and nothing else. Needs no data and no network.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lewm_bench.cli.app import SPIN, _keep_memory

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
_keep_memory()

import numpy as np
import torch

from lewm_bench.evaluation.speed import Case, Method, count_flops, gemm_peak, method_of, plan_once
from lewm_bench.run import benchmarks as suites
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Suite, resolve
from lewm_bench.system.provenance import hardware

CPU = torch.device("cpu")


def suite_of(profile: str) -> Suite:
    """The suite ``speedup`` of the repository."""
    return resolve(suites.load(Path(__file__).parents[2] / "benchmarks.yaml"), "speedup", profile)


def method(suite: Suite, name: str) -> Method:
    return method_of(name, agent_family(name), suite.agent_config(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick", choices=("quick", "paper"))
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--plans", type=int, default=20)
    arguments = parser.parse_args()
    suite = suite_of(arguments.profile)
    planner, size = suite.settings.planner, suite.settings.image_size
    lewm = method(suite, "lewm")
    model = lewm.model(size, CPU)
    agent = lewm.agent(model, "float32", planner, CPU)
    cases = {
        batch: Case(lewm, "float32", model, agent, planner, batch=batch, image_size=size, context=1, weights="random")
        for batch in (1, arguments.episodes)
    }
    seconds: dict[int, list[float]] = {batch: [] for batch in cases}
    with torch.inference_mode():
        for number in range(arguments.plans + 1):
            for batch, case in cases.items():
                _, search = plan_once(case, number)
                if number:  # the first is discarded
                    seconds[batch].append(search)
        _, flops = count_flops(cases[1])
    peak = gemm_peak("float32", CPU)
    median = {batch: float(np.median(values)) for batch, values in seconds.items()}
    for batch, value in median.items():
        low, high = np.quantile(seconds[batch], [0.25, 0.75])
        print(
            f"{batch} together: {1e3 * value:.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}], {value / median[1]:.2f} of one"
        )
    least = arguments.episodes * flops / peak
    print(f"matrix products of {arguments.episodes} at the peak: {1e3 * least:.1f} ms, {least / median[1]:.2f} of one")
    print(f"GEMM peak {peak / 1e9:.0f} GFLOP/s float32; {hardware(CPU)}; torch {torch.__version__}")


if __name__ == "__main__":
    main()
