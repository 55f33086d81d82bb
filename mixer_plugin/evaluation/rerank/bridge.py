"""Scores across modalities through gallery items of the query's own modality.

A reconstruction from prose: MBSOS (arXiv 2412.04719) "leverag[es] same-modality samples in the
gallery as a bridge"; its equations were not at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer_plugin.evaluation.rerank.neighbours import Similarity, largest
from mixer_plugin.evaluation.rerank.options import Bridge
from mixer_plugin.features.validation import empty

_QUERIES = 64


def bridge(
    method: Bridge,
    similarity: Similarity,
    query: Tensor,
    gallery: Tensor,
    removed: Tensor | None,
    modality: Tensor,
) -> Tensor:
    """Re-ranked scores.

    Args:
        method: Number, choice and weight of the bridges.
        similarity: Of all nodes.
        query: int64 [Q].
        gallery: int64 [G], all distinct.
        removed: bool [Q, N] or None.
        modality: int64 [N].

    Returns:
        float32 [Q, G].
    """
    result = empty((len(query), len(gallery)), similarity.rows(query[:1]))
    in_gallery = torch.zeros(similarity.nodes, dtype=torch.bool, device=query.device)
    in_gallery[gallery] = True
    for rows in torch.split(torch.arange(len(query), device=query.device), _QUERIES):
        mine = query[rows]
        there = in_gallery & (modality == modality[mine, None])
        if removed is not None:
            there &= ~removed[rows]
        there[torch.arange(len(rows), device=rows.device), mine] = False
        own = similarity.rows(mine)
        node, score = largest(own.masked_fill(~there, -torch.inf), method.k)
        at, place = (node >= 0).nonzero().unbind(dim=1)
        node, score = node[at, place], score[at, place]
        distinct, number = torch.unique(node, return_inverse=True)
        block = similarity.rows(distinct)
        if method.mutual:
            keep = _returns(block[number], node, own[at], mine[at], there[at]) < method.k
            at, place, number, score = at[keep], place[keep], number[keep], score[keep]
        across = modality[gallery] != modality[mine, None]
        items = block[:, gallery]
        before = own[:, gallery]
        if method.mode == "max":
            after = before.clone()
            for step in range(method.k):
                one = place == step
                by_way = score[one, None] * items[number[one]]
                after[at[one]] = torch.maximum(after[at[one]], by_way)
        else:
            found = torch.bincount(at, minlength=len(rows))[:, None]
            total = torch.zeros_like(before).index_add_(0, at, items[number])
            mean = (1 - method.weight) * before + method.weight * total / found.clamp(min=1)
            after = mean.where(found > 0, before)
        result[rows] = after.where(across, before)
    return result


def _returns(block: Tensor, node: Tensor, own: Tensor, query: Tensor, there: Tensor) -> Tensor:
    """Int64 [P], how many candidates are nearer to each bridge than its query is.

    ``block`` and ``own`` are float32 [P, N], similarities of the bridges ``node`` and of the
    queries ``query``, int64 [P]; ``there`` bool [P, N], the candidates of the queries.
    """
    rows = torch.arange(len(node), device=node.device)
    back = own[rows, node][:, None]
    number = torch.arange(block.shape[1], device=node.device)
    nearer = (block > back) | ((block == back) & (number < query[:, None]))
    nearer &= there
    nearer[rows, node] = False
    return nearer.sum(dim=1)
