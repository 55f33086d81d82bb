"""Re-ranking by the definitions: dense float64 matrices, loops over images, one query at a time."""

from __future__ import annotations

import numpy as np

from mixer_plugin.evaluation.rerank.methods import AIM, Bridge


def rerank(method, similarity, query, gallery, removed=None, modality=None):
    """Float64 [Q, G]; for each query the images removed for it are deleted, then all is done anew.

    Args:
        method: An object, as ``mixer_plugin.evaluation.rerank.methods`` takes.
        similarity: float32 [N, N].
        query: int [Q].
        gallery: int [G].
        removed: bool [Q, N] or None.
        modality: int [N] or None.
    """
    similarity = similarity.astype(np.float64)
    result = np.full((len(query), len(gallery)), -np.inf)
    for row, image in enumerate(query):
        alive = np.ones(len(similarity), bool) if removed is None else ~removed[row]
        alive[image] = True
        nodes = np.flatnonzero(alive)
        number = {int(node): place for place, node in enumerate(nodes)}
        small = similarity[np.ix_(nodes, nodes)]
        queries = sorted({number[int(q)] for q in query if alive[q]})
        columns = [
            column
            for column, g in enumerate(gallery)
            if alive[g] and (removed is None or not removed[row, g])
        ]
        items = [number[int(g)] for g in gallery if alive[g]]
        wanted = [number[int(gallery[column])] for column in columns]
        if isinstance(method, AIM):
            scores = _aim(method, small, number[int(image)], items)
        elif isinstance(method, Bridge):
            scores = _bridge(method, small, number[int(image)], items, modality[nodes])
        else:
            scores = _k_reciprocal(method, small, number[int(image)], queries)
        result[row, columns] = scores[wanted]
    return result


def _ranking(values, allowed):
    """The allowed indices by falling value, ties by index."""
    return sorted(allowed, key=lambda index: (-values[index], index))


def _k_reciprocal(method, similarity, q, queries):
    count = len(similarity)
    distance = 2 - 2 * similarity
    distance = distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-6)
    allowed = range(count) if method.graph == "all" else queries
    ranked = [_ranking(similarity[i], allowed) for i in range(count)]

    def reciprocal(i, k):
        return {j for j in ranked[i][: k + 1] if i in ranked[j][: k + 1]}

    encoded = np.zeros((count, count))
    for i in range(count):
        near = reciprocal(i, method.k1)
        expanded = set(near)
        for candidate in near:
            half = reciprocal(candidate, int(np.around(method.k1 / 2)))
            if len(half & near) > 2 / 3 * len(half):
                expanded |= half
        for j in expanded:
            encoded[i, j] = np.exp(-distance[i, j])
        if expanded:
            encoded[i] /= encoded[i].sum()
    if method.k2 > 1:
        encoded = np.stack([encoded[ranked[i][: method.k2]].mean(axis=0) for i in range(count)])
    scores = np.empty(count)
    for g in range(count):
        shared = np.minimum(encoded[q], encoded[g]).sum()
        jaccard = 1 - shared / (2 - shared)
        final = (1 - method.weight) * jaccard + method.weight * distance[q, g]
        scores[g] = (1 - method.weight) - final
    return scores


def _aim(method, similarity, q, items):
    def sparse(i):
        row = np.zeros(len(similarity))
        kept = _ranking(similarity[i], items)[: method.k1]
        row[kept] = similarity[i, kept]
        return row

    mine = sparse(q)
    scores = np.full(len(similarity), np.nan)
    for g in items:
        near = _ranking(similarity[g], items)[: method.k2]
        theirs = np.mean([sparse(i) for i in near], axis=0)
        length = max(np.linalg.norm(mine), 1e-12) * max(np.linalg.norm(theirs), 1e-12)
        scores[g] = mine @ theirs / length + similarity[q, g]
    return scores


def _bridge(method, similarity, q, items, modality):
    candidates = [x for x in items if modality[x] == modality[q] and x != q]
    bridges = _ranking(similarity[q], candidates)[: method.k]
    if method.mutual:
        bridges = [
            b
            for b in bridges
            if q in _ranking(similarity[b], [x for x in [*candidates, q] if x != b])[: method.k]
        ]
    scores = similarity[q].copy()
    for g in items:
        if not bridges or modality[g] == modality[q]:
            continue
        if method.mode == "mean":
            by_way = np.mean([similarity[b, g] for b in bridges])
            scores[g] = (1 - method.weight) * similarity[q, g] + method.weight * by_way
        else:
            by_way = max(similarity[q, b] * similarity[b, g] for b in bridges)
            scores[g] = max(similarity[q, g], by_way)
    return scores
