"""What can be read from a latent: ridge regression and a small MLP per physical quantity (LeWM paper, section 5).

Probes learn on training episodes and are tested on test episodes; whatever they choose for themselves (a penalty, when
to stop) they choose on training episodes that they did not fit. Floors: the same networks with random weights; the frames
themselves, in which the place of a lone object is linear (its centre of mass) and which hold more numbers than a
latent; and the frames reduced to as many numbers.

Letters: N frames, D numbers of a feature vector, K components of all quantities, P penalties, B resamples.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lewm_bench.core.config import Config
from lewm_bench.core.rng import stream
from lewm_bench.core.statistics import cluster_sums, percentile_interval, resampled_sums
from lewm_bench.core.torch_rng import torch_seed, torch_stream
from lewm_bench.understand.model import ExaminedModel, downsampled
from lewm_bench.understand.records import Features, Interval, ProbeRow

logger = logging.getLogger(__name__)

Kind = Literal["ridge", "mlp"]
PENALTIES = np.logspace(-6, 4, 21)  # per training frame, for features of variance 1
CONSTANT = 1e-6  # a deviation below this share of the largest value is rounding of float32
CHECK_EVERY = 50  # steps of an MLP


class ProbeConfig(Config):
    """The paper does not give its probes' sizes; these are ours for every profile."""

    train_frames: int = Field(6000, ge=20, description="frames of training episodes that probes learn from, at most")
    test_frames: int = Field(2000, ge=20, description="held-out frames that they are tested on, at most")
    pixels: int = Field(16, ge=1, description="side of the downsampled frames, one of the floors")
    components: int = Field(1024, ge=1, description="larger features are reduced to so many principal components")
    folds: int = Field(5, ge=2, description="folds of the training episodes for choosing ridge's penalty")
    width: int = Field(256, ge=1, description="width of the MLP")
    depth: int = Field(2, ge=1, description="hidden layers of the MLP")
    steps: int = Field(3000, ge=1, description="training steps of the MLP, at most")
    patience: int = Field(
        10, ge=1, description="checks in a row (one per 50 steps) without a better one, then it stops"
    )
    batch_size: int = Field(256, ge=1, description="frames per training step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")


class PublishedProbe(NamedTuple):
    """A row of the LeWM paper's probe tables: on its own data, without intervals, and so no reference of a test."""

    env: str
    quantity: str
    kind: Kind
    agent: str
    mse: float
    r: float


def _published(env: str, quantity: str, kind: Kind, *numbers: float) -> tuple[PublishedProbe, ...]:
    """Rows from MSE and r of DINO-WM, PLDM and LeWM, the paper's order."""
    agents = ("dino-wm", "pldm", "lewm")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple(PublishedProbe(env, quantity, kind, a, m, r) for a, (m, r) in zip(agents, pairs, strict=True))


PUBLISHED_PROBES: tuple[PublishedProbe, ...] = (
    *_published("lewm_bench/PushT-v0", "agent_position", "ridge", 1.888, 0.977, 0.090, 0.955, 0.052, 0.974),
    *_published("lewm_bench/PushT-v0", "block_position", "ridge", 0.006, 0.997, 0.122, 0.938, 0.029, 0.986),
    *_published("lewm_bench/PushT-v0", "block_angle", "ridge", 0.050, 0.979, 0.446, 0.745, 0.187, 0.902),
    *_published("lewm_bench/PushT-v0", "agent_position", "mlp", 0.003, 0.999, 0.014, 0.993, 0.004, 0.998),
    *_published("lewm_bench/PushT-v0", "block_position", "mlp", 0.002, 0.999, 0.011, 0.994, 0.001, 0.999),
    *_published("lewm_bench/PushT-v0", "block_angle", "mlp", 0.009, 0.995, 0.056, 0.972, 0.021, 0.990),
    *_published("lewm_bench/TwoRoom-v0", "position", "ridge", 0.488, 0.824, 0.008, 0.996, 0.008, 0.996),
)
"""Published numbers (LeWM paper); its linear probe stands under ``ridge``. To be marked as published wherever shown."""


class Split(NamedTuple):
    """Frames of one split: what is read from and what is to be read."""

    features: np.ndarray  # (N, D)
    targets: np.ndarray  # (N, K)
    episodes: np.ndarray  # (N,)


class Drawn(NamedTuple):
    """Training and test frames of a examined, each under the name of its split."""

    rows: dict[str, np.ndarray]  # (N,) of the dataset
    quantities: dict[str, Mapping[str, np.ndarray]]  # (N, k) by name


Rows = tuple[ProbeRow, ...]
Keep = Callable[[Features, list[np.ndarray], Callable[[], Rows]], Rows]
"""Name and values (N, D) of a floor's features, and how its rows are found, to its rows."""


def found_anew(name: Features, features: list[np.ndarray], find: Callable[[], Rows]) -> Rows:
    """Keeps nothing."""
    del name, features
    return find()


