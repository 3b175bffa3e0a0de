"""Our planner beside stable-worldmodel's LeWM and CEM: the same weights, the same plans, one process, in turns.

Not part of the test suite; it needs an environment of its own in which both packages are installed:

    python -m venv peer && . peer/bin/activate
    pip install -e . "stable-worldmodel==0.1.1" opencv-python-headless imageio pygame pymunk shapely
    python tests/benchmarks/peer.py --iterations 30 --plans 10

Prints medians and ratios; the numbers of one run belong together and to the machine named in them. Beside other
programs use ``--clock cpu``: the processor's time of one thread, which what else runs changes little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from types import SimpleNamespace

from lewm_bench.cli.app import SPIN
from lewm_bench.system.resources import keep_memory

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
keep_memory()

import gymnasium as gym
import numpy as np
import torch
from stable_worldmodel.solver.cem import CEMSolver
from stable_worldmodel.wm.lewm import LeWM as PeerLeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
from torch import nn

from lewm_bench.agents.lewm import LeWM, LeWMConfig
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import spearman
from lewm_bench.evaluation.speed import gemm_peak
from lewm_bench.planning.cem import cem
from lewm_bench.planning.config import PlannerConfig
from lewm_bench.planning.cost import latent_cost, plain_rollout
from lewm_bench.planning.fast.lewm import PackedLeWM
from lewm_bench.system.provenance import hardware

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
LOSSY = {"cpu": ("int8",), "cuda": ("tf32", "bfloat16")}  # further arithmetics that a device has
SHARED = ("predictor", "action_encoder", "pred_proj")


def models(generator: torch.Generator) -> tuple[LeWM, PeerLeWM]:
    """The same LeWM twice, at the published size, with weights that make every part matter."""
    config = LeWMConfig()
    ours = LeWM(config, 224, 2).eval().requires_grad_(False)
    for name, tensor in ours.state_dict().items():
        if name.startswith(SHARED) and tensor.is_floating_point() and "running" not in name:
            scale = 0.5 if "adaLN" in name else 0.05
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    predictor = Predictor(
        num_frames=3, depth=6, heads=16, mlp_dim=2048, input_dim=192, hidden_dim=192, dim_head=64, dropout=0.1
    )
    projector = [MLP(192, 2048, 192, norm_fn=nn.BatchNorm1d) for _ in range(2)]
    theirs = PeerLeWM(nn.Identity(), predictor, Embedder(input_dim=10, emb_dim=192), *projector).eval()
    weights = {k: v for k, v in ours.state_dict().items() if k.startswith(SHARED)}
    assert not theirs.load_state_dict(weights, strict=False).unexpected_keys
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--device", choices=LOSSY, default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.clock == "cpu":
        torch.set_num_threads(1)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return CLOCKS[arguments.clock]()

    generator = torch.Generator().manual_seed(0)
    ours, theirs = (model.to(device) for model in models(generator))
    config = PlannerConfig(num_iterations=arguments.iterations)
    latents, goal = (torch.randn(*size, 192, generator=generator).to(device) for size in ((1, 1), (1,)))
    past = torch.zeros(1, 0, 10, device=device)
    rollouts = {
        "plain loop": plain_rollout(ours),
        "fast float32": PackedLeWM(ours.parts()),
        **{f"fast {name}": PackedLeWM(ours.parts(), name) for name in LOSSY[arguments.device]},
    }

    sizes = {"num_samples": config.num_samples, "topk": config.num_elites}
    solver = CEMSolver(theirs, n_steps=arguments.iterations, device=device, **sizes)
    box, settings = gym.spaces.Box(-1, 1, (1, 2)), SimpleNamespace(horizon=config.horizon, action_block=5)
    solver.configure(action_space=box, n_envs=1, config=settings)
    unused = torch.zeros(1, 1, 3, 8, 8, device=device)  # it encodes once and finds the embeddings there
    info = {"pixels": unused, "goal": unused, "emb": latents, "goal_emb": goal[:, None]}

    def peer() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            solver.solve(dict(info))

    def plan(name: str) -> None:
        cost = latent_cost(rollouts[name](latents, past), goal, config)
        cem(cost, torch.zeros(1, config.horizon, 10, device=device), config, [stream(0, "peer")])

    contestants = {"stable-worldmodel": peer, **{name: lambda name=name: plan(name) for name in rollouts}}
    with torch.inference_mode():
        plans = torch.randn(1, config.num_samples, config.horizon, 10, generator=generator).to(device)
        repeated = {k: v[:, None].expand(1, config.num_samples, *v.shape[1:]) for k, v in info.items()}
        truth = theirs.get_cost(repeated, plans) / 192  # theirs is the sum over the latent, ours the mean
        for name, start in rollouts.items():
            cost = latent_cost(start(latents, past), goal, config)
            cost(plans)  # 8-bit ranges are watched in the first call
            found = cost(plans)
            worst = ((found - truth).abs() / truth).max().item()
            rank = spearman(found[0].cpu().numpy(), truth[0].cpu().numpy())
            print(f"{name}: costs differ from the peer's by at most {worst:.1e} relative, rank correlation {rank:.4f}")
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(arguments.plans + 1):
            for name, run in contestants.items():
                begin = clock()
                run()
                if turn:  # the first is discarded
                    seconds[name].append(clock() - begin)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, value in median.items():
        low, high = np.quantile(seconds[name], [0.25, 0.75])
        ratio = value / median["stable-worldmodel"]
        print(
            f"{name}: {value:.2f} s [{low:.2f}, {high:.2f}] of {arguments.clock} clock per plan, n {arguments.plans}, {ratio:.3f} of the peer's"
        )
    print(
        f"GEMM peak {gemm_peak('float32', device) / 1e9:.0f} GFLOP/s float32; {hardware(device)}; torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
