"""One state of a store in memory: never changed, so that searches need no lock.

``caught_up`` makes the next state of what a transaction sees. Arrays are shared between states
wherever they agree; see ``Column``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.search.faiss_index import SubIndex
from mixer_plugin.search.store.columns import NO_COLUMNS, Column, Columns
from mixer_plugin.search.store.database import Counters, Fixed, read_counters, read_fixed
from mixer_plugin.search.store.exact import ExactPart
from mixer_plugin.search.store.rows import later_images, later_removals, read_vectors
from mixer_plugin.search.store.segments import (
    Part,
    SegmentRow,
    list_segments,
    load_segment,
    read_segment,
)

_DEAD = 4096  # images that may be dead in memory before they are dropped


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment in memory; the keys of its part are places in the columns."""

    row: SegmentRow
    part: Part


@dataclass(frozen=True)
class Tail:
    """The images of a modality after the last segment: float32 [N, D] and places int64 [N]."""

    vectors: Column
    places: Column


@dataclass(frozen=True)
class State:
    """What a search needs.

    Attributes:
        counters: Of the transaction whose state it is.
        columns: All images.
        segments: The images up to ``counters.sealed``.
        tails: By modality, those after it.
        fixed: None before the first set.
        damaged: Numbers of segments whose files could not be read; the database stood in.
        lost: Rows of images whose vectors are damaged; searches do not find them.
    """

    counters: Counters
    columns: Columns
    segments: tuple[Segment, ...]
    tails: Mapping[int, Tail]
    fixed: Fixed | None
    damaged: tuple[int, ...]
    lost: tuple[int, ...]

    def parts(self, modality: int) -> list[Part]:
        """The parts that hold images of a modality."""
        parts = [each.part for each in self.segments if each.row.modality == modality]
        tail = self.tails.get(modality)
        return (
            parts if tail is None else [*parts, ExactPart(tail.vectors.values, tail.places.values)]
        )


EMPTY = State(Counters(-1, 0, 0, 0, 0, 0, 0, 0), NO_COLUMNS, (), {}, None, (), ())


def caught_up(state: State, connection: sqlite3.Connection, folder: Path) -> State:
    """The state that a transaction sees, from an earlier one of the same store."""
    counters = read_counters(connection)
    if counters.version == state.counters.version:
        return state
    if state.counters.removal < counters.pruned:
        state = EMPTY
    columns = state.columns
    for images in later_images(connection, state.counters.last):
        columns = columns.extended(images)
    columns = columns.without(later_removals(connection, state.counters.removal))
    next_ = replace(
        state,
        counters=counters,
        columns=columns,
        fixed=state.fixed or read_fixed(connection),
        tails=_tails(state, columns, counters, connection),
        **_segments(state, columns, connection, folder),
    )
    return _trimmed(_without_lost(next_, state))


def _segments(
    state: State, columns: Columns, connection: sqlite3.Connection, folder: Path
) -> dict[str, Any]:
    """``segments`` and ``damaged`` of the next state."""
    listed = list_segments(connection)
    known = {each.row.number: each for each in state.segments}
    damaged = [number for number in state.damaged if number in {row.number for row in listed}]
    segments = []
    for row in listed:
        segment = known.get(row.number)
        if segment is None or segment.row != row:  # of the same number: its file was made anew
            try:
                rows, part = load_segment(folder, row)
                damaged = [number for number in damaged if number != row.number]
            except MixERValueError:
                rows, part = read_segment(connection, row)
                damaged.append(row.number)
            segment = Segment(row, _with_keys(part, columns.places(rows)))
        segments.append(segment)
    return {"segments": tuple(segments), "damaged": tuple(damaged)}


def _tails(
    state: State, columns: Columns, counters: Counters, connection: sqlite3.Connection
) -> dict[int, Tail]:
    """The vectors of all images that no segment holds."""
    tails: dict[int, Tail] = {}
    for side in map(int, Modality):
        first, tail = counters.sealed + 1, state.tails.get(side)
        if tail is not None:
            rows = columns.rows.values[tail.places.values]
            taken = int(np.searchsorted(rows, counters.sealed, "right"))
            first = max(first, int(rows[-1]) + 1)
            if taken == len(rows):
                tail = None
            elif taken:
                tail = Tail(*(Column.of(c.values[taken:]) for c in (tail.vectors, tail.places)))
        for rows, vectors in read_vectors(connection, side, first, counters.last):
            places = columns.places(rows)
            if tail is None:
                tail = Tail(Column.of(vectors), Column.of(places))
            else:
                tail = Tail(tail.vectors.extended(vectors), tail.places.extended(places))
        if tail is not None:
            tails[side] = tail
    return tails


def _without_lost(state: State, before: State) -> State:
    """Leaves out images that no part holds: their vectors are damaged."""
    columns, start = state.columns, len(before.columns)
    parts = [tail.places.values for tail in state.tails.values()]
    if state.segments != before.segments:
        start = 1
        parts += [each.part.keys for each in state.segments]
    held = np.zeros(len(columns), np.bool_)
    for places in parts:
        held[places] = True
    missing = start + np.flatnonzero(columns.alive.values[start:] & ~held[start:])
    if not len(missing):
        return state
    rows = columns.rows.values[missing]
    lost = (*state.lost, *rows.tolist())
    return replace(state, columns=columns.without(rows), lost=lost)


def _trimmed(state: State) -> State:
    """The state without dead images, once they are many."""
    dead = len(state.columns) - 1 - state.counters.images
    if dead <= max(_DEAD, state.counters.images):
        return state
    columns, moved = state.columns.trimmed()
    tails = {}
    for side, tail in state.tails.items():
        places = moved[tail.places.values]
        if places.any():
            tails[side] = Tail(
                Column.of(tail.vectors.values[places > 0]), Column.of(places[places > 0])
            )
    segments = tuple(
        replace(each, part=_with_keys(each.part, moved[each.part.keys])) for each in state.segments
    )
    return replace(state, columns=columns, tails=tails, segments=segments)


def _with_keys(part: Part, keys: NDArray[np.int64]) -> Part:
    """The part under other keys; the vectors or the FAISS index are shared."""
    if isinstance(part, ExactPart):
        return ExactPart(part.vectors, keys)
    return SubIndex(part.index, keys)