def probe(
    examined: ExaminedModel, untrained: ExaminedModel | None, config: ProbeConfig, keep: Keep = found_anew
) -> Rows:
    """Every quantity that varies, from every kind of features, by both probes.

    Args:
        untrained: the same networks with random weights; None leaves that floor out.
        keep: of floors, most of which are the same for every model of an environment.
    """
    rows, quantities = drawn = _drawn(examined, config)
    if not quantities["train"]:
        return ()
    columns = [np.column_stack([np.asarray(q, np.float64) for q in quantities[split].values()]) for split in rows]
    ends = np.cumsum([q.shape[1] for q in quantities["train"].values()])
    places = {name: slice(*ends[[k - 1, k]]) if k else slice(ends[0]) for k, name in enumerate(quantities["train"])}
    episodes = [examined.episodes_of(rows[split]) for split in rows]
    found: list[ProbeRow] = []
    for name, features in _features(examined, untrained, config, drawn):

        def find(name: Features = name, features: list[np.ndarray] = features) -> Rows:
            values = prepared(*features, config.components)
            splits = [Split(*parts) for parts in zip(values, columns, episodes, strict=True)]
            return read_out(name, *splits, places, config, examined.env_id)

        found += find() if name == "model" else keep(name, features, find)
        del features, find  # tokens take gigabytes, and the next ones are about to be made
    return tuple(found)


def _drawn(examined: ExaminedModel, config: ProbeConfig) -> Drawn:
    counts = {"train": config.train_frames, "test": config.test_frames}
    rows = {split: examined.frames(split, count) for split, count in counts.items()}
    return Drawn(rows, {split: examined.env.quantities(examined.dataset.states[r]) for split, r in rows.items()})


def _features(
    examined: ExaminedModel, untrained: ExaminedModel | None, config: ProbeConfig, drawn: Drawn
) -> Iterator[tuple[Features, list[np.ndarray]]]:
    """Features (N, D) of training and test frames by kind."""
    rows = drawn.rows.values()
    latents = [examined.latents_at(r).numpy() for r in rows]
    size = latents[0].shape[1]
    yield "model", latents
    del latents
    if untrained is not None:
        yield "random encoder", [untrained.latents_at(r).numpy() for r in rows]
    pixels = [downsampled(examined.dataset.frames[r], config.pixels) for r in rows]
    yield "pixels", pixels
    if size < pixels[0].shape[1]:
        yield "pixels, reduced", list(principal(*standardised(*pixels), size))


def read_out(
    features: Features, train: Split, test: Split, quantities: Mapping[str, slice], config: ProbeConfig, env_id: str
) -> Rows:
    """Both probes of every quantity that varies, all of which are columns of the targets.

    Components that are constant in either split are left out: they have no correlation. Targets are standardised with
    the mean and deviation of the training frames. Random streams have seed 0 and the address of environment, quantity
    and features, so that floors come out the same beside every agent.

    Args:
        train: with ``prepared`` features, like ``test``.
    """
    kept = varying(train.targets) & varying(test.targets)
    if not kept.any():
        return ()
    y, test_y = standardised(train.targets[:, kept], test.targets[:, kept])
    # One regression for all quantities: what costs is the decomposition of the features, which knows no target.
    linear = ridge(train._replace(targets=y), test.features, config.folds)
    counts = {"n_train": len(y), "n_test": len(test_y), "n_test_episodes": len(np.unique(test.episodes))}
    rows = []
    for quantity, place in quantities.items():
        own = np.zeros_like(kept)
        own[place] = kept[place]
        if not own.any():
            logger.info("%s does not vary and is not probed", quantity)
            continue
        at, address = own[kept], (env_id, quantity, features)
        predictions: dict[Kind, np.ndarray] = {
            "ridge": linear[:, at],
            "mlp": mlp(train._replace(targets=y[:, at]), test.features, config, address),
        }
        for kind, predicted in predictions.items():
            rng = stream(0, "probe intervals", *address, kind)
            mse, r = scores(predicted, test_y[:, at], test.episodes, rng)
            what = {"quantity": quantity, "kind": kind, "features": features, "components": int(at.sum())}
            rows.append(ProbeRow(**what, **counts, mse=mse, r=r))
    return tuple(rows)


