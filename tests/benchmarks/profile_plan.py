"""Where the time of one planning iteration goes, layer by layer, on the fast path.

    python tests/benchmarks/profile_plan.py --profile paper --method lewm --dtype float32

Every layer is timed inside a running search; what is left is element-wise work, attention and Python. Timers cost a
little themselves, so the sum is somewhat above what `lewm-bench speed` reports.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict

from lewm_bench.cli.app import SPIN
from lewm_bench.system.resources import keep_memory

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
keep_memory()

import torch
from episodes import method, suite_of

from lewm_bench.evaluation.speed import gemm_peak
from lewm_bench.planning.cost import latent_cost
from lewm_bench.planning.fast import dino_wm, lewm
from lewm_bench.system.provenance import hardware

SECONDS: dict[str, float] = defaultdict(float)
CALLS: dict[str, int] = defaultdict(int)


def timed(name: str, function):
    def call(*arguments):
        begin = time.perf_counter()
        out = function(*arguments)
        SECONDS[name] += time.perf_counter() - begin
        CALLS[name] += 1
        return out

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--method", default="lewm", choices=("lewm", "dino-wm"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=10)
    arguments = parser.parse_args()
    resolved = suite_of(arguments.profile)
    cpu, timed_method = torch.device("cpu"), method(resolved, arguments.method)
    model = timed_method.model(resolved.settings.image_size, cpu)
    packed = timed_method.agent(model, arguments.dtype, resolved.settings.planner, cpu).rollout
    for holder in (packed, *packed.blocks):
        for name, layer in vars(holder).items():
            if callable(layer) and name not in ("linears", "compiled"):
                setattr(holder, name, timed(name, layer))
    for module, name in ((lewm, "_attend"), (dino_wm, "_attend_tokens")):
        setattr(module, name, timed("attention", getattr(module, name)))
    with torch.inference_mode():
        frames = torch.zeros(1, 2, 3, *[resolved.settings.image_size] * 2, dtype=torch.uint8)
        latents = model.encode(frames)
        search = packed(latents[:, :1], torch.zeros(1, 0, 10))
        cost = latent_cost(search, latents[:, 1], resolved.settings.planner)
        plans = torch.randn(1, arguments.samples, resolved.settings.planner.horizon, 10)
        cost(plans), cost(plans)
        SECONDS.clear(), CALLS.clear()
        begin = time.perf_counter()
        for _ in range(arguments.iterations):
            cost(plans)
        total = time.perf_counter() - begin
    peak = gemm_peak("float32", cpu)
    print(f"{hardware(cpu)}, GEMM peak {peak / 1e9:.0f} GFLOP/s float32")
    each = 1e3 / arguments.iterations
    for name, seconds in sorted(SECONDS.items(), key=lambda item: -item[1]):
        print(
            f"{name:14s} {seconds * each:8.2f} ms  {100 * seconds / total:5.1f} %  {CALLS[name] // arguments.iterations} calls"
        )
    rest = total - sum(SECONDS.values())
    print(f"{'the rest':14s} {rest * each:8.2f} ms  {100 * rest / total:5.1f} %")
    print(f"{'one iteration':14s} {total * each:8.2f} ms")


if __name__ == "__main__":
    main()
