"""What a service does to its gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.filter_grammar import parse_time
from mixer_plugin.search.keys import Key, text_key
from mixer_plugin.search.service.bodies import Brought
from mixer_plugin.search.service.gallery import Gallery
from mixer_plugin.search.service.refusals import Refused

_MOST_HITS = 100_000  # of all queries of a request


def key_of(gallery: Gallery, text: str) -> Key:
    """The key that a text of an address means: a text of the gallery, or else a whole number.

    Raises:
        Refused: 404: there is neither.
        MixERValueError: The text is empty.
    """
    for key in (text, text_key(text)):
        if key in gallery:
            return key
    raise Refused(404, f"Key {text!r} is not in the gallery.")


def add(gallery: Gallery, brought: Brought, upsert: bool, **of_image: str | None) -> Sequence[Key]:
    """Adds what a request brings, and of an image ``key``, ``path``, ``time`` and ``payload``.

    Raises:
        MixERError: As of ``Gallery.add``; or what is said of an image cannot be used.
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
    return gallery.add(features, **beside, upsert=upsert)


def remove(gallery: Gallery, keys: Sequence[str], filter: str | None) -> int:
    """Removes images by their keys or by a filter; returns how many.

    Raises:
        Refused: 404: a key is not in the gallery; nothing is removed.
        MixERError: Neither or both are given, or the filter cannot be read.
    """
    if bool(keys) == (filter is not None):
        raise MixERValueError("Give either key or filter.")
    found = gallery.keys(filter) if filter is not None else [key_of(gallery, key) for key in keys]
    gallery.remove(found)
    return len(found)


def find(
    gallery: Gallery, brought: Brought | None, keys: Sequence[str], k: int, **options: Any
) -> dict[str, Any]:
    """Searches with what a request brings, or with images of the gallery but for themselves.

    Raises:
        Refused: 404: a key is not in the gallery.
        MixERError: As of ``Gallery.search``, or too many hits are asked for.
    """
    exclude = None
    if brought is None:
        known = [key_of(gallery, key) for key in keys]
        query, exclude = gallery.features(known), [[key] for key in known]
    elif brought.beside:
        raise MixERValueError(f"{', '.join(brought.beside)} are of images to add, not of queries.")
    else:
        query = brought.features
    if len(query) * k > _MOST_HITS:
        raise MixERValueError(
            f"{len(query)} queries of {k} hits are more than {_MOST_HITS:,}; ask for fewer."
        )
    hits = gallery.search(query, k, exclude=exclude, **options)
    lists: list[list[dict[str, Any]]] = [[] for _ in range(len(query))]
    for row in hits.rows(query):
        lists[row["query"]].append({n: v for n, v in row.items() if not n.startswith("query")})
    return {"hits": lists, "change": hits.change}
