"""Latents in two dimensions: principal components, and t-SNE (van der Maaten and Hinton, 2008)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from lewm_bench.core.config import Config
from lewm_bench.core.errors import unknown
from lewm_bench.core.torch_rng import torch_seed
from lewm_bench.understand.model import ExaminedModel
from lewm_bench.understand.records import LatentMap

TSNE_INPUTS = 50
"""Principal components that t-SNE sees of larger latents, as its authors do."""

Method = Literal["PCA", "t-SNE"]


class MapsConfig(Config):
    """What is drawn, and what it is coloured by."""

    methods: tuple[Method, ...] = Field(("PCA", "t-SNE"), description="what is drawn")
    frames: int = Field(1000, ge=10, description="held-out frames")
    quantity: str | None = Field(
        None, description="what colours them; null: the first that names a position, else the environment's first"
    )
    perplexity: float = Field(30, gt=1, description="of t-SNE; a third of the frames at most")


def maps(examined: ExaminedModel, config: MapsConfig) -> tuple[LatentMap, ...]:
    """A map of held-out latents by each method; none if the latents are all equal.

    Raises:
        UserError: the environment has no such quantity.
    """
    rows = examined.frames("test", config.frames)
    quantities = examined.env.quantities(examined.dataset.states[rows])
    name = config.quantity or next((q for q in quantities if "position" in q), next(iter(quantities)))
    if name not in quantities:
        raise unknown(f"quantity of {examined.env_id}", name, quantities)
    latents = examined.latents_at(rows).double().numpy()
    spread = latents.std()
    if not (latents != latents[0]).any():
        return ()
    latents = (latents - latents.mean(0)) / spread  # both methods are about shape; the scale is float32's trouble
    values = tuple(map(tuple, np.asarray(quantities[name], np.float64).tolist()))
    found = []
    for method in config.methods:
        points, explained = pca(latents) if method == "PCA" else (tsne(latents, config.perplexity), None)
        found.append(LatentMap(method=method, points=_pairs(points), quantity=name, values=values, explained=explained))
    return tuple(found)


def pca(latents: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(N, D) to the first two principal components (N, 2) and the share of variance that each explains.

    A latent of one number has a second component of 0.
    """
    from sklearn.decomposition import PCA  # two seconds that not every command should pay

    fitted = PCA(min(2, latents.shape[1]), svd_solver="full").fit(latents)
    points, shares = fitted.transform(latents), fitted.explained_variance_ratio_
    if len(shares) < 2:
        return np.pad(points, ((0, 0), (0, 1))), (float(shares[0]), 0.0)
    return points, (float(shares[0]), float(shares[1]))


def tsne(latents: np.ndarray, perplexity: float) -> np.ndarray:
    """(N, D) to (N, 2); begins at the principal components, so that far groups stay where they are."""
    seed = torch_seed(0, "t-SNE") % 2**32
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if latents.shape[1] > TSNE_INPUTS:
        latents = PCA(min(TSNE_INPUTS, len(latents)), random_state=seed).fit_transform(latents)
    start = "pca" if latents.shape[1] > 1 else "random"
    fitted = TSNE(2, perplexity=min(perplexity, (len(latents) - 1) / 3), init=start, random_state=seed)
    return fitted.fit_transform(latents)


def _pairs(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
