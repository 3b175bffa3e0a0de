"""Numbers in, numbers out: intervals, paired differences, aggregates. Knows no tables, files or plots.

A success matrix is (seeds, pairs): row i is one training run, column j one start-goal pair, the same pair in every row.
Entries are 0 to 1, NaN where the episode was not run. B is the number of bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # of the asterisks


METHOD_RUNS = 3  # training runs of each side that trains, below which two runs are compared and not two methods


RESAMPLES = 10_000
CLUSTER_RESAMPLES = 2000  # of sums over clusters, which may have thousands of columns
AT_ONCE = 2**20  # numbers that are drawn before they are used: what bounds the memory of a bootstrap
_FLIPS_AT_ONCE = 1000


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


class Difference(NamedTuple):
    """A difference, its interval, and the p value of no difference by the same reckoning."""

    value: float
    low: float
    high: float
    p: float


NO_DIFFERENCE = Difference(np.nan, np.nan, np.nan, np.nan)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """The share of successes with Wilson's score interval (Wilson 1927): honest at 0/n and n/n, unlike Wald's."""
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return NOTHING
    z, share = _z(confidence), successes / n
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At 0/n and n/n the limits are exactly 0 and 1; rounding must not push them past the share itself.
    low, high = min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
    return Estimate(share, float(low), float(high))


def _counts(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """(B, n) how often each of n items is drawn in n draws with replacement."""
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _multinomial_counts(rng: np.random.Generator, resamples: int, n: int) -> np.ndarray:
    """(B, n) like ``_counts``, but drawn as counts: the same distribution from other random numbers."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _drawn(
    rng: np.random.Generator, resamples: int, n: int, draw: Callable[..., np.ndarray] = _counts
) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the B resamples and their counts, at most ``AT_ONCE`` numbers; the same ones however they are sliced."""
    together = max(1, AT_ONCE // max(1, n))
    for first in range(0, resamples, together):
        rows = slice(first, min(first + together, resamples))
        yield rows, draw(rng, rows.stop - rows.start, n)


def percentile_interval(value: float, draws: np.ndarray, tails: tuple[float, float] = (0.025, 0.975)) -> Estimate:
    """``value`` with the quantiles of what it is in resamples (B,); draws that are NaN (nothing drawn) are left out."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(draws, tails)
    return Estimate(value, float(low), float(high))


def _percentiles(value: float, draws: np.ndarray, confidence: float) -> Estimate:
    return percentile_interval(value, draws[np.isfinite(draws)], ((1 - confidence) / 2, (1 + confidence) / 2))


def crossed_means(matrix: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """(seeds, pairs) to the (B,) means of its crossed bootstrap resamples.

    Seeds and pairs are two crossed factors: every seed meets the same pairs, so a hard pair is hard in each row. Both
    are therefore resampled, independently of each other, and a drawn pair is drawn for all seeds at once (the
    "pigeonhole" bootstrap: Owen 2007; Owen and Eckles 2012). Resampling episodes as if they were independent would
    count a pair once per seed; resampling pairs alone would hide that another training run can come out differently.
    With one seed it is the ordinary bootstrap over pairs. Its variance is never below the true one in expectation for
    what pairs and single episodes contribute; what seeds contribute is understated by (seeds - 1) / seeds, as in any
    bootstrap of a handful of runs, which is why the number of seeds stands beside every interval.
    """
    seed_counts, means = _counts(rng, resamples, matrix.shape[0]), np.empty(resamples)
    for rows, pair_counts in _drawn(rng, resamples, matrix.shape[1]):
        means[rows] = _weighted_means(matrix, seed_counts[rows], pair_counts)
    return means


def _weighted_means(matrix: np.ndarray, seed_counts: np.ndarray, pair_counts: np.ndarray) -> np.ndarray:
    """(S, N) matrix, (B, S) and (B, N) counts to the (B,) means over known entries, NaN where none was drawn."""
    known = np.isfinite(matrix)
    total = np.einsum("bp,bp->b", seed_counts @ np.where(known, matrix, 0.0), pair_counts)
    weight = np.einsum("bp,bp->b", seed_counts @ known.astype(np.float64), pair_counts)
    return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)


