"""Confidence intervals. Trials share queries, so that their spread is no confidence interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SEED = 20250301


def cluster_bootstrap(
    values: NDArray[np.float64],
    clusters: NDArray[np.int64],
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, drawing whole clusters with replacement.

    Queries of one person succeed and fail together: the persons are the independent samples
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993). The draws are seeded, so that
    the same values give the same interval.

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
    names, index = np.unique(clusters[known], return_inverse=True)
    sums = np.bincount(index.reshape(-1), weights=values[known])
    counts = np.bincount(index.reshape(-1)).astype(np.float64)
    generator = np.random.default_rng(_SEED)
    share = np.full(len(names), 1 / len(names))
    weights = generator.multinomial(len(names), share, size=resamples)
    means = (weights @ sums) / (weights @ counts)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
