"""Metrics of re-ranked scores, setting by setting: what a setting removes must not be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import Share
from mixer_plugin.evaluation.ranking.gallery_layout import arrange
from mixer_plugin.evaluation.ranking.metrics import QueryMetrics
from mixer_plugin.evaluation.ranking.rank import rank
from mixer_plugin.evaluation.ranking.scoring import Key, Queries, given_scores
from mixer_plugin.evaluation.rerank.methods import Rerank, rerank
from mixer_plugin.evaluation.settings import Groups, SettingMask
from mixer_plugin.matching.normalized import UnitSource, present
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.similarity import score_blocks, tile


def rank_reranked(
    method: Rerank,
    queries: Queries,
    draws: Sequence[NDArray[np.int64]],
    groups: Groups,
    identity: NDArray[np.int64],
    source: UnitSource,
    rules: dict[str, Rule],
    views: Sequence[SettingMask],
    *,
    dedup: bool,
    share: Share,
) -> dict[Key, QueryMetrics]:
    """Ranks re-ranked scores under every rule, view and draw.

    The images that there are for a setting and draw are the queries and the setting's gallery. An
    image that the setting removes for a query does not exist for that query, be it a gallery item
    or another query.

    Args:
        method: How to re-rank.
        queries: Queries of one modality.
        draws: Per trial int64 [gallery], rows of the feature set.
        groups: Groups of the feature set.
        identity: int64 [N], index of each row's identity.
        source: Features.
        rules: Rules by name.
        views: Settings.
        dedup: Whether the CMC counts each identity once.
        share: The processes that divide the ranking; each re-ranks everything.

    Returns:
        By rule and no calibration, the metrics of each query.
    """
    at = queries.rows.cpu().numpy()
    results: dict[Key, QueryMetrics] = {}
    for name, rule in rules.items():
        found = QueryMetrics.zeros(len(draws), len(views), len(at))
        for trial, draw in enumerate(draws):
            for index, view in enumerate(views):
                held = view.gallery[groups.of_row[at[0]]]
                rows = draw[held[groups.of_row[draw]]]
                if not len(rows):
                    continue
                nodes = _nodes(at, rows, source)
                removed = _removed(at, nodes, groups, identity, view)
                matrix = rerank(
                    method,
                    _similarity({name: rule}, source, nodes),
                    *(_place(nodes, given, queries.rows.device) for given in (at, rows)),
                    removed=torch.from_numpy(removed).to(queries.rows.device),
                    modality=source.features.modality[torch.from_numpy(nodes)],
                )
                gallery = arrange([rows], groups, identity, queries.rows.device)
                # The rows of a draw are sorted.
                columns = np.searchsorted(rows, gallery.rows.cpu().numpy())
                matrix = matrix[:, torch.from_numpy(columns).to(matrix.device)]
                score = given_scores((name, None), matrix, queries.rows)
                ranked = rank(
                    queries, gallery, score, [(name, None)], [view], dedup=dedup, rows=share
                )
                found.put(trial, index, ranked[name, None])
        results[name, None] = found
    return results


def _nodes(at: NDArray[np.int64], rows: NDArray[np.int64], source: UnitSource) -> NDArray[np.int64]:
    """The rows of all images there are, each once, visible ones first."""
    union = np.union1d(at, rows)
    modality = source.features.modality.cpu().numpy()[union]
    return union[np.argsort(modality, kind="stable")]


def _place(nodes: NDArray[np.int64], rows: NDArray[np.int64], device: torch.device) -> Tensor:
    order = np.argsort(nodes)
    return torch.from_numpy(order[np.searchsorted(nodes, rows, sorter=order)]).to(device)


def _removed(
    at: NDArray[np.int64],
    nodes: NDArray[np.int64],
    groups: Groups,
    identity: NDArray[np.int64],
    view: SettingMask,
) -> NDArray[np.bool_]:
    """Bool [Q, N]: images of the setting's gallery sides that it removes for each query."""
    kinds = np.ix_(groups.of_row[at], groups.of_row[nodes])
    same = identity[at][:, None] == identity[nodes]
    stays = np.where(same, view.positive[kinds], view.listed[kinds])
    return view.gallery[kinds] & ~stays


def _similarity(
    rule: dict[str, Rule], source: UnitSource, nodes: NDArray[np.int64]
) -> Callable[[Tensor], Tensor]:
    everyone = torch.from_numpy(nodes).to(source.features.erased.device)
    items = source.rows(everyone)
    tiles = tile(int((items.modality == 0).sum()), len(nodes), everyone.device)

    def similarity(asked: Tensor) -> Tensor:
        result = items.parts["erased"].new_empty(len(asked), len(nodes))
        modality = items.modality[asked]
        for kind in present(modality):
            mine = (modality == kind).nonzero().flatten()
            units = source.rows(everyone[asked[mine]])
            ((_, block),) = score_blocks(units, items, tiles, kind, rule)
            result[mine] = block
        return result

    return similarity
