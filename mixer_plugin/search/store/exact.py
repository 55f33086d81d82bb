"""The k best images of vectors in memory or in a mapped file, by comparing with all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.search.faiss_index import Lists, no_hits
from mixer_plugin.search.filters import Filter

_QUERIES = 256  # at a time
_ENTRIES = 1 << 23  # scores at a time: 32 MiB
_LEAST = 1024  # images at a time, at least


@dataclass(frozen=True)
class ExactPart:
    """Vectors of one modality.

    Attributes:
        vectors: float32 [N, D].
        keys: int64 [N], the place of each image, ascending but for places 0, which are of none.
    """

    vectors: NDArray[np.float32]
    keys: NDArray[np.int64]

    def search(
        self, vectors: NDArray[np.float32], k: int, filter_: Filter, rows: NDArray[np.int64]
    ) -> Lists:
        """The k best allowed images of each query; arguments and result as of ``SubIndex``."""
        scores, keys = no_hits(len(vectors), k)
        for start in range(0, len(rows), _QUERIES):
            some = rows[start : start + _QUERIES]
            scores[some], keys[some] = self._best(vectors[some], k, filter_, some)
        return scores, keys

    def _best(
        self, queries: NDArray[np.float32], k: int, filter_: Filter, rows: NDArray[np.int64]
    ) -> Lists:
        best, found = no_hits(len(queries), k)
        # To look every image up among few pairs is dearer than to look the pairs up.
        by_setting, excluded = replace(filter_, pairs=None), _pairs(filter_, rows)
        size = max(_LEAST, _ENTRIES // max(1, len(queries)))
        for start in range(0, len(self.keys), size):
            keys = self.keys[start : start + size]
            vectors = self.vectors[start : start + size]
            allowed = filter_.images.alive[keys]
            if not allowed.any():
                continue
            if 2 * allowed.sum() < len(keys):  # to copy the few is cheaper than to compare all
                keys, vectors, allowed = keys[allowed], vectors[allowed], allowed[allowed]
            scores = queries @ vectors.T
            if not allowed.all():
                scores[:, ~allowed] = -np.inf
            if filter_.table is not None:
                pairs = np.broadcast_to(keys, scores.shape)
                scores[by_setting.excluded(rows, pairs)] = -np.inf
            for query, place in excluded:
                scores[query, keys == place] = -np.inf
            best, found = _kept(best, found, scores, keys)
        return best, found


def _pairs(filter_: Filter, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The places that these queries exclude, with the query's place among them."""
    if filter_.pairs is None:
        return []
    total = len(filter_.images.ids)
    order = {row: i for i, row in enumerate(rows.tolist())}
    pairs = zip((filter_.pairs // total).tolist(), (filter_.pairs % total).tolist(), strict=True)
    return [(order[row], place) for row, place in pairs if row in order]


def _kept(
    best: NDArray[np.float32],
    found: NDArray[np.int64],
    scores: NDArray[np.float32],
    keys: NDArray[np.int64],
) -> Lists:
    """The best of lists so far, [Q, k], and of more images, scores [Q, N] and keys [N]."""
    count, k = best.shape
    least = best[:, -1]
    if scores.shape[1] > k and np.isneginf(least).any():
        least = np.maximum(least, np.partition(scores, -k, axis=1)[:, -k])
    # Equal to the least, an image may still come earlier than another one of this block.
    query, place = np.nonzero((scores >= least[:, None]) & (scores > -np.inf))
    old = np.repeat(np.arange(count), k)
    query = np.concatenate([old, query])
    every = np.concatenate([best.ravel(), scores[query[len(old) :], place]])
    names = np.concatenate([found.ravel(), keys[place]])
    order = np.lexsort((names, -every, query))
    starts = np.searchsorted(query[order], np.arange(count))
    chosen = order[starts[:, None] + np.arange(k)]
    return every[chosen], names[chosen]
