"""The best images of a collection for each query, by as many searches of the engine as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import find_groups, view
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.engines.protocol import Engine, Labels, Match
from mixer_plugin.search.faiss_index import Lists, merge, no_hits
from mixer_plugin.search.filter_grammar import And, Expression, Not, OneOf, Value, payload_leaves
from mixer_plugin.search.request import Field, Request

_SPARE = 16  # fetched beyond k at first: some are tied
_GROWTH = 4
# Two cameras of each modality: the query's own modality and camera first.
_GROUPS = find_groups(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
Where = Mapping[int, Expression | None]
Found = tuple[Lists, dict[int, Labels]]
"""Scores float32 [Q, k], keys int64 [Q, k], and the labels of the images by key."""
Seen = dict[object, tuple[str, Value]]


@dataclass(frozen=True)
class Queries:
    """Queries as an engine is asked with them.

    Attributes:
        engine: The collection.
        exact: Whether it is asked to compare with every vector.
        vectors: By modality of images, float32 [Q, D].
        where: By modality of images and row of the query, what it may find; None: everything. A
            query that may find nothing is not there.
    """

    engine: Engine
    exact: bool
    vectors: Mapping[int, NDArray[np.float32]]
    where: Mapping[int, Where]


def left_out(setting: str, own: bool) -> tuple[str, ...] | None:
    """What images of a modality have in common with a query that does not find them.

    Args:
        setting: Of ``evaluate``.
        own: Whether the modality is the query's.

    Returns:
        ``camera``, ``id`` or both; empty: all are left out; None: none is.
    """
    table = view(setting, _GROUPS)
    columns = [0, 1] if own else [2, 3]
    found = np.stack([table.positive[0, columns], table.listed[0, columns]], axis=1)
    if found.all():
        return None
    varies = {"camera": (found[0] != found[1]).any(), "id": (found[:, 0] != found[:, 1]).any()}
    return tuple(name for name, does in varies.items() if does)


def allowed(engine: Engine, query: FeatureSet, request: Request) -> dict[int, Where]:
    """``Queries.where`` of a request: its filter, its setting and its exclusions."""
    return {side: _allowed(engine, query, request, side) for side in map(int, Modality)}


def _allowed(engine: Engine, query: FeatureSet, request: Request, side: int) -> Where:
    where: dict[int, Expression | None] = {}
    lone = request.setting == "uni" and not _several_cameras(engine, query, side)
    fields_of = {own: left_out(request.setting, own) for own in (True, False)}
    columns = (each.tolist() for each in (query.modality, query.cams, query.ids))
    for row, (own, camera, person) in enumerate(zip(*columns, strict=True)):
        fields = fields_of[own == side]
        if fields == ():
            continue
        parts = [] if request.expression is None else [request.expression]
        unknown = fields is not None and "id" in fields and person < 0
        if fields is not None and not unknown and not lone:
            values = {"camera": camera, "id": person}
            parts.append(Not(And(tuple(OneOf(name, (values[name],)) for name in fields))))
        if request.exclude is not None and request.exclude[row]:
            parts.append(Not(OneOf("key", request.exclude[row])))
        where[row] = _all_of(parts)
    return where


def _all_of(parts: list[Expression]) -> Expression | None:
    return And(tuple(parts)) if parts else None


def _several_cameras(engine: Engine, query: FeatureSet, side: int) -> bool:
    """Whether gallery and queries show more than one camera of a modality."""
    cameras = set(query.cams[query.modality == side].tolist())
    if len(cameras) != 1:
        return True  # or there is no query of this modality, for which it would matter
    others = Not(OneOf("camera", tuple(cameras)))
    return engine.count(And((OneOf("modality", (side,)), others))) > 0


def search_side(queries: Queries, side: int, k: int) -> Found:
    """The k best images of a modality for each query, equal scores in the order of keys.

    More is fetched until the last match is worse than the k-th: then none that ties with the k-th
    is missing, in whatever order the engine gives equal scores. At ``most`` matches it stops.
    """
    vectors, where, most = queries.vectors[side], queries.where[side], queries.engine.most
    scores, keys = no_hits(len(vectors), k)
    known: dict[int, Labels] = {}
    rows, limit = list(where), min(k + _SPARE, most)
    while rows:
        own = [where[row] for row in rows]
        lists = queries.engine.search(vectors[rows], side, limit, own, queries.exact)
        more = []
        for row, matches in zip(rows, lists, strict=True):
            _fill(scores[row], keys[row], matches)
            known |= {match.labels.key: match.labels for match in matches}
            full = len(matches) >= limit and limit < most
            if full and scores[row, -1] <= matches[-1].score:
                more.append(row)
        rows, limit = more, min(_GROWTH * limit, most)
    return (scores, keys), known


def search_both(queries: Queries, k: int) -> Found:
    """The k best images of each query, of both modalities in one list."""
    found = [search_side(queries, side, k) for side in queries.vectors]
    scores, keys = (
        np.concatenate(each, axis=1) for each in zip(*(lists for lists, _ in found), strict=True)
    )
    return merge(scores, keys, k), {k: v for _, known in found for k, v in known.items()}


def search_groups(queries: Queries, k: int, field: Field) -> Found:
    """The best image of each of the k best groups of each query.

    A group that is found is left out of the next search: each finds another one, or the end.

    Args:
        queries: As of ``search_both``.
        k: Length of the lists.
        field: ``id`` or ``payload``, and the names below payload.

    Raises:
        MixERValueError: The engine cannot compare the values.
    """
    count = len(next(iter(queries.vectors.values())))
    scores, keys = no_hits(count, k)
    known: dict[int, Labels] = {}
    seen: list[Seen] = [{} for _ in range(count)]
    rows, length = set(range(count)), min(_GROWTH * k, queries.engine.most)
    while rows:
        where = {
            side: {row: _without(own[row], seen[row], field) for row in rows & own.keys()}
            for side, own in queries.where.items()
        }
        (values, names), labels = search_both(replace(queries, where=where), length)
        for row in tuple(rows):
            before = len(seen[row])
            for value, key in zip(values[row], names[row].tolist(), strict=True):
                place = len(seen[row])
                if key < 0 or place == k:
                    break
                own = _group(labels[key], field)
                if seen[row].setdefault(_name(own), own) is own:
                    scores[row, place], keys[row, place], known[key] = value, key, labels[key]
            if len(seen[row]) == k or names[row, -1] < 0:
                rows.discard(row)
            elif len(seen[row]) == before and length == queries.engine.most:
                raise MixERValueError(
                    f"The engine gives images of groups that it was told to leave out; it cannot "
                    f"compare the values of {'.'.join((field[0], *field[1]))}. Group by another "
                    "field."
                )
        length = min(_GROWTH * length, queries.engine.most)
    return (scores, keys), known


def _without(where: Expression | None, seen: Seen, field: Field) -> Expression | None:
    """What a query may find outside the groups that it has seen."""
    parts = [] if where is None else [where]
    for name, path in (field, ("key", ())):
        if values := tuple(value for own, value in seen.values() if own == name):
            parts.append(Not(OneOf(name, values, path)))
    return _all_of(parts)


def _group(labels: Labels, field: Field) -> tuple[str, Value]:
    """The field and value that an image's group has in common; without one, its own key."""
    value: Value | None = labels.id if labels.id >= 0 else None
    if field[0] == "payload":
        value = payload_leaves(dict(labels.payload)).get(field[1])
    return ("key", labels.key) if value is None else (field[0], value)


def _name(group: tuple[str, Value]) -> object:
    """What tells groups apart as filters do: 3 and 3.0 are equal, 1 and true are not."""
    return (*group, isinstance(group[1], bool))


def _fill(scores: NDArray[np.float32], keys: NDArray[np.int64], matches: list[Match]) -> None:
    """Writes the best matches of one query into its row, equal scores in the order of keys."""
    given = np.asarray([match.score for match in matches], dtype=np.float32)[None]
    own = np.asarray([match.labels.key for match in matches], dtype=np.int64)[None]
    if matches:
        best, found = merge(given, own, len(scores))
        scores[:], keys[:] = best[0], found[0]
