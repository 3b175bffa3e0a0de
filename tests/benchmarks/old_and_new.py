"""This tree against an older revision of it: a training step of LeWM, each in processes of its own, in turns.

Not part of the test suite; needs git and an environment in which this tree is installed:

    python tests/benchmarks/old_and_new.py --revision ae1f4de

Prints the ratio of a step's seconds, and of its processor seconds, which other programs disturb less: of the fastest run
of each and of the medians. A run is a training by the tree's own loop after a short one that is discarded: batches from its loader's thread, loss, gradients,
clipping and AdamW, and nothing written between the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
QUICK = {
    "encoder": "stem-vit", "latent": 32, "projector_hidden": 512, "width": 64, "depth": 2, "heads": 4, "head_size": 16,
    "mlp_hidden": 256, "num_directions": 128,
}  # fmt: skip
SIZES = {"quick": (QUICK, 64, 64, 60), "paper": ({}, 224, 8, 4)}
"""Settings of LeWM, pixels, clips of a batch, steps of a run."""


def child(size: str) -> None:
    """Train by whatever tree is on the path and print the seconds of a step; the names of both revisions are known."""
    import torch

    from lewm_bench.agents.lewm import LeWM, LeWMConfig

    try:
        from lewm_bench.core.types import Clip
        from lewm_bench.train.loop import TrainConfig, train
    except ImportError:
        from lewm_bench.train import TrainConfig, train
        from lewm_bench.types import Clip

    settings, pixels, clips, steps = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (clips, 4, pixels, pixels, 3), dtype=torch.uint8, generator=generator)
    data = Clip(stored.permute(0, 1, 4, 2, 3), torch.randn(clips, 3, 10, generator=generator))
    model = LeWM(LeWMConfig(**settings), pixels, 2)
    for count in (3, steps):
        config = TrainConfig(
            steps=count, batch_size=clips, log_every=1000, save_every=1000, on_collapse="continue", learning_rate=1e-5
        )
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            log = train(
                model,
                lambda index: data,
                config,
                seed=0,
                device=torch.device("cpu"),
                folder=Path(folder),
                progress=False,
            )
    print(json.dumps([log.seconds / steps, (time.process_time() - begin) / steps]))


def measured(tree: Path, size: str) -> tuple[float, float]:
    """Seconds and processor seconds of a step."""
    from lewm_bench.cli.app import SPIN

    environment = os.environ | {"PYTHONPATH": str(tree), "GOMP_SPINCOUNT": SPIN}
    environment |= {
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
    }  # as the command line
    command = [sys.executable, __file__, "--child", "--size", size]
    done = subprocess.run(command, env=environment, cwd=tree, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(old: Path, size: str, rounds: int) -> None:
    trees = {"old": old, "new": HERE}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            times[name].append(measured(tree, size))
            print(
                "{}: {:.1f} ms per step, {:.1f} of processors".format(name, *(1e3 * t for t in times[name][-1])),
                flush=True,
            )
    for column, kind in enumerate(("seconds", "processor seconds")):
        for summary in (min, statistics.median):
            before, after = (summary(t[column] for t in times[name]) for name in ("old", "new"))
            print(f"{size}, {kind}, {summary.__name__} of {rounds}: ratio {after / before:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--revision", default="ae1f4de")
    parser.add_argument("--size", choices=sorted(SIZES), default="quick")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.size)
        return
    with tempfile.TemporaryDirectory() as folder:
        old, git = Path(folder) / "old", ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(old), options.revision], check=True)
        try:
            compare(old, options.size, options.rounds)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)


if __name__ == "__main__":
    main()
