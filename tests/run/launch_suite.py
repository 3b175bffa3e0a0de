"""A tiny suite whose stages workers make in the tests of launchers, and what must be equal whoever makes them."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from lewm_bench.report.write import write_report
from lewm_bench.run.benchmarks import load
from lewm_bench.run.launch.launch import Launcher, make_stages
from lewm_bench.run.records import CellRecord
from lewm_bench.run.resolve import resolve
from lewm_bench.run.runner import run_suite
from lewm_bench.run.stages import Run
from lewm_bench.system.store import Store

UMAZE = "lewm_bench/PointMaze-UMaze-v0"
AGENTS = ("noop", "oracle", "gcbc", "lewm")
SUITE = f"""
profiles:
  quick: {{}}
suites:
  tiny:
    title: Tiny
    envs: [{UMAZE}]
    agents: [{", ".join(AGENTS)}]
    seeds: [0, 1]
    settings:
      image_size: 32
      collect: {{episodes: 20, steps: 20}}
      planner: {{num_samples: 8, num_iterations: 1, num_elites: 3}}
      evaluate: {{num_pairs: 3, goal_offset: [5], latent_oracle_pairs: 0, correlation_frames: 16}}
      gcbc: {{width: 16, depth: 1, heads: 2, hidden: 16, train: {{steps: 30, batch_size: 4, on_collapse: continue}}}}
      lewm:
        encoder: cnn
        latent: 8
        projector_hidden: 16
        width: 16
        depth: 1
        heads: 2
        head_size: 8
        mlp_hidden: 16
        num_directions: 8
        train: {{steps: 30, batch_size: 8, on_collapse: continue}}
"""


def tiny_run(
    folder: Path, *overrides: str, cache: str = "cache", agents: tuple[str, ...] = ()
) -> tuple[Run, list[str]]:
    """A run of the suite, and the lines that it says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(SUITE, encoding="utf-8")
    suite, lines = resolve(load(path), "tiny", "quick", overrides=overrides, agents=agents), []
    store, cpu = Store(folder / cache), torch.device("cpu")
    return Run(suite, store, folder / "out", cpu, False, lines.append), lines


def launched(run: Run, launcher: Launcher | None, storage: str = "") -> list[CellRecord]:
    """The records of a run whose stages workers have made; of one that makes them itself without a launcher."""
    failures = None
    if launcher is not None:
        run, failures = make_stages(run, launcher, "cpu", storage)
    cells = run_suite(run, failures)
    write_report(cells, run.out, "Tiny")
    return cells


def episodes(run: Run) -> list[dict[str, str]]:
    """The rows of episodes.csv but for their times."""
    with (run.out / "episodes.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]
