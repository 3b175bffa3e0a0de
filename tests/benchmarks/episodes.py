"""Episodes planned together beside one alone: LeWM's plans at a profile's size, in turns in one process.

    python tests/benchmarks/episodes.py --profile quick --episodes 10

Prints medians of whole plans, their ratio, and operations per second beside the machine's peak, which bounds the ratio
from below: episodes share weights and nothing else. Needs no data and no network. Beside other programs use
``--clock cpu``: the processor's time of one thread.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from lewm_bench.cli.app import SPIN
from lewm_bench.system.resources import keep_memory

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
keep_memory()

import numpy as np
import torch

from lewm_bench.evaluation.speed import Case, Method, count_flops, gemm_peak, method_of, plan_once
from lewm_bench.run import benchmarks as suites
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import Suite, resolve
from lewm_bench.system.provenance import hardware

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
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
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    if arguments.clock == "cpu":
        torch.set_num_threads(1)
    clock = CLOCKS[arguments.clock]
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
                begin = clock()
                plan_once(case, number)
                if number:  # the first is discarded
                    seconds[batch].append(clock() - begin)
        _, flops = count_flops(cases[1])
    median = {batch: float(np.median(values)) for batch, values in seconds.items()}
    for batch, value in median.items():
        low, high = np.quantile(seconds[batch], [0.25, 0.75])
        spread, rate = f"[{1e3 * low:.1f}, {1e3 * high:.1f}]", batch * flops / value / 1e9
        print(f"{batch} together: {1e3 * value:.1f} ms {spread}, {value / median[1]:.2f} of one, {rate:.0f} GFLOP/s")
    peak = f"GEMM peak {gemm_peak('float32', CPU) / 1e9:.0f} GFLOP/s float32, by the wall clock"
    print(f"By the {arguments.clock} clock, n {arguments.plans}; {peak}; {hardware(CPU)}; torch {torch.__version__}")


if __name__ == "__main__":
    main()
