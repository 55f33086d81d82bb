"""Features of images that are in a store, recovered from their vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.normalized import present
from mixer_plugin.search.fitted import uncentered
from mixer_plugin.search.store.database import StoreSettings, read_fixed
from mixer_plugin.search.store.rows import Key, images_of_rows, vectors_of_rows
from mixer_plugin.search.store.writing import known_rows
from mixer_plugin.search.vectors import item_parts, searchable


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
    rule = searchable(settings.rule, settings.calibration)
    modality = torch.tensor([images[row].modality for row in found])
    space = fixed.space
    erased = torch.zeros(len(found), space.erased)
    related = None if space.related is None else torch.zeros(len(found), space.related)
    center = fixed.statistics.center
    for side in present(modality):
        places = (modality == side).nonzero().flatten()
        own = torch.stack([torch.from_numpy(vectors[found[i]].copy()) for i in places.tolist()])
        for source, array in item_parts(own.numpy(), rule, side, space).items():
            part = torch.from_numpy(array)
            if center is not None:
                part = uncentered(part, center[source][side])
            target = related if source == "related" else erased
            assert target is not None, "the rule needs what it has"
            target[places] = part
    return FeatureSet(
        erased=erased,
        related=related,
        ids=[images[row].id for row in found],
        cams=[images[row].camera for row in found],
        modality=modality,
        reduction=space.reduction,
    )
