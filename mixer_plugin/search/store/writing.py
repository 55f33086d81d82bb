"""Adds images to the tables of a store and removes them, within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.normalized import present
from mixer_plugin.search.faiss_index import check_factory
from mixer_plugin.search.fitted import check_later, fit_statistics, with_statistics
from mixer_plugin.search.keys import Key
from mixer_plugin.search.spaces import find_space
from mixer_plugin.search.store.additions import Addition, image_rows
from mixer_plugin.search.store.database import (
    Fixed,
    StoreSettings,
    read_counters,
    read_fixed,
    write_counters,
    write_fixed,
)
from mixer_plugin.search.store.rows import (
    delete_rows,
    insert_images,
    insert_vectors,
    rows_of_keys,
)
from mixer_plugin.search.vectors import item_vectors, searchable


def add_images(
    connection: sqlite3.Connection,
    settings: StoreSettings,
    features: FeatureSet,
    addition: Addition,
    upsert: bool,
) -> list[Key]:
    """Adds images, at least one, and returns their keys; raises as ``GalleryStore.add``."""
    counters = read_counters(connection)
    vectors = _vectors(connection, settings, features)
    keys = addition.keys
    if keys is None:
        keys = [counters.next_key + i for i in range(len(features))]
    old = rows_of_keys(connection, keys)
    if old and not upsert:
        key = next(key for key in keys if key in old)
        raise MixERValueError(
            f"Key {key!r} is in the store already, and nothing was added; remove it first, leave "
            "it out, or replace it with upsert=True (--upsert)."
        )
    delete_rows(connection, list(old.values()))
    insert_images(connection, image_rows(features, keys, addition, counters.last + 1))
    for rows, some in vectors:
        insert_vectors(connection, counters.last + 1 + rows, some)
    numbers = [key + 1 for key in keys if isinstance(key, int)]
    changed = replace(
        counters,
        change=counters.change + 1,
        images=counters.images + len(keys) - len(old),
        next_key=max(counters.next_key, *numbers, 0),
        last=counters.last + len(keys),
        removal=counters.removal + len(old),
    )
    write_counters(connection, changed)
    return keys


def remove_images(connection: sqlite3.Connection, keys: Sequence[Key]) -> None:
    """Removes images; raises as ``GalleryStore.remove``."""
    rows = known_rows(connection, keys, "nothing was removed")
    if rows:
        delete_rows(connection, rows)
        counters = read_counters(connection)
        changed = replace(
            counters,
            change=counters.change + 1,
            images=counters.images - len(rows),
            removal=counters.removal + len(rows),
        )
        write_counters(connection, changed)


def known_rows(connection: sqlite3.Connection, keys: Sequence[Key], outcome: str) -> list[int]:
    """The row of each key.

    Raises:
        MixERValueError: A key is not in the store; the message ends with the outcome.
    """
    found = rows_of_keys(connection, keys)
    for key in keys:
        if key not in found:
            other: Key | None = str(key) if isinstance(key, int) else None
            if isinstance(key, str) and key.isdecimal() and len(key) < 19:
                other = int(key)
            near = other is not None and rows_of_keys(connection, [other])
            hint = f" There is {other!r}: a number is no text." if near else ""
            raise MixERValueError(f"Key {key!r} is not in the store; {outcome}.{hint}")
    return [found[key] for key in keys]


def _vectors(
    connection: sqlite3.Connection, settings: StoreSettings, features: FeatureSet
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """By modality, rows of the set and their vectors; the first set fixes the statistics."""
    fixed = read_fixed(connection)
    rule = searchable(settings.rule, settings.calibration)
    space = find_space(features, settings.rule, None if fixed is None else fixed.space)
    if fixed is None:
        statistics, source = fit_statistics(features, rule, settings.calibration)
        write_fixed(connection, Fixed(space, statistics))
    else:
        check_later(features, settings.rule, fixed.statistics)
        source = with_statistics(features, rule, fixed.statistics)
    result = []
    for side in present(features.modality):
        rows = (features.modality == side).nonzero().flatten()
        vectors = item_vectors(source.rows(rows), rule, side)
        if fixed is None and settings.factory != "Flat":
            check_factory(settings.factory, settings.parameters, vectors.shape[1])
        result.append((rows.numpy(), vectors))
    return result
