"""AIM: cosines of sparse affinities to the gallery.

SAAI, ICCV 2023; github.com/xiaoye-hhh/SAAI, ``models/AIM.py``.

    F(x)   = the similarities of x to its k1 nearest gallery items, 0 elsewhere
    F'(g)  = the mean of F over the k2 nearest gallery items of g (g itself is usually the first)
    score  = cos(F(q), F'(g)) + s(q, g)

A list keeps exactly k1 items; the public code also keeps whatever equals the last of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer_plugin.evaluation.rerank.neighbours import Neighbours, Similarity, Universes, universes
from mixer_plugin.evaluation.rerank.options import AIM
from mixer_plugin.evaluation.rerank.query_groups import Group

_CELLS = 2**22
_QUERIES = 32
_EPS = 1e-12


def affinity(
    method: AIM,
    similarity: Similarity,
    base: Neighbours,
    query: Tensor,
    group: Group,
    gallery: Tensor,
    result: Tensor,
) -> None:
    """Re-ranks, in place, the scores of queries that share a base.

    Arguments as of ``k_reciprocal``; the lists of the base are at least max(k1, k2) long and hold
    gallery items only.
    """
    for rows in torch.split(group.rows, _QUERIES):
        joins = torch.isin(query[rows], gallery) & group.inserted
        each = universes(similarity, base, query[rows], joins)
        result[rows] += _cosines(each, method.k1, method.k2, gallery)


def _cosines(each: Universes, k1: int, k2: int, gallery: Tensor) -> Tensor:
    """Float32 [B, G], cos(F(q), F'(g))."""
    count, nodes = each.scores.shape
    queries = torch.arange(count, device=gallery.device)
    node, score = each.first(queries, each.query, k1)
    own = score.new_zeros(count, nodes)
    row, place = (node >= 0).nonzero().unbind(dim=1)
    own[row, node[row, place]] = score[row, place]
    norm = torch.linalg.vector_norm(own, dim=1).clamp(min=_EPS)

    # Which gallery items' lists share a column with the query's.
    at = queries.repeat_interleave(len(gallery))
    item = gallery.repeat(count)
    listed, _ = each.first(at, item, k1)
    shares = torch.zeros(own.shape, dtype=torch.bool, device=own.device)
    shares[at, item] = ((own[at[:, None], listed.clamp(min=0)] != 0) & (listed >= 0)).any(dim=1)
    averaged, _ = each.first(at, item, k2)
    hit = (shares[at[:, None], averaged.clamp(min=0)] & (averaged >= 0)).any(dim=1)

    cosine = own.new_zeros(count * len(gallery))
    size = max(_CELLS // nodes, 1)
    blank = own.new_zeros(size * nodes)
    for pairs in torch.split(hit.nonzero().flatten(), size):
        cosine[pairs] = _cosine(each, at[pairs], averaged[pairs], k1, own, blank)
    return cosine.view(count, -1) / norm[:, None]


def _cosine(
    each: Universes, at: Tensor, averaged: Tensor, k1: int, own: Tensor, blank: Tensor
) -> Tensor:
    """Float32 [P], F(q) times the unit vector of F'(g), given the lists averaged int64 [P, k2].

    ``blank`` [at least P * N] is zero before and after.
    """
    row, place = (averaged >= 0).nonzero().unbind(dim=1)
    column, score = each.first(at[row], averaged[row, place], k1)
    score = score.where(column >= 0, 0.0)
    column = column.clamp(min=0)
    cell = row[:, None] * own.shape[1] + column

    def product(values: Tensor) -> Tensor:
        return own.new_zeros(len(at)).index_add_(0, row, (values * score).sum(dim=1))

    # A sum of lists, not their mean: the length does not matter.
    blank.index_add_(0, cell.flatten(), score.flatten())
    length = product(blank[cell]).clamp(min=0).sqrt().clamp(min=_EPS)
    blank[cell] = 0.0
    return product(own[at[row, None], column]) / length
