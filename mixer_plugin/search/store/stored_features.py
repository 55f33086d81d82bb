"""Features of images that are in a store, recovered from their vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.search.keys import Key
from mixer_plugin.search.store.database import StoreSettings, read_fixed
from mixer_plugin.search.store.rows import images_of_rows, vectors_of_rows
from mixer_plugin.search.store.writing import known_rows
from mixer_plugin.search.vectors import features_of_vectors, searchable


def stored_features(
    connection: sqlite3.Connection, settings: StoreSettings, keys: Sequence[Key]
) -> FeatureSet:
    """Features of distinct keys, at least one; see ``GalleryStore.features``."""
    found = known_rows(connection, keys, "nothing was read")
    images = images_of_rows(connection, found)
    vectors = {
        row: vector
        for rows, some in vectors_of_rows(connection, found)
        for row, vector in zip(rows.tolist(), some, strict=True)
    }
    for key, row in zip(keys, found, strict=True):
        if row not in vectors:
            raise MixERValueError(
                f"The vector of {key!r} is damaged; add the image again with upsert=True."
            )
    fixed = read_fixed(connection)
    assert fixed is not None, "there are images"
    return features_of_vectors(
        [vectors[row] for row in found],
        [images[row] for row in found],
        searchable(settings.rule, settings.calibration),
        fixed.space,
        fixed.statistics,
    )
