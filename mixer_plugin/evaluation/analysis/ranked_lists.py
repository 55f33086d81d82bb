"""Whole ranked lists, in blocks of queries, for diagnostics that look at more than positives.

The same scores, removals and order of ties as ``evaluate``, which is several times faster but
knows the ranks of the positives only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.evaluation.plan import Plan, make_plan
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.ranking.metrics import nan_mean
from mixer_plugin.evaluation.settings import SettingMask, query_side
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.scores import scorer
from mixer_plugin.matching.shuffle import shuffle_first

_SCORED = 2**24  # scores made at a time: each such block costs a pass over the gallery's features
_BLOCK = 2**22  # of these, ranked at a time; what goes with each takes about 60 bytes


@dataclass(frozen=True)
class RankedLists:
    """The gallery of one trial as B queries of one modality rank it.

    Attributes:
        trial: Number of the trial, from 0.
        queries: int64 [B], rows of the feature set.
        order: int64 [B, G], rows of the gallery items by falling score, equal ones by row.
        scores: float32 [B, G], their scores.
        listed: Per setting bool [B, G], whether the item is in the query's list.
        matches: Per setting bool [B, G], whether it is in the list and shows the query's identity.
    """

    trial: int
    queries: NDArray[np.int64]
    order: NDArray[np.int64]
    scores: NDArray[np.float32]
    listed: dict[str, NDArray[np.bool_]]
    matches: dict[str, NDArray[np.bool_]]


def ranked_lists(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str],
    query: str,
    rule: str,
    calibration: str | None = None,
    trials: int | None = None,
    told: NDArray[np.int64] | None = None,
    first: int | None = None,
) -> Iterator[RankedLists]:
    """Ranks the galleries of a protocol for all queries of a modality.

    Args:
        features: The images.
        protocol: Protocol or its id.
        settings: Settings.
        query: ``infrared`` or ``visible``.
        rule: Rule of ``scores``.
        calibration: Calibration of ``scores``; its statistics are over the union of the draws.
        trials: Number of gallery draws; None: what the protocol says.
        told: int64 [N], the modalities that scoring is told; None: the true ones. Queries,
            galleries and removals always go by the true ones.
        first: Number of draws to rank; None: all. Statistics stay those of all draws.

    Yields:
        Blocks of queries, trial by trial within each; every query once per trial.

    Raises:
        MixERValueError: An unknown name, related features needed but absent, no query or gallery
            item, or features that do not fit the protocol.
    """
    side = query_side(query)
    plan = make_plan(
        features, protocol, [(rule, calibration)], settings=settings, query=query, trials=trials
    )
    union = np.unique(np.concatenate(plan.draws))
    places = [torch.from_numpy(np.searchsorted(union, draw)) for draw in plan.draws]
    score = _scorer(features, union, rule, calibration, told)
    for rows, block in _blocks(plan.query_rows[side], score, len(union)):
        for trial, (draw, place) in enumerate(zip(plan.draws[:first], places[:first], strict=True)):
            # The rows of a draw rise and the sort is stable: ties fall by row.
            drawn = block[:, place.to(block.device)].sort(dim=1, descending=True, stable=True)
            order = draw[drawn.indices.cpu().numpy()]
            found = {view.name: _listed(plan, view, rows, order) for view in plan.views}
            listed, matches = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
            yield RankedLists(trial, rows, order, drawn.values.cpu().numpy(), listed, matches)


def _blocks(
    query_rows: NDArray[np.int64], score: Callable[[NDArray[np.int64]], Tensor], columns: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """The queries in blocks to rank, int64 [B], and their scores, float32 [B, columns]."""
    step, size = (max(limit // columns, 1) for limit in (_SCORED, _BLOCK))
    for start in range(0, len(query_rows), step):
        rows = query_rows[start : start + step]
        made = score(rows)
        for begin in range(0, len(rows), size):
            yield rows[begin : begin + size], made[begin : begin + size]


def _listed(
    plan: Plan, view: SettingMask, queries: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``listed`` and ``matches`` of ``RankedLists`` for one setting."""
    kinds = plan.groups.of_row[queries][:, None], plan.groups.of_row[order]
    same = plan.identity[order] == plan.identity[queries][:, None]
    matches = view.positive[kinds] & same & (order != queries[:, None])
    return (view.listed[kinds] & ~same) | matches, matches


def _scorer(
    features: FeatureSet,
    union: NDArray[np.int64],
    rule: str,
    calibration: str | None,
    told: NDArray[np.int64] | None,
) -> Callable[[NDArray[np.int64]], Tensor]:
    """A function from rows of queries, int64 [B], to their scores, float32 [B, union]."""
    features, rule = shuffle_first(features, rule)
    if told is not None:
        features = replace(features, modality=torch.from_numpy(told))
    scored = scorer(features[union], rule, calibration)

    def score(rows: NDArray[np.int64]) -> Tensor:
        place = np.searchsorted(union, rows).clip(max=len(union) - 1)
        own = torch.from_numpy(np.where(union[place] == rows, place, -1))
        return scored(features[rows], own)

    return score


def precision_and_first(
    listed: NDArray[np.bool_], matches: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and rank of the first match of each list.

    Args:
        listed: bool [B, G], the items of the list, by falling score.
        matches: bool [B, G], which of them count as found.

    Returns:
        float64 [B] and float64 [B], from 1 on; both NaN where nothing matches.
    """
    query, place = matches.nonzero()
    count = matches.sum(axis=1)
    rank = listed.cumsum(axis=1, dtype=np.int32)[query, place]
    found = np.arange(1, len(query) + 1) - np.repeat(count.cumsum() - count, count)
    with np.errstate(invalid="ignore"):
        precision = np.bincount(query, weights=found / rank, minlength=len(matches)) / count
    first = np.full(len(matches), np.nan)
    first[query[found == 1]] = rank[found == 1]
    return precision, first


def mean_figures(
    blocks: Iterable[RankedLists],
    settings: Sequence[str],
    figures: Callable[[RankedLists, str], NDArray[np.float64]],
) -> dict[str, NDArray[np.float64]]:
    """Means of figures over the queries, then over the trials, by setting; NaN is left out.

    ``figures`` gives those of a block's lists under a setting, float64 [F, B]; the means are [F].
    """
    found: dict[str, dict[int, list[NDArray[np.float64]]]] = {
        setting: defaultdict(list) for setting in settings
    }
    for lists in blocks:
        for setting, by_trial in found.items():
            by_trial[lists.trial].append(figures(lists, setting))
    means: dict[str, NDArray[np.float64]] = {}
    for setting, by_trial in found.items():
        trials = [nan_mean(np.concatenate(each, axis=1), axis=1) for each in by_trial.values()]
        means[setting] = nan_mean(np.stack(trials), axis=0)
    return means
