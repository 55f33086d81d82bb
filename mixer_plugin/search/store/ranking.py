"""The k best images of a state for each query: over all parts, in groups, above a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.features import Modality
from mixer_plugin.search.faiss_index import Lists, SubIndex, merge, no_hits
from mixer_plugin.search.filters import Filter
from mixer_plugin.search.store.columns import Columns
from mixer_plugin.search.store.exact import ExactPart
from mixer_plugin.search.store.segments import Part

Vectors = Callable[[NDArray[np.int64]], ExactPart]
_FEW = 2_000  # images that are rather read and compared one by one than searched for by FAISS
_GROWTH = 4


def best_images(
    parts: Mapping[int, list[Part]],
    queries: Mapping[int, NDArray[np.float32]],
    k: int,
    filter_: Filter,
    read: Vectors,
) -> Callable[[NDArray[np.int64], int], Lists]:
    """A function of rows of queries, int64 [R], and k, that gives lists [R, k].

    Args:
        parts: By modality.
        queries: By modality of images, float32 [Q, D].
        k: The usual length, of which more than a few must be kept.
        filter_: What the queries must not find.
        read: Gives the exact vectors of places.
    """
    every = [(side, part) for side in map(int, Modality) for part in parts[side]]
    kept = [part.keys[filter_.images.alive[part.keys]] for _, part in every]
    # A FAISS index that probes some lists would find too few of what a filter keeps.
    sizes = [(len(own), len(p.keys)) for own, (_, p) in zip(kept, every, strict=True) if _fast(p)]
    found, held = (sum(each) for each in zip((0, 0), *sizes, strict=True))
    rare = 2 * found <= held and found <= max(_FEW, 4 * k)
    ready = [
        (side, read(own) if rare and _fast(part) else part)
        for own, (side, part) in zip(kept, every, strict=True)
        if len(own)
    ]
    reached = {side: np.isin(np.arange(len(filter_.ids)), filter_.rows(side)) for side in parts}

    def search(rows: NDArray[np.int64], length: int) -> Lists:
        scores, places = no_hits(len(rows), length)
        for side, part in ready:
            some = rows[reached[side][rows]]
            if len(some):
                values, keys = part.search(queries[side], length, filter_, some)
                scores = np.concatenate([scores, values[rows]], axis=1)
                scores, places = merge(scores, np.concatenate([places, keys[rows]], axis=1), length)
        return scores, places

    return search


def _fast(part: Part) -> bool:
    return isinstance(part, SubIndex)


def best_groups(
    search: Callable[[NDArray[np.int64], int], Lists],
    queries: int,
    k: int,
    groups: NDArray[np.int64],
) -> Lists:
    """The best image of each of the k best groups.

    Args:
        search: Of ``best_images``.
        queries: Their number Q.
        k: Length of the lists.
        groups: int64 [T], the group of each place.

    Returns:
        Scores float32 [Q, k] and places int64 [Q, k], padded with -inf and -1.
    """
    scores, places = no_hits(queries, k)
    rows, length = np.arange(queries), _GROWTH * k
    while len(rows):
        found = search(rows, length)
        short = []
        for row, values, names in zip(rows.tolist(), *found, strict=True):
            some = names >= 0
            _, first = np.unique(groups[names[some]], return_index=True)
            chosen = np.sort(first)[:k]
            count = len(chosen)
            scores[row, :count], places[row, :count] = values[chosen], names[chosen]
            if count < k and some.all():  # there may be more
                short.append(row)
        rows, length = np.array(short, np.int64), _GROWTH * length
    return scores, places


def group_numbers(columns: Columns, field: tuple[str, tuple[str, ...]]) -> NDArray[np.int64]:
    """The group of each place, int64 [T]; an image without one is a group of its own.

    Args:
        columns: Of a state.
        field: ``id`` or ``payload``, and the names below payload.
    """
    if field[0] == "id":
        values = columns.ids.values
    else:
        column = columns.payload.get(field[1])
        values = np.full(len(columns), -1) if column is None else column.padded(len(columns))
    return np.where(values >= 0, values, -1 - np.arange(len(values))).astype(np.int64)