def prepared(train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features as probes read them: standardised, and reduced where there are more than ``components``.

    Constant features leave a column of zeros, from which every probe learns the mean.
    """
    train, test = standardised(train, test)
    if not train.shape[1]:
        return np.zeros((len(train), 1)), np.zeros((len(test), 1))
    if train.shape[1] > components:  # a regression on 196 tokens of 384 numbers would not fit into memory
        train, test = principal(train, test, components)
    return train.astype(np.float64), test.astype(np.float64)


def varying(values: np.ndarray) -> np.ndarray:
    """(N, K) to (K,) bool: which columns change by more than rounding."""
    return (values - values[:1]).std(0) > CONSTANT * np.abs(values).max(0)


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (N, D) with the training mean and deviation; columns that are constant in training are left out."""
    kept = varying(train)
    train, test = train[:, kept], test[:, kept]
    mean, std = train.mean(0, np.float64).astype(train.dtype), train.std(0, np.float64).astype(train.dtype)
    return (train - mean) / std, (test - mean) / std


def principal(train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features to the first principal components (N, components) of the training frames, or all there are.

    With no more training frames than ``components`` nothing is lost: a ridge regression's weights lie in the span of
    its training frames, so in their coordinates it is the same regression (its dual form).
    """
    seed = (
        torch_seed(0, "probe components") % 2**32
    )  # of a randomised decomposition, where sklearn finds it worth while
    from sklearn.decomposition import PCA  # two seconds that not every command should pay

    pca = PCA(min(components, *train.shape), random_state=seed).fit(train)
    return pca.transform(train), pca.transform(test)


def ridge(train: Split, test_features: np.ndarray, folds: int) -> np.ndarray:
    """Predictions (N, K) for test features (N, D), each component with the penalty that its held-out folds prefer.

    Folds are whole episodes: frames of one episode in both parts would reward remembering it.
    """
    x, y, groups = train
    error = np.zeros((len(PENALTIES), y.shape[1]))
    for fit, held in _folds(groups, folds):
        error += ((_ridge_path(x[fit], y[fit], x[held]) - y[held]) ** 2).sum(1)
    # Of penalties that are equally good the largest: features that say nothing get no weight.
    best = len(PENALTIES) - 1 - error[::-1].argmin(0)
    return _ridge_path(x, y, test_features)[best, :, np.arange(y.shape[1])].T


def _folds(groups: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows held out; as many folds as there are episodes at most."""
    episodes = len(np.unique(groups))
    if episodes < 2:
        everything = np.arange(len(groups))
        return [(everything, everything)]
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(min(folds, episodes)).split(groups, groups=groups))


def _ridge_path(x: np.ndarray, y: np.ndarray, test_x: np.ndarray) -> np.ndarray:
    """Predictions (P, N, K) for every penalty, from one eigendecomposition of the covariance."""
    mean, centre = x.mean(0), y.mean(0)
    x = x - mean
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ (y - centre) / len(x))  # (D, K)
    turned = (test_x - mean) @ vectors  # (N, D)
    shrunk = np.maximum(eigenvalues, 0) + PENALTIES[:, None]  # (P, D)
    return np.stack([turned @ (projected / s[:, None]) + centre for s in shrunk])


def mlp(train: Split, test_features: np.ndarray, config: ProbeConfig, address: tuple[str, ...]) -> np.ndarray:
    """Predictions (N, K) for test features (N, D) of ReLU layers trained with Adam.

    Training stops, and goes back to the best weights, when held-out training episodes no longer gain. It begins at
    predicting the mean, and ends there where nothing can be learnt.
    """
    fit, held = _folds(train.episodes, config.folds)[0]
    x, y, test_x = (torch.from_numpy(np.asarray(a, np.float32)) for a in (train.features, train.targets, test_features))
    with torch_stream(0, "probe init", *address):
        net = _net(x.shape[1], y.shape[1], config)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    rng = stream(0, "probe batches", *address)
    best, weights, waited = _error(net, x[held], y[held]), copy.deepcopy(net.state_dict()), 0
    for step in range(1, config.steps + 1):
        chosen = fit[rng.integers(len(fit), size=config.batch_size)]
        loss = (net(x[chosen]) - y[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % CHECK_EVERY and step < config.steps:
            continue
        error = _error(net, x[held], y[held])
        waited += 1
        if error < best:
            best, weights, waited = error, copy.deepcopy(net.state_dict()), 0
        if waited >= config.patience:
            break
    net.load_state_dict(weights)
    with torch.inference_mode():
        return net(test_x).double().numpy()


def _net(inputs: int, outputs: int, config: ProbeConfig) -> nn.Sequential:
    sizes = [inputs, *[config.width] * config.depth]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(config.width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


@torch.inference_mode()
def _error(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((net(x) - y).square().mean())


def scores(
    predicted: np.ndarray, targets: np.ndarray, episodes: np.ndarray, rng: np.random.Generator
) -> tuple[Interval, Interval]:
    """Mean squared error and Pearson's r of (N, K) predictions, mean over components, resampled over episodes.

    A prediction that does not vary has r = 0: it tells nothing.
    """
    ones = np.ones_like(targets)
    error = (predicted - targets) ** 2
    moments = np.stack([ones, error, predicted, targets, predicted**2, targets**2, predicted * targets], 1)  # (N, 7, K)
    sums = cluster_sums(moments, episodes)
    draws = resampled_sums(sums, rng)  # (B, 7, K)
    total = sums.sum(0)
    mse, r = (percentile_interval(float(measure(total)), measure(draws)) for measure in (_mse, _pearson))
    return Interval.of(mse), Interval.of(r)


def _mse(sums: np.ndarray) -> np.ndarray:
    """(..., 7, K) sums to (...)."""
    return (sums[..., 1, :] / sums[..., 0, :]).mean(-1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    """(..., 7, K) sums to (...)."""
    n, _, p, t, pp, tt, pt = np.moveaxis(sums, -2, 0)
    covariance, spread = pt / n - p * t / n**2, (pp / n - (p / n) ** 2) * (tt / n - (t / n) ** 2)
    r = np.divide(covariance, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(spread), where=spread > 1e-18)
    return np.clip(r, -1, 1).mean(-1)
