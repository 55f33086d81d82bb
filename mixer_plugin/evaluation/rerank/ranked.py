"""Metrics of re-ranked scores, setting by setting: a method never sees removed images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.evaluation.plan import Plan
from mixer_plugin.evaluation.ranking.gallery_layout import arrange
from mixer_plugin.evaluation.ranking.metrics import QueryMetrics
from mixer_plugin.evaluation.ranking.rank import rank
from mixer_plugin.evaluation.ranking.scoring import Queries, Source, given_scores
from mixer_plugin.evaluation.rerank.methods import rerank
from mixer_plugin.evaluation.rerank.options import Rerank
from mixer_plugin.evaluation.settings import SettingMask
from mixer_plugin.matching.normalized import UnitSource, present
from mixer_plugin.matching.rules import System, check_rules
from mixer_plugin.matching.similarity import score_blocks, tile


def rank_reranked(
    plan: Plan, method: Rerank, sources: Sequence[Source], queries: Queries
) -> dict[System, QueryMetrics]:
    """Ranks re-ranked scores of queries of one modality under every system, view and draw.

    The images that there are for a setting and draw are the queries and the setting's gallery. An
    image that the setting removes for a query does not exist for that query, be it a gallery item
    or another query. Every process re-ranks everything; they divide the ranking.
    """
    at, group, device = queries.rows.cpu().numpy(), plan.groups.of_row, queries.rows.device
    modality = plan.features.modality.cpu().numpy()
    place = np.empty_like(modality)  # of each row among the images there are
    dedup = plan.protocol.cmc == "dedup"
    results: dict[System, QueryMetrics] = {}
    for source, systems in sources:
        for made, system in systems.items():
            found = QueryMetrics.zeros(len(plan.draws), len(plan.views), len(at))
            for trial, index in np.ndindex(len(plan.draws), len(plan.views)):
                draw, view = plan.draws[trial], plan.views[index]
                rows = draw[view.gallery[group[at[0]]][group[draw]]]
                if not len(rows):
                    continue
                gallery = arrange([rows], plan.groups, plan.identity, device)
                nodes = np.union1d(at, rows)
                nodes = nodes[np.argsort(modality[nodes], kind="stable")]
                place[nodes] = np.arange(len(nodes))
                columns, gone = place[gallery.rows.cpu().numpy()], _removed(plan, at, nodes, view)
                asked, items, kinds, removed = (
                    torch.from_numpy(value).to(device)
                    for value in (place[at], columns, modality[nodes], gone)
                )
                similarity = _similarity(made[0], source, nodes)
                matrix = rerank(method, similarity, asked, items, removed=removed, modality=kinds)
                score = given_scores(made, matrix, queries.rows)
                ranked = rank(queries, gallery, score, [made], [view], dedup=dedup, rows=plan.share)
                found.put(trial, index, ranked[made])
            results[system] = found
    return results


def _removed(
    plan: Plan, at: NDArray[np.int64], nodes: NDArray[np.int64], view: SettingMask
) -> NDArray[np.bool_]:
    """Bool [Q, N]: images of the setting's gallery sides that it removes for each query."""
    kinds = np.ix_(plan.groups.of_row[at], plan.groups.of_row[nodes])
    same = plan.identity[at][:, None] == plan.identity[nodes]
    return view.gallery[kinds] & ~np.where(same, view.positive[kinds], view.listed[kinds])


def _similarity(
    rule: str, source: UnitSource, nodes: NDArray[np.int64]
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
            ((_, block),) = score_blocks(units, items, tiles, kind, check_rules([rule]))
            result[mine] = block
        return result

    return similarity
