"""Searches one state of a store."""

from __future__ import annotations

import sqlite3

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.faiss_index import Lists, no_hits
from mixer_plugin.search.filter_grammar import Expression
from mixer_plugin.search.filters import make_filter
from mixer_plugin.search.hits import length_of_lists
from mixer_plugin.search.request import Request
from mixer_plugin.search.spaces import find_space
from mixer_plugin.search.store.database import StoreSettings
from mixer_plugin.search.store.exact import ExactPart
from mixer_plugin.search.store.filtering import kept
from mixer_plugin.search.store.hits import StoreHits, make_store_hits
from mixer_plugin.search.store.ranking import best_groups, best_images, group_numbers
from mixer_plugin.search.store.rows import images_of_rows, rows_of_keys, vectors_of_rows
from mixer_plugin.search.store.state import State
from mixer_plugin.search.vectors import normalised, query_vectors, searchable


def search_state(
    state: State,
    connection: sqlite3.Connection,
    settings: StoreSettings,
    query: FeatureSet,
    request: Request,
) -> StoreHits:
    """The hits of Q queries in a state; the connection is that of a transaction that sees it.

    Raises:
        MixERValueError: The query does not fit the gallery.
    """
    scores, places = _ranked(state, connection, settings, query, request)
    if request.threshold is not None:
        low = scores < request.threshold
        scores[low], places[low] = -np.inf, -1
    rows = np.where(places >= 0, state.columns.rows.values[places], -1)
    images = images_of_rows(connection, np.unique(rows[rows >= 0]).tolist())
    return make_store_hits(scores, rows, images, state.counters.change)


def _ranked(
    state: State,
    connection: sqlite3.Connection,
    settings: StoreSettings,
    query: FeatureSet,
    request: Request,
) -> Lists:
    """Scores float32 [Q, k] and places int64 [Q, k]."""
    columns, fixed = state.columns, state.fixed
    k = length_of_lists(request.k, state.counters.images)
    if fixed is None:
        return no_hits(len(query), k)
    find_space(query, settings.rule, fixed.space)
    images = columns.images(_alive(state, connection, request.expression))
    exclude = None
    if request.exclude is not None:
        known = rows_of_keys(connection, list({key for own in request.exclude for key in own}))
        rows = ([known[key] for key in own if key in known] for own in request.exclude)
        exclude = [columns.places(np.array(own, np.int64)) for own in rows]
    filter_ = make_filter(images, query, exclude, request.setting)
    rule = searchable(settings.rule, settings.calibration)
    unit = normalised(query, rule, fixed.statistics)

    def read(places: NDArray[np.int64]) -> ExactPart:
        chunks = list(vectors_of_rows(connection, columns.rows.values[places].tolist()))
        found, vectors = (np.concatenate(each) for each in zip(*chunks, strict=True))
        return ExactPart(vectors, columns.places(found))

    search = best_images(
        {side: state.parts(side) for side in map(int, Modality)},
        {side: query_vectors(unit, rule, side) for side in map(int, Modality)},
        k,
        filter_,
        read,
    )
    if request.group is None:
        return search(np.arange(len(query)), k)
    return best_groups(search, len(query), k, group_numbers(columns, request.group))


def rows_kept(
    state: State, connection: sqlite3.Connection, expression: Expression | None
) -> list[int]:
    """The rows of the images that an expression keeps, ascending; None: of all."""
    kept_rows: list[int] = state.columns.rows.values[_alive(state, connection, expression)].tolist()
    return kept_rows


def _alive(
    state: State, connection: sqlite3.Connection, expression: Expression | None
) -> NDArray[np.bool_]:
    alive: NDArray[np.bool_] = state.columns.alive.values
    return alive if expression is None else alive & kept(expression, state.columns, connection)
