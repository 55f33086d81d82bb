"""Intervals and tests. Trials share queries, so their spread is not a confidence interval.

Queries of one person succeed and fail together: the persons are the independent samples, and all
resampling here draws whole persons (clusters) with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError

SEED = 20250301
_BLOCK = 2**22  # weights held at a time, 32 MiB
_MOST = 10**7  # resamples
_TIE = 1e-9


def cluster_bootstrap(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64],
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, drawing whole clusters with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993. The draws are seeded, so that the
    same values give the same interval.

    Args:
        values: float64 [n]; NaN entries are left out.
        clusters: int64 [n], the identity of each value.
        resamples: Number of resamples.
        level: Coverage.

    Returns:
        Lower and upper bound; NaN without a value. With a single cluster both are the mean.
    """
    known = ~np.isnan(values)
    if not known.any():
        return float("nan"), float("nan")
    means = _resampled_means(*_by_cluster(values[known], clusters[known]), resamples, SEED)
    return _interval(means, level)


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two systems on the same queries.

    Attributes:
        mean: Mean of ``a - b`` over the queries.
        low: Lower bound of its interval.
        high: Upper bound.
        p: Two-sided p value of no difference.
        queries: Queries compared.
        identities: Their identities, the independent samples.
    """

    mean: float
    low: float
    high: float
    p: float
    queries: int
    identities: int


def paired_bootstrap(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    clusters: NDArray[np.int64],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = SEED,
) -> PairedDifference:
    """Tests whether two systems differ on the same queries, resampling whole identities.

    The interval is the percentile bootstrap's. The p value is that of the bootstrap shift method
    (Smucker, Allan and Carterette, CIKM 2007): the resampled means, shifted to mean zero, stand
    for the distribution under no difference; p is the share of them at least as far from zero as
    the difference found, with the difference found counted among them (+1), so that p is never 0
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 16).

    Args:
        a: float64 [n], a value per query, such as its average precision.
        b: float64 [n], the other system's. Queries of which either is NaN are left out.
        clusters: int64 [n], the identity of each query.
        resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the draws.

    Returns:
        The difference. All figures are NaN without a query; interval and p are NaN with fewer than
        two identities, of which nothing can be said. Identical systems: exactly 0, p = 1.

    Raises:
        MixERValueError: The arrays differ in shape, or ``resamples`` or ``level`` cannot be used.
    """
    if not (a.shape == b.shape == clusters.shape) or a.ndim != 1:
        raise MixERValueError(
            "a, b and clusters must have one entry per query each, got shapes "
            f"{a.shape}, {b.shape} and {clusters.shape}."
        )
    if not 1 <= resamples <= _MOST or not 0 < level < 1:
        raise MixERValueError(
            f"resamples must be at least 1, at most {_MOST}, and level between 0 and 1, got "
            f"{resamples} and {level}."
        )
    difference = a - b
    known = ~np.isnan(difference)
    if not known.any():
        nan = float("nan")
        return PairedDifference(nan, nan, nan, nan, queries=0, identities=0)
    sums, counts = _by_cluster(difference[known], clusters[known])
    mean = float(sums.sum() / counts.sum())
    low = high = p = float("nan")
    if len(sums) > 1:
        means = _resampled_means(sums, counts, resamples, seed)
        low, high = _interval(means, level)
        # Differences that are equal but for rounding must count as equal.
        extreme = int((np.abs(means - mean) >= abs(mean) * (1 - _TIE)).sum())
        p = (1 + extreme) / (1 + resamples)
    return PairedDifference(mean, low, high, p, queries=int(known.sum()), identities=len(sums))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm, Scandinavian Journal of Statistics, 1979).

    The k-th smallest of n is multiplied by n - k + 1; none falls below a smaller one's, none
    exceeds 1. Rejecting where the adjusted value is at most α keeps the probability of any false
    rejection at most α, however the tests depend on each other.

    Args:
        p_values: The p values; NaN stands for a test that could not be made: it is not counted
            and stays NaN.

    Returns:
        Adjusted values, in the order given.

    Raises:
        MixERValueError: A value lies outside [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64).reshape(-1)
    made = ~np.isnan(values)
    given = values[made]
    if ((given < 0) | (given > 1)).any():
        raise MixERValueError(f"p values must lie in [0, 1], got {given.tolist()}.")
    order = np.argsort(given, kind="stable")
    factor = np.arange(len(given), 0, -1)
    raised = np.minimum(np.maximum.accumulate(given[order] * factor), 1.0)
    adjusted = np.full(values.shape, np.nan)
    adjusted[np.flatnonzero(made)[order]] = raised
    return adjusted.tolist()


def _by_cluster(
    values: NDArray[np.float64], clusters: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each cluster's values, clusters in order of their numbers."""
    names, index = np.unique(clusters, return_inverse=True)
    index = index.reshape(-1)
    count = len(names)
    sums = np.asarray(np.bincount(index, weights=values, minlength=count), dtype=np.float64)
    return sums, np.bincount(index, minlength=count).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """float64 [resamples], means of the values when clusters are drawn with replacement."""
    generator = np.random.default_rng(seed)
    share = np.full(len(sums), 1 / len(sums))
    size = max(_BLOCK // len(sums), 1)
    means = np.empty(resamples)
    for start in range(0, resamples, size):
        part = means[start : start + size]
        weights = generator.multinomial(len(sums), share, size=len(part))
        part[:] = (weights @ sums) / (weights @ counts)
    return means


def _interval(means: NDArray[np.float64], level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
