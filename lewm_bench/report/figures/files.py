"""Which figure goes into which file of a results folder, as PNG bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lewm_bench.report.figures.ablation import ablation
from lewm_bench.report.figures.curves import over_data, over_steps
from lewm_bench.report.figures.distance import by_distance
from lewm_bench.report.figures.drawing import png
from lewm_bench.report.figures.horizon import horizon
from lewm_bench.report.figures.pareto import pareto
from lewm_bench.report.figures.paths import failures, paths
from lewm_bench.report.figures.success import plan_time, success, success_vs_time
from lewm_bench.report.figures.training import losses, stability, training

if TYPE_CHECKING:
    from lewm_bench.report.summary import Summary

FIGURES: Mapping[str, Callable[[Summary], Figure | None]] = {
    "horizon.png": horizon,
    "pareto.png": pareto,
    "success.png": success,
    "plan_time.png": plan_time,
    "success_vs_time.png": success_vs_time,
    "by_distance.png": by_distance,
    "ablation.png": ablation,
    "over_steps.png": over_steps,
    "over_data.png": over_data,
    "stability.png": stability,
    "losses.png": losses,
    "training.png": training,
}

IN_SCENES: Mapping[str, Callable[[Summary, Path], Figure | None]] = {
    "paths.png": paths,
    "failures.png": failures,
}
"""They are drawn over pictures of the environments, which lie in the results folder."""


def draw_all(summary: Summary, folder: Path) -> dict[str, bytes]:
    """File name to PNG of every figure that has data; scenes are looked up in the results ``folder``."""
    drawn = {name: draw(summary) for name, draw in FIGURES.items()}
    drawn |= {name: draw(summary, folder) for name, draw in IN_SCENES.items()}
    return {name: png(figure) for name, figure in drawn.items() if figure is not None}
