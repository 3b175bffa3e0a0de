"""The figure of one agent on its way to a picture."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lewm_bench.report.figures.drawing import escape_math, panels, tidy


def latent_distance(distances: np.ndarray, title: str) -> Figure:
    """Latent distance to the goal picture of the frame at each step (T,), its smallest marked."""
    figure, (axes,) = panels(1, 3.4, [1])
    nearest = int(distances.argmin())
    axes.plot(distances, color="#0072B2", linewidth=1.8)
    axes.plot(nearest, distances[nearest], "o", color="#D55E00", markersize=6)
    below = distances[nearest] > 0.15 * distances.max()  # where the curve is not
    axes.annotate(
        f"smallest, step {nearest}", (nearest, distances[nearest]), (0, -9 if below else 9), textcoords="offset points",
        ha="right" if nearest > len(distances) / 2 else "left", va="top" if below else "bottom", fontsize=9, color="#A84800",
    )  # fmt: skip
    axes.set_xlim(0, max(len(distances) - 1, 1))
    axes.set_ylim(0, 1.08 * float(distances.max()) or 1)
    axes.set_xlabel("environment step")
    axes.set_ylabel("latent distance to the goal picture")
    tidy(axes, escape_math(title))
    return figure
