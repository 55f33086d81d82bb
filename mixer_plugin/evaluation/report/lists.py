"""Ranked lists, score distributions and precision of a system, from one pass over its rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.evaluation.analysis.ranked_lists import RankedLists, ranked_lists
from mixer_plugin.evaluation.protocols.fixed_gallery import FixedGallery, fixed_gallery
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.ranking.metrics import nan_mean
from mixer_plugin.evaluation.results import Key, Results
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.rules import System

TOP, SHOWN = 10, 200  # items of a list, and queries with lists
RECALLS = tuple(step / 20 for step in range(1, 21))
BINS = 60
_PAIRS = 2**22  # queries times images of all draws, at most


@dataclass(frozen=True)
class Separation:
    """Scores of pairs of one person and of two, in the lists of a setting.

    Attributes:
        edges: float64 [BINS + 1], of bins of equal width from the lowest to the highest score.
        same: float64 [BINS], share of the pairs of one person in each bin.
        other: float64 [BINS], share of the pairs of two persons.
        overlap: Overlap coefficient, the sum over the bins of the smaller share; in [0, 1].
        d_prime: Difference of the two means over the root of the mean of the two variances.
    """

    edges: NDArray[np.float64]
    same: NDArray[np.float64]
    other: NDArray[np.float64]
    overlap: float
    d_prime: float


@dataclass(frozen=True)
class SettingLists:
    """A setting's ranked lists of Q queries in the first draw.

    Attributes:
        top: Row of a query → rows and scores of the first ``TOP`` items of its list.
        precision: float64 [len(RECALLS)], precision at the rank where that share of a query's
            positives is found, mean over the queries with a positive; NaN without one.
        separation: The scores; None where a kind of pair is missing.
    """

    top: dict[int, tuple[list[int], list[float]]]
    precision: NDArray[np.float64]
    separation: Separation | None


@dataclass(frozen=True)
class _Found:
    top: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)
    precision: list[NDArray[np.float64]] = field(default_factory=list)
    same: list[NDArray[np.float32]] = field(default_factory=list)
    other: list[NDArray[np.float32]] = field(default_factory=list)


def spread_queries(results: Results, key: Key, count: int) -> NDArray[np.int64]:
    """At most ``count`` rows of queries, evenly spaced in the order of their AP, as int64 [Q].

    The worst and the best are among them. Queries without a positive are left out.
    """
    rows, ap = results.per_query_ap[key]
    order = rows[np.argsort(ap, kind="stable")][: int((~np.isnan(ap)).sum())]
    if len(order) <= count:
        return np.sort(order)
    return np.sort(order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)])


def asked_of(protocol: Protocol, features: FeatureSet, trials: int | None) -> int:
    """Number of queries whose rankings are looked at, so that the work stays within bounds."""
    images = sum(len(draw) for draw in protocol.draws(features, trials))
    return max(_PAIRS // images, 20)


def of_queries(
    protocol: Protocol, features: FeatureSet, trials: int | None, rows: NDArray[np.int64]
) -> FixedGallery:
    """The protocol with its own draws and only these queries."""
    note = f"of {protocol.id}"
    return fixed_gallery(protocol, protocol.draws(features, trials), note, query_rows=rows)


def look(
    features: FeatureSet,
    protocol: Protocol,
    system: System,
    *,
    settings: Sequence[str],
    query: str,
    shown: NDArray[np.int64],
    figures: bool,
) -> dict[str, SettingLists]:
    """Ranks the first draw once and keeps what a page shows of it.

    Args:
        features: The images.
        protocol: Whose queries are asked; calibrations use all of its draws.
        system: Rule and calibration.
        settings: Settings.
        query: ``infrared`` or ``visible``.
        shown: int64 [Q], rows of the queries whose lists are kept.
        figures: Whether precision and scores are kept too.

    Returns:
        By setting.
    """
    rule, calibration = system
    kept = set(shown.tolist())
    found = {setting: _Found() for setting in settings}
    for lists in ranked_lists(
        features,
        protocol,
        settings=settings,
        query=query,
        rule=rule,
        calibration=calibration,
        first=1,
    ):
        for setting, each in found.items():
            _keep_top(each, lists, setting, kept)
            if figures:
                listed, matches = lists.listed[setting], lists.matches[setting]
                each.precision.append(_precision(listed, matches))
                each.same.append(lists.scores[matches])
                each.other.append(lists.scores[listed & ~matches])
    return {setting: _summed(each) for setting, each in found.items()}


def separate(same: NDArray[np.float32], other: NDArray[np.float32]) -> Separation | None:
    """How far scores of one person, float32 [S], lie from those of two, float32 [O]."""
    if not len(same) or not len(other):
        return None
    a, b = same.astype(np.float64), other.astype(np.float64)
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    of_same, of_other = (np.histogram(values, edges)[0] / len(values) for values in (a, b))
    spread = math.sqrt((a.var() + b.var()) / 2)
    d_prime = float((a.mean() - b.mean()) / spread) if spread else math.nan
    overlap = float(np.minimum(of_same, of_other).sum())
    return Separation(edges, of_same, of_other, overlap, d_prime)


def _keep_top(found: _Found, lists: RankedLists, setting: str, kept: set[int]) -> None:
    for at, row in enumerate(lists.queries.tolist()):
        if row in kept:
            first = np.flatnonzero(lists.listed[setting][at])[:TOP]
            found.top[row] = (
                lists.order[at, first].tolist(),
                lists.scores[at, first].astype(np.float64).round(4).tolist(),
            )


def _precision(listed: NDArray[np.bool_], matches: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [B, len(RECALLS)], NaN for a query without a positive."""
    result = np.full((len(listed), len(RECALLS)), np.nan)
    for at, match in enumerate(matches):
        ranks = listed[at].cumsum()[match]
        if len(ranks):
            # The share of a whole number of positives must not be lost to rounding.
            needed = np.ceil(np.array(RECALLS) * len(ranks) - 1e-9).astype(np.int64)
            result[at] = needed / ranks[needed - 1]
    return result


def _summed(found: _Found) -> SettingLists:
    precision = np.concatenate([np.empty((0, len(RECALLS))), *found.precision])
    parts = [np.concatenate([np.empty(0, np.float32), *each]) for each in (found.same, found.other)]
    return SettingLists(found.top, nan_mean(precision, axis=0), separate(*parts))
