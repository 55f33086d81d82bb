"""What a service does to its store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.filter_grammar import parse_time
from mixer_plugin.search.service.bodies import Brought
from mixer_plugin.search.service.refusals import Refused
from mixer_plugin.search.store import GalleryStore
from mixer_plugin.search.store.additions import text_key
from mixer_plugin.search.store.rows import Key

_MOST_HITS = 100_000  # of all queries of a request


def key_of(store: GalleryStore, text: str) -> Key:
    """The key that a text of an address means: a text of the store, or else a whole number.

    Raises:
        Refused: 404: there is neither.
        MixERValueError: The text is empty.
    """
    for key in (text, text_key(text)):
        if key in store:
            return key
    raise Refused(404, f"Key {text!r} is not in the store.")


def add(store: GalleryStore, brought: Brought, upsert: bool, **of_image: str | None) -> list[Key]:
    """Adds what a request brings, and of an image ``key``, ``path``, ``time`` and ``payload``.

    Raises:
        MixERError: As of ``GalleryStore.add``; or what is said of an image cannot be used.
    """
    features, beside = brought.features, brought.beside
    said = {name: value for name, value in of_image.items() if value is not None}
    if said and not brought.from_image:
        raise MixERValueError(
            f"{', '.join(said)} would change nothing: features bring keys, paths, times and "
            "payloads of their own."
        )
    if "key" in said:
        beside = {**beside, "keys": [text_key(said["key"])]}
    if "path" in said:
        features = replace(features, paths=(said["path"],))
    if "time" in said:
        beside = {**beside, "times": [parse_time(said["time"])]}
    if "payload" in said:
        try:
            beside = {**beside, "payloads": [json.loads(said["payload"])]}
        except (ValueError, RecursionError) as error:
            raise MixERValueError(f"payload is no JSON ({error}); give an object.") from error
    return store.add(features, **beside, upsert=upsert)


def remove(store: GalleryStore, keys: Sequence[str], filter: str | None) -> int:
    """Removes images by their keys or by a filter; returns how many.

    Raises:
        Refused: 404: a key is not in the store; nothing is removed.
        MixERError: Neither or both are given, or the filter cannot be read.
    """
    if bool(keys) == (filter is not None):
        raise MixERValueError("Give either key or filter.")
    found = store.keys(filter) if filter is not None else [key_of(store, key) for key in keys]
    store.remove(found)
    return len(found)


def find(
    store: GalleryStore, brought: Brought | None, keys: Sequence[str], k: int, **options: Any
) -> dict[str, Any]:
    """Searches with what a request brings, or with images of the store, which find not themselves.

    Raises:
        Refused: 404: a key is not in the store.
        MixERError: As of ``GalleryStore.search``, or too many hits are asked for.
    """
    exclude = None
    if brought is None:
        known = [key_of(store, key) for key in keys]
        query, exclude = store.features(known), [[key] for key in known]
    elif brought.beside:
        raise MixERValueError(f"{', '.join(brought.beside)} are of images to add, not of queries.")
    else:
        query = brought.features
    if len(query) * k > _MOST_HITS:
        raise MixERValueError(
            f"{len(query)} queries of {k} hits are more than {_MOST_HITS:,}; ask for fewer."
        )
    hits = store.search(query, k, exclude=exclude, **options)
    lists: list[list[dict[str, Any]]] = [[] for _ in range(len(query))]
    for row in hits.rows(query):
        lists[row["query"]].append({n: v for n, v in row.items() if not n.startswith("query")})
    return {"hits": lists, "change": hits.change}
