"""Per-query metrics from ranks, and their means. All in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import Share
from mixer_plugin.features.validation import on_cpu

CMC_RANKS = tuple(range(1, 21))


@dataclass(frozen=True)
class QueryMetrics:
    """Metrics of Q queries in V settings and T trials; each array is [T, V, Q].

    Attributes:
        ap: float64, average precision, NaN for a query without a positive (as for ``inp``).
        ap_optimistic: float64, the same with each positive before the items it ties with.
        ap_pessimistic: float64, the same with each positive after them.
        inp: float64, positives / rank of the last one (Ye et al., TPAMI 2021).
        first: int64, rank of the first positive under the protocol's CMC, 0 without a positive.
        positives: int64, number of positives.
    """

    ap: NDArray[np.float64]
    ap_optimistic: NDArray[np.float64]
    ap_pessimistic: NDArray[np.float64]
    inp: NDArray[np.float64]
    first: NDArray[np.int64]
    positives: NDArray[np.int64]

    @classmethod
    def zeros(cls, trials: int, views: int, queries: int) -> QueryMetrics:
        """Arrays to be filled."""
        shares = np.zeros((4, trials, views, queries))
        return cls(*shares, *np.zeros((2, trials, views, queries), np.int64))

    def put(self, trial: int, view: int, other: QueryMetrics) -> None:
        """Fills one trial and view from metrics of one of each."""
        for field in fields(self):
            getattr(self, field.name)[trial, view] = getattr(other, field.name)[0, 0]

    def joined(self, share: Share) -> QueryMetrics:
        """The metrics of all processes, each of which filled in its own queries."""
        return QueryMetrics(*(share.join(getattr(self, field.name)) for field in fields(self)))


def average_precision(positive: Tensor, above: Tensor) -> Tensor:
    """Mean over the positives of (positives so far) / rank.

    Args:
        positive: bool [..., P], which entries count; entries in order of falling score.
        above: float64 [..., P], number of other items ranked above each entry.

    Returns:
        float64 [...], NaN without a positive.
    """
    found = running_count(positive)
    rank = (found + above).clamp_(min=1)  # at least 1 where it counts; elsewhere no 0 / 0
    precision = (found / rank).mul_(positive)
    # The k-th positive's share goes to place k: what does not count then changes no bit of the sum
    # wherever it stands, and a setting that a rule cannot touch gets one number from all rules.
    place = (found - 1).clamp_(min=0).long()
    in_order = torch.zeros_like(precision).scatter_add_(-1, place, precision)
    return in_order.sum(dim=-1) / found[..., -1]


def running_count(positive: Tensor) -> Tensor:
    """Int32 [..., P], how many of bool [..., P] are set up to and including each entry."""
    if on_cpu(positive):  # torch's takes six times as long there
        return torch.from_numpy(np.cumsum(positive.numpy(), axis=-1, dtype=np.int32))
    return positive.cumsum(dim=-1, dtype=torch.int32)


def inverse_negative_penalty(positive: Tensor, above: Tensor) -> Tensor:
    """Number of positives / rank of the last one; arguments as in ``average_precision``."""
    count = positive.sum(dim=-1, dtype=torch.float64)
    # The last positive has all others above it and the most other items.
    return count / (count + (above * positive).amax(dim=-1))


def first_rank(positive: Tensor, above: Tensor) -> Tensor:
    """Rank of the first positive, float64, infinite without one; arguments as above."""
    return 1 + torch.where(positive, above, torch.inf).amin(dim=-1)


def nan_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of the values that are not NaN; NaN (without a warning) if there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def cmc(first: NDArray[np.int64], ranks: Sequence[int] = CMC_RANKS) -> NDArray[np.float64]:
    """Share of the queries whose first positive is at that rank or before.

    Args:
        first: int64 [..., Q], ranks from 1; 0 marks a query without a positive, which is left out.
        ranks: Ranks; beyond the length of a list the curve keeps its last value.

    Returns:
        float64 [..., len(ranks)], NaN where no query has a positive.
    """
    valid = first > 0
    hits = [np.where(valid, first <= rank, np.nan) for rank in ranks]
    return np.stack([nan_mean(hit, axis=-1) for hit in hits], axis=-1)