def bootstrap_mean(
    matrix: np.ndarray, rng: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Estimate:
    """The mean of a (seeds, pairs) matrix with the percentile interval of its crossed bootstrap."""
    matrix = _checked(matrix)
    if not np.isfinite(matrix).any():
        return NOTHING
    return _percentiles(float(np.nanmean(matrix)), crossed_means(matrix, rng, resamples), confidence)


def success_rate(
    matrix: np.ndarray, rng: np.random.Generator, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Estimate:
    """The success rate of a (seeds, pairs) matrix of zeros and ones: Wilson for one seed, else the crossed bootstrap.

    A bootstrap of all successes returns an interval of width zero. So the bootstrap's interval is widened, where
    needed, to contain the Wilson interval of as many independent episodes as there are pairs. Not of as many as there
    are episodes: seeds share the pairs, and where each solves the same ones more seeds tell nothing more about them.
    """
    matrix = _checked(matrix)
    known = np.isfinite(matrix)
    if not known.any():
        return NOTHING
    pairs = int(known.any(axis=0).sum())
    plain = wilson(float(np.nansum(matrix)) * pairs / int(known.sum()), pairs, confidence)
    if known.any(axis=1).sum() < 2:
        return plain
    drawn = bootstrap_mean(matrix, rng, confidence, resamples)
    return Estimate(plain.value, min(drawn.low, plain.low), max(drawn.high, plain.high))


def paired_comparison(
    ours: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,
    *,
    seeds_paired: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Difference:
    """Mean of ours minus reference on the same pairs: (seeds, pairs) and (other seeds, pairs), columns aligned.

    Each side is averaged over its seeds per pair; pairs missing on one side are left out. Bootstrap as in
    ``crossed_means``: a drawn pair is drawn for both sides; seeds are drawn for each side by itself, or jointly when
    row i of both belongs to the same seed (``seeds_paired``). The interval contains at least Agresti and Min's (2005)
    for the pairs' differences: half a success added to each of the four outcomes keeps it from shrinking to nothing
    when both sides agree everywhere. ``p`` belongs to that interval: the smallest 1 - confidence at which it excludes 0.
    """
    ours, reference = _checked(ours), _checked(reference)
    if ours.shape[1] != reference.shape[1]:
        raise ValueError(f"both sides need the same pairs, got {ours.shape[1]} and {reference.shape[1]}")
    if seeds_paired and ours.shape[0] != reference.shape[0]:
        raise ValueError(f"paired seeds need as many rows, got {ours.shape[0]} and {reference.shape[0]}")
    both = np.isfinite(ours).any(0) & np.isfinite(reference).any(0)
    ours, reference = ours[:, both], reference[:, both]
    if not both.any():
        return NO_DIFFERENCE
    delta = np.nanmean(ours, 0) - np.nanmean(reference, 0)
    ours_counts = _counts(rng, resamples, len(ours))
    reference_counts = ours_counts if seeds_paired else _counts(rng, resamples, len(reference))
    draws = np.full(resamples, np.nan)
    for rows, counts in _drawn(rng, resamples, delta.size):
        drawn = _column_means(ours, ours_counts[rows]) - _column_means(reference, reference_counts[rows])
        weight = counts * np.isfinite(drawn)
        total = np.einsum("bp,bp->b", weight, np.nan_to_num(drawn))
        np.divide(total, weight.sum(1), out=draws[rows], where=weight.any(1))
    least = _agresti_min(delta, confidence)
    interval = _percentiles(float(delta.mean()), draws, confidence)
    low, high = min(interval.low, least.low), max(interval.high, least.high)
    return Difference(interval.value, low, high, max(_bootstrap_p(draws), _agresti_min_p(delta)))


def paired_drops(
    before: np.ndarray,
    afters: np.ndarray,
    rng: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Mean of before minus after, for each of C: (seeds, pairs) and (C, seeds, pairs), rows and columns aligned.

    ``paired_comparison`` with paired seeds, C times with the same resamples; entries that one side lacks are left out.
    """
    if afters.shape[1:] != _checked(before).shape:
        raise ValueError(f"both sides need the same seeds and pairs, got {before.shape} and {afters.shape[1:]}")
    known = np.isfinite(before) & np.isfinite(afters)
    delta = np.where(known, np.nan_to_num(before) - np.nan_to_num(afters), 0.0)
    seed_counts, draws = _counts(rng, resamples, len(before)), np.full((resamples, len(afters)), np.nan)
    for rows, pair_counts in _drawn(rng, resamples, before.shape[1]):
        drawn = [
            (seed_counts[rows, s, None], pair_counts @ delta[:, s].T, pair_counts @ known[:, s].T)
            for s in range(len(before))
        ]
        total, weight = (sum(each[0] * each[i] for each in drawn) for i in (1, 2))
        np.divide(total, weight, out=draws[rows], where=weight > 0)
    return [_drop(delta[c], known[c], draws[:, c], confidence) for c in range(len(afters))]


def _drop(delta: np.ndarray, known: np.ndarray, draws: np.ndarray, confidence: float) -> Difference:
    """The difference of (seeds, pairs) with its interval, from what it is in resamples (B,)."""
    counts = known.sum(0)
    if not counts.any():
        return NO_DIFFERENCE
    per_pair = delta[:, counts > 0].sum(0) / counts[counts > 0]
    least, interval = _agresti_min(per_pair, confidence), _percentiles(float(per_pair.mean()), draws, confidence)
    low, high = min(interval.low, least.low), max(interval.high, least.high)
    return Difference(interval.value, low, high, max(_bootstrap_p(draws), _agresti_min_p(per_pair)))


def _bootstrap_p(draws: np.ndarray) -> float:
    """Twice the share of resamples on the rarer side of 0; with the sample itself counted it is never 0."""
    draws = draws[np.isfinite(draws)]
    rarer = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(2 * (1 + rarer) / (1 + len(draws)), 1.0))


def _column_means(matrix: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(S, N) matrix and (B, S) seed counts to the (B, N) weighted means over known entries, NaN where there are none."""
    known = np.isfinite(matrix)
    weight = counts @ known.astype(np.float64)
    return np.divide(counts @ np.where(known, matrix, 0.0), weight, out=np.full(weight.shape, np.nan), where=weight > 0)


def _agresti_min(delta: np.ndarray, confidence: float) -> Estimate:
    """The adjusted Wald interval of matched differences; with one seed per side it is Agresti and Min's exactly."""
    centre, error = _agresti_min_error(delta)
    half = _z(confidence) * error
    return Estimate(float(delta.mean()), float(max(centre - half, -1.0)), float(min(centre + half, 1.0)))


def _agresti_min_error(delta: np.ndarray) -> tuple[float, float]:
    """Centre and standard error with half a success added to each of the four outcomes."""
    n = delta.size + 2
    centre = delta.sum() / n
    return centre, np.sqrt(max(((delta**2).sum() + 1) / n - centre**2, 0.0) / n)


def _agresti_min_p(delta: np.ndarray) -> float:
    centre, error = _agresti_min_error(delta)
    return 2 * NormalDist().cdf(-abs(centre) / error)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """(m,) p values to (m,) adjusted ones (Holm 1979); NaN entries are no comparisons.

    Whatever is called different where the adjusted value is below 0.05, the chance of one false call or more among all
    m is at most 5 %, however the comparisons depend on each other.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def paired_t(differences: np.ndarray, confidence: float = 0.95) -> Difference:
    """Mean of (n,) paired differences, Student's interval for it, and the two-sided p value of no difference.

    Where all differences are the same number there is nothing to estimate an error from: p is 1 if it is 0, else 0.
    """
    from scipy.special import stdtr, stdtrit

    differences = np.asarray(differences, np.float64)
    if differences.ndim != 1 or differences.size < 2:
        raise ValueError(f"a t-test needs at least two differences in a row, got shape {differences.shape}")
    mean, free = float(differences.mean()), differences.size - 1
    error = float(differences.std(ddof=1) / np.sqrt(differences.size))
    half = float(stdtrit(free, (1 + confidence) / 2)) * error
    p = 2 * float(stdtr(free, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Difference(mean, mean - half, mean + half, p)


def sign_flip_p(differences: np.ndarray, rng: np.random.Generator, flips: int = RESAMPLES) -> float:
    """The two-sided p value of (n,) paired differences having a distribution that is symmetric about 0 (Fisher 1935).

    All 2^n ways to choose the signs are compared if they are no more than ``flips``, else as many random ones, among
    which the data count as one (Phipson and Smyth 2010), so that it is never 0.
    """
    differences = np.asarray(differences, np.float64)
    n, total = differences.size, abs(differences.sum()) * (1 - 1e-12)  # equal sums differ by rounding
    if n < 63 and 2**n <= flips:
        flipped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((abs(differences.sum() - 2 * flipped @ differences) >= total).mean())
    extreme = 0
    for count in [_FLIPS_AT_ONCE] * (flips // _FLIPS_AT_ONCE) + [flips % _FLIPS_AT_ONCE]:
        flipped = rng.integers(2, size=(count, n)).astype(np.float64)
        extreme += int((abs(differences.sum() - 2 * flipped @ differences) >= total).sum())
    return (1 + extreme) / (1 + flips)


def cohens_dz(differences: np.ndarray) -> float:
    """Mean over standard deviation of (n,) paired differences; 0 if they are all 0, infinite if all another number."""
    mean, std = float(np.mean(differences)), float(np.std(differences, ddof=1))
    return mean / std if std > 0 else (float(np.sign(mean)) * math.inf if mean else 0.0)


def cluster_sums(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(N, ...) values and their clusters (N,) to the sum of each cluster, (C, ...), in the order of their labels."""
    labels, place = np.unique(clusters, return_inverse=True)
    totals = np.zeros((len(labels), *values.shape[1:]))
    np.add.at(totals, place.ravel(), values)
    return totals


def cluster_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(N, ...) values and their clusters (N,) to the mean of each cluster, (C, ...), in the order of their labels."""
    _, counts = np.unique(clusters, return_counts=True)
    return cluster_sums(values, clusters) / counts.reshape(-1, *[1] * (values.ndim - 1))


def resampled_sums(sums: np.ndarray, rng: np.random.Generator, resamples: int = CLUSTER_RESAMPLES) -> np.ndarray:
    """(C, ...) sums per cluster to their totals (B, ...) over C clusters drawn with replacement.

    For what repeats within a cluster, as frames of one episode do, which are no sample of their own.
    """
    totals = np.empty((resamples, *sums.shape[1:]))
    for rows, counts in _drawn(rng, resamples, len(sums), _multinomial_counts):
        totals[rows] = np.tensordot(counts, sums, axes=1)
    return totals


def ratio_of_means(
    ours: np.ndarray,
    reference: np.ndarray,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Mean of ours over mean of reference, (n,) each with entries that belong together; bootstrap over the entries.

    None where the reference's own interval holds 0: a ratio to what may be nothing says nothing.
    """
    both = np.column_stack([ours, reference]) / ours.size
    draws = np.empty((resamples, 2))
    for rows, counts in _drawn(rng, resamples, ours.size):
        draws[rows] = counts @ both
    above, below = draws.T
    low, high = np.quantile(below, [(1 - confidence) / 2, (1 + confidence) / 2])
    if low <= 0 <= high:
        return None
    value = float(ours.mean() / reference.mean())
    return _percentiles(value, above / below, confidence)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that one of (m,) positives is larger than one of (n,) negatives, ties counted half (Mann-Whitney)."""
    m, n = len(positive), len(negative)
    return float((ranks(np.concatenate([positive, negative]))[:m].sum() - m * (m + 1) / 2) / (m * n))


def clustered_auc(
    positive: np.ndarray,
    negative: np.ndarray,
    clusters: np.ndarray,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The AUC of (N,) positives against (N,) negatives that belong together and to clusters (N,).

    Whole clusters are drawn, with both sides of theirs. Where the two sides do not overlap no resample differs, so the
    interval contains at least Newcombe's (2006) for as many independent positives and negatives as there are clusters.
    """
    _, place = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(place.ravel()).astype(np.float64)
    member = np.eye(len(sizes))[place.ravel()]  # (N, C)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    wins = member.T @ wins @ member  # (C, C)
    draws = np.empty(resamples)
    for rows, counts in _drawn(rng, resamples, len(sizes)):
        draws[rows] = np.einsum("bc,bc->b", counts @ wins, counts) / (counts @ sizes) ** 2
    drawn = _percentiles(auc(positive, negative), draws, confidence)
    least = newcombe_auc(drawn.value, len(sizes), confidence)
    return Estimate(drawn.value, min(drawn.low, least.low), max(drawn.high, least.high))


def newcombe_auc(value: float, n: int, confidence: float = 0.95) -> Estimate:
    """The interval of an AUC of n positives and n negatives, all independent (Newcombe 2006, part 2, method 5).

    Hanley and McNeil's (1982) variance at the limit itself, not at the estimate: like Wilson's it stays honest at 0
    and 1.
    """
    z = _z(confidence)

    def low(value: float) -> float:
        inside, outside = 0.0, value  # the distance to the limit is more, less than z errors at the limit
        for _ in range(60):
            middle = (inside + outside) / 2
            far = value - middle > z * np.sqrt(_hanley_mcneil(middle, n))
            inside, outside = (middle, outside) if far else (inside, middle)
        return inside

    return Estimate(value, low(value), 1 - low(1 - value))


def _hanley_mcneil(value: float, n: int) -> float:
    """The variance of an AUC of n positives and n negatives, for exponential distributions of both."""
    return value * (1 - value) * (1 + (n - 1) * ((1 - value) / (2 - value) + value / (1 + value))) / n**2


def binomial_range(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The shares between which n independent episodes of this success rate end up in ``confidence`` of all cases."""
    if not 0 < share < 1:
        return share, share
    successes = np.arange(n + 1)
    choices = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in successes])
    mass = np.exp(choices + successes * np.log(share) + (n - successes) * np.log1p(-share))
    below = np.cumsum(mass)
    tail = (1 - confidence) / 2
    low, high = np.searchsorted(below, [tail, 1 - tail])
    return float(low / n), float(min(high, n) / n)


def floor_normalised(score: float | np.ndarray, floor: float | np.ndarray) -> np.ndarray:
    """(score - floor) / (1 - floor): 0 is what random actions reach, 1 is every pair; NaN if random reaches them all."""
    above, left = np.broadcast_arrays(np.subtract(score, floor), np.subtract(1.0, floor))
    return np.divide(above, left, out=np.full(above.shape, np.nan), where=left > 0)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """(..., n) to (...): the mean without the lowest and the highest quarter, floor(n / 4) values at each end."""
    values = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(-1)


def interquartile_mean_interval(
    matrices: Sequence[np.ndarray],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    floors: Sequence[np.ndarray] | None = None,
) -> Estimate:
    """Interquartile mean over environments and seeds, from one (seeds, pairs) matrix per environment.

    With ``floors``, (other seeds, the same pairs) of random actions in each environment, scores are floor-normalised. A
    floor is an estimate too, so its seeds are drawn by themselves and its pairs with those of the scores.

    rliable's method (Agarwal et al. 2021): one score per environment and run, pooled and trimmed; the bootstrap is
    stratified, so runs are drawn within their environment. A score here is a mean over pairs, so pairs are drawn too.
    Environments with more seeds weigh more. Where no resample differs (every episode a success) the bootstrap knows
    nothing, and the interval is NaN rather than of width zero.
    """
    known = [_checked(m) for m in matrices]
    below = [None] * len(known) if floors is None else [_checked(f) for f in floors]
    both = [(m[np.isfinite(m).any(1)], f) for m, f in zip(known, below, strict=True) if np.isfinite(m).any()]
    if not both:
        return NOTHING
    value = interquartile_mean(np.concatenate([_seed_scores(m, f) for m, f in both]))
    scores = np.concatenate([_resampled_seed_scores(m, f, rng, resamples) for m, f in both], axis=1)
    draws = np.where(np.isfinite(scores).all(1), interquartile_mean(scores), np.nan)
    if not np.isfinite(draws).any() or np.ptp(draws[np.isfinite(draws)]) < 1e-12:
        return Estimate(float(value), np.nan, np.nan)
    return _percentiles(float(value), draws, confidence)


def _seed_scores(matrix: np.ndarray, floor: np.ndarray | None) -> np.ndarray:
    """(S, N) to the (S,) scores of its seeds, above the floor's mean if there is one."""
    scores = np.nanmean(matrix, axis=1)
    return scores if floor is None else floor_normalised(scores, float(np.nanmean(floor)))


def _resampled_seed_scores(
    matrix: np.ndarray, floor: np.ndarray | None, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """(S, N) to (B, S): the scores of S drawn seeds over N drawn pairs, the same pairs for every seed of a resample.

    With a floor (F, N) they are above the mean of F drawn seeds of it over the same drawn pairs.
    """
    seeds, pairs = matrix.shape
    known, filled = np.isfinite(matrix).T.astype(np.float64), np.where(np.isfinite(matrix), matrix, 0.0).T
    floor_seeds = None if floor is None else _counts(rng, resamples, len(floor))
    scores, below = np.full((resamples, seeds), np.nan), np.full((resamples, 1), np.nan)
    for rows, counts in _drawn(rng, resamples, pairs):
        weight = counts @ known
        np.divide(counts @ filled, weight, out=scores[rows], where=weight > 0)
        if floor is not None:
            below[rows, 0] = _weighted_means(floor, floor_seeds[rows], counts)
    if floor is not None:
        scores = floor_normalised(scores, below)
    return np.take_along_axis(scores, rng.integers(seeds, size=(resamples, seeds)), axis=1)


def quartiles(values: Sequence[float] | np.ndarray) -> Estimate:
    """The median with the lower and upper quartile; NaN entries are left out."""
    known = np.asarray(values, np.float64).ravel()
    known = known[np.isfinite(known)]
    if not known.size:
        return NOTHING
    low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
    return Estimate(float(median), float(low), float(high))


def ranks(values: np.ndarray) -> np.ndarray:
    """(n,) to (n,) ranks from 1; ties share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two (n,) arrays; NaN if one of them is constant or holds a NaN."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"need two arrays of one length, got shapes {x.shape} and {y.shape}")
    if x.size < 2 or np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    x, y = ranks(x) - (x.size + 1) / 2, ranks(y) - (y.size + 1) / 2
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def _checked(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or not matrix.shape[0]:
        raise ValueError(f"need a (seeds, pairs) matrix, got shape {matrix.shape}")
    return matrix
